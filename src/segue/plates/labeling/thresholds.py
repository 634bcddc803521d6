"""From a stain's counts to what lies above its background: correction, and thresholds by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segue.plates.spec import (
    Background,
    BlockMaximaThreshold,
    FixedThreshold,
    LocalThreshold,
    NoBackground,
    OpeningBackground,
    OtsuThreshold,
    Threshold,
)

_OPENING_PX = 8  # the opening is done on block means, so that its square is about this wide


@dataclass(frozen=True)
class ThresholdLevel:
    """`at`: what a pixel must exceed, a number or (H, W) float32; `counts`: the same as one number (the median);
    `empty`: share of blocks without a pixel above, None where no blocks were made; `notes`: what does not fit.
    """

    at: float | np.ndarray
    counts: float
    empty: float | None = None
    notes: tuple[str, ...] = ()


def half_sample_mode(values: np.ndarray) -> float:
    """Returns the mode of values (n,), n ≥ 1: the half of the sample that spans least is halved until three are left.

    Bickel and Frühwirth, Comput. Stat. Data Anal. 50, 3500 (2006): no bin width, and up to half the values may be
    anywhere, as long as they are not as close together as the rest.
    """
    left = np.sort(np.asarray(values, np.float64).ravel())
    if left.size == 0:
        raise ValueError("half_sample_mode: there are no values; give at least one")
    while left.size > 3:
        half = (left.size + 1) // 2
        spans = left[half - 1 :] - left[: left.size - half + 1]
        first = np.flatnonzero(spans == spans.min())
        start = int(first[len(first) // 2])  # of equal ones the middle one, so that a plateau is not left at its end
        left = left[start : start + half]
    if left.size == 3:
        lower, upper = left[1] - left[0], left[2] - left[1]
        left = left[1:2] if lower == upper else left[:2] if lower < upper else left[1:]
    return float(left.mean())


def density_mode(values: np.ndarray) -> float:
    """Returns the mode of many values (n,), n ≥ 1, of a broad distribution: of 200 bins up to the 80th percentile,
    their counts smoothed by 4 bins. It scatters less than `half_sample_mode`, which is for narrow groups.
    """
    low, high = float(np.min(values)), float(np.quantile(values, 0.8))
    if high <= low:
        return low
    counts, edges = np.histogram(values, 200, (low, high))
    most = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(np.float64), 4.0, mode="constant")))
    return float(edges[most] + edges[most + 1]) / 2


def subtract_background(
    image: np.ndarray, spec: Background, *, pixel_size_um: float, valid: np.ndarray | None = None
) -> np.ndarray:
    """Returns the image (H, W) float32 minus its background, about 0 where nothing is, and 0 where `valid` is False.

    What is not valid, and what lies beyond the image, takes no part; a background that rises or falls towards the
    border goes on as it does inside (`_local_planes`), so that no slope is left there as light.
    """
    image = image.astype(np.float32)
    valid = np.ones(image.shape, bool) if valid is None else valid
    if isinstance(spec, NoBackground) or not valid.any():
        return np.where(valid, image, np.float32(0))
    scale_px = spec.scale_um / pixel_size_um
    block = max(1, int(scale_px / _OPENING_PX))
    weight = _block_means(valid.astype(np.float32), block)
    small = _block_means(np.where(valid, image, np.float32(0)), block) / np.maximum(weight, np.float32(1e-6))
    if isinstance(spec, OpeningBackground):
        side = 2 * max(1, round(scale_px / block / 2)) + 1
        there = weight > 0
        # at the border a square reaches to one side only: the slope is taken off first, and again what it left
        slow = _local_planes(_opened(small, side, there), there, side)
        slow += _local_planes(_opened(small - slow, side, there), there, side)
        background = slow + _smooth_within(_opened(small - slow, side, there), there, side / 4)
    else:
        background = _local_planes(small, weight, scale_px / block)
    return np.where(valid, image - _enlarged(background, block, image.shape), np.float32(0))


def compute_threshold(
    image: np.ndarray, spec: Threshold, *, pixel_size_um: float, valid: np.ndarray | None = None
) -> ThresholdLevel:
    """Returns the level of an image (H, W) by the rule; pixels where `valid` is False take no part.

    Block maxima: blocks that lie in `valid` whole. Raises ValueError where no block or no pixel is left.
    """
    if isinstance(spec, FixedThreshold):
        return ThresholdLevel(spec.counts, spec.counts)
    if valid is not None and not valid.any():
        raise ValueError("threshold: no pixel is valid; leave out this image")
    if isinstance(spec, LocalThreshold):
        return _local(image, spec, pixel_size_um, valid)
    if isinstance(spec, OtsuThreshold):
        counts = spec.factor * _otsu(image if valid is None else image[valid])
        return ThresholdLevel(counts, counts)
    return _block_maxima(image, spec, pixel_size_um, valid)


def _block_maxima(
    image: np.ndarray, spec: BlockMaximaThreshold, pixel_size_um: float, valid: np.ndarray | None
) -> ThresholdLevel:
    side = max(1, round(spec.block_um / pixel_size_um))
    maxima = _blocks(image, side).max((1, 3)) if min(image.shape) >= side else np.empty((0, 0), np.float32)
    if valid is not None:
        maxima = maxima[_blocks(valid, side).all((1, 3))] if maxima.size else maxima
    if maxima.size == 0:
        raise ValueError(
            f"block maxima: no block of {side} px lies in the valid part of an image of {image.shape} px; "
            "lower block_um or leave out this image"
        )
    counts = spec.factor * half_sample_mode(maxima)
    empty = float((maxima <= counts).mean())
    notes: list[str] = []
    if maxima.size < 100:
        notes.append(f"the mode of block maxima rests on {maxima.size} blocks; 100 or more are wanted")
    if empty < spec.min_empty:
        notes.append(
            f"only {empty:.0%} of the blocks stay under the threshold: the mode of block maxima may be that of nuclei; "
            "lower block_um or use another threshold"
        )
    return ThresholdLevel(counts, counts, empty, tuple(notes))


def _local(image: np.ndarray, spec: LocalThreshold, pixel_size_um: float, valid: np.ndarray | None) -> ThresholdLevel:
    side = 2 * max(1, round(spec.window_um / pixel_size_um / 2)) + 1
    if valid is None:
        at = ndimage.uniform_filter(image.astype(np.float32), side, mode="nearest")
        return ThresholdLevel(at + np.float32(spec.offset_counts), float(np.median(at)) + spec.offset_counts)
    weight = ndimage.uniform_filter(valid.astype(np.float32), side, mode="nearest")
    total = ndimage.uniform_filter(np.where(valid, image, 0).astype(np.float32), side, mode="nearest")
    at = total / np.maximum(weight, np.float32(1 / side**2)) + np.float32(spec.offset_counts)
    return ThresholdLevel(at, float(np.median(at[valid])))


def _otsu(values: np.ndarray) -> float:
    """Returns Otsu's threshold from 1024 bins up to the 99.99th percentile: single hot pixels take no part."""
    low, high = (float(v) for v in np.quantile(values.ravel()[:: max(1, values.size // 2**20)], [0, 0.9999]))
    if high <= low:
        return high
    counts, edges = np.histogram(np.minimum(values, high), 1024, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums = np.cumsum(counts * centres)
    share = below / total
    gap = (sums[-1] * share - sums[:-1]) / total
    between = np.divide(gap**2, share * (1 - share), out=np.zeros_like(gap), where=(share > 0) & (share < 1))
    return float(centres[:-1][np.argmax(between)])


def _blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Returns (rows, side, columns, side) of the whole blocks."""
    rows, columns = (n // side for n in image.shape)
    return image[: rows * side, : columns * side].reshape(rows, side, columns, side)


def _block_means(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the means of blocks, what lies beyond the image taken as 0."""
    if side == 1:
        return image
    padded = np.pad(image, [(0, -n % side) for n in image.shape])
    return _blocks(padded, side).mean((1, 3), dtype=np.float32)


def _opened(image: np.ndarray, side: int, there: np.ndarray) -> np.ndarray:
    """Returns the opening by the parts of squares that lie `there`, of squares whose centre does; 0 elsewhere."""
    eroded = ndimage.grey_erosion(np.where(there, image, np.inf), size=(side, side), mode="constant", cval=np.inf)
    inside = np.where(there, eroded, -np.inf)
    opened = ndimage.grey_dilation(inside, size=(side, side), mode="constant", cval=-np.inf)
    return np.where(there, opened, 0).astype(np.float32)


def _smooth_within(image: np.ndarray, weight: np.ndarray, sd: float) -> np.ndarray:
    """Returns the Gaussian mean of the image where the weight is, 0 where there is none within 4 sd."""
    weight = weight.astype(np.float32)
    total = ndimage.gaussian_filter(image * weight, sd, mode="constant")
    near = ndimage.gaussian_filter(weight, sd, mode="constant")
    return np.divide(total, near, out=np.zeros_like(total), where=near > 1e-4)


def _local_planes(image: np.ndarray, weight: np.ndarray, sd: float) -> np.ndarray:
    """Returns (H, W) float32: at each pixel the value of the plane that fits the image around it best, by Gaussian
    weights of `sd` px times `weight` (H, W).

    Amid valid pixels that is the Gaussian mean; at a border a slope goes on instead of bending (local linear
    regression, Fan and Gijbels 1996). 0 where there is no weight within 4 sd.
    """
    y, x = (np.arange(n, dtype=np.float64) / sd for n in image.shape)
    y, x = y[:, None], x[None]

    def around(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, sd, mode="constant")

    share, light = weight.astype(np.float64), image.astype(np.float64) * weight
    s = around(share)
    known = s > 1e-4
    s = np.where(known, s, 1.0)
    # moments about each pixel, in sd
    my, mx, m = around(share * y) / s - y, around(share * x) / s - x, around(light) / s
    vy = around(share * y * y) / s - 2 * y * (my + y) + y * y - my * my
    vx = around(share * x * x) / s - 2 * x * (mx + x) + x * x - mx * mx
    vyx = around(share * y * x) / s - (my + y) * (mx + x)
    cy, cx = around(light * y) / s - m * (my + y), around(light * x) / s - m * (mx + x)
    vy, vx = vy + 1e-3, vx + 1e-3
    determinant = vy * vx - vyx * vyx
    slope_y, slope_x = (cy * vx - cx * vyx) / determinant, (cx * vy - cy * vyx) / determinant
    return np.where(known, m - slope_y * my - slope_x * mx, 0).astype(np.float32)


def _enlarged(small: np.ndarray, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns block values as an image, linear between the blocks' centres and beyond the outermost."""
    if side == 1:
        return small
    for axis, length in enumerate(shape):
        place = (np.arange(length, dtype=np.float32) + 0.5) / side - 0.5
        lower = np.clip(place.astype(np.intp), 0, max(small.shape[axis] - 2, 0))
        rest = (place - lower).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        upper = np.minimum(lower + 1, small.shape[axis] - 1)
        small = np.take(small, lower, axis) * (1 - rest) + np.take(small, upper, axis) * rest
    return small
