"""A dataset of discs and a study over it, for tests of training, studies and the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from samples.discs import write_discs

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
        path = tmp_path / name
        path.write_text(HEAD.replace("DISCS", str(discs)) + more, encoding="utf-8")
        return path

    return write


HEAD = """
name = "discs"
seeds = 2
network = { name = "resunet", width = 8 }
split = { validation = 0.2, test = 0.2 }

[datasets.discs]
file = "DISCS"

[domains]
low = { dataset = "discs", contrast = "low" }
high = { dataset = "discs", contrast = "high" }
"""

STAGES = """
[stages.pretrain]
domain = "high"
images = 12
epochs = 2
augment = "dihedral-all"
precision = "fp32"

[stages.transfer]
from = "pretrain"
domain = { each = ["low", "high"], except = "pretrain.domain" }
images = { each = [2, 4] }
epochs = 2
freeze = { each = ["none", "encoder"] }
augment = "dihedral-all"
precision = "fp32"
"""
