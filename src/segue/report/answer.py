"""The answer in plain language, computed from the runs; no sentence claims more than its interval."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportAssignmentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from segue.report.comparison import Comparison, before_and_after
from segue.report.factors import Factor, against_scratch, coverage, factors
from segue.report.statistics import Estimate, estimate
from segue.report.words import estimate_text, level_text, listed, number, percent, several, stage_words


def answer(comparison: Comparison) -> list[str]:
    """Returns paragraphs of plain text; the first answers the question."""
    usable = comparison.own[np.isfinite(comparison.own["value"])]
    if usable.empty:
        return ["No run has finished with a value to compare by, so there is no answer yet."]
    paragraphs = []
    for stage in comparison.transfers:
        gained = " ".join(filter(None, [_gain(comparison, stage), _freezing(comparison, stage)]))
        versus = [_versus(comparison, stage, scratch) for scratch in comparison.scratch(stage)]
        paragraphs += [gained, *versus]
    paragraphs = [text for text in paragraphs if text] or [_alone(comparison)]
    leading = next((stage for stage in comparison.transfers), comparison.leaves()[0])
    paragraphs.append(" ".join(filter(None, [_most_influential(comparison, leading), _hardest(comparison, leading)])))
    paragraphs.append(caution(comparison))
    return [text for text in paragraphs if text]


def caution(comparison: Comparison) -> str:
    """Returns what weakens the answer, or an empty text."""
    notes = []
    counts = comparison.results.counts
    if comparison.own.empty:
        notes.append("Nothing has finished yet.")
    elif not comparison.repeated:
        every = "So far, every" if counts.get("pending", 0) else "Every"
        notes.append(
            f"{every} configuration was run with a single seed, so no interval can be given: differences may be chance."
        )
    else:
        own = comparison.own
        freedom = max(estimate(own["value"].to_numpy(), comparison.sharing(own)).freedom, 0)
        if freedom < 3:
            notes.append(
                f"With {freedom + 1} seeds an interval is the range over the seeds: that it leaves out zero means that"
                " the seeds agree, which may be chance."
            )
        notes += [
            f"All runs of {stage_words(stage)} start from one parent per source, whose own chance no interval covers."
            for stage in comparison.transfers
            if _parents_alone(comparison, stage)
        ]
    if counts.get("failed", 0):
        notes.append(
            f"{several(counts['failed'], 'training')} failed and {_are(counts['failed'])} not in these numbers."
        )
    if counts.get("pending", 0):
        notes.append(
            f"{several(counts['pending'], 'training')} {_are(counts['pending'])} still to be run;"
            " the numbers will change."
        )
    lost = int((~np.isfinite(comparison.own["value"])).sum())
    if lost:
        notes.append(
            f"{several(lost, 'finished run')} {'has' if lost == 1 else 'have'} no finite value and is left out."
        )
    if comparison.split != "test":
        notes.append(
            f"Values are of the {comparison.split} split, by which runs may have been selected: a little rosy."
        )
    return " ".join(notes)


def _parents_alone(comparison: Comparison, stage: str) -> bool:
    """Returns whether no configuration from which `stage` descends was itself repeated."""
    own = comparison.own
    roots = own[own["run"].isin(comparison.of(stage)["root"])]
    return not roots.empty and int(roots.groupby("configuration").size().max()) == 1


def clear(found: Estimate) -> bool:
    """Returns whether the interval excludes zero."""
    return found.interval is not None and (found.interval[0] > 0 or found.interval[1] < 0)


def interval_words(found: Estimate) -> str:
    """Returns what an interval is, for a caption: "95 % bootstrap interval of the median, resampling 5 seeds"."""
    if found.freedom < 3:
        return f"range of the medians over {_repeats(found)}, too few for a 95 % interval"
    return f"95 % bootstrap interval of the median, resampling {_repeats(found)}"


def _repeats(found: Estimate) -> str:
    """Returns "3 seeds", or "3 initialisations and 5 draws of images" where they are crossed."""
    if list(found.units) in (["draws of images"], ["initialisations"]):
        return f"{sum(found.units.values())} seeds"
    return listed([f"{count:,} {name}" for name, count in found.units.items()])


def _gain(comparison: Comparison, stage: str) -> str:
    frame = before_and_after(comparison, stage)
    metric, parent = comparison.metric, comparison.results.parents[stage]
    if frame.empty:
        own = comparison.of(stage)
        found = estimate(own["value"].to_numpy(), comparison.sharing(own))
        return f"After {stage_words(stage)}, the median {metric.words} in the target domain is {estimate_text(found)}."
    sharing = comparison.sharing(frame)
    before, after, change = (estimate(frame[c].to_numpy(), sharing) for c in ("before", "value", "change"))
    better = frame["change"] < 0 if metric.lower_is_better else frame["change"] > 0
    share = "every run" if better.all() else f"{percent(float(better.mean()))} of the runs"
    text = (
        f"After {stage_words(str(parent))} only, the median {metric.words} in the target domain is"
        f" {estimate_text(before)}; after {stage_words(stage)} it is {estimate_text(after)}, over"
        f" {several(len(frame), 'run')}."
    )
    if clear(change):
        good = (change.median < 0) == metric.lower_is_better
        verb = "lowers" if change.median < 0 else "raises"
        text += (
            f" Run by run, {stage_words(stage)} {verb} it by {estimate_text(_absolute(change))} in the median and"
            f" {'improves' if good else 'improves only'} {share}."
        )
    elif change.interval:
        text += f" Run by run the change is not clear: {estimate_text(change, signed=True)}; it improves {share}."
    else:
        text += f" Run by run the median change is {number(change.median, signed=True)}; it improves {share}."
    return text


def _freezing(comparison: Comparison, stage: str) -> str:
    """Returns what each frozen part changes against freezing nothing, from the pairs of the figure of effects."""
    factor = next((factor for factor in factors(comparison, stage) if factor.axis == f"{stage}.freeze"), None)
    if factor is None or factor.levels[0].name != "none":
        return ""
    parts = []
    for level in factor.levels[1:]:
        if level.difference is None:
            continue
        verb = f"changes the {comparison.metric.words} by" if not parts else "by"
        notes = [_verdict(comparison, level.difference), coverage(factor, [level])]
        note = ", ".join(filter(None, notes))
        size = estimate_text(level.difference, signed=True) + (f" ({note})" if note else "")
        parts.append(f"freezing the {listed(level.name.split(','))} {verb} {size}")
    return f"Against freezing nothing, all else equal, {listed(parts)}." if parts else ""


def _verdict(comparison: Comparison, difference: Estimate) -> str:
    """Returns "better", "worse" or "no clear difference", or an empty text where there is no interval."""
    if difference.interval is None:
        return ""
    if not clear(difference):
        return "no clear difference"
    return "better" if (difference.median < 0) == comparison.metric.lower_is_better else "worse"


def _versus(comparison: Comparison, stage: str, scratch: str) -> str:
    """Returns how transfer compares with training from scratch, by number of labels."""
    found = against_scratch(comparison, stage, scratch)
    if not found:
        return ""
    lower = comparison.metric.lower_is_better
    better = [level_text(n) for n, e in found.items() if clear(e) and (e.median < 0) == lower]
    worse = [level_text(n) for n, e in found.items() if clear(e) and (e.median < 0) != lower]
    unclear = [level_text(n) for n, e in found.items() if e.interval and not clear(e)]
    few, most = min(found), max(found)
    parts = []
    if better:
        parts.append(f"{stage_words(stage)} is better with {listed(better)}")
    if worse:
        parts.append(f"scratch is better with {listed(worse)}")
    if unclear:
        parts.append(f"there is no clear difference with {listed(unclear)}")
    name = "" if scratch == "scratch" else f" ({scratch})"
    counted = label_unit(comparison) + (
        " (training and validation)" if spends_validation(comparison, [stage, scratch]) else ""
    )
    claim = f"Against training from scratch{name} on the same labelled {counted}, {'; '.join(parts)}." if parts else ""
    sizes = [f"{estimate_text(found[n], signed=True)} with {level_text(n)}" for n in dict.fromkeys([few, most])]
    size = f"In the median, {stage_words(stage)} less scratch is {listed(sizes)} labelled {label_unit(comparison)}."
    return f"{claim} {size}".strip()


def label_unit(comparison: Comparison) -> str:
    """Returns what labels are counted in."""
    own = comparison.own
    units = list(own["label_unit"].dropna().unique()) if "label_unit" in own.columns else []
    return str(units[0]) if len(units) == 1 else "images"


def spends_validation(comparison: Comparison, stages: Sequence[str]) -> bool:
    """Returns whether any run of `stages` spent labels on validation, as far as the table tells."""
    own = comparison.own[comparison.own["stage"].isin(stages)]
    if "labels_validation" not in own.columns:
        return False
    return bool((pd.to_numeric(own["labels_validation"], errors="coerce") > 0).any())


def _most_influential(comparison: Comparison, stage: str) -> str:
    chosen = [factor for factor in factors(comparison, stage) if not factor.is_target and math.isfinite(factor.span)]
    if not chosen:
        return ""
    if comparison.repeated:
        chosen = [factor for factor in chosen if any(clear(x.difference) for x in factor.levels if x.difference)]
        if not chosen:
            return "Of what was varied, nothing changes the outcome clearly."
    top: Factor = max(chosen, key=lambda factor: factor.span)
    sign = 1 if comparison.metric.lower_is_better else -1
    ranked = sorted(top.levels, key=lambda level: sign * (level.difference.median if level.difference else 0.0))
    where = coverage(top, [ranked[-1], ranked[0]])
    text = (
        f"Of what was varied, {top.prose} moves the outcome most: from {ranked[-1].name} to {ranked[0].name},"
        f" all else equal{f' ({where})' if where else ''}, the {comparison.metric.words} changes by"
        f" {number(-sign * top.span, signed=True)}."
    )
    others = [factor for factor in chosen if factor is not top]
    if others:
        second = max(others, key=lambda factor: factor.span)
        where = coverage(second, second.levels)
        text += f" Next is {second.prose} ({number(second.span)}{f', {where}' if where else ''})."
    return text


def _hardest(comparison: Comparison, stage: str) -> str:
    medians = comparison.of(stage).groupby("domain")["value"].median().dropna()
    if len(medians) < 2:
        return ""
    lower = comparison.metric.lower_is_better
    ranked = medians.sort_values(ascending=not lower)
    name, value, following = ranked.index[0], float(ranked.iloc[0]), float(ranked.iloc[1])
    return (
        f"The hardest domain after {stage_words(stage)} is {name}, at a median of {number(value)};"
        f" the next is {ranked.index[1]} at {number(following)}."
    )


def _alone(comparison: Comparison) -> str:
    parts = []
    for stage in comparison.leaves():
        own = comparison.of(stage)
        found = estimate(own["value"].to_numpy(), comparison.sharing(own))
        parts.append(f"{estimate_text(found)} for {stage_words(stage)} ({several(found.runs, 'run')})")
    return f"The median {comparison.metric.words} in the runs' own domains is {listed(parts)}."


def _absolute(found: Estimate) -> Estimate:
    if found.interval is None or found.median >= 0:
        return found
    low, high = found.interval
    return replace(found, median=-found.median, interval=(-high, -low))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
