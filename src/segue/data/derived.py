"""Labels that no label image gives: those of images without any, and those that a sample's row tells of all its pixels.

A stage that needs no label of pixels (reconstruction, image-level classes) reads them as it reads stored ones, so that
samples of datasets with and without label layers are held, streamed, turned and counted alike.
"""

from __future__ import annotations

import numpy as np

from segue.data.dataset import Dataset
from segue.data.layers import IGNORED, Layer
from segue.errors import SegueError
from segue.spec import unknown

MOST_CLASSES = 1000
OF_PLACE = ("source", "y_px", "x_px")  # columns that tell where a sample lies, not what it is

UNLABELLED = Layer("", "images", ())


def column_layer(dataset: Dataset, column: str) -> Layer:
    """Returns the layer whose classes are the values of a sample column, in rising order; text as it is, numbers in
    their shortest form. Raises SegueError for an unknown column and for one that holds no classes."""
    columns = dataset.samples()
    known = [name for name in columns if name not in OF_PLACE]
    if column not in known:
        raise SegueError(f"{dataset.path}: {unknown(column, known, 'sample column')}.")
    values = np.unique(columns[column])
    if not 2 <= len(values) <= MOST_CLASSES or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise SegueError(
            f"{dataset.path}: column '{column}' holds {len(values)} values, which are no classes to tell apart; name a "
            f"column of 2 to {MOST_CLASSES} values."
        )
    return Layer(column, "column", tuple(map(name_of, values.tolist())))


def name_of(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def labels_of(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    """Returns labels (n, H, W) of samples for a derived layer, in the smallest type: −1 in padding, elsewhere 0
    (`images`), or the number of the sample's class among the layer's names (`column`).

    Raises SegueError for a sample whose value is none of the names.
    """
    _, height, width = dataset.tile_shape
    y0, x0, y1, x1 = dataset.valid(indices).T[:, :, None, None]
    y, x = np.arange(height)[:, None], np.arange(width)
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    if layer.kind == "images":
        return np.where(inside, np.int8(0), np.int8(IGNORED))
    number = {name: value for value, name in enumerate(layer.names)}
    found = [name_of(value) for value in dataset.samples()[layer.name][indices].tolist()]
    strange = sorted(set(found) - set(number))
    if strange:
        raise SegueError(
            f"{dataset.path}: column '{layer.name}' holds '{strange[0]}', which is none of {', '.join(layer.names)}; "
            "leave these samples out by a condition, or correct the column."
        )
    values = np.array([number[name] for name in found], dtype=np.int16)
    return np.where(inside, values[:, None, None], np.int16(IGNORED))
