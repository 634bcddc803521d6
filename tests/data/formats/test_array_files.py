"""Label images in NumPy, HDF5, Zarr and N5: which array is read, its axes, pages, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import pytest
import zarr
from samples.folders import make_folder, make_spec

import segue
from segue.data.formats.n5 import N5Array, decompress, find_n5, open_n5
from segue.data.image_io import read_label_pages, read_labels
from segue.data.prepare import prepare
from segue.data.sources import labeled_images
from segue.data.spec import Layer
from segue.errors import SegueError

LAYER = Layer("cells", "instances", ("background", "cell"))
LABELS = np.arange(12, dtype=np.int32).reshape(3, 4)
TAGS = {"axes": [{"key": axis} for axis in "yxc"]}


def write_npy(path: Path) -> None:
    np.save(path, LABELS)


def write_npz(path: Path) -> None:
    np.savez(path, masks=LABELS, flows=np.zeros((2, 3, 4), np.float32))


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["exported_data"] = LABELS[:, :, None].astype(np.uint8)
        file["exported_data"].attrs["axistags"] = json.dumps(TAGS)  # type: ignore[union-attr]
        file["other"] = np.zeros((5, 5))


def write_zarr(path: Path) -> None:
    zarr.save_array(path, LABELS.astype(np.uint16))


def write_n5(path: Path, values: np.ndarray = LABELS, block: tuple[int, ...] = (2, 3), **attributes: Any) -> None:
    """Writes an array as N5, axes in reverse, big-endian, gzip."""
    path.mkdir(parents=True)
    sizes = list(reversed(values.shape))
    content = {"dimensions": sizes, "blockSize": list(block), "dataType": str(values.dtype), **attributes}
    (path / "attributes.json").write_text(json.dumps({"compression": {"type": "gzip"}, **content}))
    blocks = tuple(reversed(block))
    for place in np.ndindex(*(-(-side // step) for side, step in zip(values.shape, blocks, strict=True))):
        part = values[tuple(slice(p * step, (p + 1) * step) for p, step in zip(place, blocks, strict=True))]
        data = part.astype(part.dtype.newbyteorder(">")).tobytes()
        if part.any():  # blocks of zeros are not written
            file = path.joinpath(*map(str, reversed(place)))
            file.parent.mkdir(parents=True, exist_ok=True)
            head = struct.pack(f">HH{part.ndim}I", 0, part.ndim, *reversed(part.shape))
            file.write_bytes(head + bytes(imagecodecs.gzip_encode(data)))


WRITERS = {".npy": write_npy, ".npz": write_npz, ".h5": write_h5, ".zarr": write_zarr, ".n5": write_n5}


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_array_of_labels_is_read(suffix: str, tmp_path: Path):
    """The only array, ilastik's `exported_data` or the one called `masks`; the channel of length one goes."""
    WRITERS[suffix](tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_labels(tmp_path / f"a{suffix}", LAYER, shape=(3, 4)), LABELS)


def test_arrays_by_their_path(tmp_path: Path):
    """`array` names one of several; without it, or with another name, all are listed."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["first/labels"], file["second"] = LABELS, LABELS + 1
    read = lambda array: read_labels(tmp_path / "a.h5", LAYER, shape=(3, 4), array=array)  # noqa: E731
    np.testing.assert_array_equal(read("/second"), LABELS + 1)
    np.testing.assert_array_equal(read("first/labels"), LABELS)
    with pytest.raises(SegueError, match=r"a\.h5: holds several arrays \(first/labels, second\); say which one"):
        read(None)
    with pytest.raises(SegueError, match=r"a\.h5: has no array 'third'; it holds first/labels, second"):
        read("third")
    write_zarr(tmp_path / "a.zarr" / "deep" / "labels")
    labels = read_labels(tmp_path / "a.zarr", LAYER, shape=(3, 4), array="deep/labels")
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(SegueError, match="array = 'x' is asked for, which files of"):
        read_labels(tmp_path / "a.tif", LAYER, shape=(3, 4), array="x")


def test_pages_of_volumes(tmp_path: Path):
    """The first of three axes is of pages, also in N5, whose axes are in reverse."""
    volume = np.arange(60, dtype=np.uint16).reshape(5, 3, 4)
    np.save(tmp_path / "a.npy", volume)
    write_n5(tmp_path / "a.n5" / "labels", volume, (3, 2, 2))
    for name in ("a.npy", "a.n5"):
        np.testing.assert_array_equal(read_label_pages(tmp_path / name), volume)
        page = read_labels(tmp_path / name, LAYER, shape=(3, 4), page=3, count=5, pages="z")
        np.testing.assert_array_equal(page, volume[3])
    assert find_n5(tmp_path / "a.n5") == ["labels"]
    array = N5Array(tmp_path / "a.n5" / "labels")
    np.testing.assert_array_equal(array[1:4, 2, 1:], volume[1:4, 2, 1:])


def multiset(labels: np.ndarray) -> bytes:
    """Returns a block of Paintera's label multisets, each of one label that is there once."""
    distinct, which = np.unique(labels, return_inverse=True)
    offsets = (16 * which).astype(">i4").tobytes()
    lists = b"".join(struct.pack("<iQi", 1, int(label), 1) for label in distinct)
    return struct.pack(">i", 0) + offsets + lists


def test_sources_of_paintera(tmp_path: Path):
    """Label multisets give their labels, fragments the segments that they were joined to, invalid pixels −1."""
    source = tmp_path / "a.n5" / "volumes" / "cells"
    labels = np.array([[1, 2, 7], [0, 2, 2**64 - 2]], np.uint64)
    write_n5(source / "fragment-segment-assignment", np.array([[2, 7], [9, 9]], np.uint64), (2, 2))
    (source / "attributes.json").write_text(json.dumps({"painteraData": {"type": "label"}}))
    data = source / "data" / "s0"
    data.mkdir(parents=True)
    attributes = {"dimensions": [3, 2], "blockSize": [3, 2], "dataType": "uint8", "isLabelMultiset": True}
    (data / "attributes.json").write_text(json.dumps({**attributes, "compression": {"type": "raw"}}))
    content = multiset(labels)
    (data / "0").mkdir()
    (data / "0" / "0").write_bytes(struct.pack(">HHIII", 1, 2, 3, 2, len(content)) + content)
    expected = [[1, 9, 9], [0, 9, -1]]
    np.testing.assert_array_equal(open_n5(tmp_path / "a.n5", "volumes/cells")[...], expected)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.n5", LAYER, shape=(2, 3)), expected)


@pytest.mark.parametrize("kind", ["raw", "gzip", "bzip2", "xz", "zstd", "blosc", "lz4"])
def test_compressions_of_n5(kind: str):
    """Every codec of N5 gives the bytes back; LZ4 as lz4-java frames it, compressed and not."""
    data = bytes(range(256)) * 5
    if kind == "lz4":
        packed = bytes(imagecodecs.lz4_encode(data))
        frames = [(0x20, packed, data), (0x10, data[:7], data[:7]), (0x10, b"", b"")]
        stream = b"".join(
            struct.pack("<8sBiiI", b"LZ4Block", token, len(part), len(whole), 0) + part for token, part, whole in frames
        )
        assert decompress(stream, {"compression": {"type": "lz4"}}) == data + data[:7]
        return
    import bz2
    import gzip
    import lzma

    encode = {
        "raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress,
        "zstd": imagecodecs.zstd_encode, "blosc": imagecodecs.blosc_encode,
    }[kind]  # fmt: skip
    assert decompress(bytes(encode(data)), {"compression": {"type": kind}}) == data
    if kind == "gzip":
        import zlib

        assert decompress(zlib.compress(data), {"compression": {"type": "gzip", "useZlib": True}}) == data
        assert decompress(gzip.compress(data), {"compressionType": "gzip"}) == data


def test_what_holds_no_labels_is_refused(tmp_path: Path):
    """Pickled objects, colors, one dimension and damaged files are told by one sentence each."""
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    np.save(tmp_path / "line.npy", np.arange(4))
    np.savez(tmp_path / "several.npz", a=LABELS, b=LABELS)
    (tmp_path / "text.npy").write_text("labels")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "empty.n5").mkdir()
    (tmp_path / "file.zarr").write_text("")
    write_n5(tmp_path / "odd.n5", compression={"type": "jpeg"})
    for name, message in {
        "pickled.npy": "holds pickled objects, which are not opened",
        "line.npy": "holds 4 of int64; allowed are integers",
        "several.npz": "holds several arrays",
        "text.npy": "is no image of a known format, in spite of its suffix",
        "cut.h5": "the HDF5 file is truncated or corrupt",
        "empty.n5": "holds no array of labels",
        "file.zarr": "is no folder, as Zarr is",
        "odd.n5": "this way of storing pixels in a N5 file is not read",
        "none.npy": "there is no such file",
    }.items():
        with pytest.raises(SegueError, match=message):
            read_labels(tmp_path / name, LAYER, shape=(3, 4))


@pytest.mark.parametrize("suffix", [".npy", ".zarr", ".n5"])
def test_folders_that_are_files_pair_with_images(suffix: str, tmp_path: Path):
    """`segue prepare` takes them by pattern as other label images, and notices a change inside of them."""
    folder = make_folder(tmp_path, count=2)
    plain = make_spec()
    prepare(plain, tmp_path / "plain.h5", root=folder)
    for image in sorted((folder / "labels").glob("*.png")):
        labels = read_label_pages(image)[0]
        path = folder / "arrays" / f"{image.stem}{suffix}"
        path.parent.mkdir(exist_ok=True)
        if suffix == ".n5":
            write_n5(path, labels, (16, 16))
        else:
            (np.save if suffix == ".npy" else zarr.save_array)(path, labels)
    spec = make_spec(labels={"files": f"arrays/{{stem}}{suffix}"})
    prepare(spec, tmp_path / "out.h5", root=folder)
    with segue.Dataset(tmp_path / "plain.h5") as first, segue.Dataset(tmp_path / "out.h5") as second:
        indices = np.arange(first.count)
        for one, other in zip(
            *(labeled_images(data, indices, layer="labels") for data in (first, second)), strict=True
        ):
            np.testing.assert_array_equal(one[1], other[1])
