"""Runs a plan: datasets first, then trainings as their parents finish, each with its evaluations.

Finished stages are left unchanged, interrupted ones resume, failed ones are recorded and tried again the next time;
stages that do not depend on a failed one run regardless. Stages run where `workers.open_executor` says; a worker is
preferably given a stage with the data and the network of its last one, which it still has in memory.

Models that can share one pass over their data are trained side by side where reading and augmentation are a notable
part of a step: where the data are streamed from disk, and where images are resampled or their intensities changed. Each
ends with the same weights as if trained alone, so that this does not affect results. Stages with `side_by_side =
"approximate"`, which is part of their keys, are always grouped, and step at once where a GPU can (`training.fused`).

No step depends on the number of stages: a stage costs the same in a study of a hundred thousand.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segue import signals
from segue.data.prepare import stored_notes
from segue.data.spec import AugmentSpec
from segue.errors import SegueError
from segue.storage import make_folder, write_json
from segue.study.budget import Budget
from segue.study.cluster.workers import LOST, Executor, open_executor
from segue.study.domains import domain_warnings
from segue.study.plan import Plan, PlannedTraining
from segue.study.sizes import StageSizes, TimeLeft
from segue.study.worker import StudyTask, TaskResult, has_weights, one_line
from segue.training.identity import parent_path
from segue.training.spec import Inputs, StageSpec, TrainTask, shared_pass

MAX_SIDE_BY_SIDE = 4  # models in one process: more would leave other workers without any, and gain little


@dataclass(frozen=True)
class Event:
    """Progress: `done` of `total` items of the task named by `text`, the fraction `share` (0 to 1) of its work, and
    the seconds that the rest takes, by the items that were measured."""

    text: str
    done: int
    total: int
    share: float | None = None
    left_s: float | None = None


Progress = Callable[[Event], None]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Summary:
    """How many trainings ended how; `blocked` ones wait for what failed, `left` ones for the same command again.

    failed_datasets: name -> why; stopped: why the study ended before all was done ("" if it did not).
    """

    finished: int
    failed: int
    blocked: int
    failed_datasets: dict[str, str]
    seconds: float
    left: int = 0
    stopped: str = ""

    @property
    def complete(self) -> bool:
        return not (self.failed or self.blocked or self.failed_datasets or self.left)


def run_study(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    cluster: Path | None = None,
    budget: Budget | None = None,
    force: bool = False,
    checkpoint_s: float = 60.0,
    side_by_side: int | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Summary:
    """Runs all unfinished stages of a plan; returns how many stages ran, failed or wait for a failed one.

    workers, scheduler, cluster: where stages run (`workers.open_executor`); budget: what may be spent, after which
    started stages save a checkpoint and the rest is left for another time. side_by_side: maximum number of models that
    share a pass over the data; by default as many as saves time. log: receives what is noted of the datasets that are
    made, of workers, and, before any training, in what domains differ. Raises SegueError, before any work, where a
    package is missing that a stage needs.
    """
    began = time.monotonic()
    budget = Budget() if budget is None else budget
    report: Progress = progress if progress is not None else (lambda event: None)
    if not force and all(plan.is_complete(training.key) for training in plan.trainings) and _has_datasets(plan):
        return Summary(0, 0, 0, {}, time.monotonic() - began)  # nothing is written: the store may be read-only
    require_extras(plan)
    make_folder(plan.store.folder)
    record = plan.store.plan_record(plan.study.spec.name)
    write_json(record, plan.record())

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

    # trainings to be done or scored
    make_task = _TaskMaker(plan, checkpoint_s)
    unfinished = _unfinished(plan, make_task)
    for training in plan.trainings:
        if training.key not in unfinished and f"{training.key}.failed.json" in plan.store.existing():
            plan.store.failure(training.key).unlink(missing_ok=True)
    graph = _Graph(plan, unfinished, make_task, log)
    for training in unfinished.values() if failed_datasets else ():
        missing = [key for key in training.inputs if key in failed_datasets]
        if missing:
            graph.fail(training, f"its dataset failed: {failed_datasets[missing[0]]}")

    # trainings and evaluations
    stopped = ""
    if len(unfinished) > len(graph.failures):
        with open_executor(workers, scheduler, cluster, mark=record, log=log) as executor:
            stopped = graph.run(executor, workers, side_by_side, report, budget.since(began))
    plan.store.refresh()
    left = len(unfinished) - graph.finished - len(graph.failures) if stopped else 0
    return Summary(
        finished=graph.finished,
        failed=graph.failed,
        blocked=len(unfinished) - graph.finished - graph.failed - left,
        failed_datasets={plan.datasets[key].name: reason for key, reason in failed_datasets.items()},
        seconds=time.monotonic() - began,
        left=left,
        stopped=stopped,
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


class _TaskMaker:
    """Makes the tasks of trainings on request: what they share is made once."""

    def __init__(self, plan: Plan, checkpoint_s: float) -> None:
        self._plan, self._checkpoint_s = plan, checkpoint_s
        self._folder = plan.store.folder.absolute()
        files = {key: plan.dataset_file(key) for key in plan.datasets}
        self._datasets = {dataset.name: (files[key], key) for key, dataset in plan.datasets.items()}
        self._evaluations = {
            plan.evaluation_names[evaluation.domain]: (evaluation.domain, files[evaluation.dataset], evaluation.data)
            for evaluation in plan.evaluations
        }

    @property
    def dataset_files(self) -> dict[str, Path]:
        return {name: path for name, (path, _) in self._datasets.items()}

    def __call__(self, training: PlannedTraining) -> StudyTask:
        plan, spec = self._plan, training.spec
        datasets = {item.dataset: self._datasets[item.dataset] for item in spec.data}
        parent = plan.store.run(training.parent).absolute() if training.parent else None
        if parent is None and spec.parent is not None:
            parent = parent_path(spec.parent, plan.study.path.parent).absolute()
        return StudyTask(
            TrainTask(spec, plan.store.run(training.key).absolute(), training.key, Inputs(datasets, parent)),
            training.label,
            training.parent,
            self._evaluations,
            plan.study.spec.evaluate.part,
            plan.study.spec.evaluate.every_epoch,
            keep_weights=plan.study.spec.keep == "weights" or training.key in plan.parent_keys,
            checkpoint_s=self._checkpoint_s,
        )


def _unfinished(plan: Plan, make_task: Callable[[PlannedTraining], StudyTask]) -> dict[str, PlannedTraining]:
    """Returns the incomplete trainings, and finished parents whose weights they need but which were not kept."""
    keys = {training.key for training in plan.trainings if not plan.is_complete(training.key)}
    existing = plan.store.existing()
    parents = {training.key: training for training in plan.trainings if training.key in plan.parent_keys}
    lacks: dict[str, bool] = {}  # parent -> whether its weights are missing
    for training in reversed(plan.trainings):  # children before parents
        parent = parents.get(training.parent or "")
        if parent is not None and training.key in keys and training.key not in existing:
            if parent.key not in lacks:
                lacks[parent.key] = parent.key in existing and not has_weights(make_task(parent))
            if lacks[parent.key] or parent.key not in existing:
                keys.add(parent.key)
    return {training.key: training for training in plan.trainings if training.key in keys}


@dataclass
class _Graph:
    """The trainings to be run, and the results of those that ended; `failures`: key -> why it failed or cannot run;
    `notes`: those in the log."""

    plan: Plan
    trainings: Mapping[str, PlannedTraining]
    make_task: _TaskMaker
    log: Log | None = None
    failures: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0
    energy_J: float = 0.0
    notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.children: dict[str, list[PlannedTraining]] = {}
        for training in self.trainings.values():
            if training.parent in self.trainings:
                self.children.setdefault(str(training.parent), []).append(training)

    def run(self, executor: Executor, workers: int, side_by_side: int | None, report: Progress, budget: Budget) -> str:
        """Runs the trainings whose parents are finished, and their children as they finish; returns why it ended
        before all was done, or ""."""
        sizes = StageSizes(self.make_task.dataset_files)
        visits = {id(template): sizes.visits(template.spec) for template in self.plan.templates}
        kinds = {id(template): kind_of_stage(template.spec) for template in self.plan.templates}
        total, spent, left = 0, 0, TimeLeft()
        for training in self.trainings.values():
            if training.key not in self.failures:
                total += visits[id(training.template)]
                left.add(kinds[id(training.template)], visits[id(training.template)])
        grouping = Grouping(sizes, workers=workers, max_size=side_by_side)
        ready = ReadyQueue(kinds)
        roots = [training for training in self.trainings.values() if training.parent not in self.trainings]
        ready.extend(grouping.group([training for training in roots if training.key not in self.failures]))
        suspects: set[str] = set()  # may have ended their worker: nothing waits behind them
        report(Event("trainings", 0, len(self.trainings), 0.0))
        reason = ""
        with budget.ending_here():
            while (ready or executor.running()) and not reason:
                # give every worker that has room its next stages
                while ready and (worker := executor.free()) is not None:
                    count = min(executor.capacity(), -(-len(ready) // max(executor.workers(), 1)))
                    groups = [ready.take(worker)]
                    while len(groups) < count and ready and groups[-1][0].key not in suspects:
                        groups.append(ready.take(worker))
                    executor.submit(worker, [[self.make_task(training) for training in group] for group in groups])

                # record what ended
                try:
                    ended = executor.wait()
                except signals.Terminated:
                    if not budget.time_is_spent:
                        raise
                    reason = budget.spent(self.energy_J)
                    break
                for result in ended[1] if ended else ():
                    training = self.trainings[result.key]
                    if result.ended_by:
                        suspects |= {training.key} if result.ended_by == LOST else set()
                        ready.extend([(training,)])
                        continue
                    kind, size = kinds[id(training.template)], visits[id(training.template)]
                    is_measured = result.is_new and result.error is None
                    beside_s = result.seconds - result.training_s
                    left.finish(kind, size, result.training_s if is_measured else None, beside_s)
                    spent += size
                    self.energy_J += result.energy_J or 0.0
                    budget.require_measured(result)
                    ready.extend(grouping.group(self._record(result)))
                left_s = None if left.seconds is None else left.seconds / max(executor.workers(), 1)
                report(
                    Event("trainings", self.finished + self.failed, len(self.trainings), spent / max(total, 1), left_s)
                )
                if ready or executor.running():
                    reason = budget.spent(self.energy_J)
        if reason:
            for result in executor.end(signal.SIGTERM):
                if not result.ended_by:
                    self._record(result)
        return reason

    def _record(self, result: TaskResult) -> list[PlannedTraining]:
        """Records the result of a task; returns the children that can run now: they need its weights, not its
        scores."""
        training = self.trainings[result.key]
        failure = self.plan.store.failure(training.key)
        if result.error is None:
            self.finished += 1
            failure.unlink(missing_ok=True)
            if result.note and result.note not in self.notes and self.log is not None:
                self.log(f'side_by_side = "approximate": models step one after another, exactly: {result.note}')
                self.notes.add(result.note)
        else:
            self.failed += 1
            self.failures[training.key] = result.error
            write_json(failure, {"label": training.label, "error": result.error, "trace": result.trace})
        children = self.children.get(result.key, [])
        if result.trained:
            return [child for child in children if child.key not in self.failures]
        self._block(children, f"{training.label} failed")
        return []

    def fail(self, training: PlannedTraining, reason: str) -> None:
        """Records that a training and all its descendants cannot run."""
        self.failures[training.key] = reason
        write_json(self.plan.store.failure(training.key), {"label": training.label, "error": reason})
        self._block(self.children.get(training.key, []), "one of its ancestors cannot run")

    def _block(self, trainings: Iterable[PlannedTraining], reason: str) -> None:
        waiting = deque(trainings)
        while waiting:
            training = waiting.popleft()
            if training.key not in self.failures:
                self.failures[training.key] = f"not run: {reason}"
                content = {"label": training.label, "error": self.failures[training.key]}
                write_json(self.plan.store.failure(training.key), content)
                waiting += self.children.get(training.key, [])


# what runs together, and where


Group = tuple[PlannedTraining, ...]


def kind_of_stage(spec: StageSpec) -> str:
    """Returns the settings that stages share which use the same data, network and time per image: a worker goes on
    with them in memory."""
    fields = {"data", "split", "normalize", "network", "target", "freeze", "augment", "batch", "compile", "validation"}
    return spec.model_dump_json(include=fields)


class ReadyQueue:
    """The groups that can run now, by kind: a worker gets one of the kind of its last, while there are any.

    Otherwise it gets one of a kind that no worker is at, in the order of the study, or else the kind longest at hand.
    """

    def __init__(self, kinds: Mapping[int, str]) -> None:
        self._kinds = kinds
        self._groups: OrderedDict[str, deque[Group]] = OrderedDict()  # kind -> its groups, at least one
        self._open: OrderedDict[str, None] = OrderedDict()  # the kinds among them that no worker is at
        self._at: dict[str, str] = {}  # worker -> the kind of its last group
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, groups: Iterable[Group]) -> None:
        for group in groups:
            kind = self._kinds[id(group[0].template)]
            if kind not in self._groups:
                self._groups[kind] = deque()
                if kind not in self._at.values():
                    self._open[kind] = None
            self._groups[kind].append(group)
            self._count += 1

    def take(self, worker: str) -> Group:
        """Returns the next group for a worker; there must be one."""
        kind = self._at.get(worker)
        if kind not in self._groups:
            kind = next(iter(self._open)) if self._open else next(iter(self._groups))
            self._open.pop(kind, None)
            self._groups.move_to_end(kind)
            self._at[worker] = kind
        group = self._groups[kind].popleft()
        if not self._groups[kind]:
            del self._groups[kind]
        self._count -= 1
        return group


class Grouping:
    """Groups trainings that are to be trained side by side.

    max_size: how many at most, 1 for none; by default up to `MAX_SIDE_BY_SIDE` where it is worthwhile, and never so
    many that a worker would be left without work.
    """

    def __init__(self, sizes: StageSizes, *, workers: int, max_size: int | None) -> None:
        self._sizes, self._workers, self._max_size = sizes, workers, max_size
        self._passes: dict[int, tuple[str, bool]] = {}  # template -> what its pass is, whether sharing it is worthwhile

    def group(self, trainings: Sequence[PlannedTraining]) -> list[Group]:
        """Returns trainings that are ready, in their order, those together that are to be trained side by side."""
        alike: dict[tuple[str, int, int], list[PlannedTraining]] = {}
        for training in trainings:
            spec = training.template.spec
            data, _ = self._pass(training)
            order = training.seeds["init"] if spec.order == "own" else 0
            alike.setdefault((data, order, training.seeds["draw"]), []).append(training)
        groups: dict[str, Group] = {}
        for candidates in alike.values():
            size = self._max_size
            if size is None:
                is_worthwhile = self._pass(candidates[0])[1]
                size = min(MAX_SIDE_BY_SIDE, -(-len(trainings) // self._workers)) if is_worthwhile else 1
            size = max(1, min(size, -(-len(candidates) // self._workers)))
            for start in range(0, len(candidates), size):
                groups[candidates[start].key] = tuple(candidates[start : start + size])
        return [groups[training.key] for training in trainings if training.key in groups]

    def _pass(self, training: PlannedTraining) -> tuple[str, bool]:
        template = training.template
        if id(template) not in self._passes:
            augment = template.spec.augment
            costly = isinstance(augment, AugmentSpec) and (augment.resamples or augment.changes_intensity)
            name = shared_pass(template.spec.model_copy(update={"init": 0, "draw": 0})) + repr(
                sorted(template.datasets)
            )
            fused = template.spec.side_by_side == "approximate"
            is_worthwhile = self._max_size is None and (fused or costly or self._sizes.is_streamed(template.spec))
            self._passes[id(template)] = name + repr(sorted(template.datasets)), is_worthwhile
        return self._passes[id(template)]
