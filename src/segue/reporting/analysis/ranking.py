"""Which configuration of a stage does best on held-out images, and whether the next one is clearly behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, repeats_of, variants
from segue.reporting.page.formatting import Metric, configuration_words, metric_named

DATA_KEYS = {"domain", "images", "groups", "mix", "pair"}  # what is trained on, not how
BESIDE = ("precision", "recall", "auprc")


@dataclass(frozen=True)
class Ranked:
    """A configuration in words, its runs' median with interval, and medians of other metrics by column."""

    words: str
    estimate: Estimate
    beside: dict[str, float]


@dataclass(frozen=True)
class Ranking:
    """Configurations, best first. `lead` is the best less the second, in pairs of runs that differ in nothing else."""

    entries: tuple[Ranked, ...]
    lead: Estimate | None
    beside: tuple[Metric, ...]


def ranking(comparison: Comparison, stage: str) -> Ranking | None:
    """Returns the stage's configurations by how they were trained, medians over all else; None where there is one."""
    frame = comparison.of(stage)
    frame = frame[np.isfinite(frame["value"])]
    varied = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=True) > 1]
    data = {*DATA_KEYS, *(["variant"] if _of_data(comparison, stage) else [])}
    own = [axis for axis in varied if axis.startswith(f"{stage}.") and axis.partition(".")[2] not in data]
    if not own:
        return None
    beside = [
        metric_named(column)
        for column in map(str, frame.columns)
        if column.startswith(tuple(f"{kind}_" for kind in BESIDE))
        and not column.endswith(("_background", "_50", "_objects"))
        if column != comparison.metric.column and pd.to_numeric(frame[column], errors="coerce").notna().any()
    ]
    parts: list[tuple[Ranked, pd.DataFrame]] = []
    for values, part in frame.groupby(own, dropna=False, sort=False):
        found = estimate(part["value"].to_numpy(), comparison.sharing(part))
        more = {m.column: float(pd.to_numeric(part[m.column], errors="coerce").median()) for m in beside}
        parts.append((Ranked(configuration_words(dict(zip(own, values, strict=True))), found, more), part))
    sign = 1 if comparison.metric.lower_is_better else -1
    parts.sort(key=lambda pair: sign * pair[0].estimate.median)
    if len(parts) < 2:
        return None
    others = list(dict.fromkeys([*(axis for axis in varied if axis not in own), "domain", *repeats_of(frame)]))
    lead = _lead(comparison, parts[0][1], parts[1][1], others)
    return Ranking(tuple(entry for entry, _ in parts), lead, tuple(beside[:6]))


def _lead(comparison: Comparison, best: pd.DataFrame, second: pd.DataFrame, others: list[str]) -> Estimate | None:
    reference = second.groupby(others, dropna=False)["value"].median().rename("reference")
    pairs = best.drop_duplicates(others).merge(reference.reset_index(), on=others, how="inner")
    middle = best.groupby(others, dropna=False)["value"].median().rename("middle")
    pairs = pairs.merge(middle.reset_index(), on=others, how="left")
    if pairs.empty:
        return None
    return estimate((pairs["middle"] - pairs["reference"]).to_numpy(), comparison.sharing(pairs))


def _of_data(comparison: Comparison, stage: str) -> bool:
    """Returns whether the stage's variants differ in what they train on."""
    return any(DATA_KEYS & set(table) for table in variants(comparison.results, stage).values())
