"""Intervals over test images, beside those over seeds: what is reported, had the same runs been tested on other images.

Every run is scored again with its test images weighted at random, the images of one group (micrograph, structure, well)
by the same weight, and every run by the same weights: the Bayesian bootstrap (Rubin 1981, Annals of Statistics 9, 130)
of clusters. Scores are pooled as those reported are, from what was counted in each image; medians and differences are
then formed as those reported are. So runs that were tested on the same images are compared in pairs, others are not.

Intervals are of a t distribution with n - 1 degrees of freedom for n groups. The variance of a mean under such weights
is too small by the factor (n - 1) / (n + 1), for which the standard error is corrected; of runs with different numbers
of groups, n is the least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Estimate, t_quantile
from segue.reporting.analysis.comparison import Comparison, own_evaluations, sorted_levels
from segue.reporting.analysis.factors import Factor, factors, paired_columns
from segue.reporting.analysis.result import Analysis, affordable_resamples, interval_columns, interval_note
from segue.reporting.formatting import plural, stage_label
from segue.rng import numpy_generator


class ImageScores(Protocol):
    """The images of an evaluation: the cluster of each, and the score of all of them, weighted."""

    @property
    def groups(self) -> Sequence[str]: ...

    def weighted_score(self, metric: str, weights: np.ndarray) -> np.ndarray | None: ...


@dataclass(frozen=True)
class ImageValues:
    """Values of images from a table with a row per image; the score of an evaluation is their mean."""

    groups: Sequence[str]
    values: np.ndarray

    def weighted_score(self, metric: str, weights: np.ndarray) -> np.ndarray | None:
        is_finite = np.isfinite(self.values)
        with np.errstate(invalid="ignore"):
            return weights[:, is_finite] @ self.values[is_finite] / weights[:, is_finite].sum(1)


@dataclass(frozen=True)
class Resampled:
    """values (R, 1 + B): of each run, as reported, then in B resamples; clusters: those of its images; images: their
    number. Values are NaN where the images of a run are not known."""

    values: np.ndarray
    clusters: list[frozenset[str]]
    images: list[int]


def image_intervals(comparison: Comparison, stage: str) -> list[Analysis]:
    """Returns the median of every domain, and every level of every factor against the first, over seeds and images.

    Empty where the images are not known: a table without a column `image`, evaluations of earlier versions, and
    metrics that do not follow from counts of images.
    """
    if comparison.images is None and comparison.results.image_counts is None:
        return []
    runs = comparison.stage_runs(stage)
    runs = runs[np.isfinite(runs["value"])].reset_index(drop=True)
    tested = _tested_images(comparison, runs)
    known = sum(bool(parts) for parts in tested)
    if not known:
        return []
    resampled = _resample(comparison, runs, tested)
    if not np.isfinite(resampled.values[:, 1:]).any():
        return []
    units = "groups (micrographs, structures, wells)" if _has_groups(comparison) else "images, as no groups are known"
    notes = [
        "Over images: for these runs and other test images, 95 % interval by a t distribution and a bootstrap of their"
        f" {units}, {resampled.values.shape[1] - 1:,} resamples."
    ]
    if comparison.images is not None:
        notes.append("The table has a row per image: the value of a run is the mean over its images.")
    if known < len(runs):
        notes.append(
            f"{known} of {plural(len(runs), 'run')} have counts per image, the others were scored by an earlier"
            " version: what they enter has no interval over images. Remove the folders `evaluations` of the runs and"
            " run the study again to score them anew."
        )
    differences = _differences(comparison, stage, runs, resampled, notes)
    return [_values(comparison, stage, runs, resampled, notes), *([differences] if differences else [])]


def lacks_counts(comparison: Comparison) -> bool:
    """Returns whether all runs of a study were scored by an earlier version, which did not count images."""
    read, runs = comparison.results.image_counts, comparison.runs
    if read is None or runs.empty:
        return False
    own = own_evaluations(comparison.rows, comparison.results.domains)
    return all(read(run, domain) is None for run, domain in zip(own["run"], own["evaluated_domain"], strict=True))


def _has_groups(comparison: Comparison) -> bool:
    images = comparison.images
    return images is None or ("group" in images.columns and bool(images["group"].notna().all()))


def _tested_images(comparison: Comparison, runs: pd.DataFrame) -> list[list[ImageScores]]:
    """Returns for each run the images of its own domain, or of each domain of its mixture; [] where not known."""
    rows = own_evaluations(comparison.rows, comparison.results.domains)
    domains = rows.groupby("run", sort=False)["evaluated_domain"].agg(list)
    if comparison.images is not None:
        by_evaluation = _table_images(comparison.images)
        return [[by_evaluation[run, domain] for domain in domains[run]] for run in runs["run"]]
    read = comparison.results.image_counts
    assert read is not None
    tested = []
    for run in runs["run"]:
        parts = [read(run, domain) for domain in domains[run]]
        tested.append([] if any(part is None for part in parts) else [part for part in parts if part is not None])
    return tested


def _table_images(images: pd.DataFrame) -> dict[Any, ImageScores]:
    """Returns (run, evaluated domain) -> its images; those without a name are no others' images."""
    has_groups = "group" in images.columns and bool(images["group"].notna().all())
    names = images["image"].astype(str) + "\n" + images["evaluated_domain"]
    names = names.where(images["image"].notna(), "row " + pd.Series(range(len(images)), images.index).astype(str))
    clusters = images["group"].astype(str) if has_groups else names
    frame = images.assign(cluster=clusters)
    return {
        evaluation: ImageValues(tuple(part["cluster"]), part["value"].to_numpy())
        for evaluation, part in frame.groupby(["run", "evaluated_domain"], sort=False)
    }


def _resample(comparison: Comparison, runs: pd.DataFrame, tested: Sequence[Sequence[ImageScores]]) -> Resampled:
    clusters = [frozenset(group for part in parts for group in part.groups) for parts in tested]
    code = {name: place for place, name in enumerate(sorted(frozenset[str]().union(*clusters)))}
    images = [sum(len(part.groups) for part in parts) for parts in tested]
    weights = cluster_weights(len(code), affordable_resamples(sum(images)))
    values, metric = np.full((len(runs), len(weights)), np.nan), comparison.metric.column
    for place, parts in enumerate(tested):
        of_images = [weights[:, [code[name] for name in part.groups]].astype(float) for part in parts]
        scores = [part.weighted_score(metric, each) for part, each in zip(parts, of_images, strict=True)]
        if scores and not any(score is None for score in scores):
            values[place] = np.mean([score for score in scores if score is not None], axis=0)
            _require_equal(runs.iloc[place], metric, values[place, 0])
    return Resampled(values, clusters, images)


def _require_equal(run: pd.Series, metric: str, value: float) -> None:
    """Raises SegueError where the images do not give the score that is reported, but for rounding of sums."""
    if not np.isclose(value, run["value"], rtol=1e-4, atol=1e-6):
        raise SegueError(
            f"run {run['run']}: what was counted in each image gives {metric} {value:.6g}, but its evaluation has"
            f" {run['value']:.6g}; remove its folder `evaluations` and run the study again, which scores it anew."
        )


def cluster_weights(clusters: int, resamples: int) -> np.ndarray:
    """Returns (1 + resamples, clusters) float32: ones, then random weights of an exponential distribution."""
    generator = numpy_generator("report", "images")
    ones = np.ones((1, clusters), np.float32)
    return np.concatenate([ones, generator.standard_exponential((resamples, clusters), np.float32)])


def t_interval(samples: np.ndarray, clusters: int) -> tuple[float, float]:
    """Returns the 95 % interval of samples (1 + B,), the value and those of resamples; NaN for a single cluster."""
    resampled = samples[1:][np.isfinite(samples[1:])]
    if clusters < 2 or 2 * resampled.size < samples.size:
        return math.nan, math.nan
    error = float(resampled.std(ddof=1)) * math.sqrt((clusters + 1) / (clusters - 1))
    half = t_quantile(clusters - 1) * error
    return float(samples[0]) - half, float(samples[0]) + half


def _values(
    comparison: Comparison, stage: str, runs: pd.DataFrame, resampled: Resampled, notes: Sequence[str]
) -> Analysis:
    records, estimates = [], []
    for domain in sorted_levels(runs["domain"], comparison.results.domains):
        chosen = np.flatnonzero((runs["domain"] == domain).to_numpy())
        estimates.append(comparison.estimate(runs.iloc[chosen]))
        low, high = t_interval(np.median(resampled.values[chosen], axis=0), _least(resampled, chosen))
        records.append(
            {
                "domain": domain,
                "runs": len(chosen),
                **interval_columns("value_over_seeds", estimates[-1]),
                "value_over_images": estimates[-1].median,
                "value_over_images_low": low,
                "value_over_images_high": high,
                **_counts(resampled, chosen),
            }
        )
    first = f"Median {comparison.metric.label} of the runs of a domain, on the images of that domain."
    title = f"Values over seeds and over images, {stage_label(stage)}"
    return Analysis(title, pd.DataFrame(records), (first, _over_seeds(estimates), *notes))


def _differences(
    comparison: Comparison, stage: str, runs: pd.DataFrame, resampled: Resampled, notes: Sequence[str]
) -> Analysis | None:
    records, estimates = [], []
    for factor in factors(comparison, stage):
        cells = _cells(comparison, stage, runs, factor)
        first = np.flatnonzero((runs[factor.axis] == factor.levels[0].value).to_numpy())
        for level in factor.levels[1:]:
            chosen = np.flatnonzero((runs[factor.axis] == level.value).to_numpy())
            if level.difference is None:
                continue
            samples, pairs = _median_difference(resampled.values, cells, chosen, first)
            ours, theirs = (part[np.isin(cells[part], pairs)] for part in (chosen, first))
            low, high = t_interval(samples, _least(resampled, [*ours, *theirs]))
            estimates.append(level.difference)
            records.append(
                {
                    "factor": factor.label,
                    "level": level.name,
                    "reference": factor.levels[0].name,
                    **interval_columns("over_seeds", level.difference),
                    "over_images": level.difference.median,
                    "over_images_low": low,
                    "over_images_high": high,
                    **_counts(resampled, [*ours, *theirs]),
                    "kind": _kind(comparison, resampled, ours, theirs),
                }
            )
    if not records:
        return None
    first_note = "Median difference of runs in pairs that differ in this factor alone."
    title = f"Differences over seeds and over images, {stage_label(stage)}"
    return Analysis(title, pd.DataFrame(records), (first_note, _over_seeds(estimates), *notes))


def _over_seeds(estimates: Sequence[Estimate]) -> str:
    return f"Over seeds: {interval_note(estimates).removeprefix('Intervals: ')}"


def _cells(comparison: Comparison, stage: str, runs: pd.DataFrame, factor: Factor) -> np.ndarray:
    """Returns (R,) numbers of what the runs of a pair have in common; -1 where a run lacks the factor."""
    others = paired_columns(comparison, stage, runs, factor.axis)
    cells = runs.groupby(others, dropna=False).ngroup().to_numpy() if others else np.zeros(len(runs), dtype=int)
    return np.where(runs[factor.axis].notna(), cells, -1)


def _median_difference(
    values: np.ndarray, cells: np.ndarray, chosen: np.ndarray, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (1 + B,) medians of the differences of the cells that both have, and these cells; runs of a cell enter
    by their median, all of them: NaN where one is."""
    ours, theirs = (_medians(values[part], cells[part]) for part in (chosen, first))
    pairs = ours.index.intersection(theirs.index)
    return np.median(ours.loc[pairs].to_numpy() - theirs.loc[pairs].to_numpy(), axis=0), pairs.to_numpy()


def _medians(values: np.ndarray, cells: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame(values, index=cells)
    if len(np.unique(cells)) == len(cells):
        return frame
    return frame.groupby(level=0).median().mask(frame.isna().groupby(level=0).any())


def _least(resampled: Resampled, runs: Iterable[int]) -> int:
    return min(len(resampled.clusters[run]) for run in runs)


def _counts(resampled: Resampled, runs: Sequence[int] | np.ndarray) -> dict[str, int]:
    """Returns the number of images of a run, at least, and of groups of all runs."""
    groups = frozenset[str]().union(*(resampled.clusters[run] for run in runs))
    return {"images": min(resampled.images[run] for run in runs), "groups": len(groups)}


def _kind(comparison: Comparison, resampled: Resampled, ours: np.ndarray, theirs: np.ndarray) -> str:
    """Returns how the images of one level are related to those of the other."""
    first, second = (frozenset[str]().union(*(resampled.clusters[run] for run in part)) for part in (ours, theirs))
    both, either = len(first & second), len(first | second)
    if not either:
        return "not known"
    unit = "group" if _has_groups(comparison) else "image"
    suffix = "" if unit == "group" else ", no groups in the table"
    if not both:
        return f"unpaired: no {unit} in common{suffix}"
    return f"paired by {unit}{suffix}" if both == either else f"paired in {both} of {plural(either, unit)}{suffix}"
