"""One well, from its raw tiles to mosaics, labels and a report: a part file that exists only when it is complete.

    <file>/<t000>/image (H, W), labels/classes, labels/nuclei (H, W) int32, objects/<column> (n,)
    attributes of <t000>: time, time_h, intensity, valid_fraction, report (JSON)

All mosaics of a plate have the size of the nominal grid and show the same part of the well at every time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import block_reduce

from segue.data.normalization import image_statistics
from segue.hdf5 import new_file, open_file
from segue.labels import IGNORED
from segue.plates.exports import write_mosaic, write_overlay
from segue.plates.labeling.stain_labels import StainLabels, label_stains
from segue.plates.layout.discovery import Layout, Well, WellTiles
from segue.plates.spec import FieldIndex, PlateSpec
from segue.plates.stitching.drift import register_over_time, shift_placement
from segue.plates.stitching.field_qc import judge_fields
from segue.plates.stitching.fusion import coverage_mask, fuse, seam_report
from segue.plates.stitching.illumination import FlatField, equalize_brightness, frame_ratios
from segue.plates.stitching.spline import Array
from segue.plates.stitching.stitch import (
    Placement,
    Positions,
    Tiles,
    measure_pairs,
    nominal_positions,
    place_tiles,
)

COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@dataclass(frozen=True)
class PlateContext:
    """Shared by all wells of a plate: the specification, the geometry of the layout, a flat field per channel."""

    spec: PlateSpec
    layout: Layout
    flats: Mapping[str, FlatField]
    overlap: float

    @property
    def nominal(self) -> dict[FieldIndex, tuple[float, float]]:
        return nominal_positions(self.layout.grid, self.layout.tile_shape, overlap=self.overlap)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of all mosaics in px."""
        corner = np.max(list(self.nominal.values()), axis=0) + self.layout.tile_shape
        return round(corner[0]), round(corner[1])

    def time_h(self, time: int) -> float:
        return self.layout.times_h.get(time, math.nan)

    def correction(self, channel: str) -> dict[str, Any]:
        """Returns the arguments by which `fuse` and `seam_report` correct the illumination of a channel."""
        flat = self.flats.get(channel)
        return {"correct": None if flat is None else flat.apply, "dark": 0.0 if flat is None else flat.dark}


@dataclass(frozen=True)
class Frame:
    """A well at one time: the placement of its tiles, the excluded fields (treated as missing), and all flags."""

    well: Well
    time: int
    placement: Placement
    excluded: frozenset[FieldIndex]
    flags: Mapping[FieldIndex, tuple[str, ...]]


def make_well(plate: PlateContext, well: Well, path: Path, *, folder: Path, key: str) -> dict[str, Any]:
    """Writes the part file of a well, and its overlays and mosaics below `folder`; returns its reports by time.

    Overlays and mosaics are named after the part.

    Memory: two rows of tiles, and all channels of one time point stitched.
    """
    spec, layout = plate.spec, plate.layout
    channels = [spec.transmitted, *(spec.labels.stains if well.stained else ())]
    # place the tiles of every time point, then align the time points with each other
    frames = [_place_frame(plate, well, time, channels) for time in sorted({time for time, _, _ in well.planes})]
    frames, drift, gains = _align_frames(plate, frames)
    reports: dict[str, Any] = {}
    with new_file(path) as new:
        new.file.attrs["key"] = key
        for frame, gain in zip(frames, gains, strict=True):
            # fuse and label
            tiles = {channel: _tiles(plate, frame, channel) for channel in channels}
            images, valid = _fuse_channels(plate, frame, tiles, gain)
            image = images[spec.transmitted]
            labels = None
            if well.stained:
                labels = label_stains(
                    {stain: images[stain] for stain in spec.labels.stains}, spec.labels,
                    pixel_size_um=layout.pixel_size_um, transmitted=image, valid=valid,
                )  # fmt: skip
            report = _report(plate, frame, tiles[spec.transmitted], drift.get(frame.time), labels, valid)
            # store
            name = f"t{frame.time:03d}"
            group = new.file.create_group(name)
            group["image"] = image
            group.attrs.update(
                time=frame.time,
                time_h=plate.time_h(frame.time),
                intensity=image_statistics(image[None], valid)[0],
                valid_fraction=float(valid.mean()),
                report=json.dumps(report, sort_keys=True),
            )
            if labels is not None:
                for layer, values in (("classes", labels.classes), ("nuclei", labels.nuclei)):
                    chunks = tuple(min(side, 256) for side in values.shape)
                    group.create_dataset(f"labels/{layer}", data=values.astype(np.int32), chunks=chunks, **COMPRESSION)
                for column, values in labels.objects.items():
                    group.create_dataset(f"objects/{column}", data=values)
            _export(plate, frame, images, labels, folder, f"{path.stem}_{name}")
            reports[name] = report
            new.check()
    return reports


def read_reports(path: Path, key: str) -> dict[str, Any] | None:
    """Returns the reports of a part file made with `key`; None if there is no such file or it has another key."""
    if not path.exists():
        return None
    with open_file(path) as file:
        if file.attrs.get("key") != key:
            return None
        return {name: json.loads(group.attrs["report"]) for name, group in file.items()}


# ---- placing


def _place_frame(plate: PlateContext, well: Well, time: int, channels: Sequence[str]) -> Frame:
    """Returns a time point with its bad fields excluded and its tiles placed by all channels together."""
    nominal, spec = plate.nominal, plate.spec
    tiles = {channel: dict(WellTiles(plate.layout, well, time, channel)) for channel in channels}
    missing = {index for index in nominal if any(tiles[channel].get(index) is None for channel in channels)}
    flags: dict[FieldIndex, tuple[str, ...]] = {}
    excluded: set[FieldIndex] = set()
    for channel in channels:
        qualities = judge_fields(tiles[channel], spec.quality, stain=channel in spec.labels.stains)
        for index, quality in qualities.items():
            if quality.flags:
                flags[index] = (*flags.get(index, ()), *(f"{channel}: {flag}" for flag in quality.flags))
            if quality.excluded:
                excluded.add(index)
    corrected = _CorrectedTiles(
        [_without(tiles[channel], excluded) for channel in channels], [plate.flats.get(channel) for channel in channels]
    )
    pairs = measure_pairs(corrected, nominal, reach_px=spec.stitching.reach_px)
    placement = place_tiles(pairs, nominal, missing=tuple(sorted(missing | excluded)))
    return Frame(well, time, _centered(placement, nominal), frozenset(excluded), flags)


class _CorrectedTiles(Mapping[FieldIndex, Any]):
    """Flat-field corrected tiles of several channels as (C, H, W); None if one of them is missing."""

    def __init__(self, channels: Sequence[Tiles], flats: Sequence[FlatField | None]) -> None:
        self._channels, self._flats = channels, flats

    def __getitem__(self, index: FieldIndex) -> Array | None:
        images = [image for tiles in self._channels if (image := tiles.get(index)) is not None]
        if len(images) < len(self._channels):
            return None
        return np.stack(
            [
                np.asarray(image, np.float32) if flat is None else flat.apply(image)
                for image, flat in zip(images, self._flats, strict=True)
            ]
        )

    def __iter__(self) -> Iterator[FieldIndex]:
        return iter(self._channels[0])

    def __len__(self) -> int:
        return len(self._channels[0])


def _tiles(plate: PlateContext, frame: Frame, channel: str) -> dict[FieldIndex, Array | None]:
    """Returns the tiles of a channel at one time, excluded ones as None."""
    return _without(WellTiles(plate.layout, frame.well, frame.time, channel), frame.excluded)


def _without(tiles: Tiles, excluded: Collection[FieldIndex]) -> dict[FieldIndex, Array | None]:
    return {index: None if index in excluded else tile for index, tile in tiles.items()}


def _centered(placement: Placement, nominal: Positions) -> Placement:
    """Returns the placement shifted to a mean deviation of zero from the nominal grid, so that one canvas fits all."""
    fields = [index for index in nominal if index not in placement.missing and index not in placement.unplaced]
    offsets = [np.subtract(nominal[index], placement.positions[index]) for index in fields or nominal]
    shift = np.mean(offsets, axis=0)
    return shift_placement(placement, (float(shift[0]), float(shift[1])))


# ---- time points


class _TransmittedMosaics(Sequence[Any]):
    """The transmitted-light mosaics of a well, each fused on access; block means of each are kept in `reduced`."""

    def __init__(self, plate: PlateContext, frames: Sequence[Frame]) -> None:
        self._plate, self._frames = plate, frames
        self.reduced: dict[int, Array] = {}

    def __getitem__(self, index: Any) -> Any:
        channel, frame = self._plate.spec.transmitted, self._frames[index]
        mosaic, _ = _fuse_channel(self._plate, frame, channel, _tiles(self._plate, frame, channel))
        self.reduced[index] = block_reduce(mosaic, 4, np.mean)
        return mosaic

    def __len__(self) -> int:
        return len(self._frames)


def _align_frames(
    plate: PlateContext, frames: list[Frame]
) -> tuple[list[Frame], dict[int, tuple[float, float]], list[float]]:
    """Returns the frames without drift, the drift (y, x) in px by time, and a gain per frame for the transmitted light.

    The gains equalize the brightness over time.
    """
    stitching, drift, moved = plate.spec.stitching, {}, frames
    gains = [1.0] * len(frames)
    if len(frames) < 2 or (stitching.register_px is None and stitching.equalize_brightness == "none"):
        return frames, drift, gains
    mosaics = _TransmittedMosaics(plate, frames)
    if stitching.register_px is not None:
        shifts = register_over_time(mosaics, reach_px=stitching.register_px).shifts
        drift = {frame.time: (float(y), float(x)) for frame, (y, x) in zip(frames, shifts, strict=True)}
        moved = [replace(frame, placement=shift_placement(frame.placement, drift[frame.time])) for frame in frames]
    if stitching.equalize_brightness == "time":
        for index in range(len(frames)):
            if index not in mosaics.reduced:
                mosaics[index]
        reduced = [mosaics.reduced[index] for index in range(len(frames))]
        ratios = frame_ratios(reduced, dark=plate.correction(plate.spec.transmitted)["dark"])
        factors = equalize_brightness(ratios)
        gains = [factors.get(index, 1.0) for index in range(len(frames))]
    return moved, drift, gains


# ---- fusing, report, exports


def _fuse_channels(
    plate: PlateContext, frame: Frame, tiles: Mapping[str, Tiles], gain: float
) -> tuple[dict[str, Array], Array]:
    """Returns the mosaic (H, W) of each channel, and (H, W) bool: where every channel has a tile."""
    images, valid = {}, np.ones(plate.canvas, bool)
    for channel, channel_tiles in tiles.items():
        channel_gain = gain if channel == plate.spec.transmitted else 1.0
        images[channel], covered = _fuse_channel(plate, frame, channel, channel_tiles, gain=channel_gain)
        valid &= covered
    return images, valid


def _fuse_channel(
    plate: PlateContext, frame: Frame, channel: str, tiles: Tiles, *, gain: float = 1.0
) -> tuple[Array, Array]:
    """Returns a channel's mosaic (H, W) on the canvas of the plate, and (H, W) bool: where it has a tile.

    Pixels without a tile have the median of the others.
    """
    if all(tile is None for tile in tiles.values()):
        return np.zeros(plate.canvas, plate.layout.dtype), np.zeros(plate.canvas, bool)
    gains = None if gain == 1.0 else dict.fromkeys(frame.placement.positions, gain)
    mosaic = fuse(tiles, frame.placement, gains=gains, canvas=plate.canvas, **plate.correction(channel))
    covered = coverage_mask(frame.placement, tiles, plate.layout.tile_shape, canvas=plate.canvas)
    if not covered.all():
        mosaic[~covered] = np.median(mosaic[covered])
    return mosaic, covered


def _report(
    plate: PlateContext,
    frame: Frame,
    tiles: Tiles,
    drift: tuple[float, float] | None,
    labels: StainLabels | None,
    valid: Array,
) -> dict[str, Any]:
    """Returns the report of one time point, for JSON; `tiles` are of the transmitted light."""
    spec = plate.spec
    seams = seam_report(tiles, frame.placement, **plate.correction(spec.transmitted)).as_dict()
    del seams["seams"]
    positions = frame.placement.positions
    report: dict[str, Any] = {
        "positions": {f"{row},{column}": [round(y, 3), round(x, 3)] for (row, column), (y, x) in positions.items()},
        "seams": seams,
        "flags": {f"{row},{column}": list(flags) for (row, column), flags in sorted(frame.flags.items())},
        "valid_fraction": float(valid.mean()),
    }
    if drift is not None:
        report["drift_px"] = [round(value, 3) for value in drift]
    if labels is not None:
        classes, rules = labels.objects["class"], {rule.name for rule in spec.labels.rules}
        names = [(number, name) for number, name in enumerate(spec.labels.class_names) if name in rules]
        report["nuclei"] = {name: int((classes == number).sum()) for number, name in names}
        report["thresholds"] = {stain: float(value) for stain, value in labels.thresholds.items()}
        report["notes"] = list(labels.notes)
        report["ignored_fraction"] = float((labels.classes == IGNORED).mean())
    return report


def _export(
    plate: PlateContext, frame: Frame, images: Mapping[str, Array], labels: StainLabels | None, folder: Path, name: str
) -> None:
    """Writes the overlay and the mosaic of a time point, if the specification requests them."""
    spec, size_um = plate.spec, plate.layout.pixel_size_um
    if spec.overlays and labels is not None:
        hours = plate.time_h(frame.time)
        title = f"{frame.well.key.replace('/', ' ')}, t{frame.time}" + ("" if math.isnan(hours) else f" ({hours:g} h)")
        write_overlay(
            folder / "overlays" / f"{name}.png", images[spec.transmitted], labels.classes, labels.nuclei,
            names=spec.labels.class_names, title=title, pixel_size_um=size_um,
        )  # fmt: skip
    if spec.stitching.mosaics != "none":
        stack = np.stack(list(images.values()))
        write_mosaic(
            folder / "mosaics" / name, stack, list(images),
            pixel_size_um=size_um or 1.0, format=spec.stitching.mosaics,
        )  # fmt: skip
