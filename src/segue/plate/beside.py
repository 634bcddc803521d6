"""What lies beside a plate's dataset for other eyes and programs: mosaics with their pixel size, reports, tables."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import zarr

from segue.data.files import make_folder, replacing
from segue.plate.resampling import Array

Format = Literal["ome-tiff", "ome-zarr"]
LEAST_PYRAMID_PX = 512  # levels are halved until their longer side is at most this


def write_mosaic(path: Path, image: Array, channels: Sequence[str], *, pixel_size_um: float, kind: Format) -> Path:
    """Writes an image (C, H, W) as `path` with .ome.tif or .ome.zarr added, and returns that; it appears when whole.

    OME-TIFF: tiled, zlib. OME-Zarr: version 0.4 of the format (Zarr 2), a pyramid of levels halved by block means.
    """
    if kind == "ome-tiff":
        file = path.with_name(f"{path.name}.ome.tif")
        with replacing(file) as partial:
            tifffile.imwrite(
                partial,
                image,
                ome=True,
                photometric="minisblack",
                tile=(256, 256),
                compression="zlib",
                metadata={
                    "axes": "CYX",
                    "PhysicalSizeX": pixel_size_um,
                    "PhysicalSizeXUnit": "µm",
                    "PhysicalSizeY": pixel_size_um,
                    "PhysicalSizeYUnit": "µm",
                    "Channel": {"Name": list(channels)},
                },
            )
        return file
    folder = path.with_name(f"{path.name}.ome.zarr")
    draft = make_folder(path.parent) / f"{folder.name}.writing"
    shutil.rmtree(draft, ignore_errors=True)
    _write_zarr(draft, image, channels, pixel_size_um)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    """Writes `told` as JSON, its keys sorted; the file appears when whole."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV of rows that all have the keys of the first; the file appears when whole."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)


def _write_zarr(folder: Path, image: Array, channels: Sequence[str], pixel_size_um: float) -> None:
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    levels, level, scale = [], image, 1
    while True:
        name = str(len(levels))
        chunks = (1, *(min(1024, side) for side in level.shape[1:]))
        array = root.create_array(
            name,
            shape=level.shape,
            dtype=level.dtype,
            chunks=chunks,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = level
        steps = [1.0, pixel_size_um * scale, pixel_size_um * scale]
        levels.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": steps}]})
        if max(level.shape[1:]) <= LEAST_PYRAMID_PX:
            break
        level, scale = _halved(level), scale * 2
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    root.attrs["multiscales"] = [{"version": "0.4", "name": folder.stem, "axes": axes, "datasets": levels}]
    shown = [
        {"label": name, "active": True, "color": "FFFFFF", "window": _window(image[i])}
        for i, name in enumerate(channels)
    ]
    root.attrs["omero"] = {"channels": shown}


def _halved(image: Array) -> Array:
    channels, height, width = image.shape
    even = image[:, : height // 2 * 2, : width // 2 * 2].reshape(channels, height // 2, 2, width // 2, 2)
    means = even.mean((2, 4), dtype=np.float32)
    return np.rint(means).astype(image.dtype) if image.dtype.kind in "ui" else means.astype(image.dtype)


def _window(image: Array) -> dict[str, float]:
    """Returns the range of grey values that viewers show first: between the 0.1 and 99.9 percentiles."""
    low, high = (float(value) for value in np.percentile(image, (0.1, 99.9)))
    return {"min": float(image.min()), "max": float(image.max()), "start": low, "end": max(high, low + 1)}
