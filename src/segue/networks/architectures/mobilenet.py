"""MobileNetV2 with a decoder of transposed convolutions: the network of the live-dead assay.

For an input (N, C, H, W), H and W multiples of 32, the skips are what the encoder's blocks hold after they have
expanded the channels and before they halve the image:

    encoder   (N, 96, H/2, W/2), (N, 144, H/4, W/4), (N, 192, H/8, W/8), (N, 576, H/16, W/16), (N, 320, H/32, W/32)
    decoder   transposed convolutions 4x4 of stride 2, batch norm, ReLU, to 512, 256, 128 and 64 channels, the skip
              concatenated behind each
    head      transposed convolution 4x4 of stride 2 to the classes, with bias

For three channels and three classes it has 10,095,235 parameters. Sandler et al., "MobileNetV2", CVPR 2018; the decoder
is the one known from the pix2pix generator (Isola et al., CVPR 2017) with the widths of the assay's author.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segue.networks.blocks import SkipDecoder
from segue.networks.network import Network

MODEL = "mobilenetv2_100"  # of timm
SKIPS = (96, 144, 192, 576)
DEEPEST = 320
WIDTHS = (512, 256, 128, 64)


class Encoder(nn.Module):
    """Returns the four skips and the last block's output, finest first. Takes timm's MobileNetV2."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.conv_head = model.bn2 = nn.Identity()  # belong to its classifier
        self.model: Any = model

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        x = self.model.bn1(self.model.conv_stem(x))
        for stage in self.model.blocks:
            for block in stage:
                if block.conv_dw.stride == (2, 2):  # these four have no shortcut
                    expanded = block.bn1(block.conv_pw(x))
                    features.append(expanded)
                    x = block.bn3(block.conv_pwl(block.bn2(block.conv_dw(expanded))))
                else:
                    x = block(x)
        return [*features, x]


def _doubling(channels_in: int, channels_out: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=bias)


class UpBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.up = _doubling(channels_in, channels_out, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((torch.relu(self.norm(self.up(x))), skip), dim=1)


def mobilenet_transposed(
    channels: int, classes: int, *, dropout: float = 0.0, stochastic_depth: float = 0.0
) -> Network:
    """Returns the network for images (N, channels, H, W) with the initial weights of timm and torch."""
    import timm

    model = timm.create_model(MODEL, in_chans=channels, num_classes=0, drop_path_rate=stochastic_depth)
    head = _doubling(WIDTHS[-1] + SKIPS[0], classes, bias=True)
    before = [DEEPEST, *(w + s for w, s in zip(WIDTHS, reversed(SKIPS), strict=True))]
    decoder = SkipDecoder(UpBlock(b, w) for b, w in zip(before, WIDTHS, strict=False))
    return Network(Encoder(model), decoder, head, channels=channels, dropout=dropout)
