"""Resampling by regions: Pillow's result, whatever the region."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segue import rng
from segue.inference.rescale import Nearest, Resampled


@pytest.mark.parametrize("size", [(60, 90), (25, 31), (200, 300), (60, 31)])
def test_regions_of_the_resampled_image(size: tuple[int, int]):
    """Values are those of Pillow's bilinear filter, and a region has those of the whole."""
    pixels = rng.numpy_generator("resampled").normal(100, 30, (2, 60, 90)).astype(np.float32)
    view = Resampled(pixels, size)
    whole = view[:, :, :]
    expected = np.stack(
        [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)) for plane in pixels]
    )
    assert view.shape == whole.shape == expected.shape
    assert np.allclose(whole, expected, atol=1e-3)
    assert np.allclose(view[1, 5:17, 11:29], whole[1, 5:17, 11:29], atol=1e-4)


def test_labels_return_to_the_size_of_their_image():
    """Every pixel has the label in whose pixel its center lies; a region has those of the whole."""
    labels = np.arange(1, 7).reshape(2, 3)
    view = Nearest(labels, (4, 7))
    assert view[:, :].tolist()[0] == [1, 1, 2, 2, 2, 3, 3]
    assert np.array_equal(view[1:3, 2:6], view[:, :][1:3, 2:6])
    large = np.repeat(np.repeat(labels, 5, 0), 5, 1)
    assert np.array_equal(Nearest(large, (2, 3))[:, :], labels)
