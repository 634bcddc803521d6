"""Learning curves: what they forecast of known curves, how wide, and how many groups an interval needs."""

from __future__ import annotations

import numpy as np
import pytest

from segue.fitting import rules
from segue.fitting.learning_curve import Training, forecast, groups_needed, stages, subset_sizes, training_count
from segue.fitting.verdict import mean_score


def trainings(generator: np.random.Generator, sizes: list[int], deviation: float) -> tuple[list[Training], float]:
    """Returns three trainings of each size on a drawn curve, and the score of one with twice the largest size."""
    least, fall, exponent = generator.uniform(0.1, 0.4), generator.uniform(0.1, 0.5), generator.uniform(0.3, 1.2)

    def score(size: int) -> float:
        expected = 1 - least - fall * (size / sizes[0]) ** -exponent
        return expected + generator.normal() * deviation

    return [Training(size, score(size)) for size in sizes for _ in range(3)], score(2 * sizes[-1])


@pytest.mark.parametrize("sizes", [[2, 4, 8], [8, 16, 32, 64]])
def test_intervals_cover_the_next_size(sizes: list[int]) -> None:
    """95 % intervals hold 90 to 98 % of later trainings, over curves and deviations."""
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(150):
        known, later = trainings(generator, sizes, generator.uniform(0.005, 0.05))
        (expected,) = forecast(known, [2 * sizes[-1]])
        inside.append(expected.low <= later <= expected.high)
    assert 0.9 <= np.mean(inside) <= 0.98


def test_exact_curves() -> None:
    """Without deviations the forecast is the curve, also where labels give nothing, or everything."""
    for least, fall in ((0.2, 0.4), (0.5, 0.0), (0.0, 0.8)):
        known = [Training(n, 1 - least - fall * (n / 2) ** -0.5) for n in (2, 4, 8, 16) for _ in range(3)]
        (later,) = forecast(known, [32])
        assert later.score == pytest.approx(1 - least - fall / 4, abs=0.03)
        assert later.low <= later.score <= later.high
        assert later.gain == pytest.approx(fall * (8**-0.5 - 1 / 4), abs=0.03)
    with pytest.raises(ValueError, match="two numbers of labels"):
        forecast([Training(4, 0.5)], [8])


def test_groups_of_an_interval() -> None:
    """The number is the least whose interval is narrow enough, if groups are like those seen."""
    generator = np.random.default_rng(1)
    scores = {str(i): {"score": generator.normal(0.5, 0.2), "group": str(i)} for i in range(200)}
    estimate = mean_score(scores)
    assert groups_needed(scores, estimate.high - estimate.low) == pytest.approx(200, abs=2)
    assert groups_needed(scores, 0.2) == pytest.approx(4 * 1.96**2 * 0.2**2 / 0.2**2, rel=0.35)
    same = {name: {**row, "group": "a"} for name, row in scores.items()}
    assert groups_needed(same, 0.2) is None
    equal = {name: {**row, "score": 0.5} for name, row in scores.items()}
    assert groups_needed(equal, 0.2) == 2


def test_sizes_and_stages() -> None:
    """Halves of the groups, with about as many steps whatever the size."""
    assert subset_sizes(17, folds=False) == [2, 4, 8] and subset_sizes(5, folds=True) == [1, 2]
    assert subset_sizes(1, folds=True) == [] and training_count(1, 3) == 0
    assert training_count(17, 1) == 9 and training_count(5, 3) == 12
    length = rules.length(400, tiles=160, batch=8)
    table = stages({"augment": {}, "batch": 8}, [2, 8], groups=16, tiles=160, length=length, batch=8)
    assert [stage["groups"] for stage in table.values()] == [2, 8]
    for stage, tiles in zip(table.values(), (20, 80), strict=True):
        views = 8 if stage["augment"]["dihedral"] == "all" else 1
        assert stage["epochs"] * -(-views * tiles // 8) == pytest.approx(400, rel=0.1)
