"""Annotations drawn as labels: which pixels, which numbers and classes, and what is told of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples.awkward_labels import AWKWARD

import segue
from segue.data.annotations.draw import class_values, describe_annotation_notes, draw
from segue.data.annotations.files import read_annotations
from segue.data.annotations.shapes import Annotations, Pixels, Shape, ellipse, polygon
from segue.data.spec import Layer
from segue.errors import SegueError

OBJECTS = Layer("cells", "instances", ("background", "cell"))
CLASSES = Layer("regions", "classes", ("background", "tumor", "stroma"))
HERE = Path("a.geojson")


def square(name: str, left: float, top: float, side: float, class_name: str = "", **options) -> Shape:
    corners = [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]
    return Shape(name, class_name, "area", [polygon(corners)], **options)


def labels_of(shapes: list[Shape], layer: Layer = OBJECTS, size: tuple[int, int] = (6, 6), **options):
    options = {"values": {}, "unlabeled": None, "context": HERE, **options}
    return draw(Annotations(shapes), size, layer, **options)


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".zip", ".json"])
@pytest.mark.parametrize("name", AWKWARD)
def test_written_objects_are_read_back(name: str, suffix: str, tmp_path: Path):
    """What segue writes for QuPath, ImageJ and COCO gives back every object pixel for pixel, by its number."""
    labels = np.asarray(AWKWARD[name])
    path = segue.write_objects(labels, tmp_path / f"a{suffix}", classes="cell")
    annotations = read_annotations(path, Path("a.tif"))
    pixels, notes = draw(annotations, labels.shape, OBJECTS, values={}, unlabeled=None, context=path)
    numbers = np.array([0, *(int(shape.name) for shape in annotations.shapes)])
    assert not notes and len(numbers) == len(np.unique(labels[labels > 0])) + 1
    np.testing.assert_array_equal(numbers[pixels], np.where(labels > 0, labels, 0))


def test_a_pixel_is_in_an_area_by_its_center():
    """A square from .5 to 2.5 has the four pixels whose centers it encloses or has on its upper and left border."""
    labels, _ = labels_of([square("a", 0.5, 0.5, 2)])
    assert np.argwhere(labels).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    labels, _ = labels_of([square("a", 0.6, 0.6, 2)])
    assert np.argwhere(labels).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_holes_parts_and_ellipses():
    """Rings of a polygon are holes by turns, polygons and pixels of a shape are one object."""
    outer, hole = square("a", 0, 0, 5).paths[0][0], square("a", 1, 1, 3).paths[0][0]
    shape = Shape("a", "", "area", [[outer, hole]], pixels=(Pixels(2, 2, np.ones((1, 1), bool)),))
    labels, notes = labels_of([shape])
    expected = np.pad(np.pad(np.ones((1, 1), int), 1), 1, constant_values=1)
    np.testing.assert_array_equal(labels[:5, :5], expected)
    assert labels[5].sum() == labels[:, 5].sum() == 0 and not notes
    y, x = np.mgrid[:9, :9] + 0.5
    circle = ellipse(1, 2, 7, 5)
    full = np.zeros((9, 9), bool)
    full[circle.top : circle.box[2], circle.left : circle.box[3]] = circle.mask
    np.testing.assert_array_equal(full, ((x - 4.5) / 3.5) ** 2 + ((y - 4.5) / 2.5) ** 2 <= 1)


def test_large_areas_agree_with_points_in_polygons():
    """A ragged star with a thousand corners that leaves the image has the pixels that matplotlib says are inside."""
    from matplotlib.path import Path as Polygon

    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    radius = 40 + 30 * rng.random(1000)
    ring = np.stack([50 + radius * np.cos(angle), 30 + radius * np.sin(angle)], 1)
    labels, notes = labels_of([Shape("star", "", "area", [[ring]])], size=(64, 90))
    y, x = np.mgrid[:64, :90] + 0.5
    inside = Polygon(ring).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(64, 90)
    np.testing.assert_array_equal(labels == 1, inside)
    assert list(notes) == ["reach beyond their image and are cut off"]


def test_later_ones_cover_earlier_ones_and_numbers_have_no_gaps():
    """A pixel of several objects is the last one's; what is covered entirely is told, and takes no number."""
    shapes = [square("lost", 1, 1, 2), square("large", 0, 0, 4), square("over", 3, 3, 2)]
    labels, notes = labels_of(shapes)
    assert labels[0, 0] == 1 and labels[3, 3] == labels[4, 4] == 2 and set(np.unique(labels)) == {0, 1, 2}
    assert notes["are covered entirely by later ones and are lost"] == ["lost"]
    assert notes["cover earlier ones in part or entirely"] == ["large", "over"]


def test_what_lies_outside_or_has_no_pixel_is_told():
    """Objects beyond the image, across its border and between centers of pixels are named."""
    shapes = [square("out", 9, 9, 2), square("across", 4, 4, 4), square("tiny", 1.6, 1.6, 0.5), square("in", 0, 0, 1)]
    labels, notes = labels_of(shapes)
    assert labels.max() == 2 and (labels == 1).sum() == 4 and (labels == 2).sum() == 1
    assert notes["lie outside of their image"] == ["out"]
    assert notes["reach beyond their image and are cut off"] == ["across"]
    assert notes["cover no center of a pixel"] == ["tiny"]
    (outside, _, _) = describe_annotation_notes({"a.tif": notes, "b.tif": {}})
    assert outside == "annotations that lie outside of their image: 1, in 1 of 2 images, e.g. 'out' in a.tif"


def test_scribbles_ignore_the_rest():
    """Lines and points are labels where they are drawn, and other pixels are ignored, unless that is said."""
    line = Shape("1", "tumor", "line", [[np.array([(0.5, 0.5), (4.5, 0.5)])]])
    point = Shape("2", "background", "point", [[np.array([(2.9, 3.1)])]])
    labels, notes = labels_of([line, point], CLASSES)
    assert labels[0].tolist() == [1, 1, 1, 1, 1, -1] and labels[3, 2] == 0 and (labels == -1).sum() == 30
    assert notes == {"are scribbles, whose image is ignored elsewhere": ["1", "2"]}
    labels, notes = labels_of([line, point], CLASSES, unlabeled="background")
    assert labels.sum() == 5 and labels.min() == 0 and not notes
    labels, _ = labels_of([square("1", 0, 0, 2, "stroma")], CLASSES, unlabeled="ignored")
    assert (labels == 2).sum() == 4 and (labels == -1).sum() == 32
    _, notes = labels_of([line, square("2", 0, 0, 2, "cell")], values={"tumor": 1})
    assert notes == {"are lines or points, which outline no object, and are left out": ["1"]}


def test_a_wide_line_has_its_width():
    """A line of 4 px has the pixels whose centers are within 2 px of it, round at its ends."""
    line = Shape("1", "tumor", "line", [[np.array([(10.0, 10.0), (20.0, 10.0)])]], width_px=4)
    labels, _ = labels_of([line], CLASSES, size=(20, 30), unlabeled="background")
    y, x = np.mgrid[:20, :30] + 0.5
    distance = np.hypot(x - np.clip(x, 10, 20), y - 10)
    thin = np.zeros((20, 30), bool)
    thin[10, 10:21] = True  # the pixels that it passes
    np.testing.assert_array_equal(labels == 1, (distance <= 2) | thin)


def test_classes_are_those_of_the_layer():
    """Names are compared in any case; `values` decides first; QuPath's "Ignore*" is ignored; others are refused."""
    assert class_values(["Tumor", "stroma", "Ignore*"], CLASSES, {}, HERE) == {"Tumor": 1, "stroma": 2, "Ignore*": -1}
    assert class_values(["Tumor", ""], CLASSES, {"Tumor": 2, "": 0}, HERE) == {"Tumor": 2, "": 0}
    assert class_values(["", "cell"], OBJECTS, {}, HERE) == {"": 1, "cell": 1}
    assert class_values(["1", "2"], CLASSES, {1: 2, "2": 1}, HERE) == {"1": 2, "2": 1}
    with pytest.raises(SegueError, match=r"a.geojson: has annotations of the class 'Debris', 'Fat', but names are"):
        class_values(["Debris", "Fat", "tumor"], CLASSES, {}, HERE)
    with pytest.raises(SegueError, match="has annotations of the class none, but names are background, tumor, stroma"):
        class_values([""], CLASSES, {}, HERE)
    with pytest.raises(SegueError, match="values gives 'cell' the label 2; allowed are -1 to 1"):
        class_values(["cell"], OBJECTS, {"cell": 2}, HERE)


def test_ignored_objects_and_those_left_out():
    """-1 ignores the pixels of a class, 0 leaves it out; crowds are ignored whatever their class."""
    shapes = [square("1", 0, 0, 2, "cell"), square("2", 3, 0, 2, "debris"), square("3", 0, 3, 2, "cell", ignored=True)]
    labels, _ = labels_of(shapes, values={"debris": -1})
    assert labels[0, 0] == 1 and labels[0, 3] == -1 and labels[3, 0] == -1
    labels, _ = labels_of(shapes, values={"debris": 0})
    assert labels[0, 0] == 1 and labels[0, 3] == 0


def test_annotations_of_an_image_of_another_size_are_refused():
    annotations = Annotations([square("1", 0, 0, 2)], size=(10, 20))
    with pytest.raises(SegueError, match=r"was drawn on an image of 10 × 20 px, but its image is 20 × 10 px"):
        draw(annotations, (20, 10), OBJECTS, values={}, unlabeled=None, context=HERE)
