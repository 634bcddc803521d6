"""Normalization of acquired values for a network: (x - shift) / scale, per image and channel.

    background   level of the background and contrast of the foreground of the micrograph that a tile was cut from
    image        mean and standard deviation of that micrograph
    tile         mean and standard deviation of the tile itself, padding included
    percentile   two percentiles of the tile
    none         the acquired values

"background" is the default: level and contrast do not depend on how many objects a field holds, nor on specks, dark
margins, exposure and offset (docs/decisions/0021-normalize-by-background.md). For a whole image, as in a prediction,
image and tile are the same. The same functions serve data in memory, streamed data and predictions, so that all see
equal bits. `streaming_stats` serves images that are too large for memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.data.tiling import Tiling

HALF_RANGE = 1 << 16  # values are counted by the upper half of their bits first, then by the lower half

# "background": changing any of these changes what datasets store and what trained models see
MAX_WHOLE_PX = 1 << 20  # an image of more pixels is sampled
SAMPLE_PX = 64  # side of the blocks of a sample
SAMPLE_BLOCKS = 16  # at most, along each side
NEIGHBORHOOD_PX = 13  # a pixel whose neighborhood of this side is constant tells nothing, such as in a margin
BACKGROUND_FRACTION = 0.25  # of the values: the closest together are background
NORMAL_LENGTH = 0.6373  # of the central quarter of a normal distribution, in standard deviations
ROUNDING = 12**-0.5  # standard deviation of rounding, in steps
FOREGROUND_SD = 5.0  # of the background's noise: what differs from its level by more is foreground
MIN_FOREGROUND_PX = 25  # fewer are a speck
MIN_CONTRAST_SD = 10.0  # of the background's noise, which a field without objects would otherwise amplify
FOREGROUND_VALUE = 3.0  # what the contrast becomes: about as much as by mean and standard deviation


RIM, AMID = 1, 2  # of constant values


@dataclass(frozen=True)
class Background:
    """One channel of an image: level and noise (sd) of the background, and the contrast of the foreground to it, in
    acquired units."""

    level: float
    noise: float
    contrast: float


def intensity_stats(
    normalization: NormalizeSpec, images: np.ndarray, intensity: np.ndarray | None = None
) -> np.ndarray:
    """Returns (n, C, 2) float32, the shift and the scale of each channel of images (n, C, H, W) in acquired values.

    intensity (n, C, 4): `image_statistics` of the micrographs that the images were cut from, for "image" and
    "background"; without it the images count as whole. A scale of 0 becomes 1, so that a constant image becomes 0. NaN
    and infinity in an image make its mean and percentiles NaN or infinite; for "background" they do not count.
    """
    stats = np.empty((*images.shape[:2], 2), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        if normalization == "none":
            stats[...] = 0, 1
        elif normalization == "image" and intensity is not None:
            stats[...] = intensity[..., :2]
        elif normalization == "background":
            stats[...] = (
                np.stack([background_stats(image) for image in images]) if intensity is None else intensity[..., 2:]
            )
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

    Means and deviations agree to rounding in float64; percentiles and "background" are equal. Types: integers up to 32
    bits, bool, and floats, which count as float32.
    """
    channels = image.shape[0]
    if normalization == "none":
        return intensity_stats("none", np.empty((1, channels, 0, 0), np.float32))
    if normalization == "background":
        return _without_zero_scale(background_stats(image)[None])
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


def image_statistics(image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Returns (C, 4) float32 of an image (C, H, W): mean and standard deviation, and `background_stats`.

    valid (H, W) bool: the pixels that count, all without it; if none does, all statistics are 0.
    """
    if valid is not None and not valid.any():
        return np.zeros((len(image), 4), np.float32)
    inside = image if valid is None else image[:, valid][..., None]
    return np.concatenate([mean_and_std(inside), background_stats(image, valid)], axis=1)


def background_stats(image: Any, valid: np.ndarray | None = None) -> np.ndarray:
    """Returns (C, 2) float32: for each channel the level of the background, and its scale, a third of the contrast."""
    channels = [background(image, channel, valid) for channel in range(image.shape[0])]
    return np.array([(channel.level, channel.contrast / FOREGROUND_VALUE) for channel in channels], np.float32)


def background(image: Any, channel: int, valid: np.ndarray | None = None) -> Background:
    """Returns `background_of` what `sample_channel` reads of a channel."""
    return background_of(*sample_channel(image, channel, valid))


def background_of(values: np.ndarray, constancy: np.ndarray) -> Background:
    """Returns level and noise of the background, and the contrast of the foreground, of values (n,).

    Background is the quarter of the values that lie closest together (the mode, so that objects may be brighter and
    darker); its noise follows from their range, foreground is what differs by more than five times the noise, and the
    contrast is the mean of these differences d weighted by d², so that objects count and not the many pixels of their
    halos; the largest MIN_FOREGROUND_PX, which may be specks, count as the least of them. It is at least ten times the
    noise. Without values all are 0.

    constancy (n,) as in `sample_channel`: AMID constant values do not count, unless there are no others; those at the
    RIM of constant ones may be background (of zeros, say, around an object), but are no foreground, since they may as
    well belong to a margin around the image.
    """
    inside = constancy < AMID
    is_constant = not inside.any()
    ordered = np.sort((values if is_constant else values[inside]).astype(np.float64))
    if not len(ordered):
        return Background(0.0, 0.0, 0.0)

    # the shortest interval with a quarter of the values: where there are several, the one in the middle
    count = math.ceil(BACKGROUND_FRACTION * len(ordered))
    lengths = ordered[count - 1 :] - ordered[: len(ordered) - count + 1]
    shortest = np.flatnonzero(lengths == lengths.min())
    start = int(shortest[len(shortest) // 2])
    level = float(np.median(ordered[start : start + count]))
    steps = np.diff(ordered)
    rounding = ROUNDING * steps[steps > 0].min(initial=ordered[-1] - ordered[0])
    noise = max(float(lengths[start]) / NORMAL_LENGTH, float(rounding))

    differences = np.abs(values[constancy < RIM].astype(np.float64) - level)
    foreground = differences[differences > FOREGROUND_SD * noise]
    contrast = 0.0
    if len(foreground) >= MIN_FOREGROUND_PX:
        clipped = np.minimum(foreground, np.partition(foreground, -MIN_FOREGROUND_PX)[-MIN_FOREGROUND_PX])
        contrast = float((clipped**3).sum() / (clipped**2).sum())
    return Background(level, noise, max(contrast, MIN_CONTRAST_SD * noise))


def sample_channel(image: Any, channel: int, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the finite values (n,) of a channel and their constancy (n,): AMID constant ones, which fill the
    neighborhood, at the RIM of such a neighborhood, or 0.

    image (C, H, W) may be anything that can be sliced; of more than MAX_WHOLE_PX pixels, blocks on a regular grid are
    read, at most as many pixels. valid (H, W) bool: the pixels that count.
    """
    from scipy import ndimage  # planning a study does without

    values, constancy = [], []
    for slices in _sample(image.shape[1:]):
        block = np.asarray(image[(channel, *slices)])
        block = block.astype(np.uint8) if block.dtype == bool else block
        counts = np.isfinite(block) if valid is None else np.isfinite(block) & valid[slices]
        highest, lowest = (
            extreme(block, NEIGHBORHOOD_PX, mode="nearest")
            for extreme in (ndimage.maximum_filter, ndimage.minimum_filter)
        )
        amid = highest == lowest
        rim = ndimage.maximum_filter(amid, NEIGHBORHOOD_PX, mode="nearest")
        values.append(block[counts])
        constancy.append(np.where(amid, AMID, np.where(rim, RIM, 0))[counts])
    return np.concatenate(values), np.concatenate(constancy)


def _sample(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yields the whole image (H, W), or blocks on a regular grid where it has more than MAX_WHOLE_PX pixels."""
    if shape[0] * shape[1] <= MAX_WHOLE_PX:
        yield slice(None), slice(None)
        return
    rows, columns = (
        np.linspace(0, max(0, side - SAMPLE_PX), min(SAMPLE_BLOCKS, -(-side // SAMPLE_PX))).round().astype(int).tolist()
        for side in shape
    )
    for top in rows:
        for left in columns:
            yield slice(top, top + SAMPLE_PX), slice(left, left + SAMPLE_PX)


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
