"""The dataset: one HDF5 file of tiles, labels, sample rows, whole micrographs and splits, readable by plain h5py.

tiles/images (N, C, H, W)              acquired type
tiles/labels/<layer> (N, H, W)         int32; 0 background, -1 ignored; attributes kind and names
tiles/valid (N, 4)                     y0, x0, y1, x1: the box that is not padding
tiles/intensity (N, C, 2)              mean and standard deviation of the whole micrograph
tiles/class_counts/<layer> (N, K)      pixels of each class
samples/<column> (N,)                  group, source, y_px, x_px, conditions
micrographs/<source>/{image, labels/<layer>}
splits/<name> (N,)                     0 train, 1 validation, 2 test
attributes                             format, format_version, channels, pixel_size_nm, provenance (JSON)

The consistency of the arrays is checked on opening, so that a damaged file gives one clear error.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from segue.data import splits
from segue.data.spec import Layer, SplitSpec
from segue.data.splits import Neighbors
from segue.data.writer import (
    FORMAT,
    FORMAT_VERSION,
    REQUIRED_COLUMNS,
    Micrograph,
    micrograph_key,
    micrograph_name,
    read_column,
)
from segue.errors import SegueError
from segue.hdf5 import Node, open_file, reading
from segue.spec import unknown

REMEDY = "the file is damaged: copy it again or make it again."
LABEL_CACHE_BYTES = 64 * 2**20


class Dataset:
    """A dataset opened for reading; close it, or use it in a `with` block. Never share it across processes."""

    def __init__(self, path: Path | str) -> None:
        """Opens `path`; raises SegueError when it is missing, not HDF5, truncated, damaged, foreign or too new."""
        self.path = Path(path)
        self._process = os.getpid()
        self._file = open_file(self.path)
        try:
            with reading(self.path):
                self._read_header()
        except SegueError:
            self._file.close()
            raise
        except (KeyError, TypeError, ValueError) as error:
            self._file.close()
            raise SegueError(
                f"{self.path}: is not a complete segue dataset ({error}); copy it again or make it again."
            ) from error

    def _read_header(self) -> None:
        attributes = {name: _plain(value) for name, value in self._file.attrs.items()}
        if attributes.pop("format", None) != FORMAT or "tiles/images" not in self._file:
            raise SegueError(
                f"{self.path}: is an HDF5 file but not a segue dataset (no format attribute and tiles/images); "
                "make one with `segue prepare` or `segue simulate`."
            )
        version = int(attributes["format_version"])
        if version > FORMAT_VERSION:
            raise SegueError(
                f"{self.path}: has dataset format {version}, this segue reads up to {FORMAT_VERSION}; upgrade segue."
            )
        check_arrays(self.path, self._file)
        self._images = _uncached(self._file, "tiles/images")
        labeled = self._file.get("tiles/labels", ())
        self._labels = {name: _cached(self._file, f"tiles/labels/{name}") for name in labeled}
        self.count: int = self._images.shape[0]
        self.tile_shape: tuple[int, int, int] = self._images.shape[1:]
        self.dtype: np.dtype = self._images.dtype
        self.channels: tuple[str, ...] = tuple(attributes.pop("channels"))
        self.attributes: dict[str, Any] = attributes
        self.layers: dict[str, Layer] = {
            name: Layer(name, _plain(labels.attrs["kind"]), tuple(_plain(labels.attrs["names"])))
            for name, labels in self._labels.items()
        }
        check_counts(self.path, self._file, self.layers.values())
        self._samples: dict[str, np.ndarray] | None = None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def samples(self) -> dict[str, np.ndarray]:
        """Returns all columns, each (N,): text as objects of str, numbers as int64 or float64."""
        if self._samples is None:
            with reading(self.path):
                self._samples = {name: read_column(values) for name, values in self._opened()["samples"].items()}
        return dict(self._samples)

    def select(self, conditions: Mapping[str, Any]) -> np.ndarray:
        """Returns the sorted indices of the samples that meet every condition; {} selects all.

        A condition is a value, a list of values, or a range {"min": …, "max": …} (one of them may be left out; both
        ends belong to it). Raises SegueError for an unknown column and for a value that no sample has.
        """
        if not self.count:
            raise SegueError(
                f"{self.path}: holds no tiles, only images of unstained wells, for prediction (`segue count`, "
                "`segue.predict`); to train or score, give a dataset with stained wells."
            )
        columns = self.samples()
        mask = np.ones(self.count, dtype=bool)
        for name, condition in conditions.items():
            if name not in columns:
                raise SegueError(f"{self.path}: {unknown(name, columns, 'condition')}.")
            mask &= _matches(f"{self.path}: condition '{name}'", columns[name], condition)
        if not mask.any():
            listed = ", ".join(f"{name} = {condition}" for name, condition in conditions.items())
            raise SegueError(f"{self.path}: no sample meets all of {listed}; each is met alone: relax one of them.")
        return np.flatnonzero(mask)

    def split(self, split: SplitSpec) -> np.ndarray:
        """Returns (N,) uint8: 0 train, 1 validation, 2 test, of a stored split or by `splits.split_codes`."""
        if split.stored is None:
            return splits.split_codes(split, self.samples(), context=str(self.path))
        return self.split_codes(split.stored)

    def split_id(self, split: SplitSpec) -> str:
        """Returns the identifier of a split that divides groups, "" for others: `splits.split_id`."""
        return splits.split_id(self.resolve_split(split), self.samples())

    def resolve_split(self, split: SplitSpec) -> SplitSpec:
        """Returns the split by which a stored one was made, if that is recorded; any other split itself."""
        if split.stored is None or split.stored not in self.split_names():
            return split
        attributes = self.split_attributes(split.stored)
        settings = {key: value for key, value in attributes.items() if key in SplitSpec.model_fields}
        return SplitSpec.model_validate(settings) if settings else split

    def neighbors(self, training: np.ndarray, validation: np.ndarray) -> Neighbors:
        """Returns the number of neighboring tiles across the border of two sets of samples: `splits.neighbors`."""
        shape = (self.tile_shape[1], self.tile_shape[2])
        return splits.neighbors(self.samples(), shape, training=training, validation=validation)

    def split_codes(self, name: str) -> np.ndarray:
        """Returns the (N,) uint8 codes of the stored split `name`."""
        if not self.split_names():
            raise SegueError(
                f"{self.path}: has no split '{name}': the dataset stores no split; use seed, validation and test."
            )
        if name not in self.split_names():
            raise SegueError(f"{self.path}: {unknown(name, self.split_names(), 'stored split')}.")
        return self._opened()[f"splits/{name}"][()]

    def split_names(self) -> tuple[str, ...]:
        return tuple(self._opened().get("splits", ()))

    def split_attributes(self, name: str) -> dict[str, Any]:
        """Returns how the stored split was made: seed, validation and test, or given = True."""
        return {key: _plain(value) for key, value in self._opened()[f"splits/{name}"].attrs.items()}

    def read(self, indices: np.ndarray, *, layer: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns images (n, C, H, W) in the acquired type and labels (n, H, W) int32, or None without a layer.

        Indices in any order, repeats allowed; runs of neighbors are read at once, and sorted order is fastest.
        """
        self._opened()
        if layer is not None and layer not in self._labels:
            raise SegueError(f"{self.path}: {unknown(layer, self._labels, 'label layer')}.")
        with reading(self.path):
            images = _read_rows(self._images, indices)
            return images, None if layer is None else _read_rows(self._labels[layer], indices)

    def valid(self, indices: np.ndarray) -> np.ndarray:
        """Returns (n, 4) int32: the box y0, x0, y1, x1 of each tile that is not padding."""
        return self._opened()["tiles/valid"][()][indices]

    def intensity(self, indices: np.ndarray) -> np.ndarray:
        """Returns (n, C, 2) float32: mean and standard deviation of the micrograph each tile was cut from."""
        return self._opened()["tiles/intensity"][()][indices]

    def class_counts(self, layer: str) -> np.ndarray:
        """Returns (N, K) int64: the pixels of each class in each tile, without ignored ones."""
        if layer not in self.layers or self.layers[layer].kind != "classes":
            classes = [name for name, known in self.layers.items() if known.kind == "classes"]
            raise SegueError(f"{self.path}: {unknown(layer, classes, 'class layer')}.")
        return self._opened()[f"tiles/class_counts/{layer}"][()]

    def micrograph(self, source: str) -> Micrograph:
        """Returns the whole image (C, H, W) and its labels; raises SegueError if it is not stored."""
        group = self._opened().get(f"micrographs/{micrograph_key(source)}")
        if group is None:
            raise SegueError(
                f"{self.path}: holds no micrograph '{source}' ({len(self.micrograph_ids())} are kept); "
                "name one of them, or make the dataset with keep_micrographs = true."
            )
        with reading(self.path):
            return Micrograph(
                group["image"][()], {name: labels[()] for name, labels in group.get("labels", {}).items()}
            )

    def micrograph_attributes(self, source: str) -> dict[str, Any]:
        """Returns the attributes of a stored micrograph: of a mosaic plate, well, time, conditions …"""
        group = self._opened().get(f"micrographs/{micrograph_key(source)}")
        if group is None:
            raise SegueError(
                f"{self.path}: holds no micrograph '{source}' ({len(self.micrograph_ids())} are kept); name another."
            )
        return {name: _plain(value) for name, value in group.attrs.items()}

    def micrograph_layers(self, source: str) -> tuple[str, ...]:
        """Returns the names of a stored micrograph's label layers, without reading them; none if it is unlabeled."""
        return tuple(self._opened().get(f"micrographs/{micrograph_key(source)}/labels", ()))

    def micrograph_ids(self) -> tuple[str, ...]:
        """Returns the sources whose whole images are stored, sorted."""
        return tuple(sorted(micrograph_name(key) for key in self._opened().get("micrographs", ())))

    def _opened(self) -> Node:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.path}: opened in another process; an HDF5 handle must not be shared, open it again"
            )
        return self._file


def check_arrays(path: Path, file: Node) -> None:
    """Raises SegueError, naming the array, if one is missing or inconsistent with tiles/images (N, C, H, W)."""
    images = _array(path, file, "tiles/images")
    if images.ndim != 4 or not all(images.shape[1:]):
        raise SegueError(f"{path}: tiles/images is {_shape(images.shape)}, not N × C × H × W of tiles with pixels.")
    if not len(images) and not len(file.get("micrographs", ())):
        raise SegueError(f"{path}: holds neither tiles nor whole images; {REMEDY}")
    count, channels, height, width = images.shape
    _check(path, file, "tiles/valid", (count, 4))
    _check(path, file, "tiles/intensity", (count, channels, 2))
    for name in file.get("tiles/labels", ()):
        _check(path, file, f"tiles/labels/{name}", (count, height, width))
    for name in dict.fromkeys((*REQUIRED_COLUMNS, *file.get("samples", ()))):
        _check(path, file, f"samples/{name}", (count,))
    for name in file.get("splits", ()):
        _check(path, file, f"splits/{name}", (count,))


def check_counts(path: Path, file: Node, layers: Iterable[Layer]) -> None:
    """Raises SegueError if the stored class counts are inconsistent with the layers' names or the number of tiles."""
    count = file["tiles/images"].shape[0]
    for layer in layers:
        if layer.kind == "classes":
            _check(path, file, f"tiles/class_counts/{layer.name}", (count, len(layer.names)))


def _check(path: Path, file: Node, name: str, expected: tuple[int, ...]) -> None:
    shape = _array(path, file, name).shape
    if len(shape) == len(expected) and shape[1:] == expected[1:] and shape[0] != expected[0]:
        raise SegueError(f"{path}: {name} has length {shape[0]}, but tiles/images has length {expected[0]}; {REMEDY}")
    if shape != expected:
        raise SegueError(f"{path}: {name} is {_shape(shape)}, but must be {_shape(expected)} here; {REMEDY}")


def _array(path: Path, file: Node, name: str) -> Node:
    array = file.get(name)
    if not isinstance(array, h5py.Dataset):
        raise SegueError(f"{path}: the array {name} is missing; {REMEDY}")
    return array


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single value"


def _matches(context: str, values: np.ndarray, condition: Any) -> np.ndarray:
    if isinstance(condition, Mapping):
        return _in_range(context, values, condition)
    mask = np.zeros(len(values), dtype=bool)
    for value in condition if isinstance(condition, (list, tuple)) else [condition]:
        if isinstance(value, str) != (values.dtype.kind == "O"):
            same = np.zeros(len(values), dtype=bool)
        else:
            same = values == value if isinstance(value, str) else np.isclose(values, float(value), rtol=1e-9, atol=0)
        if not same.any():
            raise SegueError(f"{context}: no sample has {value!r}; found: {_present(values)}.")
        mask |= same
    return mask


def _in_range(context: str, values: np.ndarray, limits: Mapping[str, Any]) -> np.ndarray:
    odd = set(limits) - {"min", "max"}
    if odd or not limits or values.dtype.kind == "O":
        raise SegueError(
            f"{context}: {dict(limits)} is not a range for values such as {_present(values)}; "
            "give a value, a list, or for numbers { min = …, max = … }."
        )
    mask = (values >= limits.get("min", -np.inf)) & (values <= limits.get("max", np.inf))
    if not mask.any():
        raise SegueError(f"{context}: no sample lies in {dict(limits)}; found: {_present(values)}.")
    return mask


def _present(values: np.ndarray) -> str:
    texts = [str(value) for value in np.unique(values)]
    return ", ".join(texts) if len(texts) <= 12 else f"{', '.join(texts[:6])}, … {texts[-1]} ({len(texts)} values)"


def _read_rows(dataset: Node, indices: np.ndarray) -> np.ndarray:
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < dataset.shape[0]):
        raise IndexError(f"indices reach from {indices.min()} to {indices.max()}, the dataset holds {dataset.shape[0]}")
    order, inverse = np.unique(indices, return_inverse=True)
    rows = np.empty((len(order), *dataset.shape[1:]), dtype=dataset.dtype)
    ends = np.flatnonzero(np.diff(order, append=-1) != 1) + 1
    start = 0
    for end in ends:
        dataset.read_direct(rows, np.s_[order[start] : order[end - 1] + 1], np.s_[start:end])
        start = end
    return rows if np.array_equal(order, indices) else rows[inverse]


def _uncached(file: Node, name: str) -> Node:
    """Opens an uncompressed array so that reading one row reads that row, not its whole chunk."""
    return _with_cache(file, name, 0)


def _cached(file: Node, name: str) -> Node:
    """Opens a compressed array so that rows in sorted order decompress each chunk once, however large it is."""
    return _with_cache(file, name, max(LABEL_CACHE_BYTES, _chunk_bytes(file[name])))


def _chunk_bytes(dataset: Node) -> int:
    """Returns the bytes of a chunk in memory; the caller must release `dataset` before opening it with a cache."""
    return math.prod(dataset.chunks or ()) * dataset.dtype.itemsize


def _with_cache(file: Node, name: str, size: int) -> Node:
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(521, size, 0.75)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _plain(value: Any) -> Any:
    """Returns an attribute as a plain Python value: str, int, float, bool or a list of them."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
