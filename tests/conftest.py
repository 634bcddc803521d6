"""A dataset of discs and a study over it, for tests of training, studies and the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples.discs import write_discs
from samples.study import STAGES, write_study

# Many tests start processes that import torch: without compiled modules each would take ten seconds for that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs") / "discs.h5", groups=40)


@pytest.fixture
def study_file(tmp_path: Path, discs: Path) -> Callable[[str], Path]:
    """Returns a function that writes a study file over the discs, `more` in place of its stages."""

    def write(more: str = STAGES, name: str = "study.toml") -> Path:
        return write_study(tmp_path / name, discs, more)

    return write
