"""Resident sources give standardised images and labels, in the order asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples.datasets import make_dataset, make_part, make_parts

from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource, bytes_needed, object_counts
from segue.errors import SegueError


@pytest.fixture
def data(tmp_path: Path):
    with Dataset(make_dataset(tmp_path, make_parts())) as opened:
        yield opened


def test_images_are_standardized_by_their_micrograph(data: Dataset) -> None:
    """Reading gives (x - mean) / deviation of the stored intensity, channels-last, and int64 labels."""
    indices = np.array([7, 2, 2, 0])
    source = ResidentSource.from_dataset(data, indices, layer="cells")
    images, labels = data.read(indices, layer="cells")
    order = torch.tensor([3, 1, 0])
    actual, found_labels = source.read(order, "cpu")
    expected = (images.astype(np.float64) - 100.0) / 20.0
    np.testing.assert_allclose(actual, expected[order], rtol=1e-5, atol=1e-6)
    assert labels is not None
    np.testing.assert_array_equal(found_labels, labels[order])
    assert actual.dtype == torch.float32
    assert found_labels.dtype == torch.int64
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert len(source) == 4
    assert source.names([0, 3]) == ["b/1 tile 0,64", "a tile 0,0"]


def test_acquired_values_on_request(data: Dataset) -> None:
    """normalize = "none" gives the values as acquired."""
    source = ResidentSource.from_dataset(data, np.arange(5), layer="nuclei", normalization="none")
    np.testing.assert_array_equal(source.read(torch.arange(5), "cpu")[0], data.read(np.arange(5), layer=None)[0])


def test_reading_in_blocks_changes_nothing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any block size gives the same source."""
    indices = np.array([9, 1, 5, 12, 0, 3])
    whole = ResidentSource.from_dataset(data, indices, layer="cells")
    monkeypatch.setattr("segue.data.sources.READ_BYTES", 1)
    single = ResidentSource.from_dataset(data, indices, layer="cells")
    assert torch.equal(whole.pixels, single.pixels)
    assert torch.equal(whole.labels, single.labels)


def test_parts_are_joined(tmp_path: Path, data: Dataset) -> None:
    """A mixture holds the samples of each part in turn; other tile sizes are refused."""
    layer = data.layers["cells"]
    parts = [DatasetSubset(data, np.arange(3), layer), DatasetSubset(data, np.array([7, 3, 5]), layer)]
    both = ResidentSource.from_parts(parts, normalization="image")
    expected = ResidentSource.from_dataset(data, np.array([0, 1, 2, 7, 3, 5]), layer="cells")
    assert torch.equal(both.pixels, expected.pixels)
    assert torch.equal(both.labels, expected.labels)
    assert both.sample_names == expected.sample_names
    with Dataset(make_dataset(tmp_path / "other", {"a": make_part("a", size=8)})) as other:
        odd = DatasetSubset(other, np.arange(3), layer)
        with pytest.raises(SegueError, match="1 × 8 × 8, 1 × 16 × 16"):
            ResidentSource.from_parts([parts[0], odd], normalization="image")


def test_an_unknown_layer_is_named(data: Dataset) -> None:
    """A layer that is not there is refused with those that are."""
    with pytest.raises(SegueError, match=r"unknown label layer 'cell'; did you mean 'cells'\?"):
        ResidentSource.from_dataset(data, np.arange(2), layer="cell")


def test_batches_are_reads(data: Dataset) -> None:
    """batches gives for each bound what read gives, also for empty bounds, gaps and repeats."""
    source = ResidentSource.from_dataset(data, np.arange(13), layer="cells")
    samples = np.array([4, 4, 12, 0, 7, 1, 2])
    bounds = [(0, 3), (3, 3), (5, 7)]
    actual = list(source.batches(samples, bounds, "cpu"))
    assert len(actual) == len(bounds)
    for (images, labels), (start, end) in zip(actual, bounds, strict=True):
        expected = source.read(torch.from_numpy(samples[start:end]), "cpu")
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert images.stride() == expected[0].stride()


def test_pixels_of_objects_are_counted(data: Dataset) -> None:
    """Background and objects of an instance layer are counted per sample, whatever the batch."""
    indices = np.array([5, 0, 12])
    source = ResidentSource.from_dataset(data, indices, layer="nuclei")
    _, labels = data.read(indices, layer="nuclei")
    assert labels is not None
    expected = np.stack([(labels == 0).sum((1, 2)), (labels > 0).sum((1, 2))], axis=1)
    np.testing.assert_array_equal(object_counts(source, batch=2), expected)


def test_large_labels_survive(tmp_path: Path) -> None:
    """Object numbers beyond eight and sixteen bits are read as they were."""
    part = make_part("a")
    part.labels["nuclei"][0, 0, 0], part.labels["nuclei"][1, 0, 0] = 300, 2**20
    with Dataset(make_dataset(tmp_path, {"a": part})) as data:
        for count in (1, 3):
            source = ResidentSource.from_dataset(data, np.arange(count), layer="nuclei")
            np.testing.assert_array_equal(source.read(torch.arange(count), "cpu")[1], part.labels["nuclei"][:count])


def test_nan_names_sample_and_file(tmp_path: Path) -> None:
    """NaN in a sample is refused with the sample's name, the count and the dataset's file."""
    part = make_part("a", dtype="float32")
    part.images[1, 0, 2, 3:5] = np.nan
    with (
        Dataset(make_dataset(tmp_path, {"a": part})) as data,
        pytest.raises(SegueError, match=r"data.h5: sample a tile 0,16 holds NaN or infinity .2 pixels."),
    ):
        ResidentSource.from_dataset(data, np.arange(3), layer="cells")


def test_memory_is_estimated_from_above(data: Dataset) -> None:
    """The estimate is not below what the tensors take."""
    source = ResidentSource.from_dataset(data, np.arange(13), layer="nuclei")
    assert source.pixels.nbytes + source.labels.nbytes <= bytes_needed(data, 13) <= 2 * source.pixels.nbytes
