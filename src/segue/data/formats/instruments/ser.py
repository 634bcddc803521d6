"""FEI TIA series (SER): images of equal size, decoded one by one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.instruments.planes import (
    Index,
    Planes,
    checked_dtype,
    lazy_reader,
    loop_frames,
    plane_index,
)
from segue.data.formats.stack import Stack
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

SIGNATURE = b"II\x97\x01"
SHAPE_OFFSET = 42  # from the start of an image, behind two calibrations and the type: width and height
IMAGES = 0x4122  # DataTypeID; 0x4120 of spectra


def read_ser(path: Path, labels: bool) -> Stack:
    """Returns (H, W), or (Q, H, W) of a series, whose images may be times; raises SegueError for spectra and scans.

    Sizes are in m. TIA stores diffraction patterns with sizes in 1/m, beyond those of any microscope's pixel. The file
    stores the lowest row first; the first row here is the upper one.
    """
    with path.open("rb") as file:
        if file.read(4) != SIGNATURE:
            raise EOFError("it does not begin as a SER file")
    with _open(path) as series:
        head = series.head
        if head["DataTypeID"] != IMAGES:
            raise SegueError(f"{path}: holds spectra, no images; leave it out.")
        count, total = int(head["ValidNumberElements"]), int(head["TotalNumberElements"])
        if count < 1:
            raise EOFError("it has no image")
        if head["NumberDimensions"] > 1 and count > 1:
            lengths = " × ".join(str(one["DimensionSize"]) for one in head["Dimensions"])
            raise SegueError(f"{path}: holds an image at each of {lengths} positions of a scan; save them separately.")
        pixels, metadata = _dataset(path, series, 0)
    dtype = checked_dtype(path, pixels.dtype)
    steps = [float(one["CalibrationDelta"]) for one in metadata["Calibration"]]
    size_nm, notes = square_pixel_nm(*(pixel_size_nm(step, "m") for step in steps))
    if size_nm is None and min(steps) > 1:
        notes = (f"its calibration of {steps[0]:g} is that of a diffraction pattern: the pixel size is not known",)
    if count < total:
        notes = (*notes, f"its acquisition was stopped after {count} of {total} images")
    shape = (count, *pixels.shape) if count > 1 else pixels.shape

    def read(index: Index) -> np.ndarray:
        with _open(path) as series:
            leading = len(shape) - 2
            numbers = loop_frames(index, shape[:leading])
            images = [_image(path, series, int(number), pixels.shape) for number in numbers.flat]
        return np.stack(images).reshape(*numbers.shape, *pixels.shape)[plane_index(index, leading)]

    return Stack(Planes(shape, dtype, read), "QYX" if count > 1 else "YX", size_nm, None, notes)


def _image(path: Path, series: Any, number: int, shape: tuple[int, ...]) -> np.ndarray:
    image, _ = _dataset(path, series, number)
    if image.shape != shape:
        raise SegueError(f"{path}: its images 1 and {number + 1} differ in size; save each in a separate file.")
    return image


def _dataset(path: Path, series: Any, number: int) -> tuple[np.ndarray, Any]:
    """Returns an image and its metadata; EOFError before memory is taken for a size beyond the file's."""
    with path.open("rb") as file:
        file.seek(series.head["DataOffsetArray"][number] + SHAPE_OFFSET)
        width, height = struct.unpack("<ii", file.read(8))
    if min(width, height) < 1 or width * height > path.stat().st_size:
        raise EOFError(f"its image {number + 1} has {width} × {height} pixels")
    return series.getDataset(number)


def _open(path: Path) -> Any:
    from ncempy.io.ser import fileSER

    class Series(fileSER):
        def _read_emi(self) -> None:
            """Leaves out the file beside it, of which nothing is needed, and which may be damaged."""
            self._emi = None

    return Series(path)


SER = lazy_reader("SER", read_ser, "ncempy")
