"""A dense decoder for features of any stride: upsampled by two up to the image's own size, with skips on the way.

Transformers give features at one coarse stride; those of shallower blocks are upsampled by transposed convolutions to
where they are wanted, and the finest scale sees the image itself: Hatamizadeh et al., "UNETR", WACV 2022, in two
dimensions and with fewer channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.networks.unet import convolutions

WIDEST, NARROWEST = 256, 32  # channels of the decoder: halved with each doubling of the size


class Feature(NamedTuple):
    """What an encoder gives: its channels, and how many pixels one step in it is."""

    channels: int
    stride_px: int


class UpBlock(nn.Module):
    """Doubles height and width, concatenates the skip, raised to that size where it is coarser, and convolves twice."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, raised: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, 2)
        self.skip = nn.Sequential(
            *(nn.ConvTranspose2d(channels_skip if i == 0 else channels_out, channels_out, 2, 2) for i in range(raised))
        )
        joined = channels_out + (channels_out if raised else channels_skip)
        self.convolutions = convolutions(joined, channels_out, 2, normed=True)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.convolutions(x if skip is None else torch.cat((x, self.skip(skip)), dim=1))


class Pyramid(nn.Module):
    """Takes [the image, features …, the deepest feature] and returns (N, width, H, W) at the image's size.

    The deepest feature's stride is halved as often as it can be; skip k, counted from the deepest, joins after k
    halvings. For a stride that is no power of two, e.g. of patches of 14 px, the rest is bilinear interpolation.
    """

    def __init__(self, channels: int, features: Sequence[Feature]) -> None:
        super().__init__()
        *skips, deepest = features
        steps = deepest.stride_px.bit_length() - 1
        self.is_power = deepest.stride_px == 1 << steps
        self.skips: list[int | None] = []  # of each block: the index of its skip among what forward takes
        blocks: list[nn.Module] = [convolutions(deepest.channels, WIDEST, 1, normed=True)]
        before = WIDEST
        for step in range(1, steps + 1):
            after = max(NARROWEST, WIDEST >> step)
            index = len(skips) - step
            if step == steps:
                skip, raised, taken = channels, 0, 0  # the image itself
            elif index >= 0:
                skip, taken = skips[index].channels, index + 1
                raised = (skips[index].stride_px * (1 << step) // deepest.stride_px).bit_length() - 1
            else:
                skip, raised, taken = 0, 0, None
            blocks.append(UpBlock(before, skip, after, raised))
            self.skips.append(taken)
            before = after
        self.width = before
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        image = features[0]
        first, *others = self.blocks
        x = first(features[-1])
        for block, taken in zip(others, self.skips, strict=True):
            if taken == 0 and not self.is_power:
                size = [2 * side for side in x.shape[-2:]]
                x = block(x, F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True))
            else:
                x = block(x, None if taken is None else features[taken])
        return x if self.is_power else F.interpolate(x, image.shape[-2:], mode="bilinear", align_corners=False)
