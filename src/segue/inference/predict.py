"""Applies a network to images and scores it on a source.

Images of any size, a tile at a time: what a network scores, and the labels that follow, as of the whole image.

The image may be an array in memory, a memory map, zarr or HDF5: whatever can be sliced as (C, H, W). What is held in
memory depends on the size of the tiles and the number of objects, not on that of the image.

A convolutional network sees a bounded neighbourhood of each pixel (`reach_px`). Given as much around a tile, on the
same grid of its strides, its scores are those of the whole image but for rounding. Networks that look at the whole
image (attention, norm = "instance", "group" or "layer") score each tile as an image of its own; so do those that look
farther than MOST_REACH_PX, but the weight of what is so far away is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue import rng
from segue.data.normalization import normalised, statistics_of
from segue.data.sources import Source
from segue.data.spec import NormaliseSpec
from segue.data.tiling import Region, Tiling
from segue.device import Precision
from segue.errors import SegueError
from segue.evaluation import pixel_metrics
from segue.inference.stitch_objects import Joined, label_tiles
from segue.targets.classes import ImageClass
from segue.targets.registry import taught
from segue.targets.target import Target


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Returns the context in which a network computes at the precision; weights stay float32."""
    halves: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = halves.get(precision, torch.bfloat16)
    return torch.autocast(torch.device(device).type, dtype, enabled=precision in halves)


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, *, divisor: int, precision: Precision) -> Tensor:
    """Returns scores (N, K, H, W) float32 of standardised images (N, C, H, W) of any height and width.

    Images are padded by reflection at the lower and right border to a multiple of `divisor` and the scores cut back.
    """
    network.eval()
    height, width = images.shape[-2:]
    bottom, right = -height % divisor, -width % divisor
    if bottom or right:
        mode = "reflect" if bottom < height and right < width else "replicate"
        images = F.pad(images, (0, right, 0, bottom), mode=mode)
    with autocast(images.device, precision):
        scores = network(images.contiguous(memory_format=torch.channels_last))
    return scores.float()[..., :height, :width]


@dataclass(frozen=True)
class Scored:
    """`scores` by name; `kept` (n, K, H, W) uint8, 255 times the probabilities of the samples asked for, on the CPU."""

    scores: dict[str, float]
    kept: Tensor


def score(
    network: nn.Module, target: Target, source: Source, *, batch: int, device: torch.device | str, precision: Precision
) -> dict[str, float]:
    """Returns the loss and the scores of the network over all of a source: `score_many` of one."""
    return score_many([network], [target], source, batch=batch, device=device, precision=precision)[0].scores


@torch.inference_mode()
def score_many(
    networks: Sequence[nn.Module],
    targets: Sequence[Target],
    source: Source,
    *,
    batch: int,
    device: torch.device | str,
    precision: Precision,
    keep: Sequence[int] = (),
) -> list[Scored]:
    """Returns what each network, with its target, scores over all of a source that is read once.

    The scores are the loss, `loss_floor` (the least value it can take), `loss_adjusted` (the loss less that), and those
    of `class_scores` and `curves.curve_scores`. keep: samples of the source, in the order wanted, whose probabilities
    are
    returned too; raises IndexError for one that the source does not have.
    """
    unknown = [str(index) for index in keep if not 0 <= index < len(source)]
    if unknown:
        raise IndexError(f"keep: the source has samples 0 to {len(source) - 1}, not {', '.join(unknown)}")
    tallies = [_Tally(target, device, keep) for target in targets]
    for network in networks:
        network.eval()
    bounds = [(start, min(start + batch, len(source))) for start in range(0, len(source), batch)]
    with closing(source.batches(np.arange(len(source)), bounds, device)) as batches:
        for (start, stop), (images, labels) in zip(bounds, batches, strict=True):
            for network, tally in zip(networks, tallies, strict=True):
                seeds = np.array([rng.derive("scoring", index) for index in range(start, stop)])
                shown, encoded = taught(tally.target, images, labels, seeds)
                with autocast(device, precision):
                    scores = network(shown)
                tally.add(scores, encoded, start)
    return [tally.scored() for tally in tallies]


def class_scores(target: Target, counts: Tensor) -> dict[str, float]:
    """Returns the scores of a (K, K) confusion matrix of pixels, or of images where they are what is classified."""
    if not target.names:
        return {}
    return (pixel_metrics.scores_of_images if isinstance(target, ImageClass) else pixel_metrics.scores)(
        counts, target.names
    )


class _Tally:
    """What is summed over batches for one network; nothing waits for the device before `scored`, save what is kept."""

    def __init__(self, target: Target, device: torch.device | str, keep: Sequence[int]) -> None:
        count = len(target.names)
        self.target, self.keep = target, list(keep)
        self.totals = self.masses = torch.zeros((), dtype=torch.float64, device=device)
        self.confusion = torch.zeros((count, count), dtype=torch.int64, device=device)
        self.histogram = torch.zeros((count, 2, pixel_metrics.BINS), dtype=torch.int64, device=device)
        self.kept: dict[int, Tensor] = {}

    def add(self, scores: Tensor, encoded: Tensor, start: int) -> None:
        """Adds a batch, `start` being the index of its first sample."""
        self.totals = self.totals + self.target.totals(scores, encoded).double()
        self.masses = self.masses + self.target.masses(encoded).double()
        if not self.target.names:
            return
        classes = self.target.truth(encoded)
        probabilities = self.target.probabilities(scores)
        self.confusion += pixel_metrics.confusion(self.target.classes(scores), classes, len(self.target.names))
        self.histogram += pixel_metrics.histogram(probabilities, classes)
        for index in set(self.keep) & set(range(start, start + len(scores))):
            self.kept[index] = (probabilities[index - start] * 255).round().to(torch.uint8).cpu()

    def scored(self) -> Scored:
        loss = (self.totals / self.masses).sum().item()
        found = {"loss": loss, "loss_floor": self.target.floor, "loss_adjusted": loss - self.target.floor}
        found |= class_scores(self.target, self.confusion) | pixel_metrics.curve_scores(
            self.histogram, self.target.names
        )
        kept = [self.kept[index] for index in self.keep]
        return Scored(found, torch.stack(kept) if kept else torch.empty(0, dtype=torch.uint8))


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
