"""Checks before `segue plate` does any work: errors that stop it, warnings, and the size of the dataset.

    layout = plate_layout(spec, files, root)
    check(spec, layout, root, overlap=files.overlap)  # raises SegueError with everything that cannot work
    warnings(spec, layout)

Planning a study uses `identity` and `estimate_size`. Nothing here reads pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data import splits
from segue.data.folders.pairing import raise_problems
from segue.data.spec import SplitSpec
from segue.data.tiling import starts
from segue.errors import SegueError
from segue.plates import spec as plate_spec
from segue.plates.layout.discovery import Layout, Well, find_layout, hash_layout
from segue.plates.layout.grid import Plane
from segue.plates.spec import FilesSpec, PlateSpec
from segue.plates.synthetic import spec as synthetic_spec
from segue.plates.synthetic.spec import STAINED_CHANNELS, SyntheticSpec

LAYERS = ("classes", "nuclei")  # of the dataset; tiles are selected by the counts of the first
LABEL_BYTES, PIXEL_BYTES = 1, 2  # labels compress; images have 16 bits


# ---- the layout of a plate, existing or still to be simulated


def plate_layout(spec: PlateSpec, files: FilesSpec, root: Path, *, strict: bool = True) -> Layout:
    """Returns what `find_layout` finds; a stained well without images of a stain becomes unstained, and a note says so.

    A stain that no image of the whole plate has is an error instead (`errors`).
    """
    layout = find_layout(files, root, transmitted=spec.transmitted, strict=strict)
    stains = [stain for stain in spec.labels.stains if stain in layout.channels]
    wells, notes = [], []
    for well in layout.wells:
        channels = {channel for _, channel, _ in well.planes}
        absent = [stain for stain in stains if stain not in channels]
        if well.stained and absent:
            notes.append(
                f"{well.key} is stained by the table but has no images of {', '.join(absent)}: treated as unstained"
            )
            well = replace(well, stained=False)
        wells.append(well)
    return replace(layout, wells=tuple(wells), notes=(*layout.notes, *notes))


def synthetic_layout(spec: SyntheticSpec) -> Layout:
    """Returns the layout of a synthetic plate that does not exist yet; its images have no paths, none is missing."""
    from segue.plates.synthetic.scene import sample_well

    fields = [(row, column) for row in range(spec.stage.rows) for column in range(spec.stage.columns)]
    wells = []
    for plate in range(spec.plates):
        for number in range(spec.wells):
            well = sample_well(spec, plate=plate, well=number)
            channels = STAINED_CHANNELS if well.stained else STAINED_CHANNELS[:1]
            planes = {
                (time, channel, index): Plane(Path())
                for time in range(spec.times)
                for channel in channels
                for index in fields
            }
            conditions = {"treatment": well.treatment}
            wells.append(Well(well.plate, well.well, well.experiment, well.stained, conditions, planes))
    return Layout(
        wells=tuple(wells),
        times=tuple(range(spec.times)),
        channels=STAINED_CHANNELS if spec.stained_wells else STAINED_CHANNELS[:1],
        grid=(spec.stage.rows, spec.stage.columns),
        tile_shape=(spec.stage.tile_px, spec.stage.tile_px),
        dtype="uint16",
        pixel_size_um=spec.stage.pixel_size_um,
        times_h={time: time * spec.interval_h for time in range(spec.times)},
    )


def mosaic_columns(layout: Layout, well: Well, time: int) -> dict[str, str | int | float]:
    """Returns the columns that the dataset stores for a mosaic and each of its tiles: plate, well, time, conditions."""
    return {
        **well.conditions,
        "plate": well.plate,
        "well": well.name,
        "experiment": well.experiment,
        "time": time,
        "time_h": float(layout.times_h.get(time, math.nan)),
        "stained": int(well.stained),
        "pixel_size_nm": 1000 * (layout.pixel_size_um or math.nan),
    }


def mosaic_shape(layout: Layout, overlap: float) -> tuple[int, int]:
    """Returns height and width in px of every mosaic: those of the nominal grid."""
    height, width = (
        round((fields - 1) * (side * (1 - overlap)) + side)
        for fields, side in zip(layout.grid, layout.tile_shape, strict=True)
    )
    return height, width


# ---- errors and warnings


def check(spec: PlateSpec, layout: Layout, root: Path, *, overlap: float) -> None:
    """Raises SegueError with all `errors`, below the folder `root`."""
    raise_problems(root, [f"{root}: {error}" for error in errors(spec, layout, overlap=overlap)])


def errors(spec: PlateSpec, layout: Layout, *, overlap: float) -> list[str]:
    """Returns a sentence for each thing that the plate lacks, and for tiles and splits that are impossible."""
    problems = []
    stained = any(well.stained for well in layout.wells)
    absent = [channel for channel in spec.labels.stains if channel not in layout.channels]
    if stained and absent:
        problems.append(
            f"no image has the channel '{absent[0]}'; there are: {', '.join(layout.channels)}. Correct "
            "[labels.stains], or the channels in [files]; if no well is stained, set stained = 0 in the wells table."
        )
    if layout.pixel_size_um is None:
        problems.append("neither the images nor [files] give the pixel size; give files.pixel_size_um.")
    if not stained:
        if not spec.tiles.keep_micrographs:
            problems.append(
                "no well is stained, so there are no tiles, and tiles.keep_micrographs = false also leaves the whole "
                "images out; set it to true."
            )
        return problems
    shape, samples = mosaic_shape(layout, overlap), _mosaic_samples(layout)
    problems += _tile_errors(spec, shape)
    tiles = len(samples["group"]) * _tiles_per_mosaic(spec, shape)
    for name, split in spec.splits.items():
        if split.by != "chunk":
            try:
                splits.split_codes(split, samples, context=f"splits.{name}")
            except SegueError as error:
                problems.append(str(error))
        elif split.validation > 0 and 0 < tiles <= split.chunk:
            problems.append(
                f"splits.{name}: there are at most {tiles:,} tiles, not more than one chunk of {split.chunk:,}, so "
                "that chunks cannot be divided; lower chunk, or split by group."
            )
    return problems


def _tile_errors(spec: PlateSpec, mosaic: tuple[int, int]) -> Iterator[str]:
    tiles, classes = spec.tiles, spec.labels.class_names
    if tiles.layer != LAYERS[0]:
        yield f"tiles.layer = '{tiles.layer}': tiles are selected by the layer '{LAYERS[0]}'; leave it out."
    if min(mosaic) < tiles.tile_px and min(mosaic) > 0:
        yield (
            f"tiles: tile_px = {tiles.tile_px} is larger than a mosaic, {mosaic[0]} × {mosaic[1]} px; lower it to at "
            f"most {min(mosaic)}."
        )
    if tiles.datasets != "full" and tiles.keep.classes > len(classes):
        yield (
            f"tiles.keep.classes = {tiles.keep.classes}, but there are {len(classes)} classes ({', '.join(classes)}): "
            "no tile would be kept; lower it."
        )


def _tiles_per_mosaic(spec: PlateSpec, mosaic: tuple[int, int]) -> int:
    tiles = spec.tiles
    if min(mosaic) < tiles.tile_px:
        return 0
    return math.prod(len(starts(side, tiles.tile_px, tiles.stride_px, edge=tiles.edge)) for side in mosaic)


def warnings(spec: PlateSpec, layout: Layout) -> list[str]:
    """Returns warnings: no stained well, splits with an empty part, splits that leak."""
    if not any(well.stained for well in layout.wells):
        return ["no well is stained: the dataset will hold whole images, no tiles and no splits, for prediction only"]
    samples, sentences = _mosaic_samples(layout), []
    for name, split in spec.splits.items():
        # a split by chunks takes its test part by group; the rest depends on which tiles are kept
        by_group = SplitSpec(seed=split.seed, validation=0, test=split.test) if split.by == "chunk" else split
        try:
            codes = splits.split_codes(by_group, samples, context=name)
        except SegueError:
            continue  # one of `errors`
        sentences.append(splits.empty_parts_message(name, by_group, samples, codes))
        if split.leaks_groups:
            sentences.append(
                f"split '{name}': by {split.description} it divides groups, with neighboring tiles in training and in "
                "validation; their number is reported when tiles are cut."
            )
    return [sentence for sentence in sentences if sentence]


def with_nonempty_seed(split: SplitSpec, layout: Layout) -> SplitSpec:
    """Returns the split, if one of its parts is empty with the first seed that fills all parts, if there is one."""
    if not any(well.stained for well in layout.wells):
        return split
    samples = _mosaic_samples(layout)
    if not splits.empty_parts(split, splits.split_codes(split, samples, context="split")):
        return split
    seed = splits.find_nonempty_seed(split, samples)
    return split if seed is None else split.model_copy(update={"seed": seed})


def _mosaic_samples(layout: Layout) -> dict[str, np.ndarray]:
    """Returns the columns of the dataset, with a row for each mosaic of a stained well instead of each tile."""
    rows = [
        {"group": well.key, "source": f"{well.key}/t{time:03d}", "y_px": 0, "x_px": 0}
        | mosaic_columns(layout, well, time)
        for well in layout.wells
        if well.stained
        for time in sorted({time for time, _, _ in well.planes})
    ]
    columns = {}
    for name in rows[0]:
        values = [row.get(name, "") for row in rows]
        is_text = any(isinstance(value, str) for value in values)
        columns[name] = np.array(values, dtype=object if is_text else None)
    return columns


# ---- planning


def identity(spec: PlateSpec, root: Path, cache: Path) -> dict[str, Any]:
    """Returns everything the dataset depends on: raw files by their content, a synthetic plate by its settings."""
    parts: dict[str, Any] = {"kind": "plate", "version": plate_spec.VERSION, "spec": plate_spec.settings(spec)}
    if spec.files is None:
        return {**parts, "made": synthetic_spec.VERSION}
    return {**parts, "files": hash_layout(plate_layout(spec, spec.files, root), cache)}


def estimate_size(spec: PlateSpec, root: Path) -> Mapping[str, int]:
    """Returns the maximum number of `tiles` and of `bytes` of the dataset, before tiles are selected.

    The raw images of a synthetic plate, which are stored beside the dataset, are included.
    """
    if spec.synthetic is not None:
        plate, stage = spec.synthetic, spec.synthetic.stage
        height, width = (stage.step_px * (n - 1) + stage.tile_px for n in (stage.rows, stage.columns))
        stained, frames = plate.plates * plate.stained_wells * plate.times, plate.plates * plate.wells * plate.times
        raw = plate.files * stage.tile_px**2 * PIXEL_BYTES
    else:
        assert spec.files is not None  # the specification has one of the two
        layout = plate_layout(spec, spec.files, root)
        sides = zip(layout.grid, layout.tile_shape, strict=True)
        height, width = (round(side * (1 + (n - 1) * (1 - spec.files.overlap))) for n, side in sides)
        times = {well.key: len({time for time, _, _ in well.planes}) for well in layout.wells}
        stained = sum(times[well.key] for well in layout.wells if well.stained)
        frames, raw = sum(times.values()), 0
    side, step = spec.tiles.tile_px, spec.tiles.stride_px
    tiles = stained * ((height - side) // step + 1) * ((width - side) // step + 1)
    pixels = tiles * side**2 + frames * height * width * (1 + spec.tiles.keep_micrographs)
    return {"tiles": tiles, "bytes": pixels * (PIXEL_BYTES + 2 * LABEL_BYTES) + raw}
