"""Settings in pairs: the median of every combination of two settings that were both varied."""

from __future__ import annotations

import itertools
import math

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from segue.reporting.analysis.comparison import Comparison, Matrix, sorted_levels
from segue.reporting.figures.matrices import color_scale, draw_matrix
from segue.reporting.figures.style import SCALE, ReportFigure, Tooltips, new_figure, style
from segue.reporting.formatting import axis_label, level_label, plural, stage_label
from segue.storage import file_name

MAX_LEVELS = 8  # of a setting that is drawn
MAX_PANELS = 9
NOT_SETTINGS = ("domain", "pair", "mix")  # of an axis: what is trained on


def interactions_figure(comparison: Comparison, stage: str) -> ReportFigure | None:
    """Returns a matrix of medians for each two settings of `stage` and its ancestors, None where fewer were varied."""
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    axes = [
        axis
        for axis in comparison.axes(stage)
        if axis.partition(".")[2] not in NOT_SETTINGS and 1 < frame[axis].nunique(dropna=True) <= MAX_LEVELS
    ]
    panels = {pair: _matrix(comparison, stage, *pair) for pair in itertools.combinations(axes, 2)}
    if not panels:
        return None
    first_panels = dict(itertools.islice(panels.items(), MAX_PANELS))
    with style():
        figure, tooltips = _draw(comparison, first_panels)
    metric = comparison.metric
    caption = (
        f"Median {metric.label} in the run's own domain over everything else that was varied"
        f" ({plural(len(frame), 'run')}); brighter is better."
    )
    caption += f" The first {MAX_PANELS} of {len(panels)} pairs." if len(panels) > MAX_PANELS else ""
    title = f"Settings of {stage_label(stage)} in pairs."
    alt = f"Median {metric.label} for each two settings"
    return ReportFigure(file_name(f"interactions-{stage}"), figure, title, caption, alt, tooltips)


def _matrix(comparison: Comparison, stage: str, first: str, second: str) -> Matrix:
    """Returns the medians of the runs with each level of two axes."""
    frame = comparison.stage_runs(stage)
    rows, columns = (sorted_levels(frame[axis]) for axis in (first, second))
    groups = frame.groupby([first, second])["value"]
    shape = (len(rows), len(columns))
    values, quartiles, counts = np.full(shape, np.nan), np.full((*shape, 2), np.nan), np.zeros(shape, dtype=int)
    for (row, column), part in groups:
        cell = rows.index(row), columns.index(column)
        values[cell], counts[cell] = part.median(), part.count()
        quartiles[cell] = part.quantile([0.25, 0.75])
    return Matrix(
        [level_label(row) for row in rows], [level_label(column) for column in columns], values, quartiles, counts
    )


def _draw(comparison: Comparison, panels: dict[tuple[str, str], Matrix]) -> tuple[Figure, Tooltips]:
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    rows = [max(len(one.rows) for one in list(panels.values())[i * columns : (i + 1) * columns]) for i in range(lines)]
    figure = new_figure(sum(0.85 + 0.36 * count for count in rows))
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=[0.85 + 0.36 * count for count in rows]).ravel()
    scale = color_scale(np.concatenate([one.values[np.isfinite(one.values)] for one in panels.values()]))
    cmap = colormaps[f"{SCALE}_r" if comparison.metric.lower_is_better else SCALE]
    tooltips = Tooltips()
    for axes, ((first, second), one) in zip(grid, panels.items(), strict=False):
        draw_matrix(axes, one, cmap, scale, tooltips, frames_diagonal=False)
        axes.set_ylabel(axis_label(first).replace(": ", ":\n"))
        axes.set_xlabel(axis_label(second))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure, tooltips
