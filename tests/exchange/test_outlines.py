"""Outlines: valid geometries that enclose just the pixels of each object, however the image is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from samples.awkward_labels import AWKWARD, numbers_of, pixels_of
from scipy import ndimage
from shapely import MultiPolygon, Polygon, is_valid_reason
from skimage.measure import regionprops

from segue import rng
from segue.data import tiling
from segue.errors import SegueError
from segue.exchange import outlines as module
from segue.exchange.outlines import find_objects, outlines


def geometries(labels: Any) -> dict[int, list[Polygon]]:
    regions = find_objects(labels, "test")
    return {
        int(regions.numbers[outline.row]): [Polygon(rings[0], rings[1:]) for rings in outline.parts]
        for chunk in outlines(labels, regions)
        for outline in chunk
    }


def assert_exact(labels: np.ndarray, source: Any = None) -> None:
    """Asserts that outlines of `source` are valid, one polygon a 4-connected part, and the pixels of `labels`."""
    actual = geometries(labels if source is None else source)
    assert sorted(actual) == numbers_of(labels)
    for number, polygons in actual.items():
        geometry, pixels = MultiPolygon(polygons), labels == number
        assert geometry.is_valid, is_valid_reason(geometry)
        assert geometry.area == pixels.sum() and np.array_equal(pixels_of(geometry, labels.shape), pixels)
        assert len(polygons) == ndimage.label(pixels)[1]
        for polygon in polygons:
            rings = [polygon.exterior, *polygon.interiors]
            assert all(len(set(ring.coords)) == len(ring.coords) - 1 for ring in rings)
            assert polygon.exterior.is_ccw and not any(ring.is_ccw for ring in polygon.interiors)


@pytest.mark.parametrize("name", AWKWARD)
def test_outlines_enclose_just_the_pixels(name: str):
    """Every geometry is valid in the sense of OGC, oriented as RFC 7946 asks, and rasterizes to its object."""
    assert_exact(AWKWARD[name])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_outlines_do_not_depend_on_bands(rows: int, monkeypatch: pytest.MonkeyPatch):
    """Objects that cross any number of bands and blocks have the outlines that they have in one."""
    labels = rng.numpy_generator("bands").integers(0, 4, (24, 19)).astype(np.uint16)
    expected = {number: MultiPolygon(polygons) for number, polygons in geometries(labels).items()}
    monkeypatch.setattr(tiling, "BAND_BYTES", 7 * 19 * 2)
    monkeypatch.setattr(module, "BLOCK_PX", rows * 19)
    assert_exact(labels)
    assert all(MultiPolygon(polygons).equals(expected[number]) for number, polygons in geometries(labels).items())


def test_labels_are_sliced_only(tmp_path):
    """Zarr arrays and memory maps are labels as arrays are."""
    labels = AWKWARD["noise"]
    assert_exact(labels, zarr.create_array(tmp_path / "labels", data=labels, chunks=(7, 7)))
    labels.tofile(tmp_path / "raw")
    assert_exact(labels, np.memmap(tmp_path / "raw", labels.dtype, "r", shape=labels.shape))


def test_a_sponge_is_one_polygon():
    """An object with thousands of holes, among them many that touch, is traced without a search for each."""
    labels = (rng.numpy_generator("sponge").random((300, 300)) < 0.8).astype(np.int32)
    (polygons,) = geometries(labels).values()
    geometry = MultiPolygon(polygons)
    assert geometry.is_valid and geometry.area == labels.sum()
    assert sum(len(polygon.interiors) for polygon in polygons) > 5000


def test_objects_are_those_of_scikit_image():
    """Numbers, areas, centroids and boxes are those of regionprops."""
    labels = AWKWARD["noise"]
    objects, regions = find_objects(labels, "test"), regionprops(labels)
    assert objects.numbers.tolist() == [region.label for region in regions]
    assert objects.area_px.tolist() == [region.area for region in regions]
    assert np.allclose(objects.centroids, [region.centroid for region in regions])
    assert objects.boxes.tolist() == [list(region.bbox) for region in regions]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 3, 4), int), "allowed is (height, width)"),
        (np.zeros((0, 4), int), "of shape (0, 4)"),
        (np.zeros((3, 4)), "of type float64"),
        (np.zeros((3, 4), bool), "number the objects, for example by skimage.measure.label"),
        (np.full((3, 4), -2), "the labels hold -2; allowed are 0 (background), -1 (ignored)"),
        (np.full((3, 4), 2**63, np.uint64), "allowed are numbers below 2^63"),
    ],
)
def test_what_is_no_label_image_is_refused(labels: np.ndarray, message: str):
    """Masks, floats, stacks and numbers below −1 are told in one sentence."""
    with pytest.raises(SegueError) as error:
        find_objects(labels, "a.geojson")
    assert str(error.value).startswith("a.geojson: ") and message in str(error.value)
