"""The runs of a study, embedded in its page: what `templates/runs.js` filters, and what it shows of a single run.

Runs are columns, stage by stage. A column of settings is dictionary-encoded: its levels as texts, and the level's index
for each run, −1 where the run has none; without indices where all runs have the first level. Scores and losses are
whole numbers, value × scale, null where they are undefined. So 10,000 runs in eleven domains take about 2 MB.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import SEEDS
from segue.reporting.analysis.comparison import SCORES, Comparison, numeric, own_evaluations, sorted_levels
from segue.reporting.formatting import CLASS_METRICS, METRICS, Metric, axis_label, level_label, metric_for
from segue.study.table import StudyResults

MAX_SCORES = 400_000  # numbers in a page, of all runs, metrics and domains
MAX_CURVE_VALUES = 250_000  # of all learning curves
MIN_POINTS, MAX_POINTS = 8, 60  # of a learning curve
MAX_TOGGLES = 12  # levels that are a button each; more are a list, or a range of numbers
LABELS = {
    "domain": "trained on", "seed_init": "seed of the weights", "seed_draw": "seed of the images drawn",
    "repeat": "repeat", "labels_train": "labels to train", "labels_validation": "labels to validate",
    "selected_epoch": "selected epoch", "side_by_side": "steps", "split_by": "split",
}  # fmt: skip
LEFT_OUT = {
    "study", "stage", "run", "parent", "status", "evaluated_domain", "split", "samples", "error", "value",
    "second_value", "apart_from_split", "evaluated_groups", "image", "group",
}  # fmt: skip


def runs_json(comparison: Comparison, figures: Mapping[str, Sequence[str]] | None = None) -> str:
    """Returns the runs as JSON that can stand inside of a script element; "" where there is none.

    figures: run -> the numbers of the page's figures that show it.
    """
    data = runs_data(comparison, figures or {})
    return "" if data is None else json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def runs_data(comparison: Comparison, figures: Mapping[str, Sequence[str]]) -> dict[str, Any] | None:
    """Returns the runs of all stages that have finished or failed ones; None without any.

    Those metrics that would exceed `MAX_SCORES` have values in the runs' own domains only, or are left out, as are the
    last of `METRICS` first; learning curves have fewer points, or are left out, beyond `MAX_CURVE_VALUES`.
    """
    results = comparison.results
    frames = {stage: _stage_frame(comparison, stage) for stage in results.stages}
    frames = {stage: frame for stage, frame in frames.items() if len(frame)}
    if not frames:
        return None
    total = sum(map(len, frames.values()))
    domains = [name for name in results.domains if name in set(comparison.rows["evaluated_domain"])]
    full, own_only, left_out = _metrics(comparison, total, 1 + len(domains))
    places = {stage: {str(run): place for place, run in enumerate(frame["run"])} for stage, frame in frames.items()}
    points = min(MAX_CURVE_VALUES // (2 * total), MAX_POINTS)
    stages = []
    for stage, frame in frames.items():
        factors, settings = _columns(comparison, stage, frame)
        parent = results.parents.get(stage)
        stages.append(
            {
                "name": stage,
                "label": axis_label(stage),
                "runs": list(map(str, frame["run"])),
                "parent": parent if parent in places else None,
                "parents": [places.get(parent or "", {}).get(run, -1) for run in frame["parent"].fillna("")],
                "factors": factors,
                "settings": settings,
                "scores": _scores(comparison, stage, frame, domains, full, own_only),
                "errors": {str(i): error for i, error in enumerate(frame["error"]) if error},
                "curves": _curves(results.histories, stage, frame, points) if points >= MIN_POINTS else None,
                "folders": _folders(comparison, frame),
                "figures": {str(i): [*figures[run]] for i, run in enumerate(map(str, frame["run"])) if run in figures},
            }
        )
    first = next((stage for stage in comparison.outcome_stages if stage in frames), next(iter(frames)))
    return {
        "stages": stages,
        "first": list(frames).index(first),
        "domains": domains,
        "split": comparison.split,
        "left_out": [metric.label for metric in left_out],
    }


def _stage_frame(comparison: Comparison, stage: str) -> pd.DataFrame:
    """Returns a row per finished run of a stage, then per failed one, with its settings and `error`, "" if finished."""
    rows = comparison.rows[comparison.rows["stage"] == stage].drop_duplicates("run").assign(error="")
    runs = comparison.stage_runs(stage)
    if "repeat" in runs.columns:
        rows = rows.assign(repeat=rows["run"].map(runs.drop_duplicates("run").set_index("run")["repeat"]))
    results = comparison.results
    table = results.table
    failed = [rows]
    if {"status", "stage"} <= set(table.columns):
        others = table[(table["stage"] == stage) & (table["status"] != "finished")].drop_duplicates("run")
        failed.append(others.assign(error=others["status"].map(str)))
    if "run" in results.failures.columns:
        others = results.failures[results.failures["stage"] == stage]
        failed.append(others.assign(error=others["error"].map(str)))
    failed = [frame for frame in failed if len(frame)]
    if not failed:
        return rows
    frame = pd.concat([one.astype(object) for one in failed], ignore_index=True).drop_duplicates("run")
    return frame if "parent" in frame.columns else frame.assign(parent="")


def _metrics(comparison: Comparison, runs: int, columns: int) -> tuple[list[Metric], list[Metric], list[Metric]]:
    """Returns the metrics with values in all domains, those with values in the own one, and those left out."""
    table = comparison.rows
    present = [name for name in map(str, table.columns) if re.match(SCORES, name) and name != "loss_floor"]
    present = [name for name in present if numeric(table, name).notna().any()]
    chosen = [metric.column for metric in (comparison.metric, comparison.second_metric) if metric is not None]
    order = [*chosen, *METRICS, *present]
    kinds = (*CLASS_METRICS, "accuracy")
    classes = [name for name in present if name.partition("_")[0] in kinds and name not in METRICS]
    metrics = [metric_for(name) for name in dict.fromkeys(order) if name in present or name in chosen]
    metrics.sort(key=lambda metric: metric.column in classes)  # a class's own scores last
    full: list[Metric] = []
    own_only: list[Metric] = []
    left_out: list[Metric] = []
    numbers = 0
    for metric in metrics:
        if numbers + runs * columns <= MAX_SCORES or not full:
            full.append(metric)
            numbers += runs * columns
        elif numbers + runs <= MAX_SCORES:
            own_only.append(metric)
            numbers += runs
        else:
            left_out.append(metric)
    return full, own_only, left_out


def _columns(
    comparison: Comparison, stage: str, frame: pd.DataFrame
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the columns that differ between the runs by which they can be chosen, and all others."""
    axes = [axis for axis in _axes(comparison.results, stage) if axis in frame.columns]
    names = [*axes, "domain", *SEEDS, "repeat", "split_by", "precision", "threads", "side_by_side"]
    if f"{stage}.domain" in axes:
        names.remove("domain")
    names = [name for name in dict.fromkeys(names) if name in frame.columns]
    finished = frame[frame["error"] == ""]  # of failed runs not all is known
    varying = [name for name in names if max(frame[name].nunique(), finished[name].nunique(dropna=False)) > 1]
    hidden = LEFT_OUT | ({"domain"} if f"{stage}.domain" in axes else set())
    others = [name for name in map(str, frame.columns) if name not in varying and name not in hidden]
    others = [name for name in others if not re.match(SCORES, name) and frame[name].notna().any()]
    domains = comparison.results.domains
    factors = []
    for name in varying:
        column = encode(name, frame[name], domains if name.endswith("domain") else ())
        numbers = column.pop("numbers")
        many = len(column["levels"]) > MAX_TOGGLES
        kind = "toggles" if not many else "range" if numbers is not None else "list"
        factors.append({**column, "kind": kind, **({"numbers": numbers} if kind == "range" else {})})
    settings = [encode(name, frame[name]) for name in others]
    return factors, [{key: column[key] for key in column if key != "numbers"} for column in settings]


def _axes(results: StudyResults, stage: str) -> list[str]:
    """Returns the axes of a stage after those of its ancestors, also where no run has finished."""
    parent = results.parents.get(stage)
    return (_axes(results, parent) if parent else []) + results.stages.get(stage, [])


def encode(name: str, values: pd.Series, domains: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a column dictionary-encoded: its name, label, levels in order, codes of the runs, and the levels as
    numbers where all are."""
    plain = values.infer_objects()
    levels = [getattr(level, "item", lambda level=level: level)() for level in sorted_levels(plain, domains)]
    texts = [level_label(level) for level in levels]
    if len(set(texts)) < len(texts):  # numbers that differ beyond the digits shown
        texts = [str(level) for level in levels]
    codes = pd.Index(levels).get_indexer(pd.Index(plain)) if levels else np.full(len(values), -1)
    is_constant = len(levels) == 1 and bool((codes == 0).all())
    is_number = all(isinstance(level, (int, float)) and not isinstance(level, bool) for level in levels)
    label = LABELS.get(name) or (axis_label(name) if "." in name else name.replace("_", " "))
    return {
        "name": name,
        "label": label,
        "levels": texts,
        "codes": None if is_constant else codes.tolist(),
        "numbers": [float(level) for level in levels] if is_number and levels else None,
    }


def _scores(
    comparison: Comparison,
    stage: str,
    frame: pd.DataFrame,
    domains: Sequence[str],
    full: Sequence[Metric],
    own_only: Sequence[Metric],
) -> list[dict[str, Any]]:
    """Returns for each metric its values in the runs' own domains and, unless they are left out, in every domain."""
    rows = comparison.rows[comparison.rows["stage"] == stage].drop_duplicates(["run", "evaluated_domain"])
    single = own_evaluations(rows, ())  # not of mixtures, whose values are means over domains
    means = comparison.stage_runs(stage).drop_duplicates("run").set_index("run")
    mean_columns = {comparison.metric.column: "value"}
    if comparison.second_metric is not None:
        mean_columns[comparison.second_metric.column] = "second_value"
    scores = []
    for metric in [*full, *own_only]:
        values = numeric(rows, metric.column)
        if not values.notna().any():
            continue
        in_trained = pd.Series(numeric(single, metric.column).to_numpy(), index=single["run"])
        if metric.column in mean_columns:
            in_trained = means[mean_columns[metric.column]]
        columns = [in_trained.reindex(frame["run"])]
        if metric in full:
            table = rows.assign(number=values).pivot(index="run", columns="evaluated_domain", values="number")
            columns += [table[name].reindex(frame["run"]) if name in table.columns else None for name in domains]
        scale = _scale(values)
        scores.append(
            {
                "name": metric.column,
                "label": metric.label,
                "lower": metric.lower_is_better,
                "scale": scale,
                "values": [None if one is None else whole_numbers(one, scale) for one in columns],
            }
        )
    return scores


def _scale(values: pd.Series) -> int:
    """Returns by how much numbers are multiplied before they are rounded: two digits more than are shown stay."""
    finite = values[np.isfinite(values)]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    if bool((finite == finite.round()).all()):
        return 1
    return 10**6 if largest < 10 else 10**4 if largest < 1000 else 10**2


def whole_numbers(values: Iterable[float], scale: int) -> list[int | None]:
    """Returns value × scale as whole numbers, None for values that are not finite."""
    return [round(float(value) * scale) if math.isfinite(value) else None for value in values]


def _curves(histories: pd.DataFrame, stage: str, frame: pd.DataFrame, points: int) -> dict[str, Any] | None:
    """Returns the losses of the runs at up to `points` of their epochs, the first and the last among them.

    `epochs` has the distinct lists of epochs, `codes` which of them a run has (−1 none); `train` and `validation` have
    a list per run.
    """
    if not {"run", "epoch", "stage"} <= set(histories.columns):
        return None
    rows = histories[(histories["stage"] == stage) & histories["run"].isin(frame["run"])]
    rows = rows.drop_duplicates(["run", "epoch"]).sort_values("epoch", kind="stable")
    losses = {name: numeric(rows, f"{name}_loss") for name in ("train", "validation")}
    rows = pd.DataFrame({"run": rows["run"], "epoch": rows["epoch"].astype(int), **losses})
    if not np.isfinite(rows[["train", "validation"]]).any(axis=None):
        return None
    scale = 10**4
    lists: dict[tuple[int, ...], int] = {}
    by_run = dict(list(rows.groupby("run", sort=False)))
    curves: dict[str, Any] = {"scale": scale, "codes": [], "train": [], "validation": []}
    most = 0
    for run in frame["run"]:
        one = by_run.get(run)
        if one is None:
            curves["codes"].append(-1)
            curves["train"].append([])
            curves["validation"].append([])
            continue
        count, most = min(points, len(one)), max(most, len(one))
        chosen = one.iloc[[i * (len(one) - 1) // max(count - 1, 1) for i in range(count)]]
        curves["codes"].append(lists.setdefault(tuple(chosen["epoch"].tolist()), len(lists)))
        for name in ("train", "validation"):
            curves[name].append(whole_numbers(chosen[name], scale))
    return {**curves, "epochs": list(map(list, lists)), "points": points if most > points else 0}


def _folders(comparison: Comparison, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Returns the folder that holds each run's folder, dictionary-encoded; None for results from a table alone."""
    run_folder = comparison.results.run_folder
    if run_folder is None:
        return None
    folders = pd.Series([Path(run_folder(str(run))).parent.as_posix() for run in frame["run"]], dtype=object)
    codes, levels = pd.factorize(folders)
    return {"levels": list(map(str, levels)), "codes": codes.tolist()}
