"""What a publication states, beside what its table gives, to the last digit that is printed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.comparison import Comparison, compare
from segue.reporting.formatting import format_number
from segue.reporting.tables.column_mapping import StatedNumber
from segue.reporting.tables.selection import select_rows
from segue.study.table import StatedValue, StudyResults


def compare_stated(results: StudyResults, stated: Sequence[StatedNumber], source: Path) -> list[StatedValue]:
    """Returns each statement with what the table gives; raises SegueError for one that the table cannot answer."""
    if not stated:
        return []
    comparison = compare(results)
    return [_compare(comparison, one, f"{source}: stated: {one.statement}") for one in stated]


def _compare(comparison: Comparison, stated: StatedNumber, context: str) -> StatedValue:
    if stated.stage not in comparison.stages:
        raise SegueError(f"{context}: stage '{stated.stage}' has no rows; there are {', '.join(comparison.stages)}.")
    rows = comparison.runs if stated.tested_on == "own" else comparison.rows
    rows = rows[rows["domain"] != rows["evaluated_domain"]] if stated.tested_on == "others" else rows
    frame = select_rows(rows[rows["stage"] == stated.stage], stated.where, stated.without, context)
    missing = [column for column in stated.by if column not in frame.columns]
    if missing or frame.empty:
        fault = f"there is no column '{missing[0]}'" if missing else "no row meets its conditions"
        raise SegueError(f"{context}: {fault}; correct `by`, `where` or `without`.")
    if bool(stated.by) != bool(stated.of_groups):
        raise SegueError(f"{context}: give `by`, columns, together with `of_groups`, what is taken of their values.")
    computed = (
        _of_groups(frame, stated, context) if stated.of_groups else _rounded(_statistic(frame, stated), stated, context)
    )
    agrees = computed.partition(" (")[0] == stated.value
    return StatedValue(stated.stage, stated.statement, stated.place, stated.value, computed, agrees, stated.note)


def _of_groups(frame: pd.DataFrame, stated: StatedNumber, context: str) -> str:
    """Returns the number, or the level with its number and that of the level stated in brackets."""
    groups = frame.groupby(stated.by, sort=False)
    values = pd.Series({" ".join(map(str, key)): _statistic(part, stated) for key, part in groups})
    kind = str(stated.of_groups)
    if not kind.startswith("level of "):
        return _rounded(float(values.std(ddof=0) if kind == "sd" else values.agg(kind)), stated, context)
    level = str(values.idxmin() if kind == "level of min" else values.idxmax())
    numbers = format_number(float(values[level]))
    if level != stated.value and stated.value in values.index:
        numbers += f"; {stated.value}: {format_number(float(values[stated.value]))}"
    return f"{level} ({numbers})"


def _statistic(frame: pd.DataFrame, stated: StatedNumber) -> float:
    values = frame["value"]
    match stated.statistic:
        case "models":
            return float(frame["run"].nunique())
        case "configurations":
            return float(frame["configuration"].nunique())
        case "domains":
            return float(frame["domain"].nunique())
        case "sd":
            return float(values.std(ddof=0))
        case _:
            return float(values.agg(stated.statistic))


def _rounded(number: float, stated: StatedNumber, context: str) -> str:
    """Returns the number with as many decimals as the one that is stated."""
    match = re.fullmatch(r"-?\d+(?:\.(\d+))?", stated.value)
    if match is None:
        raise SegueError(f"{context}: value: found '{stated.value}'; write the number as printed, such as \"0.0173\".")
    return f"{number:.{len(match.group(1) or '')}f}"
