"""What each factor does: the spread within its levels, and paired differences where the design is crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import Estimate, estimate
from segue.reporting.analysis.comparison import SEEDS, Comparison, repeats_of
from segue.reporting.page.formatting import AXES, axis_words, level_text, listed, several, stage_words

MOST_TARGETS_NAMED = 3


@dataclass(frozen=True)
class Level:
    """One value of an axis: the values of its runs and their median; `difference` is to the first level, in pairs.

    `paired_in` names the domains that the runs of these pairs were trained on.
    """

    name: str
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
    words: str
    prose: str
    levels: tuple[Level, ...]
    is_domain: bool
    is_target: bool
    targets: tuple[str, ...]

    @property
    def span(self) -> float:
        """The largest difference between two levels, from the paired differences; NaN where nothing is paired."""
        medians = [0.0, *(level.difference.median for level in self.levels if level.difference)]
        return max(medians) - min(medians) if len(medians) > 1 else float("nan")


@dataclass(frozen=True)
class Group:
    """Runs of one stage in one domain with one number of labels.

    `label_split` holds the ways in which this number divides into (training, validation), where the table tells.
    """

    stage: str
    domain: str
    labels: float
    label_split: tuple[tuple[float, float], ...]
    values: np.ndarray
    estimate: Estimate


def factors(comparison: Comparison, stage: str) -> list[Factor]:
    """Returns the axes of `stage` and of its ancestors along which its runs differ, in the order of the study."""
    frame = comparison.of(stage)
    frame = frame[np.isfinite(frame["value"])]
    axes = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=True) > 1]
    seeds = repeats_of(frame)
    targets = tuple(map(str, sorted_levels(frame["domain"], comparison.results.domains)))
    found = []
    for axis in axes:
        others = [column for column in [*comparison.axes(stage), *seeds] if column != axis]
        if axis != f"{stage}.domain" and f"{stage}.domain" not in others:
            others.append("domain")
        levels = _levels(comparison, frame[frame[axis].notna()], axis, others)
        is_domain = axis.endswith(".domain")
        owner, _, key = axis.partition(".")
        prose = f"{AXES.get(key, key)} in {stage_words(owner)}"
        found.append(Factor(axis, axis_words(axis), prose, levels, is_domain, axis == f"{stage}.domain", targets))
    return found


def coverage(factor: Factor, levels: Sequence[Level]) -> str:
    """Returns "in 12 pairs, all in the target 0nm" where the differences of `levels` leave out targets, else ""."""
    paired = [(level, level.difference.runs) for level in levels if level.difference]
    if factor.is_target or all(len(level.paired_in) == len(factor.targets) for level, _ in paired):
        return ""
    parts = []
    for level, pairs in paired:
        where = f"in {several(pairs, 'pair')}, {_targets_text(factor, level)}"
        parts.append(f"{level.name} {where}" if len(paired) > 1 else where)
    return "; ".join(parts)


def _targets_text(factor: Factor, level: Level) -> str:
    named, every = level.paired_in, len(factor.targets)
    if len(named) == every:
        return "in all targets"
    if len(named) > MOST_TARGETS_NAMED:
        return f"in {len(named)} of the {every} targets"
    return f"all in the target{'s' if len(named) > 1 else ''} {listed(list(named))}"


def efficiency(comparison: Comparison, stages: Sequence[str]) -> list[Group]:
    """Returns the runs of `stages` by domain and number of labels, where the table states the labels."""
    if "labels" not in comparison.own.columns:
        return []
    groups = []
    for stage in stages:
        frame = comparison.of(stage)
        frame = frame[np.isfinite(frame["value"]) & frame["labels"].notna()]
        for (domain, labels), part in frame.groupby(["domain", "labels"]):
            values = part["value"].to_numpy()
            found = estimate(values, comparison.sharing(part))
            groups.append(Group(stage, domain, labels, _label_split(part), values, found))
    return groups


def _label_split(part: pd.DataFrame) -> tuple[tuple[float, float], ...]:
    columns = ["labels_train", "labels_validation"]
    if not all(column in part.columns for column in columns):
        return ()
    known = part[columns].apply(pd.to_numeric, errors="coerce").dropna().drop_duplicates()
    return tuple(sorted((float(train), float(validation)) for train, validation in known.to_numpy()))


def against_scratch(comparison: Comparison, transfer: str, scratch: str) -> dict[float, Estimate]:
    """Returns, by number of labels, the median of transfer less scratch on the same domain, labels and seeds.

    Runs of one side that differ in other axes enter by their median, so that no side counts more often.
    """
    both = [comparison.of(transfer), comparison.of(scratch)]
    seeds = [seed for seed in SEEDS if all(seed in frame.columns for frame in both)]
    if not all("labels" in frame.columns for frame in both):
        return {}
    keys = ["domain", "labels", *seeds]
    left, right = (frame.groupby(keys)["value"].median() for frame in both)
    pairs = (left - right).dropna().reset_index()
    found = {}
    for labels, part in pairs.groupby("labels"):
        found[float(str(labels))] = estimate(part["value"].to_numpy(), comparison.sharing(part) if seeds else {})
    return found


def _levels(comparison: Comparison, frame: pd.DataFrame, axis: str, others: list[str]) -> tuple[Level, ...]:
    values = sorted_levels(frame[axis], comparison.results.domains if axis.endswith(".domain") else [])
    cells = frame.groupby(others, dropna=False).ngroup().to_numpy() if others else np.zeros(len(frame), dtype=int)
    numbers = frame["value"].to_numpy()
    reference = pd.Series(numbers[(frame[axis] == values[0]).to_numpy()]).groupby(
        cells[(frame[axis] == values[0]).to_numpy()]
    )
    levels = []
    for position, value in enumerate(values):
        chosen = (frame[axis] == value).to_numpy()
        part = frame[chosen]
        sharing = comparison.sharing(part)
        second = estimate(part["second_value"].to_numpy(), sharing) if comparison.second else None
        found = estimate(numbers[chosen], sharing)
        pairs = _pairs(part, cells[chosen], reference.median()) if position else part[:0]
        differences = pairs["difference"].to_numpy() if len(pairs) else None
        difference = None if differences is None else estimate(differences, comparison.sharing(pairs))
        paired_in = tuple(map(str, sorted_levels(pairs["domain"], comparison.results.domains)))
        levels.append(Level(level_text(value), numbers[chosen], found, second, difference, paired_in))
    return tuple(levels)


def _pairs(part: pd.DataFrame, cells: np.ndarray, reference: pd.Series) -> pd.DataFrame:
    """Returns, for the cells that both have, a run of this level with its `difference` to `reference`.

    Runs of a cell enter by their median. What pairs share is read from this level's runs: those of the reference
    differ by the level alone, so their seeds and parents correspond one to one.
    """
    runs = part.assign(cell=cells, paired=part.groupby(cells)["value"].transform("median").to_numpy())
    pairs = runs.drop_duplicates("cell")
    pairs = pairs.assign(difference=pairs["paired"].to_numpy() - reference.reindex(pairs["cell"]).to_numpy())
    return pairs[np.isfinite(pairs["difference"])]


def sorted_levels(values: pd.Series, domains: Sequence[str]) -> list[object]:
    """Returns the distinct values: numbers ascending, domains as in the study, else "none", then by appearance."""
    present = list(values.dropna().unique())
    if domains:
        return [name for name in domains if name in present] + [name for name in present if name not in domains]
    if pd.api.types.is_numeric_dtype(values):
        return sorted(present)
    return sorted(present, key=lambda value: value != "none")  # "none" is what one compares with
