"""Decode parameters, chosen by what they reach on validation images and never on others.

One parameter after another is tried over the target's range, from the defaults, until nothing changes any more. Three
things spare work, and none of them depends on the time it takes, so that every machine chooses alike:

- Nothing is decoded twice, and only what the metric needs is counted.
- A trial ends as soon as it cannot win: when every object of the images not yet decoded, found exactly, would not make
  it better than the best so far (branch and bound: what is chosen is what the whole search would choose). Images
  with many objects for their size come first.
- Where the defaults find next to nothing, the search runs on the first GLANCE images; only if it reaches LEAST there,
  the scores are more than noise and the search is worth its time on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from segue.data.normalization import normalised, statistics
from segue.data.sources import Labelled
from segue.data.spec import NormaliseSpec
from segue.device import Precision
from segue.evaluation import object_metrics
from segue.inference.predict import predict
from segue.labels import matching
from segue.targets.target import Target
from segue.training.spec import LOWER_IS_BETTER, TuningMetric

MOST_IMAGES = 64  # evenly spaced: decoding each a hundred times must not outlast the training
MOST_PX = 2**24  # of all of them together, but one image at least: the scores of 33 channels are then 2 GiB
SWEEPS = 3  # over all parameters; mostly the second changes nothing
GLANCE = 4  # images that tell whether there is anything to tune
LEAST = 0.02  # of the metric, a share of 1
OF_MATCHES = {"ap_mean": "ap", "ap50": "ap", "ap75": "ap", "f1_50": "f1"}  # counted without the other scores
AT = {"ap_mean": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6), "f1_50": slice(0, 1)}


def scored_images(
    network: nn.Module,
    images: Sequence[np.ndarray],
    *,
    normalise: NormaliseSpec,
    divisor: int,
    device: torch.device | str,
    precision: Precision,
) -> Iterator[np.ndarray]:
    """Yields the network's scores (channels, H, W) float32 of images (C, H, W) as acquired, each normalised whole."""
    for image in images:
        values = normalised(image[None], statistics(normalise, image[None]))
        shown = torch.from_numpy(values).to(device)
        yield predict(network, shown, divisor=divisor, precision=precision)[0].cpu().numpy()


def tuned(
    target: Target, scores: Iterable[np.ndarray], labels: Iterable[np.ndarray], *, metric: TuningMetric = "ap_mean"
) -> dict[str, Any]:
    """Returns the decode parameters that reach the best value of the metric on these images, and what was searched.

    Of equally good ones the first found stays. scores: (channels, H, W) of each image; labels (H, W). `value` and
    `value_of_defaults` are of all images; `searched` tells how many the search ran on, `decoded` how often an image was
    decoded.
    """
    pairs = list(zip(scores, labels, strict=True))
    order = sorted(range(len(pairs)), key=lambda index: -_objects(pairs[index][1]) / pairs[index][1].size)
    trials = _Trials(target, [pairs[index] for index in order], metric)
    defaults = dict(target.parameters)
    default = trials.value(defaults)
    glance = _Trials(target, trials.pairs[:GLANCE], metric)
    if metric not in LOWER_IS_BETTER and default < LEAST and len(pairs) > GLANCE:
        parameters, reached = _searched(target, glance)
        noise = reached < LEAST
    else:
        parameters, noise = defaults, False
    if noise:
        best = trials.value(parameters)
        parameters, best = (parameters, best) if best > default else (defaults, default)
    else:
        parameters, best = _searched(target, trials)
    told: dict[str, Any] = {"metric": metric, "value": trials.shown(best), "value_of_defaults": trials.shown(default)}
    searched = glance if noise else trials
    counts = {"images": len(pairs), "searched": len(searched.pairs), "decoded": trials.decoded + glance.decoded}
    return {"parameters": parameters, **told, **counts, "defaults": defaults}


def _objects(labels: np.ndarray) -> int:
    return int(np.count_nonzero(np.unique(labels) > 0))


def _searched(target: Target, trials: _Trials) -> tuple[dict[str, float], float]:
    parameters = dict(target.parameters)
    best = trials.value(parameters)
    for _ in range(SWEEPS):
        before = dict(parameters)
        for name, values in target.ranges.items():
            parameters, best = _best_of(parameters, best, name, values, trials.value)
        if parameters == before:
            break
    return parameters, best


def _best_of(
    parameters: dict[str, float],
    best: float,
    name: str,
    values: Sequence[float],
    reached: Callable[[Mapping[str, float], float], float],
) -> tuple[dict[str, float], float]:
    for value in values:
        if value != parameters[name]:
            asked = {**parameters, name: value}
            found = reached(asked, best)
            if found > best:
                parameters, best = asked, found
    return parameters, best


@dataclass
class _Trials:
    """What parameters reach on the images; larger is better, −1 where the metric is not defined."""

    target: Target
    pairs: Sequence[tuple[np.ndarray, np.ndarray]]
    metric: TuningMetric
    decoded: int = 0
    known: dict[tuple[float, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.true = [_objects(labels) for _, labels in self.pairs]

    def value(self, parameters: Mapping[str, float], best: float = -np.inf) -> float:
        """Returns what the parameters reach; as soon as that is sure to be no more than `best`, a bound of it.

        What is known to be no better than one best is none for a later one, which is no worse.
        """
        asked = tuple(parameters.values())
        if asked not in self.known:
            count = self._by_matches if self.metric in OF_MATCHES else self._by_all
            found = count(parameters, best)
            self.known[asked] = found
        return self.known[asked]

    def shown(self, value: float) -> float:
        """Returns the value as the metric itself has it."""
        return -value if self.metric in LOWER_IS_BETTER else value

    def _by_matches(self, parameters: Mapping[str, float], best: float) -> float:
        found = _Matches(OF_MATCHES[self.metric], AT[self.metric], rest=sum(self.true))
        for scores, labels in self.pairs:
            found.add(labels, self._decode(scores, parameters))
            if found.most() <= best:
                break
        return found.most()

    def _by_all(self, parameters: Mapping[str, float], _: float) -> float:
        tallies = [object_metrics.tally(labels, self._decode(scores, parameters)) for scores, labels in self.pairs]
        value = object_metrics.scores(object_metrics.merged(tallies))[self.metric]
        return -1.0 if np.isnan(value) else self.shown(value)

    def _decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        self.decoded += 1
        return self.target.decode(scores, parameters)


class _Matches:
    """Counts of matched objects over some images, where `rest` true objects are in those not counted yet."""

    def __init__(self, kind: str, at: slice, *, rest: int) -> None:
        self.kind, self.at, self.rest = kind, at, rest
        self.true = self.predicted = 0
        self.hits = np.zeros(len(object_metrics.THRESHOLDS), np.int64)

    def add(self, true: np.ndarray, predicted: np.ndarray) -> None:
        table = matching.overlap(true, predicted)
        iou = matching.match(table, object_metrics.THRESHOLDS[0]).iou
        self.hits += (iou[:, None] >= np.array(object_metrics.THRESHOLDS)).sum(0)
        self.true += table.true_ids.size
        self.predicted += table.predicted_ids.size
        self.rest -= table.true_ids.size

    def most(self) -> float:
        """Returns the score, all of the rest counted as found and nothing else; −1 where there are no objects."""
        hits = self.hits[self.at] + self.rest
        both = self.true + self.predicted + 2 * self.rest
        if both == 0:
            return -1.0
        return float((hits / (both - hits) if self.kind == "ap" else 2 * hits / both).mean())


def chosen(images: Sequence[Labelled]) -> list[Labelled]:
    """Returns at most `MOST_IMAGES` of the images, evenly spaced, and at most `MOST_PX` pixels in all."""
    count = min(MOST_IMAGES, len(images))
    while True:
        kept = [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]
        if count <= 1 or sum(labels.size for _, labels in kept) <= MOST_PX:
            return kept
        count -= 1
