"""Classes of boundary pixels, in exact integer arithmetic."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

BACKGROUND, INTERIOR, BOUNDARY, UNKNOWN, IGNORED = 0, 1, 2, 3, -1


def classes(labels: np.ndarray, count: int, *, boundary_px: float, objects_only: bool) -> np.ndarray:
    """Returns the class of each pixel, (H, W) int8, of labels (H, W) int32 with ids 1 … count.

    A pixel of an object is BOUNDARY where one outside the object is at most `boundary_px` away; where none is, but an
    ignored pixel is, it is UNKNOWN which class it has. Beyond the image's border the object is taken to go on. An
    object that would have no interior keeps the pixels of it that are deepest, so that each object has one.
    """
    found, depth = _classes(labels, _offsets(boundary_px), objects_only)
    _keep_deepest(labels, count, found, depth)
    return found


@lru_cache(maxsize=16)
def _offsets(radius_px: float) -> np.ndarray:
    """Returns (n, 3) int32: dy, dx and squared length of the steps of at most that length, the shortest first."""
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    square = dy**2 + dx**2
    steps = np.stack([dy, dx, square], axis=1)[(square > 0) & (square <= radius_px**2)]
    return steps[np.argsort(steps[:, 2], kind="stable")].astype(np.int32)


@njit(cache=True, nogil=True)
def _classes(labels: np.ndarray, offsets: np.ndarray, objects_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes and, for boundary pixels, the squared distance to the outside."""
    height, width = labels.shape
    found = np.zeros((height, width), dtype=np.int8)
    depth = np.zeros((height, width), dtype=np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0:
                found[y, x] = label
                continue
            kind = INTERIOR
            for step in range(len(offsets)):
                there_y, there_x = y + offsets[step, 0], x + offsets[step, 1]
                if there_y < 0 or there_x < 0 or there_y >= height or there_x >= width:
                    continue
                other = labels[there_y, there_x]
                if other == -1:
                    kind = UNKNOWN
                elif other != label and (other > 0 or not objects_only):
                    kind = BOUNDARY
                    depth[y, x] = offsets[step, 2]
                    break
            found[y, x] = kind
    return found, depth


@njit(cache=True, nogil=True)
def _keep_deepest(labels: np.ndarray, count: int, found: np.ndarray, depth: np.ndarray) -> None:
    height, width = labels.shape
    deepest = np.zeros(count + 1, dtype=np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0 or deepest[label] < 0:
                continue
            if found[y, x] == BOUNDARY:
                deepest[label] = max(deepest[label], depth[y, x])
            else:
                deepest[label] = -1  # it has an interior, or may have
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0 and deepest[label] > 0 and depth[y, x] == deepest[label]:
                found[y, x] = INTERIOR
