"""The order of the tests, and a dataset of discs with studies over it for training, studies and the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Many tests start processes that import torch: without compiled modules each would take ten seconds for that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The networks of tests are small, and each core has a worker: one thread of torch, here and in what tests start;
# said before anything imports NumPy.
os.environ["OMP_NUM_THREADS"] = "1"

from samples.discs import write_discs  # noqa: E402
from samples.study import STAGES, write_study  # noqa: E402

# Folders whose files take longest, which are begun first: else one worker ends long after the other.
SLOWEST_FIRST = ("training", "study", "reporting", "plates", "cli", "hrtem", "targets")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {folder: index for index, folder in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(rank)))


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs") / "discs.h5", groups=40)


@pytest.fixture
def study_file(tmp_path: Path, discs: Path) -> Callable[[str], Path]:
    """Returns a function that writes a study file over the discs, `more` in place of its stages."""

    def write(more: str = STAGES, name: str = "study.toml") -> Path:
        return write_study(tmp_path / name, discs, more)

    return write
