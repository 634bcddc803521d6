"""Advice in simulated transfers whose best setting is known, and its parts in closed form."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pandas as pd
import pytest

from segue.errors import SegueError
from segue.reporting.analysis.advice import _find_domain, advise, forecast, judge, records, shrink
from segue.reporting.analysis.comparison import Comparison, compare
from segue.study.table import StudyResults

DOMAINS = ["a", "b", "c", "d", "e"]
FREEZE = {"none": 0.0, "encoder": 0.3}


def study(results: StudyResults, noise: float = 0.0) -> Comparison:
    """Every domain to every other with 16 and 64 labels; ln loss = level + freeze + half of that before + noise."""
    generator = np.random.default_rng(0)
    level = dict(zip(DOMAINS, [-4.0, -3.5, -3.0, -2.5, -2.0], strict=True))
    before = {(s, t): generator.normal(0, 0.5) + level[t] for s, t in product(DOMAINS, DOMAINS)}
    rows = []
    for source, seed in product(DOMAINS, range(2)):
        shared = {"status": "finished", "seed_init": seed, "seed_draw": seed, "pretrain.domain": source}
        parent = {"stage": "pretrain", "run": f"p{source}{seed}", "parent": "", "domain": source, "labels": 512}
        rows += [
            {**shared, **parent, "evaluated_domain": t, "loss": np.exp(before[source, t])} for t in DOMAINS
        ]  # fmt: skip
        for target, (freeze, effect), labels in product(DOMAINS, FREEZE.items(), (16, 64)):
            if target == source:
                continue
            y = 0.5 * level[target] + effect + 0.5 * before[source, target] - 0.1 * np.log2(labels / 16)
            run = {"stage": "transfer", "run": f"t{source}{target}{freeze}{labels}{seed}", "parent": parent["run"]}
            run |= {"domain": target, "evaluated_domain": target, "labels": labels, "transfer.images": labels}
            run |= {"transfer.domain": target, "transfer.freeze": freeze}
            rows.append({**shared, **run, "loss": np.exp(y + noise * generator.normal())})
    replaced = dataclasses.replace(
        results, table=pd.DataFrame(rows), parents={"pretrain": None, "transfer": "pretrain"},
        stages={"pretrain": ["pretrain.domain"], "transfer": ["transfer.domain", "transfer.images", "transfer.freeze"]},
        domains=DOMAINS,
    )  # fmt: skip
    return compare(replaced)


def test_shrink_in_closed_form() -> None:
    """Effects of ±2 with error variance 1: a variance of 3 between them, hence three quarters are kept."""
    effects, variances, between = shrink(np.array([2.0, -2.0]), np.array([1.0, 1.0]))
    assert between == pytest.approx(3.0)
    np.testing.assert_allclose(effects, [1.5, -1.5])
    np.testing.assert_allclose(variances, [0.75, 0.75])
    noise = shrink(np.array([0.5, -0.5]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(noise[0], 0.0)  # less than their error: nothing is left


def test_forecast_recovers_the_truth_in_a_domain_left_out(results: StudyResults) -> None:
    """Without noise, the losses of all settings in a domain without runs follow from those before the transfer."""
    data = records(study(results), "transfer")
    assert data is not None
    table = data.table[(data.table["labels"] == 16)]
    result = forecast(data, table[(table["domain"] != "b") & (table["source"] != "b")], "b")
    truth = table[table["domain"] == "b"].set_index("choice")["y"]
    differences = (result.y - truth.loc[result.y.index]).to_numpy()
    np.testing.assert_allclose(differences, differences.mean(), atol=1e-9)
    assert len(result.y) == 8  # four sources with two freezes


def test_advice_is_the_best_setting(results: StudyResults) -> None:
    """The setting advised is the one with the least true loss, its expected loss the truth where labels are between."""
    comparison = study(results)
    advice = advise(comparison, "transfer", "c", 32)
    runs = comparison.stage_runs("transfer")
    truth = runs[(runs["domain"] == "c") & (runs["labels"] == 16)].sort_values("value").iloc[0]
    assert advice.choice == {"pretrain.domain": truth["pretrain.domain"], "transfer.freeze": "none"}
    first = advice.settings.table.iloc[0]
    assert first["expected"] == pytest.approx(truth["value"] * np.exp(-0.1), rel=1e-6)
    assert first["lost"] == 0 and (advice.settings.table["lost"] >= 0).all()
    assert (advice.rules.table["lost"] >= -1e-12).all()
    more = advice.labels
    assert more is not None and more.table["labels"].tolist() == [16, 64, 128, 256]
    assert more.table["median"].notna().tolist() == [True, True, False, False]
    assert (more.table["expected_low"] <= more.table["expected"]).all() and more.table["gain"].iloc[-1] > 0
    assert advise(comparison, "transfer", None, 32).labels is None


def test_left_out_domains_judge_the_advice(results: StudyResults) -> None:
    """Where values before the transfer tell the best source, the advice loses nothing, the others something."""
    analysis = judge(study(results), "transfer")
    assert analysis is not None
    mean = analysis.table.set_index("domain").loc["mean over domains"]
    assert mean["advice"] == pytest.approx(0, abs=1e-12)
    assert mean["one_setting"] > 0.005
    assert mean["freeze_nothing"] < mean["random"]
    assert list(analysis.table["domain"])[:5] == DOMAINS


def test_intervals_hold_what_was_left_out(results: StudyResults) -> None:
    """With noise, the 95 % interval of a domain left out holds its value in most of ten cases."""
    analysis = judge(study(results, noise=0.05), "transfer")
    assert analysis is not None
    note = next(note for note in analysis.notes if "held the observed value" in note)
    assert int(note.split(" in ")[1].split(" %")[0]) >= 80 and "10 cases" in note


@pytest.mark.parametrize("text", ["75 e/Å²", "75", "75 e/A2", "75.0", "7.5e1 e/A2"])
def test_domains_are_known_by_their_number(text: str) -> None:
    """Where it is that of one domain, in the unit of that one; another unit is another domain."""
    assert _find_domain(text, ["5 e/Å²", "75 e/Å²", "750 e/Å²"]) == "75 e/Å²"
    for domains in (["75 nm", "75 e/Å²"], ["5 e/Å²"]):
        with pytest.raises(SegueError, match="unknown domain"):
            _find_domain("75", domains)
    with pytest.raises(SegueError, match="unknown domain '75 nm'"):
        _find_domain("75 nm", ["75 e/Å²"])


def test_mistakes_are_told(results: StudyResults) -> None:
    """An unknown domain, labels outside of those known, and none given where several are known."""
    comparison = study(results)
    with pytest.raises(SegueError, match="unknown domain 'z'"):
        advise(comparison, "transfer", "z", 16)
    with pytest.raises(SegueError, match="found 8; the table has 16 to 64"):
        advise(comparison, "transfer", "a", 8)
    with pytest.raises(SegueError, match="16, 64 labels; give the number"):
        advise(comparison, "transfer", "a", None)
    with pytest.raises(SegueError, match=r"allowed: 5 nm, 75 nm, 300 nm;"):
        _find_domain("3 nm", ["300 nm", "5 nm", "75 nm"])
    new = advise(comparison, "transfer", None, 16)
    assert new.choice["transfer.freeze"] == "none" and "not known, and not used" in new.settings.notes_text()


def test_nothing_is_judged_without_a_transfer(results: StudyResults) -> None:
    """A stage that starts from no other has no source to advise on."""
    transfers = study(results).results
    alone = dataclasses.replace(transfers, parents=dict.fromkeys(transfers.parents))
    assert judge(compare(alone), "transfer") is None
