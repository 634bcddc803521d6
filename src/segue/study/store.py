"""Where a study's stages lie: a folder of runs and datasets, each named by its key.

<store>/train-<digest>/                    a finished run; `.running` while unfinished
<store>/train-<digest>/evaluations/<key>.json and <key>.timing.json
<store>/train-<digest>.failed.json         why the last attempt failed
<store>/data-<digest>/dataset.h5
<store>/plans/<study>.json                 the keys of the last time, by which `plan --why` tells what changed
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from segue.storage import replacing


def digest_of(content: Any) -> str:
    """Returns 16 hexadecimal digits that depend on plain data alone, not on the order of tables' keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Store:
    """The folder that holds a study's stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: frozenset[str] | None = None

    def names(self) -> frozenset[str]:
        """Returns the names in the folder, listed once: a study has thousands of stages."""
        if self._names is None:
            self._names = (
                frozenset(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else frozenset()
            )
        return self._names

    def look_again(self) -> None:
        """Forgets the listing, after something was run."""
        self._names = None

    def dataset(self, key: str) -> Path:
        return self.folder / key / "dataset.h5"

    def run(self, key: str) -> Path:
        return self.folder / key

    def evaluation(self, run_key: str, key: str) -> Path:
        return self.folder / run_key / "evaluations" / f"{key}.json"

    def failure(self, key: str) -> Path:
        return self.folder / f"{key}.failed.json"

    def plan_record(self, study: str) -> Path:
        return self.folder / "plans" / f"{study}.json"

    @property
    def digest_cache(self) -> Path:
        return self.folder / "digests.json"


def timing_file(evaluation: Path) -> Path:
    """Returns the file beside an evaluation that says how long it took: results are the same each time, times not."""
    return evaluation.with_suffix(".timing.json")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON beside and renames it into place."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
