"""Files by the pattern of their names, and by tables: a manifest, the table of wells, the table of times."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.data.image_io import TIFF_SUFFIXES
from segue.data.spec import OWN_COLUMNS
from segue.errors import SegueError
from segue.plates.layout.grid import ImageEntry, Plane, ScanResult, well_name
from segue.plates.spec import NUMBERS, FilesSpec, placeholders

WELL_COLUMNS = ("plate", "well", "stained", "experiment")
TAKEN = (*OWN_COLUMNS, "time", "time_h")  # columns of every plate's dataset
TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class WellRow:
    """A row of the table of wells; None where a column is not there."""

    stained: bool | None
    experiment: str | None
    conditions: Mapping[str, str | int | float]


def scan_pattern(spec: FilesSpec, where: Path, transmitted: str) -> ScanResult:
    """Returns the images whose paths fit `spec.pattern` below `where`, and the files that do not."""
    assert spec.pattern is not None
    matched, unfit = match_paths(spec.pattern, where)
    findings = ScanResult(unmatched=unfit)
    for path, names in matched:
        cell = (int(names["row"]), int(names["column"])) if "row" in names else None
        findings.images.append(
            ImageEntry(
                plate=names.get("plate", spec.plate),
                well=well_name(names["well"]),
                time=int(names.get("time", 0)),
                channel=names.get("channel", transmitted),
                plane=Plane(path),
                field_index=cell,
                field_number=int(names["field"]) if "field" in names else None,
            )
        )
    return findings


def match_paths(
    pattern: str, where: Path, *, folders: bool = False
) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """Returns the paths that fit a pattern with what stands at its placeholders, sorted, and those that fit not.

    Only files of the pattern's suffix below its part without placeholders are looked at (`folders`: only folders), not
    hidden ones. Raises SegueError when none fits.
    """
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if any(sign in part for sign in "{*?")), len(parts) - 1)
    root = where.joinpath(*parts[:fixed]).resolve()
    rest = "/".join(parts[fixed:])
    expression = _expression(rest)
    suffix = Path(pattern).suffix.lower()
    suffixes = TIFF_SUFFIXES if suffix in TIFF_SUFFIXES else (suffix,)
    matched, unfit = [], []
    for path in sorted(_below(root, "", len(parts) - fixed + 1, folders)):
        found = expression.fullmatch(path)
        if found:
            matched.append((root / path, found.groupdict()))
        elif path.lower().endswith(suffixes) and not folders:
            unfit.append(f"{_shown(root / path, where)} does not fit the pattern")
    if not matched:
        seen = (
            f"e.g. {unfit[0].removesuffix(' does not fit the pattern')}" if unfit else f"nothing that ends in {suffix}"
        )
        raise SegueError(
            f"{where}: pattern = '{pattern}' fits no {'folder' if folders else 'file'}; there is {seen} below {root}: "
            "correct the pattern."
        )
    return matched, unfit


def _expression(pattern: str) -> re.Pattern[str]:
    written, seen = "", set()
    for literal, name, digits in placeholders(pattern):
        written += re.escape(literal).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        if name in seen:
            written += f"(?P={name})"
        elif name:
            written += rf"(?P<{name}>\d{{{max(digits, 1)},}})" if name in NUMBERS else rf"(?P<{name}>[^/]+?)"
            seen.add(name)
    return re.compile(written)


def _below(root: Path, place: str, depth: int, folders: bool) -> Iterator[str]:
    """Yields the paths of files (or folders) relative to `root`, down to `depth` names; links are followed."""
    try:
        with os.scandir(root / place) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        raise SegueError(f"{root}: there is no such folder; correct the pattern.") from None
    except OSError as error:
        raise SegueError(f"{root / place}: cannot be read ({error.strerror}); check its permissions.") from error
    for name, is_folder in found:
        path = f"{place}/{name}" if place else name
        if is_folder == folders:
            yield path
        if is_folder and depth > 1 and not (folders and name.endswith(".zarr")):
            yield from _below(root, path, depth - 1, folders)


def scan_manifest(spec: FilesSpec, where: Path) -> ScanResult:
    """Returns the images that the table `spec.manifest` lists; files that are not there are missing, not mistakes."""
    assert spec.manifest is not None
    table = where / spec.manifest
    rows, columns = read_table(table, ("well", "channel", "path"))
    if ("row" in columns) != ("column" in columns) or ("row" in columns and "field" in columns):
        raise SegueError(f"{table}: a field is told by the columns row and column, or by field; correct the columns.")
    findings = ScanResult()
    for line, row in enumerate(rows, start=2):
        indices = [part for part in re.split(r"[ ;,]+", row.get("index", "").strip("()[] ")) if part]
        given = [(name, row[name]) for name in NUMBERS if name in columns] + [("index", part) for part in indices]
        bad = next((f"{name} is '{text}'" for name, text in given if not _is_whole(text)), None)
        if bad is not None:
            findings.errors.append(f"{table}: line {line}: {bad}; give a whole number, 0 or more.")
            continue
        numbers, index = {name: int(row[name]) for name in NUMBERS if name in columns}, tuple(map(int, indices))
        empty = next((name for name in ("well", "channel", "path") if not row[name]), None)
        if empty is not None:
            findings.errors.append(f"{table}: line {line}: a cell is empty, {empty}; fill it in.")
            continue
        if "/" in row.get("plate", "") + row["well"]:
            findings.errors.append(f"{table}: line {line}: a name of a plate or well has a slash; leave it out.")
            continue
        path = where / row["path"]
        if not path.exists():
            findings.missing.append(f"{table.name}: line {line}: there is no file {row['path']}")
            continue
        findings.images.append(
            ImageEntry(
                plate=row.get("plate") or spec.plate,
                well=well_name(row["well"]),
                time=numbers.get("time", 0),
                channel=row["channel"],
                plane=Plane(path, index),
                field_index=(numbers["row"], numbers["column"]) if "row" in numbers else None,
                field_number=numbers.get("field"),
            )
        )
    if not findings.images and not findings.errors:
        raise SegueError(
            f"{table}: none of the {len(rows)} files it lists is there; paths start at {where}: correct them."
        )
    return findings


def wells_table(table: Path, plates: Sequence[str]) -> dict[tuple[str, str], WellRow]:
    """Returns the rows of a table of wells by (plate, well). Further columns are conditions, of one type each."""
    rows, columns = read_table(table, ("well",))
    if "plate" not in columns and len(plates) > 1:
        raise SegueError(f"{table}: has no column plate, and there are {len(plates)} plates; add it.")
    taken = sorted(set(columns) & set(TAKEN))
    if taken:
        raise SegueError(f"{table}: the column '{taken[0]}' cannot be a condition, the name is taken; rename it.")
    names = [name for name in columns if name not in WELL_COLUMNS and name]
    values = {name: _typed(table, name, [row[name] for row in rows]) for name in names}
    found: dict[tuple[str, str], WellRow] = {}
    for number, row in enumerate(rows):
        place = f"{table}: line {number + 2}"
        stained = row.get("stained", "").lower()
        if "stained" in columns and stained not in TRUTHS:
            raise SegueError(f"{place}: stained is '{stained}'; allowed are 1 and 0, true and false, yes and no.")
        key = (row.get("plate") or plates[0], well_name(row["well"]))
        if key in found or not key[1]:
            raise SegueError(
                f"{place}: the well '{'/'.join(key)}' {'is there twice' if key[1] else 'has no name'}; correct it."
            )
        conditions = {name: column[number] for name, column in values.items()}
        found[key] = WellRow(TRUTHS.get(stained), row.get("experiment") or None, conditions)
    return found


def times_table(table: Path) -> dict[int, float]:
    """Returns hours by time index."""
    rows, _ = read_table(table, ("time", "time_h"))
    hours: dict[int, float] = {}
    for line, row in enumerate(rows, start=2):
        place = f"{table}: line {line}"
        if not _is_whole(row["time"]):
            raise SegueError(f"{place}: time is '{row['time']}'; give a whole number, 0 or more.")
        try:
            hour = float(row["time_h"])
        except ValueError:
            hour = math.nan
        if not math.isfinite(hour):
            raise SegueError(f"{place}: time_h is '{row['time_h']}'; give a number of hours.")
        if int(row["time"]) in hours:
            raise SegueError(f"{place}: time {row['time']} is there twice; keep one.")
        hours[int(row["time"])] = hour
    return hours


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def read_table(table: Path, wanted: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Returns the rows of a CSV table, stripped, and its columns; raises SegueError where a wanted one is missing."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            rows = [{k.strip(): (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
            columns = [name.strip() for name in reader.fieldnames or ()]
    except FileNotFoundError:
        raise SegueError(f"{table}: there is no such table; correct the path.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegueError(f"{table}: cannot be read as a CSV table ({error}); correct the path or the file.") from error
    lacking = [name for name in wanted if name not in columns]
    if lacking or not rows:
        raise SegueError(
            f"{table}: needs rows, and the columns {', '.join(wanted)}; found {len(rows)} rows and the columns "
            f"{', '.join(columns) or 'none'}: correct it."
        )
    return rows, columns


def _typed(table: Path, name: str, texts: list[str]) -> Sequence[str | int | float]:
    """Returns a column as integers, numbers or text throughout."""
    if "" in texts:
        raise SegueError(f"{table}: line {texts.index('') + 2}: '{name}' is empty; fill it in, e.g. with none.")
    for kind in (int, float):
        try:
            values = [kind(text) for text in texts]
        except ValueError:
            continue
        if all(math.isfinite(value) for value in values):
            return values
    return texts


def _shown(path: Path, where: Path) -> str:
    return str(path.relative_to(where) if path.is_relative_to(where) else path)
