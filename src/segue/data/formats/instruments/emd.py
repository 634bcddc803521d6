"""EMD, two formats in HDF5: of NCEM (Berkeley), with an array and its axes, and of FEI Velox, with JSON metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from segue.data.formats.instruments.planes import Index, Planes, checked_dtype, lazy_reader, refuse_several, size_note
from segue.data.formats.stack import Stack, UnsupportedError
from segue.errors import SegueError
from segue.units import length_nm, pixel_size_nm, square_pixel_nm, time_h

VELOX_IMAGES = "Data/Image"
ARRAY_GROUP = 1  # emd_group_type of a group that holds an array and its axes
AXES_BY_NAME = {
    "x": "X", "r_x": "X", "rx": "X", "y": "Y", "r_y": "Y", "ry": "Y", "z": "Z", "depth": "Z", "t": "T", "time": "T",
    "c": "C", "channel": "C",
}  # fmt: skip


def read_emd(path: Path, labels: bool) -> Stack:
    """Returns the image of an EMD; raises SegueError for several, complex ones and axes that are no image's."""
    with h5py.File(path, "r") as file:
        velox: Any = file.get(VELOX_IMAGES)
        if isinstance(velox, h5py.Group):
            return _velox(path, velox)
        groups = _array_groups(file)
        if not groups:
            raise SegueError(f"{path}: holds no image of NCEM's or Velox's EMD; convert it to TIFF.")
        refuse_several(path, "arrays", groups)
        return _ncem(path, file[groups[0]])


def _planes(path: Path, dataset: h5py.Dataset, dtype: np.dtype) -> Planes:
    name = str(dataset.name)

    def read(index: Index) -> np.ndarray:
        with h5py.File(path, "r") as file:
            values: Any = file[name]
            return np.asarray(values[index])

    return Planes(dataset.shape, dtype, read)


# Velox


def _velox(path: Path, images: h5py.Group) -> Stack:
    """Returns the image of a Velox file: (H, W, frames), or a channel for each detector of one acquisition.

    Transforms (complex numbers) beside images are left out.
    """
    datasets = {name: group["Data"] for name, group in images.items() if "Data" in group}
    real = {name: one for name, one in datasets.items() if one.dtype.kind in "uif"}
    if not real:
        if not datasets:
            raise SegueError(f"{path}: holds no image; leave it out.")
        checked_dtype(path, next(iter(datasets.values())).dtype)
        raise UnsupportedError("its pixels are no numbers")
    metadata = {name: _velox_metadata(images[name]) for name in real}
    notes = ("holds transforms in complex numbers, which are left out",) if len(real) < len(datasets) else ()
    first = next(iter(real))
    size_nm, size_notes = _velox_size(metadata[first])
    detectors = {name: _entry(metadata[name], "BinaryResult", "Detector") for name in real}
    if len(real) == 1:
        return Stack(_planes(path, real[first], real[first].dtype), "YXT", size_nm, None, (*notes, *size_notes))
    unlike = {(one.shape, one.dtype.str, str(_velox_size(metadata[name]))) for name, one in real.items()}
    if len(unlike) > 1 or len(set(detectors.values())) < len(real) or not all(detectors.values()):
        refuse_several(path, "images", [f"{detectors[name] or name} {_size_text(one)}" for name, one in real.items()])
    parts = [_planes(path, real[name], real[name].dtype) for name in sorted(real, key=lambda name: detectors[name])]

    def read(index: Index) -> np.ndarray:
        chosen = parts[index[0]] if isinstance(index[0], slice) else [parts[index[0]]]
        values = np.stack([part[index[1:]] for part in chosen])
        return values if isinstance(index[0], slice) else values[0]

    pixels = Planes((len(parts), *parts[0].shape), parts[0].dtype, read)
    return Stack(pixels, "CYXT", size_nm, tuple(sorted(detectors.values())), (*notes, *size_notes))


def _size_text(dataset: h5py.Dataset) -> str:
    return f"{' × '.join(map(str, dataset.shape))} {dataset.dtype}"


def _velox_metadata(group: Any) -> Mapping[str, Any]:
    """Returns the metadata of the first frame, {} if they cannot be read."""
    try:
        text = bytes(np.asarray(group["Metadata"][:, 0], np.uint8)).rstrip(b"\0")  # pyright: ignore
        metadata = json.loads(text)
    except (KeyError, ValueError, TypeError, IndexError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _entry(metadata: Mapping[str, Any], *keys: str) -> str:
    """Returns the text at nested keys, "" if there is none."""
    value: Any = metadata
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _velox_size(metadata: Mapping[str, Any]) -> tuple[float | None, tuple[str, ...]]:
    units = [_entry(metadata, "BinaryResult", f"PixelUnit{axis}") for axis in "XY"]
    sizes = [
        pixel_size_nm(_entry(metadata, "BinaryResult", "PixelSize", side), unit)
        for side, unit in zip(("width", "height"), units, strict=True)
    ]
    size_nm, notes = square_pixel_nm(*sizes)
    return size_nm, notes or (size_note(units[0]) if length_nm(1, units[0]) is None else ())


# NCEM


def _array_groups(file: h5py.File) -> list[str]:
    groups: list[str] = []

    def visit(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Group) and entry.attrs.get("emd_group_type") == ARRAY_GROUP:
            groups.append(name)

    file.visititems(visit)
    return groups


def _ncem(path: Path, group: Any) -> Stack:
    """Returns the array of a group; its axes are known by their names, else by units, the last two being y and x."""
    arrays = [one for name, one in group.items() if isinstance(one, h5py.Dataset) and not re.match(r"dim\d+$", name)]
    array = group.get("data") if isinstance(group.get("data"), h5py.Dataset) else None
    if array is None:
        large = [one for one in arrays if one.ndim > 1]
        if len(large) != 1:
            raise SegueError(f"{path}: its group {group.name} holds no array called data; convert it to TIFF.")
        array = large[0]
    dtype = checked_dtype(path, array.dtype)
    if array.ndim < 2:
        raise SegueError(f"{path}: holds an array of {array.ndim} axis, no image; leave it out.")
    dims = [group.get(f"dim{i}") for i in range(1, array.ndim + 1)]
    names = [_text(dim, "name") for dim in dims]
    units = [re.sub(r"[\[\]_]", "", _text(dim, "units")) for dim in dims]
    axes = _ncem_axes(path, names, units)
    steps = {axis: (_step(dims[axes.index(axis)]), units[axes.index(axis)]) for axis in "XY"}
    size_nm, notes = square_pixel_nm(*(pixel_size_nm(*steps[axis]) for axis in "XY"))
    unit = steps["X"][1]
    notes = notes or (size_note(unit) if length_nm(1, unit) is None and unit not in ("px", "pixel", "pixels") else ())
    return Stack(_planes(path, array, dtype), axes, size_nm, None, notes)


def _text(dim: Any, name: str) -> str:
    value = dim.attrs.get(name, "") if dim is not None else ""
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _step(dim: Any) -> float:
    """Returns the distance of two pixels: of all positions along the axis, or of its first two."""
    values = np.atleast_1d(np.asarray(dim[()] if dim is not None else (), float))
    return abs(float(values[-1] - values[0])) / (len(values) - 1) if len(values) > 1 else math.nan


def _ncem_axes(path: Path, names: Sequence[str], units: Sequence[str]) -> str:
    letters = [AXES_BY_NAME.get(name.lower(), "") for name in names]
    for i in range(len(letters)):
        place = "YX"[i - len(letters)] if i >= len(letters) - 2 else ""
        is_length = length_nm(1, units[i]) is not None
        if not letters[i]:
            letters[i] = place if is_length or (place and not units[i]) else "T" if time_h(1, units[i]) else ""
    unknown = [i for i, letter in enumerate(letters) if not letter]
    if unknown == [0] and not units[0] and len(letters) > 2:
        letters[0], unknown = "Q", []
    if unknown or letters.count("X") != 1 or letters.count("Y") != 1 or len(set(letters)) < len(letters):
        stated = ", ".join(f"{n or 'no name'} in {u or 'no unit'}" for n, u in zip(names, units, strict=True))
        raise SegueError(f"{path}: its axes ({stated}) are not those of an image with y and x; convert it to TIFF.")
    return "".join(letters)


EMD = lazy_reader("EMD", read_emd)
