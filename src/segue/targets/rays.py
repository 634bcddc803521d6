"""Star-convex polygons (StarDist: Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020).

Each pixel of an object is taught how central it is, as a probability, and how far its object reaches along rays. On the
way back every probable pixel proposes a polygon, and of those that overlap the most probable one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import edt
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.data import augmentation
from segue.errors import SegueError
from segue.targets.kernels import rays as kernels
from segue.targets.specs import RaysSpec

PIXEL_PROBABILITY = 0.05  # least probability of a pixel of an object: see `Rays.probabilities`
CANDIDATES = 2**20  # of more, only the best of each cell of 2 × 2, 4 × 4 … px is taken; 128 MiB at 32 rays
CERTAIN = 10.0  # score of a perfect network where the probability is 1
PARAMETERS = {"prob_threshold": 0.5, "nms_threshold": 0.4}
RANGES = {
    "prob_threshold": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
    "nms_threshold": (0.2, 0.3, 0.4, 0.5, 0.6),
}


@dataclass(frozen=True)
class Rays:
    """`rays` directions; `names` holds the background and the object; the weights are those of `RaysSpec`.

    Scores are (N, 1 + rays, H, W): the logit of the probability, then the distance in px along each ray. Encoded labels
    have the same planes: the probability, which is the Euclidean distance to the nearest pixel outside the object
    divided by the object's largest, 0 in the background and −1 where labels are ignored; and the distances, 0 outside
    of objects. Ray k of R points to (row, column) = (sin 2πk/R, cos 2πk/R); its distance is the number of steps of 1 px
    that stay in the object, and as much as lies between a pixel's centre and its border in that direction.
    Ignored pixels end an object as the background does. The border of the image ends rays, but it is no background for
    the probability, unless one object fills the whole image.
    """

    names: tuple[str, ...]
    rays: int = 32
    distance_weight: float = 0.2
    background_weight: float = 1e-4
    floor: float = 0.0  # not reached: the cross entropy of a probability between 0 and 1 is at least its entropy

    @property
    def channels(self) -> int:
        return 1 + self.rays

    @property
    def planes(self) -> int:
        return 1 + self.rays

    @property
    def parameters(self) -> Mapping[str, float]:
        """As published. Pixels above `prob_threshold` propose polygons; `nms_threshold` is the share of the smaller of
        two that both may have in common."""
        return PARAMETERS

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return RANGES

    def encode(self, labels: Tensor) -> Tensor:
        """Returns probability and distances (N, 1 + rays, H, W) float32 of labels (N, H, W) int64, on their device."""
        images = labels.cpu().numpy()
        encoded = np.zeros((len(images), self.planes, *images.shape[1:]), np.float32)
        for image, planes in zip(images, encoded, strict=True):
            _encode(image, planes)
        return torch.from_numpy(encoded).to(labels.device)

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns labelled pixels, the sum of probabilities, and labelled pixels again, (3,) float32."""
        labelled = (encoded[:, 0] >= 0).sum().float()
        return torch.stack([labelled, encoded[:, 0].clamp(min=0).sum(), labelled])

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the sums over samples of three terms, (3,) float32, differentiable.

        With probability p and distances d as encoded, z and e the scores for them, means over the R rays, and N the
        labelled pixels, the loss of `stardist` in two dimensions ('mae'), sums running over labelled pixels, is

            Σ BCE(p, σ(z)) / N  +  0.2 (Σ p mean|d − e| / Σ p  +  1e-4 Σ (1 − p) mean|e| / N)
        """
        scores, probability = scores.float(), encoded[:, 0]
        labelled = probability >= 0
        weight = probability.clamp(min=0)
        entropy = F.binary_cross_entropy_with_logits(scores[:, 0], weight, reduction="none")
        # zero where nothing is asked, lest a score that is not finite there spoil the sum
        error = (scores[:, 1:] - encoded[:, 1:]).abs().mean(1).where(weight > 0, 0.0)
        size = scores[:, 1:].abs().mean(1).where(labelled, 0.0)
        terms = [
            entropy.where(labelled, 0.0).sum(),
            self.distance_weight * (weight * error).sum(),
            self.distance_weight * self.background_weight * ((1 - weight) * size).sum(),
        ]
        return torch.stack(terms)

    def truth(self, encoded: Tensor) -> Tensor:
        """Returns 0 (background), 1 (object) or −1 (ignored), (N, H, W) int64."""
        return encoded[:, 0].sign().long()

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where the probability is above PIXEL_PROBABILITY and 0 elsewhere, (N, H, W) int64."""
        return (scores[:, 0] > math.log(PIXEL_PROBABILITY / (1 - PIXEL_PROBABILITY))).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns background and object (N, 2, H, W) float32.

        The network's probability p tells how central a pixel is and tends to 0 at the border of an object, where the
        chance to be in the object is one half. The object therefore has p^a with PIXEL_PROBABILITY^a = ½.
        """
        exponent = math.log(0.5) / math.log(PIXEL_PROBABILITY)
        objects = (exponent * F.logsigmoid(scores[:, 0].float())).exp()
        return torch.stack([1 - objects, objects], 1)

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of the labels turned by dihedral codes (N,): planes moved and rays exchanged."""
        moved, _ = augmentation.dihedral(encoded, encoded[:, 0], codes)
        kinds = codes.tolist()
        if not any(kinds):
            return moved
        sources = torch.tensor([[0, *(1 + k for k in _sources(self.rays, kind))] for kind in kinds])
        images = torch.arange(len(kinds))[:, None]
        return moved[images.to(moved.device), sources.to(moved.device)]

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (1 + rays, H, W) float32 of a perfect network for one encoded image."""
        scores = encoded.astype(np.float32, copy=True)
        edge = 1 / (1 + math.exp(CERTAIN))
        probability = np.clip(encoded[0].astype(np.float64), edge, 1 - edge)
        scores[0] = np.log(probability / (1 - probability))
        return scores

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (1 + rays, H, W): polygons, the most probable on top.

        Objects are numbered 1 … n in scan order of their first pixels. A pixel belongs to a polygon if its centre does.
        """
        return _outlined(scores, parameters)[0]

    def polygons(self, scores: np.ndarray, parameters: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Returns vertices (n, rays, 2) float32 as (row, column) in px, pixel centres at integers, and probabilities
        (n,) float32 of the objects that `decode` numbers 1 … n; whole, also where another one covers them."""
        return _outlined(scores, parameters)[1:]


def build(spec: RaysSpec, *, names: Sequence[str], where: str) -> Rays:
    """Returns the target for a layer with these class names; raises SegueError if it has more than one foreground."""
    if len(names) != 2:
        raise SegueError(
            f"{where}: target 'rays' outlines objects of one kind, but the layer has {len(names)} classes "
            f"({', '.join(names)}); use a layer of instances, or the target 'classes'."
        )
    return Rays(tuple(names), spec.rays, spec.distance_weight, spec.background_weight)


def directions(rays: int) -> np.ndarray:
    """Returns the unit vectors (rays, 2) float64 as (row, column), symmetric to the last bit under the dihedral group.

    >>> directions(8)[1].tolist()
    [0.7071067811865476, 0.7071067811865476]
    """
    quarter = rays // 4
    angles = 2 * np.pi * np.arange(quarter // 2 + 1) / rays
    sine, cosine = np.sin(angles), np.cos(angles)
    if quarter % 2 == 0:
        sine[-1] = cosine[-1] = math.sqrt(0.5)
    first = [
        (sine[k], cosine[k]) if 2 * k <= quarter else (cosine[quarter - k], sine[quarter - k]) for k in range(quarter)
    ]
    second = [(cosine, -sine) for sine, cosine in first]
    half = np.array(first + second)
    return np.concatenate([half, -half]) + 0.0  # no negative zeros


def border_px(rays: int) -> np.ndarray:
    """Returns how far from a pixel's centre its own border lies along each ray, in the larger of row and column."""
    return 0.5 / np.abs(directions(rays)).max(1)


@lru_cache(maxsize=16)
def steps(rays: int, reach: int) -> np.ndarray:
    """Returns the pixels (rays, reach, 2) int64 that 1 … reach unit steps along each ray come to, as (row, column)."""
    points = directions(rays)[:, None] * np.arange(1, reach + 1)[None, :, None]
    # halves go outwards, also where 0.5 is a sine that is not quite so
    return (np.floor(np.abs(points) + 0.5 + 1e-9) * np.sign(points)).astype(np.int64)


def _encode(labels: np.ndarray, planes: np.ndarray) -> None:
    """Writes the encoding of labels (H, W) into planes (1 + rays, H, W) of zeros."""
    objects, _ = _numbered(labels)
    count = int(objects.max(initial=0))
    if count:
        whole = count == 1 and bool(objects.all())  # then nothing would be outside
        distance = edt.edt(objects, black_border=whole, parallel=1)
        planes[0] = kernels.normalised(objects, distance, count)
        found = kernels.boxes(objects, count)
        reach = math.hypot(*(found[:, 2:] - found[:, :2]).max(0).tolist())
        rays = len(planes) - 1
        offsets = steps(rays, 2 ** math.ceil(math.log2(reach + 2)))
        kernels.distances(objects, found, offsets, border_px(rays).astype(np.float32), planes[1:])
    planes[0][labels < 0] = -1


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (H, W) int32 numbered 1 … n in scan order of first pixels, 0 elsewhere, and the former ids."""
    largest = int(labels.max(initial=0))
    if largest <= 4 * labels.size:
        return kernels.numbered(labels.astype(np.int32, copy=False), max(largest, 0))
    ids, dense = np.unique(labels.clip(min=0), return_inverse=True)
    dense = dense.reshape(labels.shape) + (0 if ids[0] == 0 else 1)
    new, former = kernels.numbered(dense.astype(np.int32), int(dense.max()))
    return new, ids[former - (0 if ids[0] == 0 else 1)]


@lru_cache(maxsize=64)
def _sources(rays: int, code: int) -> tuple[int, ...]:
    """Returns, for each ray of a turned image, the ray of the image as it was."""
    k = np.arange(rays)
    if code & augmentation.TRANSPOSE:
        k = rays // 4 - k
    if code & augmentation.FLIP_X:
        k = rays // 2 - k
    if code & augmentation.FLIP_Y:
        k = -k
    return tuple(np.argsort(k % rays).tolist())


def _outlined(scores: np.ndarray, parameters: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, vertices and probabilities of one image's scores; see `Rays.decode` and `Rays.polygons`."""
    scores = np.ascontiguousarray(scores, np.float32)
    rays, height, width = len(scores) - 1, *scores.shape[1:]
    probability = min(max(parameters["prob_threshold"], 1e-9), 1 - 1e-9)
    places = _candidates(scores[0], math.log(probability / (1 - probability)))
    unit = directions(rays)
    # a pixel of an object reaches to its own border at least, and none beyond the image
    least, most = border_px(rays).astype(np.float32), math.hypot(height, width)
    radii = kernels.gathered(scores[1:].reshape(rays, -1), places, least, most)
    logits = scores[0].ravel()[places]
    order = np.argsort(-logits, kind="stable")
    labels = np.zeros((height, width), np.int32)
    kept = kernels.suppressed(places, radii, order, unit, float(parameters["nms_threshold"]), labels)
    labels, former = _numbered(labels)
    seen = kept[former - 1]
    centres = np.stack(np.divmod(places[seen], width), 1)[:, None]
    vertices = centres + radii[seen][..., None] * unit
    return labels, vertices.astype(np.float32), (1 / (1 + np.exp(-logits[seen].astype(np.float64)))).astype(np.float32)


def _candidates(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the flat places (n,) int64 of pixels above the threshold; of too many, the best of each cell."""
    places, side = np.flatnonzero(logits > threshold), 1
    while len(places) > CANDIDATES:
        side *= 2
        places = kernels.best_of_cells(logits, threshold, side)
    return places
