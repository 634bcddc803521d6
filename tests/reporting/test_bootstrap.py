"""Medians and their intervals against references, invariances and simulated studies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from segue.reporting.analysis import bootstrap
from segue.reporting.analysis.bootstrap import (
    ClusterLevel,
    _medians_by_group,
    estimate,
    estimate_contrasts,
    weighted_median,
)


def seeds(ids: np.ndarray) -> dict[str, ClusterLevel]:
    return {"seeds": ClusterLevel(ids, np.zeros(len(ids)))}


def test_weighted_median_equals_the_median_of_repeated_values() -> None:
    """A weight of k is the value written k times, for even and odd totals."""
    generator = np.random.default_rng(0)
    ordered = np.sort(generator.normal(size=11))
    weights = generator.integers(0, 4, size=(50, 11))
    expected = [np.median(np.repeat(ordered, row)) for row in weights]
    np.testing.assert_allclose(weighted_median(ordered, weights), expected)


def test_weighted_median_of_nothing_is_nan() -> None:
    """Weights that are all zero have no median."""
    assert np.isnan(weighted_median(np.array([1.0, 2.0]), np.zeros((1, 2)))).all()


def test_median_leaves_out_what_is_not_finite() -> None:
    """The median and the number of runs are of the finite values only."""
    result = estimate(np.array([1.0, np.nan, 3.0, 2.0, np.inf]), {})
    assert (result.median, result.runs, result.interval) == (2.0, 3, None)
    assert np.isnan(estimate(np.array([np.nan]), {}).median)


def test_one_seed_gives_no_interval() -> None:
    """Many runs of a single seed say nothing about other seeds."""
    assert estimate(np.arange(10.0), seeds(np.zeros(10))).interval is None


@pytest.mark.parametrize("count", [2, 3])
def test_few_seeds_give_the_range_of_their_medians(count: int) -> None:
    """With two or three seeds the interval runs from the least to the largest of the seeds' medians."""
    ids = np.repeat(np.arange(count), 5)
    values = np.random.default_rng(1).normal(size=ids.size) + 10.0 * ids
    medians = [np.median(values[ids == seed]) for seed in range(count)]
    result = estimate(values, seeds(ids))
    assert result.interval == pytest.approx((min(medians), max(medians)))
    assert result.degrees_of_freedom == count - 1


def test_repeating_runs_within_seeds_changes_nothing() -> None:
    """Ten copies of every run, of the same seed, make an interval no narrower."""
    generator = np.random.default_rng(2)
    ids, values = np.arange(12), generator.normal(size=12)
    once = estimate(values, seeds(ids))
    often = estimate(np.repeat(values, 10), seeds(np.repeat(ids, 10)))
    assert often.interval == pytest.approx(once.interval)
    assert often.runs == 120


def test_configurations_are_not_resampled() -> None:
    """Repeats that agree exactly leave no doubt, however much the configurations differ."""
    configuration = np.repeat(np.arange(5), 3)
    result = estimate(10.0 * configuration, {"runs": ClusterLevel(np.arange(15), configuration)})
    assert result.interval == (20.0, 20.0)


def test_ways_that_divide_alike_count_once() -> None:
    """An initialisation that changes with every draw is the same repeat, not a second one."""
    ids = np.arange(8)
    values = np.random.default_rng(3).normal(size=8)
    both = {"draws": ClusterLevel(ids, np.zeros(8)), "initialisations": ClusterLevel(ids + 100, np.zeros(8))}
    assert estimate(values, both).interval == estimate(values, {"draws": both["draws"]}).interval
    assert estimate(values, both).units == {"draws": 8}


def test_interval_covers_the_truth_where_ignoring_seeds_does_not() -> None:
    """In simulated studies of 10 seeds with 20 runs each, the truth lies inside about as often as promised."""
    generator = np.random.default_rng(4)
    ids = np.repeat(np.arange(10), 20)
    inside, ignoring = 0, 0
    for _ in range(150):
        values = generator.normal(size=10)[ids] + 0.3 * generator.normal(size=ids.size)
        low, high = estimate(values, seeds(ids), resamples=200).interval or (np.nan, np.nan)
        inside += low <= 0 <= high
        low, high = estimate(values, seeds(np.arange(ids.size)), resamples=200).interval or (np.nan, np.nan)
        ignoring += low <= 0 <= high
    assert inside / 150 > 0.85
    assert ignoring / 150 < 0.6


def test_crossed_seeds_widen_the_interval() -> None:
    """When both the initialisation and the draw matter, resampling both is wider than resampling either."""
    generator = np.random.default_rng(5)
    first, second = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    values = generator.normal(size=6)[first] + generator.normal(size=6)[second]
    ways = {"draws": ClusterLevel(first, np.zeros(36)), "initialisations": ClusterLevel(second, np.zeros(36))}
    widths = [np.ptp(estimate(values, {n: ways[n] for n in names}).interval) for names in (["draws"], list(ways))]
    assert widths[1] > widths[0]


def test_one_group_gives_the_interval_of_the_median() -> None:
    """Of a single group, median and interval are those of `estimate`; of two, a difference is that of medians."""
    generator = np.random.default_rng(6)
    values, ids = generator.normal(size=60), np.arange(60) % 9
    (one,) = estimate_contrasts(values, np.zeros(60, dtype=int), lambda medians: medians, seeds(ids))
    expected = estimate(values, seeds(ids))
    assert (one.median, one.interval) == (expected.median, pytest.approx(expected.interval))
    groups = np.arange(60) % 2
    (both,) = estimate_contrasts(values, groups, lambda medians: medians[:, [1]] - medians[:, [0]], seeds(ids))
    assert both.median == pytest.approx(np.median(values[groups == 1]) - np.median(values[groups == 0]))


def test_shared_seeds_cancel_in_a_difference() -> None:
    """What a seed adds to both groups alike leaves no doubt in their difference."""
    ids, groups = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    values = np.random.default_rng(7).normal(size=8)[ids] + 3.0 * groups
    (result,) = estimate_contrasts(values, groups, lambda medians: medians[:, [1]] - medians[:, [0]], seeds(ids))
    assert result.interval == pytest.approx((3.0, 3.0))


def test_medians_of_groups_are_those_of_each_alone() -> None:
    """Weighted medians of several groups at once equal those of each by itself; without any weight, NaN."""
    generator = np.random.default_rng(8)
    sizes = [1, 4, 7, 30]
    parts = [np.sort(generator.normal(size=size)) for size in sizes]
    weights = generator.integers(0, 3, size=(60, sum(sizes))).astype(np.float32) * np.float32(10 / 9)
    starts = np.cumsum(sizes) - sizes
    together = _medians_by_group(np.concatenate(parts), starts, weights)
    for place, (part, start) in enumerate(zip(parts, starts, strict=True)):
        np.testing.assert_array_equal(together[:, place], weighted_median(part, weights[:, start : start + part.size]))
    assert np.isnan(together[:, 0]).any()


def test_draws_are_the_same_whether_or_not_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large and small numbers of clusters take the same random numbers."""
    generator = np.random.default_rng(9)
    ids, values = np.arange(40) // 2, generator.normal(size=40)
    levels = {"runs": ClusterLevel(ids, ids // 4), "seeds": ClusterLevel(np.arange(40) % 5, np.zeros(40))}
    cached = estimate(values, levels)
    monkeypatch.setattr(bootstrap, "MAX_CACHED_WEIGHTS", 0)
    assert estimate(values, levels) == cached
