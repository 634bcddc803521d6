"""Scores of classified pixels: from a confusion matrix, and areas under curves from histograms of probabilities.

Counts add up over batches and processes, so that a dataset of any size is scored from K x K and K x 2 x bins numbers.
Curves are of each class in turn against all others. A probability p falls into the bin of the nearest multiple of
1 / (bins - 1); pixels of one bin count as tied. The areas are exact for probabilities that are such multiples; else an
area lies between those of the best and the worst order within the bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def occurrences(values: Tensor, length: int) -> Tensor:
    """Returns how often each of 0 … length - 1 occurs among integers, (length,) int64; none may be larger."""
    flat = values.reshape(-1)
    if flat.is_cuda:  # bincount would wait for the device to know the largest value
        return torch.histc(flat.int(), bins=length, min=0, max=length).long()
    return torch.bincount(flat, minlength=length)


def confusion(predicted: Tensor, classes: Tensor, count: int) -> Tensor:
    """Returns the (K, K) int64 pixel counts, rows the labeled class, columns the predicted; labels −1 are left out.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, -1]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    pairs = torch.add(predicted, classes + 1, alpha=count)  # the first row holds what is left out
    return occurrences(pairs, (count + 1) * count).view(count + 1, count)[1:]


def confusion_per_image(predicted: Tensor, classes: Tensor, count: int) -> Tensor:
    """Returns `confusion` of each of N images, (N, K, K) int64; predicted and classes are (N, H, W).

    >>> confusion_per_image(torch.tensor([[[0, 1]], [[1, 1]]]), torch.tensor([[[0, 0]], [[-1, 1]]]), 2).tolist()
    [[[1, 1], [0, 0]], [[0, 0], [0, 1]]]
    """
    size = (count + 1) * count
    first = torch.arange(len(classes), device=classes.device).mul_(size).view(-1, 1, 1)
    pairs = torch.add(predicted, classes + 1, alpha=count) + first
    return occurrences(pairs, len(classes) * size).view(-1, count + 1, count)[:, 1:]


def image_scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns `scores_per_matrix` of one (K, K) confusion matrix of classified images."""
    return {name: values.item() for name, values in scores_per_matrix(counts[None], names, of_images=True).items()}


def scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns `scores_per_matrix` of one (K, K) confusion matrix of pixels."""
    return {name: values.item() for name, values in scores_per_matrix(counts[None], names).items()}


def scores_per_matrix(counts: Tensor, names: Sequence[str], *, of_images: bool = False) -> dict[str, Tensor]:
    """Returns the scores of (N, K, K) confusion matrices, (N,) float64 each.

    Of pixels: accuracy, mean IoU and Dice; per class, each class in turn against all others: `iou_<class>`, `dice_`,
    `f1_`, `precision_`, `recall_` and `accuracy_` (the share of pixels that are rightly assigned or not assigned the
    class). F1 of pixels is their Dice; both names are given. Means (`iou_mean`, `dice_mean`) are over the labeled
    foreground classes; IoU, Dice and recall of a class without labels are NaN, its precision is 0 if it is predicted.
    The background is class 0.

    Of classified images: accuracy, balanced accuracy (the mean recall), mean F1 over the labeled classes, and per class
    `f1_<class>`, `precision_` and `recall_`. None is background.
    """
    counts = counts.double().cpu()
    true_positives, labeled, predicted = counts.diagonal(dim1=1, dim2=2), counts.sum(2), counts.sum(1)
    pixels = labeled.sum(1)
    f1 = _of_labeled(2 * true_positives / (labeled + predicted), labeled)
    precision, recall = true_positives / predicted, true_positives / labeled
    results = {"accuracy": true_positives.sum(1) / pixels}
    if of_images:
        per_class = {"f1": f1, "precision": precision, "recall": recall}
        results |= {"accuracy_balanced": recall.nanmean(1), "f1_mean": f1.nanmean(1)}
    else:
        iou = _of_labeled(true_positives / (labeled + predicted - true_positives), labeled)
        accuracy = (pixels[:, None] - labeled - predicted + 2 * true_positives) / pixels[:, None]
        per_class = {"iou": iou, "dice": f1, "f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy}
        results |= {"iou_mean": iou[:, 1:].nanmean(1), "dice_mean": f1[:, 1:].nanmean(1)}
    for index, name in enumerate(names):
        results |= {f"{score}_{name}": values[:, index] for score, values in per_class.items()}
    return results


def _of_labeled(values: Tensor, labeled: Tensor) -> Tensor:
    """Returns the values of the labeled classes, NaN for others: a single pixel predicted by mistake would make them 0,
    and halve a mean over two classes."""
    return torch.where(labeled > 0, values, torch.nan)


BINS = 256
ABSENT, PRESENT = 0, 1


def histogram(probabilities: Tensor, classes: Tensor, bins: int = BINS) -> Tensor:
    """Returns (K, 2, bins) int64: pixels per probability of each class where it is absent [k, 0] and present [k, 1].

    probabilities (N, K, H, W) in [0, 1], NaN counting as 0; classes (N, H, W) with -1 left out. Does not wait for a
    GPU.

    >>> histogram(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.tensor([[[-1, 0]]]), bins=2).tolist()
    [[[0, 0], [0, 1]]]
    """
    count = probabilities.shape[1]
    rows = (classes + 1).mul_(bins).int()  # the first row holds what is left out
    joint = torch.stack(
        [
            occurrences(probabilities[:, k].mul(bins - 1).round_().nan_to_num_(0).int().add_(rows), (count + 1) * bins)
            for k in range(count)
        ]
    )
    labeled = joint.view(count, count + 1, bins)[:, 1:]  # [k, c, b]: labeled c, probability of k in bin b
    present = labeled.diagonal().T
    return torch.stack([labeled.sum(1) - present, present], 1)


def average_precision(counts: Tensor) -> Tensor:
    """Returns the area under each class's precision-recall curve, (K,) float64, of counts (K, 2, bins).

    The sum of precision times the step in recall from each threshold to the next lower one, as scikit-learn's
    average_precision_score; NaN for a class that no pixel has.
    """
    false, true = _positives(counts)
    precision = true / (true + false).clamp(min=1)
    steps = counts.double().flip(-1)[:, PRESENT]
    return (precision * steps).sum(-1) / true[:, -1]


def precision_recall(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns precision and recall of each class at falling thresholds, both (K, bins) float64, of (K, 2, bins).

    Precision is NaN where no pixel is as probable as that, recall for a class that no pixel has. `average_precision`
    is the area under them as steps.
    """
    false, true = _positives(counts)
    return true / (true + false), true / true[:, -1:]


def roc_auc(counts: Tensor) -> Tensor:
    """Returns the area under each class's ROC curve by the trapezoidal rule, (K,) float64, of counts (K, 2, bins).

    NaN for a class that no pixel has, or all.
    """
    false, true = _positives(counts)
    before = torch.nn.functional.pad(true, (1, -1))
    steps = counts.double().flip(-1)[:, ABSENT]
    return ((before + true) / 2 * steps).sum(-1) / (true[:, -1] * false[:, -1])


def _positives(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns false and true positives (K, bins) of the thresholds from the highest probability down."""
    cumulated = counts.double().flip(-1).cumsum(-1)
    return cumulated[:, ABSENT], cumulated[:, PRESENT]


def curve_scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns `auprc_<class>` and `auroc_<class>` of counts (K, 2, bins); see `average_precision` and `roc_auc`."""
    counts = counts.cpu()
    areas = {"auprc": average_precision(counts).tolist(), "auroc": roc_auc(counts).tolist()}
    return {f"{area}_{name}": values[index] for index, name in enumerate(names) for area, values in areas.items()}
