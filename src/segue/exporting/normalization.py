"""Normalization of acquired values inside an exported network: `segue.data.normalization` in operations of torch.

Only operations that ONNX has, on shapes that are not known before: what does not count is masked, not removed.
Statistics are computed in float64, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data import normalization as reference
from segue.data.spec import NormalizeSpec, PercentileSpec


class Normalization(nn.Module):
    """Computes shift and scale (N, C, 1, 1) float32 of images (N, C, H, W) float32, finite values in acquired units.

    They are those of `intensity_stats` but for rounding, for "background" up to MAX_WHOLE_PX pixels. Of larger images
    segue reads a sample of blocks, and this all pixels, so that level and contrast differ as a sample's do.
    """

    def __init__(self, normalization: NormalizeSpec) -> None:
        super().__init__()
        self.normalization = normalization

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.normalization == "none":
            shift = torch.zeros_like(images[..., :1, :1])
            return shift, shift + 1
        values = images.flatten(2).double()
        if self.normalization == "background":
            shift, scale = _background(images, values)
        elif isinstance(self.normalization, PercentileSpec):
            ordered = values.sort(-1).values
            shift, high = (
                _percentile(ordered, percent) for percent in (self.normalization.low, self.normalization.high)
            )
            scale = high - shift
        else:
            shift = values.mean(-1, keepdim=True)
            scale = (values - shift).square().mean(-1, keepdim=True).sqrt()
        shift, scale = shift.float(), scale.float()
        return shift[..., None], torch.where(scale == 0, 1.0, scale)[..., None]


def _percentile(ordered: Tensor, percent: float) -> Tensor:
    """Returns a percentile (N, C, 1) of ascending values (N, C, P), interpolated linearly between two of them."""
    last = torch.ones_like(ordered[:1, :1], dtype=torch.int64).sum(-1, keepdim=True) - 1
    position = (last.double() * (percent / 100)).expand(ordered.shape[0], ordered.shape[1], 1)
    lower, upper = (ordered.gather(-1, index.long()) for index in (position.floor(), position.ceil()))
    return lower + (upper - lower) * (position - position.floor())


def _background(images: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns level and a third of the contrast, (N, C, 1) float64: `segue.data.normalization.background_of`.

    values (N, C, P): the pixels of images (N, C, H, W).
    """
    # constant neighborhoods do not count, unless there are no others; their rims are no foreground
    amid = _largest_around(images) == -_largest_around(-images)
    rim = _largest_around(amid.float()).flatten(2) > 0
    inside = ~amid.flatten(2)
    counted = inside | (inside.sum(-1, keepdim=True) == 0)
    number = counted.sum(-1, keepdim=True)
    ordered = torch.where(counted, values, torch.inf).sort(-1).values
    position = torch.ones_like(number).expand_as(values).cumsum(-1) - 1

    # the shortest interval with a quarter of the values: where there are several, the one in the middle
    count = (reference.BACKGROUND_FRACTION * number.double()).ceil().long()
    starts = position <= number - count
    ends = (position + count - 1).minimum(position[..., -1:])
    lengths = torch.where(starts, ordered.gather(-1, ends) - ordered, torch.inf)
    shortest = lengths.amin(-1, keepdim=True)
    is_shortest = (starts & (lengths == shortest)).long()
    middle = is_shortest.sum(-1, keepdim=True) // 2 + 1
    start = (is_shortest.cumsum(-1) < middle).sum(-1, keepdim=True)
    level = (ordered.gather(-1, start + (count - 1) // 2) + ordered.gather(-1, start + count // 2)) / 2
    steps = ordered[..., 1:] - ordered[..., :-1]
    steps = torch.where((position[..., 1:] < number) & (steps > 0), steps, torch.inf)
    extent = ordered.gather(-1, number - 1) - ordered[..., :1]
    smallest = torch.cat([extent, steps], -1).amin(-1, keepdim=True)
    noise = (shortest / reference.NORMAL_LENGTH).maximum(reference.ROUNDING * smallest)

    # the foreground: a mean of differences weighted by their squares, its largest clipped
    differences = (values - level).abs()
    foreground = ~rim & (differences > reference.FOREGROUND_SD * noise)
    differences = torch.where(foreground, differences, 0.0)
    padded = F.pad(differences, (0, reference.MIN_FOREGROUND_PX))
    limit = padded.topk(reference.MIN_FOREGROUND_PX, -1).values[..., -1:]
    clipped = differences.minimum(limit)
    contrast = clipped.pow(3).sum(-1, keepdim=True) / clipped.square().sum(-1, keepdim=True)
    contrast = torch.where(foreground.sum(-1, keepdim=True) >= reference.MIN_FOREGROUND_PX, contrast, 0.0)
    return level, contrast.maximum(reference.MIN_CONTRAST_SD * noise) / reference.FOREGROUND_VALUE


def _largest_around(images: Tensor) -> Tensor:
    """Returns the largest value in the neighborhood of each pixel of images (N, C, H, W)."""
    side = reference.NEIGHBORHOOD_PX
    rows = F.max_pool2d(images, (side, 1), stride=1, padding=(side // 2, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))
