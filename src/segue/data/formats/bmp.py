"""BMP: gray, palette and color images, as a viewer shows them; densities are those of a print and no pixel size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile

from segue.data.formats.stack import Header, Reader, Stack
from segue.errors import SegueError

CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBA": 3}  # by Pillow's mode
OPAQUE = 255


def read_bmp_header(path: Path) -> Header:
    with BmpImageFile(path) as image:
        return Header(image.height, image.width, CHANNELS.get(image.mode, 1), 8)


def read_bmp(path: Path, labels: bool) -> Stack:
    """Returns (H, W) or (H, W, 3) uint8; palettes become colors except for labels, which keep their indices."""
    with BmpImageFile(path) as image:
        if image.mode not in CHANNELS:
            raise SegueError(f"{path}: is a {image.mode} image; convert it to gray or RGB.")
        pixels = np.asarray(image)
        if image.mode == "P" and not labels:
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            if pixels.max(initial=0) >= len(palette):
                raise SegueError(
                    f"{path}: has the palette index {pixels.max()}, but only {len(palette)} colors; save it again."
                )
            pixels = palette[pixels]
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if (pixels[..., 3] != OPAQUE).any():
            raise SegueError(f"{path}: has an alpha channel that is not opaque; save the image without transparency.")
        pixels = pixels[..., :3]
    return Stack(pixels, "YX" if pixels.ndim == 2 else "YXS")


BMP = Reader("BMP", read_bmp_header, read_bmp, single=True)
