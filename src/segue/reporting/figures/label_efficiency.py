"""Score against number of labels in each target domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segue.reporting.analysis.bootstrap import interval_caption
from segue.reporting.analysis.comparison import Comparison, before_and_after
from segue.reporting.analysis.factors import LabelGroup, label_groups
from segue.reporting.figures.effects import MAX_DOTS, spread_caption
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    GRAY,
    PAPER,
    VERMILION,
    ReportFigure,
    Tooltips,
    draw_spread,
    new_figure,
    scale_axis,
    style,
)
from segue.reporting.formatting import level_label, plural, stage_label
from segue.rng import numpy_generator

MAX_TICK_CHARACTERS = 110  # that stand beside each other below a line of panels


def label_efficiency_figure(comparison: Comparison) -> ReportFigure | None:
    """Returns score against number of labels, where there is more than one number, or a training from scratch."""
    transfers = comparison.transfer_stages
    scratch = [stage for transfer in transfers for stage in comparison.scratch_stages(transfer)]
    stages = list(dict.fromkeys([*transfers, *scratch])) or comparison.outcome_stages
    groups = label_groups(comparison, stages)
    if not groups or (len({group.labels for group in groups}) < 2 and not scratch):
        return None
    changes = [frame for frame in (before_and_after(comparison, stage) for stage in transfers) if not frame.empty]
    medians = pd.concat(changes).groupby("domain")["before"].median() if changes else pd.Series(dtype=float)
    before = {str(domain): float(median) for domain, median in medians.items()}
    colors = dict(zip(stages, [BLUE, VERMILION, *CATEGORIES[2:]], strict=False))
    colors = {stage: color for stage, color in colors.items() if any(group.stage == stage for group in groups)}
    with style():
        figure, tooltips = _draw(comparison, groups, before, colors)
    estimates = [group.estimate for group in groups]
    metric, unit = comparison.metric, comparison.label_unit
    caption = (
        f"{metric.label.capitalize()} ({metric.direction}) in the target domain against the number of labeled {unit}"
        f" there, training and validation together ({plural(sum(e.runs for e in estimates), 'run')})."
        f" {spread_caption(estimates)} Circles joined by a line: medians."
        f" {interval_caption('Upright lines', estimates)}"
    )
    if any(validation for group in groups for _, validation in group.label_split):
        caption += " Below the axes: the sum, and in brackets the labels for training + for validation."
    if before:
        caption += " Dashed: the same networks after pretraining only, without any label of this domain."
    alt = f"{metric.label} against number of labels"
    return ReportFigure("efficiency", figure, "Label efficiency.", caption, alt, tooltips)


def labels_tick(labels: float, groups: Sequence[LabelGroup]) -> str:
    """Returns "44 (16 + 28)", the sum of training and validation labels.

    The sum stands alone where none validate or runs divide it in more than two ways.
    """
    ways = sorted({way for group in groups for way in group.label_split})
    if not any(validation for _, validation in ways) or len(ways) > 2:
        return level_label(labels)
    sums = " or ".join(f"{level_label(train)} + {level_label(validation)}" for train, validation in ways)
    return f"{level_label(labels)} ({sums})"


def _draw(
    comparison: Comparison, groups: list[LabelGroup], before: dict[str, float], colors: dict[str, str]
) -> tuple[Figure, Tooltips]:
    """Returns a panel per target domain; `before` is the median after pretraining only, by domain."""
    domains = [domain for domain in comparison.results.domains if any(group.domain == domain for group in groups)]
    domains += sorted({group.domain for group in groups} - set(domains))
    columns = min(4, len(domains)) if len(domains) != 6 else 3
    lines = math.ceil(len(domains) / columns)
    figure = new_figure(0.55 + (2.15 if lines > 1 else 3.1) * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    labels = sorted({group.labels for group in groups})
    ticks = [labels_tick(count, [group for group in groups if group.labels == count]) for count in labels]
    tooltips = Tooltips()
    for axes, domain in zip(grid.ravel(), domains, strict=False):
        axes.set_title(domain)
        if domain in before:
            axes.axhline(before[domain], color=GRAY, linewidth=1.3, linestyle=(0, (4, 3)), label="pretraining only")
        for position, (stage, color) in enumerate(colors.items()):
            shift = (position - (len(colors) - 1) / 2) * 0.3  # so that stages stand apart
            of_stage = [group for group in groups if group.domain == domain and group.stage == stage]
            places = [labels.index(group.labels) + shift for group in of_stage]
            _draw_stage(axes, of_stage, places, color, tooltips)
        axes.set_xticks(range(len(labels)), ticks)
        if max(map(len, ticks)) * len(ticks) * columns > MAX_TICK_CHARACTERS:
            axes.tick_params(axis="x", labelrotation=40)
            axes.set_xticks(range(len(labels)), ticks, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.grid(axis="x", visible=False)
    values = [*(group.values for group in groups), np.array(list(before.values()), dtype=float)]
    scale_axis(grid[0][0], "y", np.concatenate(values))
    for axes in grid.ravel()[len(domains) :]:
        axes.set_visible(False)
    for column in range(columns):
        last = max(line for line in range(lines) if line * columns + column < len(domains))
        grid[last][column].set_xlabel(f"labeled {comparison.label_unit}")
        grid[last][column].tick_params(labelbottom=True)
    for line in grid:
        line[0].set_ylabel(comparison.metric.label)
    handles, names = grid[0][0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside upper left", ncols=len(unique))
    return figure, tooltips


def _draw_stage(axes: Axes, groups: list[LabelGroup], places: list[float], color: str, tooltips: Tooltips) -> None:
    """Draws the runs of one stage in one domain, with their medians and intervals."""
    if not groups:
        return
    generator = numpy_generator("report", "jitter", groups[0].domain, groups[0].stage)
    for x, group in zip(places, groups, strict=True):
        if group.values.size <= MAX_DOTS:
            jitter = generator.uniform(-0.1, 0.1, group.values.size)
            axes.scatter(x + jitter, group.values, s=8, color=color, alpha=0.35, linewidths=0, zorder=2)
        else:
            draw_spread(axes, x, group.values, color, is_vertical=True, width=11)
        if group.estimate.interval:
            axes.plot([x, x], group.estimate.interval, color=color, linewidth=2, zorder=3)
    medians = [group.estimate.median for group in groups]
    axes.plot(places, medians, color=color, linewidth=1.5, zorder=3, label=stage_label(groups[0].stage))
    for x, group in zip(places, groups, strict=True):
        look = {"color": color, "markersize": 5, "markeredgecolor": PAPER, "zorder": 4}
        (mark,) = axes.plot([x], [group.estimate.median], "o", **look)
        text = f"{group.stage}, {level_label(group.labels)} labels, {group.domain}: median {group.estimate.text()}"
        tooltips.add(mark, f"{text}, {plural(group.estimate.runs, 'run')}")
