"""Images of any size, a tile at a time: what a network scores, and the labels that follow, as of the whole image.

The image may be an array in memory, a memory map, zarr or HDF5: whatever can be sliced as (C, H, W). What is held in
memory depends on the size of the tiles and the number of objects, not on that of the image.

A convolutional network sees a bounded neighbourhood of each pixel (`reach_px`). Given as much around a tile, on the
same grid of its strides, its scores are those of the whole image but for rounding. Networks that look at the whole
image (attention, norm = "instance", "group" or "layer") score each tile as an image of its own; so do those that look
farther than MOST_REACH_PX, but the weight of what is so far away is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from segue.data.normalise import NormaliseSpec, normalised
from segue.device import Precision
from segue.errors import SegueError
from segue.inference.blockwise import statistics_of
from segue.inference.forward import predict
from segue.inference.joining import Joined, label_tiles
from segue.inference.tiles import Region, Tiling
from segue.targets.target import Target

MOST_REACH_PX = 512  # beyond the tile, on each side
CONTEXT_PX = 128  # what is shown beyond the halo to networks that look farther than that, or at everything


@torch.inference_mode()
def reach_px(network: nn.Module, *, channels: int, divisor: int) -> int | None:
    """Returns how far beyond a cell of divisor × divisor px the scores depend on what is in it; None where that is
    more than MOST_REACH_PX or has no bound.

    One cell of an image is NaN: what becomes NaN depends on it.
    """
    network.eval()
    device = next(network.parameters()).device
    cells = 9
    while True:
        side, start = cells * divisor, cells // 2 * divisor
        image = torch.zeros(1, channels, side, side, device=device)
        image[..., start : start + divisor, start : start + divisor] = torch.nan
        seen = network(image.contiguous(memory_format=torch.channels_last)).isnan().any(1)[0]
        found = torch.stack([seen.any(0), seen.any(1)]).nonzero()[:, 1]
        first, last = int(found.min()), int(found.max())
        if first > 0 and last < side - 1:
            reach = max(start - first, last + 1 - start - divisor)
            return reach if reach <= MOST_REACH_PX else None
        if start > MOST_REACH_PX:
            return None
        cells = 2 * cells - 1


@dataclass(frozen=True)
class Scorer:
    """A network over one image (C, H, W) as acquired, which is normalised by the statistics of all of it.

    context_px: how much is shown beyond what is asked for; None is as much as the network looks at.
    """

    network: nn.Module
    image: Any
    normalise: NormaliseSpec
    divisor: int
    precision: Precision = "fp32"
    context_px: int | None = None
    statistics: np.ndarray = field(init=False)
    shown_px: int = field(init=False)

    def __post_init__(self) -> None:
        shown = self.context_px
        if shown is None:
            reach = reach_px(self.network, channels=self.image.shape[0], divisor=self.divisor)
            shown = CONTEXT_PX if reach is None else reach
        object.__setattr__(self, "shown_px", shown)
        object.__setattr__(self, "statistics", statistics_of(self.normalise, self.image))

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]

    def scores(self, region: Region) -> np.ndarray:
        """Returns the scores (K, height, width) float32 of a region; raises SegueError for NaN or infinite values."""
        shown = region.widened(self.shown_px, self.shape).aligned(self.divisor, self.shape)
        block = np.asarray(self.image[(slice(None), *shown.slices)])[None]
        values = normalised(block.astype(np.uint8) if block.dtype == bool else block, self.statistics)
        if not np.isfinite(values).all():
            raise SegueError("images: hold NaN or infinite values; replace them before predicting.")
        device = next(self.network.parameters()).device
        scores = predict(
            self.network, torch.from_numpy(values).to(device), divisor=self.divisor, precision=self.precision
        )
        return np.ascontiguousarray(region.within(shown).read(scores[0].cpu().numpy()))


def write_objects(
    scores: Callable[[Region], np.ndarray],
    target: Target,
    out: Any,
    *,
    parameters: Mapping[str, float],
    tiling: Tiling,
) -> Joined:
    """Writes what the target decodes from the scores of all tiles into `out` (H, W), objects 1 … n in scan order.

    scores: returns those of a region, (K, height, width). See `joining.label_tiles` for when this is exact.
    """
    return label_tiles(lambda region: target.decode(scores(region), parameters), out, tiling=tiling)


def write_classes(scores: Callable[[Region], np.ndarray], target: Target, out: Any, *, tiling: Tiling) -> None:
    """Writes the most probable class of every pixel into `out` (H, W)."""
    for core in tiling.cores(out.shape):
        out[core.slices] = target.classes(torch.from_numpy(scores(core))[None])[0].numpy()


def write_probabilities(scores: Callable[[Region], np.ndarray], target: Target, out: Any, *, tiling: Tiling) -> None:
    """Writes the probability of each class into `out` (K, H, W)."""
    for core in tiling.cores(out.shape[1:]):
        out[(slice(None), *core.slices)] = target.probabilities(torch.from_numpy(scores(core))[None])[0].numpy()
