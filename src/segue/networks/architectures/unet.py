"""The classical U-Net: convolutions and 2x2 max-pools down, 2x2 transposed convolutions up, skips concatenated.

At width w and depth d, for an input (N, C, H, W), H and W multiples of 2^d:

    encoder   d + 1 blocks of 3x3 convolutions (two each), each followed by norm and ReLU:
              (N, w, H, W), (N, 2w, H/2, W/2), …, (N, 2^d w, H/2^d, W/2^d)
    decoder   d blocks: transposed convolution to half the channels, the skip concatenated, 3x3 convolutions as above
    head      1x1 convolution to the classes

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, with padded instead of valid convolutions, so that scores have
the size of the image, and with a batch norm after each convolution unless norm = "none", which is as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.networks.network import Network


def convolutions(channels_in: int, channels_out: int, count: int, *, normed: bool) -> nn.Sequential:
    """Returns `count` times 3x3 convolution, batch norm (without it a bias) and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=not normed))
        layers += [nn.BatchNorm2d(channels_out)] if normed else []
        layers.append(nn.ReLU(inplace=True))
        channels_in = channels_out
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Returns the features of the d + 1 scales, finest first."""

    def __init__(self, channels: int, widths: list[int], count: int, *, normed: bool) -> None:
        super().__init__()
        before = [channels, *widths[:-1]]
        self.stages = nn.ModuleList(
            convolutions(b, w, count, normed=normed) for b, w in zip(before, widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            features.append(x)
        return features


class UpBlock(nn.Module):
    """Transposed convolution that doubles height and width, the skip concatenated in front, then convolutions."""

    def __init__(self, channels: int, count: int, *, normed: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.convolutions = convolutions(2 * channels, channels, count, normed=normed)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convolutions(torch.cat((skip, self.up(x)), dim=1))


class Decoder(nn.Module):
    def __init__(self, widths: list[int], count: int, *, normed: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UpBlock(w, count, normed=normed) for w in reversed(widths[:-1]))

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, x = features
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        return x


def unet(
    channels: int, classes: int, width: int, *, depth: int, count: int, normed: bool = True, dropout: float = 0.0
) -> Network:
    """Returns the network of `depth` halvings and `count` convolutions per block.

    Weights are normal with variance 2 / inputs, as in the paper (He et al., ICCV 2015).
    """
    widths = [width << level for level in range(depth + 1)]
    network = Network(
        Encoder(channels, widths, count, normed=normed),
        Decoder(widths, count, normed=normed),
        nn.Conv2d(width, classes, 1),
        channels=channels,
        dropout=dropout,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # each output of a 2x2 transposed convolution of stride 2 has one weight per input channel
            inputs = module.in_channels * (9 if module.kernel_size == (3, 3) else 1)
            nn.init.normal_(module.weight, std=(2 / inputs) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
