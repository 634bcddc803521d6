"""Parts of a network by name: freezing and unfreezing them, and loading their weights from a parent.

Of a frozen part neither weights nor normalization statistics change. A part is `encoder`, `decoder` or `head`, or
smaller: `encoder.stem`, `encoder.0`, `decoder.1`, and ranges of these with both ends included, `encoder.0-2`. The
smallest ones are called leaves. Cheap to import: no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from segue import networks
from segue.errors import SegueError
from segue.networks import is_under
from segue.spec import SpecModel, unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTS = ("encoder", "decoder", "head")
MODULES = {"encoder": ("encoder",), "decoder": ("decoder",), "head": ("head", "dropout")}  # children of a network
STAGES = re.compile(r"(?P<whole>encoder|decoder)\.(?P<first>\d{1,3})(-(?P<last>\d{1,3}))?")


def _check_part(part: str) -> str:
    if part in (*PARTS, "encoder.stem"):
        return part
    match = STAGES.fullmatch(part)
    if match is None:
        raise ValueError(unknown(part, (*PARTS, "encoder.stem", "encoder.0", "encoder.0-2", "decoder.1-3"), "part"))
    first, last = match["first"], match["last"]
    if last is not None and int(last) < int(first):
        raise ValueError(f"part '{part}' ends before it begins; write {match['whole']}.{last}-{first}")
    return part


Part = Annotated[str, AfterValidator(_check_part)]


class UnfreezeSpec(SpecModel):
    """From the beginning of `epoch` on, counted from 1, `parts` are trained that were frozen before."""

    epoch: Annotated[int, Field(ge=2)]
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    @field_validator("parts", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def leaf_parts(network: nn.Module, parts: Iterable[str]) -> tuple[str, ...]:
    """Returns the leaves that the parts consist of, in the network's order; raises SegueError for one it lacks."""
    available = networks.parts(network)
    selected: set[str] = set()
    for part in parts:
        match = STAGES.fullmatch(part)
        if part in available:
            leaves = {part}
        elif part in PARTS:
            leaves = {leaf for leaf in available if leaf.startswith(f"{part}.")}
        elif match is not None and match["last"] is not None:
            leaves = {f"{match['whole']}.{n}" for n in range(int(match["first"]), int(match["last"]) + 1)}
        else:
            leaves = set()
        if not leaves or not leaves <= set(available):
            raise _missing_part(part, available)
        selected |= leaves
    return tuple(leaf for leaf in available if leaf in selected)


def parameter_names(network: nn.Module, parts: Iterable[str]) -> tuple[str, ...]:
    """Returns the dotted names of the modules and parameters that the parts consist of; SegueError for one it lacks.

    A whole part is given by its module, which includes what belongs to none of its leaves.
    """
    children = {name for name, _ in network.named_children()}
    names: dict[str, None] = {}
    for part in parts:
        if part in PARTS and part in children:
            names |= dict.fromkeys(name for name in MODULES[part] if name in children)
        else:
            for leaf in leaf_parts(network, (part,)):
                names |= dict.fromkeys(networks.parts(network)[leaf])
    return tuple(names)


def freeze(network: nn.Module, parts: Iterable[str]) -> None:
    """Sets `requires_grad` to False in the named parts and to True elsewhere; fewer parts in a second call unfreeze."""
    frozen = parameter_names(network, parts)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not is_under(name, frozen))
        if not parameter.requires_grad:
            parameter.grad = None


def set_training(network: nn.Module, frozen: Iterable[str]) -> None:
    """Puts the network in training mode and its frozen parts in evaluation mode.

    In evaluation mode batch normalization uses and keeps its running statistics, and dropout and stochastic depth
    are off; the dropout before the head belongs to the head.
    """
    network.train()
    names = parameter_names(network, frozen)
    for name, module in network.named_modules():
        if name in names:
            module.eval()


def frozen_at(
    network: nn.Module, freeze: tuple[str, ...], unfreeze: tuple[UnfreezeSpec, ...], epoch: int
) -> tuple[str, ...]:
    """Returns the parts that are frozen in an epoch, counted from 1, when `freeze` are frozen in the first.

    With nothing to unfreeze these are `freeze`; otherwise a part is named as a whole if all of it is frozen, and by its
    leaves if some are. Raises SegueError when a part to unfreeze is not frozen at that time, or not at all.
    """
    if not unfreeze:
        return tuple(freeze)
    frozen_then = frozen = set(leaf_parts(network, freeze))
    for change in sorted(unfreeze, key=lambda change: change.epoch):
        leaves = set(leaf_parts(network, change.parts))
        if not leaves <= frozen:
            trained = ", ".join(leaf for leaf in networks.parts(network) if leaf in leaves - frozen)
            raise SegueError(
                f"unfreeze at epoch {change.epoch}: {trained} is not frozen at that time; "
                + (f"frozen are {', '.join(collapse_parts(network, frozen))}" if frozen else "nothing is frozen")
                + "; name parts of these, or freeze more."
            )
        frozen = frozen - leaves
        frozen_then = frozen if change.epoch <= epoch else frozen_then
    return collapse_parts(network, frozen_then)


def collapse_parts(network: nn.Module, leaves: Iterable[str]) -> tuple[str, ...]:
    """Returns the leaves in the network's order, with a whole part in place of all its leaves."""
    leaves = set(leaves)
    names: dict[str, None] = {}
    for leaf in networks.parts(network):
        whole = leaf.partition(".")[0]
        if leaf in leaves:
            names[whole if is_fully_frozen(network, whole, tuple(leaves)) else leaf] = None
    return tuple(names)


def is_fully_frozen(network: nn.Module, part: str, frozen: tuple[str, ...]) -> bool:
    """Returns whether all of a part is frozen when the parts `frozen` are."""
    return part in frozen or set(leaf_parts(network, (part,))) <= set(leaf_parts(network, frozen))


def parameter_counts(network: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the number of all and of trainable parameters of each part, of its leaves, and of the whole network."""
    names: dict[str, tuple[str, ...]] = {}
    for leaf, owners in networks.parts(network).items():
        whole = leaf.partition(".")[0]
        names |= {whole: (whole,), leaf: owners}
    parameters = {
        part: [p for name, p in network.named_parameters() if is_under(name, owners)] for part, owners in names.items()
    }
    parameters["network"] = list(network.parameters())
    return {
        part: {
            "parameters": sum(p.numel() for p in tensors),
            "trainable": sum(p.numel() for p in tensors if p.requires_grad),
        }
        for part, tensors in parameters.items()
    }


def live_batch_norms(network: nn.Module, frozen: Iterable[str]) -> list[str]:
    """Returns the names of the batch norms that use the statistics of their batch while the parts `frozen` are frozen.

    With any of these, a batch that is split into parts or over processes does not train as the whole batch does.
    Synchronized ones are left out.
    """
    from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

    names = parameter_names(network, frozen)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm) and not is_under(name, names)
    ]


def _missing_part(part: str, available: Iterable[str]) -> SegueError:
    """Returns the error for a part that the network lacks, with those that it has."""
    stages: dict[str, list[str]] = {}
    for leaf in available:
        whole, _, stage = leaf.partition(".")
        stages.setdefault(whole, []).extend([leaf] if stage else [])
    names = ", ".join(f"{whole} ({', '.join(leaves) or 'as a whole only'})" for whole, leaves in stages.items())
    return SegueError(f"part '{part}': this network has no such part; it has {names}; name one of these.")


def load_parts(
    network: nn.Module, weights: Mapping[str, Tensor], parts: tuple[str, ...] | None, *, context: str
) -> dict[str, list[str]]:
    """Fills the named parts of the network (all if None) from a state dict and returns a report.

    Parts are named as for freezing. The report lists the tensors `loaded`, those `initialised` because their part
    was not named, and those of the parent that were `left_out`. Raises SegueError when the network lacks a named part,
    or the weights lack a tensor of it or have it in another shape or type; the network is then unchanged. Weights in
    half precision (float16), as shared models have them, are taken for float32.
    """
    owners = parameter_names(network, PARTS if parts is None else parts)
    state = network.state_dict()
    names = [name for name in state if is_under(name, owners)]
    missing = [name for name in names if name not in weights]
    reshaped = [name for name in names if name in weights and weights[name].shape != state[name].shape]
    foreign = [name for name in weights if is_under(name, owners) and name not in state]
    if missing or reshaped or foreign:
        first = (missing or reshaped or foreign)[0]
        shapes = (
            f" ({tuple(weights[first].shape)} there, {tuple(state[first].shape)} here)" if first in reshaped else ""
        )
        fitting = _fitting_parts(network, state, weights)
        raise SegueError(
            f"{context}: its weights do not fit this network: {len(missing)} tensors missing, {len(reshaped)} of "
            f"another shape, {len(foreign)} foreign, first '{first}'{shapes}; use the parent's network and classes"
            + (f", or load only parts that fit (load = {list(fitting)})." if fitting else ".")
        )
    import torch

    half = (torch.float16, torch.float32)
    types = {name: (weights[name].dtype, state[name].dtype) for name in names}
    retyped = [name for name, (there, here) in types.items() if there != here and (there, here) != half]
    if retyped:
        first_types = "{} there, {} here".format(*types[retyped[0]]).replace("torch.", "")
        raise SegueError(
            f"{context}: {len(retyped)} of its tensors have another type, first '{retyped[0]}' ({first_types}); give "
            "weights as segue writes them, or convert them beforehand."
        )
    with torch.no_grad():
        for name in names:
            state[name].copy_(weights[name])
    loaded = set(names)
    return {
        "loaded": names,
        "initialised": [name for name in state if name not in loaded],
        "left_out": [name for name in weights if name not in loaded],
    }


def _fitting_parts(network: nn.Module, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Returns the parts of the network, as large as possible, that the weights fill exactly."""
    leaves = []
    for leaf, owners in networks.parts(network).items():
        here = {name: value.shape for name, value in state.items() if is_under(name, owners)}
        there = {name: value.shape for name, value in weights.items() if is_under(name, owners)}
        if here == there:
            leaves.append(leaf)
    return collapse_parts(network, leaves)
