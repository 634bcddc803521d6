"""Test-time augmentation: the average of a network's scores over the eight rotations and reflections of an image."""

from __future__ import annotations

from torch import Tensor, nn

from segue.data.augmentation import N_DIHEDRAL, apply_dihedral, inverse
from segue.targets.target import Target


class DihedralAverage(nn.Module):
    """A network whose scores (N, K, H, W) are the mean over the eight views of the images, turned back.

    Turned back are pixels and values: flows, rays, and whatever else has a direction (`Target.transform_scores`). The
    mean of a turned image is therefore the turned mean, whatever the network is, where height and width are multiples
    of its divisor. It takes eight times as long.
    """

    def __init__(self, network: nn.Module, target: Target) -> None:
        super().__init__()
        self.network, self.target = network, target

    def forward(self, images: Tensor) -> Tensor:
        total = None
        for code in range(N_DIHEDRAL):
            view = self.network(apply_dihedral(images, code).contiguous()).float()
            scores = self.target.transform_scores(view, inverse(code))
            total = scores if total is None else total + scores
        assert total is not None
        return total / N_DIHEDRAL
