"""Saturation is a pile-up at the highest value, whatever that is; what is bright, flat or noisy is not saturated."""

from __future__ import annotations

import numpy as np
import pytest

from segue.data.folders.saturation import saturation

FULL = [2**bits - 1 for bits in (8, 10, 12, 14, 16)]


def field(full: int) -> np.ndarray:
    """Returns noise about 0.45 of the full scale, none of it saturated."""
    noise = np.random.default_rng(full).normal(0.45, 0.02, (120, 120))
    return np.rint(noise * full).astype(np.uint16)


@pytest.mark.parametrize("full", FULL)
def test_cameras_of_any_bits(full: int) -> None:
    """Half of a field at the full scale of 8 to 16 bits, in files of 16 bits, is half saturated; else nothing is."""
    image = field(full)
    assert saturation(image).share == 0
    image[:, :60] = full
    actual = saturation(image)
    assert (actual.level, actual.share) == (full, 0.5)


def test_any_level_and_type() -> None:
    """With an offset subtracted, scaled to 1 or to anything, or in a type with a sign, the pile-up is the same."""
    image = field(4095)
    image[:30] = 4095
    for other in (
        image - 117,
        image / np.float32(4095),
        image.astype(np.float32) * 0.37,
        image.astype(np.int32) - 9000,
    ):
        actual = saturation(other)
        assert (actual.level, actual.share) == (other.max(), 0.25)


@pytest.mark.parametrize("mean", [0.05, 1, 20, 300])
def test_counts_and_flat_histograms_are_not_saturated(mean: float) -> None:
    """Few counts, many counts, uniform noise, a few hot pixels: no pile-up."""
    generator = np.random.default_rng(3)
    image = generator.poisson(mean, (200, 200)).astype(np.uint16)
    assert saturation(image).share == 0
    image[5, :3] = 4095
    assert saturation(image).share == 0
    assert saturation(generator.integers(0, 256, (200, 200)).astype(np.uint8)).share == 0


def test_a_broad_clipped_histogram() -> None:
    """Of a bright, broad distribution what was clipped is found, down to a few per cent."""
    image = np.random.default_rng(4).normal(180, 40, (300, 300)).clip(0, 255).round().astype(np.uint8)
    assert saturation(image).share == pytest.approx(0.031, abs=0.003)


@pytest.mark.parametrize(("value", "share"), [(0, 0), (7, 0), (4095, 1), (65535, 1)])
def test_constant_fields(value: int, share: float) -> None:
    """A constant field is burnt out at a full scale, and dark or dead elsewhere."""
    assert saturation(np.full((20, 20), value, np.uint16)).share == share
