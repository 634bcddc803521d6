"""Distances divided by their greatest value in each object.

The distance to an object's border, whose maxima are the seeds of a watershed.

Distance alone is DIST (Naylor et al., IEEE TMI 38, 448 (2018)); a foreground probability beside it makes the outline
independent of small distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import edt
import numpy as np
import torch
from numba import njit
from scipy import ndimage
from torch import Tensor

from segue.labels import watershed
from segue.targets import target
from segue.targets.specs import DistanceSpec


@njit(cache=True, nogil=True)
def normalise(distance: np.ndarray, numbers: np.ndarray, count: int) -> None:
    """Divides distances (H, W) float32, in place, by their maximum in each object 1 … count, where that is above 0."""
    height, width = numbers.shape
    maxima = np.zeros(count + 1, dtype=np.float32)
    for y in range(height):
        for x in range(width):
            label = numbers[y, x]
            if label > 0:
                maxima[label] = max(maxima[label], distance[y, x])
    for y in range(height):
        for x in range(width):
            label = numbers[y, x]
            if label > 0 and maxima[label] > 0:
                distance[y, x] /= maxima[label]


CERTAIN = 10.0  # the logit of a perfect network
UNKNOWN = -1.0
RANGES = {
    "depth": (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6),
    "sigma_px": (0.0, 0.5, 1.0, 2.0, 3.0),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
}
NORMALISED = {
    "join": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "least": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "foreground_threshold": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
}
IN_PX = {
    "join": (1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
    "least": (0.0, 1.0, 1.5, 2.0, 3.0, 4.0),
    "foreground_threshold": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
}
PROBABILITY = {"foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)}


@dataclass(frozen=True)
class Distance:
    """A distance per pixel, and beside it, where `foreground`, the logit of an object.

    Encoded labels are two planes: the distance, −1 where it is unknown or ignored; and 1 object, 0 background, −1
    ignored. The distance is that between the centres of a pixel and of the nearest one outside its object, so that
    outermost pixels have 1 px. Beyond the image's border the object is taken to go on. A distance is unknown where
    nothing nearer than an ignored pixel, or nothing at all, is outside the object.

    Decoding smooths the distance by a Gaussian of `sigma_px` and floods the foreground from its maxima. Two of them are
    one object where the way between stays above `join`, or descends by less than the share `depth` of the lower one;
    maxima below `least` are left out, and objects of less than `min_size_px` pixels. `foreground_threshold` is of the
    probability, or without one of the distance; `join` and `least` have the unit of the distance.
    """

    names: tuple[str, ...]
    normalised: bool = False
    foreground: bool = True
    foreground_weight: float = 1.0
    planes: int = field(default=2, init=False)
    floor: float = field(default=0.0, init=False)

    @property
    def channels(self) -> int:
        return 2 if self.foreground else 1

    @property
    def level(self) -> float:
        """The distance that has a probability of one half where the distance alone tells objects."""
        return 0.05 if self.normalised else 0.5

    @property
    def parameters(self) -> Mapping[str, float]:
        own = {"join": 1.0, "least": 0.2} if self.normalised else {"join": 2.0, "least": 1.0}
        threshold = 0.5 if self.foreground else self.level
        return {"depth": 0.5, **own, "foreground_threshold": threshold, "sigma_px": 0.0, "min_size_px": 15.0}

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return RANGES | (NORMALISED if self.normalised else IN_PX) | (PROBABILITY if self.foreground else {})

    def encode(self, labels: Tensor) -> Tensor:
        """Returns (N, 2, H, W) float32 of labels (N, H, W) int64."""
        return target.encoded_each(labels, self.planes, self._encoded)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        numbers, count = watershed.consecutive(labels)
        distance = edt.edt(numbers, black_border=False)
        ignored = numbers < 0
        unknown = ~np.isfinite(distance)
        if ignored.any():  # it is a border to the library: what is no nearer than that is not known
            unknown |= distance >= edt.edt(~ignored, black_border=False)
        distance[(numbers == 0) | unknown] = 0
        if self.normalised:
            normalise(distance, numbers, count)
        distance[(unknown & (numbers > 0)) | ignored] = UNKNOWN
        return np.stack([distance, numbers.clip(-1, 1)])

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns the pixels of a known distance, and those that are labelled, (T,)."""
        masses = [target.known_pixels(encoded[:, 0])]
        return torch.stack([*masses, target.known_pixels(encoded[:, 1])] if self.foreground else masses)

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the summed squared error of the distance and the weighted cross entropy of the foreground, (T,)."""
        error = (scores[:, 0].float() - encoded[:, 0]).where(encoded[:, 0] >= 0, 0).square().sum()
        if not self.foreground:
            return error[None]
        return torch.stack([error, self.foreground_weight * target.binary_cross_entropy(scores[:, 1], encoded[:, 1])])

    def truth(self, encoded: Tensor) -> Tensor:
        return encoded[:, 1].long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32.

        Without a foreground score the probability rises with the distance, linearly to 1 at twice `level`.
        """
        if self.foreground:
            return target.two_probabilities(scores[:, 1].float().sigmoid())
        return target.two_probabilities((scores[:, 0].float() / (2 * self.level)).clamp(0, 1))

    def classes(self, scores: Tensor) -> Tensor:
        return (scores[:, 1] > 0 if self.foreground else scores[:, 0] > self.level).long()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels turned by the dihedral codes (N,)."""
        return target.moved(encoded, codes)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W)."""
        distance, threshold = scores[0], parameters["foreground_threshold"]
        mask = scores[1] > target.logit(threshold) if self.foreground else distance > threshold
        if parameters["sigma_px"] > 0:
            distance = ndimage.gaussian_filter(distance, parameters["sigma_px"], mode="nearest", truncate=3)
        keys = ("depth", "join", "least")
        seeds = watershed.basins(distance, mask, **{key: parameters[key] for key in keys})
        labels = watershed.flood(distance, seeds, mask)
        if self.normalised:  # back to pixels, or small objects would take the borders of large ones that they touch
            labels = watershed.flood(watershed.scaled_by_size(distance, labels), seeds, mask)
        return watershed.in_scan_order(labels, min_size_px=parameters["min_size_px"])

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (channels, H, W) of a perfect network for one image's encoding (2, H, W)."""
        inside = encoded[1] > 0
        top = max(float(encoded[0].max()), 1.0)  # of what is unknown only its being inside is sure
        distance = np.where(inside & (encoded[0] < 0), top, encoded[0].clip(min=0))
        logits = np.where(inside, CERTAIN, -CERTAIN)
        return np.stack([distance, logits][: self.channels]).astype(np.float32)


def build(spec: DistanceSpec, *, names: Sequence[str], where: str) -> Distance:
    """Returns the target for a layer of objects, `names` being the background's and the objects'."""
    return Distance(
        target.background_and_object(names, where=where, target=spec.name),
        normalised=spec.normalised,
        foreground=spec.foreground,
        foreground_weight=spec.foreground_weight,
    )
