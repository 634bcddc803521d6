"""Normalization in operations of torch gives the numbers that segue trains and predicts with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue.data.normalization import MAX_WHOLE_PX, intensity_stats, normalize
from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.exporting.normalization import Normalization

SPECS: dict[str, NormalizeSpec] = {
    "none": "none",
    "image": "image",
    "tile": "tile",
    "background": "background",
    "percentile": PercentileSpec(name="percentile"),
    "range": PercentileSpec(name="percentile", low=0, high=100),
}


def discs(height: int = 90, width: int = 130, count: int = 8) -> np.ndarray:
    """Returns (height, width) float64: 1 in discs and 0 elsewhere."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    centers = generator.uniform([5, 5, 3], [height - 5, width - 5, 10], (count, 3))
    return np.max([(y - cy) ** 2 + (x - cx) ** 2 < r * r for cy, cx, r in centers], axis=0).astype(float)


def images() -> dict[str, np.ndarray]:
    generator, objects = np.random.default_rng(1), discs()
    noise = generator.normal(0, 5, objects.shape)
    bright = (100 + 500 * objects + noise).round()
    margin = bright.copy()
    margin[:, :40] = 0
    zeros = np.zeros((60, 60))
    zeros[20:30, 20:30] = 200
    speck = np.where(generator.random((64, 64)) < 0.002, 4000, generator.normal(100, 3, (64, 64)))
    batch = {
        "two images of two channels": generator.normal(100, 20, (2, 2, 64, 50)).astype(np.float32),
        "bright": bright[None, None].astype(np.uint16),
        "dark": (800 - 200 * objects + noise)[None, None].astype(np.float32),
        "few gray values": (10 + 40 * objects + generator.poisson(3, objects.shape))[None, None].astype(np.uint8),
        "dark margin": margin[None, None].astype(np.uint16),
        "zeros around a box": zeros[None, None].astype(np.uint8),
        "specks": speck[None, None].astype(np.float32),
        "constant": np.full((1, 1, 20, 30), 7, np.uint8),
        "3 × 5 px": generator.integers(0, 255, (1, 1, 3, 5), dtype=np.uint8),
        "one pixel": np.full((1, 1, 1, 1), 3.0, np.float32),
    }
    return batch


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", images())
def test_statistics_are_those_of_segue(name: str, spec: str):
    """Shift and scale equal `intensity_stats`, and the image what the network sees, to the rounding of float32."""
    image = images()[name]
    expected = intensity_stats(SPECS[spec], image)
    values = torch.from_numpy(image.astype(np.float32))
    shift, scale = Normalization(SPECS[spec])(values)
    actual = np.stack([part.expand(*image.shape[:2], 1, 1)[..., 0, 0].numpy() for part in (shift, scale)], -1)
    np.testing.assert_allclose(actual, expected, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(((values - shift) / scale).numpy(), normalize(image, expected), rtol=1e-5, atol=1e-5)


def test_beyond_the_size_of_a_sample_all_pixels_count():
    """Where segue samples blocks, level and contrast agree within a percent of the contrast."""
    objects = discs(1100, 1100, 300)
    assert objects.size > MAX_WHOLE_PX
    image = (100 + 500 * objects + np.random.default_rng(2).normal(0, 5, objects.shape)).astype(np.float32)[None, None]
    (level, scale), (shift, factor) = (
        intensity_stats("background", image)[0, 0],
        Normalization("background")(torch.from_numpy(image)),
    )
    assert abs(float(shift) - level) < 0.01 * scale
    assert abs(float(factor) / scale - 1) < 0.01
    assert float(shift) != level or float(factor) != scale
