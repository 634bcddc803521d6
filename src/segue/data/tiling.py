"""Where to cut tiles from a micrograph, and the cutting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segue.data.layers import IGNORED

Edge = Literal["drop", "shift"]  # of the tile that would reach beyond the border: left out, or moved back inside


@dataclass(frozen=True)
class Tiles:
    """Tiles of one micrograph: images (n, C, t, t), labels {layer: (n, t, t)}, valid (n, 4), corners (n, 2): y, x."""

    images: np.ndarray
    labels: dict[str, np.ndarray]
    valid: np.ndarray
    corners: np.ndarray


def starts(length_px: int, tile_px: int, stride_px: int, *, edge: Edge = "shift") -> list[int]:
    """Returns where tiles begin along one axis: every stride, the last shifted so that it ends at the border.

    Every pixel is covered when stride <= tile. An axis shorter than the tile has one start, 0. With edge "drop" there
    are only the tiles that lie inside at whole strides, (length - tile) // stride + 1 of them.

    >>> starts(520, 256, 256)
    [0, 256, 264]
    >>> starts(520, 256, 256, edge="drop")
    [0, 256]
    """
    if edge == "drop":
        return list(range(0, length_px - tile_px + 1, stride_px))
    last = max(0, length_px - tile_px)
    return [*range(0, last, stride_px), last]


def corners(
    height_px: int, width_px: int, *, tile_px: int, stride_px: int, edge: Edge = "shift"
) -> list[tuple[int, int]]:
    """Returns the upper left corners (y, x) of all tiles, row by row; `edge` as in `starts`."""
    columns = starts(width_px, tile_px, stride_px, edge=edge)
    return [(y, x) for y in starts(height_px, tile_px, stride_px, edge=edge) for x in columns]


def cut(
    image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    tile_px: int,
    places: Sequence[tuple[int, int]],
    fill: np.ndarray,
) -> Tiles:
    """Returns the tiles of image (C, H, W) and labels {layer: (H, W)} whose upper left corners are `places`.

    Where the micrograph ends before the tile, at the right and below, images hold `fill` (C,) rounded to their type and
    labels -1; `valid` (y0, x0, y1, x1) is the box that is not padding.
    """
    count, (channels, height, width) = len(places), image.shape
    if image.dtype.kind in "ui":
        fill = np.rint(fill)
    images = np.empty((count, channels, tile_px, tile_px), dtype=image.dtype)
    images[:] = fill.astype(image.dtype)[None, :, None, None]
    cuts = {name: np.full((count, tile_px, tile_px), IGNORED, dtype=np.int32) for name in labels}
    valid = np.zeros((count, 4), dtype=np.int32)
    for index, (y, x) in enumerate(places):
        rows, columns = min(tile_px, height - y), min(tile_px, width - x)
        images[index, :, :rows, :columns] = image[:, y : y + rows, x : x + columns]
        for name, values in labels.items():
            cuts[name][index, :rows, :columns] = values[y : y + rows, x : x + columns]
        valid[index] = (0, 0, rows, columns)
    return Tiles(images, cuts, valid, np.array(places, dtype=np.int64).reshape(-1, 2))
