"""One of K classes per pixel, and one class for a whole image: that of the single pixel to which it is reduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cc3d
import numpy as np
from torch import Tensor

from segue.data.augmentation import apply_dihedral, dihedral
from segue.errors import SegueError
from segue.targets import losses
from segue.targets.losses import DEFAULT_LOSS, LOSSES, LossSettings, weights_from_counts
from segue.targets.specs import ClassesSpec, ImageClassSpec
from segue.targets.target import LabelInfo, Output


@dataclass(frozen=True)
class Classes:
    """Scores are logits of K classes; encoded labels are class indices, (N, H, W) int64.

    `names` holds a name per class, the background first. If `instances`, labels number objects, which then are class 1,
    and decoding numbers them.
    """

    names: tuple[str, ...]
    instances: bool
    loss: LossSettings = DEFAULT_LOSS

    @property
    def output(self) -> Output:
        return "classes"

    @property
    def decodes_objects(self) -> bool:
        return self.instances

    @property
    def channels(self) -> int:
        return len(self.names)

    @property
    def score_channels(self) -> dict[str, str]:
        return {f"class_{index}": f"score of the class '{name}'" for index, name in enumerate(self.names)}

    @property
    def target_channels(self) -> int:
        return 1

    @property
    def encodes_class_indices(self) -> bool:
        return True

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        return self.loss.weights

    @property
    def min_loss(self) -> float:
        return losses.min_loss(self.loss, self.channels)

    @property
    def decode_params(self) -> Mapping[str, float]:
        return {}

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    def for_layer(self, *, instances: bool) -> Classes:
        return replace(self, instances=instances)

    def encode(self, labels: Tensor) -> Tensor:
        """Returns class indices (N, H, W) int64 of labels (N, H, W); objects become class 1, −1 stays ignored."""
        return labels.clamp(max=1).long() if self.instances else labels.long()

    def encode_batch(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        return images, self.encode(labels)

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        return losses.loss_sums(scores.float(), encoded, self.loss)

    def normalizers(self, encoded: Tensor) -> Tensor:
        return losses.normalizers(encoded, self.loss)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns softmax probabilities (N, K, H, W), float32, of scores (N, K, H, W)."""
        return scores.float().softmax(1)

    def target_classes(self, encoded: Tensor) -> Tensor:
        return encoded

    def classes(self, scores: Tensor) -> Tensor:
        return scores.argmax(1)

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return dihedral(encoded[:, None], encoded, codes)[1]

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        return apply_dihedral(scores, code)

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns the most probable class (H, W) int32 of scores (K, H, W); of instances the connected parts of the
        foreground (8 neighbors), numbered."""
        classes = scores.argmax(0).astype(np.int32)
        return cc3d.connected_components(classes > 0, connectivity=8).astype(np.int32) if self.instances else classes


class ImageClass(Classes):
    """Scores are (N, K), or (N, K, H, W) of a network that scores pixels, averaged over the image. Labels (N, H, W)
    hold an image's class in every pixel, −1 in padding; encoded they are (N, 1, 1) int64."""

    @property
    def output(self) -> Output:
        return "image_class"

    def encode(self, labels: Tensor) -> Tensor:
        """Returns the class of each image, (N, 1, 1) int64; −1 where every pixel is ignored."""
        return super().encode(labels.amax((1, 2), keepdim=True))

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        return super().loss_sums(_image_scores(scores), encoded)

    def classes(self, scores: Tensor) -> Tensor:
        """Returns the most probable class of each image, (N, 1, 1) int64."""
        return super().classes(_image_scores(scores))

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probability of each class, (N, K, 1, 1) float32."""
        return super().probabilities(_image_scores(scores))

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns the same: rotations and reflections do not change an image's class."""
        return encoded

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        return scores if scores.dim() == 2 else super().transform_scores(scores, code)

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns the class of the image, (1, 1) int32, of its scores (K,) or (K, H, W)."""
        means = scores.reshape(len(scores), -1).mean(1)
        return np.array([[means.argmax()]], dtype=np.int32)


def _image_scores(scores: Tensor) -> Tensor:
    """Returns scores (N, K, 1, 1)."""
    scores = scores.float()
    return scores[:, :, None, None] if scores.dim() == 2 else scores.mean((2, 3), keepdim=True)


def build(spec: ClassesSpec, labels: LabelInfo) -> Classes:
    """Returns the target of classes; raises SegueError where its settings do not fit the labels."""
    return Classes(labels.names, labels.instances, _loss(spec, labels))


def build_image_class(spec: ImageClassSpec, labels: LabelInfo) -> ImageClass:
    """Returns the target for images of these classes; raises SegueError where its settings do not fit them."""
    return ImageClass(labels.names, False, _loss(spec.as_classes, labels))


def _loss(spec: ClassesSpec, labels: LabelInfo) -> LossSettings:
    if LOSSES[spec.loss_spec.name].needs_foreground and len(labels.names) < 2:
        raise SegueError(
            f"{labels.context}: target.loss '{spec.loss_spec.name}' is of foreground classes, but the layer has only "
            f"{', '.join(labels.names) or 'none'}; use cross_entropy or another layer."
        )
    return LossSettings(spec.loss_spec, _weights(spec, labels), spec.label_smoothing)


def _weights(spec: ClassesSpec, labels: LabelInfo) -> tuple[float, ...] | None:
    weights = spec.class_weights
    if weights is None:
        return None
    if isinstance(weights, tuple):
        if len(weights) != len(labels.names):
            raise SegueError(
                f"{labels.context}: target.class_weights has {len(weights)} values, but the layer has "
                f"{len(labels.names)} classes ({', '.join(labels.names)}); give one weight for each."
            )
        return weights
    if labels.counts is None:
        raise SegueError(
            f"{labels.context}: target.class_weights follow from the pixels of each class in the training samples, "
            "which are not known here; give one weight for each class."
        )
    return weights_from_counts(weights, labels.counts, names=labels.names, context=labels.context)
