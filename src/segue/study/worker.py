"""The work of one task of a study: trains a stage and scores it, or several stages side by side."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segue import signals
from segue.errors import SegueError
from segue.training.run_folder import RunFolder
from segue.training.spec import DataSpec, StageSpec, TrainTask


@dataclass(frozen=True)
class StudyTask:
    """A training of a study and its evaluations; paths are absolute.

    parent_key: the training of the study that it starts from; evaluations: result file -> (domain, dataset file, what
    of it), on `part`; keep_weights: whether the weights stay when all is scored.
    """

    train: TrainTask
    label: str
    parent_key: str | None
    evaluations: Mapping[Path, tuple[str, Path, DataSpec]]
    part: str
    every_epoch: bool
    keep_weights: bool
    checkpoint_s: float

    @property
    def key(self) -> str:
        return self.train.key

    @property
    def folder(self) -> Path:
        return self.train.folder

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.train.folder)

    @property
    def spec(self) -> StageSpec:
        return self.train.spec


@dataclass(frozen=True)
class TaskResult:
    """The result of a task. `trained`: whether its weights exist, also when an evaluation failed."""

    key: str
    trained: bool = False
    error: str | None = None
    trace: str | None = None


def run_tasks(tasks: Sequence[StudyTask]) -> list[TaskResult]:
    """Trains and scores stages in this process, several side by side; never raises: a failure stops only its stage."""
    signals.raise_if_received()
    untrained = [task for task in tasks if not task.run.is_finished]
    failed: dict[str, TaskResult] = {}
    if len(untrained) > 1:
        try:
            failed = _train_side_by_side(untrained)
        except Exception as error:
            failed = {task.key: _failure(task, error, trained=False) for task in untrained}
    return [failed[task.key] if task.key in failed else _run_task(task, is_new=task in untrained) for task in tasks]


def _train_side_by_side(tasks: Sequence[StudyTask]) -> dict[str, TaskResult]:
    """Trains stages in one pass over their data; returns the results of the failed ones by key."""
    from segue.training.run import train_tasks

    errors = train_tasks([task.train for task in tasks], checkpoint_s=tasks[0].checkpoint_s)
    ended = zip(tasks, errors, strict=True)
    return {task.key: TaskResult(task.key, False, one_line(error)) for task, error in ended if error is not None}


def _run_task(task: StudyTask, *, is_new: bool) -> TaskResult:
    """Trains the stage if it is not finished, and scores it; `is_new`: its run did not exist before."""
    from segue.study.evaluate import score_missing
    from segue.training.run import train_tasks

    trained = False
    try:
        if not task.run.is_finished:
            (error,) = train_tasks([task.train], checkpoint_s=task.checkpoint_s)
            if error is not None:
                raise error
        elif not has_weights(task):
            _restore_weights(task)
            is_new = True
        trained = True
        part = "validation" if task.part == "validation" else "test"
        failed = score_missing(task.folder, task.evaluations, part, every_epoch=task.every_epoch)
        if failed:
            (domain, reason), others = next(iter(failed.items())), len(failed) - 1
            and_more = f" (and {others} more domains)" if others else ""
            return TaskResult(task.key, trained, f"evaluation on {domain}{and_more}: {reason}")
        if is_new and not task.keep_weights:  # files of another study must not be removed
            task.run.weights.unlink(missing_ok=True)
            task.run.last_weights.unlink(missing_ok=True)
            shutil.rmtree(task.run.epochs, ignore_errors=True)
        return TaskResult(task.key, trained)
    except Exception as error:
        return _failure(task, error, trained=trained)


def _failure(task: StudyTask, error: Exception, *, trained: bool) -> TaskResult:
    """Returns the result of a task that raised: with the traceback unless it is a mistake of the user."""
    if isinstance(error, SegueError):
        return TaskResult(task.key, trained, one_line(error))
    return TaskResult(task.key, trained, f"{type(error).__name__}: {one_line(error)}", traceback.format_exc())


def has_weights(task: StudyTask) -> bool:
    """Returns whether the weights that are still needed of a finished run exist."""
    run = task.run
    files = [run.weights]
    if task.every_epoch:  # fewer epochs than requested if it stopped early
        files += [run.epoch_weights(epoch) for epoch in range(1, run.read(run.metrics)["epochs"] + 1)]
    return all(file.exists() for file in files)


def _restore_weights(task: StudyTask) -> None:
    """Trains a finished run once more in another folder and copies the weights that were not kept: they are the
    same."""
    from segue.training.run import train_task

    again = RunFolder(task.folder.with_name(task.folder.name + ".again"))
    train_task(replace(task.train, folder=again.path), checkpoint_s=task.checkpoint_s)
    for file, target in (
        (again.epochs, task.run.epochs),
        (again.last_weights, task.run.last_weights),
        (again.weights, task.run.weights),
    ):
        if file.exists() and not target.exists():
            file.rename(target)
    shutil.rmtree(again.path, ignore_errors=True)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class TaskSizes:
    """Approximate sizes of trainings; each dataset is counted once.

    A training that cannot be counted, because its dataset failed, counts as one image of no bytes.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}

    def visits(self, task: StudyTask) -> int:
        """Returns how many images a training visits, for the progress of a study."""
        from segue.training.inputs.sampler import repeats_per_sample

        samples = sum(self._samples(task, item) for item in task.spec.data)
        return max(samples, 1) * task.spec.epochs * repeats_per_sample(task.spec)

    def bytes(self, task: StudyTask) -> int:
        """Returns how much memory the samples of a training take."""
        from segue.data.dataset import Dataset
        from segue.data.sources import bytes_needed

        needed = 0
        for item in task.spec.data:
            samples = self._samples(task, item)
            try:
                with Dataset(task.train.inputs.datasets[item.dataset][0]) as dataset:
                    needed += bytes_needed(dataset, samples)
            except SegueError:
                return 0
        return needed

    def _samples(self, task: StudyTask, item: DataSpec) -> int:
        """Returns how many of an item's samples a training takes."""
        samples, groups = self._count(task, item)
        if item.groups is not None:
            return samples if item.groups == "all" else item.groups * samples // max(groups, 1)
        return item.images if isinstance(item.images, int) else samples

    def _count(self, task: StudyTask, item: DataSpec) -> tuple[int, int]:
        """Returns the samples that meet the conditions, and their groups."""
        from segue.data.dataset import Dataset
        from segue.training.inputs.data import plain_conditions

        name = f"{item.dataset} {item.conditions}"
        if name not in self._counts:
            try:
                with Dataset(task.train.inputs.datasets[item.dataset][0]) as dataset:
                    indices = dataset.select(plain_conditions(item))
                    self._counts[name] = len(indices), len(set(dataset.samples()["group"][indices]))
            except SegueError:
                self._counts[name] = 1, 1
        return self._counts[name]
