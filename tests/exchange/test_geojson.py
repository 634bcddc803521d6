"""GeoJSON: valid by its schema, with QuPath's members, one feature a line, the pixels of each object."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from samples.awkward_labels import AWKWARD, numbers_of, pixels_of
from shapely.geometry import shape

import segue

POSITION = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
POLYGON = {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 4, "items": POSITION}}
FEATURE = {
    "type": "object",
    "required": ["type", "id", "geometry", "properties"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "Feature"},
        "id": {"type": "string", "format": "uuid"},
        "geometry": {
            "oneOf": [
                {"properties": {"type": {"const": "Polygon"}, "coordinates": POLYGON}},
                {
                    "properties": {
                        "type": {"const": "MultiPolygon"},
                        "coordinates": {"type": "array", "minItems": 2, "items": POLYGON},
                    }
                },
            ]
        },
        "properties": {
            "type": "object",
            "required": ["objectType", "name"],
            "additionalProperties": False,
            "properties": {
                "objectType": {"enum": ["detection", "annotation"]},
                "name": {"type": "string"},
                "classification": {
                    "type": "object",
                    "required": ["name", "color"],
                    "properties": {
                        "name": {"type": "string"},
                        "color": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
                    },
                },
                "measurements": {"type": "object", "additionalProperties": {"type": "number"}},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
    },
}
COLLECTION = {
    "type": "object",
    "required": ["type", "features"],
    "properties": {"type": {"const": "FeatureCollection"}, "features": {"type": "array", "items": FEATURE}},
}


@pytest.mark.parametrize("name", AWKWARD)
def test_features_are_valid_and_hold_the_pixels(name: str, tmp_path: Path):
    """Every file fits the schema of RFC 7946 and QuPath, every geometry is valid and the object pixel for pixel."""
    labels = AWKWARD[name]
    content = json.loads(segue.write_objects(labels, tmp_path / "a.geojson").read_text(encoding="utf-8"))
    jsonschema.validate(content, COLLECTION)
    features = content["features"]
    assert [int(feature["properties"]["name"]) for feature in features] == numbers_of(labels)
    for feature in features:
        geometry, pixels = shape(feature["geometry"]), labels == int(feature["properties"]["name"])
        assert geometry.is_valid and np.array_equal(pixels_of(geometry, labels.shape), pixels)
        assert feature["properties"]["measurements"]["area_px"] == pixels.sum()
        assert uuid.UUID(feature["id"])


def test_members_are_those_of_qupath(tmp_path: Path):
    """Class, color, measurements, texts and type are where QuPath reads them; what is undefined is left out."""
    table = {"label": [5, 1], "confidence": [float("nan"), 0.5], "at_edge": [True, False], "plate": ["B", "A"]}
    path = segue.write_objects(
        np.array([[1, 0, 5]]), tmp_path / "a.geojson", classes={1: "cell", 5: "Zelle, groß"}, measurements=table,
        pixel_size_nm=500, name="image", object_type="annotation",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 4  # one a feature
    first, second = (json.loads(line.rstrip(",")) for line in text.splitlines()[1:3])
    assert first["properties"] == {
        "objectType": "annotation",
        "name": "1",
        "classification": {"name": "cell", "color": [0, 114, 178]},
        "measurements": {"area_px": 1, "y_px": 0, "x_px": 0, "area_um2": 0.25, "confidence": 0.5, "at_edge": 0},
        "metadata": {"plate": "A"},
    }
    assert second["properties"]["classification"]["name"] == "Zelle, groß"
    assert "confidence" not in second["properties"]["measurements"]
    assert first["geometry"] == {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}


def test_ids_are_those_of_the_image_and_the_number(tmp_path: Path):
    """The same objects are the same file, compressed or not; another image has other ids."""
    labels = AWKWARD["noise"]
    path = segue.write_objects(labels, tmp_path / "a.geojson")
    packed = [segue.write_objects(labels, tmp_path / name, name="a") for name in ("a.geojson.gz", "b.geojson.gz")]
    assert gzip.decompress(packed[0].read_bytes()) == path.read_bytes()
    assert packed[0].read_bytes() == packed[1].read_bytes()
    features = json.loads(path.read_bytes())["features"]
    others = json.loads(segue.write_objects(labels, tmp_path / "other.geojson").read_bytes())["features"]
    assert len({feature["id"] for feature in features + others}) == 2 * len(features)
