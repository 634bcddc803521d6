"""Label images in files of arrays: NumPy, HDF5 as ilastik exports it, Zarr and OME-Zarr, and N5 as Paintera has it.

A file, or a folder that is one, may hold several arrays; which one is read is told by its path inside, or is the only
one of two or three dimensions. A third, first axis is of pages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.n5 import find_n5, open_n5
from segue.data.formats.ome_zarr import read_ome_zarr
from segue.data.formats.stack import Stack
from segue.errors import SegueError

NPZ_NAMES = ("masks", "labels")  # of the array to read among several
ILASTIK = "exported_data"
MAX_LISTED = 8


@dataclass(frozen=True)
class ArrayReader:
    """A format of arrays: read(path, inside) returns the array of that path inside, None for the only one.

    is_folder: what it calls a file is a folder.
    """

    format: str
    read: Callable[[Path, str | None], Stack]
    is_folder: bool = False
    package: str = ""


def _read_numpy(path: Path, inside: str | None) -> Stack:
    with path.open("rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):  # which NumPy would take for pickled objects
            raise ValueError("no file of NumPy")
    try:
        content = np.load(path, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise SegueError(pickle_refusal(path)) from None
        raise
    if isinstance(content, np.ndarray):
        if inside is not None:
            raise SegueError(f"{path}: is one array, but array = '{inside}' is asked for; leave it out.")
        return _stack(path, content)
    with content:
        preferred = [name for name in NPZ_NAMES if name in content.files] if len(content.files) > 1 else content.files
        name = _choose(path, content.files, preferred, inside)
        try:
            return _stack(path, content[name])
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise SegueError(pickle_refusal(path)) from None
            raise


def _read_hdf5(path: Path, inside: str | None) -> Stack:
    import h5py

    with h5py.File(path, "r") as file:
        arrays: dict[str, Any] = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset) and node.dtype.kind in "buif" and len(node.shape) >= 2:
                arrays[name] = node

        file.visititems(visit)  # follows no links out of the file
        name = _choose(path, list(arrays), [ILASTIK] if ILASTIK in arrays else list(arrays), inside)
        dataset = arrays[name]
        if dataset.is_virtual or dataset.external:
            raise SegueError(f"{path}: '{name}' is stored in other files; export it as a whole.")
        tags = dataset.attrs.get("axistags")
        axes = None if tags is None else "".join(str(axis["key"]) for axis in json.loads(tags)["axes"]).upper()
        return _stack(path, dataset[()], axes)


def _read_zarr(path: Path, inside: str | None) -> Stack:
    import zarr

    place = path if inside is None else path / inside
    if not place.is_dir():
        raise SegueError(f"{path}: has nothing at '{inside}'; correct array.")
    node: Any = zarr.open(place, mode="r")
    if isinstance(node, zarr.Array):
        return _stack(path, node[...])
    if "multiscales" in node.attrs.get("ome", node.attrs):
        return read_ome_zarr(place)
    arrays = [f"{inside}/{name}" if inside else name for name, _ in node.arrays()]
    name = _choose(path, arrays, arrays, None)
    return _stack(path, zarr.open_array(path / name, mode="r")[...])


def _read_n5(path: Path, inside: str | None) -> Stack:
    arrays = find_n5(path)
    name = inside.strip("/") if inside is not None else _choose(path, arrays, arrays, None)
    return _stack(path, open_n5(path, name))


def _choose(path: Path, names: Sequence[str], preferred: Sequence[str], inside: str | None) -> str:
    """Returns the name of the array to read. Raises SegueError with all names if it is not told or not there."""
    listed = ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
    if not names:
        raise SegueError(f"{path}: holds no array of labels; export the labels again.")
    if inside is not None:
        name = inside.strip("/")
        if name not in names:
            raise SegueError(f"{path}: has no array '{inside}'; it holds {listed}: correct array.")
        return name
    if len(preferred) != 1:
        raise SegueError(f"{path}: holds several arrays ({listed}); say which one has the labels, by array = '…'.")
    return preferred[0]


def _stack(path: Path, pixels: Any, axes: str | None = None) -> Stack:
    shape = tuple(pixels.shape)
    axes = axes or {2: "YX", 3: "QYX"}.get(len(shape))
    if np.dtype(pixels.dtype).kind not in "buif" or axes is None or 0 in shape:
        text = " × ".join(map(str, shape)) or "a single value"
        raise SegueError(
            f"{path}: holds {text} of {pixels.dtype}; allowed are integers (H, W) or (N, H, W): save the labels alone."
        )
    return Stack(pixels, axes)


def pickle_refusal(path: Path) -> str:
    """Returns the sentence for a NumPy file of pickled objects."""
    return (
        f"{path}: holds pickled objects, which are not opened, since that may run code from the file; save the masks "
        "as an image (Cellpose: Save masks as PNG/tif, or --save_tif), or with numpy.save as an array of integers."
    )


NUMPY = ArrayReader("NumPy", _read_numpy)
HDF5 = ArrayReader("HDF5", _read_hdf5)
ZARR = ArrayReader("Zarr", _read_zarr, is_folder=True)
N5 = ArrayReader("N5", _read_n5, is_folder=True)
