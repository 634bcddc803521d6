"""Compiled parts of the flows: heat from the center of each object, integration of flows, clusters of end points.

Sums over a pixel's neighbors are taken in pairs that face each other, so that rotated and mirrored objects give the
same numbers to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SEED_WINDOW_PX = 2  # a seed has the most ends within so many pixels (5 × 5)
GROWTH_PX = 5  # pixels by which a cluster grows over neighboring positions
MIN_GROWTH_ENDS = 2  # over those that hold more ends than this
BLOCK = 256  # trajectories integrated side by side, so that they stay in cache


@njit(cache=True, nogil=True)
def heat_flows(parts: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns unit flows (2, H, W) float32, (dy, dx), towards the center of each part; 0 elsewhere and where none is.

    parts: (H, W) integers, 0 for none and 1 … count; boxes: their `labels.ops.bounding_boxes`. Every part is by itself:
    beyond it the temperature is 0. Its center is the pixel nearest to its centroid, or all those that are equally near,
    which share the heat. In each of 2 · (height + width) rounds the center gains 1 and every pixel takes the mean of
    its 3 × 3 neighborhood; the flow is the gradient (central differences) of log(1 + T), normalized.
    """
    height, width = parts.shape
    flows = np.zeros((2, height, width), np.float32)
    max_size = 0
    for box in boxes:
        max_size = max(max_size, (box[2] - box[0] + 2) * (box[3] - box[1] + 2))
    heat_buffer, next_buffer, weight_buffer = np.empty(max_size), np.empty(max_size), np.empty(max_size)
    center = np.empty(max_size, np.int64)
    for index in range(len(boxes)):
        top, left, bottom, right = boxes[index, 0] - 1, boxes[index, 1] - 1, boxes[index, 2] + 1, boxes[index, 3] + 1
        rows, columns = bottom - top, right - left  # with a margin of one pixel
        if rows < 3:  # no pixels
            continue
        size = rows * columns
        heat, next_heat, weights = heat_buffer[:size], next_buffer[:size], weight_buffer[:size]
        heat[:], next_heat[:], weights[:] = 0, 0, 0
        area = sum_y = sum_x = 0
        for y in range(1, rows - 1):
            for x in range(1, columns - 1):
                if parts[top + y, left + x] == index + 1:
                    weights[y * columns + x] = 1 / 9
                    area += 1
                    sum_y += y
                    sum_x += x
        centers = _find_center(weights, columns, area, sum_y, sum_x, center)
        for _ in range(rows + columns - 4):  # two rounds each
            _diffuse(heat, next_heat, weights, columns, center, centers)
            _diffuse(next_heat, heat, weights, columns, center, centers)
        _write_gradient(heat, weights, columns, flows, top, left)
    return flows


@njit(cache=True, nogil=True)
def _find_center(weights: np.ndarray, columns: int, area: int, sum_y: int, sum_x: int, center: np.ndarray) -> int:
    """Writes the positions y · columns + x inside that are nearest to the centroid to `center`; returns how many.

    Compared are area · (squared distance to the centroid), less a constant: integers, so that ties are ties.
    """
    nearest, count = np.int64(2**62), 0
    for position in range(len(weights)):
        if weights[position] > 0:
            y, x = position // columns, position % columns
            distance = area * (y * y + x * x) - 2 * (y * sum_y + x * sum_x)
            if distance < nearest:
                nearest, count = distance, 0
            if distance == nearest:
                center[count] = position
                count += 1
    return count


@njit(cache=True, nogil=True)
def _diffuse(
    heat: np.ndarray, out: np.ndarray, weights: np.ndarray, columns: int, center: np.ndarray, centers: int
) -> None:
    """Heats the center and writes the mean of each 3 × 3 neighborhood to `out`; all are rows end to end.

    One long loop, margins included, is twice as fast as one of the right length for each row.
    """
    for index in range(centers):
        heat[center[index]] += 1 / centers
    n = len(heat) - 2 * columns - 2
    up, here, down = heat[: n + 2], heat[columns : columns + n + 2], heat[2 * columns :]
    mean, weight = out[columns + 1 : columns + 1 + n], weights[columns + 1 : columns + 1 + n]
    for x in range(n):
        sides = (up[x + 1] + down[x + 1]) + (here[x] + here[x + 2])
        corners = (up[x] + down[x + 2]) + (up[x + 2] + down[x])
        mean[x] = (here[x + 1] + (sides + corners)) * weight[x]


@njit(cache=True, nogil=True)
def _write_gradient(
    heat: np.ndarray, weights: np.ndarray, columns: int, flows: np.ndarray, top: int, left: int
) -> None:
    """Writes the direction in which log(1 + heat) rises to `flows` (2, H, W) where it is inside.

    top, left: the pixel of `flows` that is the first of the box.
    """
    for position in range(len(heat)):
        if weights[position] > 0:
            heat[position] = np.log1p(heat[position])
    for position in range(len(heat)):
        if weights[position] > 0:
            dy, dx = heat[position + columns] - heat[position - columns], heat[position + 1] - heat[position - 1]
            larger = max(abs(dy), abs(dx))
            if larger > 0:
                dy, dx = dy / larger, dx / larger  # far from the center of a long object squares would vanish
                norm = np.sqrt(dy * dy + dx * dx)
                y, x = top + position // columns, left + position % columns
                flows[0, y, x], flows[1, y, x] = dy / norm, dx / norm


@njit(cache=True, nogil=True)
def integrate_flows(field: np.ndarray, starts: np.ndarray, steps: int) -> np.ndarray:
    """Returns the pixel y · W + x (n,) int64 nearest to where each of the pixels `starts` (n,) int64 ends.

    field: (H + 1, W + 1, 2) float32, (dy, dx) in pixels per step, with a margin that is read with weight 0. A point
    moves `steps` times by the flow where it is, interpolated linearly (Euler's method), and stays in the image. Most
    points come to rest, or alternate between two positions, and are integrated no further: two more steps change
    nothing.
    """
    width = field.shape[1] - 1
    ends = np.empty(len(starts), np.int64)
    points, before = np.empty((2, BLOCK), np.float32), np.empty((2, BLOCK), np.float32)
    indices = np.empty(BLOCK, np.int64)
    for first in range(0, len(starts), BLOCK):
        moving = min(BLOCK, len(starts) - first)
        for i in range(moving):
            indices[i] = first + i
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
            moved = 0
            for i in range(moving):
                y, x = points[0, i], points[1, i]
                ends[indices[i]] = _pixel(y, x, width)
                if y != before[0, i] or x != before[1, i]:
                    points[0, moved], points[1, moved], indices[moved] = y, x, indices[i]
                    moved += 1
            moving = moved
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
        bottom, right = top + np.uint32(1), left + np.uint32(1)
        part_y, part_x = y - np.float32(top), x - np.float32(left)
        c, d = part_y * (one - part_x), part_y * part_x
        a, b = one - part_x - c, part_x - d
        dy = (a * field[top, left, 0] + b * field[top, right, 0]) + (
            c * field[bottom, left, 0] + d * field[bottom, right, 0]
        )
        dx = (a * field[top, left, 1] + b * field[top, right, 1]) + (
            c * field[bottom, left, 1] + d * field[bottom, right, 1]
        )
        points[0, i] = min(max(y + dy, zero), lowest)
        points[1, i] = min(max(x + dx, zero), rightmost)


@njit(cache=True, nogil=True)
def find_seeds(counts: np.ndarray, more_than: int) -> np.ndarray:
    """Returns the positions y · W + x, in scan order, with the highest count within `SEED_WINDOW_PX`, above
    `more_than`."""
    height, width = counts.shape
    seeds = np.empty(counts.size, np.int64)
    number = 0
    for y in range(height):
        for x in range(width):
            if counts[y, x] > more_than:
                top, left = max(y - SEED_WINDOW_PX, 0), max(x - SEED_WINDOW_PX, 0)
                window = counts[top : y + SEED_WINDOW_PX + 1, left : x + SEED_WINDOW_PX + 1]
                if counts[y, x] == window.max():
                    seeds[number] = y * width + x
                    number += 1
    return seeds[:number].copy()


@njit(cache=True, nogil=True)
def cluster_endpoints(counts: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Returns which cluster each position belongs to (H, W) int32, 0 for none.

    seeds: positions, those with the lowest counts first. Seeds in one another's window, which have equal counts, make
    one cluster. It grows `GROWTH_PX` times by the neighbors (of 8) that hold more than `MIN_GROWTH_ENDS` ends; where
    two grow into one another, the one with the higher count, which comes later, has the position.
    """
    height, width = counts.shape
    clusters, cluster_of_seed = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    for seed in seeds:
        cluster_of_seed[seed // width, seed % width] = -1  # of no cluster yet
    queue = np.empty(height * width, np.int64)
    cluster = 0
    for seed in seeds:
        if cluster_of_seed[seed // width, seed % width] > 0:
            continue
        cluster += 1
        cluster_of_seed[seed // width, seed % width] = cluster
        queue[0], first, stop = seed, 0, 1
        while first < stop:  # the seeds that belong together
            y, x = queue[first] // width, queue[first] % width
            first += 1
            clusters[y, x] = cluster
            for v in range(max(y - SEED_WINDOW_PX, 0), min(y + SEED_WINDOW_PX + 1, height)):
                for u in range(max(x - SEED_WINDOW_PX, 0), min(x + SEED_WINDOW_PX + 1, width)):
                    if cluster_of_seed[v, u] == -1:
                        cluster_of_seed[v, u] = cluster
                        queue[stop] = v * width + u
                        stop += 1
        first = 0
        for _ in range(GROWTH_PX):
            last = stop
            for index in range(first, last):
                y, x = queue[index] // width, queue[index] % width
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        if counts[v, u] > MIN_GROWTH_ENDS and clusters[v, u] != cluster:
                            clusters[v, u] = cluster
                            queue[stop] = v * width + u
                            stop += 1
            first = last
    return clusters
