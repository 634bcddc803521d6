"""The answer in plain language, computed from the runs; no sentence claims more than its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, before_and_after, stage_table, variants
from segue.reporting.analysis.factors import Factor, against_scratch, coverage, factors
from segue.reporting.analysis.ranking import ranking
from segue.reporting.page.formatting import estimate_text, level_text, listed, number, percent, several, stage_words


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
    paragraphs = [text for text in paragraphs if text] or [*_best(comparison), _alone(comparison)]
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
    lost = comparison.own[~np.isfinite(comparison.own["value"])]
    if len(lost):
        where = listed([stage_words(str(stage)) for stage in lost["stage"].unique()])
        notes.append(
            f"{several(len(lost), 'finished run')} ({where}) {'has' if len(lost) == 1 else 'have'} no finite"
            f" {comparison.metric.words} and {_are(len(lost))} left out."
        )
    chosen = [len(ranked.entries) for ranked in map(partial(ranking, comparison), _lone(comparison)) if ranked]
    if comparison.split == "test" and max(chosen, default=0) > 2:
        notes.append(
            f"The best of {max(chosen)} configurations was found by the values that are stated of it, which makes them"
            " a little rosy."
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
    if factor is None:
        return _freezing_variants(comparison, stage)
    if factor.levels[0].name != "none":
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


def _freezing_variants(comparison: Comparison, stage: str) -> str:
    """Returns the same where freezing is varied by variants alone, and what else these differ in."""
    factor = next((factor for factor in factors(comparison, stage) if factor.axis == f"{stage}.variant"), None)
    tables, default = variants(comparison.results, stage), stage_table(comparison.results, stage).get("freeze", "none")
    frozen = {name: _parts(table.get("freeze", default)) for name, table in tables.items()}
    if factor is None or frozen.get(factor.levels[0].name) != []:
        return ""
    first, parts = factor.levels[0].name, []
    for level in factor.levels[1:]:
        if level.difference is None or not frozen.get(level.name):
            continue
        verb = f"changes the {comparison.metric.words} by" if not parts else "by"
        other = tables[level.name]
        differ = [
            key for key in {**tables[first], **other} if key != "freeze" and tables[first].get(key) != other.get(key)
        ]
        notes = [_verdict(comparison, level.difference), f"which also differs in {listed(differ)}" if differ else ""]
        note = ", ".join(filter(None, notes))
        size = estimate_text(level.difference, signed=True) + (f" ({note})" if note else "")
        parts.append(f"“{level.name}”, which freezes the {listed(frozen[level.name])}, {verb} {size}")
    return f"Against “{first}”, which freezes nothing, {listed(parts)}." if parts else ""


def _parts(freeze: object) -> list[str]:
    """Returns the parts that a stage's `freeze` names, none for "none"."""
    names = [freeze] if isinstance(freeze, str) else list(freeze) if isinstance(freeze, list) else []
    return [str(name) for name in names if name != "none"]


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
        f"Of what was varied, {top.prose} {_verb(top, 'move')} the outcome most: from {ranked[-1].name} to"
        f" {ranked[0].name},"
        f" all else equal{f' ({where})' if where else ''}, the {comparison.metric.words} changes by"
        f" {number(-sign * top.span, signed=True)}."
    )
    others = [factor for factor in chosen if factor is not top]
    if others:
        second = max(others, key=lambda factor: factor.span)
        where = coverage(second, second.levels)
        text += f" Next {_verb(second, 'come')} {second.prose} ({number(second.span)}{f', {where}' if where else ''})."
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


def _lone(comparison: Comparison) -> list[str]:
    """Returns the stages whose configurations are ranked: where nothing is transferred, those of the outcome."""
    return [] if comparison.transfers or comparison.own.empty else comparison.leaves()


def _alone(comparison: Comparison) -> str:
    parts = []
    for stage in comparison.leaves():
        own = comparison.of(stage)
        found = estimate(own["value"].to_numpy(), comparison.sharing(own))
        parts.append(f"{estimate_text(found)} for {stage_words(stage)} ({several(found.runs, 'run')})")
    return f"The median {comparison.metric.words} in the runs' own domains is {listed(parts)}."


def _best(comparison: Comparison) -> list[str]:
    """Returns, for each stage that others do not start from, which configuration is best and whether clearly so."""
    texts = []
    metric = comparison.metric
    for stage in _lone(comparison):
        found = ranking(comparison, stage)
        if found is None:
            continue
        best, second, *rest = found.entries
        text = (
            f"Of {len(found.entries)} configurations of {stage_words(stage)}, {best.words} has the best {metric.words}"
            f" on the {comparison.split} split, a median of {estimate_text(best.estimate)}; next"
            f" {'are' if rest else 'is'} {second.words} at {estimate_text(second.estimate)}"
        )
        text += f" and, last, {rest[-1].words} at {estimate_text(rest[-1].estimate)}." if rest else "."
        if found.lead is not None:
            size = estimate_text(found.lead, signed=True)
            if found.lead.interval is None:
                text += f" In pairs of runs, the first less the second is {size}."
            else:
                every = found.lead.freedom < 3  # the interval is the range over the seeds
                ahead = f"{'' if every else 'clearly '}ahead of the second{' with every seed' if every else ''}"
                no = "" if clear(found.lead) else "not "
                text += f" In pairs of runs with equal seeds, the first is {no}{ahead}: {size}."
        texts.append(text)
    return texts


def _verb(factor: Factor, stem: str) -> str:
    """Returns the verb as the factor's name asks for: "class weights in training move", "batch size ... moves"."""
    return stem if factor.prose.partition(" in ")[0].endswith("s") else f"{stem}s"


def _absolute(found: Estimate) -> Estimate:
    if found.interval is None or found.median >= 0:
        return found
    low, high = found.interval
    return replace(found, median=-found.median, interval=(-high, -low))


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
