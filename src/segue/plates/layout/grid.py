"""Images as they are found, and the field of the grid that each belongs to."""

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

from segue.plates.spec import FieldOrder, FilesSpec

FieldIndex = tuple[int, int]  # (row, column) of a field in the grid of a well, from 0
STAGE_TOLERANCE = 0.25  # stage positions nearer than this part of a tile's side are of one row or column
INTERVAL_TOLERANCE = 0.01  # intervals between times nearer than this, relatively, agree
OVERLAP_TOLERANCE = 0.05  # the stage's steps may mean another overlap by so much


@dataclass(frozen=True)
class Plane:
    """Where one (H, W) image lies: a file, or a Zarr array's folder, and the place in it.

    index: () for the only image of a file; (page,) of a TIFF; the indices along the leading axes of a Zarr array.
    """

    path: Path
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImageEntry:
    """One image and what names, metadata or a table say of it, as they count; None where they do not say."""

    plate: str
    well: str
    time: int
    channel: str  # the token
    plane: Plane
    field_index: FieldIndex | None = None
    field_number: int | None = None  # the running number of the field
    stage: tuple[float, float] | None = None  # y, x in µm, or in the unit of the stage where there is none
    shape: tuple[int, int] | None = None
    dtype: str | None = None
    pixel_size_um: float | None = None
    interval_h: float | None = None  # from one time index to the next
    time_h: float | None = None  # since the acquisition began

    @property
    def key(self) -> str:
        return f"{self.plate}/{self.well}"


@dataclass
class ScanResult:
    """All that was found: images; files that fit nothing and what is missing, in words; faults that stop the work."""

    images: list[ImageEntry] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@functools.cache  # asked for every file
def well_name(text: str) -> str:
    """Returns "A1" for "A01", "a1"; other names as they are."""
    found = re.fullmatch(r"([A-Za-z]{1,2})0*(\d{1,3})", text)
    return f"{found[1].upper()}{found[2]}" if found else text


def pixel_dtype(dtype: np.dtype | None) -> str:
    """Returns the type in which `read_plane` gives pixels of this type."""
    if dtype is None or dtype.kind == "b":
        return "uint8"
    return "float32" if dtype.kind == "f" else str(dtype.newbyteorder("="))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a key that sorts A2 before A10, and Z1 before AA1."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (len(part), 0, part) for part in re.findall(r"\d+|\D+", text)
    )


def field_index(number: int, grid: tuple[int, int], order: FieldOrder) -> FieldIndex:
    """Returns the row and column of a running number from 0 on."""
    rows, columns = grid
    if order.endswith("rows"):
        row, column = divmod(number, columns)
        return row, columns - 1 - column if order == "snake-rows" and row % 2 else column
    column, row = divmod(number, rows)
    return rows - 1 - row if order == "snake-columns" and column % 2 else row, column


def assign_fields(findings: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    """Returns the cell of each found image, and the grid (rows, columns); adds to the faults and notes.

    Rows and columns where they are given; else stage positions where all images have them; else running numbers.
    Images that cannot be placed get the cell (-1, -1), and a fault says why.
    """
    found = findings.images
    if all(one.field_index is not None for one in found):
        return _counted(findings, spec)
    if _stage_tells(found, spec):
        return _by_stage(findings, spec)
    if all(one.field_number is not None for one in found) and (
        spec.grid or len({one.field_number for one in found}) > 1
    ):
        return _numbered(findings, spec)
    return [(0, 0)] * len(found), spec.grid or (1, 1)


def _stage_tells(found: Sequence[ImageEntry], spec: FilesSpec) -> bool:
    """Tells whether every image has a stage position, and those of different fields of a well differ."""
    if any(one.stage is None for one in found):
        return False
    stages, numbers = defaultdict(set), defaultdict(set)
    for one in found:
        stages[one.key].add(one.stage)
        numbers[one.key].add(one.field_number)
    if any(len(stages[key]) < len(numbers[key]) for key in stages):
        return False
    measured = _side_um(found[0], spec, 0) is not None  # else the stage's error cannot be told from a step
    return max(map(len, numbers.values())) > 1 or (measured and max(map(len, stages.values())) > 1)


def _counted(findings: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    raw = [one.field_index for one in findings.images if one.field_index is not None]
    start = _start(findings, spec, "rows and columns", [min(cell) for cell in raw])
    cells = [(row - start, column - start) for row, column in raw]
    grid = spec.grid or (max(r for r, _ in cells) + 1, max(c for _, c in cells) + 1)
    return _inside(findings, cells, grid), grid


def _numbered(findings: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    if spec.grid is None:
        findings.errors.append(
            "files: fields are told by a running number alone, and there is no grid; add grid = [rows, columns] and "
            "field_order."
        )
        return [(-1, -1)] * len(findings.images), (1, 1)
    numbers = [one.field_number for one in findings.images if one.field_number is not None]
    start = _start(findings, spec, "fields", numbers)
    cells = [field_index(n - start, spec.grid, spec.field_order) if n >= start else (-1, -1) for n in numbers]
    return _inside(findings, cells, spec.grid), spec.grid


def _start(findings: ScanResult, spec: FilesSpec, what: str, numbers: Sequence[int]) -> int:
    least = min(numbers)
    if spec.count_from is not None:
        return spec.count_from
    if least > 1:
        findings.errors.append(
            f"files: {what} begin at {least}, not at 0 or 1; add count_from and grid where the first ones are missing."
        )
    if least == 1:
        findings.notes.append(f"{what} are counted from 1")
    return min(least, 1)


def _inside(findings: ScanResult, cells: list[FieldIndex], grid: tuple[int, int]) -> list[FieldIndex]:
    outside = [i for i, (r, c) in enumerate(cells) if not (0 <= r < grid[0] and 0 <= c < grid[1])]
    if outside:
        first = findings.images[outside[0]].plane.path
        findings.errors.append(
            f"{first}: its field lies outside the grid of {grid[0]} × {grid[1]}, as do {len(outside) - 1} more; "
            "correct grid, or count_from."
        )
    return [(-1, -1) if i in set(outside) else cell for i, cell in enumerate(cells)] if outside else cells


def _by_stage(findings: ScanResult, spec: FilesSpec) -> tuple[list[FieldIndex], tuple[int, int]]:
    """Sorts the stage positions of each well into rows and columns."""
    wells: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(findings.images):
        wells[one.key].append(i)
    signs = (-1 if spec.stage_y_up else 1, -1 if spec.stage_x_left else 1)
    indices: list[list[int]] = [[0, 0] for _ in findings.images]
    counts = {key: [1, 1] for key in wells}
    for axis in (0, 1):
        lines = {
            key: _lines(
                [signs[axis] * _stage(findings.images[i])[axis] for i in members],
                _side_um(findings.images[0], spec, axis),
            )
            for key, members in wells.items()
        }
        gaps = [b - a for centres, _ in lines.values() for a, b in itertools.pairwise(centres)]
        step = statistics.median(gaps) if gaps else 1.0
        for key, members in wells.items():
            centres, line_of = lines[key]
            at = [round((centre - centres[0]) / step) for centre in centres]
            counts[key][axis] = at[-1] + 1
            for i, line in zip(members, line_of, strict=True):
                indices[i][axis] = at[line]
        side = _side_um(findings.images[0], spec, axis)
        if gaps and side and abs(1 - step / side - spec.overlap) > OVERLAP_TOLERANCE:
            findings.notes.append(
                f"the stage's steps along {'yx'[axis]} mean an overlap of {1 - step / side:.2f}, not {spec.overlap:g}"
            )
    grid = spec.grid or (max(c[0] for c in counts.values()), max(c[1] for c in counts.values()))
    for key, (rows, columns) in counts.items():
        if (rows, columns) != grid:
            findings.errors.append(
                f"{key}: its stage positions show {rows} × {columns} fields, the grid is {grid[0]} × {grid[1]}, and "
                "which are missing cannot be told; name rows and columns in a manifest, or leave the well out."
            )
    findings.notes.append("rows and columns are those of the stage positions")
    cells = [(row, column) for row, column in indices]
    return cells, grid


def _stage(one: ImageEntry) -> tuple[float, float]:
    assert one.stage is not None
    return one.stage


def _side_um(one: ImageEntry, spec: FilesSpec, axis: int) -> float | None:
    size_um = one.pixel_size_um or spec.pixel_size_um
    return None if one.shape is None or size_um is None else one.shape[axis] * size_um


def _lines(values: Sequence[float], side_um: float | None) -> tuple[list[float], list[int]]:
    """Returns the centres of the groups of values that lie together, ascending, and the group of each value."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    gaps = [values[b] - values[a] for a, b in itertools.pairwise(order)]
    apart = STAGE_TOLERANCE * side_um if side_um else max(0.5 * max(gaps, default=0.0), 1e-9)
    groups: list[list[int]] = [[order[0]]]
    for gap, i in zip(gaps, order[1:], strict=True):
        if gap > apart:
            groups.append([])
        groups[-1].append(i)
    line_of = [0] * len(values)
    for line, group in enumerate(groups):
        for i in group:
            line_of[i] = line
    return [statistics.fmean(values[i] for i in group) for group in groups], line_of


def hours_from_metadata(findings: ScanResult) -> dict[int, float]:
    """Returns hours by time index as the metadata of the images tell them; {} where they do not, or disagree.

    An interval counts where all that tell one agree: index 0 is at 0 h. Without one, the medians of the times that
    planes were acquired at, where they ascend with the index: the first is at 0 h. A note says which.
    """
    times = sorted({one.time for one in findings.images})
    intervals = sorted({one.interval_h for one in findings.images if one.interval_h is not None})
    if intervals:
        if intervals[-1] > (1 + INTERVAL_TOLERANCE) * intervals[0]:
            findings.notes.append(
                f"the metadata tell intervals from {intervals[0]:g} to {intervals[-1]:g} h between times; hours are "
                "left open: give interval_h or times"
            )
            return {}
        findings.notes.append(f"times are {intervals[0]:g} h apart, say the metadata")
        return {time: time * intervals[0] for time in times}
    acquired: dict[int, list[float]] = defaultdict(list)
    for one in findings.images:
        if one.time_h is not None:
            acquired[one.time].append(one.time_h)
    medians = [statistics.median(acquired[time]) for time in times if time in acquired]
    if len(medians) < max(2, len(times)) or any(a >= b for a, b in itertools.pairwise(medians)):
        return {}
    findings.notes.append("hours are the times that the metadata say planes were acquired at")
    return {time: median - medians[0] for time, median in zip(times, medians, strict=True)}


def abbreviate(cells: Iterable[object], most: int = 4) -> str:
    """Returns the first few of them, joined, and how many more there are."""
    shown = [str(cell) for cell in cells]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
