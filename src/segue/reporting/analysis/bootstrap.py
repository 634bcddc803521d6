"""Medians with bootstrap intervals that respect what runs share: where other seeds would have put the median.

The configurations of a study are chosen, not drawn, so only what was repeated is resampled, and always whole: a seed
with all runs that it made, parents and children alike, as these are not independent. Where initialisations and draws
of images are crossed, both are resampled and a run counts as often as its initialisation times its draw: the
pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1, 386), which errs on the wide side. From n repeats
n - 1 are drawn, with replacement, and weighted by n / (n - 1), without which intervals from few seeds would be too
narrow (McCarthy and Snowden 1985, Vital and Health Statistics 2, 95).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segue.rng import numpy_generator

RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True)
class Sharing:
    """One way in which runs depend on each other: (n,) ids of groups that are drawn whole, (n,) ids of their strata.

    The groups of a stratum repeat the same thing, and are drawn among each other.
    """

    groups: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A median over runs. `interval` is None where nothing was repeated.

    `units` counts what was resampled; `freedom` is the most repeats beyond the first of each stratum in any way of
    sharing. Below 3, the interval is the range over the repeats, and covers the truth less often than in 95 %.
    """

    median: float
    interval: tuple[float, float] | None
    runs: int
    units: dict[str, int]
    freedom: int = 0


def estimate(values: np.ndarray, sharing: Mapping[str, Sharing], *, resamples: int = RESAMPLES) -> Estimate:
    """Returns the median of the finite `values` (n,) with its 95 % interval.

    `sharing` names the ways in which runs depend on each other. There is no interval where no stratum of any of them
    has two groups. Of two ways that divide the runs alike, the first counts.
    """
    finite = np.isfinite(values)
    found = np.asarray(values, dtype=float)[finite]
    if found.size == 0:
        return Estimate(float("nan"), None, 0, {})
    middle = float(np.median(found))
    ways: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, way in sharing.items():
        _, first, codes = np.unique(way.groups[finite], return_index=True, return_inverse=True)
        strata = np.unique(way.strata[finite][first], return_inverse=True)[1]
        repeated = strata.size > strata.max() + 1
        if repeated and not any(_alike(codes, other) for other, _ in ways.values()):
            ways[name] = (codes, strata)
    units = {name: strata.size for name, (_, strata) in ways.items()}
    if not ways:
        return Estimate(middle, None, found.size, units)
    freedom = max(int(strata.size - strata.max() - 1) for _, strata in ways.values())
    medians = _resampled_medians(found, list(ways.values()), resamples)
    medians = medians[np.isfinite(medians)]
    if medians.size < resamples // 2:
        return Estimate(middle, None, found.size, units)
    low, high = np.quantile(medians, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(middle, (float(low), float(high)), found.size, units, freedom)


def weighted_median(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the median of `ordered` (n,), ascending, for each row of `weights` (k, n) >= 0; NaN where all are 0.

    As in the plain median, the two middle values are averaged where the total weight is split evenly between them.
    """
    cumulated = np.cumsum(weights, axis=1, dtype=np.float64)
    half = cumulated[:, -1:] / 2
    lower = np.argmax(cumulated >= half * (1 - 1e-9), axis=1)
    upper = np.argmax(cumulated > half * (1 + 1e-9), axis=1)
    return np.where(half[:, 0] > 0, (ordered[lower] + ordered[upper]) / 2, np.nan)


def _alike(codes: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([codes, other]), axis=1).shape[1]
    return pairs == codes.max() + 1 == other.max() + 1


def _resampled_medians(values: np.ndarray, ways: list[tuple[np.ndarray, np.ndarray]], resamples: int) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    generator = numpy_generator("report", "bootstrap")
    step = max(1, 1_500_000 // values.size)  # bounds memory to a few tens of megabytes
    medians = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        weights = np.ones((rows, values.size), dtype=np.float32)
        for codes, strata in ways:
            weights *= _drawn_weights(generator, rows, strata)[:, codes[order]]
        medians.append(weighted_median(ordered, weights))
    return np.concatenate(medians)


def _drawn_weights(generator: np.random.Generator, rows: int, strata: np.ndarray) -> np.ndarray:
    """Returns (rows, groups) weights from drawing n - 1 of the n groups of each stratum; a lone group weighs 1."""
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    starts = np.cumsum(sizes) - sizes
    draws = np.maximum(sizes - 1, 1)
    size, start = np.repeat(sizes, draws), np.repeat(starts, draws)
    drawn = start + np.minimum((generator.random((rows, size.size)) * size).astype(np.int64), size - 1)
    flat = drawn + np.arange(rows)[:, None] * strata.size
    counts = np.bincount(flat.ravel(), minlength=rows * strata.size).reshape(rows, strata.size)
    weights = np.empty(counts.shape, dtype=np.float32)
    weights[:, order] = counts * np.repeat(sizes / draws, sizes)
    return weights
