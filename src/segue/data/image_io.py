"""Reads image files: headers for planning, micrographs in the type they were acquired in, and label images.

`READERS` maps a file suffix to its format. To add a format, write its two functions and one entry.

Axes of a TIFF follow its metadata (OME, ImageJ, tifffile) if these name them: channels and color samples become C,
other axes (depth, time) must have length one. Without metadata a plane is (H, W); three axes are (C, H, W) with at most
16 planes, or (H, W, C) if the last has at most four entries.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from segue.data.spec import Layer
from segue.errors import SegueError
from segue.labels import IGNORED
from segue.units import NM_PER_UNIT

MAX_PLANES = 16  # pages without metadata that count as channels; more are a stack or a film
MAX_PAGES = 4096  # pages of a TIFF that its header counts
MAX_LABEL = 2**31 - 1
AXIS_NAMES = {"Z": "planes in depth", "T": "time points", "R": "tiles", "P": "positions", "A": "angles"}
WIDTH, HEIGHT, BITS, SAMPLES = 256, 257, 258, 277  # tags of a TIFF


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, values per pixel (pages of a TIFF counted as such), bits per value."""

    height: int
    width: int
    channels: int
    bits: int


@dataclass(frozen=True)
class Acquisition:
    """What an image file holds.

    image: (C, H, W) in the acquired type. pixel_size_nm: None if the file does not state it. channels: C names as the
    file states them, None if it does not. notes: sentences about what its metadata contradict or leave open.
    """

    image: np.ndarray
    pixel_size_nm: float | None
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A file format. header(path) decodes nothing; read(path) returns (C, H, W) as the file holds it, with the pixel
    size if the file states it. Any exception but SegueError and MemoryError means that the file is corrupt. package:
    what to install if the format needs more than segue itself does."""

    format: str
    header: Callable[[Path], Header]
    read: Callable[[Path], Acquisition]
    package: str = ""


def read_header(path: Path) -> Header:
    """Returns the header of an image file (of a TIFF, of its first page); raises SegueError naming the file."""
    reader = _reader_of(path)
    return _call(reader, reader.header, path)


def read_pixels(path: Path) -> Acquisition:
    """Returns the values (C, H, W) as the file holds them; raises SegueError naming the file."""
    reader = _reader_of(path)
    return _call(reader, reader.read, path)


def read_image(path: Path) -> Acquisition:
    """Returns the image of a file and its pixel size (of ImageJ and OME metadata only).

    Types: integers up to 32 bits and float32 as they are; one-bit images as uint8; float64 and float16 as float32. An
    alpha channel is dropped if it is opaque everywhere. Raises SegueError, one sentence naming the file, if it is
    missing, corrupt, or has axes that do not form an image, a transparent alpha channel, NaN or infinity.
    """
    acquisition = read_pixels(path)
    image = _acquired_type(path, acquisition.image)
    if image.dtype.kind == "f":
        bad = int(image.size - np.count_nonzero(np.isfinite(image)))
        if bad:
            raise SegueError(
                f"{path}: {bad} of {image.size} pixels are NaN or infinite; replace them by measured values, "
                "or leave the image out."
            )
    return replace(acquisition, image=image)


def broken(path: Path, reason: str = "") -> str:
    """Returns the sentence for an image file that cannot be decoded."""
    reader = READERS.get(path.suffix.lower())
    detail = f" ({reason})" if reason else ""
    return (
        f"{path}: the {reader.format if reader else 'image'} file is truncated or corrupt{detail}; copy it again from "
        "its source, or leave it out."
    )


def _reader_of(path: Path) -> Reader:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        *suffixes, last = READERS
        raise SegueError(
            f"{path}: '{path.suffix}' files cannot be read; allowed are {', '.join(suffixes)} and {last}: convert it."
        )
    return reader


def _call(reader: Reader, function: Callable[[Path], Any], path: Path) -> Any:
    """Returns function(path); every error becomes a SegueError that names the file."""
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; correct the path.") from None
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error
    try:
        return function(path)
    except (SegueError, MemoryError):
        raise
    except ImportError as error:
        raise SegueError(
            f"{path}: reading {reader.format} files needs the package {reader.package}, which cannot be imported "
            f"({error}); install it: pip install {reader.package}."
        ) from error
    except Exception as error:  # decoders may raise anything for damaged bytes
        raise SegueError(broken(path)) from error


def _acquired_type(path: Path, pixels: np.ndarray) -> np.ndarray:
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b":
        return pixels.astype(np.uint8)
    if kind == "f":
        return pixels.astype(np.float32)
    if kind in "ui" and size <= 4:
        return pixels.astype(pixels.dtype.newbyteorder("="))
    raise SegueError(
        f"{path}: the pixels are {pixels.dtype}; allowed are integers up to 32 bits and floats: convert it."
    )


# PNG


def _png_header(path: Path) -> Header:
    with PngImageFile(path) as image:  # opened without `Image.open`, which refuses large images
        return _header_of_png(image)


def _header_of_png(image: PngImageFile) -> Header:
    bands, _, depth = str(image.tile[0][3]).partition(";")  # Pillow's raw mode, e.g. "L;4", "RGB;16B", "1"
    bits = 1 if bands == "1" else int(depth.removesuffix("B") or 8)
    return Header(image.height, image.width, 1 if bands in ("1", "I", "P") else len(bands), bits)


def _read_png(path: Path) -> Acquisition:
    """Reads a PNG; values of fewer than eight bits and palette indices stay as they are."""
    with PngImageFile(path) as image:
        bits = _header_of_png(image).bits
        if image.mode == "P" or bits < 8:  # imagecodecs would turn indices into colors and 1 into 255
            pixels = np.asarray(image)
            scale = {2: 85, 4: 17}.get(bits, 1) if image.mode != "P" else 1
            return Acquisition((pixels // scale if scale > 1 else pixels)[None], None)
    return Acquisition(_without_alpha(path, imagecodecs.png_decode(path.read_bytes())), None)


def _without_alpha(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Returns (C, H, W) of (H, W) or (H, W, C)."""
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise SegueError(f"{path}: has an alpha channel that is not opaque; save the image without transparency.")
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


# TIFF


def _tiff_header(path: Path) -> Header:
    """Reads the directories with Pillow, which takes a third of tifffile's time: a plate has ten thousands of files."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow only warns of directories that are cut off
        start = file.read(8)
        if start[2:4] in (b"\x2b\0", b"\0\x2b"):  # BigTIFF
            start += file.read(8)
        directory = ImageFileDirectory_v2(start)
        pages = 0
        tags: dict[int, Any] = {}
        while directory.next and pages < MAX_PAGES:
            file.seek(directory.next)
            directory.load(file)
            if not pages:
                tags = {tag: directory.get(tag) for tag in (WIDTH, HEIGHT, BITS, SAMPLES)}
            pages += 1
    bits = tags[BITS] or (1,)
    return Header(int(tags[HEIGHT]), int(tags[WIDTH]), int(tags[SAMPLES] or 1) * pages, int(bits[0]))


def _read_tiff(path: Path) -> Acquisition:
    import tifffile  # not needed for headers, by which studies are planned

    with tifffile_errors() as errors, tifffile.TiffFile(path) as tiff:
        series = tiff.series
        if len(series) != 1:
            shapes = ", ".join("×".join(map(str, one.shape)) for one in series[:4])
            raise SegueError(
                f"{path}: holds {len(series)} images of different shapes ({shapes}); save one in a separate file."
            )
        shape, axes = series[0].shape, series[0].axes
        _check_axes(path, shape, axes)
        pixels = series[0].asarray()
        pixel_size_nm = pixel_size_of(path, tiff)
    if errors:
        raise SegueError(broken(path, errors[0]))
    return Acquisition(_channels_first(path, pixels, axes), pixel_size_nm)


def _check_axes(path: Path, shape: tuple[int, ...], axes: str) -> None:
    for letter, length in zip(axes, shape, strict=True):
        if letter not in "YXCSQI" and length > 1:
            entries = AXIS_NAMES.get(letter, f"entries along axis {letter}")
            raise SegueError(f"{path}: holds {length} {entries}; save each as a separate image.")


def _channels_first(path: Path, pixels: np.ndarray, axes: str) -> np.ndarray:
    """Returns (C, H, W): axes of length one, other than Y and X, are dropped."""
    is_kept = tuple(letter in "YX" or length > 1 for letter, length in zip(axes, pixels.shape, strict=True))
    index: Any = tuple(slice(None) if keep else 0 for keep in is_kept)
    pixels = pixels[index]
    axes = "".join(letter for letter, keep in zip(axes, is_kept, strict=True) if keep)
    if axes == "YX":
        return pixels[None]
    if axes in ("CYX", "SYX"):
        return pixels
    if axes in ("YXS", "YXC"):
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    if axes in ("QYX", "IYX"):
        if pixels.shape[-1] <= 4 < pixels.shape[0]:
            return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        if len(pixels) <= MAX_PLANES:
            return pixels
    shape = "×".join(map(str, pixels.shape))
    raise SegueError(
        f"{path}: has shape {shape} (axes {axes}), and the file does not state the meaning of the axes; "
        f"save (H, W), (C, H, W) of at most {MAX_PLANES} channels, or (H, W, C) of at most 4."
    )


def pixel_size_of(path: Path, tiff: Any) -> float | None:
    """Returns the pixel size in nm that the metadata of an open `tifffile.TiffFile` give (ImageJ and OME), or None."""
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ").lower()
        tags = tiff.pages[0].tags
        if unit not in NM_PER_UNIT or "XResolution" not in tags or "YResolution" not in tags:
            return None
        sizes = [tags[name].value[1] / tags[name].value[0] for name in ("XResolution", "YResolution")]
        return _square(path, *(size * NM_PER_UNIT[unit] for size in sizes))
    if tiff.is_ome:
        elements = ElementTree.fromstring(tiff.ome_metadata).iter()
        pixels = next((element.attrib for element in elements if element.tag.endswith("}Pixels")), {})
        sizes = [_ome_nm(pixels, axis) for axis in "XY"]
        return None if sizes[0] is None or sizes[1] is None else _square(path, sizes[0], sizes[1])
    return None


def _ome_nm(pixels: Mapping[str, str], axis: str) -> float | None:
    unit = pixels.get(f"PhysicalSize{axis}Unit", "µm").lower()
    size = pixels.get(f"PhysicalSize{axis}")
    return None if size is None or unit not in NM_PER_UNIT else float(size) * NM_PER_UNIT[unit]


def _square(path: Path, width_nm: float, height_nm: float) -> float:
    if abs(width_nm - height_nm) > 0.01 * width_nm:
        size = f"{width_nm:g} × {height_nm:g} nm"
        raise SegueError(f"{path}: its metadata give pixels of {size}; segue needs square pixels: resample it.")
    return width_nm


@contextlib.contextmanager
def tifffile_errors() -> Iterator[list[str]]:
    """Collects the errors that tifffile only logs, such as a page lost by truncation, instead of printing them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                text = re.sub(r"<[^>]*>", "", record.getMessage())
                messages.append(re.sub(r"\s+", " ", text).strip()[:100])

    logger, handler = logging.getLogger("tifffile"), Collector()
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


READERS: dict[str, Reader] = {
    ".png": Reader("PNG", _png_header, _read_png),
    ".tif": Reader("TIFF", _tiff_header, _read_tiff),
    ".tiff": Reader("TIFF", _tiff_header, _read_tiff),
}
TIFF_SUFFIXES = tuple(suffix for suffix, reader in READERS.items() if reader.format == "TIFF")


# label images


def read_labels(
    path: Path, layer: Layer, *, shape: tuple[int, int], values: Mapping[int, int] | None = None
) -> np.ndarray:
    """Returns (H, W) int32 labels of an image file; `shape` (H, W) is that of its image.

    `values` replaces values of the file by labels, e.g. {255: 1} for masks of 0 and 255, or {255: -1} where 255 means
    ignored. Raises SegueError, one sentence naming the file, for another shape, colors, fractions, values below -1 and
    classes that the layer does not name.
    """
    pixels = read_pixels(path).image
    if len(pixels) != 1:
        raise SegueError(
            f"{path}: is an image of {len(pixels)} channels, a picture of labels; "
            "save the labels themselves: one channel, whose values are classes or objects."
        )
    labels = pixels[0]
    if labels.shape != shape:
        raise SegueError(
            f"{path}: the label image is {labels.shape[0]} × {labels.shape[1]} px, but its image is "
            f"{shape[0]} × {shape[1]} px; they must have the same size: check the pair."
        )
    return _checked(path, _to_int32(path, labels), layer, values or {})


def _to_int32(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind == "f":
        odd = ~(labels == np.round(labels))  # also true for NaN
        if odd.any():
            raise SegueError(
                f"{path}: {int(odd.sum())} labels are not whole numbers (the first is {labels[odd][0]:g}); "
                "save labels as integers."
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
            f"({', '.join(layer.names)}); name them in `names`, or map them with `values`."
        )
    return labels
