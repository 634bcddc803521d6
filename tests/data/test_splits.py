"""Splits depend on the seed and the group's name alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segue.data.spec import SplitSpec
from segue.data.splits import GivenSplit, group_codes, part_of
from segue.errors import SegueError, SpecError
from segue.spec import validate


def test_a_group_stays_in_its_part() -> None:
    """The part of a group is the same beside any other groups, and moves with the seed only."""
    split = SplitSpec(seed=1)
    groups = [f"well {index}" for index in range(300)]
    parts = [part_of(group, split) for group in groups]
    assert [part_of(group, split) for group in reversed(groups)] == parts[::-1]
    assert [part_of(group, SplitSpec(seed=2)) for group in groups] != parts
    assert group_codes(["well 3", "well 3", "well 7"], split)[0] == group_codes(["well 3"], split)[0]


def test_fractions_are_met() -> None:
    """Of many groups, the fractions fall to test and validation, within four standard deviations."""
    codes = group_codes([str(index) for index in range(10_000)], SplitSpec(validation=0.2, test=0.1))
    assert codes.count(2) == pytest.approx(1000, abs=120)
    assert codes.count(1) == pytest.approx(2000, abs=160)
    assert set(group_codes("abc", SplitSpec(validation=0, test=0))) == {0}


def test_known_values() -> None:
    """The parts of a few groups are as they always were: splits outlive versions."""
    parts = [part_of(group, SplitSpec(seed=0, validation=0.3, test=0.3)) for group in "abcdefgh"]
    assert parts == ["train", "train", "validation", "test", "validation", "test", "test", "train"]


def test_given_splits() -> None:
    """A given split is followed; a group that it does not name is refused."""
    split = GivenSplit({"a": "test", "b": "train"})
    assert group_codes(["b", "a"], split) == [0, 2]
    with pytest.raises(SegueError, match="group 'c': the given split does not name it"):
        part_of("c", split)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"validation": 0.6, "test": 0.4}, "leave nothing to train"),
        ({"validation": 1}, "validation: found 1"),
        ({"stored": "x", "seed": 1}, "remove seed, validation, test"),
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'"),
    ],
)
def test_mistakes_are_worded(table: dict, message: str) -> None:
    """Fractions that leave nothing, contradictions and misspelt keys are refused with the remedy."""
    with pytest.raises(SpecError, match=message):
        validate(SplitSpec, table, context="study.toml")


def test_planning_modules_are_light() -> None:
    """The modules that planning imports load neither torch nor pandas."""
    heavy = ("torch", "pandas")
    code = f"import sys, segue.data.prepare; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
