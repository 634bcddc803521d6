"""Samples that stay in memory from one stage to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segue.data import resident
from segue.data.dataset import Dataset
from segue.data.resident import resident_source
from segue.data.sources import DatasetSubset, ResidentSource


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    resident.enable()
    yield
    resident.disable()


def read(path: Path, indices: list[int]) -> ResidentSource:
    with Dataset(path) as dataset:
        parts = [DatasetSubset(dataset, np.array(indices), dataset.layers["discs"])]
        return resident_source(parts, normalization="image")


def test_the_same_samples_are_read_once(discs: Path):
    """They equal those read anew; other samples, or a file that was written since, are read."""
    first = read(discs, [0, 2, 5])
    assert read(discs, [0, 2, 5]) is first
    assert read(discs, [0, 2, 4]) is not first
    status = discs.stat()
    os.utime(discs, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert read(discs, [0, 2, 5]) is not first
    resident.disable()
    again = read(discs, [0, 2, 5])
    assert again is not first and again.pixels.equal(first.pixels) and again.labels.equal(first.labels)


def test_memory_is_a_quarter_of_what_is_free(discs: Path, monkeypatch: pytest.MonkeyPatch):
    """With room for two sources of three, the one that was used longest ago is forgotten."""
    first = read(discs, [0])
    size = first.pixels.nbytes + first.labels.nbytes
    monkeypatch.setattr(resident, "free_memory", lambda: int(4 * 2.5 * size) - 2 * size)
    second = read(discs, [1])
    assert read(discs, [0]) is first
    read(discs, [2])
    assert read(discs, [0]) is first and read(discs, [1]) is not second
    assert resident.clear() and not resident.clear()
