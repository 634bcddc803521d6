"""Building blocks of several architectures: stacks of convolutions, pooled encoders, stochastic depth, and resampling.

Small grids are resampled as products of matrices: exact, and with gradients that are summed in a fixed order. The
interpolations of torch add their gradients in no fixed order on GPUs, so that two runs would differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_stack(channels_in: int, channels_out: int, count: int, *, normed: bool) -> nn.Sequential:
    """Returns `count` times 3x3 convolution, batch norm (without it a bias) and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=not normed))
        layers += [nn.BatchNorm2d(channels_out)] if normed else []
        layers.append(nn.ReLU(inplace=True))
        channels_in = channels_out
    return nn.Sequential(*layers)


class PooledEncoder(nn.Module):
    """Returns the features of its stages, finest first, with a 2x2 max-pool before every stage but the first."""

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            features.append(x)
        return features


class SkipDecoder(nn.Module):
    """Runs its blocks from the coarsest feature up, each with the skip of its scale; None where all skips are used."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        *skips, x = features
        for block in self.blocks:
            x = block(x, skips.pop() if skips else None)
        return x


class LastFeature(nn.Module):
    """Returns the last feature, put through `blocks`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for block in self.blocks:
            x = block(x)
        return x


class StochasticDepth(nn.Module):
    """Sets the whole of a sample to zero with `probability` while training, else divides it by the complement.

    Its expectation is the input, so that no scaling is needed at inference.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        survival = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(survival).div_(survival)


def stochastic_depth_or_identity(probability: float) -> nn.Module:
    return StochasticDepth(probability) if probability else nn.Identity()


CUBIC = -0.5  # the parameter of Keys' cubic convolution (IEEE Trans. ASSP 29, 1153, 1981), which antialiasing takes


@cache
def _bicubic(before: int, after: int) -> np.ndarray:
    """Returns the matrix (after, before) of antialiased bicubic interpolation along one axis; rows sum to 1.

    Pixels are boxes of equal size on both grids; where the grid gets coarser the kernel is as much wider.
    """
    scale = before / after
    widened = max(scale, 1.0)
    distance = (np.arange(before) + 0.5 - scale * (np.arange(after)[:, None] + 0.5)) / widened
    x = np.abs(distance)
    near = (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    far = CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@cache
def _averaging(before: int, after: int) -> np.ndarray:
    """Returns the matrix (after, before) of adaptive average pooling along one axis."""
    first = np.arange(after) * before // after
    last = -(-(np.arange(after) + 1) * before // after)
    pixels = np.arange(before)
    inside = (pixels >= first[:, None]) & (pixels < last[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def bicubic(grid: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns grid (N, C, H, W) at another shape (H', W'), bicubic and antialiased, in float32.

    It is what timm does with position embeddings; of the same shape it is the grid itself.
    """
    return grid if tuple(grid.shape[-2:]) == shape else _separable(_bicubic, grid, shape)


def average(grid: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns the averages (N, C, H', W') over boxes of grid (N, C, H, W), as adaptive average pooling has them."""
    return grid if tuple(grid.shape[-2:]) == shape else _separable(_averaging, grid, shape)


def _separable(matrix: Callable[[int, int], np.ndarray], grid: Tensor, shape: tuple[int, int]) -> Tensor:
    # the arrays are kept, not the tensors: those may belong to one run on tensors without memory
    rows, columns = (
        torch.from_numpy(matrix(b, a)).to(grid.device, non_blocking=True)
        for b, a in zip(grid.shape[-2:], shape, strict=True)
    )
    meta = grid.device.type == "meta"  # has no autocast
    with nullcontext() if meta else torch.autocast(grid.device.type, enabled=False):
        return rows @ grid.float() @ columns.T
