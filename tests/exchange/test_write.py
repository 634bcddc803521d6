"""`segue.write_objects`: formats by suffix, one sentence for what does not fit, nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from samples.awkward_labels import AWKWARD

import segue
from segue.errors import SegueError
from segue.exchange import geojson
from segue.exchange.write import FORMATS

LABELS = np.array([[1, 0, 2]])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_its_suffix(format: str, tmp_path: Path):
    """A file without a format is written as one with the format that its suffix means; lists are arrays."""
    for suffix in FORMATS[format].suffixes:
        one = segue.write_objects(LABELS, tmp_path / f"one{suffix}", format=format, name="image")
        other = segue.write_objects(LABELS.tolist(), tmp_path / "sub" / f"other{suffix}", name="image")
        assert one.is_dir() == other.is_dir() == format.startswith("ome-zarr")
        if one.is_file() and not format.startswith("geoparquet"):
            assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a.png", {}, "no format has this suffix; give one of .geojson (geojson)"),
        ("a", {}, "no format has this suffix"),
        ("a.json", {"format": "yolo"}, "format = 'yolo'; allowed are geojson"),
        ("a.json", {"object_type": "cell"}, "object_type = 'cell'; allowed are detection, annotation"),
        ("a.json", {"pixel_size_nm": 0}, "pixel_size_nm = 0; allowed are numbers above 0"),
        ("a.json", {"stack_position": 0}, "stack_position = 0; allowed are numbers from 1 on"),
        ("a.json", {"classes": {"1": 2}}, "2 is no name of a class"),
        ("a.json", {"classes": ["cell"]}, "classes are not by number of object"),
        ("a.json", {"classes": {"one": "cell"}}, "classes are not by number of object"),
        ("a.json", {"measurements": {"a": [1, 2]}}, "no column 'label'"),
        ("a.json", {"measurements": {"label": [1, 3]}}, "measurements lack 1 of 2 objects, such as number 2"),
        ("a.json", {"measurements": {"label": [1, 2, 2]}}, "holds no distinct integers"),
        ("a.json", {"measurements": {"label": [1, 2], "a": [1]}}, "'a' is of shape (1,), but 'label' of (2,)"),
        ("a.json", {"measurements": {"label": [1, 2], "a": [1, np.inf]}}, "'a' holds infinity"),
        ("a.json", {"measurements": {"label": [1, 2], "bbox": [1, 2]}}, "since GeoParquet has it; rename it"),
    ],
)
def test_what_does_not_fit_is_refused(path: str, options: dict[str, Any], message: str, tmp_path: Path):
    """A wrong argument is told with the file, what is allowed and what to do, before anything is written."""
    with pytest.raises(SegueError) as error:
        segue.write_objects(LABELS, tmp_path / path, **options)
    assert str(error.value).startswith(f"{tmp_path / path}: ") and message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_measurements_are_by_number(tmp_path: Path):
    """A table with the numbers as its index, in any order and with more rows, is that of the objects."""
    table = pd.DataFrame({"size": [30.0, 20.0, 10.0]}, index=pd.Index([3, 2, 1], name="label"))
    path = segue.write_objects(LABELS, tmp_path / "a.parquet", measurements=table)
    assert pd.read_parquet(path)["size"].tolist() == [10, 20]


def test_numbers_beyond_label_images_are_refused(tmp_path: Path):
    """A number that no label image holds is told; files with outlines hold it."""
    labels = np.array([[2**33]])
    with pytest.raises(SegueError, match="label images have numbers below"):
        segue.write_objects(labels, tmp_path / "a.tif")
    assert pd.read_parquet(segue.write_objects(labels, tmp_path / "a.parquet"))["label"].tolist() == [2**33]


def test_folders_are_not_replaced(tmp_path: Path):
    """An OME-Zarr that exists, such as the image, stays; so does a folder with the name of a file."""
    (tmp_path / "image.zarr").mkdir()
    with pytest.raises(SegueError, match="exists and is a folder"):
        segue.write_objects(LABELS, tmp_path / "image.zarr")
    (tmp_path / "a.geojson").mkdir()
    with pytest.raises(SegueError, match="cannot be written"):
        segue.write_objects(LABELS, tmp_path / "a.geojson")


def test_an_error_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file whose writing fails halfway is not there, and the one before it stays."""
    before = segue.write_objects(AWKWARD["noise"], tmp_path / "a.geojson").read_bytes()

    def fail(outline: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(geojson, "_geometry", fail)
    with pytest.raises(SegueError, match=r"a\.geojson: cannot be written .*free disk space"):
        segue.write_objects(LABELS, tmp_path / "a.geojson")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
