"""Courses of training side by side: a column per optimiser and schedule, rows for learning rate, loss and metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.factors import sorted_levels
from segue.reporting.figures.style import BLUE, CATEGORIES, INK, colours_of, graded, sheet, tip
from segue.reporting.page.formatting import configuration_words, number, several

COURSE_KEYS = ("variant", "optimizer", "schedule", "warmup")  # settings that make a course of the learning rate
MOST_COLUMNS = 8
MOST_SINGLE = 6  # runs drawn one by one; more become a band
MOST_CLASSES = 4  # of which the metrics are drawn; above two, F1 and area under the PR curve alone
DECADES = 7  # of learning rate, below which a course is cut off
MEASURES = (
    ("accuracy", "accuracy"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1 (Dice)"),
    ("auprc", "area under\nPR curve"),
    ("auroc", "area under\nROC curve"),
)
FEW_MEASURES = [entry for entry in MEASURES if entry[0] in ("f1", "auprc")]  # where there are many classes
LEGEND_ROW_IN = 0.22
LEGEND_CHARACTERS = 130
HIDDEN = 0.1  # share of a metric's lowest values, those of the first epochs, that an axis may leave out
DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Row:
    """A row of panels: what is written at its axis, the column of the histories drawn solid, and the one dashed."""

    kind: Literal["rate", "loss", "metric"]
    words: str
    solid: str
    dashed: str | None = None


@dataclass(frozen=True)
class Courses:
    """The histories of a stage, divided for drawing.

    frame: histories with `column` and `colour`, texts. columns: the columns shown; all_columns counts those there are.
    colours: text -> ink. pooled: the axes over which lines are medians. classes: the foreground classes shown, of
    all_classes.
    """

    stage: str
    frame: pd.DataFrame
    columns: list[str]
    all_columns: int
    colours: dict[str, str]
    pooled: list[str]
    rows: list[Row]
    classes: list[str]
    all_classes: int

    @property
    def runs(self) -> int:
        return int(self.frame["run"].nunique())

    @property
    def most(self) -> int:
        """The most runs that a line stands for."""
        return int(self.frame.groupby(["column", "colour"])["run"].nunique().max())


def courses(comparison: Comparison, stage: str) -> Courses | None:
    """Returns the courses of a stage's runs; None where neither optimiser nor learning rate differs between them."""
    histories = comparison.results.histories
    if histories.empty or not {"stage", "run", "epoch", "lr"} <= set(histories.columns):
        return None
    frame = histories[histories["stage"] == stage]
    varied = [axis for axis in comparison.axes(stage) if axis in frame and frame[axis].nunique(dropna=True) > 1]
    own = [axis for axis in varied if axis.startswith(f"{stage}.")]
    across = [axis for axis in own if _key(axis).split(".")[0] in COURSE_KEYS]
    if not across or (all(_key(axis) == "variant" for axis in across) and not _rates_differ(frame, across)):
        return None
    by_colour, colours = _colours(comparison, frame, [axis for axis in own if axis not in across])
    frame = frame.assign(column=_texts(frame, across), colour=_texts(frame, by_colour))
    every = _in_order(frame, across, "column")
    rows, classes, all_classes = _rows(frame)
    return Courses(
        stage=stage,
        frame=frame[frame["column"].isin(every[:MOST_COLUMNS])],
        columns=every[:MOST_COLUMNS],
        all_columns=len(every),
        colours=colours,
        pooled=[axis for axis in varied if axis not in across and axis not in by_colour],
        rows=rows,
        classes=classes,
        all_classes=all_classes,
    )


def courses_figure(found: Courses) -> tuple[Figure, dict[str, str]]:
    """Returns the panels, with tooltips: a column per course, one scale per row and one axis of epochs for all."""
    heights = [{"rate": 1.0, "loss": 1.25, "metric": 1.0}[row.kind] for row in found.rows]
    titles = [textwrap.fill(column, max(12, 100 // len(found.columns))) for column in found.columns]
    lines = max(title.count("\n") for title in titles)
    legend = _legend(found)
    lengths = [8 + len(str(handle.get_label())) for handle in legend]
    per_line = len(legend) if sum(lengths) <= LEGEND_CHARACTERS else max(1, LEGEND_CHARACTERS // max(lengths))
    above = LEGEND_ROW_IN * -(-len(legend) // per_line) + 0.16 * lines
    figure = sheet(0.75 + above + 1.22 * sum(heights))
    shape = (len(found.rows), len(found.columns))
    every = figure.subplots(*shape, squeeze=False, sharex=True, sharey="row", height_ratios=heights)
    tips: dict[str, str] = {}
    for position, (column, title) in enumerate(zip(found.columns, titles, strict=True)):
        part = found.frame[found.frame["column"] == column]
        every[0][position].set_title(title)
        every[-1][position].set_xlabel("epoch")
        for axes, row in zip(every[:, position], found.rows, strict=True):
            for colour, ink in found.colours.items():
                _draw(axes, part[part["colour"] == colour], row, ink, (column, colour, tips))
    for line, row in zip(every, found.rows, strict=True):
        line[0].set_ylabel(row.words)
        _scale(line[0], found.frame, row)
    last = float(found.frame["epoch"].max())
    every[-1][0].set_xlim(0 if last > 3 else None, last + 0.01 * last if last > 3 else None)
    every[-1][0].xaxis.set_major_locator(MaxNLocator(5 if len(found.columns) < 5 else 3, integer=True))
    figure.align_ylabels(every[:, 0])
    figure.legend(handles=legend, loc="outside upper left", ncols=per_line)
    return figure, tips


def _key(axis: str) -> str:
    return axis.partition(".")[2]


def _rates_differ(frame: pd.DataFrame, across: list[str]) -> bool:
    """Returns whether the median rate of some epoch differs between levels of the axes."""
    medians = frame.groupby([*across, "epoch"], dropna=False)["lr"].median().unstack("epoch")
    spread = medians.max() - medians.min()
    return bool((spread > 1e-6 * medians.max()).any())


def _colours(comparison: Comparison, frame: pd.DataFrame, own: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the axes told by colour and the ink of each level: those of the target, else the first with few levels.

    Without any, the only level is "".
    """
    target = [axis for axis in own if _key(axis).split(".")[0] == "target"]
    for axes in filter(None, [target, *([axis] for axis in own if axis not in target)]):
        names = _in_order(frame.assign(colour=_texts(frame, axes)), axes, "colour")
        if 1 < len(names) <= len(CATEGORIES):
            numeric = len(names) > 2 and len(axes) == 1 and pd.api.types.is_numeric_dtype(frame[axes[0]])
            if axes[0].endswith(".domain"):
                domains = colours_of(comparison.results.domains)
                return axes, {name: domains.get(name, INK) for name in names}
            return axes, graded(names) if numeric else colours_of(names)
    return [], {"": BLUE}


def _texts(frame: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    """Returns for each row its levels of `axes` in words, each combination worded once."""
    if not axes:
        return pd.Series("", index=frame.index)
    levels = frame[list(axes)].drop_duplicates()
    words = {tuple(map(str, row)): configuration_words(dict(zip(axes, row, strict=True))) for row in levels.to_numpy()}
    keys = frame[list(axes)].astype(object).astype(str)
    return pd.Series([words[key] for key in keys.itertuples(index=False, name=None)], index=frame.index)


def _in_order(frame: pd.DataFrame, axes: Sequence[str], text: str) -> list[str]:
    """Returns the distinct texts, by the levels of the axes: numbers ascending, "none" first."""
    order = {axis: {level: i for i, level in enumerate(sorted_levels(frame[axis], []))} for axis in axes}
    levels = frame.drop_duplicates(text)
    ranks = [
        [order[axis].get(value, -1) for axis, value in zip(axes, row, strict=True)] for row in _values(levels, axes)
    ]
    return [name for _, name in sorted(zip(ranks, levels[text], strict=True))]


def _values(frame: pd.DataFrame, axes: Sequence[str]) -> list[tuple]:
    return list(frame[list(axes)].itertuples(index=False, name=None))


def _rows(frame: pd.DataFrame) -> tuple[list[Row], list[str], int]:
    """Returns the rows that the histories can fill, the classes whose metrics are shown, and how many there are."""

    def known(column: str) -> bool:
        return column in frame.columns and bool(np.isfinite(frame[column].astype(float)).any())

    rows = [Row("rate", "learning rate", "lr")]
    losses = [column for column in ("validation_loss", "train_loss") if known(column)]
    if losses:
        rows.append(Row("loss", "loss", "validation_loss", "train_loss"))
    part = "validation" if any(known(c) for c in frame.columns if str(c).startswith("validation_")) else "train"
    found = [str(column).removeprefix(f"{part}_dice_") for column in frame.columns if f"{part}_dice_" in str(column)]
    classes = [name for name in found if name not in ("mean", "background")]
    measures = MEASURES if len(classes) <= 2 else FEW_MEASURES
    for name in classes[:MOST_CLASSES]:
        for measure, words in measures:
            column = f"{part}_{measure}_{name}"
            if measure == "f1" and not known(column):
                column = f"{part}_dice_{name}"  # of pixels, both are the same number
            if known(column):
                rows.append(Row("metric", f"{words},\n{name}" if len(classes) > 1 else words, column))
    return rows, classes[:MOST_CLASSES], len(classes)


def _draw(axes: Axes, part: pd.DataFrame, row: Row, ink: str, where: tuple[str, str, dict[str, str]]) -> None:
    """Draws one colour of a panel: median over runs, and the runs themselves or the band of their middle half."""
    for column, style in ((row.solid, "solid"), (row.dashed, DASHES)):
        by_run = _by_run(part, column)
        if by_run.empty:
            continue
        epochs = by_run.index.to_numpy(dtype=float)
        middle = by_run.median(axis=1).to_numpy()
        width = 1.6 if style == "solid" else 1.1
        marker = "o" if epochs.size == 1 else None
        line = axes.plot(epochs, middle, color=ink, linewidth=width, linestyle=style, marker=marker, zorder=3)[0]
        if style == "solid":
            _draw_runs(axes, by_run, ink)
            name, colour, tips = where
            told = ", ".join(filter(None, [name, colour]))
            words = row.words.replace("\n", " ")
            runs = several(by_run.shape[1], "run")
            tip(tips, line, f"{told}: {words}, at the last epoch a median of {_plain(row, middle[-1])}, {runs}")
        if row.kind == "rate" and "lr_max" in part.columns:
            highest = _by_run(part, "lr_max").median(axis=1).reindex(by_run.index).to_numpy()
            axes.fill_between(epochs, middle, highest, color=ink, alpha=0.18, linewidth=0)


def _draw_runs(axes: Axes, by_run: pd.DataFrame, ink: str) -> None:
    epochs = by_run.index.to_numpy(dtype=float)
    if by_run.shape[1] > MOST_SINGLE:
        low, high = (by_run.quantile(q, axis=1).to_numpy() for q in (0.25, 0.75))
        axes.fill_between(epochs, low, high, color=ink, alpha=0.16, linewidth=0)
    elif by_run.shape[1] > 1:
        axes.plot(epochs, by_run.to_numpy(), color=ink, linewidth=0.6, alpha=0.45, zorder=2)


def _by_run(part: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """Returns (epochs, runs) of a column, epochs ascending; empty where the histories lack it."""
    if column is None or column not in part.columns:
        return pd.DataFrame()
    once = part.drop_duplicates(["run", "epoch"])  # a run shared by configurations stands once for each
    wide = once.assign(value=once[column].astype(float)).pivot(index="epoch", columns="run", values="value")
    return wide.dropna(how="all").dropna(how="all", axis=1).sort_index()


def _plain(row: Row, value: float) -> str:
    return f"{value:.2g}" if row.kind == "rate" else number(value)


def _scale(axes: Axes, frame: pd.DataFrame, row: Row) -> None:
    """Sets the axis that a row shares: the rate's is logarithmic; the loss's where it falls tenfold.

    The axis of the rate reaches down to the least of the epochs' highest, as a cosine's end would take decades.
    """
    columns = [column for column in (row.solid, row.dashed) if column in frame.columns]
    if row.kind == "rate" and "lr_max" in frame.columns:
        columns = ["lr_max"]
    values = frame[columns].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if row.kind == "metric":
        low, high = np.quantile(values, HIDDEN), values.max()
        margin = 0.06 * (high - low) or 0.05
        axes.set_ylim(max(low - margin, -0.02), min(high + margin, 1.02))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        return
    positive = values[values > 0]
    if positive.size and (row.kind == "rate" or (values.min() > 0 and values.max() / values.min() > 10)):
        highest = positive.max()
        lowest = max(positive.min(), highest * 10.0**-DECADES)
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.6, highest * 1.6)
        few = highest / lowest < 30
        text = _rate_text if row.kind == "rate" else "{:g}".format
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if few else (1,), numticks=6))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value).replace("-", "−")))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _rate_text(value: float) -> str:
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value < 0.1 else f"{value:g}"


def _legend(found: Courses) -> list[Line2D]:
    handles = [
        Line2D([], [], color=ink, linewidth=2.4, label=colour) for colour, ink in found.colours.items() if colour
    ]
    if any(row.kind == "loss" for row in found.rows):
        handles.append(Line2D([], [], color=INK, linewidth=1.6, label="validation"))
        handles.append(Line2D([], [], color=INK, linewidth=1.1, linestyle=DASHES, label="training"))
    if 1 < found.most <= MOST_SINGLE:
        handles.append(Line2D([], [], color=INK, linewidth=0.6, alpha=0.6, label="single run"))
    return handles
