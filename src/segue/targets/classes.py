"""One of K classes per pixel, trained by cross entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segue.errors import SegueError
from segue.targets import TargetSpec

IGNORED = -1


def cross_entropy(scores: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
    """Returns the summed cross entropy of softmax(scores); scores (N, K, H, W), classes (N, H, W), −1 ignored."""
    return F.cross_entropy(scores, classes, weights, ignore_index=IGNORED, reduction="sum")


def cross_entropy_of_probabilities(scores: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
    """Returns the summed cross entropy with the softmax *probabilities* taken for scores, as in the published tables.

    Its least value per pixel is not 0 but `floor`, since probabilities lie in [0, 1].
    """
    return F.cross_entropy(scores.softmax(1), classes, weights, ignore_index=IGNORED, reduction="sum")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross_entropy": cross_entropy,
    "cross_entropy_of_probabilities": cross_entropy_of_probabilities,
}


def floor(loss: str, classes: int) -> float:
    """Returns the least value a loss can take with K classes: ln(1 + (K−1)/e) for probabilities, 0 for scores."""
    return math.log1p((classes - 1) * math.exp(-1)) if loss == "cross_entropy_of_probabilities" else 0.0


@dataclass(frozen=True)
class Classes:
    """`names` holds a name per class, the background first; `weights` one factor per class or None."""

    names: tuple[str, ...]
    instances: bool
    loss_name: str
    weights: tuple[float, ...] | None = None

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def floor(self) -> float:
        return floor(self.loss_name, self.channels)

    def encode(self, labels: Tensor) -> Tensor:
        """Returns class indices (N, H, W) int64 of labels (N, H, W); objects become class 1, −1 stays ignored."""
        return labels.clamp(max=1).long() if self.instances else labels.long()

    def loss_sum(self, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss summed over the labelled pixels and the sum of their weights, both scalars."""
        weights = None if self.weights is None else torch.tensor(self.weights, device=scores.device)
        labelled = classes >= 0
        mass = labelled.sum() if weights is None else (weights[classes.clamp(min=0)] * labelled).sum()
        return LOSSES[self.loss_name](scores.float(), classes, weights), mass

    def loss(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Returns the mean loss per labelled pixel; 0 where a batch has none."""
        total, mass = self.loss_sum(scores, classes)
        return total / mass.clamp(min=1e-12)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns softmax probabilities (N, K, H, W), float32, of scores (N, K, H, W)."""
        return scores.float().softmax(1)

    def decode(self, scores: Tensor) -> Tensor:
        """Returns the most probable class (N, H, W) int64 of scores (N, K, H, W)."""
        return scores.argmax(1)


def build(spec: TargetSpec, *, names: Sequence[str], instances: bool, where: str) -> Classes:
    """Returns the target for a layer with these class names; raises SegueError when the weights do not fit them."""
    if spec.class_weights is not None and len(spec.class_weights) != len(names):
        raise SegueError(
            f"{where}: target.class_weights has {len(spec.class_weights)} values, but the layer has {len(names)} "
            f"classes ({', '.join(names)}); give one weight for each."
        )
    return Classes(tuple(names), instances, spec.loss, spec.class_weights)
