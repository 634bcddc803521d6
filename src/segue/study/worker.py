"""The work of one task of a study: trains a stage and scores it, or several stages side by side."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segue import signals
from segue.errors import SegueError
from segue.training.run_folder import RunFolder
from segue.training.spec import DataSpec, StageSpec, TrainTask


@dataclass(frozen=True)
class StudyTask:
    """A training of a study and its evaluations; paths are absolute.

    parent_key: the training of the study that it starts from; evaluations: name of the result in the run's folder of
    evaluations -> (domain, dataset file, what of it), on `part`; keep_weights: whether the weights stay when all is
    scored.
    """

    train: TrainTask
    label: str
    parent_key: str | None
    evaluations: Mapping[str, tuple[str, Path, DataSpec]]
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
    """The result of a task.

    trained: whether its weights exist, also when an evaluation failed; is_new: whether they were made here; seconds:
    what the task took here, its share of a pass with others, training_s: of these, the training; energy_J: of the
    training if it was done here and measured; note: why the models were trained exactly that may step at once;
    ended_by: what ended the worker, so that the task is neither finished nor failed.
    """

    key: str
    trained: bool = False
    error: str | None = None
    trace: str | None = None
    is_new: bool = False
    seconds: float = 0.0
    training_s: float = 0.0
    energy_J: float | None = None
    note: str = ""
    ended_by: str | None = None


def run_tasks(tasks: Sequence[StudyTask]) -> list[TaskResult]:
    """Trains and scores stages in this process, several side by side.

    A failure stops only its stage; a signal by which the process is asked to end is raised (`signals.Terminated`) when
    checkpoints are saved.
    """
    signals.raise_if_received()
    began = time.monotonic()
    untrained = [task for task in tasks if not task.run.is_finished]
    failed: dict[str, TaskResult] = {}
    if len(untrained) > 1:
        try:
            failed = _train_side_by_side(untrained)
        except Exception as error:
            failed = {task.key: _failure(task, error, trained=False) for task in untrained}
    results = [failed[task.key] if task.key in failed else _run_task(task, is_new=task in untrained) for task in tasks]
    seconds = (time.monotonic() - began) / len(tasks)
    return [
        replace(result, is_new=True, seconds=seconds, **_spent(task, seconds))
        if task in untrained and result.trained
        else replace(result, seconds=seconds)
        for task, result in zip(tasks, results, strict=True)
    ]


def _spent(task: StudyTask, seconds: float) -> dict[str, Any]:
    """Returns the time, of `seconds`, and the energy of a training that was finished here, and what is noted of it."""
    try:
        timing, metrics = task.run.read(task.run.timing), task.run.read(task.run.metrics)
    except SegueError:
        return {}
    how = metrics.get("side_by_side", {})
    note = how.get("why_exact", "") if how.get("steps") == "exact" else ""
    return {"training_s": min(timing["seconds"], seconds), "energy_J": timing["energy_J"], "note": note}


def _train_side_by_side(tasks: Sequence[StudyTask]) -> dict[str, TaskResult]:
    """Trains stages in one pass over their data; returns the results of the failed ones by key."""
    from segue.training.run import train_tasks

    errors = train_tasks([task.train for task in tasks], checkpoint_s=tasks[0].checkpoint_s)
    ended = zip(tasks, errors, strict=True)
    return {task.key: TaskResult(task.key, False, one_line(error)) for task, error in ended if error is not None}


def _run_task(task: StudyTask, *, is_new: bool) -> TaskResult:
    """Trains the stage if it is not finished, and scores it; `is_new`: its run did not exist before."""
    from segue.study.evaluate import score_missing
    from segue.training.run import lock_run, train_tasks

    trained = False
    try:
        if not task.run.is_finished:
            (error,) = train_tasks([task.train], checkpoint_s=task.checkpoint_s)
            if error is not None:
                raise error
        with lock_run(task.run):  # another process may be at the same stage, of this study or of another
            unscored = any(not (task.run.evaluations / name).exists() for name in task.evaluations)
            if (unscored or task.keep_weights) and not has_weights(task):
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
    """Trains a finished run once more in another folder and copies the weights that were not kept: they are the same.

    Those of models that stepped at once would be the same within rounding only: the new run takes the place of the old
    one, without its scores.
    """
    from segue.training.run import train_task

    again = RunFolder(task.folder.with_name(task.folder.name + ".again"))
    train_task(replace(task.train, folder=again.path), checkpoint_s=task.checkpoint_s)
    if task.run.read(task.run.metrics).get("side_by_side", {}).get("fused_steps"):
        shutil.rmtree(task.folder)
        again.path.rename(task.folder)
        return
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
