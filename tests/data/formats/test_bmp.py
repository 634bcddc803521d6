"""BMP: gray, palettes and colors as a viewer shows them, stored numbers of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.data.image_io import read_header, read_image, read_stack
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (5, 7)).astype(np.uint8)
COLOR = RANDOM.integers(0, 256, (5, 7, 3)).astype(np.uint8)
PALETTE = RANDOM.integers(0, 256, (4, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.bmp", "a.BMP"])
def test_gray_and_color(tmp_path: Path, name: str) -> None:
    """Rows of an odd width and from top to bottom; one bit stays 0 and 1; color is asked for."""
    for image, expected in ((GRAY, GRAY[None]), (GRAY > 90, GRAY[None] > 90), (COLOR, np.moveaxis(COLOR, -1, 0))):
        Image.fromarray(image).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name).image, expected)
        header = read_header(tmp_path / name)
        assert (header.height, header.width, header.channels) == (5, 7, len(expected))
    with pytest.raises(SegueError, match="is a color image, whose red, green and blue differ"):
        read_image(tmp_path / name, color=None)


def test_palette(tmp_path: Path) -> None:
    """A palette becomes its colors; labels keep their indices."""
    image = Image.fromarray(GRAY % 4).convert("P")
    image.putdata((GRAY % 4).ravel().tolist())
    image.putpalette(PALETTE.ravel().tolist())
    image.save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").image, np.moveaxis(PALETTE[GRAY % 4], -1, 0))
    np.testing.assert_array_equal(read_stack(tmp_path / "a.bmp", labels=True).pixels, GRAY % 4)


def test_other_content(tmp_path: Path) -> None:
    """A file cut off is damaged, one of another format is named."""
    Image.fromarray(GRAY).save(tmp_path / "a.bmp")
    (tmp_path / "b.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:-20])
    Image.fromarray(GRAY).save(tmp_path / "c.bmp", "PNG")
    for name, message in (("b.bmp", "the BMP file is truncated or corrupt"), ("c.bmp", "is a PNG file, in spite of")):
        with pytest.raises(SegueError, match=f"{name}: {message}"):
            read_image(tmp_path / name)
