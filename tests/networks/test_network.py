from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segue import networks, rng
from segue.networks.analysis.summary import build_on_meta_device
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec

RESNET = ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3")
BLOCKS = ("decoder.0", "decoder.1", "decoder.2", "decoder.3", "decoder.4")
EXPECTED = {
    "resunet": (*RESNET, *BLOCKS, "head"),
    "unet-resnet18": (*RESNET, *BLOCKS, "head"),
    "fpn-mobilenet_v2": (*RESNET, "decoder", "head"),
    "unet-vgg11": (*RESNET, "decoder", "head"),
    "pspnet-resnet18": ("encoder.stem", "encoder.0", "encoder.1", "decoder", "head"),
    "unet-tu-convnext_atto": (*RESNET[1:], *BLOCKS, "head"),
    "segformer-mit_b0": (*RESNET[1:], "decoder", "head"),
    "dpt-tu-vit_tiny_patch16_224": (*RESNET[1:], "decoder", "head"),
}

SLOW_VIT = pytest.param("dpt-tu-vit_tiny_patch16_224", marks=pytest.mark.slow)


def built(name: str, **more: float) -> Network:
    spec = NetworkSpec.model_validate({"name": name, **({"width": 8} if name == "resunet" else {}), **more})
    with rng.scope(0, "test"):
        return networks.build(spec, channels=1, classes=2)


def below(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_is_in_one_part(name: str):
    """The parts are those expected, and each tensor of the network belongs to exactly one of them."""
    network = build_on_meta_device(lambda: built(name))
    parts = networks.parts(network)
    assert tuple(parts) == EXPECTED[name]
    for tensor in network.state_dict():
        assert [below(tensor, owners) for owners in parts.values()].count(True) == 1


def test_asking_for_parts_changes_nothing():
    """Neither statistics, modes nor gradients are touched by finding the stages."""
    network = built("unet-resnet18").train()
    network.encoder.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert len(network.parts) == 11
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.decoder.training and not any(module.training for module in network.encoder.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["resunet", "unet-resnet18", "fpn-mobilenet_v2"])
def test_a_stage_makes_its_feature_and_no_finer_one(name: str):
    """Changing one stage's weights leaves the features before it as they were and changes its own."""
    network = built(name).eval()
    with rng.scope(0, "images"), torch.no_grad():
        images = torch.randn(1, 1, 64, 64)
        features = [f for f in network.encoder(images) if f is not images]
        for index, part in enumerate(RESNET):
            owned = [p for n, p in network.named_parameters() if below(n, network.parts[part])]
            selection = [p.clone() for p in owned]
            for parameter in owned:
                parameter.add_(torch.rand_like(parameter) * 0.1)
            changed = [f for f in network.encoder(images) if f is not images]
            same = [torch.equal(a, b) for a, b in zip(features, changed, strict=True)]
            assert same[:index] == [True] * index and not same[index]
            for parameter, value in zip(owned, selection, strict=True):
                parameter.copy_(value)


@pytest.mark.parametrize("name", ["resunet", "unet-resnet18", "unet-tu-convnext_atto", SLOW_VIT])
def test_scores_of_kept_features(name: str):
    """Scores from the encoder's features are those from the images, also where features come with tokens."""
    network = built(name).eval()
    with rng.scope(0, "images"), torch.inference_mode():
        images = torch.randn(1, 1, 224, 224)
        assert torch.equal(network.scores(network.encoder(images)), network(images))


class OnlyDeep(nn.Module):
    """An encoder whose stages cannot be told apart: it has one feature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, self.conv(x)]


class OfOneSize(OnlyDeep):
    """An encoder that takes no images of the sizes tried."""

    def forward(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1] != 50:
            raise ValueError("50 px only")
        return super().forward(x)


@pytest.mark.parametrize("encoder", [OnlyDeep, OfOneSize])
def test_encoders_without_stages_are_one_part(encoder: type[nn.Module]):
    """Where stages cannot be told apart the encoder is offered as a whole."""
    network = Network(encoder(), nn.Identity(), nn.Conv2d(2, 2, 1), channels=1)
    assert tuple(network.parts) == ("encoder", "decoder", "head")
