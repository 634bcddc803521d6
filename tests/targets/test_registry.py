from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from samples.target_contract import perfect_prediction

from segue.errors import SegueError
from segue.spec import SpecModel
from segue.targets.registry import TARGETS, build_target
from segue.targets.specs import Spec, TargetSpec

EXTRA = {
    "image-class": {"column": "dose"},
    "combined": {"main": {"name": "flows"}, "auxiliary": [{"target": {"name": "classes"}}]},
}


class Holder(SpecModel):
    target: TargetSpec


def test_every_target_has_a_specification_of_its_name():
    """The table and the union of specifications hold the same targets."""
    assert {spec for spec, _ in TARGETS.values()} == set(get_args(Spec))


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_answers_what_callers_ask(name: str):
    """Each is built from its name, and says what it gives without being asked for its class."""
    spec = Holder.model_validate({"target": {"name": name, **EXTRA.get(name, {})}}).target
    assert isinstance(spec, TARGETS[name][0])
    target = build_target(spec, names=("background", "nucleus"), instances=True, context="test", channels=2)
    assert target.output in ("classes", "objects", "image", "image_class")
    assert target.channels >= 1 and target.target_channels >= 1 and target.min_loss >= 0
    assert target.decode_params.keys() == target.decode_search_space.keys()
    assert spec.with_class_weights(None) == spec
    if target.output in ("classes", "objects"):
        assert target.for_layer(instances=True) == target
    assert (target.for_layer(instances=False) is None) == (target.output in ("objects", "image"))


def test_objects_need_a_layer_of_objects():
    """A layer of classes is refused for targets of objects, with what to do."""
    spec = Holder.model_validate({"target": {"name": "flows"}}).target
    with pytest.raises(SegueError, match="is of objects, but the layer holds classes"):
        build_target(spec, names=("background", "nucleus"), instances=False, context="x.h5")


def test_specifications_need_no_torch():
    """Planning reads specifications without importing torch, numba or pandas."""
    code = "import sys, segue.targets.specs, segue.labels; print({'torch', 'numba', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "objects"),
    [  # objects of a ring, a ring around an object, an object that encloses another, one in two parts; 0: not as asked
        ("foreground", (1, 2, 0, 0)),
        ("boundary", (1, 2, 2, 0)),
        ("distance", (1, 2, 2, 0)),
        pytest.param("descriptors", (1, 2, 2, 0), marks=pytest.mark.slow),
        ("rays", (0, 0, 0, 0)),
        ("flows", (0, 0, 0, 0)),
    ],
)
def test_which_shapes_a_target_can_hold(name: str, objects: tuple[int, ...]):
    """The table of docs/targets.md: rings and nested objects come back from those targets and from no others."""
    target = build_target(
        Holder.model_validate({"target": {"name": name}}).target,
        names=("background", "nucleus"),
        instances=True,
        context="test",
    )
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 31.5, x - 31.5)
    shapes = (
        np.where((radius < 24) & (radius > 12), 1, 0),
        np.where((radius < 26) & (radius > 16), 1, np.where(radius < 9, 2, 0)),
        np.where(radius < 10, 2, np.where(radius < 24, 1, 0)),
        np.where((radius < 24) & (abs(x - 31.5) > 4), 1, 0),
    )
    for labels, expected in zip(shapes, objects, strict=True):
        encoded = target.encode(torch.from_numpy(labels.astype(np.int64))[None])[0].numpy()
        decoded = target.decode(perfect_prediction(target, encoded), target.decode_params)
        overlaps = [
            max((iou(labels == label, decoded == other) for other in range(1, decoded.max() + 1)), default=0.0)
            for label in range(1, labels.max() + 1)
        ]
        is_held = decoded.max() == labels.max() and min(overlaps) > 0.8
        assert is_held == (expected == labels.max()), (overlaps, decoded.max())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())
