"""Whole images with their labels, for what is measured on objects: a tile's border would cut them."""

from __future__ import annotations

import numpy as np

from segue.data.dataset import Dataset

Labelled = tuple[np.ndarray, np.ndarray]


def whole_images(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[Labelled]:
    """Returns images (C, H, W), as acquired, and labels (H, W) int32 of the micrographs that the samples were cut from.

    Each once, in the order of its first sample; where the dataset keeps no whole images, its tiles.
    """
    kept = set(dataset.micrograph_ids())
    sources = dataset.samples()["source"][indices]
    if not set(sources) <= kept:
        return tiles(dataset, indices, layer=layer)
    found = []
    for source in dict.fromkeys(sources):
        micrograph = dataset.micrograph(source)
        found.append((micrograph.image, np.asarray(micrograph.labels[layer], dtype=np.int32)))
    return found


def tiles(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[Labelled]:
    """Returns images (C, H, W) and labels (H, W) of samples themselves."""
    images, labels = dataset.read(indices, layer=layer)
    assert labels is not None
    return list(zip(images, labels, strict=True))
