"""Labels drawn over an image, to check them by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# of the classes of nuclei in their order: live green, dead magenta, then orange and yellow; told apart by those who see
# red and green alike, for they differ in blue and in lightness
COLOURS = ((40, 220, 90), (255, 60, 230), (255, 150, 0), (250, 230, 60))
CELL = (70, 150, 255)
_GREY_QUANTILES = (0.002, 0.998)


def overlay(
    image: np.ndarray, classes: np.ndarray, nuclei: np.ndarray, *, largest_px: int | None = None, first: int = 1
) -> np.ndarray:
    """Returns (h, w, 3) uint8: the image (H, W) in grey, stretched between its 0.2 and 99.8 percentiles, and within
    each nucleus a line along its edge in the colour of its class: green, magenta, orange, yellow.

    `classes`, `nuclei` (H, W) int32 as in `StainLabels`; `first`: the number of the first class of nuclei, 2 where
    there is a class "cell". What is of a class outside nuclei is tinted blue, ignored pixels (−1) are darkened. The
    picture is made smaller by the least whole number that brings its sides to `largest_px`. Raises ValueError for
    unlike shapes.
    """
    if image.ndim != 2 or not image.shape == classes.shape == nuclei.shape:
        raise ValueError(
            f"overlay: image {image.shape}, classes {classes.shape}, nuclei {nuclei.shape}; all must be one (H, W)"
        )
    factor = 1 if largest_px is None else max(1, -(-max(image.shape) // largest_px))
    colours = _colours_of(classes, nuclei, first)
    used = image[classes >= 0] if (classes >= 0).any() else image
    low, high = np.quantile(used[:: max(1, used.size // 2**20)], _GREY_QUANTILES)
    grey = np.clip((_smaller(image, factor) - low) / max(float(high - low), 1e-9), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    classes, nuclei = (labels[factor // 2 :: factor, factor // 2 :: factor][: grey.shape[0], : grey.shape[1]]
                       for labels in (classes, nuclei))  # fmt: skip
    cell = (classes > 0) & (nuclei <= 0)
    picture[cell] = 0.8 * picture[cell] + 0.2 * np.asarray(CELL, np.float32)
    picture[classes < 0] *= 0.4
    edge = _edges(nuclei)
    picture[edge] = colours[nuclei[edge]]
    return np.rint(picture).astype(np.uint8)


def write_overlay(
    path: Path, image: np.ndarray, classes: np.ndarray, nuclei: np.ndarray, *, largest_px: int = 2048, first: int = 1
) -> None:
    """Writes `overlay` as a PNG, its folder made where it is missing; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".writing")
    Image.fromarray(overlay(image, classes, nuclei, largest_px=largest_px, first=first)).save(draft, format="PNG")
    draft.replace(path)


def _colours_of(classes: np.ndarray, nuclei: np.ndarray, first: int) -> np.ndarray:
    """Returns (n + 1, 3) float32: the colour of each nucleus, by its pixels' lowest class: outline is the last."""
    lowest = np.full(int(nuclei.max(initial=0)) + 1, np.iinfo(np.int32).max, np.int64)
    inside = nuclei > 0
    np.minimum.at(lowest, nuclei[inside], classes[inside])
    return np.asarray(COLOURS, np.float32)[np.clip(lowest - first, 0, len(COLOURS) - 1)]


def _smaller(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns means over blocks of factor × factor px, without the rows and columns that fill no block; float32."""
    if factor == 1:
        return image.astype(np.float32)
    rows, columns = (n // factor for n in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean((1, 3), dtype=np.float32)


def _edges(labels: np.ndarray) -> np.ndarray:
    """Returns (H, W) bool: pixels of objects that share a side with what is not the same object."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        before, after = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        differ = labels[before] != labels[after]
        edge[before] |= differ
        edge[after] |= differ
    return edge & (labels > 0)
