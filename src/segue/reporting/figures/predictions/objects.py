"""Scores of objects side by side: a line per output representation, or else per configuration of the training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from segue.reporting.analysis.bootstrap import Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, numeric, object_prefix, sorted_levels
from segue.reporting.figures.style import (
    CATEGORIES,
    PAPER,
    ReportFigure,
    Tooltips,
    category_colors,
    legend_columns,
    new_figure,
    plain_ticks,
    style,
)
from segue.reporting.formatting import (
    Table,
    configuration_label,
    format_duration,
    join_names,
    key_label,
    plural,
    stage_label,
)

AP = re.compile(r"ap(\d\d)")  # columns of average precision at one IoU
MAX_LINES = len(CATEGORIES)
MAX_SINGLE_RUNS = 6  # runs drawn one by one; of more, the middle half
MARKERS = "osD^vPX"
SCORES: Mapping[str, str] = {
    "ap_mean": "mean AP",
    "ap50": "AP at IoU 0.5",
    "f1_50": "F1 at IoU 0.5",
    "pq": "panoptic quality",
    "miscounted": "miscounted, % of objects",
    "merges_of_100": "merges in 100 objects",
    "splits_of_100": "splits in 100 objects",
}
TIMES: Mapping[str, str] = {"train_s": "time to train", "decode_s": "time to decode an image"}
ERRORS = ("merges_of_100", "splits_of_100")


@dataclass(frozen=True)
class ObjectScores:
    """The runs of one representation: a row each in their own domain, and medians with intervals by column.

    The columns are those of `SCORES` and `TIMES`, where the table has what they are made of, and of AP at each IoU.
    """

    label: str
    frame: pd.DataFrame
    estimates: Mapping[str, Estimate]

    @property
    def curve(self) -> list[tuple[float, str]]:
        """The IoU thresholds of which there is an AP, ascending, with their columns."""
        return [(int(match[1]) / 100, name) for name in sorted(self.estimates) if (match := AP.fullmatch(name))]

    @property
    def has_errors(self) -> bool:
        return set(ERRORS) <= set(self.estimates)


def object_scores(comparison: Comparison) -> list[ObjectScores]:
    """Returns the runs of the study's final stages by the settings that differ, the highest mean AP first.

    That is the target where targets differ, else all settings of the stage that vary. Empty where no run is scored on
    objects.
    """
    prefix = object_prefix(comparison.runs)
    if f"{prefix}ap_mean" not in comparison.runs.columns:
        return []
    stages = comparison.outcome_stages
    lines = []
    for stage in stages:
        frame = _named_without(prefix, comparison.stage_runs(stage))
        frame = _with_derived(comparison, frame)
        frame = frame[np.isfinite(frame["ap_mean"])]
        axes = grouping_axes(comparison, stage)
        parts = list(frame.groupby(axes, dropna=False, sort=False)) if axes else [((), frame)]
        for levels, part in parts:
            if part.empty:
                continue
            label = configuration_label(dict(zip(axes, levels, strict=True))) or stage_label(stage)
            if len(stages) > 1 and axes:
                label = f"{stage_label(stage)}: {label}"
            clusters = comparison.cluster_levels(part)
            columns = [*SCORES, *TIMES, *(name for name in part.columns if AP.fullmatch(str(name)))]
            values = {name: part[name].to_numpy(dtype=float) for name in columns if name in part.columns}
            estimates = {name: estimate(v, clusters) for name, v in values.items() if np.isfinite(v).any()}
            lines.append(ObjectScores(label, part, estimates))
    return sorted(lines, key=lambda scores: -scores.estimates["ap_mean"].median)


def _named_without(prefix: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs with the scores of this prefix under plain names, and without those of any other."""
    if not prefix:
        return frame
    named = {name: name.removeprefix(prefix) for name in map(str, frame.columns) if name.startswith(prefix)}
    return frame.drop(columns=[name for name in named.values() if name in frame.columns]).rename(columns=named)


def grouping_axes(comparison: Comparison, stage: str) -> list[str]:
    """Returns the axes of a stage that set its lines apart: those of the target, else all that vary."""
    frame = comparison.stage_runs(stage)
    axes = [axis for axis in comparison.own_axes(stage) if frame[axis].nunique(dropna=True) > 1]
    targets_by_variant = any("target" in settings for settings in comparison.variants(stage).values())

    def is_of_target(axis: str) -> bool:
        key = axis.partition(".")[2]
        return key.split(".")[0] == "target" or (key == "variant" and targets_by_variant)

    return [axis for axis in axes if is_of_target(axis)] or axes


def typical_runs(comparison: Comparison) -> dict[str, list[str]]:
    """Returns, for each domain, the run of median value of each representation (the lower of two), the best first.

    At most as many representations as have a line in the figure.
    """
    sign = 1 if comparison.metric.lower_is_better else -1
    runs: dict[str, list[str]] = {}
    for scores in object_scores(comparison)[:MAX_LINES]:
        for domain, part in scores.frame.groupby("domain", sort=False):
            ordered = part.assign(order=-sign * part["value"]).dropna(subset="order").sort_values(["order", "run"])
            if len(ordered):
                runs.setdefault(str(domain), []).append(str(ordered["run"].iloc[(len(ordered) - 1) // 2]))
    return runs


def _with_derived(comparison: Comparison, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs with numbers per 100 labeled objects, and with their times."""
    columns = {*SCORES, "count_error_relative", "merges", "splits", "objects_true"} & set(frame.columns)
    columns |= {name for name in map(str, frame.columns) if AP.fullmatch(name)}
    frame = frame.assign(**{name: numeric(frame, name) for name in columns})
    if "count_error_relative" in columns:
        frame["miscounted"] = 100 * frame["count_error_relative"]
    for name in ("merges", "splits"):
        if {name, "objects_true"} <= columns:
            frame[f"{name}_of_100"] = 100 * frame[name] / frame["objects_true"].where(frame["objects_true"] > 0)
    timings = comparison.results.timings
    if timings is None or timings.empty:
        return frame
    times = timings.merge(frame[["run", "domain"]].drop_duplicates("run"), on="run")
    in_domain = times[times["evaluated_domain"] == times["domain"]]
    mixtures = times[~times["run"].isin(in_domain["run"])]  # evaluated in the domains mixed
    in_domain = pd.concat([in_domain, mixtures])
    return frame.merge(in_domain.groupby("run")[list(TIMES)].mean(), left_on="run", right_index=True, how="left")


def _grouping_label(comparison: Comparison) -> str:
    """Returns the name of what distinguishes the lines: "output representation"."""
    axes = [axis for stage in comparison.outcome_stages for axis in grouping_axes(comparison, stage)]
    return join_names(list(dict.fromkeys(map(key_label, axes))))


def objects_table(comparison: Comparison, lines: Sequence[ObjectScores]) -> Table:
    """Returns the table of medians, intervals beneath them in small type."""
    names = {**SCORES, **TIMES}
    columns = [name for name in names if any(name in scores.estimates for scores in lines)]
    heads = [_grouping_label(comparison) or "stage", "runs", *(names[name] for name in columns)]
    rows = [
        [scores.label, f"{len(scores.frame):,}", *(_cell(name, scores.estimates.get(name)) for name in columns)]
        for scores in lines
    ]
    return Table(heads, rows, numeric=range(1, len(heads)), css="objects")


def _cell(name: str, score: Estimate | None) -> str | tuple[str, str]:
    if score is None:
        return "–"
    decimals = 1 if name in ERRORS or name == "miscounted" else 3
    text = format_duration if name in TIMES else f"{{:.{decimals}f}}".format
    low, high = map(text, score.interval or (score.median, score.median))
    return (text(score.median), f"{low} – {high}") if low != high else text(score.median)


def objects_figure(comparison: Comparison, lines: Sequence[ObjectScores]) -> ReportFigure | None:
    """Returns AP over IoU, and merges against splits, of each representation; None without AP at several IoU."""
    if not lines or len(lines[0].curve) < 2:
        return None
    selected = lines[:MAX_LINES]
    with style():
        figure, tooltips = _draw(selected, line_colors(comparison, selected))
    runs = [len(scores.frame) for scores in selected]
    caption = (
        "Left: average precision, the objects found among all that are labeled or predicted, by the overlap"
        f" required of a match ({comparison.split} split, {plural(sum(runs), 'run')}); legend ordered by mean AP."
    )
    if max(runs) > MAX_SINGLE_RUNS:
        caption += " Lines are medians, bands the middle half of the runs."
    elif max(runs) > 1:
        caption += " Thick lines are medians, thin ones the single runs."
    if len(figure.axes) > 1:
        caption += (
            " Right: predicted objects that join several labeled ones (merges), and labeled ones cut into several"
            " (splits): filled marks are medians, small ones the single runs; lower left is better."
        )
    if object_prefix(comparison.runs):
        caption += (
            " Objects are counted on tiles, cut at their borders, since whole images were not kept: not comparable with"
            " scores on whole images."
        )
    undefined = _undefined_runs(comparison)
    if undefined:
        caption += f" Left out, as mean AP is undefined: {plural(undefined, 'run')}."
    if len(selected) < len(lines):
        caption += f" Drawn are the first {len(selected)} of {len(lines)}."
    repeated = [scores.estimates["ap_mean"] for scores in selected if scores.estimates["ap_mean"].interval]
    if repeated:
        kind = max(repeated, key=lambda score: score.runs).interval_kind
        caption += f" In the table, medians, and in small type the {kind}."
    alt = f"Average precision against intersection over union: {join_names([scores.label for scores in selected])}"
    by = _grouping_label(comparison)
    return ReportFigure("objects", figure, f"Objects found{f', by {by}' if by else ''}.", caption, alt, tooltips)


def _undefined_runs(comparison: Comparison) -> int:
    """Returns how many runs of the final stages have no mean AP."""
    column = f"{object_prefix(comparison.runs)}ap_mean"
    return sum(int(numeric(comparison.stage_runs(stage), column).isna().sum()) for stage in comparison.outcome_stages)


def line_colors(comparison: Comparison, lines: Sequence[ObjectScores]) -> dict[str, str]:
    """Returns an ink for each representation, in the order of the study, whatever its rank."""
    present = [scores.label for scores in lines]
    ordered = []
    for stage in comparison.outcome_stages:
        axes = grouping_axes(comparison, stage)
        if len(axes) == 1:
            domains = comparison.results.domains if axes[0].endswith(".domain") else []
            levels = sorted_levels(comparison.stage_runs(stage)[axes[0]], domains)
            ordered += [configuration_label({axes[0]: level}) for level in levels]
    return category_colors(list(dict.fromkeys([*(name for name in ordered if name in present), *present])))


def _draw(lines: Sequence[ObjectScores], inks: Mapping[str, str]) -> tuple[Figure, Tooltips]:
    has_errors = any(scores.has_errors for scores in lines)
    figure = new_figure(4.2)
    widths = [3, 2] if has_errors else None
    panels = list(figure.subplots(1, 2 if has_errors else 1, squeeze=False, width_ratios=widths)[0])
    tooltips = Tooltips()
    handles = []
    for scores, marker in zip(lines, MARKERS, strict=False):
        ink = inks[scores.label]
        _draw_curve(panels[0], scores, ink, marker, tooltips)
        if scores.has_errors:
            _draw_errors(panels[1], scores, ink, marker, tooltips)
        handles.append(Line2D([], [], color=ink, linewidth=1.6, marker=marker, markersize=5, label=scores.label))
    panels[0].set(xlabel="intersection over union required for a match", ylabel="average precision")
    panels[0].set_ylim(bottom=0)
    panels[0].xaxis.set_major_locator(MultipleLocator(0.1))
    for axes in panels[1:]:
        axes.set(xlabel="merges in 100 objects", ylabel="splits in 100 objects")
        right, top = axes.get_xlim()[1], axes.get_ylim()[1]
        axes.set(xlim=(-0.04 * right, 1.04 * right), ylim=(-0.04 * top, 1.04 * top))
    for axes in panels:
        axes.xaxis.set_major_formatter(plain_ticks())
        axes.yaxis.set_major_formatter(plain_ticks())
    figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns(handles, 130))
    return figure, tooltips


def _draw_curve(axes: Axes, scores: ObjectScores, ink: str, marker: str, tooltips: Tooltips) -> None:
    overlap, columns = zip(*scores.curve, strict=True)
    values = scores.frame[list(columns)].to_numpy(dtype=float)
    if 1 < len(values) <= MAX_SINGLE_RUNS:
        axes.plot(overlap, values.T, color=ink, linewidth=0.7, alpha=0.45)
    elif len(values) > MAX_SINGLE_RUNS:
        low, high = np.nanquantile(values, [0.25, 0.75], axis=0)
        axes.fill_between(overlap, low, high, color=ink, alpha=0.14, linewidth=0)
    medians = [scores.estimates[name].median for name in columns]
    look = {"color": ink, "linewidth": 1.8, "marker": marker, "markersize": 4, "markeredgecolor": PAPER}
    (line,) = axes.plot(overlap, medians, markeredgewidth=0.6, **look)
    tooltips.add(line, f"{scores.label}: mean AP {scores.estimates['ap_mean'].text()}")


def _draw_errors(axes: Axes, scores: ObjectScores, ink: str, marker: str, tooltips: Tooltips) -> None:
    merges, splits = (scores.estimates[name].median for name in ERRORS)
    if 1 < len(scores.frame) <= 20 * MAX_SINGLE_RUNS:
        x, y = (scores.frame[name] for name in ERRORS)
        axes.scatter(x, y, s=11, marker=marker, color=ink, alpha=0.4, linewidths=0)
    (mark,) = axes.plot([merges], [splits], marker, color=ink, markersize=8, markeredgecolor=PAPER)
    tooltips.add(mark, f"{scores.label}: {merges:.1f} merges and {splits:.1f} splits in 100 objects")
