"""Exports next to a plate's dataset: labels over images (PNG), mosaics (OME-TIFF, OME-Zarr), CSV tables, a summary.

The NGFF metadata, four small dictionaries, are written without a library (decision 14).
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import block_reduce
from skimage.segmentation import find_boundaries

from segue.data.summary import INK, PAPER, class_colors, load_font
from segue.plates.stitching.spline import Array
from segue.storage import make_folder, replacing

HEADER_PX, GAP_PX, LETTER_PX = 34, 14, 15  # of the strip above an overlay
MAX_BAR_FRACTION = 0.2  # of the width, for the scale bar
MAX_OVERLAY_PX = 2048  # of the longer side
GRAY_QUANTILES = (0.002, 0.998)
MAX_PYRAMID_TOP_PX = 512  # levels are halved until their longer side is at most this
MAX_NOTES = 10  # of the summary
Format = Literal["ome-tiff", "ome-zarr"]
Reports = Mapping[str, Mapping[str, Mapping[str, Any]]]  # well, time -> report of `segue.plates.well`


# ---- labels over images


def draw_overlay(
    image: np.ndarray, classes: np.ndarray, nuclei: np.ndarray, *, names: Sequence[str], max_side_px: int | None = None
) -> np.ndarray:
    """Returns (h, w, 3) uint8: the image (H, W) in gray, stretched between its 0.2 and 99.8 percentiles, and within
    each nucleus a line along its edge in the color of its class (`class_colors`).

    `classes`, `nuclei` (H, W) int32 as in `StainLabels`; `names` of the classes, the background first. Class pixels
    outside nuclei are tinted, ignored pixels (−1) darkened. The picture is reduced by the smallest whole factor that
    brings its sides to `max_side_px`. Raises ValueError for different shapes.
    """
    if image.ndim != 2 or not image.shape == classes.shape == nuclei.shape:
        raise ValueError(
            f"overlay: image {image.shape}, classes {classes.shape}, nuclei {nuclei.shape}; all must be one (H, W)"
        )
    factor = _reduction(image, max_side_px)
    palette = np.asarray(class_colors(names), np.float32)
    colors = palette[_class_of_nuclei(classes, nuclei, names)]
    labeled = image[classes >= 0] if (classes >= 0).any() else image
    low, high = np.quantile(labeled[:: max(1, labeled.size // 2**20)], GRAY_QUANTILES)
    gray = np.clip((_reduced(image, factor) - low) / max(float(high - low), 1e-9), 0, 1) * 255
    picture = np.repeat(gray[..., None], 3, axis=2).astype(np.float32)
    sampled = slice(factor // 2, None, factor)
    classes, nuclei = (labels[sampled, sampled][: gray.shape[0], : gray.shape[1]] for labels in (classes, nuclei))
    outside = (classes > 0) & (nuclei <= 0)
    picture[outside] = 0.8 * picture[outside] + 0.2 * palette[classes[outside]]
    picture[classes < 0] *= 0.4
    edge = find_boundaries(nuclei, connectivity=1) & (nuclei > 0)
    picture[edge] = colors[nuclei[edge]]
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
    max_side_px: int = MAX_OVERLAY_PX,
) -> None:
    """Writes `draw_overlay` below a strip with title, legend and scale bar as a PNG, atomically.

    The bar is in px if the pixel size is unknown. The folder is created if necessary.
    """
    factor = _reduction(image, max_side_px)
    picture = Image.fromarray(draw_overlay(image, classes, nuclei, names=names, max_side_px=max_side_px))
    bar = scale_bar(picture.width, None if pixel_size_um is None else pixel_size_um * factor, factor)
    make_folder(path.parent)
    with replacing(path) as partial:
        _with_header(picture, names, title, bar).save(partial, format="PNG")


def scale_bar(width_px: int, pixel_size_um: float | None, reduction: int = 1) -> tuple[int, str]:
    """Returns the length in px and the label of a bar of 1, 2 or 5 · 10ⁿ µm, at most a fifth of the width.

    pixel_size_um is that of the picture. If it is None, the bar is in px of the image, of which `reduction` make one px
    of the picture.

    >>> scale_bar(1000, 0.65)
    (154, '100 µm')
    >>> scale_bar(1000, None, 2)
    (100, '200 px')
    """
    size, unit = (float(reduction), "px") if pixel_size_um is None else (pixel_size_um, "µm")
    max_length = MAX_BAR_FRACTION * width_px * size
    decade = 10.0 ** np.floor(np.log10(max_length))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= max_length)
    return max(1, round(length / size)), f"{length:g} {unit}"


def _with_header(picture: Image.Image, names: Sequence[str], title: str, bar: tuple[int, str]) -> Image.Image:
    """Returns the picture below a strip with title, legend and bar; wider if these need more room."""
    bold, font = load_font(LETTER_PX + 1), load_font(LETTER_PX - 2)
    bar_px, bar_label = bar
    texts = [(title, bold), *((name, font) for name in names[1:]), (bar_label, font)]
    min_width = sum(round(face.getlength(text)) + 2 * GAP_PX + LETTER_PX for text, face in texts) + bar_px
    strip = Image.new("RGB", (max(picture.width, min_width), picture.height + HEADER_PX), PAPER)
    strip.paste(picture, (0, HEADER_PX))
    pen, middle = ImageDraw.Draw(strip), HEADER_PX // 2
    pen.text((GAP_PX, middle), title, fill=INK, font=bold, anchor="lm")
    x = 3 * GAP_PX + round(bold.getlength(title))
    for name, color in list(zip(names, class_colors(names), strict=True))[1:]:
        pen.rectangle((x, middle - 6, x + 12, middle + 6), fill=color)
        pen.text((x + 19, middle), name, fill=INK, font=font, anchor="lm")
        x += 19 + round(font.getlength(name)) + 2 * GAP_PX
    right = strip.width - GAP_PX
    pen.rectangle((right - bar_px + 1, middle - 2, right, middle + 1), fill=INK)
    pen.text((right - bar_px - 8, middle), bar_label, fill=INK, font=font, anchor="rm")
    return strip


def _reduction(image: np.ndarray, max_side_px: int | None) -> int:
    return 1 if max_side_px is None else max(1, -(-max(image.shape) // max_side_px))


def _class_of_nuclei(classes: np.ndarray, nuclei: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Returns (n + 1,) int64: the class of each nucleus, the lowest of its pixels, since outline is the last class."""
    lowest = np.full(int(nuclei.max(initial=0)) + 1, len(names) - 1, np.int64)
    inside = nuclei > 0
    np.minimum.at(lowest, nuclei[inside], classes[inside])
    return np.maximum(lowest, 0)


def _reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns means over blocks of factor × factor px, float32; incomplete blocks are cut off."""
    if factor == 1:
        return image.astype(np.float32)
    rows, columns = (n // factor * factor for n in image.shape)
    return block_reduce(image[:rows, :columns], factor, np.mean, func_kwargs={"dtype": np.float32})


# ---- mosaics


def write_mosaic(path: Path, image: Array, channels: Sequence[str], *, pixel_size_um: float, format: Format) -> Path:
    """Writes an image (C, H, W) as `path` with .ome.tif or .ome.zarr added, atomically; returns that path.

    OME-TIFF: tiled, zlib. OME-Zarr: version 0.4 of the format (Zarr 2), a pyramid of levels halved by block means.
    """
    if format == "ome-tiff":
        file = path.with_name(f"{path.name}.ome.tif")
        with replacing(file) as partial:
            _write_tiff(partial, image, channels, pixel_size_um)
        return file
    folder = path.with_name(f"{path.name}.ome.zarr")
    draft = make_folder(path.parent) / f"{folder.name}.writing"
    shutil.rmtree(draft, ignore_errors=True)
    _write_zarr(draft, image, channels, pixel_size_um)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return folder


def _write_tiff(path: Path, image: Array, channels: Sequence[str], pixel_size_um: float) -> None:
    import tifffile

    tifffile.imwrite(
        path,
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


def _write_zarr(folder: Path, image: Array, channels: Sequence[str], pixel_size_um: float) -> None:
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=2)
    datasets, level, scale = [], image, 1
    while True:
        name = str(len(datasets))
        array = group.create_array(
            name,
            shape=level.shape,
            dtype=level.dtype,
            chunks=(1, *(min(1024, side) for side in level.shape[1:])),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = level
        steps = [1.0, pixel_size_um * scale, pixel_size_um * scale]
        datasets.append({"path": name, "coordinateTransformations": [{"type": "scale", "scale": steps}]})
        if max(level.shape[1:]) <= MAX_PYRAMID_TOP_PX:
            break
        level, scale = _halved(level), scale * 2
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    group.attrs["multiscales"] = [{"version": "0.4", "name": folder.stem, "axes": axes, "datasets": datasets}]
    group.attrs["omero"] = {
        "channels": [
            {"label": name, "active": True, "color": "FFFFFF", "window": _contrast_window(image[i])}
            for i, name in enumerate(channels)
        ]
    }


def _halved(image: Array) -> Array:
    _, height, width = image.shape
    even = image[:, : height // 2 * 2, : width // 2 * 2]
    blocks: Any = (1, 2, 2)
    means = block_reduce(even, blocks, np.mean, func_kwargs={"dtype": np.float32})
    return np.rint(means).astype(image.dtype) if image.dtype.kind in "ui" else means.astype(image.dtype)


def _contrast_window(image: Array) -> dict[str, float]:
    """Returns the gray values that viewers show at first: between the 0.1 and 99.9 percentiles."""
    low, high = (float(value) for value in np.percentile(image, (0.1, 99.9)))
    return {"min": float(image.min()), "max": float(image.max()), "start": low, "end": max(high, low + 1)}


# ---- tables and summary


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a CSV of rows that all have the keys of the first, atomically."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)


def seam_rows(wells: Reports) -> Iterator[dict[str, Any]]:
    """Yields a row per well and time: tiles placed, number of fields, pairs measured and repaired, tiles unplaced,
    median and largest residual in px ("" if there is none), and the flags of fields.
    """
    for well, times in wells.items():
        for name, report in sorted(times.items()):
            seams, positions = report["seams"], report["positions"]
            median, largest = (seams["residual_px"][key] for key in ("median", "largest"))
            yield {
                "well": well,
                "time": int(name.removeprefix("t")),
                "tiles": len(positions) - len(seams["missing"]),
                "fields": len(positions),
                "pairs": seams.get("pairs", ""),
                "repaired": len(seams["repaired"]),
                "unplaced": len(seams["unplaced"]),
                "median_residual_px": "" if median is None else round(median, 4),
                "largest_residual_px": "" if largest is None else round(largest, 4),
                "flags": "; ".join(f"({index}) {', '.join(flags)}" for index, flags in sorted(report["flags"].items())),
            }


def summarize(report: Mapping[str, Any]) -> list[str]:
    """Returns lines on the fields that were left out, missing or only marked, the quality of the seams, and notes."""
    wells: Reports = report["wells"]
    excluded, marked = Counter(), Counter()
    fields = n_excluded = n_missing = 0
    for times in wells.values():
        for frame in times.values():
            absent = {",".join(map(str, index)) for index in frame["seams"]["missing"]}
            fields += len(frame["positions"])
            n_excluded += len(absent & set(frame["flags"]))
            n_missing += len(absent - set(frame["flags"]))
            for index, flags in frame["flags"].items():
                kinds = {flag.rpartition(": ")[2] for flag in flags}
                names = ("out of focus" if kind == "defocused" else kind for kind in kinds)
                (excluded if index in absent else marked).update(names)
    lines = [
        f"of {fields} fields: {n_excluded} left out{_counts(excluded)}, {n_missing} missing"
        + (f", marked only{_counts(marked)}" if marked else "")
    ]
    rows = list(seam_rows(wells))
    measured = [row for row in rows if row["largest_residual_px"] != ""]
    if measured:
        repaired, pairs, unplaced = (sum(row[name] or 0 for row in rows) for name in ("repaired", "pairs", "unplaced"))
        worst = max(measured, key=lambda row: row["largest_residual_px"])
        lines.append(
            f"of {pairs} pairs of neighbors: {repaired} repaired; worst residual "
            f"{worst['largest_residual_px']:.2f} px ({worst['well']}, time {worst['time']})"
            + (f"; {unplaced} fields could not be placed" if unplaced else "")
        )
    notes = list(report.get("notes", ()))
    lines += [f"note: {note}" for note in notes[:MAX_NOTES]]
    return lines + ([f"… and {len(notes) - MAX_NOTES} more notes"] if len(notes) > MAX_NOTES else [])


def _counts(kinds: Counter[str]) -> str:
    return f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""
