"""What a split lets through: validation scores beside those of untouched test groups, for each way of splitting."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segue.reporting.analysis.bootstrap import Estimate, Sharing, estimate
from segue.reporting.analysis.comparison import SEEDS, Comparison
from segue.reporting.figures.style import AMBER, BLUE, INK, MUTED, PAPER, Drawing, sheet, style, tip
from segue.reporting.page.conclusions import clear, interval_words
from segue.reporting.page.formatting import (
    Metric,
    estimate_text,
    html_table,
    listed,
    metric_named,
    number,
    percent,
    several,
)

MOST_PANELS = 5
MOST_SINGLE = 40  # runs of a split drawn one by one
PARTS = (("validation", AMBER), ("test", BLUE))
OFFSET = 0.17  # of validation and test from the middle of their split


@dataclass(frozen=True)
class Scores:
    """The runs of one split by one metric: (n,) values, and medians with intervals.

    gaps are validation less test; rosy is the same with the sign turned where less is better, so that above 0
    validation promises more than unseen groups keep. names tells the runs of different splits that are pairs.
    """

    values: dict[str, np.ndarray]
    rosy: np.ndarray
    estimates: dict[str, Estimate]
    gap: Estimate
    names: tuple[str, ...]
    sharing: dict[str, Sharing]


@dataclass(frozen=True)
class Leaks:
    """The runs to compare by split (whole groups first). scores: metric -> split -> its scores.

    alike: whether the runs differ in nothing but the split and the seeds.
    """

    frame: pd.DataFrame
    splits: list[str]
    torn: list[str]
    metrics: list[Metric]
    scores: dict[str, dict[str, Scores]]
    alike: bool


def leaks(comparison: Comparison) -> Leaks | None:
    """Returns the runs of a study whose stages differ in what they split by; None for any other.

    A run counts by its validation scores at the epoch it selected and by its test scores in its own domain. Where
    runs are there that differ in the split alone, the others are left out.
    """
    own, histories = comparison.own, comparison.results.histories
    wanted = {"split_by", "split_tears", "apart_from_split", "selected_epoch"}
    if comparison.split != "test" or own.empty or histories.empty or not wanted <= set(own.columns):
        return None
    own = own[(own["domain"] == own["evaluated_domain"]) & own["split_by"].notna()]
    splits = own.groupby("apart_from_split")["split_by"].transform("nunique")
    alike = bool((splits > 1).any())
    own = own[splits == splits.max()] if alike else own
    if own["split_by"].nunique() < 2:
        return None
    frame = _with_validation(own, histories)
    metrics = _metrics(comparison, frame)
    if not metrics:
        return None
    torn = frame.groupby("split_by", sort=False)["split_tears"].first().astype(bool)
    order = sorted(torn.index, key=lambda name: (torn[name], name != "group"))
    scores = {
        metric.column: {name: _scores(comparison, frame[frame["split_by"] == name], metric) for name in order}
        for metric in metrics
    }
    return Leaks(frame, order, [name for name in order if torn[name]], metrics, scores, alike)


def _with_validation(own: pd.DataFrame, histories: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs with the columns validation_<metric> of the epoch that each selected."""
    columns = [name for name in map(str, histories.columns) if name.startswith("validation_")]
    columns = [name for name in columns if name not in own.columns]
    rows = histories.drop_duplicates(["run", "epoch"])[["run", "epoch", *columns]]
    found = own.merge(rows, left_on=["run", "selected_epoch"], right_on=["run", "epoch"], suffixes=("", "_of_history"))
    return found[~found["run"].duplicated()]


def _metrics(comparison: Comparison, frame: pd.DataFrame) -> list[Metric]:
    """Returns the study's metric, then F1 and area under the precision-recall curve of each foreground class."""

    def known(column: str) -> bool:
        pair = (column, f"validation_{column}")
        if not set(pair) <= set(frame.columns):
            return False
        values = frame[list(pair)].apply(pd.to_numeric, errors="coerce")
        return bool(values.notna().all(axis=1).groupby(frame["split_by"]).any().all())

    classes = [name.removeprefix("f1_") for name in map(str, frame.columns) if name.startswith("f1_")]
    classes = [name for name in classes if name not in ("background", "mean", "50")]
    wanted = [comparison.metric.column, *(f"{kind}_{name}" for name in classes for kind in ("auprc", "f1"))]
    return [metric_named(column) for column in dict.fromkeys(wanted) if known(column)][:MOST_PANELS]


def _scores(comparison: Comparison, frame: pd.DataFrame, metric: Metric) -> Scores:
    columns = {"validation": f"validation_{metric.column}", "test": metric.column}
    values = {part: pd.to_numeric(frame[c], errors="coerce").to_numpy(dtype=float) for part, c in columns.items()}
    gap = values["validation"] - values["test"]
    sharing = comparison.sharing(frame)
    estimates = {part: estimate(found, sharing) for part, found in values.items()}
    seeds = [seed for seed in (*SEEDS, "repeat") if seed in frame.columns]
    names = tuple(" ".join(map(str, row)) for row in frame[["apart_from_split", *seeds]].to_numpy())
    rosy = -gap if metric.lower_is_better else gap
    return Scores(values, rosy, estimates, estimate(gap, sharing), names, sharing)


def leak_words(found: Leaks) -> list[str]:
    """Returns what the first metric's numbers say, whatever the gap is, and how many neighbours lie across."""
    metric = found.metrics[0]
    by_split = found.scores[metric.column]
    parts = []
    for name in found.splits:
        one = by_split[name]
        validation, test = (estimate_text(one.estimates[part]) for part, _ in PARTS)
        gap = estimate_text(one.gap, signed=True)
        parts.append(f"{validation} and {test} split by {name}, a median gap of {gap}")
    head = f"The median {metric.words} on validation and on test groups, which no run has touched, is"
    texts = [f"{head} {'; '.join(parts)}."]
    texts += [_compared(found, name) for name in found.torn if len(found.torn) < len(found.splits)]
    return [*texts, _across(found)]


def _compared(found: Leaks, torn: str) -> str:
    """Returns whether validation promises more, against test, with the torn split than with the first whole one."""
    metric, whole = found.metrics[0], found.splits[0]
    first, second = (found.scores[metric.column][name] for name in (torn, whole))
    places = {name: i for i, name in enumerate(second.names)}
    pairs = [(i, places[name]) for i, name in enumerate(first.names) if name in places] if found.alike else []
    if pairs:
        mine, theirs = map(list, zip(*pairs, strict=True))
        differences = first.rosy[mine] - second.rosy[theirs]
        sharing = {words: Sharing(way.groups[mine], way.strata[mine]) for words, way in first.sharing.items()}
        more = estimate(differences, sharing)
        how = " in pairs of runs with equal seeds"
    else:
        differences = np.array([np.nanmedian(first.rosy) - np.nanmedian(second.rosy)])
        more, how = estimate(differences, {}), ""
    rosier = "rosier" if more.median > 0 else "less rosy"
    if more.interval is None:
        return (
            f"Validation split by {torn} is {rosier} than split by {whole}, by {number(abs(more.median))}{how}; it may"
            " be chance, as there are no intervals."
        )
    if clear(more):
        low, high = sorted(map(abs, more.interval))
        size = estimate_text(replace(more, median=abs(more.median), interval=(low, high)))
        return f"Validation split by {torn} is {rosier} than split by {whole}, by {size}{how}."
    return (
        f"Whether validation split by {torn} is rosier than split by {whole} is not clear: rosier by"
        f" {estimate_text(more, signed=True)}{how}."
    )


def _across(found: Leaks) -> str:
    """Returns how many neighbouring tiles each split has on both sides of its border."""
    parts = []
    for name in found.torn:
        rows = found.frame[found.frame["split_by"] == name]
        pairs = rows["neighbouring_pairs"].astype(float)
        share = (rows["validation_tiles_near"].astype(float) / rows["validation_tiles"].astype(float)).median()
        told = f"{pairs.median():,.0f}" + (" in the median" if pairs.nunique() > 1 else "")
        near = f", and {percent(float(share))} of the validation tiles have one" if math.isfinite(share) else ""
        parts.append(f"{told} split by {name}{near}")
    whole = [name for name in found.splits if name not in found.torn]
    parts += [f"none split by {listed(whole)}"] if whole else []
    return (
        "Pairs of neighbouring tiles (they overlap, at the same or an adjacent time) across the border between training"
        f" and validation: {'; '.join(parts)}."
    )


def leak_drawing(found: Leaks) -> Drawing:
    """Returns a panel per metric: for each split, validation beside test, runs joined by lines."""
    with style():
        figure, tips = _figure(found)
    runs = len(found.frame)
    caption = (
        "<strong>What the split lets through.</strong> Scores at the selected epoch on validation images, and of the"
        f" same runs on test groups, which no split touches ({several(runs, 'run')}). {_lines(found)} Circles: medians."
    )
    estimates = [one.estimates["test"] for by_split in found.scores.values() for one in by_split.values()]
    repeated = [one for one in estimates if one.interval]
    if repeated:
        words = interval_words(max(repeated, key=lambda one: one.runs))
        caption += f" Dark lines: {words}; where none shows, it is narrower than the circle."
    else:
        caption += " No interval is drawn, as nothing was repeated with another seed."
    caption += f" {escape(_groups_words(found))}"
    if not found.alike:
        caption += " The runs differ in more than the split, so that the splits do not compare in pairs."
    alt = f"Validation and test scores of runs split by {listed(found.splits)}"
    return Drawing("leak", figure, caption, alt, tips)


def _lines(found: Leaks) -> str:
    most = max(len(one.rosy) for one in found.scores[found.metrics[0].column].values())
    return "Thin lines: single runs." if most <= MOST_SINGLE else "Bars: the middle half of the runs."


def _groups_words(found: Leaks) -> str:
    """Returns of how many groups the scores are, on which no interval over seeds can tell anything."""
    rows = found.frame
    if not {"training_groups", "validation_groups", "evaluated_groups"} <= set(rows.columns):
        return ""
    counts = rows.groupby("split_by")[["training_groups", "validation_groups"]].median().astype(int)
    of = {
        part: listed([f"{counts.loc[name, f'{part}_groups']} split by {name}" for name in found.splits])
        for part in ("training", "validation")
    }
    told = (
        f"Groups: training images are of {of['training']}; validation images of {of['validation']}; test images of"
        f" {int(rows['evaluated_groups'].median())}. Seeds do not change which, so that a part of each gap is that some"
        " groups are harder than others, and no interval covers it."
    )
    if counts["training_groups"].nunique() > 1:
        told += " Training images of more groups teach more of what groups differ in, and can raise test scores too."
    return told


def leak_table(found: Leaks) -> str:
    """Returns the numbers of the figure, folded away."""
    heads = ["split by", "runs", "validation", "test groups", "validation less test"]
    rows: list[list[str]] = []
    for metric in found.metrics:
        rows.append([metric.words])
        for name, one in found.scores[metric.column].items():
            told = [estimate_text(one.estimates[part]) for part, _ in PARTS]
            rows.append([name, f"{one.gap.runs:,}", *told, estimate_text(one.gap, signed=True)])
    table = html_table(heads, rows, numbers=range(1, len(heads)))
    return f"<details><summary>The numbers of this figure, with intervals</summary>{table}</details>"


def _figure(found: Leaks) -> tuple[Figure, dict[str, str]]:
    columns = min(len(found.metrics), 3)
    lines = math.ceil(len(found.metrics) / columns)
    figure = sheet(0.6 + (2.9 if lines == 1 else 2.6) * lines)
    every = figure.subplots(lines, columns, squeeze=False).ravel()
    tips: dict[str, str] = {}
    for axes, metric in zip(every, found.metrics, strict=False):
        for x, name in enumerate(found.splits):
            _draw(axes, x, found.scores[metric.column][name], (name, metric, tips))
        width = max(9, 34 // len(found.splits))
        wrapped = [textwrap.fill(name, width, break_long_words=False) for name in found.splits]
        axes.set_xticks(range(len(found.splits)), wrapped)
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_xlim(-0.5, len(found.splits) - 0.5)
        axes.grid(axis="x", visible=False)
        words = metric.words.replace("area under the precision–recall curve", "area under PR curve")
        axes.set_title(textwrap.fill(words, 44))
        axes.set_ylabel("lower is better" if metric.lower_is_better else "higher is better")
        axes.set_xlabel("split by")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    for axes in every[len(found.metrics) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=ink, marker="o", linestyle="none", markersize=6.5, label=part) for part, ink in PARTS
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure, tips


def _draw(axes: Axes, x: int, one: Scores, where: tuple[str, Metric, dict[str, str]]) -> None:
    """Draws one split of a panel: its runs from validation to test, and the medians."""
    name, metric, tips = where
    places = {part: x + side * OFFSET for (part, _), side in zip(PARTS, (-1, 1), strict=True)}
    _draw_runs(axes, one, places)
    axes.plot(
        list(places.values()), [one.estimates[part].median for part in places], color=INK, linewidth=1.2, zorder=3
    )
    for part, ink in PARTS:
        found = one.estimates[part]
        if found.interval:
            axes.plot([places[part]] * 2, found.interval, color=INK, linewidth=1.6, zorder=4, solid_capstyle="round")
        mark = axes.plot([places[part]], [found.median], "o", color=ink, markersize=8, markeredgecolor=PAPER, zorder=5)
        text = f"split by {name}, {part}: median {metric.words} {estimate_text(found)}, {several(found.runs, 'run')}"
        tip(tips, mark[0], text)


def _draw_runs(axes: Axes, one: Scores, places: dict[str, float]) -> None:
    if len(one.rosy) > MOST_SINGLE:
        for part, ink in PARTS:
            low, high = np.nanquantile(one.values[part], [0.25, 0.75])
            axes.plot([places[part]] * 2, [low, high], color=ink, alpha=0.35, linewidth=9, solid_capstyle="butt")
        return
    values = np.stack([one.values[part] for part, _ in PARTS])
    axes.plot(list(places.values()), values, color=MUTED, linewidth=0.7, alpha=0.6, zorder=2)
    for part, ink in PARTS:
        axes.scatter(
            [places[part]] * len(one.rosy), one.values[part], s=12, color=ink, alpha=0.6, linewidths=0, zorder=2
        )


def shown(comparison: Comparison) -> tuple[Drawing, Sequence[str], str] | None:
    """Returns the drawing, the sentences above it and the table beneath; None where the study compares no splits."""
    found = leaks(comparison)
    return None if found is None else (leak_drawing(found), leak_words(found), leak_table(found))
