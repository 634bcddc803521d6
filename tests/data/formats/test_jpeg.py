"""JPEG: images as a viewer shows them; never labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.data.image_io import read_header, read_image, read_stack
from segue.errors import SegueError

BLOCKS = np.kron(np.random.default_rng(0).integers(0, 200, (2, 3)), np.ones((8, 8))).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_gray_and_color(tmp_path: Path, suffix: str) -> None:
    """Gray and color come back within the loss of the compression; a print's resolution is no pixel size."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(BLOCKS).save(path, "JPEG", quality=95, dpi=(300, 300))
    actual = read_image(path)
    assert actual.image.shape == (1, 16, 24)
    assert np.abs(actual.image[0].astype(int) - BLOCKS).max() < 5
    assert actual.pixel_size_nm is None
    Image.fromarray(np.dstack([BLOCKS] * 3)).save(path, "JPEG", quality=95)
    assert np.abs(read_image(path).image.astype(int) - BLOCKS).max() < 5
    assert read_header(path).channels == 3


def test_refused_by_name(tmp_path: Path) -> None:
    """Label images, CMYK, turned images and files that are cut off are told apart."""
    path = tmp_path / "a.jpg"
    Image.fromarray(BLOCKS).save(path)
    with pytest.raises(SegueError, match="is a JPEG, whose compression changes the numbers of labels"):
        read_stack(path, labels=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SegueError, match="truncated or corrupt"):
        read_image(path)
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(BLOCKS).save(path, exif=exif)
    with pytest.raises(SegueError, match="has the orientation 8"):
        read_image(path)
    Image.fromarray(np.dstack([BLOCKS] * 4), "CMYK").save(path)
    with pytest.raises(SegueError, match="is a CMYK image"):
        read_image(path)
    twelve = bytearray(whole)
    twelve[whole.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(bytes(twelve))
    with pytest.raises(SegueError, match=r"is not read .cannot handle 12-bit layers"):
        read_image(path)
