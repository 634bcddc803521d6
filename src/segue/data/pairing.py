"""Pairs image files with their label files, by name or by a table, and gives each pair its group and conditions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segue.data.image_io import Header, read_header
from segue.data.spec import STANDARD_COLUMNS, PrepareSpec
from segue.data.splits import PARTS, PartName
from segue.data.tables import Table, read_table
from segue.errors import SegueError
from segue.fingerprint import shared_folder
from segue.storage import absolute

MAX_LISTED_PROBLEMS = 10
TABLE_COLUMNS = ("image", "label", "group", "split", "pixel_size_nm")


@dataclass(frozen=True)
class ImageLabelPair:
    """An image file with its label file, if any.

    source: the path of the image relative to the deepest folder of all images. part: from a manifest's column split.
    header: of the image, if it was read (`read_headers`).
    """

    image: Path
    label: Path | None
    source: str
    group: str
    part: PartName | None = None
    pixel_size_nm: float | None = None
    conditions: Mapping[str, str | int | float] = field(default_factory=dict)
    header: Header | None = None


@dataclass(frozen=True)
class PairedFiles:
    """The checked pairs of a specification, sorted by group and source.

    table: the manifest, if any. context: the manifest or the pattern of the images, by which an error begins that
    concerns no single file.
    """

    pairs: tuple[ImageLabelPair, ...]
    table: Path | None
    context: Path

    @property
    def paths(self) -> list[Path]:
        """Every file that the dataset is made from, sorted."""
        table = [self.table] if self.table else []
        labels = (pair.label for pair in self.pairs if pair.label)
        return sorted({*table, *(pair.image for pair in self.pairs), *labels})


def pair_files(spec: PrepareSpec, root: Path) -> PairedFiles:
    """Returns the pairs of the specification; its paths start at `root`. Raises SegueError with all problems."""
    context = root / (spec.manifest or spec.images or "")
    pairs, problems = (_from_table if spec.manifest else _by_name)(spec, root)
    problems += _repeated_files(pairs)
    if spec.sizes is not None:
        pairs, unreadable = read_headers(pairs)
        problems += unreadable
        pairs = [pair for pair in pairs if pair.header and (pair.header.height, pair.header.width) in spec.sizes]
        if not pairs and not problems:
            sizes = ", ".join(f"{height} × {width}" for height, width in spec.sizes)
            raise SegueError(f"{context}: no image has one of the sizes {sizes}; correct `sizes` or leave it out.")
    problems += _divided_groups(pairs, context)
    raise_problems(context, problems)
    table = absolute(root / spec.manifest) if spec.manifest else None
    return PairedFiles(tuple(sorted(pairs, key=lambda pair: (pair.group, pair.source))), table, context)


def read_headers(pairs: Sequence[ImageLabelPair]) -> tuple[list[ImageLabelPair], list[str]]:
    """Returns the pairs with the headers of their images, read if need be, and a problem for each unreadable one."""
    complete, problems = [], []
    for pair in pairs:
        try:
            complete.append(pair if pair.header else replace(pair, header=read_header(pair.image)))
        except SegueError as error:
            problems.append(str(error))
            complete.append(pair)
    return complete, problems


def raise_problems(context: Path, problems: Sequence[str]) -> None:
    """Raises SegueError with the first ten problems and their number, if there are any.

    Each problem names its own file; `context`, the place of the specification's files, heads a list of several.
    """
    if len(problems) == 1:
        raise SegueError(problems[0])
    if problems:
        more = len(problems) - MAX_LISTED_PROBLEMS
        lines = [
            f"{context}: {len(problems)} problems with the files",
            *(f"  {problem}" for problem in problems[:MAX_LISTED_PROBLEMS]),
            *([f"  … and {more} more"] if more > 0 else []),
        ]
        raise SegueError("\n".join(lines))


def _by_name(spec: PrepareSpec, root: Path) -> tuple[list[ImageLabelPair], list[str]]:
    """Returns the pairs of the pattern `spec.images`, and a problem for each file that has no partner."""
    assert spec.images is not None
    matches = _glob(root, spec.images)
    pattern = None if spec.labels is None else spec.labels.files
    label_of = {image: absolute(root / pattern.replace("{stem}", image.stem)) for image in matches} if pattern else {}
    labels = {label for image, label in label_of.items() if label != image}
    images = [image for image in matches if image not in labels]  # labels may lie beside the images
    if not images:
        raise SegueError(f"{root}: images = '{spec.images}' matches no file below this folder; correct the pattern.")
    folder = shared_folder(images)
    pairs, problems = [], []
    for image in images:
        label = label_of.get(image)
        if label is None or label.is_file():
            source = image.relative_to(folder).as_posix()
            group, mismatch = _group_of(spec, source, image)
            problems += mismatch
            pairs.append(ImageLabelPair(image, label, source, group, None, None, spec.conditions))
        else:
            problems.append(f"{image}: has no label image {label}; add it, or leave the image out.")
    used = {pair.label for pair in pairs}
    for label in _glob(root, pattern.replace("{stem}", "*")) if pattern else ():
        if label not in used and label not in label_of:
            problems.append(f"{label}: is a label image without an image of that name; add it, or leave the label out.")
    return pairs, problems


def _glob(root: Path, pattern: str) -> list[Path]:
    """Returns the files that a pattern relative to `root` matches, sorted; the pattern may begin with ../ or /."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    folder = root.joinpath(*parts[:fixed]).resolve()
    return sorted(path for path in folder.glob(str(Path(*parts[fixed:]))) if path.is_file())


def _from_table(spec: PrepareSpec, root: Path) -> tuple[list[ImageLabelPair], list[str]]:
    """Returns the pairs of the table `spec.manifest`, and a problem for each cell that is wrong."""
    assert spec.manifest is not None
    table = read_table(root / spec.manifest)
    _check_columns(table, labeled=spec.labels is not None)
    folder = shared_folder([root / row["image"] for row in table.rows])
    columns, problems = _condition_columns(table, spec.conditions)
    pairs = []
    for number, row in enumerate(table.rows):
        context = table.line(number)
        image = absolute(root / row["image"])
        label = absolute(root / row["label"]) if spec.labels is not None else None
        files = [path for path in (image, label) if path is not None]
        missing = [f"{context}: there is no file {path}; correct it." for path in files if not path.is_file()]
        problems += missing
        if missing:
            continue
        source = image.relative_to(folder).as_posix()
        group, mismatch = (row["group"], []) if row.get("group") else _group_of(spec, source, image)
        part, size_nm, invalid = _part_and_size(context, row)
        problems += mismatch + invalid
        conditions = {**spec.conditions, **{name: values[number] for name, values in columns.items()}}
        pairs.append(ImageLabelPair(image, label, source, group, part, size_nm, conditions))
    with_part = sum(pair.part is not None for pair in pairs)
    if 0 < with_part < len(pairs):
        problems.append(
            f"{table.path}: {len(pairs) - with_part} of {len(pairs)} rows name no split; fill the column or drop it."
        )
    return pairs, problems


def _check_columns(table: Table, *, labeled: bool) -> None:
    required = ("image", "label") if labeled else ("image",)
    if not set(required) <= set(table.columns) or not table.rows:
        raise SegueError(
            f"{table.path}: needs a row per image and the column{'s' if labeled else ''} {' and '.join(required)}; "
            f"found {', '.join(table.columns) or 'nothing'}: correct it."
        )
    if not labeled and "label" in table.columns:
        raise SegueError(
            f"{table.path}: has a column label, but the specification does not define labels; add [labels], or "
            "remove the column."
        )


def _condition_columns(
    table: Table, constants: Mapping[str, object]
) -> tuple[dict[str, Sequence[str | int | float]], list[str]]:
    """Returns the further columns, each as integers, numbers or text throughout."""
    values: dict[str, Sequence[str | int | float]] = {}
    problems = []
    for name in sorted(set(table.columns) - set(TABLE_COLUMNS)):
        empty = table.first_empty(name)
        if not name or name in STANDARD_COLUMNS or name in constants:
            problems.append(
                f"{table.path}: the column '{name}' cannot be a condition, since the name is reserved; rename it."
            )
        elif empty is not None:
            row, count = empty
            problems.append(f"{table.path}: column '{name}' is empty in line {row + 2} ({count} in all); fill it in.")
            values[name] = [0] * len(table.rows)
        else:
            values[name] = table.typed(name)
    return values, problems


def _part_and_size(context: str, row: Mapping[str, str]) -> tuple[PartName | None, float | None, list[str]]:
    problems = []
    part: PartName | None = next((part for part in PARTS if part == row.get("split")), None)
    if row.get("split") and part is None:
        problems.append(f"{context}: split is '{row['split']}'; allowed are {', '.join(PARTS)}: correct it.")
    size_nm = None
    if row.get("pixel_size_nm"):
        try:
            size_nm = float(row["pixel_size_nm"])
        except ValueError:
            size_nm = math.nan
        if not 0 < size_nm < math.inf:
            problems.append(f"{context}: pixel_size_nm is '{row['pixel_size_nm']}'; give a length above 0.")
    return part, size_nm, problems


def _group_of(spec: PrepareSpec, source: str, image: Path) -> tuple[str, list[str]]:
    """Returns the group of an image by its name, and a problem if the pattern of groups does not match."""
    if spec.group_pattern is None:
        return (image.stem if spec.group == "stem" else source), []
    match = re.search(spec.group_pattern, source)
    if match is None or not match.group(1):
        return source, [
            f"{image}: group_pattern '{spec.group_pattern}' does not match '{source}'; correct the pattern."
        ]
    return match.group(1), []


def _repeated_files(pairs: Sequence[ImageLabelPair]) -> list[str]:
    problems = []
    for attribute, fault in (("image", "image occurs {} times; keep one"), ("label", "label belongs to {} images")):
        counts = Counter(path for pair in pairs if (path := getattr(pair, attribute)) is not None)
        for path, count in sorted(counts.items()):
            if count > 1:
                problems.append(f"{path}: this {fault.format(count)}; give each image its own row and label.")
    return problems


def _divided_groups(pairs: Sequence[ImageLabelPair], context: Path) -> list[str]:
    parts_of_group: dict[str, set[PartName | None]] = {}
    for pair in pairs:
        parts_of_group.setdefault(pair.group, set()).add(pair.part)
    return [
        f"{context}: group '{group}': is in {' and '.join(sorted(map(str, parts)))}; a group belongs to one split."
        for group, parts in sorted(parts_of_group.items())
        if len(parts) > 1 and None not in parts
    ]
