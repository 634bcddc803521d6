"""The Target interface: encodes labels into training targets, computes the loss, decodes predictions into labels.

`ObjectTarget` is the common base of the targets of objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from segue.data import augmentation
from segue.errors import SegueError
from segue.targets import losses
from segue.targets.losses import DEFAULT_LOSS, LossSettings

Output = Literal["classes", "objects", "image", "image_class"]


class Target(Protocol):
    """An output representation.

    Labels are (N, H, W) int64: 0 background, −1 ignored, and classes or objects from 1 on. Scores are what the network
    gives, (N, channels, H, W). Encoded labels, the training targets, are (N, target_channels, H, W) float32, or
    (N, H, W) int64 where `encodes_class_indices`.
    """

    @property
    def output(self) -> Output:
        """What `segue.predict` returns: classes or objects per pixel, an image, or one class per image."""
        ...

    @property
    def decodes_objects(self) -> bool:
        """Whether `decode` numbers objects, rather than giving classes."""
        ...

    @property
    def channels(self) -> int:
        """Number of scores of the network per pixel."""
        ...

    @property
    def score_channels(self) -> Mapping[str, str]:
        """The name of each score, an identifier, with what it means, in the order of the channels."""
        ...

    @property
    def target_channels(self) -> int:
        """Number of values per pixel of `encode`."""
        ...

    @property
    def encodes_class_indices(self) -> bool: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that pixels are scored by, the background first."""
        ...

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """The weight of each class in the loss, as a run records it."""
        ...

    @property
    def min_loss(self) -> float:
        """The least value that the loss can take."""
        ...

    @property
    def decode_params(self) -> Mapping[str, float]:
        """The decode parameters as published, or by convention; empty where decoding has none."""
        ...

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        """The values that tuning tries for each decode parameter, ascending."""
        ...

    def for_layer(self, *, instances: bool) -> Target | None:
        """Returns the target to score a layer of objects (`instances`) or of classes with; None where it cannot be."""
        ...

    def encode(self, labels: Tensor) -> Tensor:
        """Returns the training targets of labels, on their device."""
        ...

    def encode_batch(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the network's inputs for images (N, C, H, W) and the training targets.

        seeds (N,): sources of what is random in each sample.
        """
        ...

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns the normalizer of each loss term (T,) float32, e.g. the number of labeled pixels: sums over
        samples, so that a batch can be split."""
        ...

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns each loss term summed over samples, (T,) float32, differentiable; weights included."""
        ...

    def target_classes(self, encoded: Tensor) -> Tensor:
        """Returns the labeled class of each pixel, (N, H, W) int64, −1 ignored."""
        ...

    def classes(self, scores: Tensor) -> Tensor:
        """Returns the most probable class of each pixel, (N, H, W) int64."""
        ...

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probability of each class, (N, len(names), H, W) float32; they sum to 1."""
        ...

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns what `encode` would give for labels transformed by `augmentation.dihedral` with the codes (N,)."""
        ...

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        """Returns the scores (N, channels, H, W) of images that are transformed by one dihedral code; W, H for codes
        4 … 7. A perfect network gives these for the transformed images: vectors rotate with their pixels."""
        ...

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W) float32.

        Objects are numbered 1 … n in scan order.
        """
        ...


OBJECT_LOGIT = {"object": "logit of being in an object"}  # of `Target.score_channels`


@dataclass(frozen=True)
class ObjectTarget(ABC):
    """A target of objects of one kind; `names` holds the background's and the object's name.

    It has a logit of the foreground as channel `foreground` of the scores, and its label (1, 0 or −1 ignored) as the
    same channel of the encoding, unless methods are overridden. `loss` is that of background and object.
    """

    DECODE_PARAMS: ClassVar[Mapping[str, float]] = {}
    DECODE_SEARCH_SPACE: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    names: tuple[str, ...]
    loss: LossSettings = field(default=DEFAULT_LOSS, kw_only=True)

    @property
    def output(self) -> Output:
        return "objects"

    @property
    def decodes_objects(self) -> bool:
        return True

    @property
    def encodes_class_indices(self) -> bool:
        return False

    @property
    @abstractmethod
    def channels(self) -> int:
        """The number of scores per pixel."""

    @property
    @abstractmethod
    def score_channels(self) -> Mapping[str, str]:
        """The name of each score, with what it means."""

    @property
    def target_channels(self) -> int:
        return self.channels

    @property
    def decode_params(self) -> Mapping[str, float]:
        return self.DECODE_PARAMS

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        return self.DECODE_SEARCH_SPACE

    @property
    def foreground(self) -> int:
        """The channel of the foreground, in scores and encodings."""
        return 0

    @property
    def class_weights(self) -> None:
        return None

    @property
    def min_loss(self) -> float:
        return losses.min_loss(self.loss, 2)

    def for_layer(self, *, instances: bool) -> Self | None:
        return self if instances else None

    def encode(self, labels: Tensor) -> Tensor:
        """Returns (N, target_channels, H, W) float32 of labels (N, H, W) int64."""
        images = labels.cpu().numpy()
        encoded = np.zeros((len(images), self.target_channels, *images.shape[1:]), np.float32)  # lazily, unlike torch's
        for image, out in zip(images, encoded, strict=True):
            self.encode_image(image, out)
        return torch.from_numpy(encoded).to(labels.device)

    def encode_image(self, labels: np.ndarray, out: np.ndarray) -> None:
        """Writes the encoding of one image's labels (H, W) into zeros (target_channels, H, W) float32: the foreground,
        unless there is more to encode."""
        out[self.foreground] = labels.clip(-1, 1)

    def encode_batch(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        return images, self.encode(labels)

    def target_classes(self, encoded: Tensor) -> Tensor:
        return encoded[:, self.foreground].long()

    def classes(self, scores: Tensor) -> Tensor:
        """Returns 1 where an object is more probable than background and else 0, (N, H, W) int64."""
        return (scores[:, self.foreground] > 0).long()

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns those of background and object, (N, 2, H, W) float32."""
        return with_background(scores[:, self.foreground].float().sigmoid())

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return transform_channels(encoded, codes)

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        return augmentation.apply_dihedral(scores, code)

    def normalizers(self, encoded: Tensor) -> Tensor:
        return self.foreground_normalizers(encoded)

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        return self.foreground_sums(scores, encoded)

    def foreground_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the sums (T,) of the loss of background and object."""
        return losses.binary_loss_sums(scores[:, self.foreground], encoded[:, self.foreground], self.loss)

    def foreground_normalizers(self, encoded: Tensor) -> Tensor:
        return losses.normalizers(encoded[:, self.foreground].long(), self.loss)


@dataclass(frozen=True)
class LabelInfo:
    """The data a target is built for: class names, whether the layer numbers objects, and image channels.

    counts: the pixels of each class per training sample (n, K), or their totals (K,), where class weights follow from
    them. context: the beginning of error messages.
    """

    names: tuple[str, ...]
    instances: bool
    context: str
    counts: Any = None
    channels: int = 1


def object_names(labels: LabelInfo, target: str) -> tuple[str, str]:
    """Returns the two names of a layer of objects; raises SegueError for classes, or for objects of several kinds."""
    if not labels.instances:
        raise SegueError(
            f"{labels.context}: target '{target}' is of objects, but the layer holds classes "
            f"({', '.join(labels.names)}); use a layer of instances, or the target 'classes'."
        )
    if len(labels.names) != 2:
        raise SegueError(
            f"{labels.context}: target '{target}' is of objects of one kind, but the layer has the classes "
            f"{', '.join(labels.names) or 'none'}; use a layer of instances, or target 'classes'."
        )
    return labels.names[0], labels.names[1]


def transform_channels(channels: Tensor, codes: Tensor) -> Tensor:
    """Returns (N, E, H, W), each image transformed by its dihedral code (N,): pixels move and no value changes."""
    return augmentation.dihedral(channels, channels[:, 0], codes)[0]


def count_known(labels: Tensor) -> Tensor:
    """Returns how many values are not −1, a float32 scalar."""
    return (labels >= 0).sum().float()


def with_background(foreground: Tensor) -> Tensor:
    """Returns the probabilities (N, 2, H, W) of background and foreground from those of the foreground (N, H, W)."""
    return torch.stack([1 - foreground, foreground], dim=1)


def logit(probability: float) -> float:
    """Returns ln(p / (1 − p)), ∓ infinity at 0 and 1, so that scores need not be turned into probabilities."""
    if probability <= 0 or probability >= 1:
        return float("-inf") if probability <= 0 else float("inf")
    return float(np.log(probability / (1 - probability)))
