"""Writes synthetic plates with known truth: raw 16 bit tiles as from a microscope, and the truth next to them.

For each well and time one continuous scene is simulated (`population` → `cells` → `optics`) and cut into overlapping,
misplaced, vignetted, noisy tiles. A well depends on the specification and its own number alone, so that any number of
workers and any interruption give the same files.

    <folder>/plates.csv                          plate, well, stained (0 or 1), treatment, experiment
    <folder>/raw/P1/A1/t000_r0_c2_dapi.tif       uint16, OME-TIFF with pixel size and nominal stage position
    <folder>/truth/P1/A1/t000.h5                 labels, classes, placements of tiles, counts: see `write_truth`
    <folder>/truth/P1/flatfield.h5               per channel: relative illumination of a tile, mean 1
    <folder>/truth/wells.csv                     the sampled parameters of each well

Times, rows and columns count from 0. Channels are brightfield and, in stained wells, dapi and cy5.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from segue.data.maker import make_parts
from segue.data.spec import SplitSpec
from segue.errors import SegueError
from segue.hdf5 import new_file
from segue.plates.preflight import synthetic_layout, with_nonempty_seed
from segue.plates.spec import FilesSpec
from segue.plates.synthetic.optics import MAX_COUNTS, camera, cut_tile, flat_field
from segue.plates.synthetic.scene import SampledWell, Scene, render_scene, sample_well, simulate_well
from segue.plates.synthetic.spec import STAINED_CHANNELS, VERSION, SyntheticSpec, plate_name, well_name
from segue.rng import numpy_generator
from segue.storage import refusal, remove_abandoned, replacing

PATTERN = "raw/{plate}/{well}/t{time:03d}_r{row}_c{column}_{channel}.tif"
SPLIT = SplitSpec(seed=7, validation=0.25, test=0.25)  # of wells; another seed if this one leaves a part empty
DEAD_KINDS = ("black", "saturated", "defocused")
Progress = Callable[[int, int], None]  # done, of how many wells


@dataclass(frozen=True)
class WrittenPlates:
    """The written plates: counts of the whole folder, including files of earlier calls."""

    folder: Path
    table: Path  # plates.csv
    wells: int
    files: int  # TIFFs
    bytes: int  # of the TIFFs


def write_plates(
    spec: SyntheticSpec, folder: Path, *, workers: int = 1, progress: Progress | None = None
) -> WrittenPlates:
    """Writes the plates to `folder`; wells that an earlier call finished are left unchanged.

    Memory: one scene at a time per worker. Raises SegueError if the folder holds something else or is a file, and for
    errors of the disk.
    """
    folder = Path(folder)
    _claim(spec, folder)
    wells = [(plate, well) for plate in range(spec.plates) for well in range(spec.wells)]
    for plate in range(spec.plates):
        _write_flat_fields(spec, plate, folder)
    _write_tables(spec, [sample_well(spec, plate=plate, well=well) for plate, well in wells], folder)
    make_parts(
        partial(_write_well, spec, folder),
        wells,
        finished=lambda which: _truth_folder(folder, *which).exists() or None,
        workers=workers,
        context=folder,
        progress=progress,
    )
    sizes = [path.stat().st_size for path in (folder / "raw").rglob("*.tif")]
    return WrittenPlates(folder, folder / "plates.csv", len(wells), len(sizes), sum(sizes))


def synthetic_files(spec: SyntheticSpec) -> FilesSpec:
    """Returns the [files] of plates written by `write_plates`, below their folder."""
    return FilesSpec(pattern=PATTERN, wells="plates.csv", overlap=spec.stage.overlap, interval_h=spec.interval_h)


def write_specification(spec: SyntheticSpec, folder: Path) -> Path:
    """Writes `plate.toml` beside the raw images, for `segue plate`, unless it exists, and returns its path.

    Its split leaves no part empty if there are enough stained wells.
    """
    path = folder / "plate.toml"
    if not path.exists():
        files, drift, split = (
            synthetic_files(spec),
            spec.stage.drift_px,
            with_nonempty_seed(SPLIT, synthetic_layout(spec)),
        )
        _write_text(
            path,
            f"""name        = "screen"
transmitted = "brightfield"

[files]
pattern    = "{files.pattern}"
wells      = "{files.wells}"
overlap    = {files.overlap}
interval_h = {files.interval_h}

[stitching]
reach_px    = {2 * spec.stage.jitter_px + 2}
register_px = {2 * drift + 2}

[labels.stains.dapi]
[labels.stains.cy5]

[tiles]
tile_px   = 160
stride_px = 80

[splits.wells]
seed       = {split.seed}
validation = {split.validation}
test       = {split.test}
""",
        )
    return path


def tile_positions(spec: SyntheticSpec, *, plate: int, well: int, time: int) -> np.ndarray:
    """Returns (rows, columns, 2) float64: y, x in the scene of the first pixel of each tile (true positions).

    Nominally a tile lies at margin_px + its row or column × step_px; jitter is its own, drift shared by the grid.
    """
    stage = spec.stage
    grid = np.stack(np.meshgrid(np.arange(stage.rows), np.arange(stage.columns), indexing="ij"), axis=-1)
    walk = numpy_generator(spec.seed, "stage drift", plate, well).uniform(-1, 1, (spec.times, 2))
    walk[0] = 0
    drift = np.zeros(2)
    for step in walk[: time + 1]:
        drift = np.clip(drift + 0.5 * stage.drift_px * step, -stage.drift_px, stage.drift_px)
    jitter = numpy_generator(spec.seed, "stage jitter", plate, well, time).uniform(-1, 1, grid.shape) * stage.jitter_px
    return stage.margin_px + grid * float(stage.step_px) + jitter + drift


def flat_fields(spec: SyntheticSpec, *, plate: int) -> dict[str, np.ndarray]:
    """Returns the relative illumination (tile_px, tile_px), mean 1, per channel of a plate."""
    fields = {}
    for channel in STAINED_CHANNELS:
        generator = numpy_generator(spec.seed, "flat field", plate, channel)
        loss = float(generator.uniform(*spec.optics.vignetting))
        fields[channel] = flat_field(spec.stage.tile_px, loss, generator)
    return fields


def sample_faults(spec: SyntheticSpec, *, plate: int) -> dict[tuple[int, int, int], str]:
    """Returns "missing", "black", "saturated" or "defocused" by (well, time, field); field = row × columns + column."""
    faults, (wells, times, fields) = spec.faults, (spec.wells, spec.times, spec.fields)
    count = faults.missing_tiles + faults.dead_fields
    positions = numpy_generator(spec.seed, "faults", plate).permutation(wells * times * fields)[:count]
    kinds = ["missing"] * faults.missing_tiles
    kinds += [DEAD_KINDS[(plate * faults.dead_fields + i) % len(DEAD_KINDS)] for i in range(faults.dead_fields)]
    return {
        (int(i // (times * fields)), int(i // fields % times), int(i % fields)): kind
        for i, kind in zip(positions, kinds, strict=True)
    }


def expected_tile(scene: np.ndarray, flat: np.ndarray, place_px: Sequence[float]) -> np.ndarray:
    """Returns the tile in counts without noise and offset: cut from the scene (counts) and vignetted."""
    return cut_tile(scene, (float(place_px[0]), float(place_px[1])), flat.shape[0]) * flat


def write_truth(path: Path, scene: Scene, places: np.ndarray, states: Sequence[str], spec: SyntheticSpec) -> None:
    """Writes the truth of one well and time, in scene pixels:

    nuclei, bodies (H, W) int32, the cell's number + 1, equal over time · objects/{id, class (1 live, 2 dead), y_px,
    x_px, area_px, in_field} of each visible nucleus · tiles/{row, column, y_px, x_px, state}, state "ok" or the fault.
    Attributes: live and dead (nuclei centered in the field, the nominal mosaic), time_h, pixel_size_um, step_px,
    margin_px.
    """
    stage = spec.stage
    with new_file(path) as new:
        file = new.file
        for name, labels in (("nuclei", scene.nuclei), ("bodies", scene.bodies)):
            file.create_dataset(name, data=labels, chunks=True, compression="gzip", compression_opts=4, shuffle=True)
        for name, column in scene.objects.items():  # `file[name] = ...` would note the time of the group
            file.create_dataset(f"objects/{name}", data=column)
        rows, columns = np.divmod(np.arange(len(states)), stage.columns)
        flat = places.reshape(-1, 2)
        for name, column in (("row", rows), ("column", columns), ("y_px", flat[:, 0]), ("x_px", flat[:, 1])):
            file.create_dataset(f"tiles/{name}", data=column)
        file.create_dataset("tiles/state", data=list(states), dtype=h5py.string_dtype())
        seen = scene.objects["class"][scene.objects["in_field"]]
        file.attrs.update(
            live=int((seen == 1).sum()),
            dead=int((seen == 2).sum()),
            time_h=scene.time_h,
            pixel_size_um=stage.pixel_size_um,
            step_px=stage.step_px,
            margin_px=stage.margin_px,
        )


def _write_well(spec: SyntheticSpec, folder: Path, which: tuple[int, int]) -> bool:
    """Writes raw images and truth to drafts and renames them when complete; the truth, last, marks the well as done.

    Incomplete drafts are removed; errors of the disk are raised as SegueError.
    """
    plate, well = which
    truth = _truth_folder(folder, plate, well)
    raw = folder / "raw" / plate_name(plate) / well_name(well)
    drafts = [place.with_name(place.name + ".writing") for place in (raw, truth)]
    try:
        for place in (raw, *drafts):
            shutil.rmtree(place, ignore_errors=True)
        for draft in drafts:
            draft.mkdir(parents=True)
        _write_times(spec, which, *drafts)
        for draft, place in zip(drafts, (raw, truth), strict=True):
            draft.rename(place)
    except OSError as error:
        raise SegueError(refusal(raw, error)) from error
    finally:
        for draft in drafts:
            shutil.rmtree(draft, ignore_errors=True)
    return True


def _write_times(spec: SyntheticSpec, which: tuple[int, int], raw: Path, truth: Path) -> None:
    """Writes the tiles of a well into `raw`, and the truth into `truth`."""
    plate, well = which
    cells = simulate_well(spec, sample_well(spec, plate=plate, well=well))
    flats, faults = flat_fields(spec, plate=plate), sample_faults(spec, plate=plate)
    for time in range(spec.times):
        scene = render_scene(spec, plate=plate, well=well, time=time, cells=cells)
        places = tile_positions(spec, plate=plate, well=well, time=time)
        states = [faults.get((well, time, field), "ok") for field in range(spec.fields)]
        for field, state in enumerate(states):
            if state != "missing":
                row, column = divmod(field, spec.stage.columns)
                for channel, counts in scene.channels.items():
                    tile = expected_tile(counts, flats[channel], places[row, column])
                    name = PATTERN.format(plate="", well="", time=time, row=row, column=column, channel=channel)
                    seed = (spec.seed, "camera", plate, well, time, field, channel)
                    _write_tile(raw / Path(name).name, _exposed(tile, state, spec, seed), channel, spec, row, column)
        write_truth(truth / f"t{time:03d}.h5", scene, places, states, spec)


def _exposed(expected: np.ndarray, state: str, spec: SyntheticSpec, seed: tuple[str | int, ...]) -> np.ndarray:
    if state == "black":
        expected = np.zeros_like(expected)
    elif state == "saturated":
        expected = np.full_like(expected, 2.0 * MAX_COUNTS)
    elif state == "defocused":
        expected = gaussian_filter(expected, 12 / spec.stage.pixel_size_um)
    optics = spec.optics
    return camera(
        expected,
        electrons_per_count=optics.electrons_per_count,
        read_noise_electrons=optics.read_noise_electrons,
        offset_counts=optics.offset_counts,
        seed=seed,
    )


def _write_tile(path: Path, tile: np.ndarray, channel: str, spec: SyntheticSpec, row: int, column: int) -> None:
    size_um = spec.stage.pixel_size_um
    name = hashlib.md5(str((spec.seed, path.parent.parent.name, path.parent.name, path.name)).encode())
    tifffile.imwrite(
        path,
        tile,
        ome=True,
        resolution=(1e4 / size_um, 1e4 / size_um),
        resolutionunit="CENTIMETER",
        metadata={
            "axes": "YX",
            "UUID": str(uuid.UUID(name.hexdigest())),
            "PhysicalSizeX": size_um,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": size_um,
            "PhysicalSizeYUnit": "µm",
            "Channel": {"Name": channel},
            "Plane": {
                "PositionX": column * spec.stage.step_px * size_um,
                "PositionXUnit": "µm",
                "PositionY": row * spec.stage.step_px * size_um,
                "PositionYUnit": "µm",
            },
        },
    )


def _truth_folder(folder: Path, plate: int, well: int) -> Path:
    return folder / "truth" / plate_name(plate) / well_name(well)


def _claim(spec: SyntheticSpec, folder: Path) -> None:
    """Creates the folder with the specification in it, or checks that it holds the same one."""
    if folder.exists() and not folder.is_dir():
        raise SegueError(
            f"{folder}: is a file, but a synthetic plate needs a folder; give a new folder, then the file of settings."
        )
    record = folder / "synthetic.json"
    content = json.dumps({"version": VERSION, "spec": spec.model_dump(mode="json")}, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(record)
        others = [path for path in folder.iterdir() if path != record]
        recorded = record.read_bytes() if record.exists() else None
    except OSError as error:
        raise SegueError(refusal(folder, error, expected="a folder in one that you may write to")) from error
    if recorded is not None:
        if recorded != content.encode():
            raise SegueError(
                f"{folder}: holds a plate made from other settings; give another folder or delete this one."
            )
        return
    if others:
        raise SegueError(
            f"{folder}: is not empty and does not contain a synthetic plate; give an empty or a new folder."
        )
    _write_text(record, content)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _write_flat_fields(spec: SyntheticSpec, plate: int, folder: Path) -> None:
    place = folder / "truth" / plate_name(plate) / "flatfield.h5"
    remove_abandoned(place)
    if place.exists():
        return
    with new_file(place) as new:
        for channel, flat in flat_fields(spec, plate=plate).items():
            new.file[channel] = flat


def _write_tables(spec: SyntheticSpec, wells: Sequence[SampledWell], folder: Path) -> None:
    columns = ("plate", "well", "stained", "treatment", "experiment")
    rows = []
    for well in wells:
        row = asdict(well)
        del row["numbers"]
        row |= row.pop("dynamics")
        rows.append({name: _plain(value) for name, value in row.items()})
    _write_csv(folder / "plates.csv", columns, rows)
    _write_csv(folder / "truth" / "wells.csv", tuple(rows[0]), rows)


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, tuple):
        return json.dumps(value)
    return value


def _write_csv(path: Path, columns: Iterable[str], rows: Sequence[dict[str, object]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
