"""A digest of what an HDF5 file holds, whatever its chunks, compression and order of writing.

Content digests of input files, cached by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from segue.errors import SegueError
from segue.hdf5 import Node, open_file, reading
from segue.storage import replacing

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


def digest_inputs(files: Iterable[Path], cache_path: Path | None = None) -> str:
    """Returns the sha256 (hex) over the files' names, below the folder they share, and their contents.

    Moving the whole folder does not change it. Digests of unchanged files (path, size, mtime_ns) are taken from the
    JSON file `cache_path` and added to it where its folder exists; a cache that is damaged or cannot be read or written
    is left aside. Raises SegueError for a file that is missing or cannot be read.
    """
    digests = file_digests(files, cache_path)
    folder = shared_folder(digests)
    lines = sorted(f"{tidy(path).relative_to(folder).as_posix()}\0{digest}" for path, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_digests(files: Iterable[Path], cache_path: Path | None = None) -> dict[Path, str]:
    """Returns the sha256 (hex) of each file's content, cached as in `digest_inputs`."""
    cache = _read_cache(cache_path)
    digests, added = {}, False
    for path in files:
        key, stamp = str(tidy(path)), _stamp(path)
        known = cache.get(key)
        if known is None or known[:2] != stamp:
            known = [*stamp, _sha256(path)]
            cache[key], added = known, True
        digests[path] = str(known[2])
    if cache_path is not None and added:
        _write_cache(cache_path, cache)
    return digests


def shared_folder(files: Iterable[Path]) -> Path:
    """Returns the deepest folder that holds all files."""
    folders = [tidy(path).parent for path in files]
    shared = folders[0] if folders else Path()
    while not all(folder.is_relative_to(shared) for folder in folders):
        shared = shared.parent
    return shared


def tidy(path: Path) -> Path:
    """Returns the absolute path without "..", the file itself not followed where it is a link: its name is kept."""
    return path.parent.resolve() / path.name


def _read_cache(cache_path: Path | None) -> dict[str, list[int | str]]:
    if cache_path is None:
        return {}
    try:
        found = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # only a cache: the digests are computed anew
    return {key: entry for key, entry in found.items() if _is_entry(entry)} if isinstance(found, dict) else {}


def _is_entry(entry: object) -> bool:
    """Tells whether an entry of the cache is a size, a time of change and a sha256."""
    if not isinstance(entry, list) or [type(value) for value in entry] != [int, int, str]:
        return False
    return re.fullmatch("[0-9a-f]{64}", entry[2]) is not None


def _write_cache(cache_path: Path, cache: dict[str, list[int | str]]) -> None:
    """Writes the cache where its folder exists; planning must neither make a folder nor fail where none is writable."""
    with contextlib.suppress(OSError, SegueError):
        if cache_path.parent.is_dir():
            with replacing(cache_path) as partial:
                partial.write_text(json.dumps(cache, indent=0, sort_keys=True), encoding="utf-8")


def _stamp(path: Path) -> list[int | str]:
    try:
        status = path.stat()
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); correct the path.") from error
    return [status.st_size, status.st_mtime_ns]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error
