"""Label images and probabilities as TIFF, OME-TIFF and OME-Zarr, by tiles.

`WRITERS` maps a format to its suffix and its function; arrays are sliced, never read whole. Each file appears when it
is whole.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segue.data.tiling import Tiling
from segue.storage import make_folder, remove_abandoned, replacing

PictureFormat = Literal["tiff", "ome-tiff", "ome-zarr", "ome-zarr-0.4"]
TILE_PX = 512  # a multiple of 16, as TIFF demands
MAX_PYRAMID_TOP_PX = 512  # levels of OME-Zarr are halved until their longer side is at most this
MAX_UINT16 = 2**16 - 1


@dataclass(frozen=True)
class Picture:
    """Values (C, H, W), or (H, W) labels, to be written, with what a file says of them.

    facts: plain numbers, such as those of objects and of uncertain ones, which every format states.
    """

    values: Any
    dtype: np.dtype
    name: str
    pixel_size_nm: float | None
    facts: Mapping[str, Any]
    channels: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = (1, *self.values.shape)[-3:]
        return channels, height, width

    @property
    def axes(self) -> str:
        return "CYX" if len(self.values.shape) == 3 else "YX"

    def read(self, channel: int, rows: slice, columns: slice) -> np.ndarray:
        part = self.values[rows, columns] if len(self.values.shape) == 2 else self.values[channel, rows, columns]
        return np.asarray(part).astype(self.dtype, copy=False)


def label_dtype(count: int) -> np.dtype:
    """Returns the type of labels up to `count`: uint16 where they fit, else uint32."""
    return np.dtype(np.uint16 if count <= MAX_UINT16 else np.uint32)


def write_picture(folder: Path, picture: Picture, format: PictureFormat) -> Path:
    """Writes a picture as `folder`/name with the suffix of its format; returns the path."""
    suffix, write = WRITERS[format]
    path = folder / f"{picture.name}{suffix}"
    make_folder(path.parent)
    remove_abandoned(path)
    write(path, picture)
    return path


# TIFF


def write_tiff(path: Path, picture: Picture) -> None:
    """Writes a tiled TIFF, compressed without loss, with the pixel size in its resolution tags and facts as JSON."""
    description = {"axes": picture.axes, **picture.facts}
    if picture.pixel_size_nm is not None:
        description |= {"pixel_size_nm": picture.pixel_size_nm}
    if picture.channels:
        description |= {"channels": list(picture.channels)}
    _write_tiff(path, picture, description=json.dumps(description), metadata=None, ome=False)


def write_ome_tiff(path: Path, picture: Picture) -> None:
    """Writes a tiled OME-TIFF with pixel size; facts are in the description of its image."""
    metadata: dict[str, Any] = {
        "axes": picture.axes,
        "Name": picture.name,
        "Description": json.dumps(dict(picture.facts)),
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"segue:{picture.name}")),  # the same file every time
    }
    if picture.pixel_size_nm is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": picture.pixel_size_nm / 1000, f"PhysicalSize{axis}Unit": "µm"}
    if picture.channels:
        metadata["Channel"] = {"Name": list(picture.channels)}
    _write_tiff(path, picture, description=None, metadata=metadata, ome=True)


def _write_tiff(
    path: Path, picture: Picture, *, description: str | None, metadata: dict[str, Any] | None, ome: bool
) -> None:
    import tifffile

    channels, height, width = picture.shape
    shape = (channels, height, width) if picture.axes == "CYX" else (height, width)
    pixels_per_cm = None if picture.pixel_size_nm is None else 1e7 / picture.pixel_size_nm
    with replacing(path) as partial:
        tifffile.imwrite(
            partial,
            _tiles(picture),
            shape=shape,
            dtype=picture.dtype,
            photometric="minisblack",
            planarconfig="separate" if channels > 1 and not ome else None,
            tile=(TILE_PX, TILE_PX),
            compression="zlib",
            predictor=False,
            bigtiff=math.prod(shape) * picture.dtype.itemsize > 2**31,
            resolution=None if pixels_per_cm is None else (pixels_per_cm, pixels_per_cm),
            resolutionunit=None if pixels_per_cm is None else "CENTIMETER",
            description=description,
            metadata=metadata,
            ome=ome,
            software="segue",
        )


def _tiles(picture: Picture) -> Iterator[np.ndarray]:
    """Yields tiles row by row, each channel after the other, those at the border filled up by zeros."""
    channels, height, width = picture.shape
    for channel, top in itertools.product(range(channels), range(0, height, TILE_PX)):
        band = picture.read(channel, slice(top, min(top + TILE_PX, height)), slice(0, width))
        for left in range(0, width, TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX), picture.dtype)
            part = band[:, left : left + TILE_PX]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


# OME-Zarr


def write_ome_zarr(path: Path, picture: Picture) -> None:
    """Writes OME-Zarr 0.5 (Zarr 3) with a pyramid: labels by the mode of 2 × 2 px, others by their mean."""
    draft, group = _zarr_group(path, zarr_format=3)
    multiscale = _write_levels(group, picture)
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale], **_ome_zarr_details(picture)}
    group.attrs.update({"ome": ome, "segue": dict(picture.facts)})
    _rename_folder(draft, path)


def write_ome_zarr_04(path: Path, picture: Picture) -> None:
    """Writes OME-Zarr 0.4 (Zarr 2), for programs that read no 0.5; otherwise as `write_ome_zarr`."""
    draft, group = _zarr_group(path, zarr_format=2)
    multiscale = {"version": "0.4", **_write_levels(group, picture)}
    details = _ome_zarr_details(picture)
    if "image-label" in details:
        details["image-label"] = {"version": "0.4"}
    group.attrs.update({"multiscales": [multiscale], **details, "segue": dict(picture.facts)})
    _rename_folder(draft, path)


def _zarr_group(path: Path, *, zarr_format: Literal[2, 3]) -> tuple[Path, Any]:
    """Returns a new folder beside `path`, which replaces what an interrupted command left there, and its group."""
    import zarr

    draft = path.with_name(f"{path.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    return draft, zarr.open_group(draft, mode="w", zarr_format=zarr_format)


def _rename_folder(draft: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)


def _write_levels(group: Any, picture: Picture) -> dict[str, Any]:
    """Writes the levels "0", "1" … of the pyramid into a group; returns the entry of `multiscales`."""
    is_labels = picture.axes == "YX"
    unit = {} if picture.pixel_size_nm is None else {"unit": "micrometer"}
    axes: list[dict[str, str]] = [{"name": axis.lower(), "type": "space", **unit} for axis in "YX"]
    axes = axes if is_labels else [{"name": "c", "type": "channel"}, *axes]
    datasets, levels, scale = [], [], 1
    height, width = picture.shape[1:]
    while True:
        shape = (height, width) if is_labels else (picture.shape[0], height, width)
        chunks = (*(1,) * (len(shape) - 2), max(1, min(2 * TILE_PX, height)), max(1, min(2 * TILE_PX, width)))
        layout: dict[str, Any] = (
            {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
            if group.metadata.zarr_format == 2
            else {"dimension_names": [axis["name"] for axis in axes]}
        )
        levels.append(
            group.create_array(
                str(len(levels)), shape=shape, dtype=picture.dtype, chunks=chunks, fill_value=0, **layout
            )
        )
        step = scale * (1.0 if picture.pixel_size_nm is None else picture.pixel_size_nm / 1000)
        transformations = [{"type": "scale", "scale": [*(1.0,) * (len(shape) - 2), step, step]}]
        datasets.append({"path": levels[-1].basename, "coordinateTransformations": transformations})
        if max(height, width) <= MAX_PYRAMID_TOP_PX:
            break
        height, width, scale = max(1, height // 2), max(1, width // 2), scale * 2
    _fill_pyramid(picture, levels, is_labels=is_labels)
    return {"name": picture.name, "type": "mode" if is_labels else "mean", "axes": axes, "datasets": datasets}


def _ome_zarr_details(picture: Picture) -> dict[str, Any]:
    """Returns what OME-Zarr states of labels, and of channels (`omero`)."""
    details: dict[str, Any] = {"image-label": {}} if picture.axes == "YX" else {}
    if picture.channels:
        window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
        channels = [{"label": name, "active": True, "color": "FFFFFF", "window": window} for name in picture.channels]
        details["omero"] = {"channels": channels}
    return details


def _fill_pyramid(picture: Picture, levels: list[Any], *, is_labels: bool) -> None:
    for number, level in enumerate(levels):
        channels = (None,) if is_labels else tuple(range(level.shape[0]))
        for channel, core in itertools.product(channels, Tiling(2 * TILE_PX, 0).cores(level.shape[-2:])):
            lead = () if channel is None else (channel,)
            if number == 0:
                level[(*lead, *core.slices)] = picture.read(channel or 0, *core.slices)
                continue
            finer = levels[number - 1]
            rows, columns = (slice(2 * one.start, min(2 * one.stop, n)) for one, n in
                             zip(core.slices, finer.shape[-2:], strict=True))  # fmt: skip
            part = np.asarray(finer[(*lead, rows, columns)])
            height, width = core.shape
            if min(part.shape) < 2:
                level[(*lead, *core.slices)] = part[::2, ::2][:height, :width]
            elif is_labels:
                level[(*lead, *core.slices)] = mode_of_blocks(part[: 2 * height, : 2 * width])
            else:
                blocks = part[: 2 * height, : 2 * width].reshape(height, 2, -1, 2)
                level[(*lead, *core.slices)] = blocks.mean((1, 3), dtype=np.float32).astype(level.dtype)


def mode_of_blocks(labels: np.ndarray) -> np.ndarray:
    """Returns the most frequent number of each block of 2 × 2 px of labels (2h, 2w), as (h, w); of several equally
    frequent ones the first in reading order.

    >>> mode_of_blocks(np.array([[1, 2, 3, 3], [2, 0, 4, 4]])).tolist()
    [[2, 3]]
    """
    first, second, third, fourth = labels[::2, ::2], labels[::2, 1::2], labels[1::2, ::2], labels[1::2, 1::2]
    is_first = (first == second) | (first == third) | (first == fourth)
    is_second = (second == third) | (second == fourth)
    return np.where(is_first, first, np.where(is_second, second, np.where(third == fourth, third, first)))


WRITERS: dict[PictureFormat, tuple[str, Callable[[Path, Picture], None]]] = {
    "tiff": (".tif", write_tiff),
    "ome-tiff": (".ome.tif", write_ome_tiff),
    "ome-zarr": (".ome.zarr", write_ome_zarr),
    "ome-zarr-0.4": (".ome.zarr", write_ome_zarr_04),
}
