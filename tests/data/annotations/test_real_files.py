"""Files that annotation programs wrote (files/ATTRIBUTION.md): the pixels that these programs, or others, say."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation
from shapely.geometry import shape as geometry_of

from segue.data.annotations.draw import draw
from segue.data.annotations.files import annotated_images, read_annotations
from segue.data.annotations.imagej_roi import read_imagej_roi
from segue.data.annotations.shapes import Shape
from segue.data.image_io import read_label_pages, read_labels
from segue.data.spec import Layer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
FILES = Path(__file__).parent / "files"
ROIS = sorted(path.name for path in (FILES / "imagej").iterdir() if path.suffix in (".roi", ".zip"))


def pixels_of(shape: Shape, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), bool)
    pixels = shape.rasterize(height, width)
    if pixels is not None:
        top, left, bottom, right = pixels.box
        full[top:bottom, left:right] = pixels.mask
    return full


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize("name", ROIS)
def test_rois_have_the_pixels_that_imagej_fills(name: str):
    """Areas and points are pixel for pixel those of ImageJ 1.54u, holes and parts beyond the image included; lines are
    within a pixel of what ImageJ draws."""
    with np.load(FILES / "imagej" / "masks.npz") as masks:
        for index, shape in enumerate(read_imagej_roi(FILES / "imagej" / name).shapes):
            expected = masks[f"{name}/{index}"]
            actual = pixels_of(shape, *expected.shape)
            if shape.kind == "line":
                near = [binary_dilation(one, np.ones((3, 3), bool)) for one in (expected, actual)]
                assert (actual <= near[0]).all() and (expected <= near[1]).all() and overlap(actual, expected) > 0.85
            else:
                np.testing.assert_array_equal(actual, expected)


def test_names_and_pages_of_rois():
    shapes = read_imagej_roi(FILES / "imagej" / "line2.roi").shapes
    assert [shape.page for shape in shapes] == [0]  # c, z and t are 1
    shapes = read_imagej_roi(FILES / "imagej" / "cells.zip").shapes
    assert (
        len(shapes) == 4 and len({shape.name for shape in shapes}) == 4 and {shape.page for shape in shapes} == {None}
    )
    kinds = [shape.kind for shape in read_imagej_roi(FILES / "imagej" / "test-rois.zip").shapes]
    assert kinds == ["area"] * 6 + ["line"] * 3


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("histoqc.json", ["Tumor", "Invborder"]),
        ("holed.geojson", [""]),
        ("annotated_regions_Qupath.geojson", ["", "", "", "", ""]),
    ],
)
def test_regions_of_qupath(name: str, classes: list[str]):
    """Lists of features of QuPath 0.2, one feature and collections have the pixels whose centers shapely finds inside,
    holes left out; regions of whole slides are moved to the origin, and scaled."""
    path = FILES / "qupath" / name
    content = json.loads(path.read_text(encoding="utf-8"))
    features = content if isinstance(content, list) else content.get("features", [content])
    shapes = read_annotations(path, Path("a.tif")).shapes
    assert [shape.class_name for shape in shapes] == classes
    for feature, shape in zip(features, shapes, strict=True):
        geometry = geometry_of({key: feature["geometry"][key] for key in ("type", "coordinates")})
        if shape.kind == "point":
            assert feature["geometry"]["type"] == "Point"
            continue
        left, top, right, bottom = (int(side) for side in geometry.bounds)
        scale = max(1, (right - left) // 800, (bottom - top) // 800)  # of regions as large as a slide, every so many px
        moved = [[(ring - (left, top)) / scale for ring in rings] for rings in shape.paths]
        size = ((bottom - top) // scale + 2, (right - left) // scale + 2)
        shift = [type(one)(round(one.top - top), round(one.left - left), one.mask) for one in shape.pixels]
        actual = pixels_of(Shape("", "", "area", moved, tuple(shift)), *size)
        y, x = np.mgrid[: size[0], : size[1]]
        expected = shapely.contains_xy(geometry, (x + 0.5) * scale + left, (y + 0.5) * scale + top)
        if feature["geometry"].get("isEllipse"):  # its polygon is a coarse one
            assert overlap(actual, expected) > 0.97
        else:
            rows, columns = np.nonzero(actual != expected)  # centers on the border, which shapely has outside
            centers = shapely.points((columns + 0.5) * scale + left, (rows + 0.5) * scale + top)
            assert actual.sum() > 100 and (shapely.distance(centers, geometry.boundary) < 1e-6).all()


def test_instances_of_coco():
    """Run lengths are pycocotools' pixel for pixel, crowds are ignored; polygons overlap its masks, which it draws by
    another rule, by more than 97 % and 99 % in the median."""
    path = FILES / "coco" / "val2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (name,) = annotated_images(path) or ()
    annotations = read_annotations(path, Path(name))
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    assert annotations.size == (height, width) and len(annotations.shapes) == len(content["annotations"]) == 16
    overlaps = []
    for shape, one in zip(annotations.shapes, content["annotations"], strict=True):
        segmentation = one["segmentation"]
        runs = coco_mask.frPyObjects(segmentation, height, width)
        expected = coco_mask.decode(runs if isinstance(runs, dict) else coco_mask.merge(runs)).astype(bool)
        actual = pixels_of(shape, height, width)
        assert shape.ignored == bool(one["iscrowd"]) == isinstance(segmentation, dict)
        if isinstance(segmentation, dict):
            np.testing.assert_array_equal(actual, expected)
        else:
            overlaps.append(overlap(actual, expected))
    assert min(overlaps) > 0.97 and np.median(overlaps) > 0.99


def test_compressed_run_lengths():
    path = FILES / "coco" / "blueberries.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    annotations = read_annotations(path, Path("elsewhere/100.tif"))
    for shape, one in zip(annotations.shapes, content["annotations"], strict=True):
        runs = {**one["segmentation"], "counts": one["segmentation"]["counts"].encode()}
        np.testing.assert_array_equal(pixels_of(shape, 256, 256), coco_mask.decode(runs).astype(bool))
    assert [shape.ignored for shape in annotations.shapes] == [False, False, True]


def test_polygons_of_labelme():
    """Cars drawn in LabelMe 4.4 have the pixels whose centers shapely finds inside."""
    path = FILES / "labelme" / "terrain2.json"
    annotations = read_annotations(path, Path("terrain2.png"))
    assert annotations.size == (682, 1024) and [shape.class_name for shape in annotations.shapes] == ["car"] * 5
    y, x = np.mgrid[:682, :1024] + 0.5
    for shape, one in zip(annotations.shapes, json.loads(path.read_text())["shapes"], strict=True):
        expected = shapely.contains_xy(shapely.Polygon(one["points"]), x, y)
        np.testing.assert_array_equal(pixels_of(shape, 682, 1024), expected)


def test_shapes_of_labelme():
    """A circle has the radius of the point on it, lines and points are scribbles of their class."""
    path = FILES / "labelme" / "Mandrill.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    annotations = read_annotations(path, Path("Mandrill.jpg"))
    by_class: dict[str, list[Shape]] = {}
    for shape in annotations.shapes:
        by_class.setdefault(shape.class_name, []).append(shape)
    assert {name: (len(shapes), shapes[0].kind) for name, shapes in by_class.items()} == {
        "Eye": (2, "area"), "Groove": (6, "line"), "Iris": (2, "area"), "Nose": (1, "area"), "EyeBrow": (1, "line"),
        "Nostril": (2, "point"), "Glabella": (1, "point"),
    }  # fmt: skip
    center, rim = np.array(next(one["points"] for one in content["shapes"] if one["label"] == "Iris"))
    radius = np.hypot(*(rim - center))
    y, x = np.mgrid[:256, :256] + 0.5
    expected = np.hypot(x - center[0], y - center[1]) <= radius
    np.testing.assert_array_equal(pixels_of(by_class["Iris"][0], 256, 256), expected)
    assert pixels_of(by_class["Nostril"][0], 256, 256).sum() == 1


def test_labels_inside_an_ilastik_project():
    """Each brushed pixel of the blocks of the project has its label, and all others are ignored."""
    path = FILES / "ilastik" / "cells_apoptotic.ilp"
    assert annotated_images(path) == ["2d_cells_apoptotic_1channel.h5"]
    annotations = read_annotations(path, Path("images/2d_cells_apoptotic_1channel.tif"))
    layer = Layer("cells", "classes", ("background", "foreground"))
    labels, notes = draw(annotations, (1024, 1344), layer, values={}, unlabeled=None, context=path)
    expected = np.full((1024, 1344), -1)
    with h5py.File(path) as file:
        for block in file["PixelClassification/LabelSets/labels000"].values():  # type: ignore[union-attr]
            rows, columns, _ = (
                slice(*map(int, part.split(":"))) for part in str(block.attrs["blockSlice"]).strip("[]").split(",")
            )
            values = block[..., 0]
            expected[rows, columns][values > 0] = np.where(values == 1, 1, 0)[values > 0]
    np.testing.assert_array_equal(labels, expected)
    assert (labels == 1).sum() == 209 and (labels == 0).sum() == 217 and len(notes) == 1


@pytest.mark.parametrize("codec", ["raw", "gzip", "bzip2", "xz", "blosc"])
def test_arrays_of_n5(codec: str):
    """Blocks of every codec, padded beyond the end, give the numbers that were written, axes in NumPy's order."""
    layer = Layer("cells", "instances", ("background", "cell"))
    labels = read_labels(FILES / "n5" / f"{codec}.n5", layer, shape=(4, 5))
    np.testing.assert_array_equal(labels, np.arange(20).reshape(5, 4).T)


def test_labels_of_ome_zarr():
    labels = read_label_pages(FILES / "zarr" / "label_DAPI.zarr")
    assert labels.shape == (1, 540, 1280) and len(np.unique(labels)) == 201


def test_shapes_of_napari():
    """Rectangles and ellipses, also turned ones, polygons, lines and paths count from the center of the first pixel; of
    three axes the first is the page; points have the class of their property."""
    shapes = read_annotations(FILES / "napari" / "shapes2d.csv", Path("a.tif")).shapes
    assert [shape.kind for shape in shapes] == ["area"] * 6 + ["line"] * 2
    rectangle = pixels_of(shapes[0], 120, 120)  # corners (10, 12) and (25, 30) are centers of pixels
    assert rectangle[10:25, 12:30].all() and rectangle.sum() == 15 * 18
    y, x = np.mgrid[:120, :120]
    radius = ((y - 80) / 10) ** 2 + ((x - 25) / 15) ** 2
    assert (np.abs(radius[pixels_of(shapes[2], 120, 120) != (radius <= 1)] - 1) < 1e-9).all()
    turned = pixels_of(shapes[3], 120, 120)  # half axes of 14 and 6 px
    assert abs(turned.sum() - np.pi * 14 * 6) < 8 and turned[30, 90]
    pages = {shape.page for shape in read_annotations(FILES / "napari" / "shapes3d.csv", Path("a.tif"), 0).shapes}
    assert pages == {0}
    points = read_annotations(FILES / "napari" / "points2d_properties.csv", Path("a.tif")).shapes
    assert [(shape.kind, shape.class_name) for shape in points] == [
        ("point", "cell"), ("point", "nucleus"), ("point", "cell"),
    ]  # fmt: skip
    assert np.argwhere(pixels_of(points[0], 120, 120)).tolist() == [[10, 13]]
