"""Pixel size and channel names of TIFF metadata, which never refuse pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segue.data.image_io import read_image
from segue.errors import SegueError

PLANE = np.arange(24, dtype=np.uint16).reshape(4, 6)


def imagej(folder: Path, text: str, **options: Any) -> Path:
    tifffile.imwrite(folder / "a.tif", PLANE, description=f"ImageJ=1.53t\nimages=1\n{text}", metadata=None, **options)
    return folder / "a.tif"


@pytest.mark.parametrize(
    ("text", "options", "nm"),
    [
        ("unit=um\n", {"resolution": (1e4 / 0.65,) * 2, "resolutionunit": "CENTIMETER"}, 650),
        ("unit=micron\n", {"resolution": (1e4 / 0.65,) * 2, "resolutionunit": "CENTIMETER"}, 650),
        ("unit=nm\n", {"resolution": (1 / 0.65,) * 2, "resolutionunit": "CENTIMETER"}, 0.65),
        ("unit=cm\n", {"resolution": (1e5,) * 2, "resolutionunit": "CENTIMETER"}, 100),
        ("unit=micrometre\n", {"resolution": (2, 2)}, 500),
        ("unit=\\u00b5m\n", {"resolution": (2, 2)}, 500),
        ("unit=um\nyunit=nm\n", {"resolution": (2, 0.002)}, 500),
        ("unit=um\n", {"resolution": ((0, 1), (0, 1))}, None),
        ("unit=um\n", {"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ("unit=inch\n", {"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ("unit=pixel\n", {"resolution": (1, 1)}, None),
        ("", {"resolution": (2, 2)}, None),
        ("unit=m\n", {"resolution": (1, 1)}, None),
    ],
)
def test_imagej(tmp_path: Path, text: str, options: dict[str, Any], nm: float | None) -> None:
    """ImageJ's units, its factor for µm per centimeter, and what is not known; the image is always read."""
    actual = read_image(imagej(tmp_path, text, **options))
    np.testing.assert_array_equal(actual.image[0], PLANE)
    assert actual.pixel_size_nm == (None if nm is None else pytest.approx(nm, rel=1e-4))


def test_resolutions_of_prints(tmp_path: Path) -> None:
    """Dots per inch or centimeter without a microscope's metadata are no pixel size."""
    for unit in ("INCH", "CENTIMETER", "NONE"):
        tifffile.imwrite(tmp_path / "a.tif", PLANE, resolution=(1e4, 1e4), resolutionunit=unit)
        assert read_image(tmp_path / "a.tif").pixel_size_nm is None


@pytest.mark.parametrize(
    ("size", "unit", "nm"),
    [(0.65, None, 650), (650, "nm", 650), (6.5, "Å", 0.65), (1, "pixel", None), (1, "reference frame", None),
     (0, "µm", None), (1, "m", None), (6.5e-7, "m", 650)],
)  # fmt: skip
def test_ome(tmp_path: Path, size: float, unit: str | None, nm: float | None) -> None:
    """OME's default unit is µm; pixels and reference frames are no lengths."""
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size, **units}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, ome=True, metadata=metadata)
    assert read_image(tmp_path / "a.ome.tif").pixel_size_nm == (None if nm is None else pytest.approx(nm))


@pytest.mark.parametrize(
    "description",
    [
        "ImageJ=1.53t\nimages=3\nslices=abc\n",
        "ImageJ=1.53t\nimages=1\ncf=abc\nunit=um\n",
        '{"shape": [3, 4]}',
        "<MetaData><PlaneInfo></MetaData>",
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels SizeX="a" '
        'DimensionOrder="XYCZT"/></Image></OME>',
    ],
)
def test_metadata_that_make_no_sense(tmp_path: Path, description: str) -> None:
    """An image is read whatever its metadata; of several pages it is asked what they are."""
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description=description, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").image[0], PLANE)
    both = np.stack([PLANE, PLANE + 1])
    tifffile.imwrite(tmp_path / "b.tif", both, description=description, metadata=None, photometric="minisblack")
    with pytest.raises(SegueError, match="holds 2 pages and does not say what they are"):
        read_image(tmp_path / "b.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", pages="time", page=1).image[0], both[1])


def test_unreadable_metadata(tmp_path: Path) -> None:
    """OME-XML that is malformed leaves the image as it is, with a note."""
    broken = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image></OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=broken, metadata=None)
    actual = read_image(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(actual.image[0], PLANE)
    assert "its OME metadata cannot be read" in actual.notes[0]


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    """The size is not known, and a note gives both sides."""
    actual = read_image(imagej(tmp_path, "unit=nm\n", resolution=(2, 4)))
    assert actual.pixel_size_nm is None
    assert re.search(r"0.5 × 0.25 nm, which are not square", actual.notes[0])


def test_channel_names(tmp_path: Path) -> None:
    """Names of OME channels and labels of ImageJ's slices; titles of files are no names."""
    both = np.stack([PLANE, PLANE + 1])
    metadata: dict[str, Any] = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", both, ome=True, metadata=metadata)
    assert read_image(tmp_path / "a.ome.tif").channels == ("DAPI", "GFP")
    for labels, names in (
        (["DAPI", "GFP"], ("DAPI", "GFP")),
        (["c:1/2 - DAPI", "c:2/2 - GFP"], ("DAPI", "GFP")),
        (["c1_field.tif", "c2_field.tif"], None),
        (["c:1/2", "c:2/2"], None),
    ):
        tifffile.imwrite(tmp_path / "b.tif", both, imagej=True, metadata={"axes": "CYX", "Labels": labels})
        assert read_image(tmp_path / "b.tif").channels == names


def test_metaseries(tmp_path: Path) -> None:
    """MetaSeries gives the calibration and the name of the illumination."""
    entries = {
        "spatial-calibration-state": ("bool", "on"), "spatial-calibration-x": ("float", "0.325"),
        "spatial-calibration-y": ("float", "0.325"), "spatial-calibration-units": ("string", "um"),
        "_IllumSetting_": ("string", "DAPI"),
    }  # fmt: skip
    text = "".join(f'<prop id="{name}" type="{kind}" value="{value}"/>' for name, (kind, value) in entries.items())
    description = f"<MetaData><PlaneInfo>{text}</PlaneInfo></MetaData>"
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description=description, metadata=None, software="MetaSeries")
    actual = read_image(tmp_path / "a.tif")
    assert actual.pixel_size_nm == pytest.approx(325)
    assert actual.channels == ("DAPI",)


@pytest.mark.parametrize(
    ("per_unit", "unit", "nm"),
    [
        (1e4 / 0.325, "CENTIMETER", None),
        (25400 / 0.325, "INCH", None),
        (1e4 / 0.65, "CENTIMETER", 650),
        (300, "INCH", 650),  # of a print
        (118, "CENTIMETER", 650),
        (1, "NONE", 650),
    ],
)
def test_ome_and_resolution_tags(tmp_path: Path, per_unit: float, unit: str, nm: float | None) -> None:
    """Resolution tags finer than any print must not contradict OME: else the size is not known, and both are told."""
    metadata = {"axes": "YX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}
    options: dict[str, Any] = {"resolution": (per_unit,) * 2, "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, ome=True, metadata=metadata, **options)
    actual = read_image(tmp_path / "a.ome.tif")
    assert actual.pixel_size_nm == (nm and pytest.approx(nm))
    note = "its metadata contradict one another (650 nm (OME), 325 nm (XResolution) per pixel): "
    assert actual.notes == (() if nm else (f"{note}the pixel size is not known",))


@pytest.mark.parametrize(
    ("items", "nm"),
    [("AppMag = 20|MPP = 0.4990", 499), ("MPP=0.25|x", 250), ("MPP = 0|AppMag = 20", None), ("a", None)],
)
def test_aperio(tmp_path: Path, items: str, nm: float | None) -> None:
    """Aperio states micrometers per pixel in the description."""
    description = f"Aperio Image Library v11.2.1\r\n6x4 (256x256) J2K/YUV16 Q=70|{items}"
    tifffile.imwrite(tmp_path / "a.tif", PLANE, description=description, metadata=None)
    actual = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(actual.image[0], PLANE)
    assert actual.pixel_size_nm == (nm and pytest.approx(nm))
