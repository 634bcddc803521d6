"""The effect of each factor: the spread within its levels, and paired differences where the design is crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import SEEDS, Estimate, estimate, estimate_contrasts
from segue.reporting.analysis.comparison import Comparison, numeric, repeat_columns, sorted_levels
from segue.reporting.analysis.result import Analysis, affordable_resamples, interval_columns, interval_note
from segue.reporting.formatting import axis_label, join_names, level_label, plural, stage_label

MAX_TARGETS_NAMED = 3


@dataclass(frozen=True)
class Level:
    """One value of an axis: the values of its runs and their median; `difference` is to the first level, in pairs.

    `paired_in` names the domains that the runs of these pairs were trained on.
    """

    name: str
    value: Any
    values: np.ndarray
    estimate: Estimate
    second: Estimate | None
    difference: Estimate | None
    paired_in: tuple[str, ...]


@dataclass(frozen=True)
class Factor:
    """An axis with at least two levels. `is_target` marks the domain that the runs themselves were trained on.

    `targets` are the domains that any of the stage's runs was trained on.
    """

    axis: str
    label: str
    levels: tuple[Level, ...]
    is_domain: bool
    is_target: bool
    targets: tuple[str, ...]

    @property
    def span(self) -> float:
        """The largest difference between two levels, from the paired differences; NaN where nothing is paired."""
        medians = [0.0, *(level.difference.median for level in self.levels if level.difference)]
        return max(medians) - min(medians) if len(medians) > 1 else float("nan")

    def coverage(self, levels: Sequence[Level]) -> str:
        """Returns "in 12 pairs, all in the target 0nm" where the differences of `levels` leave out targets, else ""."""
        paired = [(level, level.difference.runs) for level in levels if level.difference]
        if self.is_target or all(len(level.paired_in) == len(self.targets) for level, _ in paired):
            return ""
        parts = []
        for level, pairs in paired:
            text = f"in {plural(pairs, 'pair')}, {self._covered_targets(level)}"
            parts.append(f"{level.name} {text}" if len(paired) > 1 else text)
        return "; ".join(parts)

    def _covered_targets(self, level: Level) -> str:
        names, total = level.paired_in, len(self.targets)
        if len(names) == total:
            return "in all targets"
        if len(names) > MAX_TARGETS_NAMED:
            return f"in {len(names)} of the {total} targets"
        return f"all in the target{'s' if len(names) > 1 else ''} {join_names(names)}"


@dataclass(frozen=True)
class LabelGroup:
    """Runs of one stage in one domain with one number of labels.

    `label_split` has the ways in which this number divides into (training, validation), if the table has them.
    """

    stage: str
    domain: str
    labels: float
    label_split: tuple[tuple[float, float], ...]
    values: np.ndarray
    estimate: Estimate


def factors(comparison: Comparison, stage: str) -> list[Factor]:
    """Returns the axes of `stage` and of its ancestors along which its runs differ, in the order of the study.

    They are computed once per comparison: the answer of a page and its figures need the same.
    """
    if stage not in comparison.factors_by_stage:
        comparison.factors_by_stage[stage] = _factors(comparison, stage)
    return comparison.factors_by_stage[stage]


def _factors(comparison: Comparison, stage: str) -> list[Factor]:
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    axes = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=True) > 1]
    target = _target_column(stage, frame)
    targets = tuple(map(str, sorted_levels(frame[target], comparison.results.domains)))
    result = []
    for axis in axes:
        others = paired_columns(comparison, stage, frame, axis)
        is_domain, is_target = axis.endswith(".domain"), axis in _target_axes(stage)
        levels = _levels(comparison, frame[frame[axis].notna()], axis, others, target)
        result.append(Factor(axis, axis_label(axis), levels, is_domain, is_target, targets))
    return result


def paired_difference(comparison: Comparison, stage: str, axis: str, level: Any, reference: Any) -> Estimate | None:
    """Returns the median of the values at one level of an axis less those at another, in pairs of runs that differ in
    nothing else; None without such a pair."""
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    others = paired_columns(comparison, stage, frame, axis)
    cells = frame.groupby(others, dropna=False).ngroup().to_numpy() if others else np.zeros(len(frame), dtype=int)
    at_level, at_reference = (frame[axis] == level).to_numpy(), (frame[axis] == reference).to_numpy()
    medians = frame["value"][at_reference].groupby(cells[at_reference]).median()
    pairs = _pairs(frame[at_level], cells[at_level], medians)
    return comparison.estimate(pairs, "difference") if len(pairs) else None


def paired_columns(comparison: Comparison, stage: str, frame: pd.DataFrame, axis: str) -> list[str]:
    """Returns the columns that runs of a stage have in common if they differ in `axis` alone; `frame` has the runs."""
    others = [column for column in [*comparison.axes(stage), *repeat_columns(frame)] if column != axis]
    target = _target_column(stage, frame)
    if axis not in _target_axes(stage) and f"{stage}.domain" not in others and target not in others:
        others.append(target)
    return others


def _target_axes(stage: str) -> tuple[str, str]:
    return f"{stage}.domain", f"{stage}.pair"


def _target_column(stage: str, frame: pd.DataFrame) -> str:
    """Returns the column with the target: of mixtures the pair, which stays where the shares of its domains change."""
    pair = f"{stage}.pair"
    return pair if pair in frame.columns and frame[pair].nunique(dropna=True) > 1 else "domain"


def label_groups(comparison: Comparison, stages: Sequence[str]) -> list[LabelGroup]:
    """Returns the runs of `stages` by domain and number of labels, where the table states the labels."""
    if "labels" not in comparison.runs.columns:
        return []
    groups = []
    for stage in stages:
        frame = comparison.stage_runs(stage)
        frame = frame[np.isfinite(frame["value"]) & frame["labels"].notna()]
        for _, part in frame.groupby(["domain", "labels"]):
            domain, labels = str(part["domain"].iloc[0]), float(part["labels"].iloc[0])
            values = part["value"].to_numpy()
            groups.append(LabelGroup(stage, domain, labels, _label_split(part), values, comparison.estimate(part)))
    return groups


def _label_split(part: pd.DataFrame) -> tuple[tuple[float, float], ...]:
    columns = ["labels_train", "labels_validation"]
    if not all(column in part.columns for column in columns):
        return ()
    known = part[columns].apply(pd.to_numeric, errors="coerce").dropna().drop_duplicates()
    return tuple(sorted((float(train), float(validation)) for train, validation in known.to_numpy()))


def gain_per_doubling(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns, per target domain, the slope of the median value against the binary logarithm of the number of labels.

    `change` is the difference per doubling of the labels, by least squares through the medians; `ratio`, where all
    values are positive, the factor per doubling, by the same fit of their logarithm: below 1 if a loss falls. None
    where the table does not state at least two numbers of labels.
    """
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    frame = frame[numeric(frame, "labels") > 0]
    counts = frame.groupby("domain")["labels"].nunique() if len(frame) else pd.Series(dtype=int)
    domains = sorted_levels(frame["domain"], comparison.results.domains) if len(frame) else []
    domains = [name for name in domains if counts[name] > 1]
    if not domains:
        return None
    frame = frame[frame["domain"].isin(domains)]
    codes, cells = pd.factorize(pd.MultiIndex.from_arrays([frame["domain"], frame["labels"]]), sort=True)
    is_log = bool((frame["value"] > 0).all())
    slopes = np.zeros((len(cells), len(domains)))  # from medians to slopes
    for column, name in enumerate(domains):
        places = [place for place, cell in enumerate(cells) if cell[0] == name]
        doublings = np.log2([float(cells[place][1]) for place in places])
        centered = doublings - doublings.mean()
        slopes[places, column] = centered / (centered @ centered)

    def contrasts(medians: np.ndarray) -> np.ndarray:
        parts = [medians @ slopes]
        return np.concatenate([*parts, *([np.exp(np.log(medians) @ slopes)] if is_log else [])], axis=1)

    resamples = affordable_resamples(len(frame))
    levels = comparison.cluster_levels(frame)
    estimates = estimate_contrasts(frame["value"].to_numpy(), codes, contrasts, levels, resamples=resamples)
    records = [
        {
            "domain": name,
            "numbers": counts[name],
            **interval_columns("change", estimates[place]),
            **(interval_columns("ratio", estimates[len(domains) + place]) if is_log else {}),
        }
        for place, name in enumerate(domains)
    ]
    note = f"{comparison.metric.label.capitalize()} per doubling of the labeled {comparison.label_unit}."
    title = f"Gain from more labels, {stage_label(stage)}"
    return Analysis(title, pd.DataFrame(records), (note, interval_note(estimates, resamples)))


def against_scratch(comparison: Comparison, transfer: str, scratch: str) -> dict[float, Estimate]:
    """Returns, by number of labels, the median of transfer less scratch on the same domain, labels and seeds.

    Runs of one side that differ in other axes enter by their median, so that no side counts more often.
    """
    both = [comparison.stage_runs(transfer), comparison.stage_runs(scratch)]
    seeds = [seed for seed in SEEDS if all(seed in frame.columns for frame in both)]
    if not all("labels" in frame.columns for frame in both):
        return {}
    left, right = (frame.groupby(["domain", "labels", *seeds])["value"].median() for frame in both)
    pairs = (left - right).dropna().reset_index()
    return {
        float(str(labels)): estimate(part["value"].to_numpy(), comparison.cluster_levels(part) if seeds else {})
        for labels, part in pairs.groupby("labels")
    }


def _levels(
    comparison: Comparison, frame: pd.DataFrame, axis: str, others: list[str], target: str
) -> tuple[Level, ...]:
    """Returns the levels of an axis; `others` are the columns that the runs of a pair have in common."""
    domains = comparison.results.domains
    values = sorted_levels(frame[axis], domains if axis.endswith(".domain") else [])
    cells = frame.groupby(others, dropna=False).ngroup().to_numpy() if others else np.zeros(len(frame), dtype=int)
    numbers = frame["value"].to_numpy()
    is_first = (frame[axis] == values[0]).to_numpy()
    reference = pd.Series(numbers[is_first]).groupby(cells[is_first]).median()
    levels = []
    for position, value in enumerate(values):
        is_level = (frame[axis] == value).to_numpy()
        part = frame[is_level]
        pairs = _pairs(part, cells[is_level], reference) if position else part[:0]
        levels.append(
            Level(
                name=level_label(value),
                value=value,
                values=numbers[is_level],
                estimate=comparison.estimate(part),
                second=comparison.estimate(part, "second_value") if comparison.second_metric else None,
                difference=comparison.estimate(pairs, "difference") if len(pairs) else None,
                paired_in=tuple(map(str, sorted_levels(pairs[target], domains))),
            )
        )
    return tuple(levels)


def _pairs(part: pd.DataFrame, cells: np.ndarray, reference: pd.Series) -> pd.DataFrame:
    """Returns, for the cells that both have, a run of this level with its `difference` to `reference`.

    Runs of a cell enter by their median. Common values of pairs are read from this level's runs: those of the reference
    differ by the level alone, so their seeds and parents correspond one to one.
    """
    runs = part.assign(cell=cells, median=part["value"].groupby(cells).transform("median").to_numpy())
    pairs = runs.drop_duplicates("cell")
    pairs = pairs.assign(difference=pairs["median"].to_numpy() - reference.reindex(pairs["cell"]).to_numpy())
    return pairs[np.isfinite(pairs["difference"])]
