"""The comparing figures: matrices, effects of factors, and score against number of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from segue.reporting.analysis.comparison import Matrix
from segue.reporting.analysis.factors import Factor, Group, Level
from segue.reporting.figures.style import BLUE, FAINT, GREY, INK, MUTED, PAPER, SCALE, scale_axis, sheet, tip
from segue.reporting.page.formatting import Metric, cell_number, estimate_text, level_text, number, several, stage_words
from segue.rng import numpy_generator

Colour = str | tuple[float, float, float, float]
MOST_TICK_TEXT = 110  # characters that stand beside each other below a line of panels
MOST_DOTS = 120  # above this a strip of dots says less than its quantiles


def matrices_figure(panels: Sequence[tuple[str, str, str, Matrix]], metric: Metric) -> tuple[Figure, dict[str, str]]:
    """Returns the matrices one beside or above the other on one colour scale, brighter is better, with tooltips.

    Each panel is (title, what its rows are, what its columns are, matrix).
    """
    values = np.concatenate([found.values[np.isfinite(found.values)] for *_, found in panels])
    scale = colour_scale(values)
    widest = max(len(found.columns) for *_, found in panels)
    beside = len(panels) > 1 and 2 * widest + 2 <= 14
    heights = [1.05 + 0.36 * len(found.rows) for *_, found in panels]
    figure = sheet((max(heights) if beside else sum(heights)) + 0.1)
    layout = {"height_ratios": heights} if not beside else {}
    shape = (1, len(panels)) if beside else (len(panels), 1)
    every = figure.subplots(*shape, squeeze=False, gridspec_kw=layout).ravel()
    tips: dict[str, str] = {}
    cmap = colormaps[f"{SCALE}_r" if metric.lower_is_better else SCALE]
    for position, (axes, (title, rows, columns, found)) in enumerate(zip(every, panels, strict=True)):
        _draw_matrix(axes, found, cmap, scale, tips)
        axes.set_title(f"{'abcdefgh'[position % 8]} · {title}", pad=8)
        axes.set_ylabel(rows)
        axes.set_xlabel(columns)
    bar = figure.colorbar(ScalarMappable(scale, cmap), ax=list(every), aspect=28, pad=0.015, fraction=0.03)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.grid(False)
    bar.set_label(metric.words)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    bar.ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    if isinstance(scale, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    return figure, tips


def colour_scale(values: np.ndarray) -> Normalize:
    """Returns a scale over `values`: logarithmic where all are positive and differ more than fivefold."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low <= 0 else (low / 1.5, high * 1.5)
    return LogNorm(low, high) if low > 0 and high / low > 5 else Normalize(low, high)


def _draw_matrix(axes: Axes, found: Matrix, cmap: Colormap, scale: Normalize, tips: dict[str, str]) -> None:
    size = 9 if len(found.columns) <= 8 else 8
    for i, row in enumerate(found.rows):
        for j, column in enumerate(found.columns):
            value = float(found.values[i, j])
            known = math.isfinite(value)
            colour: Colour = cmap(scale(value)) if known else FAINT
            patch = axes.add_patch(
                Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1.6)
            )
            low, high = found.quartiles[i, j]
            tip(
                tips,
                patch,
                f"{row} → {column}: median {number(value)}, quartiles {number(low)} to {number(high)},"
                f" {several(int(found.runs[i, j]), 'run')}"
                if known
                else f"{row} → {column}: no runs",
            )
            text = axes.text(j, i, cell_number(value), ha="center", va="center", fontsize=size)
            text.set_color(_readable(colour) if known else MUTED)
            if known and row == column:
                axes.add_patch(
                    Rectangle((j - 0.44, i - 0.41), 0.88, 0.82, fill=False, edgecolor=_readable(colour), linewidth=0.9)
                )
    axes.set_xlim(-0.5, len(found.columns) - 0.5)
    axes.set_ylim(len(found.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(found.columns)), found.columns)
    axes.set_yticks(range(len(found.rows)), found.rows)
    if max(map(len, found.columns)) * len(found.columns) > 90:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _readable(colour: Colour) -> str:
    """Returns near-black or near-white, whichever stands out more on `colour` (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#101010" if luminance > 0.179 else "#fafafa"


def effects_figure(
    factors: Sequence[Factor], metric: Metric, domain_colours: dict[str, str]
) -> tuple[Figure, dict[str, str]]:
    """Returns a row per level: the runs' values on the left, paired differences to the first level on the right."""
    rows: list[tuple[Factor, Level | None]] = []
    for factor in factors:
        rows += [(factor, None), *((factor, level) for level in factor.levels)]
    paired = any(level.difference for _, level in rows if level)
    figure = sheet(0.75 + 0.245 * len(rows))
    every = figure.subplots(1, 2 if paired else 1, sharey=True, squeeze=False, width_ratios=[3, 2] if paired else None)
    left, right = every[0][0], every[0][-1]
    tips: dict[str, str] = {}
    generator = numpy_generator("report", "jitter")
    reach = _reach(factors)
    for y, (factor, level) in enumerate(rows):
        if level is None:
            left.text(0, y + 0.1, factor.words, transform=left.get_yaxis_transform(), weight="bold", va="center")
            continue
        colour = domain_colours.get(level.name, BLUE) if factor.is_domain else BLUE
        _draw_spread(left, y, level.values, colour, generator)
        count = f"{level.estimate.runs:,}"
        left.text(1, y, count, transform=left.get_yaxis_transform(), ha="right", va="center", color=MUTED, fontsize=8)
        _draw_interval(left, y, level, colour, tips)
        if paired:
            _draw_difference(right, y, (factor, level), reach, colour, tips)
    left.set_yticks(
        [y for y, (_, level) in enumerate(rows) if level],
        [level.name for _, level in rows if level],
    )
    left.text(1, -0.1, "runs", transform=left.get_yaxis_transform(), ha="right", va="center", color=MUTED, fontsize=8)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.tick_params(axis="y", length=0, labelcolor=INK)
    scale_axis(left, "x", np.concatenate([level.values for _, level in rows if level]))
    left.margins(x=0.07)
    left.set_xlabel(f"{metric.words} in the run's own domain")
    left.grid(axis="y", visible=False)
    left.spines["left"].set_visible(False)
    if paired:
        right.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        right.set_xlabel("difference to the first level, in pairs")
        right.grid(axis="y", visible=False)
        right.spines["left"].set_visible(False)
        right.tick_params(axis="y", length=0)
        right.set_xlim(*reach)
        right.xaxis.set_major_locator(MaxNLocator(5))
        right.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        )
    return figure, tips


def _draw_spread(axes: Axes, at: float, values: np.ndarray, colour: str, generator: np.random.Generator) -> None:
    if values.size <= MOST_DOTS:
        offsets = generator.uniform(-0.24, 0.24, values.size) if values.size > 1 else np.zeros(1)
        axes.scatter(values, at + offsets, s=9, color=colour, alpha=0.42, linewidths=0, zorder=2)
        return
    low, first, third, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    axes.plot([low, high], [at, at], color=colour, alpha=0.35, linewidth=2.2, solid_capstyle="butt", zorder=2)
    axes.plot([first, third], [at, at], color=colour, alpha=0.35, linewidth=9, solid_capstyle="butt", zorder=2)


def _draw_interval(axes: Axes, at: float, level: Level, colour: str, tips: dict[str, str]) -> None:
    found = level.estimate
    if found.interval:
        axes.plot(found.interval, [at, at], color=INK, linewidth=1.6, zorder=3, solid_capstyle="round")
    marker = axes.plot([found.median], [at], "o", color=colour, markersize=6, markeredgecolor=PAPER, zorder=4)[0]
    tip(tips, marker, f"{level.name}: median {estimate_text(found)}, {several(found.runs, 'run')}")


def _reach(factors: Sequence[Factor]) -> tuple[float, float]:
    """Returns the ends of the axis of differences: where domains differ so much that all else would shrink to dots,
    those that reach beyond are left out."""
    ends: dict[bool, list[float]] = {True: [], False: []}
    for factor in factors:
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
    axes: Axes, at: float, where: tuple[Factor, Level], reach: tuple[float, float], colour: str, tips: dict[str, str]
) -> None:
    """Draws a level's difference to the first level of its factor; beyond `reach` an arrow and the number stand."""
    factor, level = where
    first, found = factor.levels[0], level.difference
    if level is first:
        axes.plot([0], [at], "o", color=PAPER, markeredgecolor=MUTED, markersize=5, zorder=4)
        return
    if found is None:
        axes.annotate(
            "not crossed", (0, at), (6, 0), textcoords="offset points", va="center", fontsize=7.5, color=MUTED
        )
        return
    if not reach[0] < found.median < reach[1]:
        right = found.median > 0
        text = f"{number(found.median, signed=True)} →" if right else f"← {number(found.median, signed=True)}"
        place = (reach[1], "right") if right else (reach[0], "left")
        axes.text(place[0], at, text, ha=place[1], va="center", fontsize=8, color=colour, weight="bold")
        return
    if found.interval:
        ends = np.clip(found.interval, *reach)
        axes.plot(ends, [at, at], color=INK, linewidth=1.6, zorder=3, solid_capstyle="round")
    marker = axes.plot([found.median], [at], "o", color=colour, markersize=6, markeredgecolor=PAPER, zorder=4)[0]
    text = f"{level.name} less {first.name}: {estimate_text(found, signed=True)}, {several(found.runs, 'pair')}"
    tip(tips, marker, text)


def efficiency_figure(
    groups: Sequence[Group],
    before: dict[str, float],
    stage_colours: dict[str, str],
    words: tuple[Metric, str],
    domains: Sequence[str],
) -> tuple[Figure, dict[str, str]]:
    """Returns a panel per target domain: every run, the median and its interval against the number of labels.

    `before` is the median after pretraining only, by domain; `words` the metric and what is counted as labels.
    """
    metric, unit = words
    present = [domain for domain in domains if any(group.domain == domain for group in groups)]
    present += sorted({group.domain for group in groups} - set(present))
    columns = min(4, len(present)) if len(present) != 6 else 3
    lines = math.ceil(len(present) / columns)
    figure = sheet(0.55 + (2.15 if lines > 1 else 3.1) * lines)
    every = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    labels = sorted({group.labels for group in groups})
    ticks = [labels_text(count, [group for group in groups if group.labels == count]) for count in labels]
    tips: dict[str, str] = {}
    for axes, domain in zip(every.ravel(), present, strict=False):
        axes.set_title(domain)
        if domain in before:
            axes.axhline(before[domain], color=GREY, linewidth=1.3, linestyle=(0, (4, 3)), label="pretraining only")
        for position, (stage, colour) in enumerate(stage_colours.items()):
            chosen = [group for group in groups if group.domain == domain and group.stage == stage]
            _draw_groups(axes, chosen, labels, (position, len(stage_colours)), colour, tips)
        axes.set_xticks(range(len(labels)), ticks)
        if max(map(len, ticks)) * len(ticks) * columns > MOST_TICK_TEXT:
            axes.tick_params(axis="x", labelrotation=40)
            axes.set_xticks(range(len(labels)), ticks, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.grid(axis="x", visible=False)
    shown = np.concatenate([*(group.values for group in groups), np.array(list(before.values()), dtype=float)])
    scale_axis(every[0][0], "y", shown)
    for axes in every.ravel()[len(present) :]:
        axes.set_visible(False)
    for column in range(columns):
        last = max(line for line in range(lines) if line * columns + column < len(present))
        every[last][column].set_xlabel(f"labelled {unit}")
        every[last][column].tick_params(labelbottom=True)
    for line in every:
        line[0].set_ylabel(metric.words)
    handles, names = every[0][0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend(list(unique.values()), list(unique), loc="outside upper left", ncols=len(unique))
    return figure, tips


def labels_text(labels: float, groups: Sequence[Group]) -> str:
    """Returns "44 (16 + 28)", the sum of training and validation labels, or the sum alone where none validate or
    runs divide it in more than two ways."""
    ways = sorted({way for group in groups for way in group.label_split})
    if not any(validation for _, validation in ways) or len(ways) > 2:
        return level_text(labels)
    told = " or ".join(f"{level_text(train)} + {level_text(validation)}" for train, validation in ways)
    return f"{level_text(labels)} ({told})"


def _draw_groups(
    axes: Axes, groups: list[Group], labels: list[float], place: tuple[int, int], colour: str, tips: dict[str, str]
) -> None:
    """Draws one stage in one domain; `place` is (its position, the number of stages), so that they stand apart."""
    if not groups:
        return
    generator = numpy_generator("report", "jitter", groups[0].domain, groups[0].stage)
    shift = (place[0] - (place[1] - 1) / 2) * 0.3
    middles = [(labels.index(group.labels) + shift, group) for group in groups]
    for x, group in middles:
        if group.values.size <= MOST_DOTS:
            at = x + generator.uniform(-0.1, 0.1, group.values.size)
            axes.scatter(at, group.values, s=8, color=colour, alpha=0.35, linewidths=0, zorder=2)
        else:
            low, first, third, high = np.quantile(group.values, [0.05, 0.25, 0.75, 0.95])
            axes.plot([x, x], [low, high], color=colour, alpha=0.3, linewidth=2, solid_capstyle="butt")
            axes.plot([x, x], [first, third], color=colour, alpha=0.3, linewidth=11, solid_capstyle="butt")
        if group.estimate.interval:
            axes.plot([x, x], group.estimate.interval, color=colour, linewidth=2, zorder=3)
    medians = [group.estimate.median for _, group in middles]
    axes.plot(
        [x for x, _ in middles], medians, color=colour, linewidth=1.5, zorder=3, label=stage_words(groups[0].stage)
    )
    for x, group in middles:
        marker = axes.plot(
            [x], [group.estimate.median], "o", color=colour, markersize=5, markeredgecolor=PAPER, zorder=4
        )
        text = (
            f"{group.stage}, {level_text(group.labels)} labels, {group.domain}: median {estimate_text(group.estimate)}"
        )
        tip(tips, marker[0], f"{text}, {several(group.estimate.runs, 'run')}")
