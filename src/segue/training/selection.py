"""Which epoch is the best so far, and when to stop because none has been better for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from segue.errors import SegueError
from segue.spec import SpecModel, unknown


class EarlyStoppingSpec(SpecModel):
    """The training ends after `patience` epochs in which `monitor` did not improve by more than `min_delta`."""

    patience: Annotated[int, Field(gt=0)] = 10
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    monitor: str = "validation_loss"


def value_of(row: Mapping[str, float], monitor: str) -> float:
    """Returns a column of an epoch's row as a value to be made small: losses as they are, others negated.

    Raises SegueError when the row has no such column.
    """
    if monitor not in row:
        known = [name for name in row if name.startswith(("train_", "validation_"))]
        raise SegueError(f"monitor: {unknown(monitor, known, 'column of the history')}.")
    return row[monitor] if "loss" in monitor else -row[monitor]


def is_better(value: float, best: float, min_delta: float = 0.0) -> bool:
    """Returns whether a value to be made small improves on the best so far; NaN never does."""
    return not math.isnan(value) and value < best - min_delta


def after_epoch(
    spec: EarlyStoppingSpec, state: Mapping[str, float], row: Mapping[str, float]
) -> tuple[dict[str, float], bool]:
    """Returns the state after an epoch, {} being that before the first, and whether to stop now."""
    best, waited = state.get("best", math.inf), state.get("waited", 0)
    value = value_of(row, spec.monitor)
    if is_better(value, best, spec.min_delta):
        return {"best": value, "waited": 0}, False
    return {"best": best, "waited": waited + 1}, waited + 1 >= spec.patience
