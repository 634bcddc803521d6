"""Confidence of objects: features by brute force, calibration on made data, and what gives none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segue.data.tiling import Region
from segue.inference import confidence
from segue.inference.confidence import Calibration, best_iou, calibration_error, fit, reliability
from segue.targets.foreground import Foreground

NAMES = ("background", "cell")


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of objects, and an IoU that grows with the first of them, with noise."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, len(confidence.FEATURES))) * [1, 0.2, 0.2, 0.5]
    expected = 1 / (1 + np.exp(-1.5 * features[:, 0] - 0.5))
    return features, (expected + generator.normal(0, 0.1, count)).clip(0, 1)


def test_features_equal_brute_force():
    """Means inside, at the edge and in the background beside each object, and its area, as counted pixel by pixel."""
    generator = np.random.default_rng(1)
    labels = np.kron(generator.integers(0, 4, (4, 5)), np.ones((3, 3), np.int32))
    scores = generator.normal(size=(1, *labels.shape)).astype(np.float32)
    probability = torch.from_numpy(scores[0]).sigmoid().numpy().astype(float)
    actual = confidence.object_features(Foreground(NAMES), labels, scores)
    for k in range(1, int(labels.max()) + 1):
        inside = labels == k
        edge, beside = [], []
        for y, x in np.argwhere(inside):
            near = [(y + dy, x + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
            near = [(r, c) for r, c in near if 0 <= r < labels.shape[0] and 0 <= c < labels.shape[1]]
            edge += [probability[y, x]] if any(labels[p] != k for p in near) else []
            beside += [probability[p] for p in near if labels[p] == 0]
        mean = probability[inside].mean()
        outside = np.mean(beside) if beside else 0.0
        expected = [np.log(mean / (1 - mean)), np.mean(edge), np.mean(edge) - outside, np.log(inside.sum())]
        assert actual[k - 1] == pytest.approx(expected, rel=1e-4)


def test_sums_of_regions_are_those_of_the_whole_image():
    """A large image may be measured in parts."""
    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((7, 5), np.int32))
    probability = np.random.default_rng(2).random(labels.shape).astype(np.float32)
    whole, parts = confidence.empty_sums(11), confidence.empty_sums(11)
    confidence.add_region(labels, probability, whole, Region(0, 0, *labels.shape))
    for region in (Region(0, 0, 10, 20), Region(10, 0, 21, 6), Region(10, 6, 21, 20)):
        confidence.add_region(labels, probability, parts, region)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_calibration_is_right_on_other_objects():
    """On objects that it was not fitted to, the expected IoU is the mean IoU, in each bin; it is within 0 and 1."""
    calibration = fit(*made(400))
    assert calibration is not None and calibration.objects == 400
    features, iou = made(5000, seed=9)
    expected = calibration.confidence(features)
    assert expected.min() >= 0 and expected.max() <= 1
    assert expected.mean() == pytest.approx(iou.mean(), abs=0.02)
    assert calibration_error(reliability(expected, iou)) < 0.04
    assert np.corrcoef(expected, iou)[0, 1] > 0.8
    better = features + np.array([1.0, 0, 0, 0])
    assert (calibration.confidence(better) > expected).all()


@pytest.mark.parametrize("iou", [0.0, 1.0])
def test_calibration_of_equal_objects_is_finite(iou: float):
    """All right, all wrong, and features that do not vary, give finite numbers near the truth."""
    calibration = fit(np.ones((40, len(confidence.FEATURES))), np.full(40, iou))
    assert calibration is not None
    assert calibration.confidence(np.ones((1, len(confidence.FEATURES)))) == pytest.approx(iou, abs=0.05)


def test_few_objects_make_no_calibration():
    assert fit(*made(confidence.MIN_OBJECTS - 1)) is None
    assert fit(*made(confidence.MIN_OBJECTS)) is not None


def test_record_survives_json_and_refuses_others():
    calibration = fit(*made(50))
    assert calibration is not None
    record = json.loads(json.dumps(calibration.record))
    restored = confidence.from_record(record)
    assert isinstance(restored, Calibration)
    features, _ = made(20, seed=3)
    assert (restored.confidence(features) == calibration.confidence(features)).all()
    assert confidence.from_record(None) is None
    assert confidence.from_record({"objects": 3, "reason": "too few"}) is None
    for change in ({"features": ["area"]}, {"bias": float("nan")}, {"scale": [0.0] * 4}, {"weights": [1.0]}):
        with pytest.raises(ValueError, match=r"calibration|inhomogeneous"):
            confidence.from_record(record | change)


def test_best_iou_of_judged_objects():
    """The largest IoU with any true object; objects on ignored pixels are not judged, false ones have 0."""
    true = np.array([[1, 1, 0, 0, -1, -1], [1, 1, 0, 0, -1, -1]])
    predicted = np.array([[1, 1, 1, 2, 3, 3], [1, 1, 1, 2, 3, 3]])
    ids, iou = best_iou(true, predicted)
    assert ids.tolist() == [1, 2]
    assert iou.tolist() == [4 / 6, 0.0]


def test_calibration_error_by_hand():
    """Two objects of .25 that have IoU .5 and one of .95 that has .95: an error of 2/3 of .25."""
    bins = reliability(np.array([0.25, 0.25, 0.95, 1.0]), np.array([0.5, 0.5, 0.95, 1.0]))
    assert bins[:, 0].tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert calibration_error(bins) == pytest.approx(0.125)
    assert np.isnan(calibration_error(np.zeros((10, 3))))
