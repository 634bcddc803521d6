"""Rows of a table chosen by their settings: `--where COLUMN=VALUE` and `--without COLUMN=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.formatting import level_label, natural_order, plural, quantity
from segue.spec import unknown
from segue.study.table import StudyResults

MAX_LEVELS_NAMED = 24  # in a message


def select_results(results: StudyResults, *, where: Sequence[str] = (), without: Sequence[str] = ()) -> StudyResults:
    """Returns the results without the rows that the conditions leave out, which `notes` then count.

    Each condition is "COLUMN=VALUE", such as "transfer.domain=0 nm" or "transfer.images=64". Values of one column are
    alternatives. A stage that lacks the column keeps its rows. Counts are those of the rows that remain.

    Raises SegueError for a column or a value that does not occur, and where nothing remains.
    """
    if not where and not without:
        return results
    table, notes = results.table, []
    for option, conditions in (("--where", where), ("--without", without)):
        for column, levels in parse_conditions(conditions, option).items():
            matches = _matches(table, column, levels, option)
            lacking = results.table.groupby("stage")[column].transform("count") == 0
            left_out = (~matches if option == "--where" else matches) & ~lacking
            text = " ".join(f"{option} '{column}={level}'" for level in levels)
            notes.append(f"{text} leaves out {_of_rows(int(left_out.sum()), len(table))}.")
            table = table.assign(_left_out=left_out | table.get("_left_out", False))
    table = table[~table["_left_out"]].drop(columns="_left_out")
    if table.empty:
        raise SegueError(f"{' '.join([*where, *without])}: no row of {results.name} remains; leave out a condition.")
    if len(notes) > 1:
        notes.append(f"Together: {_of_rows(len(results.table) - len(table), len(results.table))}.")
    histories = results.histories
    if "run" in histories.columns:
        histories = histories[histories["run"].isin(set(table["run"]))]
    left = set(table["evaluated_domain"].unique())
    domains = left | set(table["domain"].unique())
    return replace(
        results,
        table=table,
        histories=histories,
        counts={**results.counts, **count_table(table, results.stages, results.parents)},
        domains=[domain for domain in results.domains if domain in domains],
        examples=[example for example in results.examples if example.domain in left],
        notes=[*results.notes, *notes],
    )


def select_rows(frame: pd.DataFrame, where: Sequence[str], without: Sequence[str], context: str) -> pd.DataFrame:
    """Returns the rows of `frame` that match all of `where` and none of `without`; errors begin with `context`."""
    chosen = np.ones(len(frame), dtype=bool)
    for is_included, conditions in ((True, where), (False, without)):
        for column, levels in parse_conditions(conditions, context).items():
            chosen &= _matches(frame, column, levels, context).to_numpy() == is_included
    return frame[chosen]


def parse_conditions(conditions: Sequence[str], context: str) -> dict[str, list[str]]:
    """Returns column -> levels of "COLUMN=VALUE" conditions; raises SegueError for any other form."""
    levels: dict[str, list[str]] = {}
    for condition in conditions:
        column, equals, level = (part.strip() for part in condition.partition("="))
        if not (column and equals and level):
            raise SegueError(f"{context}: found '{condition}'; write COLUMN=VALUE, such as 'transfer.domain=0 nm'.")
        levels.setdefault(column, []).append(level)
    return levels


def is_level(values: pd.Series, level: str) -> pd.Series:
    """Returns which values are `level`: the same text, or the same number in the same unit or without one."""
    number = quantity(level)

    def is_equal(value: object) -> bool:
        if str(value) == level or (isinstance(value, (bool, np.bool_)) and str(value).lower() == level.lower()):
            return True
        other = quantity(value)
        return number is not None and other is not None and other[0] == number[0] and number[1] in ("", other[1])

    return values.isin([value for value in values.dropna().unique() if is_equal(value)])


def count_table(table: pd.DataFrame, stages: dict[str, list[str]], parents: dict[str, str | None]) -> dict[str, int]:
    """Returns the counts of a table by itself: models are runs of stages from which no other starts."""
    runs = table.drop_duplicates("run")
    columns = [axis for axes in stages.values() for axis in axes if axis in table.columns]
    models = runs[~runs["stage"].isin(set(parents.values()))]
    return {
        "configurations": len(models.drop_duplicates(["stage", "domain", *columns])),
        "models": len(models),
        "stages": len(runs),
        "finished": len(runs),
        "evaluations": len(table),
    }


def _matches(table: pd.DataFrame, column: str, levels: Sequence[str], context: str) -> pd.Series:
    if column not in table.columns:
        raise SegueError(f"{context}: {unknown(column, map(str, table.columns), 'column')}.")
    matches = pd.Series(False, index=table.index)
    for level in levels:
        matching = is_level(table[column], level)
        if not matching.any():
            values = natural_order(table[column].dropna().unique())
            present = [level_label(value) if isinstance(value, float) else str(value) for value in values]
            named = ", ".join(present[:MAX_LEVELS_NAMED]) + (", …" if len(present) > MAX_LEVELS_NAMED else "")
            raise SegueError(f"{context}: '{level}' does not occur in the column {column}; it has {named}.")
        matches |= matching
    return matches


def _of_rows(count: int, total: int) -> str:
    return f"{count:,} of {plural(total, 'row')}"
