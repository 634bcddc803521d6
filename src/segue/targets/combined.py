"""Several targets asked of one network at once: the main one, and others that help it to learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segue.targets.classes import Classes
from segue.targets.reconstruction import Reconstruction
from segue.targets.target import Target


@dataclass(frozen=True)
class Combined:
    """Scores and planes are those of the parts, one after another, the main one's first; `weights` has a factor on the
    loss of each part, 1 for the main one. Everything but teaching is the main target's alone."""

    parts: tuple[Target, ...]
    weights: tuple[float, ...]

    @property
    def main(self) -> Target:
        return self.parts[0]

    @property
    def channels(self) -> int:
        return sum(part.channels for part in self.parts)

    @property
    def planes(self) -> int:
        return sum(part.planes for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        return self.main.names

    @property
    def floor(self) -> float:
        return sum(weight * part.floor for part, weight in zip(self.parts, self.weights, strict=True))

    @property
    def parameters(self) -> Mapping[str, float]:
        return self.main.parameters

    @property
    def ranges(self) -> Mapping[str, tuple[float, ...]]:
        return self.main.ranges

    def encode(self, labels: Tensor) -> Tensor:
        """Returns the planes of all parts; raises TypeError where one is taught by images: see `taught`."""
        return _stacked([part.encode(labels) for part in self.parts])

    def taught(self, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns the images (N, C, H, W) as they are, and what the network is taught."""
        found = [
            part.taught(images, labels, seeds)[1] if isinstance(part, Reconstruction) else part.encode(labels)
            for part in self.parts
        ]
        return images, _stacked(found)

    def masses(self, encoded: Tensor) -> Tensor:
        return torch.cat([part.masses(own) for part, own in self._planes_of(encoded)])

    def totals(self, scores: Tensor, encoded: Tensor) -> Tensor:
        taught = self._planes_of(encoded)
        return torch.cat(
            [
                weight * part.totals(given, own)
                for weight, given, (part, own) in zip(self.weights, self._scores_of(scores), taught, strict=True)
            ]
        )

    def truth(self, encoded: Tensor) -> Tensor:
        part, own = next(self._planes_of(encoded))
        return part.truth(own)

    def classes(self, scores: Tensor) -> Tensor:
        return self.main.classes(scores[:, : self.main.channels])

    def probabilities(self, scores: Tensor) -> Tensor:
        return self.main.probabilities(scores[:, : self.main.channels])

    def turned(self, encoded: Tensor, codes: Tensor) -> Tensor:
        return _stacked([part.turned(own, codes) for part, own in self._planes_of(encoded)])

    def decode(self, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
        return self.main.decode(scores[: self.main.channels], parameters)

    def _planes_of(self, encoded: Tensor) -> Iterator[tuple[Target, Tensor]]:
        """Yields each part with its planes, in the form that it encodes to."""
        for part, own in zip(self.parts, encoded.split([part.planes for part in self.parts], dim=1), strict=True):
            yield part, own[:, 0].long() if isinstance(part, Classes) else own

    def _scores_of(self, scores: Tensor) -> Sequence[Tensor]:
        return scores.split([part.channels for part in self.parts], dim=1)


def _stacked(encoded: Sequence[Tensor]) -> Tensor:
    """Returns planes (N, E, H, W) float32; class indices (N, H, W) become one plane, exact below 2**24."""
    return torch.cat([own[:, None].float() if own.dim() == 3 else own for own in encoded], dim=1)
