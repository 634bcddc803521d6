"""What every target offers: from labels to what the network is taught, and from its scores back to labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor


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
