"""Stitches objects that were decoded tile by tile, as if the image had been decoded whole.

Each tile is a core and a halo around it. Both are decoded together, and the labels in the core are kept. An object that
enters several cores is decoded in several tiles; what a tile sees of the cores before it tells which of their objects
equals which of its own. Only labels are compared, never scores, and nothing but one tile and a few numbers for each
object are in memory.

This is exact, pixel by pixel, where a tile holds every object that enters its core complete, and the objects that touch
these too: the result of the decoder at the border of the tile does then not matter. (A watershed is a minimum spanning
forest rooted in the seeds. What is cut away takes no edge from it, so that the pixels of complete objects keep their
seeds, and only pixels of objects that are cut can fall to others: their neighbors.) A halo of twice the largest object
suffices. Whether it did is seen in the labels: where an object may be truncated, the tile is decoded again with a
larger halo. Objects longer than the largest halo are joined by their overlap alone, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit

from segue.data.tiling import Region, Tiling

MARGIN_PX = 16  # decoders smooth by 9 px at most and cluster the ends of flows within 7 px
MIN_OVERLAP = 0.5  # objects of two tiles are one where this one has more than this share of the visible earlier one
HALF_NEIGHBORS = ((0, 1), (1, -1), (1, 0), (1, 1))  # of the eight neighbors: each pair is visited once


@dataclass(frozen=True)
class StitchResult:
    """The number of objects, and how many of them may differ from those of the image decoded whole.

    is_uncertain (objects + 1,) bool: which these are. values (objects + 1, …): what `measure` gave for each object, in
    the first tile that it enters; None without it.
    """

    objects: int
    uncertain: int
    is_uncertain: np.ndarray = field(default_factory=lambda: np.zeros(1, np.bool_), compare=False)
    values: np.ndarray | None = field(default=None, compare=False)


def stitch_objects(
    decode: Callable[[Region], np.ndarray],
    out: Any,
    *,
    tiling: Tiling,
    measure: Callable[[np.ndarray, Region], np.ndarray] | None = None,
) -> StitchResult:
    """Writes objects 1 … n, in the order of their first pixels, 0 elsewhere, into `out` (H, W).

    decode: returns the objects of a region of the image, a label map of that region's shape, numbered 1 … in any order.
    out: an integer array that can be sliced and written to, whatever it holds; it need not be in memory.
    measure: given the labels of a tile and its region, right after they are decoded, returns a row of numbers for each
    label 0 … n.
    """
    height, width = out.shape
    union = _ObjectUnion()
    cores = tiling.cores((height, width))
    for core in cores:
        # decode with the smallest halo that holds every object of the core complete
        labels, tile, truncated = _decode_complete(decode, core, (height, width), tiling)
        inner = labels[core.within(tile).slices]
        # number the objects of the core, and join them to those of earlier cores
        first = first_pixels(inner, len(truncated) - 1, core.top, core.left, width)
        numbers = union.add(first, truncated, None if measure is None else measure(labels, tile))
        for earlier, label in _same_objects(labels, tile, core, out):
            if numbers[label]:
                union.join(earlier, int(numbers[label]))
        out[core.slices] = numbers[inner]
    # renumber by first pixels
    table = union.final_numbers()
    for core in cores:
        out[core.slices] = table[core.read(out)]
    return union.result(table)


def _decode_complete(
    decode: Callable[[Region], np.ndarray], core: Region, shape: tuple[int, int], tiling: Tiling
) -> tuple[np.ndarray, Region, np.ndarray]:
    """Returns the labels of a tile around the core, the tile, and which objects, by number, may be truncated."""
    halos = tiling.halos()
    for halo_px in halos[:-1]:
        tile = _decode_tile(decode, core, shape, halo_px)
        if not tile[2].any():
            return tile
    return _decode_tile(decode, core, shape, halos[-1])


def _decode_tile(
    decode: Callable[[Region], np.ndarray], core: Region, shape: tuple[int, int], halo_px: int
) -> tuple[np.ndarray, Region, np.ndarray]:
    tile = core.widened(halo_px, shape)
    labels = np.ascontiguousarray(decode(tile), np.int32)
    cut_sides = (tile.top > 0, tile.left > 0, tile.bottom < shape[0], tile.right < shape[1])
    inner = core.within(tile)
    box = (inner.top, inner.left, inner.bottom, inner.right)
    margin = max(1, min(MARGIN_PX, halo_px // 2))
    return labels, tile, truncated_objects(labels, int(labels.max(initial=0)), box, cut_sides, margin)


@njit(cache=True, nogil=True)
def truncated_objects(
    labels: np.ndarray,
    count: int,
    core: tuple[int, int, int, int],
    cut_sides: tuple[bool, bool, bool, bool],
    margin: int,
) -> np.ndarray:
    """Returns for each object 1 … count, (count + 1,) bool, whether it enters the core and may extend beyond the tile.

    These are objects within `margin` px of a side at which the image was cut, and those that touch one of these (8
    neighbors). labels: (H, W) of the tile; core: top, left, bottom, right in it; cut_sides in the same order.
    """
    height, width = labels.shape
    inside, near = np.zeros(count + 1, np.bool_), np.zeros(count + 1, np.bool_)
    for y in range(height):
        at_row = (cut_sides[0] and y < margin) or (cut_sides[2] and y >= height - margin)
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                if at_row or (cut_sides[1] and x < margin) or (cut_sides[3] and x >= width - margin):
                    near[label] = True
                if core[0] <= y < core[2] and core[1] <= x < core[3]:
                    inside[label] = True
    truncated = inside & near
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            for dy, dx in HALF_NEIGHBORS:
                if y + dy < height and 0 <= x + dx < width:
                    other = labels[y + dy, x + dx]
                    if other > 0 and near[label] != near[other]:
                        truncated[label] |= inside[label] and near[other]
                        truncated[other] |= inside[other] and near[label]
    return truncated


@njit(cache=True, nogil=True)
def first_pixels(core: np.ndarray, count: int, top: int, left: int, width: int) -> np.ndarray:
    """Returns the first pixel y · width + x in the image of each object 1 … count in a core, −1 without, (count + 1,).

    top, left: where the core begins in the image.
    """
    first = np.full(count + 1, -1, np.int64)
    for y in range(core.shape[0]):
        for x in range(core.shape[1]):
            label = core[y, x]
            if label > 0 and first[label] < 0:
                first[label] = (top + y) * width + left + x
    return first


def _same_objects(labels: np.ndarray, tile: Region, core: Region, out: Any) -> list[tuple[int, int]]:
    """Returns pairs: an object of earlier cores, and the one of this tile that has most of its visible part.

    Visible is half of the halo, where both tiles are far from their borders.
    """
    visible = Region(
        (core.top + tile.top) // 2, (core.left + tile.left) // 2, core.bottom, -(-(core.right + tile.right) // 2)
    )
    earlier = visible.read(out).astype(np.int64)
    inner = core.within(visible)
    earlier[inner.top :, inner.left :] = 0  # not written yet
    is_object = earlier > 0
    if not is_object.any():
        return []
    present = labels[visible.within(tile).slices][is_object].astype(np.int64)
    base = int(labels.max(initial=0)) + 1
    ids, positions, sizes = np.unique(earlier[is_object], return_inverse=True, return_counts=True)
    pairs, overlap = np.unique(positions * base + present, return_counts=True)
    index, label = pairs // base, pairs % base
    same = (label > 0) & (overlap > MIN_OVERLAP * sizes[index])
    return list(zip(ids[index[same]].tolist(), label[same].tolist(), strict=True))


class _ObjectUnion:
    """The objects of all cores so far, numbered from 1, and which of them are one (union-find, the least is the root).

    An object that enters several cores has a number in each of them.
    """

    def __init__(self) -> None:
        self.parents = [0]
        self.first = [np.zeros(1, np.int64)]
        self.truncated = [np.zeros(1, np.bool_)]
        self.values: list[np.ndarray] = []

    def add(self, first: np.ndarray, truncated: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Returns the number of each object of a tile, 0 where its first pixel in the core is −1, (count + 1,)."""
        present = first >= 0
        numbers = np.where(present, np.cumsum(present) + len(self.parents) - 1, 0)
        self.parents += numbers[present].tolist()
        self.first.append(first[present])
        self.truncated.append(truncated[present])
        if values is not None:
            self.values.append(values[present])
        return numbers

    def join(self, one: int, other: int) -> None:
        roots = sorted((self._root(one), self._root(other)))
        self.parents[roots[1]] = roots[0]

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def final_numbers(self) -> np.ndarray:
        """Returns for every number that of its whole object, by first pixels."""
        roots = self._roots()
        first = np.concatenate(self.first)
        np.minimum.at(first, roots, first.copy())
        objects = np.flatnonzero(roots == np.arange(len(roots)))[1:]
        numbers = np.zeros(len(roots), np.int64)
        numbers[objects[np.argsort(first[objects])]] = np.arange(1, len(objects) + 1)
        return numbers[roots]

    def result(self, table: np.ndarray) -> StitchResult:
        """Returns what is known of the whole objects; table: their final numbers."""
        count = int(table.max())
        is_uncertain = np.zeros(count + 1, np.bool_)
        is_uncertain[table[np.concatenate(self.truncated)]] = True
        values = None
        if self.values:
            parts, roots = np.concatenate(self.values), self._roots()
            objects = np.flatnonzero(roots == np.arange(len(roots)))[1:]
            values = np.zeros((count + 1, *parts.shape[1:]), parts.dtype)
            values[table[objects]] = parts[objects - 1]  # numbers begin at 1
        return StitchResult(count, int(is_uncertain.sum()), is_uncertain, values)

    def _roots(self) -> np.ndarray:
        roots = np.array(self.parents)
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        return roots
