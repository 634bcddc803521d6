"""GeoParquet: read by geopandas, pixel for pixel."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet
from samples.awkward_labels import AWKWARD, numbers_of, pixels_of

import segue
from segue.exchange import geoparquet, outlines


@pytest.mark.parametrize("name", AWKWARD)
def test_geometries_hold_the_pixels(name: str, tmp_path: Path):
    """geopandas reads valid geometries without a reference system; each is its object pixel for pixel."""
    labels = AWKWARD[name]
    path = segue.write_objects(labels, tmp_path / "a.parquet")
    frame = geopandas.read_parquet(path)
    assert frame.crs is None and frame.geometry.name == "geometry"
    assert frame["label"].tolist() == numbers_of(labels) and frame.geometry.is_valid.all()
    for number, geometry in zip(frame["label"], frame.geometry, strict=True):
        assert np.array_equal(pixels_of(geometry, labels.shape), labels == number)
    geo = json.loads(parquet.read_metadata(path).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry" and column["crs"] is None
    assert column["encoding"] == "WKB" and set(column["geometry_types"]) == set(frame.geom_type)
    assert column.get("bbox") == (frame.total_bounds.tolist() if len(frame) else None)


def test_columns_and_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Measurements keep their types, undefined ones are null; a region is read by the boxes of its objects."""
    monkeypatch.setattr(geoparquet, "GROUP_BYTES", 1)
    monkeypatch.setattr(outlines, "CHUNK_OBJECTS", 2)
    labels = np.diag(np.arange(1, 8))
    table = pd.DataFrame({
        "label": np.arange(1, 8), "n": pd.array([1, 2, 3, None, 5, 6, 7], "Int64"), "x": [0.5] * 7,
        "text": ["a", None, *"cdefg"],
    })  # fmt: skip
    path = segue.write_objects(labels, tmp_path / "a.parquet", classes={1: "cell"}, measurements=table, name="image")
    frame = geopandas.read_parquet(path)
    assert parquet.read_metadata(path).num_row_groups >= 4
    assert frame["n"].isna().tolist() == [False] * 3 + [True] + [False] * 3 and frame["n"].sum() == 24
    assert frame["area_px"].dtype == np.int64 and frame["class"][0] == "cell" and pd.isna(frame["class"][1])
    assert set(frame["image"]) == {"image"} and pd.isna(frame["text"][1])
    assert geopandas.read_parquet(path, bbox=(2.5, 2.5, 4.5, 4.5))["label"].tolist() == [3, 4, 5]
