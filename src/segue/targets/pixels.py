"""What targets share whose encodings are planes of pixels: encoding image by image, turning, binary cross entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.data import augment
from segue.errors import SegueError

IGNORED = -1


def encoded_each(labels: Tensor, planes: int, encode: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Returns (N, planes, H, W) float32 on the labels' device; `encode` takes one image's labels (H, W) on the CPU."""
    encoded = torch.empty(len(labels), planes, *labels.shape[-2:])
    for place, image in zip(encoded.numpy(), labels.cpu().numpy(), strict=True):
        place[:] = encode(image)
    return encoded.to(labels.device)


def moved(planes: Tensor, codes: Tensor) -> Tensor:
    """Returns planes (N, E, H, W), each image turned by its dihedral code (N,): pixels move and no value changes."""
    return augment.dihedral(planes, planes[:, 0], codes)[0]


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
