"""What objects measure: size, place, shape and intensities, in one pass over labels and image, band by band.

Everything is a sum over pixels, so that time grows with the pixels and memory with the objects alone. Definitions are
those of `skimage.measure.regionprops`, which needs the whole image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit

from segue.data.tiling import bands

# sums of an object, in this order
AREA, Y, X, YY, XX, XY, TOP, LEFT, BOTTOM, RIGHT, STRAIGHT, DIAGONAL, MIXED = range(13)
N_SUMS = 13
STEPS = (1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2)  # of a border that goes straight, diagonally, or one then the other


@dataclass(frozen=True)
class Measurements:
    """Of objects 1 … n in their order: labels (n,), sums (n, 13), mean intensities (n, C) and whether (n,) an object
    touches the border of the image."""

    labels: np.ndarray
    sums: np.ndarray
    means: np.ndarray
    at_edge: np.ndarray = field(repr=False)

    def columns(self, *, pixel_size_um: float | None, channels: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Returns the columns of a table of objects: lengths in px, from the center of the first pixel; see
        docs/predict.md. Columns in µm are left out where the pixel size is not known."""
        sums = self.sums
        area = sums[:, AREA]
        y, x = sums[:, Y] / area, sums[:, X] / area
        major, minor, eccentricity = _ellipse(sums, y, x)
        perimeter = sums[:, [STRAIGHT, DIAGONAL, MIXED]] @ np.array(STEPS)
        with np.errstate(divide="ignore"):
            circularity = np.where(perimeter > 0, np.minimum(4 * np.pi * area / perimeter**2, 1), np.nan)
        columns = {"label": self.labels, "area_px": area.astype(np.int64)}
        if pixel_size_um is not None:
            columns["area_um2"] = area * pixel_size_um**2
        columns |= {"y_px": y, "x_px": x}
        for name, index in (("top_px", TOP), ("left_px", LEFT), ("bottom_px", BOTTOM), ("right_px", RIGHT)):
            columns[name] = sums[:, index].astype(np.int64)
        columns |= {f"mean_{name}": self.means[:, index] for index, name in enumerate(channels)}
        columns |= {"major_axis_px": major, "minor_axis_px": minor, "eccentricity": eccentricity}
        return columns | {"perimeter_px": perimeter, "circularity": circularity, "at_edge": self.at_edge}


def measure_objects(labels: Any, image: Any, count: int) -> Measurements:
    """Returns the measurements of the objects 1 … `count` of labels (H, W) that have pixels; image (C, H, W)."""
    height, width = labels.shape
    channels = image.shape[0]
    sums = np.zeros((count + 1, N_SUMS))
    sums[:, [TOP, LEFT]] = max(height, width)
    intensity = np.zeros((count + 1, channels))
    for top, bottom in bands(height, width, 4 * 3 + channels * image.dtype.itemsize):
        # two more rows on each side, in which borders continue; outside of the image is nothing
        first, last = max(top - 2, 0), min(bottom + 2, height)
        rows = np.asarray(labels[first:last, :]).astype(np.int32)
        block = np.zeros((bottom - top + 4, width + 4), np.int32)
        block[first - top + 2 : last - top + 2, 2:-2] = rows
        pixels = np.asarray(image[:, top:bottom, :])
        _add(block, top, sums)
        for channel in range(channels):
            _add_intensity(block[2:-2, 2:-2], pixels[channel], intensity[:, channel])
    present = np.flatnonzero(sums[:, AREA])
    sums, intensity = sums[present], intensity[present]
    at_edge = (sums[:, TOP] == 0) | (sums[:, LEFT] == 0) | (sums[:, BOTTOM] == height) | (sums[:, RIGHT] == width)
    return Measurements(present, sums, intensity / np.maximum(sums[:, [AREA]], 1), at_edge)


@njit(cache=True, nogil=True)
def _add(block: np.ndarray, top: int, sums: np.ndarray) -> None:
    """Adds the pixels of a band of labels, with a margin of two pixels, whose first row is `top` of the image.

    The perimeter is that of `skimage.measure.perimeter` (4 neighbors): a line through the pixels that have a neighbor
    outside their object, each of which counts by how the line goes on.
    """
    height, width = block.shape
    for row in range(2, height - 2):
        for column in range(2, width - 2):
            label = block[row, column]
            if label <= 0:
                continue
            y, x = row - 2 + top, column - 2
            one = sums[label]
            one[AREA] += 1
            one[Y] += y
            one[X] += x
            one[YY] += float(y) * y
            one[XX] += float(x) * x
            one[XY] += float(x) * y
            one[TOP] = min(one[TOP], y)
            one[LEFT] = min(one[LEFT], x)
            one[BOTTOM] = max(one[BOTTOM], y + 1)
            one[RIGHT] = max(one[RIGHT], x + 1)
            if not _is_border(block, row, column, label):
                continue
            code = 1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    if (dy or dx) and _is_border(block, row + dy, column + dx, label):
                        code += 10 if dy and dx else 2
            if code == 5 or code == 7 or code == 15 or code == 17 or code == 25 or code == 27:
                one[STRAIGHT] += 1
            elif code == 21 or code == 33:
                one[DIAGONAL] += 1
            elif code == 13 or code == 23:
                one[MIXED] += 1


@njit(cache=True, nogil=True)
def _is_border(block: np.ndarray, row: int, column: int, label: int) -> bool:
    return block[row, column] == label and (
        block[row - 1, column] != label
        or block[row + 1, column] != label
        or block[row, column - 1] != label
        or block[row, column + 1] != label
    )


@njit(cache=True, nogil=True)
def _add_intensity(labels: np.ndarray, pixels: np.ndarray, sums: np.ndarray) -> None:
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            if labels[row, column] > 0:
                sums[labels[row, column]] += pixels[row, column]


def _ellipse(sums: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the axes in px and the eccentricity of the ellipse with the same second moments."""
    area = sums[:, AREA]
    yy = sums[:, YY] / area - y**2
    xx = sums[:, XX] / area - x**2
    xy = sums[:, XY] / area - x * y
    root = np.sqrt(4 * xy**2 + (yy - xx) ** 2)
    large, small = np.maximum((yy + xx + root) / 2, 0), np.maximum((yy + xx - root) / 2, 0)
    roundness = np.divide(small, large, out=np.ones_like(small), where=large > 0)
    return 4 * np.sqrt(large), 4 * np.sqrt(small), np.sqrt(1 - roundness)
