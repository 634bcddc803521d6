"""Scripts of jobs, against the documented options of Slurm's sbatch and PBS's qsub; nothing is submitted."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from segue.errors import SegueError
from segue.study.cluster import batch_jobs
from segue.study.cluster.batch_jobs import SYSTEMS, job_script, open_cluster

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


def test_jobs_that_end_before_their_worker_connects_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Job 8 is no longer queued at two looks and never had a worker; 7 had one, and 9 waits. After several in a row
    the study ends, with what to look at."""
    path = tmp_path / "slurm.toml"
    path.write_text('system = "slurm"\nworkers = 1\nwalltime = "01:00:00"\nmemory_GB = 1\n')
    monkeypatch.setattr(batch_jobs, "LOOK_S", 0)
    monkeypatch.setitem(batch_jobs.QUEUED, "slurm", "echo 9")
    workers = {f"worker-{job}": SimpleNamespace(job_id=str(job)) for job in (7, 8, 9)}
    scheduler = SimpleNamespace(workers={"tcp://a": SimpleNamespace(name="worker-7")})
    replaced, lines = [], []
    cluster = SimpleNamespace(
        workers=workers, scheduler=scheduler, scale_down=None, sync=lambda function, names: replaced.extend(names)
    )
    jobs = batch_jobs.LostJobs(cluster, path, lines.append)
    jobs.replace()
    assert replaced == []
    scheduler.workers.clear()
    jobs.replace()
    assert replaced == ["worker-8"] and "job 8 ended before its worker was connected" in lines[0]
    workers["worker-8"].job_id = "10"
    jobs.replace()
    jobs.replace()
    workers["worker-8"].job_id = "11"
    jobs.replace()
    with pytest.raises(SegueError, match=r"3 jobs in a row ended before their worker was connected, the last 11"):
        jobs.replace()
    monkeypatch.setitem(batch_jobs.QUEUED, "slurm", "false")  # the batch system does not answer: nothing is known
    jobs.replace()
    assert len(replaced) == 2


SBATCH = "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"


@pytest.mark.parametrize(("program", "said"), [
    (SBATCH, r"invalid partition specified: gpu"),
    pytest.param(None, r"No such file or directory: 'sbatch'", marks=pytest.mark.slow),
    pytest.param("#!/bin/sh\necho hello\n", r"hello", marks=pytest.mark.slow),  # no number of a job
])  # fmt: skip
def test_jobs_that_are_not_taken_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, said: str
):
    """In a sentence with what the batch system said, instead of waiting for workers that cannot come."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if program is not None:
        (programs / "sbatch").write_text(program)
        (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin" if program else str(programs))
    path = tmp_path / "cluster.toml"
    path.write_text(FILE.format(system="slurm", directive="-x"), encoding="utf-8")
    expected = pytest.raises(SegueError, match=rf"slurm took no job \(.*{said}.*\); correct queue, account")
    with expected, open_cluster(path, print):
        pytest.fail("no job was taken")
