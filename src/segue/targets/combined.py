"""Several targets as outputs of one network: the main one, and auxiliary ones that support its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segue.targets.target import Output, Target


@dataclass(frozen=True)
class Combined:
    """Scores and encodings have the channels of the parts, one after another, the main one's first; `weights` has a
    factor on the loss of each part, 1 for the main one. Everything but the loss is the main target's alone."""

    parts: tuple[Target, ...]
    weights: tuple[float, ...]

    @property
    def main(self) -> Target:
        return self.parts[0]

    @property
    def output(self) -> Output:
        return "objects" if self.main.decodes_objects else self.main.output

    @property
    def decodes_objects(self) -> bool:
        return self.main.decodes_objects

    @property
    def channels(self) -> int:
        return sum(part.channels for part in self.parts)

    @property
    def score_channels(self) -> dict[str, str]:
        """Those of the main target, then those of auxiliary ones as "auxiliary_<part>_<name>"."""
        main, *others = (part.score_channels for part in self.parts)
        auxiliary = {
            f"auxiliary_{index}_{name}": meaning
            for index, part in enumerate(others, 1)
            for name, meaning in part.items()
        }
        return {**main, **auxiliary}

    @property
    def target_channels(self) -> int:
        return sum(part.target_channels for part in self.parts)

    @property
    def encodes_class_indices(self) -> bool:
        return False

    @property
    def names(self) -> tuple[str, ...]:
        return self.main.names

    @property
    def class_weights(self) -> None:
        """None: a run records the weights that follow from its samples, and those of parts are given."""
        return None

    @property
    def min_loss(self) -> float:
        return sum(weight * part.min_loss for part, weight in zip(self.parts, self.weights, strict=True))

    @property
    def decode_params(self) -> Mapping[str, float]:
        return self.main.decode_params

    @property
    def decode_search_space(self) -> Mapping[str, tuple[float, ...]]:
        return self.main.decode_search_space

    def for_layer(self, *, instances: bool) -> Combined | None:
        main = self.main.for_layer(instances=instances)
        return None if main is None else Combined((main, *self.parts[1:]), self.weights)

    def encode(self, labels: Tensor) -> Tensor:
        """Returns the channels of all parts; raises TypeError where one is self-supervised: see `encode_batch`."""
        return _stack([part.encode(labels) for part in self.parts])

    def encode_batch(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the images as they are, since no auxiliary part may change them, and the channels of all parts."""
        return images, _stack([part.encode_batch(images, labels, seeds)[1] for part in self.parts])

    def normalizers(self, encoded: Tensor) -> Tensor:
        return torch.cat([part.normalizers(channels) for part, channels in self._split(encoded)])

    def loss_sums(self, scores: Tensor, encoded: Tensor) -> Tensor:
        part_scores = scores.split([part.channels for part in self.parts], dim=1)
        return torch.cat(
            [
                weight * part.loss_sums(own_scores, channels)
                for weight, own_scores, (part, channels) in zip(
                    self.weights, part_scores, self._split(encoded), strict=True
                )
            ]
        )

    def target_classes(self, encoded: Tensor) -> Tensor:
        main, channels = next(self._split(encoded))
        return main.target_classes(channels)

    def classes(self, scores: Tensor) -> Tensor:
        return self.main.classes(scores[:, : self.main.channels])

    def probabilities(self, scores: Tensor) -> Tensor:
        return self.main.probabilities(scores[:, : self.main.channels])

    def transform(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return _stack([part.transform(channels, codes) for part, channels in self._split(encoded)])

    def transform_scores(self, scores: Tensor, code: int) -> Tensor:
        split = scores.split([part.channels for part in self.parts], dim=1)
        parts = zip(self.parts, split, strict=True)
        return torch.cat([part.transform_scores(part_scores, code) for part, part_scores in parts], 1)

    def decode(self, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
        return self.main.decode(scores[: self.main.channels], params)

    def _split(self, encoded: Tensor) -> Iterator[tuple[Target, Tensor]]:
        """Yields each part with its encoding, in its own form."""
        channels = encoded.split([part.target_channels for part in self.parts], dim=1)
        for part, part_encoded in zip(self.parts, channels, strict=True):
            yield part, part_encoded[:, 0].long() if part.encodes_class_indices else part_encoded


def _stack(encoded: Sequence[Tensor]) -> Tensor:
    """Returns (N, E, H, W) float32; class indices (N, H, W) become one channel, exact below 2**24."""
    return torch.cat([part[:, None].float() if part.dim() == 3 else part for part in encoded], dim=1)
