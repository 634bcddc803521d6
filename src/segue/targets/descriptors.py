"""Local shape descriptors beside affinities of neighboring pixels (Sheridan et al., Nature Methods 20, 295 (2023)).

The six descriptors of a pixel are statistics of its object within a Gaussian window around it, weighted by the window,
all in [0, 1] and 0 outside objects: the offset from the pixel to the mean position, y and x, as 0.5 + offset / 2 sigma;
the variances along y and x, divided by sigma²; their correlation r, as 0.5 + r / 2; and the weight of the object in the
window. Beyond the image, and where pixels are ignored, there is no object. The window ends at 3 sigma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import edt
import numpy as np
import torch
from torch import Tensor

from segue.data.augmentation import FLIP_X, FLIP_Y, TRANSPOSE
from segue.labels import ops, watershed
from segue.targets import losses
from segue.targets.kernels import descriptors as kernels
from segue.targets.losses import REGRESSION_LOSSES, LossSettings
from segue.targets.specs import DescriptorsSpec, RegressionName
from segue.targets.target import (
    OBJECT_LOGIT,
    LabelInfo,
    ObjectTarget,
    count_known,
    logit,
    object_names,
    transform_channels,
)

DESCRIPTORS = 6
FOREGROUND = 6  # the channel behind the descriptors, before the affinities
DECODE_SEARCH_SPACE = {
    "foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
}
SEARCH_AFFINITIES = {
    "seed_threshold": (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "depth": (0.05, 0.1, 0.2, 0.3, 0.5),
    "edge_threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "keep_unseeded": (0.0, 1.0),
}
SEARCH_OFFSETS = {"depth": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), "least": (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)}


@dataclass(frozen=True)
class Descriptors(ObjectTarget):
    """Logits of the six descriptors, of an object, and, where `affinities`, of the two affinities of each pixel.

    Affinities are with the pixel above and with the one to the left: 1 within one object, 0 elsewhere. Encoded labels
    have the same channels; the seventh is 1 object, 0 background, −1 ignored, and unknown affinities are −1.

    Decoding with affinities follows the paper: pixels whose affinities are all above `seed_threshold` are inner ones;
    maxima of the distance to others are seeds, where they are deeper than the fraction `depth` of their height; they
    grow over affinities above `edge_threshold`, the strongest first, within the foreground (probability above
    `foreground_threshold`), to fragments; and fragments that touch with a mean affinity above `edge_threshold` are one.
    What no seed reaches is an object of its own where `keep_unseeded` is 1. Decoding without: the foreground is flooded
    from where the offset is short, along 1 − |offset| / sigma; two such maxima are one object where the path between
    descends by less than the fraction `depth` of the lower one, and those below `least` are left out. Objects of less
    than `min_size_px` pixels are removed.
    """

    sigma_px: float = field(default=10.0, kw_only=True)
    affinities: bool = field(default=True, kw_only=True)
    descriptor_weight: float = field(default=1.0, kw_only=True)
    descriptor_loss: RegressionName = field(default="squared_error", kw_only=True)

    @property
    def channels(self) -> int:
        return DESCRIPTORS + 1 + 2 * self.affinities

    @property
    def score_channels(self) -> dict[str, str]:
        names = ("offset_y", "offset_x", "variance_y", "variance_x", "correlation", "weight")
        affinities = {"affinity_up": "above", "affinity_left": "to the left"} if self.affinities else {}
        return {
            **dict.fromkeys(names, f"logit of the descriptor, in a window of sigma {self.sigma_px:g} px"),
            **OBJECT_LOGIT,
            **{name: f"logit of being in one object with the pixel {place}" for name, place in affinities.items()},
        }

    @property
    def foreground(self) -> int:
        return FOREGROUND

    @property
    def decode_params(self) -> Mapping[str, float]:
        if self.affinities:
            params = {"seed_threshold": 0.5, "depth": 0.2, "edge_threshold": 0.5, "keep_unseeded": 1.0}
        else:
            params = {"depth": 0.1, "least": 0.5}
        return params | {"foreground_threshold": 0.5, "min_size_px": 15.0}

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        return (SEARCH_AFFINITIES if self.affinities else SEARCH_OFFSETS) | DECODE_SEARCH_SPACE

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        numbers, ids = ops.relabel_sequential(labels)
        out[:DESCRIPTORS] = kernels.descriptors(numbers, len(ids), sigma_px=self.sigma_px)
        out[FOREGROUND] = numbers.clip(-1, 1)
        if self.affinities:
            out[FOREGROUND + 1 :] = kernels.affinities(numbers)

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns the values of descriptors in objects, the normalizers of the foreground's loss, and the known
        affinities, (T,)."""
        normalizers = [DESCRIPTORS * (encoded[:, FOREGROUND] > 0).sum().float()[None]]
        normalizers.append(self.foreground_normalizers(encoded))
        if self.affinities:
            normalizers.append(count_known(encoded[:, FOREGROUND + 1 :])[None])
        return torch.cat(normalizers)

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the weighted loss of descriptors in objects, that of the foreground, and the binary cross entropy of
        affinities, (T,)."""
        scores = scores.float()
        inside = (encoded[:, FOREGROUND] > 0)[:, None]
        error = (scores[:, :DESCRIPTORS].sigmoid() - encoded[:, :DESCRIPTORS]).where(inside, 0)
        sums = [self.descriptor_weight * REGRESSION_LOSSES[self.descriptor_loss](error).sum()[None]]
        sums.append(self.foreground_sums(scores, encoded))
        if self.affinities:
            affinities = losses.binary_cross_entropy(scores[:, FOREGROUND + 1 :], encoded[:, FOREGROUND + 1 :])
            sums.append(affinities[None])
        return torch.cat(sums)

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels transformed by codes (N,): offsets, correlations and affinities as well."""
        moved = transform_channels(encoded, codes)
        if moved is encoded:
            return encoded
        for image, code in zip(moved, codes.tolist(), strict=True):
            self._transform_values(image, code)
        return moved

    def _transform_values(self, image: Tensor, code: int) -> None:
        """Transforms the values of one image's channels, whose pixels were moved already, in place."""
        if code & TRANSPOSE:
            image[:4] = image[[1, 0, 3, 2]]
            if self.affinities:
                image[FOREGROUND + 1 :] = image[[FOREGROUND + 2, FOREGROUND + 1]]
        outside = image[FOREGROUND] <= 0
        for flip, channel, axis in ((FLIP_Y, 0, 0), (FLIP_X, 1, 1)):
            if not code & flip:
                continue
            for mirrored in (channel, 4):
                image[mirrored] = (1 - image[mirrored]).masked_fill(outside, 0)
            if self.affinities:  # a pair is written at its second pixel, which was its first
                image[FOREGROUND + 1 + channel] = image[FOREGROUND + 1 + channel].roll(1, axis)

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        """Returns the logits of transformed images: 1 − p has the logit of p with the other sign."""
        scores = super().transform_scores(scores, code).clone()
        if code & TRANSPOSE:
            scores[:, :4] = scores[:, [1, 0, 3, 2]]
            if self.affinities:
                scores[:, FOREGROUND + 1 :] = scores[:, [FOREGROUND + 2, FOREGROUND + 1]]
        for flip, channel in ((FLIP_Y, 0), (FLIP_X, 1)):
            if not code & flip:
                continue
            scores[:, [channel, 4]] *= -1
            if self.affinities:  # a pair is written at its second pixel, which was its first
                affinity = FOREGROUND + 1 + channel
                scores[:, affinity] = scores[:, affinity].roll(1, 1 + channel)
        return scores

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W)."""
        mask = scores[FOREGROUND] > logit(params["foreground_threshold"])
        labels = (_decode_affinities if self.affinities else _decode_offsets)(scores, mask, params)
        return ops.remove_small(labels, min_size_px=params["min_size_px"])


def _decode_affinities(scores: np.ndarray, mask: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
    up, left = 1 / (1 + np.exp(-scores[FOREGROUND + 1 :].clip(-80, 80)))
    # seeds: maxima of the distance within inner pixels
    inner = kernels.inner_pixels(up, left, mask, params["seed_threshold"])
    distance = edt.edt(inner, black_border=False)
    seeds = watershed.seeds_by_dynamics(distance, inner, min_depth=params["depth"], join_above=np.inf, min_height=0)
    seeds, _ = ops.relabel_sequential(seeds)
    # fragments: what seeds reach over strong affinities; then those that touch are merged
    threshold = params["edge_threshold"]
    labels = kernels.flood_affinities(up, left, mask, seeds, threshold, bool(params["keep_unseeded"]))
    return kernels.merge_fragments(up, left, labels, int(labels.max(initial=0)), threshold=threshold)


def _decode_offsets(scores: np.ndarray, mask: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
    y, x = np.tanh(scores[:2] / 2)  # 2 sigmoid − 1: the offset in units of sigma
    closeness = 1 - np.sqrt((y**2 + x**2) / 2)
    seeds = watershed.seeds_by_dynamics(
        closeness, mask, min_depth=params["depth"], join_above=np.inf, min_height=params["least"]
    )
    return watershed.flood(closeness, seeds, mask)


def build(spec: DescriptorsSpec, labels: LabelInfo) -> Descriptors:
    return Descriptors(
        object_names(labels, spec.name),
        loss=LossSettings(spec.loss_spec),
        sigma_px=spec.sigma_px,
        affinities=spec.affinities,
        descriptor_weight=spec.descriptor_weight,
        descriptor_loss=spec.descriptor_loss,
    )
