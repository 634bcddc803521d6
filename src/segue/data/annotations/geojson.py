"""Annotations as GeoJSON, as QuPath writes and reads them: a FeatureCollection, features, a feature, or a geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segue.data.annotations.shapes import Annotations, Shape, ellipse, reading

NO_OBJECTS = ("root", "tmaCore", "tma_core")  # of objectType: the whole image, and a place on a microarray
OLD_NO_OBJECTS = ("PathRootObject", "TMACoreObject")  # the `id` that QuPath 0.2 and 0.3 gave objects of a kind
KINDS = {
    "Polygon": "area",
    "MultiPolygon": "area",
    "LineString": "line",
    "MultiLineString": "line",
    "Point": "point",
    "MultiPoint": "point",
}
MEMBER = {"Point": "MultiPoint", "LineString": "MultiLineString", "Polygon": "MultiPolygon"}


def is_geojson(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, Mapping) and first.get("type") in ("FeatureCollection", "Feature", *KINDS)


def read_geojson(content: Any) -> Annotations:
    """Returns the features in the order of the file; of cells, the outline of the whole cell.

    The class is QuPath's `classification`, derived ones joined by ": " as it shows them; without it, "".
    """
    shapes, left_out = [], []
    for feature in _features(content if isinstance(content, list) else [content]):
        properties = feature.get("properties") or {}
        name = str(properties.get("name") or feature.get("id") or len(shapes) + len(left_out) + 1)
        kind = str(properties.get("objectType") or properties.get("object_type") or properties.get("type") or "")
        geometry = feature.get("geometry")
        if kind in NO_OBJECTS or feature.get("id") in OLD_NO_OBJECTS or geometry is None:
            left_out.append(name)
            continue
        with reading(name):
            shapes += [_shape(one, name, _class_name(properties)) for one in _geometries(geometry)]
    notes = {"are no objects (whole images, cores), and are left out": left_out} if left_out else {}
    return Annotations(shapes, notes=notes)


def _features(items: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the features of collections, with those inside of others, and bare geometries as features."""
    for item in items:
        if item["type"] == "FeatureCollection":
            yield from _features(item["features"])
        elif item["type"] == "Feature":
            yield item
            yield from _features((item.get("properties") or {}).get("childObjects") or item.get("childObjects") or ())
        else:
            yield {"geometry": item}


def _geometries(geometry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if geometry["type"] == "GeometryCollection":
        return [one for inner in geometry["geometries"] for one in _geometries(inner)]
    if geometry["type"] not in KINDS:
        raise ValueError(f"a geometry of type {geometry['type']}")
    return [geometry]


def _shape(geometry: Mapping[str, Any], name: str, class_name: str) -> Shape:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind in MEMBER:
        kind, coordinates = MEMBER[kind], [coordinates]
    plane = geometry.get("plane") or {}
    stack = int(plane.get("t") or 0) or int(plane.get("z") or 0)
    page = stack if plane else None
    if geometry.get("isEllipse"):
        corners = _points(coordinates[0][0])
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
        pixels = (ellipse(left, top, right - left, bottom - top),)
        return Shape(name, class_name, "area", pixels=pixels, page=page)
    if kind == "MultiPolygon":
        paths = [[_points(ring) for ring in polygon] for polygon in coordinates]
    elif kind == "MultiLineString":
        paths = [[_points(line) for line in coordinates]]
    else:
        paths = [[_points(coordinates)]]
    return Shape(name, class_name, KINDS[kind], paths, page=page)  # type: ignore[arg-type]


def _points(coordinates: Any) -> np.ndarray:
    return np.asarray(coordinates, float).reshape(len(coordinates), -1)[:, :2]


def _class_name(properties: Mapping[str, Any]) -> str:
    classification = properties.get("classification")
    if isinstance(classification, str):
        return classification
    if not isinstance(classification, Mapping):
        return ""
    names = classification.get("names")
    return ": ".join(map(str, names)) if names else str(classification.get("name") or "")
