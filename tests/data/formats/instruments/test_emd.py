"""EMD of NCEM and of Velox: files that h5py writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from segue.data.image_io import count_pages, read_header, read_image
from segue.errors import SegueError

ARRAY = np.random.default_rng(0).integers(0, 60_000, (3, 5, 7)).astype("<u2")
COMPLEX = np.zeros((5, 7, 1), [("realFloatHalfEven", "<f4"), ("imagFloatHalfEven", "<f4")])


def write_ncem(path: Path, array: np.ndarray, axes: list[tuple[str, str, float]], groups: int = 1) -> Path:
    """Writes arrays with axes (name, unit, step)."""
    with h5py.File(path, "w") as file:
        for number in range(groups):
            group = file.create_group(f"data/image{number}")
            group.attrs["emd_group_type"] = 1
            group["data"] = array
            for i, ((name, unit, step), n) in enumerate(zip(axes, array.shape, strict=True)):
                group[f"dim{i + 1}"] = np.arange(n) * step
                group[f"dim{i + 1}"].attrs.update({"name": np.bytes_(name), "units": np.bytes_(unit)})
    return path


def write_velox(path: Path, images: Mapping[str, tuple[np.ndarray, str, float, str]]) -> Path:
    """Writes images (H, W, frames) by detector: array, detector, size and its unit."""
    with h5py.File(path, "w") as file:
        for name, (array, detector, size, unit) in images.items():
            group = file.create_group(f"Data/Image/{name}")
            group["Data"] = array
            result: dict[str, Any] = {"PixelSize": {"width": str(size), "height": str(size)}, "Detector": detector}
            result |= {"PixelUnitX": unit, "PixelUnitY": unit}
            text = np.frombuffer(json.dumps({"BinaryResult": result}).encode().ljust(600, b"\0"), "u1")
            group["Metadata"] = np.repeat(text[:, None], array.shape[2], axis=1)
    return path


def test_ncem_image(tmp_path: Path) -> None:
    path = write_ncem(tmp_path / "a.emd", ARRAY[0], [("Y", "[n_m]", 0.2), ("X", "[n_m]", 0.2)])
    image = read_image(path)
    np.testing.assert_array_equal(image.image[0], ARRAY[0])
    assert image.pixel_size_nm == pytest.approx(0.2)
    header = read_header(path)
    assert (header.height, header.width, header.channels, header.bits) == (5, 7, 1, 16)


@pytest.mark.parametrize(
    ("first", "pages"), [(("time", "s", 1.0), "time"), (("z", "nm", 1.0), "z"), (("", "", 1.0), "z")]
)
def test_ncem_pages(tmp_path: Path, first: tuple[str, str, float], pages: str) -> None:
    path = write_ncem(tmp_path / "a.emd", ARRAY, [first, ("", "nm", 0.5), ("", "nm", 0.5)])
    assert count_pages(path, pages) == 3
    np.testing.assert_array_equal(read_image(path, pages=pages, page=1).image[0], ARRAY[1])


def test_ncem_axes_in_another_order(tmp_path: Path) -> None:
    """An array of x and y is turned so that rows are y."""
    path = write_ncem(tmp_path / "a.emd", ARRAY[0], [("x", "nm", 0.5), ("y", "nm", 0.5)])
    np.testing.assert_array_equal(read_image(path).image[0], ARRAY[0].T)


def test_ncem_refusals(tmp_path: Path) -> None:
    axes = [("R_x", "[n_m]", 0.2), ("R_y", "[n_m]", 0.2), ("angle", "[mrad]", 1.0)]
    with pytest.raises(SegueError, match="angle in mrad"):
        read_image(write_ncem(tmp_path / "a.emd", ARRAY, axes))
    plane = [("Y", "nm", 0.2), ("X", "nm", 0.2)]
    with pytest.raises(SegueError, match="holds 2 arrays"):
        read_image(write_ncem(tmp_path / "b.emd", ARRAY[0], plane, groups=2))
    with pytest.raises(SegueError, match="complex"):
        read_image(write_ncem(tmp_path / "c.emd", ARRAY[0].astype("c8"), plane))
    with h5py.File(tmp_path / "d.emd", "w") as file:
        file["other"] = ARRAY
    with pytest.raises(SegueError, match="no image of NCEM's or Velox's"):
        read_image(tmp_path / "d.emd")
    (tmp_path / "e.emd").write_bytes((tmp_path / "a.emd").read_bytes()[:900])
    with pytest.raises(SegueError, match=r"e\.emd: the EMD file is truncated or corrupt"):
        read_image(tmp_path / "e.emd")


def test_velox_frames(tmp_path: Path) -> None:
    path = write_velox(tmp_path / "a.emd", {"ab": (ARRAY.transpose(1, 2, 0), "BM-Ceta", 2.5e-11, "m")})
    assert count_pages(path, "time") == 3
    image = read_image(path, pages="time", page=2)
    np.testing.assert_array_equal(image.image[0], ARRAY[2])
    assert image.pixel_size_nm == pytest.approx(0.025)


def test_velox_detectors_are_channels(tmp_path: Path) -> None:
    """Images of one size by different detectors, in the order of their names."""
    planes = {name: ARRAY[i, ..., None] for i, name in enumerate(("HAADF", "BF"))}
    images = {f"{i}": (plane, name, 1e-9, "m") for i, (name, plane) in enumerate(planes.items())}
    image = read_image(write_velox(tmp_path / "a.emd", images))
    assert image.channels == ("BF", "HAADF")
    np.testing.assert_array_equal(image.image, ARRAY[[1, 0]])


def test_velox_transforms(tmp_path: Path) -> None:
    """A transform is left out beside an image, and refused alone; a pattern in 1/m has no pixel size."""
    plane = ARRAY[0, ..., None]
    both = {"1": (COMPLEX, "HAADF", 5e5, "1/m"), "2": (plane, "HAADF", 1e-9, "m")}
    image = read_image(write_velox(tmp_path / "a.emd", both))
    np.testing.assert_array_equal(image.image[0], ARRAY[0])
    assert "left out" in image.notes[0]
    with pytest.raises(SegueError, match="complex"):
        read_image(write_velox(tmp_path / "b.emd", {"1": both["1"]}))
    pattern = read_image(write_velox(tmp_path / "c.emd", {"1": (plane, "BM-Ceta", 1e8, "1/m")}))
    assert pattern.pixel_size_nm is None
    with pytest.raises(SegueError, match=r"holds 2 images \(HAADF 5 × 7 × 1 uint16, HAADF"):
        read_image(write_velox(tmp_path / "d.emd", {"1": both["2"], "2": both["2"]}))
