"""`segue plate`: makes a dataset of mosaics, labels from stains, and tiles from the raw tiles of wells.

    <out>                     the dataset: tiles of stained wells, mosaics of all
    <out stem>.plate/         exports for people and other programs, and the work in progress
        report.json           per well and time: seams, flags, thresholds, counts
        nuclei.csv            a row per labeled nucleus
        seams.csv             a row per well and time: tiles, pairs, residuals, flags
        overlays/*.png        labels over images
        mosaics/              stitched images with their pixel size, on request
        made/                 the raw images of a synthetic plate
        flats/, wells/        work in progress, removed at the end

Each well becomes a part file under a key of everything it depends on; a call after an interruption makes only the parts
that are missing. The content depends neither on the number of workers nor on interruptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.maker import is_made, make_parts, work_folders
from segue.data.spec import Layer
from segue.fingerprint import hash_json
from segue.hdf5 import new_file, open_file, reading
from segue.plates import preflight
from segue.plates.exports import seam_rows, write_csv
from segue.plates.layout.discovery import Layout, Well, hash_images, hash_layout, read_plane
from segue.plates.preflight import LAYERS, mosaic_columns
from segue.plates.spec import VERSION, FilesSpec, PlateSpec, settings, well_settings
from segue.plates.stitching.illumination import FlatField, estimate_flat_field
from segue.plates.tiles import Mosaic, write_tiles
from segue.plates.well import PlateContext, make_well, read_reports
from segue.storage import file_names, make_folder, write_json

Progress = Callable[[str, int, int], None]  # what is counted; done; of how many
MAX_FLAT_FIELD_TILES = 400  # of a channel, for the estimate of its flat field
RELIABLE_FLAT_FIELD_TILES = 50  # with fewer, cells bias the flat field by some per cent
MIN_FLAT_FIELD_TILES = 4  # with fewer the estimate is no better than none: measured on a synthetic plate


@dataclass(frozen=True)
class AssayResult:
    """The dataset and the folder next to it, numbers of wells and tiles, and how many wells this call made."""

    path: Path
    folder: Path
    wells: int
    stained: int
    tiles: int
    made_now: int


@dataclass(frozen=True)
class _WellTask:
    """Everything a worker process needs to make the part of a well."""

    well: Well
    plate: PlateContext
    path: Path  # of the part
    folder: Path  # of the exports
    key: str


def assay(spec: PlateSpec, out: Path, *, root: Path, workers: int = 1, progress: Progress | None = None) -> AssayResult:
    """Makes the dataset `out` of the plate that `spec` describes, whose paths start at the folder `root`.

    A finished `out` of the same specification and files is left unchanged. Raises SegueError with all problems of the
    plate before any work, if `out` is anything else, or for errors of the disk.
    """
    out, progress = Path(out), progress or (lambda what, done, total: None)
    folder = out.with_name(f"{out.stem}.plate")

    # location of the images: simulated first if the plate is synthetic
    if spec.synthetic is None:
        assert spec.files is not None  # the specification has one of the two
        files = spec.files
    else:
        layout, overlap = preflight.synthetic_layout(spec.synthetic), spec.synthetic.stage.overlap
        preflight.check(spec, layout, root, overlap=overlap)
        files, root = _simulate_plate(spec, folder / "made", workers=workers, progress=progress)

    # layout of the plate; leave a finished dataset unchanged
    layout = preflight.plate_layout(spec, files, root)
    preflight.check(spec, layout, root, overlap=files.overlap)
    make_folder(folder)
    cache = folder / "digests.json"
    inputs = hash_json([VERSION, settings(spec), hash_layout(layout, cache)])
    stained = sum(well.stained for well in layout.wells)
    if is_made(out, "inputs", inputs):
        with open_file(out) as file:
            return AssayResult(out, folder, len(layout.wells), stained, int(file["tiles/images"].shape[0]), 0)

    with work_folders(out, folder / "wells", folder / "flats"):
        if is_made(out, "inputs", inputs):  # by another process, while this one waited
            return assay(spec, out, root=root, workers=workers, progress=progress)
        # flat fields of each plate; then each well: stitched, registered over time, labeled
        hashes, plates = hash_images(layout, cache), sorted({well.plate for well in layout.wells})
        tasks = [task for plate in plates for task in _well_tasks(spec, files, layout, plate, folder, hashes, progress)]
        parts = make_parts(
            _make_well,
            tasks,
            finished=_read_reports,
            workers=workers,
            context=folder,
            progress=lambda done, total: progress("wells", done, total),
        )

        # report and tables
        reports = {task.well.key: report for task, report in zip(tasks, parts.results, strict=True)}
        report = {
            "plate": spec.name,
            "missing": list(layout.missing),
            "notes": [*preflight.warnings(spec, layout), *layout.notes, *_flat_field_notes(spec, layout, tasks)],
            "wells": reports,
        }
        write_json(folder / "report.json", report, sort_keys=True, ensure_ascii=False)
        write_csv(folder / "nuclei.csv", _nucleus_rows(tasks))
        write_csv(folder / "seams.csv", seam_rows(reports))

        # tiles of all mosaics in one pass
        tiling = spec.tiles if stained else spec.tiles.model_copy(update={"datasets": "kept"})  # one file without tiles
        written = write_tiles(
            _mosaics(tasks, layout),
            out,
            tiling,
            layers=[
                Layer(LAYERS[0], "classes", tuple(spec.labels.class_names)),
                Layer(LAYERS[1], "instances", ("background", "nucleus")),
            ],
            channels=[spec.transmitted],
            attributes=_attributes(spec, layout, inputs),
            splits=spec.splits if stained else {},
        )
    tiles = written.tiles if tiling.datasets == "full" else written.selected
    return AssayResult(out, folder, len(tasks), stained, tiles, parts.made_now)


def _simulate_plate(spec: PlateSpec, folder: Path, *, workers: int, progress: Progress) -> tuple[FilesSpec, Path]:
    from segue.plates.synthetic.write import synthetic_files, write_plates

    assert spec.synthetic is not None
    written = write_plates(
        spec.synthetic, folder, workers=workers, progress=lambda done, total: progress("wells simulated", done, total)
    )
    return synthetic_files(spec.synthetic), written.folder


def _well_tasks(
    spec: PlateSpec,
    files: FilesSpec,
    layout: Layout,
    plate: str,
    folder: Path,
    hashes: Mapping[str, str],
    progress: Progress,
) -> list[_WellTask]:
    """Returns a task for each well of a plate, after estimating the plate's flat fields, or reading finished ones."""
    wells = [well for well in layout.wells if well.plate == plate]
    hours = [[time, layout.times_h.get(time)] for time in layout.times]
    shared = [layout.grid, layout.tile_shape, layout.dtype, layout.pixel_size_um, hours, files.overlap]
    key = hash_json([VERSION, well_settings(spec), shared, [[well.key, hashes[well.key]] for well in wells]])
    plates = file_names({well.plate for well in layout.wells})
    flats = _flat_fields(spec, wells, folder / "flats" / f"{plates[plate]}.h5", key, progress)
    context = PlateContext(spec, replace(layout, wells=(), missing=(), duplicates=()), flats, files.overlap)
    names = file_names(well.key for well in layout.wells)
    return [
        _WellTask(
            well,
            context,
            folder / "wells" / f"{names[well.key]}.h5",
            folder,
            hash_json([key, well.key, well.stained]),
        )
        for well in wells
    ]


def _flat_fields(
    spec: PlateSpec, wells: Sequence[Well], path: Path, key: str, progress: Progress
) -> dict[str, FlatField]:
    """Returns the flat field of each channel of a plate, from evenly spaced tiles of it; stored in `path`.

    A channel of fewer than MIN_FLAT_FIELD_TILES tiles has none.
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
    flats: dict[str, FlatField] = {}
    channels, what = [spec.transmitted, *spec.labels.stains], f"flat fields of {wells[0].plate}"
    with new_file(path) as new:
        new.file.attrs["key"] = key
        for done, channel in enumerate(channels):
            progress(what, done, len(channels))
            planes = [well.planes[place] for well in wells for place in sorted(well.planes) if place[1] == channel]
            if len(planes) >= MIN_FLAT_FIELD_TILES:
                tiles = (read_plane(plane) for plane in planes[:: max(1, len(planes) // MAX_FLAT_FIELD_TILES)])
                dark = spec.stitching.dark_counts
                flat = flats[channel] = estimate_flat_field(tiles, dark=dark, max_tiles=MAX_FLAT_FIELD_TILES)
                new.file[channel] = flat.gain
                new.file[channel].attrs.update(dark=flat.dark, tiles=flat.tiles)
        progress(what, len(channels), len(channels))
    return flats


def _make_well(task: _WellTask) -> dict[str, Any]:
    return make_well(task.plate, task.well, task.path, folder=task.folder, key=task.key)


def _read_reports(task: _WellTask) -> dict[str, Any] | None:
    return read_reports(task.path, task.key)


def _flat_field_notes(spec: PlateSpec, layout: Layout, tasks: Sequence[_WellTask]) -> Iterator[str]:
    """Yields notes on flat fields estimated from few tiles, or missing for lack of tiles."""
    if spec.stitching.flat_field == "none":
        return
    for plate, flats in {task.well.plate: task.plate.flats for task in tasks}.items():
        for channel in (spec.transmitted, *spec.labels.stains):
            count = sum(key[1] == channel for well in layout.wells if well.plate == plate for key in well.planes)
            if channel not in flats and count:
                yield (
                    f"{plate}: {channel} has {count} {'tile' if count == 1 else 'tiles'}, too few to estimate a flat "
                    "field: uneven illumination is not corrected"
                )
            elif channel in flats and flats[channel].tiles < RELIABLE_FLAT_FIELD_TILES:
                yield (
                    f"{plate}: the flat field of {channel} was estimated from {flats[channel].tiles} tiles, "
                    f"{RELIABLE_FLAT_FIELD_TILES} or more are recommended; seams between fields may remain visible"
                )


def _nucleus_rows(tasks: Sequence[_WellTask]) -> Iterator[dict[str, Any]]:
    """Yields a row per labeled nucleus: plate, well, time, and the columns of `StainLabels.objects`."""
    for task in tasks:
        with open_file(task.path) as part, reading(task.path):
            for name in sorted(part):
                objects = part[name].get("objects", {})
                columns = {column: objects[column][()].tolist() for column in objects}
                frame = {"plate": task.well.plate, "well": task.well.name, "time": int(part[name].attrs["time"])}
                for values in zip(*columns.values(), strict=True):
                    yield {**frame, **dict(zip(columns, values, strict=True))}


def _attributes(spec: PlateSpec, layout: Layout, inputs: str) -> dict[str, str | int | float]:
    assert layout.pixel_size_um is not None  # checked before any work
    provenance = {"origin": "made plate" if spec.synthetic is not None else "plate", "note": spec.title}
    return {
        "name": spec.name,
        "pixel_size_nm": 1000 * layout.pixel_size_um,
        "inputs": inputs,
        "provenance": json.dumps(provenance, sort_keys=True, ensure_ascii=False),
    }


def _mosaics(tasks: Sequence[_WellTask], layout: Layout) -> Iterator[Mosaic]:
    """Yields the mosaics of all wells and times, one in memory at a time."""
    for task in tasks:
        with open_file(task.path) as file, reading(task.path):
            for name in sorted(file):
                group = file[name]
                columns = mosaic_columns(layout, task.well, int(group.attrs["time"]))
                yield Mosaic(
                    source=f"{task.well.key}/{name}",
                    group=task.well.key,
                    image=group["image"][()][None],
                    labels={layer: values[()] for layer, values in group.get("labels", {}).items()},
                    intensity=np.asarray(group.attrs["intensity"], np.float32)[None],
                    samples=columns,
                    attributes={
                        **columns,
                        "intensity": group.attrs["intensity"],
                        "valid_fraction": float(group.attrs["valid_fraction"]),
                    },
                )
