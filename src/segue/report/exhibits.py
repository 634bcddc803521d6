"""Which figures a study gets, in order, each with a caption that says what is shown, of how many runs, and how sure."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportAssignmentType=false

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from segue.report.answer import interval_words, label_unit, spends_validation
from segue.report.comparison import Comparison, Matrix, before_and_after, matrix
from segue.report.courses import MOST_SINGLE, Courses, courses, courses_figure
from segue.report.drawing import BLUE, CATEGORIES, VERMILION, Drawing, colours_of, style
from segue.report.factors import Factor, coverage, efficiency, factors
from segue.report.figures import effects_figure, efficiency_figure, matrices_figure
from segue.report.pictures import MOST_EXAMPLES, curves_figure, examples_figure
from segue.report.statistics import Estimate
from segue.report.variants import target_varies
from segue.report.words import axis_words, listed, several, stage_words

MOST_FAILED_NAMED = 3
OWN_LOSS = "Each run's loss is that of its own target (class weights, kind of loss): levels compare only within one."


def matrices(comparison: Comparison, *, second: bool = False) -> Drawing | None:
    """Returns trained on × tested on for every parent or lone stage, then pretrained on × transferred to."""
    metric = comparison.second if second else comparison.metric
    if metric is None:
        return None
    panels: list[tuple[str, str, str, Matrix]] = []
    transfers = comparison.transfers
    for stage in comparison.present:
        if stage in transfers or any(stage in comparison.scratch(transfer) for transfer in transfers):
            continue
        panels.append(
            (f"after {stage_words(stage)}", "trained on", "tested on", matrix(comparison, stage, second=second))
        )
    for stage in transfers:
        found = matrix(comparison, stage, after_transfer=True, second=second)
        panels.append(
            (f"after {stage_words(stage)}, in the target domain", "pretrained on", "transferred to, tested on", found)
        )
    panels = [panel for panel in panels if np.isfinite(panel[3].values).any()]
    if all(panel[3].values.size == 1 for panel in panels):  # one number is no matrix; the answer states it
        return None
    with style():
        figure, tips = matrices_figure(panels, metric)
    runs = sum(len(comparison.of(stage)) for stage in comparison.present)
    caption = (
        f"<strong>Trained on × tested on.</strong> Median {escape(metric.words)} over all configurations and seeds"
        f" ({comparison.split} split, {several(runs, 'run')}); brighter is better, one colour scale for all panels."
        " A framed cell is tested on the domain it was trained on. Point at a cell for quartiles and number of runs."
    )
    if transfers:
        caption += (
            " After transfer, a column holds the runs whose labels came from that domain, tested on it; a row, those"
            " that started from that source. Empty cells were not part of the study."
        )
    alt = f"Matrices of the median {metric.words}: " + "; ".join(panel[0] for panel in panels)
    name = f"matrices-{metric.column}" if second else "matrices"
    return Drawing(name, figure, caption, alt, tips)


def learning_efficiency(comparison: Comparison) -> Drawing | None:
    """Returns score against number of labels, where there is more than one number, or a training from scratch."""
    transfers = comparison.transfers
    scratch = [stage for transfer in transfers for stage in comparison.scratch(transfer)]
    stages = list(dict.fromkeys([*transfers, *scratch])) or comparison.leaves()
    groups = efficiency(comparison, stages)
    if not groups or (len({group.labels for group in groups}) < 2 and not scratch):
        return None
    changes = [frame for frame in (before_and_after(comparison, stage) for stage in transfers) if not frame.empty]
    before = pd.concat(changes).groupby("domain")["before"].median().to_dict() if changes else {}
    shown = {group.stage for group in groups}
    order = [*transfers, *[stage for stage in stages if stage not in transfers]]
    hues = dict(zip(order, [BLUE, VERMILION, *CATEGORIES[2:]], strict=False))
    hues = {stage: colour for stage, colour in hues.items() if stage in shown}
    unit = label_unit(comparison)
    with style():
        figure, tips = efficiency_figure(groups, before, hues, (comparison.metric, unit), comparison.results.domains)
    runs = sum(group.estimate.runs for group in groups)
    better = "lower" if comparison.metric.lower_is_better else "higher"
    caption = (
        f"<strong>What labels buy.</strong> {escape(comparison.metric.words.capitalize())} ({better} is better) in the"
        f" target domain against the number of labelled {escape(unit)} there, training and validation together"
        f" ({several(runs, 'run')}). {_marks(max(len(group.values) for group in groups))} Circles joined by a line:"
        f" medians. {_interval_sentence(comparison, 'Upright lines', [group.estimate for group in groups])}"
    )
    if any(validation for group in groups for _, validation in group.label_split):
        caption += " Below the axes, the sum stands first and in brackets the labels for training + for validation."
    if before:
        caption += " Dashed: the same networks after pretraining only, which has seen no label of this domain."
    return Drawing("efficiency", figure, caption, f"{comparison.metric.words} against number of labels", tips)


def effects(comparison: Comparison, stage: str) -> tuple[Drawing, list[Factor]] | None:
    """Returns the effect of each factor on the outcome of `stage`, with the numbers drawn; None where none varies."""
    found = factors(comparison, stage)
    if not found:
        return None
    with style():
        figure, tips = effects_figure(found, comparison.metric, colours_of(comparison.results.domains))
    better = "lower" if comparison.metric.lower_is_better else "higher"
    estimates = [level.estimate for factor in found for level in factor.levels]
    caption = (
        f"<strong>What each factor does to {escape(stage_words(stage))}.</strong>"
        f" Left: {escape(comparison.metric.words)} in the run's own domain ({better} is better) by level, over"
        f" everything else that was varied ({several(len(comparison.of(stage)), 'run')})."
        f" {_marks(max(found.runs for found in estimates))} Circles: medians."
        f" {_interval_sentence(comparison, 'Dark lines', estimates)}"
    )
    if any(level.difference for factor in found for level in factor.levels):
        caption += (
            " Right: the median difference to the first level between runs that differ in nothing else, seeds included;"
            " what the runs of a pair have in common cancels, so that it is by these that one judges."
        )
    partial = [(factor, where) for factor in found if (where := coverage(factor, factor.levels))]
    if partial:
        told = "; ".join(f"{factor.words}, {where}" for factor, where in partial)
        caption += (
            f" Pairs do not cover every target ({escape(told)}), so that for these the left side, which mixes all"
            " targets, can show another order."
        )
    if spends_validation(comparison, [stage]) and any(f.axis.endswith((".images", ".groups")) for f in found):
        caption += " Labelled images or groups as a factor are those to train on, without those for validation."
    alt = f"Effect of {listed([factor.words for factor in found])} on {comparison.metric.words}"
    return Drawing(f"effects-{stage}", figure, caption, alt, tips), found


def learning_curves(comparison: Comparison) -> Drawing | None:
    histories = comparison.results.histories
    losses = [column for column in ("train_loss", "validation_loss") if column in histories.columns]
    if histories.empty or not losses or histories[losses].isna().all(axis=None):
        return None
    floor = _floor(comparison)
    with style():
        figure = curves_figure(comparison, floor)
    runs = int(histories["run"].nunique()) if "run" in histories.columns else 0
    caption = (
        f"<strong>Learning curves.</strong> Loss by epoch ({several(runs, 'run')}): median (line) and middle half of"
        " the runs (band), validation solid, training dashed; one line of panels per stage, one panel per factor."
    )
    if floor:
        caption += f" The loss cannot fall below {floor:.4f}, which is taken off."
    if target_varies(comparison.results):
        caption += f" {OWN_LOSS}"
    return Drawing("learning-curves", figure, caption, "Training and validation loss by epoch")


def training_courses(comparison: Comparison, stage: str) -> Drawing | None:
    """Returns learning rate, loss and metrics by epoch, a column per optimiser and schedule, where these differ."""
    found = courses(comparison, stage)
    if found is None:
        return None
    with style():
        figure, tips = courses_figure(found)
    caption = " ".join(filter(None, [_courses_lines(found), _courses_reading(comparison, found)]))
    alt = f"Learning rate, loss and metrics by epoch of {stage_words(stage)}: {listed(found.columns)}"
    return Drawing(f"courses-{stage}", figure, caption, alt, tips)


def _courses_lines(found: Courses) -> str:
    """Returns the caption's part that says what is drawn."""
    text = (
        f"<strong>Courses of {escape(stage_words(found.stage))}.</strong> By epoch, in columns of one optimiser and"
        f" schedule each ({several(found.runs, 'run')}): the learning rate at the epoch's end, on a logarithmic axis"
        f"{', shaded up to the highest within it' if 'lr_max' in found.frame.columns else ''} (what falls out of the"
        " axis is nearly 0); the loss on"
        " training (dashed) and validation images (solid)"
    )
    if any(row.kind == "metric" for row in found.rows):
        text += "; and metrics on validation images, on axes that leave out their lowest tenth, mostly early epochs"
    over = listed(["seeds", *(axis_words(axis) for axis in found.pooled)])
    if found.most == 1:
        text += ". Each line is a single run."
    elif found.most <= MOST_SINGLE:
        text += f". Thick lines are medians over {escape(over)}, thin lines the single runs."
    else:
        text += f". Lines are medians over {escape(over)}, bands the middle half of the runs."
    if len(found.columns) < found.all_columns:
        text += f" Shown are the first {len(found.columns)} of {found.all_columns} columns."
    if len(found.classes) < found.all_classes:
        text += f" Metrics are of the first {len(found.classes)} of {found.all_classes} classes."
    return text


def _courses_reading(comparison: Comparison, found: Courses) -> str:
    """Returns the caption's part that says what to beware of, and which runs are missing."""
    notes = []
    if target_varies(comparison.results):
        notes.append(OWN_LOSS)
    failures = comparison.results.failures
    failed = failures[failures["stage"] == found.stage] if "stage" in failures.columns else failures[:0]
    if len(failed):
        names = list(failed["configuration"].astype(str)[:MOST_FAILED_NAMED]) if "configuration" in failed else []
        rest = len(failed) - len(names)
        named = [escape(name) for name in names] + ([f"{rest:,} more"] if rest and names else [])
        notes.append(
            f"{several(len(failed), 'run')} that failed {'is' if len(failed) == 1 else 'are'} missing"
            f"{': ' + '; '.join(named) if named else ''}."
        )
    return " ".join(notes)


def example_images(comparison: Comparison) -> Drawing | None:
    examples = comparison.results.examples
    if not examples:
        return None
    with style():
        figure = examples_figure(examples)
    shown = min(len(examples), MOST_EXAMPLES)
    caption = (
        f"<strong>Examples.</strong> {several(shown, 'held-out image')}"
        f"{f' of {len(examples)}' if shown < len(examples) else ''} with labels (outlined) and predictions:"
        " what was found is outlined in green, what was missed is blue, what was invented is orange. A pixel given a"
        " wrong class counts as missed. They illustrate; the figures above count."
    )
    return Drawing("examples", figure, caption, "Example images with labels and predictions")


def _marks(most: int) -> str:
    if most <= 120:
        return "Dots: single runs."
    return "Wide bars: the middle half of the runs; thin bars: the middle nine tenths; dots where runs are few."


def _interval_sentence(comparison: Comparison, lines: str, estimates: list[Estimate]) -> str:
    """Returns what the lines are, by the estimate of the most runs, as others of the figure may lack a seed."""
    repeated = [found for found in estimates if found.interval]
    if not repeated:
        return "No interval is drawn, as nothing was repeated with another seed."
    words = interval_words(max(repeated, key=lambda found: found.runs))
    return f"{lines}: {words}; where none shows, it is narrower than the circle."


def _floor(comparison: Comparison) -> float:
    """Returns the floor of the loss where all runs have the same, else 0."""
    rows = comparison.rows
    floors = pd.to_numeric(rows["loss_floor"], errors="coerce").dropna().unique() if "loss_floor" in rows else []
    return float(floors[0]) if len(floors) == 1 and floors[0] > 0 else 0.0
