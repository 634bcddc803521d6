"""The best configuration of a stage on held-out images, and whether the next one is clearly behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import Estimate
from segue.reporting.analysis.comparison import Comparison, numeric, repeat_columns
from segue.reporting.formatting import Metric, configuration_label, metric_for

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
