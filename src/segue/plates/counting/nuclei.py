"""From pixel classes to counted nuclei: split where they touch, one class each, none counted twice; intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest, chi2

from segue.labels import ops, watershed

DEPTHS = (1.0, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)  # tried by tuning, from no splitting to most
AREA_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # minimum areas tried, over the median area of true nuclei
SMOOTHING_PX = 1.0  # of the distance, since its ridges have maxima of their own
COVERAGE = 0.95


@dataclass(frozen=True)
class Counting:
    """How nuclei are counted: those below `min_area_px` are not; `split_depth` as in `split_nuclei`.

    split_depth is None if the objects come from a network of their own.
    """

    min_area_px: float
    split_depth: float | None


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one image, (n,) each: area_px, class (0 if no pixel has a counted class), and excluded, True for nuclei
    that are counted in the field above or to the left."""

    area_px: np.ndarray
    classes: np.ndarray
    excluded: np.ndarray

    def counts(self, counted: Sequence[int], *, min_area_px: float = 0) -> np.ndarray:
        """Returns the number of nuclei of each counted class, (K,) int64."""
        is_counted = ~self.excluded & (self.area_px >= min_area_px)
        return np.array([np.count_nonzero(is_counted & (self.classes == value)) for value in counted])


def split_nuclei(mask: np.ndarray, *, split_depth: float) -> np.ndarray:
    """Returns the nuclei of a mask (H, W), int32, 1 … n in scan order: connected components, split at their necks.

    The smoothed distance to the border has a maximum in each nucleus. Two maxima belong to two nuclei if the path
    between them descends by at least the fraction `split_depth` of the lower one: 1 never splits, 0.05 at every waist.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    inside = np.ascontiguousarray(mask, dtype=np.uint8)
    distance = np.minimum(edt.edt(inside, black_border=False), max(mask.shape))  # infinite if all is inside
    smooth = gaussian_filter(distance, SMOOTHING_PX, mode="nearest") + 1e-3
    seeds = watershed.seeds_by_dynamics(smooth, mask, min_depth=split_depth, join_above=np.inf, min_height=0.0)
    return ops.relabel_sequential(watershed.flood(smooth, seeds, mask))[0]


def measure_nuclei(objects: np.ndarray, classes: np.ndarray, counted: Sequence[int], *, valid: np.ndarray) -> Nuclei:
    """Returns the nuclei of objects (H, W): each has the class, among those counted, of most of its pixels.

    valid (H, W) bool: nuclei that touch the upper or left border of the valid area are `excluded`, those that touch
    only the lower or right one are not. Fields that tile a plane then count each nucleus once, whatever its size (the
    unbiased counting rule: Gundersen 1977, Journal of Microscopy 111, 219).
    """
    numbers, ids = ops.relabel_sequential(np.where(valid, objects, 0))
    count = len(ids)
    values = np.asarray(counted)
    place = np.full(max(int(classes.max(initial=0)), *counted, 0) + 1, len(values))
    place[values] = np.arange(len(values))
    inside = numbers > 0
    index, column = numbers[inside] - 1, place[np.maximum(classes[inside], 0)]
    votes = np.bincount(index * (len(values) + 1) + column, minlength=count * (len(values) + 1))
    votes = votes.reshape(count, len(values) + 1)[:, : len(values)]
    border = valid.copy()  # pixels whose upper or left neighbor is not valid
    border[1:, 1:] &= ~(valid[:-1, 1:] & valid[1:, :-1])
    excluded = np.zeros(count + 1, bool)
    excluded[numbers[border]] = True
    return Nuclei(
        area_px=np.bincount(index, minlength=count),
        classes=np.where(votes.any(1), values[votes.argmax(1)], 0) if count else np.zeros(0, np.int64),
        excluded=excluded[1:],
    )


@dataclass(frozen=True)
class TuningExample:
    """An image to tune on: predicted classes (H, W), predicted objects if there is a network for them, valid pixels
    (H, W) bool, and the true nuclei."""

    classes: np.ndarray
    objects: np.ndarray | None
    valid: np.ndarray
    true: Nuclei


def tune_counting(
    examples: Iterable[TuningExample],
    counted: Sequence[int],
    *,
    depths: Sequence[float] = DEPTHS,
    area_px: float | None = None,
) -> tuple[Counting, float]:
    """Returns the counting whose counts fit the true ones best, and its error; of equal ones the simplest.

    The error is the sum over images and classes of |counted − true|, per true nucleus. area_px: a given minimum area,
    so that only the depth is tuned. Only sizes and classes of each example stay in memory. Raises ValueError without
    any true nucleus.
    """
    per_depth: list[dict[float | None, Nuclei]] = []
    true: list[np.ndarray] = []
    areas: list[np.ndarray] = []
    for example in examples:
        true.append(example.true.counts(counted))
        areas.append(example.true.area_px)
        per_depth.append(dict(_by_depth(example, counted, depths)))
    every = np.concatenate(areas) if areas else np.empty(0)
    if not np.sum(true):
        raise ValueError("tune_counting: no example has a true nucleus")
    tried_px = (
        [area_px] if area_px is not None else sorted({float(round(a * np.median(every))) for a in AREA_FRACTIONS})
    )
    errors: dict[Counting, float] = {
        Counting(min_px, depth): float(
            sum(
                np.abs(nuclei[depth].counts(counted, min_area_px=min_px) - truth).sum()
                for nuclei, truth in zip(per_depth, true, strict=True)
            )
            / np.sum(true)
        )
        for depth in per_depth[0]
        for min_px in tried_px
    }
    best = min(errors, key=lambda counting: errors[counting])
    return best, errors[best]


def _by_depth(
    example: TuningExample, counted: Sequence[int], depths: Sequence[float]
) -> Iterator[tuple[float | None, Nuclei]]:
    if example.objects is not None:
        yield None, measure_nuclei(example.objects, example.classes, counted, valid=example.valid)
        return
    mask = np.isin(example.classes, counted) & example.valid
    for depth in depths:
        yield (
            depth,
            measure_nuclei(split_nuclei(mask, split_depth=depth), example.classes, counted, valid=example.valid),
        )


def poisson_interval(count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a Poisson mean after observing `count` (Garwood 1936, Biometrika 28, 437)."""
    tail = (1 - COVERAGE) / 2
    low = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return low, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2


def wilson_interval(part: int, whole: int) -> tuple[float, float]:
    """Returns the 95 % interval of a fraction of which part / whole was observed (Wilson 1927, JASA 22, 209).

    NaN if whole is 0.
    """
    if whole == 0:
        return float("nan"), float("nan")
    interval = binomtest(part, whole).proportion_ci(COVERAGE, method="wilson")
    return float(interval.low), float(interval.high)


def fractions(counts: Mapping[str, float]) -> dict[str, float]:
    """Returns the fraction of each class among all counted nuclei; NaN without nuclei."""
    total = sum(counts.values())
    return {name: value / total if total else float("nan") for name, value in counts.items()}
