"""The parts of the page that are words and tables: counts and cost, levels, failures, running it again, methods.

Which figures a study gets, in order, each with a caption that says what is shown, of how many runs, and how sure.

One self-contained page: the question, its answer, the figures, the failures and how to run it again.

The page needs no network and no script. Its figures are also written as SVG and PNG into `<page>-figures/`.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Estimate
from segue.reporting.analysis.comparison import Comparison, Matrix, before_and_after, compare, matrix, target_varies
from segue.reporting.analysis.factors import Factor, coverage, efficiency, factors
from segue.reporting.analysis.ranking import ranking
from segue.reporting.figures import leakage, objects
from segue.reporting.figures.examples import MOST_EXAMPLES, curves_figure, examples_figure
from segue.reporting.figures.failures import failures_drawing
from segue.reporting.figures.learning_curves import MOST_SINGLE, Courses, courses, courses_figure
from segue.reporting.figures.matrices import effects_figure, efficiency_figure, matrices_figure
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    VERMILION,
    Drawing,
    colours_of,
    inline,
    png_bytes,
    style,
    svg_text,
    theme,
)
from segue.reporting.page.conclusions import answer, caution, interval_words, label_unit, spends_validation
from segue.reporting.page.formatting import (
    axis_words,
    duration,
    energy,
    estimate_text,
    html_table,
    listed,
    number,
    several,
    stage_words,
)
from segue.reporting.video.film import sheet_drawing
from segue.study.table import StudyResults

COUNTS = {
    "configurations": "configurations",
    "models": "models",
    "stages": "distinct trainings",
    "finished": "finished",
    "failed": "failed",
    "pending": "pending",
    "evaluations": "evaluations",
}
MOST_FAILURES = 200


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return "".join(f"<p{marked}>{escape(text)}</p>" for text in texts)


def cost_section(comparison: Comparison) -> str:
    results = comparison.results
    tiles = [
        (words, count, key == "failed" and count > 0)
        for key, words in COUNTS.items()
        if (count := results.counts.get(key)) is not None
    ]
    shown = "".join(
        f"<div{' class=bad' if bad else ''}><dt>{words}</dt><dd>{count:,}</dd></div>" for words, count, bad in tiles
    )
    tiled = f'<dl class="tiles">{shown}</dl>' if shown else ""
    return f'<h2 id="cost">Counts and cost</h2>{tiled}{_cost_table(results.cost)}{_mixture(results)}'


def _cost_table(cost: pd.DataFrame) -> str:
    if "seconds_total" not in cost.columns or cost.empty:
        return ""
    heads = {
        "stage": "stage",
        "runs": "trainings",
        "seconds_total": "time, all",
        "seconds_median": "time each, median",
        "images_per_s": "images/s",
        "energy_J": "energy, all",
        "threads": "threads",
        "precision": "precision",
        "machine": "machine",
    }
    present = [column for column in heads if column in cost.columns]

    def cell(column: str, value: object) -> str:
        if pd.isna(value):
            return "not measured" if column == "energy_J" else "–"
        if column == "energy_J":
            return energy(float(str(value)))
        if column.startswith("seconds"):
            return duration(float(str(value)))
        if column in ("runs", "images_per_s"):
            return f"{float(str(value)):,.0f}" if float(str(value)) >= 10 or column == "runs" else f"{value:.1f}"
        return str(value)

    rows = [[cell(column, value) for column, value in zip(present, row, strict=True)] for row in cost[present].values]
    total = float(pd.to_numeric(cost["seconds_total"], errors="coerce").sum())
    words = f"<p>All stages together took {duration(total)} of training time.</p>" if math.isfinite(total) else ""
    counted = ("runs", "images_per_s", "energy_J", "threads", "seconds_total", "seconds_median")
    numbers = [i for i, column in enumerate(present) if column in counted]
    return words + html_table([heads[column] for column in present], rows, numbers=numbers)


def _mixture(results: StudyResults) -> str:
    """Returns a notice where precisions or thread counts are mixed, as bit-identity and speed then differ."""
    notes = []
    for column, words in (("precision", "precisions"), ("threads", "thread counts")):
        frame = results.table if column in results.table.columns else results.cost
        found = sorted(map(str, frame[column].dropna().unique())) if column in frame.columns else []
        if len(found) > 1:
            notes.append(f"different {words} ({listed(found)})")
    if not notes:
        return ""
    return (
        f'<p class="notice">These runs mix {escape(listed(notes))}: equal stages would not give equal bits,'
        " and times do not compare.</p>"
    )


def levels_table(comparison: Comparison, found: Sequence[Factor]) -> str:
    """Returns the numbers behind the figure of effects, folded away."""
    heads = ["level", "runs", f"median {comparison.metric.words}"]
    heads += [f"median {comparison.second.words}"] if comparison.second else []
    heads += ["difference in pairs", "pairs"]
    rows: list[list[str]] = []
    for factor in found:
        rows.append([factor.words])
        for level in factor.levels:
            difference = level.difference
            row = [level.name, f"{level.estimate.runs:,}", estimate_text(level.estimate)]
            row += [estimate_text(level.second)] if level.second else []
            row += [estimate_text(difference, signed=True), f"{difference.runs:,}"] if difference else ["", ""]
            rows.append(row)
    table = html_table(heads, rows, numbers=range(1, len(heads)))
    return f"<details><summary>The numbers of this figure, with intervals</summary>{table}</details>"


def ranking_table(comparison: Comparison, stage: str) -> str:
    """Returns the stage's configurations, best first, folded away; empty where there are not two with a value."""
    found = ranking(comparison, stage)
    if found is None:
        return ""
    heads = ["configuration", "runs", f"median {comparison.metric.words}", *(metric.words for metric in found.beside)]
    rows = [
        [entry.words, f"{entry.estimate.runs:,}", estimate_text(entry.estimate)]
        + [number(entry.beside[metric.column]) for metric in found.beside]
        for entry in found.entries
    ]
    table = html_table(heads, rows, numbers=range(1, len(heads)))
    return (
        f"<details><summary>The configurations on the {escape(comparison.split)} split, best first</summary>"
        f"{table}</details>"
    )


def failures_section(results: StudyResults) -> str:
    """Returns what failed and why, alike errors counted together; empty where nothing failed."""
    failures = results.failures
    if failures.empty:
        return ""
    errors = failures["error"] if "error" in failures.columns else pd.Series("unknown", index=failures.index)
    reasons = errors.astype(str).map(lambda text: text.strip().splitlines()[-1] if text.strip() else "unknown")
    grouped = failures.assign(reason=reasons).groupby(["stage", "reason"], sort=False).size()
    total = int(results.counts.get("finished", 0)) + len(failures)
    rows = [[str(key[0]), f"{count:,}", str(key[1])] for key, count in zip(grouped.index, grouped, strict=True)]
    columns = [column for column in ("stage", "run", "configuration", "error") if column in failures.columns]
    singles = [[str(value) for value in row] for row in failures[columns].head(MOST_FAILURES).values]
    more = f" The first {MOST_FAILURES} are listed." if len(failures) > MOST_FAILURES else ""
    return (
        f'<h2 id="failures">Failures</h2><p class="notice failure">{len(failures):,} of {several(total, "training")}'
        f" failed; what starts from them was not run.{more}</p>"
        + html_table(["stage", "runs", "why"], rows, numbers=[1])
        + f"<details><summary>Each failure</summary>{html_table(columns, singles)}</details>"
    )


def rerun_section(results: StudyResults) -> str:
    parts = ['<h2 id="again">Run it again</h2>']
    if results.command:
        parts.append("<p>Stages that exist are not run again; the same words continue what was interrupted.</p>")
        parts.append(f"<pre>{escape(results.command)}</pre>")
    else:
        parts.append("<p>These results come from a table; the study that made it is not part of it.</p>")
    if results.spec_text:
        parts.append(f"<details><summary>The study file</summary><pre>{escape(results.spec_text)}</pre></details>")
    return "".join(parts)


def methods_section(comparison: Comparison) -> str:
    """Returns how to read the numbers: median and interval, the split, which labels count."""
    texts = [comparison.reason] if comparison.reason else []
    texts += [
        f"Values are {comparison.metric.words} on the {comparison.split} split"
        + (
            ", which shares no group (micrograph, structure, well) with the training and validation images of a run or"
            " of any run it starts from. Where an epoch was selected, it was on validation, not on test."
            if comparison.split == "test"
            else "."
        ),
        "A median is over the runs of a cell or level, all configurations and seeds alike. Bars and bands that are not"
        " called intervals show how runs differ, not how sure a median is.",
    ]
    if comparison.repeated:
        texts.append(
            "An interval says where the median would fall if the same study were run with other seeds: the middle 95 %"
            " of the medians of 1,000 resamples. The configurations stay; the seeds are drawn anew, n − 1 of n with"
            " replacement, each with all its runs, since runs of one seed share parents and draws of images. Where"
            " initialisations and draws are crossed, both are drawn (pigeonhole bootstrap). With two or three seeds"
            " this is the range over the seeds, which holds the true median in about 50 and 75 % of studies, not 95 %."
        )
    elif comparison.own.empty:
        texts.append("There are no intervals, as nothing has finished yet.")
    else:
        texts.append("There are no intervals, as no configuration was run with a second seed.")
    texts.append(
        "Differences are within pairs of runs that have every other setting and seed in common, where the study crosses"
        " them; repeats of one configuration enter by their median."
    )
    if "labels" in comparison.own.columns:
        texts.append(
            f"Labels are counted in {label_unit(comparison)} of the target domain and include those spent on"
            " validation, by which an epoch is selected. Labels of the domain pretrained on are not counted. Images are"
            " counted as cut, so that each tile or sample of a larger micrograph is one; groups are whole micrographs,"
            " structures or wells."
        )
    if comparison.metric.column == "loss_adjusted":
        texts.append(
            "The adjusted loss is the loss less its floor, the least that this loss can be: a perfect network has 0."
        )
    return f'<h2 id="methods">Methods</h2>{paragraphs(texts)}'


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


MOST_EMBEDDED_BYTES = 2_000_000
FIGURE_NAMES = (
    "matrices",
    "efficiency",
    "effects-",
    "courses-",
    "learning-curves",
    "examples",
    "objects",
    "failures",
    "leak",
    "film-",
)


@dataclass(frozen=True)
class Shown:
    """A drawing in its place: under which heading, with what above and beneath it, and folded away or not."""

    heading: str
    anchor: str
    drawing: Drawing
    above: str = ""
    beneath: str = ""
    folded: str = ""


def write_page(results: StudyResults, out: Path, *, metric: str | None = None) -> None:
    """Writes the page `out` and its figures beside it, each file whole or not at all.

    `metric` is a column of the table; by default the loss, less its floor where it has one. Raises SegueError when
    the table lacks it, or the page cannot be written.
    """
    comparison = compare(results, metric)
    folder = out.parent / f"{out.stem}-figures"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = _shown(comparison)
        if shown:
            folder.mkdir(exist_ok=True)
        figures = [_figure(entry, position, folder) for position, entry in enumerate(shown, start=1)]
        _forget(folder, {entry.drawing.name for entry in shown})
        table = _table_link(comparison, folder)
        _write(out, _page(comparison, shown, figures, table).encode())
    except OSError as error:
        raise SegueError(f"{out}: the page cannot be written ({error}); give another place with -o.") from None


def _shown(comparison: Comparison) -> list[Shown]:
    """Returns the drawings in the order of the page."""
    of_objects = _of_objects(comparison)
    found: list[Shown] = [*of_objects] if comparison.reason else []
    if drawing := matrices(comparison):
        found.append(Shown("Trained on × tested on", "matrices", drawing))
        if again := matrices(comparison, second=True):
            assert comparison.second is not None
            found.append(Shown("", "", again, folded=f"The same by {comparison.second.words}"))
    if drawing := learning_efficiency(comparison):
        found.append(Shown("What labels buy", "labels", drawing))
    for position, stage in enumerate(comparison.leaves()):
        if drawn := effects(comparison, stage):
            heading = ("Effect of each factor", "factors") if position == 0 else ("", "")
            found.append(Shown(*heading, drawn[0], beneath=levels_table(comparison, drawn[1])))
    found += [] if comparison.reason else of_objects
    if let_through := leakage.shown(comparison):
        drawing, texts, table = let_through
        found.append(Shown("What the split lets through", "leak", drawing, above=paragraphs(texts), beneath=table))
    heading = ("Learning rate and metrics by epoch", "courses")
    for stage in comparison.results.stages:
        if drawing := training_courses(comparison, stage):
            found.append(Shown(*heading, drawing, beneath=ranking_table(comparison, stage)))
            heading = ("", "")
    for position, (stage, run) in enumerate(comparison.results.films.items()):
        heading = ("Classification by epoch", "films") if position == 0 else ("", "")
        found.append(Shown(*heading, sheet_drawing(stage, run)))
    drawn = {entry.drawing.name for entry in found}
    told = all(f"courses-{stage}" in drawn for stage in comparison.present) and target_varies(comparison.results)
    if not told and (drawing := learning_curves(comparison)):  # would pool losses that do not compare
        found.append(Shown("Learning curves", "curves", drawing))
    failures = any(entry.drawing.name == "failures" for entry in found)  # they show the same, and by what
    if not failures and (drawing := example_images(comparison)):
        found.append(Shown("Examples", "examples", drawing))
    return found


def _of_objects(comparison: Comparison) -> list[Shown]:
    """Returns scores of objects with their table, and where each representation fails."""
    scored = objects.object_scores(comparison)
    drawing = objects.objects_drawing(comparison, scored)
    if drawing is None:
        return []
    why = f"<p>{escape(comparison.reason)}</p>" if comparison.reason else ""
    found = [Shown("Objects", "objects", drawing, above=why, beneath=objects.objects_table(comparison, scored))]
    names = {str(run): one.words for one in scored for run in one.frame["run"]}
    if drawing := failures_drawing(comparison.results.object_examples, names):
        found.append(Shown("Where each fails", "fails", drawing))
    return found


def _figure(entry: Shown, position: int, folder: Path) -> str:
    """Writes the drawing's files and returns its element of the page."""
    drawing = entry.drawing
    svg = svg_text(drawing.figure)
    _write(folder / f"{drawing.name}.svg", svg.encode())
    _write(folder / f"{drawing.name}.png", png_bytes(drawing.figure))
    files = ", ".join(
        f'<a href="{escape(folder.name)}/{drawing.name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png")
    )
    element = (
        f'<figure id="figure-{position}"><div class="sheet">{inline(drawing, svg)}</div><figcaption>'
        f'<b>Figure {position}.</b>{drawing.caption} <span class="files">[{files}]</span></figcaption></figure>'
    )
    heading = f'<h2 id="{entry.anchor}">{escape(entry.heading)}</h2>' if entry.heading else ""
    if entry.folded:
        element = f"<details><summary>{escape(entry.folded)}</summary>{element}</details>"
    return heading + entry.above + element + entry.beneath


def _page(comparison: Comparison, shown: Sequence[Shown], figures: Sequence[str], table: str) -> str:
    results = comparison.results
    light, dark = theme()
    style = (
        f":root {{ {light} }} @media (prefers-color-scheme: dark) {{ @media screen {{ :root {{ {dark} }} }} }}\n"
        + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    )
    anchors = [("cost", "Counts and cost"), *((entry.anchor, entry.heading) for entry in shown if entry.heading)]
    if not results.failures.empty:
        anchors.append(("failures", "Failures"))
    anchors += [("table", "Table"), ("again", "Run it again"), ("methods", "Methods")]
    links = "".join(f'<a href="#{anchor}">{escape(words)}</a>' for anchor, words in anchors)
    doubt = caution(comparison)
    found = [text for text in answer(comparison) if text != doubt]
    parts = [
        f'<p class="kind">segue · {escape(results.name)}</p><h1>{escape(results.title or results.name)}</h1>',
        f'<p class="question">{escape(results.question)}</p>' if results.question else "",
        f'<div class="answer">{paragraphs(found)}{paragraphs([doubt], "caution") if doubt else ""}</div>',
        f"<nav>{links}</nav>",
        cost_section(comparison),
        *figures,
        failures_section(results),
        table,
        rerun_section(results),
        methods_section(comparison),
        f"<footer>{several(len(results.table), 'row')} of results in {several(len(figures), 'figure')}."
        " Made with segue; this page needs no network.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(results.title or results.name)}</title><style>{style}</style></head>\n"
        f"<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def _table_link(comparison: Comparison, folder: Path) -> str:
    """Returns the section with the whole table: in the page where it is small, else as a file beside it."""
    table = comparison.results.table
    head = (
        f'<h2 id="table">The whole table</h2><p>{several(len(table), "row")}: one per run, evaluated domain and split'
    )
    if table.empty:
        return f"{head}; it is empty.</p>"
    sample = table.head(200).to_csv(index=False)
    if len(sample) / min(len(table), 200) * len(table) < MOST_EMBEDDED_BYTES:
        text = table.to_csv(index=False)
        data = base64.b64encode(text.encode()).decode()
        name = f"{comparison.results.name}.csv"
        link = f'<a download="{escape(name)}" href="data:text/csv;base64,{data}">{escape(name)}</a>'
        return (
            f'{head}. <span class="download">Download: {link} ({len(text) / 1e6:.2f} MB, inside this page).</span></p>'
        )
    folder.mkdir(exist_ok=True)
    place = folder / "table.parquet"
    _write(place, _parquet(table))
    link = f'<a href="{escape(folder.name)}/table.parquet">{escape(folder.name)}/table.parquet</a>'
    return f"{head}. It is too large to stand in this page and lies beside it: {link}.</p>"


def _parquet(table: pd.DataFrame) -> bytes:
    texts = {c: table[c].map(str, na_action="ignore") for c in table.columns if table[c].dtype == object}
    return bytes(table.assign(**texts).to_parquet(index=False) or b"")


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _forget(folder: Path, names: set[str]) -> None:
    """Deletes figures of an earlier page in this place that the present one does not have."""
    for path in folder.glob("*.*"):
        if path.suffix in (".svg", ".png") and path.stem not in names and path.stem.startswith(FIGURE_NAMES):
            path.unlink()
