"""LIF: files written byte by byte, values against those written and the library's."""

from pathlib import Path

import numpy as np
import pytest
from samples.instruments import write_lif

from segue.data.image_io import read_header, read_image
from segue.errors import SegueError

liffile = pytest.importorskip("liffile")
RANDOM = np.random.default_rng(0)


def test_image_with_channels(tmp_path: Path) -> None:
    """Two dyes, pixels of 0.2 µm: the length of an axis is that between its first and last pixel."""
    array = RANDOM.integers(0, 4000, (2, 5, 7)).astype("<u2")
    path = write_lif(tmp_path / "a.lif", {"cells": (array, "CYX", 2e-7)}, ["DAPI", "Alexa 488"])
    image = read_image(path)
    np.testing.assert_array_equal(image.image, array)
    with liffile.LifFile(path) as lif:
        np.testing.assert_array_equal(image.image, lif.images[0].asarray())
    assert image.pixel_size_nm == pytest.approx(200)
    assert image.channels == ("DAPI", "Alexa 488")
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 2, 16)


def test_samples_side_by_side_are_channels_unless_they_are_colors(tmp_path: Path) -> None:
    """Two interleaved channels; three of red, green and blue are a color image, stored blue first if so tagged."""
    array = RANDOM.integers(0, 255, (5, 7, 3)).astype("u1")
    two = read_image(write_lif(tmp_path / "a.lif", {"a": (array[..., :2], "YXC", 1e-6)}, ["DAPI", "GFP"]))
    np.testing.assert_array_equal(two.image, array[..., :2].transpose(2, 0, 1))
    assert two.channels == ("DAPI", "GFP")
    for tags, stored in (((1, 2, 3), array), ((3, 2, 1), array[..., ::-1])):
        path = write_lif(tmp_path / "c.lif", {"c": (stored, "YXC", 1e-6)}, tags=tags)
        np.testing.assert_array_equal(read_image(path, color="rgb").image, array.transpose(2, 0, 1))
        with pytest.raises(SegueError, match="is a color image"):
            read_image(path, color=None)


def test_depth_by_pages(tmp_path: Path) -> None:
    """Colors of lookup tables are no names of channels."""
    array = RANDOM.integers(0, 255, (3, 4, 6)).astype("u1")
    path = write_lif(tmp_path / "a.lif", {"stack": (array, "ZYX", 1e-6)})
    image = read_image(path, pages="z", page=1)
    np.testing.assert_array_equal(image.image[0], array[1])
    assert image.channels is None
    with pytest.raises(SegueError, match='3 planes in depth; set pages = "z"'):
        read_image(path)


def test_what_is_refused(tmp_path: Path) -> None:
    """Several images by name, and a section in x and z."""
    array = np.zeros((4, 6), "u1")
    two = {"first": (array, "YX", 1e-6), "second": (array, "YX", 1e-6)}
    with pytest.raises(SegueError, match=r"holds 2 images \(.*first, .*second\)"):
        read_header(write_lif(tmp_path / "a.lif", two))
    with pytest.raises(SegueError, match="its axes are Z, X: no image in X and Y"):
        read_image(write_lif(tmp_path / "b.lif", {"section": (array, "ZX", 1e-6)}))


def test_truncated(tmp_path: Path) -> None:
    path = write_lif(tmp_path / "a.lif", {"a": (np.ones((40, 60), "<u2"), "YX", 1e-6)})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SegueError, match=r"a\.lif: the LIF file is truncated or corrupt"):
        read_image(path)
