"""What is resident and what is streamed, how it is lines, and that it changes no order."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from samples.discs import disc_part

from segue.data.sources import ResidentSource
from segue.data.spec import Layer
from segue.data.streaming import StreamedSource
from segue.data.writer import merge_parts, write_part
from segue.errors import SegueError
from segue.training.inputs import data as holding
from segue.training.inputs.data import StageData, load_data
from segue.training.spec import Inputs, StageSpec

Kind = Literal["classes", "instances"]


def write_tiles(folder: Path, kind: Kind = "classes") -> Path:
    """160 tiles of 64² in chunks of 10; 33 kB each when resident."""
    paths = []
    for group in range(80):
        paths.append(folder / f"{group}.part")
        write_part(paths[-1], disc_part(group, size=64))
    layers = (Layer("discs", kind, ("background", "disc")),)
    out = folder / "tiles.h5"
    merge_parts(paths, out, layers=layers, channels=["intensity"], attributes={}, splits={}, chunk=10)
    return out


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("objects"), "instances")


def load(path: Path, lines: list[str] | None = None, **more: object) -> StageData:
    fields = {"data": [{"dataset": "tiles"}], "split": {"validation": 0.125, "test": 0.125}, "batch": 2, **more}
    log = [].append if lines is None else lines.append
    inputs = Inputs({"tiles": (path, "identity")})
    return load_data(StageSpec.model_validate(fields), inputs, context="stage", device="cpu", log=log)


def resident_bytes(data: StageData) -> int:
    assert data.validation is not None
    return (len(data.training) + len(data.validation)) * 64 * 64 * 8


def test_what_fits_is_resident(tiles: Path):
    """Below the limit all is in memory, and said so."""
    lines: list[str] = []
    data = load(tiles, lines, memory_gb=1)
    assert isinstance(data.training, ResidentSource)
    assert isinstance(data.validation, ResidentSource)
    counts = f"{len(data.training)} training and {len(data.validation)} validation images"
    assert lines == [
        "split by group: 12.5% test, 12.5% validation, seed 0",
        f"{counts}, held in memory: {resident_bytes(data) / 1e6:.0f} MB",
    ]
    assert data.window is None


def test_what_does_not_fit_is_streamed(tiles: Path):
    """Above it training is streamed, with the numbers lines, in the order that it would have in memory."""
    resident = load(tiles, shuffle_window=16)
    lines: list[str] = []
    data = load(tiles, lines, memory_gb=0.0045, shuffle_window=16)
    assert isinstance(data.training, StreamedSource)
    assert isinstance(data.validation, ResidentSource)
    assert "more than the limit of 0.0045 GB: streamed in windows of 16 samples, " in lines[1]
    np.testing.assert_array_equal(data.chunk_ids, resident.chunk_ids)
    assert data.window == resident.window == 16
    for source, known in ((data.training, resident.training), (data.validation, resident.validation)):
        assert source is not None
        assert known is not None
        for actual, expected in zip(
            source.read(torch.arange(8), "cpu"), known.read(torch.arange(8), "cpu"), strict=True
        ):
            assert torch.equal(actual, expected)
    data.close()
    data.close()


def test_a_window_that_does_not_fit_is_told(tiles: Path):
    """The whole shuffled from random places is called slow, with a window that would fit."""
    lines: list[str] = []
    load(tiles, lines, memory_gb=0.0035).close()
    assert "streamed from random places; slow, since the shuffle window of all samples does not fit: give " in lines[1]


def test_too_little_memory_is_refused(tiles: Path):
    """Where not even a block of the file fits, the error has the numbers and what to do."""
    with pytest.raises(SegueError, match=r"stage: training: even streamed, .* need .* GB .* raise memory_gb"):
        load(tiles, memory_gb=0.001)


def test_free_memory_is_the_limit(tiles: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a limit, and below a given one, what is free decides."""
    monkeypatch.setattr(holding, "free_memory", lambda: 5_600_000)
    for limit in (None, 1):
        data = load(tiles, shuffle_window=16, memory_gb=limit)
        assert isinstance(data.training, StreamedSource)
        data.close()


@pytest.mark.parametrize("limit", [None, 0.0045])
@pytest.mark.parametrize("kind", ["classes", "instances"])
def test_classes_are_counted(tiles: Path, objects: Path, limit: float | None, kind: Kind):
    """Pixels per class and sample are those of the training labels, stored or counted, resident or streamed."""
    lines: list[str] = []
    data = load(tiles if kind == "classes" else objects, lines, memory_gb=limit, shuffle_window=16)
    actual = data.sample_counts()
    expected = np.concatenate([
        (values.clip(max=1).numpy()[:, None] == np.arange(2)[:, None, None]).sum((2, 3))
        for _, values in data.training.batches(np.arange(len(data.training)), [(0, len(data.training))], "cpu")
    ])  # fmt: skip
    np.testing.assert_array_equal(actual, expected)
    assert data.class_counts() == tuple(expected.sum(0).tolist())
    assert sum("counting the pixels" in line for line in lines) == (limit is not None and kind == "instances")
    data.close()


@pytest.mark.parametrize(
    ("training", "held_out", "first"),
    [
        (["000", "001"], ["000"], "first '000'"),
        (["d1/a", "d2/b"], ["a"], "first 'a' of the dataset, 'd1/a' in training"),
        (["a"], ["x/d1/a"], "first 'x/d1/a' of the dataset, 'a' in training"),
        (["d1/a"], ["d2/a"], None),
        (["ba"], ["a"], None),
        (["mine-000"], ["theirs-000"], None),
    ],
)
def test_groups_that_are_one(training: list[str], held_out: list[str], first: str | None):
    """A name, or a path that ends with the other, is one group; the refusal says what groups are."""
    if first is None:
        holding.refuse_shared_groups(training, held_out, "test", "d.h5")
        return
    with pytest.raises(SegueError, match=r"Groups are names: .* group = '\{folder\}-\{stem\}'") as caught:
        holding.refuse_shared_groups(training, held_out, "test", "d.h5")
    assert first in str(caught.value)
