"""The probability that a pixel belongs to an object; objects are its connected parts, so that touching ones merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segue.labels import ops
from segue.targets.losses import LossSettings
from segue.targets.specs import ForegroundSpec
from segue.targets.target import OBJECT_LOGIT, LabelInfo, ObjectTarget, logit, object_names


@dataclass(frozen=True)
class Foreground(ObjectTarget):
    """One logit per pixel. Encoded labels are one channel: 1 object, 0 background, −1 ignored.

    Decoding takes pixels of a probability above `threshold`, fills holes of up to `fill_holes_px` pixels, joins pixels
    at their sides to objects, and removes those of less than `min_size_px` pixels.
    """

    DECODE_PARAMS = {"threshold": 0.5, "min_size_px": 15.0, "fill_holes_px": 0.0}
    DECODE_SEARCH_SPACE = {
        "threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
        "fill_holes_px": (0.0, 20.0, 100.0),
    }

    @property
    def channels(self) -> int:
        return 1

    @property
    def score_channels(self) -> Mapping[str, str]:
        return OBJECT_LOGIT

    def encode(self, labels: Tensor) -> Tensor:
        """Returns (N, 1, H, W) float32 of labels (N, H, W) int64."""
        return labels.clamp(-1, 1)[:, None].float()

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (1, H, W)."""
        mask = scores[0] > logit(params["threshold"])
        mask = ops.fill_holes(mask.astype(np.int32), max_size_px=params["fill_holes_px"]) > 0
        return ops.remove_small(ops.connected_components(mask), min_size_px=params["min_size_px"])


def build(spec: ForegroundSpec, labels: LabelInfo) -> Foreground:
    return Foreground(object_names(labels, spec.name), loss=LossSettings(spec.loss_spec))
