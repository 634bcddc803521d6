"""Cutting images: into tiles for datasets, and into cores with halos for predicting images too large for memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segue.labels import IGNORED

BAND_BYTES = 2**26
Edge = Literal["drop", "shift"]  # a tile that would reach beyond the border is left out, or moved back inside


@dataclass(frozen=True)
class Tiles:
    """Tiles of one micrograph: images (n, C, t, t), labels {layer: (n, t, t)}, valid (n, 4), corners (n, 2): y, x."""

    images: np.ndarray
    labels: dict[str, np.ndarray]
    valid: np.ndarray
    corners: np.ndarray


def starts(length_px: int, tile_px: int, stride_px: int, *, edge: Edge = "shift") -> list[int]:
    """Returns the starts of tiles along one axis: every stride, the last shifted so that it ends at the border.

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


@dataclass(frozen=True)
class Region:
    """Rows `top` to `bottom` and columns `left` to `right` of an image, the last ones not included."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def read(self, array: Any) -> np.ndarray:
        """Returns this part of a sliceable array (…, H, W): numpy, a memory map, zarr, HDF5."""
        return np.asarray(array[(..., *self.slices)])

    def within(self, outer: Region) -> Region:
        """Returns the same pixels relative to the corner of `outer`."""
        return Region(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)

    def widened(self, by_px: int, shape: tuple[int, int]) -> Region:
        """Returns the region with `by_px` more on each side, limited to the image (H, W)."""
        return Region(
            max(self.top - by_px, 0),
            max(self.left - by_px, 0),
            min(self.bottom + by_px, shape[0]),
            min(self.right + by_px, shape[1]),
        )

    def aligned(self, divisor: int, shape: tuple[int, int]) -> Region:
        """Returns the smallest region around this one with borders at multiples of `divisor`, or of the image."""
        return Region(
            self.top // divisor * divisor,
            self.left // divisor * divisor,
            min(-(-self.bottom // divisor) * divisor, shape[0]),
            min(-(-self.right // divisor) * divisor, shape[1]),
        )


@dataclass(frozen=True)
class Tiling:
    """Cores of `tile_px` × `tile_px` px, each decoded with `halo_px` more on every side.

    If that is too little, the halo is doubled, up to half of `tile_px`. A network sees `context_px` beyond the halo;
    None: its receptive radius (see `segue.inference.predict.receptive_radius_px`).
    """

    tile_px: int = 1024
    halo_px: int = 128
    context_px: int | None = None

    def __post_init__(self) -> None:
        if self.tile_px < 1 or not 0 <= self.halo_px <= self.tile_px or (self.context_px or 0) < 0:
            raise ValueError(
                f"tiling: tile_px = {self.tile_px}, halo_px = {self.halo_px}, context_px = {self.context_px}; allowed "
                "are tile_px of at least 1, halo_px from 0 to tile_px, and context_px of at least 0 or None"
            )

    def cores(self, shape: tuple[int, int]) -> list[Region]:
        """Returns the cores that cover an image (H, W), row by row; the last of a row or column may be smaller."""
        side = self.tile_px
        corners = [(top, left) for top in range(0, shape[0], side) for left in range(0, shape[1], side)]
        return [Region(y, x, min(y + side, shape[0]), min(x + side, shape[1])) for y, x in corners]

    def halos(self) -> list[int]:
        """Returns the halos to try, the smallest first."""
        halos = [self.halo_px]
        while halos[-1] and 2 * halos[-1] <= self.tile_px // 2:
            halos.append(2 * halos[-1])
        return halos


def bands(height: int, width: int, bytes_per_px: int) -> Iterator[tuple[int, int]]:
    """Yields first and last row (not included) of bands of an image that need about BAND_BYTES."""
    rows = max(1, BAND_BYTES // max(1, width * bytes_per_px))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)
