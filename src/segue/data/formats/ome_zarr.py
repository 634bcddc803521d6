"""Images of OME-Zarr (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3): the full resolution, read by chunks when indexed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.data.formats.stack import Stack
from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.units import pixel_size_nm, square_pixel_nm

MAX_MISSING_CHUNKS = 10**6
MAX_CHUNK_BYTES = 4 * 2**30


def is_zarr(path: Path) -> bool:
    """Returns whether a folder is a group or an array of Zarr."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


def read_ome_zarr(path: Path) -> Stack:
    """Returns the image of an OME-Zarr folder; raises SegueError naming it for any other content."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        attributes: Mapping[str, Any] = dict(group.attrs)
        attributes = attributes.get("ome", attributes)
        if "multiscales" not in attributes:
            raise SegueError(f"{path}: {_without_image(attributes)}")
        multiscale = attributes["multiscales"][0]
        level = multiscale["datasets"][0]
        array: Any = group[level["path"]]
        axes = "".join(str(axis["name"] if isinstance(axis, Mapping) else axis).upper() for axis in multiscale["axes"])
        shape = tuple(array.shape)
        size_nm, note = _pixel_size_nm(multiscale, level, axes)
        chunks = math.prod(-(-side // part) for side, part in zip(shape, array.shards or array.chunks, strict=True))
        missing = max(0, chunks - _stored_chunks(path / array.path))
        channels = (attributes.get("omero") or {}).get("channels") or ()
        names = tuple(str(channel.get("label", index)) for index, channel in enumerate(channels))
    except SegueError:
        raise
    except Exception as error:  # whatever foreign metadata make zarr raise
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise SegueError(
            f"{path}: cannot be read as OME-Zarr ({words}); give the folder of an image with its metadata."
        ) from error
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or not set("YX") <= set(axes):
        raise SegueError(f"{path}: has the axes {', '.join(axes)} and {len(shape)} dimensions; write it again.")
    if missing > MAX_MISSING_CHUNKS:
        raise SegueError(
            f"{path}: lacks {missing:,} of {chunks:,} chunks of its {' × '.join(map(str, shape))} pixels; it was not "
            "copied whole, or its shape is wrong: copy it again, or write it again."
        )
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise SegueError(
            f"{path}: has chunks of {format_bytes(chunk_bytes)}, each of which is read as a whole; allowed are "
            f"{format_bytes(MAX_CHUNK_BYTES)}: write it again in smaller chunks."
        )
    notes = []
    if missing:
        notes.append(f"lacks {missing} of {chunks} chunks, whose pixels count as {array.fill_value}")
    count = shape[axes.index("C")] if "C" in axes else 1
    return Stack(array, axes, size_nm, names if len(names) == count else None, (*notes, *note))


def _stored_chunks(folder: Path) -> int:
    """Returns the number of files of an array's chunks (or shards), however many its shape has."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    return sum(not name.startswith(".") and name != "zarr.json" for name in files)


def _without_image(attributes: Mapping[str, Any]) -> str:
    if "plate" in attributes:
        return "is a plate; give the images of its wells, such as PLATE.zarr/A/1/0."
    if "well" in attributes:
        return "is a well; give its images, such as WELL/0."
    if "bioformats2raw.layout" in attributes:
        return "is a collection of images; give one of them, such as its folder 0."
    return "has no image (no multiscales metadata); give the folder of an OME-Zarr image."


def _pixel_size_nm(
    multiscale: Mapping[str, Any], level: Mapping[str, Any], axes: str
) -> tuple[float | None, tuple[str, ...]]:
    """Returns the pixel size in nm if it is known, and notes."""
    key, sizes_nm = "coordinateTransformations", []
    for letter in "XY":
        position = axes.index(letter)
        axis = multiscale["axes"][position]
        transforms = (*(level.get(key) or ()), *(multiscale.get(key) or ()))
        factors = [float(one["scale"][position]) for one in transforms if one.get("type") == "scale"]
        unit = axis.get("unit") if isinstance(axis, Mapping) else None
        sizes_nm.append(pixel_size_nm(math.prod(factors), unit) if factors else None)
    return square_pixel_nm(*sizes_nm)
