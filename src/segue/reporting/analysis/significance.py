"""Differences between levels of a factor: p values adjusted for their number, and equivalence within a margin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Estimate
from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.factors import factors
from segue.reporting.analysis.result import Analysis, interval_columns, interval_note
from segue.reporting.formatting import format_number, stage_label
from segue.spec import unknown

SIGNIFICANCE = 0.05


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns p values (n,) adjusted by Holm's step-down procedure, which bounds the chance of any false difference.

    NaN stays NaN and does not count as a comparison. Holm 1979, Scandinavian Journal of Statistics 6, 65.
    """
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested])]
    factors_left = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors_left), 1.0)
    return adjusted


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Returns p values (n,) adjusted to bound the expected share of false ones among the differences found.

    NaN stays NaN. Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57, 289.
    """
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p_values), np.nan)
    tested = np.isfinite(p_values)
    if tested.any():
        adjusted[tested] = false_discovery_control(p_values[tested], method="bh")
    return adjusted


ADJUSTMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "holm": holm,
    "benjamini-hochberg": benjamini_hochberg,
    "none": lambda p_values: p_values,
}


def is_equivalent(difference: Estimate, margin: float) -> bool | None:
    """Returns whether a difference is equivalent to zero within `margin`, by two one-sided tests at 5 %.

    They reject both "at most -margin" and "at least margin" where the 90 % interval lies between them. None where too
    little was repeated to say. No significant difference is not equivalence.
    """
    within = difference.equivalence_margin
    return None if np.isnan(within) else within < margin


def level_tests(
    comparison: Comparison, stage: str, *, adjust: str = "holm", margin: float | None = None
) -> Analysis | None:
    """Returns every level of every factor of a stage against the first one, in pairs that differ in nothing else.

    `p` is of a t test with the bootstrap's standard error and, as degrees of freedom, the repeats beyond the first;
    `p_adjusted` corrects it for all comparisons of the table by a name of ADJUSTMENTS. Levels are called different
    where it is below .05 and the interval excludes zero. `equivalent_within` is the least
    margin within which the two are equivalent; with `margin`, a column says whether they are within that one, in units
    of the metric. None where nothing varies in pairs.
    """
    if adjust not in ADJUSTMENTS:
        raise SegueError(f"adjust: {unknown(adjust, ADJUSTMENTS, 'adjustment')}.")
    if margin is not None and not margin > 0:
        raise SegueError(f"margin: found {margin:g}; give a positive number, in units of the metric.")
    records, differences = [], []
    for factor in factors(comparison, stage):
        for level in factor.levels[1:]:
            if level.difference is None:
                continue
            differences.append(level.difference)
            records.append(
                {
                    "factor": factor.label,
                    "level": level.name,
                    "reference": factor.levels[0].name,
                    "pairs": level.difference.runs,
                    **interval_columns("difference", level.difference),
                    "p": level.difference.p_value,
                }
            )
    if not records:
        return None
    table = pd.DataFrame(records)
    table["p_adjusted"] = ADJUSTMENTS[adjust](table["p"].to_numpy(dtype=float))
    table["equivalent_within"] = [difference.equivalence_margin for difference in differences]
    table["conclusion"] = [
        _conclusion(difference, p, margin) for difference, p in zip(differences, table["p_adjusted"], strict=True)
    ]
    tests = sum(np.isfinite(table["p"]))
    notes = [
        "Difference: median over pairs that differ in this factor alone.",
        interval_note(differences),
        "p: t test with the standard error of the resamples and the repeats beyond the first as degrees of freedom;"
        f" with few it can exceed .05 where the interval excludes zero. Adjusted for {tests} comparisons: {adjust}.",
        "Equivalent within: the least margin in which two one-sided tests at 5 % find both levels equivalent.",
    ]
    notes += [f"Margin: {format_number(margin)}."] if margin is not None else []
    return Analysis(f"Differences between levels, {stage_label(stage)}", table, tuple(notes))


def _conclusion(difference: Estimate, p_adjusted: float, margin: float | None) -> str:
    """Returns "different", "equivalent", both, or "undecided"; "" where nothing was repeated."""
    if not np.isfinite(p_adjusted):
        return ""
    parts = ["different"] if p_adjusted < SIGNIFICANCE and difference.excludes_zero else []
    parts += ["equivalent within the margin"] if margin is not None and is_equivalent(difference, margin) else []
    return ", but ".join(parts) or "undecided"
