"""Trained on × tested on: medians in a matrix per stage, on one color scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from segue.reporting.analysis.comparison import Comparison, Matrix, matrix, pair_matrix
from segue.reporting.figures.style import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    SCALE,
    ReportFigure,
    Tooltips,
    new_figure,
    plain_ticks,
    style,
)
from segue.reporting.formatting import Metric, domain_label, format_cell, format_number, plural, stage_label

Color = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    title: str
    rows: str
    columns: str
    matrix: Matrix


def matrices_figure(comparison: Comparison, *, second: bool = False) -> ReportFigure | None:
    """Returns trained on × tested on for every parent or lone stage, then pretrained on × transferred to.

    None where there is no metric, no value or a single one, which the conclusions state. `second` takes the second
    metric.
    """
    metric = comparison.second_metric if second else comparison.metric
    if metric is None:
        return None
    transfers = comparison.transfer_stages
    scratch = {stage for transfer in transfers for stage in comparison.scratch_stages(transfer)}
    panels, mixtures = [], []
    for stage in comparison.stages:
        if stage in transfers or stage in scratch:
            continue
        title = f"after {stage_label(stage)}"
        if (pairs := pair_matrix(comparison, stage, second=second)) is not None:
            mixtures.append(Panel(f"{title} of two domains", "mixed with", "tested on", pairs))
        else:
            panels.append(Panel(title, "trained on", "tested on", matrix(comparison, stage, second=second)))
    for stage in transfers:
        values = matrix(comparison, stage, after_transfer=True, second=second)
        title = f"after {stage_label(stage)}, in the target domain"
        panels.append(Panel(title, "pretrained on", "transferred to, tested on", values))
    panels = [panel for panel in [*panels, *mixtures] if np.isfinite(panel.matrix.values).any()]
    if all(panel.matrix.values.size == 1 for panel in panels):
        return None
    with style():
        figure, tooltips = _draw(panels, metric)
    runs = sum(len(comparison.stage_runs(stage)) for stage in comparison.stages)
    caption = (
        f"Median {metric.label} over all configurations and seeds ({comparison.split} split, {plural(runs, 'run')});"
        " brighter is better. A framed cell is tested on the domain it was trained on. Point at a cell for quartiles"
        " and number of runs."
    )
    if transfers:
        caption += " After transfer, columns are the domain of the labels, rows the source that the runs started from."
    alt = f"Matrices of the median {metric.label}: " + "; ".join(panel.title for panel in panels)
    name = f"matrices-{metric.column}" if second else "matrices"
    return ReportFigure(name, figure, "Trained on × tested on.", caption, alt, tooltips)


def _draw(panels: list[Panel], metric: Metric) -> tuple[Figure, Tooltips]:
    """Returns the matrices one beside or above the other, brighter is better."""
    values = np.concatenate([panel.matrix.values[np.isfinite(panel.matrix.values)] for panel in panels])
    scale = color_scale(values)
    widest = max(len(panel.matrix.columns) for panel in panels)
    is_beside = len(panels) > 1 and 2 * widest + 2 <= 14
    heights = [1.05 + 0.36 * len(panel.matrix.rows) for panel in panels]
    figure = new_figure((max(heights) if is_beside else sum(heights)) + 0.1)
    shape = (1, len(panels)) if is_beside else (len(panels), 1)
    layout = {} if is_beside else {"height_ratios": heights}
    grid = figure.subplots(*shape, squeeze=False, gridspec_kw=layout).ravel()
    tooltips = Tooltips()
    cmap = colormaps[f"{SCALE}_r" if metric.lower_is_better else SCALE]
    for position, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
        draw_matrix(axes, panel.matrix, cmap, scale, tooltips)
        axes.set_title(f"{'abcdefgh'[position % 8]} · {panel.title}", pad=8)
        axes.set_ylabel(panel.rows)
        axes.set_xlabel(panel.columns)
    bar = figure.colorbar(ScalarMappable(scale, cmap), ax=list(grid), aspect=28, pad=0.015, fraction=0.03)
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.grid(False)
    bar.set_label(metric.label)
    bar.ax.yaxis.set_major_formatter(plain_ticks())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    if isinstance(scale, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    return figure, tooltips


def color_scale(values: np.ndarray) -> Normalize:
    """Returns a scale over `values`: logarithmic where all are positive and differ more than fivefold."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low <= 0 else (low / 1.5, high * 1.5)
    return LogNorm(low, high) if low > 0 and high / low > 5 else Normalize(low, high)


def draw_matrix(
    axes: Axes, matrix: Matrix, cmap: Colormap, scale: Normalize, tooltips: Tooltips, *, frames_diagonal: bool = True
) -> None:
    """Draws the medians as cells with their numbers; `frames_diagonal` frames those of a domain tested on itself."""
    size = 9 if len(matrix.columns) <= 8 else 8
    for (i, j), value in np.ndenumerate(matrix.values):
        row, column = domain_label(matrix.rows[i]), matrix.columns[j]
        known = math.isfinite(value)
        color: Color = cmap(scale(value)) if known else FAINT
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=color, edgecolor=PAPER, linewidth=1.6)
        low, high = map(format_number, matrix.quartiles[i, j])
        summary = f"median {format_number(value)}, quartiles {low} to {high}, {plural(int(matrix.counts[i, j]), 'run')}"
        tooltips.add(axes.add_patch(cell), f"{row} → {column}: {summary if known else 'no runs'}")
        ink = _readable_on(color) if known else MUTED
        # inside its cell: to measure each for the layout takes longer than to draw the figure
        axes.text(j, i, format_cell(value), ha="center", va="center", fontsize=size, color=ink, in_layout=False)
        if known and frames_diagonal and row == column:
            axes.add_patch(Rectangle((j - 0.44, i - 0.41), 0.88, 0.82, fill=False, edgecolor=ink, linewidth=0.9))
    axes.set_xlim(-0.5, len(matrix.columns) - 0.5)
    axes.set_ylim(len(matrix.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(matrix.columns)), list(map(domain_label, matrix.columns)))
    axes.set_yticks(range(len(matrix.rows)), list(map(domain_label, matrix.rows)))
    if max(map(len, matrix.columns)) * len(matrix.columns) > 90:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _readable_on(color: Color) -> str:
    """Returns near-black or near-white, whichever stands out more on `color` (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#101010" if luminance > 0.179 else "#fafafa"
