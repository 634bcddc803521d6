"""Shares of variance against the classical sums of squares of balanced designs."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pytest

from segue.reporting.analysis.comparison import Comparison, compare
from segue.reporting.analysis.variance import variance_shares
from segue.study.table import StudyResults


def study(results: StudyResults, values: dict[tuple[int, int, int], float]) -> Comparison:
    """Returns a study of one stage with two settings and repeats: (first, second, seed) -> loss."""
    rows = [
        {
            "stage": "train", "run": f"{first}{second}{seed}", "parent": "", "status": "finished", "domain": "a",
            "evaluated_domain": "a", "train.first": first, "train.second": second, "seed_init": seed, "loss": value,
        }
        for (first, second, seed), value in values.items()
    ]  # fmt: skip
    return compare(
        dataclasses.replace(
            results, table=pd.DataFrame(rows), stages={"train": ["train.first", "train.second"]},
            parents={"train": None}, domains=["a"],
        )
    )  # fmt: skip


def test_additive_effects_share_all_variance(results: StudyResults) -> None:
    """Effects of 0/3 and 0/4 without interaction or noise: 9/25 and 16/25, nothing else."""
    values = {(a, b, seed): 3.0 * a + 4.0 * b for a, b, seed in product((0, 1), (0, 1), range(3))}
    analysis = variance_shares(study(results, values), "train")
    assert analysis is not None
    np.testing.assert_allclose(analysis.table["share"], [9 / 25, 16 / 25, 0, 0], atol=1e-12)
    np.testing.assert_allclose(analysis.table["share_low"], analysis.table["share"], atol=1e-12)


def test_interaction_is_apart(results: StudyResults) -> None:
    """A pure interaction explains nothing by main effects."""
    values = {(a, b, seed): float(a != b) for a, b, seed in product((0, 1), (0, 1), range(2))}
    analysis = variance_shares(study(results, values), "train")
    assert analysis is not None
    np.testing.assert_allclose(analysis.table["share"], [0, 0, 1, 0], atol=1e-12)


def test_noise_is_not_taken_for_effects(results: StudyResults) -> None:
    """With noise alone, all shares but that of repeats are zero on average."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        values = {key: generator.normal() for key in product(range(3), range(4), range(3))}
        analysis = variance_shares(study(results, values), "train")
        assert analysis is not None
        shares.append(analysis.table["share"])
    np.testing.assert_allclose(np.mean(shares, axis=0), [0, 0, 0, 1], atol=0.08)


def test_missing_cells_leave_shares_that_add_up(results: StudyResults) -> None:
    """Where pairs are missing, as of a domain with itself, additive effects still share everything."""
    values = {(a, b, seed): 1.0 * a + 2.0 * b for a, b, seed in product(range(3), range(3), range(2)) if a != b}
    analysis = variance_shares(study(results, values), "train")
    assert analysis is not None
    shares = analysis.table["share"].to_numpy()
    assert shares.sum() == pytest.approx(1) and shares[2:] == pytest.approx([0, 0], abs=1e-12)
    assert 0 < shares[0] < shares[1]
