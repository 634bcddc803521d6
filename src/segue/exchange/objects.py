"""The objects of an image as files state them: outlines, classes and measurements by object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segue.errors import SegueError
from segue.exchange.outlines import Outline, Regions, find_objects, outlines

if TYPE_CHECKING:
    import pandas as pd

ObjectType = Literal["detection", "annotation"]  # of QuPath
Columns = Mapping[str, Any]
NUMBER = "label"  # the column with the numbers of objects
DESCRIPTIONS = (NUMBER, "image", "class")  # columns of objects.csv that are no measurements
RESERVED = ("bbox", "geometry")  # columns of GeoParquet
NO_CLASS = -1
# distinct also to the color-blind: Okabe and Ito, Color Universal Design (2008)
COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


@dataclass(frozen=True)
class Objects:
    """The n objects of a label image, with what files state of them.

    labels: (H, W), sliceable. name: of the image; file_name: that of its file. regions: numbers, areas and boxes.
    numbers: measurements that are numbers, column → (n,) int64 or float64, NaN where undefined; texts: column → (n,)
    str or None. classes: names of classes; class_of: (n,) the class of each object among them, NO_CLASS for none.
    stack_position: the page of a stack that the image is, from 1 on, None if it is none.
    """

    labels: Any
    name: str
    file_name: str
    regions: Regions
    numbers: Mapping[str, np.ndarray]
    texts: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    class_of: np.ndarray
    pixel_size_nm: float | None = None
    object_type: ObjectType = "detection"
    stack_position: int | None = None

    def outlines(self) -> Iterator[list[Outline]]:
        """Yields the outlines of the objects, a few thousand at a time; see `segue.exchange.outlines.outlines`."""
        return outlines(self.labels, self.regions, self.name)

    def class_name(self, row: int) -> str | None:
        index = self.class_of[row]
        return None if index == NO_CLASS else self.classes[index]

    def measurements(self, rows: list[int]) -> list[dict[str, float]]:
        """Returns the defined measurements of some objects."""
        values = [column[rows].tolist() for column in self.numbers.values()]
        return [
            {name: value for name, value in zip(self.numbers, one, strict=True) if value == value}
            for one in (zip(*values, strict=True) if values else ((),) * len(rows))
        ]


def color_of(index: int) -> tuple[int, int, int]:
    """Returns red, green and blue, 0 … 255, of a class by its place."""
    return COLORS[index % len(COLORS)]


def describe_objects(
    labels: Any,
    context: str,
    *,
    name: str,
    file_name: str | None = None,
    classes: Mapping[int, str] | str | None = None,
    measurements: pd.DataFrame | Columns | None = None,
    pixel_size_nm: float | None = None,
    object_type: ObjectType = "detection",
    stack_position: int | None = None,
) -> Objects:
    """Returns the objects of labels (H, W) with their classes and measurements: see `segue.write_objects`.

    Raises SegueError, which begins with `context`, for labels, classes and measurements that do not fit.
    """
    regions = find_objects(labels, context)
    numbers, texts = _measurements(measurements, regions, context)
    defaults = {"area_px": regions.area_px, "y_px": regions.centroids[:, 0], "x_px": regions.centroids[:, 1]}
    if pixel_size_nm is not None:
        defaults["area_um2"] = regions.area_px * (pixel_size_nm / 1000) ** 2
    names, class_of = _classes(classes, regions, context)
    return Objects(
        labels=labels,
        name=name,
        file_name=file_name or name,
        regions=regions,
        numbers={**defaults, **numbers},
        texts=texts,
        classes=names,
        class_of=class_of,
        pixel_size_nm=pixel_size_nm,
        object_type=object_type,
        stack_position=stack_position,
    )


def _classes(
    classes: Mapping[int, str] | str | None, regions: Regions, context: str
) -> tuple[tuple[str, ...], np.ndarray]:
    class_of = np.full(len(regions), NO_CLASS)
    if classes is None:
        return (), class_of
    if isinstance(classes, str):
        return (classes,), np.zeros_like(class_of)
    try:
        known = np.array(list(classes.keys()), dtype=np.int64)
    except (ValueError, TypeError, OverflowError, AttributeError):
        raise SegueError(
            f"{context}: classes are not by number of object; give a mapping such as {{1: 'cell'}}, or one name."
        ) from None
    wrong = next((value for value in classes.values() if not isinstance(value, str) or not value), None)
    if wrong is not None:
        raise SegueError(f"{context}: {wrong!r} is no name of a class; give texts that are not empty.")
    names = tuple(dict.fromkeys(classes.values()))
    places = {name: index for index, name in enumerate(names)}
    rows, is_there = _rows_of(known, regions.numbers)
    values = np.array([places[name] for name in classes.values()], dtype=class_of.dtype)
    class_of[rows[is_there]] = values[is_there]
    return names, class_of


def _measurements(
    table: pd.DataFrame | Columns | None, regions: Regions, context: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the columns that are numbers, and those that are texts, by the rows of `regions`."""
    if table is None:
        return {}, {}
    columns = {str(name): _array(values) for name, values in table.items()}
    index = getattr(table, "index", None)
    if NUMBER not in columns and index is not None and index.name == NUMBER:
        columns[NUMBER] = _array(index)
    if NUMBER not in columns:
        raise SegueError(f"{context}: measurements have no column '{NUMBER}' with the numbers of objects; add it.")
    numbers = columns[NUMBER]
    uneven = [name for name, values in columns.items() if values.shape != numbers.shape or values.ndim != 1]
    if uneven:
        raise SegueError(
            f"{context}: the measurement '{uneven[0]}' is of shape {columns[uneven[0]].shape}, but '{NUMBER}' of "
            f"{numbers.shape}; give a value for each object."
        )
    if numbers.dtype.kind != "i" or len(np.unique(numbers)) != len(numbers):
        raise SegueError(
            f"{context}: the measurements' column '{NUMBER}' holds no distinct integers; give a row per object, those "
            "of one image."
        )
    rows, is_there = _rows_of(numbers, regions.numbers)
    missing = np.ones(len(regions), np.bool_)
    missing[rows[is_there]] = False
    if missing.any():
        raise SegueError(
            f"{context}: measurements lack {missing.sum()} of {len(regions)} objects, such as number "
            f"{regions.numbers[missing][0]}; give a row for each."
        )
    order = np.empty(len(regions), np.int64)
    order[rows[is_there]] = np.flatnonzero(is_there)
    as_numbers: dict[str, np.ndarray] = {}
    as_texts: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        if name in DESCRIPTIONS:
            continue
        if name in RESERVED:
            raise SegueError(f"{context}: '{name}' is no name of a measurement, since GeoParquet has it; rename it.")
        values = values[order]
        if values.dtype.kind == "O":
            as_texts[name] = values
            continue
        as_numbers[name] = values
        if np.isinf(values).any():
            raise SegueError(f"{context}: the measurement '{name}' holds infinity; allowed are numbers, NaN for none.")
    return as_numbers, as_texts


def _array(column: Any) -> np.ndarray:
    """Returns a column as an array of int64, of float64 (NaN where it is empty), or of str and None."""
    import pandas as pd

    series = pd.Series(column).reset_index(drop=True)
    is_empty = series.isna().to_numpy()
    if series.dtype.kind in "iub":
        return series.to_numpy(np.float64, na_value=np.nan) if is_empty.any() else series.to_numpy(np.int64)
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64, na_value=np.nan)
    return np.array(
        [None if empty else str(value) for value, empty in zip(series, is_empty, strict=True)], dtype=object
    )


def _rows_of(numbers: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of each number among those `known`, and whether it is there."""
    rows = np.minimum(np.searchsorted(known, numbers), max(len(known) - 1, 0))
    return rows, (known[rows] == numbers) if len(known) else np.zeros(len(numbers), np.bool_)
