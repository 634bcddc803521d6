"""Studies on Dask: a scheduler that runs already, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed import LocalCluster

from segue.errors import SegueError
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.table import collect

StudyFile = Callable[..., Path]


def test_a_running_scheduler_gives_the_same_table(study_file: StudyFile, tmp_path: Path):
    """A study sent to a scheduler elsewhere yields what it yields in this process."""
    path = study_file(
        '\n[stages.pretrain]\ndomain = "high"\nimages = 6\nepochs = 1\n'
        '\n[stages.transfer]\nfrom = "pretrain"\ndomain = "low"\nimages = 2\nepochs = 1\n'
    )
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    run_study(plan_study(path, tmp_path / "here"))
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as executor:
        summary = run_study(plan_study(path, tmp_path / "there"), scheduler=executor.scheduler_address)
    assert (summary.finished, summary.failed) == (2, 0)
    here, there = (collect(plan_study(path, tmp_path / store), command="").table for store in ("here", "there"))
    assert here.equals(there)


@pytest.mark.slow
def test_no_scheduler_is_told(study_file: StudyFile, monkeypatch: pytest.MonkeyPatch):
    """An address where nobody answers is one sentence."""
    from segue import parallel

    monkeypatch.setattr(parallel, "CONNECT_S", 1)
    with pytest.raises(SegueError, match="no Dask scheduler answers"):
        run_study(plan_study(study_file()), scheduler="tcp://127.0.0.1:9")


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(study_file: StudyFile, tmp_path: Path):
    """SIGKILL of worker processes during a study: it goes on with new ones and ends with the same table."""
    path = study_file()
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    run_study(plan_study(path, tmp_path / "calm"))
    store = tmp_path / "struck"
    words = ["study", "run", str(path), "--store", str(store), "--workers", "2"]
    command = [sys.executable, "-c", "from segue.cli.main import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not list(store.glob("*/train-*.running/state")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    struck = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    assert struck
    _, output = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()
    calm, after = (collect(plan_study(path, folder), command="").table for folder in (tmp_path / "calm", store))
    assert calm.equals(after)


def children(pid: int) -> list[int]:
    actual = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [child for child in actual if parent_of(child) == pid]


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
