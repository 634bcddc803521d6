"""Scores of a model on the images of a part of a dataset, image by image, as `segue predict` segments them.

Objects are scored by the mean of their average precision over IoU 0.5 to 0.95, classes by the mean IoU of those that
are labeled or predicted in the image; an image in which nothing is labeled or predicted scores 1. Every image has a
score of each model, so that models are compared image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue.data.dataset import Dataset
from segue.data.sources import labeled_images
from segue.data.spec import Layer, SplitSpec
from segue.data.splits import PARTS, PartName
from segue.device import freed_memory_kept
from segue.evaluation import object_metrics, pixel_metrics
from segue.inference.model import Model
from segue.inference.predict import predict
from segue.storage import read_json, write_json

GIVEN = SplitSpec(stored="given")  # the split of the table of images
SCORES = {"instances": "mean AP", "classes": "IoU"}
VERSION = 1  # of the scores; increase by hand when they change
Scores = dict[str, dict[str, Any]]  # image -> group, score and others


@dataclass(frozen=True)
class HeldOut:
    """An image (C, H, W) as acquired, with its labels (H, W), its name and its group."""

    name: str
    group: str
    image: np.ndarray
    labels: np.ndarray


def images_of(dataset: Path, part: PartName) -> tuple[list[HeldOut], Layer]:
    """Returns the whole images of a part of a dataset of one layer of labels, in the order of the file."""
    with Dataset(dataset) as data:
        layer = next(iter(data.layers.values()))
        indices = np.flatnonzero(data.split(GIVEN) == PARTS.index(part))
        samples = data.samples()
        sources = samples["source"][indices]
        groups = dict(zip(sources, samples["group"][indices], strict=True))
        pairs = labeled_images(data, indices, layer=layer.name)
        named = zip(dict.fromkeys(sources), pairs, strict=True)
        return [HeldOut(str(name), str(groups[name]), image, labels) for name, (image, labels) in named], layer


def fits(model: Model, layer: Layer, channels: int) -> bool:
    """Returns whether a model can be scored on a layer as it is: its kind of labels, classes and channels."""
    if len(model.channels) != channels:
        return False
    if layer.kind == "instances":
        return model.target.output == "objects"
    return model.target.output == "classes" and len(model.target.names) == len(layer.names)


@freed_memory_kept()
def score_model(model: Model, dataset: Path, part: PartName) -> Scores:
    """Returns the scores of a model on the whole images of a part; see the head of this file."""
    images, layer = images_of(dataset, part)
    return {one.name: score_labels(one, predict(model, one.image), layer) for one in images}


def stored_scores(file: Path, compute: Callable[[], Scores]) -> Scores:
    """Returns the scores in `file`, computed and written there if there are none: a killed command goes on."""
    stored = read_json(file)
    if stored is None:
        stored = compute()
        write_json(file, stored)
    return stored


def score_labels(one: HeldOut, predicted: np.ndarray, layer: Layer) -> dict[str, Any]:
    """Returns the group and the scores of the predicted labels (H, W) of an image."""
    return {"group": one.group, **SCORERS[layer.kind](one.labels, np.asarray(predicted), len(layer.names))}


def _score_objects(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    values = object_metrics.per_image(object_metrics.count_matches(labels, predicted.astype(np.int32)))
    names = ("ap50", "ap75", "f1_50", "objects_true", "objects_predicted", "merges", "splits")
    return {"score": float(values["ap_mean"][0]), **{name: float(values[name][0]) for name in names}}


def _score_classes(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float]:
    """Returns the mean IoU of the classes beside the background that are labeled or predicted, 1 without any."""
    counts = pixel_metrics.confusion(
        torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)), classes
    ).numpy()
    both = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - both
    foreground = union[1:] > 0
    iou = both[1:][foreground] / union[1:][foreground]
    accuracy = both.sum() / max(1, counts.sum())
    return {"score": float(iou.mean()) if len(iou) else 1.0, "accuracy": float(accuracy)}


SCORERS: Mapping[str, Callable[[np.ndarray, np.ndarray, int], dict[str, float]]] = {
    "instances": _score_objects,
    "classes": _score_classes,
}


def constant_scores(dataset: Path, part: PartName) -> Scores:
    """Returns the scores of the best answer that is the same for every pixel of every image: a class, or of objects
    none or a single one."""
    images, layer = images_of(dataset, part)
    answers = range(2 if layer.kind == "instances" else len(layer.names))
    all_scores: list[Scores] = [
        {one.name: score_labels(one, np.full(one.labels.shape, answer, np.int32), layer) for one in images}
        for answer in answers
    ]
    return max(all_scores, key=lambda scores: float(np.mean([row["score"] for row in scores.values()])))
