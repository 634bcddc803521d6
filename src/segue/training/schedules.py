"""Learning-rate schedules by name, as factors on the optimiser's rate, and the warm-up in front of any.

A schedule is a pure function of the position in the training, in epochs, so that resuming needs no more than the
position. Two follow a monitored value (`plateau`, `kicks`): their state is a small dict of floats, made anew after
every epoch and kept in the checkpoint as JSON. Cheap to import: no torch.


Which epoch is the best so far, and when to stop because none has been better for long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from segue.errors import SegueError
from segue.spec import SpecModel, unknown

Fraction = Annotated[float, Field(ge=0, lt=1)]
Shrinking = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Monitor = Annotated[str, Field(min_length=1)]
SCHEDULES = {
    "constant": "the rate as it is",
    "exponential": "times gamma after every epoch",
    "cosine": "half a cosine down to the floor, over all epochs",
    "cosine_restarts": "half a cosine down to the floor, again and again from the full rate (SGDR)",
    "plateau": "lowered by a factor whenever the monitored value stops improving",
    "polynomial": "down to the floor as a power of the epochs that are left",
    "one_cycle": "up to the optimiser's rate and down again, both along half a cosine",
    "kicks": "half a cosine to a floor, held until the monitored value stops improving, then kicked up to fall deeper",
}


class ConstantSpec(SpecModel):
    name: Literal["constant"]


class ExponentialSpec(SpecModel):
    """The rate is multiplied by `gamma` after every epoch."""

    name: Literal["exponential"]
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99


class CosineSpec(SpecModel):
    """Half a cosine over all epochs, a little at every step, down to the factor `floor`."""

    name: Literal["cosine"]
    floor: Fraction = 0.0


class CosineRestartsSpec(SpecModel):
    """Half a cosine down to the factor `floor` over `period` epochs, again and again, each `multiplier` times as long.

    SGDR: Loshchilov and Hutter, ICLR 2017; their T_0 is `period` and their T_mult `multiplier`.
    """

    name: Literal["cosine_restarts"]
    period: Positive = 10.0
    multiplier: Annotated[float, Field(ge=1)] = 1.0
    floor: Fraction = 0.0


class PlateauSpec(SpecModel):
    """The rate is multiplied by `factor` when `monitor` has not improved for more than `patience` epochs.

    As torch's ReduceLROnPlateau with a relative threshold: an improvement must exceed the share `threshold` of the best
    value so far, bad epochs are not counted for `cooldown` epochs after a drop, and the factors together do not
    fall below `floor`. Torch's `eps`, which skips changes below 1e-8, is not kept: it depends on the rate itself.
    """

    name: Literal["plateau"]
    factor: Shrinking = 0.5
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: Fraction = 1e-4
    cooldown: Annotated[int, Field(ge=0)] = 0
    floor: Fraction = 0.0
    monitor: Monitor = "validation_loss"


class PolynomialSpec(SpecModel):
    """From 1 to `floor` as (1 - share of the epochs passed) ** `power`, a little at every step."""

    name: Literal["polynomial"]
    power: Positive = 0.9
    floor: Fraction = 0.0


class OneCycleSpec(SpecModel):
    """Half a cosine from `start` up to the optimiser's rate at the share `peak_at` of the epochs, then one to `end`.

    `start` and `end` are factors of the peak. As torch's OneCycleLR in two phases with its defaults, but without
    cycling the momentum: only the rate is scheduled here (Smith and Topin 2018 cycle both).
    """

    name: Literal["one_cycle"]
    peak_at: Shrinking = 0.3
    start: Annotated[float, Field(gt=0, le=1)] = 1 / 25
    end: Annotated[float, Field(ge=0, le=1)] = 1e-4 / 25


class KicksSpec(SpecModel):
    """Cosine annealing with kicks, as the live-dead experiments had it.

    Half a cosine over `length` epochs takes the rate to a floor, first `floor_factor` of the initial rate. There it
    stays until `monitor` has not improved, by more than the share `threshold` of its best, for `patience`
    epochs spent wholly at the floor. Then it is kicked up to (1 + `kick`) times that floor and falls, over
    `length` epochs again, to the next floor, `floor_factor` of the last; and so on. While the monitored value stands
    still a cycle takes `length` + `patience` epochs.
    """

    name: Literal["kicks"]
    floor_factor: Shrinking = 0.5
    kick: Annotated[float, Field(ge=0)] = 0.25
    length: Positive = 5.0
    patience: Annotated[int, Field(ge=1)] = 2
    threshold: Fraction = 1e-4
    monitor: Monitor = "validation_loss"


class WarmupSpec(SpecModel):
    """In front of any schedule: over `epochs`, linearly from `start` times the schedule's first factor up to it.

    The schedule's own clock begins after it, and what the schedule spans is the epochs that are left.
    """

    epochs: Positive
    start: Fraction = 0.0


Schedule = (
    ConstantSpec
    | ExponentialSpec
    | CosineSpec
    | CosineRestartsSpec
    | PlateauSpec
    | PolynomialSpec
    | OneCycleSpec
    | KicksSpec
)
ScheduleSpec = Annotated[Schedule, Field(discriminator="name")]


def require_fit(warmup: WarmupSpec | None, epochs: int) -> None:
    """Raises ValueError, worded for the user, when the warm-up leaves no epoch to the schedule."""
    if warmup is not None and warmup.epochs >= epochs:
        raise ValueError(
            f"warmup.epochs: found {warmup.epochs:g} of {epochs} epochs in all, which leaves none to the schedule; "
            f"allowed: less than {epochs}; give fewer, or more epochs"
        )


def monitored(spec: Schedule) -> str | None:
    """Returns the column of the history that the schedule follows, None where it follows none."""
    return spec.monitor if isinstance(spec, PlateauSpec | KicksSpec) else None


def begin(spec: Schedule) -> dict[str, float]:
    """Returns the state of a schedule before the first epoch: finite floats by name, none where it needs none."""
    match spec:
        case PlateauSpec():
            return {"factor": 1.0, "bad_epochs": 0.0, "cooldown": 0.0}
        case KicksSpec():
            return {"top": 1.0, "floor": spec.floor_factor, "since": 0.0, "bad_epochs": 0.0}
    return {}


def factor(spec: Schedule, warmup: WarmupSpec | None, state: Mapping[str, float], at: float, epochs: int) -> float:
    """Returns the factor on the rate, at least 0, at the position `at` of a training of `epochs` epochs.

    `at` counts epochs passed, 0 <= at <= epochs: epoch (from 0) + step / steps of an epoch. `state` is what `begin` or
    the last `after_epoch` returned. The warm-up must be shorter than the training (`require_fit`).
    """
    if warmup is None:
        return _factor(spec, state, at, epochs)
    if at < warmup.epochs:
        first = _factor(spec, state, 0.0, epochs)  # the state is still that of the beginning
        return first * (warmup.start + (1 - warmup.start) * at / warmup.epochs)
    return _factor(spec, state, at - warmup.epochs, epochs - warmup.epochs)


def _factor(spec: Schedule, state: Mapping[str, float], clock: float, span: float) -> float:
    """Returns the factor when `clock` of the schedule's own `span` epochs have passed."""
    met = round(clock, 9)  # where there are jumps: 10.1 - 0.1 is below 10, and would miss the restart at 10
    match spec:
        case ConstantSpec():
            return 1.0
        case ExponentialSpec():
            return spec.gamma ** math.floor(met)
        case CosineSpec():
            return _cosine(1.0, spec.floor, clock / span)
        case CosineRestartsSpec():
            return _cosine(1.0, spec.floor, _share_of_cycle(met, spec.period, spec.multiplier))
        case PlateauSpec():
            return state["factor"]
        case PolynomialSpec():
            return spec.floor + (1 - spec.floor) * max(0.0, 1 - clock / span) ** spec.power
        case OneCycleSpec():
            peak = spec.peak_at * span
            if clock < peak:
                return _cosine(spec.start, 1.0, clock / peak)
            return _cosine(1.0, spec.end, (clock - peak) / (span - peak))
        case KicksSpec():
            return _cosine(state["top"], state["floor"], (met - state["since"]) / spec.length)


def _cosine(first: float, last: float, share: float) -> float:
    """Returns the point at `share` (0…1, more is 1) of half a cosine from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2 if share < 1 else last


def _share_of_cycle(clock: float, period: float, multiplier: float) -> float:
    """Returns how much of the present cycle has passed, where each is `multiplier` times as long as the one before."""
    if multiplier == 1:
        return round(clock / period, 9) % 1.0
    while clock >= period:
        clock = round(clock - period, 9)
        period *= multiplier
    return clock / period


def after_epoch(
    spec: Schedule, warmup: WarmupSpec | None, state: Mapping[str, float], row: Mapping[str, float], epoch: int
) -> tuple[dict[str, float], bool]:
    """Returns the state for the epochs to come, and whether the rate now turns: drops (plateau) or is kicked (kicks).

    `row` is the history's row of the epoch that has just ended and `epoch` its number, counted from 0. Of a monitored
    name with "loss" in it less is better, of any other more is. A value that is not finite counts as not improved.
    Epochs that end within the warm-up are not counted. Raises SegueError when the row lacks the monitored value.
    """
    if not isinstance(spec, PlateauSpec | KicksSpec):
        return dict(state), False
    if spec.monitor not in row:
        raise SegueError(f"schedule.monitor: {unknown(spec.monitor, set(row) - {'epoch', 'lr'}, 'value')}.")
    clock = round(epoch + 1 - (warmup.epochs if warmup else 0.0), 9)
    if clock <= 0:
        return dict(state), False
    value = row[spec.monitor]
    improved = _improves(value, state.get("best"), spec)
    best = {"best": float(value)} if improved else {}
    if isinstance(spec, PlateauSpec):
        changed, turned = _after_plateau_epoch(spec, state, improved)
    else:
        changed, turned = _after_kicks_epoch(spec, state, improved, clock)
    return {**state, **best, **changed}, turned


def _improves(value: float, best: float | None, spec: PlateauSpec | KicksSpec) -> bool:
    if best is None or not math.isfinite(value):
        return math.isfinite(value)
    if "loss" in spec.monitor:
        return value < best * (1 - spec.threshold)
    return value > best * (1 + spec.threshold)


def _after_plateau_epoch(
    spec: PlateauSpec, state: Mapping[str, float], improved: bool
) -> tuple[dict[str, float], bool]:
    bad, cooldown, lowered = 0.0 if improved else state["bad_epochs"] + 1, state["cooldown"], state["factor"]
    if cooldown > 0:
        bad, cooldown = 0.0, cooldown - 1
    if bad > spec.patience:
        bad, cooldown = 0.0, float(spec.cooldown)
        lowered = max(lowered * spec.factor, spec.floor)
    return {"factor": lowered, "bad_epochs": bad, "cooldown": cooldown}, lowered < state["factor"]


def _after_kicks_epoch(
    spec: KicksSpec, state: Mapping[str, float], improved: bool, clock: float
) -> tuple[dict[str, float], bool]:
    """`clock` is the schedule's own at the end of the epoch."""
    held = round(clock - 1 - state["since"], 9) >= spec.length  # from its first step on
    bad = state["bad_epochs"] + 1 if held and not improved else 0.0
    if bad < spec.patience:
        return {"bad_epochs": bad}, False
    floor = state["floor"]
    return {"top": (1 + spec.kick) * floor, "floor": floor * spec.floor_factor, "since": clock, "bad_epochs": 0.0}, True


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


def update_early_stopping(
    spec: EarlyStoppingSpec, state: Mapping[str, float], row: Mapping[str, float]
) -> tuple[dict[str, float], bool]:
    """Returns the state after an epoch, {} being that before the first, and whether to stop now."""
    best, waited = state.get("best", math.inf), state.get("waited", 0)
    value = value_of(row, spec.monitor)
    if is_better(value, best, spec.min_delta):
        return {"best": value, "waited": 0}, False
    return {"best": best, "waited": waited + 1}, waited + 1 >= spec.patience
