"""Saturation from the pixels themselves: a pile-up at the highest value, whatever the type of the file.

A camera of 12 bits that writes 16 bits saturates at 4095, one whose offset was subtracted a little lower, and a float
image wherever it was scaled to. What all of them share is that many pixels have exactly the highest value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FULL_SCALES = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)  # of cameras and files
MIN_PIXELS = 10  # at the highest value: fewer are hot pixels, or chance
MIN_SHARE = 1e-4  # of the pixels at the highest value; fewer hide no structure
NEIGHBORS = 16  # the occupied values below the highest, which show how a tail without saturation would go on
SPIKE = 5.0  # times their mean: a histogram without saturation falls towards its end, or is flat; 5 is beyond any bump
SPIKE_FULL_SCALE = 2.0  # at a full scale less is needed: it is where saturation is expected


@dataclass(frozen=True)
class Saturation:
    """share: of the pixels that are at `level`, the highest value, as far as they are a pile-up; else 0."""

    level: float
    share: float


def saturation(image: np.ndarray) -> Saturation:
    """Returns the saturation of one channel (H, W) of integers or finite floats.

    The highest value is saturated if at least MIN_SHARE of the pixels have it (and MIN_PIXELS), and more than SPIKE
    times as many as have each of the occupied values below it on average, at a full scale SPIKE_FULL_SCALE times. A
    constant image is saturated at a full scale only.
    """
    level = image.max()
    count = int(np.count_nonzero(image == level))
    share = count / image.size
    if count < MIN_PIXELS or share < MIN_SHARE:
        return Saturation(float(level), 0.0)
    is_full_scale = float(level) in (*FULL_SCALES, _largest(image.dtype))
    if count == image.size:
        return Saturation(float(level), 1.0 if is_full_scale else 0.0)
    counts = _counts_below(image, level)
    spike = SPIKE_FULL_SCALE if is_full_scale else SPIKE
    return Saturation(float(level), share if count > spike * counts.mean() else 0.0)


def _largest(dtype: np.dtype) -> float:
    """Returns the largest value of an integer type; of floats 1, to which they are often scaled."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _counts_below(image: np.ndarray, level: float) -> np.ndarray:
    """Returns how many pixels have each of the NEIGHBORS highest occupied values below `level`."""
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        counts = np.bincount(image.ravel())[: int(level)]
        return counts[counts > 0][-NEIGHBORS:]
    return np.unique(image[image < level], return_counts=True)[1][-NEIGHBORS:]
