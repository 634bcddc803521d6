"""How long a step of a training takes on this machine: a few steps of it, measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from segue.data.dataset import Dataset
from segue.fitting.scoring import GIVEN
from segue.spec import validate
from segue.training.run import train_task
from segue.training.spec import Inputs, StageSpec, TrainTask

STEPS = 4  # of an epoch
EPOCHS = 3  # the first, in which code is compiled and memory is taken, is not counted


def tile_counts(dataset: Path) -> tuple[int, int]:
    """Returns the tiles of the training and of the validation part."""
    with Dataset(dataset) as data:
        counts = np.bincount(data.split(GIVEN), minlength=2)
    return int(counts[0]), int(counts[1])


def step_seconds(settings: Mapping[str, Any], dataset: Path, folder: Path) -> float:
    """Returns the seconds of a step of a stage with these settings, from scratch, the median of two epochs.

    The runs are made in `folder` and removed.
    """
    tiles, _ = tile_counts(dataset)
    images = min(tiles, STEPS * int(settings["batch"]))
    table = {
        **{key: value for key, value in settings.items() if key not in ("from", "load", "freeze")},
        "data": [{"dataset": "images", "images": images}],
        "split": {"stored": "given"},
        "epochs": EPOCHS,
        "augment": {**settings["augment"], "dihedral": "random"},
        "validation": 0,
    }
    spec = validate(StageSpec, table, context="timing")
    ends: list[float] = []

    def note(line: str) -> None:
        if line.startswith("epoch "):
            ends.append(time.perf_counter())

    with TemporaryDirectory(dir=folder) as scratch:
        inputs = Inputs({"images": (dataset, "timing")})
        train_task(TrainTask(spec, Path(scratch) / "run", "timing", inputs), checkpoint_s=3600, log=note)
    steps = -(-images // int(settings["batch"]))
    return float(np.median(np.diff(ends[-EPOCHS:]))) / steps
