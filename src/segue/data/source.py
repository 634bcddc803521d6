"""Sources: whatever yields images and labels to the training loop.

A source numbers its samples 0 … len - 1 and reads any of them, in any order, on the device asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from segue.data.assembly import smallest
from segue.data.dataset import Dataset
from segue.errors import SegueError

Normalise = Literal["image", "none"]
BLOCK_BYTES = 64 * 2**20


class Source(Protocol):
    """What the loop needs: images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64, -1 ignored."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images and labels of the samples, in the order of `indices` (n,), repeats allowed."""
        ...

    def names(self, indices: Sequence[int]) -> list[str]:
        """Returns what to call the samples in an error: "<source> tile y,x"."""
        ...


@dataclass(frozen=True)
class ResidentSource:
    """Samples in memory: pixels (n, H, W, C) float32, marks (n, H, W) in the smallest type that holds the labels."""

    pixels: Tensor
    marks: Tensor
    sample_names: tuple[str, ...]

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, indices: np.ndarray, *, layer: str, normalise: Normalise = "image"
    ) -> ResidentSource:
        """Returns the samples `indices` of a dataset, in that order, with the labels of `layer` as they are stored.

        normalise "image": (x - mean) / standard deviation of the micrograph that the tile was cut from, per channel
        (a standard deviation of 0 counts as 1), so that a tile and its micrograph are standardised alike; "none": the
        acquired values. Raises SegueError naming the sample and its file for NaN and infinity.
        """
        indices = np.asarray(indices, dtype=np.int64)
        channels, height, width = dataset.tile_shape
        pixels = np.empty((len(indices), height, width, channels), dtype=np.float32)
        marks = np.empty((len(indices), height, width), dtype=np.int32)
        names = sample_names(dataset, indices)
        intensity = dataset.intensity(indices)
        order = np.argsort(indices, kind="stable")  # sorted, so that each compressed chunk is read once
        step = max(1, BLOCK_BYTES // max(1, 8 * channels * height * width))
        for start in range(0, len(order), step):
            places = order[start : start + step]
            images, labels = dataset.read(indices[places], layer=layer)
            assert labels is not None
            values = standardised(images, intensity[places]) if normalise == "image" else images.astype(np.float32)
            _check_finite(dataset, values, [names[place] for place in places])
            pixels[places] = np.moveaxis(values, 1, -1)
            marks[places] = labels
        return cls(torch.from_numpy(pixels), torch.from_numpy(smallest(marks)), tuple(names))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64 on `device`."""
        place = torch.as_tensor(indices, device=self.pixels.device)
        pixels = self.pixels.index_select(0, place).to(device, non_blocking=True)
        marks = self.marks.index_select(0, place).to(device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2), marks.to(torch.int64)

    def names(self, indices: Sequence[int]) -> list[str]:
        return [self.sample_names[int(index)] for index in indices]

    def to(self, device: torch.device | str) -> ResidentSource:
        """Returns the same samples held on `device`, where `read` then copies nothing across."""
        return ResidentSource(self.pixels.to(device), self.marks.to(device), self.sample_names)


def concatenate(sources: Sequence[ResidentSource]) -> ResidentSource:
    """Returns one source of all samples, those of the first source first; raises SegueError where tiles differ."""
    if not sources:
        raise ValueError("nothing to concatenate")
    shapes = {tuple(source.pixels.shape[1:]) for source in sources}
    if len(shapes) > 1:
        shown = ", ".join(f"{c} × {h} × {w}" for h, w, c in sorted(shapes))
        raise SegueError(
            f"the tiles of the mixed domains differ ({shown}); prepare them with one tile_px and channels."
        )
    kind = max((source.marks.dtype for source in sources), key=lambda dtype: torch.iinfo(dtype).max)
    return ResidentSource(
        torch.cat([source.pixels for source in sources]),
        torch.cat([source.marks.to(kind) for source in sources]),
        tuple(name for source in sources for name in source.sample_names),
    )


def bytes_needed(dataset: Dataset, count: int) -> int:
    """Returns an upper estimate of the memory that `count` samples of the dataset take when resident."""
    channels, height, width = dataset.tile_shape
    return count * height * width * (4 * channels + 4)


def sample_names(dataset: Dataset, indices: np.ndarray) -> list[str]:
    """Returns "<source> tile y,x" for each sample."""
    samples = dataset.samples()
    columns = (samples[name][indices] for name in ("source", "y_px", "x_px"))
    return [f"{source} tile {y},{x}" for source, y, x in zip(*columns, strict=True)]


def standardised(images: np.ndarray, intensity: np.ndarray) -> np.ndarray:
    """Returns (images - mean) / deviation as float32, with intensity (n, C, 2); a deviation of 0 counts as 1."""
    mean, deviation = intensity[..., 0, None, None], intensity[..., 1, None, None]
    values = images.astype(np.float32)
    values -= mean
    values /= np.where(deviation == 0, 1, deviation)
    return values


def _check_finite(dataset: Dataset, values: np.ndarray, names: Sequence[str]) -> None:
    finite = np.isfinite(values).reshape(len(values), -1)
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad):
        count = int((~finite[bad[0]]).sum())
        more = f", and {len(bad) - 1} more samples," if len(bad) > 1 else ""
        raise SegueError(
            f"{dataset.path}: sample {names[bad[0]]}{more} holds NaN or infinity ({count} pixels); "
            "correct the image and make the dataset anew, or leave the sample out."
        )
