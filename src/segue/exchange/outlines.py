"""Outlines of the objects of a label image, by the borders of their pixels.

A pixel (y, x) covers the square from (x, y) to (x + 1, y + 1), as in QuPath, GeoJSON and ImageJ: rasterizing an outline
gives just the object's pixels. An object is split into 4-connected parts, whose holes are 8-connected, so that every
ring passes each point once: parts, or a hole and its ring, may touch in the corner of a pixel, where neither crosses
the other (OGC 06-103r4, valid polygons).

The image is read twice from top to bottom, by bands. The first pass finds the objects and their boxes
(`find_objects`). The second one (`outlines`) collects the corners of outlines, and joins those of an object to rings as
soon as the band with its last row is read. In memory are a band and the corners of the objects that cross it, whatever
the size of the image and of the objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from segue.data.tiling import bands
from segue.errors import SegueError
from segue.labels import IGNORED

BLOCK_PX = 2**19  # pixels that are searched at a time
CHUNK_OBJECTS = 4096  # whose rings are Python objects at a time
NOTHING = -1  # in place of an object
DOWN, STARTS_OUTER, STARTS_HOLE = 1, 2, 4  # of a corner: its vertical border goes down; it may be a ring's first
AREA, Y, X, TOP, LEFT, BOTTOM, RIGHT = range(7)


@dataclass(frozen=True)
class Regions:
    """The n objects of a label image by their numbers, ascending: numbers (n,) int64; area_px (n,) int64; centroids
    (n, 2) y, x, where the center of the first pixel is 0; boxes (n, 4) top, left, bottom, right, the last row and
    column not included."""

    numbers: np.ndarray
    area_px: np.ndarray
    centroids: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of an object. row: its place in `Regions`. parts: each a list of closed rings, (k, 2) int32 of
    x, y, whose last point is the first one: the outer ring, then those of holes.

    The area x dy − y dx of outer rings is positive, that of holes negative (RFC 7946, section 3.1.6).
    """

    row: int
    parts: list[list[np.ndarray]]


def find_objects(labels: Any, context: str) -> Regions:
    """Returns the objects of labels (H, W), sliceable integers: all numbers from 1 on; 0 and −1 are none.

    Raises SegueError, which begins with `context`, for anything else.
    """
    _require_labels(labels, context)
    numbers, sums = [], []
    for top, block in _blocks(labels, context):
        is_start = np.ones(block.shape, np.bool_)
        np.not_equal(block[:, 1:], block[:, :-1], out=is_start[:, 1:])
        present = np.unique(block[is_start])
        if len(present) and present[0] < IGNORED:
            raise SegueError(
                f"{context}: the labels hold {present[0]}; allowed are 0 (background), -1 (ignored) and numbers of "
                "objects from 1 on."
            )
        present = present[present > 0]
        one = np.zeros((len(present), 7), np.int64)
        one[:, [TOP, LEFT]] = max(labels.shape)
        _add(_rows_of(block, present), top, one)
        numbers.append(present)
        sums.append(one)
    distinct, inverse = np.unique(np.concatenate(numbers), return_inverse=True)
    total = np.zeros((len(distinct), 7), np.int64)
    total[:, [TOP, LEFT]] = max(labels.shape)
    _merge(np.concatenate(sums), inverse, total)
    centroids = total[:, [Y, X]] / total[:, [AREA]]
    return Regions(distinct, total[:, AREA], centroids, total[:, [TOP, LEFT, BOTTOM, RIGHT]])


def outlines(labels: Any, objects: Regions, context: str = "labels") -> Iterator[list[Outline]]:
    """Yields the outlines of the objects of labels (H, W), a few thousand at a time.

    They come in the order of the blocks of rows in which they end, of half a million pixels, and by number within one.

    >>> labels = np.array([[1, 1], [0, 1]])
    >>> next(outlines(labels, find_objects(labels, "labels")))[0].parts[0][0].tolist()
    [[0, 0], [2, 0], [2, 2], [1, 2], [1, 1], [0, 1], [0, 0]]
    """
    height, width = labels.shape
    above = np.full(width + 2, NOTHING, np.int32)
    waiting: dict[int, list[_Corners]] = {}  # of objects that go on below
    for top, block in _blocks(labels, context):
        bottom = top + len(block)
        is_last = bottom == height
        padded = np.full((len(block) + 1 + is_last, width + 2), NOTHING, np.int32)
        padded[0] = above
        padded[1 : len(block) + 1, 1:-1] = _rows_of(block, objects.numbers)
        above = padded[len(block)]
        corners = _Corners(*_corners(padded, top))
        is_done = (objects.boxes[corners.rows, 2] < bottom) | is_last
        for part in corners.selected(~is_done).by_object():
            waiting.setdefault(int(part.rows[0]), []).append(part)
        done = corners.selected(is_done)
        earlier = [part for row in np.unique(done.rows).tolist() for part in waiting.pop(row, ())]
        yield from _rings(_Corners.joined([*earlier, done]))


def _require_labels(labels: Any, context: str) -> None:
    shape, dtype = getattr(labels, "shape", None), np.dtype(getattr(labels, "dtype", object))
    if shape is None or len(shape) != 2 or 0 in shape:
        raise SegueError(f"{context}: labels are of shape {shape}; allowed is (height, width): give one label image.")
    if dtype.kind not in "ui":
        remedy = "number the objects, for example by skimage.measure.label" if dtype.kind == "b" else "give integers"
        raise SegueError(f"{context}: labels are of type {dtype}; allowed are integers: {remedy}.")


def _blocks(labels: Any, context: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the first row and the labels (h, W) int64 of blocks of whole rows."""
    height, width = labels.shape
    step = max(1, BLOCK_PX // width)
    for first, last in bands(height, width, np.dtype(labels.dtype).itemsize):
        band = np.asarray(labels[first:last, :])
        for start in range(0, last - first, step):
            yield first + start, _as_int64(band[start : start + step], context)
        del band  # before the next one is read


def _as_int64(block: np.ndarray, context: str) -> np.ndarray:
    if block.dtype == np.uint64 and int(block.max()) > np.iinfo(np.int64).max:
        raise SegueError(f"{context}: the labels hold {block.max()}; allowed are numbers below 2^63.")
    return block.astype(np.int64)


@njit(cache=True, nogil=True)
def _rows_of(block: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns the place of each pixel's number among the ascending `numbers`, NOTHING for those below 1."""
    rows = np.empty(block.shape, np.int32)
    for y in range(block.shape[0]):
        number, row = np.int64(0), NOTHING
        for x in range(block.shape[1]):
            if block[y, x] != number:
                number = block[y, x]
                row = np.searchsorted(numbers, number) if number > 0 else NOTHING
            rows[y, x] = row
    return rows


@njit(cache=True, nogil=True)
def _add(rows: np.ndarray, top: int, sums: np.ndarray) -> None:
    for row in range(rows.shape[0]):
        y = row + top
        for x in range(rows.shape[1]):
            if rows[row, x] < 0:
                continue
            one = sums[rows[row, x]]
            one[AREA] += 1
            one[Y] += y
            one[X] += x
            one[TOP] = min(one[TOP], y)
            one[LEFT] = min(one[LEFT], x)
            one[BOTTOM] = max(one[BOTTOM], y + 1)
            one[RIGHT] = max(one[RIGHT], x + 1)


@njit(cache=True, nogil=True)
def _merge(sums: np.ndarray, places: np.ndarray, total: np.ndarray) -> None:
    for index in range(len(places)):
        one, other = total[places[index]], sums[index]
        for column in (AREA, Y, X):
            one[column] += other[column]
        for column in (TOP, LEFT):
            one[column] = min(one[column], other[column])
        for column in (BOTTOM, RIGHT):
            one[column] = max(one[column], other[column])


# corners


@dataclass(frozen=True)
class _Corners:
    """Corners of outlines: rows of objects, y, x, flags and, where holes may start, the x at which the row of pixels to
    the left begins, (n,) each; by rows of the image and from left to right.

    Of two corners of an object in one point, that which ends a border from the left comes first. So corners 2 i and
    2 i + 1 of an object are joined by a horizontal border.
    """

    rows: np.ndarray
    y: np.ndarray
    x: np.ndarray
    flags: np.ndarray
    left: np.ndarray

    @classmethod
    def joined(cls, parts: list[_Corners]) -> _Corners:
        return cls(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))

    def selected(self, index: np.ndarray) -> _Corners:
        return _Corners(*(column[index] for column in self.columns))

    def by_object(self) -> list[_Corners]:
        """Returns the corners of each object."""
        ordered = self.selected(np.argsort(self.rows, kind="stable"))
        ends = np.flatnonzero(np.diff(ordered.rows)) + 1
        split = [np.split(column, ends) for column in ordered.columns]
        return [_Corners(*one) for one in zip(*split, strict=True)] if len(self.rows) else []

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.rows, self.y, self.x, self.flags, self.left


@njit(cache=True, nogil=True)
def _corners(padded: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the corners at the points between the rows of `padded`, objects with a margin of one pixel; the first
    row of points is row `top` of the image."""
    size, count = 1024, 0
    rows, ys, xs = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
    flags, lefts = np.empty(size, np.uint8), np.empty(size, np.int32)
    for row in range(padded.shape[0] - 1):
        following = 0
        for x in range(padded.shape[1] - 1):
            a, b = padded[row, x], padded[row, x + 1]
            c, d = padded[row + 1, x], padded[row + 1, x + 1]
            left = following  # where the pixels of c start
            if c != d:
                following = x
            if (a == b and c == d) or (a == c and b == d):
                continue  # nothing, or a straight border
            if count + 8 > size:
                size *= 2
                rows, ys, xs = _grown(rows, size), _grown(ys, size), _grown(xs, size)
                flags, lefts = _grown(flags, size), _grown(lefts, size)
            for corner in range(4):
                one = (a, b, c, d)[corner]
                if one < 0 or (corner > 0 and a == one) or (corner > 1 and b == one) or (corner > 2 and c == one):
                    continue  # no object, or one that was looked at
                kind = (a == one) + 2 * (b == one) + 4 * (c == one) + 8 * (d == one)
                start = count
                if kind == 1 or kind == 14 or kind == 9:  # a border from the left that turns up
                    flags[count] = 0
                    count += 1
                if kind == 4 or kind == 11 or kind == 6:  # from the left, down
                    flags[count] = DOWN
                    count += 1
                if kind == 2 or kind == 13 or kind == 6:  # from the right, up
                    flags[count] = 0
                    count += 1
                if kind == 8 or kind == 7 or kind == 9:  # from the right, down
                    flags[count] = DOWN | (STARTS_HOLE if kind == 7 else STARTS_OUTER)
                    count += 1
                rows[start:count] = one
                ys[start:count] = row + top
                xs[start:count] = x
                lefts[start:count] = left
    return rows[:count], ys[:count], xs[:count], flags[:count], lefts[:count]


@njit(cache=True, nogil=True)
def _grown(array: np.ndarray, size: int) -> np.ndarray:
    larger = np.empty(size, array.dtype)
    larger[: len(array)] = array
    return larger


# rings


def _rings(corners: _Corners) -> Iterator[list[Outline]]:
    """Yields the outlines of objects all of whose corners are given."""
    if not len(corners.rows):
        return
    corners = corners.selected(np.argsort(corners.rows, kind="stable"))
    by_column = np.lexsort((corners.x, corners.rows))
    points, starts, rows, parts, is_hole = _trace(
        corners.rows, corners.y, corners.x, corners.flags, corners.left, by_column
    )
    ends = np.append(starts[1:], len(points))
    order = np.lexsort((is_hole, parts, rows))
    starts, ends, rows, parts = (one[order].tolist() for one in (starts, ends, rows, parts))
    chunk: list[Outline] = []
    part = NOTHING
    for index, row in enumerate(rows):
        if not chunk or chunk[-1].row != row:
            if len(chunk) == CHUNK_OBJECTS:
                yield chunk
                chunk = []
            chunk.append(Outline(row, []))
        if part != parts[index]:
            part = parts[index]
            chunk[-1].parts.append([])
        chunk[-1].parts[-1].append(points[starts[index] : ends[index]])
    yield chunk


@njit(cache=True, nogil=True)
def _trace(
    rows: np.ndarray,
    ys: np.ndarray,
    xs: np.ndarray,
    flags: np.ndarray,
    lefts: np.ndarray,
    by_column: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns points (n, 2) x, y of closed rings, and of each ring its first point, object, part and whether it is a
    hole. by_column: the order of corners by object and column, from top to bottom."""
    count = len(rows)
    most = count // 4  # rings: each has four corners at least
    below = _vertical_neighbors(rows, ys, xs, flags, by_column)
    loop_of = np.full(count, NOTHING, np.int64)  # the closed line that a corner lies on
    loop_part, ring_loop, ring_row = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int32)
    points, starts, is_hole = np.empty((count + most, 2), np.int32), np.empty(most, np.int64), np.empty(most, np.bool_)
    path, place = np.empty(count, np.int64), np.full(count, NOTHING, np.int64)  # corners since the first, and back
    loops = rings = size = 0
    for first in range(count):
        if loop_of[first] != NOTHING:
            continue
        is_outer = flags[first] & STARTS_OUTER != 0
        # a hole is in the part whose border, met before, is to the left of it
        loop_part[loops] = (
            loops
            if is_outer
            else loop_part[loop_of[_border(rows, ys, xs, by_column, rows[first], lefts[first], ys[first])]]
        )
        is_horizontal = is_outer  # holes go the other way round
        current, depth = first, 0
        while depth == 0 or current != first:
            loop_of[current] = loops
            twin = _twin(rows, ys, xs, current)
            if twin != NOTHING and place[twin] != NOTHING:  # the line comes to a point again: a ring is cut off
                starts[rings], ring_loop[rings], ring_row[rings] = size, loops, rows[first]
                start = place[twin]
                size, is_hole[rings] = _close(path[start:depth], place, ys, xs, points, size)
                rings, depth = rings + 1, start
            path[depth], place[current] = current, depth
            depth += 1
            current = current ^ 1 if is_horizontal else below[current]
            is_horizontal = not is_horizontal
        starts[rings], ring_loop[rings], ring_row[rings] = size, loops, rows[first]
        size, is_hole[rings] = _close(path[:depth], place, ys, xs, points, size)
        rings, loops = rings + 1, loops + 1
    return points[:size], starts[:rings], ring_row[:rings], loop_part[ring_loop[:rings]], is_hole[:rings]


@njit(cache=True, nogil=True)
def _vertical_neighbors(
    rows: np.ndarray, ys: np.ndarray, xs: np.ndarray, flags: np.ndarray, by_column: np.ndarray
) -> np.ndarray:
    """Returns the corner at the other end of the vertical border of each corner."""
    neighbors = np.empty(len(rows), np.int64)
    for index in range(0, len(rows), 2):
        first, second = by_column[index], by_column[index + 1]
        if flags[second] & DOWN:  # it starts the next border in the point where this one ends
            by_column[index + 1], by_column[index + 2] = by_column[index + 2], second
            second = by_column[index + 1]
        neighbors[first], neighbors[second] = second, first
    return neighbors


@njit(cache=True, nogil=True)
def _twin(rows: np.ndarray, ys: np.ndarray, xs: np.ndarray, index: int) -> int:
    """Returns the other corner of the same object in the same point, or NOTHING."""
    for other in (index - 1, index + 1):
        if 0 <= other < len(rows) and rows[other] == rows[index] and ys[other] == ys[index] and xs[other] == xs[index]:
            return other
    return NOTHING


@njit(cache=True, nogil=True)
def _close(
    path: np.ndarray, place: np.ndarray, ys: np.ndarray, xs: np.ndarray, points: np.ndarray, size: int
) -> tuple[int, bool]:
    """Writes the corners of a path as a closed ring from point `size` on; returns the new size, and whether it is that
    of a hole."""
    area = 0
    for index in range(len(path)):
        corner, following = path[index], path[(index + 1) % len(path)]
        points[size + index, 0], points[size + index, 1] = xs[corner], ys[corner]
        area += np.int64(xs[corner]) * ys[following] - np.int64(xs[following]) * ys[corner]
        place[corner] = NOTHING
    size += len(path)
    points[size] = points[size - len(path)]
    return size + 1, bool(area < 0)


@njit(cache=True, nogil=True)
def _border(rows: np.ndarray, ys: np.ndarray, xs: np.ndarray, by_column: np.ndarray, row: int, x: int, y: int) -> int:
    """Returns the corner at the upper end of the vertical border of object `row` at `x` beside the pixels of line
    `y`."""
    low, high = 0, len(by_column)
    while low < high:
        middle = (low + high) // 2
        other = by_column[middle]
        is_above = xs[other] < x or (xs[other] == x and ys[other] <= y)
        if rows[other] < row or (rows[other] == row and is_above):
            low = middle + 1
        else:
            high = middle
    return by_column[low - 1]
