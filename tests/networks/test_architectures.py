from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue import networks, rng
from segue.errors import SegueError, SpecError
from segue.networks import is_under
from segue.networks.architectures.cellpose import style_of
from segue.networks.architectures.resunet import PointwiseConv2d
from segue.networks.blocks import average
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec
from segue.spec import validate
from segue.training.checkpoint import load_weights, save_weights
from segue.training.freezing import freeze, set_training

SMALL: list[dict[str, Any]] = [
    {"name": "unet", "width": 8, "depth": 3, "convolutions": 1},
    {"name": "unet", "width": 8, "depth": 2, "norm": "none"},
    {"name": "cellpose", "width": 8},
    {"name": "mobilenet-transposed"},
    {"name": "mlp", "width": 16, "side_px": 16},
    {"name": "alexnet-small", "width": 8},
    {"name": "timm-resnet10t"},
]


def built(table: dict[str, Any], *, channels: int = 1, classes: int = 2, init: int = 0) -> Network:
    with rng.scope(0, "test", init):
        return networks.build(NetworkSpec.model_validate(table), channels=channels, classes=classes)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.torch_generator(0, "images"))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("table", "channels", "classes", "published"),
    [
        # counted in cellpose 3.1.1.3: CPnet([2, 32, 64, 128, 256], 3, sz=3), without its two diameters
        ({"name": "cellpose"}, 2, 3, 6_600_843),
        # 31,031,685 of the much-used Keras U-Net, whose head is 3x3 to 2 and 1x1 to 1 instead of 1x1 to 2 channels
        ({"name": "unet", "norm": "none"}, 1, 2, 31_031_685 - (64 * 2 * 9 + 2) - (2 + 1) + (64 * 2 + 2)),
    ],
)
def test_published_counts(table: dict[str, Any], channels: int, classes: int, published: int):
    """The networks made after others have exactly the others' number of parameters."""
    assert networks.parameter_count(NetworkSpec(**table), channels=channels, classes=classes) == published
    with torch.device("meta"):
        assert count(built(table, channels=channels, classes=classes)) == published


def test_live_dead_count():
    """MobileNetV2 up to its last block, with the decoder of the assay, has about the published 10.1 M parameters."""
    with torch.device("meta"):
        network = built({"name": "mobilenet-transposed"}, channels=3, classes=3)
    up = zip((320, 512 + 576, 256 + 192, 128 + 144), (512, 256, 128, 64), strict=True)
    assert count(network.decoder) == sum(16 * a * b + 2 * b for a, b in up)
    assert count(network.encoder) == 2_223_872 - (320 * 1280 + 2 * 1280)  # without its last convolution
    assert count(network) == 10_095_235
    assert round(count(network) / 1e6, 1) == 10.1


@pytest.mark.parametrize("table", [
    {"name": "unet", "width": 12, "depth": 2, "convolutions": 3}, {"name": "unet", "norm": "none", "depth": 1},
    {"name": "cellpose", "width": 8, "depth": 2}, {"name": "mlp", "depth": 3, "width": 20},
    {"name": "alexnet-small"}, {"name": "unet", "norm": "layer"},
])  # fmt: skip
def test_counts_without_building(table: dict[str, Any]):
    """The closed forms that plans rely on equal what building gives."""
    with torch.device("meta"):
        network = built(table, channels=3, classes=5)
    assert networks.parameter_count(NetworkSpec(**table), channels=3, classes=5) == count(network)


@pytest.mark.parametrize("table", SMALL, ids=str)
def test_shapes_at_two_sizes(table: dict[str, Any]):
    """Scores are those of pixels or of images, at any multiple of the divisor, and every parameter is used."""
    spec, network = NetworkSpec(**table), built(table, channels=2, classes=3)
    factor = max(16, networks.divisor(spec))
    for height, width in ((2 * factor, 3 * factor), (4 * factor, 2 * factor)):
        scores = network(images(2, 2, height, width))
        assert scores.shape == ((2, 3, height, width) if networks.is_dense(spec) else (2, 3))
    assert network.dense == networks.is_dense(spec)
    scores.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


NARROW = """
import torch
from segue.networks.registry import NetworkSpec, build
torch.set_num_threads(2)
network = build(NetworkSpec(name="resunet", width={width}), channels=1, classes=3).to(memory_format=torch.channels_last)
for batch in (3, 5, 3):
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            scores = network(torch.rand(batch, 1, 64, 64))
        scores.float().square().mean().backward()
"""


@pytest.mark.parametrize("width", [8, 12, 16])
def test_narrow_networks_train_with_batches_that_threads_do_not_divide(width: int):
    """In a process of its own, since what oneDNN writes out of bounds on AVX-512 aborts it (decision 31)."""
    done = subprocess.run(
        [sys.executable, "-c", NARROW.format(width=width)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("channels", [3, 8, 15, 16])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_convolutions_equal_strided_ones(channels: int, stride: int):
    """Scores and both gradients are those of a 1x1 convolution with that stride, at odd sizes too."""
    torch.manual_seed(0)
    convolution = PointwiseConv2d(channels, 4, stride).double()
    x = torch.rand(2, channels, 7, 10, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, convolution.weight, stride=stride)
    scores = convolution(x)
    torch.testing.assert_close(scores, expected)
    inputs = (x, convolution.weight)
    gradients, right = (torch.autograd.grad(each.square().sum(), inputs) for each in (scores, expected))
    torch.testing.assert_close(gradients, right)


PARTS = {
    "unet": ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3"),
    "cellpose": ("encoder.stem", "encoder.0", "encoder.1", "encoder.2"),
    "mobilenet-transposed": ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3"),
    "mlp": ("encoder.0", "encoder.1"),
    "alexnet-small": ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3"),
    "timm-resnet10t": ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3"),
    "timm-convnext_atto": ("encoder.0", "encoder.1", "encoder.2", "encoder.3"),
}
DECODERS = {"unet": 4, "cellpose": 4, "mobilenet-transposed": 4, "alexnet-small": 1}


@pytest.mark.parametrize("name", PARTS)
def test_parts(name: str):
    """The parts are those expected, each tensor is in one, and what is frozen neither trains nor changes."""
    network = built({"name": name, **({"width": 8} if name in ("unet", "cellpose", "mlp", "alexnet-small") else {})})
    decoder = [f"decoder.{i}" for i in range(DECODERS.get(name, 0))] or ["decoder"]
    parts = networks.parts(network)
    assert list(parts) == [*PARTS[name], *decoder, "head"]
    for tensor in network.state_dict():
        assert [is_under(tensor, owners) for owners in parts.values()].count(True) == 1
    frozen = PARTS[name][:2]
    freeze(network, frozen)
    set_training(network, frozen)
    owners = [owner for part in frozen for owner in parts[part]]
    before = {n: v.clone() for n, v in network.state_dict().items() if is_under(n, owners)}
    network(images(2, 1, 64, 64)).square().sum().backward()
    assert all((p.grad is None) == is_under(n, owners) for n, p in network.named_parameters())
    assert before and all(torch.equal(network.state_dict()[n], v) for n, v in before.items())


@pytest.mark.parametrize("table", [t for t in SMALL if "norm" not in t], ids=lambda t: t["name"])
def test_weights_come_back(table: dict[str, Any], tmp_path: Path):
    """Weights written and read again give the same scores in a network of other initial weights."""
    network, other = built(table).eval(), built(table, init=1).eval()
    save_weights(network.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_weights(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        assert torch.equal(network(images(1, 1, 64, 64)), other(images(1, 1, 64, 64)))


def test_style_is_of_unit_length_and_moves_scores():
    """Cellpose's style is a direction, and what is far away in the image changes scores through it."""
    network = built({"name": "cellpose", "width": 8}).eval()
    x = images(1, 1, 128, 128)
    far = x.clone()
    far[..., :24] += 3
    with torch.inference_mode():
        style = style_of(network.encoder(x)[-1])
        torch.testing.assert_close(style.norm(dim=1), torch.ones(1))
        assert not torch.allclose(network(x)[..., -8:], network(far)[..., -8:], atol=1e-6)


def test_boxes_are_averaged_as_pooling_does():
    """The multilayer perceptron sees what adaptive average pooling gives, of tiles of any size."""
    x = images(2, 3, 37, 50)
    torch.testing.assert_close(average(x, (8, 16)), F.adaptive_avg_pool2d(x, (8, 16)))
    assert average(x, (37, 50)) is x


@pytest.mark.parametrize("name", ["unet", "cellpose", "mobilenet-transposed"])
def test_other_norms(name: str):
    """With group norm an image's scores are its own, and the number of parameters stays."""
    more = {} if name == "mobilenet-transposed" else {"width": 8}
    network = built({"name": name, "norm": "group", **more})
    assert count(network) == count(built({"name": name, **more}))
    x = images(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:], network(x[1:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["cellpose", "mobilenet-transposed", "timm-resnet10t"])
def test_stochastic_depth(name: str):
    """Units of the encoder are left out while training, and in use nothing is."""
    network, plain = built({"name": name, "stochastic_depth": 0.5, "dropout": 0.1}), built({"name": name})
    assert list(network.state_dict()) == list(plain.state_dict())
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):  # some residual units begin at zero
            nn.init.ones_(module.weight)
    network.load_state_dict(plain.state_dict())
    x = images(8, 1, 32, 32)
    with torch.inference_mode(), rng.scope(0, "drops"):
        assert torch.equal(network.eval()(x), plain.eval()(x))
        encoder = network.encoder.train()
        for module in encoder.modules():  # so that only what is left out makes a difference
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        assert not torch.equal(encoder(x)[-1], encoder(x)[-1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "unet-resnet18", "depth": 3}, "depth belongs to unet, cellpose, mlp; .*: remove depth"),
        ({"name": "cellpose", "convolutions": 3}, "convolutions belongs to unet; .*: remove convolutions"),
        ({"name": "resunet", "patch_px": 8}, "patch_px belongs to vit"),
        ({"name": "resunet", "side_px": 64}, "side_px belongs to mlp, vit, sam, timm"),
        ({"name": "resunet", "norm": "none"}, 'norm = "none" belongs to unet'),
        ({"name": "mlp", "norm": "group"}, "'mlp' has no batch norm that norm could replace: remove norm"),
        ({"name": "unet", "stochastic_depth": 0.1}, "'unet' has none: remove stochastic_depth"),
        ({"name": "cellpose", "pretrained": True}, "'cellpose' has none: remove pretrained"),
        ({"name": "unet-resnet18", "pretrained": "weights.h5"}, "pretrained: .*ends in .safetensors, .pth"),
        ({"name": "unet-resnet18", "pretrained_channels": "mean"}, "set pretrained or remove it"),
        ({"name": "vit-resnet18"}, "vit-<timm name> takes vit_… or deit_…"),
        ({"name": "vit-vit_tiny_r_s16_p8_224"}, "vit takes plain transformers of timm, which have patch<px>"),
        ({"name": "sam-vit_tiny_patch16_224"}, "sam-<timm name> takes samvit_… of timm"),
        ({"name": "vit-vit_tiny_patch16_224", "side_px": 100}, "side_px = 100 is not a multiple of the 16 px of a"),
        ({"name": "unet-"}, "unknown encoder ''"),
    ],
)
def test_settings_where_they_do_not_count_are_refused(table: dict[str, Any], message: str):
    """A setting that a network does not have is refused before anything is built, with those that have it."""
    with pytest.raises(SpecError, match=message):
        validate(NetworkSpec, table, context="stage.toml")


def test_keys_of_earlier_specifications_stay():
    """What is left at its default is not in the dump that keys are made of, and a dump is read again as it was."""
    assert NetworkSpec(name="unet-resnet18", norm="group").model_dump(exclude_defaults=True) == {
        "name": "unet-resnet18", "norm": "group",
    }  # fmt: skip
    spec = NetworkSpec.model_validate({"name": "unet-resnet18", "pretrained": "weights.pth"})
    assert NetworkSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_classifiers_of_one_size_refuse_other_tiles():
    """A classifier of fixed size is refused tiles of another, before training and while it runs."""
    spec = NetworkSpec(name="timm-vit_tiny_patch16_224", side_px=32)
    with pytest.raises(SegueError, match=r"tiles are 64x64 px, .*set to images of 32x32 px"):
        networks.require_fit(spec, (1, 64, 64), "data.h5")
    network = built({"name": "timm-vit_tiny_patch16_224", "side_px": 32})
    assert network(images(2, 1, 32, 32)).shape == (2, 2)
    assert [part for part in network.parts if part.startswith("encoder")] == [f"encoder.{i}" for i in range(4)]
    with pytest.raises(SegueError, match=r"takes images of 32x32 px, and these are 64x64 px"):
        network(images(2, 1, 64, 64))


@pytest.mark.parametrize(("name", "message"), [
    ("timm-resnet1O", "timm has no model 'resnet1O'; did you mean resnet"),
    ("timm-vgg11", "it does not support stochastic depth"),
])  # fmt: skip
def test_models_that_timm_lacks_are_refused(name: str, message: str):
    """A model that timm does not have, or not with what is asked, is told in a sentence."""
    with torch.device("meta"), pytest.raises(SegueError, match=message):
        built({"name": name, "stochastic_depth": 0.1})
