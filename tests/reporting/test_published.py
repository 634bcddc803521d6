"""The published tables of the HRTEM study give the published numbers, to the last digit, by the shipped mappings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segue.errors import SegueError
from segue.evaluation.learning_curve import forecast
from segue.reporting.analysis.comparison import Comparison, compare, matrix, pair_matrix
from segue.reporting.analysis.factors import factors
from segue.reporting.analysis.tables import analyze
from segue.reporting.figures.baselines import baselines_figure
from segue.reporting.figures.generalization import generalization_figure, spreads
from segue.reporting.tables.selection import select_results
from segue.reporting.tables.table_import import from_table, from_tables
from segue.study.table import StudyResults

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLES = {"defocus": "defocus", "baseline": "baseline", "noise": "noise_histories", "structure": "structure"}


def read(name: str) -> StudyResults:
    table = EXAMPLES / "data" / "published-hrtem" / f"{TABLES[name]}.parquet"
    return from_table(table, columns=EXAMPLES / f"published-hrtem-{name}.toml")


@pytest.fixture(scope="module")
def defocus() -> StudyResults:
    return read("defocus")


@pytest.fixture(scope="module")
def off_focus(defocus: StudyResults) -> Comparison:
    return compare(select_results(defocus, without=["transfer.domain=0 nm"]))


def medians(comparison: Comparison, axis: str) -> dict[str, str]:
    """Returns level -> median over the runs of the transfer, to four decimals."""
    frame = comparison.stage_runs("transfer")
    return {str(level): f"{values.median():.4f}" for level, values in frame.groupby(axis)["value"]}


def test_medians_by_setting_are_the_published_ones(off_focus: Comparison) -> None:
    """Target 0 nm left out, by images, by what is frozen, and by both learning rates."""
    images = {"64.0": "0.0173", "128.0": "0.0161", "256.0": "0.0153", "512.0": "0.0144"}
    assert medians(off_focus, "transfer.images") == images
    assert medians(off_focus, "transfer.freeze") == {"none": "0.0151", "decoder": "0.0154", "encoder": "0.0166"}
    frame = off_focus.stage_runs("transfer")
    rates = frame.groupby(["pretrain.optimizer.lr", "transfer.optimizer.lr"])["value"].median().round(4)
    assert (rates.min(), rates.idxmin()) == (0.0136, (1e-3, 1e-4))
    assert (rates.max(), rates.idxmax()) == (0.0173, (1e-4, 1e-5))


@pytest.mark.slow
def test_curves_forecast_the_published_losses_with_512_images(defocus: StudyResults) -> None:
    """From 64, 128 and 256 images, 95 % intervals hold 90 to 98 % of the losses of all 600 settings."""
    frame = compare(defocus).stage_runs("transfer")
    settings = ["pretrain.domain", "domain", "pretrain.optimizer.lr", "transfer.optimizer.lr", "transfer.freeze"]
    inside: list[bool] = []
    for _, runs in frame.groupby(settings):
        known, last = runs[runs["labels"] < 512], runs[runs["labels"] == 512]
        (one,) = forecast(known["labels"].tolist(), known["value"].tolist(), [512])
        inside += ((one.low <= last["value"]) & (last["value"] <= one.high)).tolist()
    assert len(inside) == 1800 and 0.9 <= np.mean(inside) <= 0.98


def test_matrices_before_and_after_transfer(defocus: StudyResults) -> None:
    """Fig. 7.1: pairs differ after pretraining, hardly after transfer, and the target in focus is the hardest."""
    comparison = compare(defocus)
    before, after = matrix(comparison, "pretrain"), matrix(comparison, "transfer", after_transfer=True)
    assert before.rows == ["-10 nm", "-5 nm", "0 nm", "+5 nm", "+10 nm"] and len(before.columns) == 11
    assert (round(np.min(before.values), 4), round(np.max(before.values), 3)) == (0.0146, 0.189)
    focus = after.columns.index("0 nm")
    others = np.delete(after.values, focus, axis=1)
    assert (round(np.nanmin(others), 4), round(np.nanmax(others), 4)) == (0.0125, 0.0203)
    in_focus = after.values[:, focus]
    assert (round(np.nanmin(in_focus), 3), round(np.nanmax(in_focus), 3)) == (0.053, 0.057)


@pytest.mark.slow
def test_spread_over_defoci(defocus: StudyResults) -> None:
    """The population sd of the medians over the ten defoci off focus, by the defocus pretrained at."""
    comparison = compare(select_results(defocus, without=["evaluated_domain=0 nm"]))
    assert spreads(matrix(comparison, "pretrain")).round(4).tolist() == [0.0043, 0.0083, 0.0028, 0.0306, 0.0580]
    spread = generalization_figure(comparison)
    assert spread is not None
    assert [str(cell) for cell in spread[1].rows[1][:2]] == ["-10 nm", "0.0043"]


def test_statements_that_differ_from_their_tables(defocus: StudyResults) -> None:
    """Two of the text on defocus, three of counts in the structure series; all others agree to the last digit."""
    assert len(defocus.stated) == 25
    differing = [(one.published, one.computed) for one in defocus.stated if not one.agrees]
    assert differing == [("0 nm", "-10 nm (0.0211; 0 nm: 0.0275)"), ("0 nm", "-10 nm (0.0149; 0 nm: 0.0179)")]
    assert [(one.published, one.computed) for one in read("structure").stated] == [
        ("2754", "2457"), ("18", "17"), ("18", "17"),
    ]  # fmt: skip
    assert all(one.agrees for name in ("noise", "baseline") for one in read(name).stated)


def test_statements_are_a_table(defocus: StudyResults) -> None:
    """Of each stage its own; the differing one with the number of its table."""
    both = analyze(compare(defocus), "stated")
    assert sum(len(one.table) for one in both) == len(defocus.stated)
    assert sum((one.table["agrees"] == "no").sum() for one in both) == sum(not one.agrees for one in defocus.stated) > 0


def test_noise_takes_the_best_epoch_and_sorts_doses_by_number() -> None:
    """Losses are less their floor, of the best epoch on the own dose; another rule is there by name."""
    results = read("noise")
    assert results.domains == ["30 e/Å²", "75 e/Å²", "150 e/Å²", "300 e/Å²", "600 e/Å²"]
    assert results.counts["models"] == 180 and len(results.table) == 1800
    assert "Of 18,000 rows, 1,800 are used" in results.notes[0]
    own = compare(results).stage_runs("pretrain").groupby("domain", sort=False)["value"].median()
    assert own[results.domains].round(4).tolist() == [0.0526, 0.0262, 0.0184, 0.0138, 0.0116]
    assert len(results.histories) == 3600
    assert results.histories["train_loss"].notna().all()


def test_the_rule_of_the_notebook_moves_medians_by_at_most_0_0022(tmp_path: Path) -> None:
    """Transfer read at the best epoch of pretraining, against each run's own best epoch."""
    text = (EXAMPLES / "published-hrtem-noise.toml").read_text()
    (tmp_path / "m.toml").write_text(text.replace('reduce     = "best"', 'reduce     = "best_of_parent"'))
    other = from_table(EXAMPLES / "data" / "published-hrtem" / "noise_histories.parquet", columns=tmp_path / "m.toml")
    tables = [matrix(compare(results), "transfer", after_transfer=True).values for results in (read("noise"), other)]
    assert round(float(np.nanmax(np.abs(tables[0] - tables[1]))), 4) == 0.0022


@pytest.mark.slow
def test_baselines_are_means_of_three_models(defocus: StudyResults) -> None:
    """Fig. 7.2, from -10 to +5 nm, at the rates of its caption; values computed from the published table by pandas."""
    folder = EXAMPLES / "data" / "published-hrtem"
    results = from_tables(
        [folder / "defocus.parquet", folder / "baseline.parquet"],
        columns=[EXAMPLES / "published-hrtem-defocus.toml", EXAMPLES / "published-hrtem-baseline.toml"],
    )
    assert results.counts["models"] == 7920
    comparison = compare(results)
    made = baselines_figure(comparison)
    assert made is not None
    tooltips = list(made[0].tooltips.values())
    assert "transfer, nothing frozen, 64 images: mean 0.0185, 3 runs" in tooltips
    assert "transfer, nothing frozen, 512 images: mean 0.0149, 3 runs" in tooltips
    for images, mean in ((128, "0.0169"), (256, "0.0163"), (384, "0.0157")):
        assert f"mixture, tested on the target, {images} images: mean {mean}, 3 runs" in tooltips
    panel = made[0].figure.axes[0]
    lines = {
        line.get_label(): line.get_linestyle() for line in panel.lines if not str(line.get_label()).startswith("_")
    }
    assert lines["transfer, encoder frozen"] == "--" and lines["mixture, tested on the target"] == "-"
    pairs = pair_matrix(comparison, "mixture")
    assert pairs is not None and pairs.counts[pairs.rows.index("+5 nm"), pairs.columns.index("-10 nm")] == 18


def test_ratios_of_mixtures_are_chosen_for_pairs() -> None:
    """The mixture is its pair and its ratio, counted once; ratios are compared in the same pair of domains."""
    comparison = compare(read("baseline"))
    (shares,) = analyze(comparison, "variance")
    share = shares.table.set_index("factor")["share"]
    assert list(share.index[:3]) == [
        f"training on mixtures: {name}" for name in ("pair of domains", "variant", "learning rate")
    ]
    assert share.iloc[0] == pytest.approx(0.927, abs=5e-4) and share.iloc[1] < 5e-4
    (regret,) = analyze(comparison, "regret")
    assert set(regret.table["contexts"]) == {40} and regret.table["at_random"].min() > 0
    (ranks,) = analyze(comparison, "ranks")
    assert ranks.table["setting"].tolist()[0] == "256:256 · 1e-3" and ranks.table["runs"].tolist() == [120] * 6


def test_mixtures_are_compared_within_pairs() -> None:
    """Shares of a mixture are a factor: 720 models, of which each pair of domains has all three shares."""
    results = {factor.axis: factor for factor in factors(compare(read("baseline")), "mixture")}
    assert [level.name for level in results["mixture.variant"].levels] == ["128:384", "256:256", "384:128"]
    assert results["mixture.variant"].levels[1].difference is not None
    assert results["mixture.variant"].levels[1].difference.runs == 240
    assert len(results["mixture.pair"].levels) == 40 and results["mixture.pair"].is_target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "finetune"}, "stage 'finetune' has no rows; there are transfer"),
        ({"value": "about 5"}, "value: found 'about 5'; write the number as printed"),
        ({"by": ["seed"], "of_groups": "min"}, "there is no column 'seed'"),
        ({"by": ["domain"]}, "give `by`, columns, together with `of_groups`"),
        ({"where": ["transfer.freeze=head"]}, "'head' does not occur in the column transfer.freeze; it has none"),
    ],
)
def test_statements_that_the_table_cannot_answer(tmp_path: Path, change: dict, message: str) -> None:
    """The mapping's mistake is named with its statement."""
    frame = pd.DataFrame({"d": ["a", "b"], "loss_a": [0.1, 0.2], "loss_b": [0.3, 0.4], "freeze": "none"})
    frame.to_parquet(tmp_path / "t.parquet")
    stated = {"statement": "a median", "place": "text", "value": "0.25", "stage": "transfer", **change}
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in stated.items()]
    (tmp_path / "m.toml").write_text(
        '[stages.transfer]\ndomain = "d"\nvalues = "loss_{domain}"\naxes = { freeze = "freeze" }\n[[stated]]\n'
        + "\n".join(lines)
    )
    with pytest.raises(SegueError, match="stated: a median") as caught:
        from_table(tmp_path / "t.parquet", columns=tmp_path / "m.toml")
    assert message in str(caught.value)


@pytest.mark.slow
def test_pages_without_a_pair_have_no_figure_of_baselines(defocus: StudyResults) -> None:
    assert baselines_figure(compare(defocus)) is None
    single = replace(defocus, table=defocus.table[defocus.table["domain"] == defocus.table["evaluated_domain"]])
    assert generalization_figure(compare(single)) is None
