"""Adjusted p values against hand-computed ones, and equivalence as two one-sided tests."""

from __future__ import annotations

import numpy as np
import pytest

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import ClusterLevel, Estimate, estimate
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.significance import benjamini_hochberg, holm, is_equivalent, level_tests
from segue.study.table import StudyResults

P_VALUES = np.array([0.01, 0.04, np.nan, 0.03, 0.005])


def test_holm_by_hand() -> None:
    """Ordered p values times the number of comparisons left, never falling; what was not tested does not count."""
    np.testing.assert_allclose(holm(P_VALUES), [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7]))[0] == 1.0


def test_benjamini_hochberg_by_hand() -> None:
    """Ordered p values times their number over their rank, never rising from the largest on."""
    np.testing.assert_allclose(benjamini_hochberg(P_VALUES), [0.02, 0.04, np.nan, 0.04, 0.02])
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


def test_p_value_is_that_of_a_t_test() -> None:
    """A median of 2.776 standard errors, the quantile of t with 4 degrees of freedom, has p = .05."""
    result = Estimate(2.7764, (1.0, 4.0), 5, {}, 4, 1.0, 4)
    assert result.p_value == pytest.approx(0.05, abs=1e-4)
    assert np.isnan(Estimate(1.0, None, 1, {}).p_value)


def test_equivalence_needs_the_interval_within_the_margin() -> None:
    """A small difference from few noisy runs is neither different nor equivalent; from many, it is equivalent."""
    generator = np.random.default_rng(0)
    results = {}
    for count in (8, 800):
        levels = {"runs": ClusterLevel(np.arange(count), np.zeros(count))}
        results[count] = estimate(generator.normal(0, 1, count), levels)
    assert not results[8].excludes_zero and is_equivalent(results[8], 0.2) is False
    assert is_equivalent(results[800], 0.2) is True
    few = {"runs": ClusterLevel(np.arange(3), np.zeros(3))}
    assert is_equivalent(estimate(np.zeros(3), few), 0.2) is None  # a range over three repeats


def test_levels_are_tested_against_the_first(results: StudyResults) -> None:
    """Freezing the encoder costs 12 % in the made study; adjusted p values are no smaller than plain ones."""
    analysis = level_tests(compare(results), "transfer", adjust="holm")
    assert analysis is not None
    table = analysis.table.set_index(["factor", "level"])
    encoder = table.loc[("transfer: frozen part", "encoder")]
    assert encoder["reference"] == "none" and encoder["difference"] > 0 and encoder["pairs"] == 24
    assert (table["p_adjusted"] >= table["p"]).all()
    with pytest.raises(SegueError, match="bonferoni"):
        level_tests(compare(results), "transfer", adjust="bonferoni")
    with pytest.raises(SegueError, match="margin: found -1"):
        level_tests(compare(results), "transfer", margin=-1.0)
