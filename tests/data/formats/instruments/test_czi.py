"""CZI: files written byte by byte; values, order of tiles, scenes, pyramids, gaps and what is refused."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from samples.instruments import CziTile, czi_metadata, write_czi

from segue.data.image_io import count_pages, read_header, read_image, read_labels, read_stack
from segue.data.spec import Layer
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)


def gray(height: int = 5, width: int = 7, dtype: str = "<u2") -> np.ndarray:
    return RANDOM.integers(0, 200, (height, width)).astype(dtype)


def test_channels_have_their_names_size_and_pixels(tmp_path: Path) -> None:
    """Two channels of 0.325 µm pixels, of which the second is 16 bits too, with a pixel looked at."""
    planes = [gray(), gray()]
    tiles = [CziTile(plane, {"C": (i, 1)}) for i, plane in enumerate(planes)]
    path = write_czi(tmp_path / "a.czi", tiles, czi_metadata(3.25e-7, ["DAPI", "GFP"]))
    image = read_image(path)
    np.testing.assert_array_equal(image.image, np.stack(planes))
    assert image.image.dtype == np.uint16
    assert image.pixel_size_nm == pytest.approx(325)
    assert image.channels == ("DAPI", "GFP")
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 2, 16)


def test_tiles_are_placed_and_later_ones_cover_earlier_ones(tmp_path: Path) -> None:
    """A mosaic begins at negative positions, its tiles overlap by a column, and M orders them against the file."""
    left, right = gray(4, 6), gray(4, 6)
    tiles = [
        CziTile(right, {"C": (0, 1), "X": (-5, 6), "Y": (-3, 4), "M": (1, 1)}),
        CziTile(left, {"C": (0, 1), "X": (-10, 6), "Y": (-3, 4), "M": (0, 1)}),
    ]
    image = read_image(write_czi(tmp_path / "a.czi", tiles, czi_metadata(1e-6)))
    np.testing.assert_array_equal(image.image[0], np.concatenate([left[:, :5], right], axis=1))
    assert image.notes == ()


def test_gaps_of_a_mosaic_are_told(tmp_path: Path) -> None:
    tiles = [CziTile(gray(4, 4), {"X": (0, 4)}), CziTile(gray(4, 4), {"X": (6, 4)})]
    image = read_image(write_czi(tmp_path / "a.czi", tiles))
    assert (image.image[0, :, 4:6] == 0).all()
    assert "20 % of its mosaic empty" in image.notes[0]


def test_pyramids_are_left_out(tmp_path: Path) -> None:
    """A tile stored at half size in the same place, after the full one, does not blur it."""
    full = gray(4, 6)
    half = CziTile(full[::2, ::2], {"X": (0, 6), "Y": (0, 4)})
    np.testing.assert_array_equal(read_image(write_czi(tmp_path / "a.czi", [CziTile(full), half])).image[0], full)


@pytest.mark.parametrize("samples", [3, 4])
def test_colors_are_red_green_blue_and_opaque(tmp_path: Path, samples: int) -> None:
    """Stored are blue, green, red and a fourth byte without meaning."""
    stored = RANDOM.integers(0, 256, (3, 5, samples)).astype("u1")
    image = read_image(write_czi(tmp_path / "a.czi", [CziTile(stored)]))
    np.testing.assert_array_equal(image.image, stored[..., 2::-1].transpose(2, 0, 1))


def compressed(plane: np.ndarray, kind: str) -> tuple[int, bytes]:
    raw = plane.tobytes()
    split = plane.view("u1").reshape(-1, 2).T.tobytes()
    return {
        "zstd": (5, imagecodecs.zstd_encode(raw)),
        "zstd with header": (6, b"\x01" + imagecodecs.zstd_encode(raw)),
        "zstd with split bytes": (6, b"\x03\x01\x01" + imagecodecs.zstd_encode(split)),
        "lzw": (2, imagecodecs.lzw_encode(raw)),
    }[kind]


@pytest.mark.parametrize("kind", ["zstd", "zstd with header", "zstd with split bytes", "lzw"])
def test_compressed_tiles(tmp_path: Path, kind: str) -> None:
    plane = (gray() * 300).astype("<u2")
    code, data = compressed(plane, kind)
    path = write_czi(tmp_path / "a.czi", [CziTile(plane, compression=code, data=data)])
    np.testing.assert_array_equal(read_image(path).image[0], plane)


def test_times_are_images_if_told_so(tmp_path: Path) -> None:
    """One plane of many is read alone, and the question names their number."""
    planes = [gray() for _ in range(3)]
    path = write_czi(tmp_path / "a.czi", [CziTile(plane, {"T": (i + 4, 1)}) for i, plane in enumerate(planes)])
    assert count_pages(path, "time") == 3
    np.testing.assert_array_equal(read_image(path, pages="time", page=2).image[0], planes[2])
    with pytest.raises(SegueError, match='3 time points; set pages = "time"'):
        read_image(path)


def test_what_is_refused(tmp_path: Path) -> None:
    """Several scenes by their names, missing planes by their number, parts of files, complex numbers, unknown codes."""
    scenes = [CziTile(gray(), {"S": (i, 1)}) for i in range(2)]
    with pytest.raises(SegueError, match=r"holds 2 scenes \(A1, B7\)"):
        read_image(write_czi(tmp_path / "s.czi", scenes, czi_metadata(None, scenes=["A1", "B7"])))
    holes = [CziTile(gray(), {"C": (c, 1), "T": (t, 1)}) for c, t in [(0, 0), (0, 1), (1, 0)]]
    with pytest.raises(SegueError, match="1 of 4 planes"):
        read_header(write_czi(tmp_path / "h.czi", holes))
    with pytest.raises(SegueError, match="one of several files"):
        read_image(write_czi(tmp_path / "p.czi", [CziTile(gray())], file_part=1))
    with pytest.raises(SegueError, match="complex"):
        read_image(write_czi(tmp_path / "c.czi", [CziTile(gray().astype("<c8"))]))
    with pytest.raises(SegueError, match=r"is not read \(compression"):
        read_image(write_czi(tmp_path / "u.czi", [CziTile(gray(), compression=99)]))
    mixed = [CziTile(gray(), {"C": (0, 1)}), CziTile(np.zeros((5, 7, 3), "u1"), {"C": (1, 1)})]
    with pytest.raises(SegueError, match="gray and color"):
        read_image(write_czi(tmp_path / "m.czi", mixed))


def test_labels_are_never_compressed_with_loss(tmp_path: Path) -> None:
    plane = gray(4, 4, "u1")
    data = imagecodecs.jpeg8_encode(plane)
    path = write_czi(tmp_path / "a.czi", [CziTile(plane, compression=1, data=data)])
    assert read_image(path).image.shape == (1, 4, 4)
    with pytest.raises(SegueError, match="may change its numbers"):
        read_labels(path, Layer("cells", "instances", ("background", "cell")), shape=(4, 4))


def test_truncated_and_misnamed_files(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", [CziTile(gray())])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SegueError, match=r"a\.czi: the CZI file is truncated or corrupt"):
        read_image(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(90))
    with pytest.raises(SegueError, match="is a PNG file, in spite of its suffix"):
        read_header(path)


def test_sizes_beyond_the_file_take_no_memory(tmp_path: Path) -> None:
    """A tile of 2 TB, uncompressed or not, and one whose place is damaged."""
    huge = {"X": (0, 2**20), "Y": (0, 2**20)}
    path = write_czi(tmp_path / "a.czi", [CziTile(gray(), huge)])
    data = path.read_bytes().replace(b"\x07\0\0\0", b"\0\0\x10\0").replace(b"\x05\0\0\0", b"\0\0\x10\0")
    path.write_bytes(data)  # stored sizes too
    with pytest.raises(SegueError, match="tiles are larger than the file"):
        read_header(path)
    apart = [CziTile(gray(), {"X": (0, 7)}), CziTile(gray(), {"X": (2**30, 7)})]
    with pytest.raises(SegueError, match="tiles cover"):
        read_header(write_czi(tmp_path / "b.czi", apart))


def test_nothing_is_decoded_before_pixels_are_asked_for(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", [CziTile(gray(), compression=5, data=b"no such data")])
    assert read_header(path).width == 7
    assert read_stack(path).pixels.shape == (1, 5, 7)
    with pytest.raises(SegueError, match="truncated or corrupt"):
        read_image(path)
