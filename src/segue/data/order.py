"""The order in which an epoch visits its views, so that data which do not fit in memory are read by whole blocks.

It is a function of the specification and of the data's size alone: the same whether the samples are held in memory
or streamed, and whatever memory there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

WINDOW_BYTES = 2**30  # of samples held in memory: up to here `auto` shuffles all of them
BLOCK_BYTES = 16 * 10**6  # the size of the chunks in which assembly writes labels
MOST_ROWS = 1000


def resolve_window(shuffle: Literal["auto", "all"] | int, count: int, sample_bytes: int) -> int | None:
    """Returns the shuffle window in samples, or None for one permutation of all views.

    "auto" is all where `count` samples of `sample_bytes` (held in memory, float32) take at most WINDOW_BYTES, else a
    window of half of that.
    """
    if shuffle == "all" or (shuffle == "auto" and count * sample_bytes <= WINDOW_BYTES):
        return None
    return max(1, WINDOW_BYTES // 2 // sample_bytes) if shuffle == "auto" else shuffle


def block_rows(count: int, height: int, width: int) -> int:
    """Returns how many consecutive tiles of a dataset of `count` lie in one block.

    These are the chunks of labels that `assemble` writes by itself; a dataset with other chunks gives the same order
    and is only read less well.
    """
    most = max(1, min(count, MOST_ROWS, BLOCK_BYTES // (4 * height * width)))
    pieces = -(-count // most)
    return -(-count // pieces)


def places(parts: Sequence[tuple[Path, np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Returns (n,) int64: the number of the block, counted over all files, that each sample lies in.

    parts: (file, rows, (tiles in the file, height, width)) in the order of the samples; a file may come twice.
    """
    first: dict[Path, int] = {}
    following = 0
    found = []
    for path, rows, (count, height, width) in parts:
        of_block = block_rows(count, height, width)
        if path.resolve() not in first:
            first[path.resolve()] = following
            following += -(-count // of_block)
        found.append(first[path.resolve()] + np.asarray(rows, dtype=np.int64) // of_block)
    return np.concatenate(found)


def order(blocks: np.ndarray, copies: int, window: int | None, generator: np.random.Generator) -> np.ndarray:
    """Returns the views 0 … n * copies - 1 in the order of one epoch; view v is copy v % copies of sample v // copies.

    blocks (n,): the block of each sample (`places`). Without a window it is one permutation of all views. With one,
    blocks come in random order, their samples are cut into windows of equal size, none above `window` samples, and
    the views are permuted within each window; all copies of a sample lie in the same one.
    """
    count = len(blocks)
    if window is None:
        return generator.permutation(count * copies)
    present, of_sample = np.unique(blocks, return_inverse=True)
    rank = generator.permutation(len(present))
    shuffled = generator.permutation(count)  # so that a block which two windows share is cut at random
    arranged = shuffled[np.argsort(rank[of_sample[shuffled]], kind="stable")]
    pieces = np.array_split(arranged, max(1, -(-count // window)))
    views = [(piece[:, None] * copies + np.arange(copies)).ravel() for piece in pieces]
    return np.concatenate([generator.permutation(piece) for piece in views])


@dataclass(frozen=True)
class Schedule:
    """When what is read. chunks[k] is needed for `needed[k]` (samples); before batch b the first `loads[b]` chunks must
    be there; after it the samples `finished[b]` are needed no more; at most `peak` samples are there at once."""

    needed: list[np.ndarray]
    loads: np.ndarray
    finished: list[np.ndarray]
    peak: int


def schedule(uses: Sequence[np.ndarray], chunk_of: np.ndarray) -> Schedule:
    """Returns when the chunks of the samples in `uses` (an array per batch) are loaded: each once, at its first use."""
    count = len(uses)
    flat = np.concatenate([*uses, np.empty(0, np.int64)])
    batch_of = np.repeat(np.arange(count), [len(use) for use in uses])
    present, first = np.unique(flat, return_index=True)
    _, last = np.unique(flat[::-1], return_index=True)
    last_use = batch_of[::-1][last]
    chunks, of_present = np.unique(chunk_of[present], return_inverse=True)
    first_use = np.full(len(chunks), count)
    np.minimum.at(first_use, of_present, batch_of[first])
    turn = np.argsort(first_use, kind="stable")
    rank = np.argsort(turn)[of_present]
    needed = np.split(present[np.argsort(rank, kind="stable")], np.cumsum(np.bincount(rank))[:-1]) if len(rank) else []
    finished = np.split(present[np.argsort(last_use, kind="stable")], np.cumsum(np.bincount(last_use))[:-1])
    finished += [np.empty(0, np.int64)] * (count - len(finished))
    arrived = np.bincount(first_use[of_present], minlength=count)
    gone = np.bincount(last_use, minlength=count)
    there = np.cumsum(arrived) - np.cumsum(gone) + gone
    loads = np.searchsorted(first_use[turn], np.arange(count), side="right")
    return Schedule(needed, loads, finished, int(there.max(initial=0)))
