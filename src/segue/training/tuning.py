"""The search for decode parameters that maximize a score of objects on validation images, and on no others.

A coordinate search: one parameter after another is varied over the target's search space, from the defaults, until
nothing changes any more. Three shortcuts save work; none depends on timing, so that every machine gets the same result:

- Nothing is decoded twice, and only what the metric needs is counted.
- A trial ends as soon as it cannot win: when a perfect result on the images not yet decoded would not
  make it better than the best so far (branch and bound: the result is that of the whole search). Images with many
  objects for their size come first.
- If the defaults find almost nothing, the search runs on the first GLANCE_IMAGES images; only if it reaches
  MIN_SCORE there, the scores are more than noise and the search is worth its time on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from segue.data.normalization import intensity_stats, normalize
from segue.data.sources import LabeledImage
from segue.data.spec import NormalizeSpec
from segue.device import Precision
from segue.evaluation import object_metrics
from segue.inference.predict import forward
from segue.labels import matching
from segue.targets.target import Target
from segue.training.spec import LOWER_IS_BETTER, TuningMetric

MAX_IMAGES = 64  # evenly spaced: decoding each a hundred times must not take longer than the training
MAX_PX = 2**24  # of all of them together, but one image at least: the scores of 33 channels are then 2 GiB
MAX_SWEEPS = 3  # over all parameters; mostly the second changes nothing
GLANCE_IMAGES = 4  # that show whether there is anything to tune
MIN_SCORE = 0.02  # of the metric, a fraction of 1
UNDEFINED = -math.inf  # score where the metric is not defined: no parameters are chosen by it
MATCH_METRICS = {  # metrics that need only matches -> kind, and indices into the IoU thresholds
    "ap_mean": ("ap", slice(None)),
    "ap50": ("ap", slice(0, 1)),
    "ap75": ("ap", slice(5, 6)),
    "f1_50": ("f1", slice(0, 1)),
}


def select_images(images: Sequence[LabeledImage]) -> list[LabeledImage]:
    """Returns at most `MAX_IMAGES` of the images, evenly spaced, and at most `MAX_PX` pixels in all."""
    count = min(MAX_IMAGES, len(images))
    while True:
        selected = [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]
        if count <= 1 or sum(labels.size for _, labels in selected) <= MAX_PX:
            return selected
        count -= 1


def predict_scores(
    network: nn.Module,
    images: Sequence[np.ndarray],
    *,
    normalization: NormalizeSpec,
    divisor: int,
    device: torch.device | str,
    precision: Precision,
) -> Iterator[np.ndarray]:
    """Yields the network's scores (channels, H, W) float32 of images (C, H, W) as acquired, each normalized whole."""
    for image in images:
        values = normalize(image[None], intensity_stats(normalization, image[None]))
        batch = torch.from_numpy(values).to(device)
        yield forward(network, batch, divisor=divisor, precision=precision)[0].cpu().numpy()


def tune_decoding(
    target: Target,
    scores: Iterable[np.ndarray],
    labels: Iterable[np.ndarray],
    *,
    metric: TuningMetric = "ap_mean",
    whole: bool = True,
) -> dict[str, Any]:
    """Returns the decode parameters with the best value of the metric on these images, and how they were found.

    `metric` has the prefix of `object_metrics.name_scores` unless the images are `whole` micrographs.

    Of equally good ones the first wins. scores: (channels, H, W) of each image; labels (H, W). `value` and
    `value_of_defaults` are over all images; `searched` is the number of images that the search ran on, `decoded` the
    number of times that an image was decoded. Without any object in the labels there is nothing to tune by: the
    defaults are returned, with `reason`.
    """
    images = sorted(zip(scores, labels, strict=True), key=lambda image: -_object_count(image[1]) / image[1].size)
    trials = _Trials(target, images, metric)
    defaults = dict(target.decode_params)
    (name,) = object_metrics.name_scores({metric: 0.0}, whole=whole)
    if not trials.object_count:
        reason = "no object in the validation images"
        counts = {"images": len(images), "searched": 0, "decoded": 0}
        nothing = {"value": None, "value_of_defaults": None, "reason": reason}
        return {"parameters": defaults, "metric": name, **nothing, **counts, "defaults": defaults}
    default_score = trials.score(defaults)
    glance = _Trials(target, images[:GLANCE_IMAGES], metric)
    parameters, is_noise = defaults, False
    if metric not in LOWER_IS_BETTER and default_score < MIN_SCORE and len(images) > GLANCE_IMAGES:
        parameters, glance_score = _search(target, glance)
        is_noise = glance_score < MIN_SCORE
    if is_noise:
        best = trials.score(parameters)
        parameters, best = (parameters, best) if best > default_score else (defaults, default_score)
    else:
        parameters, best = _search(target, trials)
    return {
        "parameters": parameters,
        "metric": name,
        "value": trials.metric_value(best),
        "value_of_defaults": trials.metric_value(default_score),
        "images": len(images),
        "searched": len((glance if is_noise else trials).images),
        "decoded": trials.decoded + glance.decoded,
        "defaults": defaults,
    }


def _object_count(labels: np.ndarray) -> int:
    return int(np.count_nonzero(np.unique(labels) > 0))


def _search(target: Target, trials: _Trials) -> tuple[dict[str, float], float]:
    """Returns the best parameters and their score."""
    parameters = dict(target.decode_params)
    best = trials.score(parameters)
    for _ in range(MAX_SWEEPS):
        before = dict(parameters)
        for name, values in target.decode_search_space.items():
            for value in values:
                if value != parameters[name]:
                    candidate = {**parameters, name: value}
                    score = trials.score(candidate, best)
                    if score > best:
                        parameters, best = candidate, score
        if parameters == before:
            break
    return parameters, best


@dataclass
class _Trials:
    """Scores of decode parameters on images (scores, labels); larger is better, `UNDEFINED` where there is none."""

    target: Target
    images: Sequence[tuple[np.ndarray, np.ndarray]]
    metric: TuningMetric
    decoded: int = 0
    known: dict[tuple[float, ...], float] = field(default_factory=dict)

    @cached_property
    def object_count(self) -> int:
        return sum(_object_count(labels) for _, labels in self.images)

    def score(self, parameters: Mapping[str, float], best: float = -np.inf) -> float:
        """Returns the score of the parameters, or a bound of it once it is certain not to exceed `best`.

        A bound stays valid for later calls, whose best is no worse.
        """
        key = tuple(parameters.values())
        if key not in self.known:
            if self.metric in MATCH_METRICS:
                self.known[key] = self._match_score(parameters, best)
            else:
                self.known[key] = self._full_score(parameters)
        return self.known[key]

    def metric_value(self, score: float) -> float:
        """Returns the value of the metric itself for a score, and the score for a value."""
        return -score if self.metric in LOWER_IS_BETTER else score

    def _match_score(self, parameters: Mapping[str, float], best: float) -> float:
        kind, thresholds = MATCH_METRICS[self.metric]
        counts = _MatchBound(kind, thresholds, remaining=self.object_count)
        for scores, labels in self.images:
            counts.add(labels, self._decode(scores, parameters))
            if counts.bound() <= best:
                break
        return counts.bound()

    def _full_score(self, parameters: Mapping[str, float]) -> float:
        counts = [
            object_metrics.count_matches(labels, self._decode(scores, parameters)) for scores, labels in self.images
        ]
        value = object_metrics.scores(object_metrics.concatenate(counts))[self.metric]
        return UNDEFINED if np.isnan(value) else self.metric_value(value)

    def _decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        self.decoded += 1
        return self.target.decode(scores, parameters)


class _MatchBound:
    """Counts of matched objects over some images, where `remaining` true objects are in those not counted yet."""

    def __init__(self, kind: str, thresholds: slice, *, remaining: int) -> None:
        self.kind, self.thresholds, self.remaining = kind, thresholds, remaining
        self.true = self.predicted = 0
        self.true_positives = np.zeros(len(object_metrics.THRESHOLDS), np.int64)

    def add(self, true: np.ndarray, predicted: np.ndarray) -> None:
        table = matching.label_overlap(true, predicted)
        iou = matching.match(table, object_metrics.THRESHOLDS[0]).iou
        self.true_positives += (iou[:, None] >= np.array(object_metrics.THRESHOLDS)).sum(0)
        self.true += table.true_ids.size
        self.predicted += table.predicted_ids.size
        self.remaining -= table.true_ids.size

    def bound(self) -> float:
        """Returns the score if all remaining objects are found and nothing else; `UNDEFINED` without any objects."""
        true_positives = self.true_positives[self.thresholds] + self.remaining
        total = self.true + self.predicted + 2 * self.remaining
        if total == 0:
            return UNDEFINED
        ratios = true_positives / (total - true_positives) if self.kind == "ap" else 2 * true_positives / total
        return float(ratios.mean())
