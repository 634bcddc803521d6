"""Scores label images made by anything, or models in their place, on the same labeled images: counts per image.

A *tool* is whatever made label images: a program, a colleague, a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from segue.data import image_io
from segue.data.folders.masks import NamedFiles, find_masks, groups_of, pair_masks, read_masks
from segue.data.folders.observations import picture_hash
from segue.data.folders.pairing import raise_problems
from segue.device import freed_memory_kept
from segue.errors import SegueError
from segue.evaluation.counts import Counts, concatenate, count
from segue.evaluation.folder import USED, predict_image
from segue.inference import domain
from segue.inference.inputs import ImageInput, open_image
from segue.inference.model import Model
from segue.labels import numbering

LABELS = "labels"  # what the label images are called, which no tool can be
IMAGES = "--images"  # what the images are called, which no tool is
UNCLEAR_IGNORED = {1, 255}  # values of masks in which 255 may be the foreground or mark ignored pixels


@dataclass(frozen=True)
class ToolsSpec:
    """How label images are read and what is compared.

    classes: names of the classes of pixels, the background first; empty for objects, numbered from 1. number_parts:
    tools, or "labels", whose connected parts (8 neighbors) are numbered: masks become objects. keep_numbers: those
    whose numbers count although they look like no numbering. group: pattern of the end of names, without suffix, whose
    named parts are the group of an image, or a regular expression with one group (`data.folders.masks.groups_of`);
    None: each file is its own group.
    """

    classes: tuple[str, ...] = ()
    number_parts: tuple[str, ...] = ()
    keep_numbers: tuple[str, ...] = ()
    group: str | None = None


class Source(Protocol):
    """Gives the label image of each image by its index, (H, W) int32."""

    def read(self, index: int) -> np.ndarray: ...


@dataclass
class LabelFiles:
    """Label images from files: (path, page) of each image."""

    pages: list[tuple[Path, int]]
    number_parts: bool = False
    as_foreground: bool = False  # every value above 0 is class 1
    _file: tuple[Path | None, np.ndarray] = field(default=(None, np.empty(0)), repr=False)  # the last one read

    def read(self, index: int) -> np.ndarray:
        path, page = self.pages[index]
        if self._file[0] != path:
            self._file = (path, read_masks(path))
        labels = self._file[1][page]
        if self.as_foreground:
            return np.minimum(labels, 1)
        return numbering.number_parts(labels) if self.number_parts else labels


@dataclass(frozen=True)
class ModelLabels:
    """Label images that a model predicts."""

    model: Model
    images: tuple[ImageInput, ...]
    kind: str

    def read(self, index: int) -> np.ndarray:
        return self.predict(index)[0]

    def predict(self, index: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Returns the label image, the image (C, H, W), and sentences on both."""
        opened = open_image(self.images[index], self.model.channels)
        image = np.asarray(opened.image[:, :, :])
        labels, _ = predict_image(self.model, image, self.kind)
        differences = domain.describe_difference(self.model, replace(opened, image=image))
        return labels, image, [*opened.notes, *differences]


@dataclass(frozen=True)
class ToolCounts:
    """What was compared: names and groups of I images, the counts of each tool, and where its label images come from.

    used_in_training (I,) of each model that knows the images it was trained with. notes: sentences on all of it.
    places: the files of each tool as given. image_files: (path, page) of each image, None where none were given.
    """

    spec: ToolsSpec
    images: tuple[str, ...]
    groups: tuple[str, ...]
    counts: Mapping[str, Counts]
    labels: Source
    sources: Mapping[str, Source]
    places: Mapping[str, str]
    image_files: tuple[ImageInput, ...] | None = None
    used_in_training: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@freed_memory_kept()
def score_tools(
    labels: Path | str,
    tools: Mapping[str, Path | str | Model],
    *,
    images: Path | str | None = None,
    spec: ToolsSpec = ToolsSpec(),
) -> ToolCounts:
    """Returns the counts of each tool's label images against `labels`, paired by name (`data.folders.masks`).

    All files are read and judged before anything is scored: raises SegueError with every image that is missing, has
    another name or another size, and for label images that are no objects (`labels.numbering`).
    """
    _check_names(tools, spec)
    expected = find_masks(LABELS, labels)
    files = {name: find_masks(name, place) for name, place in tools.items() if not isinstance(place, Model)}
    paths = {name: pair_masks(expected, one) for name, one in files.items()}
    places = {one.name: one.place for one in (expected, *files.values())} | {IMAGES: str(images)}
    image_paths: dict[str, Path] | None = None
    if images is not None:
        listed = find_masks("images", images, suffixes=tuple(image_io.READERS))
        image_paths = pair_masks(expected, listed, complete=False)

    # every file is read and judged
    pages, sources, notes = _read_all(expected, paths, image_paths, spec, places)
    planes = [(key, page if total > 1 else None) for key, total in pages.items() for page in range(total)]
    names = [key if page is None else f"{key} page {page + 1}" for key, page in planes]
    groups = groups_of([key for key, _ in planes], spec.group)
    notes = [*expected.notes, *(note for one in files.values() for note in one.notes), *notes]
    image_files = None
    if image_paths is not None:
        image_files = tuple(ImageInput(key, image_paths[key], page) for key, page in planes)

    # models in the place of label images
    kind = "classes" if spec.classes else "instances"
    for name, tool in tools.items():
        if isinstance(tool, Model):
            if image_files is None:
                raise SegueError(f"{name}: is a model, which needs the images that it is to predict; give --images.")
            _check_model(name, tool, spec)
            sources[name] = ModelLabels(tool, image_files, kind)

    # counts
    truth = sources.pop(LABELS)
    counted: dict[str, list[Counts]] = {name: [] for name in tools}
    used: dict[str, list[bool]] = {}
    sentences: Counter[str] = Counter()
    for index in range(len(names)):
        true = truth.read(index)
        for name in tools:
            source = sources[name]
            if isinstance(source, ModelLabels):
                predicted, image, of_image = source.predict(index)
                if source.model.pictures:
                    used.setdefault(name, []).append(picture_hash(image) in source.model.pictures)
                    of_image += [USED] * used[name][-1]
                sentences.update(f"{name}: {one}" for one in of_image)
            else:
                predicted = source.read(index)
            counted[name].append(count(true, predicted, spec.classes))
    notes += [f"{sentence} ({n} image{'s' * (n > 1)})" for sentence, n in sentences.items()]
    return ToolCounts(
        spec=spec,
        images=tuple(names),
        groups=tuple(groups),
        counts={name: concatenate(rows) for name, rows in counted.items()},
        labels=truth,
        sources={name: sources[name] for name in tools},
        places={
            name: str(getattr(tool, "folder", "a model")) if isinstance(tool, Model) else str(tool)
            for name, tool in tools.items()
        },
        image_files=image_files,
        used_in_training={name: np.array(values) for name, values in used.items()},
        notes=tuple(notes),
    )


# checks


def _check_names(tools: Mapping[str, object], spec: ToolsSpec) -> None:
    if not tools:
        raise SegueError("compare: there are no masks to compare; give at least one NAME=MASKS.")
    if LABELS in tools:
        raise SegueError(f"compare: '{LABELS}' is the name of the label images; call the tool something else.")
    known = (LABELS, *tools)
    for option, names in (("number-parts", spec.number_parts), ("keep-numbers", spec.keep_numbers)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise SegueError(f"--{option} {unknown[0]}: is no tool; allowed are {', '.join(known)}.")
    if spec.classes and spec.number_parts:
        raise SegueError("compare: --number-parts makes objects of masks, but --classes compares classes; give one.")
    if len(spec.classes) == 1 or len(set(spec.classes)) < len(spec.classes):
        raise SegueError(
            f"--classes {','.join(spec.classes)}: needs the background and one class at least, each once; write e.g. "
            "--classes background,nucleus."
        )


def _check_model(name: str, model: Model, spec: ToolsSpec) -> None:
    predicts = model.target.output.replace("_", " ")
    if model.target.output not in ("objects", "classes"):
        raise SegueError(f"{name}: predicts {predicts}, which label images cannot score; give another model.")
    if spec.classes and (model.target.output != "classes" or tuple(model.target.names) != spec.classes):
        raise SegueError(
            f"{name}: predicts {', '.join(model.target.names) or predicts}, but the classes compared are "
            f"{', '.join(spec.classes)}; give a model of these classes."
        )
    if not spec.classes and not model.target.decodes_objects:
        raise SegueError(f"{name}: predicts classes of pixels, not objects; give --classes, or a model of objects.")


def _read_all(
    expected: NamedFiles,
    paths: Mapping[str, Mapping[str, Path]],
    images: Mapping[str, Path] | None,
    spec: ToolsSpec,
    places: Mapping[str, str],
) -> tuple[dict[str, int], dict[str, Source], list[str]]:
    """Returns the number of pages of each label file, the label images of each tool and of the labels, and notes.

    places: where the files of each, of the labels and the images are, which head a list of their problems.
    """
    problems: dict[str, list[str]] = {}  # by place
    pages: dict[str, int] = {}
    measures: dict[str, dict[str, numbering.LabelMeasures]] = {name: {} for name in (LABELS, *paths)}
    values: dict[str, set[int]] = {name: set() for name in measures}
    marked: Counter[str] = Counter()
    for key, label_path in expected.files.items():
        true = read_masks(label_path)
        pages[key] = len(true)
        if images is not None:
            problems.setdefault(places[IMAGES], []).extend(_other_size(images[key], true.shape[1:]))
        for name, path in {LABELS: label_path, **{name: of_tool[key] for name, of_tool in paths.items()}}.items():
            of_name = problems.setdefault(places[name], [])
            try:
                labels = true if name == LABELS else read_masks(path)
            except SegueError as error:
                of_name.append(str(error))
                continue
            if labels.shape != true.shape:
                of_name.append(
                    f"{name}: {path} is {_shape(labels)}, but the label image {label_path} is {_shape(true)}; masks "
                    "have the size of the image: check the pair."
                )
                continue
            if name != LABELS and labels.min() < 0:
                of_name.append(f"{name}: {path} holds -1, which is for pixels that labels ignore; make it 0.")
                continue
            is_tiff = path.suffix.lower() in image_io.TIFF_SUFFIXES
            marked[name] += is_tiff and image_io.is_inverted_mask(path, path) is not None
            for page, plane in enumerate(labels):
                where = path.name if len(labels) == 1 else f"{path.name} page {page + 1}"
                number = name in spec.number_parts
                measures[name][where] = numbering.measure(numbering.number_parts(plane) if number else plane)
                if spec.classes:
                    values[name].update(np.unique(plane).tolist())
    wrong = [place for place, of_place in problems.items() if of_place]
    raise_problems(", ".join(wrong), [problem for place in wrong for problem in problems[place]])
    sources: dict[str, Source] = {}
    notes = [
        f"{name}: {n} one-bit masks are marked WhiteIsZero, and taken as stored: 1 for foreground"
        for name, n in marked.items()
        if n
    ]
    for name, of_images in measures.items():
        as_foreground, of_classes = _class_values(name, values[name], spec.classes) if spec.classes else (False, [])
        notes += [*of_classes, *_judge(name, of_images, spec, as_foreground=as_foreground)]
        of_tool = expected.files if name == LABELS else paths[name]
        planes = [(of_tool[key], page) for key, total in pages.items() for page in range(total)]
        sources[name] = LabelFiles(planes, name in spec.number_parts, as_foreground)
    return pages, sources, notes


def _shape(labels: np.ndarray) -> str:
    size = f"{labels.shape[1]} × {labels.shape[2]} px"
    return size if len(labels) == 1 else f"{len(labels)} pages of {size}"


def _other_size(path: Path, shape: tuple[int, ...]) -> list[str]:
    try:
        header = image_io.read_header(path)
    except SegueError as error:
        return [str(error)]
    if (header.height, header.width) == shape:
        return []
    return [
        f"{path}: the image is {header.height} × {header.width} px, but its label image is {shape[0]} × {shape[1]} px; "
        "they must have the same size: check the pair."
    ]


def _judge(
    name: str, measures: Mapping[str, numbering.LabelMeasures], spec: ToolsSpec, *, as_foreground: bool
) -> list[str]:
    """Returns what looks odd about the label images of a tool; raises SegueError if they cannot be objects."""
    if as_foreground:
        return []
    number_parts = True if name in spec.number_parts else False if name in spec.keep_numbers else None
    remedies = {
        "number_parts": f"give --number-parts {name}",
        "keep_numbers": f"give --keep-numbers {name}",
        "classes": "give --classes with their names",
        "instances": "leave --classes out",
        "exchange": "exchange 0 and 1",
        "inverted": "",
    }
    classes = len(spec.classes) or None
    refusal, notes = numbering.judge(measures, classes=classes, number_parts=number_parts, remedies=remedies)
    if refusal:
        raise SegueError(f"{name}: {refusal}.")
    return [f"{name}: {note}" for note in notes]


def _class_values(name: str, values: set[int], classes: Sequence[str]) -> tuple[bool, list[str]]:
    """Returns whether every value above 0 is the only class beside the background, and a note if so."""
    above = {value for value in values if value > 0}
    highest = max(above, default=0)
    if highest < len(classes):
        return False, []
    if len(classes) > 2:
        raise SegueError(
            f"{name}: holds the value {highest}, but only 0 to {len(classes) - 1} are named ({', '.join(classes)}); "
            "name all classes in --classes, or leave it out if the values number objects."
        )
    if above == UNCLEAR_IGNORED:
        raise SegueError(
            f"{name}: holds 0, 1 and 255, of which 255 may be '{classes[1]}' or mark ignored pixels; make it 1, or -1."
        )
    what = f"the value {highest}" if len(above) == 1 else f"objects numbered up to {highest}"
    return True, [f"{name}: holds {what}; every pixel above 0 is compared as '{classes[1]}'"]
