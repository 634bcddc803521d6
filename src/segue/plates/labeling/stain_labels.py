"""Labels from stains: nuclei of each stain, which of them are one nucleus, and its class by the stains that it carries.

counts → background off (`thresholds`) → bleed-through off → objects of each stain (`nuclei`) → joined → classes
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

_FEWEST_FOR_BLEED = 10  # nuclei around the mode
_RATIOS = (-0.05, 0.3)  # of the light of a nucleus in two channels, as bleed-through may be
_RATIO_BIN, _RATIO_SD = 0.0005, 0.004
_MOST_CELL = 0.7  # of the valid area; above, a note says so
_OWN_WIDTH = 0.5  # of the whole object's: what sticks out of a covered object is one of its own when as wide as this


@dataclass(frozen=True)
class StainLabels:
    """What the stains of one field say.

    classes (H, W) int32: numbers of `StainsSpec.class_names`, −1 ignored. nuclei (H, W) int32: instances 1 … n in scan
    order, whole where `classes` has an outline, −1 as in classes. objects: columns of n rows, `id`, `class` (number),
    `y_px`, `x_px` (centre), `area_px`, and `mean_<stain>` in counts over the background, bleed-through taken off.
    thresholds: counts over the background by stain. bleed_through: the shares that were taken off, by "dapi_in_cy5".
    notes: sentences on what did not fit, to be shown.
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

    `transmitted` (H, W) is asked for by `spec.cells` alone. Where `valid` (H, W) is False the labels are −1, and no
    threshold or estimate depends on what is there. Raises ValueError for arrays that are missing or of unlike shapes.
    """
    shape = _checked(stains, spec, transmitted, valid)
    valid = np.ones(shape, bool) if valid is None else valid
    notes = [] if pixel_size_um else ["the pixel size is not known: lengths in µm were taken as pixels"]
    size_um = pixel_size_um or 1.0
    if not valid.any():
        nothing = np.full(shape, IGNORED, np.int32)
        notes.append("no pixel is valid: nothing was labelled")
        none = _objects(np.zeros(shape, np.int32), np.zeros(1, np.int64), {})
        return StainLabels(nothing, nothing.copy(), none, {}, {}, tuple(notes))
    counts = {
        name: subtract_background(stains[name], own.background, pixel_size_um=size_um, valid=valid)
        for name, own in spec.stains.items()
    }
    found: dict[str, tuple[np.ndarray, ThresholdLevel]] = {}
    shares, told = _bleed_through(counts, found, spec, size_um, valid)
    notes += told
    for name in unmix(counts, {spec.bleed_through_pair(pair): share for pair, share in shares.items()}):
        found.pop(name, None)
    for name, own in spec.stains.items():
        if name not in found:
            found[name] = segment_stain(counts[name], own, pixel_size_um=size_um, valid=valid)
        notes += [f"{name}: {note}" for note in found[name][1].notes]
    nuclei, carried = merge_stains([found[name][0] for name in spec.stains], spec.overlap)
    ruled = _ruled(carried, spec)
    unruled = (ruled == 0) & (np.arange(len(ruled)) > 0)
    if unruled.any():
        notes.append(f"{int(unruled.sum())} nuclei meet no rule and are {spec.otherwise}")
    lost = unruled[nuclei] & (spec.otherwise == "ignored")
    nuclei, ruled = _kept(nuclei, ruled)
    classes = ruled[nuclei].astype(np.int32)
    if spec.cells is not None and transmitted is not None:
        cells = cell_area(transmitted, spec.cells, pixel_size_um=size_um, nuclei=nuclei, valid=valid)
        classes[cells & (classes == 0)] = 1
        share = float(cells[valid].mean())
        if share > _MOST_CELL:
            notes.append(
                f"cells: {share:.0%} of the valid area is cell, which is more than plausible; look at the overlay, and "
                "raise labels.cells.factor where empty places are taken for cell"
            )
    if spec.outline is not None:
        around = nuclei if spec.outline.of == "nuclei" else (classes > 0)
        border = _border(around, spec.outline.width_um / size_um)
        classes[border & ((nuclei > 0) == (spec.outline.of == "nuclei"))] = len(spec.class_names) - 1
    objects = _objects(nuclei, ruled, counts)
    for labels in (classes, nuclei):
        labels[lost | ~valid] = IGNORED
    thresholds = {name: found[name][1].counts for name in spec.stains}
    return StainLabels(classes, nuclei, objects, thresholds, shares, tuple(notes))


def estimate_bleed_through(source: np.ndarray, target: np.ndarray, objects: np.ndarray) -> float | None:
    """Returns the share of the light of `source` that `target` shows, or None from too few nuclei or without a mode.

    Both (H, W) in counts over the background; `objects` (H, W) of the source. Of each object the ratio of the sums is
    taken: objects that carry the first stain alone all have the same one, the others higher ones that scatter, so that
    the share is the mode of the ratios from −0.05 to 0.3 (their density smoothed by 0.004, then the median within
    ±0.008), 0 where that is negative. None where less than 10 objects are around the mode.
    """
    count = int(objects.max(initial=0))
    inside = objects > 0
    step = max(1, int(np.sqrt(objects.size / 2**20)))
    outside = objects[::step, ::step] == 0
    if not outside.any():
        return None
    # an opening lies a little under the background: what that leaves must not be taken for bleed-through
    levels = [float(np.median(image[::step, ::step][outside])) for image in (source, target)]
    own, seen = (
        np.bincount(objects[inside], image[inside] - level, count + 1)[1:]
        for image, level in zip((source, target), levels, strict=True)
    )
    ratios = (seen / np.maximum(own, 1e-6))[own > 0]
    density, edges = np.histogram(ratios, round((_RATIOS[1] - _RATIOS[0]) / _RATIO_BIN), _RATIOS)
    smooth = ndimage.gaussian_filter1d(density.astype(float), _RATIO_SD / _RATIO_BIN, mode="constant")
    near = ratios[np.abs(ratios - edges[int(np.argmax(smooth))]) <= 2 * _RATIO_SD]
    return max(float(np.median(near)), 0.0) if len(near) >= _FEWEST_FOR_BLEED else None


def unmix(counts: dict[str, np.ndarray], shares: Mapping[tuple[str, str], float]) -> list[str]:
    """Returns the stains that changed, after taking the bleed-through out of `counts` in place.

    Linear: observed[b] = own[b] + Σ share[a, b] own[a], solved for what is each stain's own.
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
    """Returns nuclei (H, W) int32, 1 … n in scan order, and (n + 1, stains) bool: which stains each carries.

    `stains`: objects of each stain, 1 … in each, later ones above. An earlier object of which one later object covers
    at least `overlap` is the same nucleus (the union of both). If less is covered, what is left stays a nucleus of its
    own where it is at least half as wide as the whole was: a neighbour in a clump; a rim that is left around a later
    object is not, and joins it. A later object carries the earlier stain as well where earlier objects cover at least
    `overlap` of it.
    """
    nuclei = stains[0].astype(np.int32)
    carried = np.zeros((int(nuclei.max(initial=0)) + 1, len(stains)), bool)
    carried[1:, 0] = True
    for index, upper in enumerate(stains[1:], start=1):
        nuclei, carried = _joined(nuclei, carried, upper, index, overlap)
    return nuclei, carried


def _joined(
    lower: np.ndarray, carried: np.ndarray, upper: np.ndarray, index: int, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    below, above = len(carried) - 1, int(upper.max(initial=0))
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
    same = (covering > 0) & ((most >= overlap * area) | (left_width < _OWN_WIDTH * whole_width))
    mine = np.zeros((above + 1, carried.shape[1]), bool)
    mine[1:, index] = True
    np.logical_or.at(mine, covering[same], carried[same])
    covered = shared >= overlap * np.bincount(upper.ravel(), minlength=above + 1)[second]
    np.logical_or.at(mine, second[covered], carried[first[covered]])
    mine[0] = False
    number = np.arange(below + 1) + above
    number[0] = 0
    number[same] = covering[same]
    # a piece cut off the rest of its object is no nucleus: of each object only what hangs together at its widest stays
    labels = np.where(upper > 0, upper, number[_largest_parts(left, (covering > 0) & ~same)]).astype(np.int32)
    return _kept(labels, np.concatenate([mine, carried[1:]]))


def _largest_parts(labels: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Returns the labels without the smaller ones of the separate parts of the objects marked in `of` (count + 1,)."""
    parts = np.asarray(cc3d.connected_components(np.ascontiguousarray(labels), connectivity=4), np.int64)
    sizes = np.bincount(parts.ravel())
    owner = np.zeros(len(sizes), np.int64)
    owner[parts.ravel()] = labels.ravel()
    order = np.argsort(sizes, kind="stable")
    largest = np.zeros(len(of), np.int64)
    largest[owner[order]] = order
    keep = (largest[owner] == np.arange(len(sizes))) | ~of[owner]
    return np.where(keep[parts], labels, 0)


def _kept(labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels 1 … n in scan order without those whose row is all 0, and the rows in the new order."""
    known = np.asarray(rows.reshape(len(rows), -1).any(axis=1))
    labels = np.where(known[labels], labels, 0).astype(np.int32)
    numbers, ids = ops.relabel_sequential(labels)
    count = len(ids)
    new = np.zeros((count + 1, *rows.shape[1:]), rows.dtype)
    inside = numbers > 0
    new[numbers[inside]] = rows[labels[inside]]
    return numbers, new


def _ruled(carried: np.ndarray, spec: StainsSpec) -> np.ndarray:
    """Returns the class number of each nucleus, (n + 1,): of the first rule that it meets, 0 where there is none."""
    names, stains = spec.class_names, list(spec.stains)
    classes = np.zeros(len(carried), np.int64)
    for rule in reversed(spec.rules):
        has = carried[:, [stains.index(stain) for stain in rule.has]].all(1)
        lacks = carried[:, [stains.index(stain) for stain in rule.lacks]].any(1)
        classes[has & ~lacks] = names.index(rule.name)
    classes[0] = 0
    return classes


def _bleed_through(
    counts: Mapping[str, np.ndarray],
    found: dict[str, tuple[np.ndarray, ThresholdLevel]],
    spec: StainsSpec,
    pixel_size_um: float,
    valid: np.ndarray,
) -> tuple[dict[str, float], list[str]]:
    """Returns the shares to take off and notes; objects of the sources that were needed are put into `found`."""
    shares: dict[str, float] = {}
    notes = []
    for pair, share in spec.bleed_through.items():
        if share != "estimate":
            shares[pair] = float(share)
            continue
        source, target = spec.bleed_through_pair(pair)
        if source not in found:
            found[source] = segment_stain(counts[source], spec.stains[source], pixel_size_um=pixel_size_um, valid=valid)
        estimated = estimate_bleed_through(counts[source], counts[target], found[source][0])
        if estimated is None:
            notes.append(
                f"bleed-through {pair}: too few nuclei carry {source} alone to estimate it; none was taken off; "
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
    """Returns (H, W) bool, where a cell is: much slope in the transmitted light (H, W), closed and filled.

    The slope of empty places is that of noise, whose Sobel magnitude has one mode. Where `valid` is False, the
    nearest valid pixel's light goes on, and no slope counts; nor does any that is exactly 0, for noise has none: it is
    that of places that were filled in or are saturated.
    """
    valid = np.ones(transmitted.shape, bool) if valid is None else valid
    transmitted = _continued(transmitted, valid)
    image = ndimage.gaussian_filter(transmitted.astype(np.float32), spec.smoothing_um / pixel_size_um, mode="nearest")
    slope = np.hypot(*(ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)))
    step = max(1, int(np.sqrt(slope.size / 2**17)))
    sampled = slope[::step, ::step]
    sampled = sampled[valid[::step, ::step] & (sampled > 0)]
    mask = (slope > spec.factor * density_mode(sampled)) & valid if sampled.size else np.zeros(slope.shape, bool)
    radius_px = spec.closing_um / pixel_size_um
    mask = ops.remove_small(ops.connected_components(mask), min_size_px=radius_px**2) > 0  # else noise is closed up
    if radius_px > 0:
        mask = edt.edt(edt.edt(~mask) <= radius_px) > radius_px
    mask |= nuclei > 0
    # as one object, for a hole between a cell's rim and its nucleus is a hole as well
    filled = ops.fill_holes(mask.astype(np.int32), max_size_px=spec.hole_um2 / pixel_size_um**2)
    areas = ops.connected_components(filled > 0)
    return ops.remove_small(areas, min_size_px=spec.min_area_um2 / pixel_size_um**2) > 0


def _border(labels: np.ndarray, width_px: float) -> np.ndarray:
    """Returns (H, W) bool: pixels of objects within the width, at least 1, of what is not the same object."""
    distance = edt.edt(np.ascontiguousarray(labels))
    return (distance > 0) & (distance <= max(width_px, 1.0))


def _objects(nuclei: np.ndarray, classes: np.ndarray, counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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


def _checked(
    stains: Mapping[str, np.ndarray], spec: StainsSpec, transmitted: np.ndarray | None, valid: np.ndarray | None
) -> tuple[int, int]:
    missing = [name for name in spec.stains if name not in stains]
    if missing:
        raise ValueError(f"label_stains: no image of the stain '{missing[0]}', only {', '.join(stains) or 'none'}")
    if spec.cells is not None and transmitted is None:
        raise ValueError("label_stains: the cell area needs the transmitted light; give it, or leave out labels.cells")
    given = {**{name: stains[name] for name in spec.stains}, "transmitted": transmitted, "valid": valid}
    shapes = {name: image.shape for name, image in given.items() if image is not None}
    first = next(iter(shapes.values()))
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != first:
            raise ValueError(f"label_stains: '{name}' is {shape}, the first image is {first}; all must be one (H, W)")
    return first[0], first[1]


def _continued(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns the image with the nearest valid pixel's value where it is not valid, so that no edge is there."""
    if valid.all() or not valid.any():
        return image
    nearest = np.asarray(ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True))
    return image[nearest[0], nearest[1]]
