"""Courses of training side by side, the ranking of configurations, and what the page says of such a study."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from samples.courses import CLASSES, made_courses

from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.ranking import ranking
from segue.reporting.figures.learning_curves import (
    LearningCurves,
    draw_learning_curves,
    learning_curves,
    learning_curves_figure,
)
from segue.reporting.figures.style import style
from segue.reporting.formatting import configuration_label
from segue.reporting.page.conclusions import conclusions, limitations
from segue.reporting.page.page import write_page
from segue.study.table import StudyResults

PLAIN, WEIGHTED = "no class weights", "inverse-frequency class weights"


@pytest.fixture(scope="module")
def study() -> StudyResults:
    return made_courses()


def curves_of(results: StudyResults) -> LearningCurves:
    result = learning_curves(compare(results), "train")
    assert result is not None
    return result


def figure_of(result: LearningCurves) -> Any:
    with style():
        return draw_learning_curves(result)


def without_metrics(results: StudyResults, names: str = ".*") -> StudyResults:
    """Returns the results without metrics of classes, of which each takes a row: all, or those of the pattern."""
    columns = [c for c in results.histories.columns if re.match(rf"validation_(?!loss)({names})_", c)]
    return dataclasses.replace(results, histories=results.histories.drop(columns=columns))


def test_columns_are_courses_and_colors_are_weights(study: StudyResults) -> None:
    """Variants become columns in the order of the study, class weights colours with none first, metrics rows."""
    result = curves_of(study)
    assert result.columns == ["Adam restarts", "SGD plateau", "SGD kicks"]
    assert list(result.colors) == [PLAIN, WEIGHTED] and len(set(result.colors.values())) == 2
    assert [row.label.replace("\n", " ") for row in result.rows] == [
        "learning rate", "loss", "accuracy", "precision", "recall", "F1 (Dice)", "area under PR curve",
        "area under ROC curve",
    ]  # fmt: skip
    assert (result.runs, result.runs_per_line, result.pooled) == (18, 3, [])


def test_lines_are_medians_over_seeds(study: StudyResults) -> None:
    """Every thick line is the median by epoch that the histories give by hand, in the panel of its column and row."""
    result = curves_of(study)
    figure, tips = figure_of(result)
    panels = np.array(figure.axes).reshape(len(result.rows), len(result.columns))
    histories = study.histories
    for (i, row), (j, column) in ((r, c) for r in enumerate(result.rows) for c in enumerate(result.columns)):
        for weights, words in (("none", PLAIN), ("inverse_frequency", WEIGHTED)):
            part = histories[
                (histories["train.variant"] == column) & (histories["train.target.class_weights"] == weights)
            ]
            expected = part.groupby("epoch")[row.solid].median()
            solid = [
                x for x in panels[i, j].lines if x.get_color() == result.colors[words] and x.get_linewidth() == 1.6
            ]
            assert len(solid) == 1
            np.testing.assert_allclose(solid[0].get_ydata(), expected.to_numpy())
            np.testing.assert_allclose(solid[0].get_xdata(), expected.index.to_numpy())
    assert len(tips) == len(result.rows) * len(result.columns) * 2
    assert any(
        re.match(r"SGD kicks, no class weights: recall, at the last epoch a median of 0\.9\d+, 3 runs", t)
        for t in tips.values()
    )


@pytest.mark.slow
def test_axis_of_rates_ends_where_rates_live(study: StudyResults) -> None:
    """The logarithmic axis spans the highest rates of the epochs, not a cosine's end; a rate of 0 does no harm."""
    for histories in (
        study.histories,
        study.histories.assign(lr=study.histories["lr"].where(study.histories["lr"] > 1e-7, 0)),
    ):
        figure, _ = figure_of(curves_of(without_metrics(dataclasses.replace(study, histories=histories))))
        low, high = figure.axes[0].get_ylim()
        assert figure.axes[0].get_yscale() == "log"
        assert low == pytest.approx(study.histories["lr_max"].min() / 1.6) and high == pytest.approx(0.05 * 1.6)


@pytest.mark.slow
def test_words_of_the_figure_do_not_overlap() -> None:
    """Legend, titles of columns, axes and labels of neighbouring rows keep apart, also with eight long names."""
    results = without_metrics(made_courses(1, variants=8), "accuracy|precision|recall")
    long = {name: f"{name} with a rather long name" for name in results.histories["train.variant"].unique()}
    figure, _ = figure_of(
        curves_of(dataclasses.replace(results, histories=results.histories.replace({"train.variant": long})))
    )
    with style():
        figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    titles = [axes._left_title.get_window_extent() for axes in figure.axes[:8]]
    # the legend's box holds a margin of 2 px around its words
    assert all(title.y1 <= legend.y0 + 1 for title in titles)
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(titles))
    labels = [axes.yaxis.label.get_window_extent() for axes in figure.axes[::8]]
    assert all(lower.y1 <= upper.y0 for upper, lower in itertools.pairwise(labels))
    assert legend.x1 <= figure.bbox.x1 and titles[-1].x1 <= figure.bbox.x1


@pytest.mark.slow
def test_at_most_eight_columns_and_the_caption_says_so() -> None:
    """Ten courses of eight seeds are drawn as eight columns with bands, and the caption tells both."""
    results = without_metrics(made_courses(8, variants=10))
    drawing = learning_curves_figure(compare(results), "train")
    assert drawing is not None
    assert len(drawing.figure.axes) == 2 * 8
    assert "Shown are the first 8 of 10 columns." in drawing.caption and "(128 runs)" in drawing.caption
    assert "bands the middle half of the runs" in drawing.caption


def test_caption_names_what_failed() -> None:
    """Runs that failed are missing from the lines; up to three are named, the others counted."""
    drawing = learning_curves_figure(compare(without_metrics(made_courses(failed=5))), "train")
    assert drawing is not None
    assert "(13 runs)" in drawing.caption
    assert "Missing because they failed (5 runs): train (train.variant = Adam restarts, " in drawing.caption
    assert "init 2, draw 2; 2 more." in drawing.caption


@pytest.mark.parametrize(
    ("classes", "rows"), [(("a",), 6), (("a", "b"), 12), (("a", "b", "c"), 6), (tuple("abcdef"), 8)]
)
def test_rows_for_any_number_of_classes(classes: tuple[str, ...], rows: int) -> None:
    """Up to two classes have all six metrics; more only F1 and the area under the PR curve, and of four at most."""
    result = curves_of(made_courses(1, classes=classes))
    assert len(result.rows) == 2 + rows
    assert (len(result.classes), result.class_count) == (min(4, len(classes)), len(classes))


def _no_validation(histories: pd.DataFrame) -> pd.DataFrame:
    return histories[[c for c in histories.columns if not c.startswith("validation_")]]


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (_no_validation, 2),
        *(
            pytest.param(change, rows, marks=pytest.mark.slow)
            for change, rows in (
                (lambda h: h.assign(train_loss=np.nan, validation_loss=np.nan), 3),
                (lambda h: h[h["epoch"] == 1], 4),
                (lambda h: h.drop(columns=["lr_max", "validation_f1_nucleus"]), 4),
                (lambda h: h[(h["epoch"] <= 20) | (h["train.variant"] != "SGD plateau")], 4),
            )
        ),
    ],
)
def test_incomplete_histories_are_drawn(
    study: StudyResults, change: Callable[[pd.DataFrame], pd.DataFrame], rows: int
) -> None:
    """Without validation, losses, later epochs or the highest rate the rest is drawn, and nothing else."""
    few = without_metrics(study, "accuracy|precision|recall|auroc")
    result = curves_of(dataclasses.replace(few, histories=change(few.histories)))
    assert len(result.rows) == rows
    figure, _ = figure_of(result)
    with style():
        figure.draw_without_rendering()
    assert len(figure.axes) == 3 * rows


def test_no_courses_where_rates_are_alike(study: StudyResults, results: StudyResults) -> None:
    """Variants that share their rates, stages without such axes and histories without rates have no such figure."""
    alike = study.histories.assign(lr=1e-3)
    for changed in (alike, alike.drop(columns="lr"), pd.DataFrame()):
        assert learning_curves(compare(dataclasses.replace(study, histories=changed)), "train") is None
    assert all(learning_curves(compare(results), stage) is None for stage in results.stages)


def test_swept_rates_are_columns(study: StudyResults) -> None:
    """An axis of learning rates gives a column each, smallest first; what is not told apart is pooled."""
    rename = {"train.variant": "train.optimizer.lr", "train.target.class_weights": "train.batch"}
    values = {"Adam restarts": 1e-3, "SGD plateau": 1e-4, "SGD kicks": 1e-2}
    histories = study.histories.rename(columns=rename).assign(**{"train.freeze": "none"})
    histories["train.optimizer.lr"] = histories["train.optimizer.lr"].map(values)
    histories["train.freeze"] = np.where(histories["seed_init"] == 1, "encoder", "none")
    axes = [*rename.values(), "train.freeze"]
    table = study.table.rename(columns=rename).assign(**{"train.freeze": "none"})
    result = curves_of(dataclasses.replace(study, histories=histories, table=table, stages={"train": axes}))
    assert result.columns == ["learning rate 1e-4", "learning rate 1e-3", "learning rate 0.01"]
    assert result.pooled == ["train.freeze"]


def test_losses_of_different_targets_are_not_compared(study: StudyResults) -> None:
    """Where class weights vary, by axis or inside variants, Dice decides; elsewhere the loss does."""
    assert compare(study).metric.column == "dice_mean"
    second = compare(study).second_metric
    assert second is not None and second.column == "iou_mean"
    one = dataclasses.replace(study, stages={"train": ["train.variant"]}, targets={"train": [CLASSES]})
    assert compare(one).metric.column == "loss"
    two = {"train": [CLASSES, CLASSES | {"class_weights": [1, 3]}]}
    assert compare(dataclasses.replace(one, targets=two)).metric.column == "dice_mean"
    assert compare(dataclasses.replace(one, targets={})).metric.column == "loss"


def test_ranking_is_that_of_the_table(study: StudyResults) -> None:
    """Order, medians and the lead of the first over the second are those computed from the table by hand."""
    result = ranking(compare(study), "train")
    assert result is not None and result.lead is not None
    table = study.table.assign(words=[
        f"{v} with {PLAIN if w == 'none' else WEIGHTED}"
        for v, w in zip(study.table["train.variant"], study.table["train.target.class_weights"], strict=True)
    ])  # fmt: skip
    medians = table.groupby("words")["dice_mean"].median().sort_values(ascending=False)
    assert [entry.label for entry in result.configurations] == list(medians.index)
    assert [entry.estimate.median for entry in result.configurations] == pytest.approx(medians.tolist())
    by_seed = table.pivot(index="seed_init", columns="words", values="dice_mean")
    lead = by_seed[medians.index[0]] - by_seed[medians.index[1]]
    assert (result.lead.median, result.lead.runs) == (pytest.approx(lead.median()), 3)
    assert result.lead.interval == pytest.approx((lead.min(), lead.max()))


def test_answer_names_the_best_and_its_metric(study: StudyResults) -> None:
    """The first sentence names configuration, metric, split and interval, and claims a lead only with every seed."""
    result = conclusions(compare(study))
    assert re.match(
        r"Of 6 configurations of training, SGD kicks with no class weights has the best mean Dice on the test split,"
        r" a median of 0\.91\d \[0\.9\d\d, 0\.9\d\d\]\.",
        result.sentences[0],
    )
    assert result.table is not None and [row[-1] for row in result.table.rows[1:4]] == ["best", "second", "last"]
    assert "The largest effect, all else equal, comes from variant (training)." in result.sentences
    assert any("The best of 6 configurations was chosen by" in text for text in limitations(compare(study)))
    for sign, verdict in ((1, "ahead with every seed"), (0, "not ahead with every seed")):
        table = study.table.assign(dice_mean=0.5)
        best = (table["train.variant"] == "SGD kicks") & (table["train.target.class_weights"] == "none")
        gained = np.where(table["seed_init"] == 2, 0.3 if sign else -0.3, 0.1)
        table.loc[best, "dice_mean"] += gained[best]
        rows = conclusions(compare(dataclasses.replace(study, table=table))).table
        assert rows is not None
        (lead,) = [row for row in rows.rows if row[0] == "best minus second, in pairs with equal seeds"]
        assert lead[-1] == verdict and (not sign or str(lead[1]).startswith("+"))


def test_variants_of_data_are_not_ranked(study: StudyResults) -> None:
    """Where variants differ in the images they train on, none is called the best way to train."""
    variants = {"train": {"Adam restarts": {"images": 4}, "SGD plateau": {"images": 8}}}
    results = dataclasses.replace(study, variants=variants, stages={"train": ["train.variant"]})
    assert ranking(compare(results), "train") is None
    table = conclusions(compare(results)).table
    assert table is not None and str(table.rows[0][0]).startswith("All runs, in their own domains")


def test_freezing_by_variants_is_told(make: Callable[..., StudyResults]) -> None:
    """Where variants alone freeze, the answer names variant and part, and what else the variant changes."""
    results = make(3, scratch=False)
    rename = {"transfer.freeze": "transfer.variant"}
    variants = {
        "none": {"freeze": "none", "epochs": 5},
        "encoder": {"freeze": "encoder", "epochs": 9},
        "decoder": {"freeze": ["decoder"], "epochs": 5},
    }
    stages = {**results.stages, "transfer": ["transfer.domain", "transfer.images", "transfer.variant"]}
    changed = dataclasses.replace(
        results, table=results.table.rename(columns=rename), variants={"transfer": variants}, stages=stages
    )
    result = conclusions(compare(changed)).table
    assert result is not None
    rows = {row[0]: row for row in result.rows}
    assert "Freezing, against “none”, which freezes nothing, in pairs" in rows
    assert "also differs in epochs" in rows["“encoder”: encoder"][-1]
    assert str(rows["“decoder”: decoder"][1]).startswith("+") and "differs" not in rows["“decoder”: decoder"][-1]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"train.variant": "SGD kicks"}, "SGD kicks"),
        ({"train.variant": "a", "train.target.class_weights": "none"}, "a with no class weights"),
        ({"train.target.class_weights": "median_frequency"}, "median-frequency class weights"),
        ({"train.target.class_weights": "1,3"}, "class weights 1,3"),
        (
            {"t.optimizer.name": "sgd", "t.schedule.name": "cosine", "t.batch": 8},
            "sgd with schedule cosine and batch size 8",
        ),
        ({"t.variant": "a", "t.epochs": float("nan")}, "a"),
        ({"t.network.width": 8}, "network.width 8"),
    ],
)
def test_configurations_in_words(levels: dict[str, Any], words: str) -> None:
    """A configuration reads as one would say it."""
    assert configuration_label(levels) == words


@pytest.mark.slow
def test_page_shows_the_courses(study: StudyResults, tmp_path: Path) -> None:
    """Figure, heading and ranking are on the page; a matrix of one number and losses pooled over weights are not."""
    write_page(without_metrics(study), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert (
        '<h2 id="learning-curves">Learning rate and metrics by epoch</h2>' in text and 'href="#learning-curves"' in text
    )
    assert "The configurations on the test split, best first" in text
    assert {path.stem for path in (tmp_path / "page-figures").glob("*.svg")} == {
        "learning-curves-train",
        "effects-train",
        "interactions-train",
        "variance-train",
        "ranks-train",
        "regret-train",
    }
    assert "levels compare only within one" in text and 'id="matrices"' not in text
    assert "inverse_frequency" not in text.split('<section id="runs"')[0]  # of which the names of these runs have it
