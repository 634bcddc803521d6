"""Labels drawn over an image, to check them by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from segue.data.class_colours import colours_on_images
from segue.data.sheet import FAINT, INK, PAPER, lettering

HEAD_PX, GAP_PX, LETTERS_PX = 34, 14, 15  # of the strip above the picture
BAR_SHARE = 0.2  # of the width that the scale bar takes at most
_GREY_QUANTILES = (0.002, 0.998)


def overlay(
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
    picture = Image.fromarray(overlay(image, classes, nuclei, names=names, largest_px=largest_px))
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
    bold, font = lettering(LETTERS_PX + 1), lettering(LETTERS_PX - 2)
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
