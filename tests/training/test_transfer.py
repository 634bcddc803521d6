from __future__ import annotations

import pytest
import torch
from torch import nn

from segue import networks, rng
from segue.errors import SegueError
from segue.networks import is_under
from segue.networks.registry import NetworkSpec
from segue.training.freezing import load_parts


def network(init: int, *, channels: int = 1, classes: int = 2, name: str = "resunet") -> nn.Module:
    spec = NetworkSpec(width=8) if name == "resunet" else NetworkSpec(name=name)
    with rng.scope(0, "init", init):
        built = networks.build(spec, channels=channels, classes=classes)
        for value in built.buffers():  # statistics as of a trained network
            if value.is_floating_point():
                value.uniform_(0.5, 2)
    return built


@pytest.mark.parametrize(
    ("parts", "owners"),
    [
        (None, ("encoder", "decoder", "head")),
        (("encoder",), ("encoder",)),
        (("encoder.0-2",), ("encoder.stages.0", "encoder.stages.1", "encoder.stages.2")),
        (("encoder.stem", "decoder.4"), ("encoder.norm_input", "encoder.conv", "encoder.norm", "decoder.blocks.4")),
    ],
)
def test_named_parts_come_from_the_parent(parts: tuple[str, ...] | None, owners: tuple[str, ...]):
    """What is named becomes the parent's bit by bit, statistics included, the rest stays, and the report says so."""
    child, weights = network(1), network(0).state_dict()
    before = {name: value.clone() for name, value in child.state_dict().items()}
    output = load_parts(child, weights, parts, context="parent")
    assert set(output["loaded"]) == {name for name in before if is_under(name, owners)}
    assert set(output["initialised"]) == set(output["left_out"]) == set(before) - set(output["loaded"])
    for name, value in child.state_dict().items():
        assert torch.equal(value, (weights if name in output["loaded"] else before)[name])


def test_stages_of_another_encoder():
    """Stages of an encoder of segmentation-models-pytorch are loaded by the same names."""
    child, weights = network(1, name="unet-resnet18"), network(0, name="unet-resnet18").state_dict()
    output = load_parts(child, weights, ("encoder.stem", "encoder.0"), context="parent")
    owners = ("encoder.conv1", "encoder.bn1", "encoder.layer1")
    assert set(output["loaded"]) == {name for name in weights if is_under(name, owners)}


@pytest.mark.parametrize(
    ("parent", "parts", "message"),
    [
        ({"channels": 2}, None, r"first 'encoder.norm_input.weight' .*load = \['encoder.0', .*'decoder', 'head'\]"),
        ({"classes": 3}, None, r"2 of another shape, 0 foreign, first 'head.weight'.*load = \['encoder', 'decoder'\]"),
        ({"channels": 2}, ("encoder.stem",), "5 of another shape"),
        ({"name": "unet-resnet18"}, ("encoder.0-1",), "tensors missing"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parent: dict, parts: tuple[str, ...] | None, message: str):
    """A part that lacks a tensor or has another shape is refused with the parts that fit, and nothing is changed."""
    child = network(1)
    before = {name: value.clone() for name, value in child.state_dict().items()}
    with pytest.raises(SegueError, match=message):
        load_parts(child, network(0, **parent).state_dict(), parts, context="parent")
    assert all(torch.equal(value, before[name]) for name, value in child.state_dict().items())


def test_parts_that_fit_are_taken_from_an_unlike_parent():
    """A parent of other channels and classes gives all but the stem and the head."""
    output = load_parts(
        network(1), network(0, channels=3, classes=5).state_dict(), ("encoder.0-3", "decoder"), context="parent"
    )
    assert len(output["loaded"]) + len(output["initialised"]) == len(network(1).state_dict())


def test_a_part_that_the_network_lacks_is_refused():
    """A stage that is not there is told with those that are."""
    with pytest.raises(SegueError, match=r"part 'encoder\.7': this network has no such part"):
        load_parts(network(1), network(0).state_dict(), ("encoder.7",), context="parent")
