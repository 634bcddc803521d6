"""An overlay of what a prediction found: outlines of labels over the image, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage.segmentation import find_boundaries

from segue.data.formats.stack import RGB
from segue.data.tiling import bands
from segue.storage import make_folder, remove_abandoned, replacing

MAX_OVERLAY_PX = 2048  # of the longer side
STRETCH_PERCENTS = (0.2, 99.8)
CERTAIN, UNCERTAIN = (0, 220, 220), (255, 140, 0)  # outlines


def write_overlay(
    path: Path, image: Any, labels: Any, *, channels: Sequence[str], title: str, is_uncertain: np.ndarray
) -> None:
    """Writes the outlines of labels (H, W) over the image (C, H, W) as a PNG of the image's size.

    The image is in color where its channels are red, green and blue, else the mean of them in gray; levels are
    stretched between two percentiles of all its values. Sides are reduced by a whole factor to MAX_OVERLAY_PX at most.
    Outlines are cyan, orange where `is_uncertain` (n + 1,). The title is the PNG's "Description".
    """
    picture = outlined(image, labels, channels=channels, is_uncertain=is_uncertain)
    factor = _factor(image.shape[1:])
    text = title if factor == 1 else f"{title}; reduced {factor} ×"
    info = PngInfo()
    info.add_itxt("Description", text)
    make_folder(path.parent)
    remove_abandoned(path)
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format="PNG", pnginfo=info)


def outlined(image: Any, labels: Any, *, channels: Sequence[str], is_uncertain: np.ndarray) -> np.ndarray:
    """Returns the picture (h, w, 3) uint8 that `write_overlay` writes."""
    levels, small = _reduced(image, labels, in_color=tuple(channels) == RGB)
    low, high = np.percentile(levels, STRETCH_PERCENTS)
    stretched = np.clip((levels - low) / max(float(high - low), 1e-9), 0, 1) * 255
    picture = np.repeat(stretched, 3 // len(stretched), axis=0).transpose(1, 2, 0).astype(np.uint8)
    edges = find_boundaries(small, connectivity=1, mode="inner")
    colors = np.array([CERTAIN, UNCERTAIN], np.uint8)
    picture[edges] = colors[is_uncertain[np.minimum(small[edges], len(is_uncertain) - 1)].astype(int)]
    return picture


def _factor(shape: tuple[int, int]) -> int:
    """Returns the whole factor by which sides are reduced to MAX_OVERLAY_PX at most."""
    return max(1, -(-max(shape) // MAX_OVERLAY_PX))


def _reduced(image: Any, labels: Any, *, in_color: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns means over blocks, (3, h, w) float32 or in gray (1, h, w), and the labels at their middles (h, w)."""
    channels, height, width = image.shape
    factor = _factor((height, width))
    rows, columns = max(1, height // factor), max(1, width // factor)
    step = min(factor, height, width)
    levels = np.empty((channels if in_color else 1, rows, columns), np.float32)
    small = np.empty((rows, columns), np.int64)
    for top, bottom in bands(rows, columns, step * step * (8 + 4 * channels)):
        part = slice(top * step, bottom * step)
        block = np.asarray(image[:, part, : columns * step]).astype(np.float32)
        block = block if in_color else block.mean(0, keepdims=True)
        levels[:, top:bottom] = block.reshape(len(block), bottom - top, step, columns, step).mean((2, 4))
        middle = slice(step // 2, None, step)
        small[top:bottom] = np.asarray(labels[part, : columns * step])[middle, middle]
    return np.nan_to_num(levels), small
