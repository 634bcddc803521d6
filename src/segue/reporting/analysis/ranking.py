"""The best configuration of a stage on held-out images, whether the next is clearly behind, and how sure ranks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import Estimate, estimate_contrasts
from segue.reporting.analysis.comparison import Comparison, numeric, repeat_columns
from segue.reporting.analysis.result import Analysis, affordable_resamples, interval_columns, interval_note
from segue.reporting.formatting import (
    Metric,
    axis_label,
    configuration_label,
    format_number,
    level_label,
    metric_for,
    stage_label,
)

DATA_KEYS = {"domain", "images", "groups", "mix", "pair"}  # the training data, not the method
SECONDARY = ("precision_", "recall_", "auprc_")
MAX_SECONDARY = 6


@dataclass(frozen=True)
class RankedConfiguration:
    """A configuration, its runs' median with interval, and medians of the secondary metrics by column."""

    label: str
    estimate: Estimate
    secondary: dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """Configurations, best first. `lead` is the best less the second, in pairs of runs that differ in nothing else."""

    configurations: tuple[RankedConfiguration, ...]
    lead: Estimate | None
    secondary_metrics: tuple[Metric, ...]


def ranking(comparison: Comparison, stage: str) -> Ranking | None:
    """Returns the stage's configurations by how they were trained, medians over all else; None where there is one."""
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    varied = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=True) > 1]
    data_keys = {*DATA_KEYS, *(["variant"] if _variants_differ_in_data(comparison, stage) else [])}
    axes = [axis for axis in varied if axis.startswith(f"{stage}.") and axis.partition(".")[2] not in data_keys]
    if not axes:
        return None
    secondary = _secondary_metrics(comparison, frame)
    parts: list[tuple[RankedConfiguration, pd.DataFrame]] = []
    for values, part in frame.groupby(axes, dropna=False, sort=False):
        medians = {metric.column: float(numeric(part, metric.column).median()) for metric in secondary}
        label = configuration_label(dict(zip(axes, values, strict=True)))
        parts.append((RankedConfiguration(label, comparison.estimate(part), medians), part))
    if len(parts) < 2:
        return None
    sign = 1 if comparison.metric.lower_is_better else -1
    parts.sort(key=lambda pair: sign * pair[0].estimate.median)
    others = [*(axis for axis in varied if axis not in axes), "domain", *repeat_columns(frame)]
    lead = _lead(comparison, parts[0][1], parts[1][1], list(dict.fromkeys(others)))
    return Ranking(tuple(entry for entry, _ in parts), lead, tuple(secondary[:MAX_SECONDARY]))


def _secondary_metrics(comparison: Comparison, frame: pd.DataFrame) -> list[Metric]:
    """Returns precision, recall and area under their curve of the foreground classes, as far as the table has them."""
    columns = [
        column
        for column in map(str, frame.columns)
        if column.startswith(SECONDARY) and not column.endswith(("_background", "_50", "_objects"))
    ]
    return [
        metric_for(column)
        for column in columns
        if column != comparison.metric.column and numeric(frame, column).notna().any()
    ]


def _lead(comparison: Comparison, best: pd.DataFrame, second: pd.DataFrame, others: list[str]) -> Estimate | None:
    reference = second.groupby(others, dropna=False)["value"].median().rename("reference")
    median = best.groupby(others, dropna=False)["value"].median().rename("median")
    pairs = best.drop_duplicates(others).merge(reference.reset_index(), on=others, how="inner")
    pairs = pairs.merge(median.reset_index(), on=others, how="left")
    if pairs.empty:
        return None
    return comparison.estimate(pairs.assign(difference=pairs["median"] - pairs["reference"]), "difference")


def _variants_differ_in_data(comparison: Comparison, stage: str) -> bool:
    return any(DATA_KEYS & set(settings) for settings in comparison.variants(stage).values())


def choice_axes(comparison: Comparison, stage: str) -> list[str]:
    """Returns the axes along which a user can choose: those of `stage` and its ancestors, not its target and labels."""
    frame = comparison.stage_runs(stage)
    data_axes = {f"{stage}.{key}" for key in DATA_KEYS}
    return [axis for axis in comparison.axes(stage) if axis not in data_axes and frame[axis].nunique(dropna=False) > 1]


def setting_label(values: Mapping[str, Any]) -> str:
    """Returns the levels of axes, in their order: "+10 nm · 1e-3 · none · 1e-4"."""
    return " · ".join(level_label(value) for value in values.values())


def setting_note(axes: Sequence[str]) -> str:
    """Returns what the parts of `setting_label` are."""
    return f"Settings are {' · '.join(axis_label(axis) for axis in axes)}."


def context_columns(frame: pd.DataFrame, stage: str) -> list[str]:
    """Returns the columns of what a setting is chosen for: the target domain, of mixtures the pair of domains, and the
    number of labels."""
    target = f"{stage}.pair" if f"{stage}.pair" in frame.columns else "domain"
    return [target, *(["labels"] if "labels" in frame.columns else [])]


def rank_stability(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns the rank of every setting, 1 the best, with the range of ranks that other seeds would give.

    A setting is a choice along `choice_axes`, ranked by its median over runs after subtracting from each value the
    median of its target domain and number of labels, since not every setting meets every target. `best_share` is the
    share of resamples in which it is first. The notes give Kendall's tau-b between the orders of single repeats
    (Kendall 1945, Biometrika 33, 239): 1 if all repeats give one order, 0 if they have nothing in common. None where
    there are not two settings.
    """
    axes = choice_axes(comparison, stage)
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    if not axes or frame.empty:
        return None
    context = context_columns(frame, stage)
    frame = frame.assign(
        relative=frame["value"] - frame.groupby(context, dropna=False)["value"].transform("median"),
        setting=frame.groupby(axes, dropna=False, sort=False).ngroup(),
    )
    settings = frame.drop_duplicates("setting").sort_values("setting")
    if len(settings) < 2:
        return None
    sign = 1.0 if comparison.metric.lower_is_better else -1.0

    def ranks(medians: np.ndarray) -> np.ndarray:
        order = np.argsort(np.argsort(sign * medians, axis=1, kind="stable"), axis=1) + 1.0
        return np.concatenate([order, order == 1], axis=1)

    resamples = affordable_resamples(len(frame))
    levels = comparison.cluster_levels(frame)
    values, codes = frame["relative"].to_numpy(), frame["setting"].to_numpy()
    estimates = estimate_contrasts(values, codes, ranks, levels, resamples=resamples)
    relative = frame.groupby("setting")["relative"].median()
    records = []
    for place, (_, row) in enumerate(settings.iterrows()):
        first = estimates[place + len(settings)]
        records.append(
            {
                "setting": setting_label({axis: row[axis] for axis in axes}),
                "runs": int((codes == place).sum()),
                "relative": relative[place],
                **interval_columns("rank", estimates[place]),
                "best_share": first.mean,
            }
        )
    table = pd.DataFrame(records).sort_values("rank", kind="stable").reset_index(drop=True)
    notes = [
        f"Relative: median {comparison.metric.label} less that of the same target and number of labels; best share: of"
        " resamples, those in which the setting is first.",
        setting_note(axes),
        interval_note(estimates[: len(settings)], resamples),
        _agreement(frame),
    ]
    return Analysis(f"Ranks of settings, {stage_label(stage)}", table, tuple(filter(None, notes)))


def _agreement(frame: pd.DataFrame) -> str:
    """Returns Kendall's tau between the orders of settings by single repeats, "" where there is one repeat."""
    orders = frame.groupby(["setting", *repeat_columns(frame)])["relative"].median().unstack(repeat_columns(frame))
    orders = orders.loc[:, orders.notna().all()].to_numpy()
    if orders.shape[1] < 2:
        return ""
    taus = kendall_tau(orders)[np.triu_indices(orders.shape[1], 1)]
    return (
        f"Kendall's tau between the orders of {orders.shape[1]} repeats: mean {format_number(float(taus.mean()))},"
        f" least {format_number(float(taus.min()))}."
    )


def kendall_tau(values: np.ndarray) -> np.ndarray:
    """Returns (r, r) Kendall's tau-b between the columns of `values` (n, r), NaN for a column without order.

    As a correlation of the signs of all differences within a column (Kendall 1945); `scipy.stats.kendalltau` gives the
    same, but takes a second to import.
    """
    products = np.zeros((values.shape[1], values.shape[1]))
    for row in range(1, len(values)):
        signs = np.sign(values[:row] - values[row])
        products += signs.T @ signs
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore"):
        return products / np.outer(norms, norms)
