"""Medians with bootstrap intervals that account for dependent runs: the range of the median under other seeds.

The configurations of a study are chosen, not drawn, so only what was repeated is resampled, and always whole: a seed
with all runs that it made, parents and children alike, as these are not independent. Where initializations and draws
of images are crossed, both are resampled and a run counts as often as its initialization times its draw: the
pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1, 386), which errs on the wide side. From n repeats
n - 1 are drawn, with replacement, and weighted by n / (n - 1), without which intervals from few seeds would be too
narrow (McCarthy and Snowden 1985, Vital and Health Statistics 2, 95).

It is written out here because no library has it: `scipy.stats.bootstrap` and `arch` resample single observations or
blocks in time, rliable strata of independent runs; none resamples clusters, or two crossed sets of clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segue.reporting.formatting import format_number, join_names
from segue.rng import numpy_generator

RESAMPLES = 1000
COVERAGE = 0.95
MIN_DEGREES_OF_FREEDOM = 3  # below, the interval is the range over the repeats
SEEDS = {"seed_draw": "draws of images", "seed_init": "initializations"}


@dataclass(frozen=True)
class ClusterLevel:
    """One way in which runs depend on each other: (n,) ids of clusters that are drawn whole, (n,) ids of their strata.

    The clusters of a stratum repeat the same thing, and are drawn among each other.
    """

    groups: np.ndarray
    strata: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A median over runs. `interval` is None where nothing was repeated.

    `units` counts what was resampled; `degrees_of_freedom` is the largest number of repeats beyond the first of each
    stratum at any level. Below 3, the interval is the range over the repeats, and covers the truth less often than in
    95 % of studies.
    """

    median: float
    interval: tuple[float, float] | None
    runs: int
    units: dict[str, int]
    degrees_of_freedom: int = 0

    @property
    def excludes_zero(self) -> bool:
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    def text(self, *, signed: bool = False) -> str:
        """Returns "0.0144 [0.0141, 0.0147]", without the brackets where there is no interval."""
        median = format_number(self.median, signed=signed)
        if self.interval is None:
            return median
        low, high = (format_number(end, signed=signed) for end in self.interval)
        return f"{median} [{low}, {high}]"

    @property
    def interval_kind(self) -> str:
        """The kind of the interval: "95 % bootstrap interval of the median, resampling 5 seeds"."""
        repeats = join_names([f"{count:,} {name}" for name, count in self.units.items()])
        if list(self.units) in ([name] for name in SEEDS.values()):  # the other seed does not vary, or varies alike
            repeats = f"{sum(self.units.values())} seeds"
        if self.degrees_of_freedom < MIN_DEGREES_OF_FREEDOM:
            return f"range of the medians over {repeats}, too few for a 95 % interval"
        return f"95 % bootstrap interval of the median, resampling {repeats}"


def estimate(values: np.ndarray, levels: Mapping[str, ClusterLevel], *, resamples: int = RESAMPLES) -> Estimate:
    """Returns the median of the finite `values` (n,) with its 95 % interval.

    `levels` names the ways in which runs depend on each other. There is no interval where no stratum of any of them
    has two clusters. Of two levels that divide the runs alike, the first counts.
    """
    finite = np.isfinite(values)
    numbers = np.asarray(values, dtype=float)[finite]
    if numbers.size == 0:
        return Estimate(float("nan"), None, 0, {})
    median = float(np.median(numbers))
    repeated: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # level -> cluster of each run, stratum of each cluster
    for name, level in levels.items():
        _, first, codes = np.unique(level.groups[finite], return_index=True, return_inverse=True)
        strata = np.unique(level.strata[finite][first], return_inverse=True)[1]
        has_repeats = strata.size > strata.max() + 1
        if has_repeats and not any(_is_same_partition(codes, other) for other, _ in repeated.values()):
            repeated[name] = (codes, strata)
    units = {name: strata.size for name, (_, strata) in repeated.items()}
    if not repeated:
        return Estimate(median, None, numbers.size, units)
    freedom = max(int(strata.size - strata.max() - 1) for _, strata in repeated.values())
    medians = _resampled_medians(numbers, list(repeated.values()), resamples)
    medians = medians[np.isfinite(medians)]
    if medians.size < resamples // 2:
        return Estimate(median, None, numbers.size, units)
    low, high = np.quantile(medians, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(median, (float(low), float(high)), numbers.size, units, freedom)


def interval_caption(lines: str, estimates: Sequence[Estimate]) -> str:
    """Returns the meaning of the lines, from the estimate with the most runs, since others may lack a seed."""
    repeated = [estimate for estimate in estimates if estimate.interval]
    if not repeated:
        return "No interval is drawn, since nothing was repeated with another seed."
    kind = max(repeated, key=lambda estimate: estimate.runs).interval_kind
    return f"{lines}: {kind}; if none is visible, it is narrower than the circle."


def weighted_median(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the median of `ordered` (n,), ascending, for each row of `weights` (k, n) >= 0; NaN where all are 0.

    As in the plain median, the two middle values are averaged where the total weight is split evenly between them.
    """
    cumulated = np.cumsum(weights, axis=1, dtype=np.float64)
    half = cumulated[:, -1:] / 2
    lower = np.argmax(cumulated >= half * (1 - 1e-9), axis=1)
    upper = np.argmax(cumulated > half * (1 + 1e-9), axis=1)
    return np.where(half[:, 0] > 0, (ordered[lower] + ordered[upper]) / 2, np.nan)


def _is_same_partition(codes: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([codes, other]), axis=1).shape[1]
    return pairs == codes.max() + 1 == other.max() + 1


def _resampled_medians(values: np.ndarray, levels: list[tuple[np.ndarray, np.ndarray]], resamples: int) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    generator = numpy_generator("report", "bootstrap")
    step = max(1, 200_000 // values.size)  # arrays that stay in the cache: half the time of larger ones
    medians = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        weights = np.ones((rows, values.size), dtype=np.float32)
        for codes, strata in levels:
            weights *= _cluster_weights(generator, rows, strata)[:, codes[order]]
        medians.append(weighted_median(ordered, weights))
    return np.concatenate(medians)


def _cluster_weights(generator: np.random.Generator, rows: int, strata: np.ndarray) -> np.ndarray:
    """Returns (rows, clusters) weights from drawing n - 1 of the n clusters of each stratum; a lone one weighs 1."""
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    starts = np.cumsum(sizes) - sizes
    draws = np.maximum(sizes - 1, 1)
    size, start = np.repeat(sizes, draws), np.repeat(starts, draws)
    picks = start + np.minimum((generator.random((rows, size.size)) * size).astype(np.int64), size - 1)
    flat = picks + np.arange(rows)[:, None] * strata.size
    counts = np.bincount(flat.ravel(), minlength=rows * strata.size).reshape(rows, strata.size)
    weights = np.empty(counts.shape, dtype=np.float32)
    weights[:, order] = counts * np.repeat(sizes / draws, sizes)
    return weights
