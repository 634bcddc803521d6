"""Scores of classified pixels from a confusion matrix, so that a dataset of any size is scored from K x K counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def confusion(predicted: Tensor, classes: Tensor, count: int) -> Tensor:
    """Returns the (K, K) int64 pixel counts, rows the labelled class, columns the predicted; labels −1 are left out.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    bins = torch.where(classes >= 0, classes * count + predicted, count * count)
    return torch.bincount(bins.flatten(), minlength=count * count + 1)[:-1].reshape(count, count)


def scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns accuracy, and per class IoU, Dice, precision and recall, of a (K, K) confusion matrix.

    Means (`iou_mean`, `dice_mean`) are over the foreground classes that occur in labels or predictions; a class
    that occurs in neither has NaN. The background (class 0) has no entries of its own.
    """
    counts = counts.double().cpu()
    hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    dice = 2 * hits / (labelled + predicted)
    iou = hits / (labelled + predicted - hits)
    found = {
        "accuracy": (hits.sum() / counts.sum()).item(),
        "iou_mean": iou[1:].nanmean().item(),
        "dice_mean": dice[1:].nanmean().item(),
    }
    for index, name in enumerate(names[1:], start=1):
        found[f"iou_{name}"] = iou[index].item()
        found[f"dice_{name}"] = dice[index].item()
        found[f"precision_{name}"] = (hits[index] / predicted[index]).item()
        found[f"recall_{name}"] = (hits[index] / labelled[index]).item()
    return found
