"""Learning curves: losses by factor; and learning rate, loss and metrics side by side, a column per schedule."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from segue.reporting.analysis.comparison import Comparison, numeric, sorted_levels
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    INK,
    WIDTH_IN,
    ReportFigure,
    Tooltips,
    category_colors,
    graded_colors,
    legend_columns,
    new_figure,
    plain_ticks,
    scale_axis,
    style,
)
from segue.reporting.formatting import (
    axis_label,
    configuration_label,
    format_number,
    join_names,
    key_label,
    level_label,
    plural,
    stage_label,
)
from segue.storage import file_name

DASHES = (0, (3, 2))
LOSSES = {"validation_loss": "solid", "train_loss": DASHES}
OWN_LOSS = "Each run's loss is that of its own target (class weights, kind of loss): levels compare only within one."

# --- losses by factor

MAX_FACTORS = 3  # of a stage
MAX_LEGEND_ENTRIES = 12
LEGEND_LINE_IN = 0.175


def loss_curves_figure(comparison: Comparison) -> ReportFigure | None:
    """Returns the loss by epoch, a line of panels per stage and a panel per factor; None without histories."""
    histories = comparison.results.histories
    losses = [column for column in LOSSES if column in histories.columns]
    if histories.empty or not losses or histories[losses].isna().all(axis=None):
        return None
    floor = _shared_floor(comparison.rows)
    with style():
        figure = draw_loss_curves(comparison, floor)
    runs = int(histories["run"].nunique()) if "run" in histories.columns else 0
    caption = (
        f"Loss by epoch ({plural(runs, 'run')}): median (line) and middle half of the runs (band), validation solid,"
        " training dashed."
    )
    if floor:
        caption += f" The loss cannot fall below {floor:.4f}, which is subtracted."
    if comparison.target_varies:
        caption += f" {OWN_LOSS}"
    return ReportFigure("loss-curves", figure, "Learning curves.", caption, "Training and validation loss by epoch")


def _shared_floor(rows: pd.DataFrame) -> float:
    """Returns the least value that the loss can have where all runs have the same, else 0."""
    floors = numeric(rows, "loss_floor").dropna().unique()
    return float(floors[0]) if len(floors) == 1 and floors[0] > 0 else 0.0


def _curve_factors(comparison: Comparison, stage: str) -> list[str]:
    """Returns up to three of the stage's own axes that vary and that its histories know, else one empty name."""
    histories = comparison.results.histories
    frame = histories[histories["stage"] == stage]
    axes = comparison.results.stages.get(stage, [])
    varied = [axis for axis in axes if axis in frame.columns and frame[axis].nunique(dropna=True) > 1]
    return varied[:MAX_FACTORS] or [""]


def draw_loss_curves(comparison: Comparison, floor: float) -> Figure:
    """Returns the panels; `floor` is subtracted from the losses."""
    histories = comparison.results.histories
    stages = [stage for stage in comparison.results.stages if (histories["stage"] == stage).any()]
    frames = {stage: histories[histories["stage"] == stage] for stage in stages}
    panels = {stage: _curve_factors(comparison, stage) for stage in stages}
    columns = max(map(len, panels.values()))
    legends = {stage: _legend_lines(frames[stage], panels[stage], columns) for stage in stages}
    figure = new_figure(0.6 + sum(2.45 + LEGEND_LINE_IN * lines for lines in legends.values()))
    grid = figure.subplots(len(stages), columns, squeeze=False, sharey="row")
    for line, (stage, frame) in zip(grid, frames.items(), strict=True):
        for axes, factor in zip(line, panels[stage], strict=False):
            handles = _draw_losses(axes, frame, factor, comparison.results.domains, floor)
            if factor and len(handles) <= MAX_LEGEND_ENTRIES:
                _legend_above(axes, handles, columns)
            by = f", by {key_label(factor)}" if factor else ""
            axes.set_title(f"{stage_label(stage)}{by}", pad=6 + 72 * LEGEND_LINE_IN * legends[stage])
        line[0].set_ylabel("adjusted loss" if floor else "loss")
        for axes in line[len(panels[stage]) :]:
            axes.set_visible(False)
        losses = np.concatenate([numeric(frame, column).to_numpy() for column in LOSSES]) - floor
        if np.isfinite(losses).any():
            scale_axis(line[0], "y", losses, 10)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    figure.legend(handles=_loss_handles(), loc="outside upper left", ncols=2)
    return figure


def _loss_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=INK, linewidth=1.6, label="validation"),
        Line2D([], [], color=INK, linewidth=1.1, linestyle=DASHES, label="training"),
    ]


def _draw_losses(axes: Axes, frame: pd.DataFrame, factor: str, domains: Sequence[str], floor: float) -> list[Line2D]:
    """Draws median and middle half of the losses by level of a factor, and returns a handle per level."""
    is_domain = factor.endswith(".domain")
    levels = sorted_levels(frame[factor], domains if is_domain else []) if factor else [None]
    names = [level_label(level) if factor else "" for level in levels]
    is_number = bool(factor) and pd.api.types.is_numeric_dtype(frame[factor])
    colors = graded_colors(names) if is_number and len(names) > 2 else {}
    colors = category_colors(domains) if is_domain else colors
    handles: list[Line2D] = []
    for position, (level, name) in enumerate(zip(levels, names, strict=True)):
        part = frame[frame[factor] == level] if factor else frame
        color = colors.get(name) or (CATEGORIES[position % len(CATEGORIES)] if factor else BLUE)
        for column, line in LOSSES.items():
            losses = (numeric(part, column) - floor).groupby(part["epoch"])
            spread = losses.quantile([0.25, 0.5, 0.75]).unstack().dropna()
            if spread.empty:
                continue
            low, median, high = spread.to_numpy(dtype=float).T
            _draw_line(axes, spread.index.to_numpy(dtype=float), median, color, line)
            if line == "solid":
                _draw_band(axes, spread.index.to_numpy(dtype=float), low, high, color)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles.append(Line2D([], [], color=color, linewidth=1.6, label=name))
    return handles


def _draw_line(axes: Axes, epochs: np.ndarray, values: np.ndarray, color: str, line: Any) -> Line2D:
    width, marker = 1.6 if line == "solid" else 1.1, "o" if epochs.size == 1 else None
    return axes.plot(epochs, values, color=color, linewidth=width, linestyle=line, marker=marker, zorder=3)[0]


def _draw_band(axes: Axes, epochs: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    """Fills between two curves; `fill_between` would set the limits of all axes that share theirs each time."""
    known = np.isfinite(low) & np.isfinite(high)
    x, y = (np.concatenate([first[known], last[known][::-1]]) for first, last in ((epochs, epochs), (low, high)))
    axes.fill(x, y, color=color, alpha=0.16, linewidth=0)


def _legend_above(axes: Axes, handles: list[Line2D], panels: int) -> None:
    """Places the legend between axes and title, where no curve runs; `panels` share the figure's width."""
    count = _legend_entries_per_line([str(handle.get_label()) for handle in handles], panels)
    axes.legend(
        handles=handles, ncols=count, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, borderaxespad=0.3,
        labelspacing=0.3, columnspacing=1.2, handlelength=1.2, handletextpad=0.5, fontsize=8,
    )  # fmt: skip


def _legend_entries_per_line(names: Sequence[str], panels: int) -> int:
    width_in = 0.07 * max(map(len, names), default=0) + 0.42
    return max(1, min(len(names), int((WIDTH_IN - 0.7) / panels / width_in)))


def _legend_lines(frame: pd.DataFrame, factors: Sequence[str], panels: int) -> int:
    """Returns the most lines that a legend of a stage's panels takes."""
    legends = [[level_label(level) for level in frame[factor].dropna().unique()] for factor in factors if factor]
    legends = [names for names in legends if len(names) <= MAX_LEGEND_ENTRIES]
    return max((-(-len(names) // _legend_entries_per_line(names, panels)) for names in legends), default=0)


# --- learning rate, loss and metrics by optimizer and schedule

SCHEDULE_KEYS = ("variant", "optimizer", "schedule", "warmup")  # settings that shape the learning rate
MAX_COLUMNS = 8
MAX_SINGLE_RUNS = 6  # runs drawn one by one; more become a band
MAX_CLASSES = 4  # whose metrics are drawn; of more than two, F1 and area under the PR curve alone
MAX_FAILED_NAMED = 3
LR_MAX = "lr_max"  # column of histories: the highest rate within an epoch
DECADES = 7  # of learning rate, below which a curve is cut off
METRICS = (
    ("accuracy", "accuracy"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("f1", "F1 (Dice)"),
    ("auprc", "area under\nPR curve"),
    ("auroc", "area under\nROC curve"),
)
MAIN_METRICS = [entry for entry in METRICS if entry[0] in ("f1", "auprc")]  # where there are many classes
LEGEND_ROW_IN = 0.22
LEGEND_CHARACTERS = 130
HIDDEN_SHARE = 0.1  # of a metric's lowest values, those of the first epochs, that an axis may leave out
ROW_HEIGHTS = {"rate": 1.0, "loss": 1.25, "metric": 1.0}


@dataclass(frozen=True)
class Row:
    """A row of panels: the label of its axis, the column of the histories drawn solid, and the one dashed."""

    kind: Literal["rate", "loss", "metric"]
    label: str
    solid: str
    dashed: str | None = None


@dataclass(frozen=True)
class LearningCurves:
    """The histories of a stage, divided for drawing.

    frame: histories with `column` and `color`, texts. columns: the columns drawn, of `column_count`. colors: text ->
    ink. pooled: the axes over which lines are medians. classes: the foreground classes drawn, of `class_count`.
    """

    stage: str
    frame: pd.DataFrame
    columns: list[str]
    column_count: int
    colors: dict[str, str]
    pooled: list[str]
    rows: list[Row]
    classes: list[str]
    class_count: int

    @property
    def runs(self) -> int:
        return int(self.frame["run"].nunique())

    @property
    def runs_per_line(self) -> int:
        """The most runs that a line stands for."""
        return int(self.frame.groupby(["column", "color"])["run"].nunique().max())


def learning_curves_figure(comparison: Comparison, stage: str) -> ReportFigure | None:
    """Returns learning rate, loss and metrics by epoch, a column per optimizer and schedule, where these differ."""
    curves = learning_curves(comparison, stage)
    if curves is None:
        return None
    with style():
        figure, tooltips = draw_learning_curves(curves)
    title = f"Learning rate, loss and metrics of {stage_label(stage)}."
    alt = f"Learning rate, loss and metrics by epoch of {stage_label(stage)}: {join_names(curves.columns)}"
    return ReportFigure(
        file_name(f"learning-curves-{stage}"),
        figure,
        title,
        _learning_curves_caption(comparison, curves),
        alt,
        tooltips,
    )


def _learning_curves_caption(comparison: Comparison, curves: LearningCurves) -> str:
    medians = f"medians over {join_names(['seeds', *map(axis_label, curves.pooled)])}"
    if curves.runs_per_line == 1:
        lines = "Each line is a single run."
    elif curves.runs_per_line <= MAX_SINGLE_RUNS:
        lines = f"Thick lines are {medians}, thin lines the single runs."
    else:
        lines = f"Lines are {medians}, bands the middle half of the runs."
    parts = [f"By epoch, a column per optimizer and schedule ({plural(curves.runs, 'run')}).", lines]
    if LR_MAX in curves.frame.columns:
        parts.append("The learning rate is that at the epoch's end, shaded up to the highest within it.")
    if any(row.kind == "metric" for row in curves.rows):
        parts.append("Axes of metrics leave out their lowest tenth, mostly early epochs.")
    if len(curves.columns) < curves.column_count:
        parts.append(f"Shown are the first {len(curves.columns)} of {curves.column_count} columns.")
    if len(curves.classes) < curves.class_count:
        parts.append(f"Metrics are of the first {len(curves.classes)} of {curves.class_count} classes.")
    if comparison.target_varies:
        parts.append(OWN_LOSS)
    failures = comparison.results.failures
    failed = failures[failures["stage"] == curves.stage] if "stage" in failures.columns else failures[:0]
    if len(failed):
        names = list(failed["configuration"].astype(str)[:MAX_FAILED_NAMED]) if "configuration" in failed else []
        names += [f"{len(failed) - len(names):,} more"] if names and len(failed) > len(names) else []
        parts.append(f"Missing because they failed ({plural(len(failed), 'run')}): {'; '.join(names) or '–'}.")
    return " ".join(parts)


def learning_curves(comparison: Comparison, stage: str) -> LearningCurves | None:
    """Returns the curves of a stage's runs; None where neither optimizer nor learning rate differs between them."""
    histories = comparison.results.histories
    if histories.empty or not {"stage", "run", "epoch", "lr"} <= set(histories.columns):
        return None
    frame = histories[histories["stage"] == stage]
    varied = [axis for axis in comparison.axes(stage) if axis in frame and frame[axis].nunique(dropna=True) > 1]
    stage_axes = [axis for axis in varied if axis.startswith(f"{stage}.")]
    across = [axis for axis in stage_axes if _key(axis).split(".")[0] in SCHEDULE_KEYS]
    if not across or (all(_key(axis) == "variant" for axis in across) and not _rates_differ(frame, across)):
        return None
    by_color, colors = _colors(comparison, frame, [axis for axis in stage_axes if axis not in across])
    frame = frame.assign(column=_texts(frame, across), color=_texts(frame, by_color))
    columns = _in_order(frame, across, "column")
    rows, classes = _rows(frame)
    return LearningCurves(
        stage=stage,
        frame=frame[frame["column"].isin(columns[:MAX_COLUMNS])],
        columns=columns[:MAX_COLUMNS],
        column_count=len(columns),
        colors=colors,
        pooled=[axis for axis in varied if axis not in across and axis not in by_color],
        rows=rows,
        classes=classes[:MAX_CLASSES],
        class_count=len(classes),
    )


def _key(axis: str) -> str:
    return axis.partition(".")[2]


def _rates_differ(frame: pd.DataFrame, across: list[str]) -> bool:
    """Returns whether the median rate of some epoch differs between levels of the axes."""
    medians = frame.groupby([*across, "epoch"], dropna=False)["lr"].median().unstack("epoch")
    spread = medians.max() - medians.min()
    return bool((spread > 1e-6 * medians.max()).any())


def _colors(comparison: Comparison, frame: pd.DataFrame, axes: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the axes shown by color and the color of each level: those of the target, else the first with few levels.

    Without any, the only level is "".
    """
    target = [axis for axis in axes if _key(axis).split(".")[0] == "target"]
    for group in filter(None, [target, *([axis] for axis in axes if axis not in target)]):
        names = _in_order(frame.assign(color=_texts(frame, group)), group, "color")
        if 1 < len(names) <= len(CATEGORIES):
            is_number = len(names) > 2 and len(group) == 1 and pd.api.types.is_numeric_dtype(frame[group[0]])
            if group[0].endswith(".domain"):
                domains = category_colors(comparison.results.domains)
                return group, {name: domains.get(name, INK) for name in names}
            return group, graded_colors(names) if is_number else category_colors(names)
    return [], {"": BLUE}


def _texts(frame: pd.DataFrame, axes: Sequence[str]) -> pd.Series:
    """Returns for each row the label of its levels of `axes`; each combination is formatted once."""
    if not axes:
        return pd.Series("", index=frame.index)
    codes = frame.groupby(list(axes), dropna=False, sort=False).ngroup()
    levels = frame.loc[~codes.duplicated(), list(axes)].astype(object).itertuples(index=False, name=None)
    labels = [configuration_label(dict(zip(axes, row, strict=True))) for row in levels]
    return pd.Series(np.array(labels, dtype=object)[codes], index=frame.index)


def _in_order(frame: pd.DataFrame, axes: Sequence[str], text: str) -> list[str]:
    """Returns the distinct texts, by the levels of the axes: numbers ascending, "none" first."""
    order = {axis: {level: place for place, level in enumerate(sorted_levels(frame[axis]))} for axis in axes}
    levels = frame.drop_duplicates(text)
    rows = levels[list(axes)].itertuples(index=False, name=None)
    ranks = [[order[axis].get(value, -1) for axis, value in zip(axes, row, strict=True)] for row in rows]
    return [name for _, name in sorted(zip(ranks, levels[text], strict=True))]


def _rows(frame: pd.DataFrame) -> tuple[list[Row], list[str]]:
    """Returns the rows that the histories can fill, and the foreground classes that they know."""

    def is_known(column: str) -> bool:
        return bool(np.isfinite(numeric(frame, column)).any())

    rows = [Row("rate", "learning rate", "lr")]
    if any(map(is_known, LOSSES)):
        rows.append(Row("loss", "loss", "validation_loss", "train_loss"))
    columns = [str(column) for column in frame.columns]
    part = "validation" if any(is_known(c) for c in columns if c.startswith("validation_")) else "train"
    classes = [column.removeprefix(f"{part}_dice_") for column in columns if f"{part}_dice_" in column]
    classes = [name for name in classes if name not in ("mean", "background")]
    for name in classes[:MAX_CLASSES]:
        for metric, label in METRICS if len(classes) <= 2 else MAIN_METRICS:
            column = f"{part}_{metric}_{name}"
            if metric == "f1" and not is_known(column):
                column = f"{part}_dice_{name}"  # of pixels, both are the same number
            if is_known(column):
                rows.append(Row("metric", f"{label},\n{name}" if len(classes) > 1 else label, column))
    return rows, classes


def draw_learning_curves(curves: LearningCurves) -> tuple[Figure, Tooltips]:
    """Returns the panels: a column per schedule, one scale per row and one axis of epochs for all."""
    heights = [ROW_HEIGHTS[row.kind] for row in curves.rows]
    titles = [textwrap.fill(column, max(12, 100 // len(curves.columns))) for column in curves.columns]
    title_lines = max(title.count("\n") for title in titles)
    handles = _legend_handles(curves)
    per_line = legend_columns(handles, LEGEND_CHARACTERS)
    figure = new_figure(0.75 + LEGEND_ROW_IN * -(-len(handles) // per_line) + 0.16 * title_lines + 1.22 * sum(heights))
    shape = (len(curves.rows), len(curves.columns))
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey="row", height_ratios=heights)
    tooltips = Tooltips()
    parts = dict(list(curves.frame.groupby(["column", "color"])))
    for position, (column, title) in enumerate(zip(curves.columns, titles, strict=True)):
        grid[0][position].set_title(title)
        grid[-1][position].set_xlabel("epoch")
        for name, ink in curves.colors.items():
            if (column, name) not in parts:
                continue
            histories = _by_run(parts[column, name], curves.rows)
            label = ", ".join(filter(None, [column, name]))
            for axes, row in zip(grid[:, position], curves.rows, strict=True):
                _draw_curve(axes, histories, row, ink, label, tooltips)
    for line, row in zip(grid, curves.rows, strict=True):
        line[0].set_ylabel(row.label)
        _scale_row(line[0], curves.frame, row)
    last = float(curves.frame["epoch"].max())
    grid[-1][0].set_xlim(0 if last > 3 else None, last + 0.01 * last if last > 3 else None)
    grid[-1][0].xaxis.set_major_locator(MaxNLocator(5 if len(curves.columns) < 5 else 3, integer=True))
    figure.align_ylabels(grid[:, 0])
    figure.legend(handles=handles, loc="outside upper left", ncols=per_line)
    return figure, tooltips


def _draw_curve(
    axes: Axes, histories: dict[str, pd.DataFrame], row: Row, ink: str, label: str, tooltips: Tooltips
) -> None:
    """Draws one color of a panel: median over runs, and the runs themselves or the band of their middle half."""
    for column, line in ((row.solid, "solid"), (row.dashed, DASHES)):
        by_run = histories.get(column or "", pd.DataFrame())
        if by_run.empty:
            continue
        epochs = by_run.index.to_numpy(dtype=float)
        median = by_run.median(axis=1).to_numpy()
        artist = _draw_line(axes, epochs, median, ink, line)
        if line == "solid":
            _draw_runs(axes, by_run, ink)
            last = f"{median[-1]:.2g}" if row.kind == "rate" else format_number(median[-1])
            text = f"{row.label.replace(chr(10), ' ')}, at the last epoch a median of {last}"
            tooltips.add(artist, f"{label}: {text}, {plural(by_run.shape[1], 'run')}")
        if row.kind == "rate" and LR_MAX in histories:
            highest = histories[LR_MAX].median(axis=1).reindex(by_run.index).to_numpy()
            _draw_band(axes, epochs, median, highest, ink)


def _draw_runs(axes: Axes, by_run: pd.DataFrame, ink: str) -> None:
    epochs = by_run.index.to_numpy(dtype=float)
    if by_run.shape[1] > MAX_SINGLE_RUNS:
        low, high = np.nanquantile(by_run.to_numpy(), (0.25, 0.75), axis=1)
        _draw_band(axes, epochs, low, high, ink)
    elif by_run.shape[1] > 1:
        axes.plot(epochs, by_run.to_numpy(), color=ink, linewidth=0.6, alpha=0.45, zorder=2)


def _by_run(part: pd.DataFrame, rows: Sequence[Row]) -> dict[str, pd.DataFrame]:
    """Returns, for each column that the rows draw and the histories have, (epochs, runs), epochs ascending."""
    once = part.drop_duplicates(["run", "epoch"])  # a run shared by configurations stands once for each
    epochs, place = np.unique(once["epoch"], return_inverse=True)
    codes, runs = pd.factorize(once["run"])
    columns = [LR_MAX, *(column for row in rows for column in (row.solid, row.dashed))]
    result = {}
    for column in (column for column in columns if column in once.columns):
        values = np.full((len(epochs), len(runs)), np.nan)
        values[place, codes] = numeric(once, column)
        result[column] = pd.DataFrame(values, epochs).dropna(how="all").dropna(how="all", axis=1)
    return result


def _scale_row(axes: Axes, frame: pd.DataFrame, row: Row) -> None:
    """Sets the axis that a row shares: the rate's is logarithmic; the loss's where it falls tenfold.

    The axis of the rate reaches down to the least of the epochs' highest, as a cosine's end would take decades.
    """
    columns = [column for column in (row.solid, row.dashed) if column in frame.columns]
    if row.kind == "rate" and LR_MAX in frame.columns:
        columns = [LR_MAX]
    values = frame[columns].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if row.kind == "metric":
        low, high = np.quantile(values, HIDDEN_SHARE), values.max()
        margin = 0.06 * (high - low) or 0.05
        axes.set_ylim(max(low - margin, -0.02), min(high + margin, 1.02))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        return
    positive = values[values > 0]
    if not positive.size or (row.kind == "loss" and (values.min() <= 0 or values.max() / values.min() <= 10)):
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return
    highest = positive.max()
    lowest = max(positive.min(), highest * 10.0**-DECADES)
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.6, highest * 1.6)
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if highest / lowest < 30 else (1,), numticks=6))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(_rate_tick) if row.kind == "rate" else plain_ticks())


def _rate_tick(value: float, position: int) -> str:
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if value < 0.1 else f"{value:g}").replace("-", "−")


def _legend_handles(curves: LearningCurves) -> list[Line2D]:
    handles = [Line2D([], [], color=ink, linewidth=2.4, label=name) for name, ink in curves.colors.items() if name]
    if any(row.kind == "loss" for row in curves.rows):
        handles += _loss_handles()
    if 1 < curves.runs_per_line <= MAX_SINGLE_RUNS:
        handles.append(Line2D([], [], color=INK, linewidth=0.6, alpha=0.6, label="single run"))
    return handles
