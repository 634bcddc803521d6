"""Best of k by enumeration, regrets by hand, ranks of settings that never change."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from segue.errors import SegueError
from segue.reporting.analysis.choices import (
    _expected_best,
    additive_effects,
    best_of_k,
    cells,
    regret_of_rules,
    selection_optimism,
)
from segue.reporting.analysis.comparison import Comparison, compare
from segue.reporting.analysis.ranking import choice_axes, kendall_tau, rank_stability
from segue.study.table import StudyResults

LOSS = {("none", 1): 1.0, ("none", 2): 2.0, ("encoder", 1): 4.0, ("encoder", 2): 3.0}


@pytest.fixture
def comparison(results: StudyResults) -> Comparison:
    """Two target domains, the second ten times as hard; on validation, another setting looks best."""
    rows = []
    for domain, scale in (("a", 1.0), ("b", 10.0)):
        for (freeze, rate), loss in LOSS.items():
            for seed, split in ((0, "test"), (1, "test"), (0, "validation"), (1, "validation")):
                shift = -1.5 if split == "validation" and (freeze, rate) == ("none", 2) else 0.0
                rows.append(
                    {
                        "stage": "train", "run": f"{domain}{freeze}{rate}{seed}", "parent": "", "status": "finished",
                        "domain": domain, "evaluated_domain": domain, "split": split, "train.domain": domain,
                        "train.freeze": freeze, "train.rate": rate, "seed_init": seed,
                        "loss": scale * (loss + shift) + 0.01 * seed,
                    }
                )  # fmt: skip
    replaced = dataclasses.replace(
        results, table=pd.DataFrame(rows), parents={"train": None}, domains=["a", "b"],
        stages={"train": ["train.domain", "train.freeze", "train.rate"]},
    )  # fmt: skip
    return compare(replaced)


def test_expected_best_equals_enumeration() -> None:
    """The mean over all subsets of k choices of the one that ranks last."""
    ranked = np.array([5.0, 1.0, 4.0, 2.0, 3.0])  # worst to best by another value
    for k in range(1, 6):
        expected = np.mean([ranked[max(subset)] for subset in combinations(range(5), k)])
        assert _expected_best(ranked, 5)[k - 1] == pytest.approx(expected)


def test_choices_leave_the_target_out(comparison: Comparison) -> None:
    """The target domain is given; what can be chosen is the rest."""
    assert choice_axes(comparison, "train") == ["train.freeze", "train.rate"]
    data = cells(comparison, "train")
    assert data is not None and data.selection == "validation"
    assert len(data.table) == 8 and (data.table["runs"] == 2).all()


def test_regret_of_rules_by_hand(comparison: Comparison) -> None:
    """Selected on the images that are reported, freezing the encoder costs 2 of domain a and 20 of domain b."""
    analysis = regret_of_rules(comparison, "train", selection="paper", rules=[{"train.freeze": ["encoder"]}])
    assert analysis is not None
    table = analysis.table.set_index("rule")
    rule = table.loc["always train: frozen part encoder".replace("train:", "training:")]
    assert rule["best_within"] == pytest.approx((2 + 20) / 2)
    assert rule["at_random"] == pytest.approx((2.5 + 25) / 2)
    assert table.loc["a random setting", "best_within"] == pytest.approx(0)
    assert table.loc["one setting everywhere: none · 1", "best_within"] == pytest.approx(0)
    with pytest.raises(SegueError, match="decoder"):
        regret_of_rules(comparison, "train", rules=[{"train.freeze": ["decoder"]}])


def test_selection_on_validation_is_reported_on_test(comparison: Comparison) -> None:
    """The setting that looks best on validation is second best on test, and the paper's rule is optimistic by 1.5."""
    analysis = best_of_k(comparison, "train")
    assert analysis is not None
    assert analysis.table["regret"].iloc[-1] == pytest.approx((1 + 10) / 2)
    paper = best_of_k(comparison, "train", selection="paper")
    assert paper is not None and paper.table["regret"].iloc[-1] == pytest.approx(0)
    assert paper.table["regret"].iloc[0] == pytest.approx((1.5 + 15) / 2)
    optimism = selection_optimism(comparison, "train")
    assert optimism is not None
    values = optimism.table.set_index("selection")["value"]
    assert values["paper"] == pytest.approx((0.505 + 5.005) / 2, abs=1e-9)
    assert values["difference"] == pytest.approx((1.5 + 15) / 2)


def test_ranks_that_never_change(comparison: Comparison) -> None:
    """Settings far apart keep their ranks under all seeds."""
    analysis = rank_stability(comparison, "train")
    assert analysis is not None
    table = analysis.table
    assert list(table["setting"]) == ["none · 1", "none · 2", "encoder · 2", "encoder · 1"]
    np.testing.assert_array_equal(table["rank_low"], [1, 2, 3, 4])
    np.testing.assert_array_equal(table["rank_high"], [1, 2, 3, 4])
    assert table["best_share"].iloc[0] == 1
    assert any("tau between the orders of 2 repeats: mean 1.000" in note for note in analysis.notes)


def test_kendall_tau_equals_scipy() -> None:
    """Between columns with and without ties, in values or in both."""
    values = np.random.default_rng(0).integers(0, 6, size=(40, 3)).astype(float)
    values[:, 2] = np.arange(40)
    taus = kendall_tau(values)
    for a, b in combinations(range(3), 2):
        assert taus[a, b] == pytest.approx(kendalltau(values[:, a], values[:, b])[0])
    np.testing.assert_allclose(np.diag(taus), 1)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_additive_effects_equal_least_squares(shape: tuple[int, int]) -> None:
    """With cells missing, row and column effects are those of a least-squares fit, whichever has more levels."""
    generator = np.random.default_rng(0)
    cells = [(r, c) for r in range(shape[0]) for c in range(shape[1]) if r != c]
    table = pd.DataFrame(cells, columns=["r", "c"])
    table["y"] = generator.normal(size=len(table))
    rows, columns = additive_effects(table, "r", "c")
    design = np.hstack([pd.get_dummies(table[name]).to_numpy(float) for name in ("r", "c")])
    fitted = design @ np.linalg.lstsq(design, table["y"], rcond=None)[0]
    np.testing.assert_allclose(table["r"].map(rows) + table["c"].map(columns), fitted)
    assert columns.mean() == pytest.approx(0)


def test_effects_of_unlinked_parts_are_centered_each() -> None:
    """Columns that share no rows are not compared: their effects have mean zero within each part."""
    table = pd.DataFrame({"r": [0, 0, 1, 1, 1], "c": list("abcde"), "y": [1.0, 3.0, 10.0, 20.0, 30.0]})
    rows, columns = additive_effects(table, "r", "c")
    np.testing.assert_allclose(rows, [2, 20])
    np.testing.assert_allclose(columns, [-1, 1, -10, 0, 10], atol=1e-12)
