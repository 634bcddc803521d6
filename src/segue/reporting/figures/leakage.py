"""Validation next to test scores for each kind of split, runs joined by lines."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segue.reporting.analysis.bootstrap import interval_caption
from segue.reporting.analysis.leakage import Leakage, SplitScores
from segue.reporting.figures.style import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    PAPER,
    ReportFigure,
    Tooltips,
    new_figure,
    plain_ticks,
    style,
)
from segue.reporting.formatting import join_names, plural

MAX_SINGLE_RUNS = 40  # runs of a split drawn one by one
COLORS = {"validation": AMBER, "test": BLUE}
OFFSETS = {"validation": -0.17, "test": 0.17}  # from the middle of their split


def leakage_figure(leakage: Leakage) -> ReportFigure:
    """Returns a panel per metric: for each split, validation next to test."""
    with style():
        figure, tooltips = _draw(leakage)
    by_split = leakage.scores[leakage.metrics[0].column]
    most = max(len(scores.optimism) for scores in by_split.values())
    lines = "Thin lines: single runs." if most <= MAX_SINGLE_RUNS else "Bars: the middle half of the runs."
    estimates = [scores.estimates["test"] for by_name in leakage.scores.values() for scores in by_name.values()]
    caption = (
        "Scores at the selected epoch on validation images, and of the same runs on test groups, which all splits share"
        f" ({plural(len(leakage.frame), 'run')}). {lines} Circles: medians."
        f" {interval_caption('Dark lines', estimates)} Seeds do not change which groups are in a part: some of each"
        " gap is due to some groups being harder than others, which no interval includes."
    )
    if not leakage.is_paired:
        caption += " The runs differ in more than the split, so that splits are not compared in pairs."
    alt = f"Validation and test scores of runs split by {join_names(leakage.splits)}"
    return ReportFigure("leak", figure, "Leakage of the split.", caption, alt, tooltips)


def _draw(leakage: Leakage) -> tuple[Figure, Tooltips]:
    columns = min(len(leakage.metrics), 3)
    lines = math.ceil(len(leakage.metrics) / columns)
    figure = new_figure(0.6 + (2.9 if lines == 1 else 2.6) * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    tooltips = Tooltips()
    for axes, metric in zip(panels, leakage.metrics, strict=False):
        for x, split in enumerate(leakage.splits):
            scores = leakage.scores[metric.column][split]
            _draw_split(axes, x, scores, f"split by {split}", metric.label, tooltips)
        width = max(9, 34 // len(leakage.splits))
        ticks = [textwrap.fill(split, width, break_long_words=False) for split in leakage.splits]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.grid(axis="x", visible=False)
        title = metric.label.replace("area under the precision–recall curve", "area under PR curve")
        axes.set_title(textwrap.fill(title, 44))
        axes.set_ylabel(metric.direction)
        axes.set_xlabel("split by")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(plain_ticks())
    for axes in panels[len(leakage.metrics) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="none", markersize=6.5, label=part)
        for part, color in COLORS.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure, tooltips


def _draw_split(axes: Axes, x: int, scores: SplitScores, name: str, metric: str, tooltips: Tooltips) -> None:
    """Draws one split of a panel: its runs from validation to test, and the medians."""
    places = {part: x + offset for part, offset in OFFSETS.items()}
    _draw_runs(axes, scores, places)
    medians = [scores.estimates[part].median for part in places]
    axes.plot(list(places.values()), medians, color=INK, linewidth=1.2, zorder=3)
    for part, color in COLORS.items():
        estimate, place = scores.estimates[part], places[part]
        if estimate.interval:
            axes.plot([place] * 2, estimate.interval, color=INK, linewidth=1.6, zorder=4, solid_capstyle="round")
        (mark,) = axes.plot([place], [estimate.median], "o", color=color, markersize=8, markeredgecolor=PAPER, zorder=5)
        tooltips.add(mark, f"{name}, {part}: median {metric} {estimate.text()}, {plural(estimate.runs, 'run')}")


def _draw_runs(axes: Axes, scores: SplitScores, places: dict[str, float]) -> None:
    count = len(scores.optimism)
    if count > MAX_SINGLE_RUNS:
        for part, color in COLORS.items():
            quartiles = np.nanquantile(scores.values[part], [0.25, 0.75])
            axes.plot([places[part]] * 2, quartiles, color=color, alpha=0.35, linewidth=9, solid_capstyle="butt")
        return
    values = np.stack([scores.values[part] for part in places])
    axes.plot(list(places.values()), values, color=MUTED, linewidth=0.7, alpha=0.6, zorder=2)
    for part, color in COLORS.items():
        x = [places[part]] * count
        axes.scatter(x, scores.values[part], s=12, color=color, alpha=0.6, linewidths=0, zorder=2)
