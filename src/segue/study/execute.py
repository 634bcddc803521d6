"""Runs a plan: datasets first, then trainings as their parents finish, each with its evaluations.

What is finished is left alone, what was interrupted goes on, what failed is recorded and tried again the next time;
what does not depend on a failed stage runs all the same.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from segue.data.files import make_folder
from segue.errors import SegueError
from segue.study.plan import Plan, Train, external_parent
from segue.study.store import write_json
from segue.training.stage import DataSpec, StageSpec


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
    key: str
    seconds: float
    error: str | None = None
    trace: str | None = None


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
    def submit(self, work: Work) -> None: ...

    def next(self) -> Done: ...


Watch = Callable[[Event], None]


def perform(work: Work) -> Done:
    """Trains and scores one stage in this process; never raises, so that a failure stays one stage's own."""
    from segue.study.scoring import score_missing
    from segue.training.loading import Inputs
    from segue.training.run import is_finished, train_stage

    began = time.monotonic()
    try:
        found = is_finished(work.folder)
        if not found:
            inputs = Inputs(work.datasets, work.parent)
            train_stage(work.spec, work.folder, key=work.key, inputs=inputs, checkpoint_s=work.checkpoint_s)
        elif not _has_weights(work):
            _regain_weights(work)
        part = "validation" if work.part == "validation" else "test"
        failed = score_missing(work.folder, work.evaluations, part, every_epoch=work.every_epoch)
        if failed:
            (domain, why), more = next(iter(failed.items())), len(failed) - 1
            and_more = f" (and {more} more domains)" if more else ""
            return Done(work.key, time.monotonic() - began, f"evaluation on {domain}{and_more}: {why}")
        if not (work.keep_weights or found):  # what another study left there is not this one's to remove
            for name in ("weights.safetensors", "last.safetensors"):
                (work.folder / name).unlink(missing_ok=True)
            shutil.rmtree(work.folder / "epochs", ignore_errors=True)
        return Done(work.key, time.monotonic() - began)
    except SegueError as error:
        return Done(work.key, time.monotonic() - began, _one_line(error))
    except Exception as error:  # recorded with its trace: the study goes on without this stage
        told = f"{type(error).__name__}: {_one_line(error)}"
        return Done(work.key, time.monotonic() - began, told, traceback.format_exc())


def _has_weights(work: Work) -> bool:
    """Returns whether the weights that a finished run still has to give are there."""
    wanted = [work.folder / "weights.safetensors"]
    if work.every_epoch:
        wanted += [work.folder / "epochs" / f"{epoch}.safetensors" for epoch in range(1, work.spec.epochs + 1)]
    return all(file.exists() for file in wanted)


def _regain_weights(work: Work) -> None:
    """Trains a finished run once more beside itself and takes the weights that were not kept: they are the same."""
    from segue.training.loading import Inputs
    from segue.training.run import train_stage

    again = work.folder.with_name(work.folder.name + ".again")
    inputs = Inputs(work.datasets, work.parent)
    train_stage(work.spec, again, key=work.key, inputs=inputs, checkpoint_s=work.checkpoint_s)
    for name in ("epochs", "last.safetensors", "weights.safetensors"):
        if (again / name).exists() and not (work.folder / name).exists():
            (again / name).rename(work.folder / name)
    shutil.rmtree(again, ignore_errors=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class InProcess:
    """Runs one stage after another in this process."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()

    def submit(self, work: Work) -> None:
        self._waiting.append(work)

    def next(self) -> Done:
        return perform(self._waiting.popleft())


@contextmanager
def executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    """Gives what runs stages: this process, `workers` processes of a local Dask cluster, or a running scheduler."""
    if scheduler is None and workers == 1:
        yield InProcess()
        return
    from segue.study.cluster import connected

    with connected(workers, scheduler) as cluster:
        yield cluster


def run_study(
    plan: Plan,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    checkpoint_s: float = 60.0,
    watch: Watch | None = None,
) -> Summary:
    """Runs all of a plan that is not finished; returns how many stages ran, failed or wait for a failed one."""
    began = time.monotonic()
    tell: Watch = watch if watch is not None else (lambda event: None)
    make_folder(plan.store.folder)
    if force:
        for train in plan.trains:
            shutil.rmtree(plan.store.run(train.key), ignore_errors=True)
    unavailable = _make_datasets(plan, workers, tell)
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
        ran = _flow(pending, failures, runner, tell)
    write_json(plan.store.plan_record(plan.study.spec.name), plan.record())
    plan.store.look_again()
    blocked = len(pending) - ran.finished - ran.failed
    return replace(ran, blocked=blocked, seconds=time.monotonic() - began)


def _pending(plan: Plan, works: Mapping[str, Work]) -> dict[str, Work]:
    """Returns the works not complete, and with them the finished parents whose weights they need but were not kept."""
    pending = {key: work for key, work in works.items() if not _is_complete(work)}
    for train in reversed(plan.trains):  # children before parents
        parent = works.get(train.parent or "")
        untrained = train.key in pending and train.key not in plan.store.names()
        if parent is not None and untrained and not _has_weights(parent):
            pending[parent.key] = parent
    return {key: work for key, work in works.items() if key in pending}


def _failure_file(work: Work) -> Path:
    return work.folder.with_name(f"{work.key}.failed.json")


@contextmanager
def _nothing() -> Iterator[Executor]:
    yield InProcess()


def _flow(works: Mapping[str, Work], failures: dict[str, str], runner: Executor, tell: Watch) -> Summary:
    """Runs the works whose parents are finished, and their children as they finish."""
    children: dict[str, list[Work]] = {}
    for work in works.values():
        if work.parent_key in works:
            children.setdefault(str(work.parent_key), []).append(work)
    for key in list(failures):
        write_json(_failure_file(works[key]), {"label": works[key].label, "error": failures[key]})
        _block(key, children, failures, "a stage it descends from cannot run")
    ready = [w for w in works.values() if w.parent_key not in works and w.key not in failures]
    finished = failed = running = 0
    for work in ready:
        runner.submit(work)
        running += 1
    effort = {work.key: _effort(work.spec) for work in works.values()}
    whole, spent = sum(effort.values()), 0
    tell(Event("trainings", 0, len(works), 0.0))
    while running:
        done = runner.next()
        running -= 1
        work = works[done.key]
        if done.error is not None:
            failed += 1
            failures[done.key] = done.error
            write_json(_failure_file(work), {"label": work.label, "error": done.error, "trace": done.trace})
            _block(done.key, children, failures, f"{work.label} failed")
        else:
            finished += 1
            _failure_file(work).unlink(missing_ok=True)
            for child in children.get(done.key, ()):
                if child.key not in failures:
                    runner.submit(child)
                    running += 1
        spent += effort[done.key]
        tell(Event("trainings", finished + failed, len(works), spent / whole))
    return Summary(finished + failed, finished, failed, 0, 0.0)


def _effort(spec: StageSpec) -> int:
    """Returns about how many images a training visits, to tell how far a study has come; 256 stands for "all"."""
    images = sum(n if isinstance(n := item.images or item.groups, int) else 256 for item in spec.data)
    return images * spec.epochs * (8 if spec.augment == "dihedral-all" else 1)


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
            unavailable[key] = _one_line(error)
            write_json(plan.store.failure(key), {"label": f"dataset {name}", "error": unavailable[key]})
        except Exception as error:  # recorded with its trace: what needs other datasets runs all the same
            unavailable[key] = f"{type(error).__name__}: {_one_line(error)}"
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


def _is_complete(work: Work) -> bool:
    if not (work.folder / "metrics.json").exists():
        return False
    return all(file.exists() for file in work.evaluations)
