"""MRC and CCP4 maps: images, volumes and stacks of electron microscopy, mapped from the file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.instruments.planes import Planes, checked_dtype, lazy_reader
from segue.data.formats.stack import Stack, UnsupportedError
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

DTYPES = {0: "i1", 1: "i2", 2: "f4", 3: "c4", 4: "c8", 6: "u2", 12: "f2"}  # by mode
HEADER_BYTES = 1024
IMOD_STAMP = 1146047817
IMOD_OFFSET = 40  # of the stamp and the flags after it, in `extra2`
SIGNED_BYTES = 1  # a bit of IMOD's flags
IMAGE_STACK = 0  # value of ispg; volumes have 1 and more, stacks of volumes 401 and more
VOLUME_STACK = 401
DEFAULT_SIZE_ANGSTROM = 1.0


def read_mrc(path: Path, labels: bool) -> Stack:
    """Returns (H, W), (Z, H, W) of a volume or (Q, H, W) of a stack: nothing says whether its images are times.

    The rows are as stored, the first one first. Bytes are signed, unless IMOD's flags say unsigned.
    """
    header, extended = _header(path)
    mode, columns, rows, sections = (int(header[name]) for name in ("mode", "nx", "ny", "nz"))
    if mode not in DTYPES:
        raise UnsupportedError(f"mode {mode}")
    if mode in (3, 4):
        checked_dtype(path, np.complex64)
    if min(columns, rows, sections) < 1:
        raise EOFError(f"its header gives a size of {columns} × {rows} × {sections}")
    dtype = np.dtype(DTYPES[mode]).newbyteorder(header.dtype["nx"].byteorder)
    if mode == 0 and _has_unsigned_bytes(header):
        dtype = np.dtype("u1")
    offset = HEADER_BYTES + int(header["nsymbt"])
    shape = (sections, rows, columns) if sections > 1 else (rows, columns)
    missing = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - path.stat().st_size
    if missing > 0:
        raise EOFError(f"{missing} bytes are missing")
    if int(header["ispg"]) >= VOLUME_STACK:
        raise SegueError(f"{path}: holds a stack of volumes; save each volume in a separate file.")
    size_nm, notes = _size(header, extended)
    axes = "YX" if sections == 1 else "QYX" if int(header["ispg"]) == IMAGE_STACK else "ZYX"
    pixels = Planes(shape, dtype, lambda index: np.array(np.memmap(path, dtype, "r", offset, shape)[index]))
    return Stack(pixels, axes, size_nm, None, (*notes, *_notes(path, header, offset, shape, dtype)))


def _header(path: Path) -> tuple[Any, float | None]:
    """Returns the header, and the pixel size in m of FEI's extended header if there is one."""
    import mrcfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the warnings of a permissive reading are about is checked
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            header: Any = file.header
            header = header.copy()
            extended = None
            if bytes(header["exttyp"]) in (b"FEI1", b"FEI2"):
                columns = file.indexed_extended_header
                extended = float(columns["Pixel size X"][0]) if columns is not None and len(columns) else None
    return header, extended


def _has_unsigned_bytes(header: Any) -> bool:
    extra = bytes(header["extra2"])
    order = "little" if header.dtype["nx"].byteorder in "<=|" else "big"
    stamp, flags = (int.from_bytes(extra[at : at + 4], order) for at in (IMOD_OFFSET, IMOD_OFFSET + 4))
    return stamp == IMOD_STAMP and not flags & SIGNED_BYTES


def _size(header: Any, extended: float | None) -> tuple[float | None, tuple[str, ...]]:
    """Returns the pixel size in nm and notes. Lengths of the cell are those of the axes x, y and z.

    1 Å is the default of programs that do not know it. FEI's extended header, in m, has precedence.
    """
    sizes = []
    for axis in (int(header["mapc"]), int(header["mapr"])):
        letter = " xyz"[axis] if axis in (1, 2, 3) else "xy"[len(sizes)]
        count = int(header[f"m{letter}"])
        sizes.append(float(header["cella"][letter]) / count if count > 0 else 0.0)
    stated, notes = square_pixel_nm(*(pixel_size_nm(size, "Å") for size in sizes))
    if sizes == [DEFAULT_SIZE_ANGSTROM, DEFAULT_SIZE_ANGSTROM]:
        stated, notes = None, ("its voxels of 1 Å are the default of programs: the pixel size is not known",)
    acquired = pixel_size_nm(extended, "m")
    if acquired is None:
        return stated, notes
    if stated is not None and abs(stated - acquired) > 0.01 * max(stated, acquired):
        notes = (f"its header gives {stated:g} nm per pixel, its extended header {acquired:g} nm, which is used",)
    return acquired, notes


def _notes(path: Path, header: Any, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> tuple[str, ...]:
    notes = []
    if (order := tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))) not in ((1, 2, 3), (0, 0, 0)):
        axes = ", ".join(" xyz"[axis] if axis in (1, 2, 3) else "?" for axis in order)
        notes.append(f"its columns, rows and sections are the axes {axes}: images are its sections as stored")
    more = path.stat().st_size - offset - int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if more:
        notes.append(f"it is {more} bytes longer than its header says; they are ignored")
    return tuple(notes)


MRC = lazy_reader("MRC", read_mrc, "mrcfile")
