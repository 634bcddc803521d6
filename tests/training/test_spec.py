"""The specification of a stage: old names, and one identity for one training."""

from __future__ import annotations

from typing import Any

import pytest

from segue.spec import attempt
from segue.training.spec import StageSpec


def stage(**settings: Any) -> StageSpec:
    return StageSpec.model_validate({"data": [{"dataset": "a.h5"}], **settings})


def mistake(**settings: Any) -> str:
    (sentence,) = attempt(StageSpec, {"data": [{"dataset": "a.h5"}], **settings})[1]
    return sentence


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average": {"decay": 0.9}}, "`average` is called `ema` now; rename it"),
        ({"normalise": "tile"}, "`normalise` is called `normalize` now; rename it"),
        ({"shuffle": 16}, "`shuffle` is called `shuffle_window` now; rename it"),
        ({"sampling": {"name": "rare"}}, 'sampling.name: `name = "rare"` is written `name = "class_balanced"` now'),
        ({"augment": {"standardise": True}}, "augment: `standardise` is called `standardize` now; rename it"),
        ({"target": {"name": "distance", "normalised": True}}, "target: `normalised` is called `normalized` now"),
    ],
)
def test_old_names_of_settings(settings: dict[str, Any], message: str):
    """A file from before a renaming is refused with the new name of what it has."""
    assert message in mistake(**settings)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"dihedral": "all"}, "dihedral-all"),
        ({"dihedral": "all", "probability": 1.0, "brightness": 0.0}, "dihedral-all"),
        ({"dihedral": "random"}, "dihedral"),
        ({}, "dihedral"),
        ({"dihedral": "none"}, "none"),
    ],
)
def test_a_table_that_a_word_says_as_well(table: dict[str, Any], word: str):
    """It is the word in specification, settings of the key and shared pass; its neighbors are others."""
    one, other = stage(augment=table), stage(augment=word)
    assert one == other and one.augment == word
    assert one.key_settings(()) == other.key_settings(())
    assert one.key_settings(()).get("augment", "none") == word
    for more in ({"standardize": True}, {"brightness": 0.1}, {"scale": [1, 1]}):
        near = stage(augment={**table, **more})
        assert near != other and near.key_settings(()) != other.key_settings(())
    assert len({str(stage(augment=word).augment) for word in ("none", "dihedral", "dihedral-all")}) == 3


def test_two_names_of_descriptors():
    """Local shape descriptors are one target under both of their names, alone and within a combined target."""
    assert stage(target={"name": "lsd"}) == stage(target={"name": "descriptors"})
    assert stage(target={"name": "lsd", "sigma_px": 8}).key_settings(()) != stage(target={"name": "lsd"}).key_settings(
        ()
    )
    combined = {"name": "combined", "main": {"name": "flows"}, "auxiliary": [{"target": {"name": "lsd"}}]}
    same = {**combined, "auxiliary": [{"target": {"name": "descriptors"}}]}
    assert stage(target=combined).key_settings(()) == stage(target=same).key_settings(())
