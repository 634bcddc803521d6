"""The table of objects: scikit-image's definitions, band by band."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from segue import rng
from segue.data import tiling
from segue.inference.object_table import measure_objects


@pytest.fixture
def labels() -> np.ndarray:
    """Returns discs and ellipses that touch each other and the border, far from the origin, and one pixel alone."""
    generator = rng.numpy_generator("table")
    y, x = np.mgrid[:90, :700]
    image = np.zeros((90, 700), np.int32)
    for label in range(1, 40):
        cy, cx, a, b = (*generator.uniform(0, (90, 700)), *generator.uniform(3, 12, 2))
        image[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 + (y - cy) * (x - cx) / 200 < 1] = label
    image[50, 690] = 60  # numbers between are missing
    return image


@pytest.mark.parametrize("band_bytes", [2**26, 700 * 8 * 7])
def test_objects_measure_what_scikit_image_says(labels: np.ndarray, band_bytes: int, monkeypatch: pytest.MonkeyPatch):
    """Areas, boxes, centroids, axes, perimeters and means equal regionprops, with any bands."""
    monkeypatch.setattr(tiling, "BAND_BYTES", band_bytes)
    image = rng.numpy_generator("values").integers(0, 60000, (2, *labels.shape)).astype(np.uint16)
    measured = measure_objects(labels, image, 60)
    columns = measured.columns(pixel_size_um=0.5, channels=("dapi", "gfp"))
    regions = regionprops(labels, intensity_image=np.moveaxis(image, 0, -1))
    assert columns["label"].tolist() == [region.label for region in regions]
    for name, expected in {
        "area_px": [r.area for r in regions],
        "area_um2": [r.area / 4 for r in regions],
        "y_px": [r.centroid[0] for r in regions],
        "x_px": [r.centroid[1] for r in regions],
        "top_px": [r.bbox[0] for r in regions],
        "left_px": [r.bbox[1] for r in regions],
        "bottom_px": [r.bbox[2] for r in regions],
        "right_px": [r.bbox[3] for r in regions],
        "mean_dapi": [r.intensity_mean[0] for r in regions],
        "mean_gfp": [r.intensity_mean[1] for r in regions],
        "major_axis_px": [r.axis_major_length for r in regions],
        "minor_axis_px": [r.axis_minor_length for r in regions],
        "perimeter_px": [r.perimeter for r in regions],
    }.items():
        assert np.allclose(columns[name], expected, rtol=1e-6, atol=1e-3), name
    assert np.allclose(columns["eccentricity"], [r.eccentricity for r in regions], atol=1e-4)
    assert columns["at_edge"].tolist() == [
        r.bbox[0] == 0 or r.bbox[1] == 0 or r.bbox[2] == 90 or r.bbox[3] == 700 for r in regions
    ]


def test_no_objects_and_no_pixel_size():
    """An empty image has an empty table, and without a pixel size there is no area in µm²."""
    columns = measure_objects(np.zeros((5, 6), np.int32), np.zeros((1, 5, 6), np.uint8), 0).columns(
        pixel_size_um=None, channels=("a",)
    )
    assert "area_um2" not in columns and all(len(values) == 0 for values in columns.values())
