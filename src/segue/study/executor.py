"""Which trainings of a study are run side by side in one pass over their data, because that is faster.

Models side by side share the reading of the data and its augmentation, which pays where these are a notable part of a
step: where the data are streamed from disk, and where images are resampled or their intensities changed. Each becomes
what it would have become alone, so that this is no part of a result.


Stages on a Dask cluster: worker processes of this machine, or a scheduler that runs elsewhere.

Runs a plan: datasets first, then trainings as their parents finish, each with its evaluations.

What is finished is left alone, what was interrupted goes on, what failed is recorded and tried again the next time;
what does not depend on a failed stage runs all the same.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from distributed import Client, LocalCluster, WorkerPlugin, as_completed

from segue.data.spec import AugmentSpec
from segue.errors import SegueError
from segue.storage import make_folder
from segue.study.plan import Plan, Train, external_parent
from segue.study.store import write_json
from segue.study.worker import Done, Work, bytes_of, effort_of, has_weights, one_line, perform
from segue.training.spec import StageSpec, shared_pass

MOST = 4  # models in one process: more would leave other workers without any, and gain little


def groups(works: Sequence[Work], *, workers: int, most: int | None) -> list[tuple[Work, ...]]:
    """Returns the works that are ready, in their order, those together that are to be trained side by side.

    most: how many at most, 1 for none; by default up to `MOST` where it pays, and never so many that a worker would
    be left without work.
    """
    alike: dict[str, list[Work]] = {}
    for work in works:
        alike.setdefault(shared_pass(work.spec) + repr(sorted(map(str, work.datasets.values()))), []).append(work)
    found: dict[str, tuple[Work, ...]] = {}
    for members in alike.values():
        size = most if most is not None else min(MOST, -(-len(works) // workers)) if pays(members[0]) else 1
        size = max(1, min(size, -(-len(members) // workers)))
        for start in range(0, len(members), size):
            found[members[start].key] = tuple(members[start : start + size])
    return [found[work.key] for work in works if work.key in found]


def pays(work: Work) -> bool:
    """Returns whether reading and augmentation are a notable part of a training."""
    changes = work.spec.augment
    if isinstance(changes, AugmentSpec) and (changes.resamples or changes.changes_intensity):
        return True
    return is_streamed(work)


def is_streamed(work: Work) -> bool:
    """Returns whether the samples of a training are probably more than its memory holds."""
    from segue.training.data import memory_limit

    limit = memory_limit(work.spec)
    return limit is not None and bytes_of(work) > limit


PR_SET_PDEATHSIG = 1
CONNECT_S = 20


class EndWithParent(WorkerPlugin):
    """Ends a worker when the process that started it is killed: it would go on training unwatched."""

    name = "end-with-parent"

    def setup(self, worker: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command ends its workers
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class OnCluster:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._works: dict[str, Sequence[Work]] = {}
        self._completed = as_completed(with_results=True, raise_errors=False)

    def submit(self, works: Sequence[Work]) -> None:
        key = works[0].key
        self._works[key] = works
        self._completed.add(self._client.submit(perform, works, key=key, pure=False))

    def next(self) -> list[Done]:
        future, result = next(self._completed)
        if isinstance(result, list):
            return result
        # a worker that died takes its exception's place: the stages resume from their checkpoints the next time
        error = result[1] if isinstance(result, tuple) else result
        told = f"its worker was lost ({error}); run the study again to go on from its checkpoint"
        return [Done(work.key, 0.0, False, told) for work in self._works[future.key]]


@contextmanager
def connected(workers: int, scheduler: str | None) -> Iterator[OnCluster]:
    """Gives a cluster of `workers` local processes with one thread each, or the one at `scheduler` (host:port)."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise SegueError(
                f"--scheduler {scheduler}: no Dask scheduler answers ({error}); give the address it printed when it "
                "started, such as tcp://host:8786."
            ) from error
        with client:
            yield OnCluster(client)
        return
    os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "60s")
    with _local_cluster(workers) as cluster, Client(cluster) as client:
        client.register_plugin(EndWithParent())
        yield OnCluster(client)


def _local_cluster(workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: a fixed one warns where two studies run
            silence_logs=logging.ERROR,
        )
    except RuntimeError as error:
        raise SegueError(
            f"workers = {workers}: the worker processes did not start ({str(error).splitlines()[0]}); in a script of "
            'your own, call segue under `if __name__ == "__main__":`, since each worker imports the script again, or '
            "use workers=1."
        ) from error


@dataclass(frozen=True)
class Event:
    """Progress: `done` of `total` of the thing that `text` names, which is the `share` (0 to 1) of its work."""

    text: str
    done: int
    total: int
    share: float | None = None


@dataclass(frozen=True)
class Summary:
    ran: int
    finished: int
    failed: int
    blocked: int
    seconds: float


class Executor(Protocol):
    def submit(self, works: Sequence[Work]) -> None:
        """Takes works to be done side by side."""
        ...

    def next(self) -> list[Done]:
        """Returns how the works of one submission ended, when they have."""
        ...


Watch = Callable[[Event], None]


class InProcess:
    """Runs one submission after another in this process."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence[Work]] = deque()

    def submit(self, works: Sequence[Work]) -> None:
        self._waiting.append(works)

    def next(self) -> list[Done]:
        return perform(self._waiting.popleft())


@contextmanager
def executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """Gives what runs stages: this process, `workers` processes of a local Dask cluster, or a running scheduler."""
    if scheduler is None and workers == 1:
        yield InProcess()
        return

    with connected(workers, scheduler) as cluster:
        yield cluster


def run_study(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    checkpoint_s: float = 60.0,
    side_by_side: int | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Runs all of a plan that is not finished; returns how many stages ran, failed or wait for a failed one.

    side_by_side: how many models at most share a pass over the data; by default as many as pay (`study.together`).
    """
    began = time.monotonic()
    tell: Watch = watch if watch is not None else (lambda event: None)
    make_folder(plan.store.folder)
    write_json(plan.store.plan_record(plan.study.spec.name), plan.record())
    unavailable = _make_datasets(plan, workers, tell)
    if force:
        for train in plan.trains:
            if not set(train.inputs) & unavailable.keys():
                shutil.rmtree(plan.store.run(train.key), ignore_errors=True)
        plan.store.look_again()
    works = {train.key: _work(plan, train, checkpoint_s) for train in plan.trains}
    pending = _pending(plan, works)
    for key, work in works.items():
        if key not in pending:
            _failure_file(work).unlink(missing_ok=True)
    failures: dict[str, str] = {}
    for train in plan.trains:
        lacking = [key for key in train.inputs if key in unavailable]
        if train.key in pending and lacking:
            failures[train.key] = f"its dataset failed: {unavailable[lacking[0]]}"
    with executor(workers, scheduler) if len(pending) > len(failures) else _nothing() as runner:
        ran = _flow(pending, failures, (runner, workers, side_by_side), tell)
    plan.store.look_again()
    blocked = len(pending) - ran.finished - ran.failed
    return replace(ran, blocked=blocked, seconds=time.monotonic() - began)


def _pending(plan: Plan, works: Mapping[str, Work]) -> dict[str, Work]:
    """Returns the works not complete, and with them the finished parents whose weights they need but were not kept."""
    pending = {key: work for key, work in works.items() if not plan.is_complete(key)}
    for train in reversed(plan.trains):  # children before parents
        parent = works.get(train.parent or "")
        untrained = train.key in pending and train.key not in plan.store.names()
        if parent is not None and untrained and not has_weights(parent):
            pending[parent.key] = parent
    return {key: work for key, work in works.items() if key in pending}


def _failure_file(work: Work) -> Path:
    return work.folder.with_name(f"{work.key}.failed.json")


@contextmanager
def _nothing() -> Iterator[Executor]:
    yield InProcess()


def _flow(
    works: Mapping[str, Work], failures: dict[str, str], how: tuple[Executor, int, int | None], tell: Watch
) -> Summary:
    """Runs the works whose parents are finished, and their children as they finish.

    how: what runs them, its number of workers, and how many models at most are trained side by side.
    """
    runner, workers, side_by_side = how
    children: dict[str, list[Work]] = {}
    for work in works.values():
        if work.parent_key in works:
            children.setdefault(str(work.parent_key), []).append(work)
    for key in list(failures):
        write_json(_failure_file(works[key]), {"label": works[key].label, "error": failures[key]})
        _block(key, children, failures, "a stage it descends from cannot run")
    ready = [w for w in works.values() if w.parent_key not in works and w.key not in failures]
    finished = failed = running = 0

    def submit(some: Sequence[Work]) -> int:
        found = groups(some, workers=workers, most=side_by_side)
        for together in found:
            runner.submit(together)
        return len(found)

    running += submit(ready)
    counted: dict[str, tuple[int, int]] = {}
    effort = {work.key: effort_of(work, counted) for work in works.values()}
    whole, spent = sum(effort.values()), 0
    tell(Event("trainings", 0, len(works), 0.0))
    while running:
        ended = runner.next()
        running -= 1
        following: list[Work] = []
        for done in ended:
            work = works[done.key]
            if done.error is not None:
                failed += 1
                failures[done.key] = done.error
                write_json(_failure_file(work), {"label": work.label, "error": done.error, "trace": done.trace})
            else:
                finished += 1
                _failure_file(work).unlink(missing_ok=True)
            if done.trained:  # children need its weights, not its scores
                following += [child for child in children.get(done.key, ()) if child.key not in failures]
            else:
                _block(done.key, children, failures, f"{work.label} failed")
            spent += effort[done.key]
        running += submit(following)
        tell(Event("trainings", finished + failed, len(works), spent / whole))
    return Summary(finished + failed, finished, failed, 0, 0.0)


def _block(key: str, children: Mapping[str, list[Work]], failures: dict[str, str], why: str) -> None:
    for child in children.get(key, ()):
        if child.key not in failures:
            failures[child.key] = f"not run: {why}"
            write_json(_failure_file(child), {"label": child.label, "error": failures[child.key]})
            _block(child.key, children, failures, why)


def _make_datasets(plan: Plan, workers: int, tell: Watch) -> dict[str, str]:
    """Makes the datasets that are missing; returns the keys of those that failed, and why."""
    unavailable: dict[str, str] = {}
    for key, member in plan.datasets.items():
        out = plan.store.dataset(key)
        if member.kind == "file" or out.exists():
            continue
        make_folder(out.parent)
        name = member.name

        def report(done: int, total: int, name: str = name) -> None:
            tell(Event(f"dataset {name}", done, total))

        try:
            member.make(out, workers=workers, progress=report)
            plan.store.failure(key).unlink(missing_ok=True)
        except SegueError as error:
            unavailable[key] = one_line(error)
            write_json(plan.store.failure(key), {"label": f"dataset {name}", "error": unavailable[key]})
        except Exception as error:  # recorded with its trace: what needs other datasets runs all the same
            unavailable[key] = f"{type(error).__name__}: {one_line(error)}"
            trace = traceback.format_exc()
            write_json(plan.store.failure(key), {"label": f"dataset {name}", "error": unavailable[key], "trace": trace})
    return unavailable


def dataset_file(plan: Plan, key: str) -> Path:
    """Returns where a dataset lies: in the store, or the user's own file."""
    member = plan.datasets[key]
    return (member.where if member.kind == "file" else plan.store.dataset(key)).absolute()


def _work(plan: Plan, train: Train, checkpoint_s: float) -> Work:
    spec, study = train.spec, plan.study.spec
    datasets = {item.dataset: (dataset_file(plan, key), key) for item, key in zip(spec.data, train.inputs, strict=True)}
    parent = plan.store.run(train.parent).absolute() if train.parent else None
    if parent is None and spec.parent is not None:
        parent = _outside(plan, spec)
    wanted = {
        plan.store.evaluation(train.key, plan.evaluation_key(e)).absolute(): (
            e.domain,
            dataset_file(plan, e.dataset),
            e.data,
        )
        for e in plan.evaluations
    }
    is_leaf = train.key not in plan.parent_keys
    return Work(
        train.key,
        train.label,
        plan.store.run(train.key).absolute(),
        spec,
        datasets,
        parent,
        train.parent,
        wanted,
        study.evaluate.part,
        study.evaluate.every_epoch,
        keep_weights=study.keep == "weights" or not is_leaf,
        checkpoint_s=checkpoint_s,
    )


def _outside(plan: Plan, spec: StageSpec) -> Path:
    """Returns an external parent: its run folder where it has one (for its groups), else the weights file."""
    file = external_parent(plan.study.path.parent, spec).absolute()
    return file.parent if spec.parent is not None and spec.parent.run is not None else file
