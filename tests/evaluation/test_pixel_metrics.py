"""Scores of pixels from confusion matrices, and areas under curves."""

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
    actual = pixel_metrics.scores(counts, ("background", "a", "b"))
    known = labels >= 0
    assert counts.sum().item() == known.sum()
    assert actual["accuracy"] == pytest.approx(np.mean((labels == predicted)[known]))
    for value, name in enumerate(("background", "a", "b")):
        truth, guess = (labels == value)[known], (predicted == value)[known]
        both = (truth & guess).sum()
        assert actual[f"iou_{name}"] == pytest.approx(both / (truth | guess).sum())
        assert actual[f"dice_{name}"] == pytest.approx(2 * both / (truth.sum() + guess.sum()))
        precision, recall = actual[f"precision_{name}"], actual[f"recall_{name}"]
        assert actual[f"f1_{name}"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert actual[f"accuracy_{name}"] == pytest.approx(np.mean(truth == guess))
        assert actual[f"precision_{name}"] == pytest.approx(both / guess.sum())
        assert actual[f"recall_{name}"] == pytest.approx(both / truth.sum())
    assert actual["dice_mean"] == pytest.approx((actual["dice_a"] + actual["dice_b"]) / 2)


def test_confusion_adds_up_over_batches():
    """Counting in pieces equals counting at once, so a dataset of any size can be scored."""
    generator = rng.torch_generator("batches")
    labels = torch.randint(-1, 2, (6, 8, 8), generator=generator)
    predicted = torch.randint(0, 2, (6, 8, 8), generator=generator)
    pieces = sum(pixel_metrics.confusion(predicted[i : i + 2], labels[i : i + 2], 2) for i in (0, 2, 4))
    assert torch.equal(torch.as_tensor(pieces), pixel_metrics.confusion(predicted, labels, 2))


@pytest.mark.parametrize("mistaken", [0, 1, 5])
def test_a_class_without_labels_is_undefined(mistaken: int):
    """It does not spoil the means, however many pixels are predicted by mistake; these count in the other classes."""
    counts = torch.tensor([[5, 0, 0], [0, 5, mistaken], [0, 0, 0]])
    actual = pixel_metrics.scores(counts, ("background", "a", "b"))
    assert all(math.isnan(actual[f"{score}_b"]) for score in ("iou", "dice", "f1", "recall"))
    assert actual["iou_mean"] == actual["iou_a"] == pytest.approx(5 / (5 + mistaken))
    assert actual["precision_b"] == 0 if mistaken else math.isnan(actual["precision_b"])
    images = pixel_metrics.image_scores(counts, ("x", "a", "b"))
    assert math.isnan(images["f1_b"])
    assert images["f1_mean"] == pytest.approx((1 + 10 / (10 + mistaken)) / 2)


def made(classes: int = 3, *, levels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns probabilities (2, K, 24, 24) that tell something of the labels (2, 24, 24); `levels` rounds them."""
    generator = rng.torch_generator("curves", classes)
    labels = torch.randint(-1, classes, (2, 24, 24), generator=generator)
    scores = torch.randn(2, classes, 24, 24, generator=generator)
    scores += torch.nn.functional.one_hot(labels.clamp(min=0), classes).movedim(-1, 1)
    probabilities = scores.softmax(1)
    return probabilities if levels is None else (probabilities * levels).round() / levels, labels


def average_precision(truth: np.ndarray, values: np.ndarray) -> float:
    """Returns the sum of precision times the step in recall over all distinct thresholds, without bins."""
    actual, recall = 0.0, 0.0
    for threshold in np.unique(values)[::-1]:
        chosen = values >= threshold
        now = truth[chosen].sum() / truth.sum()
        actual += (now - recall) * truth[chosen].mean()
        recall = now
    return actual


def roc_auc(truth: np.ndarray, values: np.ndarray) -> float:
    """Returns the chance that a pixel of the class has a higher value than one without, ties counting half."""
    difference = values[truth][:, None] - values[~truth][None]
    return ((difference > 0) + (difference == 0) / 2).mean()


def per_class(probabilities: torch.Tensor, labels: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    known = (labels >= 0).numpy()
    return [
        ((labels == k).numpy()[known], probabilities[:, k].numpy()[known].astype(float))
        for k in range(probabilities.shape[1])
    ]


@pytest.mark.parametrize(("levels", "tolerance"), [(255, 1e-9), (None, 2 / 255)])
def test_areas_equal_those_without_bins(levels: int | None, tolerance: float):
    """Exact where probabilities are multiples of the bin width, within it otherwise."""
    probabilities, labels = made(levels=levels)
    counts = pixel_metrics.histogram(probabilities, labels)
    for k, (truth, values) in enumerate(per_class(probabilities, labels)):
        assert pixel_metrics.average_precision(counts)[k].item() == pytest.approx(
            average_precision(truth, values), abs=tolerance
        )
        assert pixel_metrics.roc_auc(counts)[k].item() == pytest.approx(roc_auc(truth, values), abs=tolerance)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_histogram_equals_numpy(classes: int):
    """Every labelled pixel counts once per class, in the bin of the nearest multiple; -1 is left out."""
    probabilities, labels = made(classes)
    counts = pixel_metrics.histogram(probabilities, labels, bins=11)
    assert counts.shape == (classes, 2, 11) and counts.dtype == torch.int64
    for k, (truth, values) in enumerate(per_class(probabilities, labels)):
        bins = np.rint(probabilities[:, k].numpy()[(labels >= 0).numpy()] * np.float32(10)).astype(int)
        assert len(values) == counts[k].sum().item()
        for present in (0, 1):
            assert counts[k, present].tolist() == np.bincount(bins[truth == present], minlength=11).tolist()


def test_layout_in_memory_does_not_matter():
    """Channels-last probabilities, as networks give them, are counted alike, and neither argument is changed."""
    probabilities, labels = made()
    selection = probabilities.clone(), labels.clone()
    last = probabilities.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixel_metrics.histogram(last, labels), pixel_metrics.histogram(probabilities, labels))
    assert torch.equal(probabilities, selection[0]) and torch.equal(labels, selection[1])


def test_histograms_add_up():
    """Counting image by image equals counting at once, so a dataset of any size is scored."""
    probabilities, labels = made()
    pieces = [pixel_metrics.histogram(probabilities[i : i + 1], labels[i : i + 1]) for i in range(2)]
    assert torch.equal(pieces[0] + pieces[1], pixel_metrics.histogram(probabilities, labels))


def test_perfect_and_useless_probabilities():
    """Certain and right: both 1. One value for all: the class's frequency and one half. Certain and wrong: ROC 0."""
    labels = torch.tensor([[[0, 0, 0, 1]]])
    right = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    cases = [(right, 1.0, 1.0), (torch.full_like(right, 0.3), 0.25, 0.5), (1 - right, 0.25, 0.0)]
    for probabilities, precision, roc in cases:
        counts = pixel_metrics.histogram(probabilities, labels)
        assert pixel_metrics.average_precision(counts)[1].item() == pytest.approx(precision)
        assert pixel_metrics.roc_auc(counts)[1].item() == pytest.approx(roc)


def test_order_alone_matters():
    """Both areas are unchanged by any increasing map of the bins."""
    generator = rng.numpy_generator("bins")
    counts = torch.from_numpy(generator.integers(0, 50, (2, 2, 16)))
    wider = torch.zeros(2, 2, 64, dtype=torch.int64)
    wider[..., torch.from_numpy(np.sort(generator.choice(64, 16, replace=False)))] = counts
    for area in (pixel_metrics.average_precision, pixel_metrics.roc_auc):
        assert torch.allclose(area(counts), area(wider))


def test_class_without_pixels_has_no_curve():
    """No pixel of a class: NaN for both. Every pixel of a class: precision is 1, and there is no ROC curve."""
    counts = pixel_metrics.histogram(torch.tensor([[[[0.9, 0.8]], [[0.1, 0.2]]]]), torch.tensor([[[0, 0]]]))
    actual = pixel_metrics.curve_scores(counts, ("background", "a"))
    assert actual["auprc_background"] == 1.0
    assert all(math.isnan(actual[name]) for name in ("auroc_background", "auprc_a", "auroc_a"))


@pytest.mark.gpu
def test_counting_on_a_gpu_equals_the_cpu_without_waiting():
    """Histogram and confusion on the device equal those of the CPU, and never wait for it."""
    probabilities, labels = made()
    there, known = probabilities.cuda(), labels.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts, confusion = pixel_metrics.histogram(there, known), pixel_metrics.confusion(there.argmax(1), known, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts.cpu(), pixel_metrics.histogram(probabilities, labels))
    assert torch.equal(confusion.cpu(), pixel_metrics.confusion(probabilities.argmax(1), labels, 3))
