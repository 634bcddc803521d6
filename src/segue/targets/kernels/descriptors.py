"""Local shape descriptors, affinities of neighboring pixels, and the watershed on affinities."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from segue.labels import ops
from segue.labels.watershed import enqueue

SIDES = ((-1, 0), (0, -1), (0, 1), (1, 0))
LEVELS = 4096  # affinities are flooded in that many steps: finer than the accuracy of a network
MIN_VARIANCE_PX2 = 1e-3
TRUNCATE = 3.0  # the window ends at so many standard deviations


@lru_cache(maxsize=16)
def window(sigma_px: float) -> np.ndarray:
    """Returns the weights (2 r + 1,) float32 of a Gaussian along a line, their sum 1; r = 3 sigma_px, rounded."""
    radius = int(TRUNCATE * sigma_px + 0.5)
    weights = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma_px**2))
    return (weights / weights.sum()).astype(np.float32)


def descriptors(labels: np.ndarray, count: int, *, sigma_px: float) -> np.ndarray:
    """Returns the target's six descriptors (6, H, W) float32 in [0, 1] of labels (H, W) int32 with ids 1 … count."""
    out = np.zeros((6, *labels.shape), dtype=np.float32)
    if count:
        weights = window(sigma_px)
        steps = np.arange(len(weights)) - len(weights) // 2
        moments = np.stack([weights, weights * steps, weights * steps**2])
        sums = np.zeros((3, len(weights) + 1), dtype=np.float64)
        np.cumsum(moments, axis=1, dtype=np.float64, out=sums[:, 1:])
        _descriptors(labels, ops.bounding_boxes(labels, count), moments.astype(np.float32), sums, float(sigma_px), out)
    return out


@njit(cache=True, nogil=True)
def _descriptors(
    labels: np.ndarray, boxes: np.ndarray, moments: np.ndarray, sums: np.ndarray, sigma: float, out: np.ndarray
) -> None:
    """Fills `out`, object by object: Gaussian moments relative to each pixel, first along x, then along y.

    Along x an object's row is a few runs, and a run's moment is a difference of two cumulative sums.
    """
    for index in range(len(boxes)):
        label = index + 1
        top, left, bottom, right = boxes[index]
        rows, columns = bottom - top, right - left
        along_x = np.zeros((rows, 3, columns), dtype=np.float32)
        for y in range(rows):
            _add_runs(labels[top + y], label, left, right - 1, sums, along_x[y])
        for y in range(rows):
            row = _along_y(along_x, moments, y)
            for x in range(columns):
                if labels[top + y, left + x] == label:
                    _describe(row[:, x], sigma, out[:, top + y, left + x])


@njit(cache=True, nogil=True)
def _add_runs(line: np.ndarray, label: int, left: int, right: int, sums: np.ndarray, out: np.ndarray) -> None:
    """Adds to out (3, columns) the moments 0, 1, 2 along x, about each column of the box, of the object in a row."""
    radius = (sums.shape[1] - 2) // 2
    x = left
    while x <= right:
        if line[x] != label:
            x += 1
            continue
        end = x
        while end < right and line[end + 1] == label:
            end += 1
        for column in range(max(left, x - radius), min(right, end + radius) + 1):
            first = max(x - column, -radius) + radius
            behind = min(end - column, radius) + radius + 1
            for order in range(3):
                out[order, column - left] += sums[order, behind] - sums[order, first]
        x = end + 1


@njit(cache=True, nogil=True)
def _along_y(along_x: np.ndarray, moments: np.ndarray, y: int) -> np.ndarray:
    """Returns (6, columns): the sums of 1, dy, dx, dy², dx² and dy dx over the window around each pixel of a row."""
    rows, _, columns = along_x.shape
    radius = moments.shape[1] // 2
    window_sums = np.zeros((6, columns), dtype=np.float32)
    for other in range(max(0, y - radius), min(rows, y + radius + 1)):
        step = other - y + radius
        one, dy, dy2 = moments[0, step], moments[1, step], moments[2, step]
        for x in range(columns):
            window_sums[0, x] += one * along_x[other, 0, x]
            window_sums[1, x] += dy * along_x[other, 0, x]
            window_sums[2, x] += one * along_x[other, 1, x]
            window_sums[3, x] += dy2 * along_x[other, 0, x]
            window_sums[4, x] += one * along_x[other, 2, x]
            window_sums[5, x] += dy * along_x[other, 1, x]
    return window_sums


@njit(cache=True, nogil=True)
def _describe(sums: np.ndarray, sigma: float, out: np.ndarray) -> None:
    size = sums[0]
    y, x = sums[1] / size, sums[2] / size
    yy = max(sums[3] / size - y * y, MIN_VARIANCE_PX2)
    xx = max(sums[4] / size - x * x, MIN_VARIANCE_PX2)
    correlation = (sums[5] / size - y * x) / np.sqrt(yy * xx)
    out[0] = min(max(0.5 + 0.5 * y / sigma, 0), 1)
    out[1] = min(max(0.5 + 0.5 * x / sigma, 0), 1)
    out[2] = min(yy / sigma**2, 1)
    out[3] = min(xx / sigma**2, 1)
    out[4] = min(max(0.5 + 0.5 * correlation, 0), 1)
    out[5] = min(size, 1)


@njit(cache=True, nogil=True)
def affinities(labels: np.ndarray) -> np.ndarray:
    """Returns (2, H, W) float32: 1 where a pixel and the one above it, or to its left, are of one object, 0 where not.

    −1 where either is ignored or there is none.
    """
    height, width = labels.shape
    out = np.full((2, height, width), -1, dtype=np.float32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label < 0:
                continue
            if y > 0 and labels[y - 1, x] >= 0:
                out[0, y, x] = 1 if label > 0 and labels[y - 1, x] == label else 0
            if x > 0 and labels[y, x - 1] >= 0:
                out[1, y, x] = 1 if label > 0 and labels[y, x - 1] == label else 0
    return out


@njit(cache=True, nogil=True)
def inner_pixels(up: np.ndarray, left: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the pixels of the mask, (H, W) bool, whose every affinity within the image is above `threshold`."""
    height, width = mask.shape
    out = np.zeros((height, width), dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            out[y, x] = (
                mask[y, x]
                and (y == 0 or up[y, x] > threshold)
                and (x == 0 or left[y, x] > threshold)
                and (y == height - 1 or up[y + 1, x] > threshold)
                and (x == width - 1 or left[y, x + 1] > threshold)
            )
    return out


@njit(cache=True, nogil=True)
def flood_affinities(
    up: np.ndarray, left: np.ndarray, mask: np.ndarray, seeds: np.ndarray, threshold: float, add_unseeded: bool
) -> np.ndarray:
    """Returns labels (H, W) int32: the watershed on the affinities `up` and `left` (H, W) of the pixels of a mask.

    Seeds grow over affinities above `threshold`, the strongest first. With `add_unseeded`, pixels so connected that no
    seed reaches are labeled too.
    """
    labels = seeds.ravel().astype(np.int32)
    _grow(up, left, mask, threshold, labels)
    if add_unseeded:
        _add_components(up, left, mask, threshold, labels)
    return labels.reshape(mask.shape)


def merge_fragments(
    up: np.ndarray, left: np.ndarray, labels: np.ndarray, count: int, *, threshold: float
) -> np.ndarray:
    """Returns labels (H, W) int32 where fragments 1 … count that touch with a mean affinity above the threshold are
    one."""
    pairs, values = _contacts(up, left, labels, count + 1)
    pairs, index = np.unique(pairs, return_inverse=True)
    means = np.bincount(index, weights=values) / np.bincount(index) if len(pairs) else np.zeros(0)
    return _lowest_connected(pairs[means > threshold], count)[labels]


@njit(cache=True, nogil=True)
def _contacts(up: np.ndarray, left: np.ndarray, labels: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each two pixels of touching fragments, these as smaller × base + greater, and their affinity."""
    height, width = labels.shape
    pairs = np.empty(2 * labels.size, dtype=np.int64)
    values = np.empty(2 * labels.size, dtype=np.float64)
    count = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            for dy, dx in SIDES[:2]:
                if label == 0 or y + dy < 0 or x + dx < 0:
                    continue
                neighbor = labels[y + dy, x + dx]
                if neighbor > 0 and neighbor != label:
                    pairs[count] = min(label, neighbor) * base + max(label, neighbor)
                    values[count] = up[y, x] if dx == 0 else left[y, x]
                    count += 1
    return pairs[:count], values[:count]


@njit(cache=True, nogil=True)
def _lowest_connected(pairs: np.ndarray, count: int) -> np.ndarray:
    """Returns (count + 1,) int32: for each fragment the lowest one that a chain of pairs connects it to."""
    lowest = np.arange(count + 1).astype(np.int32)
    for pair in pairs:
        ends = (pair // (count + 1), pair % (count + 1))
        first, second = lowest[ends[0]], lowest[ends[1]]
        while lowest[first] != first:
            first = lowest[first]
        while lowest[second] != second:
            second = lowest[second]
        lowest[max(first, second)] = min(first, second)
    for fragment in range(count + 1):
        lowest[fragment] = lowest[lowest[fragment]]  # smaller ones are final already
    return lowest


@njit(cache=True, nogil=True)
def _affinity(up: np.ndarray, left: np.ndarray, y: int, x: int, dy: int, dx: int) -> float:
    """Returns the affinity of a pixel and its neighbor at (dy, dx), one of them 0 and the other ±1."""
    return up[max(y, y + dy), x] if dx == 0 else left[y, max(x, x + dx)]


@njit(cache=True, nogil=True)
def _add_components(up: np.ndarray, left: np.ndarray, mask: np.ndarray, threshold: float, labels: np.ndarray) -> None:
    """Numbers unlabeled pixels of the mask that affinities above the threshold connect, on from the highest label."""
    height, width = mask.shape
    stack = np.empty(height * width, dtype=np.int32)
    count = labels.max()
    for start in range(height * width):
        if labels[start] > 0 or not mask[start // width, start % width]:
            continue
        count += 1
        labels[start] = count
        stack[0], stack_size = start, 1
        while stack_size > 0:
            stack_size -= 1
            pixel = stack[stack_size]
            y, x = pixel // width, pixel % width
            for dy, dx in SIDES:
                if not (0 <= y + dy < height and 0 <= x + dx < width):
                    continue
                neighbor = pixel + dy * width + dx
                if labels[neighbor] == 0 and mask[y + dy, x + dx] and _affinity(up, left, y, x, dy, dx) > threshold:
                    labels[neighbor] = count
                    stack[stack_size] = neighbor
                    stack_size += 1


@njit(cache=True, nogil=True)
def _grow(up: np.ndarray, left: np.ndarray, mask: np.ndarray, threshold: float, labels: np.ndarray) -> None:
    """Grows the labels in place over affinities above the threshold, the strongest first: a queue of pairs per level.

    A pair, pixel × 4 + side, requests that the pixel be labeled as its neighbor at that side. Pixels that are labeled
    at the start request it for themselves, at level 0.
    """
    height, width = mask.shape
    first, last = np.full(LEVELS, -1, dtype=np.int32), np.full(LEVELS, -1, dtype=np.int32)
    following = np.full(4 * height * width, -1, dtype=np.int32)
    done = np.zeros(height * width, dtype=np.bool_)
    for pixel in range(height * width):
        if labels[pixel] > 0:
            enqueue(first, last, following, 0, 4 * pixel)
    for level in range(LEVELS):
        pair = first[level]
        while pair >= 0:
            pixel, side = pair // 4, pair % 4
            if not done[pixel]:
                done[pixel] = True
                if labels[pixel] == 0:
                    labels[pixel] = labels[pixel + SIDES[side][0] * width + SIDES[side][1]]
                y, x = pixel // width, pixel % width
                for direction in range(4):
                    dy, dx = SIDES[direction]
                    if not (0 <= y + dy < height and 0 <= x + dx < width) or not mask[y + dy, x + dx]:
                        continue
                    neighbor = pixel + dy * width + dx
                    affinity = _affinity(up, left, y, x, dy, dx)
                    if labels[neighbor] == 0 and affinity > threshold:
                        queue = min(max(int((1 - affinity) * (LEVELS - 1)), level), LEVELS - 1)
                        enqueue(first, last, following, queue, neighbor * 4 + 3 - direction)
            pair = following[pair]
