"""Several rows of one run, stage and domain, such as those of its epochs, become one by a rule that has a name."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.comparison import SCORES
from segue.reporting.formatting import metric_for, plural

RULES = {  # name -> what it takes
    "last": "the last epoch of each run",
    "best": "the epoch of each run with its best {metric} in the run's own domain",
    "best_of_parent": "of each run the epoch at which its parent was best, by {metric} in the parent's own domain",
    "mean": "the mean of the rows of a run and domain",
    "median": "the median of the rows of a run and domain",
}
BY_EPOCH = ("last", "best", "best_of_parent")


def reduce_rows(table: pd.DataFrame, metric: str, rule: str | None, source: Path) -> tuple[pd.DataFrame, list[str]]:
    """Returns the table with a row per run, stage, evaluated domain, split and image, and notes on what was left out.

    table: stage, run, parent, domain, evaluated_domain, epoch where `rule` is one of epochs, and metrics. Rows that
    agree in every metric count once. Raises SegueError, which names `source`, where several rows remain without a rule.
    """
    key = ["stage", "run", "evaluated_domain", *(name for name in ("split", "image") if name in table.columns)]
    scores = [name for name in map(str, table.columns) if re.match(SCORES, name) or name == metric]
    metrics = [name for name in scores if pd.api.types.is_numeric_dtype(table[name])]
    if rule in BY_EPOCH:
        if "epoch" not in table.columns:
            raise SegueError(f'{source}: reduce = "{rule}" needs epochs; give their column as `epoch`.')
        rows = _at_epoch(table, metric, rule, source)
    elif rule is not None:
        groups = table.groupby(key, sort=False, dropna=False)
        rows = table.drop_duplicates(key).set_index(key)
        rows[metrics] = groups[metrics].agg(rule)
        rows = rows.reset_index()[list(table.columns)]
    else:
        rows = table.drop_duplicates([*key, *metrics])
    rows = rows.reset_index(drop=True)
    repeated = rows[rows.duplicated(key, keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        count = int((repeated[key] == first[key]).all(axis=1).sum())
        raise SegueError(
            f"{source}: run '{first['run']}' of the stage {first['stage']} has {count:,} rows with different values "
            f"for the domain '{first['evaluated_domain']}', as have {len(repeated.drop_duplicates(key)):,} runs and "
            f"domains in all; a page needs one. Name the rule that reduces them, reduce = one of {', '.join(RULES)} "
            "(with `epoch`, the column of epochs), or select rows by a column that tells them apart."
        )
    notes = []
    empty = int(rows[metric].isna().sum()) if metric in rows else 0
    if empty:
        notes.append(f"{metric} is empty or infinite in {empty:,} of {plural(len(rows), 'row')}, which count nowhere.")
    if rule is None:
        if len(rows) < len(table):
            notes.append(
                f"Left out: {plural(len(table) - len(rows), 'row')} with the run, domain and scores of another row."
            )
        return rows, notes
    what = RULES[rule].format(metric=metric_for(metric).label)
    note = f'Of {plural(len(table), "row")}, {len(rows):,} are used: {what} (reduce = "{rule}").'
    return rows, [*notes, note] if len(rows) < len(table) else notes


def _at_epoch(table: pd.DataFrame, metric: str, rule: str, source: Path) -> pd.DataFrame:
    if table["epoch"].isna().any():
        raise SegueError(f"{source}: the epoch is missing in {plural(int(table['epoch'].isna().sum()), 'row')}.")
    runs = [table["stage"], table["run"]]
    if rule == "last":
        return table[table["epoch"] == table.groupby(runs)["epoch"].transform("max")].assign(
            selected_epoch=lambda rows: rows["epoch"]
        )
    best = best_epochs(table, metric)
    known = pd.Series(table["run"].map(best).to_numpy(), index=table.index)
    if known.isna().any():
        run = table["run"][known.isna()].iloc[0]
        raise SegueError(
            f"{source}: run '{run}' has no {metric} in its own domain, by which its best epoch would be chosen; use "
            'reduce = "last".'
        )
    if rule == "best_of_parent":
        known = table["parent"].map(best).fillna(known)
    rows = table[table["epoch"] == known]
    return rows.assign(selected_epoch=rows["epoch"])


def best_epochs(table: pd.DataFrame, metric: str) -> dict[str, float]:
    """Returns run -> the first epoch with its best value in its own domain, on validation where the table has it."""
    in_domain = table[(table["domain"] == table["evaluated_domain"]) & table[metric].notna()]
    if "split" in in_domain.columns and (in_domain["split"] == "validation").any():
        in_domain = in_domain[in_domain["split"] == "validation"]
    ordered = in_domain.sort_values(["run", "epoch"], kind="stable")
    values = ordered.groupby("run")[metric]
    places = values.idxmin() if metric_for(metric).lower_is_better else values.idxmax()
    return dict(zip(places.index, ordered.loc[places, "epoch"], strict=True))
