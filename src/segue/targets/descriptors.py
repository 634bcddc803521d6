"""Local shape descriptors beside affinities of neighbouring pixels (Sheridan et al., Nature Methods 20, 295 (2023)).

The six descriptors of a pixel are statistics of its object within a Gaussian window around it, weighted by the window,
all in [0, 1] and 0 outside objects: the offset from the pixel to the mean position, y and x, as 0.5 + offset / 2 sigma;
the variances along y and x, divided by sigma²; their correlation r, as 0.5 + r / 2; and the weight of the object in the
window. Beyond the image, and where pixels are ignored, there is no object. The window ends at 3 sigma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import edt
import numpy as np
import torch
from torch import Tensor

from segue.data.augmentation import FLIP_X, FLIP_Y, TRANSPOSE
from segue.labels import watershed
from segue.targets import target
from segue.targets.kernels import descriptors
from segue.targets.specs import DescriptorsSpec

CERTAIN = 10.0  # the logit of a perfect network
DESCRIPTORS = 6
FOREGROUND = 6  # the plane behind the descriptors, before the affinities
RANGES = {
    "foreground_threshold": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "min_size_px": (0.0, 5.0, 15.0, 30.0, 60.0),
}
OF_AFFINITIES = {
    "seed_threshold": (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "depth": (0.05, 0.1, 0.2, 0.3, 0.5),
    "edge_threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "keep_unseeded": (0.0, 1.0),
}
OF_OFFSETS = {"depth": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), "least": (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)}


@dataclass(frozen=True)
class Descriptors:
    """Logits of the six descriptors, of an object, and, where `affinities`, of the two affinities of each pixel.

    Affinities are with the pixel above and with the one to the left: 1 within one object, 0 elsewhere. Encoded labels
    have the same planes; the seventh is 1 object, 0 background, −1 ignored, and unknown affinities are −1.

    Decoding with affinities follows the paper: pixels whose affinities are all above `seed_threshold` are inner ones;
    maxima of the distance to others are seeds, where they are deeper than the share `depth` of their height; they grow
    over affinities above `edge_threshold`, the strongest first, within the foreground (probability above
    `foreground_threshold`), to fragments; and fragments that touch with a mean affinity above `edge_threshold` are one.
    What no seed reaches is kept where `keep_unseeded` is 1. Decoding without: the foreground is flooded from where the
    offset is short, along 1 − |offset| / sigma; two such maxima are one object where the way between descends by less
    than the share `depth` of the lower one, and those below `least` are left out. Objects of less than `min_size_px`
    pixels are left out.
    """

    names: tuple[str, ...]
    sigma_px: float = 10.0
    affinities: bool = True
    descriptor_weight: float = 1.0
    floor: float = field(default=0.0, init=False)

    @property
    def channels(self) -> int:
        return DESCRIPTORS + 1 + 2 * self.affinities

    @property
    def planes(self) -> int:
        return self.channels

    @property
    def parameters(self) -> Mapping[str, float]:
        if self.affinities:
            own = {"seed_threshold": 0.5, "depth": 0.2, "edge_threshold": 0.5, "keep_unseeded": 1.0}
        else:
            own = {"depth": 0.1, "least": 0.5}
        return own | {"foreground_threshold": 0.5, "min_size_px": 15.0}

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return (OF_AFFINITIES if self.affinities else OF_OFFSETS) | RANGES

    def encode(self, labels: Tensor) -> Tensor:
        """Returns (N, 7 or 9, H, W) float32 of labels (N, H, W) int64."""
        return target.encoded_each(labels, self.planes, self._encoded)

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        numbers, count = watershed.consecutive(labels)
        described = descriptors.descriptors(numbers, count, sigma_px=self.sigma_px)
        planes = [described, numbers.clip(-1, 1)[None]]
        if self.affinities:
            planes.append(descriptors.affinities(numbers))
        return np.concatenate(planes)

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns the values of descriptors in objects, the labelled pixels and the known affinities, (T,)."""
        masses = [DESCRIPTORS * (encoded[:, FOREGROUND] > 0).sum().float()]
        masses.append(target.known_pixels(encoded[:, FOREGROUND]))
        if self.affinities:
            masses.append(target.known_pixels(encoded[:, FOREGROUND + 1 :]))
        return torch.stack(masses)

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the weighted squared error of descriptors in objects, and the cross entropies of the rest, (T,)."""
        scores = scores.float()
        inside = (encoded[:, FOREGROUND] > 0)[:, None]
        error = (scores[:, :DESCRIPTORS].sigmoid() - encoded[:, :DESCRIPTORS]).where(inside, 0).square().sum()
        totals = [self.descriptor_weight * error]
        totals.append(target.binary_cross_entropy(scores[:, FOREGROUND], encoded[:, FOREGROUND]))
        if self.affinities:
            totals.append(target.binary_cross_entropy(scores[:, FOREGROUND + 1 :], encoded[:, FOREGROUND + 1 :]))
        return torch.stack(totals)

    def truth(self, encoded: Tensor) -> Tensor:
        return encoded[:, FOREGROUND].long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32."""
        return target.two_probabilities(scores[:, FOREGROUND].float().sigmoid())

    def classes(self, scores: Tensor) -> Tensor:
        return (scores[:, FOREGROUND] > 0).long()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels turned by the dihedral codes (N,): offsets and correlations turn as well."""
        moved = target.moved(encoded, codes)
        if moved is encoded:
            return encoded
        for image, code in zip(moved, codes.tolist(), strict=True):
            self._turn(image, code)
        return moved

    def _turn(self, image: Tensor, code: int) -> None:
        """Turns the values of one image's planes, moved already, in place."""
        if code & TRANSPOSE:
            image[:4] = image[[1, 0, 3, 2]]
            if self.affinities:
                image[FOREGROUND + 1 :] = image[[FOREGROUND + 2, FOREGROUND + 1]]
        outside = image[FOREGROUND] <= 0
        for flip, plane, axis in ((FLIP_Y, 0, 0), (FLIP_X, 1, 1)):
            if not code & flip:
                continue
            for mirrored in (plane, 4):
                image[mirrored] = (1 - image[mirrored]).masked_fill(outside, 0)
            if self.affinities:  # a pair is written at its second pixel, which was its first
                image[FOREGROUND + 1 + plane] = image[FOREGROUND + 1 + plane].roll(1, axis)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W)."""
        mask = scores[FOREGROUND] > target.logit(parameters["foreground_threshold"])
        found = _by_affinities if self.affinities else _by_offsets
        labels = found(scores, mask, parameters)
        return watershed.in_scan_order(labels, min_size_px=parameters["min_size_px"])

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (channels, H, W) of a perfect network for one image's encoding (planes, H, W)."""
        sure = 1 / (1 + np.exp(-CERTAIN))
        probabilities = encoded.clip(1 - sure, sure).astype(np.float64)
        return np.log(probabilities / (1 - probabilities)).astype(np.float32)


def _by_affinities(scores: np.ndarray, mask: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
    up, left = 1 / (1 + np.exp(-scores[FOREGROUND + 1 :].clip(-80, 80)))
    inner = descriptors.inner(up, left, mask, parameters["seed_threshold"])
    distance = edt.edt(inner, black_border=False)
    seeds = watershed.basins(distance, inner, depth=parameters["depth"], join=np.inf, least=0)
    seeds = watershed.in_scan_order(seeds)
    edge, unseeded = parameters["edge_threshold"], bool(parameters["keep_unseeded"])
    labels = descriptors.fragments(up, left, mask, seeds, edge, unseeded)
    return descriptors.merged(up, left, labels, int(labels.max(initial=0)), least=edge)


def _by_offsets(scores: np.ndarray, mask: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
    y, x = np.tanh(scores[:2] / 2)  # 2 sigmoid − 1: the offset in units of sigma
    closeness = 1 - np.sqrt((y**2 + x**2) / 2)
    seeds = watershed.basins(closeness, mask, depth=parameters["depth"], join=np.inf, least=parameters["least"])
    return watershed.flood(closeness, seeds, mask)


def build(spec: DescriptorsSpec, *, names: Sequence[str], where: str) -> Descriptors:
    """Returns the target for a layer of objects, `names` being the background's and the objects'."""
    return Descriptors(
        target.background_and_object(names, where=where, target=spec.name),
        sigma_px=spec.sigma_px,
        affinities=spec.affinities,
        descriptor_weight=spec.descriptor_weight,
    )
