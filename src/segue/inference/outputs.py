"""What a prediction writes for each image: labels and probabilities by tiles, in three formats, and an overlay.

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
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage.segmentation import find_boundaries

from segue.data.tiling import Tiling
from segue.inference.object_table import bands
from segue.storage import make_folder, remove_abandoned, replacing

Format = Literal["tiff", "ome-tiff", "ome-zarr"]
TILE_PX = 512  # a multiple of 16, as TIFF demands
MAX_PYRAMID_TOP_PX = 512  # levels of OME-Zarr are halved until their longer side is at most this
MAX_OVERLAY_PX = 2048  # of the longer side
GRAY_PERCENTS = (0.2, 99.8)
CERTAIN, UNCERTAIN = (0, 220, 220), (255, 140, 0)  # outlines
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


def write_picture(folder: Path, picture: Picture, format: Format) -> Path:
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
    """Writes OME-Zarr 0.4 (Zarr 2) with a pyramid: labels by every second pixel, others by means of 2 × 2 px."""
    import zarr

    draft = path.with_name(f"{path.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    group = zarr.open_group(draft, mode="w", zarr_format=2)
    is_labels = picture.axes == "YX"
    datasets, levels, scale = [], [], 1
    height, width = picture.shape[1:]
    while True:
        shape = (height, width) if is_labels else (picture.shape[0], height, width)
        array = group.create_array(
            str(len(levels)),
            shape=shape,
            dtype=picture.dtype,
            chunks=(*(1,) * (len(shape) - 2), min(2 * TILE_PX, height), min(2 * TILE_PX, width)),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        step = scale * (1.0 if picture.pixel_size_nm is None else picture.pixel_size_nm / 1000)
        scales = [*(1.0,) * (len(shape) - 2), step, step]
        datasets.append({"path": str(len(levels)), "coordinateTransformations": [{"type": "scale", "scale": scales}]})
        levels.append(array)
        if max(height, width) <= MAX_PYRAMID_TOP_PX:
            break
        height, width, scale = max(1, height // 2), max(1, width // 2), scale * 2
    _fill_pyramid(picture, levels, is_labels=is_labels)
    unit = {} if picture.pixel_size_nm is None else {"unit": "micrometer"}
    axes = [{"name": axis.lower(), "type": "space", **unit} for axis in "YX"]
    axes = axes if is_labels else [{"name": "c", "type": "channel"}, *axes]
    group.attrs["multiscales"] = [{"version": "0.4", "name": picture.name, "axes": axes, "datasets": datasets}]
    if is_labels:
        group.attrs["image-label"] = {"version": "0.4"}
    if picture.channels:
        window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
        group.attrs["omero"] = {
            "channels": [
                {"label": name, "active": True, "color": "FFFFFF", "window": window} for name in picture.channels
            ]
        }
    group.attrs["segue"] = dict(picture.facts)
    shutil.rmtree(path, ignore_errors=True)
    draft.rename(path)


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
            if is_labels or min(part.shape) < 2:
                level[(*lead, *core.slices)] = part[::2, ::2][:height, :width]
            else:
                blocks = part[: 2 * height, : 2 * width].reshape(height, 2, -1, 2)
                level[(*lead, *core.slices)] = blocks.mean((1, 3), dtype=np.float32).astype(level.dtype)


WRITERS: dict[Format, tuple[str, Callable[[Path, Picture], None]]] = {
    "tiff": (".tif", write_tiff),
    "ome-tiff": (".ome.tif", write_ome_tiff),
    "ome-zarr": (".ome.zarr", write_ome_zarr),
}


# overlay


def write_overlay(path: Path, image: Any, labels: Any, *, title: str, is_uncertain: np.ndarray) -> None:
    """Writes the outlines of labels (H, W) over the mean channel of the image (C, H, W) as a PNG of the image's size.

    Gray is stretched between two percentiles; sides are reduced by a whole factor to MAX_OVERLAY_PX at most. Outlines
    are cyan, orange where `is_uncertain` (n + 1,). The title is the PNG's "Description".
    """
    gray, small, factor = _reduced(image, labels)
    low, high = np.percentile(gray, GRAY_PERCENTS)
    stretched = np.clip((gray - low) / max(float(high - low), 1e-9), 0, 1) * 255
    picture = np.repeat(stretched[..., None], 3, axis=2).astype(np.uint8)
    edges = find_boundaries(small, connectivity=1, mode="inner")
    colors = np.array([CERTAIN, UNCERTAIN], np.uint8)
    picture[edges] = colors[is_uncertain[np.minimum(small[edges], len(is_uncertain) - 1)].astype(int)]
    text = title if factor == 1 else f"{title}; reduced {factor} ×"
    info = PngInfo()
    info.add_itxt("Description", text)
    make_folder(path.parent)
    remove_abandoned(path)
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, format="PNG", pnginfo=info)


def _reduced(image: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns means over blocks (h, w) float32, the labels at their middles (h, w), and the factor."""
    channels, height, width = image.shape
    factor = max(1, -(-max(height, width) // MAX_OVERLAY_PX))
    rows, columns = max(1, height // factor), max(1, width // factor)
    step = min(factor, height, width)
    gray, small = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.int64)
    for top, bottom in bands(rows, columns, step * step * (8 + 4 * channels)):
        part = slice(top * step, bottom * step)
        block = np.asarray(image[:, part, : columns * step]).astype(np.float32).mean(0)
        gray[top:bottom] = block.reshape(bottom - top, step, columns, step).mean((1, 3))
        middle = slice(step // 2, None, step)
        small[top:bottom] = np.asarray(labels[part, : columns * step])[middle, middle]
    return np.nan_to_num(gray), small, factor
