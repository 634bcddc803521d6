"""The hash of a dataset's content: of files that hold anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from segue.errors import SegueError
from segue.fingerprint import hash_dataset


def write(path: Path, more: Callable[[h5py.File], object] = lambda file: None) -> Path:
    with h5py.File(path, "w") as file:
        file["values"] = np.arange(4)
        file["text"] = np.array([b"a", b"\xc2\xb5"], dtype=h5py.string_dtype("utf-8", 2))
        more(file)
    return path


def test_equal_content_has_equal_hashes(tmp_path: Path) -> None:
    """Chunks, compression and notes do not matter; a value, a type or a name does."""

    def chunked(file: h5py.File) -> None:
        del file["values"]
        file.create_dataset("values", data=np.arange(4), chunks=(2,), compression="gzip")
        file.attrs["notes"] = "other words"

    def changed(file: h5py.File) -> None:
        file["values"][0] = 7

    known = hash_dataset(write(tmp_path / "a.h5"))
    assert hash_dataset(write(tmp_path / "b.h5", chunked)) == known
    others = [changed, lambda file: file.move("values", "value"), lambda file: file.create_group("more")]
    hashes = {hash_dataset(write(tmp_path / f"{place}.h5", change)) for place, change in enumerate(others)}
    assert len(hashes | {known}) == 4


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, dtype=h5py.string_dtype("utf-8", 4))


LISTS = np.array([np.arange(2, dtype=np.int32), np.arange(3, dtype=np.int32)], dtype=object)


def add_attribute(file: h5py.File, name: bytes) -> None:
    h5py.h5a.create(file.id, name, h5py.h5t.NATIVE_INT32, h5py.h5s.create(h5py.h5s.SCALAR)).write(np.array(1, np.int32))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.create_dataset("x", data=texts(b"\xff\xfe")), "holds text that is not UTF-8"),
        (lambda file: file.attrs.__setitem__("name", np.bytes_(b"\xff\xfe")), "holds text that is not UTF-8"),
        (lambda file: file.attrs.__setitem__("names", texts(b"a", b"\xff")), "holds text that is not UTF-8"),
        (lambda file: file.create_group(b"\xff\xfe"), r"\\xff\\xfe is a name that is not UTF-8; copy the arrays"),
        (lambda file: add_attribute(file, b"\xff"), "holds text that is not UTF-8"),
        (lambda file: file.__setitem__("x", h5py.Empty("f4")), "x holds no values, not numbers or text; remove it"),
        (
            lambda file: file.create_dataset("x", data=[file.ref], dtype=h5py.ref_dtype),
            "x holds references or lists, not numbers or text; remove it",
        ),
        (
            lambda file: file.create_dataset("x", data=LISTS, dtype=h5py.vlen_dtype(np.int32)),
            "x holds references or lists, not numbers or text; remove it",
        ),
        (
            lambda file: file.create_dataset("x", data=np.array([(1, file.ref)], [("a", "i4"), ("b", h5py.ref_dtype)])),
            "x holds references or lists, not numbers or text; remove it",
        ),
    ],
)
def test_what_cannot_be_hashed_is_refused(change: Callable, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", change)
    with pytest.raises(SegueError, match=f"^{path}: {sentence}"):
        hash_dataset(path)
