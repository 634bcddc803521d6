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
    for turned in (seeds, seeds[::-1, ::-1], seeds.T):
        found = watershed.flood(np.ones(turned.shape, np.float32), turned, np.ones(turned.shape, bool))
        assert abs(int((found == 7).sum()) - int((found == 3).sum())) <= 9 and (found > 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_maxima_equal_h_maxima(seed: int):
    """Where all heights are nearly equal, relative depth is absolute depth, and maxima are scikit-image's h-maxima."""
    values = hills(seed) * 0.3
    everywhere = np.ones(values.shape, bool)
    for depth in (0.002, 0.01, 0.03):
        found = watershed.basins(values + 1000, everywhere, depth=depth / 1000, join=1e9, least=0)
        expected = np.asarray(measure.label(h_maxima(values.astype(np.float64), depth))).max()
        assert abs(len(np.unique(found)) - 1 - expected) <= 1  # 1000 is not quite each maximum's height


def test_one_peak_is_one_object():
    """A mask of one value has one object for each part; a part that joins at a corner belongs to it."""
    mask = hostile_labels()["touching"] > 0
    mask[37, 37] = True  # at the corner of all the rest
    found = watershed.basins(np.ones(mask.shape, np.float32), mask, depth=0.1, join=9, least=0)
    flooded = watershed.flood(np.ones(mask.shape, np.float32), found, mask)
    assert len(np.unique(flooded[mask])) == 1 and not flooded[~mask].any()


def test_holes_are_filled_only_where_one_object_surrounds_them():
    """A hole between two objects, at the border, or too large stays open."""
    labels = hostile_labels()["hollow"]
    filled = watershed.holes_filled(labels, largest_px=1000)
    assert (filled[labels == 5].mean(), filled[31, 6]) == (5, 5)
    assert (filled == 3).sum() == (labels == 3).sum()  # its hole holds another object
    assert np.array_equal(watershed.holes_filled(labels, largest_px=12), labels)
    open_ = np.ones((5, 5), dtype=np.int32)
    open_[0, 2] = open_[2, 2] = 0
    assert watershed.holes_filled(open_, largest_px=9).sum() == 24
    shared = np.array([[1, 1, 1, 1], [1, 0, 2, 2], [1, 1, 1, 1]])
    assert np.array_equal(watershed.holes_filled(shared, largest_px=9), shared)


def test_numbers_follow_first_pixels():
    """Any ids, beyond 32 bits too, become 1 … n in scan order; −1 and 0 stay; small objects go where asked."""
    for labels in hostile_labels().values():
        found, count = watershed.consecutive(labels)
        ids, first = np.unique(labels, return_index=True)
        expected = np.zeros(labels.shape, dtype=np.int32)
        for number, label in enumerate(ids[ids > 0][np.argsort(first[ids > 0])]):
            expected[labels == label] = number + 1
        assert count == (ids > 0).sum() and found.dtype == np.int32
        assert np.array_equal(found, np.where(labels < 0, -1, expected))
        sized = watershed.in_scan_order(labels.clip(min=0), min_size_px=5)
        kept, areas = np.unique(labels[labels > 0], return_counts=True)
        assert np.array_equal(sized > 0, np.isin(labels, kept[areas >= 5]))
        assert len(np.unique(sized[sized > 0])) == (areas >= 5).sum() == sized.max()


def test_unseeded_parts_become_objects():
    """Connected parts of the mask without a label get new ones."""
    mask = np.zeros((4, 9), bool)
    mask[1, 1:3] = mask[1, 5:7] = mask[3, 8] = True
    labels = np.zeros((4, 9), np.int32)
    labels[1, 1:3] = 4
    assert watershed.with_unseeded(labels, mask)[mask].tolist() == [4, 4, 5, 5, 6]
