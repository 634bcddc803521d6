from __future__ import annotations

import pytest
import torch
from torch import nn

from segue import networks, rng
from segue.errors import SegueError, SpecError
from segue.networks.registry import NetworkSpec
from segue.spec import SpecModel, validate
from segue.training import freezing, optimizers
from segue.training.freezing import Part, UnfreezeSpec
from segue.training.optimizers import AdamWSpec

STEM_AND_STAGES = ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "encoder.3")
BLOCKS = ("decoder.0", "decoder.1", "decoder.2", "decoder.3", "decoder.4")


def resunet(norm: str | None = None) -> nn.Module:
    with rng.scope(0, "test"):
        spec = NetworkSpec.model_validate({"width": 8, "norm": norm, "dropout": 0.5, "stochastic_depth": 0.1})
        return networks.build(spec, channels=1, classes=2)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, frozen: tuple[str, ...], steps: int = 3) -> None:
    freezing.freeze(network, frozen)
    freezing.set_training(network, frozen)
    with rng.scope(0, "training"):
        for _ in range(steps):
            network(torch.randn(4, 1, 64, 64)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    "frozen", [("encoder",), ("encoder.stem", "encoder.1-2"), ("decoder.0-3", "head"), ("encoder", "decoder")]
)
def test_frozen_leaves_keep_every_bit(frozen: tuple[str, ...]):
    """Weights and statistics of what is frozen stay as they are over several decaying steps; all else moves."""
    network = resunet()
    optimizer = optimizers.build(AdamWSpec(name="adamw", weight_decay=0.5), network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train(network, optimizer, frozen)
    names = freezing.parameter_names(network, frozen)
    assert changed(network, before) == {name for name in before if not networks.is_under(name, names)}


def test_staged_unfreezing_sets_free_what_it_names():
    """From its epoch on an unfrozen stage moves, statistics included, while what stays frozen keeps every bit."""
    network = resunet()
    optimizer = optimizers.build(AdamWSpec(name="adamw"), network)
    unfreeze = (UnfreezeSpec(epoch=2, parts=("encoder.3",)), UnfreezeSpec(epoch=3, parts=("encoder.1-2",)))
    for epoch, free in ((1, ()), (2, ("encoder.3",)), (3, ("encoder.1-3",))):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        train(network, optimizer, freezing.frozen_at(network, ("encoder",), unfreeze, epoch), steps=1)
        names = freezing.parameter_names(network, (*free, "decoder", "head"))
        assert changed(network, before) == {name for name in before if networks.is_under(name, names)}


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (1, ("encoder", "head")),
        (2, ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "head")),
        (4, ("encoder.stem", "encoder.0", "encoder.1", "encoder.2", "head")),
        (5, ("encoder.stem",)),
        (9, ("encoder.stem",)),
    ],
)
def test_what_is_frozen_in_an_epoch(epoch: int, expected: tuple[str, ...]):
    """Parts are taken away leaf by leaf from their epochs on, in whatever order they are written."""
    later = UnfreezeSpec.model_validate({"epoch": 5, "parts": ["encoder.0-2", "head"]})
    unfreeze = (later, UnfreezeSpec.model_validate({"epoch": 2, "parts": "encoder.3"}))
    assert freezing.frozen_at(resunet(), ("encoder", "head"), unfreeze, epoch) == expected
    assert freezing.frozen_at(resunet(), ("encoder.0-2",), (), epoch) == ("encoder.0-2",)


def test_unfreezing_what_is_not_frozen_is_refused():
    """Each epoch tells of a part that is to be unfrozen but is not frozen, or is so no longer."""
    network = resunet()
    twice = (UnfreezeSpec(epoch=2, parts=("encoder.3",)), UnfreezeSpec(epoch=3, parts=("encoder.2-3",)))
    with pytest.raises(
        SegueError, match=r"at epoch 3: encoder\.3 is not frozen at that time; frozen are encoder\.stem, "
    ):
        freezing.frozen_at(network, ("encoder",), twice, 1)
    with pytest.raises(SegueError, match="at epoch 2: head is not frozen at that time; nothing is frozen"):
        freezing.frozen_at(network, (), (UnfreezeSpec(epoch=2, parts=("head",)),), 1)


def test_leaves_of_parts():
    """Whole parts, ranges and single leaves give the leaves in the network's order, each once."""
    network = resunet()
    assert freezing.leaf_parts(network, ("encoder", "decoder", "head")) == (*STEM_AND_STAGES, *BLOCKS, "head")
    assert freezing.leaf_parts(network, ("decoder.1-3", "encoder.2", "encoder.1-2")) == (
        "encoder.1", "encoder.2", "decoder.1", "decoder.2", "decoder.3",
    )  # fmt: skip
    assert freezing.is_fully_frozen(network, "encoder", ("encoder",))
    assert freezing.is_fully_frozen(network, "encoder", ("encoder.0-3", "encoder.stem"))
    assert not freezing.is_fully_frozen(network, "encoder", ("encoder.0-3", "decoder"))


def test_parts_that_a_network_lacks_are_refused():
    """A part of the right form that this network has not is refused with those that it has."""
    with pytest.raises(SegueError, match=r"part 'encoder\.2-4': .*encoder \(encoder\.stem, .*head \(as a whole only\)"):
        freezing.freeze(resunet(), ("encoder.2-4",))
    with rng.scope(0, "test"):
        smp = networks.build(NetworkSpec(name="fpn-tu-convnext_atto"), channels=1, classes=2)
    with pytest.raises(SegueError, match=r"part 'encoder\.stem': .*\(encoder\.0, .*decoder \(as a whole only\)"):
        freezing.freeze(smp, ("encoder.stem",))


class Holder(SpecModel):
    freeze: tuple[Part, ...] = ()
    unfreeze: tuple[UnfreezeSpec, ...] = ()


@pytest.mark.parametrize(
    "part", ["encoder", "decoder", "head", "encoder.stem", "encoder.0", "encoder.0-12", "decoder.3"]
)
def test_forms_of_parts(part: str):
    """All documented forms are taken as they are."""
    assert validate(Holder, {"freeze": [part]}, context="x").freeze == (part,)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"freeze": ["encodr"]}, r"unknown part 'encodr'; did you mean 'encoder'\?"),
        ({"freeze": ["head.0"]}, r"unknown part 'head.0'"),
        ({"freeze": ["decoder.stem"]}, r"unknown part 'decoder.stem'"),
        ({"freeze": ["encoder.2-1"]}, r"ends before it begins; write encoder\.1-2"),
        ({"unfreeze": [{"epoch": 1, "parts": ["encoder"]}]}, r"unfreeze\[0\]\.epoch.*a number of 2 or more"),
        ({"unfreeze": [{"epoch": 2, "parts": []}]}, r"unfreeze\[0\]\.parts"),
    ],
)
def test_bad_parts_are_refused(table: dict[str, object], message: str):
    """What is no part's name is refused before anything is built."""
    with pytest.raises(SpecError, match=message):
        validate(Holder, table, context="stage.toml")


def test_counts_of_leaves_add_up():
    """The leaves' counts add up to those of their part, and the parts' to the network's; frozen ones train none."""
    network = resunet()
    freezing.freeze(network, ("encoder.0-1",))
    counted = freezing.parameter_counts(network)
    for kind in ("parameters", "trainable"):
        assert sum(counted[leaf][kind] for leaf in STEM_AND_STAGES) == counted["encoder"][kind]
        assert sum(counted[leaf][kind] for leaf in BLOCKS) == counted["decoder"][kind]
        assert sum(counted[part][kind] for part in freezing.PARTS) == counted["network"][kind]
    assert counted["encoder.1"]["trainable"] == 0 < counted["encoder.2"]["trainable"]
    assert counted["network"]["parameters"] == networks.parameter_count(NetworkSpec(width=8), channels=1, classes=2)


def test_batch_norms_that_are_alive():
    """Only batch norms outside of frozen parts tie the images of a batch together, and no other norm does."""
    network = resunet()
    assert len(freezing.live_batch_norms(network, ())) == 28
    assert freezing.live_batch_norms(network, ("encoder", "decoder.0-3")) == [
        "decoder.blocks.4.norm1", "decoder.blocks.4.norm2",
    ]  # fmt: skip
    assert freezing.live_batch_norms(network, ("encoder", "decoder")) == []
    assert freezing.live_batch_norms(resunet("group"), ()) == freezing.live_batch_norms(resunet("instance"), ()) == []


def test_dropout_goes_with_the_head():
    """With the head frozen nothing before it is left out; with another part frozen it still is."""
    network = resunet()
    freezing.set_training(network, ("head",))
    assert not network.get_submodule("dropout").training and network.get_submodule("decoder").training
    freezing.set_training(network, ("encoder",))
    assert network.get_submodule("dropout").training and not network.get_submodule("encoder.stages.0").training
