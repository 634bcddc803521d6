"""Draws tiles with their labels on one sheet."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segue.data.class_colours import colours_on_images
from segue.data.layers import IGNORED, Layer

PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (120, 120, 128)
SHOWN_PX = 220  # the least side of a tile on the sheet
GAP, MARGIN, CAPTION = 14, 22, 40


def draw_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    layer: Layer,
    valid: np.ndarray,
    captions: Sequence[tuple[str, str]],
    heading: str,
) -> Any:
    """Returns a PIL image of tiles (n, C, H, W) with labels (n, H, W), valid boxes (n, 4) and two captions each."""
    count = len(images)
    scale = max(1, math.ceil(SHOWN_PX / max(images.shape[2:])))
    height, width = images.shape[2] * scale, images.shape[3] * scale
    columns = min(count, max(1, round(math.sqrt(count * 1.6))))
    rows = math.ceil(count / columns)
    top = MARGIN + 62
    size = (2 * MARGIN + columns * (width + GAP) - GAP, top + rows * (height + CAPTION + GAP) - GAP + MARGIN)
    sheet = Image.new("RGB", (max(size[0], 640), size[1]), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), heading, fill=INK, font=lettering(18))
    _legend(pen, layer, (MARGIN, MARGIN + 26))
    for index in range(count):
        x = MARGIN + (index % columns) * (width + GAP)
        y = top + (index // columns) * (height + CAPTION + GAP)
        tile = Image.fromarray(coloured(images[index], labels[index], layer, valid[index], scale))
        sheet.paste(tile, (x, y))
        _dashed_box(pen, valid[index] * scale, (x, y), (width, height))
        for line, (text, colour) in enumerate(zip(captions[index], (INK, FAINT), strict=True)):
            pen.text((x, y + height + 3 + 16 * line), _fitting(pen, text, width), fill=colour, font=lettering(12))
    return sheet


def coloured(image: np.ndarray, labels: np.ndarray, layer: Layer, valid: np.ndarray, scale: int) -> np.ndarray:
    """Returns (H·scale, W·scale, 3) uint8: the stretched image, a tint and an outline for each label.

    Of three channels red, green and blue are made, of others the first is shown.
    """
    y0, x0, y1, x1 = valid
    picture = np.empty((*labels.shape, 3))
    for colour, channel in enumerate((0, 1, 2) if len(image) == 3 else (0, 0, 0)):
        picture[..., colour] = _stretched(image[channel], image[channel, y0:y1, x0:x1])
    picture, marks = (np.repeat(np.repeat(array, scale, 0), scale, 1) for array in (picture, labels))
    colours = _colours(layer, marks)
    if layer.kind == "classes":
        tint = marks > 0
        picture[tint] = 0.78 * picture[tint] + 0.22 * colours[tint]
    outline = _outline(marks)
    picture[outline] = colours[outline]
    rows, columns = np.indices(marks.shape)
    inside = (rows < y1 * scale) & (columns < x1 * scale) & (rows >= y0 * scale) & (columns >= x0 * scale)
    hatch = (marks == IGNORED) & inside & ((rows + columns) % 8 < 2)
    picture[hatch] = 0.35 * picture[hatch] + 0.65 * 200
    picture[~inside] = 238
    return picture.round().clip(0, 255).astype(np.uint8)


def _stretched(channel: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Returns the channel from 0 to 255, stretched by its finite measured values; NaN and infinity become black."""
    measured = measured[np.isfinite(measured)].astype(np.float64)
    low, high = np.percentile(measured, (0.5, 99.8)) if measured.size else (0, 1)
    values = np.where(np.isfinite(channel), channel, low).astype(np.float64)
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1) * 255


def _outline(labels: np.ndarray) -> np.ndarray:
    """Returns the inner border pixels of every label: those with a neighbour of another value."""
    padded = np.pad(labels, 1, mode="edge")
    shifted = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    return (labels > 0) & np.any([neighbour != labels for neighbour in shifted], axis=0)


def _colours(layer: Layer, labels: np.ndarray) -> np.ndarray:
    if layer.kind == "classes":
        table = np.array(colours_on_images(layer.names), dtype=float)
        return table[np.maximum(labels, 0)]
    hues = [colorsys.hsv_to_rgb((0.11 + 0.618034 * k) % 1, 0.85, 1) for k in range(64)]
    return (np.array(hues) * 255)[np.maximum(labels, 0) % 64]


def _legend(pen: Any, layer: Layer, place: tuple[int, int]) -> None:
    x, y = place
    font = lettering(13)
    if layer.kind == "instances":
        pen.text(
            (x, y), f"each outline is one {layer.names[1]}; hatched: ignored; grey: padding", fill=FAINT, font=font
        )
        return
    for name, colour in list(zip(layer.names, colours_on_images(layer.names), strict=True))[1:]:
        pen.rectangle((x, y + 2, x + 13, y + 15), fill=colour)
        pen.text((x + 19, y), name, fill=INK, font=font)
        x += 37 + round(pen.textlength(name, font=font))
    pen.text((x, y), "hatched: ignored; grey: padding", fill=FAINT, font=font)


def _dashed_box(pen: Any, box: np.ndarray, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Draws the lower and right border of the valid box where padding follows."""
    _, _, y1, x1 = (int(value) for value in box)
    (x, y), (width, height) = place, size
    if y1 < height:
        for start in range(0, x1, 8):
            pen.line((x + start, y + y1, x + min(start + 4, x1), y + y1), fill=INK)
    if x1 < width:
        for start in range(0, y1, 8):
            pen.line((x + x1, y + start, x + x1, y + min(start + 4, y1)), fill=INK)


def _fitting(pen: Any, text: str, width: int) -> str:
    font = lettering(12)
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


def lettering(size: int) -> Any:
    """Returns the font of matplotlib's figures, `size` px high: PIL's own lacks "µ", "×" and "…"."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
