"""The layout of a plate: wells × time points × channels × fields, found before any work, with all inconsistencies.

    layout = find_layout(spec, folder)
    print(describe(layout))
    tiles = WellTiles(layout, layout.wells[0], 0, "brightfield")      # mapping from (row, column) to (H, W) or None

Missing images are reported and tolerated. Two images for one field, and inconsistent shapes, types or pixel sizes, are
errors.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.folders.pairing import raise_problems
from segue.errors import SegueError
from segue.fingerprint import hash_each_file, hash_json
from segue.plates.layout.checks import common_geometry, find_duplicates, find_missing
from segue.plates.layout.filenames import (
    WellRow,
    read_times,
    read_wells,
    scan_manifest,
    scan_pattern,
    wells_notes,
)
from segue.plates.layout.grid import (
    Plane,
    ScanResult,
    abbreviate,
    assign_fields,
    natural_key,
    pixel_dtype,
    well_name,
)
from segue.plates.layout.ome import scan_ome_tiff, scan_ome_zarr
from segue.plates.spec import FieldIndex, FilesSpec
from segue.spec import unknown

MAX_LINES = 10  # of each list in `describe`
INTERVAL_TOLERANCE = 0.01  # relative, of intervals between times
PlaneKey = tuple[int, str, FieldIndex]  # time index, channel, field


@dataclass(frozen=True)
class Well:
    """One well: whether it was stained, the conditions in the table of wells, and its images."""

    plate: str
    name: str
    experiment: str
    stained: bool
    conditions: Mapping[str, str | int | float]
    planes: Mapping[PlaneKey, Plane]

    @property
    def key(self) -> str:
        """Plate and name, "P1/A1": unique in a layout."""
        return f"{self.plate}/{self.name}"


@dataclass(frozen=True)
class Layout:
    """All wells, sorted by plate and well (A2 before A10), their common properties, and messages on problems.

    channels: transmitted light first. grid: rows and columns of fields. tile_shape: (H, W) in px. times_h: hours by
    time index, if known. missing: images that should exist. duplicates, errors: what `find_layout` refuses.
    unmatched: files that belong to no well. notes: conclusions to check.
    """

    wells: tuple[Well, ...]
    times: tuple[int, ...]
    channels: tuple[str, ...]
    grid: tuple[int, int]
    tile_shape: tuple[int, int]
    dtype: str
    pixel_size_um: float | None
    missing: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    times_h: Mapping[int, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(spec: FilesSpec, root: Path, *, transmitted: str = "brightfield", strict: bool = True) -> Layout:
    """Returns the layout of the plates that `spec` describes; its paths start at the folder `root`.

    transmitted: the name of the transmitted-light channel, which every well must have; the others are stains. A well is
    stained if the table of wells says so, or, without that column, if it has every channel. Raises SegueError if
    nothing is found, a table cannot be read, and, if `strict`, with all duplicates and errors.
    """
    root = Path(root).resolve()
    # all images, and the names of their channels
    scan = _scan(spec, root, transmitted)
    channels = _name_channels(scan, spec, transmitted)
    channels_known = not scan.errors  # else it is unknown what is missing of which channel
    if not scan.images:
        reason = abbreviate([*scan.missing, *scan.unmatched]) or "nothing fits"
        raise_problems(root, scan.errors or [f"{root}: no image was found ({reason}); correct [files]."])
    # the field, well and time of each image
    fields, grid = assign_fields(scan, spec)
    names = {image.key: (image.plate, image.well) for image in scan.images}
    plates = sorted({plate for plate, _ in names.values()})
    rows = None if spec.wells is None else read_wells(root / spec.wells, plates)
    scan.notes += [] if spec.wells is None else wells_notes(root / spec.wells)
    keys = _select_wells(spec, names, rows, scan)
    times = _select_times(spec, {image.time for image in scan.images if image.key in keys}, root)
    planes: dict[str, dict[PlaneKey, list[Plane]]] = {key: defaultdict(list) for key in keys}
    images = []
    for image, index in zip(scan.images, fields, strict=True):
        if image.key in planes and image.time in times:
            planes[image.key][image.time, image.channel, index].append(image.plane)
            images.append(image)
    # the wells, with what each lacks
    wells = []
    for key in keys:
        well = _well(names[key], planes[key], rows, channels)
        expected = () if not channels_known else channels if well.stained else channels[:1]
        scan.missing += find_missing(key, planes[key], times=times, channels=expected, grid=grid)
        if not well.stained and rows is not None and any(channel != transmitted for _, channel, _ in planes[key]):
            scan.notes.append(f"{key} is not stained according to the table of wells, but has files of stains")
        wells.append(well)
    # what all share
    times_h = _hours(spec, root, times, scan)
    geometry = common_geometry(images, spec.pixel_size_um)
    layout = Layout(
        wells=tuple(wells),
        times=times,
        channels=channels,
        grid=grid,
        tile_shape=geometry.shape,
        dtype=geometry.dtype,
        pixel_size_um=geometry.pixel_size_um,
        missing=tuple(scan.missing),
        duplicates=tuple(find_duplicates(planes, root)),
        times_h=times_h,
        errors=(*scan.errors, *geometry.errors),
        unmatched=tuple(scan.unmatched),
        notes=(*scan.notes, *geometry.notes),
    )
    if strict:
        raise_problems(root, [*layout.errors, *(f"{duplicate}; keep one." for duplicate in layout.duplicates)])
    return layout


def _scan(spec: FilesSpec, root: Path, transmitted: str) -> ScanResult:
    if spec.format == "pattern":
        return scan_pattern(spec, root, transmitted)
    if spec.format == "manifest":
        return scan_manifest(spec, root)
    return scan_ome_tiff(spec, root, transmitted) if spec.format == "ome-tiff" else scan_ome_zarr(spec, root)


def _name_channels(scan: ScanResult, spec: FilesSpec, transmitted: str) -> tuple[str, ...]:
    """Names the channels of the images, drops ignored ones; returns the names, transmitted light first."""
    tokens = {image.channel for image in scan.images}
    name_of = {token: name for name, token in spec.channels.items()} or {token: token for token in tokens}
    existing = ", ".join(sorted(tokens)) or "none"
    unnamed = sorted(tokens - set(name_of) - set(spec.ignore_channels))
    absent = sorted((set(name_of) | set(spec.ignore_channels)) - tokens if tokens else ())
    if unnamed and absent:
        scan.errors.append(
            f"files: no image has the {_channel_list(absent)}, and {_channel_list(unnamed)} is in no entry of "
            f"channels; found: {existing}; correct channels."
        )
    elif unnamed:
        scan.errors.append(
            f"files: the {_channel_list(unnamed)} is in no entry of channels; found: {existing}; add it there, or "
            "to ignore_channels."
        )
    elif absent:
        scan.errors.append(
            f"files: there is no {_channel_list(absent)}; found: {existing}; correct it or leave it out."
        )
    ignored = tokens & set(spec.ignore_channels)
    scan.images = [
        replace(image, channel=name_of.get(image.channel, image.channel)) if spec.channels else image
        for image in scan.images
        if image.channel not in ignored
    ]
    names = [name for name in (spec.channels or sorted(tokens - ignored)) if name != transmitted]
    if tokens and transmitted not in name_of.values() and not (unnamed and absent):
        scan.errors.append(
            f"files: there is no transmitted-light channel '{transmitted}'; found: {existing}; name it in channels, "
            f'e.g. channels = {{ {transmitted} = "{min(tokens)}", … }}, or in transmitted.'
        )
    return (transmitted, *names)


def _channel_list(tokens: Sequence[str]) -> str:
    return f"channel{'s' if len(tokens) > 1 else ''} {', '.join(repr(token) for token in tokens)}"


def _select_wells(
    spec: FilesSpec,
    names: Mapping[str, tuple[str, str]],
    rows: Mapping[tuple[str, str], WellRow] | None,
    scan: ScanResult,
) -> list[str]:
    """Returns the keys of the wells to use, sorted: those of the table of wells and of only_wells that have files."""
    keys = sorted(names, key=lambda key: tuple(natural_key(part) for part in names[key]))
    requested = set(keys)
    if rows is not None:
        requested = {"/".join(key) for key in rows}
        unlisted = [key for key in keys if key not in requested]
        if unlisted:
            scan.unmatched.append(f"{abbreviate(unlisted)}: files of wells without a row in {spec.wells}, left out")
    if spec.only_wells:
        split = [name.rpartition("/") for name in spec.only_wells]
        only = [f"{plate}/{well_name(well)}".lstrip("/") for plate, _, well in split]
        names_alone = {key.rpartition("/")[2] for key in requested}
        for name in only:
            if name not in requested and name not in names_alone:
                raise SegueError(f"only_wells: {unknown(name, requested, 'well')}; correct it.")
        requested = {key for key in requested if key in only or key.rpartition("/")[2] in only}
    scan.missing += [
        f"{key} is in {spec.wells}, but has no files" for key in sorted(requested - set(keys), key=natural_key)
    ]
    keys = [key for key in keys if key in requested]
    if not keys:
        raise SegueError(
            f"files: none of the wells found ({abbreviate(names)}) is one of those requested "
            f"({abbreviate(sorted(requested, key=natural_key))}); correct wells, only_wells, or the pattern."
        )
    return keys


def _select_times(spec: FilesSpec, times: Collection[int], root: Path) -> tuple[int, ...]:
    for time in spec.only_times:
        if time not in times:
            raise SegueError(
                f"{root}: only_times has {time}; found: the times {abbreviate(sorted(times), 8)}; correct it."
            )
    return tuple(sorted(set(spec.only_times) or times))


def _well(
    name: tuple[str, str],
    planes: Mapping[PlaneKey, Sequence[Plane]],
    rows: Mapping[tuple[str, str], WellRow] | None,
    channels: Sequence[str],
) -> Well:
    row = WellRow(None, None, {}) if rows is None else rows[name]
    has_all = len(channels) > 1 and set(channels) <= {channel for _, channel, _ in planes}
    first = {key: planes[key][0] for key in sorted(planes)}
    stained = has_all if row.stained is None else row.stained
    return Well(name[0], name[1], row.experiment or name[0], stained, dict(row.conditions), first)


def _hours(spec: FilesSpec, root: Path, times: Sequence[int], scan: ScanResult) -> dict[int, float]:
    """Returns hours by time index: from the table `times`, from interval_h, or from the metadata; {} if unknown."""
    if spec.times is not None:
        hours = read_times(root / spec.times)
        absent = [time for time in times if time not in hours]
        if absent:
            scan.errors.append(f"{root / spec.times}: has no row for time {abbreviate(absent)}; add it.")
    elif spec.interval_h is not None:
        intervals = {image.interval_h for image in scan.images if image.interval_h is not None and len(times) > 1}
        other = next((h for h in sorted(intervals) if not math.isclose(h, spec.interval_h, rel_tol=0.01)), None)
        if other is not None:
            scan.notes.append(f"the metadata give {other:g} h between times; interval_h = {spec.interval_h:g} is used")
        hours = {time: time * spec.interval_h for time in times}
    else:
        hours = hours_from_metadata(scan) if len(times) > 1 else {}
    return {time: hours[time] for time in times if time in hours}


def hours_from_metadata(scan: ScanResult) -> dict[int, float]:
    """Returns hours by time index from the metadata of the images; {} if they are absent or disagree. Adds a note.

    An interval on which all metadata agree counts from index 0. Without one, the medians of the acquisition times of
    the planes are used if they increase with the index; the first is 0 h.
    """
    times = sorted({image.time for image in scan.images})
    intervals = sorted({image.interval_h for image in scan.images if image.interval_h is not None})
    if intervals:
        if intervals[-1] > (1 + INTERVAL_TOLERANCE) * intervals[0]:
            scan.notes.append(
                f"the metadata give intervals from {intervals[0]:g} to {intervals[-1]:g} h between times; hours are "
                "unknown: give interval_h or times"
            )
            return {}
        scan.notes.append(f"times are {intervals[0]:g} h apart according to the metadata")
        return {time: time * intervals[0] for time in times}
    acquired: dict[int, list[float]] = defaultdict(list)
    for image in scan.images:
        if image.time_h is not None:
            acquired[image.time].append(image.time_h)
    medians = [statistics.median(acquired[time]) for time in times if time in acquired]
    if len(medians) < max(2, len(times)) or any(a >= b for a, b in itertools.pairwise(medians)):
        return {}
    scan.notes.append("hours are the acquisition times of planes in the metadata")
    return {time: median - medians[0] for time, median in zip(times, medians, strict=True)}


class WellTiles(Mapping[FieldIndex, "np.ndarray | None"]):
    """The tiles of a well at one time, read on access: (H, W) of one channel, (C, H, W) of a list of channels.

    Every field of the grid is a key; its value is None if a file is missing in one of the channels. Raises SegueError
    for a file that is corrupt, or of another shape or type than the layout's. Nothing is cached.
    """

    def __init__(self, layout: Layout, well: Well, time: int, channels: str | Sequence[str]) -> None:
        self._layout, self._well, self._time, self._channels = layout, well, time, channels

    def __getitem__(self, index: FieldIndex) -> np.ndarray | None:
        rows, columns = self._layout.grid
        if not (0 <= index[0] < rows and 0 <= index[1] < columns):
            raise KeyError(index)
        if isinstance(self._channels, str):
            return self._tile(index, self._channels)
        if any((self._time, channel, index) not in self._well.planes for channel in self._channels):
            return None
        tiles = [tile for channel in self._channels if (tile := self._tile(index, channel)) is not None]
        return np.stack(tiles)

    def __iter__(self) -> Iterator[FieldIndex]:
        return itertools.product(range(self._layout.grid[0]), range(self._layout.grid[1]))

    def __len__(self) -> int:
        return self._layout.grid[0] * self._layout.grid[1]

    def _tile(self, index: FieldIndex, channel: str) -> np.ndarray | None:
        plane = self._well.planes.get((self._time, channel, index))
        if plane is None:
            return None
        tile = read_plane(plane)
        if tile.shape != self._layout.tile_shape or str(tile.dtype) != self._layout.dtype:
            raise SegueError(
                f"{plane.path}: is {tile.shape} {tile.dtype}, other tiles are {self._layout.tile_shape} "
                f"{self._layout.dtype}; replace it, or delete it so that it counts as missing."
            )
        return tile


def read_plane(plane: Plane) -> np.ndarray:
    """Returns the image (H, W) in its stored type, except that floats become float32 and one bit uint8.

    Raises SegueError naming the file if it is missing, corrupt, has no such page or index, is not a single gray image,
    or contains NaN or infinity.
    """
    if plane.path.is_dir():
        image = _read_zarr(plane)
    elif plane.index:
        image = _read_page(plane)
    else:
        from segue.data.image_io import read_image

        channels = read_image(plane.path, pages="channels", color="rgb").image
        if len(channels) != 1:
            raise SegueError(f"{plane.path}: holds {len(channels)} channels; a tile is one gray image: save it as one.")
        return channels[0]
    if image.ndim != 2:
        raise SegueError(
            f"{plane.path}: at {list(plane.index)} it holds an array of shape {image.shape}, but a tile is (H, W); "
            "correct the index."
        )
    image = image.astype(pixel_dtype(image.dtype), copy=False)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise SegueError(f"{plane.path}: at {list(plane.index)} pixels are NaN or infinite; leave the image out.")
    return image


def _read_page(plane: Plane) -> np.ndarray:
    from segue.data.image_io import read_page

    if len(plane.index) != 1:
        raise SegueError(f"{plane.path}: index {list(plane.index)} is given, but a TIFF has pages; give one number.")
    return read_page(plane.path, plane.index[0])


def _read_zarr(plane: Plane) -> np.ndarray:
    import zarr

    try:
        array: Any = zarr.open_array(str(plane.path), mode="r")
        return np.asarray(array[plane.index])
    except MemoryError:
        raise
    except Exception as error:  # the store and its codecs may raise anything
        raise SegueError(f"{plane.path}: cannot be read at {list(plane.index)} ({error}); copy it again.") from error


def describe(layout: Layout) -> str:
    """Returns a summary for people: plates, wells, times, fields, channels, and what is missing, duplicate or wrong."""
    plates: dict[str, list[Well]] = defaultdict(list)
    for well in layout.wells:
        plates[well.plate].append(well)
    rows = []
    for plate, wells in plates.items():
        stained = [well.name for well in wells if well.stained]
        experiments = abbreviate(sorted({well.experiment for well in wells}))
        stains = f"{len(stained)} stained ({abbreviate(stained, 8)})" if stained else "none stained"
        rows.append((f"plate {plate}", f"{len(wells)} wells, {stains}; experiment {experiments}"))
    for name in sorted({name for well in layout.wells for name in well.conditions}):
        counts = Counter(str(well.conditions[name]) for well in layout.wells if name in well.conditions)
        rows.append((name, abbreviate((f"{value}: {count}" for value, count in sorted(counts.items())), 6)))
    hours = [layout.times_h[time] for time in layout.times if time in layout.times_h]
    span = f", {hours[0]:g} to {hours[-1]:g} h" if hours else ", hours unknown"
    size = "pixel size unknown" if layout.pixel_size_um is None else f"{layout.pixel_size_um:g} µm per pixel"
    planes = [plane for well in layout.wells for plane in well.planes.values()]
    rows += [
        ("times", f"{len(layout.times)}: {abbreviate(layout.times, 6)}{span}"),
        ("fields", f"{layout.grid[0]} rows × {layout.grid[1]} columns"),
        ("channels", ", ".join(layout.channels)),
        ("tiles", f"{layout.tile_shape[0]} × {layout.tile_shape[1]} px, {layout.dtype}, {size}"),
        ("images", f"{len(planes)} in {len({plane.path for plane in planes})} files"),
    ]
    for name, sentences in (
        ("problems", layout.errors),
        ("missing", layout.missing),
        ("duplicates", layout.duplicates),
        ("left out", layout.unmatched),
        ("note", layout.notes),
    ):
        if not sentences and name in ("missing", "duplicates"):
            rows.append((name, "none"))
        rows += [(name if i == 0 else "", sentence) for i, sentence in enumerate(sentences[:MAX_LINES])]
        if len(sentences) > MAX_LINES:
            rows.append(("", f"… and {len(sentences) - MAX_LINES} more"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def hash_layout(layout: Layout, cache_path: Path | None = None) -> str:
    """Returns a sha256 (hex) over the wells (`hash_wells`), the grid, the times in hours and the pixel size."""
    hours = [[time, layout.times_h.get(time)] for time in layout.times]
    wells = hash_wells(layout, cache_path)
    return hash_json([wells, layout.grid, layout.channels, hours, layout.pixel_size_um])


def hash_wells(layout: Layout, cache_path: Path | None = None) -> dict[str, str]:
    """Returns a sha256 (hex) by the key of each well, over its attributes and the contents of its files.

    Names of files and folders do not enter. Hashes of unchanged files are cached in the JSON file `cache_path`.
    """
    planes = _plane_hashes(layout, cache_path)
    return {
        well.key: hash_json(
            [well.key, well.experiment, well.stained, dict(sorted(well.conditions.items())), planes[well.key]]
        )
        for well in layout.wells
    }


def hash_images(layout: Layout, cache_path: Path | None = None) -> dict[str, str]:
    """Returns a sha256 (hex) by the key of each well, over the contents of its files and their fields alone."""
    return {key: hash_json(planes) for key, planes in _plane_hashes(layout, cache_path).items()}


def _plane_hashes(layout: Layout, cache_path: Path | None) -> dict[str, list[list[Any]]]:
    """Returns [time, channel, field, hash of the file, index] of each plane, by the key of the well."""
    paths = (plane.path for well in layout.wells for plane in well.planes.values())
    hashes = _hash_paths(paths, cache_path)
    return {
        well.key: [[*key, hashes[plane.path], plane.index] for key, plane in sorted(well.planes.items())]
        for well in layout.wells
    }


def _hash_paths(paths: Iterable[Path], cache_path: Path | None) -> dict[Path, str]:
    """Returns the sha256 (hex) of each file's content; of a folder, that of the names and contents of its files."""
    files: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        files[path] = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    hashes = hash_each_file([file for members in files.values() for file in members], cache_path)
    result = {}
    for path, members in files.items():
        lines = [f"{file.relative_to(path).as_posix()}\0{hashes[file]}" for file in members if file != path]
        result[path] = hashlib.sha256("\n".join(lines).encode()).hexdigest() if path.is_dir() else hashes[path]
    return result
