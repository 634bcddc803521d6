"""How many labels: trainings on nested subsets of the labeled groups, a curve through their scores, what more labels
are expected to give, and how many groups an interval of a given width needs.

The curve is of 1 − score (`evaluation.learning_curve`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segue.evaluation.learning_curve import forecast as expected_errors
from segue.fitting import rules
from segue.fitting.rules import Length
from segue.fitting.verdict import ImageScores, clustered_mean
from segue.reporting.analysis.bootstrap import t_quantile

DRAWS, FOLD_DRAWS = 3, 2  # other subsets of each size, of one split and in each fold
SIZES, FOLD_SIZES = 3, 2  # halves, quarters and eighths of the groups
WIDTHS = (0.2, 0.1, 0.05)  # of intervals
MAX_GROUPS = 100_000


def subset_sizes(groups: int, *, folds: bool) -> list[int]:
    """Returns the numbers of groups that are trained on besides all: an eighth, a quarter, a half of them."""
    most = FOLD_SIZES if folds else SIZES
    return sorted({groups // 2**k for k in range(1, most + 1)} - {0})


def training_count(groups: int, folds: int) -> int:
    """Returns how many trainings the curve takes; groups: of the training part (of the smallest fold)."""
    several = folds > 1
    return folds * len(subset_sizes(groups, folds=several)) * (FOLD_DRAWS if several else DRAWS)


def stages(
    settings: Mapping[str, Any], sizes: Sequence[int], *, groups: int, tiles: int, length: Length, batch: int
) -> dict[str, dict[str, Any]]:
    """Returns a stage for each size, with the settings of a training on all `groups` and about as many steps.

    tiles: of the training part. The subsets of a draw are nested: the first groups of the same order.
    """
    table = {}
    for size in sizes:
        one = rules.length(length.steps, tiles=max(1, round(tiles * size / groups)), batch=batch)
        augment = {**settings["augment"], "dihedral": "all" if one.all_views else "random"}
        table[f"{size} groups"] = {**settings, "groups": size, "epochs": one.epochs, "augment": augment}
    return table


@dataclass(frozen=True)
class Training:
    """A training of the curve: the number of groups it had, and its mean score on the held-out images."""

    groups: int
    score: float


@dataclass(frozen=True)
class Forecast:
    """What a training on `groups` others is expected to score on the same held-out images, with a 95 % interval, and
    the gain over the most groups trained on, whose interval is of the curve alone."""

    groups: int
    score: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float

    def text(self) -> str:
        return f"{self.score:.3f} [{self.low:.3f}, {self.high:.3f}]".replace("-", "−")

    def gain_text(self) -> str:
        return f"{self.gain:+.3f} [{self.gain_low:+.3f}, {self.gain_high:+.3f}]".replace("-", "−")


def forecast(trainings: Sequence[Training], at: Sequence[int]) -> list[Forecast]:
    """Returns the scores (0 to 1) that are expected with each number of groups in `at`.

    Raises ValueError for trainings on a single number of groups.
    """
    groups, errors = [one.groups for one in trainings], [1 - one.score for one in trainings]
    return [
        Forecast(one.labels, 1 - one.error, max(0.0, 1 - one.high), 1 - one.low, one.gain, one.gain_low, one.gain_high)
        for one in expected_errors(groups, errors, at)
    ]


@dataclass(frozen=True)
class LearningCurve:
    """Trainings on subsets and on all groups, what is expected between and beyond, and the held-out groups that an
    interval takes: width -> groups (None: more than 100,000, or not known)."""

    trainings: tuple[Training, ...]
    forecasts: tuple[Forecast, ...]
    interval_groups: Mapping[float, int | None]
    tested_groups: int

    @property
    def most(self) -> int:
        return max(one.groups for one in self.trainings)

    def at(self, groups: int) -> Forecast:
        return next(one for one in self.forecasts if one.groups == groups)

    def record(self) -> dict[str, Any]:
        return {
            "trainings": [asdict(one) for one in self.trainings],
            "forecasts": [asdict(one) for one in self.forecasts],
            "interval_groups": {f"{width:g}": groups for width, groups in self.interval_groups.items()},
        }

    def sentences(self) -> list[str]:
        """Returns what twice the labels are expected to give, and how many held-out groups an interval takes."""
        more = self.at(2 * self.most)
        lines = [
            f"{self.most} groups were trained on; with {self.most} more {more.text()} is expected, a gain of "
            f"{more.gain_text()} (above 0 by construction: the curve never falls)."
        ]
        known = [(width, groups) for width, groups in self.interval_groups.items() if groups is not None]
        if known:
            widths = ", ".join(f"{groups:,} for one of ±{width / 2:g}" for width, groups in known)
            lines.append(
                f"Held-out groups that an interval of the mean score takes: {widths}; there are {self.tested_groups}."
            )
        return lines


def through(trainings: Sequence[Training], scores: ImageScores) -> LearningCurve:
    """Returns the curve of trainings; scores: of the one on all groups, on the held-out images."""
    most = max(one.groups for one in trainings)
    at = sorted({one.groups for one in trainings} | {round(most * 2 ** (k / 2)) for k in range(1, 5)})
    return LearningCurve(
        tuple(trainings),
        tuple(forecast(trainings, at)),
        {width: groups_needed(scores, width) for width in WIDTHS},
        len({str(row["group"]) for row in scores.values()}),
    )


def groups_needed(scores: ImageScores, width: float) -> int | None:
    """Returns how many held-out groups like these give the mean score a 95 % interval of this width at most.

    From the deviation of the groups of `scores`; None of a single group, or where more than 100,000 would be needed.
    """
    values = np.array([float(row["score"]) for row in scores.values()])
    clusters = np.array([str(row["group"]) for row in scores.values()])
    _, low, high, count = clustered_mean(values, clusters)
    if count < 2:
        return None
    deviation = (high - low) / 2 / t_quantile(count - 1) * np.sqrt(count)
    groups = 2
    while 2 * t_quantile(groups - 1) * deviation / np.sqrt(groups) > width:
        groups += max(1, groups // 100)
        if groups > MAX_GROUPS:
            return None
    return groups
