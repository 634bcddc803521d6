"""Reads label images: classes or instances, as int32 with 0 background and -1 ignored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segue.data.layers import IGNORED, Layer
from segue.data.micrographs import read_pixels
from segue.errors import SegueError

HIGHEST = 2**31 - 1


def read_labels(
    path: Path, layer: Layer, *, shape: tuple[int, int], values: Mapping[int, int] | None = None
) -> np.ndarray:
    """Returns (H, W) int32 labels of a PNG or TIFF file; `shape` (H, W) is that of its image.

    `values` replaces values of the file by labels, e.g. {255: 1} for masks of 0 and 255, or {255: -1} where 255 means
    ignored. Raises SegueError, one sentence naming the file, for another shape, colours, fractions, values below -1 and
    classes that the layer does not name.
    """
    pixels, _ = read_pixels(path)
    if len(pixels) != 1:
        raise SegueError(
            f"{path}: is an image of {len(pixels)} channels, a picture of labels; "
            "save the labels themselves: one channel, whose values are classes or objects."
        )
    labels = pixels[0]
    if labels.shape != shape:
        raise SegueError(
            f"{path}: the label image is {labels.shape[0]} × {labels.shape[1]} px, but its image is "
            f"{shape[0]} × {shape[1]} px; they must have the same size: check the pair."
        )
    return _checked(path, _whole(path, labels), layer, values or {})


def _whole(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "f":
        odd = ~(labels == np.round(labels))  # also true for NaN
        if odd.any():
            raise SegueError(
                f"{path}: {int(odd.sum())} labels are not whole numbers (the first is {labels[odd][0]:g}); "
                "save labels as integers."
            )
    if labels.size and (labels.max() > HIGHEST or labels.min() < -HIGHEST):
        raise SegueError(f"{path}: holds the label {labels.max()}; the highest allowed is {HIGHEST}: relabel it.")
    return labels.astype(np.int32)


def _checked(path: Path, labels: np.ndarray, layer: Layer, values: Mapping[int, int]) -> np.ndarray:
    if values:
        found, place = np.unique(labels, return_inverse=True)
        labels = np.array([values.get(int(v), int(v)) for v in found], dtype=np.int32)[place].reshape(labels.shape)
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < IGNORED:
        raise SegueError(f"{path}: holds the label {lowest}; below 0 only {IGNORED} (ignored) is allowed: correct it.")
    if layer.kind == "classes" and highest >= len(layer.names):
        unnamed = [int(v) for v in np.unique(labels) if v >= len(layer.names)]
        shown = ", ".join(map(str, unnamed[:5])) + (", …" if len(unnamed) > 5 else "")
        raise SegueError(
            f"{path}: holds the class value(s) {shown}, but only 0 to {len(layer.names) - 1} are named "
            f"({', '.join(layer.names)}); name them in `names`, or map them with `values`."
        )
    return labels
