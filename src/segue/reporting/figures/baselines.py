"""Transfer against training in one stage on a mixture of source and target, by the number of images of the target."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from segue.errors import SegueError
from segue.reporting.analysis.comparison import Comparison, before_and_after, mixture_images, sorted_levels
from segue.reporting.figures.style import (
    CATEGORIES,
    GRAY,
    INK,
    ReportFigure,
    Tooltips,
    new_figure,
    style,
)
from segue.reporting.formatting import Table, format_number, level_label, plural, stage_label
from segue.reporting.tables.selection import parse_conditions, select_rows
from segue.spec import unknown
from segue.study.table import ComparedPair

MAX_PAIRS = 6  # drawn
COLUMNS = ("pair", "target", "stage", "images of the target", "source", "value")


def baselines_figure(comparison: Comparison) -> tuple[ReportFigure, Table] | None:
    """Returns each pair of domains that was both transferred between and mixed; None where there is none.

    Pairs are those that the results name, else the first six.
    """
    frame = _runs(comparison)
    both = frame.groupby(["source", "target"])["kind"].nunique() if len(frame) else pd.Series(dtype=int)
    available = list(both.index[both == 2])
    if not available:
        return None
    order = {name: place for place, name in enumerate(comparison.results.domains)}
    available.sort(key=lambda pair: (order.get(pair[0], 0), order.get(pair[1], 0)))
    named = [pair for pair in comparison.results.compared_pairs if (pair.source, pair.target) in available]
    pairs = named or [ComparedPair(source, target) for source, target in available[:MAX_PAIRS]]
    panels = [(pair, _of_pair(comparison, frame, pair)) for pair in pairs]
    with style():
        figure, tooltips = _draw(comparison, panels)
    metric = comparison.metric
    statistics = sorted({pair.statistic for pair in pairs})
    runs = sum(int((part["kind"] != "before").sum()) for _, part in panels)
    caption = (
        f"{metric.label.capitalize()} ({metric.direction}) against the number of labeled images of the target. Dashed:"
        " pretrained on the source, then transferred to the target, tested on the target. Solid: trained in one stage"
        " on a mixture of both, tested on the target and, thin, on the source. Dotted: the pretrained networks before"
        f" transfer. Lines join {' or '.join(f'{name}s' for name in statistics)}; dots are single runs"
        f" ({plural(runs, 'run')})."
    )
    conditions = list(dict.fromkeys(one for pair in pairs for one in pair.where))
    caption += f" Runs with {', '.join(conditions)}." if conditions else ""
    caption += f" {len(pairs)} of {plural(len(available), 'pair')} of domains." if len(available) > len(pairs) else ""
    title = "Transfer against training on mixtures."
    alt = f"{metric.label} of transfer and of training on mixtures, by number of images of the target"
    return ReportFigure("baselines", figure, title, caption, alt, tooltips), _table(comparison, frame, available)


def _runs(comparison: Comparison) -> pd.DataFrame:
    """Returns the runs of transfers and of mixtures: source, target, kind, images (of the target), value.

    A run on a mixture is in it for both of its domains as the target, with `elsewhere`, its value on the other. A
    transfer has `before`, the value of its parent on the target.
    """
    parts = []
    for stage in comparison.transfer_stages:
        frame = comparison.stage_runs(stage)
        images = next((name for name in ("labels_train", "labels") if name in frame.columns), None)
        if images is not None and frame[images].notna().any():
            before = before_and_after(comparison, stage).set_index("run")["before"]
            parts.append(
                frame.assign(
                    kind="transfer", source=frame["root_domain"], target=frame["domain"], images=frame[images],
                    before=frame["run"].map(before),
                )
            )  # fmt: skip
    domains = comparison.results.domains
    rows = comparison.rows[~comparison.rows["stage"].isin(comparison.transfer_stages)]
    mixtures = {name: mixture_images(name, domains) for name in rows["domain"].unique()}
    rows = rows[rows["domain"].isin([name for name, images in mixtures.items() if len(images) == 2])]
    if parts and len(rows):
        values = dict(zip(zip(rows["run"], rows["evaluated_domain"], strict=True), rows["value"], strict=True))
        inside = [e in mixtures[d] for d, e in zip(rows["domain"], rows["evaluated_domain"], strict=True)]
        rows = rows[np.array(inside, dtype=bool)]
        target = list(rows["evaluated_domain"])
        source = [next(name for name in mixtures[d] if name != e) for d, e in zip(rows["domain"], target, strict=True)]
        images = [mixtures[d][e] for d, e in zip(rows["domain"], target, strict=True)]
        elsewhere = [values.get((run, name), math.nan) for run, name in zip(rows["run"], source, strict=True)]
        parts.append(rows.assign(kind="mixture", source=source, target=target, images=images, elsewhere=elsewhere))
        return pd.concat(parts, ignore_index=True)
    return pd.DataFrame(columns=["source", "target", "kind"])


def _of_pair(comparison: Comparison, frame: pd.DataFrame, pair: ComparedPair) -> pd.DataFrame:
    """Returns the runs of a pair that meet its conditions, each as far as the run's stage has the setting."""
    part = frame[(frame["source"] == pair.source) & (frame["target"] == pair.target)]
    for column in parse_conditions(pair.where, "compare.where"):
        if column not in comparison.rows.columns and column.partition(".")[0] in comparison.results.stages:
            raise SegueError(f"compare.where: {unknown(column, map(str, comparison.rows.columns), 'column')}.")
    chosen = []
    for _, of_kind in part.groupby("kind"):
        conditions = [
            one
            for one in pair.where
            if (name := one.partition("=")[0].strip()) in of_kind.columns and of_kind[name].notna().any()
        ]
        chosen.append(select_rows(of_kind, conditions, [], "compare.where"))
    return pd.concat(chosen)


def _draw(comparison: Comparison, panels: Sequence[tuple[ComparedPair, pd.DataFrame]]) -> tuple[Figure, Tooltips]:
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(0.5 + 3.3 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    tooltips = Tooltips()
    for axes, (pair, frame) in zip(grid, panels, strict=False):
        _draw_pair(axes, comparison, pair, frame, tooltips)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel(comparison.metric.label)
    handles = {str(h.get_label()): h for axes in grid for h in axes.get_legend_handles_labels()[0]}
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=min(3, len(handles)))
    return figure, tooltips


def _draw_pair(axes: Axes, comparison: Comparison, pair: ComparedPair, frame: pd.DataFrame, tooltips: Tooltips) -> None:
    axes.set_title(f"{pair.source} → {pair.target}")
    axes.set_xscale("log")
    transfer, mixture = (frame[frame["kind"] == kind] for kind in ("transfer", "mixture"))
    dashed, solid = {"linestyle": (0, (4, 2)), "linewidth": 1.5}, {"linestyle": "solid"}
    stages = transfer["stage"].unique()
    for stage in stages:
        of_stage = transfer[transfer["stage"] == stage]
        axis = f"{stage}.freeze"
        levels = sorted_levels(of_stage[axis]) if axis in of_stage.columns and of_stage[axis].notna().any() else [None]
        for color, level in zip(CATEGORIES * (1 + len(levels) // len(CATEGORIES)), levels, strict=False):
            part = of_stage if level is None else of_stage[of_stage[axis] == level]
            frozen = "" if level is None else ", nothing frozen" if level == "none" else f", {level} frozen"
            _draw_line(axes, part, "value", pair, f"{stage_label(stage)}{frozen}", {"color": color, **dashed}, tooltips)
    target, source = {"color": INK, "linewidth": 2.0, **solid}, {"color": GRAY, "linewidth": 1.1, **solid}
    _draw_line(axes, mixture, "value", pair, "mixture, tested on the target", target, tooltips)
    _draw_line(axes, mixture, "elsewhere", pair, "mixture, tested on the source", source, tooltips)
    if transfer["before"].notna().any():
        before = float(transfer["before"].agg(pair.statistic))
        axes.axhline(before, color=GRAY, linewidth=1.2, linestyle=(0, (1, 2)), label="before transfer")
    counts = sorted(frame["images"].dropna().unique())
    axes.set_xticks(counts, [level_label(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labeled images of the target")


def _draw_line(
    axes: Axes, frame: pd.DataFrame, column: str, pair: ComparedPair, label: str, look: dict, tooltips: Tooltips
) -> None:
    """Draws single runs as dots and joins their mean or median by number of images."""
    values = frame.groupby("images")[column].agg([pair.statistic, "count"])
    if not values["count"].any():
        return
    axes.scatter(frame["images"], frame[column], s=8, color=look["color"], alpha=0.35, linewidths=0, zorder=2)
    axes.plot(values.index, values[pair.statistic], label=label, zorder=3, **look)
    for images, value, runs in zip(values.index, values[pair.statistic], values["count"], strict=True):
        (mark,) = axes.plot([images], [value], "o", color=look["color"], markersize=4, zorder=4)
        text = f"{label}, {level_label(images)} images: {pair.statistic} {format_number(float(value))}"
        tooltips.add(mark, f"{text}, {plural(int(runs), 'run')}")


def _table(comparison: Comparison, frame: pd.DataFrame, available: Sequence[tuple[str, str]]) -> Table:
    """Returns all pairs: medians over all configurations, by number of images of the target."""
    metric = comparison.metric.label
    columns = [
        "source → target",
        "images of the target",
        f"transfer, median {metric}",
        "runs",
        "mixture, median",
        "runs",
    ]
    rows = []
    known = frame[frame["images"].notna()]
    for (source, target, images), part in known.groupby(["source", "target", "images"], sort=True):
        if (source, target) not in available:
            continue
        cells = [f"{source} → {target}", level_label(images)]
        for kind in ("transfer", "mixture"):
            values = part["value"][part["kind"] == kind].dropna()
            cells += [format_number(float(values.median())), f"{len(values):,}"] if len(values) else ["", ""]
        rows.append(cells)
    place = {f"{source} → {target}": number for number, (source, target) in enumerate(available)}
    rows.sort(key=lambda cells: (place[cells[0]], float(cells[1])))
    summary = f"All {plural(len(available), 'pair')}, over all configurations"
    return Table(columns, rows, range(1, len(columns)), summary)
