"""From a stain's counts to what lies above its background: correction, and thresholds by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segue.plate.stains_spec import (
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
class Level:
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


def without_background(image: np.ndarray, spec: Background, *, pixel_size_um: float) -> np.ndarray:
    """Returns the image (H, W) float32 minus its background, about 0 where nothing is; the border is repeated."""
    image = image.astype(np.float32)
    if isinstance(spec, NoBackground):
        return image
    scale_px = spec.scale_um / pixel_size_um
    if isinstance(spec, OpeningBackground):
        block = max(1, int(scale_px / _OPENING_PX))
        small = _block_means(image, block)
        side = 2 * max(1, round(scale_px / block / 2)) + 1
        opened = ndimage.grey_opening(small, size=(side, side), mode="nearest")
        return image - _enlarged(ndimage.gaussian_filter(opened, side / 4, mode="nearest"), block, image.shape)
    block = max(1, int(scale_px / 8))
    smooth = ndimage.gaussian_filter(_block_means(image, block), scale_px / block, mode="nearest")
    return image - _enlarged(smooth, block, image.shape)


def threshold(image: np.ndarray, spec: Threshold, *, pixel_size_um: float, valid: np.ndarray | None = None) -> Level:
    """Returns the level of an image (H, W) by the rule; pixels where `valid` is False take no part.

    Block maxima: blocks that lie in `valid` whole. Raises ValueError where no block or no pixel is left.
    """
    if isinstance(spec, FixedThreshold):
        return Level(spec.counts, spec.counts)
    if valid is not None and not valid.any():
        raise ValueError("threshold: no pixel is valid; leave out this image")
    if isinstance(spec, LocalThreshold):
        return _local(image, spec, pixel_size_um, valid)
    if isinstance(spec, OtsuThreshold):
        counts = spec.factor * _otsu(image if valid is None else image[valid])
        return Level(counts, counts)
    return _block_maxima(image, spec, pixel_size_um, valid)


def _block_maxima(
    image: np.ndarray, spec: BlockMaximaThreshold, pixel_size_um: float, valid: np.ndarray | None
) -> Level:
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
    if empty < spec.least_empty:
        notes.append(
            f"only {empty:.0%} of the blocks stay under the threshold: the mode of block maxima may be that of nuclei; "
            "lower block_um or use another threshold"
        )
    return Level(counts, counts, empty, tuple(notes))


def _local(image: np.ndarray, spec: LocalThreshold, pixel_size_um: float, valid: np.ndarray | None) -> Level:
    side = 2 * max(1, round(spec.window_um / pixel_size_um / 2)) + 1
    if valid is None:
        at = ndimage.uniform_filter(image.astype(np.float32), side, mode="nearest")
        return Level(at + np.float32(spec.offset_counts), float(np.median(at)) + spec.offset_counts)
    weight = ndimage.uniform_filter(valid.astype(np.float32), side, mode="nearest")
    total = ndimage.uniform_filter(np.where(valid, image, 0).astype(np.float32), side, mode="nearest")
    at = total / np.maximum(weight, np.float32(1 / side**2)) + np.float32(spec.offset_counts)
    return Level(at, float(np.median(at[valid])))


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
    if side == 1:
        return image
    padded = np.pad(image, [(0, -n % side) for n in image.shape], mode="edge")
    return _blocks(padded, side).mean((1, 3), dtype=np.float32)


def _enlarged(small: np.ndarray, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns block values as an image, linear between the blocks' centres."""
    if side == 1:
        return small
    for axis, length in enumerate(shape):
        place = (np.arange(length, dtype=np.float32) + 0.5) / side - 0.5
        place = np.clip(place, 0, small.shape[axis] - 1)
        lower = np.minimum(place.astype(np.intp), max(small.shape[axis] - 2, 0))
        rest = (place - lower).reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float32)
        upper = np.minimum(lower + 1, small.shape[axis] - 1)
        small = np.take(small, lower, axis) * (1 - rest) + np.take(small, upper, axis) * rest
    return small
