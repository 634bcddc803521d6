"""The store of a study: a folder of runs and datasets, each named by its key.

<store>/train-<digest>/                    a finished run; `.running` while unfinished
<store>/train-<digest>/evaluations/<key>.json and <key>.timing.json
<store>/train-<digest>.failed.json         why the last attempt failed
<store>/data-<digest>/dataset.h5
<store>/plans/<study>.json                 the keys of the last run, from which `plan --why` derives the changes
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from segue.errors import SegueError
from segue.storage import file_name, make_folder, refusal
from segue.training.run_folder import RunFolder


class Store:
    """The folder that holds a study's stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._existing: frozenset[str] | None = None

    def existing(self) -> frozenset[str]:
        """Returns the names in the folder, listed once: a study has thousands of stages."""
        if self._existing is None:
            self._existing = (
                frozenset(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else frozenset()
            )
        return self._existing

    def refresh(self) -> None:
        """Forgets the listing, after something was run."""
        self._existing = None

    def dataset(self, key: str) -> Path:
        return self.folder / key / "dataset.h5"

    def run(self, key: str) -> Path:
        return self.folder / key

    def evaluation(self, run_key: str, key: str) -> Path:
        return RunFolder(self.run(run_key)).evaluations / f"{key}.json"

    def failure(self, key: str) -> Path:
        return self.folder / f"{key}.failed.json"

    def plan_record(self, study: str) -> Path:
        return self.folder / "plans" / f"{file_name(study)}.json"

    @property
    def digest_cache(self) -> Path:
        return self.folder / "digests.json"


def timing_file(evaluation: Path) -> Path:
    """Returns the file next to an evaluation with its duration: results are reproducible, durations are not."""
    return evaluation.with_suffix(".timing.json")


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
