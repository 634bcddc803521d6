"""Takes the first weights of a stage from a parent, whole or by named parts, and tells what was taken."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segue import networks
from segue.errors import SegueError
from segue.training.freezing import PARTS, below, condensed, owned


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
