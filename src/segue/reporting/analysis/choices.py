"""Choosing a configuration: by which images it is selected, the expected best of k trials, and the regret of rules.

A context is a target domain with a number of labels; a choice is a setting of everything else: source, rates, freeze.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import t_quantile
from segue.reporting.analysis.comparison import Comparison, numeric, select
from segue.reporting.analysis.ranking import choice_axes, context_columns, setting_label, setting_note
from segue.reporting.analysis.result import Analysis
from segue.reporting.formatting import axis_label, format_number, level_label, plural, stage_label
from segue.spec import unknown

SELECTIONS = {
    "validation": "selected on validation, reported on the held-out split",
    "paper": "selected and reported on the same images, as in the published study",
}
MAX_TRIALS = 64  # of the curve of the best of k


@dataclass(frozen=True)
class Cells:
    """The runs of a stage by context and choice.

    table: a row per context and choice with `context` and `choice` (numbers), `domain`, `labels` (NaN without),
    `runs`, and the means over repeats `selecting` and `reported`. choices: the settings of each choice.
    selection: the name in SELECTIONS that holds; "paper" where the table has no validation values of its own.
    """

    table: pd.DataFrame
    choices: list[dict[str, Any]]
    selection: str

    def label(self, choice: int) -> str:
        return setting_label(self.choices[choice])


def cells(comparison: Comparison, stage: str, *, selection: str = "validation") -> Cells | None:
    """Returns the means over repeats for every context and choice; None where there are not two choices.

    selection: a name of SELECTIONS. Validation values are those of the split "validation" of the table where the page
    reports another, else the validation loss of the selected epoch in the histories.
    """
    if selection not in SELECTIONS:
        raise SegueError(f"selection: {unknown(selection, SELECTIONS, 'selection')}.")
    axes = choice_axes(comparison, stage)
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    if not axes or frame.empty:
        return None
    validation = validation_values(comparison)
    frame = frame.assign(selecting=frame["value"])
    is_selected = selection == "validation" and validation is not None
    if is_selected and validation is not None:
        frame = frame.assign(selecting=frame["run"].map(validation))
        frame = frame[np.isfinite(frame["selecting"])]
    if "labels" not in frame.columns:
        frame = frame.assign(labels=float("nan"))
    keys = frame[axes].drop_duplicates().reset_index(drop=True)
    if len(keys) < 2:
        return None
    choices = [dict(zip(axes, row, strict=True)) for row in keys.itertuples(index=False)]
    codes = frame.merge(keys.assign(choice=range(len(keys))), on=axes, how="left")["choice"].to_numpy()
    frame = frame.assign(choice=codes, context=frame.groupby(context_columns(frame, stage), dropna=False).ngroup())
    grouped = frame.groupby(["context", "choice"])
    table = grouped.agg(
        domain=(context_columns(frame, stage)[0], "first"), labels=("labels", "first"), runs=("value", "size"),
        selecting=("selecting", "mean"), reported=("value", "mean"),
    ).reset_index()  # fmt: skip
    return Cells(table, choices, selection if is_selected else "paper")


def validation_values(comparison: Comparison) -> pd.Series | None:
    """Returns run -> its value on validation images of its own domain; None where those are what is reported."""
    if comparison.split == "validation":
        return None
    table, column = comparison.results.table, comparison.metric.column
    if "split" in table.columns and (table["split"] == "validation").any():
        rows = table[(table["split"] == "validation") & (table["domain"] == table["evaluated_domain"])]
        return rows.assign(value=numeric(rows, column)).drop_duplicates("run").set_index("run")["value"]
    histories = comparison.results.histories
    name = "validation_loss" if column in ("loss", "loss_adjusted") else f"validation_{column}"
    runs = comparison.runs
    if name not in histories.columns or "selected_epoch" not in runs.columns:
        return None
    epochs = runs[["run", "selected_epoch"]].rename(columns={"selected_epoch": "epoch"})
    rows = histories.merge(epochs, on=["run", "epoch"]).drop_duplicates("run").set_index("run")
    values = numeric(rows, name)
    if column == "loss_adjusted":
        values = values - numeric(runs, "loss_floor").set_axis(runs["run"]).reindex(values.index)
    return values if values.notna().any() else None


def best_of_k(comparison: Comparison, stage: str, *, selection: str = "validation") -> Analysis | None:
    """Returns what is lost when only k of the choices are tried, drawn at random, and the best of them is taken.

    The expected value of the selected one of k out of n choices, without replacement, is the sum over choices, ranked
    worst to best by the selecting value, of the reported value of the i-th times C(i - 1, k - 1) / C(n, k) (Dodge et
    al. 2019, Show Your Work, section 3, there with replacement). Regret: that less the value of the best choice found,
    averaged over contexts; a difference that is positive whichever way the metric points. The interval is a t interval
    over target domains.
    """
    data = cells(comparison, stage, selection=selection)
    if data is None:
        return None
    counts = data.table.groupby("context")["choice"].size()
    trials = int(min(counts.min(), MAX_TRIALS))
    if trials < 2:
        return None
    sign = 1.0 if comparison.metric.lower_is_better else -1.0
    curves = {}
    for context, part in data.table.groupby("context"):
        ranked = (sign * part.sort_values("selecting", ascending=sign < 0)["reported"]).to_numpy()
        curves[context] = _expected_best(ranked, trials) - float((sign * part["reported"]).min())
    domains = data.table.groupby("context")["domain"].first()
    regret = pd.DataFrame(curves).T
    by_domain = regret.groupby(domains.reindex(regret.index)).mean()
    records = [{"k": k + 1, **over_domains("regret", by_domain[k])} for k in range(trials)]
    listed = [k for k in range(trials) if k < 8 or k in (11, 15, 23, 31, 47, 63) or k == trials - 1]
    table = pd.DataFrame(records).iloc[listed].reset_index(drop=True)
    notes = (*_notes(comparison, data), "k: settings tried, drawn at random among those of the study.")
    return Analysis(f"Regret of the best of k settings, {stage_label(stage)}", table, notes)


def _expected_best(ranked: np.ndarray, trials: int) -> np.ndarray:
    """Returns the expected value of the selected one of 1 to `trials` draws; `ranked` (n,), worst to best."""
    from scipy.special import gammaln

    n = len(ranked)
    place = np.arange(1, n + 1)
    result = np.empty(trials)
    for k in range(1, trials + 1):
        below = place - 1
        possible = below >= k - 1
        log_ways = gammaln(below[possible] + 1) - gammaln(k) - gammaln(below[possible] - k + 2)
        log_all = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        result[k - 1] = np.exp(log_ways - log_all) @ ranked[possible]
    return result


def regret_of_rules(
    comparison: Comparison,
    stage: str,
    *,
    selection: str = "validation",
    rules: Sequence[Mapping[str, Sequence[Any]]] = (),
) -> Analysis | None:
    """Returns what is lost by restricting the choice, against the best choice found in each context.

    A rule maps axes of `choice_axes` to the values it allows; by default there is one per level of each axis ("always
    freeze nothing"), with one setting for every context, and a random setting. `best_within` is the regret of the best
    choice that the rule allows, which is what the restriction costs; `at_random` that of a random one among them.
    "Found" is selected on the means over repeats, so that regrets are too large by the optimism of that best. Averages
    over contexts with a t interval over target domains; positive whichever way the metric points.
    """
    data = cells(comparison, stage, selection=selection)
    if data is None:
        return None
    sign = 1.0 if comparison.metric.lower_is_better else -1.0
    table = data.table.assign(loss=sign * data.table["reported"], selecting=sign * data.table["selecting"])
    choices = pd.DataFrame(data.choices)
    allowed: dict[str, np.ndarray] = {"a random setting": np.arange(len(choices))}
    for rule in rules or _rules_of_levels(choices):
        texts = [f"{axis_label(axis)} {' or '.join(map(level_label, values))}" for axis, values in rule.items()]
        allowed["always " + ", ".join(texts)] = select(choices, rule, context="rule").index.to_numpy()
    for everywhere in settings_everywhere(table)[:1]:
        allowed[f"one setting everywhere: {data.label(everywhere)}"] = np.array([everywhere])
    best = table.groupby("context")["loss"].min()
    domains = table.groupby("context")["domain"].first()
    records = []
    for name, numbers in allowed.items():
        part = table[table["choice"].isin(numbers)]
        chosen = part.loc[part.groupby("context")["selecting"].idxmin()].set_index("context")["loss"]
        random = part.groupby("context")["loss"].mean()
        record: dict[str, Any] = {"rule": name, "settings": len(numbers), "contexts": len(chosen)}
        for column, values in (("best_within", chosen), ("at_random", random)):
            regret = (values - best.reindex(values.index)).groupby(domains.reindex(values.index)).mean()
            record |= over_domains(column, regret)
        records.append(record)
    notes = (
        *_notes(comparison, data),
        setting_note(list(choices.columns)),
        "Best within: the best setting that the rule allows, less the best found; at random: a random one of them.",
    )
    return Analysis(f"Regret of rules, {stage_label(stage)}", pd.DataFrame(records), notes)


def settings_everywhere(table: pd.DataFrame) -> list[int]:
    """Returns the choices by their mean `loss` relative to their contexts, best first, among those tried in many.

    Contexts are compared by the logarithm where all losses are positive; a choice that lacks hard contexts (a source is
    not transferred to itself) gains nothing by that, since contexts and choices are fitted together.
    """
    effects = additive_effects(table.assign(y=_scaled(table["loss"])), "context", "choice")[1]
    contexts = table.groupby("choice")["context"].nunique()
    usual = contexts[contexts >= 0.5 * contexts.max()].index
    return [int(str(choice)) for choice in effects.reindex(usual).sort_values(kind="stable").index]


def additive_effects(table: pd.DataFrame, rows: str, columns: str) -> tuple[pd.Series, pd.Series]:
    """Returns the row and column effects of an additive least-squares fit of `y`; column effects have mean zero.

    They have so among the columns that share rows, directly or by others, if there are several such `components`.
    """
    row_codes, row_names = pd.factorize(table[rows], sort=True)
    column_codes, column_names = pd.factorize(table[columns], sort=True)
    y, counts = table["y"].to_numpy(dtype=float), np.zeros((len(row_names), len(column_names)))
    np.add.at(counts, (row_codes, column_codes), 1.0)
    sums = [np.bincount(codes, weights=y) for codes in (row_codes, column_codes)]
    # the normal equations, with the effects of the factor with more levels eliminated
    if len(row_names) < len(column_names):
        of_rows = _eliminated(counts.T, sums[1], sums[0])
        of_columns = (sums[1] - counts.T @ of_rows) / counts.sum(axis=0)
    else:
        of_columns = _eliminated(counts, sums[0], sums[1])
        of_rows = (sums[0] - counts @ of_columns) / counts.sum(axis=1)
    component_of_rows, component_of_columns = components(row_codes, column_codes)
    shifts = np.bincount(component_of_columns, weights=of_columns) / np.bincount(component_of_columns)
    of_rows, of_columns = of_rows + shifts[component_of_rows], of_columns - shifts[component_of_columns]
    return pd.Series(of_rows, index=row_names), pd.Series(of_columns, index=column_names)


def components(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every level of two factors, given as codes (n,), in which part of the design it is.

    Levels of different parts are linked by no cells, so that their effects are not comparable.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    offset = int(rows.max()) + 1
    size = offset + int(columns.max()) + 1
    graph = coo_array((np.ones(len(rows)), (rows, offset + columns)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return labels[:offset], labels[offset:]


def _eliminated(counts: np.ndarray, sums: np.ndarray, other_sums: np.ndarray) -> np.ndarray:
    """Returns the effects (m,) of the second factor of (n, m) counts, given the sums of y by level of both factors."""
    shares = counts / counts.sum(axis=1)[:, None]
    reduced = np.diag(counts.sum(axis=0)) - counts.T @ shares
    return np.linalg.lstsq(reduced, other_sums - shares.T @ sums, rcond=1e-10)[0]


def selection_optimism(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns the value of the selected setting under each rule of SELECTIONS, and how optimistic the paper's is.

    In every context the best setting is selected on validation images: the paper's rule reports its value there, the
    other rule that of the held-out split. None where the table has no validation values beside held-out ones.
    """
    data = cells(comparison, stage, selection="validation")
    if data is None or data.selection != "validation":
        return None
    sign = 1.0 if comparison.metric.lower_is_better else -1.0
    table = data.table.assign(key=sign * data.table["selecting"])
    chosen = table.loc[table.groupby("context")["key"].idxmin()]
    records = []
    for name, column in (("paper", "selecting"), ("validation", "reported")):
        values = chosen.groupby("domain")[column].mean()
        records.append({"selection": name, "meaning": SELECTIONS[name], **over_domains("value", values)})
    optimism = sign * (chosen["reported"] - chosen["selecting"]).groupby(chosen["domain"]).mean()
    records.append(
        {"selection": "difference", "meaning": "optimism of the paper's rule", **over_domains("value", optimism)}
    )
    note = f"{comparison.metric.label.capitalize()} of the selected setting, mean over {len(chosen)} contexts."
    return Analysis(f"Selection and report, {stage_label(stage)}", pd.DataFrame(records), (note, _INTERVAL))


_INTERVAL = "Intervals: 95 % t interval over target domains."


def _rules_of_levels(choices: pd.DataFrame) -> list[dict[str, list[Any]]]:
    rules = []
    for axis in map(str, choices.columns):
        levels = [value for value in choices[axis].unique() if not pd.isna(value)]
        rules += [{axis: [level]} for level in levels] if 1 < len(levels) <= 6 else []
    return rules


def _scaled(values: pd.Series) -> pd.Series:
    return values.map(np.log) if (values > 0).all() else values


def over_domains(name: str, values: pd.Series) -> dict[str, float]:
    """Returns the mean over domains with its 95 % t interval; NaN ends for a single domain."""
    count = int(values.count())
    half = float("nan")
    if count > 1:
        half = t_quantile(count - 1) * float(values.std(ddof=1) / np.sqrt(count))
    mean = float(values.mean())
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def _notes(comparison: Comparison, data: Cells) -> tuple[str, ...]:
    contexts = data.table["context"].nunique()
    best = data.table.groupby("context")["reported"]
    best_value = float((best.min() if comparison.metric.lower_is_better else best.max()).mean())
    cases = plural(contexts, "combination")
    return (
        f"Regret in {comparison.metric.label}, mean over {cases} of target and number of labels; the best found has"
        f" {format_number(best_value)} on average. Settings are {SELECTIONS[data.selection]}.",
        _INTERVAL,
    )
