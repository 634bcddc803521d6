"""Scores by blocks: those of the whole image, each computed once, within the memory that is allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue import rng
from segue.data.tiling import Region, Tiling
from segue.inference import score_blocks
from segue.inference.score_blocks import ScoreBlocks, block_side_px, largest_activation_bytes


def test_every_block_is_scored_once(monkeypatch: pytest.MonkeyPatch):
    """Tiles with halos read what the array holds and no block is scored twice; with a small memory it still holds."""
    values = rng.numpy_generator("scores").normal(size=(3, 210, 170)).astype(np.float32)
    calls: list[Region] = []

    def scores(region: Region) -> np.ndarray:
        calls.append(region)
        return region.read(values)

    for limit, is_once in ((2**30, True), (64 * 64 * 12, False)):
        monkeypatch.setattr(score_blocks, "MAX_CACHE_BYTES", limit)
        calls.clear()
        blocks = ScoreBlocks(scores, (210, 170), side_px=64)
        for core in Tiling(50, 20).cores((210, 170)):
            tile = core.widened(20, (210, 170))
            assert np.array_equal(blocks(tile), tile.read(values))
        assert (len(calls) == len(set(calls)) == 12) is is_once


def test_blocks_are_as_large_as_memory_allows():
    """Cheap networks get large blocks, wide ones small ones, and where nothing fits there are none."""
    plain = {"width_px": 20000, "tile_px": 1024, "context_px": 100}
    assert block_side_px(**plain, channels=1, bytes_per_px=4) == 4096
    assert block_side_px(**plain, channels=1, bytes_per_px=256) == 1024
    assert block_side_px(**plain, channels=3, bytes_per_px=32) == 2048
    assert block_side_px(**plain, channels=33, bytes_per_px=4) is None
    assert block_side_px(**plain, channels=1, bytes_per_px=4096) is None


def test_the_largest_activation_is_measured():
    """Of two convolutions at full and at half size, the wide one at full size counts."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.AvgPool2d(2), torch.nn.Conv2d(16, 32, 1)
    )
    assert largest_activation_bytes(network, channels=1, divisor=2) == 16 * 4
