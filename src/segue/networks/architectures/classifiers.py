"""Networks that score images instead of pixels: they give (N, classes).

    mlp             images averaged to side x side px, flattened, then hidden layers of `width` units with ReLU
    alexnet-small   five convolutions and a hidden layer as in AlexNet, at a quarter of its widths and without its
                    crops: 5x5 of stride 2 to w channels, max-pool, 5x5 to 3w, max-pool, 3x3 to 6w, 4w and 4w,
                    max-pool, averages over 4x4 boxes, 16w units, ReLU between all; H and W multiples of 16

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", NeurIPS 2012.
"""

from __future__ import annotations

from torch import Tensor, nn

from segue.networks.blocks import LastFeature, average
from segue.networks.network import Network

BOXES = 4  # of alexnet-small, along each side


class BoxAverage(nn.Module):
    """Returns images averaged over a grid of side x side boxes, flattened: (N, channels * side * side)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return average(x, (self.side, self.side)).flatten(1)


class Stages(nn.Module):
    """Returns what each of the stages, one after another, gives."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def mlp(channels: int, classes: int, width: int, *, depth: int, side: int, dropout: float = 0.0) -> Network:
    """Returns the perceptron of `depth` hidden layers of `width` units. Its first layer is the encoder."""
    layers = [nn.Sequential(BoxAverage(side), nn.Linear(channels * side * side, width), nn.ReLU())]
    layers += [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth - 1)]
    head = nn.Linear(width, classes)
    return Network(Stages([*layers]), LastFeature(), head, channels=channels, dropout=dropout, dense=False)


def alexnet_small(channels: int, classes: int, width: int, *, dropout: float = 0.0) -> Network:
    """Returns the classifier; its convolutions are the encoder, its hidden layer the decoder."""

    def convolution(before: int, after: int, side: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(before, after, side, stride, side // 2), nn.ReLU()]

    stages: list[nn.Module] = [
        nn.Sequential(*convolution(channels, width, 5, 2)),
        nn.Sequential(nn.MaxPool2d(2), *convolution(width, 3 * width, 5)),
        nn.Sequential(nn.MaxPool2d(2), *convolution(3 * width, 6 * width, 3)),
        nn.Sequential(*convolution(6 * width, 4 * width, 3)),
        nn.Sequential(*convolution(4 * width, 4 * width, 3), nn.MaxPool2d(2)),
    ]
    units = 16 * width
    hidden = nn.Sequential(BoxAverage(BOXES), nn.Linear(4 * width * BOXES * BOXES, units), nn.ReLU())
    head = nn.Linear(units, classes)
    return Network(Stages(stages), LastFeature(hidden), head, channels=channels, dropout=dropout, dense=False)
