"""Scores of regions that overlap, computed once: by blocks of a grid, the latest of which stay in memory.

A network needs its receptive radius around whatever it scores, so that scoring every tile with its halo computes much
twice. Blocks do not overlap, and larger ones have relatively less around them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from segue.data.tiling import Region
from segue.device import device_of

MAX_CACHE_BYTES = 2**30
MAX_ACTIVATION_BYTES = 3 * 2**29  # of the network while it scores a block
LIVE_ACTIVATIONS = 4  # so many of the largest are in memory at a time: a skip, its concatenation, input and output
SIDES_PX = (4096, 3072, 2560, 2048, 1536, 1024)


class ScoreBlocks:
    """Returns the scores (K, height, width) of any region of an image; called like `TiledPredictor.scores`."""

    def __init__(self, scores: Callable[[Region], np.ndarray], shape: tuple[int, int], *, side_px: int) -> None:
        self.scores, self.shape, self.side_px = scores, shape, side_px
        self._blocks: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def __call__(self, region: Region) -> np.ndarray:
        out: np.ndarray | None = None
        for row in range(region.top // self.side_px, -(-region.bottom // self.side_px)):
            for column in range(region.left // self.side_px, -(-region.right // self.side_px)):
                block, scores = self._block(row, column)
                if out is None:
                    out = np.empty((len(scores), *region.shape), scores.dtype)
                shared = Region(
                    max(region.top, block.top),
                    max(region.left, block.left),
                    min(region.bottom, block.bottom),
                    min(region.right, block.right),
                )
                out[(slice(None), *shared.within(region).slices)] = shared.within(block).read(scores)
        assert out is not None  # no region is empty
        return out

    def _block(self, row: int, column: int) -> tuple[Region, np.ndarray]:
        top, left = row * self.side_px, column * self.side_px
        block = Region(top, left, min(top + self.side_px, self.shape[0]), min(left + self.side_px, self.shape[1]))
        scores = self._blocks.pop((row, column), None)
        if scores is None:
            scores = self.scores(block)
            self._bytes += scores.nbytes
            while self._blocks and self._bytes > MAX_CACHE_BYTES:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes
        self._blocks[row, column] = scores  # the latest is the last
        return block, scores


def block_side_px(*, width_px: int, tile_px: int, context_px: int, channels: int, bytes_per_px: float) -> int | None:
    """Returns the largest side of blocks for which network and cache fit in memory, None where none of them fits.

    width_px: of the image, of which all blocks that a row of tiles enters are cached; a tile may have half of its side
    around it. channels: of the scores. bytes_per_px: of the network's largest activation.
    """
    for side_px in SIDES_PX:
        rows = (2 * tile_px - 2) // side_px + 2
        activations = LIVE_ACTIVATIONS * bytes_per_px * (min(side_px, width_px) + 2 * context_px) ** 2
        cache = 4 * channels * width_px * rows * side_px
        if activations <= MAX_ACTIVATION_BYTES and cache <= MAX_CACHE_BYTES:
            return side_px
    return None


@torch.inference_mode()
def largest_activation_bytes(network: nn.Module, *, channels: int, divisor: int) -> float:
    """Returns the bytes per pixel of the image of the largest output of any module of the network, measured."""
    largest, side = 0, 2 * divisor

    def record(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    handles = [module.register_forward_hook(record) for module in network.modules()]
    try:
        network(torch.zeros(1, channels, side, side, device=device_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    return largest / side**2
