"""Decode parameters, chosen by what they reach on validation images and never on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from segue.data.normalise import NormaliseSpec, normalised, statistics
from segue.data.wholes import Labelled
from segue.device import Precision
from segue.evaluation import objects
from segue.inference.forward import predict
from segue.targets.target import Target

MOST_IMAGES = 64  # evenly spaced: decoding each a hundred times must not outlast the training
SWEEPS = 3  # over all parameters; mostly the second changes nothing
METRIC = "ap_mean"


def scored_images(
    network: nn.Module,
    images: Sequence[np.ndarray],
    *,
    normalise: NormaliseSpec,
    divisor: int,
    device: torch.device | str,
    precision: Precision,
) -> list[np.ndarray]:
    """Returns the network's scores (channels, H, W) float32 of images (C, H, W) as acquired, each normalised whole."""
    found = []
    for image in images:
        values = normalised(image[None], statistics(normalise, image[None]))
        shown = torch.from_numpy(values).to(device)
        found.append(predict(network, shown, divisor=divisor, precision=precision)[0].cpu().numpy())
    return found


def tuned(target: Target, scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns the decode parameters that reach the highest mean AP (IoU 0.5 to 0.95) on these images, and the search.

    One parameter after another over the target's ranges, from the defaults, until a sweep changes nothing; of equals
    the first found stays. scores: (channels, H, W) of each image; labels (H, W).
    """

    def reached(parameters: Mapping[str, float]) -> float:
        tallies = [
            objects.tally(true, target.decode(shown, parameters)) for shown, true in zip(scores, labels, strict=True)
        ]
        value = objects.scores(objects.merged(tallies))[METRIC]
        return -1.0 if np.isnan(value) else value

    parameters = dict(target.parameters)
    default = best = reached(parameters)
    for _ in range(SWEEPS):
        before = dict(parameters)
        for name, values in target.ranges.items():
            parameters, best = _best_of(parameters, best, name, values, reached)
        if parameters == before:
            break
    told = {"metric": METRIC, "value": best, "value_of_defaults": default}
    return {"parameters": parameters, **told, "images": len(labels), "defaults": dict(target.parameters)}


def _best_of(
    parameters: dict[str, float],
    best: float,
    name: str,
    values: Sequence[float],
    reached: Callable[[Mapping[str, float]], float],
) -> tuple[dict[str, float], float]:
    for value in values:
        if value != parameters[name]:
            asked = {**parameters, name: value}
            found = reached(asked)
            if found > best:
                parameters, best = asked, found
    return parameters, best


def chosen(images: Sequence[Labelled]) -> list[Labelled]:
    """Returns at most `MOST_IMAGES` of the images, evenly spaced."""
    count = min(MOST_IMAGES, len(images))
    return [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]
