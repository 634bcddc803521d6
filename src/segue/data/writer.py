"""Part files, one per group, and the dataset that is assembled from them part by part in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from segue.data.spec import Layer
from segue.data.splits import GivenSplit, Split, split_codes
from segue.errors import SegueError
from segue.hdf5 import COMPRESSION, NewFile, Node, create_labels, new_file, open_file, reading, write_labels
from segue.labels import IGNORED

FORMAT = "segue dataset"
FORMAT_VERSION = 1
CHUNK_BYTES = 16 * 10**6
REQUIRED_COLUMNS = ("group", "source", "y_px", "x_px")


def write_part(path: Path, part: GroupTiles) -> None:
    """Writes a group's part file, appearing at `path` only when whole; raises ValueError for arrays that disagree."""
    _check_part(part)
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


def merge_parts(
    parts: Sequence[Path],
    out: Path,
    *,
    layers: Sequence[Layer],
    channels: Sequence[str],
    attributes: Mapping[str, str | int | float],
    splits: Mapping[str, Split],
    chunk: int = 1000,
) -> None:
    """Writes the dataset `out` from part files, in their order; `out` appears only when whole.

    Images are stored in chunks of `chunk` tiles, or as many as fit 16 MB, and are not compressed; labels are (gzip 1).
    Memory: two chunks of each array and the largest part's micrograph. Raises SegueError when parts disagree in shape
    or type, hold a class that the layer does not name, or when the disk refuses.
    """
    if not parts:
        raise SegueError(f"{out}: there is nothing to assemble; give at least one group with a tile.")
    plan = _check_parts(parts, out, layers, channels)
    with new_file(out) as new:
        file = new.file
        write_header(file, channels, attributes)
        writers = _create(file, plan, layers, chunk)
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
        samples = {column: np.concatenate(values) for column, values in columns.items()}
        for column, values in samples.items():
            write_column(file, column, values)
        for name, split in splits.items():
            write_split(file, name, split, samples, context=str(out))


@dataclass
class _Rows:
    """Collects rows of one array and writes them by whole chunks, so that none is compressed twice."""

    dataset: Node
    rows: int
    waiting: list[np.ndarray]
    written: int = 0

    def add(self, block: np.ndarray) -> None:
        while len(block):
            room = self.rows - sum(map(len, self.waiting))
            self.waiting.append(block[:room])
            block = block[room:]
            if room <= len(self.waiting[-1]):
                self.flush()

    def flush(self) -> None:
        if self.waiting:
            whole = np.concatenate(self.waiting)
            self.dataset[self.written : self.written + len(whole)] = whole
            self.written += len(whole)
            self.waiting = []


@dataclass(frozen=True)
class _Counts:
    """Counts the values of a class layer per tile while its labels pass by; ignored pixels count nowhere."""

    rows: _Rows
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
        flat = np.bincount((labels + (tile + 1)).ravel(), minlength=len(labels) * (classes + 1))
        self.rows.add(flat.reshape(len(labels), classes + 1)[:, 1:])

    def flush(self) -> None:
        self.rows.flush()


@dataclass(frozen=True)
class _Plan:
    count: int
    shapes: dict[str, tuple[int, ...]]  # array under tiles/ -> shape of one row
    types: dict[str, np.dtype]


def _check_parts(parts: Sequence[Path], out: Path, layers: Sequence[Layer], channels: Sequence[str]) -> _Plan:
    """Returns the total count and the row shapes; raises SegueError where two parts disagree."""
    names = ["images", *(f"labels/{layer.name}" for layer in layers), "valid", "intensity"]
    count, first, columns = 0, None, set()
    sources: set[str] = set()
    for path in parts:
        with open_file(path) as file, reading(path):
            found = {name: _row_kind(name, file["tiles"][name]) for name in names}
            first, columns = first or found, columns or set(file["samples"])
            for name in names:
                if found[name] != first[name]:
                    raise SegueError(
                        f"{path}: {name} are {_shown(found[name])}, but {_shown(first[name])} in {parts[0].name}; "
                        f"the tiles of a dataset share one shape, type and number of channels."
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
    assert first is not None
    if first["images"][0][0] != len(channels):
        raise SegueError(f"{out}: the images have {first['images'][0][0]} channels, but {len(channels)} are named.")
    return _Plan(count, {n: f[0] for n, f in first.items()}, {n: f[1] for n, f in first.items()})


def _row_kind(name: str, dataset: Node) -> tuple[tuple[int, ...], np.dtype]:
    return dataset.shape[1:], np.dtype(np.int32) if name.startswith("labels/") else dataset.dtype


def _create(file: Node, plan: _Plan, layers: Sequence[Layer], chunk: int) -> dict[str, _Rows | _Counts]:
    tiles = file.create_group("tiles")
    writers: dict[str, _Rows | _Counts] = {}
    for name, shape in plan.shapes.items():
        full, dtype = (plan.count, *shape), plan.types[name]
        chunks = _chunks(full, dtype.itemsize, chunk)
        options = COMPRESSION if name.startswith("labels/") else {}
        writers[name] = _Rows(tiles.create_dataset(name, full, dtype, chunks=chunks, **options), chunks[0], [])
    for layer in layers:
        write_layer_attributes(tiles[f"labels/{layer.name}"], layer)
        if layer.kind == "classes":
            full = (plan.count, len(layer.names))
            counts = tiles.create_dataset(f"class_counts/{layer.name}", full, np.int64, chunks=_chunks(full, 8, 10**5))
            writers[f"class_counts/{layer.name}"] = _Counts(_Rows(counts, counts.chunks[0], []), layer)
    return writers


def _copy_rows(source: Node, writers: Mapping[str, _Rows | _Counts], new: NewFile) -> None:
    tiles = source["tiles"]
    for name, writer in writers.items():
        if isinstance(writer, _Rows):
            counter = writers.get(f"class_counts/{name.removeprefix('labels/')}") if "/" in name else None
            for start in range(0, tiles[name].shape[0], writer.rows):
                block = tiles[name][start : start + writer.rows].astype(writer.dataset.dtype, copy=False)
                writer.add(block)
                if counter is not None:
                    counter.add(block)
                new.check()


def write_header(file: Node, channels: Sequence[str], attributes: Mapping[str, str | int | float]) -> None:
    """Writes what tells a dataset from other files, the channels' names and further attributes."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    file.attrs["channels"] = np.array(list(channels), dtype=h5py.string_dtype())
    for name, value in attributes.items():
        file.attrs[name] = value


def write_layer_attributes(labels: Node, layer: Layer) -> None:
    """Writes a layer's kind and names beside its labels."""
    labels.attrs["kind"] = layer.kind
    labels.attrs["names"] = np.array(layer.names, dtype=h5py.string_dtype())


def write_column(file: Node, column: str, values: np.ndarray) -> None:
    """Writes samples/<column>: text, or numbers as int64 or float64."""
    if values.dtype.kind in "OU":
        file.create_dataset(f"samples/{column}", data=[str(value) for value in values], dtype=h5py.string_dtype())
    else:
        kind = np.float64 if values.dtype.kind == "f" else np.int64
        file.create_dataset(f"samples/{column}", data=values.astype(kind))


def read_column(dataset: Node) -> np.ndarray:
    return dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) is not None else dataset[()]


def write_micrograph(file: Node, source: str, image: np.ndarray, labels: Mapping[str, np.ndarray]) -> Node:
    """Returns the new group micrographs/<source> with the image (C, H, W) and its labels {layer: (H, W) int32}."""
    group = file.create_group(f"micrographs/{micrograph_key(source)}")
    group["image"] = image
    for layer, values in labels.items():
        write_labels(create_labels(group, f"labels/{layer}", values.shape, chunk=len(values)), values)
    return group


def _copy_micrographs(source: Node, new: NewFile) -> None:
    for key, group in source.get("micrographs", {}).items():
        labels = {layer: values[()] for layer, values in group.get("labels", {}).items()}
        write_micrograph(new.file, micrograph_name(key), group["image"][()], labels)
        new.check()


def write_split(file: Node, name: str, split: Split, samples: Mapping[str, np.ndarray], *, context: str) -> None:
    """Writes splits/<name> and how it was made; `samples` and `where` as in `division.codes`."""
    dataset = file.create_dataset(f"splits/{name}", data=split_codes(split, samples, context=context))
    if isinstance(split, GivenSplit):
        dataset.attrs["given"] = True
        return
    always = {key: getattr(split, key) for key in ("seed", "validation", "test")}
    for key, value in (always | split.model_dump(exclude_defaults=True)).items():
        dataset.attrs[key] = value


def micrograph_key(source: str) -> str:
    """Returns the source's name as one HDF5 name: a slash would open a group."""
    return source.replace("%", "%25").replace("/", "%2F") if source != "." else "%2E"


def micrograph_name(key: str) -> str:
    return key.replace("%2F", "/").replace("%2E", ".").replace("%25", "%")


def to_smallest_int(labels: np.ndarray) -> np.ndarray:
    """Returns labels in the smallest signed type that holds them."""
    highest = int(labels.max(initial=0))
    return labels.astype(np.int8 if highest < 2**7 else np.int16 if highest < 2**15 else np.int32)


def _chunks(shape: Sequence[int], itemsize: int, chunk: int) -> tuple[int, ...]:
    row_bytes = max(1, itemsize * int(np.prod(shape[1:])))
    most = max(1, min(shape[0], chunk, CHUNK_BYTES // row_bytes))
    pieces = -(-shape[0] // most)
    return (-(-shape[0] // pieces), *shape[1:])  # even chunks: a last one nearly empty takes the space of a full one


def _shown(found: tuple[tuple[int, ...], np.dtype]) -> str:
    return f"{' × '.join(map(str, found[0]))} {found[1]}"


def _check_part(part: GroupTiles) -> None:
    count, _, height, width = part.images.shape
    if part.images.dtype.kind not in "uif" or part.images.dtype.itemsize > 4:
        raise ValueError(f"images are {part.images.dtype}; allowed are integers up to 32 bits and float32")
    shapes = {
        "valid": (part.valid.shape, (count, 4)),
        "intensity": (part.intensity.shape, (count, part.images.shape[1], 2)),
        **{f"labels/{name}": (labels.shape, (count, height, width)) for name, labels in part.labels.items()},
        **{f"samples/{name}": (values.shape, (count,)) for name, values in part.samples.items()},
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise ValueError(f"{name} has shape {found}, expected {expected}")
    for name, labels in part.labels.items():
        if labels.dtype != np.int32 or int(labels.min(initial=0)) < IGNORED:
            raise ValueError(f"labels/{name} must be int32 and not below {IGNORED}")
    missing = [column for column in REQUIRED_COLUMNS if column not in part.samples]
    if missing:
        raise ValueError(f"samples lacks the column(s) {', '.join(missing)}")


@dataclass(frozen=True)
class Micrograph:
    """An image at its own size: image (C, H, W) in the acquired type, labels {layer: (H, W) int32}."""

    image: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GroupTiles:
    """What one group contributes to a dataset; all arrays are in memory, for a group is small.

    images (n, C, H, W) in the acquired type (integers up to 32 bit, float32); labels {layer: (n, H, W) int32};
    valid (n, 4) int32, the box y0, x0, y1, x1 that is not padding; intensity (n, C, 2) float32, mean and standard
    deviation of the whole micrograph that the tile was cut from; samples {column: (n,)} of str, int64 or float64,
    with at least group, source, y_px, x_px; micrographs {source: Micrograph}, empty where whole images are not kept.
    """

    images: np.ndarray
    labels: Mapping[str, np.ndarray]
    valid: np.ndarray
    intensity: np.ndarray
    samples: Mapping[str, np.ndarray]
    micrographs: Mapping[str, Micrograph] = field(default_factory=dict)
