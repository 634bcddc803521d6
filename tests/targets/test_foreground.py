from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import target_contract as contract
from samples.hostile_labels import average_precision, large_objects, shipped_labels
from skimage import measure
from torch.nn import functional as F

from segue.errors import SegueError, SpecError
from segue.spec import validate
from segue.targets import foreground
from segue.targets.registry import build_target
from segue.targets.specs import ForegroundSpec
from segue.targets.target import transform_channels

NAMES = ("background", "nucleus")
EVERYTHING = {"threshold": 0.5, "min_size_px": 0.0, "fill_holes_px": 0.0}


def target() -> foreground.Foreground:
    return build_target(ForegroundSpec(name="foreground"), names=NAMES, instances=True, context="test")


def test_it_is_a_target():
    """It has what the protocol asks for, with its parameters in their ranges."""
    asked = target()
    contract.check_parameters(asked)
    assert asked.names == NAMES


def test_encoding_and_loss_turn():
    """Encoding and loss are equivariant under the eight codes."""
    contract.check_encoding_transforms(target(), atol=0)
    contract.check_loss_transforms(target(), transform_channels)


def test_loss_is_binary_cross_entropy():
    """The mean over labelled pixels of torch's binary cross entropy, a sum of parts, 0 for a perfect network."""
    labels = contract.hostile_batch()
    scores, encoded = contract.random_scores(target(), labels), target().encode(labels)
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(scores[:, 0][known], (labels[known] > 0).float())
    torch.testing.assert_close(contract.loss_of(target(), scores, encoded), expected)
    contract.check_loss_parts(target())
    contract.check_perfect_scores(target(), near=1e-4)


def test_hostile_labels():
    """No object disappears; those that touch nothing come back whole."""
    alone = {"empty", "one_object", "ignored_everywhere"}
    contract.check_hostile_labels(target(), exact=alone, parameters=EVERYTHING)
    contract.check_decode_is_a_function_of_shapes(target(), target().decode_params)
    contract.check_garbage(target(), target().decode_params)


def test_shipped_labels_merge_as_their_connected_parts():
    """A perfect network gives scikit-image's connected parts; AP at IoU 0.9 is .71 (DSB2018) and .69 (BBBC039)."""
    for name, expected in (("dsb2018", 0.706), ("bbbc039", 0.693)):
        pairs = []
        for labels in shipped_labels(name):
            encoded = target().encode(torch.from_numpy(labels.astype(np.int64))[None])
            actual = contract.decoded(target(), contract.perfect_prediction(target(), encoded[0].numpy()), EVERYTHING)
            assert np.array_equal(actual, np.asarray(measure.label(labels > 0, connectivity=1)))
            pairs.append((large_objects(labels, above_px=30), large_objects(actual, above_px=30)))
        assert average_precision(pairs, iou=0.9) == pytest.approx(expected, abs=0.001)


def test_decode_parameters():
    """Thresholds are of the probability; small objects go; small holes are filled, larger and open ones are not."""
    scores = np.full((1, 20, 20), -3, dtype=np.float32)
    scores[0, 2:12, 2:12] = 1  # a probability of .73
    scores[0, 4:6, 4:6] = scores[0, 8, 8] = -1  # holes of 4 px and 1 px
    scores[0, 15:17, 15:18] = 2

    def sizes(**changed: float) -> list[int]:
        return np.bincount(target().decode(scores, {**EVERYTHING, **changed}).ravel())[1:].tolist()

    assert sizes() == [95, 6]
    assert sizes(threshold=0.74) == [6]
    assert sizes(threshold=0.2) == [100, 6]
    assert sizes(min_size_px=6) == [95, 6] and sizes(min_size_px=7) == [95]
    assert sizes(fill_holes_px=1) == [96, 6] and sizes(fill_holes_px=4) == [100, 6]
    scores[0, 2:6, 4] = -1  # opens the greater hole
    assert sizes(fill_holes_px=20) == [93 + 1, 6]


def test_refusals():
    """A layer of three classes and an unknown key are refused with what to do."""
    with pytest.raises(SegueError, match=r"x.h5: target 'foreground' is of objects of one kind.*background, a, b"):
        build_target(ForegroundSpec(name="foreground"), names=("background", "a", "b"), instances=True, context="x.h5")
    with pytest.raises(SpecError, match="unknown key 'treshold'"):
        validate(ForegroundSpec, {"name": "foreground", "treshold": 1}, context="x.toml")
