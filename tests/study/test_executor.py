"""Which trainings of a study the executor runs side by side in one pass over their data; it changes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from segue import signals
from segue.reporting.page.page import COST_COLUMNS
from segue.study.cluster import workers
from segue.study.executor import Grouping, ReadyQueue, run_study
from segue.study.plan import PlannedTraining, Template, plan_study
from segue.study.sizes import StageSizes, TimeLeft
from segue.study.table import collect
from segue.study.worker import TaskResult
from segue.training import fused
from segue.training.identity import RepeatedKey
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec

StudyFile = Callable[..., Path]

STAGE = """
[stages.train]
domain = "high"
images = 4
epochs = 2
precision = "fp32"
optimizer = { name = "adam", lr = { each = [RATES] } }
"""


def planned(name: str, **more: object) -> PlannedTraining:
    spec = StageSpec.model_validate({"data": [{"dataset": "d"}], **more})
    template = Template(spec, {}, ("d",), None, RepeatedKey(spec, {}, ("d",)))
    seeds = {"init": spec.init, "draw": spec.draw}
    return PlannedTraining(name, name, SimpleNamespace(), template, seeds, None)  # type: ignore[arg-type]


def group(trainings: list[PlannedTraining], *, workers: int, max_size: int | None) -> list[tuple[PlannedTraining, ...]]:
    return Grouping(StageSizes({"d": Path("/nowhere")}), workers=workers, max_size=max_size).group(trainings)


@pytest.mark.slow
def test_side_by_side_gives_the_same_table(study_file: StudyFile, tmp_path: Path):
    """A study trained side by side has the table, histories and weights of one trained stage by stage."""
    path = study_file(STAGE.replace("RATES", "1e-3, 1e-4"))
    alone, together = (plan_study(path, tmp_path / name) for name in ("alone", "together"))
    run_study(alone, side_by_side=1)
    assert run_study(together, side_by_side=3).finished == 4
    first, second = (collect(plan, command="") for plan in (alone, together))
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.histories, second.histories)
    shared = []
    for train in alone.trainings:
        runs = [plan.store.run(train.key) for plan in (alone, together)]
        assert len({(run / "weights.safetensors").read_bytes() for run in runs}) == 1
        shared.append(json.loads((runs[1] / "timing.json").read_text())["side_by_side"])
    assert shared == [2] * 4  # of each seed the two rates; the seeds have orders of their own


def one_seed(path: Path, keep: str = "weights") -> Path:
    path.write_text(path.read_text().replace("seeds = 2", f'seeds = 1\nkeep = "{keep}"'))
    return path


@pytest.mark.slow
def test_an_exact_study_is_not_an_approximate_one(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Models that stepped at once say so in the table and in the costs that the page shows; the same study with exact
    steps, on the same store, trains its own. On a processor, as the software comes, a line says that all are exact."""
    exact = one_seed(study_file(STAGE.replace("RATES", "1e-3, 1e-4"), name="exact.toml"))
    path = tmp_path / "approximate.toml"
    path.write_text(exact.read_text() + 'side_by_side = "approximate"\n')
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(fused, "DEVICES", ("cpu",))
        assert run_study(plan_study(path, tmp_path / "store"), log=lines.append).finished == 2
    assert not [line for line in lines if "side_by_side" in line]
    results = collect(plan_study(path, tmp_path / "store"), command="")
    assert set(results.table["side_by_side"]) == set(results.cost["side_by_side"]) == {"approximate"}
    assert COST_COLUMNS["side_by_side"] == ("steps", None)

    assert run_study(plan_study(exact, tmp_path / "store"), log=lines.append).finished == 2
    assert "side_by_side" not in collect(plan_study(exact, tmp_path / "store"), command="").table
    assert run_study(plan_study(path, tmp_path / "on a processor"), log=lines.append).finished == 2
    (line,) = (line for line in lines if "side_by_side" in line)
    assert line.endswith("exactly: a processor is faster with one model at a time")
    assert set(collect(plan_study(path, tmp_path / "on a processor"), command="").table["side_by_side"]) == {"exact"}


@pytest.mark.slow
def test_weights_of_steps_at_once_cannot_be_had_again(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where they were not kept and a domain is added, the run is trained anew and scored on all domains: no run has
    scores of two sets of weights, and each file is what its digest says."""
    monkeypatch.setattr(fused, "DEVICES", ("cpu",))
    path = one_seed(study_file(STAGE.replace("RATES", "1e-3, 1e-4") + 'side_by_side = "approximate"\n'), "metrics")
    run_study(plan_study(path, tmp_path / "store"))
    path.write_text(path.read_text().replace("[domains]", '[domains]\nboth = { dataset = "discs" }'))
    plan = plan_study(path, tmp_path / "store")
    assert run_study(plan, side_by_side=2).failed == 0
    table = collect(plan_study(path, tmp_path / "store"), command="").table
    assert len(table) == 6 and set(table["side_by_side"]) == {"exact"}
    for training in plan.trainings:
        run = RunFolder(plan.store.run(training.key))
        assert run.read(run.metrics)["side_by_side"]["steps"] == "exact"
        assert len(run.read_history()) == 2


def test_a_failure_is_its_own_member_s(study_file: StudyFile, tmp_path: Path):
    """A model whose loss is lost ends alone; leaves that need not keep weights lose them here too."""
    path = study_file(STAGE.replace("RATES", "1e-3, 1e-2, 1e30"))
    text = (
        path.read_text()
        .replace('name = "discs"', 'name = "discs"\nkeep = "metrics"', 1)
        .replace("seeds = 2", "seeds = 1")
    )
    path.write_text(text)
    plan = plan_study(path, tmp_path / "store")
    summary = run_study(plan, side_by_side=3)
    assert (summary.finished, summary.failed) == (2, 1)
    errors = collect(plan_study(path, tmp_path / "store"), command="").failures["error"]
    assert all("loss is" in error and "lower optimizer.lr" in error for error in errors)
    assert not list((tmp_path / "store").glob("*/train-*/weights.safetensors"))


def test_only_what_pays_shares_a_pass():
    """Costly augmentation pays, and so do steps at once; other data, orders and batches cannot share; no worker is left
    without work."""
    plain = [planned(f"plain{k}", optimizer={"lr": 10.0**-k}) for k in range(4)]
    rotated = {"augment": {"rotation_deg": 90}}
    costly = [planned(f"costly{k}", optimizer={"lr": 10.0**-k}, **rotated) for k in range(8)]
    other = [planned("batch", batch=4, **rotated), planned("seed", init=1, **rotated)]
    groups = group([*plain, *costly, *other], workers=1, max_size=None)
    assert [len(group) for group in groups] == [1, 1, 1, 1, 4, 4, 1, 1]
    assert [task.key for group in groups for task in group] == [task.key for task in [*plain, *costly, *other]]
    assert [len(group) for group in group(costly[:4], workers=4, max_size=None)] == [1, 1, 1, 1]
    assert [len(group) for group in group(costly[:4], workers=2, max_size=None)] == [2, 2]
    assert [len(group) for group in group(plain, workers=1, max_size=2)] == [2, 2]
    fused = [planned(f"fused{k}", optimizer={"lr": 10.0**-k}, side_by_side="approximate") for k in range(3)]
    assert [len(group) for group in group([*fused, *plain], workers=1, max_size=None)] == [3, 1, 1, 1, 1]
    assert [len(group) for group in group([*fused[:2], *plain[:2]], workers=1, max_size=4)] == [2, 2]
    seeds = [planned(f"seed{k}", init=k, order="shared", **rotated) for k in range(3)]
    assert [len(group) for group in group(seeds, workers=1, max_size=None)] == [3]


def test_a_worker_goes_on_with_the_data_and_network_it_has():
    """Each worker stays at its kind while there are stages of it; then it helps with another; nothing is lost."""
    groups = [(planned(f"{kind}{k}", epochs=epochs),) for k in range(3) for kind, epochs in (("a", 1), ("b", 2))]
    ready = ReadyQueue({id(g[0].template): g[0].key[0] for g in groups})
    ready.extend(groups)
    taken = [(worker, ready.take(worker)[0].key) for worker in ("one", "two", "one", "two", "two", "two")]
    assert taken[:5] == [("one", "a0"), ("two", "b0"), ("one", "a1"), ("two", "b1"), ("two", "b2")]
    assert taken[5] == ("two", "a2") and len(ready) == 0


def test_each_worker_has_a_gpu_of_its_own():
    """In turn where there are more workers than GPUs; without any nothing is set."""
    of = [variables["CUDA_VISIBLE_DEVICES"] for variables in workers.worker_environments(3, ["2", "GPU-7"])]
    assert of == ["2", "GPU-7", "2"]
    assert workers.worker_environments(2, []) == [{}, {}]


def test_time_left_by_hand():
    """Kinds that were measured count at their own rate, others at the mean of all; a stage takes 2 s beside it."""
    left = TimeLeft()
    for kind, visits in (("a", 100), ("a", 100), ("a", 100), ("b", 10), ("b", 10), ("c", 50)):
        left.add(kind, visits)
    assert left.seconds is None
    left.finish("a", 100, 10.0, 1.0)
    left.finish("b", 10, 1.0, 3.0)
    assert left.seconds == pytest.approx(200 * 0.1 + 10 * 0.1 + 50 * 11 / 110 + 4 * 2)
    left.finish("a", 100, 20.0, 2.0)  # 30 s for 200
    left.finish("b", 10)  # it failed
    assert left.seconds == pytest.approx(100 * 0.15 + 50 * 31 / 210 + 2 * 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_says_so_without_a_trace(monkeypatch: pytest.MonkeyPatch, number: signal.Signals):
    """All its tasks are unfinished, not failed; an exception would be printed by Dask with its trace."""

    def run(tasks: object) -> list[TaskResult]:
        raise signals.Terminated(number)

    monkeypatch.setattr(workers, "run_tasks", run)
    tasks = [SimpleNamespace(key="a"), SimpleNamespace(key="b")]
    results = workers.run_until_signal([tasks])  # type: ignore[list-item]
    assert [result.key for result in results] == ["a", "b"]
    assert not any(result.trained for result in results)
    assert all(result.ended_by == number.name and result.error is None for result in results)
