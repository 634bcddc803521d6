"""Analyses by name, each as tables: what `segue study analyze` prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis import choices, generalization, images
from segue.reporting.analysis.advice import judge
from segue.reporting.analysis.comparison import Comparison, Conditions, matrix
from segue.reporting.analysis.expectations import expectations
from segue.reporting.analysis.factors import factors, gain_per_doubling, label_groups
from segue.reporting.analysis.ranking import choice_axes, rank_stability
from segue.reporting.analysis.result import Analysis, interval_columns, interval_note
from segue.reporting.analysis.significance import level_tests
from segue.reporting.analysis.variance import variance_shares
from segue.reporting.formatting import stage_label
from segue.spec import unknown

PERCENTILES = (5, 25, 75, 95)


@dataclass(frozen=True)
class Options:
    """aggregate: a name of `comparison.AGGREGATES`, for matrices; adjust: of `significance.ADJUSTMENTS`; margin: of

    equivalence, in units of the metric; selection: a name of `choices.SELECTIONS`; log: shares of the variance of the
    logarithm; rule: axis -> values, whose regret is given instead of that of every level.
    """

    aggregate: str = "median"
    adjust: str = "holm"
    margin: float | None = None
    selection: str = "validation"
    log: bool = False
    rule: Conditions | None = None


def analyze(
    comparison: Comparison,
    name: str,
    stage: str | None = None,
    *,
    options: Options | None = None,
) -> list[Analysis]:
    """Returns the tables of the analysis `name` of ANALYSES, of one stage or of each to which it applies.

    What was left out of the results (`selection.select_results`) is among the notes. Raises SegueError for unknown
    names, and where nothing can be analyzed.
    """
    if name not in ANALYSES:
        raise SegueError(f"analyze: {unknown(name, ANALYSES, 'analysis')}.")
    if stage is not None and stage not in comparison.stages:
        raise SegueError(f"analyze --stage: {unknown(stage, comparison.stages, 'stage')}.")
    function, needs = ANALYSES[name]
    results = []
    for one in [stage] if stage else comparison.stages:
        results += [part for part in function(comparison, one, options or Options()) if part is not None]
    if not results:
        raise SegueError(f"analyze {name}: {'stage ' + stage if stage else 'no stage'} has what it needs: {needs}.")
    return [replace(result, notes=(*result.notes, *comparison.results.notes)) for result in results]


def _matrix(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    """Trained on × tested on, and for a transfer, pretrained on × transferred to."""
    results: list[Analysis | None] = []
    for after_transfer in (False, True) if comparison.results.parents.get(stage) else (False,):
        values = matrix(comparison, stage, after_transfer=after_transfer, aggregate=options.aggregate)
        if not np.isfinite(values.values).any():
            continue
        first = "pretrained on" if after_transfer else "trained on"
        table = pd.DataFrame(values.values, columns=values.columns)
        table.insert(0, first, values.rows)
        columns = "transferred to and tested on" if after_transfer else "tested on"
        note = f"{options.aggregate.capitalize()} of {comparison.metric.label} over runs; columns: {columns}."
        title = f"{first.capitalize()} × {columns}, {stage_label(stage)}"
        results.append(Analysis(title, table, (note,)))
    return results


def _factors(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    """Medians and percentiles of every level of every factor."""
    records, estimates = [], []
    for factor in factors(comparison, stage):
        for level in factor.levels:
            estimates.append(level.estimate)
            record = {"factor": factor.label, "level": level.name, "runs": level.estimate.runs}
            record |= interval_columns("median", level.estimate)
            values = np.percentile(level.values, PERCENTILES)
            record |= {f"p{p:02d}": value for p, value in zip(PERCENTILES, values, strict=True)}
            records.append(record)
    if not records:
        return []
    note = f"{comparison.metric.label.capitalize()} in the runs' own domains; p05 to p95: percentiles over runs."
    notes = (note, interval_note(estimates))
    return [Analysis(f"Levels of factors, {stage_label(stage)}", pd.DataFrame(records), notes)]


def _labels(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    """Medians by number of labels in every domain, and the change per doubling."""
    groups = label_groups(comparison, [stage])
    if len({group.labels for group in groups}) < 2:
        return []
    order = {name: place for place, name in enumerate(comparison.results.domains)}
    groups.sort(key=lambda group: (order.get(group.domain, len(order)), group.labels))
    records = [
        {"domain": g.domain, "labels": g.labels, "runs": g.estimate.runs, **interval_columns("median", g.estimate)}
        for g in groups
    ]
    note = f"{comparison.metric.label.capitalize()}; labels: for training and validation together."
    notes = (note, interval_note([group.estimate for group in groups]))
    title = f"Learning curves over labels, {stage_label(stage)}"
    return [Analysis(title, pd.DataFrame(records), notes), gain_per_doubling(comparison, stage)]


def _asymmetry(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    after = bool(comparison.results.parents.get(stage))
    return [*(generalization.asymmetry(comparison, stage, after_transfer=after) or ())]


def _regret(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    rule = options.rule or {}
    for axis in rule:
        if axis not in comparison.runs.columns:
            known = [axis for one in comparison.stages for axis in choice_axes(comparison, one)]
            raise SegueError(f"analyze --rule: {unknown(axis, known, 'setting')}.")
    if set(rule) - set(choice_axes(comparison, stage)):
        return []
    rules = [rule] if rule else ()
    return [choices.regret_of_rules(comparison, stage, selection=options.selection, rules=rules)]


def _stated(comparison: Comparison, stage: str, options: Options) -> list[Analysis | None]:
    """What a publication states beside what its table gives."""
    records = [
        {
            "stated": one.statement, "where": one.place, "published": one.published, "computed": one.computed,
            "agrees": "yes" if one.agrees else "no",
        }
        for one in comparison.results.stated if one.stage == stage
    ]  # fmt: skip
    if not records:
        return []
    return [
        Analysis(f"Published numbers, {stage_label(stage)}", pd.DataFrame(records), ("To the last digit printed.",))
    ]


Function = Callable[[Comparison, str, Options], list[Analysis | None]]
ANALYSES: dict[str, tuple[Function, str]] = {  # name -> function, what it needs
    "matrix": (_matrix, "runs with a value"),
    "factors": (_factors, "a setting that varies"),
    "tests": (
        lambda comparison, stage, options: [
            level_tests(comparison, stage, adjust=options.adjust, margin=options.margin)
        ],
        "a setting that varies between runs that are otherwise equal",
    ),
    "expected": (
        lambda comparison, stage, options: list(expectations(comparison, stage)),
        "a study that says what it expects",
    ),
    "stated": (_stated, "a table whose mapping says what was published of it"),
    "variance": (
        lambda comparison, stage, options: [variance_shares(comparison, stage, log=options.log)],
        "a setting that varies",
    ),
    "spread": (
        lambda comparison, stage, options: [generalization.spread(comparison, stage)],
        "networks tested on two domains",
    ),
    "forgetting": (
        lambda comparison, stage, options: [generalization.forgetting(comparison, stage)],
        "a transfer whose runs are tested on the domain they come from",
    ),
    "asymmetry": (_asymmetry, "two domains of which each was a source of the other"),
    "labels": (_labels, "two numbers of labels"),
    "ranks": (lambda comparison, stage, options: [rank_stability(comparison, stage)], "two settings to choose from"),
    "best-of-k": (
        lambda comparison, stage, options: [choices.best_of_k(comparison, stage, selection=options.selection)],
        "two settings to choose from",
    ),
    "regret": (_regret, "two settings to choose from"),
    "selection": (
        lambda comparison, stage, options: [choices.selection_optimism(comparison, stage)],
        "values on validation images beside those on held-out ones",
    ),
    "images": (
        lambda comparison, stage, options: [*images.image_intervals(comparison, stage)],
        "runs scored with counts per image, which evaluations of earlier versions lack and areas under curves do not"
        " follow from, or a table with a row per image, in the column `image`",
    ),
    "advice": (
        lambda comparison, stage, options: [judge(comparison, stage)],
        "a transfer to four target domains",
    ),
}
