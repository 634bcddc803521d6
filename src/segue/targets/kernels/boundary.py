"""Classes of boundary pixels, in exact integer arithmetic."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

INTERIOR, BOUNDARY, UNKNOWN = 1, 2, 3  # beside background 0 and ignored −1


def boundary_classes(labels: np.ndarray, count: int, *, boundary_px: float, objects_only: bool) -> np.ndarray:
    """Returns the class of each pixel, (H, W) int8, of labels (H, W) int32 with ids 1 … count.

    A pixel of an object is BOUNDARY where one outside the object is at most `boundary_px` away; where none is, but an
    ignored pixel is, it is UNKNOWN which class it has. Beyond the image's border the object is assumed to continue. An
    object that would have no interior gets its deepest pixels as one, so that each object has an interior.
    """
    classes, depth = _classify(labels, _offsets(boundary_px), objects_only)
    _ensure_interiors(labels, count, classes, depth)
    return classes


@lru_cache(maxsize=16)
def _offsets(radius_px: float) -> np.ndarray:
    """Returns (n, 3) int32: dy, dx and squared length of the steps of at most that length, the shortest first."""
    reach = int(radius_px)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    square = dy**2 + dx**2
    steps = np.stack([dy, dx, square], axis=1)[(square > 0) & (square <= radius_px**2)]
    return steps[np.argsort(steps[:, 2], kind="stable")].astype(np.int32)


@njit(cache=True, nogil=True)
def _classify(labels: np.ndarray, offsets: np.ndarray, objects_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes and, for boundary pixels, the squared distance to the outside."""
    height, width = labels.shape
    classes = np.zeros((height, width), dtype=np.int8)
    depth = np.zeros((height, width), dtype=np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0:
                classes[y, x] = label
                continue
            label_class = INTERIOR
            for step in range(len(offsets)):
                neighbor_y, neighbor_x = y + offsets[step, 0], x + offsets[step, 1]
                if neighbor_y < 0 or neighbor_x < 0 or neighbor_y >= height or neighbor_x >= width:
                    continue
                neighbor = labels[neighbor_y, neighbor_x]
                if neighbor == -1:
                    label_class = UNKNOWN
                elif neighbor != label and (neighbor > 0 or not objects_only):
                    label_class = BOUNDARY
                    depth[y, x] = offsets[step, 2]
                    break
            classes[y, x] = label_class
    return classes, depth


@njit(cache=True, nogil=True)
def _ensure_interiors(labels: np.ndarray, count: int, classes: np.ndarray, depth: np.ndarray) -> None:
    height, width = labels.shape
    deepest = np.zeros(count + 1, dtype=np.int32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0 or deepest[label] < 0:
                continue
            if classes[y, x] == BOUNDARY:
                deepest[label] = max(deepest[label], depth[y, x])
            else:
                deepest[label] = -1  # it has an interior, or may have
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0 and deepest[label] > 0 and depth[y, x] == deepest[label]:
                classes[y, x] = INTERIOR
