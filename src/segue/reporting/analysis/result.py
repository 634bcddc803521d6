"""The result of an analysis: a tidy table with its title and notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from segue.reporting.analysis.bootstrap import RESAMPLES, Estimate
from segue.reporting.formatting import Table, domain_label, format_number, level_label

MAX_WEIGHTS = 10_000_000  # of all resamples of an analysis together


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
    return f"Intervals: {kind}{fewer}."


def affordable_resamples(rows: int) -> int:
    """Returns the number of resamples for so many rows: 1000, or fewer for a large table, but at least 200."""
    return max(200, min(RESAMPLES, MAX_WEIGHTS // max(rows, 1)))


def _signed(value: float) -> str:
    return format_number(value, signed=True)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−") if math.isfinite(value) else "–"


def _p_value(value: float) -> str:
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


FORMATS: dict[str, Callable[[float], str]] = {  # of columns; others are plain numbers
    **dict.fromkeys(("difference", "excess", "change", "against_others", "over_seeds", "over_images"), _signed),
    **dict.fromkeys(("share", "other_share", "best_share", "lost_share"), _percent),
    **dict.fromkeys(("p", "p_adjusted"), _p_value),
    **dict.fromkeys(("rank", "labels", "k", "levels"), level_label),
}


def as_table(analysis: Analysis, *, summary: str = "") -> Table:
    """Returns the table of an analysis as texts, a value and its interval in one cell: "0.0144 [0.0141, 0.0147]"."""
    frame = analysis.table
    columns = [c for c in map(str, frame.columns) if not _is_end(c, frame)]
    cells = {column: [_cell(row, column) for row in frame.to_dict("records")] for column in columns}
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    numeric = [place for place, column in enumerate(columns) if pd.api.types.is_numeric_dtype(frame[column])]
    return Table([column.replace("_", " ") for column in columns], rows, numeric, summary)


def _is_end(column: str, frame: pd.DataFrame) -> bool:
    return any(column.endswith(end) and column.removesuffix(end) in frame.columns for end in ("_low", "_high"))


def _cell(row: dict[Any, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return domain_label(value)
    if isinstance(value, int):
        return f"{value:,}"
    form = FORMATS.get(column, format_number)
    text = form(value) if math.isfinite(value) else "–"
    low, high = row.get(f"{column}_low", math.nan), row.get(f"{column}_high", math.nan)
    return f"{text} [{form(low)}, {form(high)}]" if math.isfinite(low) else text
