"""HDF5 files: clear errors for a full disk and for truncated or foreign files, checksums, and compression of labels.

Everything that segue writes has a checksum: images and numbers by HDF5's filter Fletcher-32, a checksum per chunk;
labels and text by that of zlib; names, types, shapes and attributes by HDF5 itself, in the format of its version 1.10.
Checksums are a matter of storage: they are no part of a file's content, nor of its `fingerprint.hash_dataset`.

Label chunks are compressed and decompressed outside of HDF5, which takes several times as long and holds its lock, and
so all other threads, meanwhile. A chunk holds int32 labels as HDF5's filters "shuffle" and "deflate" leave them: the
lowest bytes of all labels, then their second lowest bytes and so on, then zlib. Any HDF5 program reads it. Where labels
are small, as classes are, the group of lowest bytes holds them already. Measured: packing 1000 tiles of 160² with three
classes, 102 MB, takes 33 ms with zlib-ng, 220 ms with zlib and 310 ms with libdeflate (1.8 MB, 1.0 MB, 0.7 MB);
unpacking 156 such tiles takes 7 ms, 21 ms through h5py.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import h5py
import numpy as np

from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.storage import placeholder, replacing, require_regular

Node: TypeAlias = Any  # an h5py file, group or dataset: h5py types every item as a union of all of these and links


class WriteRefused(OSError):
    """A write to an HDF5 file that the disk refused."""


class Sink(io.RawIOBase):
    """A file for h5py to write to that never fails: it keeps the first error and swallows what follows.

    HDF5 2.0 crashes at exit when a file cannot be closed because a write was refused; so every write reports success
    to it, and the writer checks for the error (`NewFile.check`).
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None

    def write(self, data) -> int:  # any bytes-like object
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self._file.write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        """Does nothing: the file is unbuffered."""

    def sync(self) -> None:
        """Flushes the bytes to the disk; an error is kept like any other."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.error = self.error or error

    def check(self) -> None:
        if self.error is not None:
            raise WriteRefused(*self.error.args) from self.error

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@dataclass(frozen=True)
class NewFile:
    """An HDF5 file being written; `check` raises the OSError of the first write that the disk refused."""

    file: Node
    sink: Sink

    def check(self) -> None:
        self.sink.check()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """Gives an HDF5 file that appears at `path` only when the block ends without an error.

    Raises SegueError naming `path` when the disk refuses; long writers call `check` now and then to stop early.
    """
    with replacing(path) as partial, contextlib.closing(Sink(partial)) as sink:
        with h5py.File(sink, "w", libver=METADATA_VERSIONS) as file:
            yield NewFile(file, sink)
        sink.sync()
        sink.check()


def open_file(path: Path) -> Node:
    """Returns the HDF5 file opened for reading; raises SegueError when it is missing, foreign or truncated, or holds
    links, which could lead to other files."""
    require_regular(path, "an HDF5 dataset")
    try:
        if path.stat().st_size == 0:
            raise SegueError(f"{path}: is empty; copy it again or make it again.")
        absent = placeholder(path)
        if absent:
            raise SegueError(f"{path}: {absent}.")
        if not h5py.is_hdf5(path):
            raise SegueError(f"{path}: is not an HDF5 file; give a dataset made by segue, or prepare one from images.")
        file = h5py.File(path, "r")
        with contextlib.ExitStack() as undo:
            undo.callback(file.close)
            _refuse_links(path, file)
            undo.pop_all()
        return file
    except (OSError, RuntimeError) as error:
        raise SegueError(f"{path}: {_failure(error)}.") from error


def _refuse_links(path: Path, file: Node) -> None:
    """Raises SegueError for a link to another place or file, a second name of a group or array (a walk through the file
    might not end), and for groups nested deeper than HDF5 itself can visit."""
    addresses = {h5py.h5g.get_objinfo(file.id).objno[0]}

    def problem(name: bytes, info: Any) -> str | None:
        where = name.decode(errors="backslashreplace")
        if where.encode() != name:
            return f"{where} is a name that is not UTF-8"
        if info.type != HARD_LINK:
            return f"{where} is a link to another place or file, but a dataset must hold all of its arrays"
        if name.count(b"/") >= MAX_LEVELS:
            return f"{where[:80]} … is nested in more than {MAX_LEVELS} groups"
        if info.u in addresses:
            return f"{where} is a second name of a group or array, but a dataset must hold each of them once"
        addresses.add(info.u)
        return None

    sentence = file.id.links.visit(problem, info=True)
    if sentence is not None:
        raise SegueError(f"{path}: {sentence}; copy the arrays into it, or make it again.")


def require_stored_inside(path: Path, array: Node) -> None:
    """Raises SegueError for an HDF5 array whose values are in other files, or that has fewer bytes in the file than its
    shape says: to read it would fill memory with values that nobody wrote."""
    if array.is_virtual or array.external:
        raise SegueError(
            f"{path}: {array.name[1:]} takes its values from other files, but a dataset must hold all of its arrays; "
            "copy them into it, or make it again."
        )
    needed, stored = array.size * array.id.get_type().get_size() if array.size else 0, array.id.get_storage_size()
    if needed > stored * (MAX_COMPRESSION if array.compression is not None else 1):
        raise SegueError(
            f"{path}: {array.name[1:]} is {' × '.join(map(str, array.shape))} values of {array.dtype}, "
            f"{format_bytes(needed)}, but the file holds only {format_bytes(stored)} of it: the rest was never "
            "written; copy the file again or make it again."
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of reads from an open file (a damaged chunk, a failing disk) into SegueErrors that name it."""
    try:
        yield
    except WriteRefused:
        raise
    except (OSError, RuntimeError) as error:
        raise SegueError(f"{path}: {_failure(error)}.") from error
    except UnicodeError as error:
        raise SegueError(f"{path}: holds text that is not UTF-8 ({error}); make it again.") from error


# what HDF5's words mean and what to do; whatever has none of them is damage
FAILURES = {
    "truncated": "the HDF5 file is truncated; copy it again or make it again",
    "unable to lock file": "is locked, probably open in another program ({words}); close it there and try again",
    "already open for": "is open in another program for writing ({words}); close it there and try again",
    "bad superblock version": "is of a newer version of HDF5 than is read here, or damaged ({words}); update h5py",
    "version bounds": "is of a newer version of HDF5 than is read here ({words}); update h5py, or convert it",
    "required filter": "is compressed by a filter that is not installed ({words}); repack it with gzip",
    "not registered": "is compressed by a filter that is not installed ({words}); repack it with gzip",
    "Permission denied": "cannot be read ({words}); check the file's permissions",
}
DAMAGE = "cannot be read, the file is damaged ({words}); copy it again or make it again"


def _failure(error: Exception) -> str:
    """Returns what an error of HDF5 means and what to do about it, with HDF5's words."""
    sentence = next((sentence for sign, sentence in FAILURES.items() if sign in str(error)), DAMAGE)
    return sentence.format(words=_first_words(error))


def _first_words(error: Exception) -> str:
    return str(error).split("\n")[0].split(" (")[-1].strip("()")[:120]


HARD_LINK = 0  # HDF5's H5L_TYPE_HARD
MAX_LEVELS = 50  # of groups
METADATA_VERSIONS = ("v110", "v110")  # the lowest in which HDF5 has checksums of all that is not an array
MAX_COMPRESSION = 1100  # deflate reaches 1032
CHECKSUM: dict[str, Any] = {"fletcher32": True}
CHECKSUM_BYTES = 4
COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def create_labels(group: Node, name: str, shape: Sequence[int], *, chunk: int, grows: bool = False) -> Node:
    """Returns a new int32 dataset of labels in chunks of `chunk` rows; `grows` along its first axis where asked."""
    most = (None, *shape[1:]) if grows else None
    chunks = (chunk, *shape[1:])
    return group.create_dataset(name, tuple(shape), np.dtype("<i4"), maxshape=most, chunks=chunks, **COMPRESSION)


def write_labels(dataset: Node, labels: np.ndarray) -> None:
    """Writes int8, int16 or int32 labels to a dataset of `create_labels` that is one chunk."""
    write_packed(dataset, 0, pack_labels(labels))


def write_packed(dataset: Node, first: int, chunk: bytes | bytearray | np.ndarray) -> None:
    """Writes the bytes of a whole chunk, as its filters leave them, which begins with row `first`."""
    dataset.id.write_direct_chunk((first, *[0] * (dataset.ndim - 1)), chunk)


def pack_labels(labels: np.ndarray) -> bytes | bytearray:
    """Returns labels (any shape; int8, int16 or int32) as the bytes of an HDF5 chunk: int32, shuffled, deflated."""
    from imagecodecs import zlibng_encode

    flat = np.ascontiguousarray(labels).reshape(-1)
    planes = np.zeros((4, flat.size), dtype=np.int8)  # untouched planes stay the system's zero pages
    np.copyto(planes[0], flat, casting="unsafe")
    lowest, highest = int(flat.min(initial=0)), int(flat.max(initial=0))
    for place in (1, 2, 3):
        if lowest < 0 or highest >> 8 * place:
            shift = min(8 * place, 8 * flat.dtype.itemsize - 1)  # beyond its own bytes a number repeats its sign
            np.right_shift(flat, flat.dtype.type(shift), out=planes[place], casting="unsafe")
    return zlibng_encode(planes, 1)  # pyright: ignore[reportArgumentType]  it takes any buffer


SHUFFLE, DEFLATE = 2, 1  # HDF5's numbers of the filters, in the order in which they were applied


def text_array(texts: Sequence[str] | str) -> np.ndarray:
    """Returns texts as HDF5 stores them within an array or an attribute: UTF-8 of one length. (Texts of any length are
    stored apart, without a checksum.)"""
    encoded = texts.encode() if isinstance(texts, str) else [text.encode() for text in texts]
    longest = len(encoded) if isinstance(encoded, bytes) else max(map(len, encoded), default=0)
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(1, longest)))


def write_chunk(dataset: Node, first: int, blocks: Sequence[np.ndarray]) -> None:
    """Writes the rows of all blocks, (n, …) each, as the chunk that begins with row `first`: at most its rows.

    dataset: in chunks of whole rows, of `create_labels` or with a checksum alone. HDF5 itself takes far longer.
    """
    rows, row_shape = dataset.chunks[0], dataset.shape[1:]
    missing = rows - sum(map(len, blocks))
    if dataset.compression is not None:
        padding = np.zeros((missing, *row_shape), np.int8)
        write_packed(dataset, first, pack_labels(np.concatenate([*blocks, padding])))
        return
    chunk = np.zeros(dataset.dtype.itemsize * int(np.prod(dataset.chunks)) + CHECKSUM_BYTES, np.uint8)
    values = chunk[:-CHECKSUM_BYTES].view(dataset.dtype).reshape(dataset.chunks)
    np.concatenate(blocks, out=values[: rows - missing])
    write_checksum(chunk)
    write_packed(dataset, first, chunk)


def write_checksum(chunk: np.ndarray) -> None:
    """Writes into the last 4 bytes of a chunk, (n,) uint8, the checksum of those before, as the filter Fletcher-32."""
    from imagecodecs import h5checksum_fletcher32

    checksum = h5checksum_fletcher32(_bytes_of(chunk[:-CHECKSUM_BYTES]))
    chunk[-CHECKSUM_BYTES:] = np.frombuffer(checksum.to_bytes(CHECKSUM_BYTES, "little"), np.uint8)


def _bytes_of(array: np.ndarray) -> Any:
    """Returns the bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)


class CheckedRows:
    """Reads rows of an uncompressed HDF5 array with checksums; a chunk is verified when one of its rows is first read.

    HDF5 itself reads and verifies the whole chunk for each row: of 16 MB, instead of a row's few kB.
    """

    @classmethod
    def fits(cls, array: Node) -> bool:
        """Returns whether an array has whole rows in its chunks, and no filter but the checksum."""
        if array.chunks is None or array.chunks[1:] != array.shape[1:] or not array.fletcher32:
            return False
        return array.id.get_create_plist().get_nfilters() == 1 and array.dtype.isnative

    def __init__(self, path: Path, array: Node) -> None:
        self._path, self._name = path, array.name[1:]
        self._dtype, self._row_shape, self._rows = array.dtype, array.shape[1:], array.chunks[0]
        self._row_bytes = int(array.dtype.itemsize * np.prod(array.shape[1:]))
        self._offsets: dict[int, int] = {}
        self._verified: set[int] = set()
        self._buffer: np.ndarray | None = None
        self._lock = threading.Lock()
        chunk_bytes = self._rows * self._row_bytes + CHECKSUM_BYTES
        size = path.stat().st_size
        for index in range(array.id.get_num_chunks()):
            chunk = array.id.get_chunk_info(index)
            if chunk.filter_mask or chunk.size != chunk_bytes or chunk.byte_offset + chunk_bytes > size:
                self._refuse(chunk.chunk_offset[0])
            self._offsets[chunk.chunk_offset[0] // self._rows] = chunk.byte_offset
        self._file = path.open("rb", buffering=0)

    def close(self) -> None:
        self._file.close()

    def read_into(self, out: np.ndarray, first: int) -> None:
        """Fills `out` (n, …), contiguous, with rows from `first` on; raises SegueError for a damaged chunk."""
        done = 0
        while done < len(out):
            chunk, row = divmod(first + done, self._rows)
            rows = min(self._rows - row, len(out) - done)
            if chunk not in self._offsets:
                self._refuse(chunk * self._rows)
            with self._lock:
                self._read_chunk(chunk, row, out[done : done + rows])
            done += rows

    def _read_chunk(self, chunk: int, row: int, out: np.ndarray) -> None:
        """Fills `out` with rows of one chunk from `row` on; reads and verifies the whole chunk the first time."""
        from imagecodecs import h5checksum_fletcher32

        offset = self._offsets[chunk]
        if chunk in self._verified:
            self._read(offset + row * self._row_bytes, out)
            return
        if len(out) == self._rows:
            whole = out
        else:  # one buffer for all chunks: new memory costs as much as the checksum
            if self._buffer is None:
                self._buffer = np.empty((self._rows, *self._row_shape), dtype=self._dtype)
            whole = self._buffer
        self._read(offset, whole)
        checksum = np.empty(CHECKSUM_BYTES, dtype=np.uint8)
        self._read(offset + whole.nbytes, checksum)
        if h5checksum_fletcher32(_bytes_of(whole)) != int.from_bytes(checksum.tobytes(), "little"):
            self._refuse(chunk * self._rows)
        self._verified.add(chunk)
        if whole is not out:
            out[:] = whole[row : row + len(out)]
        if len(self._verified) == len(self._offsets):
            self._buffer = None

    def _read(self, offset: int, out: np.ndarray) -> None:
        view = memoryview(_bytes_of(out))
        self._file.seek(offset)
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                raise SegueError(f"{self._path}: the HDF5 file is truncated; copy it again or make it again.")
            done += count

    def _refuse(self, first: int) -> NoReturn:
        raise SegueError(
            f"{self._path}: {self._name} is damaged: the checksum of the {self._rows} rows from {first} on does not "
            "match; copy the file again or make it again."
        )
