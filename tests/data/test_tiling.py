"""Tiles cover every pixel, end at the border, and are padded where the micrograph is smaller."""

from __future__ import annotations

import numpy as np
import pytest

from segue.data.tiling import corners, cut, starts


@pytest.mark.parametrize("length", [1, 7, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize(("tile", "stride"), [(16, 16), (16, 8), (16, 5), (16, 1)])
def test_every_pixel_is_covered(length: int, tile: int, stride: int) -> None:
    """Tiles of one axis cover it, stay inside where they fit, never repeat, and are as many as by division."""
    actual = starts(length, tile, stride)
    assert set().union(*(range(start, start + tile) for start in actual)) >= set(range(length))
    assert max(actual) == max(0, length - tile)
    assert len(set(actual)) == len(actual) == max(0, -(-(length - tile) // stride)) + 1
    assert np.diff(actual).max(initial=0) <= stride


def test_overlapping_tiles_put_the_image_together() -> None:
    """Writing all tiles back at their corners gives the micrograph and its labels."""
    generator = np.random.default_rng(0)
    image, labels = generator.integers(0, 99, (2, 37, 53)), generator.integers(0, 9, (37, 53)).astype(np.int32)
    places = corners(37, 53, tile_px=16, stride_px=11)
    tiles = cut(image, {"a": labels}, tile_px=16, places=places, fill=np.zeros(2))
    built, marks = np.full_like(image, -7), np.full_like(labels, -7)
    for (y, x), tile, tile_labels in zip(tiles.corners, tiles.images, tiles.labels["a"], strict=True):
        built[:, y : y + 16, x : x + 16] = tile
        marks[y : y + 16, x : x + 16] = tile_labels
    np.testing.assert_array_equal(built, image)
    np.testing.assert_array_equal(marks, labels)
    assert (tiles.valid == [0, 0, 16, 16]).all()


def test_small_micrographs_are_padded() -> None:
    """Padding holds the rounded mean of each channel and labels -1, outside the valid box."""
    image = np.stack([np.full((10, 20), 7, np.uint8), np.full((10, 20), 3, np.uint8)])
    tiles = cut(
        image,
        {"a": np.ones((10, 20), np.int32)},
        tile_px=16,
        places=corners(10, 20, tile_px=16, stride_px=16),
        fill=np.array([6.6, 2.4]),
    )
    assert tiles.corners.tolist() == [[0, 0], [0, 4]]
    assert tiles.valid.tolist() == [[0, 0, 10, 16]] * 2
    assert tiles.images.dtype == np.uint8
    assert (tiles.images[:, 0, 10:] == 7).all()
    assert (tiles.images[:, 1, 10:] == 2).all()
    assert (tiles.labels["a"][:, 10:] == -1).all()
    assert (tiles.labels["a"][:, :10] == 1).all()
