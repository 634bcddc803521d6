"""One class for a whole image: that of the one pixel which an image has in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segue.targets import classes
from segue.targets.classes import Classes
from segue.targets.image_class_spec import ImageClassSpec


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


def build(
    spec: ImageClassSpec, *, names: Sequence[str], where: str, counts: np.ndarray | Sequence[int] | None = None
) -> ImageClass:
    """Returns the target for images of these classes; counts as `classes.build` takes them."""
    return ImageClass(classes.build(spec.as_classes, names=names, instances=False, where=where, counts=counts))
