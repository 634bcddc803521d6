"""Distances divided by their greatest value in each object."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def normalise(distance: np.ndarray, numbers: np.ndarray, count: int) -> None:
    """Divides distances (H, W) float32, in place, by their maximum in each object 1 … count, where that is above 0."""
    height, width = numbers.shape
    maxima = np.zeros(count + 1, dtype=np.float32)
    for y in range(height):
        for x in range(width):
            label = numbers[y, x]
            if label > 0:
                maxima[label] = max(maxima[label], distance[y, x])
    for y in range(height):
        for x in range(width):
            label = numbers[y, x]
            if label > 0 and maxima[label] > 0:
                distance[y, x] /= maxima[label]
