"""Whether label images number objects: their values, connected parts, holes and sizes, and what they may be instead.

`measure` counts one label image, `judge` says of all images of a dataset what looks unlike a numbering and what it
probably is. What cannot be objects, such as a mask in which all cells have the value 255, is refused; the rest is told.
Parts are connected by 8 neighbors, as in scikit-image and ImageJ, holes by 4, the other way around.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
from numba import njit

from segue.labels.ops import hole_owners, relabel_sequential

SPECK_PX = 2  # an object of one or two pixels has no shape
MANY_VALUES = 12  # class layers seldom have more classes
PARTS_PER_CLASS = 3  # an object is rarely in three parts, least of all most objects of an image
NUMBERED_CLASSES = 5  # from here on, values of one part each are rather objects than classes
NET_HOLES = 5  # what touches all sides and encloses so many regions is what lies between things
RING_SHARE = 0.6  # of its filled area: a disk of radius r outlined w wide has 1 − (1 − w/r)², .36 for w = r/5
THIN_SHARE = (
    0.5  # of pixels whose four neighbors have their value: none in a line of two pixels, a third in one of three
)
ALL_SIDES = 0b1111


@dataclass(frozen=True)
class LabelMeasures:
    """Counts of one label image; ignored pixels, −1, count as background of no value.

    values: different values above 0, from `lowest` to `highest` (0 without any). parts: connected parts of one value
    each, without specks; specks: parts of at most SPECK_PX pixels. objects_divided: values of several parts, specks
    among them; objects_repeated: values of several parts without specks. objects_specks: values of at most SPECK_PX
    pixels in all. rings: parts that are thin rings. slivers: parts, specks among them, without a pixel whose four
    neighbors have its value, and beside another value above 0. holed: parts with a hole, background that they alone
    enclose. background: share of the pixels of value 0. largest_value,
    largest_share of the pixels, largest_holes and largest_sides (bits 1, 2, 4, 8: above, below, left, right) are of the
    largest part. smallest_px, median_px and largest_px: pixels of a value. shifted: whether all are multiples of 256.
    """

    values: int
    lowest: int
    highest: int
    parts: int
    specks: int
    objects_divided: int
    objects_repeated: int
    objects_specks: int
    rings: int
    slivers: int
    holed: int
    background: float
    largest_value: int
    largest_share: float
    largest_holes: int
    largest_sides: int
    smallest_px: int
    median_px: float
    largest_px: int
    shifted: bool


def number_parts(labels: np.ndarray) -> np.ndarray:
    """Returns labels (H, W) int32 in which each connected part of each value has its number; 0 and −1 stay.

    Parts are connected by 8 neighbors and numbered 1 … n in the order of their first pixels.

    >>> number_parts(np.array([[255, 0, 255], [0, 0, 255], [-1, 0, 7]], dtype=np.int32))
    array([[ 1,  0,  2],
           [ 0,  0,  2],
           [-1,  0,  3]], dtype=int32)
    """
    parts, _ = _parts(labels)
    return relabel_sequential(np.where(labels < 0, labels, parts).astype(np.int32))[0]


def measure(labels: np.ndarray) -> LabelMeasures:
    """Returns the counts of labels (H, W) int32."""
    labels = np.ascontiguousarray(labels)
    parts, count = _parts(labels)
    sizes, part_values, interior, touching, sides = _measure_parts(labels, parts, count)
    hole_sizes, owners = hole_owners(parts, connectivity=4)
    owned = owners > 0
    holes = np.bincount(owners[owned], minlength=count + 1)[1:]
    filled = sizes + np.bincount(owners[owned], hole_sizes[owned], minlength=count + 1)[1:]
    is_speck = sizes <= SPECK_PX
    thin = interior <= THIN_SHARE * sizes
    values, index = np.unique(part_values, return_inverse=True)
    value_px = np.bincount(index, sizes, minlength=len(values)).astype(np.int64)
    parts_of_value = np.bincount(index, minlength=len(values))
    without_specks = np.bincount(index[~is_speck], minlength=len(values))
    largest = int(np.argmax(sizes)) if count else 0
    return LabelMeasures(
        values=len(values),
        lowest=int(values.min(initial=np.iinfo(np.int32).max)) if count else 0,
        highest=int(values.max(initial=0)),
        parts=int((~is_speck).sum()),
        specks=int(is_speck.sum()),
        objects_divided=int((parts_of_value > 1).sum()),
        objects_repeated=int((without_specks > 1).sum()),
        objects_specks=int((value_px <= SPECK_PX).sum()),
        rings=int(((holes > 0) & thin & (sizes < RING_SHARE * filled)).sum()),
        slivers=int(((interior == 0) & touching).sum()),
        holed=int((holes > 0).sum()),
        background=float(np.count_nonzero(labels == 0) / max(1, labels.size)),
        largest_value=int(part_values[largest]) if count else 0,
        largest_share=float(sizes[largest] / labels.size) if count else 0.0,
        largest_holes=int(holes[largest]) if count else 0,
        largest_sides=int(sides[largest]) if count else 0,
        smallest_px=int(value_px.min()) if count else 0,
        median_px=float(np.median(value_px)) if count else 0.0,
        largest_px=int(value_px.max(initial=0)),
        shifted=bool(len(values) > 1 and (values % 256 == 0).all()),
    )


def _parts(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns (H, W) int32, the connected parts (8 neighbors) of each value above 0, and their number."""
    positive = np.maximum(labels, 0) if labels.min(initial=0) < 0 else np.ascontiguousarray(labels)
    parts, count = cc3d.connected_components(positive, connectivity=8, return_N=True, out_dtype=np.uint32)
    return np.asarray(parts).view(np.int32), int(count)


@njit(cache=True, nogil=True)
def _measure_parts(
    labels: np.ndarray, parts: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns, of each part: its pixels, its value, its pixels whose four neighbors have this value, whether it is
    beside another value above 0, and the sides of the image that it touches, beyond which its value goes on."""
    height, width = labels.shape
    sizes = np.zeros(count, np.int64)
    values = np.zeros(count, np.int64)
    interior = np.zeros(count, np.int64)
    touching = np.zeros(count, np.bool_)
    sides = np.zeros(count, np.int64)
    for y in range(height):
        for x in range(width):
            part = parts[y, x] - 1
            if part < 0:
                continue
            label = labels[y, x]
            sizes[part] += 1
            values[part] = label
            is_interior = True
            if y == 0:
                sides[part] |= 1
            elif labels[y - 1, x] != label:
                is_interior = False
                touching[part] |= labels[y - 1, x] > 0
            if y == height - 1:
                sides[part] |= 2
            elif labels[y + 1, x] != label:
                is_interior = False
                touching[part] |= labels[y + 1, x] > 0
            if x == 0:
                sides[part] |= 4
            elif labels[y, x - 1] != label:
                is_interior = False
                touching[part] |= labels[y, x - 1] > 0
            if x == width - 1:
                sides[part] |= 8
            elif labels[y, x + 1] != label:
                is_interior = False
                touching[part] |= labels[y, x + 1] > 0
            interior[part] += is_interior
    return sizes, values, interior, touching, sides


# what label images may be instead


@dataclass(frozen=True)
class Likeness:
    """What label images may be instead of objects or classes.

    applies: whether one image looks so. words: what such images look like, and what to do (keys of REMEDIES), after "…
    label images". is_refused: whether it cannot be objects: refused if most images look so, masks if no image has a
    second value.
    """

    applies: Callable[[LabelMeasures], bool]
    words: str
    is_refused: bool = False


def _is_picture(m: LabelMeasures) -> bool:
    return m.parts + m.specks >= 10 and m.slivers > 0.5 * (m.parts + m.specks)


def _is_inverted(m: LabelMeasures) -> bool:
    encloses = m.largest_holes >= NET_HOLES or (m.largest_share > 0.5 and (m.values > 1 or m.largest_holes > 0))
    return m.largest_sides == ALL_SIDES and encloses


def _separate_parts(m: LabelMeasures) -> int:
    """Returns the number of parts, without specks unless there is nothing else, as in an image of points."""
    return m.parts or m.specks


# of an image, the first that applies is told
INSTANCES: dict[str, Likeness] = {
    "picture": Likeness(
        _is_picture,
        "look like a picture, not a numbering: most of their parts are slivers beside other values, as in a rendered "
        "or resampled picture of labels (resample labels by nearest neighbor), a probability, a distance or an image",
        is_refused=True,
    ),
    "outlines": Likeness(
        lambda m: 2 * m.rings > m.parts,
        "look like outlines: most of their objects are thin rings; if objects are meant, fill them",
    ),
    "inverted": Likeness(
        _is_inverted,
        "look inverted: what lies between the objects has a value and not 0; make the background 0{inverted}",
        is_refused=True,
    ),
    "mask": Likeness(
        lambda m: m.values == 1 and _separate_parts(m) > 1,
        "look like masks: a single value, {value}, in separate parts, so that all objects of an image would be one; "
        "{number_parts} to number the parts",
        is_refused=True,
    ),
    "classes": Likeness(
        lambda m: 1 < m.values <= MANY_VALUES and _separate_parts(m) >= PARTS_PER_CLASS * m.values,
        "look like classes: few values, each in many parts; {classes}, or {number_parts} to number the parts of each "
        "value",
        is_refused=True,
    ),
    "reused": Likeness(
        lambda m: m.values > MANY_VALUES and 2 * (m.objects_repeated if m.parts else m.objects_divided) >= m.values,
        "use most numbers for several separate parts, as a numbering that was cut off at 255 or begins anew in each "
        "tile; save it with more bits, or {number_parts} to number the parts",
        is_refused=True,
    ),
}
CLASSES: dict[str, Likeness] = {
    "picture": Likeness(
        _is_picture,
        "look like a resampled picture: most of their parts are slivers beside other classes; resample labels by "
        "nearest neighbor",
    ),
    "numbered": Likeness(
        lambda m: m.values >= NUMBERED_CLASSES and m.parts + m.specks <= 1.2 * m.values,
        "look like a numbering of objects: many values, each in one part; if they are objects, {instances}",
    ),
}
BINARY_CLASSES: dict[str, Likeness] = {
    "inverted": Likeness(
        lambda m: m.largest_holes >= NET_HOLES and m.largest_share > 0.5 and m.largest_sides == ALL_SIDES,
        "may be inverted: what lies between things is the class 1 and not the background; if so, {exchange}",
    ),
}


REMEDIES = {  # what to do, in a specification of `segue prepare`
    "number_parts": "set number_parts = true",
    "keep_numbers": "set number_parts = false",
    "classes": 'set kind = "classes" and name them',
    "instances": 'set kind = "instances"',
    "exchange": "set values = {{ 0 = 1, 1 = 0 }}",
    "inverted": ", such as with values = {{ {value} = 0 }}, or of a mask of 0 and {value}, values = {{ {value} = 0, "
    "0 = 1 }} and number_parts = true",
}


def judge(
    measures: Mapping[str, LabelMeasures],
    *,
    classes: int | None,
    number_parts: bool | None,
    remedies: Mapping[str, str] = REMEDIES,
) -> tuple[str, list[str]]:
    """Returns why the label images cannot be what they are given as, "" if they can, and notes on what looks odd.

    measures: by the name of the label image. classes: the number of names of a layer of classes, background included,
    None for objects. number_parts: as in the specification; only None, nothing decided, leads to a refusal. remedies:
    what to do where the settings are no specification, by the keys of REMEDIES.
    """
    labeled = {name: m for name, m in measures.items() if m.values}
    if not labeled:
        return "", [f"all {len(measures)} label images are empty"] if measures else []
    kinds = INSTANCES if classes is None else {**CLASSES, **(BINARY_CLASSES if classes == 2 else {})}
    names: dict[str, list[str]] = {kind: [] for kind in kinds}
    for name, m in labeled.items():
        kind = next((kind for kind, likeness in kinds.items() if likeness.applies(m)), None)
        if kind is not None:
            names[kind].append(name)
    # without a second number anywhere, what is one object by its number may be one cell of a mask
    is_mask = bool(names.get("mask")) and all(m.values == 1 for m in labeled.values())
    refusal, notes = "", []
    for kind, images in names.items():
        if not images:
            continue
        example = labeled[images[0]]
        actions = {name: text.format(value=example.largest_value) for name, text in remedies.items()}
        words = kinds[kind].words.format(value=example.largest_value, **actions)
        sentence = (
            f"{len(images)} of {len(labeled)} label images {words} (e.g. {images[0]}: {example.values} "
            f"{'value' if example.values == 1 else 'values'}, {example.parts + example.specks} parts)"
        )
        is_usual, is_only = 2 * len(images) > len(labeled), kind == "mask" and is_mask
        if kinds[kind].is_refused and number_parts is None and (is_usual or is_only):
            alone = "" if is_usual else ", and no image has a second value"
            refusal = f"{sentence}{alone}; if each value is an object all the same, {remedies['keep_numbers']}"
        else:
            notes.append(sentence)
    if classes is None:
        notes += _notes_on_objects(labeled)
    return refusal, notes


def _notes_on_objects(labeled: Mapping[str, LabelMeasures]) -> list[str]:
    """Returns notes with counts: objects in parts, specks, images without background, numbers shifted by a byte."""
    total = sum(m.values for m in labeled.values())
    specks_alone = sum(m.objects_divided - m.objects_repeated for m in labeled.values())
    notes = []
    for attribute, words in (
        ("objects_divided", "in several parts with the same number, which counts as one object"),
        ("objects_specks", f"of {SPECK_PX} pixels at most"),
    ):
        having = {name: count for name, m in labeled.items() if (count := getattr(m, attribute))}
        if having:
            places = f"in {len(having)} of {len(labeled)} label images, e.g. {next(iter(having))}"
            count = sum(having.values())
            specks = f"; of {specks_alone:,} all but one part are specks of {SPECK_PX} pixels at most"
            more = specks if attribute == "objects_divided" and specks_alone else ""
            notes.append(f"{count:,} of {total:,} objects {'is' if count == 1 else 'are'} {words} ({places}{more})")
    full = [name for name, m in labeled.items() if not m.background]
    if full:
        notes.append(f"{len(full)} of {len(labeled)} label images have no background, no pixel of 0 (e.g. {full[0]})")
    shifted = [name for name, m in labeled.items() if m.shifted]
    if shifted:
        notes.append(
            f"{len(shifted)} of {len(labeled)} label images have multiples of 256 only, as numbers with exchanged or "
            f"shifted bytes (e.g. {shifted[0]}); objects that differ in the lower byte would be one"
        )
    return notes
