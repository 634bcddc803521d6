"""What disagrees between the images of a plate, by their headers alone, and what is missing or doubled, in words.

Of files, the header of one per well and channel is read, and the sizes of all are compared: an uncompressed file of
another size has its header read too. OME metadata and Zarr arrays tell the shape of each image themselves.
"""

from __future__ import annotations

import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.data.image_io import TIFF_SUFFIXES, broken, read_header
from segue.errors import SegueError
from segue.plates.layout.grid import FieldIndex, ImageEntry, Plane, abbreviate, pixel_dtype
from segue.plates.layout.ome import array_header

MAX_METADATA_BYTES = 256  # by so much uncompressed files of one shape may differ without a look
MAX_HEADERS = 500  # of files of another size
SIZE_TOLERANCE = 0.01  # pixel sizes nearer than this, relatively, agree


@dataclass(frozen=True)
class Geometry:
    """What all images share, what disagrees with it in words, and how much was looked at."""

    shape: tuple[int, int]
    dtype: str
    pixel_size_um: float | None
    errors: list[str]
    note: str


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, int]
    dtype: str | None  # None: not looked at
    pixel_size_um: float | None
    nbytes: int  # of the decoded image


def common_geometry(found: Sequence[ImageEntry], pixel_size_um: float | None) -> Geometry:
    """Returns shape, type and pixel size of the images, those of the most; `pixel_size_um` must not be contradicted."""
    headers: dict[Path, _Header] = {}
    faults: list[str] = []
    sizes = _headers_of_files([one for one in found if one.shape is None], headers, faults)
    for one in found:
        if one.shape is not None:
            headers.setdefault(one.plane.path, _Header(one.shape, one.dtype, one.pixel_size_um, 0))
            if headers[one.plane.path].shape != one.shape:
                faults.append(f"{one.plane.path}: holds images of different shapes; the tiles of a plate have one.")
    shapes = Counter(header.shape for header in headers.values())
    dtypes = Counter(header.dtype for header in headers.values() if header.dtype)
    if not shapes or not dtypes:
        return Geometry((0, 0), "", pixel_size_um, [*faults, "files: no image can be read; correct the pattern."], "")
    shape, dtype = shapes.most_common(1)[0][0], dtypes.most_common(1)[0][0] or ""
    for path, header in headers.items():
        if header.shape != shape:
            faults.append(
                f"{path}: is {header.shape[0]} × {header.shape[1]} px, others are {shape[0]} × {shape[1]}; the tiles "
                "of all wells must have one shape: leave it out, or describe it as a plate of its own."
            )
        elif header.dtype not in (None, dtype):
            faults.append(f"{path}: holds {header.dtype}, others hold {dtype}; convert it, or leave it out.")
    size_um, wrong = _pixel_size({path: h.pixel_size_um for path, h in headers.items()}, pixel_size_um)
    note = f"headers of {len(headers)} of {max(sizes, len(headers))} files were read" if sizes else ""
    return Geometry(shape, dtype, size_um, faults + wrong, note + (", the sizes of all compared" if note else ""))


def _headers_of_files(found: Sequence[ImageEntry], headers: dict[Path, _Header], faults: list[str]) -> int:
    """Reads one header per well and channel, and those of files of another size; returns the number of files."""
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for one in found:
        groups[one.key, one.channel].append(one.plane.path)
    paged = {one.plane.path for one in found if one.plane.index}
    typed: set[tuple[str, str]] = set()  # plate and channel of which type and pixel size are known
    odd: list[Path] = []
    count = 0
    for (key, channel), members in groups.items():
        paths = list(dict.fromkeys(members))
        count += len(paths)
        kind = (key.partition("/")[0], channel)
        sizes = {path: _bytes(path) for path in paths}
        first = next((path for path in paths if sizes[path]), None)
        faults += [f"{path}: is empty; copy it again, or delete it." for path, size in sizes.items() if size == 0]
        if first is None:
            continue
        header = _read(first, first in paged, kind not in typed, faults)
        if header is None:
            continue
        headers[first] = header
        typed.add(kind)
        if first.is_file() and (sizes[first] >= header.nbytes or not _compressed(first)):
            odd += [path for path, size in sizes.items() if size and abs(size - sizes[first]) > MAX_METADATA_BYTES]
    for path in odd[:MAX_HEADERS]:
        header = _read(path, path in paged, True, faults)
        if header is not None:
            headers[path] = header
    return count


def _bytes(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); correct or remove it.") from error
    return 1 if stat.S_ISDIR(status.st_mode) else status.st_size


def _read(path: Path, paged: bool, closely: bool, faults: list[str]) -> _Header | None:
    """Returns what a file's header tells; `closely`: with type and pixel size. Adds to the faults what is none."""
    try:
        if path.is_dir():
            shape, dtype = array_header(path)
            return _Header((shape[-2], shape[-1]), dtype, None, 0)
        plain = read_header(path)
        if plain.channels != 1 and not paged:
            raise SegueError(
                f"{path}: holds {plain.channels} pages or colours; a tile's file is one grey image: save it so, or "
                "name its pages in a manifest's column index."
            )
        nbytes = plain.height * plain.width * plain.channels * plain.bits // 8
        dtype, size_um = None, None
        if path.suffix.lower() not in TIFF_SUFFIXES:
            dtype = "uint16" if plain.bits > 8 else "uint8"
        elif closely:
            dtype, size_um = _tiff_type(path)
        return _Header((plain.height, plain.width), dtype, size_um, nbytes)
    except SegueError as error:
        faults.append(str(error))
        return None


def _tiff_type(path: Path) -> tuple[str, float | None]:
    import tifffile

    from segue.data.image_io import complaints_of_tifffile, pixel_size_of

    try:
        with complaints_of_tifffile() as complaints, tifffile.TiffFile(path) as tiff:
            page, size_nm = tiff.pages.first, pixel_size_of(path, tiff)
            last = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
            if last > path.stat().st_size:
                raise SegueError(f"{path}: is cut off, {path.stat().st_size} of {last} bytes; copy it again.")
        if complaints:
            raise SegueError(broken(path, complaints[0]))
    except SegueError:
        raise
    except Exception as error:  # whatever the bytes make tifffile raise
        raise SegueError(f"{path}: cannot be read as TIFF ({error}); copy it again, or leave it out.") from error
    return pixel_dtype(page.dtype), None if size_nm is None else size_nm / 1000


def _compressed(path: Path) -> bool:
    import tifffile

    if path.suffix.lower() not in TIFF_SUFFIXES:
        return True
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.compression != 1


def _pixel_size(found: Mapping[Path, float | None], given: float | None) -> tuple[float | None, list[str]]:
    """Returns the pixel size, and a sentence for each file that contradicts it."""
    known = {path: size for path, size in found.items() if size is not None}
    wanted = given if given is not None else next(iter(known.values()), None)
    if wanted is None:
        return None, []
    other = "pixel_size_um" if given is not None else "other files"
    wrong = [
        f"{path}: its metadata say {size:g} µm a pixel, {other} {wanted:g}; correct pixel_size_um, or leave it out."
        for path, size in known.items()
        if abs(size - wanted) > SIZE_TOLERANCE * wanted
    ]
    return wanted, wrong


def find_duplicates(
    planes: Mapping[str, Mapping[tuple[int, str, FieldIndex], Sequence[Plane]]], where: Path
) -> list[str]:
    """Returns words for each place that has more than one image; `planes` by the well's key, paths below `where`."""
    return [
        f"{key} t{time}: field {cell} is there {len(found)} times in {channel}: "
        + abbreviate(_shown(one, where) for one in found)
        for key, places in planes.items()
        for (time, channel, cell), found in sorted(places.items())
        if len(found) > 1
    ]


def _shown(plane: Plane, where: Path) -> str:
    path = plane.path.relative_to(where) if plane.path.is_relative_to(where) else plane.path
    return f"{path}{list(plane.index) if plane.index else ''}"


def find_missing(
    key: str,
    planes: Collection[tuple[int, str, FieldIndex]],
    *,
    times: Sequence[int],
    channels: Sequence[str],
    grid: tuple[int, int],
) -> list[str]:
    """Returns what a well lacks of all `channels` at all `times` and fields, from the largest gap to single tiles."""
    there = set(planes)
    if not there:
        return [f"{key} has no files at all"]
    seen_times, seen_channels = {t for t, _, _ in there}, {c for _, c, _ in there}
    told = [f"{key} has no files of {channel}" for channel in channels if channel not in seen_channels]
    told += [f"{key} has no files at time {time}" for time in times if time not in seen_times]
    cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    wanted = [channel for channel in channels if channel in seen_channels]
    for time in (time for time in times if time in seen_times):
        lacking = {
            channel: gone
            for channel in wanted
            if (gone := [cell for cell in cells if (time, channel, cell) not in there])
        }
        told += [f"{key} t{time} has no files of {channel}" for channel, gone in lacking.items() if gone == cells]
        by_cell: dict[FieldIndex, list[str]] = defaultdict(list)
        for channel, gone in lacking.items():
            for cell in gone if gone != cells else ():
                by_cell[cell].append(channel)
        told += [f"{key} t{time}: field {cell} is missing in {', '.join(by_cell[cell])}" for cell in sorted(by_cell)]
    return told
