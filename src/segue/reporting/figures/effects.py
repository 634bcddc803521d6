"""The effect of each factor on the outcome: the runs of each level, and paired differences to the first level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segue.reporting.analysis.bootstrap import Estimate, interval_caption
from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.factors import Factor, Level, factors
from segue.reporting.figures.style import (
    BLUE,
    INK,
    MUTED,
    PAPER,
    ReportFigure,
    Tooltips,
    category_colors,
    draw_spread,
    new_figure,
    scale_axis,
    style,
)
from segue.reporting.formatting import Metric, Table, format_number, join_names, plural, stage_label
from segue.rng import numpy_generator
from segue.storage import file_name

MAX_DOTS = 120  # above this a strip of dots is less informative than its quantiles


def effects_figure(comparison: Comparison, stage: str) -> tuple[ReportFigure, Table] | None:
    """Returns the effect of each factor on the outcome of `stage`, with the numbers drawn; None where none varies."""
    varied = factors(comparison, stage)
    if not varied:
        return None
    with style():
        figure, tooltips = _draw(varied, comparison.metric, category_colors(comparison.results.domains))
    estimates = [level.estimate for factor in varied for level in factor.levels]
    caption = (
        f"Left: {comparison.metric.label} in the run's own domain ({comparison.metric.direction}) by level, over"
        f" everything else that was varied ({plural(len(comparison.stage_runs(stage)), 'run')})."
        f" {spread_caption(estimates)} Circles: medians. {interval_caption('Dark lines', estimates)}"
    )
    if any(level.difference for factor in varied for level in factor.levels):
        caption += (
            " Right: the median difference to the first level between runs that differ in nothing else, seeds included;"
            " judge by these."
        )
    if any(factor.coverage(factor.levels) for factor in varied):
        caption += " Where pairs do not cover every target (see the numbers), the left side mixes more of them."
    if comparison.spends_validation([stage]) and any(f.axis.endswith((".images", ".groups")) for f in varied):
        caption += " Labeled images or groups as a factor are those to train on, without those for validation."
    title = f"Effect of each factor on {stage_label(stage)}."
    alt = f"Effect of {join_names([factor.label for factor in varied])} on {comparison.metric.label}"
    report_figure = ReportFigure(file_name(f"effects-{stage}"), figure, title, caption, alt, tooltips)
    return report_figure, _table(comparison, varied)


def spread_caption(estimates: Sequence[Estimate]) -> str:
    """Returns the caption on how the runs of a level are drawn."""
    if max(estimate.runs for estimate in estimates) <= MAX_DOTS:
        return "Dots: single runs."
    return "Wide bars: the middle half of the runs; thin bars: the middle nine tenths; dots where runs are few."


def _table(comparison: Comparison, varied: Sequence[Factor]) -> Table:
    """Returns the numbers of the figure, with the second metric and the pairs behind each difference."""
    columns = ["level", "runs", f"median {comparison.metric.label}"]
    columns += [f"median {comparison.second_metric.label}"] if comparison.second_metric else []
    columns += ["difference in pairs", "pairs"]
    has_coverage = any(factor.coverage(factor.levels) for factor in varied)
    rows: list[list[str]] = []
    for factor in varied:
        rows.append([factor.label])
        for level in factor.levels:
            difference = level.difference
            row = [level.name, f"{level.estimate.runs:,}", level.estimate.text()]
            row += [level.second.text()] if level.second else []
            row += [difference.text(signed=True), f"{difference.runs:,}"] if difference else ["", ""]
            rows.append(row + ([factor.coverage([level])] if has_coverage else []))
    numeric = range(1, len(columns))
    columns += ["coverage"] if has_coverage else []
    return Table(columns, rows, numeric, "The numbers of this figure, with intervals")


def _draw(varied: Sequence[Factor], metric: Metric, domain_colors: dict[str, str]) -> tuple[Figure, Tooltips]:
    """Returns a row per level: the runs' values on the left, paired differences to the first level on the right."""
    rows: list[tuple[Factor, Level | None]] = []
    for factor in varied:
        rows += [(factor, None), *((factor, level) for level in factor.levels)]
    levels = [(y, level) for y, (_, level) in enumerate(rows) if level]
    is_paired = any(level.difference for _, level in levels)
    figure = new_figure(0.75 + 0.245 * len(rows))
    widths = [3, 2] if is_paired else None
    panels = figure.subplots(1, 2 if is_paired else 1, sharey=True, squeeze=False, width_ratios=widths)[0]
    left, right = panels[0], panels[-1]
    tooltips = Tooltips()
    generator = numpy_generator("report", "jitter")
    limits = _difference_limits(varied)
    at_edge = {"transform": left.get_yaxis_transform(), "va": "center", "in_layout": False}
    for y, (factor, level) in enumerate(rows):
        if level is None:
            left.text(0, y + 0.1, factor.label, weight="bold", **at_edge)
            continue
        color = domain_colors.get(level.name, BLUE) if factor.is_domain else BLUE
        if level.values.size <= MAX_DOTS:
            offsets = generator.uniform(-0.24, 0.24, level.values.size) if level.values.size > 1 else np.zeros(1)
            left.scatter(level.values, y + offsets, s=9, color=color, alpha=0.42, linewidths=0, zorder=2)
        else:
            draw_spread(left, y, level.values, color, is_vertical=False, width=9)
        left.text(1, y, f"{level.estimate.runs:,}", ha="right", color=MUTED, fontsize=8, **at_edge)
        text = f"{level.name}: median {level.estimate.text()}, {plural(level.estimate.runs, 'run')}"
        _draw_estimate(left, y, level.estimate, color, tooltips, text)
        if is_paired:
            _draw_difference(right, y, factor.levels[0], level, limits, color, tooltips)
    left.set_yticks([y for y, _ in levels], [level.name for _, level in levels])
    left.text(1, -0.1, "runs", ha="right", color=MUTED, fontsize=8, **at_edge)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.tick_params(axis="y", length=0, labelcolor=INK)
    scale_axis(left, "x", np.concatenate([level.values for _, level in levels]))
    left.margins(x=0.07)
    left.set_xlabel(f"{metric.label} in the run's own domain")
    left.grid(axis="y", visible=False)
    left.spines["left"].set_visible(False)
    if is_paired:
        right.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        right.set_xlabel("difference to the first level, in pairs")
        right.grid(axis="y", visible=False)
        right.spines["left"].set_visible(False)
        right.tick_params(axis="y", length=0)
        right.set_xlim(*limits)
        right.xaxis.set_major_locator(MaxNLocator(5))
        signed = FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        right.xaxis.set_major_formatter(signed)
    return figure, tooltips


def _draw_estimate(
    axes: Axes,
    y: float,
    estimate: Estimate,
    color: str,
    tooltips: Tooltips,
    text: str,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> None:
    if estimate.interval:
        ends = np.clip(estimate.interval, *limits)
        axes.plot(ends, [y, y], color=INK, linewidth=1.6, zorder=3, solid_capstyle="round")
    (mark,) = axes.plot([estimate.median], [y], "o", color=color, markersize=6, markeredgecolor=PAPER, zorder=4)
    tooltips.add(mark, text)


def _difference_limits(varied: Sequence[Factor]) -> tuple[float, float]:
    """Returns the ends of the axis of differences.

    If domains differ so much that all others would shrink to dots, the largest ones are cut off.
    """
    ends: dict[bool, list[float]] = {True: [], False: []}
    for factor in varied:
        for level in factor.levels:
            if level.difference:
                ends[factor.is_target] += [level.difference.median, *(level.difference.interval or ())]
    others = 1.6 * max(map(abs, ends[False]), default=0.0)
    if 0 < others < max(map(abs, ends[True]), default=0.0):
        ends[True] = [min(max(end, -others), others) for end in ends[True]]
    every = [0.0, *ends[True], *ends[False]]
    margin = 0.06 * (max(every) - min(every)) or 1.0
    return min(every) - margin, max(every) + margin


def _draw_difference(
    axes: Axes, y: float, first: Level, level: Level, limits: tuple[float, float], color: str, tooltips: Tooltips
) -> None:
    """Draws a level's difference to the first level of its factor; beyond `limits`, an arrow and the number."""
    difference = level.difference
    if level is first:
        axes.plot([0], [y], "o", color=PAPER, markeredgecolor=MUTED, markersize=5, zorder=4)
    elif difference is None:
        look = {"va": "center", "fontsize": 7.5, "color": MUTED}
        axes.annotate("not crossed", (0, y), (6, 0), textcoords="offset points", **look)
    elif not limits[0] < difference.median < limits[1]:
        is_above, number = difference.median > 0, format_number(difference.median, signed=True)
        text, x, align = (f"{number} →", limits[1], "right") if is_above else (f"← {number}", limits[0], "left")
        axes.text(x, y, text, ha=align, va="center", fontsize=8, color=color, weight="bold")
    else:
        text = f"{level.name} minus {first.name}: {difference.text(signed=True)}, {plural(difference.runs, 'pair')}"
        _draw_estimate(axes, y, difference, color, tooltips, text, limits)
