"""Applies a network to images and scores it on a source."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.source import Source
from segue.device import Precision
from segue.evaluation import pixels

if TYPE_CHECKING:
    from segue.targets.classes import Classes


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Returns the context in which a network computes at the precision; weights stay float32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


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


@torch.inference_mode()
def score(
    network: nn.Module, target: Classes, source: Source, *, batch: int, device: torch.device | str, precision: Precision
) -> dict[str, float]:
    """Returns the loss per labelled pixel and the pixel scores of the network over all of a source.

    `loss_adjusted` is the loss less the least value it can take (`loss_floor`).
    """
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    mass = torch.zeros((), dtype=torch.float64, device=device)
    counts = torch.zeros((target.channels, target.channels), dtype=torch.int64, device=device)
    for start in range(0, len(source), batch):
        images, labels = source.read(torch.arange(start, min(start + batch, len(source))), device)
        classes = target.encode(labels)
        with autocast(device, precision):
            scores = network(images)
        part, weight = target.loss_sum(scores, classes)
        total += part
        mass += weight
        counts += pixels.confusion(target.decode(scores), classes, target.channels)
    loss = (total / mass).item()
    adjusted = {"loss": loss, "loss_floor": target.floor, "loss_adjusted": loss - target.floor}
    return adjusted | pixels.scores(counts, target.names)
