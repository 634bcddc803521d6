"""What a reader of a file format returns, and how its axes become images (C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segue.errors import SegueError

Pages = Literal["channels", "time", "z"]
Color = Literal["rgb", "gray"]

AXIS_OF_PAGES: dict[Pages, str] = {"channels": "C", "time": "T", "z": "Z"}
AXIS_WORDS = {
    "T": "time points",
    "Z": "planes in depth",
    "C": "channels",
    "R": "tiles",
    "P": "positions",
    "A": "angles",
    "M": "tiles of a mosaic",
    "H": "phases",
    "E": "wavelengths or energies",
    "I": "illuminations",
    "V": "views",
    "B": "blocks of an acquisition",
    "G": "wavelengths of excitation",
    "N": "slices",
    "L": "loops",
    "O": "loops",
}
RGB = ("red", "green", "blue")
LUMA = (299, 587, 114)  # thousandths of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, values per pixel (pages of a file counted as such), bits per value."""

    height: int
    width: int
    channels: int
    bits: int


@dataclass(frozen=True)
class Stack:
    """The pixels of an image file with their axes, before these are arranged.

    pixels: an array, or anything with `shape` and `dtype` that gives one for an index of integers and whole slices, so
    that one page of many can be read alone. axes: a letter per axis: Y and X; C channels; S color, of which the first
    three are red, green and blue; T time; Z depth; Q pages of which the file does not say what they are; any other is
    refused unless its length is one. channels: the names of C, if the file states any. notes: see `Acquisition`.
    """

    pixels: Any
    axes: str
    pixel_size_nm: float | None = None
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acquisition:
    """What an image file holds.

    image: (C, H, W) in the acquired type. pixel_size_nm: None if the file does not state it. channels: C names as the
    file states them, None if it does not. notes: sentences about what its metadata contradict or leave open, without
    the file's name, so that equal ones can be counted.
    """

    image: np.ndarray
    pixel_size_nm: float | None
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A file format.

    header(path) decodes nothing. read(path, labels) returns the pixels as a viewer shows them or, if `labels`, the
    numbers that the file stores. Any exception but SegueError, UnsupportedError, ImportError and MemoryError means that
    the file is damaged. package: what to install if the format needs more than segue itself does.
    """

    format: str
    header: Callable[[Path], Header]
    read: Callable[[Path, bool], Stack]
    package: str = ""
    single: bool = False  # a file is a single image without names of channels


class UnsupportedError(Exception):
    """A whole file that stores its pixels in a way that no decoder at hand reads; the message says which."""


def page_axis(path: Path, stack: Stack, pages: Pages | None) -> int | None:
    """Returns the axis of `stack` along which each page is an image, None if the stack is a single image.

    Raises SegueError with the question if it has several pages and `pages` does not say what they are, or says
    something else than the file.
    """
    long = [(letter, n) for letter, n in zip(stack.axes, stack.pixels.shape, strict=True) if n > 1]
    lengths = dict(long)
    if len(lengths) < len(long):
        shape = " × ".join(map(str, stack.pixels.shape))
        raise SegueError(
            f"{path}: holds {shape} values and does not say what its pages are; save each image of (H, W) or (C, H, W) "
            "as a separate file."
        )
    for letter, length in lengths.items():
        if letter not in "YXCSTZQ" and length > 1:
            words = AXIS_WORDS.get(letter, f"entries along axis {letter}")
            raise SegueError(f"{path}: holds {length} {words}; save each as a separate image.")
    several = [letter for letter in "QTZ" if lengths.get(letter, 1) > 1]
    if not several:
        return None
    content = " × ".join(f"{lengths[letter]} {AXIS_WORDS.get(letter, 'pages')}" for letter in several)
    if len(several) > 1:
        raise SegueError(f"{path}: holds {content}; an image has one of them at most: save each as a separate image.")
    letter = several[0]
    if letter == "Q" and pages is None:
        raise SegueError(
            f'{path}: holds {content} and does not say what they are; set pages = "channels" (one image of '
            f'{lengths[letter]} channels), pages = "time" or pages = "z" (each page an image).'
        )
    stated = next((name for name, axis in AXIS_OF_PAGES.items() if axis == letter), pages)
    if pages is None:
        raise SegueError(
            f'{path}: holds {content}; set pages = "{stated}" to take each as an image, or save the one to use.'
        )
    if pages != stated:
        raise SegueError(
            f'{path}: holds {content} according to its metadata, but pages = "{pages}" is set; set pages = "{stated}", '
            "or correct the metadata."
        )
    if pages == "channels":
        if lengths.get("C", 1) > 1:
            raise SegueError(f"{path}: holds {content} of {lengths['C']} channels each; pages cannot be channels too.")
        return None
    return stack.axes.index(letter)


def arrange(
    path: Path, stack: Stack, *, pages: Pages | None = None, page: int | None = None, color: Color | None = None
) -> Acquisition:
    """Returns the image of a stack, or the `page` along its axis of time or depth; see `read_image`."""
    axis = page_axis(path, stack, pages)
    shape = stack.pixels.shape
    if axis is not None and page is None:
        raise SegueError(f"{path}: holds {shape[axis]} images, one per page; name the page to read.")
    if page is not None and not 0 <= page < (1 if axis is None else shape[axis]):
        raise SegueError(f"{path}: has no page {page}; it holds {1 if axis is None else shape[axis]}.")
    index = tuple(
        page if i == axis else slice(None) if letter in "YX" or length > 1 else 0
        for i, (letter, length) in enumerate(zip(stack.axes, shape, strict=True))
    )
    axes = "".join(letter for letter, one in zip(stack.axes, index, strict=True) if isinstance(one, slice))
    pixels = np.asarray(stack.pixels[index])
    axes = axes.replace("Q", "C")
    if "C" in axes and "S" in axes:
        raise SegueError(f"{path}: holds {pixels.shape[axes.index('C')]} color images; save each as a separate image.")
    order = [axes.index(letter) for letter in "CSYX" if letter in axes]
    image = pixels.transpose(order)
    image = np.ascontiguousarray(image[None] if image.ndim == 2 else image)
    if "S" in axes:
        image, channels = _color(path, image, color), None
    else:
        channels = stack.channels if stack.channels is not None and len(stack.channels) == len(image) else None
    return Acquisition(image, stack.pixel_size_nm, channels, stack.notes)


def _color(path: Path, image: np.ndarray, color: Color | None) -> np.ndarray:
    """Returns (C, H, W) of red, green, blue and further samples, for "gray" the luma and further samples."""
    if color == "rgb":
        return image
    if color == "gray":
        return np.concatenate([luma(image)[None], image[3:]])
    equal = np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    words = "are equal everywhere: gray loses nothing" if equal else "differ"
    raise SegueError(
        f'{path}: is a color image, whose red, green and blue {words}; set color = "rgb" (three channels) or '
        'color = "gray" (their luma).'
    )


def luma(image: np.ndarray) -> np.ndarray:
    """Returns the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) of (3 or more, H, W), integers rounded."""
    if image.dtype.kind == "f":
        return np.tensordot(np.array(LUMA, image.dtype) / 1000, image[:3], 1).astype(image.dtype)
    wide = np.int32 if image.dtype.itemsize <= 2 else np.int64
    total = np.zeros(image.shape[1:], wide)
    for weight, channel in zip(LUMA, image[:3], strict=True):
        total += wide(weight) * channel.astype(wide)
    return ((total + 500) // 1000).astype(image.dtype)
