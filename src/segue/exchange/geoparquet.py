"""GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0): a row per object, its outline as WKB.

Readers such as geopandas, QGIS, DuckDB and sopa open it; `bbox` lets them read a region alone.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from segue.exchange.objects import Objects
from segue.exchange.outlines import Outline
from segue.storage import replacing

GROUP_BYTES = 2**25  # of a row group, which readers skip or read
POLYGON, MULTI_POLYGON = 3, 6  # of WKB
BBOX = ("xmin", "ymin", "xmax", "ymax")


def write_geoparquet(path: Path, objects: Objects) -> None:
    """Writes the objects with their number, image, class and measurements; coordinates are pixels, so that there is no
    reference system (`crs` null)."""
    import pyarrow as pa
    from pyarrow import parquet

    geometry_types: set[str] = set()
    schema = _schema(objects)
    with replacing(path) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        batches: list[Any] = []
        for chunk in objects.outlines():
            geometry_types |= {"Polygon" if len(outline.parts) == 1 else "MultiPolygon" for outline in chunk}
            batches.append(pa.record_batch(_columns(objects, chunk), schema=schema))
            if sum(batch.nbytes for batch in batches) >= GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(batches))
                batches = []
        writer.write_table(pa.Table.from_batches(batches, schema))
        writer.add_key_value_metadata({"geo": json.dumps(_geo(objects, geometry_types))})


def _schema(objects: Objects) -> Any:
    import pyarrow as pa

    numbers = [(name, pa.from_numpy_dtype(values.dtype)) for name, values in objects.numbers.items()]
    texts = [(name, pa.string()) for name in objects.texts]
    box = pa.struct([(name, pa.float64()) for name in BBOX])
    fields = [("label", pa.int64()), ("image", pa.string()), ("class", pa.string()), *numbers, *texts]
    return pa.schema([*fields, ("bbox", box), pa.field("geometry", pa.binary(), nullable=False)])


def _columns(objects: Objects, chunk: list[Outline]) -> list[Any]:
    import pyarrow as pa

    rows = np.array([outline.row for outline in chunk])
    top, left, bottom, right = objects.regions.boxes[rows].astype(np.float64).T
    return [
        pa.array(objects.regions.numbers[rows]),
        pa.array([objects.name] * len(rows)),
        pa.array([objects.class_name(row) for row in rows.tolist()], pa.string()),
        *(pa.array(values[rows], from_pandas=True) for values in objects.numbers.values()),  # NaN is null
        *(pa.array(values[rows], pa.string()) for values in objects.texts.values()),
        pa.StructArray.from_arrays([pa.array(side) for side in (left, top, right, bottom)], list(BBOX)),
        pa.array([well_known_binary(outline) for outline in chunk], pa.binary()),
    ]


def _geo(objects: Objects, geometry_types: set[str]) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(geometry_types),
        "crs": None,
        "orientation": "counterclockwise",
        "covering": {"bbox": {name: ["bbox", name] for name in BBOX}},
    }
    boxes = objects.regions.boxes
    if len(boxes):
        (top, left), (bottom, right) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        column["bbox"] = [left, top, right, bottom]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def well_known_binary(outline: Outline) -> bytes:
    """Returns a Polygon, or a MultiPolygon of several parts, as little-endian WKB (OGC 06-103r4)."""
    polygons = [_polygon(rings) for rings in outline.parts]
    return (
        polygons[0] if len(polygons) == 1 else struct.pack("<BII", 1, MULTI_POLYGON, len(polygons)) + b"".join(polygons)
    )


def _polygon(rings: list[np.ndarray]) -> bytes:
    parts = [struct.pack("<BII", 1, POLYGON, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    return b"".join(parts)
