"""Areas under precision-recall and ROC curves of pixels, from counts per bin of *probability*.

Each class in turn against all others. Counts add up over batches and processes, so that a dataset of any size is scored
from K x 2 x bins numbers. A probability p falls into the bin of the nearest multiple of 1 / (bins - 1); pixels of one
bin count as tied. The areas are exact for probabilities that are such multiples; else an area lies between those of the
best and the worst order within the bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.evaluation.pixels import occurrences

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
    labelled = joint.view(count, count + 1, bins)[:, 1:]  # [k, c, b]: labelled c, probability of k in bin b
    present = labelled.diagonal().T
    return torch.stack([labelled.sum(1) - present, present], 1)


def average_precision(counts: Tensor) -> Tensor:
    """Returns the area under each class's precision-recall curve, (K,) float64, of counts (K, 2, bins).

    The sum of precision times the step in recall from each threshold to the next lower one, as scikit-learn's
    average_precision_score; NaN for a class that no pixel has.
    """
    false, true = _cumulated(counts)
    precision = true / (true + false).clamp(min=1)
    steps = counts.double().flip(-1)[:, PRESENT]
    return (precision * steps).sum(-1) / true[:, -1]


def precision_recall(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns precision and recall of each class at falling thresholds, both (K, bins) float64, of (K, 2, bins).

    Precision is NaN where no pixel is as probable as that, recall for a class that no pixel has. `average_precision`
    is the area under them as steps.
    """
    false, true = _cumulated(counts)
    return true / (true + false), true / true[:, -1:]


def roc_auc(counts: Tensor) -> Tensor:
    """Returns the area under each class's ROC curve by the trapezoidal rule, (K,) float64, of counts (K, 2, bins).

    NaN for a class that no pixel has, or all.
    """
    false, true = _cumulated(counts)
    before = torch.nn.functional.pad(true, (1, -1))
    steps = counts.double().flip(-1)[:, ABSENT]
    return ((before + true) / 2 * steps).sum(-1) / (true[:, -1] * false[:, -1])


def _cumulated(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns false and true positives (K, bins) of the thresholds from the highest probability down."""
    cumulated = counts.double().flip(-1).cumsum(-1)
    return cumulated[:, ABSENT], cumulated[:, PRESENT]


def scores(counts: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns `auprc_<class>` and `auroc_<class>` of counts (K, 2, bins); see `average_precision` and `roc_auc`."""
    counts = counts.cpu()
    areas = {"auprc": average_precision(counts).tolist(), "auroc": roc_auc(counts).tolist()}
    return {f"{area}_{name}": values[index] for index, name in enumerate(names) for area, values in areas.items()}
