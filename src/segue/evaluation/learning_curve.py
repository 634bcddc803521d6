"""A curve through the errors of trainings on n labels, and what is expected of more.

The curve is a + g (n / n₀)^−c, n₀ being the fewest labels: a power law that levels off (Cortes et al., "Learning
curves: asymptotic values and rate of convergence", NeurIPS 1993; Hestness et al., arXiv:1712.00409).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COVERAGE = 0.95  # of intervals
EXPONENTS = np.linspace(0.1, 2, 39)  # c
PARTS = np.linspace(0, 1, 41)  # a, as a part of the least error that was seen
FALLS = np.linspace(0, 1.5, 61)  # g, as a part of the largest
PRIOR_SD = 0.02  # of an error, as a part of their mean: one more training that deviates by so much
SAMPLES = 4000


@dataclass(frozen=True)
class Expected:
    """The error that a training on `labels` others is expected to have, with an interval, and how much less that is
    than with the labels one has, whose interval is of the curve alone."""

    labels: int
    error: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float


def forecast(
    labels: Sequence[float],
    errors: Sequence[float],
    at: Sequence[int],
    *,
    base: float | None = None,
    coverage: float = COVERAGE,
) -> list[Expected]:
    """Returns what is expected with each number of labels in `at`, from the errors (0 or more) of trainings.

    By Bayes' rule on a grid of a, g and c (flat, c from 0.1 to 2), with normal deviations of unknown variance, which
    is integrated out (Jeffreys' prior and one more training). The interval holds what is unknown of the curve and the
    deviation of one training. base: the number of labels over which gains are, by default the most. Raises ValueError
    for fewer than two sizes.
    """
    sizes, values = np.asarray(labels, dtype=float), np.asarray(errors, dtype=float)
    if len(np.unique(sizes)) < 2:
        raise ValueError("a curve needs trainings on two numbers of labels")
    fewest, most = sizes.min(), sizes.max()
    a = PARTS[:, None, None] * values.min()
    g = FALLS[None, :, None] * values.max()
    c = EXPONENTS[None, None, :]

    def curve(count: float) -> np.ndarray:
        return (a + g * (count / fewest) ** -c).ravel()

    squares = np.full(a.size * g.size * c.size, max(PRIOR_SD * values.mean(), np.finfo(float).tiny) ** 2)
    for size, value in zip(sizes, values, strict=True):
        squares += (value - curve(size)) ** 2
    freedom = len(values) + 1
    log_weights = -freedom / 2 * np.log(squares)
    weights = np.exp(log_weights - log_weights.max())
    generator = np.random.default_rng(0)
    chosen = generator.choice(len(weights), SAMPLES, p=weights / weights.sum())
    deviations = np.sqrt(squares[chosen] / freedom) * generator.standard_t(freedom, SAMPLES)
    tails = ((1 - coverage) / 2, (1 + coverage) / 2)
    before = curve(most if base is None else base)[chosen]
    results = []
    for count in at:
        expected = curve(count)[chosen]
        later = np.maximum(expected + deviations, 0)
        gains = before - expected
        low, high = np.quantile(later, tails)
        gain_low, gain_high = np.quantile(gains, tails)
        results.append(
            Expected(
                int(count), float(np.median(expected)), float(low), float(high),
                float(np.median(before) - np.median(expected)), float(gain_low), float(gain_high),
            )
        )  # fmt: skip
    return results
