from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segue import networks, rng
from segue.networks.analysis import memory
from segue.networks.analysis.summary import describe
from segue.networks.registry import NetworkSpec
from segue.training.freezing import freeze


def built(table: dict[str, Any]) -> nn.Module:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec.model_validate(table), channels=1, classes=2)


def saved_bytes(network: nn.Module, x: Tensor) -> int:
    """Returns what autograd keeps in a real forward pass: distinct storages that are no weights or statistics."""
    own = {value.untyped_storage().data_ptr() for value in (*network.parameters(), *network.buffers())}
    actual: dict[int, int] = {}
    selection: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            actual[storage.data_ptr()] = storage.nbytes()
            selection.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(x)
    return sum(actual.values())


@pytest.mark.parametrize("table", [
    {"name": "resunet", "width": 8}, {"name": "cellpose", "width": 8},
    pytest.param({"name": "vit-vit_tiny_patch16_224"}, marks=pytest.mark.slow),
], ids=lambda table: table["name"])  # fmt: skip
@pytest.mark.parametrize("frozen", [(), ("encoder",)])
def test_the_estimate_is_what_a_step_keeps(table: dict[str, Any], frozen: tuple[str, ...]):
    """Activations told without memory are, to 2 %, those that autograd keeps, with and without a frozen part."""
    network = built(table)
    freeze(network, frozen)
    output = memory.estimate(network, (2, 1, 64, 96))
    with rng.scope(0, "images"):
        real = saved_bytes(network, torch.randn(2, 1, 64, 96))
    assert output.activations == pytest.approx(real, rel=0.02)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert (output.gradients, output.moments) == (4 * trained, 8 * trained)
    assert output.total == output.weights + output.gradients + output.moments + output.activations


def test_estimating_changes_nothing():
    """Neither weights, statistics nor modes are touched, and twice the images keep twice the activations."""
    network = built({"name": "unet", "width": 8}).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, two = (memory.estimate(network, (n, 1, 64, 64)) for n in (1, 2))
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02) and two.weights == one.weights
    plain, halved = (memory.estimate(network, (4, 1, 128, 128), precision=p) for p in ("fp32", "bf16"))
    assert halved.activations < 0.75 * plain.activations and halved.weights == plain.weights
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())


@pytest.mark.slow
def test_the_largest_is_described():
    """ViT-H's parameters and the memory of a step are told without occupying it."""
    spec = NetworkSpec(name="vit-vit_huge_patch14_224", patch_px=16, side_px=224)
    output = dict(describe(spec, channels=1, classes=3, batch=2, side_px=256))
    assert output["encoder parameters"] == f"{631_322_880 - (32 * 32 - 14 * 14) * 1280:,}"
    assert output["position embeddings"].endswith("resampled (bicubic) to 16x16 for images of 256x256 px")
    assert output["moments of Adam"] == "4.73 GiB"
    assert "bf16) for 2 images of 256x256 px" in output["activations"]
    assert output["memory of a step"].startswith("about 1")


@pytest.mark.parametrize("table", [
    {}, {"name": "mlp"},
    *(pytest.param(table, marks=pytest.mark.slow) for table in (
        {"name": "timm-vit_tiny_patch16_224", "side_px": 64}, {"name": "cellpose", "width": 8, "norm": "group"},
        {"name": "unet-resnet18"}, {"name": "timm-resnet10t"},
    )),
], ids=str)  # fmt: skip
def test_every_kind_is_described(table: dict[str, Any]):
    """The description counts every parameter by part, for networks that score pixels and that score images."""
    spec = NetworkSpec.model_validate(table)
    output = dict(describe(spec, channels=1, classes=3, side_px=64))
    counted = {name: int(text.replace(",", "")) for name, text in output.items() if name.endswith(" parameters")}
    assert counted["network parameters"] == sum(
        counted[f"{part} parameters"] for part in ("encoder", "decoder", "head")
    )
    assert ("(N, 3) scores of images" in output["gives"]) == (not networks.is_dense(spec))
    assert "about" in output["memory of a step"] and "of 64x64 px" in output["activations"]
