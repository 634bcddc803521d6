"""The size of an image from its file's header alone, without decoding and without NumPy: for planning.

Reads micrographs: TIFF and PNG files as (C, H, W) arrays in the type they were acquired in.

Which axis is what, in a TIFF: by its metadata (OME, ImageJ, tifffile) where that says so; channels and colour samples
become C, other axes (depth, time) must have length one. Without metadata a plane is (H, W); three axes are (C, H, W),
at most 16 planes, or (H, W, C) when the last has at most four.


Reads label images: classes or instances, as int32 with 0 background and -1 ignored."""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import tifffile

from segue.data.spec import Layer
from segue.errors import SegueError
from segue.labels import IGNORED

PNG_SUFFIXES = (".png",)
TIFF_SUFFIXES = (".tif", ".tiff")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> values per pixel; 3 is a palette
PALETTE = 3


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, values per pixel (pages of a TIFF counted as such), bits per value."""

    height: int
    width: int
    channels: int
    bits: int
    palette: bool = False


def read_header(path: Path) -> Header:
    """Returns the header of a PNG or TIFF file (of a TIFF, its first page); raises SegueError naming the file."""
    suffix = path.suffix.lower()
    if suffix not in (*PNG_SUFFIXES, *TIFF_SUFFIXES):
        raise SegueError(f"{path}: '{path.suffix}' files cannot be read; allowed are .png, .tif and .tiff: convert it.")
    try:
        with path.open("rb") as file:
            return _png(file) if suffix in PNG_SUFFIXES else _tiff(file)
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; correct the path.") from None
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error
    except (struct.error, ValueError, KeyError) as error:
        raise SegueError(broken(path)) from error


def broken(path: Path, reason: str = "") -> str:
    """Returns the sentence for an image file that cannot be decoded."""
    kind = "PNG" if path.suffix.lower() in PNG_SUFFIXES else "TIFF"
    detail = f" ({reason})" if reason else ""
    return f"{path}: the {kind} file is truncated or corrupt{detail}; copy it again from its source, or leave it out."


def _png(file: BinaryIO) -> Header:
    start = file.read(26)
    if start[:8] != PNG_SIGNATURE or start[12:16] != b"IHDR":
        raise ValueError("no PNG signature")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    return Header(height, width, PNG_CHANNELS[colour], bits, colour == PALETTE)


def _tiff(file: BinaryIO) -> Header:
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    big = {42: False, 43: True}[_one(file, order, "H")]
    if big:
        file.seek(8)
    place = _one(file, order, "Q" if big else "I")
    first, place = _page(file, place, order, big)
    pages = 1
    while place and pages < 4096:
        _, place = _page(file, place, order, big)
        pages += 1
    samples = first.get(277, 1)
    return Header(first[257], first[256], samples * pages, first.get(258, 1))


def _page(file: BinaryIO, place: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """Returns the first value of each short numeric tag of the page at `place`, and where the next page is."""
    file.seek(place)
    count = _one(file, order, "Q" if big else "H")
    size, offset = (20, 12) if big else (12, 8)
    entries = file.read(count * size)
    if len(entries) < count * size:
        raise ValueError("tags cut off")
    next_page = _one(file, order, "Q" if big else "I")
    tags = {}
    for index in range(count):
        entry = entries[index * size : (index + 1) * size]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        number = struct.unpack(order + ("Q" if big else "I"), entry[4:offset])[0]
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None:
            continue
        width = struct.calcsize(letter)
        if number * width <= size - offset:
            tags[tag] = struct.unpack(order + letter, entry[offset : offset + width])[0]
        elif tag == 258:  # bits of each sample do not fit the entry: they stand elsewhere
            file.seek(struct.unpack(order + ("Q" if big else "I"), entry[offset:])[0])
            tags[tag] = _one(file, order, letter)
    return tags, next_page


def _one(file: BinaryIO, order: str, letter: str) -> int:
    return struct.unpack(order + letter, file.read(struct.calcsize(letter)))[0]


MAX_PLANES = 16  # pages without metadata that are taken for channels; more are a stack or a film
NM_PER_UNIT = {"nm": 1, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "mm": 1e6, "cm": 1e7, "m": 1e9,
               "å": 0.1, "pm": 1e-3, "inch": 2.54e7}  # fmt: skip
AXIS_NAMES = {"Z": "planes in depth", "T": "time points", "R": "tiles", "P": "positions", "A": "angles"}


@dataclass(frozen=True)
class Acquisition:
    """What an image file holds: image (C, H, W) in the acquired type, and the pixel size where the file says it."""

    image: np.ndarray
    pixel_size_nm: float | None


def read_image(path: Path) -> Acquisition:
    """Returns the image of a TIFF or PNG file and its pixel size (ImageJ and OME metadata only).

    Types: integers up to 32 bits and float32 as they are; one-bit images as uint8; float64 and float16 as float32.
    An alpha channel is dropped when it is opaque everywhere. Raises SegueError, one sentence naming the file, when it
    is missing, corrupt, has axes that are no image, a see-through alpha channel, NaN or infinity.
    """
    pixels, pixel_size_nm = read_pixels(path)
    image = _acquired_type(path, pixels)
    if image.dtype.kind == "f":
        bad = int(image.size - np.count_nonzero(np.isfinite(image)))
        if bad:
            raise SegueError(
                f"{path}: {bad} of {image.size} pixels are NaN or infinite; replace them by measured values, "
                "or leave the image out."
            )
    return Acquisition(image, pixel_size_nm)


def read_pixels(path: Path) -> tuple[np.ndarray, float | None]:
    """Returns the decoded values (C, H, W) as the file holds them, and the pixel size in nm or None."""
    header = read_header(path)
    if path.suffix.lower() in PNG_SUFFIXES:
        return _without_alpha(path, _decode_png(path, header)), None
    return _decode_tiff(path)


def mean_and_std(image: np.ndarray) -> np.ndarray:
    """Returns (C, 2) float32: the mean and standard deviation of each channel of (C, H, W), summed in float64."""
    flat = image.reshape(len(image), -1)
    mean = flat.mean(axis=1, dtype=np.float64)
    return np.stack([mean, flat.std(axis=1, dtype=np.float64)], axis=1).astype(np.float32)


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


def _decode_png(path: Path, header: Header) -> np.ndarray:
    """Returns (H, W) or (H, W, C); values below eight bits and palette indices as they are."""
    try:
        if header.palette or header.bits < 8:  # imagecodecs would turn indices into colours and 1 into 255
            from PIL import Image

            with Image.open(path) as image:
                pixels = np.asarray(image)
            scale = {2: 85, 4: 17}.get(header.bits, 1)
            return pixels if header.palette else pixels // scale if scale > 1 else pixels
        return imagecodecs.png_decode(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise SegueError(broken(path)) from error


def _without_alpha(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise SegueError(f"{path}: has an alpha channel that is not opaque; save the image without transparency.")
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def _decode_tiff(path: Path) -> tuple[np.ndarray, float | None]:
    try:
        with complaints_of_tifffile() as complaints, tifffile.TiffFile(path) as tiff:
            series = tiff.series
            if len(series) != 1:
                shapes = ", ".join("×".join(map(str, one.shape)) for one in series[:4])
                raise SegueError(
                    f"{path}: holds {len(series)} images of different shapes ({shapes}); save the one to use by itself."
                )
            shape, axes = series[0].shape, series[0].axes
            _check_axes(path, shape, axes)
            pixels = series[0].asarray()
            pixel_size_nm = pixel_size_of(path, tiff)
    except (SegueError, MemoryError):
        raise
    except Exception as error:  # whatever the bytes make the decoders raise
        raise SegueError(broken(path)) from error
    if complaints:
        raise SegueError(broken(path, complaints[0]))
    return _channels_first(path, pixels, axes), pixel_size_nm


def _check_axes(path: Path, shape: tuple[int, ...], axes: str) -> None:
    for letter, length in zip(axes, shape, strict=True):
        if letter not in "YXCSQI" and length > 1:
            what = AXIS_NAMES.get(letter, f"entries along axis {letter}")
            raise SegueError(f"{path}: holds {length} {what}; save each as an image of its own.")


def _channels_first(path: Path, pixels: np.ndarray, axes: str) -> np.ndarray:
    keep = tuple(letter in "YX" or length > 1 for letter, length in zip(axes, pixels.shape, strict=True))
    index: Any = tuple(slice(None) if kept else 0 for kept in keep)
    pixels = pixels[index]
    axes = "".join(letter for letter, kept in zip(axes, keep, strict=True) if kept)
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
    shown = "×".join(map(str, pixels.shape))
    raise SegueError(
        f"{path}: has shape {shown} (axes {axes}), and the file does not say which axis is what; "
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
        found = next((element.attrib for element in elements if element.tag.endswith("}Pixels")), {})
        sizes = [_ome_nm(found, axis) for axis in "XY"]
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
def complaints_of_tifffile() -> Iterator[list[str]]:
    """Collects what tifffile logs as errors (a page lost by truncation is only logged) instead of printing it."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                found.append(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", record.getMessage())).strip()[:100])

    logger, handler = logging.getLogger("tifffile"), Collector()
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


MAX_LABEL = 2**31 - 1


def read_labels(
    path: Path, layer: Layer, *, shape: tuple[int, int], values: Mapping[int, int] | None = None
) -> np.ndarray:
    """Returns (H, W) int32 labels of a PNG or TIFF file; `shape` (H, W) is that of its image.

    `values` replaces values of the file by labels, e.g. {255: 1} for masks of 0 and 255, or {255: -1} where 255 means
    ignored. Raises SegueError, one sentence naming the file, for another shape, colours, fractions, values below -1 and
    classes that the layer does not name.
    """
    pixels, _ = read_pixels(path)
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
    return _checked(path, _whole(path, labels), layer, values or {})


def _whole(path: Path, labels: np.ndarray) -> np.ndarray:
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
        found, place = np.unique(labels, return_inverse=True)
        labels = np.array([values.get(int(v), int(v)) for v in found], dtype=np.int32)[place].reshape(labels.shape)
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < IGNORED:
        raise SegueError(f"{path}: holds the label {lowest}; below 0 only {IGNORED} (ignored) is allowed: correct it.")
    if layer.kind == "classes" and highest >= len(layer.names):
        unnamed = [int(v) for v in np.unique(labels) if v >= len(layer.names)]
        shown = ", ".join(map(str, unnamed[:5])) + (", …" if len(unnamed) > 5 else "")
        raise SegueError(
            f"{path}: holds the class value(s) {shown}, but only 0 to {len(layer.names) - 1} are named "
            f"({', '.join(layer.names)}); name them in `names`, or map them with `values`."
        )
    return labels
