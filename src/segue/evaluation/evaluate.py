"""Scores networks on a source, batch by batch: the loss, and scores of pixels or of images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from segue import rng
from segue.data.sources import Source
from segue.device import Precision
from segue.evaluation import pixel_metrics
from segue.inference.predict import autocast
from segue.targets.target import Target

MAX_COUNTED_CLASSES = 32  # of which the confusion of every sample is returned


@dataclass(frozen=True)
class SampleCounts:
    """Of each of n samples, on the CPU: the sums of the T terms of the loss and what they are divided by, (n, T)
    float64, and the confusion (n, K, K) int64, None without classes and with more than MAX_COUNTED_CLASSES."""

    loss_sums: Tensor
    normalizers: Tensor
    confusion: Tensor | None


@dataclass(frozen=True)
class Evaluation:
    """`scores` by name; `probabilities` (n, K, H, W) uint8, 255 times those of the requested samples, on the CPU;
    `samples`: what was counted in each sample, if requested."""

    scores: dict[str, float]
    probabilities: Tensor
    samples: SampleCounts | None = None


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
    samples: Sequence[int] = (),
    per_sample: bool = False,
) -> list[Evaluation]:
    """Returns what each network, with its target, scores over all of a source that is read once.

    The scores are the loss, `loss_floor` (the least value it can take), `loss_adjusted` (the loss less that), and those
    of `class_scores` and `pixel_metrics.curve_scores`. samples: those of the source, in any order, whose probabilities
    are returned too; raises IndexError for one that the source does not have. per_sample: whether to count every
    sample by itself, too.
    """
    unknown = [str(index) for index in samples if not 0 <= index < len(source)]
    if unknown:
        raise IndexError(f"samples: the source has samples 0 to {len(source) - 1}, not {', '.join(unknown)}")
    totals = [_RunningTotals(target, device, samples, per_sample) for target in targets]
    for network in networks:
        network.eval()
    bounds = [(start, min(start + batch, len(source))) for start in range(0, len(source), batch)]
    with closing(source.batches(np.arange(len(source)), bounds, device)) as batches:
        for (start, stop), (images, labels) in zip(bounds, batches, strict=True):
            for network, total in zip(networks, totals, strict=True):
                seeds = np.array([rng.derive("scoring", index) for index in range(start, stop)])
                inputs, encoded = total.target.encode_batch(images, labels, seeds)
                with autocast(device, precision):
                    scores = network(inputs)
                total.add(scores, encoded, start)
    return [total.evaluation() for total in totals]


def class_scores(target: Target, counts: Tensor) -> dict[str, float]:
    """Returns the scores of a (K, K) confusion matrix of pixels, or of images where they are what is classified."""
    if not target.names:
        return {}
    scores_of = pixel_metrics.image_scores if target.output == "image_class" else pixel_metrics.scores
    return scores_of(counts, target.names)


class _RunningTotals:
    """Sums over batches for one network; waits for the device only in `evaluation`, and for requested probabilities."""

    def __init__(self, target: Target, device: torch.device | str, samples: Sequence[int], per_sample: bool) -> None:
        count = len(target.names)
        self.target, self.samples = target, list(samples)
        self.loss_sums = self.normalizers = torch.zeros((), dtype=torch.float64, device=device)
        self.confusion = torch.zeros((count, count), dtype=torch.int64, device=device)
        self.histogram = torch.zeros((count, 2, pixel_metrics.BINS), dtype=torch.int64, device=device)
        self.probabilities: dict[int, Tensor] = {}
        self.counts: list[SampleCounts] | None = [] if per_sample else None  # of each batch

    def add(self, scores: Tensor, encoded: Tensor, start: int) -> None:
        """Adds a batch, `start` being the index of its first sample."""
        target, count = self.target, len(self.target.names)
        self.loss_sums = self.loss_sums + target.loss_sums(scores, encoded).double()
        self.normalizers = self.normalizers + target.normalizers(encoded).double()
        confusion = None
        if count:
            classes, probabilities = target.target_classes(encoded), target.probabilities(scores)
            self.histogram += pixel_metrics.histogram(probabilities, classes)
            for index in set(self.samples) & set(range(start, start + len(scores))):
                self.probabilities[index] = (probabilities[index - start] * 255).round().to(torch.uint8).cpu()
            if self.counts is not None and count <= MAX_COUNTED_CLASSES:
                confusion = pixel_metrics.confusion_per_image(target.classes(scores), classes, count)
                self.confusion += confusion.sum(0)
            else:
                self.confusion += pixel_metrics.confusion(target.classes(scores), classes, count)
        if self.counts is not None:
            singles = list(zip(scores.split(1), encoded.split(1), strict=True))
            loss_sums = torch.stack([target.loss_sums(*single) for single in singles]).double()
            normalizers = torch.stack([target.normalizers(one) for _, one in singles]).double()
            self.counts.append(SampleCounts(loss_sums, normalizers, confusion))

    def evaluation(self) -> Evaluation:
        loss, min_loss = (self.loss_sums / self.normalizers).sum().item(), self.target.min_loss
        scores = {"loss": loss, "loss_floor": min_loss, "loss_adjusted": loss - min_loss}
        scores |= class_scores(self.target, self.confusion)
        scores |= pixel_metrics.curve_scores(self.histogram, self.target.names)
        selected = [self.probabilities[index] for index in self.samples]
        probabilities = torch.stack(selected) if selected else torch.empty(0, dtype=torch.uint8)
        return Evaluation(scores, probabilities, _concatenated(self.counts) if self.counts else None)


def _concatenated(counts: Sequence[SampleCounts]) -> SampleCounts:
    confusion = [one.confusion for one in counts if one.confusion is not None]
    return SampleCounts(
        torch.cat([one.loss_sums for one in counts]).cpu(),
        torch.cat([one.normalizers for one in counts]).cpu(),
        torch.cat(confusion).cpu() if confusion else None,
    )
