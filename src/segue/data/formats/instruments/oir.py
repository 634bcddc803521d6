"""Olympus OIR (FluoView), by the package oirfile, which needs Python 3.12."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.instruments.planes import Index, Planes, checked_dtype, lazy_reader
from segue.data.formats.stack import Stack
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

MIN_PYTHON = (3, 12)
AXES = {"L": "E"}  # wavelengths


def read_oir(path: Path, labels: bool) -> Stack:
    """Returns the image of an OIR; raises SegueError for line scans, missing planes and Python before 3.12."""
    if sys.version_info < MIN_PYTHON:
        raise SegueError(
            f"{path}: reading OIR files needs the package oirfile, which needs Python 3.12 or later; save it as "
            "OME-TIFF, or use a later Python and install it: pip install 'segue[formats]'."
        )
    import oirfile  # pyright: ignore[reportMissingImports]  of later versions of Python

    with oirfile.OirFile(str(path)) as oir:
        dims, shape = tuple(map(str, oir.dims)), tuple(oir.shape)
        if oir.is_linescan or "X" not in dims or "Y" not in dims:
            raise SegueError(f"{path}: its axes are {', '.join(dims)}: no image in X and Y; leave it out.")
        dtype = checked_dtype(path, oir.dtype)
        planes = math.prod(n for letter, n in oir.sizes.items() if letter not in "YX")
        stored = len(oir._pixel_map)  # oirfile leaves planes that are missing at 0
        if stored < planes:
            raise SegueError(
                f"{path}: {planes - stored} of {planes} planes are missing; an acquisition that was stopped must be "
                "cut to whole images."
            )
        scales, units = oir.coord_scales, oir.coord_units
        size_nm, notes = square_pixel_nm(*(pixel_size_nm(scales.get(a), units.get(a, "")) for a in "XY"))
        # coordinates are in the order of the pixels; with one channel there is no axis C
        names = tuple(map(str, oir.coords.get("C", [channel.name for channel in oir.channels])))
    axes = "".join(AXES.get(letter, letter) for letter in dims)
    channels = names if all(names) and len(names) == dict(zip(axes, shape, strict=True)).get("C", 1) else None
    return Stack(Planes(shape, dtype, lambda index: _read(path, index)), axes, size_nm, channels, notes)


def _read(path: Path, index: Index) -> np.ndarray:
    """Returns the pixels of an index; planes that end early, which oirfile pads and only logs, are an error."""
    import oirfile  # pyright: ignore[reportMissingImports]  of later versions of Python

    messages: list[str] = []
    handler: Any = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("oirfile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with oirfile.OirFile(str(path)) as oir:
            pixels = oir.asarray()[index]
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
    if any("incomplete" in message for message in messages):
        raise EOFError(messages[0])
    return pixels


OIR = lazy_reader("OIR", read_oir, "oirfile")
