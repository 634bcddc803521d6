"""Trainings of a study side by side in one pass over their data: which are, and that it changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from segue.study.executor import groups, run_study
from segue.study.plan import plan_study
from segue.study.table import collect
from segue.study.worker import Work
from segue.training.spec import StageSpec

StudyFile = Callable[..., Path]

RATES = """
[stages.train]
domain = "high"
images = 4
epochs = 2
precision = "fp32"
optimizer = { name = "adam", lr = { each = [1e-3, 1e-2, LAST] } }
"""


def work(name: str, **more: object) -> Work:
    spec = StageSpec.model_validate({"data": [{"dataset": "d"}], **more})
    place = Path("/nowhere")
    return Work(name, name, place / name, spec, {"d": (place, "d")}, None, None, {}, "test", False, True, 60.0)


def test_side_by_side_gives_the_same_table(study_file: StudyFile, tmp_path: Path):
    """A study trained side by side has the table, histories and weights of one trained stage by stage."""
    path = study_file(RATES.replace("LAST", "1e-4"))
    alone, together = (plan_study(path, tmp_path / name) for name in ("alone", "together"))
    run_study(alone, side_by_side=1)
    assert run_study(together, side_by_side=3).finished == 6
    first, second = (collect(plan, command="") for plan in (alone, together))
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.histories, second.histories)
    shared = []
    for train in alone.trains:
        runs = [plan.store.run(train.key) for plan in (alone, together)]
        assert len({(run / "weights.safetensors").read_bytes() for run in runs}) == 1
        shared.append(json.loads((runs[1] / "timing.json").read_text())["side_by_side"])
    assert shared == [3] * 6  # of each seed the three rates; the seeds have orders of their own


def test_a_failure_is_its_own_member_s(study_file: StudyFile, tmp_path: Path):
    """A model whose loss is lost ends alone; leaves that need not keep weights lose them here too."""
    path = study_file(RATES.replace("LAST", "1e30"))
    text = path.read_text().replace('name = "discs"', 'name = "discs"\nkeep = "metrics"', 1)
    path.write_text(text)
    plan = plan_study(path, tmp_path / "store")
    summary = run_study(plan, side_by_side=3)
    assert (summary.finished, summary.failed) == (4, 2)
    errors = collect(plan_study(path, tmp_path / "store"), command="").failures["error"]
    assert all("loss is" in error and "lower optimizer.lr" in error for error in errors)
    assert not list((tmp_path / "store").glob("train-*/weights.safetensors"))


def test_only_what_pays_shares_a_pass():
    """Costly augmentation pays; other data, orders and batches cannot share; no worker is left without work."""
    plain = [work(f"plain{k}", optimizer={"lr": 10.0**-k}) for k in range(4)]
    turned = {"augment": {"rotation_deg": 90}}
    costly = [work(f"costly{k}", optimizer={"lr": 10.0**-k}, **turned) for k in range(8)]
    other = [work("batch", batch=4, **turned), work("seed", init=1, **turned)]
    found = groups([*plain, *costly, *other], workers=1, most=None)
    assert [len(members) for members in found] == [1, 1, 1, 1, 4, 4, 1, 1]
    assert [w.key for members in found for w in members] == [w.key for w in [*plain, *costly, *other]]
    assert [len(members) for members in groups(costly[:4], workers=4, most=None)] == [1, 1, 1, 1]
    assert [len(members) for members in groups(costly[:4], workers=2, most=None)] == [2, 2]
    assert [len(members) for members in groups(plain, workers=1, most=2)] == [2, 2]
    seeds = [work(f"seed{k}", init=k, order="shared", **turned) for k in range(3)]
    assert [len(members) for members in groups(seeds, workers=1, most=None)] == [3]
