"""Compiled parts of the flows: heat from the centre of each object, following flows, and where their ends gather.

Sums over a pixel's neighbours are taken in pairs that face each other, so that turned and mirrored objects give the
same numbers to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

WINDOW = 2  # ends gather where no place within so many pixels holds more of them (5 × 5)
GROWTH = 5  # pixels by which a gathering grows over neighbouring places
GROWN_ENDS = 2  # over those that hold more ends than this
BLOCK = 256  # trajectories followed side by side, so that they stay in cache


@njit(cache=True, nogil=True)
def heat_flows(parts: np.ndarray, count: int) -> np.ndarray:
    """Returns unit flows (2, H, W) float32, (dy, dx), towards the centre of each part; 0 elsewhere and where none is.

    parts: (H, W) integers, 0 for none and 1 … count. Every part is by itself: beyond it the temperature is 0. Its
    centre is the pixel nearest to its centroid, or all those that are equally near, which share the heat. In each of
    2 · (height + width) rounds the centre gains 1 and every pixel takes the mean of its 3 × 3 neighbourhood; the flow
    is the gradient (central differences) of log(1 + T), normalised.
    """
    height, width = parts.shape
    flows = np.zeros((2, height, width), np.float32)
    boxes, sums = _boxes(parts, count)
    largest = 0
    for part in range(1, count + 1):
        box = boxes[part]
        largest = max(largest, (box[1] - box[0] + 3) * (box[3] - box[2] + 3))
    first, second, weights = np.empty(largest), np.empty(largest), np.empty(largest)
    centre = np.empty(largest, np.int64)
    for part in range(1, count + 1):
        top, bottom, left, right = boxes[part, 0], boxes[part, 1], boxes[part, 2], boxes[part, 3]
        if bottom < top:
            continue
        rows, columns = bottom - top + 3, right - left + 3  # with a margin of one pixel
        now, then, inside = first[: rows * columns], second[: rows * columns], weights[: rows * columns]
        for place in range(rows * columns):
            now[place], then[place], inside[place] = 0, 0, 0
        for y in range(1, rows - 1):
            for x in range(1, columns - 1):
                if parts[top + y - 1, left + x - 1] == part:
                    inside[y * columns + x] = 1 / 9
        area = sums[part, 0]
        sum_y, sum_x = sums[part, 1] - area * (top - 1), sums[part, 2] - area * (left - 1)
        tied = _centre(inside, columns, area, sum_y, sum_x, centre)
        for _ in range(rows + columns - 4):  # two rounds each
            _diffuse(now, then, inside, columns, centre, tied)
            _diffuse(then, now, inside, columns, centre, tied)
        _gradient(now, inside, columns, flows, top - 1, left - 1)
    return flows


@njit(cache=True, nogil=True)
def _boxes(parts: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each part's first and last row and column (count + 1, 4), and its area and sums of y and x."""
    height, width = parts.shape
    boxes = np.empty((count + 1, 4), np.int64)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = height, -1, width, -1
    sums = np.zeros((count + 1, 3), np.int64)
    for y in range(height):
        for x in range(width):
            part = parts[y, x]
            if part > 0:
                boxes[part, 0], boxes[part, 1] = min(boxes[part, 0], y), y
                boxes[part, 2], boxes[part, 3] = min(boxes[part, 2], x), max(boxes[part, 3], x)
                sums[part, 0] += 1
                sums[part, 1] += y
                sums[part, 2] += x
    return boxes, sums


@njit(cache=True, nogil=True)
def _centre(inside: np.ndarray, columns: int, area: int, sum_y: int, sum_x: int, centre: np.ndarray) -> int:
    """Writes the places y · columns + x inside that are nearest to the centroid to `centre`; returns how many.

    Compared are area · (squared distance to the centroid), less a constant: integers, so that ties are ties.
    """
    least, tied = np.int64(2**62), 0
    for place in range(len(inside)):
        if inside[place] > 0:
            y, x = place // columns, place % columns
            far = area * (y * y + x * x) - 2 * (y * sum_y + x * sum_x)
            if far < least:
                least, tied = far, 0
            if far == least:
                centre[tied] = place
                tied += 1
    return tied


@njit(cache=True, nogil=True)
def _diffuse(
    now: np.ndarray, then: np.ndarray, inside: np.ndarray, columns: int, centre: np.ndarray, tied: int
) -> None:
    """Heats the centre of `now` and writes the mean of each 3 × 3 neighbourhood to `then`; all are rows end to end.

    One long loop, margins included, is twice as fast as one of the right length for each row.
    """
    for index in range(tied):
        now[centre[index]] += 1 / tied
    n = len(now) - 2 * columns - 2
    up, here, down = now[: n + 2], now[columns : columns + n + 2], now[2 * columns :]
    out, weight = then[columns + 1 : columns + 1 + n], inside[columns + 1 : columns + 1 + n]
    for x in range(n):
        sides = (up[x + 1] + down[x + 1]) + (here[x] + here[x + 2])
        corners = (up[x] + down[x + 2]) + (up[x + 2] + down[x])
        out[x] = (here[x + 1] + (sides + corners)) * weight[x]


@njit(cache=True, nogil=True)
def _gradient(heat: np.ndarray, inside: np.ndarray, columns: int, flows: np.ndarray, top: int, left: int) -> None:
    """Writes the direction in which log(1 + heat) rises to `flows` (2, H, W) where it is inside.

    top, left: the pixel of `flows` that is the first of the box.
    """
    for place in range(len(heat)):
        if inside[place] > 0:
            heat[place] = np.log1p(heat[place])
    for place in range(len(heat)):
        if inside[place] > 0:
            dy, dx = heat[place + columns] - heat[place - columns], heat[place + 1] - heat[place - 1]
            most = max(abs(dy), abs(dx))
            if most > 0:
                dy, dx = dy / most, dx / most  # far from the centre of a long object squares would vanish
                norm = np.sqrt(dy * dy + dx * dx)
                y, x = top + place // columns, left + place % columns
                flows[0, y, x], flows[1, y, x] = dy / norm, dx / norm


@njit(cache=True, nogil=True)
def follow(field: np.ndarray, starts: np.ndarray, steps: int) -> np.ndarray:
    """Returns the pixel y · W + x (n,) int64 nearest to where each of the pixels `starts` (n,) int64 ends.

    field: (H + 1, W + 1, 2) float32, (dy, dx) in pixels per step, with a margin that is read with weight 0. A point
    moves `steps` times by the flow where it is, interpolated linearly (Euler's method), and stays in the image. Most
    points come to rest, or to and fro between two places, and are followed no further: two more steps change nothing.
    """
    width = field.shape[1] - 1
    ends = np.empty(len(starts), np.int64)
    points, before = np.empty((2, BLOCK), np.float32), np.empty((2, BLOCK), np.float32)
    owners = np.empty(BLOCK, np.int64)
    for first in range(0, len(starts), BLOCK):
        moving = min(BLOCK, len(starts) - first)
        for i in range(moving):
            owners[i] = first + i
            points[0, i], points[1, i] = starts[first + i] // width, starts[first + i] % width
        if steps % 2:
            _step(field, points, moving)
        for i in range(moving):
            ends[first + i] = _pixel(points[0, i], points[1, i], width)
        for _ in range(steps // 2):
            for i in range(moving):
                before[0, i], before[1, i] = points[0, i], points[1, i]
            _step(field, points, moving)
            _step(field, points, moving)
            kept = 0
            for i in range(moving):
                y, x = points[0, i], points[1, i]
                ends[owners[i]] = _pixel(y, x, width)
                if y != before[0, i] or x != before[1, i]:
                    points[0, kept], points[1, kept], owners[kept] = y, x, owners[i]
                    kept += 1
            moving = kept
            if moving == 0:
                break
    return ends


@njit(cache=True, nogil=True)
def _pixel(y: float, x: float, width: int) -> int:
    return int(y + np.float32(0.5)) * width + int(x + np.float32(0.5))


@njit(cache=True, nogil=True)
def _step(field: np.ndarray, points: np.ndarray, count: int) -> None:
    """Moves the first `count` points (2, n) by the field where they are, at most to the border of the H × W pixels."""
    one, zero = np.float32(1), np.float32(0)
    lowest, rightmost = np.float32(field.shape[0] - 2), np.float32(field.shape[1] - 2)
    for i in range(count):
        y, x = points[0, i], points[1, i]
        top, left = np.uint32(y), np.uint32(x)  # unsigned, so that no index is tested for being negative
        below, beside = top + np.uint32(1), left + np.uint32(1)
        part_y, part_x = y - np.float32(top), x - np.float32(left)
        c, d = part_y * (one - part_x), part_y * part_x
        a, b = one - part_x - c, part_x - d
        dy = (a * field[top, left, 0] + b * field[top, beside, 0]) + (
            c * field[below, left, 0] + d * field[below, beside, 0]
        )
        dx = (a * field[top, left, 1] + b * field[top, beside, 1]) + (
            c * field[below, left, 1] + d * field[below, beside, 1]
        )
        points[0, i] = min(max(y + dy, zero), lowest)
        points[1, i] = min(max(x + dx, zero), rightmost)


@njit(cache=True, nogil=True)
def peaks(counts: np.ndarray, more_than: int) -> np.ndarray:
    """Returns the places y · W + x, in scan order, whose count is the highest within `WINDOW` and above `more_than`."""
    height, width = counts.shape
    found = np.empty(counts.size, np.int64)
    number = 0
    for y in range(height):
        for x in range(width):
            if counts[y, x] > more_than:
                top, left = max(y - WINDOW, 0), max(x - WINDOW, 0)
                if counts[y, x] == counts[top : y + WINDOW + 1, left : x + WINDOW + 1].max():
                    found[number] = y * width + x
                    number += 1
    return found[:number].copy()


@njit(cache=True, nogil=True)
def gatherings(counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns which gathering each place belongs to (H, W) int32, 0 for none.

    places: peaks, those with the lowest counts first. Peaks in one another's window, which are equally high, make one
    gathering. It grows `GROWTH` times by the neighbours (of 8) that hold more than `GROWN_ENDS` ends; where two grow
    into one another, the higher one, which comes later, has the place.
    """
    height, width = counts.shape
    owners, peak_of = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    for place in places:
        peak_of[place // width, place % width] = -1  # of no gathering yet
    reached = np.empty(height * width, np.int64)
    gathering = 0
    for place in places:
        if peak_of[place // width, place % width] > 0:
            continue
        gathering += 1
        peak_of[place // width, place % width] = gathering
        reached[0], first, stop = place, 0, 1
        while first < stop:  # the peaks that belong together
            y, x = reached[first] // width, reached[first] % width
            first += 1
            owners[y, x] = gathering
            for v in range(max(y - WINDOW, 0), min(y + WINDOW + 1, height)):
                for u in range(max(x - WINDOW, 0), min(x + WINDOW + 1, width)):
                    if peak_of[v, u] == -1:
                        peak_of[v, u] = gathering
                        reached[stop] = v * width + u
                        stop += 1
        first = 0
        for _ in range(GROWTH):
            last = stop
            for index in range(first, last):
                y, x = reached[index] // width, reached[index] % width
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        if counts[v, u] > GROWN_ENDS and owners[v, u] != gathering:
                            owners[v, u] = gathering
                            reached[stop] = v * width + u
                            stop += 1
            first = last
    return owners


@njit(cache=True, nogil=True)
def hole_owners(labels: np.ndarray, regions: np.ndarray, count: int) -> np.ndarray:
    """Returns the object that alone surrounds each region of background, (count + 1,) int32, 0 where none does.

    regions: (H, W), 1 … count where labels are 0. A region at the image's border is surrounded by none.
    """
    height, width = labels.shape
    owners = np.zeros(count + 1, np.int32)
    for y in range(height):
        for x in range(width):
            region = regions[y, x]
            if region == 0:
                continue
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                owners[region] = -1
                continue
            for label in (labels[y - 1, x], labels[y + 1, x], labels[y, x - 1], labels[y, x + 1]):
                if label > 0 and owners[region] != label:
                    owners[region] = label if owners[region] == 0 else -1
    for region in range(count + 1):
        owners[region] = max(owners[region], 0)
    return owners


@njit(cache=True, nogil=True)
def renumbered(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Returns the objects of labels (H, W) that `kept` (by number) names, 1 … n in the order of their first pixels."""
    numbers = np.zeros(len(kept), np.int32)
    out = np.zeros(labels.shape, np.int32)
    number = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label > 0 and kept[label]:
                if numbers[label] == 0:
                    number += 1
                    numbers[label] = number
                out[y, x] = numbers[label]
    return out
