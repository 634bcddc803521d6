"""MRC: files that mrcfile writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.data.image_io import count_pages, read_header, read_image
from segue.errors import SegueError

mrcfile = pytest.importorskip("mrcfile")
RANDOM = np.random.default_rng(0)


def write(path: Path, array: np.ndarray, size_angstrom: float | None = 2.5, **header: Any) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(array)
        if size_angstrom is not None:
            file.voxel_size = size_angstrom
        for name, value in header.items():
            file.header[name] = value
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
def test_modes(tmp_path: Path, dtype: str) -> None:
    """Signed bytes, mode 6 (unsigned) and mode 12 (half floats, which become float32) among them."""
    array = (RANDOM.integers(0, 100, (5, 7)) + (60_000 if dtype == "u2" else 0)).astype(dtype)
    path = write(tmp_path / "a.mrc", array)
    image = read_image(path)
    np.testing.assert_array_equal(image.image[0], mrcfile.read(path))
    assert image.image.dtype == (np.float32 if dtype == "f2" else np.dtype(dtype))
    assert image.pixel_size_nm == pytest.approx(0.25)
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 1, 8 * np.dtype(dtype).itemsize)


@pytest.mark.parametrize("size", [0.0, 1.0, -10.0])
def test_default_sizes_are_not_known(tmp_path: Path, size: float) -> None:
    assert read_image(write(tmp_path / "a.mrc", np.ones((4, 4), "f4"), size)).pixel_size_nm is None


def test_volumes_and_stacks(tmp_path: Path) -> None:
    """Sections of a volume are depths; of the images of a stack the file does not say what they are."""
    array = RANDOM.integers(0, 9, (3, 4, 5)).astype("i2")
    volume = write(tmp_path / "v.mrc", array, ispg=1, mz=3)
    assert count_pages(volume, "z") == 3
    np.testing.assert_array_equal(read_image(volume, pages="z", page=2).image[0], array[2])
    stack = write(tmp_path / "s.mrcs", array, ispg=0, mz=1)
    np.testing.assert_array_equal(read_image(stack, pages="channels").image, array)
    with pytest.raises(SegueError, match="3 pages and does not say what they are"):
        read_image(stack)


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    """Bytes with IMOD's stamp are unsigned unless its flags say signed; mrcfile reads -56 where IMOD shows 200."""
    extra = np.zeros(84, "u1")
    extra[40:48] = np.array([1146047817, 0], "<i4").view("u1")
    array = np.full((3, 4), -56, "i1")
    path = write(tmp_path / "a.mrc", array, extra2=extra.tobytes())
    assert (read_image(path).image == 200).all()
    extra[44] = 1
    assert (read_image(write(tmp_path / "b.mrc", array, extra2=extra.tobytes())).image == -56).all()


def test_sizes_follow_the_axes(tmp_path: Path) -> None:
    """Columns along z: their size is that of z, and a note says so."""
    path = write(tmp_path / "a.mrc", np.ones((4, 4), "f4"), mapc=3, mapr=2, maps=1)
    with mrcfile.open(path, "r+") as file:
        file.header.cella = (40.0, 8.0, 2.0)
        file.header.mx, file.header.my, file.header.mz = 10, 4, 1
    image = read_image(path)
    assert image.pixel_size_nm == pytest.approx(0.2)
    assert "axes z, y, x" in image.notes[0]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegueError, match="complex"):
        read_image(write(tmp_path / "c.mrc", np.ones((4, 4), "c8")))
    path = write(tmp_path / "a.mrc", np.ones((4, 4), "f4"))
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with pytest.raises(SegueError, match=r"truncated or corrupt \(10 bytes are missing\)"):
        read_image(path)
    path.write_bytes(data + bytes(6))
    assert "6 bytes longer" in read_image(path).notes[0]
    path.write_bytes(data[:12] + (77).to_bytes(4, "little") + data[16:])
    with pytest.raises(SegueError, match="mode 77"):
        read_image(path)
