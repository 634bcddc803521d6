"""The labels of an image: a label image, the masks of its objects, a file each, joined, or annotations, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segue.data.annotations.draw import AnnotationNotes, draw
from segue.data.annotations.files import is_annotation_file, read_annotations
from segue.data.folders.pairing import ImageLabelPair
from segue.data.image_io import is_inverted_mask, read_labels
from segue.data.spec import LabelsSpec, Layer, PrepareSpec
from segue.errors import SegueError


@dataclass(frozen=True)
class ImageLabels:
    """Labels (H, W) int32 of an image, notes on their files, and what is odd of which annotations."""

    labels: np.ndarray
    notes: list[str] = field(default_factory=list)
    annotation_notes: AnnotationNotes = field(default_factory=dict)


def read_label_files(spec: PrepareSpec, pair: ImageLabelPair, layer: Layer, shape: tuple[int, int]) -> ImageLabels:
    """Returns the labels of a pair that has label files; `shape` is that of its image.

    Raises SegueError if a file is unusable, or holds no mask of one object where spec.labels.one_object_per_file.
    """
    assert spec.labels is not None and pair.label is not None
    if is_annotation_file(pair.label):
        channels = pair.header.channels if pair.header is not None else 1
        annotations = read_annotations(pair.label, pair.image, pair.page, pair.page_count, max(1, channels))
        settings = {"values": spec.labels.values, "unlabeled": spec.labels.unlabeled, "context": pair.label}
        labels, annotation_notes = draw(annotations, shape, layer, **settings)
        return ImageLabels(labels, annotation_notes=annotation_notes)
    if spec.labels.one_object_per_file:
        return join_masks(pair.labels, pair.image, spec.labels, layer, shape)
    inverted = is_inverted_mask(pair.label, pair.image)
    notes = []
    if inverted is not None:
        meaning = "as its image is: inverted" if inverted else "as its image is not: taken as stored, 1 for foreground"
        notes.append(f"its label image is a one-bit mask marked WhiteIsZero, {meaning}")
    labels = read_labels(
        pair.label,
        layer,
        shape=shape,
        values=numeric(spec.labels, pair.label),
        array=spec.labels.array,
        page=pair.page,
        count=pair.page_count,
        pages=spec.pages,
        inverted=bool(inverted),
    )
    return ImageLabels(labels, notes)


def numeric(spec: LabelsSpec, path: Path) -> dict[int, int]:
    """Returns `values` for a label image; raises SegueError for names of classes."""
    words = [name for name in spec.values if not isinstance(name, int)]
    if words:
        raise SegueError(f"{path}: is a label image, but values has the class '{words[0]}'; give its numbers.")
    return {value: label for value, label in spec.values.items() if isinstance(value, int)}


def join_masks(
    paths: Sequence[Path], image: Path, spec: LabelsSpec, layer: Layer, shape: tuple[int, int]
) -> ImageLabels:
    """Returns labels with the number of a file, from 1, where it is not 0.

    A pixel of several objects belongs to the first of them, which is noted. Raises SegueError for a file of no or
    several values above 0, and for an object that others cover.
    """
    labels, notes = np.zeros(shape, np.int32), []
    for number, path in enumerate(paths, 1):
        inverted = bool(is_inverted_mask(path, image))
        mask = read_labels(path, layer, shape=shape, values=numeric(spec, path), array=spec.array, inverted=inverted)
        inside = mask != 0
        values = np.unique(mask[inside])
        if len(values) != 1 or values[0] < 0:
            listed = ", ".join(map(str, values[:5])) or "none"
            raise SegueError(
                f"{path}: its values beside 0 are {listed}, but the mask of one object has one, above 0; correct it, "
                "or remove one_object_per_file."
            )
        if not (inside & (labels == 0)).any():
            raise SegueError(f"{path}: other masks of {image} cover its object entirely; remove one of them.")
        if (inside & (labels > 0)).any():
            notes = ["masks of its objects overlap: pixels of several belong to the first by the names of the files"]
        labels[inside & (labels == 0)] = number
    return ImageLabels(labels, notes)
