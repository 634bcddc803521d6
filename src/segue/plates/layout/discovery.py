"""Reads the images that a layout names, one plane at a time, and digests the files they lie in.

What a plate consists of: wells × time points × fields × channels, found before any work, with what is amiss.

    layout = find_layout(spec, folder)
    print(describe(layout))
    tiles = WellTiles(layout, layout.wells[0], 0, "brightfield")      # a mapping from (row, column) to (H, W) or None

Missing images are told and worked around; two images for one place, and shapes, types or pixel sizes that disagree, are
errors.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.image_io import broken
from segue.data.pairing import raise_problems
from segue.errors import SegueError
from segue.fingerprint import hash_each_file, hash_json
from segue.plates.layout.checks import common_geometry, find_duplicates, find_missing
from segue.plates.layout.filenames import WellRow, scan_manifest, scan_pattern, times_table, wells_table
from segue.plates.layout.grid import (
    FieldIndex,
    Plane,
    ScanResult,
    abbreviate,
    assign_fields,
    hours_from_metadata,
    natural_key,
    pixel_dtype,
    well_name,
)
from segue.plates.layout.ome import scan_ome_tiff, scan_ome_zarr
from segue.plates.spec import FilesSpec
from segue.spec import unknown


def read_plane(plane: Plane) -> np.ndarray:
    """Returns the image (H, W) in the type it was acquired in: floats as float32, one bit as uint8.

    Raises SegueError naming the file when it is missing, corrupt, has no such page or index, is no grey image of one
    plane, or holds NaN or infinity.
    """
    if plane.path.is_dir():
        image = _from_zarr(plane)
    elif plane.index:
        image = _page(plane)
    else:
        from segue.data.image_io import read_micrograph

        channels = read_micrograph(plane.path).image
        if len(channels) != 1:
            raise SegueError(f"{plane.path}: holds {len(channels)} channels; a tile is one grey image: save it so.")
        return channels[0]
    if image.ndim != 2:
        raise SegueError(
            f"{plane.path}: at {list(plane.index)} it holds an array of shape {image.shape}, a tile is (H, W); correct "
            "the index."
        )
    image = image.astype(pixel_dtype(image.dtype), copy=False)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise SegueError(f"{plane.path}: at {list(plane.index)} pixels are NaN or infinite; leave the image out.")
    return image


def _page(plane: Plane) -> np.ndarray:
    import tifffile

    from segue.data.image_io import complaints_of_tifffile

    if len(plane.index) != 1:
        raise SegueError(f"{plane.path}: index {list(plane.index)} is given, a TIFF has pages; give one number.")
    try:
        with complaints_of_tifffile() as complaints, tifffile.TiffFile(plane.path) as tiff:
            if plane.index[0] >= len(tiff.pages):
                raise SegueError(f"{plane.path}: has {len(tiff.pages)} pages, and none of index {plane.index[0]}.")
            image = np.asarray(tiff.pages[plane.index[0]].asarray())
        if complaints:
            raise SegueError(broken(plane.path, complaints[0]))
        return image
    except FileNotFoundError:
        raise SegueError(f"{plane.path}: there is no such file; correct the path.") from None
    except (SegueError, MemoryError):
        raise
    except Exception as error:  # whatever the bytes make the decoders raise
        raise SegueError(broken(plane.path)) from error


def _from_zarr(plane: Plane) -> np.ndarray:
    import zarr

    try:
        array: Any = zarr.open_array(str(plane.path), mode="r")
        return np.asarray(array[plane.index])
    except MemoryError:
        raise
    except Exception as error:  # whatever the store and its codecs raise
        raise SegueError(f"{plane.path}: cannot be read at {list(plane.index)} ({error}); copy it again.") from error


def digests_of(paths: Iterable[Path], cache_path: Path | None) -> dict[Path, str]:
    """Returns the sha256 (hex) of each file's content; of a folder that of the names and contents of its files."""
    inside: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(paths):
        inside[path] = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    digests = hash_each_file([one for files in inside.values() for one in files], cache_path)
    found = {}
    for path, files in inside.items():
        lines = [f"{one.relative_to(path).as_posix()}\0{digests[one]}" for one in files if one != path]
        found[path] = hashlib.sha256("\n".join(lines).encode()).hexdigest() if path.is_dir() else digests[path]
    return found


SHOWN = 10  # of a list of what is amiss
PlaneKey = tuple[int, str, FieldIndex]  # time index, channel, field


@dataclass(frozen=True)
class Well:
    """One well: whether it was stained, further columns of the table of wells, and its images."""

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
    """All wells, sorted by plate and well, A2 before A10; what the images share; what is amiss, in words.

    channels: transmitted light first. grid: rows and columns of fields. tile_shape: (H, W) in px. times_h: hours by
    time index, where they are known. missing: images that should be there. doubled, faults: what `find_layout` refuses.
    unfit: files that belong to no place. notes: what was concluded and is worth a look.
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


class WellTiles(Mapping[FieldIndex, "np.ndarray | None"]):
    """The tiles of a well at one time, read when asked for: (H, W) of one channel, (C, H, W) of a list of channels.

    Every cell of the grid is there; None where a file is missing in one of the channels. Raises SegueError for a file
    that is corrupt, or of another shape or type than the layout's. Nothing is kept.
    """

    def __init__(self, layout: Layout, well: Well, time: int, channels: str | Sequence[str]) -> None:
        self._layout, self._well, self._time, self._channels = layout, well, time, channels

    def __getitem__(self, cell: FieldIndex) -> np.ndarray | None:
        rows, columns = self._layout.grid
        if not (0 <= cell[0] < rows and 0 <= cell[1] < columns):
            raise KeyError(cell)
        if isinstance(self._channels, str):
            return self._tile(cell, self._channels)
        if any((self._time, channel, cell) not in self._well.planes for channel in self._channels):
            return None
        tiles = [tile for channel in self._channels if (tile := self._tile(cell, channel)) is not None]
        return np.stack(tiles)

    def __iter__(self) -> Iterator[FieldIndex]:
        return iter([(row, column) for row in range(self._layout.grid[0]) for column in range(self._layout.grid[1])])

    def __len__(self) -> int:
        return self._layout.grid[0] * self._layout.grid[1]

    def _tile(self, cell: FieldIndex, channel: str) -> np.ndarray | None:
        plane = self._well.planes.get((self._time, channel, cell))
        if plane is None:
            return None
        tile = read_plane(plane)
        if tile.shape != self._layout.tile_shape or str(tile.dtype) != self._layout.dtype:
            raise SegueError(
                f"{plane.path}: is {tile.shape} {tile.dtype}, other tiles are {self._layout.tile_shape} "
                f"{self._layout.dtype}; replace it, or delete it: then it counts as missing."
            )
        return tile


def find_layout(spec: FilesSpec, root: Path, *, transmitted: str = "brightfield", strict: bool = True) -> Layout:
    """Returns the layout of the plates that `spec` describes; its paths start at the folder `where`.

    transmitted: the name of the transmitted-light channel, which every well must have; the others are stains. A well is
    stained when the table of wells says so; without that column, when it has every channel. Raises SegueError when
    nothing is found, a table cannot be read, and, if `strict`, with all that is doubled or disagrees.
    """
    root = Path(root).resolve()
    findings = _find(spec, root, transmitted)
    channels = _name_channels(findings, spec, transmitted)
    misnamed = bool(findings.errors)  # what is missing of which channel cannot be told then
    if not findings.images:
        why = abbreviate([*findings.missing, *findings.unmatched]) or "nothing fits"
        raise_problems(root, findings.errors or [f"{root}: no image was found ({why}); correct [files]."])
    cells, grid = assign_fields(findings, spec)
    names = {one.key: (one.plate, one.well) for one in findings.images}
    rows = (
        None if spec.wells is None else wells_table(root / spec.wells, sorted({plate for plate, _ in names.values()}))
    )
    keys = _chosen_wells(spec, names, rows, findings)
    times = _chosen_times(spec, {one.time for one in findings.images if one.key in keys}, root)
    planes: dict[str, dict[PlaneKey, list[Plane]]] = {key: defaultdict(list) for key in keys}
    used = []
    for one, cell in zip(findings.images, cells, strict=True):
        if one.key in planes and one.time in times:
            planes[one.key][one.time, one.channel, cell].append(one.plane)
            used.append(one)
    wells = []
    for key in keys:
        well = _well(names[key], planes[key], rows, channels)
        wanted = () if misnamed else channels if well.stained else channels[:1]
        findings.missing += find_missing(key, planes[key], times=times, channels=wanted, grid=grid)
        if not well.stained and rows is not None and any(channel != transmitted for _, channel, _ in planes[key]):
            findings.notes.append(f"{key} is not stained, says the table of wells, and has files of stains")
        wells.append(well)
    times_h = _hours(spec, root, times, findings)
    shared = common_geometry(used, spec.pixel_size_um)
    layout = Layout(
        wells=tuple(wells),
        times=times,
        channels=channels,
        grid=grid,
        tile_shape=shared.shape,
        dtype=shared.dtype,
        pixel_size_um=shared.pixel_size_um,
        missing=tuple(findings.missing),
        duplicates=tuple(find_duplicates(planes, root)),
        times_h=times_h,
        errors=(*findings.errors, *shared.errors),
        unmatched=tuple(findings.unmatched),
        notes=(*findings.notes, *([shared.note] if shared.note else [])),
    )
    if strict:
        raise_problems(root, [*layout.errors, *(f"{one}; keep one." for one in layout.duplicates)])
    return layout


def _find(spec: FilesSpec, where: Path, transmitted: str) -> ScanResult:
    if spec.format == "pattern":
        return scan_pattern(spec, where, transmitted)
    if spec.format == "manifest":
        return scan_manifest(spec, where)
    return scan_ome_tiff(spec, where, transmitted) if spec.format == "ome-tiff" else scan_ome_zarr(spec, where)


def _name_channels(findings: ScanResult, spec: FilesSpec, transmitted: str) -> tuple[str, ...]:
    """Returns the channels' names, transmitted light first; gives the images theirs, drops those that are ignored."""
    seen = {one.channel for one in findings.images}
    name_of = {token: name for name, token in spec.channels.items()} or {token: token for token in seen}
    known = ", ".join(sorted(seen)) or "none"
    strange = sorted(seen - set(name_of) - set(spec.ignore_channels))
    absent = sorted((set(name_of) | set(spec.ignore_channels)) - seen if seen else ())
    if strange and absent:
        findings.errors.append(
            f"files: no image has the {_channels(absent)}, and {_channels(strange)} is in no entry of channels; found "
            f"are {known}: correct channels."
        )
    elif strange:
        findings.errors.append(
            f"files: the {_channels(strange)} is in no entry of channels; found are {known}: add it there, or to "
            "ignore_channels."
        )
    elif absent:
        findings.errors.append(
            f"files: there is no {_channels(absent)}; found are {known}: correct it or leave it out."
        )
    left_out = {token for token in seen if token in spec.ignore_channels}
    findings.images = [
        replace(one, channel=name_of.get(one.channel, one.channel)) if spec.channels else one
        for one in findings.images
        if one.channel not in left_out
    ]
    names = [name for name in (spec.channels or sorted(seen - left_out)) if name != transmitted]
    if seen and transmitted not in name_of.values() and not (strange and absent):
        findings.errors.append(
            f"files: there is no transmitted-light channel '{transmitted}'; found are {known}: name it in channels, "
            f'e.g. channels = {{ {transmitted} = "{min(seen)}", … }}, or in transmitted.'
        )
    return (transmitted, *names)


def _channels(tokens: Sequence[str]) -> str:
    return f"channel{'s' if len(tokens) > 1 else ''} {', '.join(repr(token) for token in tokens)}"


def _chosen_wells(
    spec: FilesSpec,
    names: Mapping[str, tuple[str, str]],
    rows: Mapping[tuple[str, str], WellRow] | None,
    findings: ScanResult,
) -> list[str]:
    """Returns the keys of the wells to use, sorted: those of the table of wells and of only_wells that have files."""
    chosen = sorted(names, key=lambda key: tuple(natural_key(part) for part in names[key]))
    listed = set(chosen)
    if rows is not None:
        listed = {"/".join(key) for key in rows}
        strangers = [key for key in chosen if key not in listed]
        if strangers:
            findings.unmatched.append(
                f"{abbreviate(strangers)}: files of wells without a row in {spec.wells}, left out"
            )
    if spec.only_wells:
        asked = [f"{one.rpartition('/')[0]}/{well_name(one.rpartition('/')[2])}".lstrip("/") for one in spec.only_wells]
        by_name = {key.rpartition("/")[2] for key in listed}
        for one in asked:
            if one not in listed and one not in by_name:
                raise SegueError(f"only_wells: {unknown(one, listed, 'well')}; correct it.")
        listed = {key for key in listed if key in asked or key.rpartition("/")[2] in asked}
    findings.missing += [
        f"{key} is in {spec.wells}, and has no files" for key in sorted(listed - set(chosen), key=natural_key)
    ]
    chosen = [key for key in chosen if key in listed]
    if not chosen:
        raise SegueError(
            f"files: none of the wells found ({abbreviate(names)}) is one of those asked for "
            f"({abbreviate(sorted(listed, key=natural_key))}); correct wells, only_wells, or the pattern."
        )
    return chosen


def _chosen_times(spec: FilesSpec, found: Collection[int], where: Path) -> tuple[int, ...]:
    for time in spec.only_times:
        if time not in found:
            raise SegueError(
                f"{where}: only_times has {time}; found are the times {abbreviate(sorted(found), 8)}: correct it."
            )
    return tuple(sorted(set(spec.only_times) or found))


def _hours(spec: FilesSpec, where: Path, times: Sequence[int], findings: ScanResult) -> dict[int, float]:
    if spec.times is None and spec.interval_h is None:
        told = hours_from_metadata(findings) if len(times) > 1 else {}
        return {time: told[time] for time in times if time in told}
    if spec.times is None:
        told = {one.interval_h for one in findings.images if one.interval_h is not None} if len(times) > 1 else set()
        other = next((h for h in sorted(told) if not math.isclose(h, spec.interval_h or 0.0, rel_tol=0.01)), None)
        if other is not None:
            findings.notes.append(
                f"the metadata tell {other:g} h between times; interval_h = {spec.interval_h:g} counts"
            )
        return {time: time * (spec.interval_h or 0.0) for time in times}
    known = times_table(where / spec.times)
    lacking = [time for time in times if time not in known]
    if lacking:
        findings.errors.append(f"{where / spec.times}: has no row for time {abbreviate(lacking)}; add it.")
    return {time: known[time] for time in times if time in known}


def _well(
    name: tuple[str, str],
    planes: Mapping[PlaneKey, Sequence[Plane]],
    rows: Mapping[tuple[str, str], WellRow] | None,
    channels: Sequence[str],
) -> Well:
    row = WellRow(None, None, {}) if rows is None else rows[name]
    seen = {channel for _, channel, _ in planes}
    stained = row.stained if row.stained is not None else len(channels) > 1 and set(channels) <= seen
    first = {at: planes[at][0] for at in sorted(planes)}
    return Well(name[0], name[1], row.experiment or name[0], stained, dict(row.conditions), first)


def describe(layout: Layout) -> str:
    """Returns the layout in words: plates, wells, times, fields, channels, and what is missing, doubled or amiss."""
    rows = []
    for plate, wells in _by_plate(layout).items():
        stained = [well.name for well in wells if well.stained]
        experiments = abbreviate(sorted({well.experiment for well in wells}))
        told = f"{len(stained)} stained ({abbreviate(stained, 8)})" if stained else "none stained"
        rows.append((f"plate {plate}", f"{len(wells)} wells, {told}; experiment {experiments}"))
    for name in sorted({name for well in layout.wells for name in well.conditions}):
        counts = Counter(str(well.conditions[name]) for well in layout.wells if name in well.conditions)
        rows.append((name, abbreviate((f"{value}: {count}" for value, count in sorted(counts.items())), 6)))
    hours = [layout.times_h[time] for time in layout.times if time in layout.times_h]
    span = f", {hours[0]:g} to {hours[-1]:g} h" if hours else ", hours not known"
    rows.append(("times", f"{len(layout.times)}: {abbreviate(layout.times, 6)}{span}"))
    rows.append(("fields", f"{layout.grid[0]} rows × {layout.grid[1]} columns"))
    rows.append(("channels", ", ".join(layout.channels)))
    size = "pixel size not known" if layout.pixel_size_um is None else f"{layout.pixel_size_um:g} µm a pixel"
    rows.append(("tiles", f"{layout.tile_shape[0]} × {layout.tile_shape[1]} px, {layout.dtype}, {size}"))
    count = sum(len(well.planes) for well in layout.wells)
    rows.append(
        ("images", f"{count} in {len({plane.path for w in layout.wells for plane in w.planes.values()})} files")
    )
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {text}" for name, text in rows]
    for what, told in (
        ("amiss", layout.errors),
        ("missing", layout.missing),
        ("doubled", layout.duplicates),
        ("left out", layout.unmatched),
        ("note", layout.notes),
    ):
        lines += _list(what, told, width)
    return "\n".join(lines)


def _by_plate(layout: Layout) -> dict[str, list[Well]]:
    plates: dict[str, list[Well]] = defaultdict(list)
    for well in layout.wells:
        plates[well.plate].append(well)
    return plates


def _list(what: str, told: Sequence[str], width: int) -> list[str]:
    lines = [f"{what if i == 0 else '':<{width}}  {one}" for i, one in enumerate(told[:SHOWN])]
    if not told:
        return [f"{what:<{width}}  none"] if what in ("missing", "doubled") else []
    return lines + ([f"{'':<{width}}  … and {len(told) - SHOWN} more"] if len(told) > SHOWN else [])


def well_digests(layout: Layout, cache_path: Path | None = None) -> dict[str, str]:
    """Returns a sha256 (hex) by the key of each well, over what it is and the contents of its files.

    Names of files and folders are outside. Digests of unchanged files are taken from `cache_path`, a JSON file, and
    added to it, as in `segue.fingerprint`.
    """
    files = digests_of((plane.path for well in layout.wells for plane in well.planes.values()), cache_path)
    found = {}
    for well in layout.wells:
        planes = [[*place, files[plane.path], plane.index] for place, plane in sorted(well.planes.items())]
        found[well.key] = hash_json(
            [well.key, well.experiment, well.stained, dict(sorted(well.conditions.items())), planes]
        )
    return found


def image_digests(layout: Layout, cache_path: Path | None = None) -> dict[str, str]:
    """Returns a sha256 (hex) by the key of each well, over the contents of its files and their places alone."""
    files = digests_of((plane.path for well in layout.wells for plane in well.planes.values()), cache_path)
    return {
        well.key: hash_json([[*place, files[plane.path], plane.index] for place, plane in sorted(well.planes.items())])
        for well in layout.wells
    }


def input_digest(layout: Layout, cache_path: Path | None = None) -> str:
    """Returns a sha256 (hex) over the wells (`well_digests`), the grid, the times in hours and the pixel size."""
    hours = [[time, layout.times_h.get(time)] for time in layout.times]
    wells = well_digests(layout, cache_path)
    return hash_json([wells, layout.grid, layout.channels, hours, layout.pixel_size_um])
