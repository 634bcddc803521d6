"""Leica LIF: one image of a file, whose pixels are mapped from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.instruments.planes import Planes, checked_dtype, lazy_reader, refuse_several
from segue.data.formats.stack import Stack
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

# letters of liffile that mean something else in a stack, or are no letter of it
AXES = {"λ": "E", "Λ": "G", "Q": "N"}
DIMENSIONS = "./Data/Image/ImageDescription/Dimensions/DimensionDescription"
CHANNELS = "./Data/Image/ImageDescription/Channels/ChannelDescription"
RGB_TAGS = {"1", "2", "3"}  # ChannelTag of red, green and blue; 0 of gray
X_DIMENSION, Y_DIMENSION = "1", "2"  # DimID


def read_lif(path: Path, labels: bool) -> Stack:
    """Returns the image of a LIF; raises SegueError for several images, and for sections without X and Y."""
    import liffile

    with liffile.LifFile(str(path)) as lif:
        images = list(lif.images)
        if not images:
            raise EOFError("it has no image")
        refuse_several(path, "images", [image.path for image in images])
        image = images[0]
        dims, shape = tuple(image.dims), tuple(image.shape)
        if "X" not in dims or "Y" not in dims:
            raise SegueError(f"{path}: its axes are {', '.join(dims)}: no image in X and Y; leave it out.")
        if any(len(letter) > 1 for letter in dims) or image.is_flim:
            raise SegueError(f"{path}: its axes are {', '.join(dims)}; save it as TIFF with one axis of channels.")
        dtype = checked_dtype(path, image.dtype)
        size_nm, notes = square_pixel_nm(_size(image, X_DIMENSION), _size(image, Y_DIMENSION))
        channels = _dyes(image)
        samples = "S" if _is_color(image) else "C"

    def read(index: Any) -> np.ndarray:
        with liffile.LifFile(str(path)) as lif:
            out = None if "S" in dims else "memmap"  # liffile turns blue, green, red in place
            return np.array(lif.images[0].asarray(out=out)[index])

    axes = "".join({**AXES, "S": samples}.get(letter, letter) for letter in dims)
    if axes.count("C") > 1:
        raise SegueError(f"{path}: its axes are {', '.join(dims)}; save it as TIFF with one axis of channels.")
    return Stack(Planes(shape, dtype, read), axes, size_nm, channels, notes)


def _is_color(image: Any) -> bool:
    """Returns whether samples side by side are red, green and blue, and not channels."""
    return {one.get("ChannelTag") for one in image.xml_element.iterfind(CHANNELS)} == RGB_TAGS


def _size(image: Any, dimension: str) -> float | None:
    """Returns the distance of two pixels in nm: Length is that of the centers of the first and the last."""
    for one in image.xml_element.iterfind(DIMENSIONS):
        count = int(one.get("NumberOfElements", 0))
        if one.get("DimID") == dimension and count > 1:
            return pixel_size_nm(float(one.get("Length", 0)) / (count - 1), one.get("Unit", "m"))
    return None


def _dyes(image: Any) -> tuple[str, ...] | None:
    """Returns the dye of each channel, None if one is unknown; the colors of lookup tables are no names."""
    names = []
    for channel in image.xml_element.iterfind(CHANNELS):
        properties = {one.findtext("Key"): one.findtext("Value") for one in channel.iterfind("ChannelProperty")}
        names.append(properties.get("DyeName"))
    return tuple(names) if names and all(names) else None


LIF = lazy_reader("LIF", read_lif, "liffile")
