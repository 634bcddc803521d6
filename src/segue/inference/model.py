"""A trained network with everything needed to apply it. Cheap to import: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.data.spec import NormalizeSpec
from segue.inference.domain import TrainingSet

if TYPE_CHECKING:
    from torch import nn

    from segue.inference.confidence import Calibration
    from segue.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model that `predict` applies to images.

    channels: names of the image channels that it takes. divisor: heights and widths of its inputs are multiples of it.
    decode_params: parameters of `target.decode`. confidence: of the decoded objects, None where it was not calibrated
    (`segue.inference.confidence`). training_set: what the images were that it was trained on, None where that was not
    recorded. pictures: hashes of the micrographs that it was trained or selected with, as far as they are known
    (`segue.data.folders.observations.picture_hash`). tta: whether scores are averaged over the eight rotations and
    reflections of an image (`predictor`).
    """

    network: nn.Module
    target: Target
    normalization: NormalizeSpec
    channels: tuple[str, ...]
    divisor: int
    decode_params: Mapping[str, float]
    training_set: TrainingSet | None = None
    confidence: Calibration | None = None
    pictures: frozenset[str] = frozenset()
    tta: bool = False

    @property
    def predictor(self) -> nn.Module:
        """The network as it predicts: with `tta`, that whose scores are the mean over the eight views of an image."""
        if not self.tta:
            return self.network
        from segue.inference.dihedral_average import DihedralAverage

        return DihedralAverage(self.network, self.target)

    @property
    def pixel_size_nm(self) -> float | None:
        """The pixel size of the images that it was trained on; None where that is not known, or not one size."""
        return None if self.training_set is None else self.training_set.pixel_size_nm
