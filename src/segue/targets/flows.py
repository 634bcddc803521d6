"""Flows to the centre of each object, and the probability of objects, as in Cellpose.

Heat put in at an object's centre spreads over it; the flow is the unit vector in which the temperature rises, so that
every pixel that follows the flows ends near its object's centre (Stringer, Wang, Michaelos & Pachitariu, Nature Methods
18, 100 (2021)). Heat and its exact rules stand in `flow_kernels`.

An object in several parts (8-connected) has a centre in each of them, since no flow leads over the background, and is
decoded as its parts. So is an object whose centroid lies outside it with several pixels equally near that are not
neighbours, such as an exact ring: only centres of equal right turn with the object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.data.augmentation import FLIP_X, FLIP_Y, TRANSPOSE, dihedral
from segue.errors import SegueError
from segue.targets.kernels import flows as flow_kernels
from segue.targets.specs import FlowsSpec

FLOW_SCALE = 5.0  # the network is asked for flows times this
FLOW_WEIGHT = 0.5
SURE = 10.0  # the logit of a perfect network
PEAK_ENDS = 10  # a gathering has a place with more ends than this, or as many as its least object has pixels
NO_FLOW_FILTER = 100.0  # a flow_threshold so high that nothing is removed: unit vectors differ by at most 4
PARAMETERS = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "min_size_px": 15.0}
RANGES = {
    "cellprob_threshold": (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0),
    "flow_threshold": (0.2, 0.3, 0.4, 0.6, 0.8, 1.0, NO_FLOW_FILTER),
    "min_size_px": (5.0, 15.0, 30.0, 60.0),
}


@dataclass(frozen=True)
class Flows:
    """`names` holds the background's and the objects' name; `steps` is how often points move in decoding.

    Scores are (flow dy, flow dx) × 5 and the logit of being in an object; encoded planes are unit flows (dy, dx) and
    the class: 0, 1, or −1 where ignored. y points down and x to the right. Flows are 0 in the background, where ignored
    and at a centre.
    """

    names: tuple[str, ...]
    steps: int = 200
    channels: int = 3
    planes: int = 3
    floor: float = 0.0

    @property
    def parameters(self) -> Mapping[str, float]:
        """As published."""
        return PARAMETERS

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return RANGES

    def encode(self, labels: Tensor) -> Tensor:
        """Returns flows and class (N, 3, H, W) float32 of label maps (N, H, W), on their device.

        0 is background, −1 ignored and part of no object; other numbers are objects, in any order and with gaps.
        """
        maps = labels.cpu().numpy()
        encoded = np.empty((len(maps), 3, *maps.shape[1:]), np.float32)
        for planes, one in zip(encoded, maps, strict=True):
            planes[:2] = object_flows(one)
            planes[2] = np.clip(one, -1, 1)
        return torch.from_numpy(encoded).to(labels.device)

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns the number of labelled pixels, for the flows and for the probability, (2,) float32."""
        return (encoded[:, 2] >= 0).sum().float().expand(2)

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the loss of the flows and that of the probability, (2,) float32, summed over labelled pixels.

        The first is 0.5 × the mean over dy and dx of (score − 5 flow)², the second binary cross entropy; background
        counts in both.
        """
        scores, labelled, objects = scores.float(), encoded[:, 2] >= 0, (encoded[:, 2] > 0).float()
        wrong = (scores[:, :2] - FLOW_SCALE * encoded[:, :2]).square().mean(1)
        unsure = F.binary_cross_entropy_with_logits(scores[:, 2], objects, reduction="none")
        zero = wrong.new_zeros(())
        return torch.stack(
            [FLOW_WEIGHT * torch.where(labelled, wrong, zero).sum(), torch.where(labelled, unsure, zero).sum()]
        )

    def loss(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the loss of a batch per labelled pixel; 0 where a batch has no labels."""
        return (self.totals(scores, encoded) / self.masses(encoded).clamp(min=1e-12)).sum()

    def truth(self, encoded: Tensor) -> Tensor:
        """Returns 0 for background, 1 for objects and −1 where ignored, (N, H, W) int64."""
        return encoded[:, 2].long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probabilities of background and object (N, 2, H, W), float32."""
        logits = scores[:, 2].float()
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where an object is more probable than background and else 0, (N, H, W) int64."""
        return (scores[:, 2] > 0).long()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns encoded labels, their planes and flows turned by codes (N,) as `augment.dihedral` turns labels."""
        moved, _ = dihedral(encoded, encoded[:, 2], codes)
        codes = codes.to(encoded.device)
        flows = moved[:, :2]
        flows = torch.where((codes & TRANSPOSE).bool()[:, None, None, None], flows.flip(1), flows)
        mirrored = torch.stack([codes & FLIP_Y, codes & FLIP_X], 1).bool()[:, :, None, None]
        return torch.cat([torch.where(mirrored, -flows, flows), moved[:, 2:]], 1)

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns the scores (3, H, W) of a perfect network for one image's encoded labels (3, H, W)."""
        logits = np.where(encoded[2:] > 0, SURE, -SURE)
        return np.concatenate([FLOW_SCALE * encoded[:2], logits]).astype(np.float32)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns objects (H, W) int32, 1 … n in the order of their first pixels, of one image's scores (3, H, W).

        Pixels with a logit above `cellprob_threshold` follow the flows, and the places where they end are counted. A
        place with the most ends within 5 × 5, and with more than 10 (or than `min_size_px` − 1, if that is less), makes
        an object with the places around it: all pixels that end there. Removed are objects smaller than `min_size_px`
        and those whose flows, encoded anew, differ from the predicted ones by more than `flow_threshold` (mean over
        pixels of the squared length of the difference; 100 removes none). Holes are filled where they hold background
        alone. Raises SegueError where scores are not finite.
        """
        if not np.isfinite(scores).all():
            raise SegueError(
                "target 'flows': the network's scores hold NaN or infinite values, which cannot be followed; look at "
                "the image's values and at the training that gave the weights."
            )
        flows = np.asarray(scores[:2], np.float32) / np.float32(FLOW_SCALE)
        inside = np.asarray(scores[2] > parameters["cellprob_threshold"])
        least_px = parameters["min_size_px"]
        field = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1, 2), np.float32)
        np.multiply(flows.transpose(1, 2, 0), inside[:, :, None], out=field[:-1, :-1])
        ends = flow_kernels.follow(field, np.flatnonzero(inside), self.steps)
        labels = _gathered(ends, inside, more_than=min(PEAK_ENDS, math.ceil(least_px) - 1))
        sizes = np.bincount(labels.ravel(), minlength=2)
        kept = sizes >= max(least_px, 1)
        if parameters["flow_threshold"] < NO_FLOW_FILTER:
            kept &= _flow_errors(flows, np.where(kept[labels], labels, 0), sizes) <= parameters["flow_threshold"]
        return _filled(flow_kernels.renumbered(labels, kept))


def build(spec: FlowsSpec, *, names: Sequence[str], where: str) -> Flows:
    """Returns the target for a layer with these names, background and object; raises SegueError if it has more."""
    if len(names) != 2:
        raise SegueError(
            f"{where}: target 'flows' is of one kind of objects, but the layer has {len(names)} classes "
            f"({', '.join(names)}); use a layer of instances, or target 'classes'."
        )
    return Flows(tuple(names), spec.steps)


def object_flows(labels: np.ndarray) -> np.ndarray:
    """Returns unit flows (2, H, W) float32, (dy, dx), to the centre of each part of the objects, labels (H, W) > 0."""
    parts, count = cc3d.connected_components(_small_numbers(labels), connectivity=8, return_N=True, out_dtype=np.uint32)
    return flow_kernels.heat_flows(parts, count)


def _small_numbers(labels: np.ndarray) -> np.ndarray:
    """Returns labels int32 with 0 for all that is no object; numbers beyond int32 are replaced by their rank."""
    objects = np.maximum(labels, 0)
    if objects.size and objects.max() > np.iinfo(np.int32).max:
        found, ranks = np.unique(objects, return_inverse=True)
        objects = ranks.reshape(objects.shape) + int(found[0] > 0)
    return np.ascontiguousarray(objects, np.int32)


def _gathered(ends: np.ndarray, inside: np.ndarray, *, more_than: int) -> np.ndarray:
    """Returns labels (H, W) int32, numbered in no particular order: where each pixel inside ends, 0 where few do."""
    counts = np.bincount(ends, minlength=inside.size).reshape(inside.shape)
    places = flow_kernels.peaks(counts, more_than)
    rising = np.argsort(counts.ravel()[places], kind="stable")
    owners = flow_kernels.gatherings(counts, places[rising])
    labels = np.zeros(inside.shape, np.int32)
    labels[inside] = owners.ravel()[ends]
    return labels


def _flow_errors(flows: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns each object's mean squared difference (len(sizes),) between `flows` and those that its labels give."""
    squares = (object_flows(labels) - flows).astype(np.float64)
    squares = np.square(squares, out=squares).sum(0)
    return np.bincount(labels.ravel(), squares.ravel(), minlength=len(sizes)) / np.maximum(sizes, 1)


def _filled(labels: np.ndarray) -> np.ndarray:
    """Returns labels with the background regions (4-connected) that one object alone surrounds as part of it."""
    regions, count = cc3d.connected_components(labels == 0, connectivity=4, return_N=True, out_dtype=np.uint32)
    owners = flow_kernels.hole_owners(labels, regions, count)
    return np.where(regions > 0, owners[regions], labels)
