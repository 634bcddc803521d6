"""Scores of classified pixels from a confusion matrix, so that a dataset of any size is scored from K x K counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def occurrences(values: Tensor, length: int) -> Tensor:
    """Returns how often each of 0 … length - 1 occurs among integers, (length,) int64; none may be larger."""
    flat = values.reshape(-1)
    if flat.is_cuda:  # bincount would wait for the device to tell the largest value
        return torch.histc(flat.int(), bins=length, min=0, max=length).long()
    return torch.bincount(flat, minlength=length)


def confusion(predicted: Tensor, classes: Tensor, count: int) -> Tensor:
    """Returns the (K, K) int64 pixel counts, rows the labelled class, columns the predicted; labels −1 are left out.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    pairs = torch.add(predicted, classes + 1, alpha=count)  # the first row holds what is left out
    return occurrences(pairs, (count + 1) * count).view(count + 1, count)[1:]


def scores_of_images(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns accuracy, balanced accuracy (the mean recall) and mean F1 over the classes that occur, and per class
    `f1_<class>`, `precision_` and `recall_`, of a (K, K) confusion matrix of classified images. None is background."""
    counts = counts.double().cpu()
    hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    per_class = {"f1": 2 * hits / (labelled + predicted), "precision": hits / predicted, "recall": hits / labelled}
    found = {
        "accuracy": (hits.sum() / counts.sum()).item(),
        "accuracy_balanced": per_class["recall"].nanmean().item(),
        "f1_mean": per_class["f1"].nanmean().item(),
    }
    for index, name in enumerate(names):
        found |= {f"{score}_{name}": values[index].item() for score, values in per_class.items()}
    return found


def scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns accuracy, mean IoU and Dice, and scores per class, of a (K, K) confusion matrix.

    Per class, each class in turn against all others: `iou_<class>`, `dice_`, `f1_`, `precision_`, `recall_` and
    `accuracy_` (the share of pixels that are rightly given or not given the class). F1 of pixels is their Dice; both
    names stand for those who look for either. Means (`iou_mean`, `dice_mean`) are over the foreground classes that
    occur in labels or predictions; a class that occurs in neither has NaN. The background is class 0.
    """
    counts = counts.double().cpu()
    hits, labelled, predicted, pixels = counts.diagonal(), counts.sum(1), counts.sum(0), counts.sum()
    per_class = {
        "iou": hits / (labelled + predicted - hits),
        "dice": 2 * hits / (labelled + predicted),
        "f1": 2 * hits / (labelled + predicted),
        "precision": hits / predicted,
        "recall": hits / labelled,
        "accuracy": (pixels - labelled - predicted + 2 * hits) / pixels,
    }
    found = {
        "accuracy": (hits.sum() / pixels).item(),
        "iou_mean": per_class["iou"][1:].nanmean().item(),
        "dice_mean": per_class["dice"][1:].nanmean().item(),
    }
    for index, name in enumerate(names):
        found |= {f"{score}_{name}": values[index].item() for score, values in per_class.items()}
    return found
