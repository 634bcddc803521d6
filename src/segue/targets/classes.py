"""One of K classes per pixel.

One class for a whole image: that of the one pixel which an image has in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from torch import Tensor

from segue.data.augmentation import dihedral
from segue.errors import SegueError
from segue.targets import losses
from segue.targets.losses import weights_from_counts
from segue.targets.specs import ClassesSpec, ImageClassSpec, LossSpec


@dataclass(frozen=True)
class Classes:
    """`names` holds a name per class, the background first; `weights` one factor per class or None."""

    names: tuple[str, ...]
    instances: bool
    loss_spec: LossSpec
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def planes(self) -> int:
        return 1

    @property
    def parameters(self) -> Mapping[str, float]:
        return {}

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    @property
    def floor(self) -> float:
        """The least value the loss can take."""
        return losses.floor(self._settings, self.channels)

    @property
    def _settings(self) -> losses.Settings:
        return losses.Settings(self.loss_spec, self.weights, self.label_smoothing)

    def encode(self, labels: Tensor) -> Tensor:
        """Returns class indices (N, H, W) int64 of labels (N, H, W); objects become class 1, −1 stays ignored."""
        return labels.clamp(max=1).long() if self.instances else labels.long()

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the sum over samples of each of the loss's T terms, (T,) float32, differentiable."""
        terms = losses.LOSSES[self.loss_spec.name]
        return torch.stack([term.total(scores.float(), encoded, self._settings) for term in terms])

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns what each term's total is divided by, (T,) float32: a sum over samples, as the total is."""
        terms = losses.LOSSES[self.loss_spec.name]
        return torch.stack([term.mass(encoded, self._settings) for term in terms])

    def loss(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the loss of a batch, per labelled pixel or image; 0 where a batch has no labels."""
        return (self.totals(scores, encoded) / self.masses(encoded).clamp(min=1e-12)).sum()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns softmax probabilities (N, K, H, W), float32, of scores (N, K, H, W)."""
        return scores.float().softmax(1)

    def truth(self, encoded: Tensor) -> Tensor:
        """Returns the class indices themselves."""
        return encoded

    def classes(self, scores: Tensor) -> Tensor:
        """Returns the most probable class (N, H, W) int64 of scores (N, K, H, W)."""
        return scores.argmax(1)

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns class indices turned by codes (N,) as `augment.dihedral` turns labels."""
        return dihedral(encoded[:, None], encoded, codes)[1]

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns the most probable class (H, W) int32 of scores (K, H, W); objects are numbered where they are asked
        for: connected parts of the foreground, 8-connected."""
        found = scores.argmax(0).astype(np.int32)
        return cc3d.connected_components(found > 0, connectivity=8).astype(np.int32) if self.instances else found


def build(
    spec: ClassesSpec,
    *,
    names: Sequence[str],
    instances: bool,
    where: str,
    counts: np.ndarray | Sequence[int] | None = None,
) -> Classes:
    """Returns the target for a layer with these class names; raises SegueError when the settings do not fit them.

    counts: the pixels of each class per training sample (n, K), or their totals (K,), needed where
    `spec.needs_counts`; see `weights.weights_from_counts`.
    """
    if spec.loss_name in ("dice", "tversky", "dice_cross_entropy") and len(names) < 2:
        raise SegueError(
            f"{where}: target.loss '{spec.loss_name}' is of foreground classes, but the layer has only "
            f"{', '.join(names) or 'none'}; use cross_entropy or another layer."
        )
    return Classes(tuple(names), instances, spec.loss_spec, _weights(spec, names, where, counts), spec.label_smoothing)


def _weights(
    spec: ClassesSpec, names: Sequence[str], where: str, counts: np.ndarray | Sequence[int] | None
) -> tuple[float, ...] | None:
    given = spec.class_weights
    if given is None:
        return None
    if isinstance(given, tuple):
        if len(given) != len(names):
            raise SegueError(
                f"{where}: target.class_weights has {len(given)} values, but the layer has {len(names)} "
                f"classes ({', '.join(names)}); give one weight for each."
            )
        return given
    if counts is None:
        raise SegueError(
            f"{where}: target.class_weights follow from the pixels of each class in the training samples, which are "
            "not known here; give one weight for each class."
        )
    return weights_from_counts(given, counts, names=names, where=where)


@dataclass(frozen=True)
class ImageClass:
    """Scores are (N, K), or (N, K, H, W) of a network of pixels, which are averaged over the image. Labels (N, H, W)
    hold an image's class in every pixel, −1 in padding; encoded they are (N, 1, 1) int64."""

    one_pixel: Classes

    @property
    def names(self) -> tuple[str, ...]:
        return self.one_pixel.names

    @property
    def weights(self) -> tuple[float, ...] | None:
        return self.one_pixel.weights

    @property
    def channels(self) -> int:
        return self.one_pixel.channels

    @property
    def planes(self) -> int:
        return 1

    @property
    def floor(self) -> float:
        return self.one_pixel.floor

    @property
    def parameters(self) -> Mapping[str, float]:
        return {}

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    def encode(self, labels: Tensor) -> Tensor:
        """Returns the class of each image, (N, 1, 1) int64; −1 where every pixel is ignored."""
        return self.one_pixel.encode(labels.amax((1, 2), keepdim=True))

    def masses(self, encoded: Tensor) -> Tensor:
        return self.one_pixel.masses(encoded)

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        return self.one_pixel.totals(_of_image(scores), encoded)

    def truth(self, encoded: Tensor) -> Tensor:
        return encoded

    def classes(self, scores: Tensor) -> Tensor:
        """Returns the most probable class of each image, (N, 1, 1) int64."""
        return self.one_pixel.classes(_of_image(scores))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probability of each class, (N, K, 1, 1) float32."""
        return self.one_pixel.probabilities(_of_image(scores))

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the same: an image's class does not turn."""
        return encoded

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns the class of the image, (1, 1) int32, of its scores (K,) or (K, H, W)."""
        means = scores.reshape(len(scores), -1).mean(1)
        return np.array([[means.argmax()]], dtype=np.int32)


def _of_image(scores: Tensor) -> Tensor:
    """Returns scores (N, K, 1, 1)."""
    scores = scores.float()
    return scores[:, :, None, None] if scores.dim() == 2 else scores.mean((2, 3), keepdim=True)


def build_image_class(
    spec: ImageClassSpec, *, names: Sequence[str], where: str, counts: np.ndarray | Sequence[int] | None = None
) -> ImageClass:
    """Returns the target for images of these classes; counts as `classes.build` takes them."""
    return ImageClass(build(spec.as_classes, names=names, instances=False, where=where, counts=counts))
