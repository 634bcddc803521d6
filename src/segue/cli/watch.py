"""`segue study status --watch`: the stages of a study as they finish, read from its store.

It looks at files alone, so that it works from any machine that sees the store, whoever runs the study.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segue.formatting import format_duration
from segue.study.store import FailureRecord, read_record

if TYPE_CHECKING:
    from rich.console import RenderableType

    from segue.study.plan import Plan, PlannedTraining

MIN_PAUSE_S = 2.0
SHARE = 0.05  # of the time, that looking may take
MAX_LISTED = 12  # trainings under way, and failures


@dataclass(frozen=True)
class StageState:
    """Numbers of trainings of a stage. started: those that have a folder and are not finished."""

    stage: str
    distinct: int
    finished: int
    started: int
    failed: int

    @property
    def waiting(self) -> int:
        return self.distinct - self.finished - self.started - self.failed


@dataclass(frozen=True)
class Snapshot:
    """What the store says at one moment. started: name of a training and how far it is; failures: name and error."""

    stages: tuple[StageState, ...]
    started: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]

    def total(self, name: str) -> int:
        return sum(getattr(stage, name) for stage in self.stages)

    @property
    def has_ended(self) -> bool:
        return self.total("finished") + self.total("failed") == self.total("distinct")

    @property
    def line(self) -> str:
        counts = f"{self.total('finished')} of {self.total('distinct')} trainings finished"
        others = ", ".join(f"{count} {name}" for name in ("started", "failed") if (count := self.total(name)))
        return f"{counts}, {others}" if others else counts


def look_at_store(plan: Plan) -> Snapshot:
    """Returns the state of the trainings of a plan, whose store is listed anew."""
    plan.store.refresh()
    existing, failed = plan.store.existing(), plan.failed
    stages: dict[str, dict[str, PlannedTraining]] = {stage: {} for stage in plan.study.configurations}
    seen: set[str] = set()
    for configuration, training in plan.uses:
        if training.key not in seen:  # a training that two stages share counts once
            seen.add(training.key)
            stages[configuration.stage][training.key] = training
    states, started = [], []
    for stage, trainings in stages.items():
        finished = [key for key in trainings if key in existing and key not in failed]
        running = [key for key in trainings if f"{key}.running" in existing and key not in existing]
        count = sum(key in failed and f"{key}.running" not in existing for key in trainings)
        states.append(StageState(stage, len(trainings), len(finished), len(running), count))
        started += [trainings[key] for key in running]
    lines = [(training.label, _how_far(plan, training)) for training in started[:MAX_LISTED]]
    errors = []
    for training in [training for training in plan.trainings if training.key in failed][:MAX_LISTED]:
        record: Mapping[str, str] = read_record(plan.store.failure(training.key), FailureRecord) or {}
        errors.append((training.label, record.get("error", "unknown")))
    return Snapshot(tuple(states), tuple(lines), tuple(errors))


def _how_far(plan: Plan, training: PlannedTraining) -> str:
    """Returns the epoch of the newest checkpoint, and how old it is."""
    run = plan.store.run(training.key)
    folder = run.with_name(f"{run.name}.running")
    try:
        states = [path for path in (folder / "state").iterdir() if path.name.isdigit()]
        newest = max(states, key=lambda path: int(path.name)) / "progress.json"
        epochs = len(json.loads(newest.read_bytes())["history"])
        age = format_duration(max(0.0, time.time() - newest.stat().st_mtime))
    except (OSError, ValueError, KeyError):  # none yet, or replaced at this moment
        return "no checkpoint yet"
    return f"epoch {epochs + 1} of {training.template.spec.epochs}, checkpoint {age} ago"


def watch(plan: Plan, *, pause_s: float = MIN_PAUSE_S, sleep: Callable[[float], None] = time.sleep) -> None:
    """Shows the state of a study until all of it has ended, or until Ctrl-C: on a terminal as a table that changes,
    else as a line whenever a number does."""
    began = time.monotonic()
    first: Snapshot | None = None

    def look() -> tuple[Snapshot, float]:
        nonlocal first
        start = time.monotonic()
        snapshot = look_at_store(plan)
        first = first or snapshot
        return snapshot, max(pause_s, (time.monotonic() - start) / SHARE)

    def left() -> str:
        assert first is not None
        done = snapshot.total("finished") - first.total("finished")
        rest = snapshot.total("distinct") - snapshot.total("finished") - snapshot.total("failed")
        if done < 1 or rest < 1:
            return ""
        return f", about {format_duration((time.monotonic() - began) / done * rest)} left"

    snapshot, pause = look()
    try:
        if not sys.stdout.isatty():
            printed = ""
            while True:
                if snapshot.line != printed:
                    printed = snapshot.line
                    print(f"{time.strftime('%H:%M:%S')}  {printed}{left()}", flush=True)
                if snapshot.has_ended:
                    return
                sleep(pause)
                snapshot, pause = look()
        from rich.live import Live

        with Live(_screen(plan.study.path, snapshot, left()), refresh_per_second=4) as live:
            while not snapshot.has_ended:
                sleep(pause)
                snapshot, pause = look()
                live.update(_screen(plan.study.path, snapshot, left()))
    except KeyboardInterrupt:
        return


def _screen(path: Path, snapshot: Snapshot, left: str) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{path}, {time.strftime('%H:%M:%S')}", title_justify="left", box=None, pad_edge=False)
    columns = ("distinct", "finished", "started", "failed", "waiting")
    table.add_column("stage")
    for name in columns:
        table.add_column(name, justify="right")
    for stage in snapshot.stages:
        table.add_row(stage.stage, *(f"{getattr(stage, name):,}" for name in columns))
    table.add_row("all", *(f"{snapshot.total(name):,}" for name in columns), style="bold")
    progress = Table.grid(padding=(0, 1))  # a bar does not end its line
    bar = ProgressBar(total=max(1, snapshot.total("distinct")), completed=snapshot.total("finished"), width=30)
    progress.add_row(bar, Text(f"{snapshot.line}{left}"))
    lines = [Text(f"  {label}: {state}", overflow="ellipsis", no_wrap=True) for label, state in snapshot.started]
    more = snapshot.total("started") - len(lines)
    lines += [Text(f"  and {more} more")] if more > 0 else []
    errors = [
        Text(f"  failed: {label}: {error.splitlines()[0]}", style="red", overflow="ellipsis", no_wrap=True)
        for label, error in snapshot.failures
    ]
    return Group(table, progress, *lines, *errors)
