"""Gatan DigitalMicrograph 3 and 4: the image of a file, mapped from it, without the thumbnail."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.instruments.planes import Index, Planes, checked_dtype, lazy_reader, refuse_several, size_note
from segue.data.formats.stack import Stack, UnsupportedError
from segue.errors import SegueError
from segue.units import length_nm, pixel_size_nm, square_pixel_nm, time_h

DTYPES = {
    1: "<i2", 2: "<f4", 3: "<c8", 5: "<c8", 6: "<u1", 7: "<i4", 9: "<i1", 10: "<u2", 11: "<u4", 12: "<f8", 13: "<c16",
    14: "<u1", 27: "<c8", 28: "<c16", 39: "<i8", 40: "<u8",
}  # fmt: skip
COLORS = (8, 23)  # four bytes per pixel: blue, green, red and one that is not used
DIMENSION = "ImageData.Calibrations.Dimension"


def read_dm(path: Path, labels: bool) -> Stack:
    """Returns the image of a DM3 or DM4; raises SegueError for several images, spectra and complex numbers."""
    tags = _tags(path)
    images = {number: _lengths(tags, number) for number in _image_numbers(tags)}
    spectra = [number for number, lengths in images.items() if len(lengths) < 2]
    images = {number: lengths for number, lengths in images.items() if len(lengths) > 1}
    if not images:
        raise SegueError(f"{path}: holds no image, but {len(spectra)} spectra; leave it out.")
    names = [str(tags.get(f".ImageList.{n}.Name") or " × ".join(map(str, images[n]))) for n in images]
    refuse_several(path, "images", names)
    number, lengths = next(iter(images.items()))
    kind = int(tags[f".ImageList.{number}.ImageData.DataType"])
    if kind not in (*DTYPES, *COLORS):
        raise UnsupportedError(f"data type {kind}")
    is_color = kind in COLORS
    dtype = checked_dtype(path, "u1" if is_color else DTYPES[kind])
    axes, size_nm, notes = _axes(path, tags, number, len(lengths))
    if spectra:
        notes = (*notes, f"{len(spectra)} spectra beside its image are left out")
    stored = (*reversed(lengths), *((4,) if is_color else ()))
    offset = int(tags[f".ImageList.{number}.ImageData.Data.arrayOffset"])
    if int(tags[f".ImageList.{number}.ImageData.Data.arraySize"]) != int(np.prod(stored)) * dtype.itemsize:
        raise EOFError("the size of its image contradicts the number of its bytes")

    def read(index: Index) -> np.ndarray:
        values = np.memmap(path, dtype, "r", offset, stored)
        return np.array((values[..., 2::-1] if is_color else values)[index])

    shape = (*stored[:-1], 3) if is_color else stored
    return Stack(Planes(shape, dtype, read), axes + ("S" if is_color else ""), size_nm, None, notes)


def _tags(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        start = file.read(4)
    if len(start) < 4 or struct.unpack(">i", start)[0] not in (3, 4):
        raise EOFError("it does not begin as a DM3 or DM4")
    from ncempy.io.dm import fileDM

    with fileDM(path) as file:
        return dict(file.allTags)


def _image_numbers(tags: Mapping[str, Any]) -> list[int]:
    """Returns the numbers of the images, from 1, without that of the thumbnail, which the file names from 0."""
    numbers = {int(match[1]) for tag in tags if (match := re.match(r"\.ImageList\.(\d+)\.ImageData\.Data\.", tag))}
    thumbnails = {int(tags[tag]) + 1 for tag in tags if re.match(r"\.Thumbnails\.\d+\.ImageIndex$", tag)}
    return sorted(numbers - thumbnails if numbers - thumbnails else numbers)


def _lengths(tags: Mapping[str, Any], number: int) -> list[int]:
    """Returns the lengths of the axes of an image, that of x first; trailing ones of 1 count as written."""
    prefix = f".ImageList.{number}.ImageData.Dimensions."
    lengths = ((int(tag.removeprefix(prefix)), int(value)) for tag, value in tags.items() if tag.startswith(prefix))
    return [length for _, length in sorted(lengths)]


def _axes(path: Path, tags: Mapping[str, Any], number: int, count: int) -> tuple[str, float | None, tuple[str, ...]]:
    """Returns the axes, slowest first, the pixel size in nm, and notes.

    The third axis is time or depth by its unit; without one it is not known what the pages are.
    """
    prefix = f".ImageList.{number}.{DIMENSION}"
    units = [str(tags.get(f"{prefix}.{i}.Units") or "").strip("\0 ") for i in range(1, count + 1)]
    scales = [tags.get(f"{prefix}.{i}.Scale") for i in range(1, count + 1)]
    if any(unit.endswith("eV") for unit in units[:2]):
        raise SegueError(f"{path}: is a spectrum (an axis in {next(u for u in units if u)}), no image; leave it out.")
    size_nm, notes = square_pixel_nm(*(pixel_size_nm(s, u) for s, u in zip(scales[:2], units[:2], strict=True)))
    if length_nm(1, units[0]) is None:
        notes = size_note(units[0])
    letters = ""
    for unit in units[2:]:
        energy = unit.endswith("eV")
        letters += "E" if energy else "Z" if length_nm(1, unit) is not None else "T" if time_h(1, unit) else "Q"
    if count > 3:
        raise SegueError(f"{path}: holds {count} axes; save its images in separate files.")
    return letters + "YX", size_nm, notes


DM = lazy_reader("DM3 or DM4", read_dm, "ncempy")
