"""Did it help: differences between models over the same held-out images, clustered by group, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segue.reporting.analysis.bootstrap import COVERAGE, t_quantile

MARGIN = 0.02  # of the score, within which two models are equivalent: what another annotator would change
Relation = Literal["better", "worse", "equivalent", "undecided"]
ImageScores = Mapping[str, Mapping[str, Any]]  # image -> group, score and others


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % interval over groups (NaN of a single group)."""

    mean: float
    low: float
    high: float
    images: int
    groups: int

    def text(self, *, signed: bool = False) -> str:
        """Returns "0.612 [0.570, 0.654]", or the mean alone of a single group."""
        form = f"{{:{'+' if signed else ''}.3f}}"
        mean = form.format(self.mean).replace("-", "−")
        if np.isnan(self.low):
            return mean
        return f"{mean} [{form.format(self.low)}, {form.format(self.high)}]".replace("-", "−")


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference over the same images; `relation` says what it shows.

    "equivalent": the 90 % interval lies within ±margin (two one-sided tests at 5 %, Schuirmann 1987), whether or not
    it excludes 0; "better" and "worse": the 95 % interval excludes 0; else "undecided", which is not equivalence.
    """

    relation: Relation


def clustered_mean(
    values: np.ndarray, clusters: np.ndarray, coverage: float = COVERAGE
) -> tuple[float, float, float, int]:
    """Returns the mean of `values` (n,) with its interval, by default of 95 %, and the number of clusters.

    The variance sums the residuals of each cluster before squaring, with the factor G / (G - 1) for G clusters, and the
    quantile is of a t distribution with G - 1 degrees of freedom (Liang and Zeger 1986, Biometrika 73, 13; Cameron and
    Miller 2015, Journal of Human Resources 50, 317). With a cluster per value this is the interval of the t test. The
    interval is NaN for a single cluster.
    """
    names, codes = np.unique(clusters, return_inverse=True)
    count, mean = len(names), float(values.mean())
    if count < 2:
        return mean, float("nan"), float("nan"), count
    sums = np.bincount(codes, weights=values - mean)
    error = np.sqrt(count / (count - 1) * (sums @ sums)) / len(values)
    half = float(t_quantile(count - 1, (1 + coverage) / 2) * error)
    return mean, mean - half, mean + half, count


def mean_score(scores: ImageScores) -> Estimate:
    """Returns the mean score of images; its interval is cut to 0 … 1, where scores lie."""
    mean, low, high, groups = clustered_mean(*_columns(list(scores.values())))
    low, high = np.clip((low, high), 0, 1).tolist()
    return Estimate(mean, low, high, len(scores), groups)


def difference(first: ImageScores, second: ImageScores, *, margin: float = MARGIN) -> Difference:
    """Returns the mean of first − second over the images of both, which must be the same; its interval is cut to ±1."""
    if first.keys() != second.keys():
        raise ValueError(f"scores are of different images: {sorted(first.keys() ^ second.keys())[:3]}")
    rows = [{"score": first[name]["score"] - second[name]["score"], "group": first[name]["group"]} for name in first]
    values, clusters = _columns(rows)
    mean, low, high, groups = clustered_mean(values, clusters)
    _, low_90, high_90, _ = clustered_mean(values, clusters, coverage=0.9)
    relation: Relation = "undecided"
    if -margin < low_90 and high_90 < margin:
        relation = "equivalent"
    elif low > 0 or high < 0:
        relation = "better" if low > 0 else "worse"
    low, high = np.clip((low, high), -1, 1).tolist()
    return Difference(mean, low, high, len(rows), groups, relation)


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(row["score"]) for row in rows]), np.array([str(row["group"]) for row in rows])


@dataclass(frozen=True)
class Verdict:
    """Which model is chosen, and what shows it.

    chosen: the candidate whose model is written; selected: the best training by validation, of those `trained`; parent:
    the best untouched parent by validation, None without any that can be scored. against: candidate -> selected −
    candidate on held-out images, for the untouched parents and for training from scratch; learned: chosen − a constant
    prediction.
    """

    chosen: str
    selected: str
    parent: str | None
    trained: tuple[str, ...]
    against: Mapping[str, Difference]
    learned: Difference


def judge(
    validation: Mapping[str, ImageScores],
    test: Mapping[str, ImageScores],
    *,
    untouched: Sequence[str],
    constant: ImageScores,
    references: Sequence[str],
) -> Verdict:
    """Returns the verdict on candidates, from their scores of validation and of test images.

    Validation selects among the trainings, and among the untouched parents. The selected training takes the parent's
    place only if it is better on the held-out images: a parent that is not beaten stays. references: candidates that
    the selected one is compared with, besides the untouched parents; if it is one of them, also the best of the other
    trainings.
    """
    trained = [name for name in validation if name not in untouched]
    parents = [name for name in untouched if name in validation]
    selected = max(trained, key=lambda name: mean_score(validation[name]).mean)
    parent = max(parents, key=lambda name: mean_score(validation[name]).mean) if parents else None
    rest = [name for name in trained if name != selected]
    best = [max(rest, key=lambda name: mean_score(validation[name]).mean)] if selected in references and rest else []
    others = [name for name in [*parents, *references, *best] if name != selected]
    against = {name: difference(test[selected], test[name]) for name in dict.fromkeys(others)}
    chosen = parent if parent is not None and against[parent].relation != "better" else selected
    return Verdict(chosen, selected, parent, tuple(trained), against, difference(test[chosen], constant))


WORDS: Mapping[Relation, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": f"equivalent (within ±{MARGIN:g})",
    "undecided": "undecided: the held-out images show neither a difference nor equivalence",
}


def sentences(
    verdict: Verdict, validation: Mapping[str, ImageScores], test: Mapping[str, ImageScores], score: str
) -> list[str]:
    """Returns the answer in sentences, the chosen model first. score: its name, such as "mean AP"."""
    chosen = mean_score(test[verdict.chosen])
    lines = [f"{verdict.chosen}: {score} {chosen.text()} on {chosen.images} held-out images of {chosen.groups} groups."]
    if verdict.learned.relation != "better":
        lines.append(
            f"Nothing was learned that these images show: {verdict.learned.text(signed=True)} against the same answer "
            "for every pixel. Give more time or more labels."
        )
    for name, each in verdict.against.items():
        lines.append(f"{verdict.selected} against {name}: {each.text(signed=True)}, {WORDS[each.relation]}.")
    if verdict.learned.relation == "better":
        lines.append(f"{verdict.chosen} against the same answer for every pixel: {verdict.learned.text(signed=True)}.")
    if verdict.chosen != verdict.selected:
        lines.append(f"{verdict.chosen} is not beaten, and is kept as it is.")
    elif len(verdict.trained) > 1:
        values = sorted(((mean_score(validation[name]).mean, name) for name in verdict.trained), reverse=True)
        listed = ", ".join(f"{name} {value:.3f}" for value, name in values)
        lines.append(f"{verdict.selected} is kept: validation images select it ({listed}).")
    return lines
