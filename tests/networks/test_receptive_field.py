from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.analysis.receptive_field import (
    effective_field,
    noise,
    receptive_field,
    receptive_fields,
    side_holding,
)
from segue.networks.architectures.classifiers import Stages
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec


def built(name: str, **more: int) -> Network:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec.model_validate({"name": name, **more}), channels=1, classes=2).eval()


class Deepest(nn.Module):
    """Returns the last feature."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


def chain(*layers: nn.Module) -> Network:
    return Network(Stages([*layers]), Deepest(), nn.Conv2d(4, 1, 1), channels=1)


def convolution(before: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (side // 2)
    return nn.Sequential(nn.Conv2d(before, 4, side, stride, padding, dilation), nn.BatchNorm2d(4), nn.ReLU())


def test_a_chain_has_the_field_of_the_closed_form():
    """1 + sum of (kernel - 1) * dilation * product of the strides before: Araujo, Norris and Sim, Distill 2019."""
    layers = [(3, 1, 1), (5, 2, 1), (3, 1, 3), (7, 2, 1), (3, 1, 1)]
    network = chain(*(convolution(4 if i else 1, *layer) for i, layer in enumerate(layers)))
    expected, stride, field = [], 1, 1
    for side, step, dilation in layers:
        field += (side - 1) * dilation * stride
        stride *= step
        expected.append((field, field, float(stride)))
    actual = receptive_fields(network, channels=1, divisor=4)
    assert [(r.height_px, r.width_px, r.stride_px) for r in actual[:-1]] == expected
    assert not any(r.unbounded for r in actual)


def test_unequal_kernels_have_unequal_fields():
    """A kernel of 1 x 7 widens one axis only."""
    network = chain(nn.Conv2d(1, 4, (1, 7), padding=(0, 3)), nn.Conv2d(4, 4, 3, padding=1))
    actual = receptive_field(network, channels=1, divisor=1)
    assert (actual.height_px, actual.width_px) == (3, 9)


def test_the_classical_unet_has_its_known_fields():
    """The encoder of depth 4 sees 5, 14, 32, 68 and 140 px, as the closed form has it with 2 x 2 pooling."""
    actual = {r.block: r.height_px for r in receptive_fields(built("unet", width=8), channels=1, divisor=16)}
    assert [actual[name] for name in ("encoder.stem", *(f"encoder.{n}" for n in range(4)))] == [5, 14, 32, 68, 140]
    assert actual["head"] == 188


def test_outside_of_the_field_nothing_matters():
    """Whatever lies outside of the theoretical box leaves the centre's scores as they are, at all positions."""
    network = built("unet", width=8, depth=2).double()
    side = receptive_field(network, channels=1, divisor=4).height_px
    images = noise(1, 1, 64).double()
    for row in range(32, 36):
        given = images.clone().requires_grad_()
        network(given)[0, :, row, 32].sum().backward()
        assert given.grad is not None
        touched = torch.nonzero(given.grad[0, 0].abs().sum(1)).flatten()
        first, last = int(touched[0]), int(touched[-1])
        assert last - first + 1 <= (side if row == 32 else side + 4) < 64
        changed = images + 100.0
        changed[..., first : last + 1, :] = images[..., first : last + 1, :]
        with torch.no_grad():
            assert torch.equal(network(changed)[0, :, row, 32], network(images)[0, :, row, 32])


@pytest.mark.slow
def test_attention_and_averages_reach_over_everything():
    """A transformer's scores and those behind a style vector depend on all of any image."""
    vit = receptive_fields(built("vit-vit_tiny_patch16_224", side_px=64), channels=1, divisor=16, max_px=256)
    assert all(reach.unbounded for reach in vit)
    small = built("cellpose", width=8, depth=1)
    styled = {r.block: r.unbounded for r in receptive_fields(small, channels=1, divisor=2, max_px=256)}
    assert styled["decoder.1"] and not styled["encoder.0"]


def test_the_measured_field_of_a_linear_network_is_a_power_of_its_kernel():
    """Without activations the gradient is the convolution of the kernels, whatever the image: Luo et al. 2016."""
    network = chain(nn.Conv2d(1, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1 / 9)
    actual = effective_field(network, noise(2, 1, 31))
    line = np.array([1.0])
    for _ in range(4):
        line = np.convolve(line, np.ones(3) / 3)
    expected = np.pad(np.outer(line, line), 11)
    np.testing.assert_allclose(actual.map, expected, atol=1e-6)
    assert actual.extent_px == (9, 9)
    assert actual.sides_px == {share: side_holding(expected, (15, 15), share) for share in (0.5, 0.95)}


def test_a_side_holds_the_share_asked_for():
    """Of equal weights a square of side s holds s * s parts, so 49 % of 21 x 21 takes 15 px."""
    weights = np.ones((21, 21))
    assert [side_holding(weights, (10, 10), share) for share in (1e-9, 0.49, 15 * 15 / 441, 1.0)] == [1, 15, 15, 21]


@pytest.mark.slow
def test_looking_leaves_the_network_as_it_was():
    """Weights, statistics, gradients and modes are unchanged, and the drawn signs are those of the seed."""
    network = built("resunet", width=8).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = noise(2, 1, 32)
    first, second = (effective_field(network, images, seed=3).map for _ in range(2))
    np.testing.assert_array_equal(first, second)
    receptive_field(network, channels=1, divisor=32)
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_dead_network_is_refused():
    """With weights of zero there is no gradient to measure, and it is said so."""
    network = chain(nn.Conv2d(1, 4, 3, padding=1))
    with torch.no_grad():
        network.head.weight.zero_()  # type: ignore[union-attr]
    with pytest.raises(SegueError, match="gradient is zero"):
        effective_field(network, noise(1, 1, 16))
