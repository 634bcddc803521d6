"""JPEG: gray and color images of eight bits, as a viewer shows them; never label images, whose numbers it changes.

What its markers say of pixels: SOF the size and the components; APP14 (Adobe) whether color is YCbCr, taken into
account by the decoder; CMYK and YCCK are refused; EXIF orientation is refused unless upright; several pictures in one
file (MPF) are refused; densities (JFIF, EXIF) are those of a print and no pixel size; ICC profiles are display only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from segue.data.formats.exif import exif_problem
from segue.data.formats.stack import Header, Reader, Stack, UnsupportedError
from segue.errors import SegueError


def read_jpeg_header(path: Path) -> Header:
    with _open(path) as image:
        return Header(image.height, image.width, len(image.getbands()), 8)


def _open(path: Path) -> JpegImageFile:
    try:
        return JpegImageFile(path)
    except SyntaxError as error:
        if "cannot handle" in str(error):  # "cannot handle 12-bit layers"
            raise UnsupportedError(str(error)) from error
        raise


def read_jpeg(path: Path, labels: bool) -> Stack:
    """Returns (H, W) or (H, W, 3) uint8; raises SegueError for labels, CMYK, turned and several pictures."""
    if labels:
        raise SegueError(
            f"{path}: is a JPEG, whose compression changes the numbers of labels; save labels as PNG or TIFF."
        )
    with _open(path) as image:
        exif = image.info.get("exif")
        problem = exif_problem(exif) if exif else None
        if problem is not None:
            raise SegueError(f"{path}: {problem}.")
        if "mp" in image.info:
            raise SegueError(f"{path}: holds several pictures (MPO); save each as a separate image.")
        if image.mode not in ("L", "RGB"):
            raise SegueError(f"{path}: is a {image.mode} image; convert it to RGB.")
        pixels = np.asarray(image)
    return Stack(pixels, "YX" if pixels.ndim == 2 else "YXS")


JPEG = Reader("JPEG", read_jpeg_header, read_jpeg, single=True)
