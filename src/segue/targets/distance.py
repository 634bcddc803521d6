"""The distance to an object's border, whose maxima are the seeds of a watershed.

Distance alone is DIST (Naylor et al., IEEE TMI 38, 448 (2018)); a foreground probability beside it makes the outline
independent of small distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import edt
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segue.labels import ops, watershed
from segue.targets import losses
from segue.targets.kernels.distance import divide_by_maxima
from segue.targets.losses import REGRESSION_LOSSES, LossSettings
from segue.targets.specs import DistanceSpec, RegressionName
from segue.targets.target import (
    OBJECT_LOGIT,
    LabelInfo,
    ObjectTarget,
    count_known,
    logit,
    object_names,
    with_background,
)

UNKNOWN = -1.0
DECODE_SEARCH_SPACE = {
    "depth": (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6),
    "sigma_px": (0.0, 0.5, 1.0, 2.0, 3.0),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
}
SEARCH_NORMALIZED = {
    "join": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "least": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "foreground_threshold": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
}
SEARCH_PX = {
    "join": (1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
    "least": (0.0, 1.0, 1.5, 2.0, 3.0, 4.0),
    "foreground_threshold": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
}
SEARCH_PROBABILITY = {"foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}


@dataclass(frozen=True)
class Distance(ObjectTarget):
    """A distance per pixel, and beside it, where `with_foreground`, the logit of an object.

    Encoded labels are two channels: the distance, −1 where it is unknown or ignored; and 1 object, 0 background, −1
    ignored. The distance is that between the centers of a pixel and of the nearest one outside its object, so that
    outermost pixels have 1 px. Beyond the image's border the object is assumed to continue. A distance is unknown where
    nothing nearer than an ignored pixel, or nothing at all, is outside the object.

    Decoding smooths the distance by a Gaussian of `sigma_px` and floods the foreground from its maxima. Two of them are
    one object where the path between stays above `join`, or descends by less than the fraction `depth` of the lower
    one; maxima below `least` are left out, and objects of less than `min_size_px` pixels. `foreground_threshold` is of
    the probability, or without one of the distance; `join` and `least` have the unit of the distance.
    """

    normalized: bool = field(default=False, kw_only=True)
    with_foreground: bool = field(default=True, kw_only=True)
    foreground_weight: float = field(default=1.0, kw_only=True)
    distance_loss: RegressionName = field(default="squared_error", kw_only=True)

    @property
    def channels(self) -> int:
        return 2 if self.with_foreground else 1

    @property
    def score_channels(self) -> dict[str, str]:
        unit = "divided by the object's largest" if self.normalized else "in px"
        return {"distance": f"distance to the border, {unit}"} | (OBJECT_LOGIT if self.with_foreground else {})

    @property
    def target_channels(self) -> int:
        return 2

    @property
    def foreground(self) -> int:
        return 1

    @property
    def half_level(self) -> float:
        """The distance that has a probability of one half where there is no foreground score."""
        return 0.05 if self.normalized else 0.5

    @property
    def min_loss(self) -> float:
        return self.foreground_weight * losses.min_loss(self.loss, 2) if self.with_foreground else 0.0

    @property
    def decode_params(self) -> Mapping[str, float]:
        in_unit = {"join": 1.0, "least": 0.2} if self.normalized else {"join": 2.0, "least": 1.0}
        threshold = 0.5 if self.with_foreground else self.half_level
        return {"depth": 0.5, **in_unit, "foreground_threshold": threshold, "sigma_px": 0.0, "min_size_px": 15.0}

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        in_unit = SEARCH_NORMALIZED if self.normalized else SEARCH_PX
        return DECODE_SEARCH_SPACE | in_unit | (SEARCH_PROBABILITY if self.with_foreground else {})

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        numbers, ids = ops.relabel_sequential(labels)
        distance = edt.edt(numbers, black_border=False)
        ignored = numbers < 0
        unknown = ~np.isfinite(distance)
        if ignored.any():  # a border to the library: distances that reach it are unknown
            unknown |= distance >= edt.edt(~ignored, black_border=False)
        distance[(numbers == 0) | unknown] = 0
        if self.normalized:
            divide_by_maxima(distance, numbers, len(ids))
        distance[(unknown & (numbers > 0)) | ignored] = UNKNOWN
        out[0], out[1] = distance, numbers.clip(-1, 1)

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns the number of known distances, and the normalizers of the foreground's loss, (T,)."""
        known = count_known(encoded[:, 0])[None]
        return torch.cat([known, self.foreground_normalizers(encoded)]) if self.with_foreground else known

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the summed loss of the distance and the weighted loss of the foreground, (T,)."""
        error = (scores[:, 0].float() - encoded[:, 0]).where(encoded[:, 0] >= 0, 0)
        distance = REGRESSION_LOSSES[self.distance_loss](error).sum()[None]
        if not self.with_foreground:
            return distance
        return torch.cat([distance, self.foreground_weight * self.foreground_sums(scores, encoded)])

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32.

        Without a foreground score the probability rises with the distance, linearly to 1 at twice `half_level`.
        """
        if self.with_foreground:
            return super().probabilities(scores)
        return with_background((scores[:, 0].float() / (2 * self.half_level)).clamp(0, 1))

    def classes(self, scores: Tensor) -> Tensor:
        return super().classes(scores) if self.with_foreground else (scores[:, 0] > self.half_level).long()

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W)."""
        distance, threshold = scores[0], params["foreground_threshold"]
        mask = scores[1] > logit(threshold) if self.with_foreground else distance > threshold
        if params["sigma_px"] > 0:
            distance = ndimage.gaussian_filter(distance, params["sigma_px"], mode="nearest", truncate=3)
        seeds = watershed.seeds_by_dynamics(
            distance, mask, min_depth=params["depth"], join_above=params["join"], min_height=params["least"]
        )
        labels = watershed.flood(distance, seeds, mask)
        if self.normalized:  # back to pixels, or small objects would grow into large ones that they touch
            labels = watershed.flood(watershed.scale_by_size(distance, labels), seeds, mask)
        return ops.remove_small(labels, min_size_px=params["min_size_px"])


def build(spec: DistanceSpec, labels: LabelInfo) -> Distance:
    return Distance(
        object_names(labels, spec.name),
        loss=LossSettings(spec.loss_spec),
        normalized=spec.normalized,
        with_foreground=spec.foreground,
        foreground_weight=spec.foreground_weight,
        distance_loss=spec.distance_loss,
    )
