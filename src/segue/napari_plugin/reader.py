"""Opens a dataset of segue in napari: micrographs, or tiles where it stores no whole images, and their labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.hdf5 import open_file

LayerData = tuple[Any, dict[str, Any], str]
MAX_TILES = 256  # that are opened of a dataset without whole images


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """Returns what reads a dataset, None for any other HDF5 file."""
    if not isinstance(path, str) or not path.lower().endswith(".h5"):
        return None
    try:
        with open_file(Path(path)) as file:
            is_dataset = "tiles" in file and "samples" in file
    except SegueError:
        return None
    return read_dataset if is_dataset else None


def read_dataset(path: str | Path) -> list[LayerData]:
    """Returns a layer of the images of each channel, and of each label layer, (n, H, W), one page an image.

    Micrographs of several sizes are padded at the lower and right border, labels there ignored (−1).
    """
    with Dataset(Path(path)) as dataset:
        sources = dataset.micrograph_ids()
        if sources:
            micrographs = [dataset.micrograph(source) for source in sources]
            images = [micrograph.image for micrograph in micrographs]
            labels = {name: [one.labels[name] for one in micrographs] for name in micrographs[0].labels}
        else:
            count = min(dataset.count, MAX_TILES)
            images = list(dataset.read(np.arange(count), layer=None)[0])
            sources = tuple(str(source) for source in dataset.samples()["source"][:count])
            labels = {}
            for name in dataset.layers:
                read = dataset.read(np.arange(count), layer=name)[1]
                labels[name] = [] if read is None else list(read)
        channels = dataset.channels
    layers: list[LayerData] = []
    for index, channel in enumerate(channels):
        pages = _stacked([image[index] for image in images], 0)
        layers.append(
            (pages, {"name": f"{Path(path).stem} {channel}", "metadata": {"sources": list(sources)}}, "image")
        )
    layers += [(_stacked(values, -1).astype(np.int32), {"name": name}, "labels") for name, values in labels.items()]
    return layers


def _stacked(planes: list[np.ndarray], fill: int) -> np.ndarray:
    height, width = (max(plane.shape[axis] for plane in planes) for axis in (0, 1))
    pages = np.full((len(planes), height, width), fill, planes[0].dtype)
    for page, plane in zip(pages, planes, strict=True):
        page[: plane.shape[0], : plane.shape[1]] = plane
    return pages
