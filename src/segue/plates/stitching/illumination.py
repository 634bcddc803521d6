"""Uneven illumination: the pattern shared by all tiles of a channel, and the varying brightness of images.

Model of a tile: gain(y, x) · scene + dark. With enough tiles every pixel sees the same distribution of scenes, so the
quantiles of a pixel over the tiles are gain · (the scene's quantiles) + dark: a straight line for each pixel, all
intersecting at zero light (Smith et al. 2015, CIDRE, Nature Methods 12). The gain is a polynomial in y and x, like
vignetting and a tilted lamp; dust and the pattern of the sensor are finer and stay.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.polynomial import legendre
from scipy import optimize

from segue import rng
from segue.errors import SegueError
from segue.plates.stitching.spline import Array

BLOCKS = 48  # along the longer side of an image, which is averaged over blocks
QUANTILES = 19  # of each pixel over the tiles, from 5 % to 95 %
MIN_GAIN = 0.05
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class FlatField:
    """`gain`: (H, W) float32, mean 1; `dark`: counts of the camera without light; `tiles`: number of tiles."""

    gain: Array
    dark: float
    tiles: int

    def apply(self, image: Array) -> Array:
        """Returns (image − dark) / gain + dark, float32, for (…, H, W): the level of zero light does not change."""
        if image.shape[-2:] != self.gain.shape:
            raise SegueError(
                f"flat field: is {self.gain.shape}, the image {image.shape[-2:]}; estimate one for this size."
            )
        return (image.astype(np.float32) - np.float32(self.dark)) / self.gain + np.float32(self.dark)


def estimate_flat_field(
    tiles: Iterable[Array], *, dark: float | None = None, degree: int = 4, max_tiles: int = 400
) -> FlatField:
    """Returns the flat field of one channel from its tiles (H, W) with cells: tens, better hundreds.

    `dark`: counts without light, best given; None estimates it, which needs tens of tiles of different brightness with
    clear vignetting, else it is 0. `degree`: total degree of the polynomial. At most `max_tiles` random tiles are kept,
    each as block means, so that memory is constant. Raises SegueError without tiles, for different shapes, and where a
    gain would be ≤ 0.05.
    """
    # quantiles of each block over the tiles
    shape, count, blocks = _sample_tiles(tiles, max_tiles)
    # a low quantile is background in every tile, a high one often contains cells: none alone is reliable
    quantiles = np.quantile(blocks, np.linspace(0.05, 0.95, min(QUANTILES, len(blocks))), axis=0)
    # a smooth surface through each quantile, then the gain that all share
    basis = _polynomials(quantiles.shape[1:], quantiles.shape[1:], degree).reshape(-1, quantiles[0].size)
    fits = [_robust_fit(basis, quantile.ravel()) for quantile in quantiles]
    coefficients = np.array([fit for fit, _ in fits])
    weights = 1 / np.array([max(variance, 1e-12) for _, variance in fits])
    if dark is None:
        dark = _estimate_dark(coefficients, weights)
    gain = np.tensordot(_gain_coefficients(coefficients, weights, dark), _polynomials(shape, shape, degree), 1)
    gain = gain / gain.mean()
    if not np.isfinite(gain).all() or gain.min() <= MIN_GAIN:
        raise SegueError(
            f"flat field: the fit to {count} tiles falls to {gain.min():.2f} of the mean; "
            "give more tiles, `dark`, or a lower `degree`."
        )
    return FlatField(gain.astype(np.float32), float(dark), count)


def illumination_ratio(first: Array, second: Array, *, dark: float = 0.0) -> float:
    """Returns log(brightness of `first` / that of `second`), two images (H, W) of one scene; NaN if they are dark.

    The median over 8 × 8 px blocks of the log ratio of their means, robust against cells that moved or changed.
    """
    rows, columns = (max(1, side // 8) for side in first.shape)
    a, b = (_block_means(image, rows, columns) - dark for image in (first, second))
    lit = (a > 0) & (b > 0)
    return float(np.median(np.log(a[lit] / b[lit]))) if lit.any() else math.nan


def equalize_brightness(ratios: Mapping[tuple[Key, Key], float], *, prior: float = 0.3) -> dict[Key, float]:
    """Returns the factor for every image that equalizes the brightness, from log ratios between pairs of images.

    Least squares in log intensity: ratios[a, b] = log(a / b) must vanish after log a and log b are raised by their log
    factors, each expected within ±`prior` of 0; the mean of the log factors is 0. NaN ratios are ignored. For
    neighboring tiles as well as frames over time.
    """
    keys = sorted({key for pair in ratios for key in pair})  # type: ignore[type-var]
    index = {key: i for i, key in enumerate(keys)}
    matrix, right = np.eye(len(keys)) * (0.02 / prior) ** 2, np.zeros(len(keys))  # a ratio is good to 2 %
    for (a, b), ratio in ratios.items():
        if math.isfinite(ratio):
            i, j = index[a], index[b]
            matrix[[i, j], [i, j]] += 1
            matrix[[i, j], [j, i]] -= 1
            right[i] -= ratio
            right[j] += ratio
    factors = np.linalg.solve(matrix, right) if keys else right
    return {key: float(np.exp(factor - factors.mean())) for key, factor in zip(keys, factors, strict=True)}


def frame_ratios(frames: Iterable[Array], *, dark: float = 0.0) -> dict[tuple[int, int], float]:
    """Returns log brightness ratios between consecutive frames (H, W) for `equalize_brightness`; one frame in memory.

    Frames of a stain brighten with the cells too: give images of the background for them, or use a flat field only.
    """
    ratios: dict[tuple[int, int], float] = {}
    last: Array | None = None
    for index, frame in enumerate(frames):
        if last is not None:
            ratios[index - 1, index] = illumination_ratio(last, frame, dark=dark)
        last = frame
    return ratios


def _sample_tiles(tiles: Iterable[Array], max_tiles: int) -> tuple[tuple[int, int], int, Array]:
    """Returns the shape and number of the tiles, and (≤ max_tiles, rows, columns) block means of a random sample of
    them."""
    generator = rng.numpy_generator("flatfield")
    blocks: list[Array] = []
    shape: tuple[int, int] | None = None
    count = 0
    for tile in tiles:
        if shape is None:
            shape = (tile.shape[0], tile.shape[1])
        if tile.shape != shape:
            raise SegueError(
                f"flat field: tile {count} is {tile.shape}, the first is {shape}; "
                "the tiles of a channel must have one shape."
            )
        place = len(blocks) if len(blocks) < max_tiles else int(generator.integers(count + 1))  # reservoir sampling
        count += 1
        if place >= max_tiles:
            continue
        side = max(1.0, max(shape) / BLOCKS)
        block = _block_means(tile, max(1, round(shape[0] / side)), max(1, round(shape[1] / side)))
        blocks[place : place + 1] = [block]
    if shape is None:
        raise SegueError("flat field: there are no tiles; give at least one, tens are needed for a good estimate.")
    return shape, count, np.stack(blocks)


def _block_means(image: Array, rows: int, columns: int) -> Array:
    """Returns (rows, columns) means over blocks as equal as can be, float64."""
    edges = [
        np.linspace(0, side, n, endpoint=False).astype(int)
        for side, n in zip(image.shape, (rows, columns), strict=True)
    ]
    sizes = [np.diff([*edge, side]) for edge, side in zip(edges, image.shape, strict=True)]
    total = np.add.reduceat(np.add.reduceat(image, edges[0], axis=0, dtype=np.float64), edges[1], axis=1)
    return total / np.outer(*sizes)


def _polynomials(grid: tuple[int, ...], shape: tuple[int, ...], degree: int) -> Array:
    """Returns (terms, *grid) products of Legendre polynomials up to the total degree, the constant first."""
    y, x = ((np.arange(n) + 0.5) / side * 2 - 1 for n, side in zip(grid, shape, strict=True))
    rows, columns = legendre.legvander(y, degree).T, legendre.legvander(x, degree).T
    return np.stack([np.outer(rows[a], columns[b]) for a in range(degree + 1) for b in range(degree + 1 - a)])


def _robust_fit(basis: Array, values: Array) -> tuple[Array, float]:
    """Returns the coefficients of `values` in `basis` by Huber's weights, and the residual variance."""
    weights = np.ones_like(values)
    coefficients, spread = np.zeros(len(basis)), 0.0
    for _ in range(8):
        weighted = basis * weights
        coefficients = np.linalg.solve(weighted @ basis.T + 1e-9 * np.eye(len(basis)), weighted @ values)
        residuals = np.abs(values - coefficients @ basis)
        spread = 1.4826 * float(np.median(residuals))
        weights = 1 / np.maximum(1, residuals / max(1.345 * spread, 1e-12))
    return coefficients, spread**2


def _gain_coefficients(coefficients: Array, weights: Array, dark: float) -> Array:
    """Returns the gain's coefficients, the first 1: those of the quantiles over their means minus dark."""
    light = coefficients[:, 0] - dark
    gain = (weights * light) @ coefficients / max(float((weights * light) @ light), 1e-12)
    gain[0] = 1
    return gain


def _estimate_dark(coefficients: Array, weights: Array) -> float:
    """Returns the level at which all quantiles would lose their pattern; 0 if the tiles do not determine it.

    They do if they agree clearly better about the pattern with it than without, at a level well below all quantiles:
    with little vignetting or constant brightness any level fits, and a wrong one would exaggerate the pattern.
    """

    def misfit(dark: float) -> float:
        light = coefficients[:, :1] - dark
        rest = coefficients[:, 1:] - light * _gain_coefficients(coefficients, weights, dark)[1:]
        return float(weights @ (rest**2).sum(1))

    darkest = float(coefficients[:, 0].min())
    if darkest <= 0:
        return 0.0
    dark = float(optimize.fminbound(misfit, 0.0, 0.98 * darkest))  # type: ignore[arg-type]
    return dark if misfit(dark) < 0.9 * misfit(0.0) and dark < 0.9 * darkest else 0.0
