"""`segue study status --watch`: what the store says, again and again, until the study has ended."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from samples.discs import write_discs
from samples.study import write_study

from segue.cli import watch as module
from segue.cli.watch import look_at_store, watch
from segue.storage import write_json
from segue.study.plan import Plan, plan_study


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Returns the plan of 2 pretrainings and 8 transfers, none of them run."""
    return plan_study(write_study(tmp_path / "study.toml", write_discs(tmp_path / "discs.h5")), tmp_path / "store")


def start(plan: Plan, index: int, epochs: int | None = 1) -> None:
    """Makes the folder of a training that has begun, with a checkpoint in the epoch after `epochs`."""
    run = plan.store.run(plan.trainings[index].key)
    folder = run.with_name(f"{run.name}.running") / "state" / "3"
    folder.mkdir(parents=True)
    if epochs is not None:
        (folder / "progress.json").write_text(json.dumps({"history": [{}] * epochs}))


def finish(plan: Plan, index: int) -> None:
    run = plan.store.run(plan.trainings[index].key)
    running = run.with_name(f"{run.name}.running")
    if running.exists():
        running.rename(run)
    run.mkdir(parents=True, exist_ok=True)


def fail(plan: Plan, index: int, error: str) -> None:
    training = plan.trainings[index]
    write_json(plan.store.failure(training.key), {"label": training.label, "error": error})


def test_numbers_are_those_of_the_store(plan: Plan):
    """Each training is finished, started, failed or waiting; started ones say their epoch, failed ones why."""
    snapshot = look_at_store(plan)
    count = len(plan.trainings)
    assert snapshot.total("distinct") == snapshot.total("waiting") == count and not snapshot.has_ended
    finish(plan, 0)
    start(plan, 1)
    start(plan, 2, None)
    fail(plan, 3, "no memory\nat all")
    snapshot = look_at_store(plan)
    assert [snapshot.total(name) for name in ("finished", "started", "failed", "waiting")] == [1, 2, 1, count - 4]
    assert snapshot.stages[0].stage == "pretrain" and snapshot.stages[0].finished == 1
    states = dict(snapshot.started)
    assert states[plan.trainings[1].label].startswith("epoch 2 of 2, checkpoint ")
    assert states[plan.trainings[2].label] == "no checkpoint yet"
    assert snapshot.failures == ((plan.trainings[3].label, "no memory\nat all"),)
    assert snapshot.line == f"1 of {count} trainings finished, 2 started, 1 failed"


def steps(*functions: Callable[[], None]) -> Callable[[float], None]:
    """Returns a sleep that does one thing after another, and is interrupted after the last."""
    left = list(functions)

    def sleep(seconds: float) -> None:
        assert seconds >= module.MIN_PAUSE_S
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    return sleep


def test_a_line_whenever_a_number_changes(plan: Plan, capsys: pytest.CaptureFixture[str]):
    """Without a terminal, a line is printed for each change, with the time left by what finished meanwhile."""
    rest = lambda: [finish(plan, index) for index in range(2, len(plan.trainings))]  # noqa: E731
    changes = (lambda: None, lambda: start(plan, 0), lambda: finish(plan, 0), lambda: fail(plan, 1, "x"), rest)
    watch(plan, sleep=steps(*changes))
    lines = [line.partition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    count = len(plan.trainings)
    assert lines[0] == f"0 of {count} trainings finished"
    assert lines[1] == f"0 of {count} trainings finished, 1 started"
    assert lines[2].startswith(f"1 of {count} trainings finished, about ") and lines[2].endswith(" left")
    assert lines[3].startswith(f"1 of {count} trainings finished, 1 failed, about ")
    assert lines[4] == f"{count - 1} of {count} trainings finished, 1 failed" and len(lines) == 5


def test_an_interruption_ends_it(plan: Plan, capsys: pytest.CaptureFixture[str]):
    watch(plan, sleep=steps(lambda: start(plan, 0)))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_screen(plan: Plan, monkeypatch: pytest.MonkeyPatch):
    """A table of the stages, the trainings under way and the failures, which stays within the width of the terminal."""
    monkeypatch.setattr(module, "MAX_LISTED", 4)
    for index in range(6):
        start(plan, index)
    last = len(plan.trainings) - 1
    fail(plan, last, "ran out of memory\nwith a trace")
    console = Console(file=io.StringIO(), width=100, height=60)
    console.print(module._screen(plan.study.path, look_at_store(plan), ", about 3 min left"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 100
    assert "pretrain" in text and "waiting" in text and "about 3 min left" in text and "and 2 more" in text
    assert "failed: " in text and "with a trace" not in text
    (line,) = [line for line in text.splitlines() if "about 3 min left" in line]
    assert line.rstrip().endswith("0 of 10 trainings finished, 6 started, 1 failed, about 3 min left")
