"""Annotations of LabelMe: a JSON file beside each image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from segue.data.annotations.shapes import Annotations, Pixels, Shape, ellipse, polygon, reading


def is_labelme(content: Any) -> bool:
    return isinstance(content, Mapping) and "shapes" in content and "imagePath" in content


def read_labelme(content: Mapping[str, Any]) -> Annotations:
    """Returns the shapes of a file in its order; those of one label and group are one object.

    A circle has its center and a point on it, a rectangle two opposite corners, a mask the corners of its box and PNG.
    """
    grouped: dict[tuple[str, Any], list[Shape]] = {}
    for number, one in enumerate(content["shapes"], 1):
        group = one.get("group_id")
        with reading(str(number)):
            shape = _shape(one, str(number))
        grouped.setdefault((shape.class_name, ("alone", number) if group is None else group), []).append(shape)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (int(height), int(width)) if height and width else None
    return Annotations([_joined(shapes) for shapes in grouped.values()], size)


def _joined(shapes: list[Shape]) -> Shape:
    first = shapes[0]
    if any(shape.kind != first.kind for shape in shapes):
        raise ValueError(f"areas and lines in one group of '{first.class_name}'")
    paths = [rings for shape in shapes for rings in shape.paths]
    pixels = tuple(one for shape in shapes for one in shape.pixels)
    return Shape(first.name, first.class_name, first.kind, paths, pixels)


def _shape(one: Mapping[str, Any], name: str) -> Shape:
    points = np.asarray(one["points"], float).reshape(-1, 2)
    kind = one.get("shape_type") or "polygon"
    label = str(one["label"])
    if kind in ("line", "linestrip"):
        return Shape(name, label, "line", [[points]])
    if kind in ("point", "points"):
        return Shape(name, label, "point", [[points]])
    if kind == "polygon":
        return Shape(name, label, "area", [[points]])
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return Shape(name, label, "area", [polygon([(left, top), (right, top), (right, bottom), (left, bottom)])])
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        left, top = points[0] - radius
        return Shape(name, label, "area", pixels=(ellipse(left, top, 2 * radius, 2 * radius),))
    if kind == "mask":
        left, top = np.round(points.min(0)).astype(int).tolist()
        with Image.open(io.BytesIO(base64.b64decode(one["mask"], validate=True)), formats=["PNG"]) as image:
            mask = np.asarray(image) > 0
        return Shape(name, label, "area", pixels=(Pixels(top, left, mask),))
    raise ValueError(f"a shape of type '{kind}'")
