"""From classes of pixels to nuclei that are counted: split where they touch, one class each, and none counted twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import gammaincinv

from segue.labels import ops, watershed

DEPTHS = (1.0, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # tried by tuning, the least splitting first
AREAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # least areas tried, as shares of a true nucleus's median area
SMOOTHING_PX = 1.0  # of the distance, whose ridges else have maxima of their own
COVERAGE = 0.95


@dataclass(frozen=True)
class Counting:
    """What turns pixels into counts: nuclei below `least_area_px` are left out; see `objects_of` for `split_depth`.

    split_depth is None where the objects come from a network of their own.
    """

    least_area_px: float
    split_depth: float | None


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one image, n each: area_px, their class (0 where no pixel has a class that is counted), and `outside`,
    True where a nucleus is left to the field above or to the left."""

    area_px: np.ndarray
    classes: np.ndarray
    outside: np.ndarray

    def counts(self, counted: Sequence[int], *, least_area_px: float = 0) -> np.ndarray:
        """Returns how many nuclei there are of each counted class, (K,) int64."""
        kept = ~self.outside & (self.area_px >= least_area_px)
        return np.array([np.count_nonzero(kept & (self.classes == value)) for value in counted])


def split_nuclei(mask: np.ndarray, *, split_depth: float) -> np.ndarray:
    """Returns the nuclei of a mask (H, W), int32, 1 … n in scan order: connected parts, divided at their necks.

    The distance to the border, smoothed, has a maximum in each nucleus. Two maxima are of two nuclei where the way
    between them descends by at least the share `split_depth` of the lower one: 1 never divides, 0.05 at every waist.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    inside = np.ascontiguousarray(mask, dtype=np.uint8)
    distance = np.minimum(edt.edt(inside, black_border=False), max(mask.shape))  # infinite where all is inside
    smooth = gaussian_filter(distance, SMOOTHING_PX, mode="nearest") + 1e-3
    seeds = watershed.seeds_by_dynamics(smooth, mask, min_depth=split_depth, join_above=np.inf, min_height=0.0)
    return ops.relabel_sequential(watershed.flood(smooth, seeds, mask))[0]


def measure_nuclei(objects: np.ndarray, classes: np.ndarray, counted: Sequence[int], *, seen: np.ndarray) -> Nuclei:
    """Returns the nuclei of objects (H, W): each has the class, among those counted, of most of its pixels.

    seen (H, W) bool: nuclei that touch the upper or the left border of what is seen are `outside`, those that only
    touch the lower or right one are not. Fields that tile a plane then count each nucleus once, whatever its size (the
    unbiased counting rule: Gundersen 1977, Journal of Microscopy 111, 219).
    """
    numbers, ids = ops.relabel_sequential(np.where(seen, objects, 0))
    count = len(ids)
    values = np.asarray(counted)
    place = np.full(max(int(classes.max(initial=0)), *counted, 0) + 1, len(values))
    place[values] = np.arange(len(values))
    inside = numbers > 0
    index, column = numbers[inside] - 1, place[np.maximum(classes[inside], 0)]
    votes = np.bincount(index * (len(values) + 1) + column, minlength=count * (len(values) + 1))
    votes = votes.reshape(count, len(values) + 1)[:, : len(values)]
    border = seen.copy()  # pixels whose upper or left neighbour is not seen
    border[1:, 1:] &= ~(seen[:-1, 1:] & seen[1:, :-1])
    outside = np.zeros(count + 1, bool)
    outside[numbers[border]] = True
    return Nuclei(
        area_px=np.bincount(index, minlength=count),
        classes=np.where(votes.any(1), values[votes.argmax(1)], 0) if count else np.zeros(0, np.int64),
        outside=outside[1:],
    )


@dataclass(frozen=True)
class Example:
    """An image to tune with: predicted classes (H, W), predicted objects where a network of their own finds them, what
    is seen (H, W) bool, and the true nuclei."""

    classes: np.ndarray
    objects: np.ndarray | None
    seen: np.ndarray
    true: Nuclei


def tune_counting(
    examples: Iterable[Example],
    counted: Sequence[int],
    *,
    depths: Sequence[float] = DEPTHS,
    area_px: float | None = None,
) -> tuple[Counting, float]:
    """Returns the counting whose counts fit the true ones best, and its error; of equals the one that changes least.

    The error is the sum over images and classes of |counted − true|, per true nucleus. area_px: a least area that is
    given, so that only the depth is chosen. Examples are taken one by one; of each only sizes and classes are kept.
    Raises ValueError where no nucleus is true.
    """
    found: list[dict[float | None, Nuclei]] = []
    true: list[np.ndarray] = []
    areas: list[np.ndarray] = []
    for example in examples:
        true.append(example.true.counts(counted))
        areas.append(example.true.area_px)
        found.append(dict(_by_depth(example, counted, depths)))
    every = np.concatenate(areas) if areas else np.empty(0)
    if not np.sum(true):
        raise ValueError("tuned: no example has a true nucleus")
    tried = [area_px] if area_px is not None else sorted({float(round(a * np.median(every))) for a in AREAS})
    errors: dict[Counting, float] = {
        Counting(least, depth): float(
            sum(
                np.abs(nuclei[depth].counts(counted, least_area_px=least) - truth).sum()
                for nuclei, truth in zip(found, true, strict=True)
            )
            / np.sum(true)
        )
        for depth in found[0]
        for least in tried
    }
    best = min(errors, key=lambda counting: errors[counting])
    return best, errors[best]


def _by_depth(
    example: Example, counted: Sequence[int], depths: Sequence[float]
) -> Iterator[tuple[float | None, Nuclei]]:
    if example.objects is not None:
        yield None, measure_nuclei(example.objects, example.classes, counted, seen=example.seen)
        return
    mask = np.isin(example.classes, counted) & example.seen
    for depth in depths:
        yield depth, measure_nuclei(split_nuclei(mask, split_depth=depth), example.classes, counted, seen=example.seen)


def poisson_interval(count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of the Poisson mean where `count` was seen (Garwood 1936, Biometrika 28, 437)."""
    tail = (1 - COVERAGE) / 2
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1 - tail))


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Returns the 95 % interval of a fraction of which part / whole was seen (Wilson 1927, JASA 22, 209).

    NaN where whole is 0.
    """
    if whole == 0:
        return float("nan"), float("nan")
    z = 1.959963984540054
    centre, width = part / whole + z**2 / (2 * whole), z * np.sqrt(part * (whole - part) / whole + z**2 / 4) / whole
    scale = 1 + z**2 / whole
    return float(max((centre - width) / scale, 0)), float(min((centre + width) / scale, 1))


def fractions(counts: Mapping[str, float]) -> dict[str, float]:
    """Returns each class's share of all counted nuclei; NaN where there are none."""
    total = sum(counts.values())
    return {name: value / total if total else float("nan") for name, value in counts.items()}
