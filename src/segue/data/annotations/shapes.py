"""Annotations as drawn by people: shapes with classes, and the pixels that they cover.

Coordinates are (x, y) in pixels, (0, 0) the outer corner of the first one, as in ImageJ and QuPath: pixel (y, x) has
its center at (x + 0.5, y + 0.5). A pixel is in an area if its center is.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last row and column not included
TOLERANCE_PX = 1e-3  # by which a shape may reach beyond the image without being told
MIN_WIDTH_PX = 1.5  # of lines that are drawn as areas; narrower ones are a pixel wide


@dataclass(frozen=True)
class Pixels:
    """Pixels by a mask (h, w) of booleans, the first of which is (top, left)."""

    top: int
    left: int
    mask: np.ndarray

    @property
    def box(self) -> Box:
        height, width = self.mask.shape
        return self.top, self.left, self.top + height, self.left + width


@dataclass(frozen=True)
class Shape:
    """An annotation: an area, a line, or points.

    kind: "area": `paths` are rings (k, 2), of which each list is a polygon with holes by the even-odd rule, and all
    polygons together are the area, with the pixels of `pixels`. "line": each path is a line through its points, of
    `width_px`. "point": each row of a path is a point.
    class_name: "" without. page: of a stack, from 0 on; None for all of them. plane: in place of the page, its place
    among the planes of all channels and pages, channels first. ignored: its pixels are to be ignored.
    """

    name: str
    class_name: str
    kind: Literal["area", "line", "point"]
    paths: Sequence[Sequence[np.ndarray]] = ()
    pixels: tuple[Pixels, ...] = ()
    width_px: float = 1.0
    page: int | None = None
    plane: int | None = None
    ignored: bool = False

    def rasterize(self, height: int, width: int) -> Pixels | None:
        """Returns the pixels of the shape that lie in an image of height × width px; None without any."""
        if self.kind == "area":
            parts = [_fill(rings, height, width) for rings in self.paths]
            parts += [_cropped(one, height, width) for one in self.pixels]
        else:
            draw = _points if self.kind == "point" else _line
            parts = [draw(path, self.width_px, height, width) for paths in self.paths for path in paths]
        return _union([part for part in parts if part is not None])

    def outside(self, height: int, width: int) -> bool:
        """Returns whether part of the shape lies beyond the borders of an image of height × width px."""
        limits = np.array([width, height]) + TOLERANCE_PX
        beyond = any((path < -TOLERANCE_PX).any() or (path > limits).any() for paths in self.paths for path in paths)
        return beyond or any(
            one.top < 0 or one.left < 0 or one.box[2] > height or one.box[3] > width for one in self.pixels
        )


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Adds the name of an annotation to an error that its content causes."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"annotation {name}: {error} is missing") from error
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"annotation {name}: {error}") from error


@dataclass(frozen=True)
class Annotations:
    """The annotations of an image, in the order in which they are drawn, later ones over earlier ones.

    size: height and width of the image as the file states them. sparse: pixels without an annotation are not labeled,
    rather than background. notes: on what is in the file and was not read.
    """

    shapes: list[Shape]
    size: tuple[int, int] | None = None
    sparse: bool = False
    notes: dict[str, list[str]] = field(default_factory=dict)  # what, and the names of those of which it is true


def polygon(points: Iterable[Iterable[float]]) -> list[np.ndarray]:
    """Returns a polygon without holes of points x, y."""
    return [np.asarray(list(points), float).reshape(-1, 2)]


def ellipse(left: float, top: float, width: float, height: float) -> Pixels:
    """Returns the pixels whose centers lie within an ellipse by its bounding box."""
    first_x, first_y = int(np.floor(left)), int(np.floor(top))
    x = np.arange(first_x, int(np.ceil(left + width))) + 0.5
    y = np.arange(first_y, int(np.ceil(top + height))) + 0.5
    across = (x - left - width / 2) / (width / 2 or 1)
    down = (y - top - height / 2) / (height / 2 or 1)
    return Pixels(first_y, first_x, across**2 + down[:, None] ** 2 <= 1)


def _fill(rings: Sequence[np.ndarray], height: int, width: int) -> Pixels | None:
    """Returns the pixels whose centers lie within rings by the even-odd rule, of those in the image.

    Every border that crosses the centers of a row of pixels changes the pixels to the right of it.
    """
    rings = [ring for ring in rings if len(ring) > 2]
    if not rings:
        return None
    corners = np.concatenate(rings)
    left, top = np.clip(np.floor(corners.min(0)), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, [width, height]).astype(int)
    if left >= right or top >= bottom:
        return None
    changes = np.zeros((bottom - top, right - left + 1), bool)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, 0)
        upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        first = np.clip(np.ceil(upper - 0.5), top, bottom).astype(int)  # rows y with upper <= y + 0.5 < lower
        last = np.clip(np.ceil(lower - 0.5), top, bottom).astype(int)
        counts = last - first
        edge = np.repeat(np.arange(len(ring)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        slope = (end[edge] - start[edge])[:, 0] / (end[edge] - start[edge])[:, 1]
        crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
        column = np.clip(np.ceil(crossing - 0.5), left, right).astype(int)
        np.logical_xor.at(changes, (row - top, column - left), True)
    return Pixels(top, left, np.logical_xor.accumulate(changes, 1)[:, :-1])


def _line(points: np.ndarray, width_px: float, height: int, width: int) -> Pixels | None:
    """Returns the pixels of a line through points: those that it passes, or whose centers are within half its width."""
    from skimage.draw import line as line_pixels

    cells = np.floor(points).astype(int)
    pairs = list(itertools.pairwise(cells)) or [(cells[0], cells[0])]
    segments = [line_pixels(a[1], a[0], b[1], b[0]) for a, b in pairs]
    thin = _of_pixels(
        np.concatenate([rows for rows, _ in segments]), np.concatenate([x for _, x in segments]), height, width
    )
    if width_px < MIN_WIDTH_PX:
        return thin
    radius = width_px / 2
    parts = [thin, *(_cropped(ellipse(x - radius, y - radius, width_px, width_px), height, width) for x, y in points)]
    for a, b in itertools.pairwise(points):
        length = float(np.hypot(*(b - a)))
        if length:
            normal = np.array([a[1] - b[1], b[0] - a[0]]) / length * radius
            parts.append(_fill([np.array([a + normal, b + normal, b - normal, a - normal])], height, width))
    return _union([part for part in parts if part is not None])


def _points(points: np.ndarray, width_px: float, height: int, width: int) -> Pixels | None:
    """Returns the pixels in which points lie."""
    cells = np.floor(points).astype(int)
    return _of_pixels(cells[:, 1], cells[:, 0], height, width)


def _of_pixels(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> Pixels | None:
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows[inside], columns[inside]
    if not len(rows):
        return None
    top, left = int(rows.min()), int(columns.min())
    mask = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), bool)
    mask[rows - top, columns - left] = True
    return Pixels(top, left, mask)


def _cropped(pixels: Pixels, height: int, width: int) -> Pixels | None:
    top, left, bottom, right = pixels.box
    first, start = max(0, -top), max(0, -left)
    mask = pixels.mask[first : max(0, min(bottom, height) - top), start : max(0, min(right, width) - left)]
    return Pixels(top + first, left + start, mask) if mask.size else None


def _union(parts: Sequence[Pixels]) -> Pixels | None:
    parts = [part for part in parts if part.mask.any()]
    if len(parts) < 2:
        return parts[0] if parts else None
    boxes = np.array([part.box for part in parts])
    (top, left), (bottom, right) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    mask = np.zeros((bottom - top, right - left), bool)
    for part in parts:
        y, x, end, last = part.box
        mask[y - top : end - top, x - left : last - left] |= part.mask
    return Pixels(int(top), int(left), mask)
