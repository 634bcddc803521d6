"""What a study expects is compared with what its runs say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import ValidationError

from segue.errors import SegueError
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.expectations import expectations
from segue.reporting.analysis.significance import level_tests
from segue.study.spec import Expectation
from segue.study.table import StudyResults


def expect(**fields: object) -> Expectation:
    return Expectation.model_validate({"statement": "so", "stage": "transfer", **fields})


ENCODER = expect(factor="transfer.freeze", worse=["encoder"], than=["none"])
FEWER = expect(factor="transfer.images", worse=[16], than=[64])
FOCUS = expect(factor="transfer.domain", worse=["0nm"], than=["-10nm", "+10nm"])


def found(results: StudyResults, *expected: Expectation, metric: str | None = None) -> list[list[str]]:
    analyses = expectations(compare(replace(results, expected=list(expected)), metric))
    return [analysis.table["found"].tolist() for analysis in analyses]


def test_what_the_made_study_has_is_as_expected(results: StudyResults) -> None:
    """In it 0 nm is hardest, fewer labels and a frozen encoder are worse, whatever the direction of the metric."""
    expected = ["as expected"] * 4
    assert found(results, ENCODER, FEWER, FOCUS) == [expected]
    assert found(results, ENCODER, FEWER, FOCUS, metric="dice_mean") == [expected]


def test_the_opposite_is_called_so(results: StudyResults) -> None:
    opposite = expect(factor="transfer.freeze", worse=["none"], than=["encoder"])
    assert found(results, opposite, expect(factor="transfer.images", worse=[64], than=[16.0])) == [["opposite"] * 2]


def test_the_difference_is_that_of_the_tests(results: StudyResults) -> None:
    comparison = compare(replace(results, expected=[ENCODER]))
    (analysis,) = expectations(comparison)
    tests = level_tests(comparison, "transfer")
    assert tests is not None
    row = tests.table.set_index(["factor", "level"]).loc[("transfer: frozen part", "encoder")]
    for column in ("difference", "difference_low", "difference_high", "pairs"):
        assert analysis.table[column][0] == row[column]


def test_levels_that_are_equal_are_undecided(results: StudyResults) -> None:
    """The loss of a transfer to the same domain does not depend on the source in the made study, but for noise."""
    sources = expect(factor="pretrain.domain", worse=["-10nm"], than=["+10nm"])
    assert found(results, sources) == [["undecided"]]


def test_one_seed_decides_nothing(make: Callable[..., StudyResults]) -> None:
    assert found(make(seeds=1), ENCODER) == [["undecided"]]


def test_shares_of_variance(results: StudyResults) -> None:
    less = expect(factor="transfer.freeze", explains_less_than="transfer.domain")
    more = expect(factor="transfer.domain", explains_less_than="transfer.freeze")
    assert found(results, less, more) == [["as expected", "opposite"]]


def test_levels_and_stages_without_runs(results: StudyResults) -> None:
    assert found(results, expect(factor="transfer.freeze", worse=["bottleneck"], than=["none"])) == [["no runs"]]
    later = replace(results, parents={**results.parents, "again": "transfer"})
    assert found(later, expect(stage="again", factor="again.freeze", worse=["encoder"], than=["none"])) == [["no runs"]]


def test_unknown_factors_and_stages_are_refused(results: StudyResults) -> None:
    with pytest.raises(SegueError, match=r'expected, "so": .*transfer\.frieze'):
        found(results, expect(factor="transfer.frieze", worse=["encoder"], than=["none"]))
    with pytest.raises(SegueError, match=r'expected, "so": .*transfre'):
        found(results, expect(stage="transfre", factor="transfer.freeze", worse=["encoder"], than=["none"]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"worse": ["encoder"]},
        {"than": ["none"]},
        {"worse": ["encoder"], "than": ["none"], "explains_less_than": "transfer.domain"},
    ],
)
def test_an_expectation_is_of_one_kind(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="give levels as worse and than, or the other factor"):
        expect(factor="transfer.freeze", **fields)
