"""What an evaluation counted in every image, from which the scores of any choice of its images follow.

Scores are pooled: counts are summed over images, then divided. So the score of other images is that of other sums, not
a mean of scores per image; where a reported score is such a mean (`_image_mean`), it is weighted as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from segue.evaluation import object_metrics, pixel_metrics
from segue.evaluation.object_metrics import ADDITIVE, TILE_PREFIX, MatchCounts

IMAGE_MEAN = "_image_mean"


@dataclass(frozen=True)
class ImageCounts:
    """Counts of I images, a row each: micrographs where the dataset stores them whole, else tiles.

    images, groups: the name of each image, and of the group (micrograph, structure, well) that it belongs to.
    classes: names of the K classes; of_images: whether whole images are classified, not pixels. on_tiles: whether
    objects were counted on tiles, whose scores have other names (`object_metrics.name_scores`).
    """

    images: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    of_images: bool
    on_tiles: bool
    loss_floor: float
    loss_sums: np.ndarray  # (I, T) float64, of the T terms of the loss
    normalizers: np.ndarray  # (I, T) float64, what they are divided by
    confusion: np.ndarray | None  # (I, K, K) int64; None without classes, and of too many
    objects: MatchCounts | None  # I rows

    def __post_init__(self) -> None:
        """Raises ValueError where shapes do not fit."""
        count, classes = len(self.images), len(self.classes)
        shapes = [self.loss_sums.shape, self.normalizers.shape, (count, self.loss_sums.shape[-1])]
        fits = len(self.groups) == count > 0 and len(set(shapes)) == 1
        fits &= self.confusion is None or self.confusion.shape == (count, classes, classes)
        fits &= self.objects is None or all(len(getattr(self.objects, name)) == count for name in ADDITIVE)
        if not fits:
            raise ValueError("the counts of images have different lengths")

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the scores of every image by itself, (I,) float64 each, NaN where undefined.

        Areas under curves are not among them: their histograms are not counted per image.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = (self.loss_sums / self.normalizers).sum(1)
        floor = np.full(len(loss), self.loss_floor)
        results = {"loss": loss, "loss_floor": floor, "loss_adjusted": loss - floor}
        if self.confusion is not None:
            matrices = torch.from_numpy(self.confusion)
            by_name = pixel_metrics.scores_per_matrix(matrices, self.classes, of_images=self.of_images)
            results |= {name: values.numpy() for name, values in by_name.items()}
        if self.objects is not None:
            results |= self._named(object_metrics.per_image(self.objects))
        return results

    def weighted_scores(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the pooled scores with images weighted, (B,) float64 each, for weights (B, I) >= 0.

        Weights are scaled to a mean of 1, so that sums, such as the number of merged objects, are of as many images.
        Equal weights give the scores of the evaluation.
        """
        return self._pooled(weights).scores() | self._image_means(weights)

    def weighted_score(self, metric: str, weights: np.ndarray) -> np.ndarray | None:
        """Returns one of `weighted_scores`, (B,); None for a metric that does not follow from the counts."""
        if metric.endswith(IMAGE_MEAN):
            return self._image_means(weights).get(metric)
        loss = replace(self, confusion=None, objects=None)
        for part in (loss, replace(loss, objects=self.objects), replace(loss, confusion=self.confusion)):
            if metric in part.scores():
                return part._pooled(weights).scores()[metric]
        return None

    def _pooled(self, weights: np.ndarray) -> ImageCounts:
        """Returns B rows of weighted sums, in place of the I images."""
        scaled = weights * (weights.shape[1] / weights.sum(1, keepdims=True))

        def total(counts: np.ndarray) -> np.ndarray:
            return np.tensordot(scaled, counts, 1)

        return replace(
            self,
            images=("",) * len(weights),
            groups=("",) * len(weights),
            loss_sums=total(self.loss_sums),
            normalizers=total(self.normalizers),
            confusion=None if self.confusion is None else total(self.confusion),
            objects=self.objects and object_metrics.weighted_sums(self.objects, scaled),
        )

    def _image_means(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        if self.objects is None:
            return {}
        per_image, means = object_metrics.per_image(self.objects), {}
        for name in object_metrics.IMAGE_MEANS:
            is_defined = np.isfinite(per_image[name])
            total = weights @ is_defined.astype(float)
            with np.errstate(divide="ignore", invalid="ignore"):
                means[f"{name}{IMAGE_MEAN}"] = (weights @ np.where(is_defined, per_image[name], 0.0)) / total
        return self._named(means)

    def _named(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {f"{TILE_PREFIX}{name}": values for name, values in scores.items()} if self.on_tiles else dict(scores)

    def disagreement(self, scores: Mapping[str, float | None]) -> str | None:
        """Returns the first of an evaluation's scores that is not that of these counts; None where all are.

        They agree to four digits, since losses are summed in float32 in another order.
        """
        pooled = self.weighted_scores(np.ones((1, len(self.images))))
        for name in set(pooled) & set(scores):
            stored = scores[name]
            expected = math.nan if stored is None else stored
            if not np.isclose(pooled[name][0], expected, rtol=1e-4, atol=1e-6, equal_nan=True):
                return name
        return None

    def record(self) -> dict[str, Any]:
        """Returns the counts as JSON can hold them; see `from_record`."""
        objects = self.objects
        return {
            "image": list(self.images),
            "group": list(self.groups),
            "classes": list(self.classes),
            "of_images": self.of_images,
            "on_tiles": self.on_tiles,
            "loss_floor": self.loss_floor,
            "loss_sums": _without_nan(self.loss_sums),
            "normalizers": _without_nan(self.normalizers),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "objects": objects and {name: getattr(objects, name).tolist() for name in ADDITIVE},
            "tolerance_px": objects and objects.tolerance_px,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ImageCounts:
        """Returns the counts of a `record`; raises ValueError or KeyError where it is none."""
        objects = record["objects"] and MatchCounts(
            tolerance_px=record["tolerance_px"],
            **{name: np.array(record["objects"][name]) for name in ADDITIVE},
            probability=np.empty(0),
            probability_iou=np.empty(0),
        )
        return cls(
            images=tuple(record["image"]),
            groups=tuple(record["group"]),
            classes=tuple(record["classes"]),
            of_images=record["of_images"],
            on_tiles=record["on_tiles"],
            loss_floor=record["loss_floor"],
            loss_sums=np.array(record["loss_sums"], dtype=float),  # None is NaN
            normalizers=np.array(record["normalizers"], dtype=float),
            confusion=None if record["confusion"] is None else np.array(record["confusion"]),
            objects=objects or None,
        )


def _without_nan(values: np.ndarray) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
