"""Reads the images that a layout names, one plane at a time, and digests the files they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.headers import broken
from segue.data.inputs import file_digests
from segue.errors import SegueError
from segue.plate.layout_found import Plane, acquired_type


def read_plane(plane: Plane) -> np.ndarray:
    """Returns the image (H, W) in the type it was acquired in: floats as float32, one bit as uint8.

    Raises SegueError naming the file when it is missing, corrupt, has no such page or index, is no grey image of one
    plane, or holds NaN or infinity.
    """
    if plane.path.is_dir():
        image = _from_zarr(plane)
    elif plane.index:
        image = _page(plane)
    else:
        from segue.data.micrographs import read_micrograph

        channels = read_micrograph(plane.path).image
        if len(channels) != 1:
            raise SegueError(f"{plane.path}: holds {len(channels)} channels; a tile is one grey image: save it so.")
        return channels[0]
    if image.ndim != 2:
        raise SegueError(
            f"{plane.path}: at {list(plane.index)} it holds an array of shape {image.shape}, a tile is (H, W); correct "
            "the index."
        )
    image = image.astype(acquired_type(image.dtype), copy=False)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise SegueError(f"{plane.path}: at {list(plane.index)} pixels are NaN or infinite; leave the image out.")
    return image


def _page(plane: Plane) -> np.ndarray:
    import tifffile

    from segue.data.micrographs import complaints_of_tifffile

    if len(plane.index) != 1:
        raise SegueError(f"{plane.path}: index {list(plane.index)} is given, a TIFF has pages; give one number.")
    try:
        with complaints_of_tifffile() as complaints, tifffile.TiffFile(plane.path) as tiff:
            if plane.index[0] >= len(tiff.pages):
                raise SegueError(f"{plane.path}: has {len(tiff.pages)} pages, and none of index {plane.index[0]}.")
            image = np.asarray(tiff.pages[plane.index[0]].asarray())
        if complaints:
            raise SegueError(broken(plane.path, complaints[0]))
        return image
    except FileNotFoundError:
        raise SegueError(f"{plane.path}: there is no such file; correct the path.") from None
    except (SegueError, MemoryError):
        raise
    except Exception as error:  # whatever the bytes make the decoders raise
        raise SegueError(broken(plane.path)) from error


def _from_zarr(plane: Plane) -> np.ndarray:
    import zarr

    try:
        array: Any = zarr.open_array(str(plane.path), mode="r")
        return np.asarray(array[plane.index])
    except MemoryError:
        raise
    except Exception as error:  # whatever the store and its codecs raise
        raise SegueError(f"{plane.path}: cannot be read at {list(plane.index)} ({error}); copy it again.") from error


def digests_of(paths: Iterable[Path], cache_path: Path | None) -> dict[Path, str]:
    """Returns the sha256 (hex) of each file's content; of a folder that of the names and contents of its files."""
    inside: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        inside[path] = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    digests = file_digests([one for files in inside.values() for one in files], cache_path)
    found = {}
    for path, files in inside.items():
        lines = [f"{one.relative_to(path).as_posix()}\0{digests[one]}" for one in files if one != path]
        found[path] = hashlib.sha256("\n".join(lines).encode()).hexdigest() if path.is_dir() else digests[path]
    return found
