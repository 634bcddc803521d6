"""Images identified by the pattern of their paths or by a manifest, and the tables of wells and of times."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.data.folders.patterns import SUFFIX, existing_path, is_hidden
from segue.data.image_io import TIFF_SUFFIXES
from segue.data.spec import STANDARD_COLUMNS
from segue.data.tables import Table, changed_name, is_condition_name, is_whole_number, read_table
from segue.errors import SegueError
from segue.plates.layout.grid import USUAL_WELL, ImageEntry, Plane, ScanResult, well_name
from segue.plates.spec import NUMBERS, FilesSpec, placeholders

WELL_COLUMNS = ("plate", "well", "stained", "experiment")
IMAGE_COLUMNS = ("plate", "well", "channel", "path", "index", *NUMBERS)
TIME_COLUMNS = ("time", "time_h")
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
    matched, unmatched, errors = match_paths(spec.pattern, root)
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
    return ScanResult(images, unmatched, errors=errors)


def match_paths(
    pattern: str, root: Path, *, folders: bool = False
) -> tuple[list[tuple[Path, dict[str, str]]], list[str], list[str]]:
    """Returns the matching paths with the values of the placeholders, sorted; sentences on those that do not match, and
    errors on those that match in several ways.

    Only files (or `folders`) with the pattern's suffix in any case, below its part without placeholders, are
    considered, hidden ones excepted; letters match whether composed or decomposed, and values are composed (NFC).
    Raises SegueError if nothing matches.
    """
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if any(sign in part for sign in "{*?")), len(parts) - 1)
    start = root.joinpath(*parts[:fixed]).resolve()
    expressions = [_regular_expression("/".join(parts[fixed:]), lazy=lazy) for lazy in (True, False)]
    suffix = Path(pattern).suffix.lower()
    suffixes = TIFF_SUFFIXES if suffix in TIFF_SUFFIXES else (suffix,)
    matched, others, errors = [], [], []
    for path in sorted(_paths_below(start, "", len(parts) - fixed + 1, folders)):
        composed = unicodedata.normalize("NFC", path)
        readings = [
            match.groupdict() for match in map(re.Pattern.fullmatch, expressions, (composed, composed)) if match
        ]
        names = _only_reading(readings)
        if names is not None:
            matched.append((start / path, names))
        elif readings:
            name = next(name for name, value in readings[0].items() if readings[1][name] != value)
            errors.append(
                f"{_relative(start / path, root)}: matches the pattern in several ways ({name} is "
                f"'{readings[0][name]}' or '{readings[1][name]}'); write a pattern that tells its parts apart, or use "
                "a manifest."
            )
        elif path.lower().endswith(suffixes) and not folders:
            others.append(_relative(start / path, root))
    if not matched and not errors:
        example = f"e.g. {others[0]}" if others else f"nothing that ends in {suffix}"
        raise SegueError(
            f"{root}: pattern = '{pattern}' matches no {'folder' if folders else 'file'}; there is {example} below "
            f"{start}: correct the pattern."
        )
    return matched, [f"{path} does not match the pattern" for path in others], errors


def _only_reading(readings: Sequence[dict[str, str]]) -> dict[str, str] | None:
    """Returns the only reading of a path, or the only one with a usual name of a well such as "A1"; else None."""
    if readings and all(reading == readings[0] for reading in readings):
        return readings[0]
    usual = [reading for reading in readings if re.fullmatch(USUAL_WELL, reading.get("well", ""))]
    return usual[0] if len(usual) == 1 else None


def _regular_expression(pattern: str, *, lazy: bool) -> re.Pattern[str]:
    """Returns the regular expression of a pattern; `lazy`: placeholders match as little as possible."""
    pattern, seen = unicodedata.normalize("NFC", pattern), set()
    suffix = SUFFIX.search(pattern)
    expression = ""
    for literal, name, digits in placeholders(pattern[: suffix.start()] if suffix else pattern):
        expression += re.escape(literal).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        if name in seen:
            expression += f"(?P={name})"
        elif name:
            signs = f"[0-9]{{{max(digits, 1)},}}" if name in NUMBERS else "[^/]+"
            expression += f"(?P<{name}>{signs}{'?' if lazy else ''})"
            seen.add(name)
    return re.compile(expression + (f"(?i:{re.escape(suffix[0])})" if suffix else ""))


def _paths_below(root: Path, folder: str, depth: int, folders: bool) -> Iterator[str]:
    """Yields the paths of files (or folders) relative to `root`, at most `depth` names long; links are followed."""
    try:
        with os.scandir(root / folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan if not is_hidden(entry.name)]
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
    table = read_rows(root / spec.manifest, IMAGE_COLUMNS, ("well", "channel", "path"))
    columns = table.columns
    if ("row" in columns) != ("column" in columns) or ("row" in columns and "field" in columns):
        raise SegueError(
            f"{table.path}: a field is given by the columns row and column, or by field; correct the columns."
        )
    _refuse_partly_empty(table, ("plate",))
    scan = ScanResult()
    for number, row in enumerate(table.rows):
        entry = _manifest_entry(row, columns, spec, root)
        if isinstance(entry, str):
            scan.errors.append(f"{table.line(number)}: {entry}")
        elif not exists(entry.plane.path):
            scan.missing.append(f"{table.path.name}: line {table.lines[number]}: there is no file {row['path']}")
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
    changed = next((name for name in ("plate", "well") if changed_name(row.get(name, ""))), None)
    if changed is not None:
        return _changed(changed, row[changed])
    path = root / row["path"]
    return ImageEntry(
        plate=unicodedata.normalize("NFC", row.get("plate") or spec.plate),
        well=well_name(unicodedata.normalize("NFC", row["well"])),
        time=int(numbers.get("time", 0)),
        channel=row["channel"],
        plane=Plane(existing_path(path) or path, tuple(map(int, index))),
        field_index=(int(numbers["row"]), int(numbers["column"])) if "row" in numbers else None,
        field_number=int(numbers["field"]) if "field" in numbers else None,
    )


def read_wells(path: Path, plates: Sequence[str]) -> dict[tuple[str, str], WellRow]:
    """Returns the rows of a table of wells by (plate, well). Further columns are conditions, each of one type."""
    table = read_rows(path, WELL_COLUMNS, ("well",))
    columns = table.columns
    if "plate" not in columns and len(plates) > 1:
        raise SegueError(f"{path}: has no column plate, but there are {len(plates)} plates; add it.")
    reserved = sorted(set(columns) & set(RESERVED_COLUMNS))
    if reserved:
        raise SegueError(
            f"{path}: the column '{reserved[0]}' cannot be a condition, since the name is reserved; rename it."
        )
    _refuse_partly_empty(table, ("plate", "experiment"))
    experiments = table.texts("experiment") if "experiment" in columns else [""] * len(table.rows)
    values = {name: _condition(table, name) for name in columns if name not in WELL_COLUMNS}
    wells: dict[tuple[str, str], WellRow] = {}
    for number, row in enumerate(table.rows):
        context = table.line(number)
        stained = row.get("stained", "").lower()
        if "stained" in columns and stained not in BOOLEANS:
            raise SegueError(f"{context}: stained is '{stained}'; allowed are 1 and 0, true and false, yes and no.")
        for name in ("plate", "well"):
            if changed_name(row.get(name, "")):
                raise SegueError(f"{context}: {_changed(name, row[name])}")
        plate, well = (unicodedata.normalize("NFC", text) for text in (row.get("plate", ""), row["well"]))
        if not plate and len(plates) > 1:
            raise SegueError(f"{context}: plate is empty, but there are {len(plates)} plates; fill it in.")
        key = (plate or plates[0], well_name(well))
        if key in wells or not key[1]:
            raise SegueError(
                f"{context}: the well '{'/'.join(key)}' {'occurs twice' if key[1] else 'has no name'}; correct it."
            )
        conditions = {name: column[number] for name, column in values.items()}
        wells[key] = WellRow(BOOLEANS.get(stained), experiments[number] or None, conditions)
    return wells


def wells_notes(path: Path) -> list[str]:
    """Returns a sentence for each condition in a table of wells that is text although some cells are numbers."""
    table = read_table(path, WELL_COLUMNS)
    notes = (table.note(name) for name in table.columns if name not in WELL_COLUMNS)
    return [note for note in notes if note is not None]


def read_times(path: Path) -> dict[int, float]:
    """Returns hours by time index, which grow with it."""
    table = read_rows(path, TIME_COLUMNS, TIME_COLUMNS)
    hours: dict[int, float] = {}
    for number, row in enumerate(table.rows):
        context = table.line(number)
        if not is_whole_number(row["time"]):
            raise SegueError(f"{context}: time is '{row['time']}'; give a whole number, 0 or more.")
        if int(row["time"]) in hours:
            raise SegueError(f"{context}: time {row['time']} occurs twice; keep one.")
        hours[int(row["time"])] = table.number(number, "time_h")
    for earlier, later in itertools.pairwise(sorted(hours)):
        if hours[later] <= hours[earlier]:
            raise SegueError(
                f"{path}: time {later} is at {hours[later]:g} h, time {earlier} at {hours[earlier]:g} h; hours must "
                "grow with the time index: correct one."
            )
    return hours


def exists(path: Path) -> bool:
    """Returns whether there is a file or folder; False also for a name that none can have, too long for the system."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def read_rows(path: Path, known: Sequence[str], required: Sequence[str]) -> Table:
    """Returns a table that has rows and the required columns; raises SegueError for any other."""
    if not exists(path):
        raise SegueError(f"{path}: there is no such table; correct the path.")
    table = read_table(path, known)
    if not set(required) <= set(table.columns) or not table.rows:
        raise SegueError(
            f"{path}: needs rows, and the columns {', '.join(required)}; found {len(table.rows)} rows and the columns "
            f"{', '.join(table.columns) or 'none'}: correct it."
        )
    return table


def _refuse_partly_empty(table: Table, columns: Sequence[str]) -> None:
    """Raises SegueError if some cells of a column are empty, as of merged cells, which would be named by default."""
    for column in columns:
        sentence = table.partly_empty(column)
        if sentence is not None:
            raise SegueError(sentence)


def _changed(name: str, text: str) -> str:
    """Returns the mistake in a plate or well that a spreadsheet changed to a date or a number."""
    return (
        f"{name} is '{text}', {changed_name(text)} that a spreadsheet may have made of a name; format the column as "
        "text, and enter it again."
    )


def _condition(table: Table, name: str) -> Sequence[str | int | float]:
    """Returns a column as integers, numbers or text throughout; raises SegueError if a cell is empty, for odd names."""
    if not is_condition_name(name):
        raise SegueError(f"{table.path}: the column '{name}' cannot be stored by that name; leave out its / or .")
    empty = table.first_empty(name)
    if empty is not None:
        raise SegueError(f"{table.line(empty[0])}: '{name}' is empty; fill it in, e.g. with none.")
    return table.typed(name)
