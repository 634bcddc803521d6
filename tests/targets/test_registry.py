from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

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
