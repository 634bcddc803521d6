"""A budget stops a study so that the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segue.errors import SegueError
from segue.study import worker
from segue.study.budget import Budget
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.table import collect

StudyFile = Callable[..., Path]
STAGES = '\n[stages.one]\ndomain = "high"\nimages = 4\nepochs = 1\nprecision = "fp32"\n'


def test_texts_of_budgets():
    """Hours and kWh, one or both; others are refused with what is allowed."""
    assert Budget.parse(["1.5h", "2 kWh"]) == Budget(seconds=5400, energy_J=7.2e6)
    assert Budget.parse(["30min"]).seconds == 1800 and Budget.parse([]) == Budget()
    for text in ("8", "0h", "8 days", "-1h", "1e3h"):
        with pytest.raises(SegueError, match=r"such as 8h, 30min or 2\.5kWh"):
            Budget.parse([text])


def test_spent_time_leaves_the_rest_for_the_same_call(study_file: StudyFile, tmp_path: Path):
    """Nothing is finished in no time, nothing failed, and the table is that of an undisturbed study."""
    plan = plan_study(study_file(STAGES), tmp_path / "store")
    summary = run_study(plan, budget=Budget(seconds=1e-6))
    assert (summary.finished, summary.failed, summary.blocked, summary.left) == (0, 0, 0, 2)
    assert "budget of 0 s is spent" in summary.stopped and not summary.complete
    assert collect(plan, command="").failures.empty
    assert run_study(plan_study(plan.study.path, plan.store.folder)).finished == 2


def test_spent_energy_ends_after_the_stage(study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of two stages of 0.6 kWh the budget of 0.5 allows one; without a measurement it is refused."""
    monkeypatch.setattr(worker, "_spent", lambda task, seconds: {"energy_J": 0.6 * 3.6e6})
    plan = plan_study(study_file(STAGES), tmp_path / "store")
    summary = run_study(plan, budget=Budget.parse(["0.5kWh"]))
    assert (summary.finished, summary.left) == (1, 1)
    assert "budget of 0.5 kWh is spent (0.6 kWh)" in summary.stopped
    monkeypatch.setattr(worker, "_spent", lambda task, seconds: {})
    with pytest.raises(SegueError, match="not measured on this machine"):
        run_study(plan_study(plan.study.path, plan.store.folder), budget=Budget.parse(["0.5kWh"]))
