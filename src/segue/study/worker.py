"""One training of a study with its evaluations: what a worker is given, what it does, what it gives back."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.errors import SegueError
from segue.training.spec import DataSpec, StageSpec


@dataclass(frozen=True)
class Work:
    """All that a worker needs for one training and its evaluations; paths are absolute."""

    key: str
    label: str
    folder: Path
    spec: StageSpec
    datasets: Mapping[str, tuple[Path, str]]
    parent: Path | None
    parent_key: str | None
    evaluations: Mapping[Path, tuple[str, Path, DataSpec]]
    part: str
    every_epoch: bool
    keep_weights: bool
    checkpoint_s: float


@dataclass(frozen=True)
class Done:
    """How a work ended. `trained` says whether its weights are there, also when an evaluation failed."""

    key: str
    seconds: float
    trained: bool = False
    error: str | None = None
    trace: str | None = None


def perform(works: Sequence[Work]) -> list[Done]:
    """Trains and scores stages in this process, several side by side; never raises, so that a failure stays its own."""
    from segue.training.run_folder import is_finished

    began = time.monotonic()
    failed: dict[str, Done] = {}
    there = {work.key for work in works if is_finished(work.folder)}
    if len(works) - len(there) > 1:
        try:
            failed = _train_together([work for work in works if work.key not in there])
        except Exception as error:  # as below
            told = f"{type(error).__name__}: {one_line(error)}"
            trace = traceback.format_exc()
            failed = {work.key: Done(work.key, 0.0, False, told, trace) for work in works if work.key not in there}
    spent = (time.monotonic() - began) / len(works)
    return [
        failed[work.key] if work.key in failed else _perform_one(work, spent, new=work.key not in there)
        for work in works
    ]


def _train_together(works: Sequence[Work]) -> dict[str, Done]:
    """Trains stages side by side; returns how the ones that failed ended, by key."""
    from segue.training.data import Inputs
    from segue.training.run import Stage, train_fleet

    began = time.monotonic()
    stages = [Stage(w.spec, w.folder, w.key, Inputs(w.datasets, w.parent)) for w in works]
    errors = train_fleet(stages, checkpoint_s=works[0].checkpoint_s)
    seconds = (time.monotonic() - began) / len(works)
    return {
        work.key: Done(work.key, seconds, False, one_line(error))
        for work, error in zip(works, errors, strict=True)
        if error is not None
    }


def _perform_one(work: Work, spent: float, *, new: bool) -> Done:
    """Trains the stage if that is still to be done, and scores it.

    `spent` seconds went before; `new` says that its run was not there when this process began with it.
    """
    from segue.study.evaluate import score_missing
    from segue.training.data import Inputs
    from segue.training.run import train_stage
    from segue.training.run_folder import is_finished

    began = time.monotonic() - spent
    trained = False
    try:
        regained = False
        if not is_finished(work.folder):
            inputs = Inputs(work.datasets, work.parent)
            train_stage(work.spec, work.folder, key=work.key, inputs=inputs, checkpoint_s=work.checkpoint_s)
        elif not has_weights(work):
            _regain_weights(work)
            regained = True
        trained = True
        part = "validation" if work.part == "validation" else "test"
        failed = score_missing(work.folder, work.evaluations, part, every_epoch=work.every_epoch)
        if failed:
            (domain, why), more = next(iter(failed.items())), len(failed) - 1
            and_more = f" (and {more} more domains)" if more else ""
            return Done(work.key, time.monotonic() - began, trained, f"evaluation on {domain}{and_more}: {why}")
        mine = regained or new  # what another study left there is not this one's to remove
        if mine and not work.keep_weights:
            for name in ("weights.safetensors", "last.safetensors"):
                (work.folder / name).unlink(missing_ok=True)
            shutil.rmtree(work.folder / "epochs", ignore_errors=True)
        return Done(work.key, time.monotonic() - began, trained)
    except SegueError as error:
        return Done(work.key, time.monotonic() - began, trained, one_line(error))
    except Exception as error:  # recorded with its trace: the study goes on without this stage
        told = f"{type(error).__name__}: {one_line(error)}"
        return Done(work.key, time.monotonic() - began, trained, told, traceback.format_exc())


def epochs_of(run: Path) -> int:
    """Returns how many epochs a finished run trained: fewer than asked for where it stopped early."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["epochs"]


def has_weights(work: Work) -> bool:
    """Returns whether the weights that a finished run still has to give are there."""
    wanted = [work.folder / "weights.safetensors"]
    if work.every_epoch:
        wanted += [work.folder / "epochs" / f"{epoch}.safetensors" for epoch in range(1, epochs_of(work.folder) + 1)]
    return all(file.exists() for file in wanted)


def _regain_weights(work: Work) -> None:
    """Trains a finished run once more beside itself and takes the weights that were not kept: they are the same."""
    from segue.training.data import Inputs
    from segue.training.run import train_stage

    again = work.folder.with_name(work.folder.name + ".again")
    inputs = Inputs(work.datasets, work.parent)
    train_stage(work.spec, again, key=work.key, inputs=inputs, checkpoint_s=work.checkpoint_s)
    for name in ("epochs", "last.safetensors", "weights.safetensors"):
        if (again / name).exists() and not (work.folder / name).exists():
            (again / name).rename(work.folder / name)
    shutil.rmtree(again, ignore_errors=True)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def effort_of(work: Work, counted: dict[str, tuple[int, int]]) -> int:
    """Returns about how many images a training visits, to tell how far a study has come.

    `counted` keeps the samples and groups of what was counted before. What cannot be counted, because its dataset
    failed, stands as one image.
    """
    visited = 0
    for item in work.spec.data:
        samples, groups = _counted(work, item, counted)
        visited += _taken(item, samples, groups)
    return max(visited, 1) * work.spec.epochs * (8 if work.spec.augment == "dihedral-all" else 1)


def _taken(item: DataSpec, samples: int, groups: int) -> int:
    """Returns about how many of an item's samples, which are in so many groups, a training takes."""
    if item.groups is not None:
        return samples if item.groups == "all" else item.groups * samples // max(groups, 1)
    return item.images if isinstance(item.images, int) else samples


def bytes_of(work: Work) -> int:
    """Returns about how much memory the samples of a training take; 0 where its dataset cannot be read."""
    from segue.data.dataset import Dataset
    from segue.data.sources import bytes_needed

    counted: dict[str, tuple[int, int]] = {}
    needed = 0
    for item in work.spec.data:
        samples, groups = _counted(work, item, counted)
        try:
            with Dataset(work.datasets[item.dataset][0]) as dataset:
                needed += bytes_needed(dataset, _taken(item, samples, groups))
        except SegueError:
            return 0
    return needed


def _counted(work: Work, item: DataSpec, counted: dict[str, tuple[int, int]]) -> tuple[int, int]:
    name = f"{item.dataset} {item.conditions}"
    if name not in counted:
        from segue.data.dataset import Dataset
        from segue.training.data import plain_conditions

        try:
            with Dataset(work.datasets[item.dataset][0]) as dataset:
                indices = dataset.select(plain_conditions(item))
                counted[name] = len(indices), len(set(dataset.samples()["group"][indices]))
        except SegueError:
            counted[name] = 1, 1
    return counted[name]
