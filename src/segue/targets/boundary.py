"""Background, interior and boundary of objects; interiors are the seeds of a watershed that restores the boundaries.

The three-class representation of the Data Science Bowl 2018 (Caicedo et al., Nature Methods 16, 1247 (2019), who weigh
the boundary more than the rest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segue.labels import IGNORED, ops, watershed
from segue.targets import losses
from segue.targets.kernels.boundary import BOUNDARY, INTERIOR, UNKNOWN, boundary_classes
from segue.targets.losses import LossSettings
from segue.targets.specs import BoundarySpec
from segue.targets.target import LabelInfo, ObjectTarget, object_names, with_background


@dataclass(frozen=True)
class Boundary(ObjectTarget):
    """Three scores per pixel: background, interior, boundary; its pixels are scored as background or object.

    Encoded labels are one channel: these classes as 0, 1, 2; 3 for pixels of an object whose class depends on ignored
    pixels nearby, which count in scores but not in the loss; −1 ignored. `loss` is that of the three classes; its
    weights, where it has any, are 1, 1 and the boundary's.

    Decoding takes the connected pixels whose probability of interior is above `seed_threshold` as seeds, leaves out
    those of less than `seed_min_px` pixels, and floods the pixels whose probability of background is less than
    1 − `foreground_threshold`, from high to low probability of interior. What no seed reaches is an object of its own
    where `keep_unseeded` is 1, and background where it is 0. Objects of less than `min_size_px` pixels are removed.
    """

    DECODE_PARAMS = {
        "seed_threshold": 0.5,
        "foreground_threshold": 0.5,
        "seed_min_px": 0.0,
        "min_size_px": 15.0,
        "keep_unseeded": 1.0,
    }
    DECODE_SEARCH_SPACE = {
        "seed_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        "seed_min_px": (0.0, 3.0, 8.0, 20.0),
        "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
        "keep_unseeded": (0.0, 1.0),
    }

    boundary_px: float = field(default=2.0, kw_only=True)
    objects_only: bool = field(default=False, kw_only=True)

    @property
    def channels(self) -> int:
        return 3

    @property
    def score_channels(self) -> dict[str, str]:
        classes = ("background", "interior", "boundary")
        return {name: f"score of {name}; the softmax of the three are probabilities" for name in classes}

    @property
    def target_channels(self) -> int:
        return 1

    @property
    def min_loss(self) -> float:
        return losses.min_loss(self.loss, 3)

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        numbers, ids = ops.relabel_sequential(labels)
        out[0] = boundary_classes(numbers, len(ids), boundary_px=self.boundary_px, objects_only=self.objects_only)

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns the weight of the pixels whose class is known, or for some losses the number of images, (T,)."""
        if self.loss.weights is None:
            return losses.normalizers(_known_classes(encoded), self.loss)
        # the same as the sum of the pixels' weights, but exact; the losses that have weights are means over pixels
        known = ((encoded >= 0) & (encoded < UNKNOWN)).sum().float()
        pixels = known + (self.loss.weights[BOUNDARY] - 1) * (encoded == BOUNDARY).sum()
        normalizers = losses.normalizers(_known_classes(encoded), self.loss)
        return torch.cat([pixels[None], normalizers[1:]])

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the sums of the loss over the pixels whose class is known, (T,)."""
        return losses.loss_sums(scores.float(), _known_classes(encoded), self.loss)

    def target_classes(self, encoded: Tensor) -> Tensor:
        return encoded[:, 0].clamp(max=1).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32."""
        return with_background(1 - scores.float().softmax(1)[:, 0])

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where interior and boundary together are more probable than the background."""
        return (scores[:, 1:].float().logsumexp(1) > scores[:, 0]).long()

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (3, H, W)."""
        probabilities = np.exp(scores - scores.max(0))
        probabilities /= probabilities.sum(0)
        interior, mask = probabilities[INTERIOR], probabilities[0] < 1 - params["foreground_threshold"]
        seeds = ops.connected_components(mask & (interior > params["seed_threshold"]))
        seeds = ops.remove_small(seeds, min_size_px=params["seed_min_px"])
        labels = watershed.flood(interior, seeds, mask)
        if params["keep_unseeded"]:
            labels = watershed.add_unseeded_components(labels, mask)
        return ops.remove_small(labels, min_size_px=params["min_size_px"])


def _known_classes(encoded: Tensor) -> Tensor:
    """Returns the classes (N, H, W) int64, −1 where ignored or unknown."""
    classes = encoded[:, 0].long()
    return classes.masked_fill(classes == UNKNOWN, IGNORED)


def build(spec: BoundarySpec, labels: LabelInfo) -> Boundary:
    weights = None if spec.boundary_weight == 1 else (1.0, 1.0, spec.boundary_weight)
    return Boundary(
        object_names(labels, spec.name),
        loss=LossSettings(spec.loss_spec, weights),
        boundary_px=spec.boundary_px,
        objects_only=spec.towards == "objects",
    )
