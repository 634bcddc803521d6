"""Reads samples from HDF5 while the network trains, in bounded memory, with the same bits as samples in memory.

The order of an epoch (`epoch_order`) is a function of the specification and of the size of the data alone: the same
whether samples are held in memory or streamed, and whatever memory there is. It is known beforehand, so that reading
can be planned (`plan_reads`):

    prefetch   a chunk of the file is read when one of its samples is first needed, in the background, as far ahead as
               there is room
    buffer     the samples that the epoch takes from it wait in a pool, in their acquired type
    evict      each sample leaves the pool after its last use

An order by windows of whole chunks needs a pool of about one window, and gets two, so that one fills while the other
empties. An order for which the pool is too small is read at random positions instead: correct, but slow.

    main thread   submits loads while slots are free, and batches once their loads are submitted
    loaders       read and decode a chunk -> slots of the pool
    gatherer      waits for the chunks of a batch -> normalized batch, pinned if it goes to a GPU
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segue.data.dataset import Dataset
from segue.data.normalization import intensity_stats, normalize
from segue.data.sources import (
    DatasetSubset,
    micrograph_statistics,
    require_finite,
    sample_names,
    tile_shape,
    virtual_labels,
)
from segue.data.spec import Layer, NormalizeSpec
from segue.device import cpu_count
from segue.errors import SegueError
from segue.hdf5 import DEFLATE, SHUFFLE, Node, open_file, reading

WINDOW_BYTES = 2**30  # of samples held in memory: up to here `auto` shuffles all of them
BLOCK_BYTES = 16 * 10**6  # the size of the chunks in which `merge_parts` writes labels
MAX_ROWS = 1000


def resolve_window(shuffle: Literal["auto", "all"] | int, count: int, sample_bytes: int) -> int | None:
    """Returns the shuffle window in samples, or None for one permutation of all views.

    "auto" is all where `count` samples of `sample_bytes` (held in memory, float32) take at most WINDOW_BYTES, else a
    window of half of that.
    """
    if shuffle == "all" or (shuffle == "auto" and count * sample_bytes <= WINDOW_BYTES):
        return None
    return max(1, WINDOW_BYTES // 2 // sample_bytes) if shuffle == "auto" else shuffle


def block_rows(count: int, height: int, width: int) -> int:
    """Returns how many consecutive tiles of a dataset of `count` count as one chunk.

    These are the chunks of labels that `merge_parts` writes by default; a dataset with other chunks gives the same
    order, and is only read more slowly.
    """
    rows = max(1, min(count, MAX_ROWS, BLOCK_BYTES // (4 * height * width)))
    chunks = -(-count // rows)
    return -(-count // chunks)


def chunk_ids(parts: Sequence[tuple[Path, np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Returns (n,) int64: the number of the chunk, counted over all files, that each sample lies in.

    parts: (file, rows, (tiles in the file, height, width)) in the order of the samples; a file may come twice.
    """
    first: dict[Path, int] = {}
    next_first = 0
    ids = []
    for path, rows, (count, height, width) in parts:
        rows_per_chunk = block_rows(count, height, width)
        if path.resolve() not in first:
            first[path.resolve()] = next_first
            next_first += -(-count // rows_per_chunk)
        ids.append(first[path.resolve()] + np.asarray(rows, dtype=np.int64) // rows_per_chunk)
    return np.concatenate(ids)


def epoch_order(chunks: np.ndarray, repeats: int, window: int | None, generator: np.random.Generator) -> np.ndarray:
    """Returns the views 0 … n * repeats - 1 in the order of one epoch; view v is of sample v // repeats.

    chunks (n,): the chunk of each sample (`chunk_ids`). Without a window it is one permutation of all views. With one,
    chunks come in random order, their samples are cut into windows of equal size, none above `window` samples, and
    the views are permuted within each window; all repeats of a sample lie in the same window.
    """
    count = len(chunks)
    if window is None:
        return generator.permutation(count * repeats)
    present, of_sample = np.unique(chunks, return_inverse=True)
    rank = generator.permutation(len(present))
    shuffled = generator.permutation(count)  # so that a chunk which two windows share is cut at random
    arranged = shuffled[np.argsort(rank[of_sample[shuffled]], kind="stable")]
    pieces = np.array_split(arranged, max(1, -(-count // window)))
    views = [(piece[:, None] * repeats + np.arange(repeats)).ravel() for piece in pieces]
    return np.concatenate([generator.permutation(piece) for piece in views])


@dataclass(frozen=True)
class ReadPlan:
    """When chunks are read: chunk k for the samples `needed[k]`; the first `loads[b]` chunks before batch b; the
    samples `finished[b]` can be evicted after it; at most `peak` samples are in the pool at once."""

    needed: list[np.ndarray]
    loads: np.ndarray
    finished: list[np.ndarray]
    peak: int


def plan_reads(uses: Sequence[np.ndarray], chunk_of: np.ndarray) -> ReadPlan:
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
    evicted = np.bincount(last_use, minlength=count)
    in_pool = np.cumsum(arrived) - np.cumsum(evicted) + evicted
    loads = np.searchsorted(first_use[turn], np.arange(count), side="right")
    return ReadPlan(needed, loads, finished, int(in_pool.max(initial=0)))


PREFETCH_BATCHES = 2  # made while one is trained on
MAX_LOADERS = 4
ROWS_AT_ONCE = 16  # images read before other threads get a turn
Gather = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # samples; images and labels to fill


class MemoryMeter:
    """Counts the bytes in use, and the maximum so far."""

    def __init__(self) -> None:
        self.used = self.peak = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.used += amount
            self.peak = max(self.peak, self.used)


class _Pool:
    """Slots for samples in their acquired type, with their statistics; a slot is touched by one thread at a time."""

    def __init__(self, slots: int, source: StreamedSource) -> None:
        channels, height, width = source.shape
        self.images = np.empty((slots, channels, height, width), dtype=source.image_type)
        self.labels = np.empty((slots, height, width), dtype=source.label_dtype)
        self.statistics = np.empty((slots, channels, 2), dtype=np.float32)


class StreamedSource:
    """Samples of one or several datasets, read as they are needed within `budget_bytes`; equal to `ResidentSource`.

    It opens the files for itself; close it after use. `peak_bytes` is the maximum memory used at once: pool, chunks
    being decoded, finished batches, and cached labels.
    """

    def __init__(self, parts: Sequence[DatasetSubset], *, normalization: NormalizeSpec, budget_bytes: int) -> None:
        self.shape = tile_shape(parts)
        self.image_type = np.result_type(*[part.dataset.dtype for part in parts])
        self.label_dtype = max((part.label_dtype for part in parts), key=lambda kind: kind.itemsize)
        self._normalization: NormalizeSpec = normalization
        self._budget = budget_bytes
        self._intensity = np.concatenate(
            [micrograph_statistics(part.dataset, part.indices, normalization) for part in parts]
        )
        self._row = np.concatenate([np.asarray(part.indices, dtype=np.int64) for part in parts])
        layers = {part.dataset.path.resolve(): (part.dataset.path, part.layer) for part in parts}
        files = {path: index for index, path in enumerate(layers)}
        of_part = [files[part.dataset.path.resolve()] for part in parts]
        self._file = np.repeat(np.array(of_part), [len(part.indices) for part in parts])
        self._datasets = [Dataset(path) for path, _ in layers.values()]
        self._chunks = [LabelChunks(d, layer) for d, (_, layer) in zip(self._datasets, layers.values(), strict=True)]
        rows = np.array([chunks.rows for chunks in self._chunks])
        counts = np.array([-(-dataset.count // chunks.rows) for dataset, chunks in self._files()])
        self._first_chunk = np.cumsum(counts) - counts
        self._chunk = self._first_chunk[self._file] + self._row // rows[self._file]
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._pool_bytes = 0
        self._memory = MemoryMeter()

    def __len__(self) -> int:
        return len(self._row)

    def close(self) -> None:
        for dataset, chunks in self._files():
            chunks.close()
            dataset.close()

    @property
    def peak_bytes(self) -> int:
        return self._memory.peak

    def names(self, indices: Sequence[int]) -> list[str]:
        return [
            name for index in indices for name in sample_names(self._datasets[self._file[index]], self._row[[index]])
        ]

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64 on `device`, read now."""
        samples = np.asarray(torch.as_tensor(indices).cpu(), dtype=np.int64)
        gather = partial(self._read_random, max_label_bytes=self._room_for_labels(len(samples)))
        return self._to_device(self._gather(samples, torch.device(device), gather), torch.device(device))

    def batches(
        self, samples: np.ndarray, bounds: Sequence[tuple[int, int]], device: torch.device | str
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yields images and labels of samples[start:end] for each of `bounds`, made in the background.

        Memory stays below `budget_bytes`, beside the batches in the reader's hands. Errors of the background, a damaged
        chunk or NaN, are raised here. Closing the iterator ends its threads.
        """
        samples = np.asarray(samples, dtype=np.int64)
        uses = [samples[start:end] for start, end in bounds]
        plan = plan_reads(uses, self._chunk)
        room = self.slots(max(map(len, uses), default=0))
        if plan.peak <= room:
            slots = min(2 * plan.peak, room, sum(map(len, plan.needed)))
            return self._stream_chunks(uses, plan, slots, torch.device(device))
        return self._stream_samples(uses, torch.device(device))

    def slots(self, batch: int) -> int:
        """Returns how many samples the pool can hold beside what batches of this size take."""
        return max(0, self._budget - self._fixed_bytes(batch, self._loaders())) // self._slot_bytes()

    def min_bytes(self, batch: int) -> int:
        """Returns the smallest budget with which batches of this size can be made, if only at random positions."""
        _, height, width = self.shape
        chunk = max(chunks.rows for chunks in self._chunks) * height * width * self.label_dtype.itemsize
        return self._fixed_bytes(batch, 1) + chunk

    def shuffles_in_memory(self, window: int | None, batch: int) -> bool:
        """Returns whether an epoch in windows of so many samples (None: all) reads every chunk once."""
        return self._peak(window, batch) <= self.slots(batch)

    def bytes_to_shuffle(self, window: int | None, batch: int) -> int:
        """Returns the smallest budget with which `shuffles_in_memory`."""
        return self._peak(window, batch) * self._slot_bytes() + self._fixed_bytes(batch, self._loaders())

    def bytes_in_use(self, window: int | None, batch: int) -> int:
        """Returns the bytes that an epoch in such windows holds: two windows if there is room, else all that is
        available."""
        slots = min(2 * self._peak(window, batch), len(self), self.slots(batch))
        return slots * self._slot_bytes() + self._fixed_bytes(batch, self._loaders())

    def largest_window(self, batch: int) -> int:
        """Returns the largest window that `shuffles_in_memory`, 0 where there is none."""
        return max(0, self.slots(batch) - max(c.rows for c in self._chunks) - batch)

    def _peak(self, window: int | None, batch: int) -> int:
        """Returns how many samples are needed at once: a window, and what its last chunk and the batch leave over."""
        return len(self) if window is None else min(len(self), window + max(c.rows for c in self._chunks) + batch)

    def _files(self) -> list[tuple[Dataset, LabelChunks]]:
        return list(zip(self._datasets, self._chunks, strict=True))

    def _slot_bytes(self) -> int:
        channels, height, width = self.shape
        return height * width * (channels * self.image_type.itemsize + self.label_dtype.itemsize) + 8 * channels

    def _batch_bytes(self, count: int) -> int:
        """What a finished batch takes: float32 and int64."""
        channels, height, width = self.shape
        return count * height * width * (4 * channels + 8)

    def _scratch_bytes(self, batch: int) -> int:
        """What a loader takes while it works; read at random, a whole batch is there in its acquired type."""
        channels, height, width = self.shape
        rows = max(ROWS_AT_ONCE, batch) * channels * height * width * (self.image_type.itemsize + 4)
        return max(chunks.scratch_bytes for chunks in self._chunks) + rows

    def _fixed_bytes(self, batch: int, loaders: int) -> int:
        """Returns the memory for batches and loaders, apart from the pool and the cached labels."""
        return (PREFETCH_BATCHES + 1) * self._batch_bytes(batch) + loaders * self._scratch_bytes(batch)

    def _room_for_labels(self, batch: int) -> int:
        return self._budget - self._pool_bytes - self._fixed_bytes(batch, 1)

    def _loaders(self) -> int:
        affordable = self._budget // 4 // self._scratch_bytes(ROWS_AT_ONCE)
        return max(1, min(MAX_LOADERS, cpu_count() // 2, affordable))

    def _stream_chunks(
        self, uses: list[np.ndarray], plan: ReadPlan, slots: int, device: torch.device
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        self._resize_pool(slots)
        pool = _Pool(slots, self)
        slot_of = np.full(len(self), -1)
        free = list(range(slots))[::-1]
        loads: list[Future[None]] = []
        pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
        loaders = ThreadPoolExecutor(self._loaders(), thread_name_prefix="segue-loader")
        gatherer = ThreadPoolExecutor(1, thread_name_prefix="segue-gatherer")

        def gather(batch: int, batch_slots: np.ndarray) -> tuple[Tensor, Tensor]:
            # wait until the chunks of the batch are in the pool; raises the errors of their loads
            for load in loads[plan.loads[batch - 1] if batch else 0 : plan.loads[batch]]:
                load.result()

            def copy_from_pool(samples: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
                for row, slot in enumerate(batch_slots):  # one by one: each stays in the processor's cache
                    one = slice(slot, slot + 1)
                    normalize(pool.images[one], pool.statistics[one], out=images[row : row + 1])
                    labels[row] = pool.labels[slot]

            return self._gather(uses[batch], device, copy_from_pool)

        def prefetch(batch: int) -> None:
            # read further chunks while there are free slots
            while len(loads) < len(plan.needed) and len(plan.needed[len(loads)]) <= len(free):
                samples = plan.needed[len(loads)]
                slot_of[samples] = [free.pop() for _ in samples]
                loads.append(loaders.submit(self._load, samples, pool, slot_of[samples]))
            # make further batches once their chunks are being read
            last = min(len(uses), batch + PREFETCH_BATCHES + 1)
            while batch + len(pending) < last and plan.loads[batch + len(pending)] <= len(loads):
                upcoming = batch + len(pending)
                pending.append(gatherer.submit(gather, upcoming, slot_of[uses[upcoming]]))

        try:
            prefetch(0)
            for batch in range(len(uses)):
                batch_data = pending.popleft().result()
                # evict samples after their last use, and fill their slots
                free.extend(slot_of[plan.finished[batch]].tolist())
                prefetch(batch + 1)
                yield self._to_device(batch_data, device)
        finally:
            loaders.shutdown(cancel_futures=True)
            gatherer.shutdown(cancel_futures=True)
            self._release(pending)
            self._resize_pool(0)

    def _stream_samples(
        self, uses: list[np.ndarray], device: torch.device
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        gather = partial(self._read_random, max_label_bytes=self._room_for_labels(max(map(len, uses))))
        pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
        gatherer = ThreadPoolExecutor(1, thread_name_prefix="segue-gatherer")
        try:
            for batch in range(len(uses)):
                while len(pending) <= PREFETCH_BATCHES and batch + len(pending) < len(uses):
                    upcoming = uses[batch + len(pending)]
                    pending.append(gatherer.submit(self._gather, upcoming, device, gather))
                yield self._to_device(pending.popleft().result(), device)
        finally:
            gatherer.shutdown(cancel_futures=True)
            self._release(pending)

    def _resize_pool(self, slots: int) -> None:
        """Evicts cached labels and counts the memory of a pool of so many slots."""
        with self._cache_lock:
            self._evict(0)
        self._memory.add(slots * self._slot_bytes() - self._pool_bytes)
        self._pool_bytes = slots * self._slot_bytes()

    def _to_device(self, batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) and labels int64 on the device; their memory is no longer counted."""
        self._memory.add(-self._batch_bytes(len(batch[0])))
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        return pixels.permute(0, 3, 1, 2), labels.to(torch.int64)

    def _release(self, pending: deque[Future[tuple[Tensor, Tensor]]]) -> None:
        """Stops counting the memory of batches that nobody will fetch."""
        for batch in pending:
            if not batch.cancelled() and batch.exception() is None:
                self._memory.add(-self._batch_bytes(len(batch.result()[0])))

    def _load(self, samples: np.ndarray, pool: _Pool, slots: np.ndarray) -> None:
        """Reads samples of one chunk into the pool."""
        file = int(self._file[samples[0]])
        number = int(self._chunk[samples[0]] - self._first_chunk[file])
        rows = self._row[samples]
        scratch = self._scratch_bytes(0)
        self._memory.add(scratch)
        try:
            labels = self._chunks[file].read(number)
            pool.labels[slots] = labels[rows - number * self._chunks[file].rows]
            for start in range(0, len(samples), ROWS_AT_ONCE):
                block = slice(start, start + ROWS_AT_ONCE)
                images, stats = self._images(file, samples[block])
                pool.images[slots[block]], pool.statistics[slots[block]] = images, stats
        finally:
            self._memory.add(-scratch)

    def _images(self, file: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns images of one file in their acquired type and their statistics; raises SegueError for NaN."""
        dataset = self._datasets[file]
        images, _ = dataset.read(self._row[samples], layer=None)
        stats = intensity_stats(self._normalization, images, self._intensity[samples])
        if images.dtype.kind == "f" or not np.isfinite(stats).all():
            require_finite(dataset, normalize(images, stats), sample_names(dataset, self._row[samples]))
        return images, stats

    def _gather(self, samples: np.ndarray, device: torch.device, gather: Gather) -> tuple[Tensor, Tensor]:
        """Returns images (n, H, W, C) float32 and labels (n, H, W), pinned and in their small type for a GPU."""
        channels, height, width = self.shape
        pinned = device.type == "cuda"
        pixels = torch.empty((len(samples), height, width, channels), pin_memory=pinned)
        dtype = torch.from_numpy(np.empty(0, self.label_dtype)).dtype if pinned else torch.int64
        labels = torch.empty((len(samples), height, width), dtype=dtype, pin_memory=pinned)
        self._memory.add(self._batch_bytes(len(samples)))
        try:
            gather(samples, np.moveaxis(pixels.numpy(), -1, 1), labels.numpy())
        except BaseException:
            self._memory.add(-self._batch_bytes(len(samples)))
            raise
        return pixels, labels

    def _read_random(
        self, samples: np.ndarray, images: np.ndarray, labels: np.ndarray, *, max_label_bytes: int
    ) -> None:
        """Reads samples at random positions: images by row, labels by chunks, of which the last used are cached
        as far as they take at most `max_label_bytes`."""
        scratch = self._scratch_bytes(len(samples))
        self._memory.add(scratch)
        try:
            for file in np.unique(self._file[samples]).tolist():
                rows = np.flatnonzero(self._file[samples] == file)
                images[rows] = normalize(*self._images(file, samples[rows]))
            for chunk in np.unique(self._chunk[samples]).tolist():
                rows = np.flatnonzero(self._chunk[samples] == chunk)
                file = int(self._file[samples[rows[0]]])
                first = (chunk - self._first_chunk[file]) * self._chunks[file].rows
                labels[rows] = self._labels(chunk, file, max_label_bytes)[self._row[samples[rows]] - first]
        finally:
            self._memory.add(-scratch)

    def _labels(self, chunk: int, file: int, max_bytes: int) -> np.ndarray:
        """Returns the labels of a chunk and caches them, if all cached labels then take at most `max_bytes`."""
        with self._cache_lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
            labels = self._chunks[file].read(chunk - int(self._first_chunk[file])).astype(self.label_dtype)
            self._evict(max_bytes - labels.nbytes)
            if labels.nbytes <= max_bytes:
                self._cache[chunk] = labels
                self._memory.add(labels.nbytes)
            return labels

    def _evict(self, max_bytes: int) -> None:
        """Evicts cached labels, the longest unused first, until they take at most `max_bytes`."""
        while self._cache and sum(labels.nbytes for labels in self._cache.values()) > max_bytes:
            _, labels = self._cache.popitem(last=False)
            self._memory.add(-labels.nbytes)


class LabelChunks:
    """The chunks of one label layer of a dataset, numbered from 0; opens the file a second time. Close it after use.

    `rows` is how many tiles a chunk holds, `scratch_bytes` what decoding one takes at most.
    """

    def __init__(self, dataset: Dataset, layer: Layer) -> None:
        self._dataset, self._layer = dataset, layer
        self._file = open_file(dataset.path)
        self._count, (_, height, width) = dataset.count, dataset.tile_shape
        if not layer.stored:
            self._is_packed, self.rows = False, block_rows(self._count, height, width)
            self.scratch_bytes: int = 4 * self.rows * height * width
            return
        self._labels: Node = self._file[f"tiles/labels/{layer.name}"]
        count, height, width = self._labels.shape
        chunks = self._labels.chunks
        self._is_packed = chunks is not None and chunks[1:] == (height, width) and _is_packed(self._labels)
        self.rows: int = chunks[0] if chunks is not None else block_rows(count, height, width)
        self.scratch_bytes = 2 * 4 * self.rows * height * width

    def close(self) -> None:
        self._file.close()

    def read(self, number: int) -> np.ndarray:
        """Returns the labels (rows, H, W) of a chunk in int8, int16 or int32; raises SegueError where it is damaged."""
        first = number * self.rows
        rows = min(self.rows, self._count - first)
        if not self._layer.stored:
            return virtual_labels(self._dataset, np.arange(first, first + rows), self._layer)
        with reading(self._dataset.path):
            labels = self._read_stored(first, rows)
        self._dataset.require_labels(self._layer, labels)
        return labels

    def _read_stored(self, first: int, rows: int) -> np.ndarray:
        _, height, width = self._labels.shape
        if self._is_packed:
            skipped, raw = self._labels.id.read_direct_chunk((first, 0, 0))
            if not skipped:
                return self._decoded(raw)[: rows * height * width].reshape(rows, height, width)
        return self._labels[first : first + rows]

    def _decoded(self, raw: bytes) -> np.ndarray:
        from imagecodecs import deflate_decode

        _, height, width = self._labels.shape
        expected = 4 * self.rows * height * width
        inflated = deflate_decode(raw, out=expected)
        if len(inflated) != expected:
            raise SegueError(
                f"{self._dataset.path}: a chunk of labels '{self._layer.name}' holds {len(inflated)} bytes instead of "
                f"{expected}, the file is damaged; copy it again or make it again."
            )
        return unshuffled(np.frombuffer(inflated, dtype=np.int8).reshape(4, -1))


def unshuffled(planes: np.ndarray) -> np.ndarray:
    """Returns the numbers whose bytes, lowest first, are planes (4, n) int8, in the smallest type that the bytes show:
    int8 and int16 where the upper bytes only repeat the sign."""
    used = 4
    while used > 1 and np.array_equal(planes[used - 1], planes[used - 2] >> 7):
        used -= 1
    if used == 1:
        return planes[0]
    whole = np.empty(planes.shape[1], dtype="<i2" if used == 2 else "<i4")
    size = whole.dtype.itemsize
    for index in range(size):
        whole.view(np.int8)[index::size] = planes[index]
    return whole


def _is_packed(labels: Node) -> bool:
    properties = labels.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    return filters == [SHUFFLE, DEFLATE] and labels.dtype == np.dtype("<i4")
