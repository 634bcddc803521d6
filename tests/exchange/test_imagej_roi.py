"""ImageJ ROIs: read back by roifile, pixel for pixel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from roifile import ROI_TYPE, ImagejRoi, roiread
from samples.awkward_labels import AWKWARD, numbers_of, pixels_of
from shapely import Polygon

import segue


def rois_of(path: Path) -> list[ImagejRoi]:
    rois = roiread(path)
    assert isinstance(rois, list)
    return rois


def pixels_of_roi(roi: ImagejRoi, shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels inside of an odd number of a ROI's rings."""
    pixels = np.zeros(shape, np.bool_)
    for ring in roi.coordinates(multi=True):
        pixels ^= pixels_of(Polygon(ring), shape)
    return pixels


@pytest.mark.parametrize("name", AWKWARD)
def test_rois_hold_the_pixels(name: str, tmp_path: Path):
    """Every object is a ROI of its name, with its pixels and their box: traced, or composite with holes and parts."""
    labels = AWKWARD[name]
    rois = rois_of(segue.write_objects(labels, tmp_path / "a.zip"))
    assert [int(roi.name) for roi in rois] == numbers_of(labels)
    for roi in rois:
        pixels = labels == int(roi.name)
        y, x = np.nonzero(pixels)
        assert np.array_equal(pixels_of_roi(roi, labels.shape), pixels)
        assert (roi.top, roi.left, roi.bottom, roi.right) == (y.min(), x.min(), y.max() + 1, x.max() + 1)


def test_kinds_of_rois(tmp_path: Path):
    """One ring is a traced ROI with integers, a hole makes a composite; class and position are stated."""
    labels = np.pad(AWKWARD["a hole"], 3)
    labels[0, 0] = 9
    path = segue.write_objects(labels, tmp_path / "a.zip", classes={9: "cell\n1"}, stack_position=4)
    hole, pixel = rois_of(path)
    assert (hole.roitype, hole.composite) == (ROI_TYPE.RECT, True)
    assert (pixel.roitype, pixel.composite, pixel.subpixelresolution) == (ROI_TYPE.TRACED, False, False)
    assert pixel.position == hole.position == 4
    assert (pixel.group, pixel.props, pixel.hexcolor(pixel.stroke_color)) == (1, "class: cell 1\n", "#0072b2")
    assert (hole.group, hole.props) == (0, "")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["1.roi", "9.roi"] and archive.testzip() is None
    again = segue.write_objects(labels, tmp_path / "b.zip", classes={9: "cell\n1"}, stack_position=4)
    assert again.read_bytes() == path.read_bytes()


def test_places_beyond_16_bits(tmp_path: Path):
    """Corners that ImageJ's integers do not hold are floats of a composite ROI."""
    labels = np.zeros((3, 70_000), np.uint8)
    labels[1:, 69_998:] = 1
    labels[0, 40_000] = 2
    for roi in rois_of(segue.write_objects(labels, tmp_path / "a.zip")):
        assert roi.composite and np.array_equal(pixels_of_roi(roi, labels.shape), labels == int(roi.name))
