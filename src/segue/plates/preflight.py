"""What is known of a plate's dataset before any work: what cannot be made, and what is worth a look.

layout = plate_layout(spec, files, where)
obstacles(spec, layout, overlap=files.overlap)  # sentences; with any of them `segue plate` does nothing
warnings(spec, layout)


What planning a study needs to know of a plate before anything is made: its identity and its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data import splits
from segue.data.spec import SplitSpec
from segue.data.tiling import starts
from segue.errors import SegueError
from segue.plates import spec as assay_spec
from segue.plates.layout.discovery import Layout, Well, find_layout
from segue.plates.layout.grid import Plane
from segue.plates.spec import FilesSpec, PlateSpec
from segue.plates.synthetic import spec as synthetic_spec
from segue.plates.synthetic.spec import STAINED_CHANNELS, SyntheticSpec

LAYERS = ("classes", "nuclei")  # of the dataset; tiles are kept by the counts of the first


def plate_layout(spec: PlateSpec, files: FilesSpec, root: Path, *, strict: bool = True) -> Layout:
    """Returns what `find_layout` finds; wells called stained that lack a stain are unstained, as a note says.

    Stains that no image of the plate has are another matter: `obstacles` tells them.
    """
    layout = find_layout(files, root, transmitted=spec.transmitted, strict=strict)
    stains = [stain for stain in spec.labels.stains if stain in layout.channels]
    wells, notes = [], []
    for well in layout.wells:
        seen = {channel for _, channel, _ in well.planes}
        lacking = [stain for stain in stains if stain not in seen]
        if well.stained and lacking:
            notes.append(f"{well.key} is called stained, has no images of {', '.join(lacking)}: treated as unstained")
            well = replace(well, stained=False)
        wells.append(well)
    return replace(layout, wells=tuple(wells), notes=(*layout.notes, *notes))


def synthetic_layout(spec: SyntheticSpec) -> Layout:
    """Returns the layout of a plate that is still to be made; the paths of its images are empty, none is missing."""
    from segue.plates.synthetic.scene import sample_well

    cells = [(row, column) for row in range(spec.stage.rows) for column in range(spec.stage.columns)]
    wells = []
    for plate in range(spec.plates):
        for number in range(spec.wells):
            drawn = sample_well(spec, plate=plate, well=number)
            channels = STAINED_CHANNELS if drawn.stained else STAINED_CHANNELS[:1]
            planes = {
                (time, channel, cell): Plane(Path())
                for time in range(spec.times)
                for channel in channels
                for cell in cells
            }
            conditions = {"treatment": drawn.treatment}
            wells.append(Well(drawn.plate, drawn.well, drawn.experiment, drawn.stained, conditions, planes))
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
    """Returns what the dataset tells of a mosaic and of each of its tiles: plate, well, time, conditions."""
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


def errors(spec: PlateSpec, layout: Layout, *, overlap: float) -> list[str]:
    """Returns a sentence for each thing that the plate lacks, or that its tiles and splits cannot be."""
    found = []
    stained = any(well.stained for well in layout.wells)
    absent = [channel for channel in spec.labels.stains if channel not in layout.channels]
    if stained and absent:
        found.append(
            f"no image has the channel '{absent[0]}'; there are: {', '.join(layout.channels)}. Correct "
            "[labels.stains], or the channels in [files]; where no well is stained, say so in the wells table."
        )
    if layout.pixel_size_um is None:
        found.append("neither the images nor [files] tell the pixel size; give files.pixel_size_um.")
    if not stained:
        if not spec.tiles.keep_micrographs:
            found.append(
                "no well is stained, so that there are no tiles, and tiles.keep_micrographs = false leaves the whole "
                "images out too; set it to true."
            )
        return found
    found += _of_tiles(spec, mosaic_shape(layout, overlap))
    samples = _mosaics(layout)
    tiles = len(samples["group"]) * _tiles_of_mosaic(spec, mosaic_shape(layout, overlap))
    for name, split in spec.splits.items():
        if split.by == "chunk":
            if split.validation > 0 and 0 < tiles <= split.chunk:
                found.append(
                    f"splits.{name}: there are at most {tiles:,} tiles, no more than one chunk of {split.chunk:,}, so "
                    "that chunks cannot be divided; lower chunk, or split by group."
                )
            continue
        try:
            splits.split_codes(split, samples, context=f"splits.{name}")
        except SegueError as error:
            found.append(str(error))
    return found


def warnings(spec: PlateSpec, layout: Layout) -> list[str]:
    """Returns what can be made and is worth a look first: no stained well, splits with an empty part or that tear."""
    if not any(well.stained for well in layout.wells):
        return ["no well is stained: the dataset will hold whole images, no tiles and no splits, for prediction only"]
    samples, found = _mosaics(layout), []
    for name, split in spec.splits.items():
        try:
            # the test part of chunks is by group; which tiles are kept decides the rest
            seen = split if split.by != "chunk" else SplitSpec(seed=split.seed, validation=0, test=split.test)
            found.append(splits.empty_parts_message(name, seen, samples, splits.split_codes(seen, samples, context=name)))
        except SegueError:
            continue  # `obstacles` tells it
        if split.leaks_groups:
            found.append(
                f"split '{name}': by {split.description} it tears groups, with neighbouring tiles in training and in "
                "validation; how many is told when they are cut."
            )
    return [warning for warning in found if warning]


def find_nonempty_seed(split: SplitSpec, layout: Layout) -> SplitSpec:
    """Returns the split, with the first seed that leaves no part empty where its own does and there is such a seed."""
    if not any(well.stained for well in layout.wells):
        return split
    samples = _mosaics(layout)
    if not splits.empty_parts(split, splits.split_codes(split, samples, context="split")):
        return split
    seed = splits.find_nonempty_seed(split, samples)
    return split if seed is None else split.model_copy(update={"seed": seed})


def _of_tiles(spec: PlateSpec, mosaic: tuple[int, int]) -> Iterator[str]:
    tiles, classes = spec.tiles, spec.labels.class_names
    if tiles.layer != LAYERS[0]:
        yield f"tiles.layer = '{tiles.layer}': tiles are kept by the layer '{LAYERS[0]}'; leave it out."
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


def _tiles_of_mosaic(spec: PlateSpec, mosaic: tuple[int, int]) -> int:
    tile, stride, edge = spec.tiles.tile_px, spec.tiles.stride_px, spec.tiles.edge
    if min(mosaic) < tile:
        return 0
    return len(starts(mosaic[0], tile, stride, edge=edge)) * len(starts(mosaic[1], tile, stride, edge=edge))


def _mosaics(layout: Layout) -> dict[str, np.ndarray]:
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
        text = any(isinstance(value, str) for value in values)
        columns[name] = np.array(values, dtype=object if text else None)
    return columns


BYTES_OF_LABEL, BYTES_OF_PIXEL = 1, 2  # labels compress; images are acquired with 16 bits


def identity(spec: PlateSpec, where: Path, cache: Path) -> dict[str, Any]:
    """Returns all the dataset depends on; raw files enter by their content, a made plate by its settings."""
    parts: dict[str, Any] = {"kind": "plate", "version": assay_spec.VERSION, "spec": assay_spec.settings(spec)}
    if spec.files is None:
        return {**parts, "made": synthetic_spec.VERSION}
    from segue.plates.layout.discovery import hash_layout

    layout = plate_layout(spec, spec.files, where)
    return {**parts, "files": hash_layout(layout, cache)}


def estimate_size(spec: PlateSpec, where: Path) -> Mapping[str, int]:
    """Returns the most `tiles` and `bytes` that the dataset may have: before any is left out by the keep rules.

    A made plate's raw images, which lie beside it, are counted too.
    """
    if spec.synthetic is not None:
        made = spec.synthetic
        stage = made.stage
        height, width = (stage.step_px * (n - 1) + stage.tile_px for n in (stage.rows, stage.columns))
        stained, frames = made.plates * made.stained_wells * made.times, made.plates * made.wells * made.times
        raw = made.files * stage.tile_px**2 * BYTES_OF_PIXEL
    else:
        assert spec.files is not None  # the specification has one of the two
        layout = plate_layout(spec, spec.files, where)
        sides = zip(layout.grid, layout.tile_shape, strict=True)
        height, width = (round(side * (1 + (n - 1) * (1 - spec.files.overlap))) for n, side in sides)
        times = {well.key: len({time for time, _, _ in well.planes}) for well in layout.wells}
        stained = sum(times[well.key] for well in layout.wells if well.stained)
        frames, raw = sum(times.values()), 0
    side, step = spec.tiles.tile_px, spec.tiles.stride_px
    tiles = stained * ((height - side) // step + 1) * ((width - side) // step + 1)
    pixels = tiles * side**2 + frames * height * width * (1 + spec.tiles.keep_micrographs)
    return {"tiles": tiles, "bytes": pixels * (BYTES_OF_PIXEL + 2 * BYTES_OF_LABEL) + raw}
