"""How sure a model is of each object: its expected IoU with the true object, calibrated on validation objects.

From what the network says in and around a decoded object four numbers are measured (`FEATURES`). A logistic function of
them, fitted to the best IoU of each validation object with any true one, gives a number in [0, 1]: the IoU to be
expected (fractional logistic regression; Papke and Wooldridge, J. Appl. Econometrics 11, 619 (1996)). It is stored with
the model as plain numbers. A model without a calibration gives no confidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from segue.data.tiling import Region
from segue.labels import matching

if TYPE_CHECKING:
    from segue.inference.model import Model
    from segue.targets.target import Target

MIN_OBJECTS = 30  # validation objects from which a calibration is made
RIDGE = 1.0  # of the weights of the standardized features, as if so many objects said nothing
FEATURES = (
    "inside",  # logit of the mean probability of the object's pixels
    "edge",  # mean probability of those with a neighbor outside of it
    "sharpness",  # the same, less the mean probability of the background next to it
    "log_area",  # natural logarithm of the pixels
)
BINS = 10  # of confidence, equally wide


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the standardized features (F,), from how many validation objects they were fitted."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    objects: int

    @property
    def record(self) -> dict[str, Any]:
        """The calibration as JSON can hold it."""
        return asdict(self)

    def confidence(self, features: np.ndarray) -> np.ndarray:
        """Returns the expected IoU (n,) in [0, 1] of objects with these features (n, F)."""
        standardized = (features - np.array(self.mean)) / np.array(self.scale)
        return _logistic(standardized @ np.array(self.weights) + self.bias)


def from_record(record: Mapping[str, Any] | None) -> Calibration | None:
    """Returns the calibration of a record, None without one; raises ValueError for a record of something else."""
    if record is None or "weights" not in record:
        return None
    values = {name: tuple(map(float, record[name])) for name in ("mean", "scale", "weights")}
    numbers = np.array([*values.values()])
    features = tuple(record["features"])
    if features != FEATURES or numbers.shape != (3, len(FEATURES)):
        raise ValueError(f"its calibration is of {', '.join(features)}, not of {', '.join(FEATURES)}")
    bias = float(record["bias"])
    if not np.isfinite([*numbers.ravel(), bias]).all() or min(values["scale"]) <= 0:
        raise ValueError("its calibration holds numbers that are impossible")
    return Calibration(features, **values, bias=bias, objects=int(record["objects"]))


def fit(features: np.ndarray, best_iou: np.ndarray) -> Calibration | None:
    """Returns the calibration of objects with these features (n, F) and best IoU (n,); None of too few.

    The weights minimize the cross-entropy to the IoU with a small penalty, by Newton's method (convex).
    """
    count = len(features)
    if count < MIN_OBJECTS:
        return None
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    design = np.column_stack([(features - mean) / scale, np.ones(count)])
    penalty = np.diag([RIDGE] * features.shape[1] + [1e-6])
    average = np.clip(best_iou.mean(), 1e-3, 1 - 1e-3)
    coefficients = np.append(np.zeros(features.shape[1]), np.log(average / (1 - average)))

    def objective(values: np.ndarray) -> float:
        linear = design @ values
        return float((np.logaddexp(0, linear) - best_iou * linear).sum() + values @ penalty @ values / 2)

    for _ in range(100):
        expected = _logistic(design @ coefficients)
        gradient = design.T @ (expected - best_iou) + penalty @ coefficients
        curvature = (design.T * (expected * (1 - expected))) @ design + penalty
        step, length = np.linalg.solve(curvature, gradient), 1.0
        while length > 1e-6 and objective(coefficients - length * step) > objective(coefficients):
            length /= 2
        coefficients = coefficients - length * step
        if np.abs(length * step).max() < 1e-9:
            break
    weights = tuple(coefficients[:-1].tolist())
    return Calibration(FEATURES, tuple(mean.tolist()), tuple(scale.tolist()), weights, float(coefficients[-1]), count)


def _logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))


def object_features(target: Target, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the features (n, F) of the objects 1 … n of decoded labels (H, W) with the scores (channels, H, W)."""
    sums = empty_sums(int(labels.max(initial=0)))
    add_region(labels, foreground(target, scores), sums, Region(0, 0, *labels.shape))
    return features_of(sums)


def foreground(target: Target, scores: np.ndarray) -> np.ndarray:
    """Returns the probability (H, W) float32 that a pixel is of an object, of scores (channels, H, W)."""
    import torch

    chances = target.probabilities(torch.from_numpy(np.ascontiguousarray(scores))[None])[0].numpy()
    return (1 - chances[0]).astype(np.float32)


def empty_sums(count: int) -> np.ndarray:
    """Returns the sums of `count` objects without any pixel, for `add_region`."""
    return np.zeros((count + 1, 6))


def add_region(labels: Any, probability: Any, sums: np.ndarray, region: Region) -> None:
    """Adds what a region of an image contributes to `sums`; those over disjoint regions are those of the whole image.

    labels, probability (H, W): of the whole image, sliceable; only the region and a pixel around it are read.
    """
    outer = region.widened(1, labels.shape)
    inner = region.within(outer)
    block = np.ascontiguousarray(labels[outer.slices], np.int32)
    chances = np.ascontiguousarray(probability[outer.slices], np.float32)
    _add(block, chances, sums, (inner.top, inner.left, inner.bottom, inner.right))


def features_of(sums: np.ndarray) -> np.ndarray:
    """Returns the features (n, F) of sums (n + 1, 6); of a number without pixels all are 0."""
    area, total, edge_px, edge, outside_px, outside = sums[1:].T
    inside = np.clip(total / np.maximum(area, 1), 1e-6, 1 - 1e-6)
    edge_mean = edge / np.maximum(edge_px, 1)
    features = np.column_stack(
        [
            np.log(inside / (1 - inside)),
            edge_mean,
            edge_mean - outside / np.maximum(outside_px, 1),
            np.log(np.maximum(area, 1)),
        ]
    )
    return np.where(area[:, None] > 0, features, 0.0)


def object_confidence(model: Model, labels: np.ndarray, scores: np.ndarray) -> np.ndarray | None:
    """Returns the expected IoU in [0, 1] of each object of decoded labels (H, W), that of object k at [k]; 0 at [0].

    scores (channels, H, W): what the network gave. None if the model has no calibration.
    """
    if model.confidence is None:
        return None
    return np.append(0.0, model.confidence.confidence(object_features(model.target, labels, scores)))


@njit(cache=True, nogil=True)
def _add(labels: np.ndarray, foreground: np.ndarray, sums: np.ndarray, inner: tuple[int, int, int, int]) -> None:
    """Adds to each object's row: pixels and their foreground summed; those at its edge; those of background beside it.

    A pixel of background counts once for each neighbor (of four) that is an object. Borders of the image are no edges.
    """
    height, width = labels.shape
    top, left, bottom, right = inner
    for y in range(top, bottom):
        for x in range(left, right):
            label, value = labels[y, x], foreground[y, x]
            is_edge = False
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                row, column = y + dy, x + dx
                if not (0 <= row < height and 0 <= column < width):
                    continue
                other = labels[row, column]
                if other == label:
                    continue
                is_edge = True
                if label <= 0 and other > 0:
                    sums[other, 4] += 1
                    sums[other, 5] += value
            if label > 0:
                sums[label, 0] += 1
                sums[label, 1] += value
                if is_edge:
                    sums[label, 2] += 1
                    sums[label, 3] += value


# Reliability


def best_iou(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of the predicted objects that can be judged, and of each the largest IoU with a true one."""
    table = matching.label_overlap(true, predicted)
    best = np.zeros(table.predicted_ids.size)
    np.maximum.at(best, table.predicted_index, table.iou)
    return table.predicted_ids, best


def reliability(confidence: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Returns (BINS, 3): of the objects of each bin of confidence their number, and confidence and IoU summed."""
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(index, weights, BINS) for weights in (np.ones(len(index)), confidence, iou)], axis=1)


def calibration_error(bins: np.ndarray) -> float:
    """Returns the expected calibration error of (BINS, 3): the mean over objects of |confidence − IoU| of their bin.

    (Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.) NaN without objects.
    """
    count = bins[:, 0].sum()
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / count) if count else float("nan")


def fit_images(
    target: Target, images: Iterable[tuple[np.ndarray, np.ndarray]], params: Mapping[str, float]
) -> tuple[Calibration | None, int]:
    """Returns the calibration of validation images, each scores (channels, H, W) and true labels (H, W), decoded with
    the parameters, and how many objects could be judged."""
    features, ious = [np.empty((0, len(FEATURES)))], [np.empty(0)]
    for scores, true in images:
        labels = target.decode(scores, params)
        ids, iou = best_iou(true, labels)
        features.append(object_features(target, labels, scores)[ids - 1])
        ious.append(iou)
    return fit(np.concatenate(features), np.concatenate(ious)), sum(map(len, ious))
