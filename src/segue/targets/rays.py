"""Star-convex polygons (StarDist: Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020).

The training target of each pixel of an object is how central it is, as a probability, and how far its object reaches
along rays. In decoding every probable pixel proposes a polygon, and of those that overlap the most probable one is
selected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import edt
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.data import augmentation
from segue.labels import ops
from segue.targets.kernels import rays as kernels
from segue.targets.kernels.distance import divide_by_maxima
from segue.targets.losses import REGRESSION_LOSSES
from segue.targets.specs import RaysSpec, RegressionName
from segue.targets.target import LabelInfo, ObjectTarget, count_known, object_names, transform_channels

MIN_PIXEL_PROBABILITY = 0.05  # of a pixel of an object: see `Rays.probabilities`
MAX_CANDIDATES = 2**20  # of more, only the best of each cell of 2 × 2, 4 × 4 … px is taken; 128 MiB at 32 rays


@dataclass(frozen=True)
class Rays(ObjectTarget):
    """Polygons of `rays` vertices; the weights are those of `RaysSpec`.

    Scores are (N, 1 + rays, H, W): the logit of the probability, then the distance in px along each ray. Encoded labels
    have the same channels: the probability, which is the Euclidean distance to the nearest pixel outside the object
    divided by the object's largest, 0 in the background and −1 where labels are ignored; and the distances, 0 outside
    of objects. Ray k of R points to (row, column) = (sin 2πk/R, cos 2πk/R); its distance is the number of steps of 1 px
    that stay in the object, and as much as lies between a pixel's center and its border in that direction.
    Ignored pixels end an object as the background does. The border of the image ends rays, but does not count as
    background for the probability, unless one object fills the whole image.

    Decoding: pixels above `prob_threshold` propose polygons; `nms_threshold` is the fraction of the smaller of two that
    both may have in common.
    """

    DECODE_PARAMS = {"prob_threshold": 0.5, "nms_threshold": 0.4}  # as published
    DECODE_SEARCH_SPACE = {
        "prob_threshold": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
        "nms_threshold": (0.2, 0.3, 0.4, 0.5, 0.6),
    }

    rays: int = 32
    distance_weight: float = field(default=0.2, kw_only=True)
    background_weight: float = field(default=1e-4, kw_only=True)
    distance_loss: RegressionName = field(default="absolute_error", kw_only=True)

    @property
    def channels(self) -> int:
        return 1 + self.rays

    @property
    def score_channels(self) -> dict[str, str]:
        vectors = directions(self.rays).round(4).tolist()
        rays = {
            f"ray_{k}": f"distance to the border in px along (row, column) = {tuple(v)}" for k, v in enumerate(vectors)
        }
        return {"object": "logit of the probability, which is highest amid an object", **rays}

    @property
    def min_loss(self) -> float:
        """0, which is not reached: the cross entropy of a probability between 0 and 1 is at least its entropy."""
        return 0.0

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        numbers, ids = ops.relabel_sequential(labels)
        objects, count = np.maximum(numbers, 0), len(ids)
        if count:
            fills_image = count == 1 and bool(objects.all())  # then nothing would be outside
            distance = edt.edt(objects, black_border=fills_image, parallel=1)
            divide_by_maxima(distance, objects, count)
            out[0] = distance
            boxes = ops.bounding_boxes(objects, count)
            reach = math.hypot(*(boxes[:, 2:] - boxes[:, :2]).max(0).tolist())
            offsets = ray_steps(self.rays, 2 ** math.ceil(math.log2(reach + 2)))
            kernels.ray_distances(objects, boxes, offsets, border_px(self.rays).astype(np.float32), out[1:])
        out[0][labels < 0] = -1

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns labeled pixels, the sum of probabilities, and labeled pixels again, (3,) float32."""
        labeled = count_known(encoded[:, 0])
        return torch.stack([labeled, encoded[:, 0].clamp(min=0).sum(), labeled])

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the sums over samples of three terms, (3,) float32, differentiable.

        With probability p and distances d as encoded, z and e the scores for them, means over the R rays, and N the
        labeled pixels, the loss of `stardist` in two dimensions ('mae'), sums running over labeled pixels, is

            Σ BCE(p, σ(z)) / N  +  0.2 (Σ p mean|d − e| / Σ p  +  1e-4 Σ (1 − p) mean|e| / N)

        and with another `distance_loss` that takes the place of |·|.
        """
        scores, probability = scores.float(), encoded[:, 0]
        loss = REGRESSION_LOSSES[self.distance_loss]
        labeled = probability >= 0
        weight = probability.clamp(min=0)
        entropy = F.binary_cross_entropy_with_logits(scores[:, 0], weight, reduction="none")
        # zero where nothing counts, lest a score that is not finite there spoil the sum
        error = loss(scores[:, 1:] - encoded[:, 1:]).mean(1).where(weight > 0, 0.0)
        size = loss(scores[:, 1:]).mean(1).where(labeled, 0.0)
        terms = [
            entropy.where(labeled, 0.0).sum(),
            self.distance_weight * (weight * error).sum(),
            self.distance_weight * self.background_weight * ((1 - weight) * size).sum(),
        ]
        return torch.stack(terms)

    def target_classes(self, encoded: Tensor) -> Tensor:
        """Returns 0 (background), 1 (object) or −1 (ignored), (N, H, W) int64."""
        return encoded[:, 0].sign().long()

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where the probability is above MIN_PIXEL_PROBABILITY and 0 elsewhere, (N, H, W) int64."""
        return (scores[:, 0] > math.log(MIN_PIXEL_PROBABILITY / (1 - MIN_PIXEL_PROBABILITY))).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns background and object (N, 2, H, W) float32.

        The network's probability p says how central a pixel is and tends to 0 at the border of an object, where the
        chance to be in the object is one half. The object therefore has p^a with MIN_PIXEL_PROBABILITY^a = ½.
        """
        exponent = math.log(0.5) / math.log(MIN_PIXEL_PROBABILITY)
        objects = (exponent * F.logsigmoid(scores[:, 0].float())).exp()
        return torch.stack([1 - objects, objects], 1)

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of the labels transformed by dihedral codes (N,): pixels moved and rays exchanged."""
        moved = transform_channels(encoded, codes)
        kinds = codes.tolist()
        if not any(kinds):
            return moved
        sources = torch.tensor([[0, *(1 + k for k in _source_rays(self.rays, kind))] for kind in kinds])
        images = torch.arange(len(kinds))[:, None]
        return moved[images.to(moved.device), sources.to(moved.device)]

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        sources = [0, *(1 + ray for ray in _source_rays(self.rays, code))]
        return super().transform_scores(scores, code)[:, sources]

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (1 + rays, H, W): polygons, the most probable on top.

        Objects are numbered 1 … n in scan order. A pixel belongs to a polygon if its center does.
        """
        return _decode(scores, params)[0]

    def polygons(self, scores: np.ndarray, params: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Returns vertices (n, rays, 2) float32 as (row, column) in px, pixel centers at integers, and probabilities
        (n,) float32 of the objects that `decode` numbers 1 … n; whole, also where another one covers them."""
        return _decode(scores, params)[1:]


def build(spec: RaysSpec, labels: LabelInfo) -> Rays:
    return Rays(
        object_names(labels, spec.name),
        spec.rays,
        distance_weight=spec.distance_weight,
        background_weight=spec.background_weight,
        distance_loss=spec.distance_loss,
    )


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
    """Returns how far from a pixel's center its own border lies along each ray, in the larger of row and column."""
    return 0.5 / np.abs(directions(rays)).max(1)


@lru_cache(maxsize=16)
def ray_steps(rays: int, reach: int) -> np.ndarray:
    """Returns the pixels (rays, reach, 2) int64 that 1 … reach unit steps along each ray come to, as (row, column)."""
    points = directions(rays)[:, None] * np.arange(1, reach + 1)[None, :, None]
    # halves go outwards, also where 0.5 is a sine that is not quite so
    return (np.floor(np.abs(points) + 0.5 + 1e-9) * np.sign(points)).astype(np.int64)


@lru_cache(maxsize=64)
def _source_rays(rays: int, code: int) -> tuple[int, ...]:
    """Returns, for each ray of a transformed image, the ray of the original image."""
    k = np.arange(rays)
    if code & augmentation.TRANSPOSE:
        k = rays // 4 - k
    if code & augmentation.FLIP_X:
        k = rays // 2 - k
    if code & augmentation.FLIP_Y:
        k = -k
    return tuple(np.argsort(k % rays).tolist())


def _decode(scores: np.ndarray, params: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, vertices and probabilities of one image's scores; see `Rays.decode` and `Rays.polygons`."""
    scores = np.ascontiguousarray(scores, np.float32)
    rays, height, width = len(scores) - 1, *scores.shape[1:]
    # candidates: one polygon for each probable pixel
    probability = min(max(params["prob_threshold"], 1e-9), 1 - 1e-9)
    positions = _candidates(scores[0], math.log(probability / (1 - probability)))
    unit = directions(rays)
    # a pixel of an object reaches to its own border at least, and none beyond the image
    lower, upper = border_px(rays).astype(np.float32), math.hypot(height, width)
    radii = kernels.gather_radii(scores[1:].reshape(rays, -1), positions, lower, upper)
    # suppression, the most probable first
    logits = scores[0].ravel()[positions]
    order = np.argsort(-logits, kind="stable")
    labels = np.zeros((height, width), np.int32)
    selected = kernels.non_maximum_suppression(positions, radii, order, unit, float(params["nms_threshold"]), labels)
    # those that no other covers, in scan order
    labels, ids = ops.relabel_sequential(labels)
    visible = selected[ids - 1]
    centers = np.stack(np.divmod(positions[visible], width), 1)[:, None]
    vertices = centers + radii[visible][..., None] * unit
    probabilities = 1 / (1 + np.exp(-logits[visible].astype(np.float64)))
    return labels, vertices.astype(np.float32), probabilities.astype(np.float32)


def _candidates(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the flat positions (n,) int64 of pixels above the threshold; of too many, the best of each cell."""
    positions, side = np.flatnonzero(logits > threshold), 1
    while len(positions) > MAX_CANDIDATES:
        side *= 2
        positions = kernels.best_of_cells(logits, threshold, side)
    return positions
