"""Whether it helped: intervals clustered by group against hand-computed ones, equivalence, and the model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from segue.fitting.verdict import clustered_mean, difference, judge, mean_score, sentences

GROUPS = ("a", "a", "b", "b", "c", "c")


def scores(*values: float, groups: tuple[str, ...] = GROUPS) -> dict[str, dict[str, object]]:
    return {f"{index}": {"group": groups[index], "score": value} for index, value in enumerate(values)}


def test_difference_is_the_paired_t_test_of_single_images():
    """With a group per image the interval is that of scipy's paired t test."""
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.4, 0.9, (2, 6))
    each = difference(scores(*first, groups=tuple("abcdef")), scores(*second, groups=tuple("abcdef")))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (each.mean, each.low, each.high) == pytest.approx((np.mean(first - second), expected.low, expected.high))


def test_images_of_a_group_are_one_observation():
    """Two equal images in each of three groups: the interval is that of three values, not of six."""
    values = np.array([0.4, 0.6, 0.5])
    interval = stats.t.interval(0.95, 2, loc=0.5, scale=values.std(ddof=1) / np.sqrt(3))
    each = mean_score(scores(*np.repeat(values, 2)))
    assert (each.low, each.high) == pytest.approx(interval) and (each.images, each.groups) == (6, 3)


def test_intervals_end_where_scores_do():
    """Three groups that differ much: a score lies in 0 … 1 and a difference in ±1, whatever Student's t says."""
    wide, other = scores(0.1, 0.1, 0.9, 0.9, 1.0, 1.0), scores(0.9, 0.9, 0.1, 0.1, 0.0, 0.0)
    assert (mean_score(wide).low, mean_score(wide).high) == (0, 1)
    assert (difference(wide, other).low, difference(wide, other).high) == (-1, 1)
    assert np.isnan(mean_score(scores(0.1, 0.9, groups=("a", "a"))).low)


@pytest.mark.parametrize(
    ("differences", "relation"),
    [
        ((0.3, 0.3, 0.31, 0.31, 0.29, 0.29), "better"),
        ((-0.3, -0.3, -0.31, -0.31, -0.29, -0.29), "worse"),
        ((0.001, 0.001, -0.001, -0.001, 0.0, 0.0), "equivalent"),
        ((0.3, 0.3, -0.3, -0.3, 0.05, 0.05), "undecided"),
    ],
)
def test_relation(differences: tuple[float, ...], relation: str):
    """Equivalence is within ±0.02 and is not the absence of a difference."""
    other = scores(*(0.5,) * 6)
    assert difference(scores(*(0.5 + each for each in differences)), other).relation == relation


def test_a_single_group_decides_nothing():
    """There is no interval over one group, however large the difference."""
    groups = ("a", "a")
    each = difference(scores(0.9, 0.8, groups=groups), scores(0.1, 0.1, groups=groups))
    assert each.relation == "undecided" and np.isnan(each.low) and each.text() == "0.750"


def test_scores_of_other_images_are_not_compared():
    with pytest.raises(ValueError, match="different images"):
        difference(scores(*(0.5,) * 6), scores(0.5, 0.5))


NOTHING = scores(*(0.0,) * 6)
LOW, HIGH = scores(0.3, 0.31, 0.29, 0.3, 0.31, 0.3), scores(0.7, 0.71, 0.69, 0.7, 0.72, 0.7)


def verdict_of(test: dict[str, dict], validation: dict[str, dict] | None = None):
    return judge(validation or test, test, untouched=["p, untouched"], constant=NOTHING, references=["scratch"])


def test_a_better_child_replaces_its_parent():
    test = {"p, untouched": LOW, "scratch": LOW, "from p": HIGH}
    verdict = verdict_of(test)
    assert (verdict.chosen, verdict.selected) == ("from p", "from p")
    lines = sentences(verdict, test, test, "mean AP")
    assert lines[0].startswith("from p: mean AP 0.703 [")
    assert lines[1].startswith("from p against p, untouched: +0.402 [") and lines[1].endswith("better.")
    assert lines[-1] == "from p is kept: validation images select it (from p 0.703, scratch 0.302)."


def test_a_parent_that_is_not_beaten_is_kept():
    """Equal scores are equivalent, and said to be; the parent stays."""
    test = {"p, untouched": HIGH, "scratch": LOW, "from p": HIGH}
    verdict = verdict_of(test)
    assert (verdict.chosen, verdict.selected) == ("p, untouched", "from p")
    lines = sentences(verdict, test, test, "IoU")
    assert "from p against p, untouched: +0.000 [+0.000, +0.000], equivalent (within ±0.02)." in lines
    assert lines[-1] == "p, untouched is not beaten, and is kept as it is."


def test_validation_selects_and_test_does_not():
    """Of two trainings the one that is better in validation is selected, whatever the test says of the other."""
    test = {"p, untouched": NOTHING, "scratch": HIGH, "from p": LOW}
    validation = {"p, untouched": NOTHING, "scratch": LOW, "from p": HIGH}
    verdict = verdict_of(test, validation)
    assert verdict.selected == "from p" and verdict.against["scratch"].relation == "worse"


def test_nothing_learned_is_said():
    verdict = judge({"scratch": NOTHING}, {"scratch": NOTHING}, untouched=[], constant=NOTHING, references=["scratch"])
    assert verdict.chosen == "scratch" and verdict.parent is None and not verdict.against
    assert sentences(verdict, {"scratch": NOTHING}, {"scratch": NOTHING}, "IoU")[1].startswith("Nothing was learned")


def test_clusters_of_equal_values_are_single_values() -> None:
    """The same five values in each of eight groups give the interval of eight values; one group gives none."""
    values = np.random.default_rng(3).normal(1.0, 2.0, 8)
    once = clustered_mean(values, np.arange(8))
    assert clustered_mean(np.repeat(values, 5), np.repeat(np.arange(8), 5)) == pytest.approx(once)
    assert np.isnan(clustered_mean(values, np.zeros(8))[1])


@pytest.mark.slow
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("groups", [3, 4, 6, 12, 30])
def test_intervals_of_clustered_means_cover(groups: int, unequal: bool) -> None:
    """Of few groups, also of unequal size, 95 % intervals hold the truth in 90 to 98 %, as docs/fit.md says."""
    generator = np.random.default_rng(7)
    inside = []
    for _ in range(2000):
        sizes = generator.integers(1, 9, groups) if unequal else np.full(groups, 4)
        ids = np.repeat(np.arange(groups), sizes)
        values = generator.normal(size=groups)[ids] + generator.normal(size=ids.size)
        _, low, high, _ = clustered_mean(values, ids)
        inside.append(low <= 0 <= high)
    assert 0.9 <= np.mean(inside) <= 0.98


def test_scratch_is_compared_with_the_best_child():
    """Where validation selects scratch, the answer says how it compares with what a parent gave."""
    table = {"scratch": scores(*[0.5] * 6), "from a": scores(*[0.4] * 6), "from a, encoder frozen": scores(*[0.3] * 6)}
    verdict = judge(table, table, untouched=[], constant=scores(*[0.1] * 6), references=["scratch"])
    assert verdict.chosen == verdict.selected == "scratch" and list(verdict.against) == ["from a"]
    assert verdict.against["from a"].mean == pytest.approx(0.1)
    lines = sentences(verdict, table, table, "IoU")
    assert "scratch against from a: +0.100 [+0.100, +0.100], better." in lines
    listed = "scratch 0.500, from a 0.400, from a, encoder frozen 0.300"
    assert lines[-1] == f"scratch is kept: validation images select it ({listed})."
