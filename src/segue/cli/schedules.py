"""The learning rate over a training under a schedule: described in words, and drawn as PNG.

A schedule that follows a monitored value is shown for one that is constant from the first epoch on.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from segue.errors import SegueError
from segue.spec import SpecModel, load, parse_settings, read_toml, validate
from segue.training import schedules
from segue.training.schedules import PlateauSpec, Schedule, ScheduleSpec, WarmupSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from segue.training.spec import StageSpec

STEPS = 100  # per epoch, in what is shown
CONSTANT_VALUE = 1.0  # the constant monitored value
MAX_CHANGES = 24  # that are listed one by one
MAX_EPOCHS = 20_000  # of all schedules that are described at once
LOW_MEDIAN = 0.1  # a curve half of which lies below this share of its peak is drawn on a logarithmic axis
DEFAULT_LR, DEFAULT_EPOCHS = 0.05, 100


class PlottedSchedule(SpecModel):
    """A schedule with a rate over a number of epochs; `used_by` names the stages that use it."""

    schedule: ScheduleSpec
    warmup: WarmupSpec | None = None
    lr: Annotated[float, Field(gt=0)] = DEFAULT_LR
    epochs: Annotated[int, Field(gt=0)] = DEFAULT_EPOCHS
    used_by: str = ""

    @model_validator(mode="after")
    def _fitting(self) -> PlottedSchedule:
        schedules.require_fit(self.warmup, self.epochs)
        return self

    @property
    def title(self) -> str:
        text = f"{self.schedule.name}{_settings(self.schedule)}"
        return f"{text}, warm-up{_settings(self.warmup)}" if self.warmup else text

    @cached_property
    def curve(self) -> RateCurve:
        return rate_curve(self.schedule, self.warmup, lr=self.lr, epochs=self.epochs)


@dataclass(frozen=True)
class RateCurve:
    """`rates` at `positions` (epochs passed), STEPS per epoch; `turns`: after which epochs, counted from 1."""

    positions: tuple[float, ...]
    rates: tuple[float, ...]
    changes: tuple[int, ...]


def _settings(spec: SpecModel) -> str:
    texts = [f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
            for key, value in spec.model_dump(exclude={"name"}).items()]  # fmt: skip
    return f" ({', '.join(texts)})" if texts else ""


def rate_curve(spec: Schedule, warmup: WarmupSpec | None, *, lr: float, epochs: int) -> RateCurve:
    """Returns the rate over a training in which the monitored value is constant."""
    state = spec.init_state()
    row = {name: CONSTANT_VALUE for name in (spec.monitored,) if name}
    positions, rates, changed_after = [], [], []
    for epoch in range(epochs):
        for step in range(STEPS):
            positions.append(epoch + step / STEPS)
            rates.append(lr * schedules.factor(spec, warmup, state, positions[-1], epochs))
        state, changes = schedules.step(spec, warmup, state, row, epoch)
        if changes and epoch + 1 < epochs:
            changed_after.append(epoch + 1)
    return RateCurve(tuple(positions), tuple(rates), tuple(changed_after))


def schedule_by_name(name: str, settings: Iterable[str], *, lr: float | None, epochs: int | None) -> PlottedSchedule:
    """Returns the schedule of a name, with settings written as "key=value" in TOML's way ("warmup.epochs=5" too).

    Raises SegueError for an unknown name or setting.
    """
    where = f"inspect schedule {name}"
    table = parse_settings(settings)
    if "name" in table:
        raise SegueError(f"--set name={table['name']}: the name follows `schedule`; give it there.")
    tables: dict[str, Any] = {key: table.pop(key) for key in ("warmup",) if key in table}
    tables["schedule"] = {**table, "name": name}
    tables |= {key: value for key, value in (("lr", lr), ("epochs", epochs)) if value is not None}
    plotted = validate(PlottedSchedule, tables, context=where)
    _require_few_epochs([plotted], where)
    return plotted


def schedules_of_file(path: Path) -> list[PlottedSchedule]:
    """Returns each distinct schedule, with its rate and epochs, of the TOML file of a stage or study, in its order."""
    if "stages" not in read_toml(path):
        from segue.training.spec import StageSpec

        stages: list[tuple[str, StageSpec]] = [("", load(StageSpec, path))]
    else:
        from segue.study.expand import read_study

        study = read_study(path)
        stages = [
            (name, configuration.spec)
            for name, configurations in study.configurations.items()
            for configuration in configurations
        ]
    used: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for name, stage in stages:
        tables = {"schedule": stage.schedule, "warmup": stage.warmup, "lr": stage.optimizer.lr, "epochs": stage.epochs}
        used.setdefault(repr(tables), (tables, []))[1].append(name)
    plotted = [
        validate(
            PlottedSchedule, {**tables, "used_by": ", ".join(dict.fromkeys(filter(None, names)))}, context=str(path)
        )
        for tables, names in used.values()
    ]
    _require_few_epochs(plotted, str(path))
    return plotted


def _require_few_epochs(plotted: Sequence[PlottedSchedule], context: str) -> None:
    """Raises SegueError before the curves, of STEPS points per epoch, take more memory and time than is sensible."""
    epochs = sum(course.epochs for course in plotted)
    if epochs > MAX_EPOCHS:
        raise SegueError(
            f"{context}: its schedules ({len(plotted)}) have {epochs:,} epochs together; at most {MAX_EPOCHS:,} are "
            "described: give fewer epochs, or one schedule by its name."
        )


def rows(course: PlottedSchedule) -> list[tuple[str, str]]:
    """Returns the description of a schedule, as lines of a name and a text."""
    trace, spec = course.curve, course.schedule
    least = min(trace.rates)
    lines = [("schedule", course.title), ("", spec.summary)]
    lines += [("used by", course.used_by)] if course.used_by else []
    lines += [
        (
            "rate",
            f"{trace.rates[0]:.3g} at the start, {trace.rates[-1]:.3g} at the last step of {course.epochs} epochs",
        ),
        ("least", f"{least:.3g}, first at {trace.positions[trace.rates.index(least)]:g} epochs"),
        (
            "greatest",
            f"{max(trace.rates):.3g}, first at {trace.positions[trace.rates.index(max(trace.rates))]:g} epochs",
        ),
    ]
    monitor = spec.monitored
    if monitor is not None:
        epochs = ", ".join(str(turn) for turn in trace.changes[:MAX_CHANGES]) or "none"
        more = f" … ({len(trace.changes)} in all)" if len(trace.changes) > MAX_CHANGES else ""
        lines.append((f"{_turn(spec)} after epochs", epochs + more))
        lines.append(("assumed", f"{monitor} is constant after the first epoch; in a training it decides"))
    return [*lines, ("", f"shown with {STEPS} steps per epoch")]


def _turn(spec: Schedule) -> str:
    return "drops" if isinstance(spec, PlateauSpec) else "kicks"


def draw(courses: Sequence[PlottedSchedule], out_png: Path) -> None:
    """Writes a PNG with one panel per schedule: the rate over the epochs passed."""
    if out_png.suffix.lower() != ".png":
        raise SegueError(f"{out_png}: the drawing is a PNG picture; give a name that ends in .png.")
    from segue.reporting.figures.style import new_figure, png_bytes, style
    from segue.storage import replacing

    columns = 1 if len(courses) == 1 else 2
    lines = -(-len(courses) // columns)
    with style():
        figure = new_figure(3.9 if columns == 1 else 3.1 * lines)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, course in zip(panels, courses, strict=False):
            _panel(axes, course, 110 // columns)
        for axes in panels[len(courses) :]:
            axes.set_visible(False)
    with replacing(out_png) as partial:
        partial.write_bytes(png_bytes(figure))


def _panel(axes: Axes, course: PlottedSchedule, letters: int) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from segue.reporting.figures.style import BLUE, GRID, MUTED, VERMILION, scale_axis

    trace = course.curve
    positions, rates = np.array(trace.positions), np.array(trace.rates)
    if course.warmup is not None:
        axes.axvspan(0, course.warmup.epochs, color=GRID, alpha=0.6, linewidth=0, label="warm-up")
    axes.plot(positions, rates, color=BLUE, linewidth=1.4)
    if trace.changes:
        spots = [turn * STEPS for turn in trace.changes]
        label = f"{_turn(course.schedule)}, constant {course.schedule.monitored}"
        axes.plot(positions[spots], rates[spots], "o", color=VERMILION, markersize=3.5, label=label)
    legend = bool(axes.get_legend_handles_labels()[0])  # which needs room above the curve
    if np.median(rates) < LOW_MEDIAN * rates.max():
        seen = rates[rates > 0]
        lowest = np.quantile(seen, 0.01)  # a curve that ends in zero has no logarithm there
        scale_axis(axes, "y", seen[seen >= lowest])
        axes.set_ylim(lowest / 1.5, rates.max() * (1.5 + legend))
    else:
        scale_axis(axes, "y", np.zeros(0))
        axes.set_ylim(0, rates.max() * (1.06 + 0.12 * legend))
    axes.set_xlim(0, course.epochs)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
    together = re.sub(r" (?=[^ ,]+[,)])", "\N{NO-BREAK SPACE}", course.title)  # a setting and its value
    title = textwrap.fill(together, letters)
    axes.set_title(f"{title}\nused by {course.used_by}" if course.used_by else title)
    axes.set_xlabel("epochs passed")
    axes.set_ylabel("learning rate")
    if legend:
        axes.legend(loc="upper right", labelcolor=MUTED)
