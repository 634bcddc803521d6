from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segue import rng
from segue.evaluation import pixel_metrics


def test_scores_equal_definitions():
    """Per class, the background too, IoU, Dice, F1, precision, recall and accuracy equal their set definitions."""
    generator = rng.numpy_generator("pixels")
    labels, predicted = generator.integers(-1, 3, (4, 16, 16)), generator.integers(0, 3, (4, 16, 16))
    counts = pixel_metrics.confusion(torch.from_numpy(predicted), torch.from_numpy(labels), 3)
    found = pixel_metrics.scores(counts, ("background", "a", "b"))
    known = labels >= 0
    assert counts.sum().item() == known.sum()
    assert found["accuracy"] == pytest.approx(np.mean((labels == predicted)[known]))
    for value, name in enumerate(("background", "a", "b")):
        truth, guess = (labels == value)[known], (predicted == value)[known]
        both = (truth & guess).sum()
        assert found[f"iou_{name}"] == pytest.approx(both / (truth | guess).sum())
        assert found[f"dice_{name}"] == pytest.approx(2 * both / (truth.sum() + guess.sum()))
        precision, recall = found[f"precision_{name}"], found[f"recall_{name}"]
        assert found[f"f1_{name}"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert found[f"accuracy_{name}"] == pytest.approx(np.mean(truth == guess))
        assert found[f"precision_{name}"] == pytest.approx(both / guess.sum())
        assert found[f"recall_{name}"] == pytest.approx(both / truth.sum())
    assert found["dice_mean"] == pytest.approx((found["dice_a"] + found["dice_b"]) / 2)


def test_confusion_adds_up_over_batches():
    """Counting in pieces equals counting at once, so a dataset of any size can be scored."""
    generator = rng.torch_generator("batches")
    labels = torch.randint(-1, 2, (6, 8, 8), generator=generator)
    predicted = torch.randint(0, 2, (6, 8, 8), generator=generator)
    pieces = sum(pixel_metrics.confusion(predicted[i : i + 2], labels[i : i + 2], 2) for i in (0, 2, 4))
    assert torch.equal(torch.as_tensor(pieces), pixel_metrics.confusion(predicted, labels, 2))


def test_absent_class_is_undefined():
    """A class in neither labels nor predictions has no score and does not spoil the mean."""
    counts = torch.tensor([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    found = pixel_metrics.scores(counts, ("background", "a", "b"))
    assert math.isnan(found["iou_b"])
    assert found["iou_mean"] == 1.0
