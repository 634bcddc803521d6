"""The probability that a pixel belongs to an object; objects are its connected parts, so that touching ones merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from segue.labels import watershed
from segue.targets import target
from segue.targets.specs import ForegroundSpec

CERTAIN = 10.0  # the logit of a perfect network
PARAMETERS = {"threshold": 0.5, "min_size_px": 15.0, "fill_holes_px": 0.0}
RANGES = {
    "threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
    "fill_holes_px": (0.0, 20.0, 100.0),
}


@dataclass(frozen=True)
class Foreground:
    """One logit per pixel. Encoded labels are one plane: 1 object, 0 background, −1 ignored.

    Decoding takes pixels of a probability above `threshold`, fills holes of up to `fill_holes_px` pixels, joins pixels
    at their sides to objects, and leaves out those of less than `min_size_px` pixels.
    """

    names: tuple[str, ...]
    channels: int = field(default=1, init=False)
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
        return labels.clamp(-1, 1)[:, None].float()

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns the number of labelled pixels, (1,)."""
        return target.known_pixels(encoded)[None]

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the binary cross entropy summed over labelled pixels, (1,)."""
        return target.binary_cross_entropy(scores, encoded)[None]

    def truth(self, encoded: Tensor) -> Tensor:
        return encoded[:, 0].long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32."""
        return target.two_probabilities(scores[:, 0].float().sigmoid())

    def classes(self, scores: Tensor) -> Tensor:
        return (scores[:, 0] > 0).long()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels turned by the dihedral codes (N,)."""
        return target.moved(encoded, codes)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (1, H, W)."""
        mask = scores[0] > target.logit(parameters["threshold"])
        mask = watershed.holes_filled(mask.astype(np.int32), largest_px=parameters["fill_holes_px"]) > 0
        return watershed.in_scan_order(watershed.components(mask), min_size_px=parameters["min_size_px"])

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (1, H, W) of a perfect network for one image's encoding (1, H, W)."""
        return np.where(encoded > 0, CERTAIN, -CERTAIN).astype(np.float32)


def build(spec: ForegroundSpec, *, names: Sequence[str], where: str) -> Foreground:
    """Returns the target for a layer of objects, `names` being the background's and the objects'."""
    return Foreground(target.background_and_object(names, where=where, target=spec.name))
