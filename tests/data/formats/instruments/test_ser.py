"""SER: files written byte by byte, values against those written and the library's."""

import struct
from pathlib import Path

import numpy as np
import pytest
from samples.instruments import write_ser

from segue.data.image_io import count_pages, read_header, read_image
from segue.errors import SegueError

IMAGES = np.random.default_rng(0).integers(0, 60_000, (3, 5, 7)).astype("<u2")


def test_one_image(tmp_path: Path) -> None:
    """The first row is the upper one, and sizes are in m; a damaged .emi beside it does no harm."""
    path = write_ser(tmp_path / "a_1.ser", IMAGES[:1], 2.5e-10)
    with pytest.importorskip("ncempy.io.ser").fileSER(str(path)) as series:
        expected = series.getDataset(0)[0]
    (tmp_path / "a.emi").write_bytes(b"<ObjectInfo>damaged")
    image = read_image(path)
    np.testing.assert_array_equal(image.image[0], IMAGES[0])
    np.testing.assert_array_equal(image.image[0], expected)
    assert image.pixel_size_nm == pytest.approx(0.25)
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 1, 16)


def test_series(tmp_path: Path) -> None:
    """The file does not say what its images are; a stopped series is told."""
    path = write_ser(tmp_path / "a.ser", IMAGES, 1e-9, total=10)
    assert count_pages(path, "time") == 3
    image = read_image(path, pages="time", page=1)
    np.testing.assert_array_equal(image.image[0], IMAGES[1])
    assert "stopped after 3 of 10 images" in image.notes[0]
    np.testing.assert_array_equal(read_image(path, pages="channels").image, IMAGES)
    with pytest.raises(SegueError, match="3 pages and does not say"):
        read_image(path)


def test_diffraction_patterns_have_no_pixel_size(tmp_path: Path) -> None:
    image = read_image(write_ser(tmp_path / "a.ser", IMAGES[:1], 4.2e7))
    assert image.pixel_size_nm is None
    assert "diffraction" in image.notes[0]


def test_what_is_refused(tmp_path: Path) -> None:
    """Scans, complex numbers, and a file that ends early."""
    with pytest.raises(SegueError, match="each of 1 × 3 positions"):
        read_image(write_ser(tmp_path / "s.ser", IMAGES, 1e-9, lengths=[1, 3]))
    with pytest.raises(SegueError, match="complex"):
        read_image(write_ser(tmp_path / "c.ser", IMAGES[:1].astype("<c8"), 1e-9))
    path = write_ser(tmp_path / "a.ser", IMAGES[:1], 1e-9)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SegueError, match=r"a\.ser: the SER file is truncated or corrupt"):
        read_image(path)


def test_sizes_beyond_the_file_take_no_memory(tmp_path: Path) -> None:
    path = write_ser(tmp_path / "a.ser", IMAGES[:1], 1e-9)
    path.write_bytes(path.read_bytes().replace(struct.pack("<ii", 7, 5), struct.pack("<ii", 2**30, 2**30)))
    with pytest.raises(SegueError, match="its image 1 has 1073741824 × 1073741824 pixels"):
        read_header(path)
