"""Background, interior and boundary of objects; interiors are the seeds of a watershed that gives boundaries back.

The three-class representation of the Data Science Bowl 2018 (Caicedo et al., Nature Methods 16, 1247 (2019), who weigh
the boundary more than the rest).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.labels import watershed
from segue.targets import target
from segue.targets.kernels import boundary
from segue.targets.kernels.boundary import BOUNDARY, INTERIOR, UNKNOWN
from segue.targets.specs import BoundarySpec

CERTAIN = 10.0  # the logit of a perfect network
PARAMETERS = {
    "seed_threshold": 0.5,
    "foreground_threshold": 0.5,
    "seed_min_px": 0.0,
    "min_size_px": 15.0,
    "keep_unseeded": 1.0,
}
RANGES = {
    "seed_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "seed_min_px": (0.0, 3.0, 8.0, 20.0),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
    "keep_unseeded": (0.0, 1.0),
}


@dataclass(frozen=True)
class Boundary:
    """Three scores per pixel: background, interior, boundary; its pixels are scored as background or object.

    Encoded labels are one plane: these classes as 0, 1, 2; 3 for pixels of an object whose class depends on ignored
    pixels nearby, which count in scores but not in the loss; −1 ignored.

    Decoding takes the connected pixels whose probability of interior is above `seed_threshold` as seeds, leaves out
    those of less than `seed_min_px` pixels, and floods the pixels whose probability of background is less than
    1 − `foreground_threshold`, from high to low probability of interior. What no seed reaches is an object of its own
    where `keep_unseeded` is 1, and background where it is 0. Objects of less than `min_size_px` pixels are left out.
    """

    names: tuple[str, ...]
    boundary_px: float = 2.0
    objects_only: bool = False
    boundary_weight: float = 1.0
    channels: int = field(default=3, init=False)
    planes: int = field(default=1, init=False)
    floor: float = field(default=0.0, init=False)

    @property
    def parameters(self) -> Mapping[str, float]:
        return PARAMETERS

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return RANGES

    def encode(self, labels: Tensor) -> Tensor:
        """Returns (N, 1, H, W) float32 of labels (N, H, W) int64."""
        return target.encoded_each(labels, self.planes, self._encoded)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        numbers, count = watershed.consecutive(labels)
        return boundary.classes(numbers, count, boundary_px=self.boundary_px, objects_only=self.objects_only)[None]

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns the weight of the pixels whose class is known, (1,)."""
        known = ((encoded >= 0) & (encoded < UNKNOWN)).sum().float()
        return (known + (self.boundary_weight - 1) * (encoded == BOUNDARY).sum())[None]

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the weighted cross entropy summed over the pixels whose class is known, (1,)."""
        classes = encoded[:, 0].long()
        classes = classes.masked_fill(classes == UNKNOWN, target.IGNORED)
        weights = None
        if self.boundary_weight != 1:
            weights = torch.ones(3, device=scores.device)
            weights[BOUNDARY:].fill_(self.boundary_weight)
        total = F.cross_entropy(scores.float(), classes, weights, ignore_index=target.IGNORED, reduction="sum")
        return total[None]

    def truth(self, encoded: Tensor) -> Tensor:
        return encoded[:, 0].clamp(max=1).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32."""
        return target.two_probabilities(1 - scores.float().softmax(1)[:, 0])

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where interior and boundary together are more probable than the background."""
        return (scores[:, 1:].float().logsumexp(1) > scores[:, 0]).long()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels turned by the dihedral codes (N,)."""
        return target.moved(encoded, codes)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (3, H, W)."""
        odds = np.exp(scores - scores.max(0))
        odds /= odds.sum(0)
        interior, mask = odds[INTERIOR], odds[0] < 1 - parameters["foreground_threshold"]
        seeds = watershed.components(mask & (interior > parameters["seed_threshold"]))
        seeds = watershed.in_scan_order(seeds, min_size_px=parameters["seed_min_px"])
        labels = watershed.flood(interior, seeds, mask)
        if parameters["keep_unseeded"]:
            labels = watershed.with_unseeded(labels, mask)
        return watershed.in_scan_order(labels, min_size_px=parameters["min_size_px"])

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (3, H, W) of a perfect network for one image's encoding (1, H, W)."""
        classes = np.where(encoded[0] == UNKNOWN, INTERIOR, encoded[0].clip(min=0))
        return np.where(classes == np.arange(3)[:, None, None], CERTAIN, -CERTAIN).astype(np.float32)


def build(spec: BoundarySpec, *, names: Sequence[str], where: str) -> Boundary:
    """Returns the target for a layer of objects, `names` being the background's and the objects'."""
    return Boundary(
        target.background_and_object(names, where=where, target=spec.name),
        boundary_px=spec.boundary_px,
        objects_only=spec.towards == "objects",
        boundary_weight=spec.boundary_weight,
    )
