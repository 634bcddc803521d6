"""How often intervals hold the truth, in simulated studies; the shares that docs/statistics.md states."""

from __future__ import annotations

import numpy as np
import pytest

from segue.evaluation.counts import ClassCounts
from segue.evaluation.image_counts import ImageCounts
from segue.evaluation.tools import LabelFiles, ToolCounts, ToolsSpec
from segue.reporting.analysis.bootstrap import ClusterLevel, estimate, estimate_contrasts
from segue.reporting.analysis.images import cluster_weights, t_interval
from segue.reporting.tables.tool_comparison import compare_tools

pytestmark = pytest.mark.slow
STUDIES = 400


def level(ids: np.ndarray) -> ClusterLevel:
    return ClusterLevel(ids, np.zeros(len(ids)))


def crossed_study(generator: np.random.Generator, seeds: int) -> tuple[np.ndarray, dict[str, ClusterLevel]]:
    """Returns runs of crossed initializations and draws, all of whose effects have the median 0."""
    first, second = np.repeat(np.arange(seeds), seeds), np.tile(np.arange(seeds), seeds)
    values = generator.normal(size=seeds)[first] + generator.normal(size=seeds)[second]
    values += generator.normal(size=first.size)
    return values, {"draws": level(first), "initializations": level(second)}


@pytest.mark.parametrize("seeds", [10, 20])
def test_medians_of_crossed_seeds(seeds: int) -> None:
    """With initializations and draws crossed, an interval of nominally 95 % holds the truth in 90 to 98 %."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(STUDIES):
        values, levels = crossed_study(generator, seeds)
        low, high = estimate(values, levels, resamples=300).interval or (np.nan, np.nan)
        inside += low <= 0 <= high
    assert 0.90 <= inside / STUDIES <= 0.98


@pytest.mark.parametrize("seeds", [10, 20])
def test_medians_of_clustered_runs(seeds: int) -> None:
    """With many runs of each seed, in 90 to 98 % too."""
    generator = np.random.default_rng(2)
    ids = np.repeat(np.arange(seeds), 12)
    inside = 0
    for _ in range(STUDIES):
        values = generator.normal(size=seeds)[ids] + 0.5 * generator.normal(size=ids.size)
        low, high = estimate(values, {"seeds": level(ids)}, resamples=300).interval or (np.nan, np.nan)
        inside += low <= 0 <= high
    assert 0.90 <= inside / STUDIES <= 0.98


def test_differences_of_medians() -> None:
    """A difference of the medians of two groups of runs that share seeds, in 90 to 98 %."""
    generator = np.random.default_rng(3)
    ids, groups = np.repeat(np.arange(10), 12), np.tile(np.arange(2), 60)
    inside = 0
    for _ in range(STUDIES):
        values = generator.normal(size=10)[ids] + generator.normal(size=ids.size) + groups
        values += generator.normal(size=(10, 2))[ids, groups]
        (result,) = estimate_contrasts(
            values, groups, lambda medians: medians[:, [1]] - medians[:, [0]], {"seeds": level(ids)}, resamples=300
        )
        low, high = result.interval or (np.nan, np.nan)
        inside += low <= 1 <= high
    assert 0.90 <= inside / STUDIES <= 0.98


@pytest.mark.parametrize("groups", [5, 20])
def test_pooled_scores_over_groups_of_images(groups: int) -> None:
    """Images of one micrograph resemble each other and are of unequal size: the interval of a pooled recall, in 90 to
    98 %, and that of the difference of two networks on the same images, too."""
    generator = np.random.default_rng(4)
    inside = np.zeros(2)
    weights = cluster_weights(groups, 1000).astype(float)
    for _ in range(STUDIES):
        ids = np.repeat(np.arange(groups), generator.integers(4, 9, groups))
        labeled = generator.integers(50, 400, ids.size)
        quality = 0.7 + 0.08 * generator.normal(size=groups)[ids] + 0.08 * generator.normal(size=ids.size)
        better = quality + 0.05 + 0.02 * generator.normal(size=groups)[ids] + 0.02 * generator.normal(size=ids.size)
        first, second = (pooled_recall(labeled, found).weighted_score("recall_disc", weights[:, ids])
                         for found in (quality * labeled, better * labeled))  # fmt: skip
        assert first is not None and second is not None
        for place, (samples, truth) in enumerate(((first, 0.7), (second - first, 0.05))):
            low, high = t_interval(samples, groups)
            inside[place] += low <= truth <= high
    assert ((inside / STUDIES >= 0.90) & (inside / STUDIES <= 0.98)).all(), inside / STUDIES


def pooled_recall(labeled: np.ndarray, found: np.ndarray) -> ImageCounts:
    """Returns images with `labeled` pixels of a disc, of which `found` are found."""
    confusion = np.zeros((len(labeled), 2, 2))
    confusion[:, 1, 1], confusion[:, 1, 0] = found, labeled - found
    names, ones = tuple(map(str, range(len(labeled)))), np.ones((len(labeled), 1))
    return ImageCounts(names, names, ("background", "disc"), False, False, 0.0, ones, ones, confusion, None)


@pytest.mark.parametrize(("seeds", "least", "most"), [(2, 0.42, 0.58), (3, 0.68, 0.82), (5, 0.84, 0.96)])
def test_few_seeds_cover_what_the_page_says(seeds: int, least: float, most: float) -> None:
    """With 2 or 3 seeds the range over them holds the truth in about 50 and 75 %, with 5 in about 90 %."""
    generator = np.random.default_rng(5)
    ids = np.repeat(np.arange(seeds), 12)
    inside = 0
    for _ in range(STUDIES):
        values = generator.normal(size=seeds)[ids] + 0.2 * generator.normal(size=ids.size)
        low, high = estimate(values, {"seeds": level(ids)}, resamples=300).interval or (np.nan, np.nan)
        inside += low <= 0 <= high
    assert least <= inside / STUDIES <= most


@pytest.mark.parametrize("groups", [3, 5, 20])
def test_pooled_scores_of_tools(groups: int) -> None:
    """Pooled accuracies of two tools and their difference, over unequal groups, in 88 to 98 %."""
    generator = np.random.default_rng(6)
    inside = np.zeros(2)
    for _ in range(STUDIES):
        ids = np.repeat(np.arange(groups), generator.integers(1, 6, groups))
        difficulty = 0.8 * generator.normal(size=groups)[ids]
        counts = {}
        for name in ("first", "second"):
            share = 1 / (1 + np.exp(-(difficulty + 0.4 * generator.normal(size=ids.size))))
            right = generator.binomial(1000, share)
            pixels = np.zeros((ids.size, 2, 2), int)
            pixels[:, 1, 1], pixels[:, 1, 0] = right, 1000 - right
            counts[name] = ClassCounts(pixels, ("background", "cell"))
        source, names = LabelFiles([]), tuple(map(str, range(ids.size)))
        tools = dict.fromkeys(counts, source)
        spec = ToolsSpec(classes=("background", "cell"))
        drawn = ToolCounts(spec, names, tuple(map(str, ids)), counts, source, tools, dict.fromkeys(counts, ""))
        result = compare_tools(drawn, resamples=200)
        rows = (result.score_of("first", "accuracy"), result.difference_of("second", "accuracy"))
        for place, (row, truth) in enumerate(zip(rows, (0.5, 0.0), strict=True)):
            inside[place] += row["pooled_low"] <= truth <= row["pooled_high"]
    assert ((inside / STUDIES >= 0.88) & (inside / STUDIES <= 0.98)).all()
