"""Reads image files: headers for planning, micrographs in the type they were acquired in, and label images.

`READERS` maps a file suffix to its format. To add a format, write its reader in `formats` and one entry.

Readers give pixels as a viewer shows them: whatever a file says of them is taken into account or refused by its name
(`formats/tiff_tags.py`, `formats/png.py`, `formats/jpeg.py`). Label images keep the numbers that the file stores.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.array_files import HDF5, N5, NUMPY, ZARR, ArrayReader
from segue.data.formats.bmp import BMP
from segue.data.formats.instruments.czi import CZI
from segue.data.formats.instruments.dm import DM
from segue.data.formats.instruments.emd import EMD
from segue.data.formats.instruments.lif import LIF
from segue.data.formats.instruments.mrc import MRC
from segue.data.formats.instruments.nikon import ND2
from segue.data.formats.instruments.oir import OIR
from segue.data.formats.instruments.ser import SER
from segue.data.formats.jpeg import JPEG
from segue.data.formats.png import PNG
from segue.data.formats.stack import (
    AXIS_OF_PAGES,
    AXIS_WORDS,
    Acquisition,
    Color,
    Header,
    Pages,
    Reader,
    Stack,
    UnsupportedError,
    arrange,
    page_axis,
)
from segue.data.formats.tiff import TIFF, is_white_is_zero, read_tiff_page
from segue.data.spec import ANNOTATIONS, Layer
from segue.errors import SegueError
from segue.labels import IGNORED
from segue.storage import placeholder

MAX_LABEL = 2**31 - 1
MAX_ROUNDING = 1e-3  # of an image's contrast, by numbers that float32 does not hold

READERS: dict[str, Reader] = {
    ".png": PNG,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".bmp": BMP,
    ".lsm": TIFF,
    ".stk": TIFF,
    ".czi": CZI,
    ".lif": LIF,
    ".oir": OIR,
    ".nd2": ND2,
    ".mrc": MRC,
    ".mrcs": MRC,
    ".dm3": DM,
    ".dm4": DM,
    ".ser": SER,
    ".emd": EMD,
}
ARRAY_READERS: dict[str, ArrayReader] = {  # of label images alone
    ".npy": NUMPY,
    ".npz": NUMPY,
    ".h5": HDF5,
    ".hdf5": HDF5,
    ".zarr": ZARR,
    ".n5": N5,
}
TIFF_SUFFIXES = tuple(suffix for suffix, reader in READERS.items() if reader is TIFF)

# the first bytes of a file, by its format: a file of another format is not called damaged
SIGNATURES: Mapping[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG": (b"\xff\xd8\xff",),
    "BMP": (b"BM",),
    "CZI": (b"ZISRAWFI",),
    "LIF": (b"\x70\0\0\0",),
    "OIR": (b"OLYMPUSR",),
    "ND2": (b"\xda\xce\xbe\x0a", b"\0\0\0\x0cjP  "),
    "DM3 or DM4": (b"\0\0\0\3", b"\0\0\0\4"),
    "SER": (b"II\x97\x01",),
    "EMD": (b"\x89HDF\r\n\x1a\n",),
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "NumPy": (b"\x93NUMPY", b"PK\3\4"),
}


def read_header(path: Path) -> Header:
    """Returns the header of an image file (of a TIFF, of its first page); raises SegueError naming the file."""
    reader = _reader_of(path)
    return _call(reader, path, lambda: reader.header(path))


def read_image(
    path: Path, *, pages: Pages | None = None, page: int | None = None, color: Color | None = "rgb"
) -> Acquisition:
    """Returns an image of a file, with pixel size and channel names as far as the file states them.

    pages: what the pages of the file are: channels of one image, or an image each along "time" or "z", of which `page`
    is read. color: whether red, green and blue become three channels ("rgb") or their luma ("gray"); None asks.

    Types: see `acquired_dtype`; a note tells if float32 rounds what the image shows. Raises SegueError, one sentence
    naming the file, if it is missing or damaged, holds what is not read or not an image (`formats`), has several pages
    or colors and is not told what they are, for NaN or infinity, and for numbers beyond those of its type.
    """
    reader = _reader_of(path)
    read = lambda: arrange(path, reader.read(path, False), pages=pages, page=page, color=color)  # noqa: E731
    acquisition = _call(reader, path, read)
    pixels = acquisition.image
    if pixels.dtype.kind == "f":
        bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        if bad:
            raise SegueError(
                f"{path}: {bad} of {pixels.size} pixels are NaN or infinite; replace them by measured values, "
                "or leave the image out."
            )
    image = to_acquired(path, pixels)
    return replace(acquisition, image=image, notes=(*acquisition.notes, *rounding_notes(pixels, image)))


def read_stack(path: Path, *, labels: bool = False) -> Stack:
    """Returns the pixels of a file before its axes are arranged, without decoding them if the format allows it."""
    reader = _reader_of(path)
    return _call(reader, path, lambda: reader.read(path, labels))


def read_page(path: Path, index: int) -> np.ndarray:
    """Returns page `index` of a TIFF as a viewer shows it: (H, W), or (H, W, C) and (C, H, W) of several samples."""
    reader = _reader_of(path)
    if reader is not TIFF:
        raise SegueError(f"{path}: page {index} is asked for, but {reader.format} files have no pages; leave it out.")
    return _call(reader, path, lambda: read_tiff_page(path, index))


def count_pages(path: Path, pages: Pages | None) -> int | None:
    """Returns the number of images that a file holds along `pages` "time" or "z", None if it is a single image."""
    if _reader_of(path).single:
        return None
    stack = read_stack(path)
    axis = page_axis(path, stack, pages)
    return None if axis is None else int(stack.pixels.shape[axis])


def read_channel_names(path: Path) -> tuple[str, ...] | None:
    """Returns the names of the channels of a file as it states them, None if it states none."""
    return None if _reader_of(path).single else read_stack(path).channels


def broken(path: Path, reason: str = "") -> str:
    """Returns the sentence for an image file that cannot be decoded."""
    suffix = path.suffix.lower()
    reader = READERS.get(suffix) or ARRAY_READERS.get(suffix)
    detail = f" ({reason})" if reason else ""
    return (
        f"{path}: the {reader.format if reader else 'image'} file is truncated or corrupt{detail}; copy it again from "
        "its source, or leave it out."
    )


def not_decoded(path: Path, reader_format: str, error: Exception) -> str:
    """Returns the sentence for an error of a decoder, with the decoder's words."""
    words = re.sub(r"<[^<>]*/[^<>]*>|\s+", " ", str(error)).strip()[:200] or type(error).__name__
    if isinstance(error, (UnsupportedError, NotImplementedError)) or UNSUPPORTED.search(str(error)):
        return (
            f"{path}: this way of storing pixels in a {reader_format} file is not read ({words}); save it another way."
        )
    signatures = SIGNATURES.get(reader_format, ())
    start = _start(path)
    if start and signatures and not any(start[: len(one)] == one[: len(start)] for one in signatures):
        other = next((name for name, ones in SIGNATURES.items() if start.startswith(ones)), None)
        content = f"is a {other} file" if other else "is no image of a known format"
        return f"{path}: {content}, in spite of its suffix '{path.suffix}'; rename it, or leave it out."
    return broken(path, words)


UNSUPPORTED = re.compile(r"not supported|unsupported|not implemented|cannot handle|requires the|unknown compression")


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""


def _reader_of(path: Path, allowed: Sequence[str] = tuple(READERS)) -> Reader:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        *suffixes, last = allowed
        raise SegueError(
            f"{path}: '{path.suffix}' files cannot be read; allowed are {', '.join(suffixes)} and {last}: convert it."
        )
    return reader


def _call(reader: Reader | ArrayReader, path: Path, function: Callable[[], Any]) -> Any:
    """Returns function(); every error becomes a SegueError that names the file."""
    try:
        mode = path.stat().st_mode
        if isinstance(reader, ArrayReader) and reader.is_folder:
            if not stat.S_ISDIR(mode):
                raise SegueError(f"{path}: is no folder, as {reader.format} is; give the path of its folder.")
            return _decode(reader, path, function)
        if not stat.S_ISREG(mode):  # a device could be read without end; to open a pipe waits for its writer
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise SegueError(f"{path}: is {kind}; give the path of an image file.")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; correct the path.") from None
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error
    absent = placeholder(path)
    if absent:
        raise SegueError(f"{path}: {absent}.")
    return _decode(reader, path, function)


def _decode(reader: Reader | ArrayReader, path: Path, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (SegueError, MemoryError):
        raise
    except ImportError as error:
        package = reader.package or "imagecodecs"
        command = "pip install 'segue[formats]'" if reader.package else f"pip install {package}"
        raise SegueError(
            f"{path}: reading this {reader.format} file needs the package {package}, which cannot be imported "
            f"({error}); install it: {command}."
        ) from error
    except Exception as error:  # decoders may raise anything for damaged bytes
        raise SegueError(not_decoded(path, reader.format, error)) from error


def acquired_dtype(path: Path, dtype: np.dtype) -> np.dtype:
    """Returns the type in which pixels of a file are used: integers up to 32 bits and float32 as they are.

    Booleans become uint8, float16 and float64 float32, integers of 64 bits those of 32 (`to_acquired` checks them).
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "ui":
        return dtype.newbyteorder("=") if dtype.itemsize <= 4 else np.dtype(f"{dtype.kind}4")
    raise SegueError(f"{path}: the pixels are {dtype}; allowed are integers and floats: convert it.")


def to_acquired(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels in `acquired_dtype`; raises SegueError for numbers beyond it. NaN and infinity stay."""
    dtype = acquired_dtype(path, pixels.dtype)
    if pixels.dtype.itemsize > dtype.itemsize:
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        beyond = (pixels < limits.min) | (pixels > limits.max)
        if dtype.kind == "f":
            beyond &= np.isfinite(pixels)
        if beyond.any():
            raise SegueError(
                f"{path}: {int(beyond.sum())} of {pixels.size} pixels are beyond {limits.max:.2g}, the largest number "
                f"of {dtype}, such as {pixels[beyond][0]:.4g}; divide them by a constant, the same in all images."
            )
    return pixels.astype(dtype, copy=False)


def rounding_notes(pixels: np.ndarray, image: np.ndarray) -> tuple[str, ...]:
    """Returns a note if `image`, float32, does not hold what the floats of a file show."""
    if pixels.dtype.kind != "f" or pixels.dtype.itemsize <= image.dtype.itemsize or not np.isfinite(pixels).all():
        return ()
    error, contrast = np.abs(pixels - image).max(), np.ptp(pixels)
    is_whole = error > 0 and bool((pixels == np.round(pixels)).all())
    if not is_whole and (error <= MAX_ROUNDING * contrast or contrast == 0):
        return ()
    return (f"{pixels.dtype} values are rounded to float32 by up to {error:.2g}; subtract an offset, or scale them",)


# label images


def read_labels(
    path: Path,
    layer: Layer,
    *,
    shape: tuple[int, int],
    values: Mapping[int, int] | None = None,
    array: str | None = None,
    page: int | None = None,
    count: int = 1,
    pages: Pages | None = None,
    inverted: bool = False,
) -> np.ndarray:
    """Returns (H, W) int32 labels of an image file; `shape` (H, W) is that of its image.

    page: the page to read where the image is one of `count` pages of its file; the label file must have as many, of
    time or depth as `pages` says, if it states what they are.
    inverted: 0 and 1 of a mask change places (`is_inverted_mask`). array: the path of the labels inside of a file of
    several arrays.

    `values` replaces values of the file by labels, e.g. {255: 1} for masks of 0 and 255, or {255: -1} where 255 means
    ignored. Raises SegueError, one sentence naming the file, for another shape, colors, fractions, values below -1 and
    classes that the layer does not name.
    """
    labels = _read_label_stack(path, array, lambda stack: _label_plane(path, stack, page, count, pages))
    if labels.shape != shape:
        raise SegueError(
            f"{path}: the label image is {labels.shape[0]} × {labels.shape[1]} px, but its image is "
            f"{shape[0]} × {shape[1]} px; they must have the same size: check the pair."
        )
    labels = to_labels(path, labels)
    return _checked(path, 1 - labels if inverted else labels, layer, values or {})


def _read_label_stack(path: Path, array: str | None, function: Callable[[Stack], np.ndarray]) -> np.ndarray:
    """Returns function of the numbers that a file stores."""
    arrays = ARRAY_READERS.get(path.suffix.lower())
    if arrays is not None:
        return _call(arrays, path, lambda: function(arrays.read(path, array)))
    if array is not None:
        raise SegueError(
            f"{path}: array = '{array}' is asked for, which files of {', '.join(ARRAY_READERS)} have; leave it out."
        )
    reader = _reader_of(path, (*READERS, *ARRAY_READERS, *ANNOTATIONS))
    return _call(reader, path, lambda: function(reader.read(path, True)))


def read_label_pages(path: Path) -> np.ndarray:
    """Returns the label images of a file, (N, H, W) int32, one per page, with the numbers that the file stores.

    Raises SegueError, one sentence naming the file, if it cannot be read, for colors, pages along several axes,
    fractions, and numbers beyond `MAX_LABEL`.
    """
    return to_labels(path, _read_label_stack(path, None, lambda stack: _label_pages(path, stack)))


def is_inverted_mask(label: Path, image: Path) -> bool | None:
    """Returns whether 1 is the background of a one-bit mask marked WhiteIsZero; None if `label` is no such mask.

    The mark is ambiguous: programs that show masks write 0 for white, the foreground; tifffile writes every boolean
    array with this mark, and 1 for True. A mask is taken to be inverted if its image has the mark too, so that one
    program wrote both to be looked at; else its stored numbers are the labels. Both must be told.
    """

    def has_mark(path: Path, bits: int | None) -> bool:
        return READERS.get(path.suffix.lower()) is TIFF and _call(TIFF, path, lambda: is_white_is_zero(path, bits=bits))

    return has_mark(image, None) if has_mark(label, 1) else None


def _page_lengths(path: Path, stack: Stack) -> dict[str, int]:
    """Returns the lengths of the axes of pages that are longer than one; raises SegueError for channels."""
    lengths = {letter: n for letter, n in zip(stack.axes, stack.pixels.shape, strict=True) if letter not in "YX"}
    planes = {letter: n for letter, n in lengths.items() if n > 1}
    if any(letter in "SC" for letter in planes):
        raise SegueError(
            f"{path}: is an image of {max(planes.values())} channels, a picture of labels; "
            "save the labels themselves: one channel, whose values are classes or objects."
        )
    return planes


def _label_pages(path: Path, stack: Stack) -> np.ndarray:
    """Returns (N, H, W) of a stack."""
    pages = _page_lengths(path, stack)
    if len(pages) > 1:
        shape = " × ".join(map(str, pages.values()))
        raise SegueError(f"{path}: holds {shape} pages of labels; save those along one axis as a file.")
    index = tuple(slice(None) if letter in "YX" or letter in pages else 0 for letter in stack.axes)
    left = [letter for letter in stack.axes if letter in "YX" or letter in pages]
    pixels = np.asarray(stack.pixels[index]).transpose([left.index(letter) for letter in (*pages, "Y", "X")])
    return pixels if pages else pixels[None]


def _label_plane(path: Path, stack: Stack, page: int | None, count: int, pages: Pages | None) -> np.ndarray:
    """Returns (H, W) of a stack: its only plane, or `page` of `count`."""
    lengths = _page_lengths(path, stack)
    planes = list(lengths)
    total = int(np.prod(list(lengths.values()), initial=1))
    if total != count or len(planes) > 1:
        raise SegueError(
            f"{path}: holds {total} page(s) of labels, but its image has {count}; labels need a page for each image."
        )
    stated = None if pages is None else AXIS_OF_PAGES[pages]
    if planes and stated is not None and planes[0] not in ("Q", stated):
        raise SegueError(
            f"{path}: holds {count} {AXIS_WORDS.get(planes[0], planes[0])} according to its metadata, but its image "
            f"has {count} {AXIS_WORDS[stated]}; correct the metadata of one, or check the pair."
        )
    index = tuple(slice(None) if letter in "YX" else page if letter in planes else 0 for letter in stack.axes)
    plane = np.asarray(stack.pixels[index])
    return plane if stack.axes.index("Y") < stack.axes.index("X") else plane.T


def to_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    """Returns labels of a file as int32; raises SegueError for fractions and for numbers beyond `MAX_LABEL`."""
    if labels.dtype.kind == "f":
        odd = ~(labels == np.round(labels))  # also true for NaN
        if odd.any():
            raise SegueError(
                f"{path}: {int(odd.sum())} labels are not whole numbers (the first is {labels[odd][0]}); "
                "round them, and save labels as integers."
            )
    if labels.size and (labels.max() > MAX_LABEL or labels.min() < -MAX_LABEL):
        raise SegueError(f"{path}: holds the label {labels.max()}; the highest allowed is {MAX_LABEL}: relabel it.")
    return labels.astype(np.int32)


def _checked(path: Path, labels: np.ndarray, layer: Layer, values: Mapping[int, int]) -> np.ndarray:
    if values:
        present, index = np.unique(labels, return_inverse=True)
        mapped = [values.get(int(value), int(value)) for value in present]
        labels = np.array(mapped, dtype=np.int32)[index].reshape(labels.shape)
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < IGNORED:
        raise SegueError(f"{path}: holds the label {lowest}; below 0 only {IGNORED} (ignored) is allowed: correct it.")
    if layer.kind == "classes" and highest >= len(layer.names):
        unnamed = [int(v) for v in np.unique(labels) if v >= len(layer.names)]
        listed = ", ".join(map(str, unnamed[:5])) + (", …" if len(unnamed) > 5 else "")
        raise SegueError(
            f"{path}: holds the class value(s) {listed}, but only 0 to {len(layer.names) - 1} are named "
            f"({', '.join(layer.names)}); name them in `names`, or map them with `values`; if they number objects, set "
            'kind = "instances".'
        )
    return labels
