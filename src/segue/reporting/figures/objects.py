"""Scores of objects side by side: a line for each output representation, or for each way of training otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from segue.reporting.analysis.bootstrap import Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, variants
from segue.reporting.analysis.factors import sorted_levels
from segue.reporting.figures.style import CATEGORIES, PAPER, Drawing, colours_of, sheet, style, tip
from segue.reporting.page.conclusions import interval_words
from segue.reporting.page.formatting import (
    AXES,
    configuration_words,
    duration,
    estimate_text,
    listed,
    several,
    stage_words,
)

AP = re.compile(r"ap(\d\d)")  # columns of average precision at one IoU
MOST_LINES = len(CATEGORIES)
MOST_SINGLE = 6  # runs drawn one by one; of more, the middle half
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


@dataclass(frozen=True)
class ObjectScores:
    """The runs of one representation: a row each in their own domain, and medians with intervals by column.

    The columns are those of `SCORES` and `TIMES`, where the table has what they are made of, and of AP at each IoU.
    """

    words: str
    frame: pd.DataFrame
    estimates: Mapping[str, Estimate]

    @property
    def curve(self) -> list[tuple[float, str]]:
        """The IoU thresholds of which there is an AP, ascending, with their columns."""
        return [(int(found[1]) / 100, name) for name in sorted(self.estimates) if (found := AP.fullmatch(name))]


def object_scores(comparison: Comparison) -> list[ObjectScores]:
    """Returns the runs of the stages that the study asks for by what sets them apart, the highest mean AP first.

    That is the target where targets differ, else all settings of the stage that vary. Empty where no run is scored on
    objects.
    """
    if "ap_mean" not in comparison.own.columns:
        return []
    leaves = comparison.leaves()
    found = []
    for stage in leaves:
        frame = _derived(comparison, comparison.of(stage))
        frame = frame[np.isfinite(frame["ap_mean"])]
        axes = grouping(comparison, stage)
        parts = list(frame.groupby(axes, dropna=False, sort=False)) if axes else [((), frame)]
        for levels, part in parts:
            if part.empty:
                continue
            words = configuration_words(dict(zip(axes, levels, strict=True))) or stage_words(stage)
            if len(leaves) > 1 and axes:
                words = f"{stage_words(stage)}: {words}"
            sharing = comparison.sharing(part)
            columns = [*SCORES, *TIMES, *(name for name in part.columns if AP.fullmatch(str(name)))]
            values = {name: part[name].to_numpy(dtype=float) for name in columns if name in part.columns}
            estimates = {name: estimate(v, sharing) for name, v in values.items() if np.isfinite(v).any()}
            found.append(ObjectScores(words, part, estimates))
    return sorted(found, key=lambda one: -one.estimates["ap_mean"].median)


def grouping(comparison: Comparison, stage: str) -> list[str]:
    """Returns the axes of a stage that set its lines apart: those of the target, else all that vary."""
    frame = comparison.of(stage)
    own = [axis for axis in comparison.results.stages.get(stage, []) if axis in frame.columns]
    own = [axis for axis in own if frame[axis].nunique(dropna=True) > 1]
    of_variants = any("target" in table for table in variants(comparison.results, stage).values())

    def of_target(axis: str) -> bool:
        key = axis.partition(".")[2]
        return key.split(".")[0] == "target" or (key == "variant" and of_variants)

    return [axis for axis in own if of_target(axis)] or own


def typical_runs(comparison: Comparison) -> dict[str, list[str]]:
    """Returns, for each domain, the run of median value of each representation (the lower of two), the best first.

    At most as many representations as have a line in the figure.
    """
    sign = 1 if comparison.metric.lower_is_better else -1
    found: dict[str, list[str]] = {}
    for one in object_scores(comparison)[:MOST_LINES]:
        for domain, part in one.frame.groupby("domain", sort=False):
            ordered = part.assign(order=-sign * part["value"]).dropna(subset="order").sort_values(["order", "run"])
            if len(ordered):
                found.setdefault(str(domain), []).append(str(ordered["run"].iloc[(len(ordered) - 1) // 2]))
    return found


def _derived(comparison: Comparison, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs with numbers per 100 labelled objects, and with their times."""
    numeric = {
        name: pd.to_numeric(frame[name], errors="coerce").astype(float)
        for name in map(str, frame.columns)
        if name in (*SCORES, "count_error_relative", "merges", "splits", "objects_true") or AP.fullmatch(name)
    }
    frame = frame.assign(**numeric)
    if "count_error_relative" in frame.columns:
        frame["miscounted"] = 100 * frame["count_error_relative"]
    for name in ("merges", "splits"):
        if {name, "objects_true"} <= set(frame.columns):
            frame[f"{name}_of_100"] = 100 * frame[name] / frame["objects_true"].where(frame["objects_true"] > 0)
    timings = comparison.results.timings
    if timings is None or timings.empty:
        return frame
    times = timings.merge(frame[["run", "domain"]].drop_duplicates("run"), on="run")
    own = times[times["evaluated_domain"] == times["domain"]]
    own = pd.concat([own, times[~times["run"].isin(own["run"])]])  # a mixture is evaluated in its domains
    return frame.merge(own.groupby("run")[list(TIMES)].mean(), left_on="run", right_index=True, how="left")


def _apart(comparison: Comparison) -> str:
    """Returns what sets the lines apart, in words: "output representation"."""
    axes = [axis for stage in comparison.leaves() for axis in grouping(comparison, stage)]
    keys = [axis.partition(".")[2] for axis in axes]
    return listed(list(dict.fromkeys(AXES.get(key, key) for key in keys)))


def objects_table(comparison: Comparison, found: Sequence[ObjectScores]) -> str:
    """Returns the table of medians, intervals beneath them in small type."""
    columns = [name for name in (*SCORES, *TIMES) if any(name in one.estimates for one in found)]
    words = {**SCORES, **TIMES}
    heads = [_apart(comparison) or "stage", "runs", *(words[name] for name in columns)]
    rows = [
        f"<td>{escape(one.words)}</td>{_number(f'{len(one.frame):,}')}"
        + "".join(_cell(name, one.estimates.get(name)) for name in columns)
        for one in found
    ]
    marks = ["", *[' class="number"'] * (len(heads) - 1)]
    head = "".join(f"<th{mark}>{escape(text)}</th>" for mark, text in zip(marks, heads, strict=True))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table class="objects"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(name: str, found: Estimate | None) -> str:
    if found is None:
        return _number("–")
    text = _text(name)
    if found.interval is None:
        return _number(text(found.median))
    low, high = map(text, found.interval)
    spread = f"<small>{low} – {high}</small>" if low != high else ""
    return _number(f"{text(found.median)}{spread}")


def _text(name: str) -> Callable[[float], str]:
    if name == "train_s":
        return duration
    if name == "decode_s":
        return lambda seconds: f"{1e3 * seconds:.0f} ms" if seconds < 1 else duration(seconds)
    decimals = 1 if name.endswith("_of_100") or name == "miscounted" else 3
    return lambda value: f"{value:.{decimals}f}"


def _number(html: str) -> str:
    return f'<td class="number">{html}</td>'


def objects_drawing(comparison: Comparison, found: Sequence[ObjectScores]) -> Drawing | None:
    """Returns AP over IoU, and merges against splits, of each representation; None without AP at several IoU."""
    if not found or len(found[0].curve) < 2:
        return None
    shown = found[:MOST_LINES]
    with style():
        figure, tips = _figure(shown, colours(comparison, shown))
    runs = sum(len(one.frame) for one in shown)
    most = max(len(one.frame) for one in shown)
    what = f", by {_apart(comparison)}" if _apart(comparison) else ""
    caption = (
        f"<strong>Objects found{escape(what)}.</strong> Left: average precision, the objects found among all that"
        f" are labelled or predicted, against the overlap asked of a match ({escape(comparison.split)} split,"
        f" {several(runs, 'run')}); its mean over these is the mean AP, by which the legend is ordered."
    )
    if most > MOST_SINGLE:
        caption += " Lines are medians, bands the middle half of the runs."
    elif most > 1:
        caption += " Thick lines are medians, thin ones the single runs."
    if len(figure.axes) > 1:
        caption += (
            " Right: predicted objects that join several labelled ones (merges), and labelled ones that were cut into"
            " several (splits), in 100 labelled objects: filled marks are medians, small ones the single runs; lower"
            " left is better."
        )
    if len(shown) < len(found):
        caption += f" Drawn are the first {len(shown)} of {len(found)}."
    repeated = [one.estimates["ap_mean"] for one in found if one.estimates["ap_mean"].interval]
    if repeated:
        words = interval_words(max(repeated, key=lambda one: one.runs))
        caption += f" In the table, medians, and in small type the {escape(words)}."
    alt = f"Average precision against intersection over union: {listed([one.words for one in shown])}"
    return Drawing("objects", figure, caption, alt, tips)


def colours(comparison: Comparison, found: Sequence[ObjectScores]) -> dict[str, str]:
    """Returns an ink for each representation, in the order of the study, whatever place it takes."""
    present = {one.words for one in found}
    ordered = []
    for stage in comparison.leaves():
        axes = grouping(comparison, stage)
        if len(axes) == 1:
            domains = comparison.results.domains if axes[0].endswith(".domain") else []
            levels = sorted_levels(comparison.of(stage)[axes[0]], domains)
            ordered += [configuration_words({axes[0]: level}) for level in levels]
    names = [name for name in dict.fromkeys(ordered) if name in present]
    return colours_of([*names, *(one.words for one in found if one.words not in names)])


def _figure(found: Sequence[ObjectScores], inks: Mapping[str, str]) -> tuple[Figure, dict[str, str]]:
    errors = ("merges_of_100", "splits_of_100")
    both = any(set(errors) <= set(one.estimates) for one in found)
    figure = sheet(4.2)
    every = figure.subplots(1, 2 if both else 1, squeeze=False, width_ratios=[3, 2] if both else None)[0]
    tips: dict[str, str] = {}
    handles = []
    for one, marker in zip(found, MARKERS, strict=False):
        ink = inks[one.words]
        _draw_curve(every[0], one, ink, marker, tips)
        if both and set(errors) <= set(one.estimates):
            _draw_errors(every[1], one, ink, marker, tips)
        handles.append(Line2D([], [], color=ink, linewidth=1.6, marker=marker, markersize=5, label=one.words))
    every[0].set(xlabel="intersection over union asked of a match", ylabel="average precision")
    every[0].set_ylim(bottom=0)
    every[0].xaxis.set_major_locator(MultipleLocator(0.1))
    if both:
        every[1].set(xlabel="merges in 100 objects", ylabel="splits in 100 objects")
        for low, set_limits in ((every[1].get_xlim(), every[1].set_xlim), (every[1].get_ylim(), every[1].set_ylim)):
            set_limits(-0.04 * low[1], 1.04 * low[1])
    for axis in [axis for axes in every for axis in (axes.xaxis, axes.yaxis)]:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    lengths = [8 + len(one.words) for one in found]
    columns = len(found) if sum(lengths) <= 130 else max(1, 130 // max(lengths))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    return figure, tips


def _draw_curve(axes: Axes, one: ObjectScores, ink: str, marker: str, tips: dict[str, str]) -> None:
    overlap = [at for at, _ in one.curve]
    columns = [name for _, name in one.curve]
    values = one.frame[columns].to_numpy(dtype=float)
    if 1 < len(values) <= MOST_SINGLE:
        axes.plot(overlap, values.T, color=ink, linewidth=0.7, alpha=0.45)
    elif len(values) > MOST_SINGLE:
        low, high = np.nanquantile(values, [0.25, 0.75], axis=0)
        axes.fill_between(overlap, low, high, color=ink, alpha=0.14, linewidth=0)
    medians = [one.estimates[name].median for name in columns]
    line = axes.plot(overlap, medians, color=ink, linewidth=1.8, marker=marker, markersize=4, markeredgecolor=PAPER)[0]
    line.set_markeredgewidth(0.6)
    tip(tips, line, f"{one.words}: mean AP {estimate_text(one.estimates['ap_mean'])}")


def _draw_errors(axes: Axes, one: ObjectScores, ink: str, marker: str, tips: dict[str, str]) -> None:
    merges, splits = one.estimates["merges_of_100"], one.estimates["splits_of_100"]
    if 1 < len(one.frame) <= 20 * MOST_SINGLE:
        axes.scatter(
            one.frame["merges_of_100"], one.frame["splits_of_100"], s=11, marker=marker, color=ink, alpha=0.4,
            linewidths=0,
        )  # fmt: skip
    mark = axes.plot([merges.median], [splits.median], marker, color=ink, markersize=8, markeredgecolor=PAPER)[0]
    tip(tips, mark, f"{one.words}: {merges.median:.1f} merges and {splits.median:.1f} splits in 100 objects")
