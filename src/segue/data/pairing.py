"""Which image goes with which label image, in which group and under which conditions: by name or by a table."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segue.data.image_io import read_header
from segue.data.spec import OWN_COLUMNS
from segue.data.splits import PARTS, PartName
from segue.errors import SegueError
from segue.fingerprint import shared_folder
from segue.storage import absolute

if TYPE_CHECKING:
    from segue.data.spec import PrepareSpec

MAX_LISTED_PROBLEMS = 10
TABLE_COLUMNS = ("image", "label", "group", "split", "pixel_size_nm")


@dataclass(frozen=True)
class ImageLabelPair:
    """An image with its label image, where it has one; `source` is the image's path below the folder that all share."""

    image: Path
    label: Path | None
    source: str
    group: str
    part: PartName | None = None
    pixel_size_nm: float | None = None
    conditions: Mapping[str, str | int | float] = field(default_factory=dict)


def find_pairs(spec: PrepareSpec, root: Path) -> tuple[list[ImageLabelPair], list[str]]:
    """Returns the pairs sorted by group and source, and a sentence for each file that does not fit.

    `where` is the folder that paths in the spec start from. Raises SegueError when nothing can be paired at all:
    a folder without images, a table that cannot be read.
    """
    pairs, problems = (_from_table if spec.manifest else _by_name)(spec, root)
    problems += _repeated(pairs)
    place = error_location(spec, root)
    if spec.sizes is not None:
        pairs, wrong = _of_sizes(pairs, spec.sizes)
        problems += wrong
        if not pairs and not problems:
            shown = ", ".join(f"{h} × {w}" for h, w in spec.sizes)
            raise SegueError(f"{place}: no image has one of the sizes {shown}; correct `sizes` or leave it out.")
    problems += _torn_groups(pairs, place)
    return sorted(pairs, key=lambda pair: (pair.group, pair.source)), problems


def error_location(spec: PrepareSpec, root: Path) -> Path:
    """Returns the table, or the pattern of the images with its folder: what to name where no single file is amiss."""
    return root / (spec.manifest or spec.images or "")


def raise_problems(context: Path, problems: Sequence[str]) -> None:
    """Raises SegueError with the first ten problems and their count, if there are any.

    Each problem names its own file; `place`, that of the specification's files, heads a list of several.
    """
    if len(problems) == 1:
        raise SegueError(problems[0])
    if problems:
        more = [f"  … and {len(problems) - MAX_LISTED_PROBLEMS} more"] if len(problems) > MAX_LISTED_PROBLEMS else []
        lines = [f"{context}: {len(problems)} problems with the files", *(f"  {p}" for p in problems[:MAX_LISTED_PROBLEMS]), *more]
        raise SegueError("\n".join(lines))


def _by_name(spec: PrepareSpec, where: Path) -> tuple[list[ImageLabelPair], list[str]]:
    assert spec.images is not None
    found = _matching(where, spec.images)
    files = None if spec.labels is None else spec.labels.files
    label_of = {image: absolute(where / files.replace("{stem}", image.stem)) for image in found} if files else {}
    labels = {label for image, label in label_of.items() if label != image}
    images = [image for image in found if image not in labels]  # labels may lie beside the images
    if not images:
        raise SegueError(f"{where}: images = '{spec.images}' matches no file below this folder; correct the pattern.")
    folder = shared_folder(images)
    pairs, problems = [], []
    for image in images:
        label = label_of.get(image)
        if label is None or label.is_file():
            source = _source(image, folder)
            group, mistake = _group_of(spec, source, image)
            problems += mistake
            pairs.append(ImageLabelPair(image, label, source, group, None, None, spec.conditions))
        else:
            problems.append(f"{image}: has no label image {label}; add it, or leave the image out.")
    used = {pair.label for pair in pairs}
    for label in _matching(where, files.replace("{stem}", "*")) if files else ():
        if label not in used and label not in label_of:
            problems.append(f"{label}: is a label image without an image of that name; add it, or leave the label out.")
    return pairs, problems


def _matching(where: Path, pattern: str) -> list[Path]:
    """Returns the files that a pattern relative to `where` matches, sorted; the pattern may begin with ../ or /."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    folder = where.joinpath(*parts[:fixed]).resolve()
    return sorted(path for path in folder.glob(str(Path(*parts[fixed:]))) if path.is_file())


def _from_table(spec: PrepareSpec, where: Path) -> tuple[list[ImageLabelPair], list[str]]:
    assert spec.manifest is not None
    table = where / spec.manifest
    rows = _read_table(table, labelled=spec.labels is not None)
    folder = shared_folder([where / row["image"] for row in rows])
    values, problems = _columns(table, rows, spec.conditions)
    pairs = []
    for number, row in enumerate(rows):
        place = f"{table}: line {number + 2}"
        image, label = absolute(where / row["image"]), absolute(where / row["label"]) if spec.labels is not None else None
        files = [path for path in (image, label) if path is not None]
        missing = [f"{place}: there is no file {path}; correct it." for path in files if not path.is_file()]
        problems += missing
        if missing:
            continue
        source = _source(image, folder)
        group, mistake = (row["group"], []) if row.get("group") else _group_of(spec, source, image)
        part, size, wrong = _part_and_size(place, row)
        problems += mistake + wrong
        conditions = {**spec.conditions, **{name: column[number] for name, column in values.items()}}
        pairs.append(ImageLabelPair(image, label, source, group, part, size, conditions))
    given = sum(pair.part is not None for pair in pairs)
    if 0 < given < len(pairs):
        problems.append(
            f"{table}: {len(pairs) - given} of {len(pairs)} rows name no split; fill the column or drop it."
        )
    return pairs, problems


def _read_table(table: Path, *, labelled: bool) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [{k: v.strip() for k, v in row.items() if isinstance(k, str) and v is not None} for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegueError(f"{table}: cannot be read as a CSV table ({error}); correct the path or the file.") from error
    wanted = ("image", "label") if labelled else ("image",)
    missing = [column for column in wanted if column not in columns]
    if missing or not rows:
        found = ", ".join(columns) or "nothing"
        raise SegueError(
            f"{table}: needs a row per image and the column{'s' if labelled else ''} {' and '.join(wanted)}; found "
            f"{found}: correct it."
        )
    if not labelled and "label" in columns:
        raise SegueError(
            f"{table}: has a column label, but the specification does not say what labels mean; add [labels], or "
            "remove the column."
        )
    return rows


def _columns(
    table: Path, rows: list[dict[str, str]], constants: Mapping[str, object]
) -> tuple[dict[str, Sequence[str | int | float]], list[str]]:
    """Returns the condition columns, each as integers, numbers or text throughout."""
    names = sorted({name for row in rows for name in row} - set(TABLE_COLUMNS))
    values: dict[str, Sequence[str | int | float]] = {}
    problems = []
    for name in names:
        if not name or name in OWN_COLUMNS or name in constants:
            problems.append(f"{table}: the column '{name}' cannot be a condition, the name is taken; rename it.")
            continue
        empty = [number + 2 for number, row in enumerate(rows) if not row.get(name)]
        if empty:
            problems.append(f"{table}: column '{name}' is empty in line {empty[0]} ({len(empty)} in all); fill it in.")
            values[name] = [0] * len(rows)
            continue
        values[name] = _typed([row[name] for row in rows])
    return values, problems


def _typed(texts: list[str]) -> Sequence[str | int | float]:
    for kind in (int, float):
        try:
            values = [kind(text) for text in texts]
        except ValueError:
            continue
        if all(math.isfinite(value) for value in values):
            return values
    return texts


def _part_and_size(place: str, row: Mapping[str, str]) -> tuple[PartName | None, float | None, list[str]]:
    problems = []
    known: dict[str, PartName] = {name: name for name in PARTS}
    part = known.get(row.get("split", ""))
    if row.get("split") and part is None:
        problems.append(f"{place}: split is '{row['split']}'; allowed are {', '.join(PARTS)}: correct it.")
    size = None
    if row.get("pixel_size_nm"):
        try:
            size = float(row["pixel_size_nm"])
        except ValueError:
            size = math.nan
        if not 0 < size < math.inf:
            problems.append(f"{place}: pixel_size_nm is '{row['pixel_size_nm']}'; give a length above 0.")
    return part, size, problems


def _source(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix()


def _group_of(spec: PrepareSpec, source: str, image: Path) -> tuple[str, list[str]]:
    if spec.group_pattern is None:
        return (image.stem if spec.group == "stem" else source), []
    found = re.search(spec.group_pattern, source)
    if found is None or not found.group(1):
        return source, [
            f"{image}: group_pattern '{spec.group_pattern}' does not match '{source}'; correct the pattern."
        ]
    return found.group(1), []


def _repeated(pairs: Sequence[ImageLabelPair]) -> list[str]:
    problems = []
    for attribute, what in (("image", "image occurs {} times; keep one"), ("label", "label belongs to {} images")):
        counts = Counter(path for pair in pairs if (path := getattr(pair, attribute)) is not None)
        for path, count in sorted(counts.items()):
            if count > 1:
                problems.append(f"{path}: this {what.format(count)}; give each image its own row and label.")
    return problems


def _of_sizes(pairs: Sequence[ImageLabelPair], sizes: Sequence[tuple[int, int]]) -> tuple[list[ImageLabelPair], list[str]]:
    kept, problems = [], []
    for pair in pairs:
        try:
            header = read_header(pair.image)
        except SegueError as error:
            problems.append(str(error))
            continue
        if (header.height, header.width) in sizes:
            kept.append(pair)
    return kept, problems


def _torn_groups(pairs: Sequence[ImageLabelPair], place: Path) -> list[str]:
    parts: dict[str, set[PartName | None]] = {}
    for pair in pairs:
        parts.setdefault(pair.group, set()).add(pair.part)
    return [
        f"{place}: group '{group}': is in {' and '.join(sorted(map(str, found)))}; a group belongs to one split."
        for group, found in sorted(parts.items())
        if len(found) > 1 and None not in found
    ]
