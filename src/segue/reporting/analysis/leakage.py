"""The leakage of a split: validation scores next to those of untouched test groups, for each kind of split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import SEEDS, ClusterLevel, Estimate, estimate
from segue.reporting.analysis.comparison import Comparison, numeric
from segue.reporting.formatting import Metric, Table, format_percent, metric_for

MAX_METRICS = 5
PARTS = ("validation", "test")
REQUIRED = {"split_by", "split_tears", "apart_from_split", "selected_epoch"}


@dataclass(frozen=True)
class SplitScores:
    """The runs of one split by one metric: (n,) values by part, and medians with intervals.

    `gap` is validation minus test. `optimism` (n,) is the same, oriented so that positive means that validation is too
    optimistic. `pair_keys` identifies the runs of different splits that are pairs.
    """

    values: dict[str, np.ndarray]
    optimism: np.ndarray
    estimates: dict[str, Estimate]
    gap: Estimate
    pair_keys: tuple[str, ...]
    levels: dict[str, ClusterLevel]


@dataclass(frozen=True)
class Leakage:
    """The runs to compare by split, those of whole groups first. scores: metric -> split -> its scores.

    `leaking` are the splits that divide groups; `is_paired`: whether runs differ in nothing but the split and seeds.
    """

    frame: pd.DataFrame
    splits: list[str]
    leaking: list[str]
    metrics: list[Metric]
    scores: dict[str, dict[str, SplitScores]]
    is_paired: bool

    def excess_optimism(self, metric: Metric, split: str) -> Estimate | None:
        """Returns the excess optimism of a split that divides groups over the first whole one; None for whole splits.

        It is the median over pairs of runs with equal seeds, or the difference of medians, without interval, where the
        runs differ in more than the split.
        """
        if split not in self.leaking or len(self.leaking) == len(self.splits):
            return None
        leaking, whole = (self.scores[metric.column][name] for name in (split, self.splits[0]))
        places = {key: place for place, key in enumerate(whole.pair_keys)}
        pairs = [(place, places[key]) for place, key in enumerate(leaking.pair_keys) if key in places]
        if not self.is_paired or not pairs:
            return estimate(np.array([np.nanmedian(leaking.optimism) - np.nanmedian(whole.optimism)]), {})
        ours, theirs = map(list, zip(*pairs, strict=True))
        levels = {name: ClusterLevel(level.groups[ours], level.strata[ours]) for name, level in leaking.levels.items()}
        return estimate(leaking.optimism[ours] - whole.optimism[theirs], levels)

    @property
    def finding(self) -> str:
        """The result by the first metric for each split that divides groups, one sentence each."""
        sentences = []
        for split in self.leaking:
            excess = self.excess_optimism(self.metrics[0], split)
            if excess is None:
                continue
            verb = "is more" if excess.median > 0 else "is less"
            verb = verb if excess.excludes_zero else "is not clearly more"
            than = f"optimistic than split by {self.splits[0]}: by {excess.text(signed=True)}"
            sentences.append(f"By {self.metrics[0].label}, validation split by {split} {verb} {than}.")
        return " ".join(sentences)

    def scores_table(self, metrics: Sequence[Metric] | None = None, *, summary: str = "") -> Table:
        """Returns validation, test and gap by metric and split, with the excess over the first whole split."""
        columns = ["split by", "runs", "validation", "test groups", "validation minus test"]
        columns += [f"optimism above that by {self.splits[0]}{', in pairs' if self.is_paired else ''}"]
        rows: list[list[str]] = []
        for metric in self.metrics if metrics is None else metrics:
            rows.append([f"{metric.label} ({metric.direction})"])
            for split, scores in self.scores[metric.column].items():
                excess = self.excess_optimism(metric, split)
                texts = [scores.estimates[part].text() for part in PARTS] + [scores.gap.text(signed=True)]
                rows.append([split, f"{scores.gap.runs:,}", *texts, excess.text(signed=True) if excess else ""])
        return Table(columns, rows, range(1, len(columns)), summary)

    def neighbors_table(self) -> Table:
        """Returns, by split, the number of neighboring tiles across its border and the number of groups scored.

        Neighboring tiles overlap at the same or an adjacent time.
        """
        columns = ["split by", "neighboring pairs across the border", "validation tiles with one"]
        names = ["training_groups", "validation_groups", "evaluated_groups"]
        has_groups = set(names) <= set(self.frame.columns)
        columns += ["training groups", "validation groups", "test groups"] if has_groups else []
        rows = []
        for split in self.splits:
            frame = self.frame[self.frame["split_by"] == split]
            share = float((numeric(frame, "validation_tiles_near") / numeric(frame, "validation_tiles")).median())
            leaks = split in self.leaking
            pairs = f"{numeric(frame, 'neighbouring_pairs').median():,.0f}" if leaks else "none"
            row = [split, pairs, format_percent(share) if leaks and np.isfinite(share) else "–"]
            rows.append(row + [f"{int(frame[name].median())}" for name in names if has_groups])
        return Table(columns, rows, numeric=range(1, len(columns)))


def leakage(comparison: Comparison) -> Leakage | None:
    """Returns the runs of a study whose stages differ in what they split by; None for any other.

    A run counts by its validation scores at the epoch it selected and by its test scores in its own domain. Where
    there are runs that differ in the split alone, the others are left out.
    """
    runs, histories = comparison.runs, comparison.results.histories
    if comparison.split != "test" or runs.empty or histories.empty or not set(runs.columns) >= REQUIRED:
        return None
    runs = runs[(runs["domain"] == runs["evaluated_domain"]) & runs["split_by"].notna()]
    splits = runs.groupby("apart_from_split")["split_by"].transform("nunique")
    is_paired = bool((splits > 1).any())
    runs = runs[splits == splits.max()] if is_paired else runs
    if runs["split_by"].nunique() < 2:
        return None
    frame = _with_validation(runs, histories)
    metrics = _metrics(comparison, frame)
    if not metrics:
        return None
    leaks = frame.groupby("split_by", sort=False)["split_tears"].first().astype(bool).to_dict()
    order = sorted(map(str, leaks), key=lambda name: (leaks[name], name != "group"))
    scores = {
        metric.column: {name: _scores(comparison, frame[frame["split_by"] == name], metric) for name in order}
        for metric in metrics
    }
    return Leakage(frame, order, [name for name in order if leaks[name]], metrics, scores, is_paired)


def _with_validation(runs: pd.DataFrame, histories: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs with the columns validation_<metric> of the epoch that each selected."""
    columns = [name for name in map(str, histories.columns) if name.startswith("validation_")]
    columns = [name for name in columns if name not in runs.columns]
    rows = histories.drop_duplicates(["run", "epoch"])[["run", "epoch", *columns]]
    merged = runs.merge(
        rows, left_on=["run", "selected_epoch"], right_on=["run", "epoch"], suffixes=("", "_of_history")
    )
    return merged[~merged["run"].duplicated()]


def _metrics(comparison: Comparison, frame: pd.DataFrame) -> list[Metric]:
    """Returns the study's metric, then F1 and area under the precision-recall curve of each foreground class."""

    def is_known(column: str) -> bool:
        known = numeric(frame, column).notna() & numeric(frame, f"validation_{column}").notna()
        return bool(known.groupby(frame["split_by"]).any().all())

    classes = [name.removeprefix("f1_") for name in map(str, frame.columns) if name.startswith("f1_")]
    classes = [name for name in classes if name not in ("background", "mean", "50")]
    columns = [comparison.metric.column, *(f"{kind}_{name}" for name in classes for kind in ("auprc", "f1"))]
    return [metric_for(column) for column in dict.fromkeys(columns) if is_known(column)][:MAX_METRICS]


def _scores(comparison: Comparison, frame: pd.DataFrame, metric: Metric) -> SplitScores:
    columns = {"validation": f"validation_{metric.column}", "test": metric.column}
    values = {part: numeric(frame, column).to_numpy() for part, column in columns.items()}
    gap = values["validation"] - values["test"]
    levels = comparison.cluster_levels(frame)
    estimates = {part: estimate(numbers, levels) for part, numbers in values.items()}
    seeds = [seed for seed in (*SEEDS, "repeat") if seed in frame.columns]
    pair_keys = tuple(" ".join(map(str, row)) for row in frame[["apart_from_split", *seeds]].to_numpy())
    optimism = -gap if metric.lower_is_better else gap
    return SplitScores(values, optimism, estimates, estimate(gap, levels), pair_keys, levels)
