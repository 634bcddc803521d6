"""Pixel sizes of electron microscopes' TIFF files, written with the tags that their programs write."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segue.data.image_io import read_image

ARRAY = np.random.default_rng(0).integers(0, 255, (20, 30)).astype("u1")


def write(path: Path, *tags: Any, **options: Any) -> Path:
    """Writes a TIFF with tags (code, type, count, value)."""
    tifffile.imwrite(
        path, ARRAY, photometric="minisblack", metadata=None, extratags=[(*tag, True) for tag in tags], **options
    )
    return path


def text_tag(code: int, text: str) -> tuple[int, str, int, str]:
    return code, "s", 0, text


@pytest.mark.parametrize("code", [34680, 34682])
def test_fei(tmp_path: Path, code: int) -> None:
    """Sizes of the scan that the beam used, in m; rows below the scan are told."""
    text = (
        "[Beam]\r\nBeam=IBeam\r\nScan=IScan\r\n[EScan]\r\nPixelWidth=9e-09\r\nPixelHeight=9e-09\r\n"
        "[IScan]\r\nPixelWidth=3.5e-09\r\nPixelHeight=3.5e-09\r\n[Image]\r\nResolutionX=30\r\nResolutionY=16\r\n"
    )
    image = read_image(write(tmp_path / "a.tif", text_tag(code, text)))
    assert image.pixel_size_nm == pytest.approx(3.5)
    assert image.notes == ("its lowest 4 rows are no part of the scan but a bar with text",)
    np.testing.assert_array_equal(image.image[0], ARRAY)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 12.33 nm\r\nAP_PIXEL_SIZE\r\nPixel Size = 24.65 nm\r\n", 12.33),
        ("AP_PIXEL_SIZE\r\nPixel Size = 5.825 nm\r\n", 5.825),
        ("AP_WD\r\nWD = 3.9 mm\r\n", None),
    ],
)
def test_zeiss(tmp_path: Path, lines: str, expected: float | None) -> None:
    """The size of the stored image has precedence over that of the scan."""
    image = read_image(write(tmp_path / "a.tif", text_tag(34118, "\r\n0\r\n0\r\n" + lines)))
    assert image.pixel_size_nm == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(("unit", "expected"), [("µm", 250.0), ("nm", 0.25), ("1/nm", None), ("", None)])
def test_gatan(tmp_path: Path, unit: str, expected: float | None) -> None:
    data = unit.encode("latin-1")
    tags = [(code, "s", len(data) + 1, data + b"\0") for code in (65003, 65004)]
    tags += [(code, "d", 1, 0.25) for code in (65009, 65010)]
    image = read_image(write(tmp_path / "a.tif", *tags))
    assert image.pixel_size_nm == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("bar", "marker", "expected"),
    [("138", "10um", 10_000 / 138), ("100", "200nm", 2.0), ("0", "10um", None), ("9", "?", None)],
)
def test_jeol(tmp_path: Path, bar: str, marker: str, expected: float | None) -> None:
    """The text beside the image states the scale bar; a text of another program does not count."""
    path = write(tmp_path / "a.tif")
    text = f"$CM_FORMAT JEOL_SEM\r\n$CM_MAG 5000\r\n$$SM_MICRON_BAR {bar}\r\n$$SM_MICRON_MARKER {marker}\r\n"
    (tmp_path / "a.txt").write_text(text)
    assert read_image(path).pixel_size_nm == (None if expected is None else pytest.approx(expected))
    (tmp_path / "a.txt").write_text(text.replace("JEOL", "OTHER"))
    assert read_image(path).pixel_size_nm is None


def test_contradiction_is_told(tmp_path: Path) -> None:
    """A size of DigitalMicrograph and another of the scale bar: neither is taken."""
    tags = [(code, "s", 3, b"nm\0") for code in (65003, 65004)] + [(code, "d", 1, 0.25) for code in (65009, 65010)]
    path = write(tmp_path / "a.tif", *tags)
    (tmp_path / "a.txt").write_text("$CM_FORMAT JEOL_SEM\n$$SM_MICRON_BAR 100\n$$SM_MICRON_MARKER 100nm\n")
    image = read_image(path)
    assert image.pixel_size_nm is None
    assert "0.25 nm (Gatan), 1 nm (JEOL)" in image.notes[0]
