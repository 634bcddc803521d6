"""Pixels that are decoded when they are indexed, and readers whose header is that of such pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.stack import Header, Reader, Stack
from segue.errors import SegueError

Index = tuple[int | slice, ...]
MAX_NAMES = 4  # in a sentence


@dataclass(frozen=True)
class Planes:
    """Pixels of `shape` and `dtype`; read(index) decodes those of an index of integers and whole slices."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]

    def __getitem__(self, index: Index) -> np.ndarray:
        return self.read(index)


def lazy_reader(format: str, read: Callable[[Path, bool], Stack], package: str = "") -> Reader:
    """Returns the reader of a format whose `read` decodes nothing until its pixels are indexed."""

    def header(path: Path) -> Header:
        stack = read(path, False)
        lengths = dict(zip(stack.axes, stack.pixels.shape, strict=True))
        others = math.prod(length for letter, length in lengths.items() if letter not in "YX")
        return Header(lengths["Y"], lengths["X"], others, 8 * stack.pixels.dtype.itemsize)

    return Reader(format, header, read, package)


def checked_dtype(path: Path, dtype: Any) -> np.dtype:
    """Returns the type of real numbers; raises SegueError for complex ones."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c" or (dtype.names is not None and len(dtype.names) == 2):
        raise SegueError(f"{path}: holds complex numbers; save their magnitude or phase.")
    return dtype


def refuse_several(path: Path, what: str, names: list[str]) -> None:
    """Raises SegueError if a file holds several images, which may differ in size; it lists their names."""
    if len(names) > 1:
        rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise SegueError(
            f"{path}: holds {len(names)} {what} ({', '.join(names[:MAX_NAMES])}{rest}); save each in a separate file."
        )


def loop_frames(index: Index, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the numbers of the frames that an index of the leading axes of `shape` selects; its shape stays."""
    return np.arange(math.prod(shape)).reshape(shape)[index[: len(shape)]]


def plane_index(index: Index, leading: int) -> tuple[Any, ...]:
    """Returns the index of pixels of which the first `leading` axes were indexed: those that were slices are whole."""
    return (*(slice(None) for one in index[:leading] if isinstance(one, slice)), *index[leading:])


def size_note(unit: str) -> tuple[str, ...]:
    """Returns a note on a calibration in a unit that is none of length."""
    return (f"its calibration is in '{unit}', which is no length: the pixel size is not known",) if unit else ()
