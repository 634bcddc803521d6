"""What the network is taught for each sample: encoded once, then turned as its views are.

Rays, flows and descriptors take longer to encode than some networks take to learn from them. Where views are no more
than turned and reflected, the encoding of a sample is made from its labels as they are stored and then turned, whether
it is kept or not, so that memory decides the speed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from segue.device import fits_beside
from segue.targets import learns_images
from segue.targets.target import Target
from segue.training.stage import StageSpec
from segue.training.views import augment_spec

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
