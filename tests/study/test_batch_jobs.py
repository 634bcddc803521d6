"""Scripts of jobs, against the documented options of Slurm's sbatch and PBS's qsub; nothing is submitted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from segue.errors import SegueError
from segue.study.cluster.batch_jobs import SYSTEMS, job_script

pytest.importorskip("dask_jobqueue")

FILE = """
system = "{system}"
workers = 4
walltime = "1-02:30:00"
cores = 4
memory_GB = 16
gpu = true
queue = "gpu"
account = "lab"
directives = ["{directive}"]
setup = ["module load cuda"]
notice_s = 300
"""


def script(folder: Path, system: str, directive: str) -> list[str]:
    path = folder / "cluster.toml"
    path.write_text(FILE.format(system=system, directive=directive), encoding="utf-8")
    return job_script(path).splitlines()


def worker_of(lines: list[str]) -> str:
    """Returns the command that starts the worker: the last line, after that of `setup`."""
    assert lines[-2] == "module load cuda"
    return lines[-1]


def test_slurm(tmp_path: Path):
    """A job may be requeued, has a GPU, and its process gets SIGTERM before the walltime: B: names the batch script,
    whose process the worker is by exec."""
    lines = script(tmp_path, "slurm", "--constraint=a100")
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert options >= {"-p gpu", "-A lab", "-n 1", "--cpus-per-task=4", "-t 1-02:30:00", "--requeue"}
    assert options >= {"--signal=B:TERM@300", "--gres=gpu:1", "--constraint=a100", "--mem=15G"}
    worker = worker_of(lines)
    assert worker.startswith(f"exec {sys.executable} -m distributed.cli.dask_worker tcp://")
    assert "--no-nanny" in worker and "--nthreads 1" in worker and "--memory-limit 0" in worker


def test_pbs(tmp_path: Path):
    """PBS gives no notice, so that `timeout` sends SIGTERM 300 s before the walltime of 26.5 h."""
    lines = script(tmp_path, "pbs", "-l place=excl")
    options = {line.removeprefix("#PBS ") for line in lines if line.startswith("#PBS")}
    assert options >= {"-q gpu", "-A lab", "-l select=1:ncpus=4:mem=16000MB:ngpus=1", "-l walltime=26:30:00"}
    assert options >= {"-r y", "-l place=excl"}
    seconds = re.match(r"exec timeout -s TERM (\d+) ", worker_of(lines))
    assert seconds is not None and int(seconds[1]) == int(26.5 * 3600) - 300


@pytest.mark.parametrize("system", SYSTEMS)
def test_mistakes_are_told(tmp_path: Path, system: str):
    """All at once; a walltime that leaves no time to work is one."""
    path = tmp_path / "cluster.toml"
    path.write_text(f'system = "{system}"\nworkers = 0\nwalltime = "2h"\nmemory_GB = 1\npartition = "gpu"\n')
    with pytest.raises(SegueError, match=r"(?s)workers.*walltime.*unknown key 'partition'"):
        job_script(path)
    path.write_text(f'system = "{system}"\nworkers = 1\nwalltime = "00:04:00"\nmemory_GB = 1\n')
    with pytest.raises(SegueError, match="at most twice notice_s"):
        job_script(path)
