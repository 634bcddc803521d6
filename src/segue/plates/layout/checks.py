"""Consistency of a plate's images, from their headers alone: shape, type, pixel size; missing and duplicate images.

Of files, one header per well and channel is read and the sizes of all are compared; an uncompressed file of another
size has its header read too. OME metadata and Zarr arrays give the shape of each image themselves.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segue.data.image_io import TIFF_SUFFIXES, broken, not_decoded, read_header
from segue.errors import SegueError
from segue.plates.layout.grid import ImageEntry, Plane, abbreviate, pixel_dtype
from segue.plates.layout.ome import array_header
from segue.plates.spec import FieldIndex

MAX_METADATA_BYTES = 256  # uncompressed files of one shape may differ in size by this without a look at their headers
MAX_HEADERS = 500  # of files of another size
SIZE_TOLERANCE = 0.01  # relative, of pixel sizes


@dataclass(frozen=True)
class Geometry:
    """The common properties of all images, messages on images that differ, and how much was read."""

    shape: tuple[int, int]
    dtype: str
    pixel_size_um: float | None
    errors: list[str]
    notes: list[str]


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, int]
    dtype: str | None  # None: not read
    pixel_size_um: float | None
    nbytes: int  # of the decoded image
    notes: tuple[str, ...] = ()


def common_geometry(images: Sequence[ImageEntry], pixel_size_um: float | None) -> Geometry:
    """Returns shape, type and pixel size of most images; a given `pixel_size_um` must not be contradicted."""
    headers: dict[Path, _Header] = {}
    errors: list[str] = []
    files = _read_headers([image for image in images if image.shape is None], headers, errors)
    for image in images:
        if image.shape is not None:
            headers.setdefault(image.plane.path, _Header(image.shape, image.dtype, image.pixel_size_um, 0))
            if headers[image.plane.path].shape != image.shape:
                errors.append(f"{image.plane.path}: holds images of different shapes; the tiles of a plate have one.")
    shapes = Counter(header.shape for header in headers.values())
    dtypes = Counter(header.dtype for header in headers.values() if header.dtype)
    if not shapes or not dtypes:
        return Geometry((0, 0), "", pixel_size_um, [*errors, "files: no image can be read; correct the pattern."], [])
    shape, dtype = shapes.most_common(1)[0][0], dtypes.most_common(1)[0][0] or ""
    for path, header in headers.items():
        if header.shape != shape:
            errors.append(
                f"{path}: is {header.shape[0]} × {header.shape[1]} px, others are {shape[0]} × {shape[1]}; the tiles "
                "of all wells must have one shape: leave it out, or describe it as a separate plate."
            )
        elif header.dtype not in (None, dtype):
            errors.append(f"{path}: holds {header.dtype}, others hold {dtype}; convert it, or leave it out.")
    sizes = {path: header.pixel_size_um for path, header in headers.items() if header.pixel_size_um is not None}
    size_um = pixel_size_um if pixel_size_um is not None else next(iter(sizes.values()), None)
    if size_um is not None:
        source = "other files" if pixel_size_um is None else "pixel_size_um"
        errors += [
            f"{path}: its metadata give {size:g} µm per pixel, {source} {size_um:g}; correct pixel_size_um, or leave "
            "it out."
            for path, size in sizes.items()
            if abs(size - size_um) > SIZE_TOLERANCE * size_um
        ]
    read = f"headers of {len(headers)} of {max(files, len(headers))} files were read, the sizes of all compared"
    notes = Counter(note for header in headers.values() for note in header.notes)
    counted = [f"{count} of the files read: {note}" for note, count in notes.items()]
    return Geometry(shape, dtype, size_um, errors, [*([read] if files else []), *counted])


def _read_headers(images: Sequence[ImageEntry], headers: dict[Path, _Header], errors: list[str]) -> int:
    """Reads a header per well and channel, and those of files of another size; returns the number of files."""
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for image in images:
        groups[image.key, image.channel].append(image.plane.path)
    paged = {image.plane.path for image in images if image.plane.index}
    typed: set[tuple[str, str]] = set()  # plates and channels whose type and pixel size are known
    unequal: list[Path] = []
    count = 0
    for (key, channel), members in groups.items():
        paths = list(dict.fromkeys(members))
        count += len(paths)
        sizes = {path: _file_size(path) for path in paths}
        errors += [f"{path}: is empty; copy it again, or delete it." for path, size in sizes.items() if size == 0]
        first = next((path for path in paths if sizes[path]), None)
        if first is None:
            continue
        plate_and_channel = (key.partition("/")[0], channel)
        header = _read_header(first, first in paged, plate_and_channel not in typed, errors)
        if header is None:
            continue
        headers[first] = header
        typed.add(plate_and_channel)
        if first.is_file() and (sizes[first] >= header.nbytes or not _is_compressed(first)):
            unequal += [path for path, size in sizes.items() if size and abs(size - sizes[first]) > MAX_METADATA_BYTES]
    for path in unequal[:MAX_HEADERS]:
        header = _read_header(path, path in paged, True, errors)
        if header is not None:
            headers[path] = header
    return count


def _file_size(path: Path) -> int:
    """Returns the size of a file in bytes; 1 for a folder."""
    try:
        status = path.stat()
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); correct or remove it.") from error
    return 1 if stat.S_ISDIR(status.st_mode) else status.st_size


def _read_header(path: Path, paged: bool, with_type: bool, errors: list[str]) -> _Header | None:
    """Returns the header of an image, `with_type`: of a TIFF also its type and pixel size. None if it has an error."""
    try:
        if path.is_dir():
            shape, dtype = array_header(path)
            return _Header((shape[-2], shape[-1]), dtype, None, 0)
        header = read_header(path)
        if header.channels != 1 and not paged:
            raise SegueError(
                f"{path}: holds {header.channels} pages or colors; a tile is one gray image: save it as one, "
                "or name its pages in a manifest's column index."
            )
        nbytes = header.height * header.width * header.channels * header.bits // 8
        dtype, size_um, notes = None, None, ()
        if path.suffix.lower() not in TIFF_SUFFIXES:
            dtype = "uint16" if header.bits > 8 else "uint8"
        elif with_type:
            dtype, size_um, notes = _tiff_type(path)
        return _Header((header.height, header.width), dtype, size_um, nbytes, notes)
    except SegueError as error:
        errors.append(str(error))
        return None


def _tiff_type(path: Path) -> tuple[str, float | None, tuple[str, ...]]:
    """Returns the pixel type of a TIFF, its pixel size in µm, and notes on its metadata."""
    import tifffile

    from segue.data.formats.tiff import all_series, samples_of, tifffile_errors
    from segue.data.formats.tiff_metadata import read_metadata

    try:
        with tifffile_errors() as complaints, tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            samples, _ = samples_of(path, page, labels=False)
            metadata = read_metadata(tiff, all_series(tiff)[0])
            end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
            if end > path.stat().st_size:
                raise SegueError(f"{path}: is cut off, {path.stat().st_size} of {end} bytes; copy it again.")
        if complaints:
            raise SegueError(broken(path, complaints[0]))
    except SegueError:
        raise
    except Exception as error:  # tifffile may raise anything for damaged bytes
        raise SegueError(not_decoded(path, "TIFF", error)) from error
    size_nm = metadata.pixel_size_nm
    return pixel_dtype(samples.dtype(np.dtype(page.dtype))), None if size_nm is None else size_nm / 1000, metadata.notes


def _is_compressed(path: Path) -> bool:
    import tifffile

    if path.suffix.lower() not in TIFF_SUFFIXES:
        return True
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.compression != 1


def find_duplicates(
    planes: Mapping[str, Mapping[tuple[int, str, FieldIndex], Sequence[Plane]]], root: Path
) -> list[str]:
    """Returns a sentence for each time, channel and field with more than one image; `planes` by well, below `root`."""
    return [
        f"{key} t{time}: field {index} occurs {len(images)} times in {channel}: "
        + abbreviate(_relative(plane, root) for plane in images)
        for key, by_place in planes.items()
        for (time, channel, index), images in sorted(by_place.items())
        if len(images) > 1
    ]


def _relative(plane: Plane, root: Path) -> str:
    path = plane.path.relative_to(root) if plane.path.is_relative_to(root) else plane.path
    return f"{path}{list(plane.index) if plane.index else ''}"


def find_missing(
    key: str,
    planes: Collection[tuple[int, str, FieldIndex]],
    *,
    times: Sequence[int],
    channels: Sequence[str],
    grid: tuple[int, int],
) -> list[str]:
    """Returns the missing `channels`, `times` and fields of a well, from the largest gap to single tiles."""
    present = set(planes)
    if not present:
        return [f"{key} has no files at all"]
    present_times, present_channels = {time for time, _, _ in present}, {channel for _, channel, _ in present}
    gaps = [f"{key} has no files of {channel}" for channel in channels if channel not in present_channels]
    gaps += [f"{key} has no files at time {time}" for time in times if time not in present_times]
    fields = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for time in (time for time in times if time in present_times):
        by_field: dict[FieldIndex, list[str]] = defaultdict(list)
        for channel in (channel for channel in channels if channel in present_channels):
            absent = [index for index in fields if (time, channel, index) not in present]
            if absent == fields:
                gaps.append(f"{key} t{time} has no files of {channel}")
                continue
            for index in absent:
                by_field[index].append(channel)
        gaps += [
            f"{key} t{time}: field {index} is missing in {', '.join(by_field[index])}" for index in sorted(by_field)
        ]
    return gaps
