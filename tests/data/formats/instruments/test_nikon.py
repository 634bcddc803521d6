"""ND2: files written byte by byte, values against those written."""

from pathlib import Path

import numpy as np
import pytest
from samples.instruments import Nd2, write_nd2

from segue.data.image_io import count_pages, read_header, read_image
from segue.errors import SegueError

nd2 = pytest.importorskip("nd2")
FRAMES = np.random.default_rng(0).integers(0, 4000, (3, 5, 7, 2)).astype("<u2")


def test_image_with_channels(tmp_path: Path) -> None:
    path = write_nd2(tmp_path / "a.nd2", Nd2(FRAMES[:1]))
    image = read_image(path)
    np.testing.assert_array_equal(image.image, FRAMES[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(image.image, nd2.imread(path))
    assert image.pixel_size_nm == pytest.approx(500)
    assert image.channels == ("DAPI", "FITC")
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 2, 16)


@pytest.mark.parametrize(("loop_type", "pages"), [(1, "time"), (4, "z")])
def test_loops_by_pages(tmp_path: Path, loop_type: int, pages: str) -> None:
    """Times and depths are images if told so; the file stays whole and closed."""
    path = write_nd2(tmp_path / "a.nd2", Nd2(FRAMES, loop_type=loop_type))
    assert count_pages(path, pages) == 3
    np.testing.assert_array_equal(read_image(path, pages=pages, page=2).image, FRAMES[2].transpose(2, 0, 1))
    with pytest.raises(SegueError, match=f'set pages = "{pages}"'):
        read_image(path)


def test_one_channel_and_no_calibration(tmp_path: Path) -> None:
    """1 µm is what the library gives for a size that is not known."""
    path = write_nd2(tmp_path / "a.nd2", Nd2(FRAMES[:1, ..., :1], None, ("BF",)))
    image = read_image(path)
    np.testing.assert_array_equal(image.image[0], FRAMES[0, ..., 0])
    assert image.pixel_size_nm is None


def test_metadata_that_the_library_cannot_read_refuse_no_pixels(tmp_path: Path) -> None:
    """A channel without a dye or filter makes nd2 0.12 raise an UnboundLocalError."""
    image = read_image(write_nd2(tmp_path / "a.nd2", Nd2(FRAMES[:1], has_probes=False)))
    np.testing.assert_array_equal(image.image, FRAMES[0].transpose(2, 0, 1))
    assert "metadata cannot be read" in image.notes[0]


def test_colors_are_refused(tmp_path: Path) -> None:
    """NIS stores blue first, nd2 calls the first component red."""
    frames = np.concatenate([FRAMES[:1], FRAMES[1:2, ..., :1]], axis=-1)
    with pytest.raises(SegueError, match="is a color image; ND2 files do not say whether red or blue comes first"):
        read_header(write_nd2(tmp_path / "a.nd2", Nd2(frames, channels=("RGB",), is_color=True)))


def test_stopped_acquisitions_and_damage(tmp_path: Path) -> None:
    """The library gives zeros for frames that are missing."""
    with pytest.raises(SegueError, match="2 of 5 frames are missing"):
        read_image(write_nd2(tmp_path / "a.nd2", Nd2(FRAMES, loop=5)), pages="time", page=0)
    path = write_nd2(tmp_path / "b.nd2", Nd2(FRAMES[:1]))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SegueError, match=r"b\.nd2: the ND2 file is truncated or corrupt"):
        read_image(path)
