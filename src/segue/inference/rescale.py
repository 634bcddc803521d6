"""Images at another pixel size, region by region: linear interpolation that averages where pixels become larger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Resampled:
    """An image (C, H, W) at the size (height, width), float32, which reads only what a slice needs.

    Each value is the mean of the pixels around it, weighted by a triangle that is as wide as the larger of both pixels
    (Pillow's BILINEAR). It does not depend on the region that is asked for.
    """

    pixels: Any
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.pixels.shape[0], *self.size)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def __getitem__(self, key: tuple[int | slice, slice, slice]) -> np.ndarray:
        channel, *parts = key
        first, weights = [], []
        for part, size, pixels in zip(parts, self.size, self.pixels.shape[1:], strict=True):
            start, stop, _ = part.indices(size)
            begin, matrix = interpolation(start, stop, size, pixels)
            first.append(begin)
            weights.append(matrix)
        rows, columns = (slice(begin, begin + matrix.shape[1]) for begin, matrix in zip(first, weights, strict=True))
        planes = np.asarray(self.pixels[channel, rows, columns]).astype(np.float32)
        flat = planes[None] if planes.ndim == 2 else planes
        out = np.stack([weights[0] @ (weights[1] @ plane.T).T for plane in flat]).astype(np.float32)
        return out[0] if planes.ndim == 2 else out


def interpolation(start: int, stop: int, size: int, pixels: int) -> tuple[int, Any]:
    """Returns the first pixel that is needed, and the weights (stop − start, n) of it and those after it, for the
    values `start` … `stop` − 1 of `size` along an axis of `pixels` pixels."""
    step = pixels / size
    reach = max(step, 1.0)
    centers = (np.arange(start, stop) + 0.5) * step - 0.5
    begin = max(0, int(np.floor(centers[0] - reach)))
    end = min(pixels, int(np.ceil(centers[-1] + reach)) + 1)
    taps = np.arange(2 * int(np.ceil(reach)) + 2)
    positions = np.floor(centers - reach).astype(int)[:, None] + taps
    values = np.clip(1 - np.abs(positions - centers[:, None]) / reach, 0, None)
    values[(positions < begin) | (positions >= end)] = 0
    values /= values.sum(1, keepdims=True)
    rows = np.repeat(np.arange(stop - start), len(taps))
    columns = np.clip(positions - begin, 0, end - begin - 1)
    return begin, sparse.csr_array((values.ravel(), (rows, columns.ravel())), shape=(stop - start, end - begin))


@dataclass(frozen=True)
class Nearest:
    """Labels (H, W) at another size, each pixel with the label at its center; reads only what a slice needs."""

    labels: Any
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    @property
    def dtype(self) -> np.dtype:
        return self.labels.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        places = []
        for part, size, pixels in zip(key, self.size, self.labels.shape, strict=True):
            index = np.arange(size)[part]
            places.append(np.minimum(((index + 0.5) * pixels / size).astype(int), pixels - 1))
        rows, columns = places
        if not (len(rows) and len(columns)):
            return np.zeros((len(rows), len(columns)), self.dtype)
        block = np.asarray(self.labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
        return block[np.ix_(rows - rows.min(), columns - columns.min())]
