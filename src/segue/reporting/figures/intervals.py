"""Values with their intervals, a row each: one or two panels side by side from tables of analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from segue.reporting.analysis.result import Analysis
from segue.reporting.figures.style import (
    CATEGORIES,
    INK,
    MUTED,
    PAPER,
    ReportFigure,
    Tooltips,
    new_figure,
    plain_ticks,
    style,
)
from segue.reporting.formatting import domain_label, format_number

MAX_ROWS = 30  # of a panel; the table has all
MAX_CHARACTERS = 56  # of a row's name


@dataclass(frozen=True)
class Panel:
    """Columns of an analysis drawn against its rows, named by `name`; `group` is a column whose levels are headings.

    series: column -> its name in the legend, which a single one needs not; zero: whether a line marks 0.
    """

    analysis: Analysis
    series: Mapping[str, str]
    name: str
    title: str
    label: str
    group: str = ""
    zero: bool = False


def intervals_figure(name: str, panels: Sequence[Panel], title: str, alt: str) -> ReportFigure:
    """Returns the panels side by side, with the notes of their analyses as caption."""
    tooltips = Tooltips()
    with style():
        lines = max(_line_count(panel) for panel in panels)
        figure = new_figure(0.95 + 0.235 * lines)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            _draw(axes, panel, lines, tooltips)
            names = [tick.get_text() for tick in axes.get_yticklabels()]
            if place and names == [tick.get_text() for tick in grid[0].get_yticklabels()]:
                axes.tick_params(axis="y", labelleft=False)
            axes.set_title(f"{'abcd'[place]} · {panel.title}" if len(panels) > 1 else panel.title, pad=8)
    notes = list(dict.fromkeys(note for panel in panels for note in panel.analysis.notes))
    if any(len(panel.analysis.table) > MAX_ROWS for panel in panels):
        notes.append(f"The first {MAX_ROWS} rows of the table are drawn.")
    return ReportFigure(name, figure, f"{title}.", " ".join(notes), alt, tooltips)


def _line_count(panel: Panel) -> int:
    table = panel.analysis.table.head(MAX_ROWS)
    return len(table) + (table[panel.group].nunique() if panel.group else 0)


def _draw(axes: Axes, panel: Panel, lines: int, tooltips: Tooltips) -> None:
    y, ticks, heading = 0, [], None
    for row in panel.analysis.table.head(MAX_ROWS).to_dict("records"):
        if panel.group and row[panel.group] != heading:
            heading = row[panel.group]
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # over the line at 0
            axes.text(0, y, str(heading), weight="bold", va="center", transform=axes.get_yaxis_transform(), bbox=box)
            y += 1
        for place, (column, color) in enumerate(zip(panel.series, CATEGORIES, strict=False)):
            at = y + 0.22 * (place - (len(panel.series) - 1) / 2)
            value, low, high = (float(row.get(f"{column}{end}", np.nan)) for end in ("", "_low", "_high"))
            text = f"{domain_label(str(row[panel.name]))}, {panel.series[column] or column}: {format_number(value)}"
            if np.isfinite(low):
                line = INK if len(panel.series) == 1 else color
                axes.plot([low, high], [at, at], color=line, linewidth=1.6, zorder=3, solid_capstyle="round")
                text += f" [{format_number(low)}, {format_number(high)}]"
            look = {"color": color, "markersize": 6, "markeredgecolor": PAPER, "zorder": 4, "linestyle": ""}
            (mark,) = axes.plot([value], [at], "o", label="" if ticks else panel.series[column], **look)
            tooltips.add(mark, text)
        ticks.append((y, _shortened(domain_label(str(row[panel.name])))))
        y += 1
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.set_ylim(lines - 0.4, -0.7)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(panel.label)
    axes.margins(x=0.07)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(plain_ticks())
    if len(panel.series) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(panel.series))
    if panel.zero:
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
