"""Learning-rate schedules by name, the warm-up before any of them, the best epoch so far, and early stopping.

A schedule gives a factor on the optimizer's rate. It is a pure function of the position in the training, in epochs, so
that resuming needs no more than the position. Two follow a monitored value (`plateau`, `kicks`): their state is a small
dict of finite floats, renewed after every epoch and kept in the checkpoint as JSON. A schedule is a specification with
a `factor` method and an entry in `SCHEDULES`. Cheap to import: no torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import Field

from segue.errors import SegueError
from segue.spec import SpecModel, unknown

Fraction = Annotated[float, Field(ge=0, lt=1)]
Shrinking = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Monitor = Annotated[str, Field(min_length=1)]
State = Mapping[str, float]


class Schedule(SpecModel, ABC):
    """Interface of all schedules; `summary` describes the course of the rate in one line.

    `state` is the result of `init_state` or of the last `step`, and its clock counts the epochs since the warm-up.
    """

    summary: ClassVar[str]
    name: Any

    @abstractmethod
    def factor_at(self, state: State, clock: float, span: float) -> float:
        """Returns the factor on the rate, at least 0, when `clock` of the schedule's own `span` epochs have passed."""

    @property
    def monitored(self) -> str | None:
        """The column of the history that the schedule follows; None where it follows none."""
        return None

    def init_state(self) -> dict[str, float]:
        return {}

    def step(self, state: State, value: float, clock: float) -> tuple[dict[str, float], bool]:
        """Returns the new state, and whether the rate now jumps; `value` is that of the epoch that ended at `clock`."""
        return dict(state), False


class ConstantSpec(Schedule):
    summary = "constant rate"
    name: Literal["constant"]

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return 1.0


class ExponentialSpec(Schedule):
    """The rate is multiplied by `gamma` after every epoch."""

    summary = "times gamma after every epoch"
    name: Literal["exponential"]
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return self.gamma ** math.floor(_rounded(clock))


class CosineSpec(Schedule):
    """Half a cosine over all epochs, updated at every step, down to the factor `floor`."""

    summary = "half a cosine down to the floor, over all epochs"
    name: Literal["cosine"]
    floor: Fraction = 0.0

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return _half_cosine(1.0, self.floor, clock / span)


class CosineRestartsSpec(Schedule):
    """Half a cosine down to the factor `floor` over `period` epochs, repeated, each `multiplier` times as long.

    SGDR: Loshchilov and Hutter, ICLR 2017; their T_0 is `period` and their T_mult `multiplier`.
    """

    summary = "half a cosine down to the floor, again and again from the full rate (SGDR)"
    name: Literal["cosine_restarts"]
    period: Positive = 10.0
    multiplier: Annotated[float, Field(ge=1)] = 1.0
    floor: Fraction = 0.0

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return _half_cosine(1.0, self.floor, _cycle_fraction(_rounded(clock), self.period, self.multiplier))


class PlateauSpec(Schedule):
    """The rate is multiplied by `factor` when `monitor` has not improved for more than `patience` epochs.

    As torch's ReduceLROnPlateau with a relative threshold: an improvement must exceed the share `threshold` of the best
    value so far, bad epochs are not counted for `cooldown` epochs after a drop, and the product of the factors does not
    fall below `floor`. Torch's `eps`, which skips changes below 1e-8, is left out: it depends on the rate itself.
    """

    summary = "lowered by a factor whenever the monitored value stops improving"
    name: Literal["plateau"]
    factor: Shrinking = 0.5
    patience: Annotated[int, Field(ge=0)] = 10
    threshold: Fraction = 1e-4
    cooldown: Annotated[int, Field(ge=0)] = 0
    floor: Fraction = 0.0
    monitor: Monitor = "validation_loss"

    @property
    def monitored(self) -> str:
        return self.monitor

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return state["factor"]

    def init_state(self) -> dict[str, float]:
        return {"factor": 1.0, "bad_epochs": 0.0, "cooldown": 0.0}

    def step(self, state: State, value: float, clock: float) -> tuple[dict[str, float], bool]:
        best, improved = _update_best(state, value, self.monitor, self.threshold)
        bad_epochs, cooldown, factor = 0.0 if improved else state["bad_epochs"] + 1, state["cooldown"], state["factor"]
        if cooldown > 0:
            bad_epochs, cooldown = 0.0, cooldown - 1
        if bad_epochs > self.patience:
            bad_epochs, cooldown = 0.0, float(self.cooldown)
            factor = max(factor * self.factor, self.floor)
        drops = factor < state["factor"]
        return {**state, **best, "factor": factor, "bad_epochs": bad_epochs, "cooldown": cooldown}, drops


class PolynomialSpec(Schedule):
    """From 1 to `floor` as (1 - fraction of the epochs passed) ** `power`, updated at every step."""

    summary = "down to the floor as a power of the epochs that are left"
    name: Literal["polynomial"]
    power: Positive = 0.9
    floor: Fraction = 0.0

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return self.floor + (1 - self.floor) * max(0.0, 1 - clock / span) ** self.power


class OneCycleSpec(Schedule):
    """Half a cosine from `start` up to the optimizer's rate at the share `peak_at` of the epochs, then one to `end`.

    `start` and `end` are factors of the peak. As torch's OneCycleLR in two phases with its defaults, but without
    cycling the momentum: only the rate is scheduled here (Smith and Topin 2018 cycle both).
    """

    summary = "up to the optimizer's rate and down again, both along half a cosine"
    name: Literal["one_cycle"]
    peak_at: Shrinking = 0.3
    start: Annotated[float, Field(gt=0, le=1)] = 1 / 25
    end: Annotated[float, Field(ge=0, le=1)] = 1e-4 / 25

    def factor_at(self, state: State, clock: float, span: float) -> float:
        peak = self.peak_at * span
        if clock < peak:
            return _half_cosine(self.start, 1.0, clock / peak)
        return _half_cosine(1.0, self.end, (clock - peak) / (span - peak))


class KicksSpec(Schedule):
    """Cosine annealing with kicks: a schedule of the published live-dead experiments, under their own name for it.

    It is not a standard schedule, but close to warm restarts on a plateau. Half a cosine over `length` epochs takes the
    rate to a floor, first `floor_factor` of the initial rate. There it stays until `monitor` has not improved, by more
    than the share `threshold` of its best, for `patience` epochs spent wholly at the floor. Then it is kicked up to
    (1 + `kick`) times that floor and falls, over `length` epochs again, to the next floor, `floor_factor` of the last;
    and so on. While the monitored value does not improve, a cycle takes `length` + `patience` epochs.
    """

    summary = "half a cosine to a floor, held until the monitored value stops improving, then kicked up to fall deeper"
    name: Literal["kicks"]
    floor_factor: Shrinking = 0.5
    kick: Annotated[float, Field(ge=0)] = 0.25
    length: Positive = 5.0
    patience: Annotated[int, Field(ge=1)] = 2
    threshold: Fraction = 1e-4
    monitor: Monitor = "validation_loss"

    @property
    def monitored(self) -> str:
        return self.monitor

    def factor_at(self, state: State, clock: float, span: float) -> float:
        return _half_cosine(state["top"], state["floor"], (_rounded(clock) - state["since"]) / self.length)

    def init_state(self) -> dict[str, float]:
        return {"top": 1.0, "floor": self.floor_factor, "since": 0.0, "bad_epochs": 0.0}

    def step(self, state: State, value: float, clock: float) -> tuple[dict[str, float], bool]:
        best, improved = _update_best(state, value, self.monitor, self.threshold)
        at_floor = _rounded(clock - 1 - state["since"]) >= self.length  # from the epoch's first step on
        bad_epochs = state["bad_epochs"] + 1 if at_floor and not improved else 0.0
        if bad_epochs < self.patience:
            return {**state, **best, "bad_epochs": bad_epochs}, False
        floor = state["floor"]
        kicked = {"top": (1 + self.kick) * floor, "floor": floor * self.floor_factor, "since": clock, "bad_epochs": 0.0}
        return {**state, **best, **kicked}, True


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": ConstantSpec,
    "exponential": ExponentialSpec,
    "cosine": CosineSpec,
    "cosine_restarts": CosineRestartsSpec,
    "plateau": PlateauSpec,
    "polynomial": PolynomialSpec,
    "one_cycle": OneCycleSpec,
    "kicks": KicksSpec,
}
if TYPE_CHECKING:
    ScheduleSpec = Schedule
else:
    ScheduleSpec = Annotated[Union[tuple(SCHEDULES.values())], Field(discriminator="name")]  # noqa: UP007


class WarmupSpec(SpecModel):
    """Before any schedule: over `epochs`, linearly from `start` times the schedule's first factor up to it.

    The schedule's own clock begins after it, and the schedule spans the remaining epochs.
    """

    epochs: Positive
    start: Fraction = 0.0


def require_fit(warmup: WarmupSpec | None, epochs: int) -> None:
    """Raises ValueError, worded for the user, when the warm-up leaves no epoch to the schedule."""
    if warmup is not None and warmup.epochs >= epochs:
        raise ValueError(
            f"warmup.epochs: found {warmup.epochs:g} of {epochs} epochs in all, which leaves none for the schedule; "
            f"allowed: less than {epochs}; give fewer, or more epochs"
        )


def factor(spec: Schedule, warmup: WarmupSpec | None, state: State, at: float, epochs: int) -> float:
    """Returns the factor on the rate, at least 0, at the position `at` of a training of `epochs` epochs.

    `at` counts epochs passed, 0 <= at <= epochs: epoch (from 0) + step / steps of an epoch. `state` is the result of
    `Schedule.init_state` or of the last `step`. The warm-up must be shorter than the training (`require_fit`).
    """
    if warmup is None:
        return spec.factor_at(state, at, epochs)
    if at < warmup.epochs:
        first = spec.factor_at(state, 0.0, epochs)  # the state is still the initial one
        return first * (warmup.start + (1 - warmup.start) * at / warmup.epochs)
    return spec.factor_at(state, at - warmup.epochs, epochs - warmup.epochs)


def step(
    spec: Schedule, warmup: WarmupSpec | None, state: State, row: Mapping[str, float], epoch: int
) -> tuple[dict[str, float], bool]:
    """Returns the state for the epochs to come, and whether the rate now jumps: drops (plateau) or is kicked (kicks).

    `row` is the history's row of the epoch that has just ended and `epoch` its number, counted from 0. Epochs that end
    within the warm-up are not counted, nor those in which the value is undefined (NaN). Raises SegueError when the row
    lacks the monitored value.
    """
    if spec.monitored is None:
        return dict(state), False
    if spec.monitored not in row:
        raise SegueError(f"schedule.monitor: {unknown(spec.monitored, set(row) - {'epoch', 'lr'}, 'value')}.")
    clock = _rounded(epoch + 1 - (warmup.epochs if warmup else 0.0))
    if clock <= 0 or math.isnan(row[spec.monitored]):
        return dict(state), False
    return spec.step(state, row[spec.monitored], clock)


def _rounded(clock: float) -> float:
    """Returns the clock without rounding errors, for jumps: 10.1 - 0.1 is below 10 and would miss the restart at 10."""
    return round(clock, 9)


def _half_cosine(first: float, last: float, fraction: float) -> float:
    """Returns the point at `fraction` (0…1, more is 1) of half a cosine from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2 if fraction < 1 else last


def _cycle_fraction(clock: float, period: float, multiplier: float) -> float:
    """Returns the fraction of the current cycle that has passed; each is `multiplier` times as long as the previous."""
    if multiplier == 1:
        return _rounded(clock / period) % 1.0
    while clock >= period:
        clock = _rounded(clock - period)
        period *= multiplier
    return clock / period


# The best epoch so far, and early stopping


def lower_is_better(monitor: str) -> bool:
    """Returns whether lower values of a column of the history are better: true for losses, false for other scores."""
    return "loss" in monitor


def is_improvement(
    value: float, best: float, *, min_delta: float = 0.0, threshold: float = 0.0, higher_is_better: bool = False
) -> bool:
    """Returns whether a value improves on the best so far, by more than `min_delta` and the share `threshold` of it.

    A value that is not finite never does.
    """
    if not math.isfinite(value):
        return False
    if higher_is_better:
        return value > best * (1 + threshold) + min_delta
    return value < best * (1 - threshold) - min_delta


def _update_best(state: State, value: float, monitor: str, threshold: float) -> tuple[dict[str, float], bool]:
    """Returns the entry `best` of a schedule's state where the value improves on it, and whether it does."""
    higher_is_better = not lower_is_better(monitor)
    best = state.get("best", -math.inf if higher_is_better else math.inf)
    improved = is_improvement(value, best, threshold=threshold, higher_is_better=higher_is_better)
    return {"best": float(value)} if improved else {}, improved


def value_to_minimize(row: Mapping[str, float], monitor: str) -> float:
    """Returns a column of an epoch's row as a value to be minimized: losses as they are, other scores negated.

    Raises SegueError when the row has no such column.
    """
    if monitor not in row:
        columns = [name for name in row if name.startswith(("train_", "validation_"))]
        raise SegueError(f"monitor: {unknown(monitor, columns, 'column of the history')}.")
    return row[monitor] if lower_is_better(monitor) else -row[monitor]


def undefined_epochs(monitors: Sequence[str], history: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """Returns, for each column of the history that is undefined (NaN) in some epochs, in how many."""
    counts = {name: sum(math.isnan(row[name]) for row in history if name in row) for name in monitors}
    return {name: count for name, count in counts.items() if count}


class EarlyStoppingSpec(SpecModel):
    """The training ends after `patience` epochs in which `monitor` did not improve by more than `min_delta`."""

    patience: Annotated[int, Field(gt=0)] = 10
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    monitor: str = "validation_loss"


def step_early_stopping(
    spec: EarlyStoppingSpec, state: State, row: Mapping[str, float]
) -> tuple[dict[str, float], bool]:
    """Returns the state after an epoch, {} being that before the first, and whether to stop now.

    An epoch in which the value is undefined (NaN) counts as none.
    """
    best, waited = state.get("best", math.inf), state.get("waited", 0)
    value = value_to_minimize(row, spec.monitor)
    if math.isnan(value):
        return dict(state), False
    if is_improvement(value, best, min_delta=spec.min_delta):
        return {"best": value, "waited": 0}, False
    return {"best": best, "waited": waited + 1}, waited + 1 >= spec.patience
