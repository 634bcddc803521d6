"""Streamed samples are the resident ones, bit for bit, within their memory, and leave nothing behind."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from samples.datasets import make_dataset, make_part, make_parts

from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource, object_counts
from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.data.streaming import LabelChunks, StreamedSource, epoch_order, unshuffled
from segue.errors import SegueError

AMPLE = 10**9


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Dataset]:
    """150 tiles in chunks of 8."""
    parts = {name: make_part(name, 50) for name in "abc"}
    with Dataset(make_dataset(tmp_path, parts, chunk=8)) as opened:
        yield opened


@pytest.fixture
def stream() -> Iterator[Callable[..., StreamedSource]]:
    """Returns a function that makes a streamed source, closed when the test ends."""
    made: list[StreamedSource] = []

    def make(
        parts: list[DatasetSubset], budget_bytes: int = AMPLE, normalization: NormalizeSpec = "image"
    ) -> StreamedSource:
        made.append(StreamedSource(parts, normalization=normalization, budget_bytes=budget_bytes))
        return made[-1]

    yield make
    for source in made:
        source.close()


def taken(data: Dataset, indices: np.ndarray | None = None, layer: str = "cells") -> DatasetSubset:
    return DatasetSubset(data, np.arange(data.count) if indices is None else indices, data.layers[layer])


def bounds_of(count: int, batch: int) -> list[tuple[int, int]]:
    return [(start, min(start + batch, count)) for start in range(0, count, batch)]


def require_same(streamed: StreamedSource, resident: ResidentSource, samples: np.ndarray, batch: int = 16) -> None:
    bounds = bounds_of(len(samples), batch)
    actual = list(streamed.batches(samples, bounds, "cpu"))
    expected = list(resident.batches(samples, bounds, "cpu"))
    assert len(actual) == len(expected)
    for (images, labels), (known_images, known_labels) in zip(actual, expected, strict=True):
        assert torch.equal(images, known_images)
        assert torch.equal(labels, known_labels)
        assert (images.stride(), labels.dtype) == (known_images.stride(), known_labels.dtype)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("segue")]


@pytest.mark.parametrize("window", [None, 20, 64])
@pytest.mark.parametrize("copies", [1, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layer", ["cells", "nuclei"])
def test_an_epoch_is_the_resident_one(data: Dataset, stream, window: int | None, copies: int, layer: str):
    """For every way of shuffling, with ample memory and with next to none, batches equal the resident ones."""
    indices = np.flatnonzero(np.arange(data.count) % 7)  # not all of a chunk
    resident = ResidentSource.from_dataset(data, indices, layer=layer)
    samples = epoch_order(indices // 8, copies, window, np.random.default_rng(0)) // copies
    require_same(stream([taken(data, indices, layer)]), resident, samples)
    cramped = stream([taken(data, indices, layer)], budget_bytes=1)  # always at random places
    require_same(cramped, resident, samples)
    assert not threads()


@pytest.mark.parametrize("normalization", ["image", "none", "tile", PercentileSpec(name="percentile")])
@pytest.mark.parametrize(
    "dtype", ["uint8", "float32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint16", "int32"))]
)
def test_every_normalization(tmp_path: Path, stream, normalization: NormalizeSpec, dtype: str):
    """Values are normalised to the same bits, from every acquired type, with several channels."""
    parts = {name: make_part(name, 20, channels=3, dtype=dtype) for name in "ab"}
    with Dataset(make_dataset(tmp_path, parts, chunk=8)) as data:
        resident = ResidentSource.from_parts([taken(data)], normalization=normalization)
        source = stream([taken(data)], normalization=normalization)
        require_same(source, resident, np.random.default_rng(1).permutation(40))
        images, labels = source.read(torch.tensor([5, 5, 31]), "cpu")
        known_images, known_labels = resident.read(torch.tensor([5, 5, 31]), "cpu")
        assert torch.equal(images, known_images)
        assert torch.equal(labels, known_labels)
        assert source.names([3, 33]) == resident.names([3, 33])


def test_a_mixture(tmp_path: Path, data: Dataset, stream):
    """Parts of one file that share chunks, and of another file in another type, are streamed as one source."""
    with Dataset(make_dataset(tmp_path / "other", make_parts(), chunk=3)) as other:
        parts = [taken(data, np.arange(0, 150, 2)), taken(other), taken(data, np.arange(1, 150, 4))]
        resident = ResidentSource.from_parts(parts, normalization="image")
        samples = np.random.default_rng(2).permutation(len(resident))
        require_same(stream(parts), resident, samples)
        require_same(stream(parts, budget_bytes=1), resident, samples)


def test_resuming_in_the_middle(data: Dataset, stream):
    """An epoch begun at any step gives the batches that it would have given."""
    source = stream([taken(data)])
    samples = epoch_order(np.arange(150) // 8, 2, 30, np.random.default_rng(3)) // 2
    bounds = bounds_of(300, 16)
    whole = list(source.batches(samples, bounds, "cpu"))
    for step in (1, 7, 18):
        rest = list(source.batches(samples, bounds[step:], "cpu"))
        assert len(rest) == len(bounds) - step
        for (images, labels), (known_images, known_labels) in zip(rest, whole[step:], strict=True):
            assert torch.equal(images, known_images)
            assert torch.equal(labels, known_labels)


@pytest.mark.parametrize("budget", [1, AMPLE])
def test_closing_early_leaves_no_thread(data: Dataset, stream, budget: int):
    """An iterator that is closed, or never begun, ends its threads and gives back what it held; the next one works."""
    source = stream([taken(data)], budget_bytes=budget)
    samples = np.arange(150)
    never = source.batches(samples, bounds_of(150, 4), "cpu")
    batches = source.batches(samples, bounds_of(150, 4), "cpu")
    next(batches)
    assert threads()
    batches.close()
    never.close()
    assert not threads()
    require_same(source, ResidentSource.from_dataset(data, samples, layer="cells"), samples)


@pytest.mark.slow
def test_an_epoch_of_ten_times_the_memory(tmp_path: Path, stream):
    """Of data ten times the limit an epoch in windows never holds more than the limit, also by Python's own count."""
    parts = {name: make_part(name, 100, size=64) for name in "abcdefghij"}
    with Dataset(make_dataset(tmp_path, parts, chunk=10)) as data:
        budget = data.count * 64 * 64 * 8 // 10  # what the samples take when resident, over ten
        source = stream([taken(data)], budget_bytes=budget)
        window = source.largest_window(batch=8)
        assert window > 60
        assert source.shuffles_in_memory(window, 8)
        assert not source.shuffles_in_memory(window + 1, 8)
        assert source.bytes_in_use(window, 8) <= budget
        assert source.min_bytes(8) < budget
        samples = epoch_order(np.arange(data.count) // 10, 1, window, np.random.default_rng(0))
        resident = ResidentSource.from_dataset(data, np.arange(data.count), layer="cells")
        tracemalloc.start()
        try:
            for shuffled in (samples, np.random.default_rng(1).permutation(data.count)[:60]):
                bounds = bounds_of(len(shuffled), 8)
                for (images, _), (start, end) in zip(source.batches(shuffled, bounds, "cpu"), bounds, strict=True):
                    assert torch.equal(images[0], resident.read(torch.tensor(shuffled[start:end]), "cpu")[0][0])
            assert tracemalloc.get_traced_memory()[1] <= budget
        finally:
            tracemalloc.stop()
        assert 0 < source.peak_bytes <= budget


def test_each_chunk_is_read_once(data: Dataset, stream, monkeypatch: pytest.MonkeyPatch):
    """An epoch in windows reads every chunk of labels once, with all eight copies of every sample."""
    read: list[int] = []
    original = LabelChunks.read
    monkeypatch.setattr(LabelChunks, "read", lambda self, number: read.append(number) or original(self, number))
    samples = epoch_order(np.arange(150) // 8, 8, 20, np.random.default_rng(0)) // 8
    assert len(list(stream([taken(data)]).batches(samples, bounds_of(1200, 16), "cpu"))) == 75
    assert sorted(read) == list(range(19))


def test_nan_surfaces(tmp_path: Path, stream):
    """NaN in an image ends the epoch with the resident source's words, and no thread stays."""
    part = make_part("a", 30, dtype="float32")
    part.images[21, 0, 2, 3:5] = np.nan
    with Dataset(make_dataset(tmp_path, {"a": part}, chunk=4)) as data:
        source = stream([taken(data)])
        with pytest.raises(SegueError, match=r"data.h5: sample a tile 0,336 holds NaN or infinity .2 pixels."):
            list(source.batches(np.arange(30), bounds_of(30, 4), "cpu"))
        assert not threads()


def test_a_damaged_chunk_surfaces(tmp_path: Path, data: Dataset, stream):
    """A chunk that cannot be decoded ends the epoch with the file's name."""
    with h5py.File(data.path, "r") as file:
        at = file["tiles/labels/cells"].id.get_chunk_info(11)
    content = bytearray(data.path.read_bytes())
    content[at.byte_offset + 20 : at.byte_offset + at.size - 20] = bytes(at.size - 40)
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(content)
    with Dataset(damaged) as opened:
        source = stream([taken(opened)])
        with pytest.raises(SegueError, match=r"damaged.h5: .*damaged.*copy it again or make it again"):
            list(source.batches(np.arange(150), bounds_of(150, 4), "cpu"))
        assert not threads()


def test_pixels_of_objects_are_counted_while_streaming(data: Dataset, stream):
    """Counts from streamed labels are those of resident ones."""
    resident = ResidentSource.from_dataset(data, np.arange(150), layer="nuclei")
    np.testing.assert_array_equal(object_counts(stream([taken(data, layer="nuclei")])), object_counts(resident))


@pytest.mark.parametrize("highest", [100, 300, 2**15 - 1, 2**15, 2**20, 2**31 - 1])
def test_bytes_become_numbers(highest: int):
    """Byte planes give the numbers back, in the smallest type at the limits of the types."""
    numbers = np.array([-1, 0, 1, highest], dtype="<i4")
    actual = unshuffled(np.ascontiguousarray(numbers.view(np.int8).reshape(4, 4).T))
    np.testing.assert_array_equal(actual, numbers)
    assert actual.dtype.itemsize == (1 if highest < 2**7 else 2 if highest < 2**15 else 4)


def test_labels_written_otherwise_are_read(tmp_path: Path, data: Dataset, stream):
    """Labels in chunks or with filters that segue does not write are read through h5py, to the same values."""
    resident = ResidentSource.from_dataset(data, np.arange(150), layer="cells")
    labels = data.read(np.arange(150), layer="cells")[1]
    assert labels is not None
    for index, options in enumerate([{}, {"chunks": (7, 16, 16)}, {"chunks": (5, 8, 16), "compression": "lzf"}]):
        path = tmp_path / f"{index}.h5"
        path.write_bytes(data.path.read_bytes())
        with h5py.File(path, "r+") as file:
            attributes = dict(file["tiles/labels/cells"].attrs)
            del file["tiles/labels/cells"]
            file.create_dataset("tiles/labels/cells", data=labels, **options).attrs.update(attributes)
        with Dataset(path) as other:
            require_same(stream([taken(other)]), resident, np.random.default_rng(0).permutation(150))


def test_order_and_batch_size_do_not_matter_to_a_sample(data: Dataset, stream):
    """A sample is the same in whatever batch it comes."""
    source = stream([taken(data)])
    starts = [0, 3, 40, 41, 150]
    pieces = list(source.batches(np.arange(150), list(pairwise(starts)), "cpu"))
    whole = next(iter(source.batches(np.arange(150), [(0, 150)], "cpu")))
    assert torch.equal(torch.cat([images for images, _ in pieces]), whole[0])
