from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from samples import target_contract as contract
from samples.hostile_labels import average_precision, hostile_labels, large_objects, shipped_labels
from scipy import ndimage
from torch.nn import functional as F

from segue.errors import SpecError
from segue.spec import validate
from segue.targets import distance
from segue.targets.registry import build_target
from segue.targets.specs import DistanceSpec
from segue.targets.target import transform_channels

NAMES = ("background", "nucleus")
SETTINGS = [{"normalized": a, "foreground": b} for a, b in itertools.product((False, True), repeat=2)]


def target(**settings: object) -> distance.Distance:
    spec = DistanceSpec.model_validate({"name": "distance", **settings})
    return build_target(spec, names=NAMES, instances=True, context="test")


def every_object(asked: distance.Distance) -> dict[str, float]:
    return {**asked.decode_params, "min_size_px": 0.0, "least": 0.0}


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_contract(settings: dict):
    """Parameters, equivariance of encoding and loss, parts of the loss, a perfect network, and garbage."""
    asked = target(**settings)
    contract.check_parameters(asked)
    contract.check_encoding_transforms(asked, atol=1e-6)
    contract.check_loss_transforms(asked, transform_channels)
    contract.check_loss_parts(asked)
    contract.check_perfect_scores(asked, near=1e-4)
    contract.check_decode_is_a_function_of_shapes(asked, asked.decode_params)
    contract.check_garbage(asked, asked.decode_params)


@pytest.mark.parametrize("settings", SETTINGS)
def test_hostile_labels(settings: dict):
    """No object disappears, and those that are thick enough come back, but for corners that touch others."""
    asked = target(**settings)
    thick = {"touching", "gaps", "empty", "one_object", "ignored_everywhere"}
    contract.check_hostile_labels(asked, exact=thick, parameters=every_object(asked), iou=0.9)


@pytest.mark.parametrize("normalized", [False, True])
def test_distances_equal_scipy(normalized: bool):
    """Object by object, the distance to what is outside it, the object going on beyond the border; by its maximum."""
    for name in ("touching", "tiny", "hollow", "border_cut", "single_pixels", "lines", "pieces", "blobs"):
        labels = hostile_labels()[name]
        actual = target(normalized=normalized).encode(torch.from_numpy(labels)[None])[0].numpy()
        expected = np.zeros(labels.shape)
        for label in np.unique(labels[labels > 0]):
            far = np.asarray(ndimage.distance_transform_edt(np.pad(labels == label, 40, mode="edge")))[40:-40, 40:-40]
            far = np.where(labels == label, far, 0)
            expected += far / far.max() if normalized else far
        np.testing.assert_allclose(actual[0], expected, atol=1e-5)
        assert np.array_equal(actual[1], labels > 0)


def test_distances_that_ignored_pixels_hide_are_unknown():
    """A distance is known where the outside is nearer than ignored pixels, and equals that without them."""
    labels = np.zeros((30, 30), dtype=np.int64)
    labels[5:25, 5:25] = 1
    hidden = labels.copy()
    hidden[:, 15:] = -1
    asked = target(normalized=False)
    whole, actual = (asked.encode(torch.from_numpy(one)[None])[0].numpy() for one in (labels, hidden))
    x = np.arange(30)
    known = np.broadcast_to((x < 15) & (whole[0] < 15 - x), labels.shape)
    assert np.array_equal(actual[0][known], whole[0][known]) and known[:, :15].mean() > 0.7
    assert (actual[0][~known] == -1).all() and np.array_equal(actual[1], hidden.clip(max=1))
    nowhere = asked.encode(torch.ones(1, 8, 8, dtype=torch.long))
    assert (nowhere[:, 0] == -1).all() and (nowhere[:, 1] == 1).all()


def test_loss_is_squared_error_and_cross_entropy():
    """Mean squared error over known distances plus the weighted mean binary cross entropy over labelled pixels."""
    labels = contract.hostile_batch()
    asked = target(foreground_weight=0.3)
    scores, encoded = contract.random_scores(asked, labels), asked.encode(labels)
    known, labeled = encoded[:, 0] >= 0, labels >= 0
    expected = F.mse_loss(scores[:, 0][known], encoded[:, 0][known])
    entropy = F.binary_cross_entropy_with_logits(scores[:, 1][labeled], (labels[labeled] > 0).float())
    torch.testing.assert_close(contract.loss_of(asked, scores, encoded), expected + 0.3 * entropy)
    alone = target(foreground=False)
    torch.testing.assert_close(contract.loss_of(alone, scores[:, :1], encoded), expected)


@pytest.mark.parametrize("settings", [{}, pytest.param({"normalized": True}, marks=pytest.mark.slow)])
def test_shipped_labels_come_back(settings: dict):
    """AP at IoU 0.9 of perfect scores, objects above 30 px of half of both sets: .990 in pixels, .987 normalized."""
    asked = target(**{"normalized": False} | settings)
    pairs = []
    for labels in shipped_labels("dsb2018", count=55) + shipped_labels("bbbc039", count=15):
        encoded = asked.encode(torch.from_numpy(labels.astype(np.int64))[None])
        actual = asked.decode(contract.perfect_prediction(asked, encoded[0].numpy()), asked.decode_params)
        pairs.append((large_objects(labels, above_px=30), large_objects(actual, above_px=30)))
    assert average_precision(pairs, iou=0.9) >= (0.987 if asked.normalized else 0.99)


def test_decode_parameters():
    """Two hills of 8 and 5 px with a saddle of 3 px are one object or two as depth and join say; low ones go."""
    x = np.arange(40)
    line = np.interp(x, [0, 8, 13, 15, 24, 30, 32, 40], [0, 8, 3, 5, 0, 0, 2, 0])
    scores = np.stack([np.tile(line, (5, 1)), np.where(np.tile(line, (5, 1)) > 0, 5.0, -5.0)]).astype(np.float32)
    asked = target(normalized=False)

    def objects(**changed: float) -> int:
        return int(asked.decode(scores, {**every_object(asked), "join": 10.0, **changed}).max())

    assert objects(depth=0.3) == 3 and objects(depth=0.5) == 2  # (5 − 3) / 5 = 0.4
    assert objects(depth=0.3, join=2.9) == 2 and objects(depth=0.3, join=3.1) == 3
    assert objects(depth=0.3, least=3) == 2 and objects(depth=0.3, least=6) == 1
    assert objects(depth=0.3, foreground_threshold=0.999) == 0
    assert objects(depth=0.3, sigma_px=5) == 2
    assert objects(depth=0.3, min_size_px=46) == 2


def test_refusals():
    """A weight of nothing is refused."""
    with pytest.raises(SpecError, match="foreground_weight: found 0"):
        validate(DistanceSpec, {"name": "distance", "foreground_weight": 0}, context="x.toml")
