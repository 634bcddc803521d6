"""Label images whose outlines are hard: holes, islands, corners that touch, numbers with gaps, none at all."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from segue import rng


def drawn(*rows: str, numbers: tuple[int, ...] = (0, 1, 2, 3), dtype: type = np.int32) -> np.ndarray:
    """Returns labels drawn by the digits 0 … 3, which stand for `numbers`; "." is 0."""
    places = np.array([[int(letter.replace(".", "0")) for letter in row] for row in rows])
    return np.array(numbers, dtype)[places]


GAPS = (0, 3, 70_000, 4_294_967_295)
AWKWARD: dict[str, np.ndarray] = {
    "one pixel": drawn("...", ".1.", "..."),
    "nothing but one pixel": drawn("1"),
    "the whole image": drawn("111", "111"),
    "a hole": drawn("1111", "1..1", "1.11", "1111"),
    "a hole with islands": drawn("111111", "1....1", "1.12.1", "1....1", "111111"),
    "a hole that opens in a corner": drawn(".11", "1.1", "111"),
    "a hole that opens in another corner": drawn("11.", "1.1", "111"),
    "holes that touch in a corner": drawn("1111", "1.11", "11.1", "1111"),
    "four holes around a pixel": drawn("11111", "11.11", "1.1.1", "11.11", "11111"),
    "parts that touch in a corner": drawn("1..", ".1.", "1.1"),
    "parts in a hole that touch its corners": drawn("1111", "1.11", "11.1", "1111", "2.2.", ".2.2"),
    "several parts": drawn("1.2.1", ".....", "2.1.2"),
    "a checkerboard of two": drawn("1212", "2121", "1212"),
    "at every border": drawn("11.22", "1...2", ".....", "3...3", "33333"),
    "gaps in uint32": drawn("1.22", "1133", "2..3", numbers=GAPS, dtype=np.uint32),
    "ignored pixels": drawn("122.", "1212", ".111", numbers=(0, 5, -1), dtype=np.int64),
    "empty": np.zeros((4, 5), np.uint16),
    "noise": rng.numpy_generator("awkward").integers(0, 3, (23, 31)).astype(np.uint8),
}


def numbers_of(labels: np.ndarray) -> list[int]:
    return [int(number) for number in np.unique(labels) if number > 0]


def pixels_of(geometry: BaseGeometry, shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels (H, W) bool whose centers lie in a geometry."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return shapely.contains_xy(geometry, x + 0.5, y + 0.5)
