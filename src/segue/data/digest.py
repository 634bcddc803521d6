"""A digest of what an HDF5 file holds, whatever its chunks, compression and order of writing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from segue.data.hdf5 import Node, open_file, reading

BLOCK_BYTES = 16 * 2**20


def content_digest(path: Path) -> str:
    """Returns the sha256 (hex) over every array and attribute in sorted order: name, type, shape, values.

    Equal for files that hold the same, however they are stored. Streams; raises SegueError for damaged files.
    """
    digest = hashlib.sha256()
    with open_file(path) as file, reading(path):
        _add_group(digest, file, "/")
    return digest.hexdigest()


def _add_group(digest: Any, group: Node, name: str) -> None:
    _add(digest, "group", name)
    _add_attributes(digest, group)
    for key in sorted(group):
        child = group[key]
        place = f"{name}{key}"
        if isinstance(child, h5py.Group):
            _add_group(digest, child, f"{place}/")
        elif isinstance(child, h5py.Dataset):
            _add_dataset(digest, child, place)


def _add_dataset(digest: Any, dataset: Node, name: str) -> None:
    _add(digest, "dataset", name)
    _add_attributes(digest, dataset)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        _add_values(digest, dataset.asstr()[()])
        return
    _add(digest, _type_name(dataset.dtype), str(dataset.shape))
    if dataset.ndim == 0:
        digest.update(_plain_bytes(np.asarray(dataset[()])))
        return
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    rows = max(1, BLOCK_BYTES // row_bytes)
    if dataset.chunks and rows > dataset.chunks[0]:
        rows -= rows % dataset.chunks[0]
    elif dataset.chunks and row_bytes * dataset.chunks[0] <= 8 * BLOCK_BYTES:
        rows = dataset.chunks[0]
    for start in range(0, dataset.shape[0], rows):
        digest.update(_plain_bytes(dataset[start : start + rows]))


def _add_attributes(digest: Any, owner: Node) -> None:
    for key in sorted(owner.attrs):
        _add(digest, "attribute", key)
        _add_values(digest, owner.attrs[key])


def _add_values(digest: Any, values: Any) -> None:
    array = np.asarray(values)
    if array.dtype.kind in "OUS":
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
        _add(digest, "str", str(array.shape), *texts)
    else:
        _add(digest, _type_name(array.dtype), str(array.shape))
        digest.update(_plain_bytes(array))


def _add(digest: Any, *texts: str) -> None:
    """Adds texts, each preceded by its length so that no two sequences give the same bytes."""
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)


def _type_name(dtype: np.dtype) -> str:
    return dtype.newbyteorder("<").str


def _plain_bytes(array: np.ndarray) -> memoryview:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data
