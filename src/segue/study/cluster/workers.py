"""Where the tasks of a study run: in this process, in processes of this machine, or on the workers of a Dask scheduler.

A worker has one submission at a time, of one stage or, of short ones, as many as take a few seconds. It gets the next
one when it has finished that, so that it can go on with the data and networks it has, and so that the scheduler never
knows more tasks than there are workers.

Workers on other machines must have the same versions of the packages that results depend on, and must see the store.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import logging
import os
import platform
import queue
import signal
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from segue import device, signals
from segue.data import resident
from segue.errors import SegueError
from segue.parallel import connect, end_with_parent
from segue.study.cluster import batch_jobs
from segue.study.worker import StudyTask, TaskResult, run_tasks

PACKAGES = ("segue", "torch", "torchvision", "numpy", "scipy", "scikit-image", "h5py", "timm", "dask", "distributed")
END_S = 25  # to save checkpoints when asked to end: clusters kill after 30 s
LISTEN_S = 1.0  # between two looks at which workers there are
SUBMISSION_S = 2.0  # of stages that take less, a worker gets several at once
MAX_AT_ONCE = 100
STORE_S = 20  # until a file is visible on all machines of a shared file system
MAX_LOST = 3  # workers that a submission may lose before it counts as failed
LOST = "the loss of its worker"  # what ended a task
Log = Callable[[str], None]
Group = Sequence[StudyTask]


class Executor(Protocol):
    """Runs tasks on workers, each named by a text."""

    def free(self) -> str | None:
        """Returns a worker that can take another submission, or None."""
        ...

    def capacity(self) -> int:
        """Returns how many groups of tasks a worker should get at once."""
        ...

    def submit(self, worker: str, groups: Sequence[Group]) -> None:
        """Gives a worker groups of tasks; those of a group are run side by side."""
        ...

    def running(self) -> int:
        """Returns how many submissions are not finished."""
        ...

    def workers(self) -> int:
        """Returns how many submissions run at a time."""
        ...

    def wait(self) -> tuple[str, list[TaskResult]] | None:
        """Waits for a submission to end and returns its worker and results; None after a while without any."""
        ...

    def end(self, number: int) -> list[TaskResult]:
        """Ends the workers' tasks as the signal does, after they saved a checkpoint; returns their results."""
        ...


@contextmanager
def open_executor(
    workers: int, scheduler: str | None, cluster: Path | None, *, mark: Path, log: Log | None
) -> Iterator[Executor]:
    """Gives the executor of tasks: this process, `workers` processes of this machine (one per GPU, where there are
    any), the workers of a running scheduler, or those that a batch system starts as the file `cluster` says.

    mark: a file in the store, by which workers show that they see the store.
    """
    inform: Log = log if log is not None else lambda line: None
    if scheduler is None and cluster is None and workers == 1:
        resident.enable()
        try:
            yield LocalExecutor()
        finally:
            resident.disable()
        return
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)
    os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "60s")
    with (
        connect(scheduler)
        if scheduler is not None
        else batch_jobs.open_cluster(cluster, inform)
        if cluster is not None
        else local_cluster(workers) as resource
    ):
        client = resource if scheduler is not None else Client(resource)
        try:
            client.register_plugin(_stage_worker(is_local=scheduler is None and cluster is None))
            jobs = batch_jobs.LostJobs(resource, cluster, inform) if cluster is not None and scheduler is None else None
            executor = ClusterExecutor(client, mark=mark, log=inform, lost_jobs=jobs)
            try:
                yield executor
            except signals.Terminated as ended:
                executor.end(ended.number)
                raise
        finally:
            client.close()


class LocalExecutor:
    """Runs one submission after another in this process."""

    def __init__(self) -> None:
        self._waiting: deque[Group] = deque()

    def free(self) -> str | None:
        return None if self._waiting else "this process"

    def capacity(self) -> int:
        return 1

    def submit(self, worker: str, groups: Sequence[Group]) -> None:
        self._waiting += groups

    def running(self) -> int:
        return len(self._waiting)

    def workers(self) -> int:
        return 1

    def wait(self) -> tuple[str, list[TaskResult]] | None:
        return "this process", run_tasks(self._waiting.popleft())

    def end(self, number: int) -> list[TaskResult]:
        return []


class ClusterExecutor:
    """Runs submissions on the workers of a Dask scheduler, one at a time on each.

    Workers may come and go. One that is lost or ended is replaced by another, which resumes from the checkpoint.
    lost_jobs: those of a batch system.
    """

    def __init__(self, client: Any, *, mark: Path, log: Log, lost_jobs: batch_jobs.LostJobs | None = None) -> None:
        self._client, self._log, self._lost_jobs = client, log, lost_jobs
        self._mark = mark.absolute()
        self._ended: queue.Queue[Any] = queue.Queue()  # futures
        self._running: dict[str, tuple[str, Sequence[Group], Any]] = {}  # name -> worker, its groups, the future
        self._workers: dict[str, str | None] = {}  # worker -> name of what it has
        self._free: OrderedDict[str, None] = OrderedDict()
        self._lost: dict[str, int] = {}  # key of an unfinished task -> workers lost
        self._refused: dict[str, str] = {}  # worker -> why it is not used
        self._ending: set[str] = set()  # workers that were asked to end
        self._given_up: deque[tuple[str, list[TaskResult]]] = deque()  # worker -> results of what it had
        self._numbers = itertools.count()
        self._seconds: deque[float] = deque(maxlen=32)  # of the last groups
        self._listened = -LISTEN_S
        self._is_waiting = False

    # workers

    def free(self) -> str | None:
        self._listen()
        return next(iter(self._free), None)

    def _listen(self) -> None:
        """Looks, now and then, which workers there are: new ones are checked, what lost ones had is given up."""
        if time.monotonic() - self._listened < LISTEN_S:
            return
        if self._client.status != "running":
            raise _scheduler_lost(self._client)
        try:
            present = set(self._client.nthreads())
        except (OSError, TimeoutError) as error:
            raise _scheduler_lost(self._client) from error
        if self._lost_jobs is not None:
            self._lost_jobs.replace()
        self._ending &= present
        for worker in self._workers.keys() - present:
            self._free.pop(worker, None)
            name = self._workers.pop(worker)
            if name is not None:
                self._give_up(name, "its worker was lost")
        new = sorted(present - self._workers.keys() - self._refused.keys() - self._ending)
        if new:
            size = self._mark.stat().st_size
            answers = self._client.run(describe_worker, str(self._mark), size, workers=new, on_error="return")
            for worker in new:
                reason = _objection(answers.get(worker, "does not answer"))
                if reason:
                    self._refused[worker] = reason
                    self._log(f"worker {worker} is not used: {reason}")
                else:
                    self._workers[worker] = None
                    self._free[worker] = None
        if not self._workers and self._refused.keys() >= present and present:
            worker, reason = next(iter(self._refused.items()))
            raise SegueError(
                f"worker {worker}: {reason}; start the workers in the same Python environment and with the same store, "
                "then run the same command again."
            )
        if not present and not self._is_waiting:
            self._log("no worker is connected yet; waiting for one")
        self._is_waiting = not present
        self._listened = time.monotonic()

    # tasks

    def capacity(self) -> int:
        if len(self._seconds) < 8:
            return 1
        return max(1, min(MAX_AT_ONCE, int(SUBMISSION_S / max(max(self._seconds), 1e-3))))

    def submit(self, worker: str, groups: Sequence[Group]) -> None:
        name = f"{groups[0][0].key}-{next(self._numbers)}"
        future = self._client.submit(run_until_signal, groups, key=name, pure=False, workers=[worker])
        self._running[name] = worker, groups, future
        self._workers[worker] = name
        self._free.pop(worker, None)
        future.add_done_callback(self._ended.put)

    def running(self) -> int:
        return len(self._running) + len(self._given_up)

    def workers(self) -> int:
        return len(self._workers)

    def wait(self) -> tuple[str, list[TaskResult]] | None:
        self._listen()
        if self._given_up:
            return self._given_up.popleft()
        try:
            future = self._ended.get(timeout=LISTEN_S)
        except queue.Empty:
            return None
        return self._result(future)

    def _result(self, future: Any) -> tuple[str, list[TaskResult]] | None:
        """Returns what a submission that ended has to say; None where it is to be run again."""
        name = future.key
        if name not in self._running:
            return None
        worker, groups, _ = self._running[name]
        try:
            results = future.result(timeout=END_S)
        except (Exception, asyncio.CancelledError) as error:  # of Dask, or of a task that could not be sent
            if self._client.status != "running":
                raise _scheduler_lost(self._client) from error
            self._give_up(name, f"its worker was lost ({error})")
            return None
        del self._running[name]
        seconds = {result.key: result.seconds for result in results}
        self._seconds.extend(sum(seconds[task.key] for task in group) for group in groups)
        for result in results:
            self._lost.pop(result.key, None)
        if worker in self._workers:
            self._workers[worker] = None
            if any(result.ended_by for result in results):  # it goes away; nothing more for it
                del self._workers[worker]
                self._ending.add(worker)
            else:
                self._free[worker] = None
        return worker, results

    def _give_up(self, name: str, reason: str) -> None:
        """Takes a submission back from a worker that is lost; a task that had several such counts as failed."""
        worker, groups, future = self._running.pop(name)
        if worker in self._workers:
            self._workers[worker] = None
            self._free[worker] = None
        with suppress(Exception):
            future.cancel()
        self._log(f"{groups[0][0].label}: {reason}; another one goes on from the checkpoint")
        results = []
        for task in (task for group in groups for task in group):
            self._lost[task.key] = self._lost.get(task.key, 0) + (not task.run.is_finished)
            if self._lost[task.key] < MAX_LOST:
                results.append(TaskResult(task.key, ended_by=LOST))
                continue
            message = (
                f"{MAX_LOST} workers were lost while they ran it, most likely because memory ran out; use fewer "
                "workers or more memory, then run the study again: it resumes from its checkpoint"
            )
            results.append(TaskResult(task.key, error=message))
        self._given_up.append((worker, results))

    def end(self, number: int) -> list[TaskResult]:
        """Asks the workers to end as the signal does, and waits until their trainings have saved a checkpoint."""
        workers = list(self._workers)
        results: list[TaskResult] = []
        with suppress(Exception):  # a scheduler that is lost has no workers to ask
            self._client.run(signals.request_end, number, workers=workers)
            until = time.monotonic() + END_S
            while self._running and time.monotonic() < until:
                with suppress(queue.Empty):
                    ended = self._result(self._ended.get(timeout=LISTEN_S))
                    results += ended[1] if ended else []
            self._client.run(signals.request_end, None, workers=workers)
        return results


def _scheduler_lost(client: Any) -> SegueError:
    # what these log of broken connections adds nothing
    for name in ("distributed", "distributed.client", "asyncio", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    address = client.scheduler.address if client.scheduler is not None else "of this study"
    return SegueError(
        f"the Dask scheduler {address} was lost; start it again, then run the same command again: finished stages are "
        "kept, and started ones resume from their checkpoints."
    )


# in the worker

_one_at_a_time = threading.Lock()  # a worker of Dask may have several threads


def run_until_signal(groups: Sequence[Group]) -> list[TaskResult]:
    """Runs groups of tasks, one after another, in a worker; returns their results.

    Those that a signal ended, or that came after it, have not failed: an exception would be printed by Dask.
    """
    results: list[TaskResult] = []
    with _one_at_a_time:
        for place, group in enumerate(groups):
            try:
                results += run_tasks(group)
            except signals.Terminated as ended:
                left = [task for group in groups[place:] for task in group]
                return results + [TaskResult(task.key, ended_by=ended.name) for task in left]
    return results


async def describe_worker(mark: str, size: int) -> dict[str, str]:
    """Returns the versions of a worker's packages, and under "store" what is wrong with its view of the store."""
    versions = package_versions()
    until = time.monotonic() + STORE_S
    while True:
        try:
            reason = "" if Path(mark).stat().st_size == size else "it has another size there"
        except OSError as error:
            reason = error.strerror or str(error)
        if not reason or time.monotonic() > until:
            return versions | {"store": f"{mark} ({reason})" if reason else ""}
        await asyncio.sleep(0.5)


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name).partition("+")[0]  # CUDA or CPU is not a version
    return versions


def _objection(answer: Mapping[str, str] | BaseException | str) -> str:
    """Returns why a worker cannot be used, or "" where it can."""
    if not isinstance(answer, Mapping):
        return f"it cannot run segue ({answer})"
    here = package_versions()
    names = [name for name in here if answer.get(name) != here[name]]
    different = [f"{name} {answer.get(name, 'none')} (here {here[name]})" for name in names]
    if different:
        return f"it has other versions: {', '.join(different)}"
    return f"it does not see the store: {answer['store']}" if answer["store"] else ""


def _stage_worker(*, is_local: bool) -> Any:
    """Returns a plugin of Dask's workers: data stay in memory between stages, and SIGTERM saves a checkpoint.

    is_local: of this command's own processes, which end with it, and which Ctrl-C must not end before it does.
    """
    from distributed import WorkerPlugin

    class StageWorker(WorkerPlugin):
        name = "segue-stages"

        def setup(self, worker: Any) -> None:
            resident.enable()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, lambda number, frame: self._end(worker, number))
                if is_local:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
            if is_local:
                end_with_parent()

        def _end(self, worker: Any, number: int) -> None:
            signals.request_end(number)
            worker.loop.add_callback(_close_when_idle, worker)

    return StageWorker()


async def _close_when_idle(worker: Any) -> None:
    """Closes a worker when its training has saved a checkpoint and the driver knows."""
    while worker.state.executing or worker.state.ready or worker.data:
        await asyncio.sleep(0.2)
    await worker.close(nanny=False, reason="segue-ended-by-signal")  # a nanny starts another one


# processes of this machine


def local_cluster(workers: int) -> Any:
    """Returns a Dask cluster of processes on this machine; each has one GPU, where there are any."""
    from distributed import Nanny, Scheduler, SpecCluster

    environments = worker_environments(workers, visible_gpus())
    specs = {
        place: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": 0,
                "host": "127.0.0.1",
                "env": environment,
                "dashboard": False,
                "silence_logs": logging.ERROR,
            },
        }
        for place, environment in enumerate(environments)
    }
    addresses = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}  # or two studies want one port
    scheduler = {"cls": Scheduler, "options": {**addresses, "dashboard": False}}
    try:
        return SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.ERROR)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise SegueError(
            f"workers = {workers}: the worker processes did not start ({str(error).splitlines()[0]}); in a script of "
            'your own, call segue under `if __name__ == "__main__":`, since each worker imports the script again, or '
            "use workers=1."
        ) from error


def visible_gpus() -> list[str]:
    """Returns the names, for CUDA_VISIBLE_DEVICES, of the GPUs that this process may use."""
    if device.default_device() != "cuda":
        return []
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",") if listed is not None else [str(place) for place in range(torch.cuda.device_count())]


def worker_environments(workers: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """Returns the variables of each worker: the GPUs go to the workers in turn."""
    if not gpus:
        return [{} for _ in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(workers)]
