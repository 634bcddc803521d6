"""Pairs image files with their label files, by name or by a table, and gives each pair its group and conditions."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from segue.data.annotations.files import annotated_images, is_annotation_file, names_of
from segue.data.folders.hints import PatternHints
from segue.data.folders.patterns import (
    MatchedFiles,
    NamedPath,
    all_names,
    existing_path,
    fill,
    find_files,
    named_parts,
    near_miss,
    texts_of,
)
from segue.data.image_io import READERS, Header, read_header
from segue.data.spec import STANDARD_COLUMNS, PrepareSpec
from segue.data.splits import PARTS, PartName
from segue.data.tables import Table, is_condition_name, read_table
from segue.errors import SegueError
from segue.fingerprint import shared_folder
from segue.storage import absolute
from segue.units import MAX_PIXEL_NM, MIN_PIXEL_NM, pixel_size_nm

MAX_LISTED_PROBLEMS = 10
TABLE_COLUMNS = ("image", "label", "group", "split", "pixel_size_nm")
NOT_IMAGES = (".toml", ".h5")  # specifications and datasets beside images are not told as left out


@dataclass(frozen=True)
class ImageLabelPair:
    """An image file with its label file, if any.

    source: the path of the image relative to the deepest folder of all images. part: from a manifest's column split.
    further_labels: if each file of labels is one object, the files after `label`.
    header: of the image, if it was read (`read_headers`). page: of `page_count` pages of the files, if each page is an
    image (`pages.split_pages`).
    """

    image: Path
    label: Path | None
    source: str
    group: str
    part: PartName | None = None
    pixel_size_nm: float | None = None
    conditions: Mapping[str, str | int | float] = field(default_factory=dict)
    further_labels: tuple[Path, ...] = ()
    header: Header | None = None
    page: int | None = None
    page_count: int = 1

    @property
    def labels(self) -> tuple[Path, ...]:
        """Every file of its labels, sorted."""
        return () if self.label is None else (self.label, *self.further_labels)


@dataclass(frozen=True)
class PairedFiles:
    """The checked pairs of a specification, sorted by group and source.

    table: the manifest, if any. context: the manifest or the pattern of the images, by which an error begins that
    concerns no single file. notes: sentences on files that are left out and on columns that are not what they seem.
    """

    pairs: tuple[ImageLabelPair, ...]
    table: Path | None
    context: Path
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """Every file that the dataset is made from, sorted."""
        table = [self.table] if self.table else []
        labels = (label for pair in self.pairs for label in pair.labels)
        return sorted({*table, *(pair.image for pair in self.pairs), *labels})


def pair_files(spec: PrepareSpec, root: Path) -> PairedFiles:
    """Returns the pairs of the specification; its paths start at `root`. Raises SegueError with all problems."""
    context = root / (spec.manifest or spec.images or "")
    pairs, problems, notes = (_from_table if spec.manifest else _by_name)(spec, root)
    problems += _repeated_files(pairs, in_table=spec.manifest is not None)
    if spec.sizes is not None:
        pairs, unreadable = read_headers(pairs)
        problems += unreadable
        sized = [pair for pair in pairs if pair.header and (pair.header.height, pair.header.width) in spec.sizes]
        chosen = {pair.image for pair in sized}
        other = [pair.image for pair in pairs if pair.image not in chosen]
        notes += [f"sizes: {len(other)} images of other sizes are left out, e.g. {other[0]}"] if other else []
        pairs = sized
        if not pairs and not problems:
            sizes = ", ".join(f"{height} × {width}" for height, width in spec.sizes)
            raise SegueError(f"{context}: no image has one of the sizes {sizes}; correct `sizes` or leave it out.")
    problems += _divided_groups(pairs, context)
    raise_problems(context, problems)
    table = absolute(root / spec.manifest) if spec.manifest else None
    return PairedFiles(tuple(sorted(pairs, key=lambda pair: (pair.group, pair.source))), table, context, tuple(notes))


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


def raise_problems(context: Path | str, problems: Sequence[str]) -> None:
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


def _by_name(spec: PrepareSpec, root: Path) -> tuple[list[ImageLabelPair], list[str], list[str]]:
    """Returns the pairs of the pattern `spec.images`, a problem for each file that has no partner, and notes.

    An image and its label agree in the named parts of `spec.labels.files`; of images without named parts, {stem} is the
    name without its suffix.
    """
    assert spec.images is not None
    pattern = None if spec.labels is None else spec.labels.files
    matches = find_files(spec.images, root)
    candidates = MatchedFiles() if pattern is None else find_files(pattern, root)
    parts = named_parts(pattern or "")
    images_by_parts: dict[tuple[str, ...], list[NamedPath]] = defaultdict(list)
    for image in matches.files:
        images_by_parts[texts_of(image, parts)].append(image)
    # labels may lie beside the images, where one may match the patterns of both
    image_paths = {image.path for image in matches.files}
    labels_by_parts: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for label in candidates.files if parts else ():
        key = texts_of(label, parts)
        if label.path not in image_paths or any(image.path != label.path for image in images_by_parts[key]):
            labels_by_parts[key].append(label.path)
    label_paths = {path for paths in labels_by_parts.values() for path in paths}
    is_collection = pattern is not None and not parts  # files of annotations that name their images
    if is_collection:
        label_paths = {file.path for file in candidates.files}
    images = [image for image in matches.files if image.path not in label_paths]
    if not images:
        reason = f" ({matches.absent[0]})" if matches.absent else ""
        raise SegueError(
            f"{root}: images = '{spec.images}' matches no file below this folder{reason}{_example(matches.others)}; "
            "correct the pattern."
        )
    folder = shared_folder([image.path for image in images])
    pairs, problems, used = [], [*matches.problems, *candidates.problems], set()
    of_images, notes = _of_collections(pattern or "", root, candidates, images) if is_collection else ({}, [])
    hints = PatternHints(spec.images, pattern or "", root, image_paths)
    for image in images:
        labels = of_images.get(image.path, []) if is_collection else labels_by_parts.get(texts_of(image, parts), [])
        used.update(labels)
        if is_collection and not labels:
            problems.append(f"{image.path}: has no annotations in {pattern}; add it there, or leave the image out.")
        elif pattern is not None and not labels:
            hint = hints.label_of(image) if len(problems) < MAX_LISTED_PROBLEMS else ""
            expected = absolute(root / fill(pattern, all_names(image)))
            problems.append(f"{image.path}: has no label image {expected}{hint}; add it, or leave the image out.")
        elif len(labels) > 1 and not (spec.labels and spec.labels.one_object_per_file):
            hint = hints.one_of(labels) if len(problems) < MAX_LISTED_PROBLEMS else ""
            problems.append(f"{image.path}: has {len(labels)} label images, {labels[0]} and {labels[1]}{hint}.")
        else:
            source = image.path.relative_to(folder).as_posix()
            group, mismatch = _group_of(spec, source, image)
            problems += mismatch
            first, further = (labels[0], tuple(labels[1:])) if labels else (None, ())
            conditions = spec.conditions
            pairs.append(
                ImageLabelPair(image.path, first, source, group, conditions=conditions, further_labels=further)
            )
    unmatched = [path for path in matches.others if path not in label_paths]
    for path in sorted(label_paths - used - image_paths):
        hint = hints.image_of(path, unmatched) if len(problems) < MAX_LISTED_PROBLEMS else ""
        problems.append(
            f"{path}: is a label image without an image of that name{hint}; add it, or leave the label out."
        )
    left_out = {*matches.others, *candidates.others, *(label_paths - used)} - {image.path for image in images} - used
    return pairs, problems, [*notes, *_left_out(spec.images, left_out)]


def _of_collections(
    pattern: str, root: Path, files: MatchedFiles, images: Sequence[NamedPath]
) -> tuple[dict[Path, list[Path]], list[str]]:
    """Returns the files of annotations that name each image, and a note on images that they name beside those."""
    if not files.files:
        raise SegueError(f"{root}: labels.files = '{pattern}' matches no file below this folder; correct it.")
    by_image: dict[Path, list[Path]] = defaultdict(list)
    notes = []
    for file in files.files:
        names = annotated_images(file.path)
        if names is None:
            raise SegueError(
                f"{file.path}: holds the annotations of one image, which it does not name; write files with {{stem}}, "
                "such as 'annotations/{stem}.json'."
            )
        named = {image.path: names_of(names, image.path) for image in images}
        for path, matches in named.items():
            if matches:
                by_image[path].append(file.path)
        others = sorted(set(names) - {name for matches in named.values() for name in matches})
        notes += [f"{file.path}: {len(others)} images that it names are not there, e.g. {others[0]}"] if others else []
    return by_image, notes


def _example(others: Sequence[Path]) -> str:
    return f" (there is e.g. {others[0]})" if others else ""


def _left_out(pattern: str, paths: Iterable[Path]) -> list[str]:
    """Returns a note on the files beside images and labels that match neither pattern, [] without such files."""
    others = sorted(path for path in paths if path.suffix.lower() not in NOT_IMAGES)
    if not others:
        return []
    example = next((path for path in others if path.suffix.lower() in READERS), others[0])
    suffix = Path(pattern).suffix
    hint = f", whose suffix is {example.suffix}, not {suffix}" if example.suffix.lower() != suffix.lower() else ""
    number = "1 file matches no pattern and is" if len(others) == 1 else f"{len(others)} files match no pattern and are"
    return [f"images = '{pattern}': {number} left out, e.g. {example}{hint}"]


def _from_table(spec: PrepareSpec, root: Path) -> tuple[list[ImageLabelPair], list[str], list[str]]:
    """Returns the pairs of the table `spec.manifest`, a problem for each cell that is wrong, and notes on columns."""
    assert spec.manifest is not None
    table = read_table(root / spec.manifest, TABLE_COLUMNS)
    _check_columns(table, labeled=spec.labels is not None)
    columns, problems, notes = _condition_columns(table, spec.conditions)
    groups = _groups_of_table(table, problems)
    parts, sizes_nm = _parts_of_table(table, problems), _sizes_of_table(table, problems)
    files = []
    names = ("image", "label") if spec.labels is not None else ("image",)
    for number in range(len(table.rows)):
        paths = [path for name in names if (path := _file_of(table, number, name, root, problems)) is not None]
        files.append(paths if len(paths) == len(names) else [])
    folder = shared_folder([paths[0] for paths in files if paths])
    pairs = []
    for number, paths in enumerate(files):
        if not paths:
            continue
        image, label = absolute(paths[0]), absolute(paths[1]) if len(paths) > 1 else None
        source = image.relative_to(folder).as_posix()
        group, mismatch = (groups[number], []) if groups else _group_of(spec, source, NamedPath(image, {}))
        problems += mismatch
        conditions = {**spec.conditions, **{name: values[number] for name, values in columns.items()}}
        pairs.append(ImageLabelPair(image, label, source, group, parts[number], sizes_nm[number], conditions))
    return pairs, problems, notes


def _groups_of_table(table: Table, problems: list[str]) -> list[str]:
    """Returns the column group, [] without one, if all its cells are empty or a cell is wrong; adds to `problems`."""
    if not any(row.get("group") for row in table.rows):
        return []
    empty = table.partly_empty("group")
    if empty is not None:
        problems.append(empty)
        return []
    try:
        return table.texts("group")
    except SegueError as error:
        problems.append(str(error))
        return []


def _parts_of_table(table: Table, problems: list[str]) -> list[PartName | None]:
    """Returns the part of each row by the column split, None throughout without one; adds to `problems`."""
    texts = [row.get("split", "") for row in table.rows]
    if not any(texts):
        return [None] * len(texts)
    empty = table.partly_empty("split")
    problems += [] if empty is None else [empty]
    parts: list[PartName | None] = [next((part for part in PARTS if part == text.lower()), None) for text in texts]
    problems += [
        f"{table.line(number)}: split is '{text}'; allowed are {', '.join(PARTS)}: correct it."
        for number, (text, part) in enumerate(zip(texts, parts, strict=True))
        if text and part is None
    ]
    return parts


def _sizes_of_table(table: Table, problems: list[str]) -> list[float | None]:
    """Returns the pixel size of each row in nm, None where the cell is empty; adds to `problems`."""
    sizes_nm: list[float | None] = []
    for number, row in enumerate(table.rows):
        size_nm = None
        try:
            size_nm = table.number(number, "pixel_size_nm") if row.get("pixel_size_nm") else None
            if size_nm is not None and pixel_size_nm(size_nm, "nm") is None:
                problems.append(
                    f"{table.cell(number, 'pixel_size_nm')} is no pixel of a microscope, which measures "
                    f"{MIN_PIXEL_NM:g} to {MAX_PIXEL_NM:g} nm; correct it."
                )
        except SegueError as error:
            problems.append(str(error))
        sizes_nm.append(size_nm)
    return sizes_nm


def _file_of(table: Table, number: int, column: str, root: Path, problems: list[str]) -> Path | None:
    """Returns the file that a cell names, or None and a problem."""
    text = table.rows[number][column]
    if not text:
        problems.append(f"{table.line(number)}: {column} is empty; fill it in.")
        return None
    path = existing_path(root / text)
    if path is None:
        problems.append(f"{table.line(number)}: there is no file {root / text}{near_miss(root / text)}; correct it.")
    return path


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
) -> tuple[dict[str, Sequence[str | int | float]], list[str], list[str]]:
    """Returns the further columns, each as integers, numbers or text throughout; problems, and notes on text."""
    values: dict[str, Sequence[str | int | float]] = {}
    problems, notes = [], []
    for name in sorted(set(table.columns) - set(TABLE_COLUMNS)):
        empty = table.empty_cell(name)
        values[name] = [0] * len(table.rows)
        if name in STANDARD_COLUMNS or name in constants:
            problems.append(
                f"{table.path}: the column '{name}' cannot be a condition, since the name is reserved; rename it."
            )
        elif re.match(r"pixel[ _-]*size|px[ _-]*size", name, re.IGNORECASE):
            problems.append(f"{table.path}: the column '{name}' is a pixel size; give it in nm as pixel_size_nm.")
        elif not is_condition_name(name):
            problems.append(f"{table.path}: the column '{name}' cannot be stored by that name; leave out its / or .")
        elif empty is not None:
            problems.append(empty)
        else:
            try:
                values[name] = table.typed(name)
                notes += [note] if (note := table.note(name)) else []
            except SegueError as error:
                problems.append(str(error))
        if close := difflib.get_close_matches(name.casefold(), TABLE_COLUMNS, n=1, cutoff=0.8):
            notes.append(f"{table.path}: column '{name}' is taken as a condition; if it is the {close[0]}, rename it")
    return values, problems, notes


def _group_of(spec: PrepareSpec, source: str, image: NamedPath) -> tuple[str, list[str]]:
    """Returns the group of an image by its name, and a problem if the pattern of groups does not match."""
    source = unicodedata.normalize("NFC", source)
    if spec.group_pattern is not None:
        match = re.search(spec.group_pattern, source)
        if match is not None and match.group(1):
            return match.group(1), []
        return source, [
            f"{image.path}: group_pattern '{spec.group_pattern}' does not match '{source}'; correct the pattern."
        ]
    names = all_names(image)
    groups = {
        "path": (PurePosixPath(source).parent / names["stem"]).as_posix(),
        "stem": names["stem"],
        "file": source,
    }
    return groups.get(spec.group) or fill(spec.group, names), []


def _repeated_files(pairs: Sequence[ImageLabelPair], *, in_table: bool) -> list[str]:
    """Returns a problem for each image that occurs several times, and for each label image of several images."""
    by_image, by_label = defaultdict(list), defaultdict(list)
    for pair in pairs:
        by_image[pair.image].append(pair.image)
        if pair.label is not None:
            by_label[pair.label].append(pair.image)
    remedy = (
        "give each image its own row and label"
        if in_table
        else "if they are channels of one image, choose one by the pattern, or stack them into one file; if not, name "
        "what they differ in on both sides, as in {folder}/{stem}"
    )
    return [
        *(
            f"{path}: this image occurs {len(images)} times; give each image one row."
            for path, images in sorted(by_image.items())
            if len(images) > 1
        ),
        *(
            f"{path}: is the label image of {len(images)} images, {images[0]} and {images[1]}; {remedy}."
            for path, images in sorted(by_label.items())
            if len(images) > 1 and not (is_annotation_file(path) and annotated_images(path) is not None)
        ),
    ]


def _divided_groups(pairs: Sequence[ImageLabelPair], context: Path) -> list[str]:
    parts_of_group: dict[str, set[PartName | None]] = {}
    for pair in pairs:
        parts_of_group.setdefault(pair.group, set()).add(pair.part)
    return [
        f"{context}: group '{group}': is in {' and '.join(sorted(map(str, parts)))}; a group belongs to one split."
        for group, parts in sorted(parts_of_group.items())
        if len(parts) > 1 and None not in parts
    ]
