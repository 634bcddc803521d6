"""The image itself as the training target, from a corrupted input: needs no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segue import rng
from segue.data import augmentation
from segue.errors import SegueError
from segue.labels import IGNORED
from segue.targets.specs import Corruption, MaskedSpec, NoiseSpec, ReconstructionSpec
from segue.targets.target import LabelInfo, Output, transform_channels


@dataclass(frozen=True)
class Reconstruction:
    """A score per channel of the image. The training target is (N, channels + 1, H, W): the image's channels, and 1
    where they count, else 0. There are no classes to score and no labels to decode to."""

    channels: int
    corruption: Corruption
    names: tuple[str, ...] = field(default=(), init=False)
    min_loss: float = field(default=0.0, init=False)

    @property
    def output(self) -> Output:
        return "image"

    @property
    def decodes_objects(self) -> bool:
        return False

    @property
    def score_channels(self) -> dict[str, str]:
        return {f"channel_{index}": "the image's channel, normalized" for index in range(self.channels)}

    @property
    def target_channels(self) -> int:
        return self.channels + 1

    @property
    def encodes_class_indices(self) -> bool:
        return False

    @property
    def class_weights(self) -> None:
        return None

    @property
    def decode_params(self) -> Mapping[str, float]:
        return {}

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    def for_layer(self, *, instances: bool) -> None:
        return None

    def encode(self, labels: Tensor) -> Tensor:
        raise TypeError("the training target of a reconstruction is the image: see `encode_batch`")

    def encode_batch(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the corrupted images (N, C, H, W) and the training targets.

        labels (N, H, W) are −1 where an image ends. What is random comes from each sample's seed (N,) and is
        independent of the other samples.
        """
        counts = (labels >= 0)[:, None].to(images.dtype)
        if isinstance(self.corruption, MaskedSpec):
            covered = torch.stack([_random_mask(self.corruption, images.shape[-2:], int(seed)) for seed in seeds])
            covered = covered[:, None].to(images.device)
            inputs = torch.where(covered, torch.zeros_like(images), images)
            return inputs, torch.cat([images, counts * covered], 1)
        encoded = torch.cat([images, counts], 1)
        if isinstance(self.corruption, NoiseSpec):
            low, high = self.corruption.sigma
            sigma = np.array([low + (high - low) * rng.uniform(int(seed), "corruption") for seed in seeds])
            noise_seeds = np.array([rng.derive(int(seed), "corruption", "noise") for seed in seeds])
            return augmentation.add_gaussian_noise(images, sigma, noise_seeds), encoded
        return images, encoded

    def normalizers(self, encoded: Tensor) -> Tensor:
        """Returns how many values count, (1,)."""
        return self.channels * encoded[:, -1].sum()[None]

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        """Returns the squared error summed over the values that count, (1,)."""
        error = (scores.float() - encoded[:, :-1]).square().sum(1)
        return (error * encoded[:, -1]).sum()[None]

    def target_classes(self, encoded: Tensor) -> Tensor:
        """Returns −1 for every pixel: there are no classes."""
        return torch.full_like(encoded[:, 0], IGNORED, dtype=torch.int64)

    def classes(self, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores[:, 0], dtype=torch.int64)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns an array without classes, (N, 0, H, W)."""
        return scores[:, :0].float()

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return transform_channels(encoded, codes)

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        return augmentation.apply_dihedral(scores, code)

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        raise SegueError("a reconstruction has no labels to decode; it gives images.")


def _random_mask(spec: MaskedSpec, size: tuple[int, int] | torch.Size, seed: int) -> Tensor:
    """Returns which pixels (H, W) are covered; the grid of squares begins anywhere, so that no place is special."""
    generator = rng.numpy_generator(seed, "corruption")
    height, width = size
    offset_y, offset_x = generator.integers(spec.patch_px, size=2)
    rows, columns = (-(-(length + spec.patch_px - 1) // spec.patch_px) for length in (height, width))
    squares = np.zeros(rows * columns, dtype=bool)
    squares[generator.permutation(rows * columns)[: max(1, round(spec.share * rows * columns))]] = True
    whole = np.kron(squares.reshape(rows, columns), np.ones((spec.patch_px, spec.patch_px), dtype=bool))
    return torch.from_numpy(whole[offset_y : offset_y + height, offset_x : offset_x + width].copy())


def build(spec: ReconstructionSpec, labels: LabelInfo) -> Reconstruction:
    """Returns the target for images of so many channels."""
    return Reconstruction(labels.channels, spec.corruption)
