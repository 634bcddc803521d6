"""Compiled parts of decoding by tiles: which objects of a tile its border may have changed, and where objects begin.

Objects of an image decoded tile by tile, joined across tiles, as if it had been decoded whole.

Each tile is a core and a halo around it. Both are decoded together, and the core's labels are kept. An object that
enters several cores is decoded in several tiles; what a tile sees of the cores before it says which of their objects
is which of its own. Only labels are compared, never scores, and nothing but one tile and a few numbers for each object
are held in memory.

This is exact, pixel by pixel, where a tile holds every object that enters its core whole, and the objects that touch
these too: a decoder may then do what it likes at the tile's border. (A watershed is a minimum spanning forest rooted in
the seeds. What is cut away takes no edge from it, so that the pixels of whole objects keep their seeds, and only pixels
of objects that are cut can fall to others: their neighbours.) A halo of twice the largest object suffices. Whether it
did is seen in the labels; where it did not, the tile is decoded again with a larger one. What is longer than the
largest is joined by the overlap alone, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from segue.data.tiling import Region, Tiling

NEXT = ((0, 1), (1, -1), (1, 0), (1, 1))  # half of the eight neighbours: pairs are looked at once


@njit(cache=True, nogil=True)
def unsettled(
    labels: np.ndarray, count: int, core: tuple[int, int, int, int], cut: tuple[bool, bool, bool, bool], margin: int
) -> np.ndarray:
    """Returns for each object 1 … count, (count + 1,) bool, whether it enters the core and may go on beyond the tile.

    So it is with objects within `margin` px of a side at which the image was cut, and with those that touch one of
    these (8 neighbours). labels: (H, W) of the tile; core: top, left, bottom, right in it; cut: the sides, so ordered.
    """
    height, width = labels.shape
    inside, near = np.zeros(count + 1, np.bool_), np.zeros(count + 1, np.bool_)
    for y in range(height):
        at_row = (cut[0] and y < margin) or (cut[2] and y >= height - margin)
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                if at_row or (cut[1] and x < margin) or (cut[3] and x >= width - margin):
                    near[label] = True
                if core[0] <= y < core[2] and core[1] <= x < core[3]:
                    inside[label] = True
    found = inside & near
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            for dy, dx in NEXT:
                if y + dy < height and 0 <= x + dx < width:
                    other = labels[y + dy, x + dx]
                    if other > 0 and near[label] != near[other]:
                        found[label] |= inside[label] and near[other]
                        found[other] |= inside[other] and near[label]
    return found


@njit(cache=True, nogil=True)
def first_places(core: np.ndarray, count: int, top: int, left: int, width: int) -> np.ndarray:
    """Returns the first place y · width + x in the image of each object 1 … count in a core, −1 without, (count + 1,).

    top, left: where the core begins in the image.
    """
    first = np.full(count + 1, -1, np.int64)
    for y in range(core.shape[0]):
        for x in range(core.shape[1]):
            label = core[y, x]
            if label > 0 and first[label] < 0:
                first[label] = (top + y) * width + left + x
    return first


MARGIN_PX = 16  # decoders smooth by 9 px at most and gather ends of flows within 7 px
ENOUGH = 0.5  # objects of two tiles are one where this one has more than so much of what it sees of the earlier one


@dataclass(frozen=True)
class Joined:
    """How many objects were found, and how many of them may differ from those of the image decoded whole."""

    objects: int
    uncertain: int


def label_tiles(decode: Callable[[Region], np.ndarray], out: Any, *, tiling: Tiling) -> Joined:
    """Writes objects 1 … n, in the order of their first pixels, 0 elsewhere, into `out` (H, W).

    decode: returns the objects of a region of the image, a label map of that region's shape, numbered 1 … in any order.
    out: an integer array that can be sliced and written to, whatever it holds; it need not be in memory.
    """
    height, width = out.shape
    joins = _Joins()
    cores = tiling.cores((height, width))
    for core in cores:
        labels, tile, doubtful = _settled(decode, core, (height, width), tiling)
        count = len(doubtful) - 1
        inner = labels[core.within(tile).slices]
        first = first_places(inner, count, core.top, core.left, width)
        numbers = joins.enter(first, doubtful)
        for earlier, label in _same_objects(labels, tile, core, out):
            if numbers[label]:
                joins.join(earlier, int(numbers[label]))
        out[core.slices] = numbers[inner]
    table, uncertain = joins.final_numbers()
    for core in cores:
        out[core.slices] = table[core.read(out)]
    return Joined(int(table.max()), uncertain)


def _settled(
    decode: Callable[[Region], np.ndarray], core: Region, shape: tuple[int, int], tiling: Tiling
) -> tuple[np.ndarray, Region, np.ndarray]:
    """Returns the labels of a tile around the core, the tile, and which objects, by number, its border may change."""
    halos = tiling.halos()
    for halo_px in halos[:-1]:
        found = _decoded(decode, core, shape, halo_px)
        if not found[2].any():
            return found
    return _decoded(decode, core, shape, halos[-1])


def _decoded(
    decode: Callable[[Region], np.ndarray], core: Region, shape: tuple[int, int], halo_px: int
) -> tuple[np.ndarray, Region, np.ndarray]:
    tile = core.widened(halo_px, shape)
    labels = np.ascontiguousarray(decode(tile), np.int32)
    cut = (tile.top > 0, tile.left > 0, tile.bottom < shape[0], tile.right < shape[1])
    inner = core.within(tile)
    place = (inner.top, inner.left, inner.bottom, inner.right)
    margin = max(1, min(MARGIN_PX, halo_px // 2))
    return labels, tile, unsettled(labels, int(labels.max(initial=0)), place, cut, margin)


def _same_objects(labels: np.ndarray, tile: Region, core: Region, out: Any) -> list[tuple[int, int]]:
    """Returns pairs: an object that earlier cores gave, and the one of this tile that has most of what is seen of it.

    Seen is as far as half of the halo goes, where both tiles are far from their borders.
    """
    seen = Region(
        (core.top + tile.top) // 2, (core.left + tile.left) // 2, core.bottom, -(-(core.right + tile.right) // 2)
    )
    earlier = seen.read(out).astype(np.int64)
    inner = core.within(seen)
    earlier[inner.top :, inner.left :] = 0  # not written yet
    both = earlier > 0
    if not both.any():
        return []
    olds, own = earlier[both], labels[seen.within(tile).slices][both].astype(np.int64)
    base = int(labels.max(initial=0)) + 1
    ids, places, sizes = np.unique(olds, return_inverse=True, return_counts=True)
    pairs, shared = np.unique(places * base + own, return_counts=True)
    which, label = pairs // base, pairs % base
    kept = (label > 0) & (shared > ENOUGH * sizes[which])
    return list(zip(ids[which[kept]].tolist(), label[kept].tolist(), strict=True))


class _Joins:
    """The objects of all cores so far, numbered from 1, and which of them are one (union-find, the least is the root).

    An object that enters several cores has a number in each of them.
    """

    def __init__(self) -> None:
        self.parents = [0]
        self.first = [np.zeros(1, np.int64)]
        self.doubtful = [np.zeros(1, np.bool_)]

    def enter(self, first: np.ndarray, doubtful: np.ndarray) -> np.ndarray:
        """Returns the number of each object of a tile, 0 where its first place in the core is −1, (count + 1,)."""
        present = first >= 0
        numbers = np.where(present, np.cumsum(present) + len(self.parents) - 1, 0)
        self.parents += numbers[present].tolist()
        self.first.append(first[present])
        self.doubtful.append(doubtful[present])
        return numbers

    def join(self, one: int, other: int) -> None:
        roots = sorted((self._root(one), self._root(other)))
        self.parents[roots[1]] = roots[0]

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def final_numbers(self) -> tuple[np.ndarray, int]:
        """Returns for every number that of its whole object, by first places, and how many objects are doubtful."""
        roots = np.array(self.parents)
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        first, doubtful = np.concatenate(self.first), np.concatenate(self.doubtful)
        np.minimum.at(first, roots, first.copy())
        wholes = np.flatnonzero(roots == np.arange(len(roots)))[1:]
        numbers = np.zeros(len(roots), np.int64)
        numbers[wholes[np.argsort(first[wholes])]] = np.arange(1, len(wholes) + 1)
        return numbers[roots], len(np.unique(roots[doubtful]))
