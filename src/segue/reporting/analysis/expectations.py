"""What a study was expected to find, beside what it found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Estimate
from segue.reporting.analysis.comparison import Comparison, sorted_levels
from segue.reporting.analysis.factors import paired_difference
from segue.reporting.analysis.result import Analysis, interval_columns, interval_note
from segue.reporting.analysis.variance import variance_shares
from segue.reporting.formatting import axis_label, level_label
from segue.spec import unknown
from segue.study.spec import Expectation

AS_EXPECTED, OPPOSITE, UNDECIDED, NO_RUNS = "as expected", "opposite", "undecided", "no runs"


def expectations(comparison: Comparison, stage: str | None = None) -> list[Analysis]:
    """Returns the expected differences and shares of variance of one stage, or of all, with what was found.

    "as expected": the interval lies on the expected side of zero, or of the other factor's interval; "opposite": on the
    other side; else "undecided". Differences are counted so that worse is positive. Raises SegueError for a stage or a
    factor that the study does not have.
    """
    differences, shares, estimates = [], [], []
    for expected in (one for one in comparison.results.expected if stage in (None, one.stage)):
        _require_known(comparison, expected)
        if expected.explains_less_than is not None:
            shares.append(_share(comparison, expected, expected.explains_less_than))
            continue
        for worse, than in ((worse, than) for worse in expected.worse for than in expected.than):
            difference = _difference(comparison, expected, worse, than)
            estimates += [difference] if difference else []
            columns = interval_columns("difference", difference) if difference else {"difference": np.nan}
            differences.append(
                {
                    "expected": expected.statement,
                    "comparison": f"{level_label(worse)} minus {level_label(than)}",
                    "pairs": difference.runs if difference else 0,
                    **columns,
                    "found": _found(difference),
                }
            )
    label = comparison.metric.label
    results = []
    if differences:
        notes = (f"Difference: median in {label} over pairs that differ in this alone, positive for what is worse.",)
        table = pd.DataFrame(differences)
        results.append(Analysis("Expected differences", table, (*notes, interval_note(estimates))))
    if shares:
        note = (
            f"Share of the variance of {label}, or of its logarithm where all are positive; 95 % jackknife intervals."
        )
        results.append(Analysis("Expected shares of variance", pd.DataFrame(shares), (note,)))
    return results


def _require_known(comparison: Comparison, expected: Expectation) -> None:
    stages = comparison.stages
    if expected.stage in comparison.results.parents and expected.stage not in stages:
        return  # none of its runs is finished
    if expected.stage not in stages:
        raise SegueError(f'expected, "{expected.statement}": {unknown(expected.stage, stages, "stage")}.')
    axes = comparison.axes(expected.stage)
    for factor in filter(None, (expected.factor, expected.explains_less_than)):
        if factor not in axes:
            raise SegueError(f'expected, "{expected.statement}": {unknown(factor, axes, "factor")}.')


def _difference(comparison: Comparison, expected: Expectation, worse: Any, than: Any) -> Estimate | None:
    if expected.stage not in comparison.stages:
        return None
    levels = sorted_levels(comparison.stage_runs(expected.stage)[expected.factor].dropna())
    by_name = {level_label(level): level for level in levels}
    level, reference = (by_name.get(level_label(name)) for name in (worse, than))
    if level is None or reference is None:
        return None
    if not comparison.metric.lower_is_better:  # what is worse has the smaller value
        level, reference = reference, level
    return paired_difference(comparison, expected.stage, expected.factor, level, reference)


def _found(difference: Estimate | None) -> str:
    if difference is None:
        return NO_RUNS
    if not difference.excludes_zero:
        return UNDECIDED
    return AS_EXPECTED if difference.median > 0 else OPPOSITE


def _share(comparison: Comparison, expected: Expectation, other: str) -> dict[str, Any]:
    """Returns the row of a factor that is expected to explain less of the variance than another."""
    row: dict[str, Any] = {"expected": expected.statement, "share": np.nan, "other_factor": axis_label(other)}
    finding = NO_RUNS
    if expected.stage in comparison.stages:
        is_log = bool((comparison.stage_runs(expected.stage)["value"] > 0).all())
        analysis = variance_shares(comparison, expected.stage, log=is_log)
        if analysis is not None:
            shares = analysis.table.set_index("factor")
            names = [axis_label(expected.factor), axis_label(other)]
            if set(names) <= set(shares.index):
                this, that = (shares.loc[name] for name in names)
                columns = {column: this[column] for column in ("share", "share_low", "share_high")}
                others = {column.replace("share", "other_share"): that[column] for column in columns}
                row = {"expected": expected.statement, **columns, "other_factor": names[1], **others}
                is_less = bool(this["share_high"] < that["share_low"])
                is_more = bool(this["share_low"] > that["share_high"])
                finding = AS_EXPECTED if is_less else OPPOSITE if is_more else UNDECIDED
    return {**row, "found": finding}
