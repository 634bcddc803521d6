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

from segue.networks.blocks import PooledEncoder, SkipDecoder, conv_stack
from segue.networks.network import Network


class UpBlock(nn.Module):
    """Transposed convolution that doubles height and width, the skip concatenated in front, then convolutions."""

    def __init__(self, channels: int, convolutions: int, *, normed: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.convolutions = conv_stack(2 * channels, channels, convolutions, normed=normed)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convolutions(torch.cat((skip, self.up(x)), dim=1))


def unet(
    channels: int, classes: int, width: int, *, depth: int, convolutions: int, normed: bool = True, dropout: float = 0.0
) -> Network:
    """Returns the network of `depth` halvings and `convolutions` 3x3 convolutions per block.

    Weights are normal with variance 2 / inputs, as in the paper (He et al., ICCV 2015).
    """
    widths = [width << level for level in range(depth + 1)]
    before = [channels, *widths[:-1]]
    network = Network(
        PooledEncoder(conv_stack(b, w, convolutions, normed=normed) for b, w in zip(before, widths, strict=True)),
        SkipDecoder(UpBlock(w, convolutions, normed=normed) for w in reversed(widths[:-1])),
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
