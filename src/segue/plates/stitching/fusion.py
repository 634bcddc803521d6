"""Fusion of placed tiles to one mosaic: resampled once, blended over seams, in bands of rows; quality of the seams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from segue.errors import SegueError
from segue.plates.spec import FieldIndex
from segue.plates.stitching.illumination import illumination_ratio
from segue.plates.stitching.shifts import MIN_OVERLAP_PX, SMOOTHING_PX
from segue.plates.stitching.spline import Array, spline_coefficients, spline_values
from segue.plates.stitching.stitch import Placement, Tiles

Correction = Callable[[Array], Array]


@dataclass(frozen=True)
class SeamQuality:
    """How one seam was measured, and its quality.

    `state`: see `positions.STATES`. `residual_px`: distance of the measured from the placed shift, None if not
    measured. `overlap_px`: (height, width) shared at the placement. `ncc`: correlation there; `log_ratio`: log of the
    brightness of `first` over that of `second`. Both are None if less than six pixels overlap.
    """

    first: FieldIndex
    second: FieldIndex
    state: str
    residual_px: float | None
    overlap_px: tuple[int, int]
    ncc: float | None
    log_ratio: float | None


@dataclass(frozen=True)
class SeamReport:
    """All seams of a well, missing and unplaced fields; residuals are of the used seams, in px."""

    seams: tuple[SeamQuality, ...]
    missing: tuple[FieldIndex, ...]
    unplaced: tuple[FieldIndex, ...]

    @property
    def repaired(self) -> tuple[tuple[FieldIndex, FieldIndex], ...]:
        """The pairs whose first measurement was not used: other seams place them."""
        return tuple((seam.first, seam.second) for seam in self.seams if seam.state != "measured")

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as numbers, strings, lists and dicts, for JSON."""
        used = [
            s.residual_px for s in self.seams if s.residual_px is not None and s.state in ("measured", "other peak")
        ]
        correlated = [s.ncc for s in self.seams if s.ncc is not None]
        mismatch = [abs(s.log_ratio) for s in self.seams if s.log_ratio is not None]
        return {
            "residual_px": {"median": _median(used), "largest": max(used, default=None)},
            "ncc": {"median": _median(correlated), "least": min(correlated, default=None)},
            "absolute_log_ratio": {"median": _median(mismatch), "largest": max(mismatch, default=None)},
            "pairs": len(self.seams),
            "repaired": [[list(first), list(second)] for first, second in self.repaired],
            "missing": [list(field) for field in self.missing],
            "unplaced": [list(field) for field in self.unplaced],
            "seams": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(seam).items()}
                for seam in self.seams
            ],
        }


def fuse(
    tiles: Tiles,
    placement: Placement,
    *,
    correct: Correction | None = None,
    gains: Mapping[FieldIndex, float] | None = None,
    dark: float = 0.0,
    values: Literal["intensities", "labels"] = "intensities",
    canvas: tuple[int, int] | None = None,
) -> Array:
    """Returns the mosaic (H, W) of one channel in the type of its tiles, 0 outside all tiles; see `fuse_bands`."""
    bands = fuse_bands(tiles, placement, correct=correct, gains=gains, dark=dark, values=values, canvas=canvas)
    return np.concatenate([band for _, band in bands])


def fuse_bands(
    tiles: Tiles,
    placement: Placement,
    *,
    correct: Correction | None = None,
    gains: Mapping[FieldIndex, float] | None = None,
    dark: float = 0.0,
    values: Literal["intensities", "labels"] = "intensities",
    canvas: tuple[int, int] | None = None,
    band_px: int = 256,
) -> Iterator[tuple[int, Array]]:
    """Yields (first row, band (≤ band_px, W)) from top to bottom; about two rows of tiles are in memory.

    `tiles`: (H, W) of one channel, one shape. `correct` (a flat field), then `gains` about `dark`, are applied to each.
    `values`: intensities are resampled by cubic B-splines at the placed sub-pixel position and blended by weights that
    fall linearly to a tile's border; labels and counts shift by whole pixels, and each pixel is taken
    from the tile whose border is farthest, so that no new value appears. `canvas`: height and width in px, by default
    containing every tile; the rest is cut off. Integers are rounded and clipped to their type.
    """
    first = next((image for field in sorted(placement.positions) if (image := tiles.get(field)) is not None), None)
    if first is None:
        raise SegueError("stitching: no tile of this well exists; leave the well out.")
    shape, kind = (int(first.shape[-2]), int(first.shape[-1])), first.dtype
    height, width = canvas or placement.canvas(shape)
    loaded: dict[FieldIndex, _PlacedTile | None] = {}

    def load(field: FieldIndex) -> _PlacedTile | None:
        if field not in loaded:
            image = tiles.get(field)
            if image is not None:
                if image.shape != shape:
                    raise SegueError(
                        f"tile {field}: is {image.shape}, others are {shape}; the tiles of a well must have one shape."
                    )
                image = image if correct is None else correct(image)
                if gains is not None:
                    image = (image.astype(np.float32) - np.float32(dark)) * np.float32(
                        gains.get(field, 1.0)
                    ) + np.float32(dark)
            loaded[field] = None if image is None else _resample(image, placement.positions[field], values)
        return loaded[field]

    for top in range(0, height, band_px):
        bottom = min(top + band_px, height)
        sums = _Band((bottom - top, width), values)
        for field, (y, _) in sorted(placement.positions.items()):
            if y < bottom + 1 and y + shape[0] + 1 > top and (tile := load(field)) is not None:
                sums.add(tile, top)
            if y + shape[0] + 1 <= bottom:
                loaded[field] = None  # wholly above the next band
        yield top, _as_type(sums.result(), kind)


def coverage_mask(
    placement: Placement, tiles: Tiles, tile_shape: tuple[int, int], *, canvas: tuple[int, int] | None = None
) -> Array:
    """Returns (H, W) bool: where there is at least one tile; `canvas` as in `fuse_bands`."""
    mask = np.zeros(canvas or placement.canvas(tile_shape), bool)
    for field, (y, x) in placement.positions.items():
        if tiles.get(field) is not None:
            rows, columns = (_span(p, n) for p, n in zip((y, x), tile_shape, strict=True))
            mask[max(0, rows.start) : max(0, rows.stop), max(0, columns.start) : max(0, columns.stop)] = True
    return mask


def seam_report(
    tiles: Tiles, placement: Placement, *, correct: Correction | None = None, dark: float = 0.0
) -> SeamReport:
    """Returns the quality of every measured pair at its placement, from the tiles (H, W) of one channel."""
    seams = []
    for seam in placement.seams:
        images = [tiles.get(field) for field in (seam.first, seam.second)]
        a, b = (image if image is None or correct is None else correct(image) for image in images)
        residual = None if seam.residual_px is None else math.hypot(*seam.residual_px)
        if a is None or b is None:
            continue
        (y0, x0), (y1, x1) = placement.positions[seam.first], placement.positions[seam.second]
        dy, dx = round(y1 - y0), round(x1 - x0)
        a = a[max(0, dy) : dy + b.shape[0], max(0, dx) : dx + b.shape[1]]
        b = b[max(0, -dy) :, max(0, -dx) :][: a.shape[0], : a.shape[1]]
        ncc = log_ratio = None
        if min(a.shape) >= MIN_OVERLAP_PX:
            ncc, log_ratio = _correlate(a, b), _finite(illumination_ratio(a, b, dark=dark))
        seams.append(
            SeamQuality(seam.first, seam.second, seam.state, residual, (a.shape[0], a.shape[1]), ncc, log_ratio)
        )
    return SeamReport(tuple(seams), placement.missing, placement.unplaced)


@dataclass(frozen=True)
class _PlacedTile:
    """A tile on the canvas: its values, its first row and column, and its weights along both axes."""

    values: Array
    top: int
    left: int
    weights: tuple[Array, Array]


def _span(position: float, side: int) -> slice:
    """Returns the canvas pixels whose centers lie between the first and the last pixel center of a tile."""
    return slice(math.ceil(position - 1e-6), math.floor(position + side - 1 + 1e-6) + 1)


def _resample(image: Array, position: tuple[float, float], kind: str) -> _PlacedTile:
    if kind == "labels":
        position = (float(round(position[0])), float(round(position[1])))
    spans = [_span(p, side) for p, side in zip(position, image.shape, strict=True)]
    shape = (spans[0].stop - spans[0].start, spans[1].stop - spans[1].start)
    start = (spans[0].start - position[0], spans[1].start - position[1])
    values = image if kind == "labels" else spline_values(spline_coefficients(image), start, shape)
    weights = []
    for begin, n, side in zip(start, shape, image.shape, strict=True):
        place = begin + np.arange(n)
        weights.append(np.maximum(np.minimum(place, side - 1 - place) + 1, 1e-3).astype(np.float32))
    return _PlacedTile(values, spans[0].start, spans[1].start, (weights[0], weights[1]))


class _Band:
    """A band of the canvas to which tiles are added."""

    def __init__(self, shape: tuple[int, int], kind: str) -> None:
        self.deepest = kind == "labels"
        self.weights = np.zeros(shape, np.float32)
        self.values: Array = np.zeros(shape, np.float64 if self.deepest else np.float32)

    def add(self, tile: _PlacedTile, top: int) -> None:
        rows = slice(max(tile.top, top), min(tile.top + tile.values.shape[0], top + self.values.shape[0]))
        columns = slice(max(tile.left, 0), min(tile.left + tile.values.shape[1], self.values.shape[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        of_tile = (
            slice(rows.start - tile.top, rows.stop - tile.top),
            slice(columns.start - tile.left, columns.stop - tile.left),
        )
        window = slice(rows.start - top, rows.stop - top), columns
        values, weight = tile.values[of_tile], np.outer(tile.weights[0][of_tile[0]], tile.weights[1][of_tile[1]])
        if self.deepest:
            deeper = weight > self.weights[window]
            self.values[window] = np.where(deeper, values, self.values[window])
            self.weights[window] = np.where(deeper, weight, self.weights[window])
        else:
            self.values[window] += weight * values
            self.weights[window] += weight

    def result(self) -> Array:
        return self.values if self.deepest else self.values / np.where(self.weights > 0, self.weights, 1)


def _as_type(values: Array, kind: np.dtype[Any]) -> Array:
    if np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        return np.rint(values).clip(limits.min, limits.max).astype(kind)
    return values.astype(kind)


def _correlate(a: Array, b: Array) -> float | None:
    a, b = (ndimage.gaussian_filter(image.astype(np.float32), SMOOTHING_PX).astype(np.float64) for image in (a, b))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
