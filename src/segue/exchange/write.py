"""The objects of a label image in a file that other programs open: `FORMATS` has every format by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from segue.errors import SegueError
from segue.exchange.coco import write_coco
from segue.exchange.geojson import write_geojson
from segue.exchange.geoparquet import write_geoparquet
from segue.exchange.imagej_roi import write_imagej_roi
from segue.exchange.objects import Columns, Objects, ObjectType, describe_objects
from segue.exchange.pictures import WRITERS, Picture, PictureFormat, label_dtype
from segue.storage import as_path, make_folder, remove_abandoned

if TYPE_CHECKING:
    import pandas as pd

MAX_UINT32 = 2**32 - 1


@dataclass(frozen=True)
class Format:
    """How objects are written: suffixes of the files, the usual one first, and the function."""

    suffixes: tuple[str, ...]
    write: Callable[[Path, Objects], None]


def write_labels(path: Path, objects: Objects, *, format: PictureFormat) -> None:
    """Writes the label image itself, with the pixel size and the number of objects.

    Numbers stay: uint16, above 65,535 uint32. Pixels of −1 become 0. Raises SegueError for numbers of 2^32 or more, and
    where a folder stands in the place of an OME-Zarr.
    """
    largest = int(objects.regions.numbers.max(initial=0))
    if largest > MAX_UINT32:
        raise SegueError(
            f"{path}: the labels hold {largest}, but label images have numbers below 2^32; number them anew."
        )
    if path.is_dir():
        raise SegueError(f"{path}: exists and is a folder; nothing in it is replaced: choose another path.")
    facts = {"objects": len(objects.regions)}
    values = PositiveLabels(objects.labels)
    WRITERS[format][1](path, Picture(values, label_dtype(largest), objects.name, objects.pixel_size_nm, facts))


@dataclass(frozen=True)
class PositiveLabels:
    """Labels (H, W), 0 in place of negative numbers; reads only what a slice needs."""

    labels: Any

    @property
    def shape(self) -> tuple[int, int]:
        return self.labels.shape

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        return np.maximum(np.asarray(self.labels[key]), 0)


OUTLINE_FORMATS: dict[str, Format] = {
    "geojson": Format((".geojson",), write_geojson),
    "geojson-gz": Format((".geojson.gz",), partial(write_geojson, compress=True)),
    "imagej-roi": Format((".zip",), write_imagej_roi),
    "coco": Format((".json",), write_coco),
    "geoparquet": Format((".parquet", ".geoparquet"), write_geoparquet),
}
FORMATS: dict[str, Format] = {
    **OUTLINE_FORMATS,
    "tiff": Format((".tif", ".tiff"), partial(write_labels, format="tiff")),
    "ome-tiff": Format((".ome.tif", ".ome.tiff"), partial(write_labels, format="ome-tiff")),
    "ome-zarr": Format((".ome.zarr", ".zarr"), partial(write_labels, format="ome-zarr")),
    "ome-zarr-0.4": Format((".ome.zarr", ".zarr"), partial(write_labels, format="ome-zarr-0.4")),
}


def write_objects(
    labels: Any,
    path: Path | str,
    *,
    format: str | None = None,
    classes: Mapping[int, str] | str | None = None,
    measurements: pd.DataFrame | Columns | None = None,
    pixel_size_nm: float | None = None,
    name: str | None = None,
    object_type: str = "detection",
    stack_position: int | None = None,
) -> Path:
    """Writes the objects of a label image to a file that QuPath, Fiji, napari or geopandas open, and returns its path.

    labels: (height, width) integers, 1 … n by object, with gaps if you like; 0 (background) and −1 (ignored) belong to
    none. Anything that is sliced: an array, a memory map, zarr. It is read by bands, so that its size is not limited by
    the memory. An object may have holes and several parts.

    format: "geojson" (QuPath), "geojson-gz", "imagej-roi", "coco", "geoparquet"; or the labels themselves as "tiff",
    "ome-tiff", "ome-zarr" (0.5) or "ome-zarr-0.4". None: by the suffix, .geojson, .geojson.gz, .zip, .json (COCO),
    .parquet, .tif, .ome.tif or .ome.zarr.

    Outlines follow the borders of pixels; pixel (y, x) covers [x, x + 1] × [y, y + 1], so that they enclose just the
    object's pixels.

    classes: the class of each object by its number, such as {1: "cell", 2: "debris"}, or one name for all.
    measurements: columns of numbers or texts, one of them `label` with the numbers of objects (or the index, if that is
    its name), such as the rows of one image of `objects.csv` of `segue predict`; each object needs a row. Area and
    centroid are added where they are missing (`area_px`; `area_um2`; `y_px`, `x_px`, where 0 is the center of the first
    pixel). A column `confidence` is the score in COCO. pixel_size_nm: of the image, for areas and label images. name:
    of the image, by default that of the file; ids of GeoJSON are made of it and the number. object_type: "detection" or
    "annotation", of QuPath. stack_position: the page of a stack at which ImageJ shows the ROIs, from 1 on; None: all.

    The file appears when it is whole, and replaces one of its name. Raises SegueError for what does not fit, before
    anything is written. docs/exchange.md says what the files hold.

    >>> segue.write_objects(labels, "cells.geojson", classes="cell")  # doctest: +SKIP
    """
    path = as_path(path)
    chosen = FORMATS[_format_of(path, format)]
    if object_type not in get_args(ObjectType):
        raise SegueError(f"{path}: object_type = {object_type!r}; allowed are {', '.join(get_args(ObjectType))}.")
    if pixel_size_nm is not None and not (math.isfinite(pixel_size_nm) and pixel_size_nm > 0):
        raise SegueError(f"{path}: pixel_size_nm = {pixel_size_nm}; allowed are numbers above 0, or None.")
    if stack_position is not None and stack_position < 1:
        raise SegueError(f"{path}: stack_position = {stack_position}; allowed are numbers from 1 on, or None.")
    objects = describe_objects(
        labels if hasattr(labels, "shape") else np.asarray(labels),
        str(path),
        name=name or _stem(path, chosen),
        classes=classes,
        measurements=measurements,
        pixel_size_nm=pixel_size_nm,
        object_type="annotation" if object_type == "annotation" else "detection",
        stack_position=stack_position,
    )
    make_folder(path.parent)
    remove_abandoned(path)
    chosen.write(path, objects)
    return path


def _format_of(path: Path, format: str | None) -> str:
    if format is not None:
        if format not in FORMATS:
            raise SegueError(f"{path}: format = {format!r}; allowed are {', '.join(FORMATS)}.")
        return format
    fitting = [
        (len(suffix), name)
        for name, one in FORMATS.items()
        for suffix in one.suffixes
        if path.name.lower().endswith(suffix)
    ]
    if not fitting:
        suffixes = ", ".join(f"{one.suffixes[0]} ({name})" for name, one in FORMATS.items())
        raise SegueError(f"{path}: no format has this suffix; give one of {suffixes}, or format=…")
    return max(fitting, key=lambda one: one[0])[1]


def _stem(path: Path, format: Format) -> str:
    suffix = next(
        (one for one in sorted(format.suffixes, key=len, reverse=True) if path.name.lower().endswith(one)), path.suffix
    )
    return path.name[: len(path.name) - len(suffix)] or path.name
