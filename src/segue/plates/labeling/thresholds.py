"""Background subtraction and thresholds of a stain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import block_reduce

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

_OPENING_PX = 8  # approximate side of the square of the opening, which is applied to block means


@dataclass(frozen=True)
class ThresholdLevel:
    """A threshold. at: a number or (H, W) float32; counts: the same as one number (the median); empty: fraction of
    blocks without a pixel above it, None without blocks; notes: doubts.
    """

    at: float | np.ndarray
    counts: float
    empty: float | None = None
    notes: tuple[str, ...] = ()


def half_sample_mode(values: np.ndarray) -> float:
    """Returns the mode of values (n,), n ≥ 1: the half of the sample that spans least is halved until three values are
    left.

    Bickel and Frühwirth, Comput. Stat. Data Anal. 50, 3500 (2006): no bin width, and up to half the values may be
    anywhere, unless they are as close together as the rest.
    """
    sample = np.sort(np.asarray(values, np.float64).ravel())
    if sample.size == 0:
        raise ValueError("half_sample_mode: there are no values; give at least one")
    while sample.size > 3:
        half = (sample.size + 1) // 2
        spans = sample[half - 1 :] - sample[: sample.size - half + 1]
        first = np.flatnonzero(spans == spans.min())
        start = int(
            first[len(first) // 2]
        )  # the middle one of equal ones, so that it does not end at the border of a plateau
        sample = sample[start : start + half]
    if sample.size == 3:
        lower, upper = sample[1] - sample[0], sample[2] - sample[1]
        sample = sample[1:2] if lower == upper else sample[:2] if lower < upper else sample[1:]
    return float(sample.mean())


def density_mode(values: np.ndarray) -> float:
    """Returns the mode of many values (n,), n ≥ 1, of a broad distribution: of 200 bins up to the 80th percentile
    with counts smoothed by 4 bins. It has less variance than `half_sample_mode`, which is for narrow groups.
    """
    low, high = float(np.min(values)), float(np.quantile(values, 0.8))
    if high <= low:
        return low
    counts, edges = np.histogram(values, 200, (low, high))
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(np.float64), 4.0, mode="constant")))
    return float(edges[peak] + edges[peak + 1]) / 2


def subtract_background(
    image: np.ndarray, spec: Background, *, pixel_size_um: float, valid: np.ndarray | None = None
) -> np.ndarray:
    """Returns the image (H, W) float32 minus its background, about 0 in empty places, and 0 where `valid` is False.

    Invalid pixels and those beyond the image have no weight; a slope of the background continues to the border
    (`_fit_local_planes`), so that it is not mistaken for light there.
    """
    image = image.astype(np.float32)
    valid = np.ones(image.shape, bool) if valid is None else valid
    if isinstance(spec, NoBackground) or not valid.any():
        return np.where(valid, image, np.float32(0))
    scale_px = spec.scale_um / pixel_size_um
    block = max(1, int(scale_px / _OPENING_PX))
    # on block means, to which invalid pixels do not contribute
    weight = _block_means(valid.astype(np.float32), block)
    small = _block_means(np.where(valid, image, np.float32(0)), block) / np.maximum(weight, np.float32(1e-6))
    if isinstance(spec, OpeningBackground):
        side = 2 * max(1, round(scale_px / block / 2)) + 1
        mask = weight > 0
        # at the border a square reaches to one side only: remove the slope first, and again what remains of it
        slow = _fit_local_planes(_opening(small, side, mask), mask, side)
        slow += _fit_local_planes(_opening(small - slow, side, mask), mask, side)
        background = slow + _masked_gaussian(_opening(small - slow, side, mask), mask, side / 4)
    else:
        background = _fit_local_planes(small, weight, scale_px / block)
    return np.where(valid, image - _enlarge(background, block, image.shape), np.float32(0))


def compute_threshold(
    image: np.ndarray, spec: Threshold, *, pixel_size_um: float, valid: np.ndarray | None = None
) -> ThresholdLevel:
    """Returns the threshold of an image (H, W) from the pixels where `valid` is True.

    Block maxima: of blocks that lie in `valid` completely. Raises ValueError if there is no such block or pixel.
    """
    if isinstance(spec, FixedThreshold):
        return ThresholdLevel(spec.counts, spec.counts)
    if valid is not None and not valid.any():
        raise ValueError("threshold: no pixel is valid; leave out this image")
    if isinstance(spec, LocalThreshold):
        return _local_threshold(image, spec, pixel_size_um, valid)
    if isinstance(spec, OtsuThreshold):
        counts = spec.factor * _otsu_threshold(image if valid is None else image[valid])
        return ThresholdLevel(counts, counts)
    return _block_maxima_threshold(image, spec, pixel_size_um, valid)


def _block_maxima_threshold(
    image: np.ndarray, spec: BlockMaximaThreshold, pixel_size_um: float, valid: np.ndarray | None
) -> ThresholdLevel:
    side = max(1, round(spec.block_um / pixel_size_um))
    maxima = np.empty((0, 0), np.float32)
    if min(image.shape) >= side:
        maxima = block_reduce(_whole_blocks(image, side), side, np.max)
        if valid is not None:
            maxima = maxima[block_reduce(_whole_blocks(valid, side), side, np.all)]
    if maxima.size == 0:
        raise ValueError(
            f"block maxima: no block of {side} px lies in the valid part of an image of {image.shape} px; "
            "lower block_um or leave out this image"
        )
    counts = spec.factor * half_sample_mode(maxima)
    empty = float((maxima <= counts).mean())
    notes: list[str] = []
    if maxima.size < 100:
        notes.append(f"the mode of block maxima was estimated from {maxima.size} blocks; 100 or more are recommended")
    if empty < spec.min_empty:
        notes.append(
            f"only {empty:.0%} of the blocks stay under the threshold: the mode of block maxima may be that of nuclei; "
            "lower block_um or use another threshold"
        )
    return ThresholdLevel(counts, counts, empty, tuple(notes))


def _local_threshold(
    image: np.ndarray, spec: LocalThreshold, pixel_size_um: float, valid: np.ndarray | None
) -> ThresholdLevel:
    side = 2 * max(1, round(spec.window_um / pixel_size_um / 2)) + 1
    if valid is None:
        at = ndimage.uniform_filter(image.astype(np.float32), side, mode="nearest")
        return ThresholdLevel(at + np.float32(spec.offset_counts), float(np.median(at)) + spec.offset_counts)
    weight = ndimage.uniform_filter(valid.astype(np.float32), side, mode="nearest")
    total = ndimage.uniform_filter(np.where(valid, image, 0).astype(np.float32), side, mode="nearest")
    at = total / np.maximum(weight, np.float32(1 / side**2)) + np.float32(spec.offset_counts)
    return ThresholdLevel(at, float(np.median(at[valid])))


def _otsu_threshold(values: np.ndarray) -> float:
    """Returns Otsu's threshold from 1024 bins up to the 99.99th percentile: single hot pixels are ignored."""
    low, high = (float(v) for v in np.quantile(values.ravel()[:: max(1, values.size // 2**20)], [0, 0.9999]))
    if high <= low:
        return high
    counts, edges = np.histogram(np.minimum(values, high), 1024, (low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums = np.cumsum(counts * centers)
    share = below / total
    gap = (sums[-1] * share - sums[:-1]) / total
    between = np.divide(gap**2, share * (1 - share), out=np.zeros_like(gap), where=(share > 0) & (share < 1))
    return float(centers[:-1][np.argmax(between)])


def _whole_blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the image without the rows and columns that do not fill a block."""
    rows, columns = (n // side * side for n in image.shape)
    return image[:rows, :columns]


def _block_means(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the means of blocks; pixels beyond the image count as 0."""
    return image if side == 1 else block_reduce(image, side, np.mean, func_kwargs={"dtype": np.float32})


def _opening(image: np.ndarray, side: int, mask: np.ndarray) -> np.ndarray:
    """Returns the morphological opening within the mask, by squares cut at its border; 0 outside."""
    eroded = ndimage.grey_erosion(np.where(mask, image, np.inf), size=(side, side), mode="constant", cval=np.inf)
    inside = np.where(mask, eroded, -np.inf)
    opened = ndimage.grey_dilation(inside, size=(side, side), mode="constant", cval=-np.inf)
    return np.where(mask, opened, 0).astype(np.float32)


def _masked_gaussian(image: np.ndarray, weight: np.ndarray, sd: float) -> np.ndarray:
    """Returns the weighted Gaussian mean of the image; 0 if there is no weight within 4 sd."""
    weight = weight.astype(np.float32)
    total = ndimage.gaussian_filter(image * weight, sd, mode="constant")
    near = ndimage.gaussian_filter(weight, sd, mode="constant")
    return np.divide(total, near, out=np.zeros_like(total), where=near > 1e-4)


def _fit_local_planes(image: np.ndarray, weight: np.ndarray, sd: float) -> np.ndarray:
    """Returns (H, W) float32: at each pixel the value of the plane that fits the image around it best, by Gaussian
    weights of `sd` px times `weight` (H, W).

    Among valid pixels this is the Gaussian mean; at a border a slope continues instead of bending (local linear
    regression, Fan and Gijbels 1996). 0 if there is no weight within 4 sd.
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


def _enlarge(small: np.ndarray, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns block values as an image, linear between the blocks' centers and beyond the outermost."""
    if side == 1:
        return small
    for axis, length in enumerate(shape):
        place = (np.arange(length, dtype=np.float32) + 0.5) / side - 0.5
        lower = np.clip(place.astype(np.intp), 0, max(small.shape[axis] - 2, 0))
        rest = (place - lower).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        upper = np.minimum(lower + 1, small.shape[axis] - 1)
        small = np.take(small, lower, axis) * (1 - rest) + np.take(small, upper, axis) * rest
    return small
