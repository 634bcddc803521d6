"""Spread, forgetting and asymmetry by hand, from a study of three domains with known losses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from segue.reporting.analysis.comparison import Comparison, compare, matrix
from segue.reporting.analysis.generalization import asymmetry, forgetting, spread
from segue.study.table import StudyResults

DOMAINS = ["a", "b", "c"]
LOSS = {"a": {"a": 1.0, "b": 3.0, "c": 8.0}, "b": {"a": 2.0, "b": 1.0, "c": 9.0}, "c": {"a": 2.5, "b": 4.0, "c": 5.0}}


@pytest.fixture
def comparison(results: StudyResults) -> Comparison:
    """Pretraining on each domain with the losses of LOSS, transfers that halve the target's and add 1 elsewhere."""
    rows = []
    for source in DOMAINS:
        for seed, shift in enumerate((-0.1, 0.0, 0.1)):
            shared = {"status": "finished", "seed_init": seed, "seed_draw": seed, "pretrain.domain": source}
            parent = {"stage": "pretrain", "run": f"p{source}{seed}", "parent": "", "domain": source}
            rows += [
                {**shared, **parent, "evaluated_domain": name, "loss": loss + shift}
                for name, loss in LOSS[source].items()
            ]
            for target in set(DOMAINS) - {source}:
                child = {"stage": "transfer", "run": f"t{source}{target}{seed}", "parent": parent["run"]}
                child |= {"domain": target, "transfer.domain": target}
                rows += [
                    {**shared, **child, "evaluated_domain": name,
                     "loss": (loss / 2 if name == target else loss + 1) + shift}
                    for name, loss in LOSS[source].items()
                ]  # fmt: skip
    replaced = dataclasses.replace(
        results,
        table=pd.DataFrame(rows),
        stages={"pretrain": ["pretrain.domain"], "transfer": ["transfer.domain"]},
        parents={"pretrain": None, "transfer": "pretrain"},
        domains=DOMAINS,
    )
    return compare(replaced)


def test_spread_is_the_standard_deviation_over_domains(comparison: Comparison) -> None:
    """Of the medians over seeds, with 1/n; elsewhere is their mean without the domain trained on."""
    analysis = spread(comparison, "pretrain")
    assert analysis is not None
    table = analysis.table.set_index("trained_on")
    assert table.loc["a", "spread"] == pytest.approx(np.std([1, 3, 8]))
    assert table.loc["a", "elsewhere"] == pytest.approx(5.5)
    assert (table.loc["a", "worst_domain"], table.loc["a", "worst"]) == ("c", 8.0)
    assert table.loc["a", "elsewhere_high"] == pytest.approx(5.6)  # the seed with the largest losses
    assert table.loc["a", "spread_low"] == pytest.approx(np.std([1, 3, 8]))  # seeds shift all domains alike
    left_out = spread(comparison, "pretrain", without=["c"])
    assert left_out is not None and "Left out of the tested domains: c." in left_out.notes
    assert left_out.table.set_index("trained_on").loc["a", "spread"] == pytest.approx(1.0)


def test_forgetting_is_the_change_in_the_source(comparison: Comparison) -> None:
    """Every transfer adds 1 to the loss in the domain that it comes from."""
    analysis = forgetting(comparison, "transfer")
    assert analysis is not None
    table = analysis.table
    assert set(table["by"]) == {"source", "transferred to"}
    np.testing.assert_allclose(table[["change", "change_low", "change_high"]], 1.0)
    assert table.set_index(["by", "level"]).loc[("source", "c"), "before"] == pytest.approx(5.0)
    assert forgetting(comparison, "pretrain") is None


def test_asymmetry_of_pairs_and_domains(comparison: Comparison) -> None:
    """i → j less j → i, as such and less what networks trained on the tested domain have."""
    of_domains, of_pairs = asymmetry(comparison, "pretrain") or pytest.fail("no asymmetry")
    pairs = of_pairs.table.set_index(["domain", "partner"])
    assert pairs.loc[("a", "c"), "difference"] == pytest.approx(8 - 2.5)
    assert pairs.loc[("a", "c"), "excess"] == pytest.approx((8 - 5) - (2.5 - 1))
    domains = of_domains.table.set_index("domain")
    assert domains.loc["c", "difference"] == pytest.approx(((2.5 - 8) + (4 - 9)) / 2)
    assert domains.loc["c", "as_source"] == pytest.approx((2.5 + 4) / 2)
    assert domains.loc["c", "against_others"] == pytest.approx(((2.5 - 2) + (4 - 3)) / 2)
    after, _ = asymmetry(comparison, "transfer", after_transfer=True) or pytest.fail("no asymmetry")
    assert after.table.set_index("domain").loc["c", "difference"] == pytest.approx(((2.5 - 8) + (4 - 9)) / 4)
    assert "excess" not in after.table


def test_matrices_have_any_aggregate_and_filter(comparison: Comparison) -> None:
    """The largest and the number of some runs."""
    largest = matrix(comparison, "pretrain", aggregate="max", where={"seed_init": [0, 1]})
    assert largest.values[0] == pytest.approx([1.0, 3.0, 8.0])
    assert matrix(comparison, "pretrain", aggregate="count").values[0] == pytest.approx([3, 3, 3])
