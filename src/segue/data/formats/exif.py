"""What the EXIF metadata of PNG and JPEG say of pixels: their orientation."""

from __future__ import annotations

from PIL.Image import Exif

from segue.data.formats.tiff_tags import orientation_problem

ORIENTATION = 274


def exif_problem(data: bytes) -> str | None:
    """Returns why pixels with these EXIF data cannot be used, None if they can or the data cannot be read."""
    exif = Exif()
    try:
        exif.load(data)
        orientation = exif.get(ORIENTATION)
    except Exception:  # metadata never refuse pixels
        return None
    return orientation_problem(orientation)
