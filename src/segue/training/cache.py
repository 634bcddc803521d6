"""What a frozen encoder makes of a fixed set of views: computed once and reused over the epochs.

A frozen encoder gives the same features for the same view in every epoch, so that only decoder and head need to be
computed. Views are put through it in a fixed order and batches of a fixed size, whatever was interrupted before.


What the network is taught for each sample: encoded once, then turned as its views are.

Rays, flows and descriptors take longer to encode than some networks take to learn from them. Where views are no more
than turned and reflected, the encoding of a sample is made from its labels as they are stored and then turned, whether
it is kept or not, so that memory decides the speed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from segue.data.augmentation import dihedral
from segue.data.sources import Source
from segue.device import Precision, fits_beside
from segue.inference.predict import autocast
from segue.targets.specs import learns_images
from segue.targets.target import Target
from segue.training.sampler import augment_spec
from segue.training.spec import StageSpec

LEAST_EPOCHS = 2  # the first fills the cache and gains nothing


@dataclass(frozen=True)
class Features:
    """The encoder's features of every view, finest first: (views, C, H, W) each, in the type it computed them in."""

    levels: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        return sum(level.numel() * level.element_size() for level in self.levels)

    def of(self, ids: Tensor) -> list[Tensor]:
        """Returns the features of the views `ids` (n,), channels-last."""
        place = ids.to(self.levels[0].device)
        return [level[place] for level in self.levels]  # index_select would return them channels-first


def compute(
    network: nn.Module, source: Source, *, copies: int, batch: int, device: torch.device, precision: Precision
) -> Features | None:
    """Returns the features of all `copies` (1, or the 8 turns) of every sample, or None where memory does not suffice.

    View number i is copy i % copies of sample i // copies. The encoder is used as it stands, in evaluation mode.
    """
    count = len(source) * copies
    levels: list[Tensor] = []
    for start in range(0, count, batch):
        ids = np.arange(start, min(start + batch, count))
        images, labels = source.read(torch.from_numpy(ids // copies), device)
        images, _ = dihedral(images, labels, torch.from_numpy(ids % copies))
        with torch.no_grad(), autocast(device, precision):
            found = network.encoder(images)  # type: ignore[operator]
        if not _are_features(found):
            return None
        if not levels:
            if not fits_beside(sum(f[0].numel() * f.element_size() for f in found) * count, device):
                return None
            levels = [_empty(feature, count) for feature in found]
        for level, feature in zip(levels, found, strict=True):
            level[start : start + len(ids)] = feature
    return Features(tuple(levels))


def _are_features(found: object) -> bool:
    """Returns whether an encoder gives a plain list of (N, C, H, W) tensors, which can be kept."""
    return isinstance(found, (list, tuple)) and all(isinstance(f, Tensor) and f.dim() == 4 for f in found)


def _empty(feature: Tensor, count: int) -> Tensor:
    shape = (count, *feature.shape[1:])
    return torch.empty(shape, dtype=feature.dtype, device=feature.device, memory_format=torch.channels_last)


CHEAP = ("classes", "foreground", "image-class")  # to encode, about as fast as to turn


def are_turned(spec: StageSpec) -> bool:
    """Returns whether encodings are turned with their views rather than made anew for each."""
    return spec.target.name not in CHEAP and not learns_images(spec.target) and not augment_spec(spec).resamples


@dataclass
class Encodings:
    """Encodings of the samples of a source, made when first asked for and kept where memory suffices.

    kept (n, planes, H, W) on the device, and which of them are there already, (n,) bool; None where nothing is kept.
    """

    target: Target
    kept: Tensor | None
    known: Tensor | None = field(default=None)

    @classmethod
    def begin(cls, target: Target, shape: tuple[int, int, int], device: torch.device) -> Encodings:
        """Returns room for the encodings of samples of this shape (n, H, W)."""
        count, height, width = shape
        if not fits_beside(4 * target.planes * count * height * width, device):
            return cls(target, None)
        kept = torch.empty(count, target.planes, height, width, device=device)
        return cls(target, kept, torch.zeros(count, dtype=torch.bool))

    def of(self, samples: Tensor, labels: Tensor, codes: Tensor) -> Tensor:
        """Returns what is taught of the samples (n,), whose labels as stored are given (n, H, W), turned by codes."""
        if self.kept is None or self.known is None:
            encoded = self.target.encode(labels)
        else:
            new = ~self.known[samples]
            if new.any():
                own = new.nonzero()[:, 0]
                self.kept[samples[own].to(self.kept.device)] = self.target.encode(labels[own.to(labels.device)])
                self.known[samples] = True
            encoded = self.kept[samples.to(self.kept.device)]
        return self.target.turned(encoded, codes) if codes.any() else encoded
