"""Annotations become labels: classes by name, objects by number, one over the other as they were drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from segue.data.annotations.shapes import Annotations
from segue.data.spec import Layer
from segue.errors import SegueError
from segue.labels import IGNORED

Unlabeled = Literal["background", "ignored"]
AnnotationNotes = dict[str, list[str]]  # what is odd of annotations, and the names of those of which it is true
IGNORED_CLASSES = ("Ignore*", "__ignore__")  # of QuPath and LabelMe
SCRIBBLES = "are scribbles, whose image is ignored elsewhere"
MAX_LISTED = 5


def class_values(
    names: Collection[str], layer: Layer, values: Mapping[int | str, int], context: Path | str
) -> dict[str, int]:
    """Returns the label of each class of annotations: by `values`, else by the name in the layer, in any case.

    Of objects, 0 is none, 1 an object and -1 ignored; annotations without a class are objects, or of the only class.
    Raises SegueError with the classes that the layer does not have.
    """
    by_setting = {str(name): value for name, value in values.items()}
    by_name = {name.casefold(): index for index, name in reversed(list(enumerate(layer.names)))}
    if len(layer.names) == 2:
        by_name.setdefault("", 1)
    by_name |= {name.casefold(): IGNORED for name in IGNORED_CLASSES}
    labels = {name: by_setting.get(name, by_name.get(name.casefold())) for name in names}
    unknown = sorted(name for name, value in labels.items() if value is None)
    if unknown:
        listed = ", ".join(f"'{name}'" if name else "none" for name in unknown[:MAX_LISTED])
        listed += ", …" if len(unknown) > MAX_LISTED else ""
        zero = "0 leaves it out" if layer.kind == "instances" else "0 is background"
        raise SegueError(
            f"{context}: has annotations of the class {listed}, but names are {', '.join(layer.names)}; add it to "
            f'`names`, or say what it is: values = {{ "{unknown[0]}" = 1 }} ({zero}, -1 ignores its pixels).'
        )
    values_by_class = {name: value for name, value in labels.items() if value is not None}
    for name, value in values_by_class.items():
        if not IGNORED <= value < len(layer.names):
            raise SegueError(
                f"{context}: values gives '{name}' the label {value}; allowed are -1 to {len(layer.names) - 1}, as "
                "`names` has them."
            )
    return values_by_class


def draw(
    annotations: Annotations,
    size: tuple[int, int],
    layer: Layer,
    *,
    values: Mapping[int | str, int],
    unlabeled: Unlabeled | None,
    context: Path,
) -> tuple[np.ndarray, AnnotationNotes]:
    """Returns the labels (H, W) int32 that annotations draw on an image of `size`, and what is odd of which of them.

    unlabeled: what pixels without any annotation are; None: ignored if annotations are sparse, lines or points, else
    background. Objects are numbered from 1 in the order of the file; pixels that several annotations cover are the last
    one's. Raises SegueError, which begins with `context`, for classes that the layer does not have, and for an image of
    another size.
    """
    if annotations.size is not None and annotations.size != size:
        raise SegueError(
            f"{context}: was drawn on an image of {annotations.size[0]} × {annotations.size[1]} px, but its image is "
            f"{size[0]} × {size[1]} px; check the pair."
        )
    meaning = class_values({shape.class_name for shape in annotations.shapes}, layer, values, context)
    are_objects = layer.kind == "instances"
    notes: AnnotationNotes = {text: list(names) for text, names in annotations.notes.items()}

    def note(text: str, name: str) -> None:
        notes.setdefault(text, []).append(name)

    scribbled = annotations.sparse or any(shape.kind != "area" for shape in annotations.shapes)
    if are_objects:
        if annotations.sparse:
            raise SegueError(f'{context}: holds scribbles, which are classes of pixels; set kind = "classes".')
        scribbled = False
    is_ignored = unlabeled == "ignored" or (unlabeled is None and scribbled)
    labels = np.full(size, IGNORED if is_ignored else 0, np.int32)
    covered = np.zeros(size, bool)
    number = 0
    object_names: list[str] = []
    for shape in annotations.shapes:
        value = IGNORED if shape.ignored else meaning[shape.class_name]
        if are_objects and shape.kind != "area":
            note("are lines or points, which outline no object, and are left out", shape.name)
            continue
        if are_objects and value == 0:
            continue
        pixels = shape.rasterize(*size)
        if pixels is None:
            is_outside = shape.outside(*size)
            note("lie outside of their image" if is_outside else "cover no center of a pixel", shape.name)
            continue
        if shape.outside(*size):
            note("reach beyond their image and are cut off", shape.name)
        top, left, bottom, right = pixels.box
        if (covered[top:bottom, left:right] & pixels.mask).any():
            note("cover earlier ones in part or entirely", shape.name)
        covered[top:bottom, left:right] |= pixels.mask
        if are_objects and value > 0:
            number += 1
            value = number
            object_names.append(shape.name)
        labels[top:bottom, left:right][pixels.mask] = value
    if are_objects and number:
        left_over = np.bincount(labels[labels > 0], minlength=number + 1)[1:]
        for place in np.flatnonzero(left_over == 0):
            note("are covered entirely by later ones and are lost", object_names[place])
        if (left_over == 0).any():  # numbers without gaps
            order = np.cumsum(np.append(0, left_over > 0)).astype(np.int32)
            labels = np.where(labels > 0, order[labels.clip(min=0)], labels)
    if is_ignored and unlabeled is None:
        scribbles = [shape.name for shape in annotations.shapes if annotations.sparse or shape.kind != "area"]
        notes[SCRIBBLES] = scribbles
    return labels, notes


def describe_annotation_notes(notes: Mapping[str, AnnotationNotes]) -> list[str]:
    """Returns a sentence for each oddity of the annotations of images, by the images' names."""
    texts = dict.fromkeys(text for one in notes.values() for text in one)
    sentences = []
    for text in texts:
        names = {image: one[text] for image, one in notes.items() if one.get(text)}
        if not names:
            continue
        count = sum(map(len, names.values()))
        image, first = next((image, of_image[0]) for image, of_image in names.items())
        sentences.append(
            f"annotations that {text}: {count}, in {len(names)} of {len(notes)} images, e.g. '{first}' in {image}"
        )
    return sentences
