"""Parts of a network by name, and freezing them: neither their weights nor their normalisation statistics change.

A part is `encoder`, `decoder` or `head`, or smaller: `encoder.stem`, `encoder.0`, `decoder.1`, and ranges of these
with both ends included, `encoder.0-2`. The smallest ones are called leaves. Cheap to import: no torch.


Takes the first weights of a stage from a parent, whole or by named parts, and tells what was taken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from segue import networks
from segue.errors import SegueError
from segue.spec import SpecModel, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTS = ("encoder", "decoder", "head")
WHOLE = {"encoder": ("encoder",), "decoder": ("decoder",), "head": ("head", "dropout")}  # children of a network
_STAGES = re.compile(r"(?P<whole>encoder|decoder)\.(?P<first>\d{1,3})(-(?P<last>\d{1,3}))?")


def _known(part: str) -> str:
    if part in (*PARTS, "encoder.stem"):
        return part
    found = _STAGES.fullmatch(part)
    if found is None:
        raise ValueError(unknown(part, (*PARTS, "encoder.stem", "encoder.0", "encoder.0-2", "decoder.1-3"), "part"))
    first, last = found["first"], found["last"]
    if last is not None and int(last) < int(first):
        raise ValueError(f"part '{part}' ends before it begins; write {found['whole']}.{last}-{first}")
    return part


Part = Annotated[str, AfterValidator(_known)]


class UnfreezeSpec(SpecModel):
    """From the beginning of `epoch` on, counted from 1, `parts` are trained that were frozen before."""

    epoch: Annotated[int, Field(ge=2)]
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @field_validator("parts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def leaves(network: nn.Module, parts: Iterable[str]) -> tuple[str, ...]:
    """Returns the leaves that the parts consist of, in the network's order; raises SegueError for one it lacks."""
    known = networks.parts(network)
    named: set[str] = set()
    for part in parts:
        found = _STAGES.fullmatch(part)
        if part in known:
            named.add(part)
        elif part in PARTS and any(leaf.startswith(f"{part}.") for leaf in known):
            named |= {leaf for leaf in known if leaf.startswith(f"{part}.")}
        elif found is not None and found["last"] is not None:
            asked = {f"{found['whole']}.{n}" for n in range(int(found["first"]), int(found["last"]) + 1)}
            if not asked <= set(known):
                raise _lacking(part, known)
            named |= asked
        else:
            raise _lacking(part, known)
    return tuple(leaf for leaf in known if leaf in named)


def owned(network: nn.Module, parts: Iterable[str]) -> tuple[str, ...]:
    """Returns the dotted names of the modules and parameters that the parts consist of; SegueError for one it lacks.

    A whole part is named whole, so that also what belongs to none of its leaves is among it.
    """
    children = {name for name, _ in network.named_children()}
    names: dict[str, None] = {}
    for part in parts:
        if part in PARTS and part in children:
            names |= dict.fromkeys(name for name in WHOLE[part] if name in children)
        else:
            for leaf in leaves(network, (part,)):
                names |= dict.fromkeys(networks.parts(network)[leaf])
    return tuple(names)


def below(name: str, owners: Iterable[str]) -> bool:
    """Returns whether a dotted name is one of the owners or lies below one."""
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def freeze(network: nn.Module, parts: Iterable[str]) -> None:
    """Switches the gradients of the named parts off and those of all others on, so that an optimiser leaves them alone.

    Call it again with fewer parts to unfreeze the rest.
    """
    frozen = owned(network, parts)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not below(name, frozen))
        if not parameter.requires_grad:
            parameter.grad = None


def set_training(network: nn.Module, frozen: Iterable[str]) -> None:
    """Puts the network in training mode and its frozen parts in evaluation mode.

    In evaluation mode batch normalisation uses and keeps its running statistics, and dropout and stochastic depth
    are off; the dropout before the head goes with the head.
    """
    network.train()
    names = owned(network, frozen)
    for name, module in network.named_modules():
        if name in names:
            module.eval()


def frozen_at(
    network: nn.Module, freeze: tuple[str, ...], unfreeze: tuple[UnfreezeSpec, ...], epoch: int
) -> tuple[str, ...]:
    """Returns the parts that are frozen in an epoch, counted from 1, when `freeze` are so at first.

    With nothing to unfreeze these are `freeze`; else a part is named whole where all of it is frozen, and by its
    leaves where some are. Raises SegueError when a part to unfreeze is not frozen at that time, or not at all.
    """
    if not unfreeze:
        return tuple(freeze)
    now = frozen = set(leaves(network, freeze))
    for change in sorted(unfreeze, key=lambda change: change.epoch):
        asked = set(leaves(network, change.parts))
        if not asked <= frozen:
            trained = ", ".join(leaf for leaf in networks.parts(network) if leaf in asked - frozen)
            raise SegueError(
                f"unfreeze at epoch {change.epoch}: frozen then is not {trained}; "
                + (f"frozen are {', '.join(condensed(network, frozen))}" if frozen else "nothing is frozen")
                + "; name parts of these, or freeze more."
            )
        frozen = frozen - asked
        now = frozen if change.epoch <= epoch else now
    return condensed(network, now)


def condensed(network: nn.Module, named: Iterable[str]) -> tuple[str, ...]:
    """Returns the leaves in the network's order, with a whole part in place of all its leaves."""
    named = set(named)
    told: dict[str, None] = {}
    for leaf in networks.parts(network):
        whole = leaf.partition(".")[0]
        if leaf in named:
            told[whole if is_fully_frozen(network, whole, tuple(named)) else leaf] = None
    return tuple(told)


def is_fully_frozen(network: nn.Module, part: str, frozen: tuple[str, ...]) -> bool:
    """Returns whether all of a part is frozen when the parts `frozen` are."""
    return part in frozen or set(leaves(network, (part,))) <= set(leaves(network, frozen))


def counts(network: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the number of all and of trainable parameters of each part, of its leaves, and of the whole network."""
    names: dict[str, tuple[str, ...]] = {}
    for leaf, owners in networks.parts(network).items():
        whole = leaf.partition(".")[0]
        names |= {whole: (whole,), leaf: owners}
    found = {
        part: [p for name, p in network.named_parameters() if below(name, owners)] for part, owners in names.items()
    }
    found["network"] = list(network.parameters())
    return {
        part: {
            "parameters": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        }
        for part, parameters in found.items()
    }


def live_batch_norms(network: nn.Module, frozen: Iterable[str]) -> list[str]:
    """Returns the names of the batch norms that use the statistics of their batch while the parts `frozen` are frozen.

    With any of these a batch split into parts or over processes does not train as the whole does; synchronised ones
    are not among them.
    """
    from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

    names = owned(network, frozen)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm) and not below(name, names)
    ]


def _lacking(part: str, known: Iterable[str]) -> SegueError:
    """Returns the error for a part that the network lacks, with those that it has."""
    smaller: dict[str, list[str]] = {}
    for leaf in known:
        whole, _, stage = leaf.partition(".")
        smaller.setdefault(whole, []).extend([leaf] if stage else [])
    told = ", ".join(f"{whole} ({', '.join(found) or 'as a whole only'})" for whole, found in smaller.items())
    return SegueError(f"part '{part}': this network has none of that name; it has {told}; name one of these.")


def load_parts(
    network: nn.Module, weights: Mapping[str, Tensor], parts: tuple[str, ...] | None, *, where: str
) -> dict[str, list[str]]:
    """Fills the named parts of the network (all where None) from a state dict and returns what was done.

    Parts are named as for freezing, down to stages of the encoder. The report lists the tensors `loaded`, those
    `initialised` anew because their part was not asked for, and those of the parent that were `left_out`. Raises
    SegueError when a part asked for is none of the network's, lacks a tensor or has another shape; the network is
    then as it was.
    """
    wanted = owned(network, PARTS if parts is None else parts)
    own = network.state_dict()
    asked = [name for name in own if below(name, wanted)]
    missing = [name for name in asked if name not in weights]
    reshaped = [name for name in asked if name in weights and weights[name].shape != own[name].shape]
    foreign = [name for name in weights if below(name, wanted) and name not in own]
    if missing or reshaped or foreign:
        first = (missing or reshaped or foreign)[0]
        shapes = f" ({tuple(weights[first].shape)} there, {tuple(own[first].shape)} here)" if first in reshaped else ""
        fitting = _fitting(network, own, weights)
        raise SegueError(
            f"{where}: its weights do not fit this network: {len(missing)} tensors missing, {len(reshaped)} of another "
            f"shape, {len(foreign)} foreign, first '{first}'{shapes}; use the parent's network and classes"
            + (f", or load only parts that fit (load = {list(fitting)})." if fitting else ".")
        )
    import torch

    with torch.no_grad():
        for name in asked:
            own[name].copy_(weights[name])
    loaded = set(asked)
    return {
        "loaded": asked,
        "initialised": [name for name in own if name not in loaded],
        "left_out": [name for name in weights if name not in loaded],
    }


def _fitting(network: nn.Module, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Returns the parts of the network, as small as need be, that the weights fill exactly."""
    fits = []
    for leaf, owners in networks.parts(network).items():
        here = {name: value.shape for name, value in own.items() if below(name, owners)}
        there = {name: value.shape for name, value in weights.items() if below(name, owners)}
        if here == there:
            fits.append(leaf)
    return condensed(network, fits)
