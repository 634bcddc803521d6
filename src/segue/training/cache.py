"""Caches of values that do not change between epochs: features of a frozen encoder, and encoded training targets.

Features: a frozen encoder gives the same features for the same visit in every epoch, so that only decoder and head need
to be computed. Images pass through it in a fixed order and in batches of a fixed size, whatever was interrupted before.

Targets: rays, flows and descriptors take longer to encode than some networks take to train on them. Where augmentation
is no more than dihedral, the target of a sample is encoded from its labels as stored, and the dihedral transform of
each visit is applied to the encoded target. This is done whether or not the encoded target is cached, so that memory
decides about speed alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from segue.data.augmentation import dihedral
from segue.data.sources import Source
from segue.device import Precision, fits_in_free_memory
from segue.inference.predict import autocast
from segue.targets.target import Target
from segue.training.inputs.sampler import augment_spec, is_fixed, repeats_per_sample
from segue.training.spec import StageSpec

MIN_EPOCHS = 2  # the first fills the cache of features and gains nothing


def are_features_cacheable(spec: StageSpec) -> bool:
    """Returns whether a frozen encoder sees the same images in every epoch; a target may change its input."""
    return spec.cache_features and is_fixed(spec) and spec.compile == "none" and not spec.target.is_self_supervised


@dataclass(frozen=True)
class FeatureCache:
    """The encoder's features of all visits, finest first: (visits, C, H, W) each, in the type it computed them in."""

    levels: tuple[Tensor, ...]

    @classmethod
    def compute(
        cls, network: nn.Module, source: Source, spec: StageSpec, *, device: torch.device, precision: Precision
    ) -> FeatureCache | None:
        """Returns the features of all samples with all of their repeats, or None where memory does not suffice.

        Visit i is repeat i % repeats of sample i // repeats (`EpochPlan.ids`). The encoder is used as it is, in
        evaluation mode.
        """
        repeats = repeats_per_sample(spec)
        count = len(source) * repeats
        levels: list[Tensor] = []
        for start in range(0, count, spec.batch):
            ids = np.arange(start, min(start + spec.batch, count))
            images, labels = source.read(torch.from_numpy(ids // repeats), device)
            images, _ = dihedral(images, labels, torch.from_numpy(ids % repeats))
            with torch.no_grad(), autocast(device, precision):
                features = network.encoder(images)  # type: ignore[operator]
            if not _are_features(features):
                return None
            if not levels:
                if not fits_in_free_memory(sum(f[0].numel() * f.element_size() for f in features) * count, device):
                    return None
                levels = [_empty(feature, count) for feature in features]
            for level, feature in zip(levels, features, strict=True):
                level[start : start + len(ids)] = feature
        return cls(tuple(levels))

    @property
    def bytes(self) -> int:
        return sum(level.numel() * level.element_size() for level in self.levels)

    def get(self, ids: Tensor) -> list[Tensor]:
        """Returns the features of the visits `ids` (n,), channels-last."""
        index = ids.to(self.levels[0].device)
        return [level[index] for level in self.levels]  # index_select would return them channels-first


def _are_features(features: object) -> bool:
    """Returns whether an encoder gives a plain list of (N, C, H, W) tensors, which can be cached."""
    return isinstance(features, (list, tuple)) and all(isinstance(f, Tensor) and f.dim() == 4 for f in features)


def _empty(feature: Tensor, count: int) -> Tensor:
    shape = (count, *feature.shape[1:])
    return torch.empty(shape, dtype=feature.dtype, device=feature.device, memory_format=torch.channels_last)


def are_targets_cacheable(spec: StageSpec) -> bool:
    """Returns whether encoded targets are transformed with their visits rather than encoded again for each."""
    return not spec.target.cheap_to_encode and not spec.target.is_self_supervised and not augment_spec(spec).resamples


@dataclass
class TargetCache:
    """Encoded targets of the samples of a source, computed at the first request and kept if memory suffices.

    encoded (n, target_channels, H, W), on the device, and is_encoded (n,) bool, which of them are filled; both None if
    memory does not suffice.
    """

    target: Target
    encoded: Tensor | None
    is_encoded: Tensor | None = None

    @classmethod
    def allocate(cls, target: Target, shape: tuple[int, int, int], device: torch.device) -> TargetCache:
        """Returns an empty cache for samples of this shape (n, H, W)."""
        count, height, width = shape
        if not fits_in_free_memory(4 * target.target_channels * count * height * width, device):
            return cls(target, None)
        encoded = torch.empty(count, target.target_channels, height, width, device=device)
        return cls(target, encoded, torch.zeros(count, dtype=torch.bool))

    def get(self, samples: Tensor, labels: Tensor, codes: Tensor) -> Tensor:
        """Returns the encoded targets of the samples (n,), whose stored labels (n, H, W) are given, transformed by the
        dihedral codes (n,)."""
        if self.encoded is None or self.is_encoded is None:
            encoded = self.target.encode(labels)
        else:
            new = (~self.is_encoded[samples]).nonzero()[:, 0]
            if len(new):
                index = samples[new].to(self.encoded.device)
                self.encoded[index] = self.target.encode(labels[new.to(labels.device)])
                self.is_encoded[samples] = True
            encoded = self.encoded[samples.to(self.encoded.device)]
        return self.target.transform(encoded, codes) if codes.any() else encoded
