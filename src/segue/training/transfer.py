"""Takes the first weights of a stage from a parent, whole or by named parts, and tells what was taken."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segue.errors import SegueError
from segue.training.freezing import PARTS


def load_parts(
    network: nn.Module, weights: Mapping[str, Tensor], parts: tuple[str, ...] | None, *, where: str
) -> dict[str, list[str]]:
    """Fills the named parts of the network (all where None) from a state dict and returns what was done.

    The report lists the tensors `loaded`, those `initialised` anew because their part was not asked for, and those
    of the parent that were `left_out`. Raises SegueError when a part asked for lacks a tensor or has another shape.
    """
    wanted = PARTS if parts is None else parts
    own = network.state_dict()
    asked = [name for name in own if name.partition(".")[0] in wanted]
    missing = [name for name in asked if name not in weights]
    reshaped = [name for name in asked if name in weights and weights[name].shape != own[name].shape]
    foreign = [name for name in weights if name.partition(".")[0] in wanted and name not in own]
    if missing or reshaped or foreign:
        first = (missing or reshaped or foreign)[0]
        shapes = f" ({tuple(weights[first].shape)} there, {tuple(own[first].shape)} here)" if first in reshaped else ""
        fitting = [
            part for part in PARTS if part not in {name.partition(".")[0] for name in missing + reshaped + foreign}
        ]
        raise SegueError(
            f"{where}: its weights do not fit this network: {len(missing)} tensors missing, {len(reshaped)} of another "
            f"shape, {len(foreign)} foreign, first '{first}'{shapes}; use the parent's network and classes"
            + (f", or load only parts that fit (load = {fitting})." if fitting else ".")
        )
    with torch.no_grad():
        for name in asked:
            own[name].copy_(weights[name])
    return {
        "loaded": asked,
        "initialised": [name for name in own if name not in set(asked)],
        "left_out": [name for name in weights if name not in set(asked)],
    }
