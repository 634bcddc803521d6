"""Workers as jobs of a batch system: each job runs one worker for as long as its walltime, and is then replaced.

Workers are submitted, not stages, so that neither limits on arrays of jobs nor the time in the queue count per stage.
Shortly before its walltime a worker is asked to end: its training saves a checkpoint and goes on in another worker.
"""

from __future__ import annotations

import getpass
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from segue.errors import SegueError
from segue.spec import SpecModel, load
from segue.storage import make_folder

MIN_NOTICE_S = 30
INTERVAL_S = 5  # between two looks at how many jobs there are
LOOK_S = 20  # between two looks at whether jobs that have no worker yet are queued
QUERY_S = 30  # to wait for the batch system to answer
MIN_LOST = 3  # jobs in a row without a worker, after which the study ends
DURATION = r"^(\d+-)?\d{1,3}:\d{2}:\d{2}$"


class BatchSpec(SpecModel):
    """How jobs are submitted.

    workers: jobs at a time, one worker each; walltime: of a job, "[days-]hours:minutes:seconds"; cores and memory_GB:
    of a job; gpu: whether each has a GPU of its own; queue (Slurm: partition), account: as the site names them;
    directives: more of them, such as "--constraint=a100"; setup: lines of shell before the worker starts, such as
    "module load cuda"; interface: the network of the nodes, such as "ib0"; notice_s: seconds before the walltime at
    which a worker saves a checkpoint and ends; logs: folder, relative to this file.
    """

    system: Literal["slurm", "pbs"]
    workers: Annotated[int, Field(gt=0, le=10_000)]
    walltime: Annotated[str, Field(pattern=DURATION)]
    cores: Annotated[int, Field(gt=0)] = 1
    memory_GB: Annotated[float, Field(gt=0)]
    gpu: bool = False
    queue: str | None = None
    account: str | None = None
    directives: list[str] = []
    setup: list[str] = []
    interface: str | None = None
    notice_s: Annotated[int, Field(ge=MIN_NOTICE_S)] = 120
    logs: str = "jobs"

    @model_validator(mode="after")
    def _long_enough(self) -> BatchSpec:
        if self.walltime_s <= 2 * self.notice_s:
            raise ValueError(
                f"walltime: {self.walltime} is at most twice notice_s ({self.notice_s} s); give jobs more time"
            )
        return self

    @property
    def walltime_s(self) -> int:
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _slurm(spec: BatchSpec) -> dict[str, Any]:
    """Returns the settings of a job of Slurm: it may be requeued, and is sent SIGTERM before its walltime.

    `exec` makes the worker the process of the batch script (B:), which is the one that gets the signal.
    """
    directives = ["--requeue", f"--signal=B:TERM@{spec.notice_s}", *(["--gres=gpu:1"] if spec.gpu else [])]
    return {
        "account": spec.account,
        "python": f"exec {shlex.quote(sys.executable)}",
        "job_extra_directives": directives + spec.directives,
        "walltime": spec.walltime,
    }


def _pbs(spec: BatchSpec) -> dict[str, Any]:
    """Returns the settings of a job of PBS, which gives no notice before the walltime: `timeout` does."""
    memory, gpus = f"{max(1, round(spec.memory_GB * 1000))}MB", ":ngpus=1" if spec.gpu else ""
    hours, rest = divmod(spec.walltime_s, 3600)
    return {
        "account": spec.account,
        "python": f"exec timeout -s TERM {spec.walltime_s - spec.notice_s} {shlex.quote(sys.executable)}",
        "resource_spec": f"select=1:ncpus={spec.cores}:mem={memory}{gpus}",
        "job_extra_directives": ["-r y", *spec.directives],
        "walltime": f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}",
    }


SYSTEMS: Mapping[str, tuple[str, Callable[[BatchSpec], dict[str, Any]]]] = {
    "slurm": ("SLURMCluster", _slurm),
    "pbs": ("PBSCluster", _pbs),
}
QUEUED = {"slurm": "squeue -h -o %A -u {user}", "pbs": "qselect -u {user}"}  # prints the jobs that wait or run


def make_cluster(spec: BatchSpec, folder: Path) -> Any:
    """Returns the Dask cluster that submits the jobs, without any job yet; raises SegueError without dask-jobqueue."""
    try:
        import dask_jobqueue
    except ImportError:
        raise SegueError(
            "--cluster needs dask-jobqueue, not installed in this Python; run `pip install 'segue[cluster]'`."
        ) from None
    name, settings = SYSTEMS[spec.system]
    logs = make_folder(folder / spec.logs)
    try:
        return getattr(dask_jobqueue, name)(
            cores=spec.cores,
            processes=1,
            memory=f"{spec.memory_GB:g}GB",
            queue=spec.queue,
            nanny=False,  # the process that the signal reaches is the one that trains
            job_name="segue",
            interface=spec.interface,
            job_script_prologue=spec.setup,
            worker_extra_args=["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"],
            log_directory=str(logs.absolute()),
            scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0", "port": 0},
            **settings(spec),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SegueError(f"--cluster: the scheduler did not start ({error}); check interface.") from error


class LostJobs:
    """Replaces jobs that ended before their worker connected, such as one whose walltime passed while it started: Dask
    replaces workers that it has seen, and would wait for these forever."""

    def __init__(self, cluster: Any, file: Path, log: Callable[[str], None]) -> None:
        self._cluster, self._spec, self._file, self._log = cluster, load(BatchSpec, file), file, log
        self._connected: set[str] = set()  # jobs whose worker was connected
        self._suspects: set[str] = set()  # jobs that were not queued at the last look
        self._lost_in_a_row = 0
        self._looked = time.monotonic()

    def replace(self) -> None:
        """Looks now and then; raises SegueError where several jobs in a row ended so, as others would."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        names = {worker.name for worker in list(self._cluster.scheduler.workers.values())}
        jobs = {name: job.job_id for name, job in list(self._cluster.workers.items()) if job.job_id}
        connected = {job for name, job in jobs.items() if name in names}
        if connected - self._connected:
            self._lost_in_a_row = 0
        self._connected |= connected
        waiting = {name: job for name, job in jobs.items() if job not in self._connected}
        queued = self._queued() if waiting else None
        if queued is None:
            return
        ended = {job for job in waiting.values() if job not in queued}
        lost = {name: job for name, job in waiting.items() if job in ended & self._suspects}
        self._suspects = ended
        if not lost:
            return
        self._lost_in_a_row += len(lost)
        listed = ", ".join(sorted(lost.values()))
        if self._lost_in_a_row >= max(MIN_LOST, self._spec.workers):
            raise SegueError(
                f"{self._file}: {self._lost_in_a_row} jobs in a row ended before their worker was connected, the last"
                f" {listed}; read their logs in {self._spec.logs}, correct setup, memory_GB, interface or walltime, and"
                " run the same command again."
            )
        self._log(f"job {listed} ended before its worker was connected; another is submitted in its place")
        self._cluster.sync(self._cluster.scale_down, sorted(lost))

    def _queued(self) -> set[str] | None:
        """Returns the numbers of the user's jobs that wait or run; None where the batch system does not tell."""
        command = QUEUED[self._spec.system].format(user=getpass.getuser())
        try:
            done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=QUERY_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return {line.strip().partition(".")[0] for line in done.stdout.splitlines()}


@contextmanager
def open_cluster(file: Path, log: Callable[[str], None]) -> Iterator[Any]:
    """Gives the Dask cluster of a file whose jobs are submitted, and replaced as they end; cancels them at the end.

    Raises SegueError where the batch system does not take a job.
    """
    spec = load(BatchSpec, file)
    with make_cluster(spec, file.parent) as cluster:
        try:
            cluster.sync(_submit_one, cluster)  # the others follow: Dask would only log that none was taken
            cluster.adapt(minimum=spec.workers, maximum=spec.workers, interval=f"{INTERVAL_S}s")
            log(f"{spec.workers} jobs of {spec.walltime} are submitted to {spec.system}; logs are in {spec.logs}")
            yield cluster
        except JobRefused as refused:
            raise SegueError(
                f"{file}: {spec.system} took no job ({refused}); correct queue, account or directives, or run the "
                "command where jobs can be submitted."
            ) from None
        finally:
            _forget_unsubmitted(cluster)


class JobRefused(Exception):
    """What the batch system said."""


async def _submit_one(cluster: Any) -> None:
    cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        await cluster._correct_state()
    except (RuntimeError, OSError, ValueError) as error:
        *_, last = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise JobRefused(last) from error


def _forget_unsubmitted(cluster: Any) -> None:
    """Marks jobs that were never submitted as ended, which Dask wants of every job when it closes."""
    from distributed import Status

    for job in list(cluster._created):
        if job.status is Status.created:
            job.status = Status.failed


def job_script(file: Path) -> str:
    """Returns the script that is submitted for each worker of a file; submits nothing."""
    with make_cluster(load(BatchSpec, file), file.parent) as cluster:
        return re.sub(r"\n{2,}", "\n", cluster.job_script())
