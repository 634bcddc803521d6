"""Applies a network to images and scores it on a source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue import rng
from segue.data.source import Source
from segue.device import Precision
from segue.evaluation import curves, pixels
from segue.targets import taught
from segue.targets.image_class import ImageClass

if TYPE_CHECKING:
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
    of `class_scores` and `curves.scores`. keep: samples of the source, in the order wanted, whose probabilities are
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
    return (pixels.scores_of_images if isinstance(target, ImageClass) else pixels.scores)(counts, target.names)


class _Tally:
    """What is summed over batches for one network; nothing waits for the device before `scored`, save what is kept."""

    def __init__(self, target: Target, device: torch.device | str, keep: Sequence[int]) -> None:
        count = len(target.names)
        self.target, self.keep = target, list(keep)
        self.totals = self.masses = torch.zeros((), dtype=torch.float64, device=device)
        self.confusion = torch.zeros((count, count), dtype=torch.int64, device=device)
        self.histogram = torch.zeros((count, 2, curves.BINS), dtype=torch.int64, device=device)
        self.kept: dict[int, Tensor] = {}

    def add(self, scores: Tensor, encoded: Tensor, start: int) -> None:
        """Adds a batch, `start` being the index of its first sample."""
        self.totals = self.totals + self.target.totals(scores, encoded).double()
        self.masses = self.masses + self.target.masses(encoded).double()
        if not self.target.names:
            return
        classes = self.target.truth(encoded)
        probabilities = self.target.probabilities(scores)
        self.confusion += pixels.confusion(self.target.classes(scores), classes, len(self.target.names))
        self.histogram += curves.histogram(probabilities, classes)
        for index in set(self.keep) & set(range(start, start + len(scores))):
            self.kept[index] = (probabilities[index - start] * 255).round().to(torch.uint8).cpu()

    def scored(self) -> Scored:
        loss = (self.totals / self.masses).sum().item()
        found = {"loss": loss, "loss_floor": self.target.floor, "loss_adjusted": loss - self.target.floor}
        found |= class_scores(self.target, self.confusion) | curves.scores(self.histogram, self.target.names)
        kept = [self.kept[index] for index in self.keep]
        return Scored(found, torch.stack(kept) if kept else torch.empty(0, dtype=torch.uint8))
