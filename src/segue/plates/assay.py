"""`segue plate`: a plate becomes a dataset — mosaics, labels from the stains, tiles.

    <out>                     the dataset: tiles of stained wells, mosaics of all
    <out stem>.plate/         what is for the eye, and the work in progress
        report.json           per well and time: seams, flags, thresholds, counts
        nuclei.csv            a row per labelled nucleus
        seams.csv             a row per well and time: tiles, pairs, residuals, flags
        overlays/*.png        labels over images
        mosaics/              stitched images with their pixel size, where asked for
        made/                 the raw plate, where it is a made one
        flats/, wells/        the work in progress, removed in the end

A well is done when its file is there under its key; interrupted at any moment and called again, only wells that are not
done are stitched. The content depends neither on the workers nor on interruptions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.pairing import raise_problems
from segue.data.spec import Layer
from segue.errors import SegueError
from segue.fingerprint import hash_json
from segue.hdf5 import new_file, open_file, reading
from segue.parallel import map_unordered
from segue.plates.exports import seam_rows, write_table
from segue.plates.layout.discovery import Layout, Well, hash_images, hash_layout, read_plane
from segue.plates.preflight import LAYERS, errors, mosaic_columns, plate_layout, synthetic_layout, warnings
from segue.plates.spec import VERSION, FilesSpec, PlateSpec, settings, well_settings
from segue.plates.stitching.illumination import FlatField, estimate_flat_field
from segue.plates.tiles import Mosaic, write_tiles
from segue.plates.well import PlateContext, make_well, read_reports
from segue.storage import make_folder, write_json

Progress = Callable[[str, int, int], None]  # what is counted; done; of how many
MAX_FLAT_FIELD_TILES = 400  # of a channel that its flat field is estimated from
RELIABLE_FLAT_FIELD_TILES = 50  # with fewer, cells in them may sway its flat field by some per cent
MIN_FLAT_FIELD_TILES = 4  # with fewer it is as far from the truth as none: measured on a made screen


@dataclass(frozen=True)
class AssayResult:
    """What `assay` did: the dataset, the folder beside it, counts, and how many wells were done now, not found done."""

    path: Path
    folder: Path
    wells: int
    stained: int
    tiles: int
    done_now: int


def assay(spec: PlateSpec, out: Path, *, root: Path, workers: int = 1, progress: Progress | None = None) -> AssayResult:
    """Makes the dataset `out` of the plate that `spec` describes, whose paths start at the folder `where`.

    A finished `out` of the same specification and files is left as it is. Raises SegueError with all problems of the
    plate before any work, when `out` holds anything else, or when the disk refuses.
    """
    out = Path(out)
    folder = out.with_name(f"{out.stem}.plate")
    tell = progress or (lambda what, done, total: None)
    if spec.synthetic is not None:
        _refuse(spec, synthetic_layout(spec.synthetic), root, spec.synthetic.stage.overlap)
    files, root = files_of(spec, folder, root, workers=workers, tell=tell)
    layout = plate_layout(spec, files, root)
    _refuse(spec, layout, root, files.overlap)
    make_folder(folder)
    cache = folder / "digests.json"
    inputs = hash_json([VERSION, settings(spec), hash_layout(layout, cache)])
    stained = sum(well.stained for well in layout.wells)
    if _is_made(out, inputs):
        with open_file(out) as file:
            return AssayResult(out, folder, len(layout.wells), stained, int(file["tiles/images"].shape[0]), 0)
    digests = hash_images(layout, cache)
    plates = sorted({well.plate for well in layout.wells})
    works = [work for plate in plates for work in _works(spec, files, layout, plate, folder, digests, tell)]
    reports = {work.well.key: read_reports(work.path, work.key) for work in works}
    todo = [work for work in works if reports[work.well.key] is None]
    done = len(works) - len(todo)
    tell("wells", done, len(works))
    for work, report in map_unordered(_made, todo, workers=workers, context=folder):
        reports[work.well.key] = report
        done += 1
        tell("wells", done, len(works))
    write_json(folder / "report.json", _report(spec, layout, reports, works), sort_keys=True, ensure_ascii=False)
    write_table(folder / "nuclei.csv", _nuclei(works))
    write_table(folder / "seams.csv", seam_rows({work.well.key: reports[work.well.key] or {} for work in works}))
    tiling = spec.tiles if stained else spec.tiles.model_copy(update={"datasets": "kept"})  # one file without tiles
    written = write_tiles(
        _mosaics(works, layout),
        out,
        tiling,
        layers=_layers(spec),
        channels=[spec.transmitted],
        attributes=_attributes(spec, layout, inputs),
        splits=spec.splits if stained else {},
    )
    for name in ("wells", "flats"):
        shutil.rmtree(folder / name, ignore_errors=True)
    tiles = written.tiles if tiling.datasets == "full" else written.kept
    return AssayResult(out, folder, len(works), stained, tiles, len(todo))


def files_of(spec: PlateSpec, folder: Path, where: Path, *, workers: int, tell: Progress) -> tuple[FilesSpec, Path]:
    """Returns where the images are: what the specification says, or the plate that it asks to make, then made."""
    if spec.synthetic is None:
        assert spec.files is not None  # the specification has one of the two
        return spec.files, where
    from segue.plates.synthetic.write import synthetic_files, write_plates

    written = write_plates(
        spec.synthetic,
        folder / "made",
        workers=workers,
        progress=lambda done, total: tell("wells made", done, total),
    )
    return synthetic_files(spec.synthetic), written.folder


@dataclass(frozen=True)
class _Work:
    """A well to be done: what its process needs to know."""

    well: Well
    setting: PlateContext
    path: Path
    folder: Path  # of what lies beside the dataset
    key: str


def _made(work: _Work) -> dict[str, Any]:
    return make_well(work.setting, work.well, work.path, folder=work.folder, key=work.key)


def _works(
    spec: PlateSpec,
    files: FilesSpec,
    layout: Layout,
    plate: str,
    folder: Path,
    digests: Mapping[str, str],
    tell: Progress,
) -> list[_Work]:
    """Returns the wells of a plate with their settings; its flat fields are estimated, or read where they are done."""
    wells = [well for well in layout.wells if well.plate == plate]
    hours = [[time, layout.times_h.get(time)] for time in layout.times]
    shared = [layout.grid, layout.tile_shape, layout.dtype, layout.pixel_size_um, hours, files.overlap]
    base = hash_json([VERSION, well_settings(spec), shared, [[well.key, digests[well.key]] for well in wells]])
    flats = _flats(spec, layout, wells, folder / "flats" / f"{plate}.h5", base, tell)
    geometry = replace(layout, wells=(), missing=(), duplicates=())
    setting = PlateContext(spec, geometry, flats, files.overlap)
    return [
        _Work(
            well,
            setting,
            folder / "wells" / f"{well.key.replace('/', '_')}.h5",
            folder,
            hash_json([base, well.key, well.stained]),
        )
        for well in wells
    ]


def _flats(
    spec: PlateSpec, layout: Layout, wells: Sequence[Well], path: Path, key: str, tell: Progress
) -> dict[str, FlatField]:
    """Returns the flat field of each channel of a plate, from an even draw of its tiles; kept in `path`.

    A channel of fewer than FEWEST_TILES tiles has none.
    """
    if spec.stitching.flat_field == "none":
        return {}
    if path.exists():
        with open_file(path) as file:
            if file.attrs.get("key") == key:
                return {
                    channel: FlatField(flat[()], float(flat.attrs["dark"]), int(flat.attrs["tiles"]))
                    for channel, flat in file.items()
                }
    found: dict[str, FlatField] = {}
    channels = [spec.transmitted, *spec.labels.stains]
    with new_file(path) as new:
        new.file.attrs["key"] = key
        for done, channel in enumerate(channels):
            tell(f"flat fields of {wells[0].plate}", done, len(channels))
            planes = [well.planes[place] for well in wells for place in sorted(well.planes) if place[1] == channel]
            step = max(1, len(planes) // MAX_FLAT_FIELD_TILES)
            if len(planes) >= MIN_FLAT_FIELD_TILES:
                tiles = (read_plane(plane) for plane in planes[::step])
                flat = found[channel] = estimate_flat_field(
                    tiles, dark=spec.stitching.dark_counts, max_tiles=MAX_FLAT_FIELD_TILES
                )
                new.file[channel] = flat.gain
                new.file[channel].attrs.update(dark=flat.dark, tiles=flat.tiles)
        tell(f"flat fields of {wells[0].plate}", len(channels), len(channels))
    return found


def _refuse(spec: PlateSpec, layout: Layout, where: Path, overlap: float) -> None:
    """Raises SegueError where the plate lacks what the specification needs, or its tiles and splits cannot be."""
    raise_problems(where, [f"{where}: {told}" for told in errors(spec, layout, overlap=overlap)])


def _is_made(out: Path, inputs: str) -> bool:
    """Tells whether `out` is there and is this very dataset; raises SegueError where it is anything else."""
    if not out.exists():
        return False
    with open_file(out) as file:
        found = file.attrs.get("inputs")
    if found != inputs:
        raise SegueError(
            f"{out}: holds another dataset, of another specification or other files; "
            "choose another file or remove this one."
        )
    return True


def _layers(spec: PlateSpec) -> list[Layer]:
    return [
        Layer(LAYERS[0], "classes", tuple(spec.labels.class_names)),
        Layer(LAYERS[1], "instances", ("background", "nucleus")),
    ]


def _attributes(spec: PlateSpec, layout: Layout, inputs: str) -> dict[str, str | int | float]:
    assert layout.pixel_size_um is not None  # checked before any work
    provenance = {"origin": "made plate" if spec.synthetic is not None else "plate", "note": spec.title}
    return {
        "name": spec.name,
        "pixel_size_nm": 1000 * layout.pixel_size_um,
        "inputs": inputs,
        "provenance": json.dumps(provenance, sort_keys=True, ensure_ascii=False),
    }


def _mosaics(works: Sequence[_Work], layout: Layout) -> Iterator[Mosaic]:
    """Yields the mosaics of all wells and times, one in memory at a time."""
    for work in works:
        with open_file(work.path) as file, reading(work.path):
            for name in sorted(file):
                group = file[name]
                labels = {layer: values[()] for layer, values in group.get("labels", {}).items()}
                attributes = mosaic_columns(layout, work.well, int(group.attrs["time"]))
                yield Mosaic(
                    source=f"{work.well.key}/{name}",
                    group=work.well.key,
                    image=group["image"][()][None],
                    labels=labels,
                    intensity=np.asarray(group.attrs["intensity"], np.float32)[None],
                    samples=attributes,
                    attributes={
                        **attributes,
                        "intensity": group.attrs["intensity"],
                        "valid_fraction": float(group.attrs["valid_fraction"]),
                    },
                )


def _weak(spec: PlateSpec, layout: Layout, plate: str, flats: Mapping[str, FlatField]) -> Iterator[str]:
    """Yields what is to be known of flat fields that rest on few tiles, or that are not taken for want of any."""
    if spec.stitching.flat_field == "none":
        return
    for channel in (spec.transmitted, *spec.labels.stains):
        if channel not in flats:
            there = sum(place[1] == channel for well in layout.wells if well.plate == plate for place in well.planes)
            if there:
                yield (
                    f"{plate}: {channel} has {there} {'tile' if there == 1 else 'tiles'}, too few to estimate a flat "
                    "field from: uneven light stays in it"
                )
        elif flats[channel].tiles < RELIABLE_FLAT_FIELD_TILES:
            yield (
                f"{plate}: the flat field of {channel} rests on {flats[channel].tiles} tiles, {RELIABLE_FLAT_FIELD_TILES} or more are "
                "wanted; seams between fields may stay visible in it"
            )


def _report(spec: PlateSpec, layout: Layout, reports: Mapping[str, Any], works: Sequence[_Work]) -> dict[str, Any]:
    flats = {work.well.plate: work.setting.flats for work in works}
    weak = [note for plate, own in flats.items() for note in _weak(spec, layout, plate, own)]
    return {
        "plate": spec.name,
        "missing": [str(item) for item in layout.missing],
        "notes": [*warnings(spec, layout), *layout.notes, *weak],
        "wells": dict(reports),
    }


def _nuclei(works: Sequence[_Work]) -> Iterator[dict[str, Any]]:
    """Yields a row per labelled nucleus: plate, well, time, and what is known of it."""
    for work in works:
        with open_file(work.path) as part, reading(work.path):
            for name in sorted(part):
                objects = part[name].get("objects", {})
                columns = {column: objects[column][()].tolist() for column in objects}
                place = {"plate": work.well.plate, "well": work.well.name, "time": int(part[name].attrs["time"])}
                for values in zip(*columns.values(), strict=True):
                    yield {**place, **dict(zip(columns, values, strict=True))}
