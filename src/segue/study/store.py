"""The store of a study: a folder of runs and datasets, each named by its key.

<store>/<2 digits>/train-<digest>/         a finished run; `.running` while unfinished
<store>/<2 digits>/train-<digest>/evaluations/<key>.json, <key>.timing.json, <key>.images.json.gz
<store>/<2 digits>/train-<digest>.failed.json   why the last attempt failed
<store>/data-<digest>/dataset.h5
<store>/plans/<study>.json                 the keys of the last run, from which `plan --why` derives the changes

The folders of two digits, the first of the digest, keep each folder small: a study may have 100,000 runs. What an
earlier version put directly into <store> is used where it is.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.storage import file_name, make_folder, read_bytes, refusal
from segue.training.run_folder import IMAGE_COUNTS_SUFFIX, Record, RunFolder, parse_record


class FailureRecord(Record):
    error: str


class EvaluationTiming(Record):
    decode_s_median: float | None = None


class PlannedTrainingRecord(Record):
    key: str
    version: int
    inputs: list[str | None]
    settings: str


class PlanRecord(Record):
    """The last plan that was run (`segue.study.plan.Plan.record`)."""

    datasets: dict[str, str]
    trainings: dict[str, PlannedTrainingRecord]
    settings: dict[str, dict[str, Any]]


def read_record(file: Path, record: type[Record]) -> dict[str, Any] | None:
    """Returns the content of a JSON file of the store, None if there is no such file; raises SegueError for another
    content."""
    try:
        return parse_record(read_bytes(file, "the store of a study"), record)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SegueError(f"{file}: is damaged or was altered: {error}; remove it, and run the study again.") from None


class Store:
    """The folder that holds a study's stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._top: frozenset[str] | None = None
        self._existing: frozenset[str] | None = None

    def existing(self) -> frozenset[str]:
        """Returns the names of datasets, runs and records of failures, listed once: a study has thousands."""
        if self._existing is None:
            names = set(self._names_at_top())
            for name in self._names_at_top():
                if len(name) == 2:
                    names.update(_names(self.folder / name))
            self._existing = frozenset(names)
        return self._existing

    def _names_at_top(self) -> frozenset[str]:
        if self._top is None:
            self._top = frozenset(_names(self.folder))
        return self._top

    def refresh(self) -> None:
        """Forgets the listing, after something was run."""
        self._top = self._existing = None

    def dataset(self, key: str) -> Path:
        return self.folder / key / "dataset.h5"

    def run(self, key: str) -> Path:
        return self._folder(key) / key

    def failure(self, key: str) -> Path:
        return self._folder(key) / f"{key}.failed.json"

    def _folder(self, key: str) -> Path:
        top = self._names_at_top()
        if key in top or f"{key}.running" in top or f"{key}.failed.json" in top:
            return self.folder
        return self.folder / key.rpartition("-")[2][:2]

    def plan_record(self, study: str) -> Path:
        return self.folder / "plans" / f"{file_name(study)}.json"

    @property
    def digest_cache(self) -> Path:
        return self.folder / "digests.json"


def _names(folder: Path) -> list[str]:
    """Returns the names in a folder; none where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def timing_file(evaluation: Path) -> Path:
    """Returns the file next to an evaluation with its duration: results are reproducible, durations are not."""
    return evaluation.with_suffix(".timing.json")


def image_counts_file(evaluation: Path) -> Path:
    """Returns the file next to an evaluation with what was counted in each image; most readers need scores alone."""
    return evaluation.with_suffix(IMAGE_COUNTS_SUFFIX)


def copy_run(run: Path, out: Path) -> None:
    """Copies a finished run; the copy appears when complete, and shares its files on disk (hard links) if possible."""

    def link(file: str, copy: str) -> None:
        try:
            os.link(file, copy)
        except OSError:
            shutil.copy2(file, copy)

    make_folder(out.parent)
    partial = out.with_name(f"{out.name}.copy-{os.getpid()}")
    try:
        shutil.copytree(run, partial, copy_function=link)
        partial.rename(out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not RunFolder(out).is_finished:  # another process may have put the same run there meanwhile
            raise SegueError(refusal(out, error)) from error
