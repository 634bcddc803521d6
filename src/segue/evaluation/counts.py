"""Counts of predicted label images per image, which add up: scores of each, of all, and of resampled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from segue.evaluation import object_metrics, pixel_metrics
from segue.evaluation.object_metrics import MatchCounts
from segue.evaluation.outcomes import outcomes

FOREGROUND = ("background", "foreground")
OF_FOREGROUND = ("iou", "dice", "precision", "recall")
PER_OBJECTS = 100  # errors are counted per so many labeled objects


class Counts(Protocol):
    """Counts of I images, a row each."""

    def weighted(self, weights: np.ndarray) -> Counts:
        """Returns R rows, each the sum over images with its weights (R, I)."""
        ...

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the scores of every row, (I,) float64 each, NaN where undefined."""
        ...


@dataclass(frozen=True)
class ObjectCounts:
    """Counts of objects. pixels (I, 2, 2): labeled and predicted as background and foreground; missed, false (I,)."""

    matches: MatchCounts
    pixels: np.ndarray
    missed: np.ndarray
    false: np.ndarray

    def weighted(self, weights: np.ndarray) -> ObjectCounts:
        return ObjectCounts(
            object_metrics.weighted_sums(self.matches, weights),
            np.tensordot(weights, self.pixels, 1),
            weights @ self.missed,
            weights @ self.false,
        )

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the scores of `object_metrics.per_image` and `scores_at_70`, of the pixels of all objects together
        (`dice_foreground` …), and errors: counts, and per 100 labeled objects (`merges_of_100` …)."""
        of_pixels = pixel_metrics.scores_per_matrix(torch.as_tensor(self.pixels), FOREGROUND)
        of_objects = object_metrics.per_image(self.matches)
        errors = {
            "merges": of_objects.pop("merges"),
            "splits": of_objects.pop("splits"),
            "missed": self.missed.astype(float),
            "false": self.false.astype(float),
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            labeled = np.where(self.matches.true_objects > 0, self.matches.true_objects, np.nan)
            rates = {f"{name}_of_{PER_OBJECTS}": PER_OBJECTS * values / labeled for name, values in errors.items()}
        return {
            **of_objects,
            **object_metrics.scores_at_70(self.matches),
            **{f"{name}_foreground": of_pixels[f"{name}_foreground"].numpy() for name in OF_FOREGROUND},
            **errors,
            **rates,
        }


@dataclass(frozen=True)
class ClassCounts:
    """Counts of classes of pixels: confusion matrices (I, K, K), rows the labeled class."""

    pixels: np.ndarray
    names: tuple[str, ...]

    def weighted(self, weights: np.ndarray) -> ClassCounts:
        return ClassCounts(np.tensordot(weights, self.pixels, 1), self.names)

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the scores of `pixel_metrics.scores_per_matrix`."""
        counts = torch.as_tensor(self.pixels)
        return {name: one.numpy() for name, one in pixel_metrics.scores_per_matrix(counts, self.names).items()}


def count(true: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Counts:
    """Returns the counts of one image, (H, W) labels: of classes if these have names, else of objects."""
    if classes:
        return ClassCounts(_confusion(true, predicted, len(classes))[None], tuple(classes))
    outcome = outcomes(true, predicted)
    return ObjectCounts(
        object_metrics.count_matches(true, predicted),
        _confusion(np.minimum(true, 1), np.minimum(predicted, 1), 2)[None],
        np.array([len(outcome.missed)]),
        np.array([len(outcome.predicted["false"])]),
    )


def _confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    pair = (torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(true.astype(np.int64)))
    return pixel_metrics.confusion(*pair, classes).numpy()


def concatenate(rows: Sequence[Counts]) -> Counts:
    """Returns the counts of all images, in the order given; at least one, all of one kind."""
    first = rows[0]
    if isinstance(first, ClassCounts):
        return ClassCounts(np.concatenate([one.pixels for one in rows]), first.names)  # pyright: ignore
    columns = {name: np.concatenate([getattr(one, name) for one in rows]) for name in ("pixels", "missed", "false")}
    return ObjectCounts(object_metrics.concatenate([one.matches for one in rows]), **columns)  # pyright: ignore
