"""GeoJSON as QuPath reads and writes objects: a FeatureCollection, one feature a line.

Members of a feature are those of QuPath from 0.4 on (qupath.lib.io.QuPathTypeAdapters; `metadata` from 0.5 on):
`id`, a UUID; `objectType`, `name`, `classification` {name, color}, `measurements` {name: number}, `metadata` {name:
text}. The format is RFC 7946, but for its coordinates, which are pixels.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segue.exchange.objects import Objects, color_of
from segue.exchange.outlines import Outline
from segue.storage import replacing


def write_geojson(path: Path, objects: Objects, *, compress: bool = False) -> None:
    """Writes the objects of an image as GeoJSON for QuPath, by gzip if `compress`."""
    with replacing(path) as partial, contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(partial.open("wb"))
        if compress:
            file = stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        file.write(b'{"type":"FeatureCollection","features":[')
        separator = b"\n"
        for chunk in objects.outlines():
            for feature in _features(objects, chunk):
                line = json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
                file.write(separator + line.encode())
                separator = b",\n"
        file.write(b"\n]}\n")


def _features(objects: Objects, chunk: list[Outline]) -> Iterator[dict[str, Any]]:
    rows = [outline.row for outline in chunk]
    for outline, measurements in zip(chunk, objects.measurements(rows), strict=True):
        row, number = outline.row, int(objects.regions.numbers[outline.row])
        properties: dict[str, Any] = {"objectType": objects.object_type, "name": str(number)}
        name = objects.class_name(row)
        if name is not None:
            properties["classification"] = {"name": name, "color": color_of(int(objects.class_of[row]))}
        properties["measurements"] = measurements
        texts = {column: values[row] for column, values in objects.texts.items() if values[row] is not None}
        if texts:
            properties["metadata"] = texts
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"segue:{objects.name}:{number}")),
            "geometry": _geometry(outline),
            "properties": properties,
        }


def _geometry(outline: Outline) -> dict[str, Any]:
    polygons = [[ring.tolist() for ring in rings] for rings in outline.parts]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
