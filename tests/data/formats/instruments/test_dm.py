"""DM3 and DM4: files written byte by byte, values against those written and the library's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples.instruments import write_dm

from segue.data.image_io import count_pages, read_header, read_image
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)
THUMBNAIL = {"data": np.zeros(16, "u1"), "lengths": [2, 2], "type": 23, "units": ["", ""], "scales": [1, 1]}


def image_of(array: np.ndarray, kind: int, units: list[str], scales: list[float], **others: Any) -> dict[str, Any]:
    lengths = list(reversed(array.shape))
    return {"data": array.ravel(), "lengths": lengths, "type": kind, "units": units, "scales": scales, **others}


@pytest.mark.parametrize("suffix", [".dm3", ".dm4"])
@pytest.mark.parametrize(("kind", "dtype"), [(1, "<i2"), (2, "<f4"), (6, "u1"), (7, "<i4"), (9, "i1"), (10, "<u2")])
def test_image_behind_its_thumbnail(tmp_path: Path, suffix: str, kind: int, dtype: str) -> None:
    array = RANDOM.integers(0, 100, (5, 7)).astype(dtype)
    images = [THUMBNAIL, image_of(array, kind, ["nm", "nm"], [0.25, 0.25])]
    path = write_dm(tmp_path / f"a{suffix}", images, thumbnail=0)
    image = read_image(path)
    np.testing.assert_array_equal(image.image[0], array)
    with pytest.importorskip("ncempy.io.dm").fileDM(str(path)) as file:
        np.testing.assert_array_equal(image.image[0], file.getDataset(0)["data"])
    assert image.image.dtype == np.dtype(dtype)
    assert image.pixel_size_nm == pytest.approx(0.25)
    header = read_header(path)
    assert (header.height, header.width, header.channels) == (5, 7, 1)


@pytest.mark.parametrize(("unit", "pages"), [("s", "time"), ("µm", "z"), ("", "channels")])
def test_third_axis_by_its_unit(tmp_path: Path, unit: str, pages: str) -> None:
    array = RANDOM.integers(0, 100, (3, 4, 5)).astype("<i2")
    path = write_dm(tmp_path / "a.dm3", [image_of(array, 1, ["µm", "µm", unit], [2, 2, 1])])
    count = count_pages(path, pages)
    assert count == (None if pages == "channels" else 3)
    image = read_image(path, pages=pages, page=None if count is None else 2)
    np.testing.assert_array_equal(image.image, array if count is None else array[2:])
    assert image.pixel_size_nm == pytest.approx(2000)


def test_colors(tmp_path: Path) -> None:
    """Bytes are blue, green, red and one without meaning."""
    stored = RANDOM.integers(0, 255, (3, 4, 4)).astype("u1")
    color = {"data": stored.ravel(), "lengths": [4, 3], "type": 23, "units": ["", ""], "scales": [1, 1]}
    image = read_image(write_dm(tmp_path / "a.dm3", [color]))
    np.testing.assert_array_equal(image.image, stored[..., 2::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("unit", ["1/nm", "mrad"])
def test_other_units_are_told(tmp_path: Path, unit: str) -> None:
    image = read_image(write_dm(tmp_path / "a.dm3", [image_of(np.ones((2, 3), "<i2"), 1, [unit, unit], [0.1, 0.1])]))
    assert image.pixel_size_nm is None
    assert f"calibration is in '{unit}'" in image.notes[0]


def test_what_is_refused(tmp_path: Path) -> None:
    """Several images by name, complex numbers, spectra, other files, and one cut off."""
    image = image_of(np.ones((2, 3), "<i2"), 1, ["nm", "nm"], [1, 1])
    with pytest.raises(SegueError, match=r"holds 2 images \(Ref, Sample\)"):
        read_image(write_dm(tmp_path / "a.dm3", [{**image, "name": "Ref"}, {**image, "name": "Sample"}]))
    with pytest.raises(SegueError, match="complex"):
        read_image(write_dm(tmp_path / "c.dm3", [{**image, "type": 3}]))
    with pytest.raises(SegueError, match="is a spectrum"):
        read_image(write_dm(tmp_path / "e.dm3", [{**image, "units": ["eV", ""]}]))
    spectrum = {"data": np.ones(9, "<f4"), "lengths": [9], "type": 2, "units": ["eV"], "scales": [1]}
    with pytest.raises(SegueError, match="no image, but 1 spectra"):
        read_image(write_dm(tmp_path / "s.dm3", [spectrum]))
    path = tmp_path / "t.dm3"
    path.write_bytes(b"")
    with pytest.raises(SegueError, match=r"t\.dm3: has 0 bytes"):
        read_image(path)
    path.write_bytes(write_dm(tmp_path / "o.dm3", [image]).read_bytes()[:120])
    with pytest.raises(SegueError, match=r"t\.dm3: the DM3 or DM4 file is truncated or corrupt"):
        read_image(path)
