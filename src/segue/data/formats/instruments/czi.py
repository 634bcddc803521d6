"""Zeiss CZI: tiles of full resolution are composed to images; pyramids are left out.

The package czifile finds the tiles: version 2019 (Python 3.11) and those from 2026 on (Python 3.12 and later), whose
classes differ. Tiles are decoded here for both, since 2019's leaves out Zstandard, in which ZEN writes since 2021.
"""

from __future__ import annotations

import itertools
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np

from segue.data.formats.instruments.planes import (
    Index,
    Planes,
    checked_dtype,
    lazy_reader,
    plane_index,
    refuse_several,
)
from segue.data.formats.stack import Stack, UnsupportedError
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

# axes of a stack (see `Stack`) by dimension; "S" (scene) and "M" (tile of a mosaic) are none
AXES = {"Z": "Z", "C": "C", "T": "T", "R": "A", "I": "I", "H": "H", "V": "V", "B": "B"}
UNCOMPRESSED, JPEG, LZW, JPEG_XR, ZSTD, ZSTD_PACKED = 0, 1, 2, 4, 5, 6  # values of compression
MAX_RATIO = 10_000  # of compression: of a black image
MAX_GAPS = 0.99  # fraction of a mosaic without tiles; beyond, places of tiles are damaged
FILE_PART_OFFSET = 80  # in the header, of an int32


@dataclass(frozen=True)
class Tile:
    """A rectangle of pixels: its number in the file's directory, how it is stored, and (start, size, stored size) by
    dimension.
    """

    number: int
    dimensions: Mapping[str, tuple[int, int, int]]
    dtype: np.dtype
    samples: int
    compression: int
    file_part: int

    def start(self, name: str) -> int:
        return self.dimensions.get(name, (0, 1, 1))[0]

    def size(self, name: str) -> int:
        return self.dimensions.get(name, (0, 1, 1))[1]

    @property
    def bytes(self) -> int:
        """How many its pixels are, uncompressed."""
        return self.size("Y") * self.size("X") * self.samples * self.dtype.itemsize

    @property
    def is_full(self) -> bool:
        """Whether it has full resolution."""
        return all(size == stored for _, size, stored in self.dimensions.values())


@dataclass(frozen=True)
class _Layout:
    """Where tiles lie: the axes with their values, ascending, and the (y, x) of the image's upper left corner."""

    tiles: tuple[Tile, ...]
    values: Mapping[str, list[int]]
    origin: tuple[int, int]
    size: tuple[int, int]


def read_czi(path: Path, labels: bool) -> Stack:
    """Returns the image of a CZI of one scene; raises SegueError for several scenes, and for one of several files."""
    with path.open("rb") as file:
        start = file.read(FILE_PART_OFFSET + 4)
    if start[:10] != b"ZISRAWFILE":
        raise EOFError("it does not begin as a CZI")
    if struct.unpack_from("<i", start, FILE_PART_OFFSET)[0]:
        raise SegueError(f"{path}: is one of several files of one CZI; save its images as one file.")
    with _open(path) as czi:
        tiles = [tile for tile in itertools.starmap(_tile, enumerate(czi.subblock_directory)) if tile.is_full]
        try:
            root = ElementTree.fromstring(czi.metadata() or "<ImageDocument/>")
        except (ElementTree.ParseError, UnicodeDecodeError):
            root = ElementTree.Element("ImageDocument")
    if not tiles:
        raise EOFError("it has no image")
    _refuse(path, tiles, root, labels)
    file_bytes = path.stat().st_size
    if any(tile.bytes > file_bytes * (1 if tile.compression == UNCOMPRESSED else MAX_RATIO) for tile in tiles):
        raise EOFError("its tiles are larger than the file")
    layout = _layout(tiles)
    colors = tiles[0].samples
    dtype = checked_dtype(path, np.result_type(*{tile.dtype for tile in tiles}))
    axes = "".join(AXES[name] for name in layout.values) + "YX" + ("S" if colors > 1 else "")
    shape = (*map(len, layout.values.values()), *layout.size, *((3,) if colors > 1 else ()))
    notes = _check_planes(path, layout)
    names = [channel.get("Name") for channel in root.iterfind(".//Image/Dimensions/Channels/Channel")]
    channels = tuple(str(name) for name in names) if all(names) and len(names) == len(layout.values["C"]) else None
    sizes = (pixel_size_nm(root.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value"), "m") for axis in "XY")
    size_nm, size_notes = square_pixel_nm(*sizes)
    pixels = Planes(shape, dtype, lambda index: _read(path, layout, shape, dtype, index))
    return Stack(pixels, axes, size_nm, channels, (*notes, *size_notes))


def _open(path: Path) -> Any:
    import czifile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of segments that are missing: what is needed of them is checked
        return czifile.CziFile(str(path))


def _tile(number: int, entry: Any) -> Tile:
    if hasattr(entry, "dimension_entries"):  # czifile 2019
        dimensions = {one.dimension: (one.start, one.size, one.stored_size) for one in entry.dimension_entries}
        dtype = np.dtype(str(entry.dtype).replace("F8", "c8"))  # its name of complex numbers
        return Tile(number, dimensions, dtype.base, (*dtype.shape, 1)[0], int(entry.compression), entry.file_part)
    lengths = zip(entry.start, entry.shape, entry.stored_shape, strict=True)
    dimensions = {name: one for name, one in zip(entry.dims, lengths, strict=True) if name != "S"}  # of samples
    for name, index in (("S", entry.scene_index), ("M", entry.mosaic_index)):
        if index >= 0:
            dimensions[name] = (index, 1, 1)
    kind = entry.pixel_type
    compression = int(entry.compression)
    return Tile(number, dimensions, np.dtype(kind.dtype), int(kind.samples), compression, entry.file_part)


def _refuse(path: Path, tiles: list[Tile], root: ElementTree.Element, labels: bool) -> None:
    scenes = sorted({tile.start("S") for tile in tiles})
    named = {scene.get("Index"): scene.get("Name") for scene in root.iterfind(".//Dimensions/S/Scenes/Scene")}
    refuse_several(path, "scenes", [named.get(str(scene)) or f"scene {scene}" for scene in scenes])
    if any(tile.file_part for tile in tiles):
        raise SegueError(f"{path}: some of its tiles are in other files; save its images as one file.")
    if len({tile.samples for tile in tiles}) > 1:
        raise SegueError(f"{path}: holds gray and color images; save each kind in a separate file.")
    if labels and any(tile.compression in (JPEG, JPEG_XR) for tile in tiles):
        raise SegueError(
            f"{path}: is a label image whose compression may change its numbers; save it uncompressed, or as TIFF."
        )


def _layout(tiles: list[Tile]) -> _Layout:
    values = {name: sorted({tile.start(name) for tile in tiles}) for name in AXES}
    values = {name: numbers for name, numbers in values.items() if len(numbers) > 1 or name == "C"}
    top, left = (min(tile.start(axis) for tile in tiles) for axis in "YX")
    bottom, right = (max(tile.start(axis) + tile.size(axis) for tile in tiles) for axis in "YX")
    ordered = tuple(sorted(tiles, key=lambda tile: tile.start("M")))  # later tiles cover earlier ones
    return _Layout(ordered, values, (top, left), (bottom - top, right - left))


def _plane(layout: _Layout, tile: Tile) -> tuple[int, ...]:
    return tuple(tile.start(name) for name in layout.values)


def _check_planes(path: Path, layout: _Layout) -> tuple[str, ...]:
    """Returns a note if tiles leave gaps in a mosaic; raises SegueError if planes are missing."""
    planes: dict[tuple[int, ...], list[Tile]] = {}
    for tile in layout.tiles:
        planes.setdefault(_plane(layout, tile), []).append(tile)
    expected = set(itertools.product(*layout.values.values()))
    if len(planes) < len(expected):
        lengths = " × ".join(f"{len(numbers)} {name}" for name, numbers in layout.values.items())
        raise SegueError(
            f"{path}: {len(expected) - len(planes)} of {len(expected)} planes ({lengths}) are missing; an acquisition "
            "that was stopped must be cut to whole images."
        )
    gaps = max(_gap(layout, tiles) for tiles in planes.values())
    if gaps > MAX_GAPS:
        raise EOFError(f"its tiles cover {100 * (1 - gaps):.2g} % of the image")
    return (f"its tiles leave {100 * gaps:.2g} % of its mosaic empty: pixels are 0 there",) if gaps else ()


def _gap(layout: _Layout, tiles: list[Tile]) -> float:
    """Returns the fraction of the image that no tile covers, on the grid of all edges of tiles."""
    edges = [np.unique([e for t in tiles for e in (t.start(a), t.start(a) + t.size(a))]) for a in "YX"]
    covered = np.zeros([len(one) - 1 for one in edges], bool)
    for tile in tiles:
        first = [np.searchsorted(e, tile.start(a)) for e, a in zip(edges, "YX", strict=True)]
        last = [np.searchsorted(e, tile.start(a) + tile.size(a)) for e, a in zip(edges, "YX", strict=True)]
        covered[first[0] : last[0], first[1] : last[1]] = True
    areas = np.diff(edges[0])[:, None] * np.diff(edges[1])
    return 1 - float(areas[covered].sum()) / (layout.size[0] * layout.size[1])


def _read(path: Path, layout: _Layout, shape: tuple[int, ...], dtype: np.dtype, index: Index) -> np.ndarray:
    """Returns the pixels of an index, composed of the tiles of its planes."""
    leading = len(layout.values)
    chosen = [
        numbers if isinstance(one, slice) else [numbers[one]]
        for numbers, one in zip(layout.values.values(), index[:leading], strict=True)
    ]
    image = np.zeros((*map(len, chosen), *shape[leading:]), dtype)
    with _open(path) as czi:
        for tile in layout.tiles:
            plane = _plane(layout, tile)
            if all(number in numbers for number, numbers in zip(plane, chosen, strict=True)):
                place = tuple(numbers.index(number) for number, numbers in zip(plane, chosen, strict=True))
                y, x = tile.start("Y") - layout.origin[0], tile.start("X") - layout.origin[1]
                image[place][y : y + tile.size("Y"), x : x + tile.size("X")] = _decode(czi, tile, path.stat().st_size)
    lead = tuple(one if isinstance(one, slice) else 0 for one in index[:leading])
    return image[lead][plane_index(index, leading)]


def _decode(czi: Any, tile: Tile, file_bytes: int) -> np.ndarray:
    """Returns (H, W) or (H, W, 3) of a tile. Stored colors are BGR, or BGRA without meaning, except in JPEG (XR)."""
    entry = czi.subblock_directory[tile.number]
    segment = entry.data_segment() if hasattr(entry, "data_segment") else entry.read_segment_data(czi)
    if not 0 <= segment.data_size <= file_bytes:
        raise EOFError(f"a tile has {segment.data_size} bytes")
    raw = bytes(segment.data(raw=True))
    if tile.compression in (JPEG, JPEG_XR):
        decode = imagecodecs.jpeg8_decode if tile.compression == JPEG else imagecodecs.jpegxr_decode
        pixels = decode(raw)
    elif tile.compression in (UNCOMPRESSED, LZW, ZSTD, ZSTD_PACKED):
        if tile.compression == LZW:
            raw = imagecodecs.lzw_decode(raw)
        elif tile.compression != UNCOMPRESSED:
            raw = _zstd(raw, packed=tile.compression == ZSTD_PACKED)
        pixels = np.frombuffer(raw, tile.dtype)
    else:
        raise UnsupportedError(f"compression {tile.compression}")
    pixels = np.asarray(pixels).reshape(tile.size("Y"), tile.size("X"), tile.samples)
    if tile.samples == 1:
        return pixels[..., 0]
    return pixels[..., :3] if tile.compression in (JPEG, JPEG_XR) else pixels[..., 2::-1]


def _zstd(raw: bytes, *, packed: bool) -> bytes:
    """Returns decompressed bytes; `packed` data have a header, which says whether low bytes precede all high bytes."""
    if not packed:
        return bytes(imagecodecs.zstd_decode(raw))
    length = raw[0]
    is_split = length >= 3 and raw[1] == 1 and bool(raw[2] & 1)
    data = np.frombuffer(imagecodecs.zstd_decode(raw[length:]), np.uint8)
    return data.reshape(2, -1).T.tobytes() if is_split else data.tobytes()


CZI = lazy_reader("CZI", read_czi, "czifile")
