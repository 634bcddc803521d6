"""Maxima of objects, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def divide_by_maxima(values: np.ndarray, labels: np.ndarray, count: int) -> None:
    """Divides values (H, W) float32, in place, by their maximum in each object 1 … count, where that is above 0."""
    height, width = labels.shape
    maxima = np.zeros(count + 1, dtype=np.float32)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                maxima[label] = max(maxima[label], values[y, x])
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label > 0 and maxima[label] > 0:
                values[y, x] /= maxima[label]
