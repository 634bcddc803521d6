"""Writes datasets: from part files with one group each, or tile by tile as mosaics are made.

`merge_parts` (`segue prepare`, `segue simulate`) knows all tiles beforehand and copies them from part files of
`write_part` in bounded memory. `GrowingDataset` (`segue plate`) does not know how many tiles will come: it copies tiles
into a block of one chunk and writes full blocks in the background. The layout of a dataset is described in `dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from segue.data.spec import Layer
from segue.data.splits import GivenSplit, Split, split_codes
from segue.errors import SegueError
from segue.hdf5 import (
    CHECKSUM,
    CHECKSUM_BYTES,
    COMPRESSION,
    NewFile,
    Node,
    create_labels,
    new_file,
    open_file,
    pack_labels,
    reading,
    text_array,
    write_checksum,
    write_chunk,
    write_labels,
    write_packed,
)
from segue.labels import IGNORED

FORMAT = "segue dataset"
FORMAT_VERSION = 2  # 2: tiles/intensity has the background's level and scale too
CHUNK_BYTES = 16 * 10**6
COUNTS_CHUNK = 10**5  # rows of class counts
MAX_INT8_CLASSES = 128
REQUIRED_COLUMNS = ("group", "source", "y_px", "x_px")
Value = str | int | float


@dataclass(frozen=True)
class Micrograph:
    """A whole image: image (C, H, W) in the acquired type, labels {layer: (H, W) int32}."""

    image: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GroupTiles:
    """The tiles of one group, all arrays in memory.

    images (n, C, H, W) in the acquired type (integers up to 32 bits, float32). labels {layer: (n, H, W) int32}.
    valid (n, 4) int32: the box y0, x0, y1, x1 that is not padding. intensity (n, C, 4) float32:
    `image_statistics` of the whole micrograph that the tile was cut from. samples {column: (n,)} of str, int64 or
    float64, at least group, source, y_px and x_px. micrographs {source: Micrograph}, empty if whole images are not
    stored.
    """

    images: np.ndarray
    labels: Mapping[str, np.ndarray]
    valid: np.ndarray
    intensity: np.ndarray
    samples: Mapping[str, np.ndarray]
    micrographs: Mapping[str, Micrograph] = field(default_factory=dict)


# part files


def write_part(path: Path, part: GroupTiles) -> None:
    """Writes a group's part file, which appears only when complete; raises ValueError for inconsistent arrays."""
    _check_group(part)
    with new_file(path) as new:
        tiles = new.file.create_group("tiles")
        tiles["images"] = part.images
        for layer, labels in part.labels.items():
            tiles[f"labels/{layer}"] = to_smallest_int(labels)  # not compressed: it is read once and deleted
        tiles["valid"] = part.valid.astype(np.int32)
        tiles["intensity"] = part.intensity.astype(np.float32)
        for column, values in part.samples.items():
            write_column(new.file, column, values)
        for source, micrograph in part.micrographs.items():
            write_micrograph(new.file, source, micrograph.image, micrograph.labels)


def _check_group(part: GroupTiles) -> None:
    count, channels, height, width = part.images.shape
    if part.images.dtype.kind not in "uif" or part.images.dtype.itemsize > 4:
        raise ValueError(f"images are {part.images.dtype}; allowed are integers up to 32 bits and float32")
    shapes = {
        "valid": (part.valid.shape, (count, 4)),
        "intensity": (part.intensity.shape, (count, channels, 4)),
        **{f"labels/{name}": (labels.shape, (count, height, width)) for name, labels in part.labels.items()},
        **{f"samples/{name}": (values.shape, (count,)) for name, values in part.samples.items()},
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise ValueError(f"{name} has shape {shape}, expected {expected}")
    for name, labels in part.labels.items():
        if labels.dtype != np.int32 or int(labels.min(initial=0)) < IGNORED:
            raise ValueError(f"labels/{name} must be int32 and not below {IGNORED}")
    missing = [column for column in REQUIRED_COLUMNS if column not in part.samples]
    if missing:
        raise ValueError(f"samples lacks the column(s) {', '.join(missing)}")


# a dataset from part files


def merge_parts(
    parts: Sequence[Path],
    out: Path,
    *,
    layers: Sequence[Layer],
    channels: Sequence[str],
    attributes: Mapping[str, Value],
    splits: Mapping[str, Split],
    chunk: int = 1000,
) -> None:
    """Writes the dataset `out` from part files, in their order; `out` appears only when it is complete.

    Images are stored uncompressed in chunks of `chunk` tiles, or as many as fit into 16 MB, with checksums; labels are
    compressed (gzip 1). Memory: two chunks of each array and the largest micrograph of a part. Raises SegueError if
    parts differ in shape or type, if a class is not named by its layer, or if the disk refuses a write.
    """
    if not parts:
        raise SegueError(f"{out}: there are no tiles to write; give at least one group with a tile.")
    plan = _check_parts(parts, out, layers, channels)
    with new_file(out) as new:
        file = new.file
        write_header(file, channels, attributes)

        # tiles, labels, class counts and whole images, part by part
        writers = _create_arrays(file, plan, layers, chunk)
        columns: dict[str, list[np.ndarray]] = {}
        for path in parts:
            with open_file(path) as source, reading(path):
                _copy_rows(source, writers, new)
                for column, values in source["samples"].items():
                    columns.setdefault(column, []).append(read_column(values))
                _copy_micrographs(source, new)
            new.check()
        for writer in writers.values():
            writer.flush()

        # sample columns and splits
        samples = {column: np.concatenate(values) for column, values in columns.items()}
        for column, values in samples.items():
            write_column(file, column, values)
        for name, split in splits.items():
            write_split(file, name, split, samples, context=str(out))


@dataclass(frozen=True)
class _MergePlan:
    count: int
    shapes: dict[str, tuple[int, ...]]  # array under tiles/ -> shape of one row
    types: dict[str, np.dtype]


def _check_parts(parts: Sequence[Path], out: Path, layers: Sequence[Layer], channels: Sequence[str]) -> _MergePlan:
    """Returns the total count and the row shapes; raises SegueError if two parts disagree."""
    names = ["images", *(f"labels/{layer.name}" for layer in layers), "valid", "intensity"]
    count, expected, columns = 0, {}, set()
    sources: set[str] = set()
    for path in parts:
        with open_file(path) as file, reading(path):
            rows = {name: _row_type(name, file["tiles"][name]) for name in names}
            expected, columns = expected or rows, columns or set(file["samples"])
            for name in names:
                if rows[name] != expected[name]:
                    raise SegueError(
                        f"{path}: {name} are {_describe_row(rows[name])}, but {_describe_row(expected[name])} in "
                        f"{parts[0].name}; the tiles of a dataset share one shape, type and number of channels."
                    )
            if set(file["samples"]) != columns:
                odd = ", ".join(sorted(columns ^ set(file["samples"])))
                raise SegueError(f"{path}: the column(s) {odd} are not in every part; give each group the same ones.")
            twice = sources.intersection(file.get("micrographs", ()))
            if twice:
                raise SegueError(
                    f"{out}: micrograph '{micrograph_name(min(twice))}' occurs twice; give each source its own name."
                )
            sources.update(file.get("micrographs", ()))
            count += file["tiles/images"].shape[0]
    stored_channels = expected["images"][0][0]
    if stored_channels != len(channels):
        raise SegueError(f"{out}: the images have {stored_channels} channels, but {len(channels)} are named.")
    return _MergePlan(
        count, {name: row[0] for name, row in expected.items()}, {name: row[1] for name, row in expected.items()}
    )


def _row_type(name: str, dataset: Node) -> tuple[tuple[int, ...], np.dtype]:
    return dataset.shape[1:], np.dtype(np.int32) if name.startswith("labels/") else dataset.dtype


def _describe_row(row: tuple[tuple[int, ...], np.dtype]) -> str:
    return f"{' × '.join(map(str, row[0]))} {row[1]}"


@dataclass
class _RowWriter:
    """Collects rows of one array and writes them by whole chunks, so that no chunk is compressed twice."""

    dataset: Node
    chunk: int
    blocks: list[np.ndarray] = field(default_factory=list)
    written: int = 0

    def add(self, block: np.ndarray) -> None:
        while len(block):
            room = self.chunk - sum(map(len, self.blocks))
            self.blocks.append(block[:room])
            block = block[room:]
            if room <= len(self.blocks[-1]):
                self.flush()

    def flush(self) -> None:
        if self.blocks:
            write_chunk(self.dataset, self.written, self.blocks)
            self.written += sum(map(len, self.blocks))
            self.blocks = []


@dataclass(frozen=True)
class _ClassCounter:
    """Counts the values of a class layer per tile as its labels are copied; ignored pixels are not counted."""

    writer: _RowWriter
    layer: Layer

    def add(self, labels: np.ndarray) -> None:
        classes = len(self.layer.names)
        highest = int(labels.max(initial=0))
        if highest >= classes:
            raise SegueError(
                f"layer '{self.layer.name}': found class value {highest}, but only the values 0 to {classes - 1} "
                f"are named ({', '.join(self.layer.names)}); name it or correct the labels."
            )
        tile = np.arange(len(labels), dtype=np.int64)[:, None, None] * (classes + 1)
        counts = np.bincount((labels + (tile + 1)).ravel(), minlength=len(labels) * (classes + 1))
        self.writer.add(counts.reshape(len(labels), classes + 1)[:, 1:])

    def flush(self) -> None:
        self.writer.flush()


def _create_arrays(
    file: Node, plan: _MergePlan, layers: Sequence[Layer], chunk: int
) -> dict[str, _RowWriter | _ClassCounter]:
    tiles = file.create_group("tiles")
    writers: dict[str, _RowWriter | _ClassCounter] = {}
    for name, row_shape in plan.shapes.items():
        shape, dtype = (plan.count, *row_shape), plan.types[name]
        chunks = _chunk_shape(shape, dtype.itemsize, chunk)
        options = COMPRESSION if name.startswith("labels/") else CHECKSUM
        writers[name] = _RowWriter(tiles.create_dataset(name, shape, dtype, chunks=chunks, **options), chunks[0])
    for layer in layers:
        write_layer_attributes(tiles[f"labels/{layer.name}"], layer)
        if layer.kind == "classes":
            name, shape = f"class_counts/{layer.name}", (plan.count, len(layer.names))
            chunks = _chunk_shape(shape, 8, COUNTS_CHUNK)
            counts = tiles.create_dataset(name, shape, np.int64, chunks=chunks, **CHECKSUM)
            writers[name] = _ClassCounter(_RowWriter(counts, counts.chunks[0]), layer)
    return writers


def _chunk_shape(shape: Sequence[int], itemsize: int, chunk: int) -> tuple[int, ...]:
    """Returns chunks of `chunk` rows, or as many as fit into CHUNK_BYTES, of even size: a last chunk that is nearly
    empty would take the space of a full one."""
    row_bytes = max(1, itemsize * int(np.prod(shape[1:])))
    rows = max(1, min(shape[0], chunk, CHUNK_BYTES // row_bytes))
    chunks = -(-shape[0] // rows)
    return (-(-shape[0] // chunks), *shape[1:])


def _copy_rows(source: Node, writers: Mapping[str, _RowWriter | _ClassCounter], new: NewFile) -> None:
    tiles = source["tiles"]
    for name, writer in writers.items():
        if isinstance(writer, _RowWriter):
            counter = writers.get(f"class_counts/{name.removeprefix('labels/')}") if "/" in name else None
            for start in range(0, tiles[name].shape[0], writer.chunk):
                block = tiles[name][start : start + writer.chunk]
                writer.add(block)
                if counter is not None:
                    counter.add(block)
                new.check()


def _copy_micrographs(source: Node, new: NewFile) -> None:
    for key, group in source.get("micrographs", {}).items():
        labels = {layer: values[()] for layer, values in group.get("labels", {}).items()}
        write_micrograph(new.file, micrograph_name(key), group["image"][()], labels)
        new.check()


# a dataset that grows


@dataclass(frozen=True)
class MosaicTiles:
    """Tiles of one mosaic that are still to be copied: image (C, H, W); labels {layer: (H, W)} in the layer's
    `buffer_dtype`; intensity (C, 4) float32; corners (n, 2): y, x; counts {class layer: (n, K)}; columns {name: value},
    the same for all tiles of the mosaic.
    """

    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    intensity: np.ndarray
    corners: np.ndarray
    counts: Mapping[str, np.ndarray]
    columns: Mapping[str, Value]

    def select(self, mask: np.ndarray) -> MosaicTiles:
        """Returns the tiles where mask (n,) is true."""
        counts = {name: values[mask] for name, values in self.counts.items()}
        return replace(self, corners=self.corners[mask], counts=counts)


def buffer_dtype(layer: Layer) -> np.dtype:
    """Returns the type in which labels wait in memory to be written; in the file they are int32."""
    return np.dtype(np.int8 if layer.kind == "classes" and len(layer.names) <= MAX_INT8_CLASSES else np.int32)


class _Block:
    """Memory for the tiles of one chunk, of which the first `count` are filled."""

    def __init__(self, rows: int, tile_px: int, layers: Sequence[Layer], image: np.ndarray) -> None:
        shape = (rows, tile_px, tile_px)
        self.count = 0
        self._row_bytes = len(image) * tile_px**2 * image.dtype.itemsize
        self._memory = np.empty(rows * self._row_bytes + CHECKSUM_BYTES, np.uint8)
        self.images = self._memory[:-CHECKSUM_BYTES].view(image.dtype).reshape(rows, len(image), tile_px, tile_px)
        self.labels = {layer.name: np.empty(shape, dtype=buffer_dtype(layer)) for layer in layers}
        self.intensity = np.empty((rows, len(image), 4), dtype=np.float32)
        self.counts = {
            layer.name: np.empty((rows, len(layer.names)), dtype=np.int64)
            for layer in layers
            if layer.kind == "classes"
        }

    def copy_from(self, tiles: MosaicTiles, first: int) -> int:
        """Copies tiles from number `first` on, as many as there is room for; returns the number of the next one."""
        side = self.images.shape[-1]
        last = min(len(tiles.corners), first + len(self.images) - self.count)
        rows = slice(self.count, self.count + last - first)
        for row, (y, x) in enumerate(tiles.corners[first:last].tolist(), self.count):
            self.images[row] = tiles.image[:, y : y + side, x : x + side]
            for name, values in tiles.labels.items():
                self.labels[name][row] = values[y : y + side, x : x + side]
        self.intensity[rows] = tiles.intensity
        for name, values in tiles.counts.items():
            self.counts[name][rows] = values[first:last]
        self.count = rows.stop
        return last

    @property
    def is_full(self) -> bool:
        return self.count == len(self.images)

    def image_chunk(self, rows: int) -> np.ndarray:
        """Returns the bytes of the first `rows` images and their checksum, in place: later images are lost."""
        chunk = self._memory[: rows * self._row_bytes + CHECKSUM_BYTES]
        write_checksum(chunk)
        return chunk


class GrowingDataset:
    """A dataset that is being written to `new` and will appear at `path`; holds two blocks, however many tiles come.

    rows: tiles of `tile_px` per chunk. All writing is done by the single thread of `background`, one piece at a time
    and in order; its errors are raised by the next call.
    """

    def __init__(
        self,
        new: NewFile,
        path: Path,
        *,
        layers: Sequence[Layer],
        tile_px: int,
        rows: int,
        background: ThreadPoolExecutor,
    ) -> None:
        self._new, self._path, self._layers = new, path, layers
        self._tile_px, self._rows = tile_px, rows
        self._background = background
        self._pending: Future[None] | None = None
        self._block: _Block | None = None  # being filled
        self._spare: _Block | None = None  # being written, or empty
        self._chunk_rows = 0  # rows of a chunk: below `rows` if the dataset has fewer tiles
        self._image_dtype: np.dtype | None = None
        self._arrays: dict[str, Node] = {}
        self._written = 0
        self._columns: list[Mapping[str, Value]] = []  # of each mosaic
        self._corners: list[np.ndarray] = []

    def add(self, tiles: MosaicTiles) -> None:
        """Appends the tiles. Raises SegueError if their type or columns differ from those of earlier ones."""
        source = tiles.columns["source"]
        if self._columns and set(tiles.columns) != set(self._columns[0]):
            odd = ", ".join(sorted(set(tiles.columns) ^ set(self._columns[0])))
            raise SegueError(f"{source}: the column(s) {odd} are not in every mosaic; give each the same ones.")
        if not len(tiles.corners):
            return
        self._image_dtype = self._image_dtype or tiles.image.dtype
        if tiles.image.dtype != self._image_dtype:
            raise SegueError(
                f"{source}: the image is {tiles.image.dtype}, but {self._image_dtype} in "
                f"{self._columns[0]['source']}; the images of a dataset share one type."
            )
        self._columns.append(tiles.columns)
        self._corners.append(tiles.corners)
        first = 0
        while first < len(tiles.corners):
            block = self._block = self._block or _Block(self._rows, self._tile_px, self._layers, tiles.image)
            first = block.copy_from(tiles, first)
            if block.is_full:
                self._flush(block)
                self._block, self._spare = self._spare, block

    def add_micrograph(
        self, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray], *, attributes: Mapping[str, Value]
    ) -> None:
        """Stores a whole image with its labels, under a source not used before; the arrays must not change later."""
        self._submit(lambda: self._store_micrograph(source, image, labels, attributes))

    def finish(self, splits: Mapping[str, Split]) -> None:
        """Writes the last block, the sample columns and the splits; at least one tile must have been added."""
        if self._block is not None and self._block.count:
            self._flush(self._block)
        self._wait()
        counts = [len(corners) for corners in self._corners]
        corners = np.concatenate(self._corners)
        samples = {"y_px": corners[:, 0], "x_px": corners[:, 1]}
        for name in self._columns[0]:
            values = [columns[name] for columns in self._columns]
            is_text = any(isinstance(value, str) for value in values)
            samples[name] = np.repeat(np.array(values, dtype=object if is_text else None), counts)
        for name in sorted(samples):
            write_column(self._new.file, name, samples[name])
        for name, split in splits.items():
            write_split(self._new.file, name, split, samples, context=str(self._path))
        self._new.check()

    def finish_without_tiles(self, image: np.ndarray, columns: Mapping[str, Value]) -> None:
        """Finishes a file without tiles: with empty arrays, as for tiles of `image` (C, H, W) with these columns."""
        self._wait()
        self._chunk_rows = 1
        self._create_arrays(_Block(1, self._tile_px, self._layers, image))
        for name in sorted({"y_px": 0, "x_px": 0} | dict(columns)):
            is_text = isinstance(columns.get(name, 0), str)
            dtype = object if is_text else np.float64 if isinstance(columns.get(name), float) else np.int64
            write_column(self._new.file, name, np.empty(0, dtype=dtype))
        self._new.check()

    def _submit(self, work: Callable[[], None]) -> None:
        self._wait()
        self._pending = self._background.submit(work)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
        self._pending = None

    def _flush(self, block: _Block) -> None:
        """Compresses the labels of a block here, which takes as long as the background takes to write its images."""
        self._chunk_rows = rows = self._chunk_rows or block.count
        for values in (block.images, *block.labels.values()):
            values[block.count : rows] = 0
        labels = {name: pack_labels(values[:rows]) for name, values in block.labels.items()}
        self._submit(lambda: self._append(block, labels))

    def _append(self, block: _Block, labels: Mapping[str, bytes | bytearray]) -> None:
        """Writes a block and its packed labels; all blocks but the last of a file are full."""
        if not self._arrays:
            self._create_arrays(block)
        arrays, first, end = self._arrays, self._written, self._written + block.count
        for array in arrays.values():
            array.resize(end, axis=0)
        write_packed(arrays["images"], first, block.image_chunk(self._chunk_rows))
        for name, chunk in labels.items():
            write_packed(arrays[f"labels/{name}"], first, chunk)
        box = np.array([0, 0, self._tile_px, self._tile_px], dtype=np.int32)
        arrays["valid"][first:end] = np.tile(box, (block.count, 1))  # h5py would write a single row many times
        arrays["intensity"][first:end] = block.intensity[: block.count]
        for name, values in block.counts.items():
            arrays[f"class_counts/{name}"][first:end] = values[: block.count]
        self._written, block.count = end, 0
        self._new.check()

    def _create_arrays(self, block: _Block) -> None:
        """Creates the arrays, empty, in the shapes and types of the block."""
        tiles, rows, side = self._new.file.create_group("tiles"), self._chunk_rows, self._tile_px

        def create(name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
            options = {"maxshape": (None, *shape), "chunks": (rows, *shape), **CHECKSUM}
            self._arrays[name] = tiles.create_dataset(name, (0, *shape), dtype, **options)

        create("images", block.images.shape[1:], block.images.dtype)
        create("valid", (4,), np.int32)
        create("intensity", block.intensity.shape[1:], np.float32)
        for layer in self._layers:
            labels = create_labels(tiles, f"labels/{layer.name}", (0, side, side), chunk=rows, grows=True)
            write_layer_attributes(labels, layer)
            self._arrays[f"labels/{layer.name}"] = labels
            if layer.kind == "classes":
                create(f"class_counts/{layer.name}", (len(layer.names),), np.int64)

    def _store_micrograph(
        self, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray], attributes: Mapping[str, Value]
    ) -> None:
        write_attributes(write_micrograph(self._new.file, source, image, labels), attributes)
        self._new.check()


# the pieces of a dataset


def write_header(file: Node, channels: Sequence[str], attributes: Mapping[str, Value]) -> None:
    """Writes the format, the names of the channels and further attributes."""
    write_attributes(file, {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes})
    file.attrs["channels"] = text_array(channels)


def write_layer_attributes(labels: Node, layer: Layer) -> None:
    """Writes a layer's kind and names to the array of its labels."""
    write_attributes(labels, {"kind": layer.kind})
    labels.attrs["names"] = text_array(layer.names)


def write_attributes(node: Node, attributes: Mapping[str, Any]) -> None:
    """Writes attributes: texts, numbers, and arrays of numbers."""
    for name, value in attributes.items():
        node.attrs[name] = text_array(value) if isinstance(value, str) else value


def write_column(file: Node, column: str, values: np.ndarray) -> None:
    """Writes samples/<column>: text, or numbers as int64 or float64."""
    if values.dtype.kind in "OU":
        data, options = text_array([str(value) for value in values]), COMPRESSION
    else:
        data, options = values.astype(np.float64 if values.dtype.kind == "f" else np.int64), CHECKSUM
    _write_whole(file, f"samples/{column}", data, options)


def _write_whole(file: Node, name: str, data: np.ndarray, options: Mapping[str, Any] = CHECKSUM) -> Node:
    """Returns the new array of `data`, in chunks of whole rows with checksums; one without rows has no chunks."""
    chunks = {"chunks": _chunk_shape(data.shape, data.dtype.itemsize, len(data)), **options} if data.size else {}
    return file.create_dataset(name, data=data, **chunks)


def read_column(dataset: Node) -> np.ndarray:
    """Returns a column (N,): text as objects of str, numbers as stored."""
    return dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) is not None else dataset[()]


def write_micrograph(file: Node, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray]) -> Node:
    """Returns the new group micrographs/<source> with the image (C, H, W) and its labels {layer: (H, W) int32}."""
    group = file.create_group(f"micrographs/{micrograph_key(source)}")
    rows = max(1, CHUNK_BYTES // max(1, image.itemsize * len(image) * image.shape[2]))
    chunks = {"chunks": (len(image), min(rows, image.shape[1]), image.shape[2]), **CHECKSUM} if image.size else {}
    group.create_dataset("image", data=image, **chunks)
    for layer, values in labels.items():
        write_labels(create_labels(group, f"labels/{layer}", values.shape, chunk=len(values)), values)
    return group


def write_split(file: Node, name: str, split: Split, samples: Mapping[str, np.ndarray], *, context: str) -> None:
    """Writes splits/<name> and its settings; `samples` and `context` as in `splits.split_codes`."""
    dataset = _write_whole(file, f"splits/{name}", split_codes(split, samples, context=context))
    if isinstance(split, GivenSplit):
        dataset.attrs["given"] = True
        return
    always = {key: getattr(split, key) for key in ("seed", "validation", "test")}
    write_attributes(dataset, always | split.model_dump(exclude_defaults=True))


def micrograph_key(source: str) -> str:
    """Returns the source's name as one HDF5 name: a slash would open a group."""
    return source.replace("%", "%25").replace("/", "%2F") if source != "." else "%2E"


def micrograph_name(key: str) -> str:
    return key.replace("%2F", "/").replace("%2E", ".").replace("%25", "%")


def to_smallest_int(labels: np.ndarray) -> np.ndarray:
    """Returns labels in the smallest signed type that holds them."""
    highest = int(labels.max(initial=0))
    return labels.astype(np.int8 if highest < 2**7 else np.int16 if highest < 2**15 else np.int32)
