"""Labels drawn over an image, to check them by eye.

What lies beside a plate's dataset for other eyes and programs: mosaics with their pixel size, reports, tables.

What was done to a plate in a few words, and its seams as a table: from the reports of its wells."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
import zarr
from PIL import Image, ImageDraw

from segue.data.summary import FAINT, INK, PAPER, colours_on_images, load_font
from segue.plates.stitching.spline import Array
from segue.storage import make_folder, replacing

HEAD_PX, GAP_PX, LETTERS_PX = 34, 14, 15  # of the strip above the picture
BAR_SHARE = 0.2  # of the width that the scale bar takes at most
_GREY_QUANTILES = (0.002, 0.998)


def draw_overlay(
    image: np.ndarray, classes: np.ndarray, nuclei: np.ndarray, *, names: Sequence[str], largest_px: int | None = None
) -> np.ndarray:
    """Returns (h, w, 3) uint8: the image (H, W) in grey, stretched between its 0.2 and 99.8 percentiles, and within
    each nucleus a line along its edge in the colour of its class (`colours_on_images`).

    `classes`, `nuclei` (H, W) int32 as in `StainLabels`, `names` of the classes, the background first. What is of a
    class outside nuclei is tinted, ignored pixels (−1) are darkened. The picture is made smaller by the least whole
    number that brings its sides to `largest_px`. Raises ValueError for unlike shapes.
    """
    if image.ndim != 2 or not image.shape == classes.shape == nuclei.shape:
        raise ValueError(
            f"overlay: image {image.shape}, classes {classes.shape}, nuclei {nuclei.shape}; all must be one (H, W)"
        )
    factor = _reduction(image, largest_px)
    palette = np.asarray(colours_on_images(names), np.float32)
    colours = palette[_class_of(classes, nuclei, names)]
    used = image[classes >= 0] if (classes >= 0).any() else image
    low, high = np.quantile(used[:: max(1, used.size // 2**20)], _GREY_QUANTILES)
    grey = np.clip((_smaller(image, factor) - low) / max(float(high - low), 1e-9), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    classes, nuclei = (labels[factor // 2 :: factor, factor // 2 :: factor][: grey.shape[0], : grey.shape[1]]
                       for labels in (classes, nuclei))  # fmt: skip
    outside = (classes > 0) & (nuclei <= 0)
    picture[outside] = 0.8 * picture[outside] + 0.2 * palette[classes[outside]]
    picture[classes < 0] *= 0.4
    edge = _edges(nuclei)
    picture[edge] = colours[nuclei[edge]]
    return np.rint(picture).astype(np.uint8)


def write_overlay(
    path: Path,
    image: np.ndarray,
    classes: np.ndarray,
    nuclei: np.ndarray,
    *,
    names: Sequence[str],
    title: str,
    pixel_size_um: float | None,
    largest_px: int = 2048,
) -> None:
    """Writes `overlay` beneath a strip with the title, a key of the classes and a scale bar as a PNG.

    The bar is in px where the pixel size is not known. Its folder is made where it is missing; the file appears when it
    is whole.
    """
    picture = Image.fromarray(draw_overlay(image, classes, nuclei, names=names, largest_px=largest_px))
    shown_um = None if pixel_size_um is None else pixel_size_um * _reduction(image, largest_px)
    found = _headed(picture, names, title, scale_bar(picture.width, shown_um, _reduction(image, largest_px)))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".writing")
    found.save(draft, format="PNG")
    draft.replace(path)


def scale_bar(width_px: int, pixel_size_um: float | None, reduction: int = 1) -> tuple[int, str]:
    """Returns the length in px, and in words, of a bar of 1, 2 or 5 · 10ⁿ µm that takes a fifth of the width at most.

    pixel_size_um is that of the picture. Where it is None, the bar is in px of the image, of which `reduction` make one
    of the picture.

    >>> scale_bar(1000, 0.65)
    (154, '100 µm')
    >>> scale_bar(1000, None, 2)
    (100, '200 px')
    """
    size, unit = (float(reduction), "px") if pixel_size_um is None else (pixel_size_um, "µm")
    most = BAR_SHARE * width_px * size
    decade = 10.0 ** np.floor(np.log10(most))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= most)
    return max(1, round(length / size)), f"{length:g} {unit}"


def _headed(picture: Image.Image, names: Sequence[str], title: str, bar: tuple[int, str]) -> Image.Image:
    """Returns the picture beneath a strip with the title, the key and the bar; wider where these need more room."""
    bold, font = load_font(LETTERS_PX + 1), load_font(LETTERS_PX - 2)
    length, told = bar
    places = [(title, INK, bold), *((name, FAINT, font) for name in names[1:]), (told, FAINT, font)]
    needed = sum(round(face.getlength(text)) + 2 * GAP_PX + LETTERS_PX for text, _, face in places) + length
    strip = Image.new("RGB", (max(picture.width, needed), picture.height + HEAD_PX), PAPER)
    strip.paste(picture, (0, HEAD_PX))
    pen, middle = ImageDraw.Draw(strip), HEAD_PX // 2
    pen.text((GAP_PX, middle), title, fill=INK, font=bold, anchor="lm")
    x = 3 * GAP_PX + round(bold.getlength(title))
    for name, colour in list(zip(names, colours_on_images(names), strict=True))[1:]:
        pen.rectangle((x, middle - 6, x + 12, middle + 6), fill=colour)
        pen.text((x + 19, middle), name, fill=INK, font=font, anchor="lm")
        x += 19 + round(font.getlength(name)) + 2 * GAP_PX
    right = strip.width - GAP_PX
    pen.rectangle((right - length + 1, middle - 2, right, middle + 1), fill=INK)
    pen.text((right - length - 8, middle), told, fill=INK, font=font, anchor="rm")
    return strip


def _reduction(image: np.ndarray, largest_px: int | None) -> int:
    return 1 if largest_px is None else max(1, -(-max(image.shape) // largest_px))


def _class_of(classes: np.ndarray, nuclei: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Returns (n + 1,) int64: the class of each nucleus, the lowest of its pixels: outline is the last."""
    lowest = np.full(int(nuclei.max(initial=0)) + 1, len(names) - 1, np.int64)
    inside = nuclei > 0
    np.minimum.at(lowest, nuclei[inside], classes[inside])
    return np.maximum(lowest, 0)


def _smaller(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns means over blocks of factor × factor px, without the rows and columns that fill no block; float32."""
    if factor == 1:
        return image.astype(np.float32)
    rows, columns = (n // factor for n in image.shape)
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean((1, 3), dtype=np.float32)


def _edges(labels: np.ndarray) -> np.ndarray:
    """Returns (H, W) bool: pixels of objects that share a side with what is not the same object."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        before, after = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        differ = labels[before] != labels[after]
        edge[before] |= differ
        edge[after] |= differ
    return edge & (labels > 0)


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


Reports = Mapping[str, Mapping[str, Mapping[str, Any]]]  # well, time -> report of `segue.plates.well`
SHOWN_NOTES = 10


def seam_rows(wells: Reports) -> Iterator[dict[str, Any]]:
    """Yields a row for each well and time: well, time, tiles placed, of how many fields, measured pairs, those
    repaired, the median and largest residual in px ("" where none is), and the flags of fields.
    """
    for well, times in wells.items():
        for name, told in sorted(times.items()):
            seams = told["seams"]
            residual = seams["residual_px"]
            yield {
                "well": well,
                "time": int(name.removeprefix("t")),
                "tiles": len(told["positions"]) - len(seams["missing"]),
                "fields": len(told["positions"]),
                "pairs": seams.get("pairs", ""),
                "repaired": len(seams["repaired"]),
                "unplaced": len(seams["unplaced"]),
                "median_residual_px": _rounded(residual["median"]),
                "largest_residual_px": _rounded(residual["largest"]),
                "flags": "; ".join(f"({cell}) {', '.join(flags)}" for cell, flags in sorted(told["flags"].items())),
            }


def summarize(report: Mapping[str, Any]) -> list[str]:
    """Returns lines that say which fields were left out, missing or only marked, how the seams are, and the notes."""
    wells: Reports = report["wells"]
    out, marked = Counter(), Counter()
    fields = left_out = missing = 0
    for times in wells.values():
        for told in times.values():
            gone = {",".join(map(str, cell)) for cell in told["seams"]["missing"]}
            fields += len(told["positions"])
            left_out += len(gone & set(told["flags"]))
            missing += len(gone - set(told["flags"]))
            for cell, flags in told["flags"].items():
                kinds = {flag.rpartition(": ")[2] for flag in flags}
                (out if cell in gone else marked).update("out of focus" if k == "defocused" else k for k in kinds)
    rows = list(seam_rows(wells))
    measured = [row for row in rows if row["largest_residual_px"] != ""]
    lines = [
        f"of {fields} fields: {left_out} left out{_counted(out)}, {missing} missing"
        + (f", marked only{_counted(marked)}" if marked else "")
    ]
    repaired, pairs = sum(row["repaired"] for row in rows), sum(row["pairs"] or 0 for row in rows)
    unplaced = sum(row["unplaced"] for row in rows)
    if measured:
        worst = max(measured, key=lambda row: row["largest_residual_px"])
        lines.append(
            f"of {pairs} pairs of neighbours: {repaired} repaired; worst residual "
            f"{worst['largest_residual_px']:.2f} px ({worst['well']}, time {worst['time']})"
            + (f"; {unplaced} fields could not be placed" if unplaced else "")
        )
    notes = list(report.get("notes", ()))
    lines += [f"note: {note}" for note in notes[:SHOWN_NOTES]]
    return lines + ([f"… and {len(notes) - SHOWN_NOTES} more notes"] if len(notes) > SHOWN_NOTES else [])


def _counted(kinds: Counter[str]) -> str:
    return f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
