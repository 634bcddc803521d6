"""Normalisation: what is subtracted and divided by, for data in memory, streamed data and predictions alike."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from segue.data.normalization import intensity_stats, normalize
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


@pytest.mark.parametrize("normalization", ["image", "tile", PercentileSpec(name="percentile")])
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
