"""HDF5 files that cannot be opened: each reason in its own sentence, with the words of HDF5."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from segue.errors import SegueError
from segue.hdf5 import CHECKSUM, CHECKSUM_BYTES, COMPRESSION, open_file, reading, write_checksum, write_chunk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["values"] = np.arange(1000)
    return tmp_path / "a.h5"


def message(path: Path) -> str:
    with pytest.raises(SegueError) as raised:
        open_file(path)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{path}: ")


def test_a_truncated_file(path: Path) -> None:
    """Only a file that is cut off is called truncated."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert message(path).startswith("the HDF5 file is truncated")
    path.write_bytes(b"")
    assert message(path).startswith("is empty")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert message(path).endswith("get it with: git lfs pull.")
    path.write_bytes(b"a table, perhaps" * 10)
    assert message(path).startswith("is not an HDF5 file")


def test_a_newer_version(path: Path) -> None:
    """A superblock of an unknown version asks for another HDF5."""
    content = bytearray(path.read_bytes())
    content[8] = 9
    path.write_bytes(bytes(content))
    assert message(path).startswith("is of a newer version of HDF5 than is read here")


@pytest.mark.skipif(sys.platform == "win32", reason="HDF5 locks files otherwise there")
def test_a_locked_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process writes is not called damaged."""
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+', locking=True); print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        text = message(path)
        writer.communicate()
    assert text.startswith("is locked, probably open in another program")
    assert "damaged" not in text


def test_a_filter_that_is_not_installed(path: Path) -> None:
    """Errors of reads tell a missing filter from damage."""
    with pytest.raises(SegueError, match=r"a filter that is not installed .*gzip"), reading(path):
        raise OSError("Can't synchronously read data (required filter 'bzip2' is not registered)")
    with pytest.raises(SegueError, match="the file is damaged"), reading(path):
        raise OSError("Can't synchronously read data (wrong checksum)")


@pytest.mark.parametrize("kind", ["u1", "<u2", "<i4", "<f4", "<i8"])
@pytest.mark.parametrize("odd", [1, 2], ids=["even width", "odd width"])
def test_chunks_of_numbers_are_what_hdf5_writes_and_verifies(tmp_path: Path, kind: str, odd: int) -> None:
    values = np.random.default_rng(0).integers(0, 200, (7, odd, 3)).astype(kind)
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        ours, theirs = (file.create_dataset(name, values.shape, kind, chunks=(4, odd, 3), **CHECKSUM) for name in "ab")
        write_chunk(ours, 0, [values[:1], values[1:4]])
        write_chunk(ours, 4, [values[4:]])  # not full
        theirs[...] = values
    with h5py.File(tmp_path / "chunks.h5") as file:
        np.testing.assert_array_equal(file["a"][...], values)
        for first in (0, 4):
            assert file["a"].id.read_direct_chunk((first, 0, 0)) == file["b"].id.read_direct_chunk((first, 0, 0))


@pytest.mark.parametrize("kind", ["i1", "<i2", "<i4"])
def test_chunks_of_labels_of_any_type_are_read_by_hdf5(tmp_path: Path, kind: str) -> None:
    labels = np.array([-1, 0, 1, np.iinfo(kind).max], kind).repeat(5).reshape(10, 2)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        array = file.create_dataset("labels", labels.shape, "<i4", chunks=(6, 2), **COMPRESSION)
        write_chunk(array, 0, [labels[:2].astype("i1"), labels[2:6]])
        write_chunk(array, 6, [labels[6:]])
        np.testing.assert_array_equal(array[...], labels)


def test_a_chunk_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    chunk = np.arange(8 + CHECKSUM_BYTES, dtype=np.uint8)
    write_checksum(chunk)
    with h5py.File(tmp_path / "chunk.h5", "w") as file:
        array = file.create_dataset("a", (8,), "u1", chunks=(8,), **CHECKSUM)
        array.id.write_direct_chunk((0,), chunk)
        np.testing.assert_array_equal(array[...], chunk[:8])
        chunk[3] ^= 1
        array.id.write_direct_chunk((0,), chunk)
        with pytest.raises(OSError):
            array[...]


def nested(path: Path, levels: int) -> None:
    """Writes groups within groups."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        group = file.id
        for _ in range(levels):
            group = h5py.h5g.create(group, b"g")


@pytest.mark.parametrize(
    "levels", [51, 5_000, pytest.param(40_000, marks=pytest.mark.slow)]
)  # of the last, HDF5 itself runs out of stack
def test_deeply_nested_groups_are_refused(levels: int, tmp_path: Path) -> None:
    nested(tmp_path / "deep.h5", levels)
    assert "is nested in more than 50 groups; copy the arrays into it" in message(tmp_path / "deep.h5")


def test_nested_groups_are_opened(tmp_path: Path) -> None:
    nested(tmp_path / "shallow.h5", 50)
    with open_file(tmp_path / "shallow.h5") as file:
        assert "/".join("g" * 50) in file


@pytest.mark.parametrize(
    ("name", "target"), [("again", "values"), ("group/up", "/"), ("group/self", "group"), ("group/values", "values")]
)
def test_second_names_are_refused(name: str, target: str, path: Path) -> None:
    """A second name of an array, or of a group that contains it, with which a walk through the file would not end."""
    with h5py.File(path, "r+") as file:
        file.create_group("group")
        file[name] = file[target]
    assert "is a second name of a group or array, but a dataset must hold each of them once" in message(path)


@pytest.mark.parametrize("how", ["fixed", "variable", "attribute"])
def test_text_that_is_not_utf8(how: str, path: Path) -> None:
    """Text of another encoding is one sentence, not a traceback."""
    with h5py.File(path, "r+") as file:
        dtype = h5py.string_dtype("utf-8", 4 if how == "fixed" else None)
        file.create_dataset(
            "text", data=np.array([b"\xfc\xdf"], dtype=object if how == "variable" else dtype), dtype=dtype
        )
        file["text"].attrs["unit"] = np.bytes_(b"\xb5m")
    with (
        open_file(path) as file,
        pytest.raises(SegueError, match=r"a\.h5: holds text that is not UTF-8"),
        reading(path),
    ):
        file["text"].attrs["unit"].decode() if how == "attribute" else file["text"].asstr()[()]
