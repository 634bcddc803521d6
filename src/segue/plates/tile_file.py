"""A dataset that grows: tiles are copied into a block of one chunk, and full blocks are written in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segue.data.spec import Layer
from segue.data.splits import Split
from segue.data.writer import write_column, write_layer_attributes, write_micrograph, write_split
from segue.errors import SegueError
from segue.hdf5 import NewFile, Node, create_labels, pack_labels, write_packed
from segue.plates.spec import TilesSpec

Value = str | int | float
INT8_CLASSES = 128


@dataclass(frozen=True)
class MosaicTiles:
    """Tiles of one mosaic that are still to be copied: image (C, H, W); labels {layer: (H, W)} in their `label_type`;
    intensity (C, 2) float32; places (n, 2), the corners y, x; counts {class layer: (n, K)}; columns {name: value}, what
    the rows of all its tiles hold.
    """

    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    intensity: np.ndarray
    corners: np.ndarray
    counts: Mapping[str, np.ndarray]
    columns: Mapping[str, Value]

    def select(self, wanted: np.ndarray) -> MosaicTiles:
        """Returns the tiles where wanted (n,) is true."""
        counts = {name: values[wanted] for name, values in self.counts.items()}
        return replace(self, places=self.corners[wanted], counts=counts)


def label_type(layer: Layer) -> np.dtype:
    """Returns the type in which labels wait to be written; in the file they are int32."""
    return np.dtype(np.int8 if layer.kind == "classes" and len(layer.names) <= INT8_CLASSES else np.int32)


class _Block:
    """Room for the tiles of one chunk, of which the first `count` are there."""

    def __init__(self, spec: TilesSpec, layers: Sequence[Layer], image: np.ndarray) -> None:
        rows, tile, channels = spec.rows, spec.tile_px, len(image)
        self.count = 0
        self.images = np.empty((rows, channels, tile, tile), dtype=image.dtype)
        self.labels = {layer.name: np.empty((rows, tile, tile), dtype=label_type(layer)) for layer in layers}
        self.intensity = np.empty((rows, channels, 2), dtype=np.float32)
        self.counts = {
            layer.name: np.empty((rows, len(layer.names)), dtype=np.int64)
            for layer in layers
            if layer.kind == "classes"
        }

    def take(self, cut: MosaicTiles, first: int) -> int:
        """Copies tiles of `cut` from `first` on, as many as there is room for; returns where the rest begins."""
        tile = self.images.shape[-1]
        last = min(len(cut.corners), first + len(self.images) - self.count)
        rows = slice(self.count, self.count + last - first)
        for row, (y, x) in enumerate(cut.corners[first:last].tolist(), self.count):
            self.images[row] = cut.image[:, y : y + tile, x : x + tile]
            for name, values in cut.labels.items():
                self.labels[name][row] = values[y : y + tile, x : x + tile]
        self.intensity[rows] = cut.intensity
        for name, values in cut.counts.items():
            self.counts[name][rows] = values[first:last]
        self.count = rows.stop
        return last

    @property
    def full(self) -> bool:
        return self.count == len(self.images)


class GrowingDataset:
    """A dataset being written to `new`; `path` is where it will appear. Holds two blocks, however many tiles come.

    All writing is done by the one thread of `background`, a piece at a time and in order; what fails there is raised
    by the next call.
    """

    def __init__(
        self, new: NewFile, path: Path, spec: TilesSpec, *, layers: Sequence[Layer], background: ThreadPoolExecutor
    ) -> None:
        self._new, self._path, self._spec, self._layers = new, path, spec, layers
        self._background = background
        self._pending: Future[None] | None = None
        self._block: _Block | None = None  # being filled
        self._spare: _Block | None = None  # being written, or empty
        self._rows = 0  # of a chunk: fewer than asked for where the dataset has fewer tiles
        self._image_type: np.dtype | None = None
        self._arrays: dict[str, Node] = {}
        self._written = 0
        self._columns: list[Mapping[str, Value]] = []  # of each mosaic
        self._places: list[np.ndarray] = []

    def add(self, cut: MosaicTiles) -> None:
        """Appends the tiles. Raises SegueError where their type or columns differ from those of earlier ones."""
        if self._columns and set(cut.columns) != set(self._columns[0]):
            odd = ", ".join(sorted(set(cut.columns) ^ set(self._columns[0])))
            raise SegueError(
                f"{cut.columns['source']}: the column(s) {odd} are not in every mosaic; give each the same ones."
            )
        if not len(cut.corners):
            return
        self._image_type = self._image_type or cut.image.dtype
        if cut.image.dtype != self._image_type:
            raise SegueError(
                f"{cut.columns['source']}: the image is {cut.image.dtype}, but {self._image_type} in "
                f"{self._columns[0]['source']}; the images of a dataset share one type."
            )
        self._columns.append(cut.columns)
        self._places.append(cut.corners)
        first = 0
        while first < len(cut.corners):
            block = self._block = self._block or _Block(self._spec, self._layers, cut.image)
            first = block.take(cut, first)
            if block.full:
                self._flush(block)
                self._block, self._spare = self._spare, block

    def add_micrograph(
        self, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray], *, attributes: Mapping[str, Value]
    ) -> None:
        """Stores a whole image with its labels; arrays must not change afterwards. Raises where it is there already."""
        self._submit(lambda: self._store(source, image, labels, attributes))

    def finish_without_tiles(self, image: np.ndarray, columns: Mapping[str, Value]) -> None:
        """Ends a file that no tile was added to: empty arrays such as tiles of `image` (C, H, W) would have."""
        self._wait()
        self._rows = 1
        self._create(_Block(self._spec.model_copy(update={"chunk": 1}), self._layers, image))
        for name in sorted({"y_px": 0, "x_px": 0} | dict(columns)):
            text = isinstance(columns.get(name, 0), str)
            kind = object if text else np.float64 if isinstance(columns.get(name), float) else np.int64
            write_column(self._new.file, name, np.empty(0, dtype=kind))
        self._new.check()

    def finish(self, splits: Mapping[str, Split]) -> None:
        """Writes the last block, the sample rows and the splits; at least one tile must have been added."""
        if self._block is not None and self._block.count:
            self._flush(self._block)
        self._wait()
        counts = [len(places) for places in self._places]
        corners = np.concatenate(self._places)
        samples = {"y_px": corners[:, 0], "x_px": corners[:, 1]}
        for name in self._columns[0]:
            values = [columns[name] for columns in self._columns]
            text = any(isinstance(value, str) for value in values)
            samples[name] = np.repeat(np.array(values, dtype=object if text else None), counts)
        for name in sorted(samples):
            write_column(self._new.file, name, samples[name])
        for name, split in splits.items():
            write_split(self._new.file, name, split, samples, context=str(self._path))
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
        self._rows = rows = self._rows or block.count
        for values in (block.images, *block.labels.values()):
            values[block.count : rows] = 0
        labels = {name: pack_labels(values[:rows]) for name, values in block.labels.items()}
        self._submit(lambda: self._append(block, labels))

    def _append(self, block: _Block, labels: Mapping[str, bytes | bytearray]) -> None:
        """Writes a block and its packed labels; all blocks but the last of a file are full."""
        if not self._arrays:
            self._create(block)
        arrays, first, end = self._arrays, self._written, self._written + block.count
        for array in arrays.values():
            array.resize(end, axis=0)
        arrays["images"].id.write_direct_chunk((first, 0, 0, 0), block.images[: self._rows])
        for name, chunk in labels.items():
            write_packed(arrays[f"labels/{name}"], first, chunk)
        whole = np.array([0, 0, self._spec.tile_px, self._spec.tile_px], dtype=np.int32)
        arrays["valid"][first:end] = np.tile(whole, (block.count, 1))  # h5py would write a single row many times
        arrays["intensity"][first:end] = block.intensity[: block.count]
        for name, values in block.counts.items():
            arrays[f"class_counts/{name}"][first:end] = values[: block.count]
        self._written, block.count = end, 0
        self._new.check()

    def _create(self, block: _Block) -> None:
        """Makes the arrays, empty."""
        tiles, rows, tile = self._new.file.create_group("tiles"), self._rows, self._spec.tile_px

        def growing(name: str, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
            chunks = (rows, *shape)
            self._arrays[name] = tiles.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks)

        growing("images", block.images.shape[1:], block.images.dtype)
        growing("valid", (4,), np.int32)
        growing("intensity", block.intensity.shape[1:], np.float32)
        for layer in self._layers:
            labels = create_labels(tiles, f"labels/{layer.name}", (0, tile, tile), chunk=rows, grows=True)
            write_layer_attributes(labels, layer)
            self._arrays[f"labels/{layer.name}"] = labels
            if layer.kind == "classes":
                growing(f"class_counts/{layer.name}", (len(layer.names),), np.int64)

    def _store(
        self, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray], attributes: Mapping[str, Value]
    ) -> None:
        group = write_micrograph(self._new.file, source, image, labels)
        for name, value in attributes.items():
            group.attrs[name] = value
        self._new.check()
