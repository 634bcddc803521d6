"""Values of an image between its pixels: cubic B-splines with one offset for all pixels, hence separable.

Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16 (1999).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def spline_coefficients(image: Array) -> Array:
    """Returns the cubic B-spline coefficients of an (H, W) image, float32; mirrored about the border pixels."""
    return ndimage.spline_filter(image.astype(np.float32), order=3, output=np.float32, mode="mirror")  # type: ignore[arg-type]


def spline_values(
    coefficients: Array, start: tuple[float, float], shape: tuple[int, int], *, derivative: int | None = None
) -> Array:
    """Returns the spline, or its derivative along axis 0 or 1, at start + (0, 1, …) px, float32 of `shape`.

    The image is mirrored at its borders, by at most its own length.
    """
    values = coefficients
    for axis in (0, 1):
        whole = math.floor(start[axis])
        weights = _taps(start[axis] - whole, derived=derivative == axis)
        places = np.arange(whole - 1, whole + shape[axis] + 2)
        last = coefficients.shape[axis] - 1
        if places[0] >= 0 and places[-1] <= last:
            values = values[places[0] : places[-1] + 1] if axis == 0 else values[:, places[0] : places[-1] + 1]
        else:
            values = np.take(values, last - np.abs(last - np.abs(places)), axis=axis)
        parts = [values[k : k + shape[0]] if axis == 0 else values[:, k : k + shape[1]] for k in range(4)]
        values = sum(
            (np.float32(w) * part for w, part in zip(weights[1:], parts[1:], strict=True)),
            np.float32(weights[0]) * parts[0],
        )
    return values


def _taps(fraction: float, *, derived: bool) -> tuple[float, float, float, float]:
    """Returns the weights of the coefficients at −1, 0, 1, 2 `fraction` px after the coefficient at 0."""
    t = fraction
    if derived:
        return -((1 - t) ** 2) / 2, (3 * t - 4) * t / 2, (1 + (2 - 3 * t) * t) / 2, t * t / 2
    return (1 - t) ** 3 / 6, 2 / 3 - t * t + t**3 / 2, (1 + 3 * (t + t * t - t**3)) / 6, t**3 / 6
