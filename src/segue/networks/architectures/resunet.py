"""U-Net with a pre-activation ResNet-18 encoder: the network of the HRTEM transfer-learning study.

At one channel, two classes and width 64 it has exactly 14,323,492 trainable parameters. The shape of
every intermediate is given at width w for an input (N, C, H, W), H and W multiples of 32:

    stem      (N,  w, H/2,  W/2)   batch norm of the input, 7x7 convolution of stride 2, BN, ReLU
    stage 0   (N,  w, H/4,  W/4)   after a 2x2 max-pool
    stage 1   (N, 2w, H/8,  W/8)
    stage 2   (N, 4w, H/16, W/16)
    stage 3   (N, 8w, H/32, W/32)
    decoder   4w, 2w, w, w/2 channels with the skips of stages 2, 1, 0 and of the stem; then w/4 at full size
    head      3x3 convolution to the classes, with bias

Architecture: Rangel DaCosta, Oill and Scott, Elemental Microscopy EM000010 (doi:10.69761/kjte5358);
pre-activation units: He et al., "Identity mappings in deep residual networks", ECCV 2016;
stochastic depth: Huang et al., "Deep networks with stochastic depth", ECCV 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.networks.blocks import SkipDecoder, stochastic_depth_or_identity
from segue.networks.network import Network

STAGES, UNITS = 4, 2  # of the encoder, and residual units in each
FEWEST_STRIDED = 16  # channels of a 1x1 convolution that the processor's library may take with a stride


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution without bias, with a stride.

    Fewer than FEWEST_STRIDED channels are strided before the convolution: oneDNN's backward pass on AVX-512 writes out
    of bounds otherwise, where threads do not divide the batch (seen with torch 2.15; docs/decisions/0031).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        if self.in_channels >= FEWEST_STRIDED:
            return super().forward(input)
        down, right = self.stride
        return F.conv2d(input[..., ::down, ::right], self.weight)


class PreActivationUnit(nn.Module):
    """BN, ReLU, 3x3 convolution, twice, added to the input.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input (not of the input itself).
    What is added to the shortcut is left out with probability `drop` while training.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, projected: bool, *, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.shortcut = PointwiseConv2d(channels_in, channels_out, stride) if projected else None
        self.drop = stochastic_depth_or_identity(drop)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.drop(self.conv2(F.relu(self.norm2(self.conv1(activated)))))


class Encoder(nn.Module):
    """Returns the features of the stem and of the four stages, finest first."""

    def __init__(self, channels: int, width: int, stochastic_depth: float) -> None:
        super().__init__()
        self.norm_input = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages, before = [], width
        for level in range(STAGES):
            after, stride = width << level, 1 if level == 0 else 2
            # linear in depth: the first of all units is left out least, the last with the full probability
            first, second = (stochastic_depth * (UNITS * level + unit) / (STAGES * UNITS) for unit in (1, 2))
            stages.append(
                nn.Sequential(
                    PreActivationUnit(before, after, stride, projected=True, drop=first),
                    PreActivationUnit(after, after, 1, projected=False, drop=second),
                )
            )
            before = after
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.norm(self.conv(self.norm_input(x))))
        features = [x]
        x = F.max_pool2d(x, 2)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class UpBlock(nn.Module):
    """Nearest-neighbor upsampling by two, the skip concatenated, then twice 3x3 convolution, BN, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def resunet(channels: int, classes: int, width: int, *, dropout: float = 0.0, stochastic_depth: float = 0.0) -> Network:
    """Returns the network for images (N, channels, H, W), H and W multiples of 32, with Kaiming-normal weights."""
    skips = [4 * width, 2 * width, width, width, 0]
    widths = [4 * width, 2 * width, width, width // 2, width // 4]
    before = [8 * width, *widths[:-1]]
    network = Network(
        Encoder(channels, width, stochastic_depth),
        SkipDecoder(UpBlock(b + s, w) for b, s, w in zip(before, skips, widths, strict=True)),
        nn.Conv2d(width // 4, classes, 3, 1, 1),
        channels=channels,
        dropout=dropout,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
