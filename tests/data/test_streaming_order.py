"""The order of an epoch's views, and the schedule by which chunks are read for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples.datasets import make_dataset, make_parts

from segue.data.dataset import Dataset
from segue.data.streaming import WINDOW_BYTES, block_rows, chunk_ids, epoch_order, plan_reads, resolve_window


@pytest.mark.parametrize("copies", [1, 8])
@pytest.mark.parametrize("window", [None, 1, 7, 40, 1000])
def test_every_view_comes_once(copies: int, window: int | None):
    """Whatever the window, an epoch is a permutation of all views, and the same for the same generator."""
    blocks = np.random.default_rng(0).integers(0, 9, 100)
    first, again = (epoch_order(blocks, copies, window, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(np.sort(first), np.arange(100 * copies))
    np.testing.assert_array_equal(first, again)


def test_without_a_window_it_is_one_permutation():
    """The order of data that are shuffled at once is a permutation of the views and of nothing else."""
    actual = epoch_order(np.zeros(50, np.int64), 8, None, np.random.default_rng(3))
    np.testing.assert_array_equal(actual, np.random.default_rng(3).permutation(400))


def test_a_window_holds_few_blocks():
    """Windows are near equal, never too large; all copies of a sample, and all but two blocks, lie in one window."""
    blocks = np.repeat(np.arange(20), 10)
    samples = epoch_order(blocks, 4, 30, np.random.default_rng(1)) // 4
    sizes = [29, 29, 29, 29, 28, 28, 28]  # 200 samples
    windows = np.split(samples, np.cumsum(np.multiply(sizes, 4))[:-1])
    assert [len(set(window)) for window in windows] == sizes
    seen = [set(blocks[window]) for window in windows]
    assert all(len(present) <= 4 for present in seen)  # 29 samples of blocks of 10, cut at both ends
    assert all(sum(block in present for present in seen) <= 2 for block in range(20))
    assert not np.array_equal(np.sort(windows[0]), windows[0])


def test_blocks_are_the_chunks_of_labels(tmp_path: Path):
    """The blocks of an order are the chunks that datasets are written in; another file begins another block."""
    path = make_dataset(tmp_path, make_parts())
    with Dataset(path) as data:
        assert block_rows(data.count, *data.tile_shape[1:]) == data.count == 13
    assert block_rows(10_000, 160, 160) == 154  # 65 alike, each of at most 156 tiles of 102,400 bytes in 16 MB
    assert block_rows(10_000, 16, 16) == 1000
    rows = np.array([0, 153, 154, 9999])
    shape = (10_000, 160, 160)
    other = tmp_path / "other.h5"
    actual = chunk_ids([(path, rows, shape), (other, rows, shape), (path, rows[:1], shape)])
    np.testing.assert_array_equal(actual, [0, 0, 1, 64, 65, 65, 66, 129, 0])


def test_the_window_follows_from_the_size_alone():
    """auto shuffles all of what takes a gigabyte, and else a window of half of it."""
    assert resolve_window("all", 10**9, 10**6) is None
    assert resolve_window("auto", WINDOW_BYTES // 1000, 1000) is None
    assert resolve_window("auto", WINDOW_BYTES // 1000 + 1, 1000) == WINDOW_BYTES // 2000
    assert resolve_window(512, 10, 1000) == 512


def test_schedule_by_simulation():
    """Played through batch by batch, every sample is there when it is needed, and never more than `peak` are."""
    generator = np.random.default_rng(2)
    chunk_of = np.repeat(np.arange(12), 10)
    samples = np.concatenate([generator.permutation(120)[:90], generator.integers(0, 120, 40)])
    uses = np.split(samples, [7, 7, 20, 55, 90])
    plan = plan_reads(uses, chunk_of)
    there: set[int] = set()
    loaded, peak = 0, 0
    for batch, use in enumerate(uses):
        while loaded < plan.loads[batch]:
            assert len(set(chunk_of[plan.needed[loaded]])) == 1
            there |= set(plan.needed[loaded].tolist())
            loaded += 1
        assert set(use.tolist()) <= there
        peak = max(peak, len(there))
        there -= set(plan.finished[batch].tolist())
    assert not there
    assert loaded == len(plan.needed)
    assert peak == plan.peak
    assert plan_reads([], chunk_of).peak == 0
