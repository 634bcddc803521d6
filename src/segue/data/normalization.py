"""How acquired values become what a network sees: (x - shift) / scale, per image and channel.

The same two functions serve data in memory, streamed data and predictions, so that all see equal bits. Cheap to
import: no torch.


The statistics by which an image is normalised, of an image too large to be held: it is read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.data.tiling import Tiling

"""image: mean and standard deviation of the micrograph that a tile was cut from. tile: of the tile itself, padding
included. percentile: two percentiles of the tile. none: the acquired values. Where a whole image is given, as in a
prediction, image and tile are the same."""


def statistics(normalization: NormalizeSpec, images: np.ndarray, intensity: np.ndarray | None = None) -> np.ndarray:
    """Returns (n, C, 2) float32, the shift and the scale of each channel of images (n, C, H, W) in acquired values.

    intensity (n, C, 2): mean and standard deviation of the micrographs that the images were cut from, which "image"
    takes; without it the images count as whole. A scale of 0 counts as 1, so that a constant image becomes 0.
    NaN and infinity in an image make its statistics so.
    """
    from segue.data.image_io import mean_and_std

    found = np.empty((*images.shape[:2], 2), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        if normalization == "none":
            found[...] = 0, 1
        elif normalization == "image" and intensity is not None:
            found[...] = intensity
        elif isinstance(normalization, PercentileSpec):
            for index, image in enumerate(images):
                low, high = np.percentile(
                    image.reshape(len(image), -1), [normalization.low, normalization.high], axis=1
                )
                found[index] = np.stack([low, high - low], axis=1)
        else:
            for index, image in enumerate(images):
                found[index] = mean_and_std(image)
    scale = found[..., 1]
    scale[scale == 0] = 1
    return found


def normalised(images: np.ndarray, of: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns (x - shift) / scale as float32 (n, C, H, W), written to `out` where given, with `of` (n, C, 2)."""
    if out is None:
        out = np.empty(images.shape, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(images, of[..., 0, None, None], out=out, dtype=np.float32, casting="unsafe")
        np.divide(out, of[..., 1, None, None], out=out)
    return out


HIGH = 1 << 16  # values are counted by the upper half of their bits first, then by the lower half


def statistics_of(normalization: NormalizeSpec, image: Any, *, block_px: int = 512) -> np.ndarray:
    """Returns (1, C, 2) float32, shift and scale of each channel of the image (C, H, W), as `normalization.statistics`.

    Means and deviations agree to rounding in float64. Percentiles are of the very values. Types: integers up to 32
    bits, bool, and floats, which count as float32.
    """
    channels = image.shape[0]
    if normalization == "none":
        return statistics("none", np.empty((1, channels, 0, 0), np.float32))
    found = np.empty((1, channels, 2), np.float32)
    for channel in range(channels):
        found[0, channel] = (
            _percentiles(normalization, image, channel, block_px)
            if isinstance(normalization, PercentileSpec)
            else _mean_and_deviation(image, channel, block_px)
        )
    scale = found[..., 1]
    scale[scale == 0] = 1
    return found


def _blocks(image: Any, channel: int, block_px: int) -> Iterator[np.ndarray]:
    for block in Tiling(block_px, 0).cores(image.shape[1:]):
        yield np.asarray(image[(channel, *block.slices)])


def _mean_and_deviation(image: Any, channel: int, block_px: int) -> tuple[float, float]:
    size = image.shape[1] * image.shape[2]
    mean = sum(float(block.sum(dtype=np.float64)) for block in _blocks(image, channel, block_px)) / size
    squares = (float(np.square(block - np.float64(mean)).sum()) for block in _blocks(image, channel, block_px))
    return mean, float(np.sqrt(sum(squares) / size))


def _percentiles(normalization: PercentileSpec, image: Any, channel: int, block_px: int) -> tuple[float, float]:
    """Returns the lower percentile and what lies between it and the higher, interpolated linearly between values."""
    size = image.shape[1] * image.shape[2]
    places = [percent / 100 * (size - 1) for percent in (normalization.low, normalization.high)]
    ranks = sorted({int(part) for place in places for part in (np.floor(place), np.ceil(place))})
    values = dict(zip(ranks, _ranked(image, channel, ranks, block_px), strict=True))
    low, high = (
        values[int(np.floor(place))]
        + (place - np.floor(place)) * (values[int(np.ceil(place))] - values[int(np.floor(place))])
        for place in places
    )
    return low, high - low


def _ranked(image: Any, channel: int, ranks: list[int], block_px: int) -> list[float]:
    """Returns the values that would stand at these places if all were sorted."""
    kind = image.dtype if image.dtype.kind in "ui" else np.uint8 if image.dtype == bool else np.float32
    upper = np.zeros(HIGH, np.int64)
    for block in _blocks(image, channel, block_px):
        upper += np.bincount(_keys(block, kind) >> 16, minlength=HIGH)
    below = np.cumsum(upper)
    halves = np.searchsorted(below, ranks, side="right")
    lower = {int(half): np.zeros(HIGH, np.int64) for half in halves}
    for block in _blocks(image, channel, block_px):
        keys = _keys(block, kind)
        for half, counts in lower.items():
            counts += np.bincount(keys[keys >> 16 == half] & (HIGH - 1), minlength=HIGH)
    found = []
    for rank, half in zip(ranks, halves.tolist(), strict=True):
        left = rank - (below[half] - upper[half])
        key = (half << 16) + int(np.searchsorted(np.cumsum(lower[half]), left, side="right"))
        found.append(_value(key, kind))
    return found


def _keys(values: np.ndarray, kind: Any) -> np.ndarray:
    """Returns integers from 0 to 2³² − 1, flat int64, in the order of the values."""
    flat = values.astype(kind, copy=False).ravel()
    if np.dtype(kind).kind != "f":
        return flat.astype(np.int64) - (np.iinfo(kind).min if np.dtype(kind).kind == "i" else 0)
    bits = flat.view(np.uint32).astype(np.int64)  # of negative floats the greater number is the smaller value
    return np.where(bits >> 31, (1 << 32) - 1 - bits, bits + (1 << 31))


def _value(key: int, kind: Any) -> float:
    if np.dtype(kind).kind != "f":
        return float(key + (np.iinfo(kind).min if np.dtype(kind).kind == "i" else 0))
    bits = key - (1 << 31) if key >> 31 else (1 << 32) - 1 - key
    return float(np.array(bits, np.uint32).view(np.float32))
