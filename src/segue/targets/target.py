"""What every target offers: from labels to what the network is taught, and from its scores back to labels.

What targets share whose encodings are planes of pixels: encoding image by image, turning, binary cross entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.data import augmentation
from segue.errors import SegueError


class Target(Protocol):
    """An output representation: what is asked of the network (encode), its loss, and the way back (decode).

    Labels are (N, H, W) int64: 0 background, −1 ignored, and classes or objects from 1 on. Scores are what the network
    gives, (N, channels, H, W). Encoded labels are (N, planes, H, W) float32 (`classes` alone: (N, H, W) int64).
    """

    @property
    def channels(self) -> int:
        """How many scores the network gives for each pixel."""
        ...

    @property
    def planes(self) -> int:
        """How many values per pixel `encode` gives."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that pixels are scored by, the background first."""
        ...

    @property
    def floor(self) -> float:
        """The least value that the loss can take."""
        ...

    @property
    def parameters(self) -> Mapping[str, float]:
        """The decode parameters as published, or by convention; empty where decoding has none."""
        ...

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        """The values that tuning tries for each decode parameter, rising."""
        ...

    def encode(self, labels: Tensor) -> Tensor:
        """Returns what the network is taught for these labels, on their device."""
        ...

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns what each term of the loss is divided by, (T,) float32: a sum over samples."""
        ...

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns each term of the loss summed over samples, (T,) float32, differentiable; weights included."""
        ...

    def truth(self, encoded: Tensor) -> Tensor:
        """Returns the labelled class of each pixel, (N, H, W) int64, −1 ignored."""
        ...

    def classes(self, scores: Tensor) -> Tensor:
        """Returns the most probable class of each pixel, (N, H, W) int64."""
        ...

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probability of each class, (N, len(names), H, W) float32; they sum to 1."""
        ...

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        """Returns what `encode` would give for labels turned by `augment.dihedral` with the codes (N,)."""
        ...

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        """Returns labels (H, W) int32 of one image's scores (channels, H, W) float32.

        Objects are numbered 1 … n in the order of their first pixels.
        """
        ...


IGNORED = -1


def encoded_each(labels: Tensor, planes: int, encode: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Returns (N, planes, H, W) float32 on the labels' device; `encode` takes one image's labels (H, W) on the CPU."""
    encoded = torch.empty(len(labels), planes, *labels.shape[-2:])
    for place, image in zip(encoded.numpy(), labels.cpu().numpy(), strict=True):
        place[:] = encode(image)
    return encoded.to(labels.device)


def moved(planes: Tensor, codes: Tensor) -> Tensor:
    """Returns planes (N, E, H, W), each image turned by its dihedral code (N,): pixels move and no value changes."""
    return augmentation.dihedral(planes, planes[:, 0], codes)[0]


def binary_cross_entropy(scores: Tensor, truth: Tensor) -> Tensor:
    """Returns the binary cross entropy of logits, summed where the truth, 0 or 1, is not −1; both of one shape."""
    known = (truth >= 0).float()
    return F.binary_cross_entropy_with_logits(scores.float(), truth.clamp(min=0), weight=known, reduction="sum")


def known_pixels(truth: Tensor) -> Tensor:
    """Returns how many values are not −1, a float32 scalar."""
    return (truth >= 0).sum().float()


def two_probabilities(foreground: Tensor) -> Tensor:
    """Returns the probabilities (N, 2, H, W) of background and foreground from those of the foreground (N, H, W)."""
    return torch.stack([1 - foreground, foreground], dim=1)


def background_and_object(names: Sequence[str], *, where: str, target: str) -> tuple[str, str]:
    """Returns the two names of a layer of objects; raises SegueError where the layer has others."""
    if len(names) != 2:
        raise SegueError(
            f"{where}: target '{target}' is of objects of one kind, but the layer has the classes "
            f"{', '.join(names) or 'none'}; use a layer of instances, or target 'classes'."
        )
    return names[0], names[1]


def logit(probability: float) -> float:
    """Returns ln(p / (1 − p)), ∓ infinity at 0 and 1, so that scores need not be turned into probabilities."""
    if probability <= 0 or probability >= 1:
        return float("-inf") if probability <= 0 else float("inf")
    return float(np.log(probability / (1 - probability)))
