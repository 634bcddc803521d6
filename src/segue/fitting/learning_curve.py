"""How many labels: trainings on nested subsets of the labeled groups, a curve through their scores, what more labels
are expected to give, and how many groups an interval of a given width needs.

The curve is 1 − score = a + g (n / n₀)^−c of n groups, n₀ being the fewest: a power law that levels off (Cortes et al.,
"Learning curves: asymptotic values and rate of convergence", NeurIPS 1993; Hestness et al., arXiv:1712.00409).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segue.fitting import rules
from segue.fitting.rules import Length
from segue.fitting.verdict import ImageScores, clustered_mean
from segue.reporting.analysis.bootstrap import COVERAGE, t_quantile

DRAWS, FOLD_DRAWS = 3, 2  # other subsets of each size, of one split and in each fold
SIZES, FOLD_SIZES = 3, 2  # halves, quarters and eighths of the groups
EXPONENTS = np.linspace(0.1, 2, 39)  # c
PARTS = np.linspace(0, 1, 41)  # a, as a part of the least error that was seen
FALLS = np.linspace(0, 1.5, 61)  # g, as a part of the largest
PRIOR_SD = 0.01  # of scores of trainings on other subsets, counted as one more training
SAMPLES = 4000
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


def forecast(trainings: Sequence[Training], at: Sequence[int], *, coverage: float = COVERAGE) -> list[Forecast]:
    """Returns the scores (0 to 1) that are expected with each number of groups in `at`.

    By Bayes' rule on a grid of a, g and c (flat, c from 0.1 to 2), with normal deviations whose variance falls with the
    number of groups and is integrated out (Jeffreys' prior and one more training of deviation 0.01). The interval holds
    what is unknown of the curve and the deviation of one training. Raises ValueError for fewer than two sizes.
    """
    sizes = np.array([one.groups for one in trainings], dtype=float)
    errors = 1 - np.array([one.score for one in trainings])
    if len(np.unique(sizes)) < 2:
        raise ValueError("a curve needs trainings on two numbers of groups")
    fewest, most = sizes.min(), sizes.max()
    a = PARTS[:, None, None] * errors.min()
    g = FALLS[None, :, None] * errors.max()
    c = EXPONENTS[None, None, :]

    def curve(groups: float) -> np.ndarray:
        return (a + g * (groups / fewest) ** -c).ravel()

    squares = np.zeros(a.size * g.size * c.size)
    for size, error in zip(sizes, errors, strict=True):
        squares += np.sqrt(size / fewest) * (error - curve(size)) ** 2
    freedom = len(errors) + 1
    log_weights = -freedom / 2 * np.log(squares + PRIOR_SD**2)
    weights = np.exp(log_weights - log_weights.max())
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(weights), SAMPLES, p=weights / weights.sum())
    deviations = np.sqrt((squares[chosen] + PRIOR_SD**2) / freedom) * generator.standard_t(freedom, SAMPLES)
    tails = ((1 - coverage) / 2, (1 + coverage) / 2)
    results = []
    for groups in at:
        expected = curve(groups)[chosen]
        predicted = np.clip(1 - expected - deviations / (groups / fewest) ** 0.25, 0, 1)
        gains = curve(most)[chosen] - expected
        low, high = np.quantile(predicted, tails)
        results.append(
            Forecast(
                int(groups), float(np.median(1 - expected)), float(low), float(high),
                float(np.median(gains)), *map(float, np.quantile(gains, tails)),
            )
        )  # fmt: skip
    return results


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
            f"{more.gain_text()}."
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
