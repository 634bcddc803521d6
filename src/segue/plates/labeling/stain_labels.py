"""Labels from stains: nuclei of each stain, merged between stains, and classified by the stains they are positive for.

raw counts → background subtraction (`thresholds`) → unmixing → segmentation per stain (`nuclei`) → merging → classes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cc3d
import edt
import numpy as np
from scipy import ndimage

from segue.labels import IGNORED, ops
from segue.plates.labeling.nuclei import inscribed_radius_px, segment_stain
from segue.plates.labeling.thresholds import ThresholdLevel, density_mode, subtract_background
from segue.plates.spec import CellAreaSpec, StainsSpec

MIN_NUCLEI_FOR_BLEED_THROUGH = 10  # around the mode of their ratios
RATIO_RANGE = (-0.05, 0.3)  # plausible ratios of the light of a nucleus in two channels, if it is bleed-through
RATIO_BIN, RATIO_SD = 0.0005, 0.004
MAX_CELL_FRACTION = 0.7  # of the valid area; a note says if there is more
MIN_RELATIVE_WIDTH = 0.5  # of what is left of a partly covered object, to be a nucleus of its own


@dataclass(frozen=True)
class StainLabels:
    """Labels of one field or mosaic.

    classes (H, W) int32: numbers of `StainsSpec.class_names`, −1 ignored. nuclei (H, W) int32: instances 1 … n in scan
    order, whole where `classes` has an outline, −1 as in classes. objects: columns of n rows, `id`, `class` (number),
    `y_px`, `x_px` (center), `area_px`, and `mean_<stain>` in unmixed counts over the background.
    thresholds: counts over the background by stain. bleed_through: the subtracted fractions, by "dapi_in_cy5".
    notes: sentences on doubts, for people.
    """

    classes: np.ndarray
    nuclei: np.ndarray
    objects: dict[str, np.ndarray]
    thresholds: dict[str, float]
    bleed_through: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def label_stains(
    stains: Mapping[str, np.ndarray],
    spec: StainsSpec,
    *,
    pixel_size_um: float | None,
    transmitted: np.ndarray | None = None,
    valid: np.ndarray | None = None,
) -> StainLabels:
    """Returns the labels of one field or mosaic from its stains, each (H, W) in counts, evenly illuminated.

    `transmitted` (H, W) is needed for `spec.cells` alone. Where `valid` (H, W) is False the labels are −1, and no
    threshold or estimate depends on these pixels. Raises ValueError for missing arrays and different shapes.
    """
    shape = _check_shapes(stains, spec, transmitted, valid)
    valid = np.ones(shape, bool) if valid is None else valid
    notes = [] if pixel_size_um else ["the pixel size is unknown: lengths in µm were taken as pixels"]
    size_um = pixel_size_um or 1.0
    if not valid.any():
        nothing = np.full(shape, IGNORED, np.int32)
        notes.append("no pixel is valid: nothing was labeled")
        none = _object_table(np.zeros(shape, np.int32), np.zeros(1, np.int64), {})
        return StainLabels(nothing, nothing.copy(), none, {}, {}, tuple(notes))
    # background subtraction and unmixing
    counts = {
        name: subtract_background(stains[name], stain.background, pixel_size_um=size_um, valid=valid)
        for name, stain in spec.stains.items()
    }
    segmented: dict[str, tuple[np.ndarray, ThresholdLevel]] = {}
    shares, bleed_notes = _resolve_bleed_through(counts, segmented, spec, size_um, valid)
    notes += bleed_notes
    for name in unmix(counts, {spec.bleed_through_pair(pair): share for pair, share in shares.items()}):
        segmented.pop(name, None)
    # segment each stain, merge the stains, classify
    for name, stain in spec.stains.items():
        if name not in segmented:
            segmented[name] = segment_stain(counts[name], stain, pixel_size_um=size_um, valid=valid)
        notes += [f"{name}: {note}" for note in segmented[name][1].notes]
    nuclei, positive = merge_stains([segmented[name][0] for name in spec.stains], spec.overlap)
    ruled = _classify(positive, spec)
    unruled = (ruled == 0) & (np.arange(len(ruled)) > 0)
    if unruled.any():
        notes.append(f"{int(unruled.sum())} nuclei meet no rule and are {spec.otherwise}")
    lost = unruled[nuclei] & (spec.otherwise == "ignored")
    nuclei, ruled = _select_rows(nuclei, ruled)
    classes = ruled[nuclei].astype(np.int32)
    # cell area and outline
    if spec.cells is not None and transmitted is not None:
        cells = cell_area(transmitted, spec.cells, pixel_size_um=size_um, nuclei=nuclei, valid=valid)
        classes[cells & (classes == 0)] = 1
        share = float(cells[valid].mean())
        if share > MAX_CELL_FRACTION:
            notes.append(
                f"cells: {share:.0%} of the valid area is cell, more than plausible; check the overlay, and "
                "raise labels.cells.factor if empty areas are labeled as cell"
            )
    if spec.outline is not None:
        around = nuclei if spec.outline.of == "nuclei" else (classes > 0)
        border = _near_border(around, spec.outline.width_um / size_um)
        classes[border & ((nuclei > 0) == (spec.outline.of == "nuclei"))] = len(spec.class_names) - 1
    objects = _object_table(nuclei, ruled, counts)
    for labels in (classes, nuclei):
        labels[lost | ~valid] = IGNORED
    thresholds = {name: segmented[name][1].counts for name in spec.stains}
    return StainLabels(classes, nuclei, objects, thresholds, shares, tuple(notes))


def estimate_bleed_through(source: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float | None:
    """Returns the fraction of the light of `source` seen in `target`; None for too few nuclei or without a mode.

    Both (H, W) in counts over the background; `objects` (H, W) of the source. Of each object the ratio of the sums is
    taken: objects with the first stain alone share one ratio, the others have higher ones that scatter, so the
    fraction is the mode of the ratios from −0.05 to 0.3 (their density smoothed by 0.004, then the median within
    ±0.008), or 0 if negative. None if less than 10 objects are near the mode.
    """
    count = int(objects.max(initial=0))
    inside = objects > 0
    step = max(1, int(np.sqrt(objects.size / 2**20)))
    outside = objects[::step, ::step] == 0
    if not outside.any():
        return None
    # an opening lies slightly below the background: the rest must not be taken for bleed-through
    levels = [float(np.median(image[::step, ::step][outside])) for image in (source, target)]
    own_light, seen_light = (
        np.bincount(objects[inside], image[inside] - level, count + 1)[1:]
        for image, level in zip((source, target), levels, strict=True)
    )
    ratios = (seen_light / np.maximum(own_light, 1e-6))[own_light > 0]
    density, edges = np.histogram(ratios, round((RATIO_RANGE[1] - RATIO_RANGE[0]) / RATIO_BIN), RATIO_RANGE)
    smooth = ndimage.gaussian_filter1d(density.astype(float), RATIO_SD / RATIO_BIN, mode="constant")
    near = ratios[np.abs(ratios - edges[int(np.argmax(smooth))]) <= 2 * RATIO_SD]
    return max(float(np.median(near)), 0.0) if len(near) >= MIN_NUCLEI_FOR_BLEED_THROUGH else None


def unmix(counts: dict[str, np.ndarray], shares: Mapping[tuple[str, str], float]) -> list[str]:
    """Removes the bleed-through from `counts` in place; returns the stains that changed.

    Linear: observed[b] = own[b] + Σ share[a, b] own[a], solved for own.
    """
    names = list(counts)
    mixing = np.eye(len(names))
    for (source, target), share in shares.items():
        mixing[names.index(target), names.index(source)] = share
    inverse = np.linalg.inv(mixing)
    changed = [name for name, row in zip(names, inverse, strict=True) if np.count_nonzero(row) > 1]
    observed = dict(counts)
    for name in changed:
        row = inverse[names.index(name)]
        mixed = [np.float32(weight) * observed[other] for weight, other in zip(row, names, strict=True) if weight]
        counts[name] = np.asarray(sum(mixed[1:], start=mixed[0]), np.float32)
    return changed


def merge_stains(stains: list[np.ndarray], overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns nuclei (H, W) int32, 1 … n in scan order, and (n + 1, stains) bool: the stains each is positive for.

    `stains`: objects of each stain, 1 … in each, later stains on top. An earlier object is the same nucleus as a later
    one that covers at least `overlap` of it (the union of both). If less is covered, the rest stays a nucleus of its
    own if it is at least half as wide as the whole object (a neighbor in a clump); a narrower rim joins the later
    object. A later object is also positive for the earlier stain if earlier objects cover at least `overlap` of it.
    """
    nuclei = stains[0].astype(np.int32)
    positive = np.zeros((int(nuclei.max(initial=0)) + 1, len(stains)), bool)
    positive[1:, 0] = True
    for index, upper in enumerate(stains[1:], start=1):
        nuclei, positive = _merge_stain(nuclei, positive, upper, index, overlap)
    return nuclei, positive


def _merge_stain(
    lower: np.ndarray, positive: np.ndarray, upper: np.ndarray, index: int, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    below, above = len(positive) - 1, int(upper.max(initial=0))
    both = (lower > 0) & (upper > 0)
    pairs, shared = np.unique(lower[both].astype(np.int64) * (above + 1) + upper[both], return_counts=True)
    first, second = np.divmod(pairs, above + 1)
    area = np.bincount(lower.ravel(), minlength=below + 1)
    covering = np.zeros(below + 1, np.int64)  # the later object that covers most of each earlier one
    most = np.zeros(below + 1)
    order = np.argsort(shared, kind="stable")
    covering[first[order]], most[first[order]] = second[order], shared[order]
    left = np.where(upper > 0, 0, lower)
    whole_width, left_width = inscribed_radius_px(lower, below), inscribed_radius_px(left, below)
    same = (covering > 0) & ((most >= overlap * area) | (left_width < MIN_RELATIVE_WIDTH * whole_width))
    upper_positive = np.zeros((above + 1, positive.shape[1]), bool)
    upper_positive[1:, index] = True
    np.logical_or.at(upper_positive, covering[same], positive[same])
    covered = shared >= overlap * np.bincount(upper.ravel(), minlength=above + 1)[second]
    np.logical_or.at(upper_positive, second[covered], positive[first[covered]])
    upper_positive[0] = False
    number = np.arange(below + 1) + above
    number[0] = 0
    number[same] = covering[same]
    # a piece cut off from its object is not a nucleus: only the largest connected part of each object is kept
    labels = np.where(upper > 0, upper, number[_keep_largest_parts(left, (covering > 0) & ~same)]).astype(np.int32)
    return _select_rows(labels, np.concatenate([upper_positive, positive[1:]]))


def _keep_largest_parts(labels: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Returns the labels with only the largest connected part of each object marked in `of` (count + 1,)."""
    parts = np.asarray(cc3d.connected_components(np.ascontiguousarray(labels), connectivity=4), np.int64)
    sizes = np.bincount(parts.ravel())
    owner = np.zeros(len(sizes), np.int64)
    owner[parts.ravel()] = labels.ravel()
    order = np.argsort(sizes, kind="stable")
    largest = np.zeros(len(of), np.int64)
    largest[owner[order]] = order
    keep = (largest[owner] == np.arange(len(sizes))) | ~of[owner]
    return np.where(keep[parts], labels, 0)


def _select_rows(labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels, 1 … n in scan order, without those whose row is all 0, and the rows in the new order."""
    known = np.asarray(rows.reshape(len(rows), -1).any(axis=1))
    labels = np.where(known[labels], labels, 0).astype(np.int32)
    numbers, ids = ops.relabel_sequential(labels)
    count = len(ids)
    new = np.zeros((count + 1, *rows.shape[1:]), rows.dtype)
    inside = numbers > 0
    new[numbers[inside]] = rows[labels[inside]]
    return numbers, new


def _classify(positive: np.ndarray, spec: StainsSpec) -> np.ndarray:
    """Returns the class number of each nucleus, (n + 1,): of the first rule that it meets, or 0."""
    names, stains = spec.class_names, list(spec.stains)
    classes = np.zeros(len(positive), np.int64)
    for rule in reversed(spec.rules):
        has = positive[:, [stains.index(stain) for stain in rule.has]].all(1)
        lacks = positive[:, [stains.index(stain) for stain in rule.lacks]].any(1)
        classes[has & ~lacks] = names.index(rule.name)
    classes[0] = 0
    return classes


def _resolve_bleed_through(
    counts: Mapping[str, np.ndarray],
    segmented: dict[str, tuple[np.ndarray, ThresholdLevel]],
    spec: StainsSpec,
    pixel_size_um: float,
    valid: np.ndarray,
) -> tuple[dict[str, float], list[str]]:
    """Returns the fractions to subtract, and notes; adds the objects of the stains it needs to `segmented`."""
    shares: dict[str, float] = {}
    notes = []
    for pair, share in spec.bleed_through.items():
        if share != "estimate":
            shares[pair] = float(share)
            continue
        source, target = spec.bleed_through_pair(pair)
        if source not in segmented:
            segmented[source] = segment_stain(
                counts[source], spec.stains[source], pixel_size_um=pixel_size_um, valid=valid
            )
        estimated = estimate_bleed_through(counts[source], counts[target], segmented[source][0])
        if estimated is None:
            notes.append(
                f"bleed-through {pair}: too few nuclei carry {source} alone to estimate it; none was subtracted; "
                "give a number"
            )
        shares[pair] = estimated or 0.0
    return shares, notes


def cell_area(
    transmitted: np.ndarray,
    spec: CellAreaSpec,
    *,
    pixel_size_um: float,
    nuclei: np.ndarray,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Returns (H, W) bool, the cell area: steep slopes in the transmitted light (H, W), closed and filled.

    The slope in empty places is that of noise, whose Sobel magnitude has one mode. Invalid pixels are filled with the
    nearest valid light, and their slopes do not count; nor does a slope of exactly 0, which noise never has but filled
    or saturated places do.
    """
    valid = np.ones(transmitted.shape, bool) if valid is None else valid
    transmitted = _fill_invalid(transmitted, valid)
    image = ndimage.gaussian_filter(transmitted.astype(np.float32), spec.smoothing_um / pixel_size_um, mode="nearest")
    slope = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)))
    step = max(1, int(np.sqrt(slope.size / 2**17)))
    sampled = slope[::step, ::step]
    sampled = sampled[valid[::step, ::step] & (sampled > 0)]
    mask = (slope > spec.factor * density_mode(sampled)) & valid if sampled.size else np.zeros(slope.shape, bool)
    radius_px = spec.closing_um / pixel_size_um
    mask = (
        ops.remove_small(ops.connected_components(mask), min_size_px=radius_px**2) > 0
    )  # else the closing would fill noise
    if radius_px > 0:
        mask = edt.edt(edt.edt(~mask) <= radius_px) > radius_px
    mask |= nuclei > 0
    # as one object, since a gap between the rim of a cell and its nucleus is a hole too
    filled = ops.fill_holes(mask.astype(np.int32), max_size_px=spec.hole_um2 / pixel_size_um**2)
    areas = ops.connected_components(filled > 0)
    return ops.remove_small(areas, min_size_px=spec.min_area_um2 / pixel_size_um**2) > 0


def _near_border(labels: np.ndarray, width_px: float) -> np.ndarray:
    """Returns (H, W) bool: pixels of objects within `width_px`, at least 1, of their border."""
    distance = edt.edt(np.ascontiguousarray(labels))
    return (distance > 0) & (distance <= max(width_px, 1.0))


def _object_table(nuclei: np.ndarray, classes: np.ndarray, counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(classes)
    inside = np.flatnonzero(nuclei > 0)
    numbers = nuclei.ravel()[inside]
    area = np.bincount(numbers, minlength=n)
    each = np.maximum(area, 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return (np.bincount(numbers, values, n) / each)[1:]

    rows, columns = np.divmod(inside, nuclei.shape[1])
    return {
        "id": np.arange(1, n, dtype=np.int32),
        "class": classes[1:].astype(np.int8),
        "y_px": mean(rows),
        "x_px": mean(columns),
        "area_px": area[1:],
        **{f"mean_{name}": mean(image.ravel()[inside]).astype(np.float32) for name, image in counts.items()},
    }


def _check_shapes(
    stains: Mapping[str, np.ndarray], spec: StainsSpec, transmitted: np.ndarray | None, valid: np.ndarray | None
) -> tuple[int, int]:
    missing = [name for name in spec.stains if name not in stains]
    if missing:
        raise ValueError(f"label_stains: no image of the stain '{missing[0]}', only {', '.join(stains) or 'none'}")
    if spec.cells is not None and transmitted is None:
        raise ValueError("label_stains: the cell area needs the transmitted light; give it, or leave out labels.cells")
    images = {**{name: stains[name] for name in spec.stains}, "transmitted": transmitted, "valid": valid}
    shapes = {name: image.shape for name, image in images.items() if image is not None}
    first = next(iter(shapes.values()))
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != first:
            raise ValueError(f"label_stains: '{name}' is {shape}, the first image is {first}; all must be one (H, W)")
    return first[0], first[1]


def _fill_invalid(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns the image with invalid pixels replaced by their nearest valid one, so that there is no edge."""
    if valid.all() or not valid.any():
        return image
    nearest = np.asarray(ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True))
    return image[nearest[0], nearest[1]]
