"""Normalization: what is subtracted and divided by, for data in memory, streamed data and predictions alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from segue.data.normalization import (
    FOREGROUND_VALUE,
    MAX_WHOLE_PX,
    background,
    background_stats,
    image_statistics,
    intensity_stats,
    normalize,
    streaming_stats,
)
from segue.data.spec import NormalizeSpec, PercentileSpec

IMAGES = np.random.default_rng(0).integers(0, 4000, (3, 2, 9, 7)).astype(np.uint16)


def test_by_the_micrograph():
    """ "image" takes the stored intensity, computed in float32 as before: bits of (x - mean) / deviation."""
    intensity = np.random.default_rng(1).uniform(1, 900, (3, 2, 2)).astype(np.float32)
    expected = (IMAGES.astype(np.float32) - intensity[..., 0, None, None]) / intensity[..., 1, None, None]
    np.testing.assert_array_equal(normalize(IMAGES, intensity_stats("image", IMAGES, intensity)), expected)


def test_by_the_tile():
    """ "tile" gives every channel of every tile mean 0 and deviation 1; a whole image gives the same by "image"."""
    intensity = np.ones((3, 2, 2), np.float32)
    values = normalize(IMAGES, intensity_stats("tile", IMAGES, intensity)).astype(np.float64)
    np.testing.assert_allclose(values.mean((2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(values.std((2, 3)), 1, rtol=1e-6)
    np.testing.assert_array_equal(intensity_stats("image", IMAGES), intensity_stats("tile", IMAGES))


def test_by_percentiles():
    """The two percentiles of each channel become 0 and 1."""
    spec = PercentileSpec(name="percentile", low=10, high=90)
    values = normalize(IMAGES, intensity_stats(spec, IMAGES)).reshape(3, 2, -1)
    np.testing.assert_allclose(np.percentile(values, 10, axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(np.percentile(values, 90, axis=2), 1, rtol=1e-6)


def test_acquired_values_stay():
    """ "none" changes no bit, also of negative zero."""
    values = np.array([[[[-0.0, 1e-30, 3.0, -7.5]]]], np.float32)
    actual = normalize(values, intensity_stats("none", values))
    np.testing.assert_array_equal(actual.view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("normalization", ["background", "image", "tile", PercentileSpec(name="percentile")])
def test_a_constant_image_is_zero(normalization: NormalizeSpec):
    """A scale of 0 counts as 1, so that a constant image becomes 0."""
    images = np.full((1, 1, 4, 4), 9, np.uint8)
    assert (normalize(images, intensity_stats(normalization, images)) == 0).all()


def test_specifications():
    """Percentiles in the wrong order and unknown names are mistakes."""
    adapter: TypeAdapter[NormalizeSpec] = TypeAdapter(NormalizeSpec)
    assert adapter.validate_python({"name": "percentile", "low": 2}) == PercentileSpec(name="percentile", low=2)
    with pytest.raises(ValidationError, match="low = 90 is not below high = 10"):
        adapter.validate_python({"name": "percentile", "low": 90, "high": 10})
    with pytest.raises(ValidationError):
        adapter.validate_python("images")


# "background"


def scene(count: int, *, contrast: float = 400.0, seed: int = 0) -> np.ndarray:
    """Returns an image (1, 128, 128) uint16 of disks, radius 6 px, with `contrast` to a background of 1000 ± 20."""
    generator = np.random.default_rng(seed)
    image = generator.normal(1000, 20, (128, 128))
    y, x = np.mgrid[:128, :128]
    for place in generator.permutation(64)[:count]:
        cy, cx = 8 + 16 * np.array(divmod(place, 8))
        image[(y - cy) ** 2 + (x - cx) ** 2 <= 36] += contrast * generator.uniform(0.9, 1.1)
    return image.clip(0, 65535).astype(np.uint16)[None]


def speck(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[:, :3, :3] = 65535
    return image


def margin(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, 0), (100, 350), (0, 444)))  # 95 % of the pixels


ALTERATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "speck": (speck, 1, 0),
    "margin": (margin, 1, 0),
    "margin and speck": (lambda image: speck(margin(image)), 1, 0),
    "margin at full scale": (lambda image: np.pad(image, ((0, 0), (0, 500), (0, 500)), constant_values=65535), 1, 0),
    "exposure": (lambda image: image * np.uint16(4), 4, 0),
    "offset": (lambda image: image + np.uint16(3000), 1, 3000),
    "saturation": (lambda image: np.minimum(image, np.uint16(1400)), 1, 0),
    "float": (lambda image: image.astype(np.float32) / 65535, 1 / 65535, 0),
    "signed": (lambda image: image.astype(np.int16) - np.int16(1500), 1, -1500),
}


@pytest.mark.parametrize("count", [1, 3, 30, 60])
def test_few_objects_are_normalized_as_many(count: int):
    """The background becomes 0, objects FOREGROUND_VALUE, whether a field holds one object or is a third objects."""
    level, scale = background_stats(scene(count))[0]
    assert level == pytest.approx(1000, abs=8)
    assert FOREGROUND_VALUE * scale == pytest.approx(400, rel=0.13)


@pytest.mark.parametrize("name", ALTERATIONS)
@pytest.mark.parametrize("count", [1, 40])
def test_alterations_change_nothing(name: str, count: int):
    """Level and scale follow exposure and offset, and ignore what is no specimen."""
    alter, factor, offset = ALTERATIONS[name]
    level, scale = background_stats(scene(count))[0]
    altered_level, altered_scale = background_stats(alter(scene(count)))[0]
    assert (altered_level - offset) / factor == pytest.approx(level, abs=8)
    assert altered_scale / factor == pytest.approx(scale, rel=0.1)


def test_objects_darker_and_brighter():
    """In a bright field, objects on both sides of the background count by how much they differ."""
    both = (scene(20, contrast=400)[0].astype(int) + scene(20, contrast=-400, seed=1)[0] - 1000)[None]
    level, scale = background_stats(both)[0]
    assert level == pytest.approx(1000, abs=10)
    assert FOREGROUND_VALUE * scale == pytest.approx(400, rel=0.15)


def test_a_background_of_zeros():
    """Where an offset was subtracted and clipped, zeros are background, around a single object too."""
    for count in (1, 40):
        clipped = (scene(count).astype(int) - 1100).clip(0).astype(np.uint16)
        level, scale = background_stats(clipped)[0]
        assert level == 0
        assert FOREGROUND_VALUE * scale == pytest.approx(300, rel=0.2)


def test_a_field_without_objects():
    """Noise stays small, and so does a lattice: without foreground the scale follows the background's noise."""
    image = scene(0)
    values = normalize(image[None], intensity_stats("background", image[None]))
    assert values.std() == pytest.approx(FOREGROUND_VALUE / 10, rel=0.1)
    counts = np.random.default_rng(0).poisson(5, (1, 64, 64))
    assert 0.1 < normalize(counts[None], intensity_stats("background", counts[None])).std() < 1


def test_values_that_are_no_numbers_do_not_count():
    """NaN and infinity neither spoil the statistics of the others, nor disappear; an image of them alone is told."""
    image = scene(10).astype(np.float32)
    level, scale = background_stats(image)[0]
    image[0, :2, :2] = np.nan, np.inf
    assert background_stats(image)[0] == pytest.approx((level, scale), rel=0.01)
    assert not np.isfinite(normalize(image[None], intensity_stats("background", image[None]))).all()
    assert (background_stats(np.full((1, 8, 8), np.nan, np.float32)) == 0).all()


def test_by_channel_and_by_stored_statistics():
    """Each channel has its own; those stored with a dataset are used for its tiles."""
    images = np.stack([np.concatenate([scene(5), scene(40, contrast=90) * np.uint16(7)])] * 2)
    stats = intensity_stats("background", images)
    np.testing.assert_array_equal(stats[1, 1], background_stats(images[1, 1:])[0])
    stored = np.stack([image_statistics(image) for image in images])
    np.testing.assert_array_equal(intensity_stats("background", images[..., :50], stored), stats)
    np.testing.assert_array_equal(intensity_stats("image", images[..., :50], stored), intensity_stats("image", images))


def test_only_valid_pixels_count():
    """What lies outside a mosaic's tiles has no part in its statistics."""
    image, valid = scene(20), np.ones((128, 128), bool)
    expected = image_statistics(image[..., :64])
    valid[:, 64:] = False
    image[..., 64:] = np.random.default_rng(0).integers(0, 65535, (1, 128, 64))
    np.testing.assert_allclose(image_statistics(image, valid), expected, rtol=0.01)
    assert (image_statistics(image, np.zeros_like(valid)) == 0).all()


class CountedImage:
    """An image (1, H, W) that repeats a scene, and counts the pixels that are read of it."""

    def __init__(self, tile: np.ndarray, repeats: int) -> None:
        self.tile, self.dtype, self.pixels = tile, tile.dtype, 0
        self.shape = (1, repeats * tile.shape[1], repeats * tile.shape[2])

    def __getitem__(self, key: tuple[int, slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(self.shape[axis])[key[axis]] for axis in (1, 2))
        self.pixels += len(rows) * len(columns)
        return self.tile[0][np.ix_(rows % self.tile.shape[1], columns % self.tile.shape[2])]


def test_a_large_image_is_sampled():
    """Of 20,000 px a bounded number of pixels is read, and gives what the whole image has; a memory of tiles too."""
    tile = np.concatenate([scene(20), scene(20, seed=1)], axis=2)[:, :125, :250]
    image = CountedImage(tile, 160)
    stats = streaming_stats("background", image)
    assert image.pixels <= MAX_WHOLE_PX
    np.testing.assert_allclose(stats[0], background_stats(tile), rtol=0.05)
    np.testing.assert_array_equal(streaming_stats("background", tile), intensity_stats("background", tile[None]))


def test_the_noise_of_the_background():
    """The noise is the background's standard deviation, also of integers that hardly vary."""
    assert background(scene(5), 0).noise == pytest.approx(20, rel=0.15)
    assert background(np.random.default_rng(0).integers(4, 6, (1, 64, 64)), 0).noise == pytest.approx(0.3, abs=0.05)
