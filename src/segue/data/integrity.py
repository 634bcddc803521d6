"""Whether the arrays of a dataset agree with each other: a damaged file ends in one sentence when it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py

from segue.data.assembly import REQUIRED_COLUMNS
from segue.data.hdf5 import Node
from segue.data.layers import Layer
from segue.errors import SegueError

REMEDY = "the file is damaged: copy it again or make it anew."


def check_arrays(path: Path, file: Node) -> None:
    """Raises SegueError, naming the array, where one is missing or does not go with tiles/images (N, C, H, W)."""
    images = _array(path, file, "tiles/images")
    if images.ndim != 4 or not all(images.shape[1:]):
        raise SegueError(f"{path}: tiles/images is {_shape(images.shape)}, not N × C × H × W of tiles with pixels.")
    if not len(images) and not len(file.get("micrographs", ())):
        raise SegueError(f"{path}: holds neither tiles nor whole images; {REMEDY}")
    count, channels, height, width = images.shape
    _check(path, file, "tiles/valid", (count, 4))
    _check(path, file, "tiles/intensity", (count, channels, 2))
    for name in file.get("tiles/labels", ()):
        _check(path, file, f"tiles/labels/{name}", (count, height, width))
    for name in dict.fromkeys((*REQUIRED_COLUMNS, *file.get("samples", ()))):
        _check(path, file, f"samples/{name}", (count,))
    for name in file.get("splits", ()):
        _check(path, file, f"splits/{name}", (count,))


def check_counts(path: Path, file: Node, layers: Iterable[Layer]) -> None:
    """Raises SegueError where the stored class counts do not go with the layers' names and the number of tiles."""
    count = file["tiles/images"].shape[0]
    for layer in layers:
        if layer.kind == "classes":
            _check(path, file, f"tiles/class_counts/{layer.name}", (count, len(layer.names)))


def _check(path: Path, file: Node, name: str, expected: tuple[int, ...]) -> None:
    found = _array(path, file, name).shape
    if len(found) == len(expected) and found[1:] == expected[1:] and found[0] != expected[0]:
        raise SegueError(f"{path}: {name} has length {found[0]}, but tiles/images has length {expected[0]}; {REMEDY}")
    if found != expected:
        raise SegueError(f"{path}: {name} is {_shape(found)}, but must be {_shape(expected)} here; {REMEDY}")


def _array(path: Path, file: Node, name: str) -> Node:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise SegueError(f"{path}: the array {name} is missing; {REMEDY}")
    return found


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single value"
