"""The quantities that a page compares, against the made table from which they are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from segue.errors import SegueError
from segue.reporting.analysis.comparison import before_and_after, compare, matrix
from segue.reporting.analysis.factors import against_scratch, factors, label_groups
from segue.reporting.figures.label_efficiency import labels_tick
from segue.reporting.page.conclusions import conclusions, limitations
from segue.study.table import StudyResults


def test_matrix_holds_medians_over_runs(results: StudyResults) -> None:
    """A cell is the median of the rows with that trained and that evaluated domain."""
    result = matrix(compare(results), "pretrain")
    assert (result.rows, result.columns) == (["-10nm", "+10nm"], results.domains)
    table = results.table
    rows = table[(table["stage"] == "pretrain") & (table["domain"] == "+10nm") & (table["evaluated_domain"] == "0nm")]
    assert result.values[1, 1] == pytest.approx(rows["loss_adjusted"].median())
    assert result.counts[1, 1] == len(rows) == 3


def test_matrix_after_transfer_has_sources_as_rows_and_targets_as_columns(results: StudyResults) -> None:
    """A run stands under its root's domain and its own, and pairs left out of the study are empty."""
    result = matrix(compare(results), "transfer", after_transfer=True)
    assert (result.rows, result.columns) == (["-10nm", "+10nm"], results.domains)
    assert np.isnan(result.values[0, 0]) and result.counts[0, 0] == 0
    table = results.table
    chosen = (table["pretrain.domain"] == "-10nm") & (table["transfer.domain"] == "0nm")
    rows = table[chosen & (table["evaluated_domain"] == "0nm")]
    assert result.values[0, 1] == pytest.approx(rows["loss_adjusted"].median())
    assert result.counts[0, 1] == 18


def test_before_is_the_parent_in_the_same_domain(results: StudyResults) -> None:
    """A transfer run is compared with its own parent where it was transferred to."""
    result = before_and_after(compare(results), "transfer").set_index("run")
    table = results.table.set_index(["run", "evaluated_domain"])["loss_adjusted"]
    assert len(result) == 72
    for run, row in result.iloc[::10].iterrows():
        assert row["before"] == table[(row["parent"], row["domain"])]
        assert row["change"] == pytest.approx(table[(run, row["domain"])] - row["before"])


def test_test_split_is_reported(results: StudyResults) -> None:
    """Where a table has both, values are those of the test split, not of validation."""
    optimistic = results.table.assign(split="validation", loss_adjusted=0.0)
    both = dataclasses.replace(results, table=pd.concat([optimistic, results.table], ignore_index=True))
    assert compare(both).split == "test"
    assert compare(both).runs["value"].min() > 0


def test_mixture_is_read_in_all_its_domains(results: StudyResults) -> None:
    """A run trained on a mixture has the mean over the domains mixed, also where their names hold a plus."""
    rows = results.table[results.table["stage"] == "scratch"].head(1)
    mixed = pd.concat([rows.assign(run="m", domain="+10nm:128+0nm:384", evaluated_domain=d) for d in results.domains])
    mixed["loss_adjusted"] = [5.0, 1.0, 2.0]
    result = compare(dataclasses.replace(results, table=mixed.reset_index(drop=True)))
    assert result.runs["value"].tolist() == [1.5]


def test_metric_is_the_loss_less_its_floor_where_it_has_one(results: StudyResults) -> None:
    """A loss with a floor is adjusted, one without is not, and Dice comes second."""
    assert compare(results).metric.column == "loss_adjusted"
    plain = dataclasses.replace(results, table=results.table.assign(loss_floor=0.0))
    assert compare(plain).metric.column == "loss"
    assert compare(plain).second_metric == compare(results).second_metric
    dice = compare(results, "dice_particle").metric
    assert (dice.label, dice.lower_is_better) == ("Dice of particle", False)


def test_unknown_metric_is_answered_with_the_allowed(results: StudyResults) -> None:
    """A misspelt metric is named, with the nearest and all that the table has."""
    with pytest.raises(SegueError, match="unknown metric 'dice_men'; did you mean 'dice_mean'"):
        compare(results, "dice_men")


def test_scratch_is_found_by_its_domains(results: StudyResults, make: Callable[..., StudyResults]) -> None:
    """A stage without parent and children, trained where transfer was, is its comparison; a parent is not."""
    assert compare(results).scratch_stages("transfer") == ["scratch"]
    assert compare(make(1, scratch=False)).scratch_stages("transfer") == []
    assert compare(results).outcome_stages == ["transfer", "scratch"]


def table_of(results: StudyResults, metric: str | None = None) -> dict[str, list[str]]:
    """Returns the rows of the conclusions by their name; titles of groups have no cells."""
    table = conclusions(compare(results, metric)).table
    assert table is not None
    return {str(name): list(map(str, cells)) for name, *cells in table.rows}


def factorial(seeds: int = 3) -> StudyResults:
    """Returns a crossed study in which the loss is an exact sum of what its settings and its seed add."""
    rows = [
        {
            "stage": "train", "run": f"{lr}{depth}{domain}{seed}", "domain": domain, "evaluated_domain": domain,
            "seed_init": seed, "seed_draw": seed, "train.lr": lr, "train.depth": depth, "train.domain": domain,
            "labels": 8, "loss": 1 + 100 * lr + 0.01 * depth + {"a": 0, "b": 5}[domain] + 0.3 * seed,
        }
        for lr in (1e-3, 1e-4) for depth in (1, 2, 3) for domain in ("a", "b") for seed in range(seeds)
        if (depth, domain) != (3, "b")
    ]  # fmt: skip
    empty = pd.DataFrame()
    axes = ["train.domain", "train.lr", "train.depth"]
    table = pd.DataFrame(rows)
    alone = ({"train": axes}, {"train": None}, ["a", "b"], [])
    return StudyResults("f", "f", "", "", "", table, empty, empty, {}, empty, *alone)


def test_paired_differences_remove_everything_else() -> None:
    """In an additive study a level's paired difference is exactly what it adds, with no width at all."""
    result = {factor.axis: factor for factor in factors(compare(factorial()), "train")}
    assert list(result) == ["train.domain", "train.lr", "train.depth"]
    rate = result["train.lr"].levels
    assert [level.name for level in rate] == ["1e-4", "1e-3"]
    assert rate[1].difference is not None
    assert rate[1].difference.median == pytest.approx(0.09)
    assert rate[1].difference.interval == pytest.approx((0.09, 0.09))
    assert result["train.depth"].span == pytest.approx(0.02)
    assert result["train.domain"].levels[1].difference.runs == 12  # depth 3 was not run in both
    assert result["train.domain"].is_target and not result["train.lr"].is_target


def test_axis_of_one_level_is_no_factor() -> None:
    """Nothing is said about what was not varied."""
    results = factorial()
    one = dataclasses.replace(results, table=results.table[results.table["train.depth"] == 2])
    assert [factor.axis for factor in factors(compare(one), "train")] == ["train.domain", "train.lr"]


def test_levels_that_share_no_pair_have_no_difference() -> None:
    """Where two settings always go together, no pair differs in one of them alone."""
    results = factorial()
    table = results.table[(results.table["train.lr"] == 1e-3) == (results.table["train.depth"] == 1)]
    result = {f.axis: f for f in factors(compare(dataclasses.replace(results, table=table)), "train")}
    assert result["train.lr"].levels[1].difference is None
    assert np.isnan(result["train.lr"].span)


def test_answer_claims_no_factor_within_its_interval(make: Callable[..., StudyResults]) -> None:
    """Where every paired interval holds zero, no factor is said to matter."""
    results = make(3, scratch=False)
    noise = np.random.default_rng(0).lognormal(size=len(results.table))
    comparison = compare(dataclasses.replace(results, table=results.table.assign(loss_adjusted=noise)))
    levels = [level for f in factors(comparison, "transfer") if not f.is_target for level in f.levels]
    some = [level for level in levels if level.difference and level.difference.excludes_zero]
    assert ("Nothing that was varied changes the outcome clearly." in conclusions(comparison).sentences) == (not some)
    largest = "The largest effect, in the same target domain, comes from labeled images (transfer)."
    assert largest in conclusions(compare(results)).sentences


def test_repeats_without_seeds_are_paired_in_order() -> None:
    """A table without seeds still has repeats, paired within their configuration."""
    results = factorial()
    result = compare(dataclasses.replace(results, table=results.table.drop(columns=["seed_init", "seed_draw"])))
    assert result.repeated
    rate = {factor.axis: factor for factor in factors(result, "train")}["train.lr"].levels[1]
    assert rate.difference is not None
    assert rate.difference.median == pytest.approx(0.09)
    assert rate.difference.interval is not None


def test_single_seed_gives_no_interval_anywhere(make: Callable[..., StudyResults]) -> None:
    """Without a second seed no level, difference or group claims an interval."""
    comparison = compare(make(1))
    assert not comparison.repeated
    levels = [level for factor in factors(comparison, "transfer") for level in factor.levels]
    assert all(level.estimate.interval is None for level in levels)
    assert all(level.difference is None or level.difference.interval is None for level in levels)
    assert all(group.estimate.interval is None for group in label_groups(comparison, ["transfer", "scratch"]))


def test_scratch_is_compared_at_equal_labels_and_seed(results: StudyResults) -> None:
    """By number of labels, the difference is the median over domain and seed of the two sides' own medians."""
    result = against_scratch(compare(results), "transfer", "scratch")
    assert list(result) == [20.0, 68.0]
    part_rows = compare(results).runs
    sides = [part_rows[(part_rows["stage"] == s) & (part_rows["labels"] == 20)] for s in ("transfer", "scratch")]
    left, right = (side.groupby(["domain", "seed_draw"])["value"].median() for side in sides)
    assert result[20.0].median == pytest.approx(float((left - right).median()))
    assert result[20.0].runs == 9


def test_pairs_in_part_of_the_targets_are_said_so(results: StudyResults) -> None:
    """Two sources that are no targets of their own meet in one target only; what is crossed in all says nothing."""
    result = {factor.axis: factor for factor in factors(compare(results), "transfer")}
    source, labels = result["pretrain.domain"], result["transfer.images"]
    assert source.levels[1].paired_in == ("0nm",)
    assert source.coverage(source.levels) == "in 18 pairs, all in the target 0nm"
    assert labels.levels[1].paired_in == labels.targets == tuple(results.domains)
    assert labels.coverage(labels.levels) == result["transfer.domain"].coverage(result["transfer.domain"].levels) == ""
    harder = results.table["loss_adjusted"].where(results.table["pretrain.domain"] != "+10nm", lambda v: v + 1)
    rows = table_of(dataclasses.replace(results, table=results.table.assign(loss_adjusted=harder)))
    effect = rows["pretraining: domain: from +10nm to -10nm"]
    assert effect[0].startswith("−") and effect[-1] == "in 18 pairs, all in the target 0nm"


def test_conclusions_state_what_freezing_does(results: StudyResults) -> None:
    """Each frozen part's change is the median over pairs that differ in it alone, by hand; parts of two are listed."""
    table = results.table.replace({"transfer.freeze": {"decoder": "encoder,head"}})
    part_rows = table[(table["stage"] == "transfer") & (table["domain"] == table["evaluated_domain"])]
    keys = ["pretrain.domain", "transfer.domain", "transfer.images", "seed_init"]
    by = part_rows.set_index([*keys, "transfer.freeze"])["loss_adjusted"].unstack()
    rows = table_of(dataclasses.replace(results, table=table))
    assert rows["encoder"][0].startswith(f"+{(by['encoder'] - by['none']).median():.4f} [")
    assert rows["encoder and head"][0].startswith(f"+{(by['encoder,head'] - by['none']).median():.4f} [")
    assert rows["encoder"][-1] == "worse"


@pytest.mark.parametrize(("shift", "verdict"), [(-0.2, "worse"), (0.2, "better")])
def test_freezing_is_judged_by_the_metrics_direction(results: StudyResults, shift: float, verdict: str) -> None:
    """Higher Dice is better, lower is worse, and an exact zero is no clear difference."""
    shifts = results.table["transfer.freeze"].map({"encoder": shift}).fillna(0.0)
    rows = table_of(dataclasses.replace(results, table=results.table.assign(dice_mean=0.5 + shifts)), "dice_mean")
    size = f"{'+' if shift > 0 else '−'}0.200"
    assert rows["encoder"][:1] + rows["encoder"][-1:] == [f"{size} [{size}, {size}]", verdict]
    assert rows["decoder"][:1] + rows["decoder"][-1:] == ["0 [0, 0]", "no clear difference"]


def test_freezing_is_left_out_without_its_reference(results: StudyResults) -> None:
    """Where nothing was trained whole, or no part was frozen, no sentence compares."""
    for selected in (["encoder", "decoder"], ["none"]):
        table = results.table[(results.table["stage"] != "transfer") | results.table["transfer.freeze"].isin(selected)]
        assert not any("Freezing" in name for name in table_of(dataclasses.replace(results, table=table)))


def test_label_counts_tell_training_from_validation(results: StudyResults) -> None:
    """A sum is divided where labels were spent on validation, in both ways where runs differ, else it stands alone."""
    groups = label_groups(compare(results), ["transfer"])
    assert {labels_tick(group.labels, [group]) for group in groups} == {"20 (16 + 4)", "68 (64 + 4)"}
    other = dataclasses.replace(groups[0], label_split=((20.0, 0.0),))
    assert labels_tick(20, [other]) == "20"
    assert labels_tick(20, [groups[0], other]) == "20 (16 + 4 or 20 + 0)"
    imported = results.table.drop(columns=["labels_train", "labels_validation"])
    group = label_groups(compare(dataclasses.replace(results, table=imported)), ["transfer"])[0]
    assert labels_tick(group.labels, [group]) == "20"


def test_a_single_seed_of_an_unfinished_study_is_called_preliminary(make: Callable[..., StudyResults]) -> None:
    """While trainings are pending, a single seed is what there is so far, not what the study asks for."""
    assert limitations(compare(dataclasses.replace(make(1), counts={"pending": 9})))[0].startswith("So far, every")
    assert not any("So far" in sentence for sentence in limitations(compare(make(1))))
