"""Watershed of one image, and what it needs before and after: components, holes, sizes, numbers in scan order.

All of it joins pixels at their sides (4 neighbours), takes time nearly proportional to the pixels whatever the scores
are, and depends neither on the numbers of labels nor on chance. Turning the arrays turns the result, but for pixels
whose values tie.
"""

from __future__ import annotations

import cc3d
import numpy as np
from numba import njit

SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # the first four share a side
SIZES_IN_TABLE = 2**22  # ids up to here are renumbered by a table, greater ones by sorting


def components(mask: np.ndarray) -> np.ndarray:
    """Returns the connected parts of a mask (H, W), int32, numbered from 1."""
    return np.asarray(cc3d.connected_components(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=4), np.int32)


def flood(values: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns labels (H, W) int32: every pixel of the mask that seeds reach, with the number of the seed.

    Seeds (H, W; 0 none) grow within the mask from high to low `values`, first come first served (Meyer 1994). Where the
    values of all pixels differ this is `skimage.segmentation.watershed(-values, seeds, mask=mask)`.
    """
    labels = np.ascontiguousarray(np.where(mask, seeds, 0), dtype=np.int32)
    order = _descending(values, mask)
    _flood(_levels(values.ravel(), order, values.size), labels.reshape(-1), values.shape[1])
    return labels


def basins(values: np.ndarray, mask: np.ndarray, *, depth: float, join: float, least: float) -> np.ndarray:
    """Returns labels (H, W) int32: maxima of positive `values`, each with its own number where it is an object's.

    Two maxima are of one object where the way from the lower one to the higher, over pixels of the mask that share a
    side or a corner, stays above `join`, or descends by less than the share `depth` of the lower one (its dynamics,
    Grimaud 1992, relative to its height). Objects whose maximum is below `least` are left out. The result is for
    `flood`: each maximum within an object is marked, and so is each part of an object that joins it at a corner only.
    """
    order = _descending(values, mask)
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    return _maxima(flat, order, 1.0 - depth, float(join), float(least), values.shape[1]).reshape(values.shape)


def scaled_by_size(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the values (H, W) float32 times the square root of the area of the object that each pixel lies in."""
    numbers, count = consecutive(labels)
    roots = np.sqrt(np.bincount(numbers.ravel(), minlength=count + 1)).astype(np.float32)
    roots[0] = 1
    return values * roots[numbers]


def with_unseeded(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the labels and, as objects of their own, the connected parts of the mask that have no label."""
    rest = components(mask & (labels == 0))
    return np.where(rest > 0, rest + labels.max(initial=0), labels)


def holes_filled(labels: np.ndarray, *, largest_px: float) -> np.ndarray:
    """Returns the labels with holes of up to `largest_px` filled: background enclosed by one object alone.

    Background that meets at corners is one hole; what touches the image's border, or two objects, is none.
    """
    if largest_px < 1:
        return labels
    empty = np.ascontiguousarray(labels == 0, dtype=np.uint8)
    holes, count = cc3d.connected_components(empty, connectivity=8, return_N=True)
    filled = np.ascontiguousarray(labels, dtype=np.int32).copy()
    _fill(filled, np.asarray(holes, np.int32), int(count), largest_px)
    return filled


def in_scan_order(labels: np.ndarray, *, min_size_px: float = 0) -> np.ndarray:
    """Returns the objects of at least `min_size_px` pixels, numbered 1 … n by their first pixels, (H, W) int32."""
    numbers, count = consecutive(labels)
    return _sized(numbers, count, min_size_px) if min_size_px > 1 else numbers


def consecutive(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the labels with ids 1 … n in the order of their first pixels, (H, W) int32, and n; 0 and −1 stay."""
    largest = int(labels.max(initial=0))
    if largest > SIZES_IN_TABLE:
        ids, places = np.unique(labels, return_inverse=True)
        labels = places.reshape(labels.shape) - np.searchsorted(ids, 0)
        labels += (labels >= 0) & (not (ids == 0).any())  # where there is no 0, the least id would be it
        largest = len(ids)
    return _consecutive(np.ascontiguousarray(labels), largest)


def _descending(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the flat places of the mask's pixels from the highest value to the lowest, int32.

    Equal values are in scan order, so that neither the processor nor where an image was cut decides. (Numbers made of
    value and place are sorted: twice as fast as the values' own indirect sort, which leaves equal ones in any order.)
    """
    places = np.flatnonzero(mask)
    bits = (np.float32(0) - values.ravel()[places].astype(np.float32, copy=False)).view(np.uint32)  # 0 and -0 are one
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # unsigned, in the order of the floats
    keys = bits.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int32)


@njit(cache=True, nogil=True)
def _levels(values: np.ndarray, order: np.ndarray, size: int) -> np.ndarray:
    """Returns the rank of each pixel's value, 0 for the highest, equal for equal values; −1 outside the mask."""
    levels = np.full(size, -1, dtype=np.int32)
    level = 0
    for place in range(len(order)):
        if place > 0 and values[order[place]] != values[order[place - 1]]:
            level += 1
        levels[order[place]] = level
    return levels


@njit(cache=True, nogil=True)
def _flood(levels: np.ndarray, labels: np.ndarray, width: int) -> None:
    """Grows the labels in place over pixels with a level, a queue for each level (flat arrays)."""
    size = len(levels)
    height = size // width
    count = levels.max() + 1 if size else 0
    first, last = np.full(count, -1, dtype=np.int32), np.full(count, -1, dtype=np.int32)
    following = np.full(size, -1, dtype=np.int32)
    for pixel in range(size):
        if labels[pixel] > 0 and levels[pixel] >= 0:
            _append(first, last, following, int(levels[pixel]), pixel)
    for level in range(count):
        pixel = first[level]
        while pixel >= 0:
            y, x = pixel // width, pixel % width
            for dy, dx in SIDES[:4]:
                neighbour = pixel + dy * width + dx
                if 0 <= x + dx < width and 0 <= y + dy < height and levels[neighbour] >= 0 and labels[neighbour] == 0:
                    labels[neighbour] = labels[pixel]
                    _append(first, last, following, max(level, int(levels[neighbour])), int(neighbour))
            pixel = following[pixel]


@njit(cache=True, nogil=True)
def _append(first: np.ndarray, last: np.ndarray, following: np.ndarray, level: int, pixel: int) -> None:
    if first[level] < 0:
        first[level] = pixel
    else:
        following[last[level]] = pixel
    last[level] = pixel


@njit(cache=True, nogil=True)
def _maxima(values: np.ndarray, order: np.ndarray, kept: float, join: float, least: float, width: int) -> np.ndarray:
    """Returns the maxima's pixels, each with its object's number (flat, int32), 0 elsewhere.

    Pixels are added from the highest to the lowest, and sets of them joined where they meet (union-find). The root of
    a set is its highest pixel, so that a set's height is its root's value.
    """
    size = len(values)
    height = size // width
    parent = np.full(size, -1, dtype=np.int32)
    marked = np.zeros(size, dtype=np.bool_)
    roots = np.empty(8, dtype=np.int32)
    for place in range(len(order)):
        pixel = order[place]
        y, x, value = pixel // width, pixel % width, values[pixel]
        best = -1
        roots[:] = -1
        for side in range(8):
            dy, dx = SIDES[side]
            neighbour = pixel + dy * width + dx
            if 0 <= x + dx < width and 0 <= y + dy < height and parent[neighbour] >= 0:
                roots[side] = _root(parent, neighbour)
                if best < 0 or values[roots[side]] > values[best]:
                    best = roots[side]
        marked[pixel] = roots[0] < 0 and roots[1] < 0 and roots[2] < 0 and roots[3] < 0
        parent[pixel] = best if best >= 0 else pixel
        for side in range(8):
            root = roots[side]
            if root < 0 or root == best:
                continue
            # a set of this very height is a part of the same plateau, whatever the depth
            if value > join or value > kept * values[root] or value == values[root]:
                parent[root] = best
    labels = np.zeros(size, dtype=np.int32)
    for pixel in range(size):
        if marked[pixel]:
            root = _root(parent, pixel)
            if values[root] >= least:
                labels[pixel] = root + 1
    return labels


@njit(cache=True, nogil=True)
def _root(parent: np.ndarray, pixel: int) -> int:
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@njit(cache=True, nogil=True)
def _consecutive(labels: np.ndarray, largest: int) -> tuple[np.ndarray, int]:
    height, width = labels.shape
    numbers = np.zeros(largest + 1, dtype=np.int32)
    out = np.empty((height, width), dtype=np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0:
                out[y, x] = label
                continue
            if numbers[label] == 0:
                count += 1
                numbers[label] = count
            out[y, x] = numbers[label]
    return out, count


@njit(cache=True, nogil=True)
def _sized(labels: np.ndarray, count: int, least: float) -> np.ndarray:
    height, width = labels.shape
    sizes = np.zeros(count + 1, dtype=np.int64)
    for y in range(height):
        for x in range(width):
            sizes[max(labels[y, x], 0)] += 1
    numbers = np.zeros(count + 1, dtype=np.int32)
    kept = 0
    for label in range(1, count + 1):  # in the order of first pixels already
        if sizes[label] >= least:
            kept += 1
            numbers[label] = kept
    out = np.empty((height, width), dtype=np.int32)
    for y in range(height):
        for x in range(width):
            out[y, x] = numbers[max(labels[y, x], 0)]
    return out


@njit(cache=True, nogil=True)
def _fill(labels: np.ndarray, holes: np.ndarray, count: int, largest: float) -> None:
    height, width = labels.shape
    sizes = np.zeros(count + 1, dtype=np.int64)
    owners = np.zeros(count + 1, dtype=np.int32)  # 0 none seen yet, −1 more than one or the border
    for y in range(height):
        for x in range(width):
            hole = holes[y, x]
            if hole == 0:
                continue
            sizes[hole] += 1
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                owners[hole] = -1
                continue
            for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                label = labels[y + dy, x + dx]
                if label > 0 and owners[hole] != label:
                    owners[hole] = label if owners[hole] == 0 else -1
    for y in range(height):
        for x in range(width):
            hole = holes[y, x]
            if hole > 0 and sizes[hole] <= largest and owners[hole] > 0:
                labels[y, x] = owners[hole]
