"""Flows to the center of each object, and the probability of objects, as in Cellpose.

Heat put in at an object's center spreads over it; the flow is the unit vector in which the temperature rises, so that
every pixel that follows the flows ends near its object's center (Stringer, Wang, Michaelos & Pachitariu, Nature Methods
18, 100 (2021)). The exact rules of the heat are those of `kernels.flows.heat_flows`.

An object in several parts (8-connected) has a center in each of them, since no flow leads over the background, and is
decoded as its parts. So is an object whose centroid lies outside it with several pixels equally near that are not
neighbors, such as an exact ring: only centers of equal right rotate with the object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import cc3d
import numpy as np
import torch
from torch import Tensor

from segue.data.augmentation import FLIP_X, FLIP_Y, TRANSPOSE
from segue.errors import SegueError
from segue.labels import ops
from segue.targets.kernels.flows import cluster_endpoints, find_seeds, heat_flows, integrate_flows
from segue.targets.losses import REGRESSION_LOSSES, LossSettings
from segue.targets.specs import FlowsSpec, RegressionName
from segue.targets.target import OBJECT_LOGIT, LabelInfo, ObjectTarget, count_known, object_names, transform_channels

FLOW_SCALE = 5.0  # the network is trained to give flows times this
FLOW_WEIGHT = 0.5
MAX_SEED_ENDS = 10  # a seed has more ends than this, or as many as the smallest object has pixels
NO_FLOW_FILTER = 100.0  # a flow_threshold so high that nothing is removed: unit vectors differ by at most 4


@dataclass(frozen=True)
class Flows(ObjectTarget):
    """`steps` is how often points move in decoding.

    Scores are (flow dy, flow dx) × 5 and the logit of being in an object; encoded channels are unit flows (dy, dx) and
    the class: 0, 1, or −1 where ignored. y points down and x to the right. Flows are 0 in the background, where ignored
    and at a center.
    """

    DECODE_PARAMS = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "min_size_px": 15.0}  # as published
    DECODE_SEARCH_SPACE = {
        "cellprob_threshold": (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0),
        "flow_threshold": (0.2, 0.3, 0.4, 0.6, 0.8, 1.0, NO_FLOW_FILTER),
        "min_size_px": (5.0, 15.0, 30.0, 60.0),
    }

    steps: int = field(default=200, kw_only=True)
    flow_loss: RegressionName = field(default="squared_error", kw_only=True)

    @property
    def channels(self) -> int:
        return 3

    @property
    def score_channels(self) -> dict[str, str]:
        return {
            "flow_y": "5 × the unit flow to the object's center, downwards",
            "flow_x": "5 × the unit flow to the object's center, to the right",
            **OBJECT_LOGIT,
        }

    @property
    def foreground(self) -> int:
        return 2

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        out[:2] = object_flows(labels)
        super().encode_image(labels, out)

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns the number of labeled pixels for the flows, and the normalizers of the probability's loss, (T,)."""
        return torch.cat([count_known(encoded[:, 2])[None], self.foreground_normalizers(encoded)])

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the loss of the flows and that of the probability, (T,) float32, summed over labeled pixels.

        The first is 0.5 × the mean over dy and dx of (score − 5 flow)², the second binary cross entropy, unless other
        losses are set; background counts in both.
        """
        error = REGRESSION_LOSSES[self.flow_loss](scores[:, :2].float() - FLOW_SCALE * encoded[:, :2]).mean(1)
        flows = FLOW_WEIGHT * error.where(encoded[:, 2] >= 0, 0.0).sum()
        return torch.cat([flows[None], self.foreground_sums(scores, encoded)])

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probabilities of background and object (N, 2, H, W), float32."""
        logits = scores[:, 2].float()
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoding of labels transformed by codes (N,): pixels are moved, and flows rotated as well."""
        moved = transform_channels(encoded, codes)
        codes = codes.to(encoded.device)
        flows = moved[:, :2]
        flows = torch.where((codes & TRANSPOSE).bool()[:, None, None, None], flows.flip(1), flows)
        mirrored = torch.stack([codes & FLIP_Y, codes & FLIP_X], 1).bool()[:, :, None, None]
        return torch.cat([torch.where(mirrored, -flows, flows), moved[:, 2:]], 1)

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        dy, dx, foreground = super().transform_scores(scores, code).unbind(1)
        dy, dx = (dx, dy) if code & TRANSPOSE else (dy, dx)
        return torch.stack([-dy if code & FLIP_Y else dy, -dx if code & FLIP_X else dx, foreground], 1)

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns objects (H, W) int32, 1 … n in scan order, of one image's scores (3, H, W).

        Pixels with a logit above `cellprob_threshold` follow the flows, and their end points are counted per pixel. A
        pixel with the most ends within 5 × 5, and with more than 10 (or than `min_size_px` − 1, if that is less), makes
        an object with those around it: all pixels that end there. Removed are objects smaller than `min_size_px` and
        those whose flows, encoded again, differ from the predicted ones by more than `flow_threshold` (mean over pixels
        of the squared length of the difference; 100 removes none). Holes are filled where they hold background alone.
        Raises SegueError where scores are not finite.
        """
        if not np.isfinite(scores).all():
            raise SegueError(
                "target 'flows': the network's scores hold NaN or infinite values, which cannot be followed; look at "
                "the image's values and at the training that gave the weights."
            )
        # follow the flows
        flows = np.asarray(scores[:2], np.float32) / np.float32(FLOW_SCALE)
        inside = np.asarray(scores[2] > params["cellprob_threshold"])
        min_size_px = params["min_size_px"]
        flow_field = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1, 2), np.float32)
        np.multiply(flows.transpose(1, 2, 0), inside[:, :, None], out=flow_field[:-1, :-1])
        ends = integrate_flows(flow_field, np.flatnonzero(inside), self.steps)
        # objects are the pixels that end at the same place
        labels = _cluster(ends, inside, more_than=min(MAX_SEED_ENDS, math.ceil(min_size_px) - 1))
        sizes = np.bincount(labels.ravel(), minlength=2)
        valid = sizes >= max(min_size_px, 1)
        if params["flow_threshold"] < NO_FLOW_FILTER:
            valid &= _flow_errors(flows, np.where(valid[labels], labels, 0), sizes) <= params["flow_threshold"]
        labels, _ = ops.relabel_sequential(np.where(valid[labels], labels, 0))
        return ops.fill_holes(labels, connectivity=4)


def build(spec: FlowsSpec, labels: LabelInfo) -> Flows:
    return Flows(
        object_names(labels, spec.name), loss=LossSettings(spec.loss_spec), steps=spec.steps, flow_loss=spec.flow_loss
    )


def object_flows(labels: np.ndarray) -> np.ndarray:
    """Returns unit flows (2, H, W) float32, (dy, dx), to the center of each part of the objects, labels (H, W) > 0."""
    objects = _as_int32(labels)
    parts, count = cc3d.connected_components(objects, connectivity=8, return_N=True, out_dtype=np.uint32)
    return heat_flows(parts, ops.bounding_boxes(parts, count))


def _as_int32(labels: np.ndarray) -> np.ndarray:
    """Returns labels int32 with 0 for all that is no object; numbers beyond int32 are replaced by their rank."""
    objects = np.maximum(labels, 0)
    if objects.size and objects.max() > np.iinfo(np.int32).max:
        ids, ranks = np.unique(objects, return_inverse=True)
        objects = ranks.reshape(objects.shape) + int(ids[0] > 0)
    return np.ascontiguousarray(objects, np.int32)


def _cluster(ends: np.ndarray, inside: np.ndarray, *, more_than: int) -> np.ndarray:
    """Returns labels (H, W) int32, in no particular order: the cluster in which each pixel ends, 0 for none.

    ends: the end points of the pixels `inside`, as flat positions.
    """
    counts = np.bincount(ends, minlength=inside.size).reshape(inside.shape)
    seeds = find_seeds(counts, more_than)
    ascending = np.argsort(counts.ravel()[seeds], kind="stable")
    clusters = cluster_endpoints(counts, seeds[ascending])
    labels = np.zeros(inside.shape, np.int32)
    labels[inside] = clusters.ravel()[ends]
    return labels


def _flow_errors(flows: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns each object's mean squared difference (len(sizes),) between `flows` and those that its labels give."""
    squares = (object_flows(labels) - flows).astype(np.float64)
    squares = np.square(squares, out=squares).sum(0)
    return np.bincount(labels.ravel(), squares.ravel(), minlength=len(sizes)) / np.maximum(sizes, 1)
