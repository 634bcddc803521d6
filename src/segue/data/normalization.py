"""Normalization of acquired values for a network: (x - shift) / scale, per image and channel.

    image        mean and standard deviation of the micrograph that a tile was cut from
    tile         mean and standard deviation of the tile itself, padding included
    percentile   two percentiles of the tile
    none         the acquired values

For a whole image, as in a prediction, image and tile are the same. The same functions serve data in memory, streamed
data and predictions, so that all see equal bits. `streaming_stats` serves images that are too large for memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.data.tiling import Tiling

HALF_RANGE = 1 << 16  # values are counted by the upper half of their bits first, then by the lower half


def intensity_stats(
    normalization: NormalizeSpec, images: np.ndarray, intensity: np.ndarray | None = None
) -> np.ndarray:
    """Returns (n, C, 2) float32, the shift and the scale of each channel of images (n, C, H, W) in acquired values.

    intensity (n, C, 2): mean and standard deviation of the micrographs that the images were cut from, for "image";
    without it the images count as whole. A scale of 0 becomes 1, so that a constant image becomes 0. NaN and infinity
    in an image make its statistics NaN or infinite.
    """
    stats = np.empty((*images.shape[:2], 2), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        if normalization == "none":
            stats[...] = 0, 1
        elif normalization == "image" and intensity is not None:
            stats[...] = intensity
        elif isinstance(normalization, PercentileSpec):
            percents = [normalization.low, normalization.high]
            for index, image in enumerate(images):
                low, high = np.percentile(image.reshape(len(image), -1), percents, axis=1)
                stats[index] = np.stack([low, high - low], axis=1)
        else:
            for index, image in enumerate(images):
                stats[index] = mean_and_std(image)
    return _without_zero_scale(stats)


def normalize(images: np.ndarray, stats: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns (x - shift) / scale as float32 (n, C, H, W), written to `out` if given; stats (n, C, 2)."""
    if out is None:
        out = np.empty(images.shape, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(images, stats[..., 0, None, None], out=out, dtype=np.float32, casting="unsafe")
        np.divide(out, stats[..., 1, None, None], out=out)
    return out


def streaming_stats(normalization: NormalizeSpec, image: Any, *, block_px: int = 512) -> np.ndarray:
    """Returns (1, C, 2) float32: `intensity_stats` of an image (C, H, W) that is read block by block.

    Means and deviations agree to rounding in float64; percentiles are exact. Types: integers up to 32 bits, bool, and
    floats, which count as float32.
    """
    channels = image.shape[0]
    if normalization == "none":
        return intensity_stats("none", np.empty((1, channels, 0, 0), np.float32))
    stats = np.empty((1, channels, 2), np.float32)
    for channel in range(channels):
        stats[0, channel] = (
            _percentiles(normalization, image, channel, block_px)
            if isinstance(normalization, PercentileSpec)
            else _mean_and_deviation(image, channel, block_px)
        )
    return _without_zero_scale(stats)


def mean_and_std(image: np.ndarray) -> np.ndarray:
    """Returns (C, 2) float32: the mean and standard deviation of each channel of (C, H, W), summed in float64."""
    flat = image.reshape(len(image), -1)
    mean = flat.mean(axis=1, dtype=np.float64)
    return np.stack([mean, flat.std(axis=1, dtype=np.float64)], axis=1).astype(np.float32)


def _without_zero_scale(stats: np.ndarray) -> np.ndarray:
    scale = stats[..., 1]
    scale[scale == 0] = 1
    return stats


def _blocks(image: Any, channel: int, block_px: int) -> Iterator[np.ndarray]:
    for block in Tiling(block_px, 0).cores(image.shape[1:]):
        yield np.asarray(image[(channel, *block.slices)])


def _mean_and_deviation(image: Any, channel: int, block_px: int) -> tuple[float, float]:
    size = image.shape[1] * image.shape[2]
    mean = sum(float(block.sum(dtype=np.float64)) for block in _blocks(image, channel, block_px)) / size
    squares = (float(np.square(block - np.float64(mean)).sum()) for block in _blocks(image, channel, block_px))
    return mean, float(np.sqrt(sum(squares) / size))


def _percentiles(normalization: PercentileSpec, image: Any, channel: int, block_px: int) -> tuple[float, float]:
    """Returns the lower percentile and the distance to the higher one, interpolated linearly between values."""
    size = image.shape[1] * image.shape[2]
    positions = [percent / 100 * (size - 1) for percent in (normalization.low, normalization.high)]
    ranks = sorted({part for position in positions for part in (math.floor(position), math.ceil(position))})
    values = dict(zip(ranks, _values_at_ranks(image, channel, ranks, block_px), strict=True))
    low, high = (
        values[math.floor(position)]
        + (position - math.floor(position)) * (values[math.ceil(position)] - values[math.floor(position)])
        for position in positions
    )
    return low, high - low


def _values_at_ranks(image: Any, channel: int, ranks: list[int], block_px: int) -> list[float]:
    """Returns the values at these positions of all values in ascending order, by counting: in two passes."""
    dtype = image.dtype if image.dtype.kind in "ui" else np.uint8 if image.dtype == bool else np.float32

    # first pass: count the upper halves of the bits
    upper = np.zeros(HALF_RANGE, np.int64)
    for block in _blocks(image, channel, block_px):
        upper += np.bincount(_keys(block, dtype) >> 16, minlength=HALF_RANGE)
    below = np.cumsum(upper)
    halves = np.searchsorted(below, ranks, side="right")

    # second pass: count the lower halves of the values whose upper half a rank falls into
    lower = {int(half): np.zeros(HALF_RANGE, np.int64) for half in halves}
    for block in _blocks(image, channel, block_px):
        keys = _keys(block, dtype)
        for half, counts in lower.items():
            counts += np.bincount(keys[keys >> 16 == half] & (HALF_RANGE - 1), minlength=HALF_RANGE)
    values = []
    for rank, half in zip(ranks, halves.tolist(), strict=True):
        rest = rank - (below[half] - upper[half])
        key = (half << 16) + int(np.searchsorted(np.cumsum(lower[half]), rest, side="right"))
        values.append(_value(key, dtype))
    return values


def _keys(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns integers from 0 to 2³² − 1, flat int64, in the order of the values."""
    flat = values.astype(dtype, copy=False).ravel()
    if np.dtype(dtype).kind != "f":
        return flat.astype(np.int64) - (np.iinfo(dtype).min if np.dtype(dtype).kind == "i" else 0)
    bits = flat.view(np.uint32).astype(np.int64)  # of negative floats the greater number is the smaller value
    return np.where(bits >> 31, (1 << 32) - 1 - bits, bits + (1 << 31))


def _value(key: int, dtype: Any) -> float:
    if np.dtype(dtype).kind != "f":
        return float(key + (np.iinfo(dtype).min if np.dtype(dtype).kind == "i" else 0))
    bits = key - (1 << 31) if key >> 31 else (1 << 32) - 1 - key
    return float(np.array(bits, np.uint32).view(np.float32))
