"""Curves of counts over time, per well or per treatment, next to the truth.

Blue is live and vermilion dead, which are distinguishable for any kind of color vision; lines and markers differ too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import ClusterLevel, estimate
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    FAINT,
    INK,
    MUTED,
    PAPER,
    VERMILION,
    ReportFigure,
    Tooltips,
    graded_colors,
    new_figure,
    style,
)
from segue.spec import unknown

MAX_WELLS = 24  # drawn one by one; of more, treatments are drawn
COLUMNS = 6
PANEL_IN = 1.55
LEGEND_CHARACTERS = 140  # in a line
CLASS_COLORS = {"live": BLUE, "dead": VERMILION}  # as in the film of a training
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = "o^sD"
HELD_OUT = ("test", "unseen")
UNITS = {"count": "nuclei", "fraction": "fraction of nuclei", "density_per_mm2": "nuclei / mm²"}
BANDS = {"count": "Poisson 95 %, counting noise only", "fraction": "Wilson 95 %, counting noise only"}
TRUTHS = {"known": "known truth", "stain": "from the stains"}  # hollow, filled
PARTS = {"train": "training", "validation": "validation", "test": "test", "unseen": "unseen"}


def by_condition(table: pd.DataFrame, condition: str, *, value: str = "count") -> pd.DataFrame:
    """Returns medians over wells with 95 % bootstrap intervals: a row per level of the condition, time and class.

    Only wells that were held out (test, unseen) are in it. value: "count", "fraction" or "density_per_mm2".
    Columns: the condition, time, time_h, class, wells, median, low, high (NaN for a single well), and true_median, of
    the known truth where there is any, else of the stains; density has none.
    """
    if condition not in table:
        raise SegueError(f"the table of counts: {unknown(condition, table.columns, 'condition')}.")
    rows = []
    held_out = table[table["part"].isin(HELD_OUT)]
    for (level, time, name), part in held_out.groupby([condition, "time", "class"], sort=True):
        wells = (part["plate"] + "/" + part["well"]).to_numpy()
        median = estimate(part[value].to_numpy(float), {"wells": ClusterLevel(wells, np.zeros(len(wells)))})
        low, high = median.interval or (np.nan, np.nan)
        truths = [float(part[column].median()) for truth in TRUTHS if (column := f"{truth}_{value}") in part]
        rows.append(
            {condition: level, "time": time, "time_h": float(part["time_h"].median()), "class": name,
             "wells": len(set(wells)), "median": median.median, "low": low, "high": high,
             "true_median": next((truth for truth in truths if not np.isnan(truth)), np.nan)}
        )  # fmt: skip
    columns = [condition, "time", "time_h", "class", "wells", "median", "low", "high", "true_median"]
    order = {name: place for place, name in enumerate(dict.fromkeys(table["class"]))}
    medians = pd.DataFrame(rows, columns=columns)
    return medians.sort_values("class", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def counts_figure(
    table: pd.DataFrame, *, conditions: Sequence[str] = (), by: str | None = None, value: str = "count"
) -> ReportFigure:
    """Returns the curves with a caption: a panel per well, of more than 24 wells one per level of a condition.

    by: the condition; without it, "treatment" or the first of `conditions` is taken where there are many wells. Without
    any condition each well has its panel. value: "count", "fraction" or "density_per_mm2" (which has no truth).
    """
    if value not in UNITS:
        raise SegueError(f"the figure of counts: {unknown(value, UNITS, 'value')}.")
    wells = table[["plate", "well"]].drop_duplicates()
    if by is None and len(wells) > MAX_WELLS and conditions:
        by = "treatment" if "treatment" in conditions else conditions[0]
    with style():
        return _by_well(table, conditions, value) if by is None else _by_level(table, by, value)


def _class_colors(table: pd.DataFrame) -> dict[str, str]:
    """Returns the ink of each class: live and dead have their own, others the next that is free."""
    names = [str(name) for name in dict.fromkeys(table["class"])]
    free = [ink for ink in CATEGORIES if ink not in {CLASS_COLORS.get(name) for name in names}]
    others = [name for name in names if name not in CLASS_COLORS]
    inks = dict(zip(others, free, strict=False)) if len(others) <= len(free) else graded_colors(others)
    return {name: CLASS_COLORS.get(name) or inks[name] for name in names}


def _by_well(table: pd.DataFrame, conditions: Sequence[str], value: str) -> ReportFigure:
    colors = _class_colors(table)
    wells = list(table[["plate", "well"]].drop_duplicates().itertuples(index=False, name=None))
    figure, panels = _panels(len(wells))
    tooltips = Tooltips()
    for axes, (plate, well) in zip(panels, wells, strict=True):
        rows = table[(table["plate"] == plate) & (table["well"] == well)]
        part = str(rows["part"].iloc[0])
        axes.set_title(f"{plate} {well}")
        axes.set_title(PARTS[part], loc="right", fontsize=8, color=MUTED, fontweight="normal")
        for level in rows[list(conditions[:1])].iloc[0]:
            axes.text(0.03, 0.96, str(level), transform=axes.transAxes, va="top", fontsize=7.5, color=MUTED)
        if part not in HELD_OUT:
            axes.set_facecolor(FAINT)
        for place, (name, ink) in enumerate(colors.items()):
            of_class = rows[rows["class"] == name].sort_values("time_h")
            line = _draw_well(axes, of_class, place, ink, value)
            last = of_class.iloc[-1]
            tooltips.add(line, f"{plate} {well}, {name}: {last[value]:.3g} at {last['time_h']:.3g} h")
    _set_scale(panels, table, value)
    truths = [truth for truth in TRUTHS if f"{truth}_{value}" in table and table[f"{truth}_{value}"].notna().any()]
    is_used = not table["part"].isin(HELD_OUT).all()
    handles = _line_handles(colors) + _band_handles(BANDS.get(value, ""))
    for truth in truths:
        handles += _truth_handles(colors, truth, TRUTHS[truth])
    if is_used:
        handles.append(Patch(facecolor=FAINT, edgecolor=MUTED, linewidth=0.5, label="used in training or validation"))
    _add_legend(figure, handles)
    caption = (
        f"{UNITS[value].capitalize()} per class, well and time, predicted from the transmitted light alone (lines)"
    )
    caption += f"; markers: the truth, {' and '.join(TRUTHS[truth] for truth in truths)}." if truths else "."
    if value in BANDS:
        caption += f" Bands: {BANDS[value]}; they do not include the network's errors, so the truth may be outside."
    if is_used:
        caption += " Wells on gray were used in training or validation and are no evidence."
    alt = f"Curves of {UNITS[value]} over time in each well."
    return ReportFigure("wells", figure, "", caption, alt, tooltips)


def _by_level(table: pd.DataFrame, by: str, value: str) -> ReportFigure:
    medians = by_condition(table, by, value=value)
    if medians.empty:
        raise SegueError(f"the figure of counts by '{by}': no well was held out; show wells one by one, without by.")
    colors = _class_colors(table)
    levels = sorted(medians[by].unique())
    figure, panels = _panels(len(levels), columns=3, panel_in=2.5)
    tooltips = Tooltips()
    held_out = table[table["part"].isin(HELD_OUT)]
    for axes, level in zip(panels, levels, strict=True):
        of_level = medians[medians[by] == level]
        axes.set_title(str(level))
        wells = f"{int(of_level['wells'].max())} held-out wells"
        axes.set_title(wells, loc="right", fontsize=8, color=MUTED, fontweight="normal")
        for place, (name, ink) in enumerate(colors.items()):
            single = held_out[(held_out[by] == level) & (held_out["class"] == name)]
            for _, rows in single.groupby(["plate", "well"]):
                ordered = rows.sort_values("time_h")
                axes.plot(ordered["time_h"], ordered[value], color=ink, linewidth=0.5, alpha=0.35)
            of_class = of_level[of_level["class"] == name].sort_values("time_h")
            x, median, low, high, true = of_class[["time_h", "median", "low", "high", "true_median"]].to_numpy(float).T
            axes.fill_between(x, low, high, color=ink, alpha=0.2, linewidth=0)
            (line,) = axes.plot(x, median, color=ink, linestyle=DASHES[place % 4], linewidth=1.8)
            tooltips.add(line, f"{by} {level}, {name}: median {median[-1]:.3g} at the last time")
            _draw_truth(axes, x, true, place, ink, fill=PAPER, size=4.5)
    _set_scale(panels, held_out, value)
    handles = _line_handles(colors) + _band_handles("95 % interval of the median")
    if medians["true_median"].notna().any():
        handles += _truth_handles(colors, "known", "truth")
    handles.append(Line2D([], [], color=MUTED, linewidth=0.6, label="single wells"))
    _add_legend(figure, handles)
    left_out = table.loc[~table["part"].isin(HELD_OUT), ["plate", "well"]].drop_duplicates()
    caption = (
        f"{UNITS[value].capitalize()} by {by}: medians over held-out wells with 95 % bootstrap intervals; thin lines "
        "are single wells; hollow markers medians of the truth, where there is any. Left out: "
        f"{len(left_out)} wells that were used in training or validation."
    )
    alt = f"Median curves of {UNITS[value]} over time by {by}."
    return ReportFigure("wells", figure, "", caption, alt, tooltips)


def _panels(count: int, *, columns: int = COLUMNS, panel_in: float = PANEL_IN) -> tuple[Figure, list[Axes]]:
    """Returns a figure of `count` panels that share both axes."""
    rows = -(-count // columns)
    columns = max(-(-count // rows), 2)  # as few places as possible stay empty; one panel alone would be too wide
    figure = new_figure(0.9 + panel_in * max(rows, 1) * (1.25 if rows == 1 else 1))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes in panels[max(count - columns, 0) :]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("time / h")
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _draw_well(axes: Axes, rows: pd.DataFrame, place: int, ink: str, value: str) -> Line2D:
    """Draws one class of a well: line and band of the prediction, markers of the truth."""
    x, y = rows["time_h"].to_numpy(float), rows[value].to_numpy(float)
    look = {"color": ink, "linestyle": DASHES[place % 4], "linewidth": 1.6, "marker": "." if len(x) == 1 else None}
    (line,) = axes.plot(x, y, **look)
    if f"{value}_low" in rows:
        low, high = (rows[f"{value}_{side}"].to_numpy(float) for side in ("low", "high"))
        axes.fill_between(x, low, high, color=ink, alpha=0.18, linewidth=0)
    for truth in TRUTHS:
        if f"{truth}_{value}" in rows:
            is_known = truth == "known"
            true = rows[f"{truth}_{value}"].to_numpy(float)
            _draw_truth(axes, x, true, place, ink, fill=PAPER if is_known else ink, size=5.5 if is_known else 3)
    return line


def _draw_truth(axes: Axes, x: np.ndarray, true: np.ndarray, place: int, ink: str, *, fill: str, size: float) -> None:
    look = {"color": ink, "markerfacecolor": fill, "markersize": size, "zorder": 4, "clip_on": False}
    axes.plot(x, true, MARKERS[place % 4], **look)


def _set_scale(panels: Sequence[Axes], table: pd.DataFrame, value: str) -> None:
    columns = [name for name in (value, f"{value}_high", *(f"{t}_{value}" for t in TRUTHS)) if name in table]
    highest = np.nanmax(table[columns].to_numpy(float), initial=0)
    panels[0].set_ylim(0, 1.02 if value == "fraction" else 1.18 * highest or 1)  # above, room for a well's treatment
    panels[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].yaxis.set_major_locator(MaxNLocator(4))
    for axes in panels:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(UNITS[value])


def _line_handles(colors: dict[str, str]) -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=ink, linestyle=DASHES[place % 4], linewidth=1.8, label=f"{name}, predicted")
        for place, (name, ink) in enumerate(colors.items())
    ]


def _band_handles(label: str) -> list[Line2D | Patch]:
    return [Patch(color=MUTED, alpha=0.25, linewidth=0, label=label)] if label else []


def _truth_handles(colors: dict[str, str], truth: str, label: str) -> list[Line2D | Patch]:
    fill, size = (PAPER, 5.5) if truth == "known" else (INK, 3)
    look = {"color": INK, "linestyle": "", "markerfacecolor": fill, "markersize": size}
    return [
        Line2D([], [], marker=mark, label=f"{label}: {name}", **look)
        for mark, name in zip(MARKERS[:2], colors, strict=False)
    ]


def _add_legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    lengths = sum(8 + len(str(handle.get_label())) for handle in handles)
    per_line = len(handles) if lengths < LEGEND_CHARACTERS else -(-len(handles) // 2)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=per_line)
