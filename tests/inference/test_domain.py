"""What a model was trained on, and the sentences on images that lie outside of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from samples.datasets import make_dataset, make_part

from segue.data.dataset import Dataset
from segue.data.normalization import background_stats
from segue.data.sources import micrograph_statistics
from segue.inference import domain
from segue.inference.domain import TrainingSet


@dataclass(frozen=True)
class Acquired:
    image: np.ndarray
    pixel_size_nm: float | None = None


def cells(contrast: float = 400.0, noise: float = 5.0) -> np.ndarray:
    """Returns (1, 64, 64) uint16: squares of `contrast` on a background of 1000."""
    image = np.random.default_rng(0).normal(1000, noise, (1, 64, 64))
    image[0, 10:20, 10:20] += contrast
    image[0, 40:50, 30:40] += contrast
    return image.clip(0, 65535).astype(np.uint16)


TRAINING = TrainingSet((650.0,), domain.measure_image(cells()))
MODEL = SimpleNamespace(training_set=TRAINING, channels=("dapi",))


@pytest.mark.parametrize("size_nm", [None, 650.0, 700.0])
def test_images_like_those_trained_on(size_nm: float | None):
    """No word on other exposures and offsets, which normalization removes, nor on an unknown or a near pixel size."""
    for image in (cells(), cells() * np.uint16(4), cells() + np.uint16(500), cells(contrast=700)):
        assert domain.describe_difference(MODEL, Acquired(image, size_nm)) == []


@pytest.mark.parametrize(
    ("image", "size_nm", "numbers"),
    [
        (cells(), 65.0, "has 65 nm per pixel, the training images 650 nm (10 times as large)"),
        (cells(), 1300.0, "has 1.3e+03 nm per pixel, the training images 650 nm (2 times as small)"),
        (cells(contrast=120), None, "objects differ from the background by"),
        (cells(contrast=4000), None, "objects differ from the background by"),
        (np.minimum(cells(noise=20), 1050), None, "of the pixels are saturated, 0 % in training"),
        (np.pad(cells(), ((0, 0), (0, 200), (0, 200))), None, "of the pixels lie amid constant ones"),
        (np.uint16(4095) - cells(), None, "0 % of what differs from the background is brighter, 100 % in training"),
        (cells(contrast=-400), None, "0 % of what differs from the background is brighter, 100 % in training"),
    ],
)
def test_images_outside(image: np.ndarray, size_nm: float | None, numbers: str):
    """Another pixel size, less or more contrast, saturation, a margin: each is told with both numbers."""
    sentences = domain.describe_difference(MODEL, Acquired(image, size_nm))
    assert [sentence for sentence in sentences if numbers in sentence], sentences


def test_nothing_is_told_where_nothing_is_known():
    """Models of earlier versions, and constant images: no sentence, no error."""
    unknown = SimpleNamespace(training_set=None, channels=("dapi",))
    assert domain.describe_difference(unknown, Acquired(cells(), 1.0)) == []
    assert domain.describe_difference(MODEL, Acquired(np.full((1, 8, 8), np.nan, np.float32))) == []


def test_several_images_are_told_of_together():
    """Of many images, what only one of them differs in is not told; what all differ in is."""
    inside, outside = cells(), cells(contrast=4000)
    assert domain.describe_differences(MODEL, [inside, outside]) == []
    assert len(domain.describe_differences(MODEL, [outside, outside])) == 1


def test_pixel_sizes_that_are_mixed():
    """Sizes within a quarter are one; beyond, the sizes are told, and a model has no single size."""
    assert domain.mixed_sizes([100.0, 110.0], "a.h5") == []
    assert domain.mixed_sizes([], "a.h5") == []
    (sentence,) = domain.mixed_sizes([650.0, 65.0, 65.0], "a.h5 and b.h5")
    assert sentence.startswith("a.h5 and b.h5: the images differ in pixel size (65, 650 nm)")
    (sentence,) = domain.mixed_sizes([10.0 * 2**k for k in range(9)], "many.h5")
    assert "(10, 20, …, 1280, 2560 nm)" in sentence
    assert TrainingSet((65.0, 650.0)).pixel_size_nm is None
    assert TrainingSet((100.0, 110.0)).pixel_size_nm == 105
    assert TrainingSet().pixel_size_nm is None


def test_the_record_of_a_training_set():
    """It is the same after it was stored as JSON; runs without one have none."""
    assert TrainingSet.from_record(json.loads(json.dumps(TRAINING.as_record()))) == TRAINING
    assert TrainingSet.from_record(None) is None


def test_a_dataset_is_measured(tmp_path: Path):
    """The sizes are those of the samples, unknown ones left out; the measures are the range over the tiles."""
    path = make_dataset(tmp_path, {"a": make_part("a"), "b": make_part("b")})
    with h5py.File(path, "a") as file:
        file["samples/pixel_size_nm"] = np.array([65.0, 650.0, np.nan] * 2)
    with Dataset(path) as dataset:
        images = domain.observe(dataset, np.arange(dataset.count))
        tiles, _ = dataset.read(np.arange(dataset.count), layer=None)
        single = [domain.measure_image(tile)[0]["contrast_to_noise"][0] for tile in tiles]
    assert images.pixel_sizes_nm == (65.0, 650.0)
    assert images.measures[0]["contrast_to_noise"] == (min(single), max(single))


def test_datasets_of_earlier_versions(tmp_path: Path):
    """Where a dataset has no statistics of the background, they are computed: from the micrograph if it is stored."""
    part = make_part("a")
    path = make_dataset(tmp_path, {"a": part})
    with h5py.File(path, "a") as file:
        intensity = part.intensity[..., :2]
        del file["tiles/intensity"]
        file["tiles/intensity"] = intensity
        file.attrs["format_version"] = 1
    with Dataset(path) as dataset:
        rows = np.arange(dataset.count)
        stats = micrograph_statistics(dataset, rows, "background")
        assert micrograph_statistics(dataset, rows, "image").shape == (dataset.count, dataset.tile_shape[0], 2)
        source = dataset.samples()["source"][0]
        expected = background_stats(dataset.micrograph(source).image)
    np.testing.assert_array_equal(stats[0, :, 2:], expected)
