"""Division of groups: no group in two parts, every group tested once, the same whatever the order of the files."""

from __future__ import annotations

from collections import Counter

import pytest

from segue.errors import SegueError
from segue.fitting.parts import FEW_GROUPS, FOLDS, divide, without_test


def names(count: int) -> list[str]:
    return [f"g{index}" for index in range(count)]


@pytest.mark.parametrize("count", range(3, FEW_GROUPS))
def test_few_groups_are_each_tested_once(count: int):
    """Over the folds every group is tested once, and each fold has groups to train on and to validate with."""
    folds = divide(names(count))
    assert len(folds) == FOLDS
    assert Counter(group for fold in folds for group, part in fold.items() if part == "test") == Counter(names(count))
    for fold in folds:
        assert set(fold) == set(names(count)) and set(fold.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize("count", [FEW_GROUPS, 20, 103])
def test_many_groups_are_divided_once(count: int):
    """A quarter is tested, and 15 % are validated with, rounded."""
    (parts,) = divide(names(count))
    shares = Counter(parts.values())
    assert shares["test"] == round(count / 4) and shares["validation"] == round(0.15 * count)
    assert sum(shares.values()) == count


def test_order_of_the_groups_does_not_matter():
    assert divide(names(20)) == divide(names(20)[::-1])
    assert divide(names(5)) == divide([*names(5), "g3"])


def test_two_groups_are_refused():
    """With two, a model that never saw the tested group could not be selected by a third."""
    with pytest.raises(SegueError, match=r"are of 2 groups .*at least 3 groups, or let --group"):
        divide(["a", "b"])


def test_the_last_training_tests_nothing():
    parts = Counter(without_test(names(8)).values())
    assert parts == {"train": 6, "validation": 2}


@pytest.mark.parametrize("count", [3, 5, 12, 20])
def test_groups_that_a_parent_used_are_only_trained_on(count: int) -> None:
    """The others are divided as if they were alone."""
    used = ["seen 1", "seen 2"]
    alone, together = divide(names(count)), divide([*names(count), *used], used)
    assert [{**parts, **dict.fromkeys(used, "train")} for parts in alone] == list(together)
    assert without_test([*names(count), *used], used) == {**without_test(names(count)), **dict.fromkeys(used, "train")}
    with pytest.raises(SegueError, match=f"of {count - 2} of these {count} groups, and fewer than 3"):
        divide(names(count), names(count)[2:])
