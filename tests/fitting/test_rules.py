"""The rules: values for situations at and beside their limits; the number of steps from seconds by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segue.data.spec import PrepareSpec
from segue.fitting import rules
from segue.fitting.look import Labels, Look
from segue.fitting.rules import Situation
from segue.spec import validate
from segue.training.spec import StageSpec


def situation(
    *, kind="instances", side: int = 512, images: int = 8, diameter: float = 20.0, training_s: float = 60.0, gpu=False
) -> Situation:
    look = Look(
        pairs=(), unlabeled=(), labels=Labels(kind, ("background", "object"), {}, False, ""),
        shapes=np.full((images, 2), side), channels=1, dtype="uint8", color="rgb", pixel_sizes_nm=(),
        counts=np.ones(images), diameters=np.full(20, diameter), shares={0: 0.9, 1: 0.1}, notes=(),
    )  # fmt: skip
    return Situation(look, training_s, gpu)


@pytest.mark.parametrize(
    ("changes", "px"),
    [
        ({}, 128),
        ({"diameter": 32.0}, 128),
        ({"diameter": 33.0}, 256),
        ({"diameter": 200.0}, 256),
        ({"diameter": 120.0, "gpu": True}, 512),
        ({"side": 100}, 64),
        ({"side": 40}, 64),
        ({"kind": "classes", "diameter": 200.0}, 128),
    ],
)
def test_tile(changes: dict, px: int):
    """Four diameters, within what the images and a processor allow."""
    assert rules.tile_px(situation(**changes))[0] == px


def test_few_tiles_overlap():
    """12 images of 512 px give 192 tiles of 128 px, 13 give 208."""
    assert rules.stride_px(situation(images=12))[0] == 64
    assert rules.stride_px(situation(images=13))[0] == 128


@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_choices_are_settings(kind: str):
    """What the rules choose is a stage and a dataset as these are specified, each with a reason."""
    here = situation(kind=kind)
    stage, data = rules.choose(rules.STAGE_RULES, here), rules.choose(rules.DATA_RULES, here)
    assert all(choice.reason for choice in (*stage, *data))
    validate(StageSpec, {"data": [{"dataset": "a.h5"}], **{c.setting: c.value for c in stage}}, context="stage")
    table = {"name": "a", "images": "*.png", **{c.setting: c.value for c in data}}
    validate(PrepareSpec, table, context="data")


def test_objects_are_normalized_by_their_background_and_averaged_over_views():
    """What was measured on nuclei, docs/decisions/0032; classes, of which nothing was measured, are not averaged."""
    settings = {c.setting: c.value for c in rules.choose(rules.STAGE_RULES, situation(kind="instances"))}
    assert settings["normalize"] == "background" and settings["tta"] and settings["optimizer"]["lr"] == 3e-3
    settings = {c.setting: c.value for c in rules.choose(rules.STAGE_RULES, situation(kind="classes"))}
    assert settings["normalize"] == "image" and not settings["tta"]


def test_network_by_time():
    assert rules.network(situation(training_s=19))[0] == {"name": "resunet", "width": 16}
    assert rules.network(situation(training_s=20))[0] == {"name": "unet", "width": 16}
    assert rules.network(situation(training_s=10, gpu=True))[0] == {"name": "unet", "width": 16}
    assert rules.network(situation(training_s=299, kind="classes"))[0] == {"name": "resunet", "width": 16}
    assert rules.network(situation(training_s=300, kind="classes"))[0] == {"name": "resunet", "width": 32}


@pytest.mark.parametrize(
    ("changes", "px", "tiles"),
    [
        ({"side": 100}, 64, 8),
        ({}, 128, 8),
        ({"diameter": 33.0}, 256, 2),
        ({"diameter": 33.0, "gpu": True}, 256, 8),
        ({"kind": "classes", "diameter": 33.0}, 128, 8),
    ],
)
def test_batch_by_tile(changes: dict, px: int, tiles: int):
    """On a processor a step of larger tiles has as many pixels as 8 of 128 px, and no fewer than two tiles."""
    here = situation(**changes)
    assert (rules.tile_px(here)[0], rules.batch(here)[0]) == (px, tiles)


def test_length():
    """100 tiles in batches of 8 are 13 steps an epoch; 40 tiles are 5, so that all eight views make 40."""
    assert rules.length(100, tiles=100, batch=8) == rules.Length(7, 91, False)
    assert rules.length(100, tiles=40, batch=8) == rules.Length(2, 80, True)
    assert rules.length(1, tiles=100, batch=8) == rules.Length(1, 13, False)
    assert rules.length(10**6, tiles=100, batch=8).epochs == rules.MAX_EPOCHS


def test_steps_in_seconds():
    """800 training tiles and 400 validation tiles at .35: an epoch's time grows by 17.5 %."""
    steps = rules.steps_in(117.5, step_s=0.5, training_tiles=800, validation_tiles=400, batch=8)
    assert steps == pytest.approx(200)
    assert rules.steps_in(1, step_s=0.5, training_tiles=800, validation_tiles=400, batch=8) == rules.MIN_STEPS
