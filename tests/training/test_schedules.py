"""Learning-rate schedules against torch's own, closed forms and the published curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler

from segue.errors import SegueError
from segue.spec import SpecModel, attempt
from segue.training import schedules
from segue.training.schedules import SCHEDULES, EarlyStoppingSpec, Schedule, ScheduleSpec, WarmupSpec

STEPS = 7  # per epoch
LR = 0.05


class Asked(SpecModel):
    schedule: ScheduleSpec


def spec_of(name: str, **settings: Any) -> Any:
    return Asked.model_validate({"schedule": {"name": name, **settings}}).schedule


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def curve(spec: Schedule, epochs: int, values: Sequence[float] | None = None, warmup: WarmupSpec | None = None):
    """Returns the rates (epochs, STEPS), and after which epochs (counted from 1) the schedule turned."""
    state, rates, turns = spec.init_state(), [], []
    for epoch in range(epochs):
        rates.append([LR * schedules.factor(spec, warmup, state, epoch + s / STEPS, epochs) for s in range(STEPS)])
        row = {spec.monitored or "validation_loss": 1.0 if values is None else values[epoch]}
        state, rotated = schedules.step(spec, warmup, state, row, epoch)
        turns += [epoch + 1] if rotated else []
    return np.array(rates), turns


def torch_rates(scheduler: Any, count: int, *values: Sequence[float]) -> np.ndarray:
    """Returns torch's rate before each of `count` steps of its scheduler."""
    rates = []
    for index in range(count):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step(*(v[index] for v in values))
    return np.array(rates)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warm_epochs", [0.5, 2.0, 3.25])
def test_every_schedule(name: str, warm_epochs: float):
    """The state survives JSON exactly and is never changed in place, the rate is within the peak and does not depend on
    how often it is asked, and warm-up is linear up to the schedule, which then runs as if alone."""
    spec, epochs = spec_of(name), 24
    warmup = WarmupSpec(epochs=warm_epochs, start=0.2)
    state = spec.init_state()
    first = schedules.factor(spec, None, state, 0.0, epochs)
    assert all(isinstance(value, float) and math.isfinite(value) for value in state.values())
    alone, skipped = spec.init_state(), math.ceil(warm_epochs)
    for epoch in range(epochs):
        selection = dict(state)
        for at in (epoch, epoch + 0.3, epoch + 0.75):
            actual = schedules.factor(spec, warmup, state, at, epochs)
            assert 0 <= actual <= 1
            assert actual == schedules.factor(spec, warmup, json.loads(json.dumps(state)), at, epochs)
            if at < warm_epochs:
                assert actual == pytest.approx(first * (0.2 + 0.8 * at / warm_epochs))
            elif warm_epochs.is_integer():
                left = epochs - skipped
                assert actual == pytest.approx(schedules.factor(spec, None, alone, at - skipped, left), abs=1e-15)
        row = {"validation_loss": 1.0, "lr": 0.1, "epoch": epoch + 1.0}
        following, rotated = schedules.step(spec, warmup, state, row, epoch)
        assert state == selection and isinstance(rotated, bool)
        if epoch >= skipped:
            alone, alike = schedules.step(spec, None, alone, row, epoch - skipped)
            assert alike == rotated or not warm_epochs.is_integer()
        state = following
    assert (spec.monitored is not None) == bool(spec.init_state())


def test_every_name_has_its_line_and_its_model():
    """The list of schedules for help and the names that a specification takes are the same."""
    _, mistakes = attempt(Asked, {"schedule": {"name": "cosin"}})
    assert mistakes[0].startswith("schedule.name: unknown name 'cosin'; did you mean 'cosine'?")
    assert mistakes[0].endswith(", ".join(sorted(SCHEDULES)))


def test_constant_and_exponential():
    """The rate as it is; and gamma to the power of the epoch, the same through an epoch, as torch's ExponentialLR."""
    assert (curve(spec_of("constant"), 5)[0] == LR).all()
    rates, _ = curve(spec_of("exponential", gamma=0.9), 20)
    np.testing.assert_allclose(rates[:, 0], torch_rates(lr_scheduler.ExponentialLR(optimizer(), 0.9), 20), rtol=1e-12)
    assert (rates == rates[:, :1]).all()
    assert schedules.factor(spec_of("exponential"), None, {}, 7.9, 10) == 0.99**7


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine(floor: float):
    """As torch's CosineAnnealingLR, stepped at every step over all epochs."""
    rates, _ = curve(spec_of("cosine", floor=floor), 10)
    reference = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10 * STEPS, eta_min=LR * floor)
    np.testing.assert_allclose(rates.ravel(), torch_rates(reference, 10 * STEPS), rtol=1e-9, atol=1e-15)
    assert schedules.factor(spec_of("cosine", floor=floor), None, {}, 10.0, 10) == floor


@pytest.mark.parametrize(("period", "multiplier", "floor"), [(3, 1, 0.0), (3, 2, 0.1), (2, 3, 0.0)])
def test_cosine_restarts(period: int, multiplier: int, floor: float):
    """As torch's CosineAnnealingWarmRestarts, told the position in epochs at every step."""
    rates, _ = curve(spec_of("cosine_restarts", period=period, multiplier=multiplier, floor=floor), 30)
    reference = lr_scheduler.CosineAnnealingWarmRestarts(optimizer(), period, multiplier, eta_min=LR * floor)
    expected = []
    for index in range(30 * STEPS):
        # on a restart itself torch's logarithm may round to the cycle before, at whose end the rate is the floor
        reference.step(index // STEPS + (index % STEPS) / STEPS + 1e-12)  # type: ignore[arg-type]
        expected.append(float(reference.get_last_lr()[0]))
    np.testing.assert_allclose(rates.ravel(), expected, rtol=1e-7)  # our clock is rounded to 1e-9 epochs


def test_restarts_fall_on_their_step_behind_a_fractional_warmup():
    """Where 10.1 - 0.1 is rounded below 10, the step at 10.1 still has the full rate of the restart."""
    spec, warmup = spec_of("cosine_restarts", period=1), WarmupSpec(epochs=0.1)
    actual = [schedules.factor(spec, warmup, {}, epoch + 0.1, 30) for epoch in range(1, 30)]
    assert actual == [1.0] * 29
    short, grown = (spec_of("cosine_restarts", period=0.1, multiplier=m) for m in (1, 2))
    assert [schedules.factor(short, None, {}, 0.1 * k, 30) for k in range(30)] == [1.0] * 30
    assert [schedules.factor(grown, None, {}, 0.1 * (2**k - 1), 30) for k in range(8)] == [1.0] * 8


@pytest.mark.parametrize(("power", "floor"), [(0.9, 0.0), (2.0, 0.0), (1.0, 0.25)])
def test_polynomial(power: float, floor: float):
    """As torch's PolynomialLR, stepped at every step, squeezed onto what is above the floor."""
    rates, _ = curve(spec_of("polynomial", power=power, floor=floor), 10)
    reference = torch_rates(lr_scheduler.PolynomialLR(optimizer(), 10 * STEPS, power), 10 * STEPS)
    np.testing.assert_allclose(rates.ravel(), LR * floor + (1 - floor) * reference, rtol=1e-9)


@pytest.mark.parametrize("peak_at", [0.3, 0.5])
def test_one_cycle(peak_at: float):
    """As torch's OneCycleLR without momentum cycling. Its clock counts to its last step, which shifts its peak."""
    total, epochs = 200, 10
    shifted = (peak_at * (total - 1) + 1) / total
    reference = lr_scheduler.OneCycleLR(optimizer(), LR, total_steps=total, pct_start=shifted, cycle_momentum=False)
    expected = [float(reference.get_last_lr()[0])]
    for _ in range(total - 1):
        reference.optimizer.step()
        reference.step()
        expected.append(float(reference.get_last_lr()[0]))
    spec = spec_of("one_cycle", peak_at=peak_at)
    actual = [LR * schedules.factor(spec, None, {}, epochs * s / (total - 1), epochs) for s in range(total)]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize(("patience", "cooldown", "threshold", "floor"), [(0, 0, 0.0, 0.0), (2, 3, 1e-2, 0.1)])
@pytest.mark.parametrize("monitor", ["validation_loss", "validation_dice_mean"])
def test_plateau(patience: int, cooldown: int, threshold: float, floor: float, monitor: str):
    """As torch's ReduceLROnPlateau on the defined ones of random values, lower or higher being better by the name."""
    generator = np.random.default_rng(5)
    values = np.cumsum(generator.normal(0, 0.05, 200)) + 3
    is_defined = generator.random(200) >= 0.05
    values[~is_defined] = np.nan
    settings = {"patience": patience, "cooldown": cooldown, "threshold": threshold}
    spec = spec_of("plateau", monitor=monitor, floor=floor, **settings)
    rates, turns = curve(spec, 201, [*values.tolist(), values[is_defined][-1]])
    mode = "min" if "loss" in monitor else "max"
    reference = lr_scheduler.ReduceLROnPlateau(optimizer(), mode, factor=0.5, min_lr=LR * floor, eps=0, **settings)
    defined = values[is_defined].tolist()
    expected = torch_rates(reference, len(defined) + 1, [*defined, defined[-1]])
    passed = np.concatenate([[0], np.cumsum(is_defined)])  # epochs that torch sees: an undefined one changes nothing
    np.testing.assert_allclose(rates[:, 0], expected[passed], rtol=1e-12)
    assert (rates == rates[:, :1]).all()
    assert [turn for turn in turns if turn <= 200] == (np.flatnonzero(np.diff(expected[passed])) + 1).tolist()
    assert len(turns) > 2


def test_plateau_drops_no_further_than_the_floor():
    """At the floor nothing turns any more, so that no weights are restored there."""
    rates, turns = curve(spec_of("plateau", patience=0, floor=0.25), 10)
    assert turns == [2, 3]
    assert rates[-1, 0] == LR * 0.25


def kicks(**settings: Any) -> tuple[np.ndarray, list[int]]:
    epochs = settings.pop("epochs", 100)
    rates, turns = curve(spec_of("kicks", **settings), epochs)
    return rates / LR, turns


def test_published_real_run():
    """0.05 to 0.025, kicks of a half: up to 0.0375, down to 0.0125, up to 0.01875; after 100 epochs near 1.5e-6.

    A value that stands still kicks every 5 + 2 epochs. The fifteenth cosine, begun after epoch 98, ends at 1.53e-6.
    """
    relative, turns = kicks(kick=0.5, length=5, patience=2, epochs=105)
    rates = 0.05 * relative
    assert turns == list(range(7, 106, 7))
    read = {0: 0.05, 5: 0.025, 6: 0.025, 7: 0.0375, 12: 0.0125, 14: 0.01875, 19: 0.00625}
    for epoch, rate in read.items():
        assert rates[epoch, 0] == pytest.approx(rate)
    assert rates[100].min() == pytest.approx(3e-6, rel=0.25)  # on its way there
    assert rates[103, 0] == pytest.approx(1.5e-6, rel=0.02)


def test_published_example():
    """100 to 50, a kick of a quarter to 62.5, down to 25; a cycle takes 9 epochs: a cosine of 6 and a patience of 3."""
    relative, turns = kicks(kick=0.25, length=6, patience=3, epochs=36)
    rates = 100 * relative
    assert turns == [9, 18, 27, 36]
    for epoch, rate in {0: 100, 6: 50, 8: 50, 9: 62.5, 15: 25, 18: 31.25, 24: 12.5}.items():
        assert rates[epoch, 0] == pytest.approx(rate)
    falling = rates[9:15].ravel()
    expected = 25 + 37.5 * (1 + np.cos(np.pi * np.arange(len(falling)) / len(falling))) / 2
    np.testing.assert_allclose(falling, expected, rtol=1e-9)


def test_kicks_wait_while_the_value_improves():
    """Epochs of the cosine are not counted, one that improves starts the count anew, and NaN counts as no epoch."""
    falling = [1.0, 2.0, 2.0, 2.0]  # a cosine over four epochs, none counted although all but the first are bad
    spec = spec_of("kicks", length=4, patience=2)
    assert curve(spec, 6, [*falling, 3.0, 3.0])[1] == [6]
    assert curve(spec, 9, [*falling, 3.0, 0.5, math.nan, 0.4, 0.4])[1] == []
    assert curve(spec, 10, [*falling, 3.0, 0.5, math.nan, 0.4, 0.4, math.nan])[1] == []
    assert curve(spec, 11, [*falling, 3.0, 0.5, math.nan, 0.4, 0.4, math.nan, 0.4])[1] == [11]
    assert curve(spec, 7, [*falling, 0.99995, 0.99991, 0.9])[1] == [6]  # by less than the threshold
    higher = spec_of("kicks", length=4, patience=2, monitor="validation_f1_mean")
    assert curve(higher, 7, [1.0, 0.5, 0.5, 0.5, 1.1, 1.2, 1.2])[1] == []


def test_warmup_is_linear_as_torch():
    """Before the schedule the rate is that of torch's LinearLR; after it a cosine has the epochs that are left."""
    rates, _ = curve(spec_of("cosine"), 10, warmup=WarmupSpec(epochs=2, start=0.1))
    linear = torch_rates(lr_scheduler.LinearLR(optimizer(), 0.1, total_iters=2 * STEPS), 2 * STEPS)
    np.testing.assert_allclose(rates[:2].ravel(), linear, rtol=1e-9)
    expected = LR * (1 + np.cos(np.pi * np.arange(8 * STEPS) / (8 * STEPS))) / 2
    np.testing.assert_allclose(rates[2:].ravel(), expected, rtol=1e-9)


def test_warmup_epochs_are_not_counted():
    """A plateau with no patience drops first after the second epoch that lies behind the warm-up."""
    assert curve(spec_of("plateau", patience=0), 6, warmup=WarmupSpec(epochs=3))[1] == [5, 6]
    assert curve(spec_of("plateau", patience=0), 6, warmup=WarmupSpec(epochs=2.5))[1] == [4, 5, 6]


def test_a_value_that_is_not_measured():
    """A monitored name that the history lacks is told with those that it has."""
    spec = spec_of("plateau", monitor="validation_los")
    row = {"epoch": 1.0, "lr": 0.1, "train_loss": 1.0, "validation_loss": 1.0}
    with pytest.raises(SegueError, match="unknown value 'validation_los'; did you mean 'validation_loss'"):
        schedules.step(spec, None, spec.init_state(), row, 0)


@pytest.mark.parametrize(
    "mistaken",
    [
        {"name": "cosine", "floor": 1.0},
        {"name": "cosine_restarts", "period": 0},
        {"name": "cosine_restarts", "multiplier": 0.5},
        {"name": "plateau", "factor": 1.0},
        {"name": "plateau", "patience": 1.5},
        {"name": "polynomial", "power": 0},
        {"name": "one_cycle", "peak_at": 1.0},
        {"name": "kicks", "patience": 0},
        {"name": "kicks", "length": 0},
        {"name": "constant", "gamma": 0.9},
        {"name": "exponential", "gamma": float("nan")},
    ],
)
def test_settings_out_of_range(mistaken: dict[str, Any]):
    """A setting that would make no schedule is refused under its own name."""
    _, mistakes = attempt(Asked, {"schedule": mistaken})
    assert len(mistakes) == 1 and list(mistaken)[1] in mistakes[0]


def test_warmup_must_leave_something():
    """A warm-up as long as the training is refused with both numbers; a start of the full rate is none."""
    schedules.require_fit(None, 1)
    schedules.require_fit(WarmupSpec(epochs=4.5), 5)
    with pytest.raises(ValueError, match=r"found 5 of 5 epochs"):
        schedules.require_fit(WarmupSpec(epochs=5), 5)
    with pytest.raises(ValidationError):
        WarmupSpec(epochs=1, start=1.0)


def test_undefined_values_steer_nothing():
    """Early stopping waits only in epochs whose value is defined, and all undefined ones are counted."""
    spec, state, stops = EarlyStoppingSpec(patience=2), {}, []
    values = [1.0, math.nan, 0.9, math.nan, math.nan, math.nan, 0.9, 0.95]
    for value in values:
        state, stop = schedules.step_early_stopping(spec, state, {"validation_loss": value})
        stops.append(stop)
    assert stops == [False] * 7 + [True]
    rows = [{"validation_loss": value} for value in values]
    assert schedules.undefined_epochs(["validation_loss", "train_loss"], rows) == {"validation_loss": 4}
    assert schedules.undefined_epochs(["validation_loss"], rows[:1]) == {}
