"""Images identified by the pattern of their paths or by a manifest, and the tables of wells and of times."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.data.image_io import TIFF_SUFFIXES
from segue.data.spec import STANDARD_COLUMNS
from segue.data.tables import Table, is_whole_number, read_table
from segue.errors import SegueError
from segue.plates.layout.grid import ImageEntry, Plane, ScanResult, well_name
from segue.plates.spec import NUMBERS, FilesSpec, placeholders

WELL_COLUMNS = ("plate", "well", "stained", "experiment")
RESERVED_COLUMNS = (*STANDARD_COLUMNS, "time", "time_h")  # of every plate's dataset
BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class WellRow:
    """A row of the table of wells; None for a column that does not exist."""

    stained: bool | None
    experiment: str | None
    conditions: Mapping[str, str | int | float]


def scan_pattern(spec: FilesSpec, root: Path, transmitted: str) -> ScanResult:
    """Returns the images whose paths below `root` match `spec.pattern`, and the files that do not."""
    assert spec.pattern is not None
    matched, unmatched = match_paths(spec.pattern, root)
    images = [
        ImageEntry(
            plate=values.get("plate", spec.plate),
            well=well_name(values["well"]),
            time=int(values.get("time", 0)),
            channel=values.get("channel", transmitted),
            plane=Plane(path),
            field_index=(int(values["row"]), int(values["column"])) if "row" in values else None,
            field_number=int(values["field"]) if "field" in values else None,
        )
        for path, values in matched
    ]
    return ScanResult(images, unmatched)


def match_paths(
    pattern: str, root: Path, *, folders: bool = False
) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Returns the matching paths with the values of the placeholders, sorted, and sentences on those that do not match.

    Only files (or `folders`) with the pattern's suffix, below its part without placeholders, are considered, hidden
    ones excepted. Raises SegueError if nothing matches.
    """
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if any(sign in part for sign in "{*?")), len(parts) - 1)
    start = root.joinpath(*parts[:fixed]).resolve()
    expression = _regular_expression("/".join(parts[fixed:]))
    suffix = Path(pattern).suffix.lower()
    suffixes = TIFF_SUFFIXES if suffix in TIFF_SUFFIXES else (suffix,)
    matched, others = [], []
    for path in sorted(_paths_below(start, "", len(parts) - fixed + 1, folders)):
        match = expression.fullmatch(path)
        if match:
            matched.append((start / path, match.groupdict()))
        elif path.lower().endswith(suffixes) and not folders:
            others.append(_relative(start / path, root))
    if not matched:
        example = f"e.g. {others[0]}" if others else f"nothing that ends in {suffix}"
        raise SegueError(
            f"{root}: pattern = '{pattern}' matches no {'folder' if folders else 'file'}; there is {example} below "
            f"{start}: correct the pattern."
        )
    return matched, [f"{path} does not match the pattern" for path in others]


def _regular_expression(pattern: str) -> re.Pattern[str]:
    expression, seen = "", set()
    for literal, name, digits in placeholders(pattern):
        expression += re.escape(literal).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        if name in seen:
            expression += f"(?P={name})"
        elif name:
            expression += rf"(?P<{name}>\d{{{max(digits, 1)},}})" if name in NUMBERS else rf"(?P<{name}>[^/]+?)"
            seen.add(name)
    return re.compile(expression)


def _paths_below(root: Path, folder: str, depth: int, folders: bool) -> Iterator[str]:
    """Yields the paths of files (or folders) relative to `root`, at most `depth` names long; links are followed."""
    try:
        with os.scandir(root / folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise SegueError(f"{root}: there is no such folder; correct the pattern.") from None
    except OSError as error:
        raise SegueError(f"{root / folder}: cannot be read ({error.strerror}); check its permissions.") from error
    for name, is_folder in entries:
        path = f"{folder}/{name}" if folder else name
        if is_folder == folders:
            yield path
        if is_folder and depth > 1 and not (folders and name.endswith(".zarr")):
            yield from _paths_below(root, path, depth - 1, folders)


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def scan_manifest(spec: FilesSpec, root: Path) -> ScanResult:
    """Returns the images listed in the table `spec.manifest`; files that do not exist are missing, not errors."""
    assert spec.manifest is not None
    table = read_rows(root / spec.manifest, ("well", "channel", "path"))
    columns = table.columns
    if ("row" in columns) != ("column" in columns) or ("row" in columns and "field" in columns):
        raise SegueError(
            f"{table.path}: a field is given by the columns row and column, or by field; correct the columns."
        )
    scan = ScanResult()
    for number, row in enumerate(table.rows):
        entry = _manifest_entry(row, columns, spec, root)
        if isinstance(entry, str):
            scan.errors.append(f"{table.line(number)}: {entry}")
        elif not entry.plane.path.exists():
            scan.missing.append(f"{table.path.name}: line {number + 2}: there is no file {row['path']}")
        else:
            scan.images.append(entry)
    if not scan.images and not scan.errors:
        raise SegueError(
            f"{table.path}: none of the {len(table.rows)} files it lists exists; paths are relative to {root}: "
            "correct them."
        )
    return scan


def _manifest_entry(row: Mapping[str, str], columns: Sequence[str], spec: FilesSpec, root: Path) -> ImageEntry | str:
    """Returns the image of a row, or the mistake in the row."""
    index = [part for part in re.split(r"[ ;,]+", row.get("index", "").strip("()[] ")) if part]
    numbers = {name: row[name] for name in NUMBERS if name in columns}
    for name, text in (*numbers.items(), *(("index", part) for part in index)):
        if not is_whole_number(text):
            return f"{name} is '{text}'; give a whole number, 0 or more."
    for name in ("well", "channel", "path"):
        if not row[name]:
            return f"a cell is empty, {name}; fill it in."
    if "/" in row.get("plate", "") + row["well"]:
        return "a name of a plate or well has a slash; leave it out."
    return ImageEntry(
        plate=row.get("plate") or spec.plate,
        well=well_name(row["well"]),
        time=int(numbers.get("time", 0)),
        channel=row["channel"],
        plane=Plane(root / row["path"], tuple(map(int, index))),
        field_index=(int(numbers["row"]), int(numbers["column"])) if "row" in numbers else None,
        field_number=int(numbers["field"]) if "field" in numbers else None,
    )


def read_wells(path: Path, plates: Sequence[str]) -> dict[tuple[str, str], WellRow]:
    """Returns the rows of a table of wells by (plate, well). Further columns are conditions, each of one type."""
    table = read_rows(path, ("well",))
    columns = table.columns
    if "plate" not in columns and len(plates) > 1:
        raise SegueError(f"{path}: has no column plate, but there are {len(plates)} plates; add it.")
    reserved = sorted(set(columns) & set(RESERVED_COLUMNS))
    if reserved:
        raise SegueError(
            f"{path}: the column '{reserved[0]}' cannot be a condition, since the name is reserved; rename it."
        )
    names = [name for name in columns if name not in WELL_COLUMNS and name]
    values = {name: _condition(table, name) for name in names}
    wells: dict[tuple[str, str], WellRow] = {}
    for number, row in enumerate(table.rows):
        context = table.line(number)
        stained = row.get("stained", "").lower()
        if "stained" in columns and stained not in BOOLEANS:
            raise SegueError(f"{context}: stained is '{stained}'; allowed are 1 and 0, true and false, yes and no.")
        key = (row.get("plate") or plates[0], well_name(row["well"]))
        if key in wells or not key[1]:
            raise SegueError(
                f"{context}: the well '{'/'.join(key)}' {'occurs twice' if key[1] else 'has no name'}; correct it."
            )
        conditions = {name: column[number] for name, column in values.items()}
        wells[key] = WellRow(BOOLEANS.get(stained), row.get("experiment") or None, conditions)
    return wells


def read_times(path: Path) -> dict[int, float]:
    """Returns hours by time index."""
    table = read_rows(path, ("time", "time_h"))
    hours: dict[int, float] = {}
    for number, row in enumerate(table.rows):
        context = table.line(number)
        if not is_whole_number(row["time"]):
            raise SegueError(f"{context}: time is '{row['time']}'; give a whole number, 0 or more.")
        try:
            hour = float(row["time_h"])
        except ValueError:
            hour = math.nan
        if not math.isfinite(hour):
            raise SegueError(f"{context}: time_h is '{row['time_h']}'; give a number of hours.")
        if int(row["time"]) in hours:
            raise SegueError(f"{context}: time {row['time']} occurs twice; keep one.")
        hours[int(row["time"])] = hour
    return hours


def read_rows(path: Path, required: Sequence[str]) -> Table:
    """Returns a table that has rows and the required columns; raises SegueError for any other."""
    if not path.exists():
        raise SegueError(f"{path}: there is no such table; correct the path.")
    table = read_table(path)
    if not set(required) <= set(table.columns) or not table.rows:
        raise SegueError(
            f"{path}: needs rows, and the columns {', '.join(required)}; found {len(table.rows)} rows and the columns "
            f"{', '.join(table.columns) or 'none'}: correct it."
        )
    return table


def _condition(table: Table, name: str) -> Sequence[str | int | float]:
    """Returns a column as integers, numbers or text throughout; raises SegueError if a cell is empty."""
    empty = table.first_empty(name)
    if empty is not None:
        raise SegueError(f"{table.line(empty[0])}: '{name}' is empty; fill it in, e.g. with none.")
    return table.typed(name)
