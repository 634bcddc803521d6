"""What a folder of images and labels holds: pairs, sizes, channels, the kind of the labels, objects, annotation_notes.

Images without a label image are left out and counted; a label image without an image is refused. Nothing is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segue.data.annotations.draw import IGNORED_CLASSES, AnnotationNotes, describe_annotation_notes
from segue.data.annotations.files import annotated_images, is_annotation_file, names_of, read_annotations
from segue.data.folders.label_files import read_label_files
from segue.data.folders.masks import groups_of
from segue.data.folders.observations import Observation, notes_on_images, notes_on_pixel_sizes, observe
from segue.data.folders.pairing import ImageLabelPair, raise_problems
from segue.data.folders.patterns import (
    FOLDER_SUFFIXES,
    NamedPath,
    all_names,
    file_stem,
    find_files,
    named_parts,
    texts_of,
)
from segue.data.formats.stack import RGB, Acquisition
from segue.data.image_io import ARRAY_READERS, READERS, read_header, read_image
from segue.data.normalization import image_statistics
from segue.data.spec import ANNOTATIONS, PrepareSpec
from segue.errors import SegueError
from segue.labels import numbering
from segue.labels.numbering import INSTANCES, MANY_VALUES, REMEDIES, LabelMeasures
from segue.spec import validate

LabelKind = Literal["instances", "classes"]
MAX_OBSERVED = 48  # images whose intensities are looked at, evenly spaced; of the others, the header and the labels
PROVISIONAL = {"name": "fit", "manifest": "images.csv", "tile_px": 64}
PROVISIONAL_LABELS = {"kind": "instances", "names": ["background", "object"], "number_parts": False}
FIT_REMEDIES = {**REMEDIES, "instances": "give --kind instances", "classes": "give --kind classes"}
LABEL_SUFFIXES = (*READERS, *ARRAY_READERS, *ANNOTATIONS)


@dataclass(frozen=True)
class Labels:
    """What label images or annotations mean.

    names: of the classes, the background first, or ("background", "object"); values: label by value, or by class of
    annotations, where they differ; number_parts: whether the connected parts of masks are numbered to be objects;
    reason: of all this; unlabeled: what pixels without annotations are, where these are scribbles.
    """

    kind: LabelKind
    names: tuple[str, ...]
    values: Mapping[int, int] | Mapping[str, int]
    number_parts: bool
    reason: str
    unlabeled: Literal["ignored"] | None = None


@dataclass(frozen=True)
class Look:
    """What was seen. unlabeled: images without a label image; shapes (n, 2): height and width of each pair; counts:
    objects or classes present in each image; diameters: of objects in px, of circles of their areas (labels of
    instances alone); shares: of the pixels of each label value, over all images; notes: what looks wrong."""

    pairs: tuple[ImageLabelPair, ...]
    unlabeled: tuple[Path, ...]
    labels: Labels
    shapes: np.ndarray
    channels: int
    dtype: str
    color: Literal["rgb", "gray"]
    pixel_sizes_nm: tuple[float, ...]
    counts: np.ndarray
    diameters: np.ndarray
    shares: Mapping[int, float]
    notes: tuple[str, ...]

    @property
    def groups(self) -> list[str]:
        return sorted({pair.group for pair in self.pairs})

    @cached_property
    def pixels(self) -> int:
        """Pixels of all labeled images together."""
        return int(self.shapes.prod(1).sum())

    def describe(self) -> list[str]:
        """Returns what was seen, a line each, what looks wrong last."""
        count, groups = len(self.pairs), len(self.groups)
        unlabeled = f"; {len(self.unlabeled)} without a label image are left out" if self.unlabeled else ""
        sizes = Counter(map(tuple, self.shapes.tolist())).most_common()
        listed = ", ".join(f"{height} × {width} px ({number})" for (height, width), number in sizes[:3])
        more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
        known = sorted(set(self.pixel_sizes_nm))
        size = "not stated" if not known else f"{known[0]:.4g} nm" if len(known) == 1 else (
            f"{known[0]:.4g} to {known[-1]:.4g} nm"
        )  # fmt: skip
        lines = [
            f"images: {count} with label images, in {groups} groups{unlabeled}",
            f"sizes: {listed}{more}",
            f"pixel size: {size}",
            f"channels: {self.channels}, {self.dtype}",
            f"labels: {self.labels.kind}, {self.labels.reason}",
        ]
        if self.labels.kind == "instances":
            low, middle, high = np.percentile(self.diameters, [5, 50, 95]) if len(self.diameters) else (0, 0, 0)
            lines += [
                f"objects: {int(self.counts.sum()):,}, {int(self.counts.min())} to {int(self.counts.max())} an image, "
                f"{100 * (1 - self.shares.get(0, 0)):.0f} % of the pixels",
                f"diameters: median {middle:.0f} px, 90 % between {low:.0f} and {high:.0f} px",
            ]
        else:
            shares = (f"{name} {100 * self.shares.get(value, 0):.1f} %" for value, name in enumerate(self.labels.names))
            lines.append(f"share of the pixels: {', '.join(shares)}")
        return [*lines, *(f"looks wrong: {note}" for note in self.notes)]


def look_at(images: str, labels: str, *, group: str | None, kind: LabelKind | None) -> Look:
    """Returns what the images and label images hold; both are folders or patterns of files.

    group: the part of file names that names the group of an image (`group_of`), each its own without. kind: what the
    labels are, found out without. Raises SegueError, with all problems, for files that do not pair or cannot be used.
    """
    pairs, unlabeled = pair(images, labels, group)
    of_annotations = kind_of_annotations(pairs, labels, kind)
    labels_settings = PROVISIONAL_LABELS if of_annotations is None else _settings(of_annotations)
    spec = validate(PrepareSpec, {**PROVISIONAL, "labels": labels_settings}, context="fit")
    assert spec.layer is not None
    shapes, measures, counts, areas, problems = [], {}, [], [], []
    sizes_nm: dict[str, float | None] = {}
    totals: Counter[int] = Counter()
    observations: dict[str, Observation] = {}
    annotation_notes: dict[str, AnnotationNotes] = {}
    kinds: Counter[tuple[int, str]] = Counter()
    grays, colors = 0, 0
    observed = set(np.linspace(0, len(pairs) - 1, min(len(pairs), MAX_OBSERVED)).round().astype(int).tolist())
    for index, one in enumerate(pairs):
        try:
            acquisition = read_image(one.image) if index in observed or index == 0 else None
            shape = _shape(one, acquisition)
            of_image = read_label_files(spec, one, spec.layer, shape)
        except SegueError as error:
            problems.append(str(error))
            continue
        values, annotation_notes[one.source] = of_image.labels, of_image.annotation_notes
        shapes.append(shape)
        measures[one.source] = numbering.measure(values)
        present, pixels = np.unique(values, return_counts=True)
        totals.update(dict(zip(present.tolist(), pixels.tolist(), strict=True)))
        if acquisition is not None:
            image = acquisition.image
            kinds[len(image), str(image.dtype)] += 1
            observations[one.source] = observe(image, image_statistics(image))
            is_color = len(image) == len(RGB) and acquisition.channels == RGB
            colors += is_color
            grays += is_color and bool((image == image[:1]).all())
            sizes_nm[one.source] = acquisition.pixel_size_nm
    raise_problems(Path(images), problems)
    if len(kinds) > 1:
        found = "; ".join(f"{channels} channel(s) of {dtype}: {n}" for (channels, dtype), n in kinds.items())
        raise SegueError(f"{images}: the images differ in kind ({found}); convert them to one, or leave some out.")
    meaning = of_annotations or kind_of_labels(list(measures.values()), totals, kind)
    refusal, notes = numbering.judge(
        measures,
        classes=len(meaning.names) if meaning.kind == "classes" else None,
        number_parts=True if meaning.number_parts else None if of_annotations is None else False,
        remedies=FIT_REMEDIES,
    )
    if refusal:
        raise SegueError(f"{labels}: {refusal}, in a specification of `segue prepare`; or give --kind.")
    if meaning.kind == "instances" and not totals.get(0):
        raise SegueError(
            f"{labels}: no pixel is background, of value 0 (of −1 they are ignored), so that objects cannot be told "
            "from anything; give what lies between them the value 0."
        )
    if meaning.kind == "instances":
        for one, shape in zip(pairs, shapes, strict=True):
            values = read_label_files(spec, one, spec.layer, shape).labels
            sizes = np.bincount(
                (numbering.number_parts(values) if meaning.number_parts else values).clip(min=0).ravel()
            )
            objects = sizes[1:][sizes[1:] > 0]
            counts.append(len(objects))
            areas += objects.tolist()
    else:
        counts = [measure.values for measure in measures.values()]
    whole = sum(totals.values()) or 1
    channels, dtype = next(iter(kinds))
    is_gray = colors > 0 and grays == colors
    shares: Counter[int] = Counter()
    for value, number in totals.items():
        shares[value if of_annotations else _value_of(meaning, value)] += number
    return Look(
        pairs=tuple(pairs),
        unlabeled=tuple(unlabeled),
        labels=meaning,
        shapes=np.array(shapes),
        channels=1 if is_gray else channels,
        dtype=dtype,
        color="gray" if is_gray else "rgb",
        pixel_sizes_nm=tuple(size for size in sizes_nm.values() if size is not None),
        counts=np.array(counts),
        diameters=2 * np.sqrt(np.array(areas, dtype=float) / np.pi),
        shares={value: number / whole for value, number in shares.items()},
        notes=(
            *describe_annotation_notes(annotation_notes),
            *notes,
            *notes_on_images(observations),
            *notes_on_pixel_sizes(sizes_nm),
        ),
    )


def _value_of(labels: Labels, value: int) -> int:
    """Returns the label of a value of label images."""
    return {key: label for key, label in labels.values.items() if isinstance(key, int)}.get(value, value)


def _settings(labels: Labels) -> dict[str, Any]:
    settings = {"kind": labels.kind, "names": list(labels.names), "values": dict(labels.values)}
    return settings if labels.unlabeled is None else {**settings, "unlabeled": labels.unlabeled}


def _shape(one: ImageLabelPair, acquisition: Acquisition | None) -> tuple[int, int]:
    if acquisition is not None:
        return acquisition.image.shape[1], acquisition.image.shape[2]
    header = read_header(one.image)
    return header.height, header.width


# pairs


def pair(images: str, labels: str, group: str | None) -> tuple[list[ImageLabelPair], list[Path]]:
    """Returns the labeled images with their labels, by group and name, and the images without labels."""
    root = Path.cwd()
    groups_of([], group)  # refuses what is no pattern, before files are looked at
    image_pattern = pattern_of(images)
    matches = find_files(image_pattern, root)
    if is_annotation_file(Path(labels)) and Path(labels).is_file():
        names = annotated_images(Path(labels))
        if names is not None:
            raise_problems(Path(images), matches.problems)
            return _pair_by_names(matches.files, Path(labels).absolute(), names, group)
    candidates = find_files(pattern_of(labels, matches.files), root)
    raise_problems(Path(images), [*matches.problems, *candidates.problems])
    if not matches.files:
        raise SegueError(
            f"{images}: holds no image of a known format ({', '.join(READERS)}); give a folder or a pattern."
        )
    parts = named_parts(pattern_of(labels, matches.files)) or ("stem",)
    by_parts: dict[tuple[str, ...], list[NamedPath]] = {}
    for image in matches.files:
        by_parts.setdefault(texts_of(image, parts), []).append(image)
    image_paths = {image.path for image in matches.files}
    label_paths: dict[tuple[str, ...], list[Path]] = {}
    for label in candidates.files:
        key = texts_of(label, parts)
        if label.path not in image_paths or any(image.path != label.path for image in by_parts.get(key, ())):
            label_paths.setdefault(key, []).append(label.path)
    used = {path for paths in label_paths.values() for path in paths}
    problems = [
        f"{paths[0]}: is a label image without an image of that name; add it, or leave the label out."
        for key, paths in label_paths.items()
        if not any(image.path not in used for image in by_parts.get(key, ()))
    ]
    pairs: list[ImageLabelPair] = []
    unlabeled: list[Path] = []
    for key, same in by_parts.items():
        free = [image for image in same if image.path not in used]
        if len(free) > 1 and key in label_paths:
            problems.append(f"{free[0].path}: there is also {free[1].path}, for the one label {label_paths[key][0]}.")
        elif free and len(label_paths.get(key, ())) > 1:
            problems.append(f"{free[0].path}: has {len(label_paths[key])} label images, e.g. {label_paths[key][1]}.")
        elif free and key in label_paths:
            stem = all_names(free[0])["stem"]
            try:
                name = group_of(stem, group)
            except SegueError as error:
                problems.append(str(error))
                continue
            pairs.append(ImageLabelPair(free[0].path, label_paths[key][0], free[0].path.name, name))
        else:
            unlabeled += [image.path for image in free]
    raise_problems(Path(labels), problems)
    if not pairs:
        examples = [str(files[0]) for files in (sorted(image_paths), [file.path for file in candidates.files]) if files]
        raise SegueError(
            f"{labels}: no label image is called as an image (there are e.g. {' and '.join(examples)}); give patterns "
            "with {stem}, such as 'images/{stem}.tif' and 'labels/{stem}_masks.tif'."
        )
    return sorted(pairs, key=lambda one: (one.group, one.source)), unlabeled


def _pair_by_names(
    images: Sequence[NamedPath], path: Path, names: Sequence[str], group: str | None
) -> tuple[list[ImageLabelPair], list[Path]]:
    """Returns the images that a file of annotations names, by group and name, and the others."""
    pairs: list[ImageLabelPair] = []
    unlabeled, problems = [], []
    for image in images:
        if not names_of(names, image.path):
            unlabeled.append(image.path)
            continue
        try:
            pairs.append(ImageLabelPair(image.path, path, image.path.name, group_of(all_names(image)["stem"], group)))
        except SegueError as error:
            problems.append(str(error))
    raise_problems(path, problems)
    if not pairs:
        raise SegueError(f"{path}: names none of the images (it has e.g. {', '.join(names[:3])}); correct their names.")
    return sorted(pairs, key=lambda one: (one.group, one.source)), unlabeled


def pattern_of(where: str, images: Sequence[NamedPath] = ()) -> str:
    """Returns the pattern of the image files in a folder, or `where` if it is a pattern itself.

    images: those that labels belong to; text that every label's name has after the name of its image is part of the
    pattern, as in 000_masks.tif of 000.tif.
    """
    folder = Path(where)
    if not folder.is_dir():
        if re.search(r"[{*?\[]", where) or folder.is_file():
            return where
        raise SegueError(f"{where}: there is no such folder or file; give one, or a pattern of files in quotes.")
    stems = sorted((file_stem(image.path.name) for image in images), key=len, reverse=True)
    endings: Counter[tuple[str, str]] = Counter()
    suffixes = [f".{suffix.rpartition('.')[2]}" for suffix in (LABEL_SUFFIXES if images else READERS)]
    for path in sorted(folder.iterdir()):
        is_one = path.is_file() or (bool(images) and path.name.lower().endswith(FOLDER_SUFFIXES))
        if is_one and path.suffix.lower() in suffixes and not path.name.startswith("."):
            stem = file_stem(path.name)
            of_image = next((name for name in stems if stem == name), "") or next(
                (name for name in stems if stem.startswith(name)), ""
            )
            endings[stem[len(of_image) :] if of_image else "", path.name[len(stem) :]] += 1
    if not endings:
        raise SegueError(
            f"{where}: holds no image of a known format ({', '.join(READERS)}); give a folder or a pattern."
        )
    (ending, suffix), _ = endings.most_common(1)[0]
    return str(folder / f"{{stem}}{ending}{suffix}")


def group_of(stem: str, pattern: str | None) -> str:
    """Returns the group of an image by the name of its file, without suffix, as `groups_of` does.

    >>> group_of("B02_s1", "{group}_s*"), group_of("B02_s1", "^([A-Z])")
    ('B02', 'B')
    """
    return groups_of([stem], pattern)[0]


# what labels are


def kind_of_annotations(pairs: Sequence[ImageLabelPair], labels: str, kind: LabelKind | None) -> Labels | None:
    """Returns what annotations mean, by their classes; None for label images. `kind` decides where it is given.

    Lines or points alone and the labels of ilastik's projects are classes; else areas of one class are objects, and
    those of several are classes of pixels. Raises SegueError for label images among them, and if all are empty.
    """
    are_annotations = [one.label is not None and is_annotation_file(one.label) for one in pairs]
    if not any(are_annotations):
        return None
    if not all(are_annotations):
        raise SegueError(f"{labels}: has both annotations and label images; give a pattern, such as '{labels}/*.json'.")
    counts: Counter[str] = Counter()
    are_sparse, are_areas = False, False
    for one in pairs:
        assert one.label is not None
        annotations = read_annotations(one.label, one.image)
        counts.update(shape.class_name for shape in annotations.shapes)
        are_sparse |= annotations.sparse
        are_areas |= any(shape.kind == "area" for shape in annotations.shapes)
    are_scribbles = are_sparse or not are_areas
    ignored = {name.casefold() for name in IGNORED_CLASSES}
    classes = sorted(name for name in counts if name.casefold() not in ignored)
    if not classes:
        raise SegueError(f"{labels}: no annotation is in any file; draw what is to be found.")
    several = [name for name in classes if name.casefold() != "background"]
    listed = ", ".join(f"{counts[name]} {f'of {name!r}' if name else 'without a class'}" for name in classes)
    if kind == "instances" or (kind is None and not are_scribbles and len(several) == 1):
        values = {name: 1 for name in several if name}
        return Labels(
            "instances",
            ("background", several[0] if len(several) == 1 and several[0] else "object"),
            values,
            False,
            f"annotations: {listed}",
        )
    named = [name or "unclassified" for name in several]
    has_background = len(several) < len(classes) or not are_scribbles
    names = ("background", *named) if has_background else tuple(named)
    if len(names) < 2:
        raise SegueError(f"{labels}: scribbles are of one class ('{named[0]}'); draw some of the background, too.")
    values = {name: index for index, name in enumerate(several, has_background)}
    hint = "" if kind or are_scribbles else "; each an object: --kind instances"
    unlabeled = "ignored" if are_scribbles else None
    return Labels("classes", names, values, False, f"annotations: {listed}{hint}", unlabeled)


def kind_of_labels(measures: Sequence[LabelMeasures], totals: Mapping[int, int], kind: LabelKind | None) -> Labels:
    """Returns what label images mean, by their values and connected parts; `kind` decides where it is given.

    measures: of each image; totals: pixels of each value over all images. Few values, many of them in several parts, or
    without any background, are classes; else each value is an object. A single value is a class of its own: whether
    its parts are objects, only the user knows.
    """
    values = sorted(value for value in totals if value > 0)
    labeled = [measure for measure in measures if measure.values]
    if not values:
        raise SegueError("all label images are empty; give label images of what is to be found.")
    few = len(values) <= MANY_VALUES
    repeated = [
        measure.values if INSTANCES["classes"].applies(measure) else measure.objects_repeated for measure in labeled
    ]
    is_usual = 3 * sum(count > 0 for count in repeated) >= len(labeled)
    many_are_repeated = 4 * sum(repeated) >= sum(measure.values for measure in labeled)
    is_mask = len(values) == 1
    are_classes = few and ((is_usual and many_are_repeated) or not totals.get(0))
    if kind == "instances" or (kind is None and not is_mask and not are_classes):
        number_parts = is_mask or (few and are_classes)
        reason = "the connected parts of each value, numbered" if number_parts else "a number for each object"
        return Labels("instances", ("background", "object"), {}, number_parts, reason)
    if not few:
        raise SegueError(f"--kind classes: the labels have {len(values)} values, as numbered objects do; leave it out.")
    is_plain = values == list(range(1, len(values) + 1))
    names = ("background", "foreground") if is_mask else ("background", *(f"class-{value}" for value in values))
    parts = sum(measure.parts for measure in labeled)
    hint = f" (its {parts} connected parts can be objects: --kind instances)" if is_mask and kind is None else ""
    listed = f"values {', '.join(map(str, values))}" if len(values) > 1 else f"a mask of value {values[0]}"
    mapping: Mapping[int, int] = {} if is_plain else {value: index for index, value in enumerate(values, 1)}
    return Labels("classes", names, mapping, False, f"{listed}{hint}")
