"""How evenly networks do over domains: medians in every domain tested, by the domain trained on, and their spread."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segue.reporting.analysis.comparison import Comparison, Matrix, matrix
from segue.reporting.figures.style import (
    INK,
    MUTED,
    PAPER,
    ReportFigure,
    Tooltips,
    category_colors,
    legend_columns,
    new_figure,
    scale_axis,
    style,
)
from segue.reporting.formatting import Table, domain_label, format_number, plural, stage_label

MAX_LEGEND_ENTRIES = 12
MIN_DOMAINS = 3  # tested on, below which there is no spread worth a figure


def generalization_figure(comparison: Comparison) -> tuple[ReportFigure, Table] | None:
    """Returns, for the stages that are tested on three domains or more, the median loss in each and the spread.

    The spread is the standard deviation (of the population, ddof = 0) of a row of `matrix` over the domains tested on.
    """
    by_stage = {stage: matrix(comparison, stage) for stage in comparison.stages}
    by_stage = {stage: one for stage, one in by_stage.items() if _is_complete(one)}
    if not by_stage:
        return None
    with style():
        figure, tooltips = _draw(comparison, by_stage)
    metric = comparison.metric
    caption = (
        f"A line per domain trained on: the median {metric.label} of its runs in each domain tested on (dots; that"
        " trained on has a ring). On the right, the spread: the population standard deviation of these medians over"
        f" {plural(max(len(one.columns) for one in by_stage.values()), 'domain')}. A network that generalizes has its"
        " dots close together and at the better end."
    )
    alt = f"Median {metric.label} in each domain, by the domain trained on"
    report_figure = ReportFigure("generalization", figure, "Spread over domains.", caption, alt, tooltips)
    return report_figure, _table(comparison, by_stage)


def spreads(of_stage: Matrix) -> np.ndarray:
    """Returns (rows,) the population standard deviation of each row over the columns that it has."""
    return np.nanstd(of_stage.values, axis=1)


def _is_complete(of_stage: Matrix) -> bool:
    """Returns whether the rows have values in three domains or more each."""
    counts = np.isfinite(of_stage.values).sum(axis=1)
    return len(of_stage.rows) > 1 and bool(np.all(counts >= MIN_DOMAINS))


def _draw(comparison: Comparison, by_stage: dict[str, Matrix]) -> tuple[Figure, Tooltips]:
    heights = [0.75 + 0.25 * len(one.rows) for one in by_stage.values()]
    figure = new_figure(sum(heights) + 0.6)
    grid = figure.subplots(len(by_stage), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
    colors = category_colors(comparison.results.domains)
    tooltips = Tooltips()
    for axes, (stage, one) in zip(grid, by_stage.items(), strict=True):
        right = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right"}
        axes.text(1.075, -0.9, "spread", color=MUTED, fontsize=8, **right)
        for y, (row, spread) in enumerate(zip(one.rows, spreads(one), strict=True)):
            known = one.values[y][np.isfinite(one.values[y])]
            axes.plot([known.min(), known.max()], [y, y], color=MUTED, linewidth=0.8, zorder=1)
            for column, value in zip(one.columns, one.values[y], strict=True):
                if not np.isfinite(value):
                    continue
                is_own = column == row
                edge = {"markeredgecolor": INK if is_own else PAPER, "markeredgewidth": 1.3 if is_own else 0.6}
                color = colors.get(column, MUTED)
                (mark,) = axes.plot([value], [y], "o", color=color, markersize=8 if is_own else 6, zorder=3, **edge)
                tooltips.add(mark, f"{domain_label(row)} → {column}: median {format_number(float(value))}")
            axes.text(1.075, y, format_number(float(spread)), fontsize=8, color=INK, **right)
        axes.set_title(f"after {stage_label(stage)}", pad=14)
        axes.set_yticks(range(len(one.rows)), list(map(domain_label, one.rows)))
        axes.set_ylim(len(one.rows) - 0.5, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylabel("trained on")
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    tested = list(dict.fromkeys(column for one in by_stage.values() for column in one.columns))
    if len(tested) <= MAX_LEGEND_ENTRIES:
        look = {"linestyle": "none", "marker": "o", "markersize": 6, "markeredgecolor": PAPER}
        handles = [Line2D([], [], color=colors.get(name, MUTED), label=name, **look) for name in tested]
        figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns(handles, 130), columnspacing=1.2)
    scale_axis(grid[0], "x", np.concatenate([one.values.ravel() for one in by_stage.values()]), 5)
    grid[-1].set_xlabel(f"median {comparison.metric.label} in each domain tested on")
    return figure, tooltips


def _table(comparison: Comparison, by_stage: dict[str, Matrix]) -> Table:
    columns = ["trained on", "spread (population sd)", "least", "median", "largest", "domains"]
    rows: list[list[str]] = []
    for stage, one in by_stage.items():
        rows.append([f"after {stage_label(stage)}"])
        for row, values, spread in zip(one.rows, one.values, spreads(one), strict=True):
            known = values[np.isfinite(values)]
            numbers = [spread, known.min(), np.median(known), known.max()]
            rows.append([domain_label(row), *(format_number(float(number)) for number in numbers), f"{known.size}"])
    summary = f"The spread of the median {comparison.metric.label} over domains"
    return Table(columns, rows, range(1, len(columns)), summary)
