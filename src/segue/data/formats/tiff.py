"""TIFF: pixels as a viewer shows them, whatever tags say of them (`tiff_tags`), with axes of the metadata.

Axes follow the metadata of OME, ImageJ, Zeiss LSM, MetaMorph, Micro-Manager and tifffile as far as they name them.
Pages of which nothing says what they are become the axis Q. Pages of reduced resolution are left out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from segue.data.formats.codec_messages import quiet_codecs
from segue.data.formats.stack import Header, Reader, Stack, UnsupportedError
from segue.data.formats.tiff_tags import (
    ASSOCIATED_ALPHA,
    COLOR_RGB,
    MASK,
    PALETTE,
    PART_OF_MASK,
    REFUSED_PHOTOMETRIC,
    TAGS,
    UNASSOCIATED_ALPHA,
    UNSPECIFIED,
    WHITE_IS_ZERO,
    YCBCR,
    is_reduced,
    photometric_of,
    refusal,
)
from segue.errors import SegueError

MAX_PAGES = 2**16  # pages of a TIFF that its header counts
COLORS = {COLOR_RGB: 3, YCBCR: 3}  # samples by PhotometricInterpretation; 1 for all others
# tags that must be equal in all pages of an image
PAGE_TAGS = (256, 257, 258, 262, 266, 274, 277, 284, 320, 338, 339)
WIDTH, LENGTH, BITS, SAMPLES = 256, 257, 258, 277
PALETTE_BITS = 8  # at most, of an index into a palette; deeper images with one are data with a table for display
UNCALIBRATED = (20, 21)  # values of ImageJ's calibration function: none, uncalibrated optical density
STORAGE_TAGS = frozenset({256, 257, 273, 278, 279, 322, 323, 324, 325, 347, 513, 514, 519, 520, 521})


def read_tiff_header(path: Path) -> Header:
    """Reads the directories with Pillow, which takes a third of tifffile's time: a plate has ten thousands of files.

    Pages of reduced resolution do not count.
    """
    pages = directories(path, (WIDTH, LENGTH, BITS, SAMPLES, 254, 255, 262))
    full = [page for page in pages if not is_reduced(page)] or pages
    first = full[0]
    bits = int(_tuple(first.get(BITS) or 1)[0])
    is_indexed = first.get(262) == PALETTE and bits <= PALETTE_BITS
    samples = 3 if is_indexed or first.get(262) == COLOR_RGB else int(first.get(SAMPLES) or 1)
    return Header(int(first[LENGTH]), int(first[WIDTH]), samples * len(full), bits)


def directories(path: Path, codes: Sequence[int]) -> Sequence[Mapping[int, Any]]:
    """Returns the tags of each page that are among `codes`, without reading any pixel."""
    status = path.stat()
    return _directories(path, tuple(codes), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)  # for a series whose pages are read one by one
def _directories(path: Path, codes: Sequence[int], size: int, changed_ns: int) -> list[dict[int, Any]]:
    pages: list[dict[int, Any]] = []
    with path.open("rb") as file, warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        directory = _directory(file)
        offsets = set()
        while directory.next and directory.next not in offsets and len(pages) < MAX_PAGES:
            offsets.add(directory.next)
            file.seek(directory.next)
            directory.load(file)
            # "Corrupt EXIF data" is Pillow's word for a directory that ends early; others concern single tags
            cut = [text for one in complaints if (text := str(one.message)).startswith("Corrupt EXIF data")]
            if cut:
                raise EOFError("a directory is cut off")
            pages.append({code: value for code in codes if (value := directory.get(code)) is not None})
    if not pages:
        raise EOFError("it has no page")
    return pages


def _directory(file: BinaryIO) -> ImageFileDirectory_v2:
    """Returns a directory that is to be loaded from `next`, the offset of the first."""
    start = file.read(16)
    if start[:4] == b"MM\0\x2b":  # Pillow takes a big-endian BigTIFF for a classic one
        directory = ImageFileDirectory_v2(b"MM\0\x2a" + bytes(4))
        directory._bigtiff = True
        (directory.next,) = struct.unpack(">Q", start[8:])
        return directory
    return ImageFileDirectory_v2(start if start[2:4] == b"\x2b\0" else start[:8])


def is_white_is_zero(path: Path, *, bits: int | None = None) -> bool:
    """Returns whether the first page of a TIFF is marked WhiteIsZero, and has `bits` per sample."""
    first = directories(path, (262, BITS))[0]
    stated = int(_tuple(first.get(BITS) or 1)[0])
    return first.get(262) == WHITE_IS_ZERO and bits in (None, stated)


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


# samples of a page: what is color, channel, alpha


@dataclass(frozen=True)
class Samples:
    """What the samples of a pixel are, by the tags of a page, and how they become what a viewer shows.

    axis: that of the samples among the page's, None if there is only one. alpha: indices of samples that are alpha.
    white: 2^bits - 1 of inverted gray, None if gray is not inverted. palette: (3, 2^bits) uint8. offset: what is added
    (ImageJ's signed integers). nodata: the value that stands for no data.
    """

    axis: int | None
    count: int
    colors: int
    alpha: tuple[int, ...] = ()
    white: int | None = None
    palette: np.ndarray | None = None
    offset: int = 0
    nodata: float | None = None
    opaque_kind: str = "an alpha channel"  # what must be opaque, in words
    bits: int = 8

    @property
    def letter(self) -> str:
        """The letter of the axis of samples: colors, or channels."""
        return "S" if self.colors == 3 or self.palette is not None else "C"

    def dtype(self, stored: np.dtype) -> np.dtype:
        """Returns the type of what `apply` returns for values of the type `stored`."""
        if self.palette is not None or stored.kind == "b":
            return np.dtype(np.uint8)
        return np.dtype(np.int16) if self.offset else stored

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of what `apply` returns for stored values of `shape`."""
        if self.palette is not None:
            return (*shape, 3)
        if self.axis is None:
            return shape
        axis = self.axis % len(shape)
        return (*shape[:axis], self.count - len(self.alpha), *shape[axis + 1 :])

    def apply(self, path: Path, values: np.ndarray) -> np.ndarray:
        """Returns the pixels that stored values stand for; raises SegueError for transparent ones and no data, and for
        further samples of colors that hold anything."""
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        if self.nodata is not None:
            count = int(np.count_nonzero(np.isnan(values) if math.isnan(self.nodata) else values == self.nodata))
            if count:
                raise SegueError(
                    f"{path}: {count} of {values.size} pixels have the value {self.nodata:g}, which stands for no data "
                    "(GDAL_NODATA); fill them, or leave the image out."
                )
        if self.palette is not None:
            return self.palette.T[values]
        if self.white is not None:
            values = self._invert(values)
        if self.offset:
            values = (values.astype(np.int32) + self.offset).astype(np.int16)
        if self.axis is None or not self.alpha:
            return values
        opaque = 1 if values.dtype.kind == "f" else 2**self.bits - 1
        for index in self.alpha:
            if (np.take(values, index, axis=self.axis) != opaque).any():
                raise SegueError(
                    f"{path}: has {self.opaque_kind} and is not opaque everywhere ({opaque:g}); save the image without "
                    "transparency, and channels beside colors in a file of their own."
                )
        channels = [index for index in range(self.count) if index not in self.alpha]
        return np.take(values, channels, axis=self.axis)

    def _invert(self, values: np.ndarray) -> np.ndarray:
        """Inverts the first sample, which is gray; alpha and further channels stay."""
        white = values.dtype.type(self.white)
        if self.axis is None:
            return white - values
        inverted = values.copy()
        first: list[Any] = [slice(None)] * values.ndim
        first[self.axis] = 0
        inverted[tuple(first)] = white - inverted[tuple(first)]
        return inverted


def samples_of(path: Path, page: Any, *, labels: bool) -> tuple[Samples, tuple[str, ...]]:
    """Returns what the samples of a `tifffile.TiffPage` are, and notes; raises SegueError for what is refused."""
    tags = {code: page.tags.valueof(code) for code in TAGS}
    compression = int(page.compression)
    if page.parent.is_lsm and isinstance(tags[BITS], tuple):
        tags[BITS] = tags[BITS][: page.samplesperpixel]
    problem = refusal(tags, compression=compression, labels=labels)
    if problem is not None:
        raise SegueError(f"{path}: {problem}.")
    if page.dtype is None:
        raise UnsupportedError(f"numbers of {tags[BITS]} bits and SampleFormat {tags[339]}")
    photometric = photometric_of(tags, compression=compression)
    count, colors = int(page.samplesperpixel), COLORS.get(photometric, 1)
    if count < colors:
        raise SegueError(f"{path}: is a color image of {count} sample(s) per pixel instead of {colors}; save it again.")
    axis = None if "S" not in page.axes else page.axes.index("S") - len(page.axes)
    bits = int(_tuple(page.bitspersample)[0])
    notes = []
    extra = [int(value) for value in _tuple(tags[338]) if value is not None][: count - colors]
    undeclared = photometric == COLOR_RGB and count == 4 and not extra
    extra += [UNSPECIFIED] * (count - colors - len(extra))
    is_alpha = [value in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA) for value in extra]
    opaque_kind = "a fourth sample that is not declared" if undeclared else Samples.opaque_kind
    if colors == 3 and not all(is_alpha):
        notes += [] if undeclared else ["has further samples beside its colors, opaque everywhere: left out"]
        opaque_kind = opaque_kind if undeclared else "a further sample beside its colors (ExtraSamples: unspecified)"
        is_alpha = [True] * len(extra)
    alpha = tuple(colors + i for i, is_one in enumerate(is_alpha) if is_one)
    white = palette = None
    if photometric == WHITE_IS_ZERO and not labels:
        if not all(is_alpha):
            raise SegueError(
                f"{path}: is marked WhiteIsZero and has {count} samples per pixel, of which only the first is known to "
                "be inverted; save it as BlackIsZero."
            )
        white = _white(path, page, bits)
    if photometric == PALETTE and bits > PALETTE_BITS:
        notes.append(f"has a color table (PhotometricInterpretation Palette) over {bits} bits: pixels are as stored")
    elif photometric == PALETTE and not labels:
        palette = _palette(path, page, count)
    nodata = _nodata(tags.get(42113))
    offset = 0
    if page.parent.is_imagej:
        offset, note = _imagej_calibration(page.parent.imagej_metadata or {}, page.dtype)
        notes += note
    notes += _scaling(tags.get(42112))
    if labels and nodata == 0:
        nodata = None
    samples = Samples(axis, count, colors, alpha, white, palette, offset, nodata, opaque_kind=opaque_kind, bits=bits)
    return samples, tuple(notes)


def _white(path: Path, page: Any, bits: int) -> int:
    if page.dtype.kind not in "ub":
        kind = "floats" if page.dtype.kind == "f" else "signed integers"
        raise SegueError(
            f"{path}: is marked WhiteIsZero, but holds {kind}, for which white is not defined; save it as BlackIsZero."
        )
    return 2**bits - 1


def _palette(path: Path, page: Any, count: int) -> np.ndarray:
    """Returns the colors (3, n) uint8 of ColorMap, which has 16 bits; maps of 8 bits are known by their maximum."""
    colors = page.tags.valueof(320)
    colors = None if colors is None else np.asarray(colors)
    if count != 1 or colors is None or page.dtype.kind not in "ub" or colors.size != 3 * 2**page.bitspersample:
        raise SegueError(f"{path}: is a palette image without a color for each index; save it as gray or RGB.")
    colors = colors.reshape(3, -1)
    return (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)


def _nodata(value: Any) -> float | None:
    try:
        return None if value is None else float(str(value).strip(" \0").replace(",", "."))
    except ValueError:
        return None


def _imagej_calibration(metadata: Mapping[str, Any], dtype: np.dtype) -> tuple[int, list[str]]:
    """Returns what must be added to the pixels, and notes on a calibration that is not applied.

    ImageJ stores signed 16-bit numbers as unsigned ones with the calibration value = -32768 + pixel (cf = 0, a straight
    line, c0, c1); any other calibration changes what it prints for a pixel, not what it shows.
    """
    try:
        function, c0, c1 = (float(metadata[name]) for name in ("cf", "c0", "c1"))
    except (KeyError, TypeError, ValueError):
        function, c0, c1 = metadata.get("cf", UNCALIBRATED[0]), math.nan, math.nan
    if function == 0 and (c0, c1) == (0, 1):
        return 0, []
    if function == 0 and (c0, c1) == (-32768, 1) and dtype == np.uint16:
        return -32768, []
    if function in UNCALIBRATED:
        return 0, []
    return 0, ["has a calibration of ImageJ for its pixel values, which is not applied: pixels are as stored"]


def _scaling(metadata: Any) -> list[str]:
    text = str(metadata or "")
    numbers = dict(re.findall(r'role="(scale|offset)"[^>]*>\s*([^<\s]+)', text))
    if numbers and numbers not in ({"scale": "1"}, {"scale": "1", "offset": "0"}, {"offset": "0"}):
        return ["has a scale or offset of GDAL for its pixel values, which is not applied: pixels are as stored"]
    return []


# images of a file


def read_tiff(path: Path, labels: bool) -> Stack:
    """Returns the image of a TIFF; its pages are decoded when the stack is indexed."""
    import tifffile  # not needed for headers, by which studies are planned

    from segue.data.formats.tiff_metadata import read_metadata

    with tifffile_errors() as errors, tifffile.TiffFile(path) as tiff:
        series = select_series(path, tiff)
        page = series.keyframe
        samples, notes = samples_of(path, page, labels=labels)
        _check_pages(path, series)
        axes, shape = _axes(series, samples), samples.shape(series.shape)
        dtype = samples.dtype(series.dtype)
        metadata = read_metadata(tiff, series)
    if errors:
        raise EOFError(errors[0])
    pixels = _Planes(path, samples, shape, dtype, leading_shape(series), labels)
    return Stack(pixels, axes, metadata.pixel_size_nm, metadata.channels, (*notes, *metadata.notes))


def read_tiff_page(path: Path, index: int) -> np.ndarray:
    """Returns page `index` of a file as a viewer shows it: (H, W), or with a further axis of channels or colors."""
    import tifffile

    with tifffile_errors() as errors, tifffile.TiffFile(path) as tiff:
        if index >= len(tiff.pages):
            raise SegueError(f"{path}: has {len(tiff.pages)} pages, and none of index {index}.")
        page = tiff.pages[index]
        samples, _ = samples_of(path, page.keyframe, labels=False)
        values = samples.apply(path, _decode(page))
        if samples.count > 1 and samples.count - len(samples.alpha) == 1:
            values = values.squeeze(axis=samples.axis)
    if errors:
        raise EOFError(errors[0])
    return values


def _decode(source: Any) -> np.ndarray:
    try:
        return np.asarray(source.asarray())
    except (NotImplementedError, KeyError) as error:
        raise UnsupportedError(str(error).strip("'")) from error
    except ValueError as error:
        if re.search(r"not supported|unsupported|requires|COMPRESSION|is not a valid", str(error)):
            raise UnsupportedError(str(error)) from error
        raise


def select_series(path: Path, tiff: Any) -> Any:
    """Returns the only image series of the file at full resolution; raises SegueError if there are several."""
    marks = directories(path, (WIDTH, LENGTH, 254, 255, 262))
    if any(mark.get(262) == MASK or (mark.get(254) or 0) & PART_OF_MASK for mark in marks):
        raise SegueError(f"{path}: {REFUSED_PHOTOMETRIC[MASK]}.")
    reduced = {index for index, mark in enumerate(marks) if is_reduced(mark)}
    every = [_without_reduced(one, reduced) for one in all_series(tiff) if one.shape and 0 not in one.shape]
    if any(page is not None and page.parent is not tiff for one in every for page in one.pages):
        raise SegueError(
            f"{path}: is one of a set of files that share their metadata; save its images as one file, or each alone."
        )
    full = [one for one in every if not one.keyframe.is_reduced] or every
    if not full:
        raise EOFError("it has no image")
    if len(full) > 1:
        shapes = [f"{'×'.join(map(str, one.shape))} of {one.dtype}" for one in full[:4]]
        raise SegueError(
            f"{path}: holds {len(full)} images that are no series ({', '.join(shapes)}"
            f"{', …' if len(full) > 4 else ''}); save each in a separate file."
        )
    series = full[0]
    if any(page is None for page in series.pages):
        missing = sum(page is None for page in series.pages)
        raise SegueError(f"{path}: {missing} of {len(series.pages)} planes that its metadata name are missing.")
    _check_count(path, series, [mark for index, mark in enumerate(marks) if index not in reduced])
    return series


def _check_count(path: Path, series: Any, pages: Sequence[Mapping[int, Any]]) -> None:
    """Raises SegueError if the file has more pages of the series' size than its metadata name: these would be lost.

    Pages of other sizes are previews, labels of slides and the like.
    """
    size = (series.keyframe.imagewidth, series.keyframe.imagelength)
    count = sum((page.get(WIDTH), page.get(LENGTH)) == size for page in pages)
    named = math.prod(series.shape) // math.prod(series.keyframe.shape)
    if count > named and not series.keyframe.is_reduced:
        raise SegueError(
            f"{path}: has {count} pages of {size[1]} × {size[0]} px, but its metadata name {named}; save the pages "
            "that belong together again, or correct the metadata."
        )


def all_series(tiff: Any) -> list[Any]:
    """Returns the series of a file; where its metadata make no sense, pages of one shape and type are a series."""
    import tifffile

    try:
        return list(tiff.series)
    except Exception:  # of metadata; whatever is wrong with the pages is raised below
        tiff.pages._clear()  # frames that were made by the metadata
        tiff.pages.useframes = False
        tiff.pages.set_keyframe(0)
    pages_by_kind: dict[tuple[Any, ...], list[Any]] = {}
    for page in tiff.pages:
        pages_by_kind.setdefault((page.shape, page.axes, page.dtype), []).append(page)
    return [
        tifffile.TiffPageSeries(pages, (len(pages), *shape), dtype, f"I{axes}", kind="generic")
        for (shape, axes, dtype), pages in pages_by_kind.items()
    ]


def _without_reduced(series: Any, reduced: set[int]) -> Any:
    """Returns a series of pages without metadata, without those that are copies of reduced resolution."""
    import tifffile

    if series.kind not in ("generic", "uniform") or len(series.pages) < 2 or not reduced:
        return series
    pages = [page for page in series.pages if page.index not in reduced]
    if not 0 < len(pages) < len(series.pages):
        return series
    page = pages[0]
    lead, axes = ((len(pages),), "I") if len(pages) > 1 else ((), "")
    return tifffile.TiffPageSeries(pages, (*lead, *page.shape), series.dtype, axes + page.axes, kind=series.kind)


def _check_pages(path: Path, series: Any) -> None:
    """Raises SegueError if pages of the series differ in what their tags say of pixels."""
    if len(series.pages) < 2:
        return
    tags = directories(path, PAGE_TAGS)
    indices = [page.index for page in series.pages if isinstance(page.index, int) and page.index < len(tags)]
    for index in indices[1:]:
        unlike = [code for code in PAGE_TAGS if tags[index].get(code) != tags[indices[0]].get(code)]
        if unlike:
            names = ", ".join(TAGS[code].name if code in TAGS else "size" for code in unlike)
            raise SegueError(
                f"{path}: its pages {indices[0]} and {index} differ in {names}; save each kind in a separate file."
            )


def leading_shape(series: Any) -> tuple[int, ...]:
    """Returns the shape of the axes before those of a page."""
    page = tuple(series.keyframe.shape)
    return series.shape[: len(series.shape) - len(page)] if series.shape[-len(page) :] == page else ()


def _axes(series: Any, samples: Samples) -> str:
    """Returns a letter per axis of the stack: see `Stack`."""
    axes = series.axes.replace("I", "Q")
    if series.kind == "shaped" and axes.count("Q") > 1:
        axes = "Q" * (len(axes) - 2) + axes[-2:]
    if axes == "QYX" and series.shape[2] <= 4 < series.shape[0]:
        axes = "YXC"  # no image is that narrow: an array (H, W, C) was written as H pages
    axes = axes.replace("S", samples.letter)
    return axes + ("S" if samples.palette is not None else "")


@dataclass(frozen=True)
class _Planes:
    """The pixels of a TIFF, decoded when indexed: only the pages that the index asks for."""

    path: Path
    samples: Samples
    shape: tuple[int, ...]
    dtype: np.dtype
    lead: tuple[int, ...] = field(default=())
    labels: bool = False

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        import tifffile

        with tifffile_errors() as errors, tifffile.TiffFile(self.path) as tiff:
            series = select_series(self.path, tiff)
            chosen = index[: len(self.lead)]
            if any(isinstance(one, int) and n > 1 for one, n in zip(chosen, self.lead, strict=True)):
                values = self._pages(tiff, series, chosen)
                index = (*(slice(None) for one in chosen if isinstance(one, slice)), *index[len(self.lead) :])
            else:
                values = _decode(series)
        if errors:
            raise EOFError(errors[0])
        return self.samples.apply(self.path, values)[index]

    def _pages(self, tiff: Any, series: Any, chosen: tuple[Any, ...]) -> np.ndarray:
        """Returns the values of the chosen pages, those axes of `chosen` first that are whole."""
        page_shape = series.shape[len(self.lead) :]
        if series.dataoffset is not None:  # ImageJ's large stacks have one directory
            order = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
            stored = np.memmap(self.path, order, "r", series.dataoffset, tuple(series.shape))
            return np.array(stored[chosen]).astype(series.dtype)
        if len(series.pages) != math.prod(self.lead):
            return _decode(series)[chosen]
        numbers = np.arange(len(series.pages)).reshape(self.lead)[chosen]
        values = [_decode(series.pages[int(number)]) for number in numbers.flat]
        return np.stack(values).reshape(*numbers.shape, *page_shape)


@contextlib.contextmanager
def tifffile_errors() -> Iterator[list[str]]:
    """Collects the errors that tifffile only logs, such as a page lost by truncation, instead of printing them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.levelno >= logging.ERROR and not _concerns_metadata(text):
                text = re.sub(r"<[^>]*>", "", text)
                messages.append(re.sub(r"\s+", " ", text).strip()[:100])

    logger, handler = logging.getLogger("tifffile"), Collector()
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with quiet_codecs():
            yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _concerns_metadata(text: str) -> bool:
    """Returns whether an error that tifffile logs is of metadata, or of a tag that does not concern pixels.

    A tag whose value lies beyond the end of the file means that the file is cut off.
    """
    tag = re.search(r"TiffTag (\d+) .*invalid data type", text)
    if tag is not None:
        return int(tag[1]) not in TAGS and int(tag[1]) not in STORAGE_TAGS
    return (
        re.search(
            r"OME series|Philips series|Indica series|axes do not match|shape does not match|failed to reshape", text
        )
        is not None
    )


TIFF = Reader("TIFF", read_tiff_header, read_tiff)
