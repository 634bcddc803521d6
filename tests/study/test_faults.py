"""Faults, with real processes: nothing is lost, nothing done twice, no broken run, and each is reported plainly.

Workers and commands that are killed: `test_cluster.py`, `test_run.py`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.test_main import full_disk
from samples.cli import COMMAND
from samples.deadly import kill_for_bad

from segue.errors import SegueError
from segue.study.cluster import workers
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.table import collect
from segue.training import loop

StudyFile = Callable[..., Path]
WORKER = ["--no-dashboard", "--no-nanny", "--nthreads", "2", "--death-timeout", "20"]
FAST = 'images = 4\nepochs = 1\nprecision = "fp32"\n'
TWO = f'\n[stages.one]\ndomain = "high"\n{FAST}\n[stages.two]\ndomain = "low"\n{FAST}'


def single(path: Path) -> Path:
    """Returns the study file, with one seed."""
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    return path


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_broken(study_file: StudyFile, tmp_path: Path):
    """No file above 20 kB: every stage fails with the remedy and leaves no finished run; then the same study runs."""
    path, store = single(study_file(TWO)), tmp_path / "store"
    with full_disk(limit_kB=20):
        summary = run_study(plan_study(path, store))
    assert (summary.finished, summary.failed) == (0, 2)
    errors = collect(plan_study(path, store), command="").failures["error"]
    assert all("free disk space" in error for error in errors)
    assert not list(store.glob("*/train-*/metrics.json")) and not list(store.rglob("*.partial-*"))
    assert run_study(plan_study(path, store)).finished == 2
    run_study(plan_study(path, tmp_path / "calm"))
    calm, after = (collect(plan_study(path, tmp_path / name), command="").table for name in ("calm", "store"))
    assert calm.equals(after)


def test_a_store_that_cannot_be_written_is_told_before_any_work(study_file: StudyFile, tmp_path: Path):
    """Planning and the table work; running is refused with the remedy."""
    store = tmp_path / "store"
    store.mkdir(mode=0o555)
    if os.geteuid() == 0:  # may write anywhere but here
        store = Path("/sys/segue-store")
    plan = plan_study(single(study_file(TWO)), store)
    assert sum(count.finished for count in plan.counts) == 0 and collect(plan, command="").table.empty
    with pytest.raises(SegueError, match=r"cannot be written .*folder that you may write to|cannot be written"):
        run_study(plan)


def run_and_note(path: Path, store: Path, notes: Path) -> None:
    """Runs the study, with a line in `notes` for each training that this process does."""
    train = loop.train

    def train_and_note(states: list[loop.TrainState], **more: object) -> None:
        with notes.open("a") as file:
            file.writelines(f"{state.folder.path.name}\n" for state in states)
        train(states, **more)  # type: ignore[arg-type]

    loop.train = train_and_note  # type: ignore[assignment]
    summary = run_study(plan_study(path, store))
    sys.exit(0 if summary.complete else 1)


@pytest.mark.slow
def test_two_commands_on_one_store_train_nothing_twice(study_file: StudyFile, tmp_path: Path):
    """Both end with the whole study, each stage was trained by one of them, and the table is that of one command."""
    path, store, notes = single(study_file()), tmp_path / "store", tmp_path / "notes.txt"
    run_study(plan_study(path, tmp_path / "calm"))
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=run_and_note, args=(path, store, notes)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    trained = notes.read_text().split()
    assert len(trained) == len(set(trained)) == 5
    calm, shared = (collect(plan_study(path, tmp_path / name), command="").table for name in ("calm", "store"))
    assert calm.equals(shared)


@pytest.mark.slow
def test_a_stage_that_kills_its_workers_fails_alone(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three processes are lost to it, each replaced; then it counts as failed, and all others are finished."""
    monkeypatch.setattr(workers, "run_until_signal", kill_for_bad)
    stages = f'\n[stages.bad]\ndomain = "high"\n{FAST}\n[stages.good]\ndomain = "low"\n{FAST}'
    plan = plan_study(study_file(stages), tmp_path / "store")
    lines: list[str] = []
    summary = run_study(plan, workers=2, log=lines.append)
    assert (summary.finished, summary.failed) == (2, 2)
    errors = collect(plan, command="").failures["error"]
    assert all("3 workers were lost" in error and "memory" in error for error in errors)
    assert sum("its worker was lost" in line for line in lines) == 2 * workers.MAX_LOST


@pytest.mark.slow
def test_workers_with_other_versions_are_refused(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Before any stage runs, with the versions of both sides; one that does not see the store likewise."""
    plan = plan_study(single(study_file(TWO)), tmp_path / "store")
    versions = workers.package_versions()
    monkeypatch.setattr(workers, "package_versions", lambda: versions | {"torch": "0.9"})
    with pytest.raises(SegueError, match=rf"other versions: torch {versions['torch']} \(here 0\.9\)"):
        run_study(plan, workers=2)
    assert not list((tmp_path / "store").glob("*/train-*"))


def test_a_worker_says_whether_it_sees_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of the same size at the same path is the store; without it the sentence names path and reason."""
    monkeypatch.setattr(workers, "STORE_S", 0)
    mark = tmp_path / "plan.json"
    mark.write_text("{}")
    assert workers._objection(asyncio.run(workers.describe_worker(str(mark), 2))) == ""
    mark.unlink()
    assert "does not see the store: " in workers._objection(asyncio.run(workers.describe_worker(str(mark), 2)))
    assert "cannot run segue (No module" in workers._objection(ModuleNotFoundError("No module named 'segue'"))


@pytest.mark.slow
def test_a_scheduler_that_is_killed_is_told(study_file: StudyFile, tmp_path: Path):
    """The command ends with one sentence; with a new scheduler the same study ends with the same table."""
    path, store = single(study_file()), tmp_path / "store"
    run_study(plan_study(path, tmp_path / "calm"))
    for is_killed in (True, False):
        address_file = tmp_path / f"scheduler-{is_killed}.json"
        module = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--port", "0"]
        scheduler = subprocess.Popen([*module, "--scheduler-file", str(address_file)], stderr=subprocess.DEVNULL)
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address_file), *WORKER],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda file=address_file: file.exists() and file.stat().st_size > 0)
            address = json.loads(address_file.read_text())["address"]
            words = [*COMMAND, "study", "run", str(path), "--store", str(store), "--scheduler", address]
            command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if is_killed:
                wait_for(lambda: list(store.glob("*/train-*.running/state")))
                scheduler.kill()
            _, errors = command.communicate(timeout=300)
        finally:
            for process in (scheduler, worker):
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert "Traceback" not in errors, errors
        assert command.returncode == (2 if is_killed else 0), errors
        assert not is_killed or ("was lost" in errors and "run the same command again" in errors)
    calm, after = (collect(plan_study(path, tmp_path / name), command="").table for name in ("calm", "store"))
    assert calm.equals(after)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
