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

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from segue.reporting.formatting import format_number, join_names
from segue.rng import numpy_generator

RESAMPLES = 1000
MAX_CACHED_WEIGHTS = 10_000_000  # of clusters in all resamples
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
    95 % of studies. `standard_error` is the standard deviation of the resampled medians; `test_degrees_of_freedom` is
    that of the level with the fewest repeats. `equivalence_margin` is the largest distance from zero of the 90 %
    interval: the least margin within which two one-sided tests at 5 % find the median equivalent to zero (Schuirmann
    1987, Journal of Pharmacokinetics and Biopharmaceutics 15, 657). They are NaN where there is no interval, the
    margin also where it would be a range over too few repeats.
    """

    median: float
    interval: tuple[float, float] | None
    runs: int
    units: dict[str, int]
    degrees_of_freedom: int = 0
    standard_error: float = float("nan")
    test_degrees_of_freedom: int = 0
    equivalence_margin: float = float("nan")
    mean: float = float("nan")  # of the resamples

    @property
    def p_value(self) -> float:
        """The two-sided p value of a median of zero, by a t test with the bootstrap's standard error; else NaN."""
        from scipy.special import stdtr

        if self.interval is None or not self.standard_error > 0:
            return float("nan")
        return float(2 * stdtr(self.test_degrees_of_freedom, -abs(self.median) / self.standard_error))

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
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    repeats = _repeats(levels, np.flatnonzero(finite)[order])
    samples = _resample(lambda weights: weighted_median(ordered, weights), repeats, ordered.size, resamples)
    return _summarize(float(np.median(numbers)), samples, repeats, numbers.size)


def estimate_contrasts(
    values: np.ndarray,
    groups: np.ndarray,
    contrasts: Callable[[np.ndarray], np.ndarray],
    levels: Mapping[str, ClusterLevel],
    *,
    resamples: int = RESAMPLES,
) -> list[Estimate]:
    """Returns quantities that are computed from the medians of groups of runs, with intervals like those of `estimate`.

    values: (n,); groups: (n,) int, the group of each value from 0 to g - 1, each of which has a finite value.
    contrasts: from medians (k, g) to quantities (k, m), for example a difference of two of them. Medians are NaN in a
    resample that holds none of a group. `runs` of the m estimates counts all finite values.
    """
    finite = np.flatnonzero(np.isfinite(values))
    chosen = finite[np.lexsort((values[finite], groups[finite]))]
    ordered = values[chosen]
    starts = np.flatnonzero(np.diff(groups[chosen], prepend=-1))
    repeats = _repeats(levels, chosen)
    points = contrasts(_medians_by_group(ordered, starts, np.ones((1, ordered.size))))[0]
    samples = _resample(
        lambda weights: contrasts(_medians_by_group(ordered, starts, weights)), repeats, ordered.size, resamples
    )
    columns = samples.T if samples.size else np.empty((points.size, 0))
    return [
        _summarize(float(point), column, repeats, ordered.size) for point, column in zip(points, columns, strict=True)
    ]


Repeats = dict[str, tuple[np.ndarray, np.ndarray]]  # level -> (n,) cluster of each run, stratum of each cluster


def _repeats(levels: Mapping[str, ClusterLevel], chosen: np.ndarray) -> Repeats:
    """Returns the levels at which anything repeats among the `chosen` runs, each way of dividing them once."""
    repeats: Repeats = {}
    for name, level in levels.items():
        _, first, codes = np.unique(level.groups[chosen], return_index=True, return_inverse=True)
        strata = np.unique(level.strata[chosen][first], return_inverse=True)[1]
        has_repeats = strata.size > strata.max() + 1
        if has_repeats and not any(_is_same_partition(codes, other) for other, _ in repeats.values()):
            repeats[name] = (codes, strata)
    return repeats


def _resample(statistic: Callable[[np.ndarray], np.ndarray], repeats: Repeats, size: int, resamples: int) -> np.ndarray:
    """Returns a statistic of (rows, size) weights for every resample; empty where nothing repeats."""
    if not repeats:
        return np.empty(0)
    step = max(1, 1_500_000 // size)  # bounds memory to a few tens of megabytes
    # clusters are drawn stratum by stratum, so that parts of a table with strata of the same sizes share the draws
    places = [np.argsort(np.argsort(strata, kind="stable"))[codes] for codes, strata in repeats.values()]
    sizes = tuple(tuple(np.bincount(strata).tolist()) for _, strata in repeats.values())
    is_small = resamples * sum(map(sum, sizes)) <= MAX_CACHED_WEIGHTS
    blocks = []
    for weights_by_level in (_cached_weights if is_small else _cluster_weights)(sizes, resamples, step):
        weights = weights_by_level[0][:, places[0]]
        for others, place in zip(weights_by_level[1:], places[1:], strict=True):
            weights *= others[:, place]
        blocks.append(statistic(weights))
    return np.concatenate(blocks)


def _summarize(median: float, samples: np.ndarray, repeats: Repeats, runs: int) -> Estimate:
    units = {name: strata.size for name, (_, strata) in repeats.items()}
    usable = samples[np.isfinite(samples)]
    if not repeats or usable.size < samples.size // 2:
        return Estimate(median, None, runs, units)
    freedom = [int(strata.size - strata.max() - 1) for _, strata in repeats.values()]
    low, high = np.quantile(usable, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    one_sided = np.abs(np.quantile(usable, [1 - COVERAGE, COVERAGE]))
    margin = float(one_sided.max()) if max(freedom) >= MIN_DEGREES_OF_FREEDOM else float("nan")
    error = float(np.std(usable, ddof=1))
    return Estimate(
        median, (float(low), float(high)), runs, units, max(freedom), error, min(freedom), margin, float(usable.mean())
    )


def t_quantile(freedom: float, probability: float = (1 + COVERAGE) / 2) -> float:
    """Returns the quantile of Student's t distribution, by default of a 95 % interval."""
    from scipy.special import stdtrit  # scipy.stats would take a second to import

    return float(stdtrit(freedom, probability))


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
    # the block in which half of the total weight is reached, then the place in it: summing up all weights takes longer
    rows, size = weights.shape
    length = max(1, math.isqrt(size))
    blocks = np.zeros((rows, -(-size // length), length))
    blocks.reshape(rows, -1)[:, :size] = weights
    sums = np.cumsum(blocks.sum(2), axis=1)
    half, row = sums[:, -1:] / 2, np.arange(rows)

    def first(is_reached: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        block = np.argmax(is_reached(sums), axis=1)
        inner = np.cumsum(blocks[row, block], axis=1) + np.where(block > 0, sums[row, block - 1], 0.0)[:, None]
        inner[:, -1] = sums[row, block]  # whatever the rounding
        return block * length + np.argmax(is_reached(inner), axis=1)

    lower = first(lambda sums: sums >= half * (1 - 1e-9))
    upper = first(lambda sums: sums > half * (1 + 1e-9))
    return np.where(half[:, 0] > 0, (ordered[lower] + ordered[upper]) / 2, np.nan)


def _is_same_partition(codes: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([codes, other]), axis=1).shape[1]
    return pairs == codes.max() + 1 == other.max() + 1


def _medians_by_group(ordered: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the (k, g) weighted medians of segments of `ordered` that begin at `starts`, ascending within each."""
    cumulated = np.cumsum(weights, axis=1, dtype=np.float64)
    ends = cumulated[:, np.append(starts[1:], ordered.size) - 1]
    half = np.diff(ends, axis=1, prepend=0.0) / 2
    below, above = ends - half * (1 + 1e-9), ends - half * (1 - 1e-9)
    lower, upper = np.empty(half.shape, dtype=int), np.empty(half.shape, dtype=int)
    for row, sums in enumerate(cumulated):
        lower[row], upper[row] = sums.searchsorted(below[row]), sums.searchsorted(above[row], side="right")
    last = ordered.size - 1
    return np.where(half > 1e-9, (ordered[np.minimum(lower, last)] + ordered[np.minimum(upper, last)]) / 2, np.nan)


def _cluster_weights(sizes: Sequence[Sequence[int]], resamples: int, step: int) -> Iterator[list[np.ndarray]]:
    """Yields, for at most `step` resamples at a time, the (rows, clusters) weights of each level.

    sizes: of every level, the number of clusters n of each stratum, of which n - 1 are drawn; a lone one weighs 1.
    """
    generator = numpy_generator("report", "bootstrap")
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield [stratum_weights(generator, rows, np.array(of_level)) for of_level in sizes]


@lru_cache(maxsize=6)
def _cached_weights(sizes: Sequence[Sequence[int]], resamples: int, step: int) -> list[list[np.ndarray]]:
    return list(_cluster_weights(sizes, resamples, step))


def stratum_weights(generator: np.random.Generator, rows: int, sizes: np.ndarray) -> np.ndarray:
    """Returns (rows, clusters) weights of the clusters of strata of these sizes, one stratum after the other."""
    clusters, draws = int(sizes.sum()), np.maximum(sizes - 1, 1)
    size, start = np.repeat(sizes, draws), np.repeat(np.cumsum(sizes) - sizes, draws)
    picks = start + np.minimum((generator.random((rows, size.size)) * size).astype(np.int64), size - 1)
    flat = picks + np.arange(rows)[:, None] * clusters
    counts = np.bincount(flat.ravel(), minlength=rows * clusters).reshape(rows, clusters)
    return (counts * np.repeat(sizes / draws, sizes)).astype(np.float32)
