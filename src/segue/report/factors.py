"""What each factor does: the spread within its levels, and paired differences where the design is crossed."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportAssignmentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.report.comparison import SEEDS, Comparison, repeats_of
from segue.report.statistics import Estimate, estimate
from segue.report.words import AXES, axis_words, level_text, stage_words


@dataclass(frozen=True)
class Level:
    """One value of an axis: the values of its runs and their median; `difference` is to the first level, in pairs."""

    name: str
    values: np.ndarray
    estimate: Estimate
    second: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Factor:
    """An axis with at least two levels. `is_target` marks the domain that the runs themselves were trained on."""

    axis: str
    words: str
    prose: str
    levels: tuple[Level, ...]
    is_domain: bool
    is_target: bool

    @property
    def span(self) -> float:
        """The largest difference between two levels, from the paired differences; NaN where nothing is paired."""
        medians = [0.0, *(level.difference.median for level in self.levels if level.difference)]
        return max(medians) - min(medians) if len(medians) > 1 else float("nan")


@dataclass(frozen=True)
class Group:
    """Runs of one stage in one domain with one number of labels."""

    stage: str
    domain: str
    labels: float
    values: np.ndarray
    estimate: Estimate


def factors(comparison: Comparison, stage: str) -> list[Factor]:
    """Returns the axes of `stage` and of its ancestors along which its runs differ, in the order of the study."""
    frame = comparison.of(stage)
    frame = frame[np.isfinite(frame["value"])]
    axes = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=True) > 1]
    seeds = repeats_of(frame)
    found = []
    for axis in axes:
        others = [column for column in [*comparison.axes(stage), *seeds] if column != axis]
        if axis != f"{stage}.domain" and f"{stage}.domain" not in others:
            others.append("domain")
        levels = _levels(comparison, frame[frame[axis].notna()], axis, others)
        is_domain = axis.endswith(".domain")
        owner, _, key = axis.partition(".")
        prose = f"{AXES.get(key, key)} in {stage_words(owner)}"
        found.append(Factor(axis, axis_words(axis), prose, levels, is_domain, axis == f"{stage}.domain"))
    return found


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
            groups.append(Group(stage, domain, labels, values, estimate(values, comparison.sharing(part))))
    return groups


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
        difference = _paired(comparison, part, cells[chosen], reference.median()) if position else None
        levels.append(Level(level_text(value), numbers[chosen], estimate(numbers[chosen], sharing), second, difference))
    return tuple(levels)


def _paired(comparison: Comparison, part: pd.DataFrame, cells: np.ndarray, reference: pd.Series) -> Estimate | None:
    """Returns the median difference to `reference` over the cells that both have; None where they share none.

    Runs of a cell enter by their median. What pairs share is read from this level's runs: those of the reference
    differ by the level alone, so their seeds and parents correspond one to one.
    """
    runs = part.assign(cell=cells, paired=part.groupby(cells)["value"].transform("median").to_numpy())
    pairs = runs.drop_duplicates("cell")
    pairs = pairs.assign(difference=pairs["paired"].to_numpy() - reference.reindex(pairs["cell"]).to_numpy())
    pairs = pairs[np.isfinite(pairs["difference"])]
    return None if pairs.empty else estimate(pairs["difference"].to_numpy(), comparison.sharing(pairs))


def sorted_levels(values: pd.Series, domains: Sequence[str]) -> list[object]:
    """Returns the distinct values: numbers ascending, domains as in the study, else "none", then by appearance."""
    present = list(values.dropna().unique())
    if domains:
        return [name for name in domains if name in present] + [name for name in present if name not in domains]
    if pd.api.types.is_numeric_dtype(values):
        return sorted(present)
    return sorted(present, key=lambda value: value != "none")  # "none" is what one compares with
