"""The order in which an epoch visits its views, so that data which do not fit in memory are read by whole blocks.

It is a function of the specification and of the data's size alone: the same whether the samples are held in memory
or streamed, and whatever memory there is.


Samples read from HDF5 while the network trains, in bounded memory, with the same bits as samples in memory.

An epoch's whole order is known beforehand. So each chunk of the file is read when one of its samples is first needed
(in the background, as far ahead as there is room), the samples that the epoch takes from it wait in a pool in their
acquired type, and each leaves the pool after its last use. An order that visits blocks together (`order.order`) needs
a pool of about one window, and gets two, so that one fills while the other empties. An order for which the pool is too
small is read at random places instead: right, but slow.

    main thread   submits loads while slots are free, and batches while their loads are submitted
    loaders       read and decode a chunk -> slots of the pool
    gatherer      waits for the chunks of a batch -> normalised batch, pinned where it goes to a GPU
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
from segue.data.sources import DatasetSubset, require_finite, sample_names, tile_shape, virtual_labels
from segue.data.spec import Layer, NormalizeSpec
from segue.device import cpu_count
from segue.errors import SegueError
from segue.hdf5 import DEFLATE, SHUFFLE, Node, open_file, reading

WINDOW_BYTES = 2**30  # of samples held in memory: up to here `auto` shuffles all of them
BLOCK_BYTES = 16 * 10**6  # the size of the chunks in which assembly writes labels
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
    """Returns how many consecutive tiles of a dataset of `count` lie in one block.

    These are the chunks of labels that `assemble` writes by itself; a dataset with other chunks gives the same order
    and is only read less well.
    """
    most = max(1, min(count, MAX_ROWS, BLOCK_BYTES // (4 * height * width)))
    pieces = -(-count // most)
    return -(-count // pieces)


def chunk_ids(parts: Sequence[tuple[Path, np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
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


def epoch_order(blocks: np.ndarray, copies: int, window: int | None, generator: np.random.Generator) -> np.ndarray:
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
class ReadPlan:
    """When what is read. chunks[k] is needed for `needed[k]` (samples); before batch b the first `loads[b]` chunks must
    be there; after it the samples `finished[b]` are needed no more; at most `peak` samples are there at once."""

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
    gone = np.bincount(last_use, minlength=count)
    there = np.cumsum(arrived) - np.cumsum(gone) + gone
    loads = np.searchsorted(first_use[turn], np.arange(count), side="right")
    return ReadPlan(needed, loads, finished, int(there.max(initial=0)))


PREFETCH_BATCHES = 2  # batches made while one is trained on
MAX_LOADERS = 4
ROWS_AT_ONCE = 16  # images read between two looks at the rest of the program
Gather = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # samples, room for images and for labels


class MemoryMeter:
    """What is held, in bytes, and the most that ever was."""

    def __init__(self) -> None:
        self.held = self.most = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        with self._lock:
            self.held += amount
            self.most = max(self.most, self.held)


class _Pool:
    """Slots for samples in their acquired type, with their statistics; a slot is touched by one thread at a time."""

    def __init__(self, slots: int, source: StreamedSource) -> None:
        channels, height, width = source.shape
        self.images = np.empty((slots, channels, height, width), dtype=source.image_type)
        self.marks = np.empty((slots, height, width), dtype=source.label_dtype)
        self.statistics = np.empty((slots, channels, 2), dtype=np.float32)


class StreamedSource:
    """Samples of one or several datasets, read as they are needed within `budget_bytes`; equal to `ResidentSource`.

    It opens the files for itself; close it after use. `most_held_bytes` is the most that it held at once: pool, chunks
    being decoded, finished batches, and cached labels.
    """

    def __init__(self, parts: Sequence[DatasetSubset], *, normalization: NormalizeSpec, budget_bytes: int) -> None:
        self.shape = tile_shape(parts)
        self.image_type = np.result_type(*[part.dataset.dtype for part in parts])
        self.label_dtype = max((part.label_dtype for part in parts), key=lambda kind: kind.itemsize)
        self._normalization: NormalizeSpec = normalization
        self._budget = budget_bytes
        self._intensity = np.concatenate([part.dataset.intensity(part.indices) for part in parts])
        self._row = np.concatenate([np.asarray(part.indices, dtype=np.int64) for part in parts])
        layers = {part.dataset.path.resolve(): (part.dataset.path, part.layer) for part in parts}
        files = {path: index for index, path in enumerate(layers)}
        of_part = [files[part.dataset.path.resolve()] for part in parts]
        self._file = np.repeat(np.array(of_part), [len(part.indices) for part in parts])
        self._datasets = [Dataset(path) for path, _ in layers.values()]
        self._chunks = [LabelChunks(d, layer) for d, (_, layer) in zip(self._datasets, layers.values(), strict=True)]
        rows = np.array([chunks.rows for chunks in self._chunks])
        counts = np.array([-(-dataset.count // chunks.rows) for dataset, chunks in self._opened()])
        self._first_chunk = np.cumsum(counts) - counts
        self._chunk = self._first_chunk[self._file] + self._row // rows[self._file]
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._pool_bytes = 0
        self._ledger = MemoryMeter()

    def __len__(self) -> int:
        return len(self._row)

    def close(self) -> None:
        for dataset, chunks in self._opened():
            chunks.close()
            dataset.close()

    @property
    def peak_bytes(self) -> int:
        return self._ledger.most

    def names(self, indices: Sequence[int]) -> list[str]:
        found = []
        for index in indices:
            found += sample_names(self._datasets[self._file[index]], self._row[[index]])
        return found

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64 on `device`, read now."""
        samples = np.asarray(torch.as_tensor(indices).cpu(), dtype=np.int64)
        gather = partial(self._at_random, most_labels=self._room_for_labels(len(samples)))
        return self._to_device(self._gathered(samples, torch.device(device), gather), torch.device(device))

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
            return self._by_chunks(uses, plan, slots, torch.device(device))
        return self._by_samples(uses, torch.device(device))

    def slots(self, batch: int) -> int:
        """Returns how many samples the pool can hold beside what batches of this size take."""
        return max(0, self._budget - self._beside(batch, self._loaders())) // self._slot_bytes()

    def min_bytes(self, batch: int) -> int:
        """Returns the smallest budget with which batches of this size can be made, be it at random places."""
        _, height, width = self.shape
        chunk = max(chunks.rows for chunks in self._chunks) * height * width * self.label_dtype.itemsize
        return self._beside(batch, 1) + chunk

    def shuffles_in_memory(self, window: int | None, batch: int) -> bool:
        """Returns whether an epoch in windows of so many samples (None: all) reads every chunk once."""
        return self._peak(window, batch) <= self.slots(batch)

    def bytes_to_shuffle(self, window: int | None, batch: int) -> int:
        """Returns the smallest budget with which `shuffles_in_memory`."""
        return self._peak(window, batch) * self._slot_bytes() + self._beside(batch, self._loaders())

    def bytes_in_use(self, window: int | None, batch: int) -> int:
        """Returns what an epoch in such windows holds: two of them where there is room, else what there is."""
        slots = min(2 * self._peak(window, batch), len(self), self.slots(batch))
        return slots * self._slot_bytes() + self._beside(batch, self._loaders())

    def largest_window(self, batch: int) -> int:
        """Returns the largest window that `shuffles_in_memory`, 0 where there is none."""
        return max(0, self.slots(batch) - max(c.rows for c in self._chunks) - batch)

    def _peak(self, window: int | None, batch: int) -> int:
        """Returns how many samples are needed at once: a window, and what its last chunk and the batch leave over."""
        return len(self) if window is None else min(len(self), window + max(c.rows for c in self._chunks) + batch)

    def _opened(self) -> list[tuple[Dataset, LabelChunks]]:
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

    def _beside(self, batch: int, loaders: int) -> int:
        """What is held beside the pool or the cached labels."""
        return (PREFETCH_BATCHES + 1) * self._batch_bytes(batch) + loaders * self._scratch_bytes(batch)

    def _room_for_labels(self, batch: int) -> int:
        return self._budget - self._pool_bytes - self._beside(batch, 1)

    def _loaders(self) -> int:
        affordable = self._budget // 4 // self._scratch_bytes(ROWS_AT_ONCE)
        return max(1, min(MAX_LOADERS, cpu_count() // 2, affordable))

    def _by_chunks(
        self, uses: list[np.ndarray], plan: ReadPlan, slots: int, device: torch.device
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        self._hold_pool(slots)
        pool = _Pool(slots, self)
        slot_of = np.full(len(self), -1)
        free = list(range(slots))[::-1]
        loads: list[Future[None]] = []
        pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
        loaders = ThreadPoolExecutor(self._loaders(), thread_name_prefix="segue-loader")
        gatherer = ThreadPoolExecutor(1, thread_name_prefix="segue-gatherer")

        def gather(batch: int, own_slots: np.ndarray) -> tuple[Tensor, Tensor]:
            for load in loads[plan.loads[batch - 1] if batch else 0 : plan.loads[batch]]:
                load.result()

            def from_pool(samples: np.ndarray, images: np.ndarray, marks: np.ndarray) -> None:
                for place, slot in enumerate(own_slots):  # one by one: each stays in the processor's cache
                    kept = slice(slot, slot + 1)
                    normalize(pool.images[kept], pool.statistics[kept], out=images[place : place + 1])
                    marks[place] = pool.marks[slot]

            return self._gathered(uses[batch], device, from_pool)

        def go_ahead(batch: int) -> None:
            while len(loads) < len(plan.needed) and len(plan.needed[len(loads)]) <= len(free):
                wanted = plan.needed[len(loads)]
                slot_of[wanted] = [free.pop() for _ in wanted]
                loads.append(loaders.submit(self._load, wanted, pool, slot_of[wanted]))
            last = min(len(uses), batch + PREFETCH_BATCHES + 1)
            while batch + len(pending) < last and plan.loads[batch + len(pending)] <= len(loads):
                following = batch + len(pending)
                pending.append(gatherer.submit(gather, following, slot_of[uses[following]]))

        try:
            go_ahead(0)
            for batch in range(len(uses)):
                found = pending.popleft().result()
                free.extend(slot_of[plan.finished[batch]].tolist())
                go_ahead(batch + 1)
                yield self._to_device(found, device)
        finally:
            loaders.shutdown(cancel_futures=True)
            gatherer.shutdown(cancel_futures=True)
            self._release(pending)
            self._hold_pool(0)

    def _by_samples(self, uses: list[np.ndarray], device: torch.device) -> Generator[tuple[Tensor, Tensor], None, None]:
        gather = partial(self._at_random, most_labels=self._room_for_labels(max(map(len, uses))))
        pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
        gatherer = ThreadPoolExecutor(1, thread_name_prefix="segue-gatherer")
        try:
            for batch in range(len(uses)):
                while len(pending) <= PREFETCH_BATCHES and batch + len(pending) < len(uses):
                    following = uses[batch + len(pending)]
                    pending.append(gatherer.submit(self._gathered, following, device, gather))
                found = pending.popleft().result()
                yield self._to_device(found, device)
        finally:
            gatherer.shutdown(cancel_futures=True)
            self._release(pending)

    def _hold_pool(self, slots: int) -> None:
        """Accounts for a pool of so many slots, for which cached labels make room."""
        with self._cache_lock:
            self._evict(0)
        self._ledger.add(slots * self._slot_bytes() - self._pool_bytes)
        self._pool_bytes = slots * self._slot_bytes()

    def _to_device(self, batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) and labels int64 on the device; from here on they are the reader's."""
        self._ledger.add(-self._batch_bytes(len(batch[0])))
        pixels, marks = (tensor.to(device, non_blocking=True) for tensor in batch)
        return pixels.permute(0, 3, 1, 2), marks.to(torch.int64)

    def _release(self, pending: deque[Future[tuple[Tensor, Tensor]]]) -> None:
        """Takes batches that nobody will fetch off the account."""
        for batch in pending:
            if not batch.cancelled() and batch.exception() is None:
                self._ledger.add(-self._batch_bytes(len(batch.result()[0])))

    def _load(self, samples: np.ndarray, pool: _Pool, slots: np.ndarray) -> None:
        """Reads samples of one chunk into the pool."""
        file = int(self._file[samples[0]])
        number = int(self._chunk[samples[0]] - self._first_chunk[file])
        rows = self._row[samples]
        scratch = self._scratch_bytes(0)
        self._ledger.add(scratch)
        try:
            labels = self._chunks[file].read(number)
            pool.marks[slots] = labels[rows - number * self._chunks[file].rows]
            for start in range(0, len(samples), ROWS_AT_ONCE):
                some = slice(start, start + ROWS_AT_ONCE)
                images, found = self._images(file, samples[some])
                pool.images[slots[some]], pool.statistics[slots[some]] = images, found
        finally:
            self._ledger.add(-scratch)

    def _images(self, file: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns images of one file in their acquired type and their statistics; raises SegueError for NaN."""
        dataset = self._datasets[file]
        images, _ = dataset.read(self._row[samples], layer=None)
        found = intensity_stats(self._normalization, images, self._intensity[samples])
        if images.dtype.kind == "f" or not np.isfinite(found).all():
            require_finite(dataset, normalize(images, found), sample_names(dataset, self._row[samples]))
        return images, found

    def _gathered(self, samples: np.ndarray, device: torch.device, gather: Gather) -> tuple[Tensor, Tensor]:
        """Returns images (n, H, W, C) float32 and labels (n, H, W), pinned and in their small type for a GPU."""
        channels, height, width = self.shape
        pinned = device.type == "cuda"
        pixels = torch.empty((len(samples), height, width, channels), pin_memory=pinned)
        kind = torch.from_numpy(np.empty(0, self.label_dtype)).dtype if pinned else torch.int64
        marks = torch.empty((len(samples), height, width), dtype=kind, pin_memory=pinned)
        self._ledger.add(self._batch_bytes(len(samples)))
        try:
            gather(samples, np.moveaxis(pixels.numpy(), -1, 1), marks.numpy())
        except BaseException:
            self._ledger.add(-self._batch_bytes(len(samples)))
            raise
        return pixels, marks

    def _at_random(self, samples: np.ndarray, images: np.ndarray, marks: np.ndarray, *, most_labels: int) -> None:
        """Reads samples from wherever they lie: images by row, labels by chunks of which the last used are kept, as far
        as they take at most `most_labels` bytes."""
        scratch = self._scratch_bytes(len(samples))
        self._ledger.add(scratch)
        try:
            for file in np.unique(self._file[samples]).tolist():
                own = np.flatnonzero(self._file[samples] == file)
                images[own] = normalize(*self._images(file, samples[own]))
            for chunk in np.unique(self._chunk[samples]).tolist():
                own = np.flatnonzero(self._chunk[samples] == chunk)
                file = int(self._file[samples[own[0]]])
                first = (chunk - self._first_chunk[file]) * self._chunks[file].rows
                marks[own] = self._labels(chunk, file, most_labels)[self._row[samples[own]] - first]
        finally:
            self._ledger.add(-scratch)

    def _labels(self, chunk: int, file: int, most_bytes: int) -> np.ndarray:
        """Returns the labels of a chunk, kept for the next time as far as `most_bytes` of labels may be."""
        with self._cache_lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
                return self._cache[chunk]
            labels = self._chunks[file].read(chunk - int(self._first_chunk[file])).astype(self.label_dtype)
            self._evict(most_bytes - labels.nbytes)
            if labels.nbytes <= most_bytes:
                self._cache[chunk] = labels
                self._ledger.add(labels.nbytes)
            return labels

    def _evict(self, most_bytes: int) -> None:
        """Drops cached labels, the longest unused first, until they take at most `most_bytes`."""
        while self._cache and sum(labels.nbytes for labels in self._cache.values()) > most_bytes:
            _, labels = self._cache.popitem(last=False)
            self._ledger.add(-labels.nbytes)


class LabelChunks:
    """The chunks of one label layer of a dataset, numbered from 0; opens the file a second time. Close it after use.

    `rows` is how many tiles a chunk holds, `scratch_bytes` what decoding one takes at most.
    """

    def __init__(self, dataset: Dataset, layer: Layer) -> None:
        self._dataset, self._layer = dataset, layer
        self._file = open_file(dataset.path)
        self._count, (_, height, width) = dataset.count, dataset.tile_shape
        if not layer.stored:
            self._plain, self.rows = False, block_rows(self._count, height, width)
            self.scratch_bytes: int = 4 * self.rows * height * width
            return
        self._labels: Node = self._file[f"tiles/labels/{layer.name}"]
        count, height, width = self._labels.shape
        chunks = self._labels.chunks
        self._plain = chunks is not None and chunks[1:] == (height, width) and _as_assembled(self._labels)
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
        _, height, width = self._labels.shape
        with reading(self._dataset.path):
            if self._plain:
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
                f"{expected}, the file is damaged; copy it again or make it anew."
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


def _as_assembled(labels: Node) -> bool:
    properties = labels.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    return filters == [SHUFFLE, DEFLATE] and labels.dtype == np.dtype("<i4")
