"""Image entries, and the field of the well's grid that each belongs to.

A field comes from rows and columns in names or tables; else from stage positions; else from running numbers.
"""

from __future__ import annotations

import functools
import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segue.plates.spec import FieldIndex, FieldOrder, FilesSpec

USUAL_WELL = r"([A-Za-z]{1,2})[-_]?0*([0-9]{1,3})"
ROW_AND_COLUMN = r"[rR]0*([0-9]{1,3})[cC]0*([0-9]{1,3})"  # of Opera and Operetta
MAX_ROW = 26 * 27  # ZZ
STAGE_TOLERANCE = 0.25  # stage positions within this fraction of a tile's side are in one row or column
OVERLAP_TOLERANCE = 0.05  # a note says if the steps of the stage imply an overlap that differs by more
UNPLACED: FieldIndex = (-1, -1)  # of images whose field is unknown; an error says why


@dataclass(frozen=True)
class Plane:
    """Where one (H, W) image is stored: a file, or the folder of a Zarr array, and the index in it.

    index: () for the only image of a file; (page,) of a TIFF; the indices along the leading axes of a Zarr array.
    """

    path: Path
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageEntry:
    """One image with the information from its name, metadata or a table; None if unknown."""

    plate: str
    well: str
    time: int
    channel: str  # the token
    plane: Plane
    field_index: FieldIndex | None = None
    field_number: int | None = None  # the running number of the field
    stage: tuple[float, float] | None = None  # y, x in µm, or in the stage's unit if it is unknown
    shape: tuple[int, int] | None = None
    dtype: str | None = None
    pixel_size_um: float | None = None
    interval_h: float | None = None  # from one time index to the next
    time_h: float | None = None  # since the start of the acquisition

    @property
    def key(self) -> str:
        return f"{self.plate}/{self.well}"


@dataclass
class ScanResult:
    """All images of a scan, and sentences: files that match nothing, missing images, errors that stop, and notes."""

    images: list[ImageEntry] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@functools.cache  # called for every file
def well_name(text: str) -> str:
    """Returns "A1" for "A01", "a1", "A-01", "A_1" and "r01c01" (row and column, from 1); other names unchanged."""
    match = re.fullmatch(ROW_AND_COLUMN, text)
    if match is not None and 0 < int(match[1]) <= MAX_ROW and int(match[2]) > 0:
        tens, row = divmod(int(match[1]) - 1, 26)
        return f"{chr(ord('A') + tens - 1) if tens else ''}{chr(ord('A') + row)}{int(match[2])}"
    match = re.fullmatch(USUAL_WELL, text)
    return f"{match[1].upper()}{match[2]}" if match else text


def pixel_dtype(dtype: np.dtype | None) -> str:
    """Returns the type in which `read_plane` returns pixels stored as `dtype`."""
    if dtype is None or dtype.kind == "b":
        return "uint8"
    return "float32" if dtype.kind == "f" else str(dtype.newbyteorder("="))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a key that sorts A2 before A10, and Z1 before AA1."""
    return tuple(
        (0, len(part.lstrip("0")), part.lstrip("0")) if part[0] in "0123456789" else (len(part), 0, part)
        for part in re.findall(r"[0-9]+|[^0-9]+", text)
    )


def abbreviate(items: Iterable[object], max_items: int = 4) -> str:
    """Returns the first items, joined, and how many more there are."""
    texts = [str(item) for item in items]
    rest = f" and {len(texts) - max_items} more" if len(texts) > max_items else ""
    return ", ".join(texts[:max_items]) + rest


def field_index(number: int, grid: tuple[int, int], order: FieldOrder) -> FieldIndex:
    """Returns the row and column of a running number, which starts at 0."""
    rows, columns = grid
    if order.endswith("rows"):
        row, column = divmod(number, columns)
        return row, columns - 1 - column if order == "snake-rows" and row % 2 else column
    column, row = divmod(number, rows)
    return rows - 1 - row if order == "snake-columns" and column % 2 else row, column


def assign_fields(scan: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    """Returns the field of each image of the scan, and the grid (rows, columns); adds to its errors and notes.

    Images that cannot be placed get UNPLACED, and an error says why.
    """
    images = scan.images
    if all(image.field_index is not None for image in images):
        return _by_rows_and_columns(scan, spec)
    if _has_stage_positions(images, spec):
        return _by_stage(scan, spec)
    numbers = {image.field_number for image in images}
    if None not in numbers and (spec.grid or len(numbers) > 1):
        return _by_number(scan, spec)
    return [(0, 0)] * len(images), spec.grid or (1, 1)


def _has_stage_positions(images: Sequence[ImageEntry], spec: FilesSpec) -> bool:
    """Returns whether every image has a stage position that distinguishes the fields of its well."""
    if any(image.stage is None for image in images):
        return False
    positions, numbers = defaultdict(set), defaultdict(set)
    for image in images:
        positions[image.key].add(image.stage)
        numbers[image.key].add(image.field_number)
    if any(len(positions[key]) < len(numbers[key]) for key in positions):
        return False
    has_scale = _side_um(images[0], spec, 0) is not None  # else a step cannot be told from the error of the stage
    return max(map(len, numbers.values())) > 1 or (has_scale and max(map(len, positions.values())) > 1)


def _by_rows_and_columns(scan: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    indices = [image.field_index for image in scan.images if image.field_index is not None]
    start = _first_number(scan, spec, "rows and columns", [min(index) for index in indices])
    fields = [(row - start, column - start) for row, column in indices]
    grid = spec.grid or (max(row for row, _ in fields) + 1, max(column for _, column in fields) + 1)
    return _check_inside(scan, fields, grid), grid


def _by_number(scan: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    if spec.grid is None:
        scan.errors.append(
            "files: fields have only a running number, but there is no grid; add grid = [rows, columns] and "
            "field_order."
        )
        return [UNPLACED] * len(scan.images), (1, 1)
    numbers = [image.field_number for image in scan.images if image.field_number is not None]
    start = _first_number(scan, spec, "fields", numbers)
    fields = [field_index(n - start, spec.grid, spec.field_order) if n >= start else UNPLACED for n in numbers]
    return _check_inside(scan, fields, spec.grid), spec.grid


def _first_number(scan: ScanResult, spec: FilesSpec, what: str, numbers: Sequence[int]) -> int:
    lowest = min(numbers)
    if spec.count_from is not None:
        return spec.count_from
    if lowest > 1:
        scan.errors.append(
            f"files: {what} begin at {lowest}, not at 0 or 1; add count_from and grid if the first ones are missing."
        )
    if lowest == 1:
        scan.notes.append(f"{what} are counted from 1")
    return min(lowest, 1)


def _check_inside(scan: ScanResult, fields: list[FieldIndex], grid: tuple[int, int]) -> list[FieldIndex]:
    inside = [0 <= row < grid[0] and 0 <= column < grid[1] for row, column in fields]
    if not all(inside):
        path = scan.images[inside.index(False)].plane.path
        scan.errors.append(
            f"{path}: its field is outside the grid of {grid[0]} × {grid[1]}, as are {inside.count(False) - 1} more; "
            "correct grid, or count_from."
        )
    return [index if is_inside else UNPLACED for index, is_inside in zip(fields, inside, strict=True)]


def _by_stage(scan: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    """Sorts the stage positions of each well into rows and columns."""
    wells: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(scan.images):
        wells[image.key].append(i)
    indices: list[list[int]] = [[0, 0] for _ in scan.images]
    counts = {key: [1, 1] for key in wells}
    for axis, reversed_axis in enumerate((spec.stage_y_up, spec.stage_x_left)):
        # positions of each well along this axis, grouped into lines
        sign, side_um = -1 if reversed_axis else 1, _side_um(scan.images[0], spec, axis)
        positions = [sign * image.stage[axis] for image in scan.images if image.stage is not None]
        lines = {key: _lines([positions[i] for i in members], side_um) for key, members in wells.items()}
        gaps = [b - a for centers, _ in lines.values() for a, b in itertools.pairwise(centers)]
        step = statistics.median(gaps) if gaps else 1.0
        # lines numbered by the step, so that an empty one in between counts
        for key, members in wells.items():
            centers, line_of = lines[key]
            numbers = [round((center - centers[0]) / step) for center in centers]
            counts[key][axis] = numbers[-1] + 1
            for i, line in zip(members, line_of, strict=True):
                indices[i][axis] = numbers[line]
        if gaps and side_um and abs(1 - step / side_um - spec.overlap) > OVERLAP_TOLERANCE:
            scan.notes.append(
                f"the steps of the stage along {'yx'[axis]} give an overlap of {1 - step / side_um:.2f}, not "
                f"{spec.overlap:g}"
            )
    grid = spec.grid or (max(rows for rows, _ in counts.values()), max(columns for _, columns in counts.values()))
    for key, (rows, columns) in counts.items():
        if (rows, columns) != grid:
            scan.errors.append(
                f"{key}: its stage positions show {rows} × {columns} fields, the grid is {grid[0]} × {grid[1]}, and "
                "which are missing is unknown; name rows and columns in a manifest, or leave the well out."
            )
    scan.notes.append("rows and columns are those of the stage positions")
    return [(row, column) for row, column in indices], grid


def _side_um(image: ImageEntry, spec: FilesSpec, axis: int) -> float | None:
    size_um = image.pixel_size_um or spec.pixel_size_um
    return None if image.shape is None or size_um is None else image.shape[axis] * size_um


def _lines(values: Sequence[float], side_um: float | None) -> tuple[list[float], list[int]]:
    """Returns the centers of the groups of nearby values, ascending, and the group of each value."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    gaps = [values[b] - values[a] for a, b in itertools.pairwise(order)]
    max_gap = STAGE_TOLERANCE * side_um if side_um else max(0.5 * max(gaps, default=0.0), 1e-9)
    groups: list[list[int]] = [[order[0]]]
    for gap, i in zip(gaps, order[1:], strict=True):
        if gap > max_gap:
            groups.append([])
        groups[-1].append(i)
    line_of = {i: line for line, group in enumerate(groups) for i in group}
    return [statistics.fmean(values[i] for i in group) for group in groups], [line_of[i] for i in range(len(values))]
