"""Arrays of N5 (https://github.com/saalfeldlab/n5), with the label sources of Paintera.

A folder with `attributes.json` is an array if this states `dimensions`, the fastest first, so that NumPy's axes are in
reverse. Block (i, j, …) is the file i/j/…: big-endian, mode (uint16), number of dimensions (uint16), the block's size
along each (uint32), in mode 1 the number of elements (uint32), then its compressed numbers. A missing block is zeros.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.stack import UnsupportedError
from segue.errors import SegueError
from segue.formatting import format_bytes

ATTRIBUTES = "attributes.json"
FULL = "s0"  # the finest level of a pyramid
PAINTERA = "painteraData"
ASSIGNMENT = "fragment-segment-assignment"
MULTISET = "isLabelMultiset"
FIRST_SPECIAL = 2**64 - 4  # from here on, Paintera's marks of pixels that have no label
LZ4_MAGIC = b"LZ4Block"
MULTISET_ENTRY = np.dtype([("label", "<u8"), ("count", "<i4")])
MAX_ARRAY_BYTES = 16 * 2**30


def find_n5(path: Path) -> list[str]:
    """Returns the paths of the arrays in an N5 container; of a pyramid, that of its group alone."""
    arrays = []
    for folder, folders, files in os.walk(path):
        inside = Path(folder).relative_to(path).as_posix()
        attributes = _attributes(Path(folder)) if ATTRIBUTES in files else {}
        if "dimensions" in attributes or FULL in folders or PAINTERA in attributes:
            folders.clear()
            arrays.append("" if inside == "." else inside)
        folders.sort()
    return arrays


class N5Array:
    """An array of N5, read by blocks when it is indexed by integers and slices.

    Labels that Paintera marks as invalid are −1. lookup: the number that stands for a number.
    """

    def __init__(self, path: Path, lookup: Mapping[int, int] | None = None) -> None:
        self._path = path
        self._attributes = _attributes(path)
        self._is_multiset = bool(self._attributes.get(MULTISET))
        self._lookup = lookup or {}
        self._sizes = tuple(int(size) for size in self._attributes["blockSize"])
        self.shape = tuple(int(size) for size in reversed(self._attributes["dimensions"]))
        stored = "uint64" if self._is_multiset else self._attributes["dataType"]
        self._stored = np.dtype(stored).newbyteorder(">")
        self.dtype = np.dtype(np.int64 if stored == "uint64" else stored)

    def __getitem__(self, index: Any) -> np.ndarray:
        index = () if index is Ellipsis else index if isinstance(index, tuple) else (index,)
        index = (*index, *[slice(None)] * (len(self.shape) - len(index)))
        ranges = [
            range(*one.indices(side)) if isinstance(one, slice) else range(one, one + 1)
            for one, side in zip(index, self.shape, strict=True)
        ]
        size = math.prod(map(len, ranges)) * self.dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise SegueError(f"{self._path}: is {format_bytes(size)}; allowed are {format_bytes(MAX_ARRAY_BYTES)}.")
        result = np.zeros([len(one) for one in ranges], self.dtype)
        blocks = tuple(reversed(self._sizes))
        grid = [
            range(one.start // block, (one.stop - 1) // block + 1) if len(one) else range(0)
            for one, block in zip(ranges, blocks, strict=True)
        ]
        for place in np.ndindex(*map(len, grid)):
            at = [one[position] for one, position in zip(grid, place, strict=True)]
            block = self._block(at)
            if block is None:
                continue
            source, target = [], []
            for one, position, side, length in zip(ranges, at, blocks, block.shape, strict=True):
                first, last = max(one.start, position * side), min(one.stop, position * side + length)
                source.append(slice(first - position * side, last - position * side))
                target.append(slice(first - one.start, last - one.start))
            result[tuple(target)] = block[tuple(source)]
        return result[tuple(slice(None) if isinstance(one, slice) else 0 for one in index)]

    def _block(self, at: list[int]) -> np.ndarray | None:
        path = self._path.joinpath(*map(str, reversed(at)))
        if not path.is_file():
            return None
        data = path.read_bytes()
        mode, count = struct.unpack_from(">HH", data)
        sides = struct.unpack_from(f">{count}I", data, 4)
        offset = 4 + 4 * count + (4 if mode else 0)
        if mode > 1 or count != len(self.shape) or any(a > b for a, b in zip(sides, self._sizes, strict=True)):
            raise ValueError(f"the block {'/'.join(map(str, reversed(at)))} has another shape")
        numbers = decompress(data[offset:], self._attributes)
        number = math.prod(sides)
        values = _arg_max(numbers, number) if self._is_multiset else np.frombuffer(numbers, self._stored, number)
        block = values.reshape(tuple(reversed(sides)))
        if block.dtype.kind == "u" and block.dtype.itemsize == 8:
            special = block >= FIRST_SPECIAL
            block = np.where(special, 0, block).astype(np.int64)
            block[special] = -1
        if self._lookup:
            present, inverse = np.unique(block, return_inverse=True)
            block = np.array([self._lookup.get(int(one), int(one)) for one in present])[inverse].reshape(block.shape)
        return block


def open_n5(path: Path, inside: str) -> N5Array:
    """Returns an array of a container, the finest level of a pyramid; fragments of a Paintera source become the
    segments that they were joined to."""
    place = path / inside
    attributes = _attributes(place)
    lookup: dict[int, int] = {}
    if PAINTERA in attributes:
        if (place / ASSIGNMENT / ATTRIBUTES).is_file():
            fragments, segments = N5Array(place / ASSIGNMENT)[...].reshape(2, -1)
            lookup = dict(zip(fragments.tolist(), segments.tolist(), strict=True))
        place /= "data"
    while "dimensions" not in _attributes(place):
        if not (place / FULL / ATTRIBUTES).is_file():
            raise SegueError(f"{path}: has no array '{inside}'; it holds {', '.join(find_n5(path))}: correct array.")
        place /= FULL
    return N5Array(place, lookup)


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / ATTRIBUTES).read_bytes())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}


def decompress(data: bytes, attributes: Mapping[str, Any]) -> bytes:
    """Returns the numbers of a block by `compression`, or `compressionType` of the first version of N5."""
    import imagecodecs

    compression = attributes.get("compression") or {"type": attributes.get("compressionType", "raw")}
    kind = str(compression["type"])
    if kind == "raw":
        return data
    if kind == "gzip":
        return zlib.decompress(data) if compression.get("useZlib") else gzip.decompress(data)
    if kind == "bzip2":
        return bz2.decompress(data)
    if kind in ("xz", "lzma"):
        return lzma.decompress(data)
    if kind == "lz4":
        return _lz4(data)
    if kind == "blosc":
        return bytes(imagecodecs.blosc_decode(data))
    if kind in ("zstd", "zstandard"):
        return bytes(imagecodecs.zstd_decode(data))
    raise UnsupportedError(f"N5 compression '{kind}'")


def _lz4(data: bytes) -> bytes:
    """Returns the content of a stream of lz4-java: blocks of magic, token, lengths (compressed and not), checksum."""
    import imagecodecs

    parts, position = [], 0
    while position < len(data):
        magic, token, packed, size, _ = struct.unpack_from("<8sBiiI", data, position)
        if magic != LZ4_MAGIC:
            raise ValueError("an LZ4 block does not begin as one")
        position += 21
        block = data[position : position + packed]
        position += packed
        if size:
            parts.append(block if token & 0xF0 == 0x10 else bytes(imagecodecs.lz4_decode(block, out=size)))
    return b"".join(parts)


def _arg_max(data: bytes, count: int) -> np.ndarray:
    """Returns the label that most of each pixel has, of a block of Paintera's label multisets.

    The block has a number (int32) of most frequent labels (uint64), which may be 0, and for each pixel where its list
    begins (int32), all big-endian; then the lists, little-endian: the number of entries (int32), and of each entry the
    label (uint64) and how often it is there (int32).
    """
    (stated,) = struct.unpack_from(">i", data)
    if stated == count:
        return np.frombuffer(data, ">u8", count, 4)
    offsets, which = np.unique(np.frombuffer(data, ">i4", count, 4 + 8 * stated), return_inverse=True)
    lists = data[4 + 8 * stated + 4 * count :]
    labels = np.zeros(len(offsets), np.uint64)
    for place, offset in enumerate(offsets.tolist()):
        (entries,) = struct.unpack_from("<i", lists, offset)
        if entries:
            pairs = np.frombuffer(lists, MULTISET_ENTRY, entries, offset + 4)
            labels[place] = pairs["label"][np.argmax(pairs["count"])]
    return labels[which]
