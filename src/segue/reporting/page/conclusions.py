"""The answer of the page: a sentence per conclusion, a table of the numbers, and their limitations.

No sentence claims more than its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segue.reporting.analysis.bootstrap import MIN_DEGREES_OF_FREEDOM, Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, before_and_after
from segue.reporting.analysis.factors import Factor, against_scratch, factors
from segue.reporting.analysis.ranking import Ranking, context_columns, ranking
from segue.reporting.formatting import (
    Table,
    format_number,
    format_percent,
    join_names,
    key_label,
    level_label,
    plural,
    stage_label,
)

COLUMNS = ("", "median, or median difference", "runs", "")


@dataclass(frozen=True)
class Conclusion:
    """One conclusion: a sentence, or "", and the numbers behind it under their title."""

    sentence: str = ""
    title: str = ""
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Conclusions:
    """`sentences`, the first of which answers the question, `table` with their numbers, and `limitations`."""

    sentences: list[str]
    table: Table | None
    limitations: list[str]


def conclusions(comparison: Comparison) -> Conclusions:
    """Returns the conclusions from the runs."""
    if not np.isfinite(comparison.runs["value"]).any():
        sentence = "No finished run has a value to compare by, so there is no answer yet."
        return Conclusions([sentence], None, limitations(comparison))
    parts = [part for stage in comparison.transfer_stages for part in _of_transfer(comparison, stage)]
    if not any(part.rows for part in parts):
        parts = [*_rankings(comparison), _medians(comparison)]
    leading = [*comparison.transfer_stages, *comparison.outcome_stages][0]
    parts += [_largest_effects(comparison, leading), _hardest_domains(comparison, leading)]
    rows: list[Sequence[str]] = []
    for part in parts:
        rows += [[part.title], *part.rows] if part.rows else []
    sentences = [part.sentence for part in parts if part.sentence]
    return Conclusions(sentences, Table(COLUMNS, rows, numeric=(1, 2)), limitations(comparison))


def _of_transfer(comparison: Comparison, stage: str) -> list[Conclusion]:
    scratch = [_against_scratch(comparison, stage, other) for other in comparison.scratch_stages(stage)]
    return [_gain(comparison, stage), _freezing(comparison, stage), *scratch]


def _row(name: str, value: Estimate, note: str = "", *, signed: bool = False) -> list[str]:
    return [name, value.text(signed=signed), f"{value.runs:,}", note]


def _verdict(comparison: Comparison, difference: Estimate) -> str:
    """Returns "better", "worse" or "no clear difference", or an empty text where there is no interval."""
    if difference.interval is None:
        return ""
    if not difference.excludes_zero:
        return "no clear difference"
    return "better" if comparison.metric.is_better(difference.median) else "worse"


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _gain(comparison: Comparison, stage: str) -> Conclusion:
    """Returns the metric before and after a transfer, and its change run by run."""
    metric, name = comparison.metric, stage_label(stage)
    title = f"{name.capitalize()}: {metric.label} in the target domain"
    frame = before_and_after(comparison, stage)
    if frame.empty:
        after = comparison.estimate(comparison.stage_runs(stage))
        sentence = f"After {name}, the median {metric.label} in the target domain is {after.text()}."
        return Conclusion(sentence, title, [_row(f"after {name}", after)])
    before, after, change = (comparison.estimate(frame, column) for column in ("before", "value", "change"))
    improved = frame["change"].map(metric.is_better)
    share = "every run" if improved.all() else f"{format_percent(float(improved.mean()))} of the runs"
    verdict = _verdict(comparison, change)
    verb = {"better": "improves", "worse": "worsens"}.get(verdict, "changes")
    sentence = (
        f"{name.capitalize()} {verb} the median {metric.label} in the target domain from {format_number(before.median)}"
        f" to {format_number(after.median)}."
    )
    rows = [
        _row(f"after {stage_label(str(comparison.results.parents[stage]))} only", before),
        _row(f"after {name}", after),
        _row("change, run by run", change, _notes(verdict, f"improves {share}"), signed=True),
    ]
    return Conclusion(sentence, title, rows)


def _freezing(comparison: Comparison, stage: str) -> Conclusion:
    """Returns the effect of each frozen part against freezing nothing, in pairs; by an axis, else by variants."""
    varied = {factor.axis: factor for factor in factors(comparison, stage)}
    if factor := varied.get(f"{stage}.freeze"):
        frozen = {level.name: level.name.split(",") if level.name != "none" else [] for level in factor.levels}
        settings: dict[str, dict] = {}
    elif factor := varied.get(f"{stage}.variant"):
        settings = comparison.variants(stage)
        frozen = {name: _frozen_parts(values.get("freeze", "none")) for name, values in settings.items()}
    else:
        return Conclusion()
    first, *others = factor.levels
    if frozen.get(first.name) != []:  # nothing was trained whole
        return Conclusion()
    rows = []
    for level in others:
        if level.difference is None or not frozen.get(level.name):
            continue
        ours, theirs = settings.get(level.name, {}), settings.get(first.name, {})
        differing = [key for key in {**theirs, **ours} if key != "freeze" and theirs.get(key) != ours.get(key)]
        also = f"also differs in {join_names(differing)}" if differing else ""
        notes = _notes(_verdict(comparison, level.difference), also, factor.coverage([level]))
        name = f"“{level.name}”: {join_names(frozen[level.name])}" if settings else join_names(frozen[level.name])
        rows.append(_row(name, level.difference, notes, signed=True))
    reference = f"“{first.name}”, which freezes nothing" if settings else "freezing nothing"
    return Conclusion("", f"Freezing, against {reference}, in pairs", rows)


def _frozen_parts(freeze: object) -> list[str]:
    """Returns the parts that a stage's `freeze` names, none for "none"."""
    names = [freeze] if isinstance(freeze, str) else list(freeze) if isinstance(freeze, list) else []
    return [str(name) for name in names if name != "none"]


def _against_scratch(comparison: Comparison, stage: str, scratch: str) -> Conclusion:
    """Returns the comparison of transfer with training from scratch, by number of labels."""
    spent = " (training and validation)" if comparison.spends_validation([stage, scratch]) else ""
    name = stage_label(scratch) if scratch == "scratch" else f"{stage_label(scratch)}, from scratch"
    rows = [
        _row(
            f"{level_label(labels)} {comparison.label_unit}", difference, _verdict(comparison, difference), signed=True
        )
        for labels, difference in against_scratch(comparison, stage, scratch).items()
    ]
    title = f"{stage_label(stage).capitalize()} minus {name}, by labeled {comparison.label_unit}{spent}"
    return Conclusion("", title, rows)


def _ranked_stages(comparison: Comparison) -> dict[str, Ranking]:
    """Returns the configurations of each stage, best first, where nothing is transferred."""
    if comparison.transfer_stages or comparison.runs.empty:
        return {}
    rankings = {stage: ranking(comparison, stage) for stage in comparison.outcome_stages}
    return {stage: ranked for stage, ranked in rankings.items() if ranked is not None}


def _rankings(comparison: Comparison) -> list[Conclusion]:
    """Returns, for each stage that others do not start from, the best configuration and whether it is clearly ahead."""
    result = []
    metric = comparison.metric.label
    for stage, ranked in _ranked_stages(comparison).items():
        best, *others = ranked.configurations
        sentence = (
            f"Of {len(ranked.configurations)} configurations of {stage_label(stage)}, {best.label} has the best"
            f" {metric} on the {comparison.split} split, a median of {best.estimate.text()}."
        )
        rows = [_row(best.label, best.estimate, "best"), _row(others[0].label, others[0].estimate, "second")]
        rows += [_row(others[-1].label, others[-1].estimate, "last")] if len(others) > 1 else []
        if (lead := ranked.lead) is not None:
            rows.append(_row("best minus second, in pairs with equal seeds", lead, _lead_verdict(lead), signed=True))
        result.append(Conclusion(sentence, f"Configurations of {stage_label(stage)}: {metric}", rows))
    return result


def _lead_verdict(lead: Estimate) -> str:
    if lead.interval is None:
        return ""
    if lead.degrees_of_freedom < MIN_DEGREES_OF_FREEDOM:  # the interval is the range over the seeds
        return "ahead with every seed" if lead.excludes_zero else "not ahead with every seed"
    return "clearly ahead" if lead.excludes_zero else "not clearly ahead"


def _medians(comparison: Comparison) -> Conclusion:
    rows = [
        _row(stage_label(stage), comparison.estimate(comparison.stage_runs(stage)))
        for stage in comparison.outcome_stages
    ]
    return Conclusion("", f"All runs, in their own domains: {comparison.metric.label}", rows)


def _largest_effects(comparison: Comparison, stage: str) -> Conclusion:
    """Returns the two settings whose paired differences are largest, from the worst level to the best."""
    all_factors = factors(comparison, stage)
    varied = [factor for factor in all_factors if not factor.is_target and math.isfinite(factor.span)]
    if not varied:
        return Conclusion()
    if comparison.repeated:
        varied = [f for f in varied if any(level.difference and level.difference.excludes_zero for level in f.levels)]
        if not varied:
            return Conclusion("Nothing that was varied changes the outcome clearly.")
    sign = 1 if comparison.metric.lower_is_better else -1

    def row(factor: Factor) -> list[str]:
        best, *_, worst = sorted(
            factor.levels, key=lambda level: sign * (level.difference.median if level.difference else 0.0)
        )
        name = f"{factor.label}: from {worst.name} to {best.name}"
        return [name, format_number(-sign * factor.span, signed=True), "", factor.coverage([worst, best])]

    top = sorted(varied, key=lambda factor: -factor.span)[:2]
    stage = top[0].axis.partition(".")[0]
    given = "in the same target domain" if any(factor.is_target for factor in all_factors) else "all else equal"
    sentence = f"The largest effect, {given}, comes from {key_label(top[0].axis)} ({stage_label(stage)})."
    return Conclusion(sentence, f"Largest effects, {given}", [row(factor) for factor in top])


def _hardest_domains(comparison: Comparison, stage: str) -> Conclusion:
    frame = comparison.stage_runs(stage)
    target = context_columns(frame, stage)[0]
    medians = frame.groupby(target)["value"].median().dropna()
    if len(medians) < 2:
        return Conclusion()
    ordered = medians.sort_values(ascending=not comparison.metric.lower_is_better)
    rows = [[str(name), format_number(float(value)), "", ""] for name, value in ordered.iloc[:2].items()]
    return Conclusion("", f"Hardest {'domains' if target == 'domain' else 'pairs'} after {stage_label(stage)}", rows)


def limitations(comparison: Comparison) -> list[str]:
    """Returns the limitations of the conclusions, one sentence each."""
    notes = []
    counts, runs, metric = comparison.results.counts, comparison.runs, comparison.metric
    pending, failed = counts.get("pending", 0), counts.get("failed", 0)
    # how often anything was repeated
    if runs.empty:
        notes.append("Nothing has finished yet.")
    elif not comparison.repeated:
        every = "So far, every" if pending else "Every"
        notes.append(f"{every} configuration has a single seed, so there is no interval: differences may be chance.")
    else:
        values, levels = runs["value"].to_numpy(dtype=float), comparison.cluster_levels(runs)
        freedom = estimate(values, levels, resamples=2).degrees_of_freedom  # which does not depend on their number
        if freedom < MIN_DEGREES_OF_FREEDOM:
            notes.append(
                f"With {freedom + 1} seeds an interval is the range over the seeds: if it excludes zero,"
                " the seeds agree, which may be chance."
            )
        notes += [
            f"All runs of {stage_label(stage)} start from one parent per source, whose chance is in no interval."
            for stage in comparison.transfer_stages
            if not _has_repeated_roots(comparison, stage)
        ]
    # which runs are missing
    if failed:
        notes.append(f"Failed and not in these numbers: {plural(failed, 'training')}.")
    if pending:
        notes.append(f"Still to be run: {plural(pending, 'training')}; the numbers will change.")
    lost = runs[~np.isfinite(runs["value"])]
    if len(lost):
        stages = join_names([stage_label(str(stage)) for stage in lost["stage"].unique()])
        notes.append(f"Left out, with no finite {metric.label}: {plural(len(lost), 'finished run')} ({stages}).")
    # selection by the values stated
    most = max((len(ranked.configurations) for ranked in _ranked_stages(comparison).values()), default=0)
    if comparison.split == "test" and most > 2:
        notes.append(f"The best of {most} configurations was chosen by the stated values, which makes them optimistic.")
    if comparison.split != "test":
        notes.append(
            f"Values are of the {comparison.split} split, which may have been used to select runs: they are optimistic."
        )
    return notes


def _has_repeated_roots(comparison: Comparison, stage: str) -> bool:
    """Returns whether any configuration from which `stage` descends was itself repeated."""
    runs = comparison.runs
    roots = runs[runs["run"].isin(comparison.stage_runs(stage)["root"])]
    return roots.empty or int(roots.groupby("configuration").size().max()) > 1
