"""The residual U-Net of Cellpose: pre-activation residual blocks, added skips, and a style vector.

At its defaults (width 32, depth 3) for two channels and three scores it has 6,600,843 trainable parameters, the 6.6
million that are published. Shapes at width w for an input (N, C, H, W), H and W multiples of 8:

    encoder   four residual blocks of four 3x3 convolutions, with 2x2 max-pools between them:
              (N, w, H, W), (N, 2w, H/2, W/2), (N, 4w, H/4, W/4), (N, 8w, H/8, W/8)
    style     (N, 8w): the average of the coarsest features over the image, of unit Euclidean length
    decoder   four such blocks of 8w, 4w, 2w and w channels; the skip is added after the first convolution, and before
              each of the other three the style, put through a linear layer of its own, is added to all pixels; between
              the blocks nearest-neighbor upsampling by two
    head      batch norm, ReLU, 1x1 convolution

Every convolution stands behind batch norm and ReLU, the 1x1 convolutions of shortcuts behind batch norm only, and has a
bias. As the style averages over the image, scores of a tile depend on what else is in the tile.

Stringer, Wang, Michaelos and Pachitariu, "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods
18, 100 (2021), methods and figure 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from segue.networks.blocks import PooledEncoder, stochastic_depth_or_identity
from segue.networks.network import Network

MOMENTUM = 0.05  # of the batch norms' running statistics
STYLED = 3  # convolutions of a decoder's block that see the style: all but the first


def _convolution(channels_in: int, channels_out: int, *, activated: bool = True, side: int = 3) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels_in, momentum=MOMENTUM)
    convolution = nn.Conv2d(channels_in, channels_out, side, 1, side // 2)
    return nn.Sequential(norm, nn.ReLU(inplace=True), convolution) if activated else nn.Sequential(norm, convolution)


class DownBlock(nn.Module):
    """Two residual units of two convolutions; each unit is left out with probability `drops[i]` while training."""

    def __init__(self, channels_in: int, channels_out: int, drops: tuple[float, float]) -> None:
        super().__init__()
        self.shortcut = _convolution(channels_in, channels_out, activated=False, side=1)
        self.unit1 = nn.Sequential(_convolution(channels_in, channels_out), _convolution(channels_out, channels_out))
        self.unit2 = nn.Sequential(*(_convolution(channels_out, channels_out) for _ in range(2)))
        self.drop1, self.drop2 = (stochastic_depth_or_identity(drop) for drop in drops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shortcut(x) + self.drop1(self.unit1(x))
        return x + self.drop2(self.unit2(x))


class UpBlock(nn.Module):
    """Two residual units of two convolutions; all but the first convolution see the style."""

    def __init__(self, channels_in: int, channels_out: int, style: int) -> None:
        super().__init__()
        self.shortcut = _convolution(channels_in, channels_out, activated=False, side=1)
        self.first = _convolution(channels_in, channels_out)
        self.styles = nn.ModuleList(nn.Linear(style, channels_out) for _ in range(STYLED))
        self.convolutions = nn.ModuleList(_convolution(channels_out, channels_out) for _ in range(STYLED))

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        shifts = [layer(style)[:, :, None, None] for layer in self.styles]
        second, third, fourth = self.convolutions
        x = self.shortcut(x) + second(self.first(x) + skip + shifts[0])
        return x + fourth(third(x + shifts[1]) + shifts[2])


class Decoder(nn.Module):
    """Takes the features of the encoder; the style is made here, as it has no weights of its own."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        before = [widths[-1], *reversed(widths[1:])]
        self.blocks = nn.ModuleList(UpBlock(b, w, widths[-1]) for b, w in zip(before, reversed(widths), strict=True))

    def forward(self, features: list[Tensor]) -> Tensor:
        x, style = features[-1], style_of(features[-1])
        for index, (block, skip) in enumerate(zip(self.blocks, reversed(features), strict=True)):
            x = block(x if index == 0 else F.interpolate(x, scale_factor=2.0, mode="nearest"), skip, style)
        return x


def style_of(coarsest: Tensor) -> Tensor:
    """Returns the style vectors (N, C) of the coarsest features (N, C, H, W): averages, of unit length."""
    return F.normalize(coarsest.mean(dim=(2, 3)), dim=1)


def cellpose(
    channels: int, classes: int, width: int, *, depth: int, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> Network:
    """Returns the network for images (N, channels, H, W), H and W multiples of 2^depth, as torch initialises it."""
    widths = [width << level for level in range(depth + 1)]
    before = [channels, *widths[:-1]]
    units = 2 * len(widths)  # left out with a probability that grows linearly from the first to the last
    return Network(
        PooledEncoder(
            DownBlock(b, w, (stochastic_depth * (2 * i + 1) / units, stochastic_depth * (2 * i + 2) / units))
            for i, (b, w) in enumerate(zip(before, widths, strict=True))
        ),
        Decoder(widths),
        _convolution(width, classes, side=1),
        channels=channels,
        dropout=dropout,
    )
