"""One well, from its raw tiles to mosaics, labels and a report: a file that appears when the well is done.

    <file>/<t000>/image (H, W), labels/classes, labels/nuclei (H, W) int32, objects/<column> (n,)
    attributes of <t000>: time, time_h, intensity, report (JSON)

All mosaics of a plate have one size, that of the nominal grid, and show the same part of the well at every time.
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
    measure_pairs,
    nominal_positions,
    place_tiles,
)

COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@dataclass(frozen=True)
class PlateContext:
    """What is the same for all wells of a plate: the layout's geometry and the flat field of each channel."""

    spec: PlateSpec
    layout: Layout
    flats: Mapping[str, FlatField]
    overlap: float

    @property
    def nominal(self) -> dict[FieldIndex, tuple[float, float]]:
        return nominal_positions(self.layout.grid, self.layout.tile_shape, overlap=self.overlap)

    @property
    def canvas(self) -> tuple[int, int]:
        corner = np.max(list(self.nominal.values()), axis=0) + self.layout.tile_shape
        return round(corner[0]), round(corner[1])


@dataclass(frozen=True)
class Frame:
    """One time point of a well: the placement of its tiles, those of bad quality taken for missing, and their flags."""

    well: Well
    time: int
    placement: Placement
    left_out: frozenset[FieldIndex]
    flags: Mapping[FieldIndex, tuple[str, ...]]


class _Evened(Mapping[FieldIndex, Any]):
    """Tiles under even illumination, several channels as (C, H, W); None where one of them is missing."""

    def __init__(
        self, channels: Sequence[Mapping[FieldIndex, Array | None]], flats: Sequence[FlatField | None]
    ) -> None:
        self._channels, self._flats = channels, flats

    def __getitem__(self, cell: FieldIndex) -> Array | None:
        images = [tiles.get(cell) for tiles in self._channels]
        if any(image is None for image in images):
            return None
        return np.stack(
            [
                np.asarray(image, np.float32) if flat is None else flat.apply(image)  # type: ignore[arg-type]
                for image, flat in zip(images, self._flats, strict=True)
            ]
        )

    def __iter__(self) -> Iterator[FieldIndex]:
        return iter(self._channels[0])

    def __len__(self) -> int:
        return len(self._channels[0])


def make_well(setting: PlateContext, well: Well, path: Path, *, folder: Path, key: str) -> dict[str, Any]:
    """Returns the report of a well after writing its file, and overlays and mosaics as files below `folder`.

    Memory: two rows of tiles, and all channels of one time point stitched.
    """
    spec, stained = setting.spec, well.stained
    channels = [spec.transmitted, *(spec.labels.stains if stained else ())]
    frames = [_frame(setting, well, time, channels) for time in sorted({time for time, _, _ in well.planes})]
    frames, drift, gains = _over_time(setting, frames)
    reports: dict[str, Any] = {}
    with new_file(path) as new:
        new.file.attrs["key"] = key
        for frame, gain in zip(frames, gains, strict=True):
            name = f"t{frame.time:03d}"
            tiles = _tiles(setting, frame, channels)
            images, valid = _mosaics(setting, frame, tiles, gain)
            labels = _labels(setting, images, valid) if stained else None
            group = new.file.create_group(name)
            group["image"] = images[spec.transmitted]
            seen = images[spec.transmitted][valid]
            intensity = (float(seen.mean()), float(seen.std())) if seen.size else (0.0, 0.0)
            report = _report(setting, frame, tiles[spec.transmitted], drift.get(frame.time), labels, valid)
            group.attrs.update(time=frame.time, time_h=setting.layout.times_h.get(frame.time, math.nan))
            group.attrs.update(intensity=intensity, valid_fraction=float(valid.mean()))
            group.attrs["report"] = json.dumps(report, sort_keys=True)
            if labels is not None:
                for layer, values in (("classes", labels.classes), ("nuclei", labels.nuclei)):
                    group.create_dataset(f"labels/{layer}", data=values.astype(np.int32), **_chunked(values))
                for column, values in labels.objects.items():
                    group[f"objects/{column}"] = values
            beside = f"{well.key.replace('/', '_')}_{name}"
            if spec.overlays and labels is not None:
                image = images[spec.transmitted]
                write_overlay(
                    folder / "overlays" / f"{beside}.png", image, labels.classes, labels.nuclei,
                    names=spec.labels.class_names, title=_title(setting, frame),
                    pixel_size_um=setting.layout.pixel_size_um,
                )  # fmt: skip
            if spec.stitching.mosaics != "none":
                stack, size_um = np.stack(list(images.values())), setting.layout.pixel_size_um
                write_mosaic(
                    folder / "mosaics" / beside,
                    stack,
                    channels,
                    pixel_size_um=size_um or 1.0,
                    kind=spec.stitching.mosaics,
                )
            reports[name] = report
            new.check()
    return reports


def read_reports(path: Path, key: str) -> dict[str, Any] | None:
    """Returns the reports of a well whose file was made with `key`, or None where it was not or is not whole."""
    if not path.exists():
        return None
    with open_file(path) as file:
        if file.attrs.get("key") != key:
            return None
        return {name: json.loads(group.attrs["report"]) for name, group in file.items()}


def _frame(setting: PlateContext, well: Well, time: int, channels: Sequence[str]) -> Frame:
    """Returns a time point with its bad fields found and its tiles placed, by all channels together."""
    nominal, stains = setting.nominal, setting.spec.labels.stains
    tiles = {channel: dict(WellTiles(setting.layout, well, time, channel)) for channel in channels}
    missing = {cell for cell in nominal if any(tiles[channel].get(cell) is None for channel in channels)}
    flags: dict[FieldIndex, tuple[str, ...]] = {}
    left_out: set[FieldIndex] = set()
    for channel in channels:
        for cell, quality in judge_fields(tiles[channel], setting.spec.quality, stain=channel in stains).items():
            if quality.flags:
                flags[cell] = (*flags.get(cell, ()), *(f"{channel}: {flag}" for flag in quality.flags))
            if quality.excluded:
                left_out.add(cell)
    good = [_without(tiles[channel], left_out) for channel in channels]
    evened = _Evened(good, [setting.flats.get(channel) for channel in channels])
    pairs = measure_pairs(evened, nominal, reach_px=setting.spec.stitching.reach_px)
    placement = place_tiles(pairs, nominal, missing=tuple(sorted(missing | left_out)))
    return Frame(well, time, _centred(placement, nominal), frozenset(left_out), flags)


def _tiles(setting: PlateContext, frame: Frame, channels: Sequence[str]) -> dict[str, dict[FieldIndex, Array | None]]:
    """Returns the tiles of a time point by channel, those left out as None."""
    return {
        channel: _without(dict(WellTiles(setting.layout, frame.well, frame.time, channel)), frame.left_out)
        for channel in channels
    }


def _without(
    tiles: Mapping[FieldIndex, Array | None], left_out: Collection[FieldIndex]
) -> dict[FieldIndex, Array | None]:
    return {cell: None if cell in left_out else tile for cell, tile in tiles.items()}


def _title(setting: PlateContext, frame: Frame) -> str:
    """Returns well and time as in "P1 A4, t2 (8 h)"; the hours where they are known."""
    hours = setting.layout.times_h.get(frame.time, math.nan)
    known = "" if math.isnan(hours) else f" ({hours:g} h)"
    return f"{frame.well.key.replace('/', ' ')}, t{frame.time}{known}"


def _centred(placement: Placement, nominal: Positions) -> Placement:
    """Returns the placement moved so that the mean deviation from the nominal grid is zero: one canvas fits all."""
    cells = [cell for cell in nominal if cell not in placement.missing and cell not in placement.unplaced]
    cells = cells or list(nominal)
    off = np.mean([np.subtract(nominal[cell], placement.positions[cell]) for cell in cells], axis=0)
    return shift_placement(placement, (float(off[0]), float(off[1])))


class _Frames(Sequence[Any]):
    """The transmitted-light mosaics of a well, each composed when asked for; of each, block means are kept."""

    def __init__(self, setting: PlateContext, frames: Sequence[Frame]) -> None:
        self._setting, self._frames = setting, frames
        self.small: dict[int, Array] = {}

    def __getitem__(self, index: Any) -> Any:
        channel, frame = self._setting.spec.transmitted, self._frames[index]
        mosaic, _ = _composed(self._setting, frame, channel, _tiles(self._setting, frame, [channel])[channel])
        self.small[index] = block_reduce(mosaic, 4, np.mean)
        return mosaic

    def __len__(self) -> int:
        return len(self._frames)


def _over_time(
    setting: PlateContext, frames: list[Frame]
) -> tuple[list[Frame], dict[int, tuple[float, float]], list[float]]:
    """Returns the frames with the drift between them taken out, that drift (y, x) in px by time, and a factor for each
    frame that evens out the brightness of the transmitted light.
    """
    told, steady = setting.spec.stitching, [1.0] * len(frames)
    if len(frames) < 2 or (told.register_px is None and told.equalize_brightness == "none"):
        return frames, {}, steady
    mosaics, drift = _Frames(setting, frames), {}
    moved = frames
    if told.register_px is not None:
        found = register_over_time(mosaics, reach_px=told.register_px)
        shifts = [(float(y), float(x)) for y, x in found.shifts]
        drift = {frame.time: shift for frame, shift in zip(frames, shifts, strict=True)}
        moved = [replace(frame, placement=shift_placement(frame.placement, drift[frame.time])) for frame in frames]
    if told.equalize_brightness == "none":
        return moved, drift, steady
    for index in range(len(frames)):
        if index not in mosaics.small:
            mosaics[index]
    flat = setting.flats.get(setting.spec.transmitted)
    small = [mosaics.small[index] for index in range(len(frames))]
    factors = equalize_brightness(frame_ratios(small, dark=0.0 if flat is None else flat.dark))
    return moved, drift, [factors.get(index, 1.0) for index in range(len(frames))]


def _composed(
    setting: PlateContext, frame: Frame, channel: str, tiles: Mapping[FieldIndex, Array | None], *, gain: float = 1.0
) -> tuple[Array, Array]:
    """Returns a channel's mosaic (H, W) on the canvas of the plate, and (H, W) bool: where a tile of it lies.

    What no tile covers has the median of the rest.
    """
    flat = setting.flats.get(channel)
    if all(tile is None for tile in tiles.values()):
        return np.zeros(setting.canvas, setting.layout.dtype), np.zeros(setting.canvas, bool)
    mosaic = fuse(
        tiles,
        frame.placement,
        correct=None if flat is None else flat.apply,
        gains=None if gain == 1.0 else dict.fromkeys(frame.placement.positions, gain),
        dark=0.0 if flat is None else flat.dark,
        canvas=setting.canvas,
    )
    there = coverage_mask(frame.placement, tiles, setting.layout.tile_shape, canvas=setting.canvas)
    if not there.all():
        mosaic[~there] = np.median(mosaic[there])
    return mosaic, there


def _mosaics(
    setting: PlateContext, frame: Frame, tiles: Mapping[str, Mapping[FieldIndex, Array | None]], gain: float
) -> tuple[dict[str, Array], Array]:
    """Returns the mosaic (H, W) of each channel, and (H, W) bool: where a tile of every channel lies."""
    images, valid = {}, np.ones(setting.canvas, bool)
    for channel, own in tiles.items():
        factor = gain if channel == setting.spec.transmitted else 1.0
        images[channel], there = _composed(setting, frame, channel, own, gain=factor)
        valid &= there
    return images, valid


def _labels(setting: PlateContext, images: Mapping[str, Array], valid: Array) -> StainLabels:
    spec = setting.spec
    stains = {channel: images[channel] for channel in spec.labels.stains}
    pixel_size_um = setting.layout.pixel_size_um
    return label_stains(
        stains, spec.labels, pixel_size_um=pixel_size_um, transmitted=images[spec.transmitted], valid=valid
    )


def _report(
    setting: PlateContext,
    frame: Frame,
    tiles: Mapping[FieldIndex, Array | None],
    drift: tuple[float, float] | None,
    labels: StainLabels | None,
    valid: Array,
) -> dict[str, Any]:
    """Returns what was found at one time point, as numbers and words for JSON."""
    channel = setting.spec.transmitted
    flat = setting.flats.get(channel)
    seams = seam_report(
        tiles,
        frame.placement,
        correct=None if flat is None else flat.apply,
        dark=0.0 if flat is None else flat.dark,
    ).as_dict()
    del seams["seams"]
    told: dict[str, Any] = {
        "positions": {f"{r},{c}": [round(y, 3), round(x, 3)] for (r, c), (y, x) in frame.placement.positions.items()},
        "seams": seams,
        "flags": {f"{r},{c}": list(flags) for (r, c), flags in sorted(frame.flags.items())},
        "valid_fraction": float(valid.mean()),
    }
    if drift is not None:
        told["drift_px"] = [round(value, 3) for value in drift]
    if labels is not None:
        values = labels.objects["class"]
        names = setting.spec.labels.class_names
        ruled = {rule.name for rule in setting.spec.labels.rules}
        told["nuclei"] = {name: int((values == index).sum()) for index, name in enumerate(names) if name in ruled}
        told["thresholds"] = {stain: float(value) for stain, value in labels.thresholds.items()}
        told["notes"] = list(labels.notes)
        told["ignored_fraction"] = float((labels.classes == IGNORED).mean())
    return told


def _chunked(values: Array) -> dict[str, Any]:
    return {**COMPRESSION, "chunks": tuple(min(side, 256) for side in values.shape)}
