"""The dataset: one HDF5 file of tiles, labels, sample rows, whole micrographs and splits, readable by plain h5py.

tiles/images (N, C, H, W)              acquired type: integers up to 32 bits, float32
tiles/labels/<layer> (N, H, W)         int32; 0 background, -1 ignored; attributes kind and names
tiles/valid (N, 4)                     y0, x0, y1, x1: the box that is not padding
tiles/intensity (N, C, 4)              mean and standard deviation, background level and scale of the whole micrograph
                                       (in files of format 1 the first two)
tiles/class_counts/<layer> (N, K)      pixels of each class
samples/<column> (N,)                  group, source, y_px, x_px, conditions
micrographs/<source>/{image, labels/<layer>}
splits/<name> (N,)                     0 train, 1 validation, 2 test
attributes                             format, format_version, channels, pixel_size_nm, provenance (JSON)

Members, shapes, types and sizes are checked on opening, before memory is taken; values when they are read, and against
their checksums (`hdf5`): a damaged file gives one clear error. Links and values in other files are refused.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import h5py
import numpy as np

from segue.data import splits
from segue.data.spec import NOT_STATED, Layer, SplitSpec
from segue.data.splits import Neighbors, PartName
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
from segue.formatting import format_bytes
from segue.hdf5 import CheckedRows, Node, open_file, reading, require_stored_inside
from segue.labels import IGNORED
from segue.spec import unknown

REMEDY = "the file is damaged: copy it again or make it again."
LABEL_CACHE_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 2**30  # of a chunk of labels of tiles, which is read as a whole
POSITION_COLUMNS = ("y_px", "x_px")

# what the arrays may hold: NumPy's codes of types, without byte order, and how these are called in an error
Allowed = tuple[frozenset[str], str]
_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}
IMAGES: Allowed = (frozenset({"i1", "u1", "i2", "u2", "i4", "u4", "f4"}), "integers of up to 32 bits or float32")
INTEGERS: Allowed = (frozenset(_INTEGERS), "integers")
LABELS: Allowed = (frozenset({"i1", "i2", "i4"}), "integers of up to 32 bits with a sign")
FLOATS: Allowed = (frozenset({"f4", "f8"}), "float32 or float64")
TEXT: Allowed = (frozenset({"text"}), "text")
NUMBERS_OR_TEXT: Allowed = (frozenset({*_INTEGERS, "f4", "f8", "text"}), "numbers or text")
COLUMNS = {"group": TEXT, "source": TEXT, "y_px": INTEGERS, "x_px": INTEGERS, "pixel_size_nm": FLOATS}


class Dataset:
    """A dataset opened for reading; close it, or use it in a `with` block. Never share it across processes."""

    def __init__(self, path: Path | str) -> None:
        """Opens `path`; raises SegueError when it is missing, not HDF5, truncated, damaged, foreign or too new."""
        self.path = Path(path)
        self._process = os.getpid()
        self._file = open_file(self.path)
        self._rows: CheckedRows | None = None
        try:
            with _intact(self.path):
                self._read_header()
        except SegueError:
            self.close()
            raise

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
        self._micrographs: Node = self._file.get("micrographs", {})
        self._images = _uncached(self._file, "tiles/images")
        labeled = self._file.get("tiles/labels", ())
        self._labels = {name: _cached(self._file, f"tiles/labels/{name}") for name in labeled}
        self.count: int = self._images.shape[0]
        self.tile_shape: tuple[int, int, int] = self._images.shape[1:]
        self.dtype: np.dtype = self._images.dtype
        self.channels: tuple[str, ...] = _names("channels", attributes.pop("channels"), count=self.tile_shape[0])
        self.attributes: dict[str, Any] = attributes
        self.layers: dict[str, Layer] = {
            name: Layer(name, _kind(name, labels), _names(f"names of layer '{name}'", _plain(labels.attrs["names"])))
            for name, labels in self._labels.items()
        }
        check_counts(self.path, self._file, self.layers.values())
        self._samples: dict[str, np.ndarray] | None = None
        if CheckedRows.fits(self._images):
            self._rows = CheckedRows(self.path, self._images)

    @property
    def has_checksums(self) -> bool:
        """Whether damage of its pixels would be seen: False for files made before segue wrote checksums."""
        return bool(self._images.fletcher32)

    @property
    def license(self) -> str:
        """The license of the images as the provenance states it, "not stated" where it does not."""
        try:
            provenance = json.loads(str(self.attributes.get("provenance", "")))
        except (ValueError, RecursionError):  # no JSON, or nested too deeply
            return NOT_STATED
        license = provenance.get("licence") if isinstance(provenance, dict) else None
        return license if isinstance(license, str) and license else NOT_STATED

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def samples(self) -> dict[str, np.ndarray]:
        """Returns all columns, each (N,): text as objects of str, numbers as int64 or float64."""
        if self._samples is None:
            with _intact(self.path):
                samples = {name: read_column(values) for name, values in self._opened()["samples"].items()}
            for name in POSITION_COLUMNS:
                self._require(samples[name].min(initial=0) >= 0, f"samples/{name} holds negative positions")
            self._samples = samples
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
        with _intact(self.path):
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
        codes = self._values(f"splits/{name}")
        parts = len(get_args(PartName))
        self._require(not len(codes) or codes.max() < parts, f"splits/{name} holds other numbers than 0 to {parts - 1}")
        return codes

    def split_names(self) -> tuple[str, ...]:
        return tuple(self._opened().get("splits", ()))

    def split_attributes(self, name: str) -> dict[str, Any]:
        """Returns how the stored split was made: seed, validation and test, or given = True."""
        with _intact(self.path):
            return {key: _plain(value) for key, value in self._opened()[f"splits/{name}"].attrs.items()}

    def read(self, indices: np.ndarray, *, layer: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns images (n, C, H, W) in the acquired type and labels (n, H, W) int32, or None without a layer.

        Indices in any order, repeats allowed; runs of neighbors are read at once, and sorted order is fastest. Raises
        SegueError where a checksum does not match, and for classes without a name.
        """
        self._opened()
        if layer is not None and layer not in self._labels:
            raise SegueError(f"{self.path}: {unknown(layer, self._labels, 'label layer')}.")
        with reading(self.path):
            images = _read_rows(self._images, indices, self._rows)
            labels = None if layer is None else _read_rows(self._labels[layer], indices)
        if layer is not None and labels is not None:
            self.require_labels(self.layers[layer], labels)
        return images, labels

    def require_labels(self, layer: Layer, labels: np.ndarray) -> None:
        """Raises SegueError where labels, of any shape, are below -1, or classes that the layer does not name."""
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        most = len(layer.names) - 1 if layer.kind == "classes" else highest
        if lowest < IGNORED or highest > most:
            value = lowest if lowest < IGNORED else highest
            names = f", the classes {', '.join(layer.names)}" if layer.kind == "classes" else ""
            raise SegueError(
                f"{self.path}: layer '{layer.name}' holds the value {value}; allowed are {IGNORED} (ignored) and "
                f"{f'0 to {most}' if layer.kind == 'classes' else '0 or more'}{names}; {REMEDY}"
            )

    def valid(self, indices: np.ndarray) -> np.ndarray:
        """Returns (n, 4) int32: the box y0, x0, y1, x1 of each tile that is not padding."""
        boxes = self._values("tiles/valid")
        low, high = boxes[:, :2], boxes[:, 2:]
        is_inside = (low >= 0).all() and (low < high).all() and (high <= self.tile_shape[1:]).all()
        self._require(is_inside, f"tiles/valid holds boxes y0, x0, y1, x1 outside of {_shape(self.tile_shape[1:])} px")
        return boxes[indices]

    def intensity(self, indices: np.ndarray) -> np.ndarray:
        """Returns (n, C, 4) float32: `image_statistics` of the micrograph each tile was cut from; of files of format 1
        the first two, mean and standard deviation."""
        intensity = self._values("tiles/intensity")
        self._require(not (intensity[..., 1::2] < 0).any(), "tiles/intensity holds negative deviations or scales")
        return intensity[indices]

    def class_counts(self, layer: str) -> np.ndarray:
        """Returns (N, K) int64: the pixels of each class in each tile, without ignored ones."""
        if layer not in self.layers or self.layers[layer].kind != "classes":
            classes = [name for name, known in self.layers.items() if known.kind == "classes"]
            raise SegueError(f"{self.path}: {unknown(layer, classes, 'class layer')}.")
        name = f"tiles/class_counts/{layer}"
        counts, pixels = self._values(name), math.prod(self.tile_shape[1:])
        is_possible = counts.min(initial=0) >= 0 and counts.max(initial=0) <= pixels and (counts.sum(1) <= pixels).all()
        self._require(is_possible, f"{name} holds numbers of pixels that no tile of {pixels} px has")
        return counts

    def micrograph(self, source: str) -> Micrograph:
        """Returns the whole image (C, H, W) and its labels; raises SegueError if it is not stored."""
        with _intact(self.path):
            group = self._micrograph(source)
            labels = {name: labels[()] for name, labels in group.get("labels", {}).items()}
            micrograph = Micrograph(group["image"][()], labels)
        for name, values in labels.items():
            self.require_labels(self.layers[name], values)
        return micrograph

    def micrograph_attributes(self, source: str) -> dict[str, Any]:
        """Returns the attributes of a stored micrograph: of a mosaic plate, well, time, conditions …"""
        with _intact(self.path):
            return {name: _plain(value) for name, value in self._micrograph(source).attrs.items()}

    def micrograph_layers(self, source: str) -> tuple[str, ...]:
        """Returns the names of a stored micrograph's label layers, without reading them; none if it is unlabeled."""
        if micrograph_key(source) not in self._micrographs:
            return ()
        with _intact(self.path):
            return tuple(self._micrograph(source).get("labels", ()))

    def micrograph_ids(self) -> tuple[str, ...]:
        """Returns the sources whose whole images are stored, sorted."""
        self._opened()
        return tuple(sorted(map(micrograph_name, self._micrographs)))

    def _micrograph(self, source: str) -> Node:
        """Returns the group of a micrograph, its members checked against the dataset's; raises SegueError without."""
        self._opened()
        key = micrograph_key(source)
        if key not in self._micrographs:
            raise SegueError(
                f"{self.path}: holds no micrograph '{source}' ({len(self._micrographs)} are kept); "
                "name one of them, or make the dataset with keep_micrographs = true."
            )
        name = f"micrographs/{key}"
        members = _group(self.path, self._file, name)
        image = _array(self.path, self._file, f"{name}/image")
        channels = self.tile_shape[0]
        if image.ndim != 3 or image.shape[0] != channels or not all(image.shape):
            raise SegueError(f"{self.path}: {name}/image is {_shape(image.shape)}, not {channels} × H × W; {REMEDY}")
        _check(self.path, self._file, f"{name}/image", image.shape, IMAGES)
        for layer in _group(self.path, self._file, f"{name}/labels") if "labels" in members else ():
            if layer not in self.layers:
                raise SegueError(f"{self.path}: {name}: {unknown(layer, self.layers, 'label layer')}; {REMEDY}")
            _check(self.path, self._file, f"{name}/labels/{layer}", image.shape[1:], LABELS)
        return members

    def _values(self, name: str) -> np.ndarray:
        """Returns a whole array of the file."""
        with _intact(self.path):
            return self._opened()[name][()]

    def _require(self, condition: bool | np.bool, problem: str) -> None:
        if not condition:
            raise SegueError(f"{self.path}: {problem}; {REMEDY}")

    def _opened(self) -> Node:
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.path}: opened in another process; an HDF5 handle must not be shared, open it again"
            )
        return self._file


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Turns what the members of a damaged file raise when they are read as those of a dataset into a SegueError."""
    try:
        with reading(path):
            yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SegueError(f"{path}: is not a complete segue dataset ({reason}); {REMEDY}") from error


def check_arrays(path: Path, file: Node) -> None:
    """Raises SegueError, naming the array, if one is missing, of another type, or inconsistent with tiles/images
    (N, C, H, W)."""
    images = _array(path, file, "tiles/images")
    if images.ndim != 4 or not all(images.shape[1:]):
        raise SegueError(f"{path}: tiles/images is {_shape(images.shape)}, not N × C × H × W of tiles with pixels.")
    groups = {name: _group(path, file, name) for name in ("tiles/labels", "samples", "splits", "micrographs")}
    if not len(images) and not len(groups["micrographs"]):
        raise SegueError(f"{path}: holds neither tiles nor whole images; {REMEDY}")
    count, channels, height, width = images.shape
    _check(path, file, "tiles/images", images.shape, IMAGES)
    _check(path, file, "tiles/valid", (count, 4), INTEGERS)
    statistics = 4 if int(file.attrs.get("format_version", 1)) > 1 else 2
    _check(path, file, "tiles/intensity", (count, channels, statistics), FLOATS)
    for name in groups["tiles/labels"]:
        _check(path, file, f"tiles/labels/{name}", (count, height, width), LABELS)
    for name in dict.fromkeys((*REQUIRED_COLUMNS, *groups["samples"])):
        allowed = COLUMNS.get(name, NUMBERS_OR_TEXT)
        _check(path, file, f"samples/{name}", (count,), allowed)
    for name in groups["splits"]:
        _check(path, file, f"splits/{name}", (count,), INTEGERS)


def check_counts(path: Path, file: Node, layers: Iterable[Layer]) -> None:
    """Raises SegueError if the stored class counts are inconsistent with the layers' names or the number of tiles."""
    count = file["tiles/images"].shape[0]
    for layer in layers:
        if layer.kind == "classes":
            _check(path, file, f"tiles/class_counts/{layer.name}", (count, len(layer.names)), INTEGERS)


def _check(path: Path, file: Node, name: str, expected: tuple[int, ...], allowed: Allowed) -> None:
    """Raises SegueError unless an array has the expected shape and type, and all of its values in the file."""
    array = _array(path, file, name)
    shape = array.shape
    rows_differ = len(shape) == len(expected) and shape[1:] == expected[1:] and shape[0] != expected[0]
    if rows_differ and not name.startswith("micrographs/"):
        raise SegueError(f"{path}: {name} has length {shape[0]}, but tiles/images has length {expected[0]}; {REMEDY}")
    if shape != expected:
        raise SegueError(f"{path}: {name} is {_shape(shape)}, but must be {_shape(expected)} here; {REMEDY}")
    types, description = allowed
    is_text = h5py.check_string_dtype(array.dtype) is not None
    if ("text" if is_text else array.dtype.str[1:]) not in types:
        raise SegueError(f"{path}: {name} holds {array.dtype}, but must hold {description}; {REMEDY}")
    require_stored_inside(path, array)
    if name.startswith("tiles/labels/") and _chunk_bytes(array) > MAX_CHUNK_BYTES:
        raise SegueError(
            f"{path}: {name} has chunks of {format_bytes(_chunk_bytes(array))}, each of which is read as a whole; "
            f"allowed are {format_bytes(MAX_CHUNK_BYTES)}; store it in smaller chunks (h5repack)."
        )


def _array(path: Path, file: Node, name: str) -> Node:
    array = file.get(name)
    if not isinstance(array, h5py.Dataset):
        raise SegueError(f"{path}: the array {name} is missing; {REMEDY}")
    return array


def _group(path: Path, file: Node, name: str) -> Node:
    """Returns a group of the file, an empty one where it is missing."""
    group = file.get(name, {})
    if not isinstance(group, (h5py.Group, dict)):
        raise SegueError(f"{path}: {name} is an array, but must be a group; {REMEDY}")
    return group


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


def _read_rows(dataset: Node, indices: np.ndarray, checked: CheckedRows | None = None) -> np.ndarray:
    """Returns rows of an array in the order of `indices`; `checked` reads those of an array with checksums."""
    indices = np.asarray(indices, dtype=np.int64)
    if indices.size and not (indices.min() >= 0 and indices.max() < dataset.shape[0]):
        raise IndexError(f"indices reach from {indices.min()} to {indices.max()}, the dataset holds {dataset.shape[0]}")
    order, inverse = np.unique(indices, return_inverse=True)
    rows = np.empty((len(order), *dataset.shape[1:]), dtype=dataset.dtype)
    ends = np.flatnonzero(np.diff(order, append=-1) != 1) + 1
    start = 0
    for end in ends:
        if checked is not None:
            checked.read_into(rows[start:end], int(order[start]))
        else:
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


def _names(what: str, names: Any, count: int | None = None) -> tuple[str, ...]:
    """Returns an attribute that lists names; raises ValueError if it holds anything else, or not `count` of them."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: found {names!r}, which are no names")
    if count is not None and len(names) != count:
        raise ValueError(f"{what}: found {len(names)}, but the images have {count}")
    return tuple(names)


def _kind(layer: str, labels: Node) -> Literal["classes", "instances"]:
    kind = _plain(labels.attrs["kind"])
    if kind not in ("classes", "instances"):
        raise ValueError(f"layer '{layer}' has the kind {kind!r}; allowed are classes and instances")
    return kind


def _plain(value: Any) -> Any:
    """Returns an attribute as a plain Python value: str, int, float, bool or a list of them."""
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
