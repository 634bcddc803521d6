"""The result of an analysis: a tidy table with its title and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from segue.reporting.analysis.bootstrap import RESAMPLES, Estimate

MAX_WEIGHTS = 20_000_000  # of all resamples of an analysis together


@dataclass(frozen=True)
class Analysis:
    """A table with one row per `keys`, and sentences on its meaning.

    A column `x` with an interval has `x_low` and `x_high` beside it. `notes` say what the columns are, which interval
    is given and what was left out.
    """

    title: str
    table: pd.DataFrame
    notes: tuple[str, ...] = ()

    def notes_text(self) -> str:
        return " ".join(self.notes)


def interval_columns(name: str, estimate: Estimate) -> dict[str, float]:
    """Returns the columns of an estimate: its value, and the ends of its interval (NaN without one)."""
    low, high = estimate.interval or (float("nan"), float("nan"))
    return {name: estimate.median, f"{name}_low": low, f"{name}_high": high}


def interval_note(estimates: Sequence[Estimate], resamples: int = RESAMPLES) -> str:
    """Returns the kind of the intervals, from the estimate with the most runs."""
    repeated = [estimate for estimate in estimates if estimate.interval]
    if not repeated:
        return "There are no intervals, since nothing was repeated with another seed."
    kind = max(repeated, key=lambda estimate: estimate.runs).interval_kind.replace("of the median, ", "")
    fewer = f" ({resamples:,} resamples)" if resamples < RESAMPLES else ""
    return f"In brackets: {kind}{fewer}."


def affordable_resamples(rows: int) -> int:
    """Returns the number of resamples for so many rows: 1000, or fewer for a large table, but at least 200."""
    return max(200, min(RESAMPLES, MAX_WEIGHTS // max(rows, 1)))
