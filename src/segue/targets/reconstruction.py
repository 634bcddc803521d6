"""The image itself, from what was left of it: a target that needs no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segue import rng
from segue.data import augmentation
from segue.errors import SegueError
from segue.targets import target
from segue.targets.specs import Corruption, MaskedSpec, NoiseSpec, ReconstructionSpec


@dataclass(frozen=True)
class Reconstruction:
    """A score per channel of the image. What is taught are the image's channels and a plane that is 1 where they
    count, else 0: (N, channels + 1, H, W). There are no classes to score and no labels to decode to."""

    channels: int
    corruption: Corruption
    names: tuple[str, ...] = field(default=(), init=False)
    floor: float = field(default=0.0, init=False)

    @property
    def planes(self) -> int:
        return self.channels + 1

    @property
    def parameters(self) -> Mapping[str, float]:
        return {}

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    def encode(self, labels: Tensor) -> Tensor:
        raise TypeError("reconstruction is taught by images: see `taught`")

    def taught(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns what the network is shown of images (N, C, H, W), and what it is taught.

        labels (N, H, W) are −1 where an image ends. What is random in a view comes from its seed (N,) and depends on no
        other view.
        """
        counting = (labels >= 0)[:, None].to(images.dtype)
        if isinstance(self.corruption, MaskedSpec):
            covered = torch.stack([self._covered(self.corruption, images.shape[-2:], int(seed)) for seed in seeds])
            covered = covered[:, None].to(images.device)
            shown = torch.where(covered, torch.zeros_like(images), images)
            return shown, torch.cat([images, counting * covered], 1)
        encoded = torch.cat([images, counting], 1)
        if isinstance(self.corruption, NoiseSpec):
            low, high = self.corruption.sigma
            sigma = np.array([low + (high - low) * rng.uniform(int(seed), "corruption") for seed in seeds])
            own = np.array([rng.derive(int(seed), "corruption", "noise") for seed in seeds])
            return augmentation.noisy(images, sigma, own), encoded
        return images, encoded

    @staticmethod
    def _covered(spec: MaskedSpec, size: tuple[int, int] | torch.Size, seed: int) -> Tensor:
        """Returns which pixels (H, W) are covered; the grid of squares begins anywhere, so that no place is special."""
        generator = rng.numpy_generator(seed, "corruption")
        height, width = size
        offset_y, offset_x = generator.integers(spec.patch_px, size=2)
        rows, columns = (-(-(length + spec.patch_px - 1) // spec.patch_px) for length in (height, width))
        squares = np.zeros(rows * columns, dtype=bool)
        squares[generator.permutation(rows * columns)[: max(1, round(spec.share * rows * columns))]] = True
        whole = np.kron(squares.reshape(rows, columns), np.ones((spec.patch_px, spec.patch_px), dtype=bool))
        return torch.from_numpy(whole[offset_y : offset_y + height, offset_x : offset_x + width].copy())

    def masses(self, encoded: Tensor) -> Tensor:
        """Returns how many values count, (1,)."""
        return self.channels * encoded[:, -1].sum()[None]

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the squared error summed over what counts, (1,)."""
        error = (scores.float() - encoded[:, :-1]).square().sum(1)
        return (error * encoded[:, -1]).sum()[None]

    def truth(self, encoded: Tensor) -> Tensor:
        """Returns −1 for every pixel: there are no classes."""
        return torch.full_like(encoded[:, 0], target.IGNORED, dtype=torch.int64)

    def classes(self, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores[:, 0], dtype=torch.int64)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns an array without classes, (N, 0, H, W)."""
        return scores[:, :0].float()

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return target.moved(encoded, codes)

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        raise SegueError("a reconstruction has no labels to decode; it gives images.")


def build(spec: ReconstructionSpec, *, channels: int) -> Reconstruction:
    """Returns the target for images of so many channels."""
    return Reconstruction(channels, spec.corruption)
