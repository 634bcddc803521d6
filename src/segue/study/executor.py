"""Runs a plan: datasets first, then trainings as their parents finish, each with its evaluations.

Finished stages are left unchanged, interrupted ones resume, failed ones are recorded and tried again the next time;
stages that do not depend on a failed one run regardless. Stages run in this process, in worker processes of this
machine, or on a Dask scheduler that runs elsewhere.

Models that can share one pass over their data are trained side by side where reading and augmentation are a notable
part of a step: where the data are streamed from disk, and where images are resampled or their intensities changed. Each
ends with the same weights as if trained alone, so that this does not affect results.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from segue import signals
from segue.data.prepare import stored_notes
from segue.data.spec import AugmentSpec
from segue.errors import SegueError
from segue.parallel import connect, end_with_parent
from segue.storage import make_folder, write_json
from segue.study.domains import domain_warnings
from segue.study.plan import Plan, PlannedTraining
from segue.study.worker import StudyTask, TaskResult, TaskSizes, has_weights, one_line, run_tasks
from segue.training.identity import parent_path
from segue.training.spec import Inputs, TrainTask, shared_pass

MAX_SIDE_BY_SIDE = 4  # models in one process: more would leave other workers without any, and gain little

END_S = 25  # to save checkpoints when asked to end: clusters kill after 30 s


@dataclass(frozen=True)
class Event:
    """Progress: `done` of `total` items of the task named by `text`, the fraction `share` (0 to 1) of its work."""

    text: str
    done: int
    total: int
    share: float | None = None


Progress = Callable[[Event], None]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """How many trainings ended how; `blocked` ones wait for what failed. `failed_datasets`: name -> why."""

    finished: int
    failed: int
    blocked: int
    failed_datasets: dict[str, str]
    seconds: float

    @property
    def complete(self) -> bool:
        return not (self.failed or self.blocked or self.failed_datasets)


def run_study(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    checkpoint_s: float = 60.0,
    side_by_side: int | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Summary:
    """Runs all unfinished stages of a plan; returns how many stages ran, failed or wait for a failed one.

    side_by_side: maximum number of models that share a pass over the data; by default as many as saves time.
    log: receives what is noted of the datasets that are made, and, before any training, in what domains differ.
    Raises SegueError, before any work, where a package is missing that a stage needs.
    """
    began = time.monotonic()
    report: Progress = progress if progress is not None else (lambda event: None)
    if not force and all(plan.is_complete(training.key) for training in plan.trainings) and _has_datasets(plan):
        return Summary(0, 0, 0, {}, time.monotonic() - began)  # nothing is written: the store may be read-only
    require_extras(plan)
    make_folder(plan.store.folder)
    write_json(plan.store.plan_record(plan.study.spec.name), plan.record())

    # datasets
    failed_datasets = _make_datasets(plan, workers, report, log)
    if log is not None:
        for sentence in domain_warnings(plan):
            log(sentence)
    if force:
        for training in plan.trainings:
            if not set(training.inputs) & failed_datasets.keys():
                shutil.rmtree(plan.store.run(training.key), ignore_errors=True)
        plan.store.refresh()

    # tasks to be trained or scored
    tasks = {training.key: _study_task(plan, training, checkpoint_s) for training in plan.trainings}
    unfinished = _unfinished(plan, tasks)
    for key in tasks.keys() - unfinished.keys():
        plan.store.failure(key).unlink(missing_ok=True)
    graph = _Graph(plan, unfinished)
    for training in plan.trainings:
        missing = [key for key in training.inputs if key in failed_datasets]
        if training.key in unfinished and missing:
            graph.fail(unfinished[training.key], f"its dataset failed: {failed_datasets[missing[0]]}")

    # trainings and evaluations
    if len(unfinished) > len(graph.failures):
        with open_executor(workers, scheduler) as executor:
            graph.run(executor, workers, side_by_side, report)
    plan.store.refresh()
    return Summary(
        finished=graph.finished,
        failed=graph.failed,
        blocked=len(unfinished) - graph.finished - graph.failed,
        failed_datasets={plan.datasets[key].name: reason for key, reason in failed_datasets.items()},
        seconds=time.monotonic() - began,
    )


def require_extras(plan: Plan) -> None:
    """Raises SegueError where something that is still to be done needs a package that is not installed."""
    if importlib.util.find_spec("tensorboard") is not None:
        return
    existing = plan.store.existing()
    for training in plan.trainings:
        if training.template.spec.tensorboard and training.key not in existing:
            raise SegueError(
                f"{plan.study.path}: {training.label} needs tensorboard, not installed in this Python; run "
                "`pip install 'segue[tensorboard]'`. Nothing was run."
            )


def _has_datasets(plan: Plan) -> bool:
    """Returns whether every dataset is there, and none has a record of an earlier failure."""
    return all(plan.dataset_file(key).exists() and not plan.store.failure(key).exists() for key in plan.datasets)


def _make_datasets(plan: Plan, workers: int, report: Progress, log: Log | None) -> dict[str, str]:
    """Makes the datasets that are missing; returns the keys of those that failed, and why."""
    failed: dict[str, str] = {}
    for key, dataset in plan.datasets.items():
        out = plan.dataset_file(key)
        if dataset.kind == "file" or out.exists():
            continue
        make_folder(out.parent)
        name = f"dataset {dataset.name}"

        def progress(done: int, total: int, name: str = name) -> None:
            report(Event(name, done, total))

        try:
            dataset.make(out, workers=workers, progress=progress)
            if log is not None:
                for note in stored_notes(out):
                    log(f"{name}: {note}")
            plan.store.failure(key).unlink(missing_ok=True)
        except SegueError as error:
            failed[key] = one_line(error)
            write_json(plan.store.failure(key), {"label": name, "error": failed[key]})
        except Exception as error:  # recorded with its trace: what needs other datasets runs all the same
            failed[key] = f"{type(error).__name__}: {one_line(error)}"
            trace = traceback.format_exc()
            write_json(plan.store.failure(key), {"label": name, "error": failed[key], "trace": trace})
    return failed


def _study_task(plan: Plan, training: PlannedTraining, checkpoint_s: float) -> StudyTask:
    spec, study = training.spec, plan.study.spec
    datasets = {
        item.dataset: (plan.dataset_file(key), key) for item, key in zip(spec.data, training.inputs, strict=True)
    }
    parent = plan.store.run(training.parent).absolute() if training.parent else None
    if parent is None and spec.parent is not None:
        parent = parent_path(spec.parent, plan.study.path.parent).absolute()
    folder = plan.store.run(training.key).absolute()
    return StudyTask(
        TrainTask(spec, folder, training.key, Inputs(datasets, parent)),
        training.label,
        training.parent,
        {
            plan.store.evaluation(training.key, plan.evaluation_key(evaluation)).absolute(): (
                evaluation.domain,
                plan.dataset_file(evaluation.dataset),
                evaluation.data,
            )
            for evaluation in plan.evaluations
        },
        study.evaluate.part,
        study.evaluate.every_epoch,
        keep_weights=study.keep == "weights" or training.key in plan.parent_keys,
        checkpoint_s=checkpoint_s,
    )


def _unfinished(plan: Plan, tasks: Mapping[str, StudyTask]) -> dict[str, StudyTask]:
    """Returns the incomplete tasks, and finished parents whose weights they need but which were not kept."""
    keys = {key for key in tasks if not plan.is_complete(key)}
    for training in reversed(plan.trainings):  # children before parents
        parent = tasks.get(training.parent or "")
        is_untrained = training.key in keys and training.key not in plan.store.existing()
        if parent is not None and is_untrained and not has_weights(parent):
            keys.add(parent.key)
    return {key: task for key, task in tasks.items() if key in keys}


@dataclass
class _Graph:
    """The tasks to be run, and the results of those that ended; `failures`: key -> why it failed or cannot run."""

    plan: Plan
    tasks: Mapping[str, StudyTask]
    failures: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.children: dict[str, list[StudyTask]] = {}
        for task in self.tasks.values():
            if task.parent_key in self.tasks:
                self.children.setdefault(str(task.parent_key), []).append(task)

    def run(self, executor: Executor, workers: int, side_by_side: int | None, report: Progress) -> None:
        """Runs the tasks whose parents are finished, and their children as they finish."""
        sizes = TaskSizes()
        cost = {task.key: sizes.visits(task) for task in self.tasks.values()}
        total, spent = sum(cost.values()), 0

        def submit(tasks: Sequence[StudyTask]) -> int:
            groups = group_tasks(tasks, workers=workers, max_size=side_by_side)
            for group in groups:
                executor.submit(group)
            return len(groups)

        roots = [task for task in self.tasks.values() if task.parent_key not in self.tasks]
        running = submit([task for task in roots if task.key not in self.failures])
        report(Event("trainings", 0, len(self.tasks), 0.0))
        while running:
            results = executor.next()
            running -= 1
            ready: list[StudyTask] = []
            for result in results:
                ready += self._record(result)
                spent += cost[result.key]
            running += submit(ready)
            report(Event("trainings", self.finished + self.failed, len(self.tasks), spent / total))

    def _record(self, result: TaskResult) -> list[StudyTask]:
        """Records the result of a task; returns the children that can run now: they need its weights, not its
        scores."""
        task = self.tasks[result.key]
        if result.error is None:
            self.finished += 1
            self.plan.store.failure(task.key).unlink(missing_ok=True)
        else:
            self.failed += 1
            self.failures[task.key] = result.error
            content = {"label": task.label, "error": result.error, "trace": result.trace}
            write_json(self.plan.store.failure(task.key), content)
        children = self.children.get(result.key, [])
        if result.trained:
            return [child for child in children if child.key not in self.failures]
        self._block(children, f"{task.label} failed")
        return []

    def fail(self, task: StudyTask, reason: str) -> None:
        """Records that a task and all its descendants cannot run."""
        self.failures[task.key] = reason
        write_json(self.plan.store.failure(task.key), {"label": task.label, "error": reason})
        self._block(self.children.get(task.key, []), "one of its ancestors cannot run")

    def _block(self, tasks: Iterable[StudyTask], reason: str) -> None:
        waiting = deque(tasks)
        while waiting:
            task = waiting.popleft()
            if task.key not in self.failures:
                self.failures[task.key] = f"not run: {reason}"
                write_json(self.plan.store.failure(task.key), {"label": task.label, "error": self.failures[task.key]})
                waiting += self.children.get(task.key, [])


# trainings side by side


def group_tasks(tasks: Sequence[StudyTask], *, workers: int, max_size: int | None) -> list[tuple[StudyTask, ...]]:
    """Returns the tasks that are ready, in their order, those together that are to be trained side by side.

    max_size: how many at most, 1 for none; by default up to `MAX_SIDE_BY_SIDE` where it is worthwhile, and never so
    many that a worker would be left without work.
    """
    alike: dict[str, list[StudyTask]] = {}
    for task in tasks:
        data = repr(sorted(map(str, task.train.inputs.datasets.values())))
        alike.setdefault(shared_pass(task.spec) + data, []).append(task)
    groups: dict[str, tuple[StudyTask, ...]] = {}
    for candidates in alike.values():
        size = max_size
        if size is None:
            size = min(MAX_SIDE_BY_SIDE, -(-len(tasks) // workers)) if is_worthwhile(candidates[0]) else 1
        size = max(1, min(size, -(-len(candidates) // workers)))
        for start in range(0, len(candidates), size):
            groups[candidates[start].key] = tuple(candidates[start : start + size])
    return [groups[task.key] for task in tasks if task.key in groups]


def is_worthwhile(task: StudyTask) -> bool:
    """Returns whether reading and augmentation are a notable part of a training."""
    augment = task.spec.augment
    if isinstance(augment, AugmentSpec) and (augment.resamples or augment.changes_intensity):
        return True
    return is_streamed(task)


def is_streamed(task: StudyTask) -> bool:
    """Returns whether the samples of a training are probably more than its memory holds."""
    from segue.training.inputs.data import memory_limit

    limit = memory_limit(task.spec)
    return limit is not None and TaskSizes().bytes(task) > limit


# where tasks run


class Executor(Protocol):
    def submit(self, tasks: Sequence[StudyTask]) -> None:
        """Takes tasks to be run side by side."""
        ...

    def next(self) -> list[TaskResult]:
        """Waits for the tasks of one submission and returns their results."""
        ...


@contextmanager
def open_executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """Gives the executor of tasks: this process, `workers` processes of a local Dask cluster, or a running
    scheduler."""
    if scheduler is None and workers == 1:
        yield LocalExecutor()
        return
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        with connect(scheduler) as client:
            yield ClusterExecutor(client)
        return
    os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "60s")
    with _local_cluster(workers) as cluster, Client(cluster) as client:
        client.register_plugin(_end_with_parent())
        executor = ClusterExecutor(client)
        try:
            yield executor
        except signals.Terminated as ended:
            executor.end(ended.number)
            raise


class LocalExecutor:
    """Runs one submission after another in this process."""

    def __init__(self) -> None:
        self._waiting: deque[Sequence[StudyTask]] = deque()

    def submit(self, tasks: Sequence[StudyTask]) -> None:
        self._waiting.append(tasks)

    def next(self) -> list[TaskResult]:
        return run_tasks(self._waiting.popleft())


class ClusterExecutor:
    """Runs submissions on the workers of a Dask cluster, one at a time on each."""

    def __init__(self, client: Any) -> None:
        from distributed import as_completed

        self._client = client
        self._tasks: dict[str, Sequence[StudyTask]] = {}
        self._running: dict[str, Any] = {}  # key of the first task of a submission -> its future
        self._completed = as_completed(with_results=True, raise_errors=False)

    def submit(self, tasks: Sequence[StudyTask]) -> None:
        key = tasks[0].key
        self._tasks[key] = tasks
        self._running[key] = self._client.submit(_run_until_signal, tasks, key=key, pure=False)
        self._completed.add(self._running[key])

    def end(self, number: int) -> None:
        """Asks the workers to end as the signal does, and waits until their trainings have saved a checkpoint."""
        from distributed import wait

        self._client.run(signals.request_end, number)
        with suppress(TimeoutError):
            wait(list(self._running.values()), timeout=END_S)

    def next(self) -> list[TaskResult]:
        future, result = next(self._completed)
        self._running.pop(future.key, None)
        if isinstance(result, list):
            return result
        # a worker that died leaves an exception: the stages resume from their checkpoints the next time
        error = result[1] if isinstance(result, tuple) else result
        message = f"its worker was lost ({error}); run the study again to resume from its checkpoint"
        return [TaskResult(task.key, False, message) for task in self._tasks[future.key]]


def _run_until_signal(tasks: Sequence[StudyTask]) -> list[TaskResult]:
    """Runs tasks in a worker; one that was asked to end is not a failure, whose trace Dask would print."""
    try:
        return run_tasks(tasks)
    except signals.Terminated as ended:
        message = f"its worker was ended by {ended.name}; run the study again to resume from its checkpoint"
        return [TaskResult(task.key, False, message) for task in tasks]


def _local_cluster(workers: int) -> Any:
    from distributed import LocalCluster

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


def _end_with_parent() -> Any:
    """Returns a plugin that ends a worker when the process that started it is killed; otherwise it would continue."""
    from distributed import WorkerPlugin

    class EndWithParent(WorkerPlugin):
        name = "end-with-parent"

        def setup(self, worker: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command ends them
                signal.signal(signal.SIGTERM, lambda number, frame: signals.request_end(number))  # so may SIGTERM
            end_with_parent()

    return EndWithParent()
