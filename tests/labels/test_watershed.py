from __future__ import annotations

import numpy as np
import pytest
from samples.hostile_labels import hostile_labels
from scipy import ndimage
from skimage import measure
from skimage.morphology import h_maxima
from skimage.segmentation import watershed as skimage_watershed

from segue import rng
from segue.labels import watershed


def hills(seed: int, *, sigma_px: float = 3.0) -> np.ndarray:
    """Returns smooth positive noise (50, 70) float32 whose values all differ."""
    noise = rng.numpy_generator("hills", seed).normal(size=(50, 70))
    smooth = ndimage.gaussian_filter(noise, sigma_px)
    return (smooth - smooth.min() + 1e-3).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_flood_equals_skimage(seed: int):
    """Pixel by pixel scikit-image's watershed of four neighbours, from seeds that are no maxima, within a mask."""
    values = hills(seed)
    mask = values > np.quantile(values, 0.3)
    generator = rng.numpy_generator("seeds", seed)
    seeds = np.where(generator.random(values.shape) < 0.01, generator.integers(1, 1000, values.shape), 0)
    expected = skimage_watershed(-values, np.where(mask, seeds, 0), mask=mask)
    assert np.array_equal(watershed.flood(values, seeds, mask), expected)


def test_flood_shares_a_plateau():
    """Two seeds in a plateau of one value meet halfway, whichever comes first and however the array is turned."""
    seeds = np.zeros((9, 21), dtype=np.int32)
    seeds[4, 2], seeds[4, 18] = 7, 3
    for rotated in (seeds, seeds[::-1, ::-1], seeds.T):
        actual = watershed.flood(np.ones(rotated.shape, np.float32), rotated, np.ones(rotated.shape, bool))
        assert abs(int((actual == 7).sum()) - int((actual == 3).sum())) <= 9 and (actual > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_maxima_equal_h_maxima(seed: int):
    """Where all heights are nearly equal, relative depth is absolute depth, and maxima are scikit-image's h-maxima."""
    values = hills(seed) * 0.3
    everywhere = np.ones(values.shape, bool)
    for depth in (0.002, 0.01, 0.03):
        actual = watershed.seeds_by_dynamics(
            values + 1000, everywhere, min_depth=depth / 1000, join_above=1e9, min_height=0
        )
        expected = np.asarray(measure.label(h_maxima(values.astype(np.float64), depth))).max()
        assert abs(len(np.unique(actual)) - 1 - expected) <= 1  # 1000 is not quite each maximum's height


def test_one_peak_is_one_object():
    """A mask of one value has one object for each part; a part that joins at a corner belongs to it."""
    mask = hostile_labels()["touching"] > 0
    mask[37, 37] = True  # at the corner of all the rest
    actual = watershed.seeds_by_dynamics(
        np.ones(mask.shape, np.float32), mask, min_depth=0.1, join_above=9, min_height=0
    )
    flooded = watershed.flood(np.ones(mask.shape, np.float32), actual, mask)
    assert len(np.unique(flooded[mask])) == 1 and not flooded[~mask].any()


def test_unseeded_parts_become_objects():
    """Connected parts of the mask without a label get new ones."""
    mask = np.zeros((4, 9), bool)
    mask[1, 1:3] = mask[1, 5:7] = mask[3, 8] = True
    labels = np.zeros((4, 9), np.int32)
    labels[1, 1:3] = 4
    assert watershed.add_unseeded_components(labels, mask)[mask].tolist() == [4, 4, 5, 5, 6]
