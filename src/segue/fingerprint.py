"""Fingerprints: of plain data, of files, of folders of input files, and of the content of a dataset.

All of them decide whether something can be reused, so that after a change of any of these functions everything is made
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import SegueError
from segue.storage import absolute, replacing

if TYPE_CHECKING:
    from segue.hdf5 import Node

BLOCK_BYTES = 16 * 2**20
NOT_CONTENT = ("notes",)  # attributes of a dataset that are words about it: other words leave it the same


def hash_json(content: Any, *, digest_size: int | None = None) -> str:
    """Returns a hash (hex) of plain data that does not depend on the order of the keys of its tables.

    sha256, or blake2b of `digest_size` bytes.
    """
    text = json.dumps(content, sort_keys=True).encode()
    if digest_size is None:
        return hashlib.sha256(text).hexdigest()
    return hashlib.blake2b(text, digest_size=digest_size).hexdigest()


def stage_hash(content: Any) -> str:
    """Returns the 16 hexadecimal digits by which stages, datasets and evaluations of a study are named."""
    return text_hash(plain_json(content))


def plain_json(content: Any) -> str:
    """Returns plain data as JSON without spaces, the keys of its tables sorted: what `stage_hash` hashes."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def text_hash(text: str) -> str:
    """Returns the 16 hexadecimal digits of a text, by blake2b."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def hash_file(path: Path) -> str:
    """Returns the sha256 (hex) of the file's bytes, of a folder over the names and bytes of all files in it.

    Raises SegueError if one cannot be read.
    """
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        lines = (f"{file.relative_to(path).as_posix()}\0{hash_file(file)}" for file in inside)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error


def hash_files(files: Iterable[Path], cache_path: Path | None = None) -> str:
    """Returns the sha256 (hex) over the files' paths, relative to the deepest folder of all, and their contents.

    Moving the whole folder does not change it; for the cache see `hash_each_file`.
    """
    hashes = hash_each_file(files, cache_path)
    folder = shared_folder(hashes)
    lines = sorted(f"{absolute(path).relative_to(folder).as_posix()}\0{value}" for path, value in hashes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_each_file(files: Iterable[Path], cache_path: Path | None = None) -> dict[Path, str]:
    """Returns the sha256 (hex) of the content of each file.

    Hashes of unchanged files (same path, size and mtime_ns) are taken from the JSON file `cache_path`, to which new
    ones are added if its folder exists; a cache that is damaged or cannot be read or written is ignored. Raises
    SegueError for a file that is missing or cannot be read.
    """
    cache = _read_cache(cache_path)
    hashes, changed = {}, False
    for path in files:
        key, stamp = str(absolute(path)), _stamp(path)
        entry = cache.get(key)
        if entry is None or entry[:2] != stamp or path.is_dir():
            entry = [*stamp, hash_file(path)]
            cache[key], changed = entry, True
        hashes[path] = str(entry[2])
    if cache_path is not None and changed:
        _write_cache(cache_path, cache)
    return hashes


def shared_folder(files: Iterable[Path]) -> Path:
    """Returns the deepest folder that contains all files."""
    folders = [absolute(path).parent for path in files]
    shared = folders[0] if folders else Path()
    while not all(folder.is_relative_to(shared) for folder in folders):
        shared = shared.parent
    return shared


def _read_cache(cache_path: Path | None) -> dict[str, list[int | str]]:
    if cache_path is None:
        return {}
    try:
        cache = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # only a cache: the hashes are computed again
    return {key: entry for key, entry in cache.items() if _is_entry(entry)} if isinstance(cache, dict) else {}


def _is_entry(entry: object) -> bool:
    """Returns whether an entry of the cache is [size, mtime_ns, sha256]."""
    if not isinstance(entry, list) or [type(value) for value in entry] != [int, int, str]:
        return False
    return re.fullmatch("[0-9a-f]{64}", entry[2]) is not None


def _write_cache(cache_path: Path, cache: dict[str, list[int | str]]) -> None:
    """Writes the cache if its folder exists: planning must neither create folders nor fail where it may not write."""
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


def hash_dataset(path: Path, cache_path: Path | None = None) -> str:
    """Returns the sha256 (hex) over all arrays and attributes of an HDF5 file, sorted: name, type, shape, values.

    Equal for files of equal content, whatever their chunks, compression, order of writing and notes. Reads the file in
    blocks; raises SegueError for damaged files. Hashes of unchanged files are taken from `cache_path`, as in
    `hash_each_file`.
    """
    from segue.hdf5 import open_file, reading

    cache = _read_cache(cache_path)
    key = f"content of {absolute(path)}"
    if cache_path is not None and key in cache and cache[key][:2] == _stamp(path):
        return str(cache[key][2])
    digest = hashlib.sha256()
    with open_file(path) as file, reading(path):
        _add_group(digest, file, "/")
    if cache_path is not None:
        _write_cache(cache_path, cache | {key: [*_stamp(path), digest.hexdigest()]})
    return digest.hexdigest()


def _add_group(digest: Any, group: Node, name: str) -> None:
    import h5py

    _add(digest, "group", name)
    _add_attributes(digest, group, without=NOT_CONTENT if name == "/" else ())
    for key in sorted(group):
        child = group[key]
        path = f"{name}{key}"
        if isinstance(child, h5py.Group):
            _add_group(digest, child, f"{path}/")
        elif isinstance(child, h5py.Dataset):
            _add_dataset(digest, child, path)


def _add_dataset(digest: Any, dataset: Node, name: str) -> None:
    import h5py

    from segue.hdf5 import require_stored_inside

    path = Path(dataset.file.filename)
    require_stored_inside(path, dataset)
    _add(digest, "dataset", name)
    _add_attributes(digest, dataset)
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if dataset.shape is None or (dataset.dtype.hasobject and not is_text):
        content = "no values" if dataset.shape is None else "references or lists"
        raise SegueError(f"{path}: {name[1:]} holds {content}, not numbers or text; remove it, or make the file again.")
    if is_text:
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


def _add_attributes(digest: Any, owner: Node, *, without: Collection[str] = ()) -> None:
    for key in sorted({_text(key) for key in owner.attrs}.difference(without)):
        _add(digest, "attribute", key)
        _add_values(digest, owner.attrs[key])


def _add_values(digest: Any, values: Any) -> None:
    array = np.asarray(values)
    if array.dtype.kind in "OUS":
        _add(digest, "str", str(array.shape), *map(_text, array.ravel()))
    else:
        _add(digest, _type_name(array.dtype), str(array.shape))
        digest.update(_plain_bytes(array))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
