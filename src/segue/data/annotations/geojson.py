"""Annotations as GeoJSON, as QuPath writes and reads them: a FeatureCollection, features, a feature, or a geometry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from segue.data.annotations.shapes import Annotations, Shape

NO_OBJECTS = ("root", "tma_core")  # of objectType: the whole image, and a place on a microarray
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
    features = content if isinstance(content, list) else [content]
    shapes, left_out = [], []
    for top in features:
        top = {"type": "Feature", "geometry": top} if top["type"] in KINDS else top
        for feature in top["features"] if top["type"] == "FeatureCollection" else [top]:
            properties = feature.get("properties") or {}
            number = len(shapes) + len(left_out) + 1
            name = str(properties.get("name") or feature.get("id") or number)
            kind = str(properties.get("objectType") or properties.get("object_type") or "")
            geometry = feature.get("geometry")
            if kind in NO_OBJECTS or feature.get("id") in OLD_NO_OBJECTS or geometry is None:
                left_out.append(name)
                continue
            for one in _geometries(geometry):
                shapes.append(_shape(one, name, _class_name(properties), properties))
    return Annotations(
        shapes, notes={"are no objects (whole images, cores), and are left out": left_out} if left_out else {}
    )


def _geometries(geometry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if geometry["type"] == "GeometryCollection":
        return [one for inner in geometry["geometries"] for one in _geometries(inner)]
    if geometry["type"] not in KINDS:
        raise ValueError(f"a geometry of type {geometry['type']}")
    return [geometry]


def _shape(geometry: Mapping[str, Any], name: str, class_name: str, properties: Mapping[str, Any]) -> Shape:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind in MEMBER:
        kind, coordinates = MEMBER[kind], [coordinates]
    plane = geometry.get("plane") or {}
    stack = int(plane.get("t") or 0) or int(plane.get("z") or 0)
    if kind == "MultiPolygon":
        paths = [[_points(ring) for ring in polygon] for polygon in coordinates]
    elif kind == "MultiLineString":
        paths = [[_points(line) for line in coordinates]]
    else:
        paths = [[_points(coordinates)]]
    return Shape(name, class_name, KINDS[kind], paths, page=stack if plane else None)  # type: ignore[arg-type]


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
