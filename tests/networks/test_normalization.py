from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.architectures.resunet import PreActivationUnit
from segue.networks.blocks import StochasticDepth
from segue.networks.network import Network
from segue.networks.normalization import group_count, replace_batch_norms
from segue.networks.registry import NetworkSpec


def built(**table: object) -> Network:
    spec = NetworkSpec.model_validate({"width": 8} | table if "name" not in table else table)
    with rng.scope(0, "test"):
        return networks.build(spec, channels=1, classes=2)


def images(count: int = 3, side: int = 64) -> Tensor:
    return torch.randn(count, 1, side, side, generator=rng.torch_generator(0, "images"))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("resunet", "instance"),
        ("resunet", "group"),
        ("resunet", "layer"),
        ("unet-resnet18", "group"),
        pytest.param("unet-tu-efficientnet_b0", "instance", marks=pytest.mark.slow),
        pytest.param("unet-tu-convnext_atto", "layer", marks=pytest.mark.slow),
    ],
)
def test_images_do_not_see_one_another(name: str, norm: str):
    """With every norm but batch norm an image's scores in training are those that it has alone and in use."""
    network = (built(norm=norm) if name == "resunet" else built(name=name, norm=norm)).double()
    batch = images(2).double()
    with torch.no_grad():
        together = network.train()(batch)
        torch.testing.assert_close(together[1:], network(batch[1:]))
        torch.testing.assert_close(together, network.eval()(batch))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("norm", "axes"), [("instance", (3, 4)), ("group", (2, 3, 4)), ("layer", (1, 2, 3, 4))])
def test_norms_are_those_of_their_definition(norm: str, axes: tuple[int, ...]):
    """Each norm standardises over the axes that define it: (image, group, channel in group, H, W)."""
    layer = built(norm=norm).get_submodule("encoder.stages.1.0.norm2")
    assert isinstance(layer, nn.InstanceNorm2d | nn.GroupNorm)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.uniform_(-1, 1)
    x = torch.randn(2, 16, 5, 6, generator=rng.torch_generator(0, "x"), dtype=torch.float64)
    grouped = x.unflatten(1, (8, 2))
    variance, mean = torch.var_mean(grouped, dim=axes, keepdim=True, correction=0)
    standard = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    expected = standard * layer.weight.double()[:, None, None] + layer.bias.double()[:, None, None]
    torch.testing.assert_close(layer.double()(x), expected)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (24, 12), (64, 32), (96, 32)]
)
def test_group_counts(channels: int, groups: int):
    """Up to 32 groups (Wu and He) that divide the channels, of two channels at least where there are two."""
    assert group_count(channels) == groups


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_replaced_norm_draws_nothing(norm: str):
    """All weights, scales and shifts are those of the network with its own norms."""
    own = dict(built().named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in built(norm=norm).named_parameters())


def test_activations_behind_norms_stay():
    """Where timm joins norm and activation in one layer, the activation is kept."""
    x = torch.randn(2, 32, 8, 8, generator=rng.torch_generator(0, "x"))
    out = built(name="unet-tu-efficientnet_b0", norm="layer").get_submodule("encoder.model.bn1")(x)
    torch.testing.assert_close(out, nn.functional.silu(nn.functional.group_norm(x, 1, eps=1e-5)))


def test_networks_without_batch_norm_are_refused():
    """A norm that would replace nothing is refused."""
    network = Network(nn.Conv2d(1, 4, 3), nn.LayerNorm(4), nn.Conv2d(4, 2, 1), channels=1)
    with pytest.raises(SegueError, match=r'x: has no batch norm that norm = "group" could replace; remove norm'):
        replace_batch_norms(network, "group", context="x")


@pytest.mark.parametrize("name", ["unet-tu-vgg11", "unet-tu-densenet121"])
def test_encoders_without_residual_units_take_no_stochastic_depth(name: str):
    """An encoder of timm that cannot leave units out is refused, not left as it is."""
    with pytest.raises(SegueError, match=r"its encoder does not support stochastic depth; set stochastic_depth = 0"):
        built(name=name, stochastic_depth=0.1)


def test_probabilities_grow_linearly():
    """Unit l of L is left out with l/L of the last one's probability (Huang et al., section 3)."""
    units = [m.probability for m in built(stochastic_depth=0.4).modules() if isinstance(m, StochasticDepth)]
    assert units == pytest.approx([0.05 * unit for unit in range(1, 9)])


def test_a_unit_is_left_out_whole_or_scaled_up():
    """While training a sample's residual is either zero or divided by what is kept; in use it is as it is."""
    with rng.scope(0, "test"):
        unit = PreActivationUnit(4, 4, 1, projected=False, drop=0.25).eval()
        x = torch.randn(400, 4, 4, 4)
        residual = (unit(x) - x).detach()
        unit.drop.train()
        actual = (unit(x) - x).detach()
    dropped = (actual == 0).flatten(1).all(1)
    torch.testing.assert_close(actual[~dropped], residual[~dropped] / 0.75)
    assert 0.15 < dropped.float().mean() < 0.35


def test_dropout_takes_whole_channels_before_the_head():
    """While training whole channels of what the head sees are zero and the others scaled up."""
    network = built(dropout=0.5)
    seen: list[Tensor] = []
    network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with rng.scope(0, "dropout"), torch.no_grad():
        network.eval().dropout.train()
        network(images(20))
        network.eval()(images(20))
    dropped = (seen[0] == 0).flatten(2).all(2) & ~(seen[1] == 0).flatten(2).all(2)
    assert 0 < dropped.sum() < dropped.numel()
    torch.testing.assert_close(seen[0], torch.where(dropped[..., None, None], 0.0, 2 * seen[1]))


def test_in_use_nothing_is_left_out():
    """Dropout and stochastic depth add no weights, draw none, and change no score in use."""
    plain, regular = built().eval(), built(dropout=0.5, stochastic_depth=0.5).eval()
    assert list(plain.state_dict()) == list(regular.state_dict())
    with torch.inference_mode():
        assert torch.equal(plain(images()), regular(images()))


def test_defaults_are_not_in_the_dump():
    """A network that says nothing of norm, dropout and depth is told by the same words as before them."""
    assert NetworkSpec(width=8).model_dump(exclude_defaults=True) == {"width": 8}
