"""Placement of the overlapping tiles of a well: shifts between neighbors, then one placement for all tiles.

    nominal = nominal_positions((3, 3), (1080, 1280), overlap=0.1)
    pairs = measure_pairs(tiles, nominal, reach_px=40)
    placement = place(pairs, nominal)

Tiles are a mapping from (row, column) in the grid to images, which may read them on access; a missing tile is absent or
None. All channels of a time point share one placement: give them as (C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from segue.errors import SegueError
from segue.plates.spec import FieldIndex
from segue.plates.stitching.positions import Link, solve
from segue.plates.stitching.shifts import Shift, measure_shift
from segue.plates.stitching.spline import Array

Tiles = Mapping[FieldIndex, Array | None]
Positions = Mapping[FieldIndex, tuple[float, float]]


@dataclass(frozen=True)
class Pair:
    """Two neighbors in the grid, `first` above or left of `second`, and the measured shift between their origins."""

    first: FieldIndex
    second: FieldIndex
    shift: Shift


@dataclass(frozen=True)
class Seam:
    """How a pair was used: its state (`positions.STATES`), and measured minus placed shift (y, x) in px, if
    measured."""

    first: FieldIndex
    second: FieldIndex
    state: str
    residual_px: tuple[float, float] | None


@dataclass(frozen=True)
class Placement:
    """Origins (y, x) in px of all tiles on one canvas that begins at (0, 0); `missing` and `unplaced` fields.

    Missing tiles have positions too. Unplaced ones have an image but no trusted seam to the rest; their position is
    that of the nominal grid with the distortion of the others.
    """

    positions: dict[FieldIndex, tuple[float, float]]
    seams: tuple[Seam, ...]
    missing: tuple[FieldIndex, ...]
    unplaced: tuple[FieldIndex, ...]

    def canvas(self, tile_shape: tuple[int, int]) -> tuple[int, int]:
        """Returns the height and width in px that contain every tile of this shape, missing ones included."""
        corner = np.ceil(np.max(list(self.positions.values()), axis=0) + tile_shape - 1e-6)
        return int(corner[0]), int(corner[1])


def nominal_positions(
    grid: tuple[int, int], tile_shape: tuple[int, int], *, overlap: float
) -> dict[FieldIndex, tuple[float, float]]:
    """Returns the origin (y, x) in px of each field of a grid (rows, columns) whose tiles overlap by the fraction
    `overlap`."""
    if min(grid) < 1 or not 0 <= overlap < 1:
        raise SegueError(
            f"stitching: a grid of {grid} with an overlap of {overlap}; "
            "allowed are at least one row and column, and 0 ≤ overlap < 1."
        )
    pitch = [side * (1 - overlap) for side in tile_shape]
    return {(r, c): (r * pitch[0], c * pitch[1]) for r in range(grid[0]) for c in range(grid[1])}


def measure_pairs(
    tiles: Tiles, nominal: Positions, *, reach_px: float, correct: Callable[[Array], Array] | None = None
) -> list[Pair]:
    """Returns the shift of every two neighboring tiles that exist, in the order of their fields.

    `tiles`: images (H, W) or (C, H, W) of one shape. `reach_px`: maximum deviation of a shift from the nominal one
    along each axis: twice the error of the stage. `correct`: applied to every tile first, e.g. `FlatField.apply`. Two
    rows of tiles are in memory at a time. Raises SegueError for tiles of different shapes.
    """
    pairs: list[Pair] = []
    loaded: dict[FieldIndex, Array | None] = {}
    shape: tuple[int, ...] | None = None

    def tile(field: FieldIndex) -> Array | None:
        nonlocal shape
        if field not in loaded:
            image = tiles.get(field)
            if image is not None:
                image = np.asarray(image if correct is None else correct(image))
                image = image[None] if image.ndim == 2 else image
                if shape is not None and image.shape != shape:
                    raise SegueError(
                        f"tile {field}: is {image.shape}, others are {shape}; the tiles of a well must have one shape."
                    )
                shape = image.shape
            loaded[field] = image
        return loaded[field]

    for row, column in sorted(nominal):
        first = tile((row, column))
        for neighbor in ((row, column + 1), (row + 1, column)):
            if first is None or neighbor not in nominal:
                continue
            second = tile(neighbor)
            if second is None:
                continue
            (y0, x0), (y1, x1) = nominal[row, column], nominal[neighbor]
            shift = measure_shift(first, second, expected=(y1 - y0, x1 - x0), reach_px=reach_px)
            pairs.append(Pair((row, column), neighbor, shift))
        loaded.pop((row, column), None)
    return pairs


def place_tiles(pairs: list[Pair], nominal: Positions, *, missing: tuple[FieldIndex, ...] | None = None) -> Placement:
    """Returns the origins of all tiles by robust least squares (`positions.solve`); the smallest y and x are 0.

    `missing`: fields without an image, which are neither placed nor unplaced; by default the fields without any pair.
    """
    fields = sorted(nominal)
    number = {field: i for i, field in enumerate(fields)}
    if missing is None:
        paired = {field for pair in pairs for field in (pair.first, pair.second)}
        missing = tuple(field for field in fields if field not in paired) if len(fields) > 1 else ()
    links = [Link(number[pair.first], number[pair.second], pair.shift) for pair in pairs]
    solution = solve(links, np.array([nominal[field] for field in fields], float))
    positions = solution.positions - solution.positions.min(0)
    seams = tuple(
        Seam(
            pair.first, pair.second, state, None if np.isnan(residual[0]) else (float(residual[0]), float(residual[1]))
        )
        for pair, state, residual in zip(pairs, solution.states, solution.residuals, strict=True)
    )
    return Placement(
        positions={field: (float(y), float(x)) for field, (y, x) in zip(fields, positions, strict=True)},
        seams=seams,
        missing=tuple(sorted(missing)),
        unplaced=tuple(f for f, placed in zip(fields, solution.placed, strict=True) if not placed and f not in missing),
    )
