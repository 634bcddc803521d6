"""Scenes with texture or nuclei, and overlapping tiles of them at known sub-pixel positions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segue import rng
from segue.plates.spec import FieldIndex
from segue.plates.stitching.spline import spline_coefficients, spline_values
from segue.plates.stitching.stitch import nominal_positions

Array = NDArray[np.float32]


def textured(side: tuple[int, int], seed: int = 0) -> Array:
    """Returns band-limited noise about 1000 counts, as of confluent cells in transmitted light."""
    noise = rng.numpy_generator(seed, "texture").normal(size=side)
    smooth = ndimage.gaussian_filter(noise, 2)
    return (1000 + 120 * smooth / smooth.std()).astype(np.float32)


def nuclei(side: tuple[int, int], seed: int = 0, px_each: int = 4000) -> Array:
    """Returns bright discs of 5 to 10 px radius on a background of 200 counts, one for `px_each` pixels."""
    generator = rng.numpy_generator(seed, "nuclei")
    image = np.full(side, 200.0)
    for _ in range(side[0] * side[1] // px_each):
        y, x = generator.uniform(0, side[0]), generator.uniform(0, side[1])
        radius, height = generator.uniform(5, 10), generator.uniform(300, 1500)
        rows = slice(max(0, int(y) - 12), int(y) + 13)
        columns = slice(max(0, int(x) - 12), int(x) + 13)
        grid = np.ogrid[rows.start : min(rows.stop, side[0]), columns.start : min(columns.stop, side[1])]
        image[rows, columns] += height * ((grid[0] - y) ** 2 + (grid[1] - x) ** 2 < radius**2)
    return ndimage.gaussian_filter(image, 1.5).astype(np.float32)


def vignette(side: tuple[int, int], depth: float = 0.3) -> Array:
    """Returns a gain (H, W) of mean 1 that falls by about `depth` to the corners, a little off centre."""
    y, x = (np.linspace(-1, 1, n) for n in side)
    gain = 1 - depth * ((y[:, None] - 0.1) ** 2 + (x + 0.15) ** 2) / 2
    return (gain / gain.mean()).astype(np.float32)


def cut(
    scene: Array,
    grid: tuple[int, int],
    tile: tuple[int, int],
    *,
    overlap: float = 0.1,
    jitter_px: float = 15.0,
    depth: float = 0.3,
    noisy: bool = True,
    seed: int = 0,
) -> tuple[
    dict[FieldIndex, NDArray[np.uint16]], dict[FieldIndex, tuple[float, float]], dict[FieldIndex, tuple[float, float]]
]:
    """Returns uint16 tiles (vignetted, 100 counts of dark, Poisson and read-out noise), nominal and true positions."""
    generator = rng.numpy_generator(seed, "cut")
    nominal = nominal_positions(grid, tile, overlap=overlap)
    coefficients = spline_coefficients(scene)
    tiles, true = {}, {}
    for cell, (y, x) in nominal.items():
        jitter = generator.uniform(0, 2 * jitter_px, 2)
        true[cell] = (y + jitter[0], x + jitter[1])
        seen = np.maximum(spline_values(coefficients, true[cell], tile) * vignette(tile, depth), 0)
        if noisy:
            seen = generator.poisson(seen) + generator.normal(0, 3, tile)
        tiles[cell] = np.rint(seen + 100).clip(0, 65535).astype(np.uint16)
    return tiles, nominal, true


def scene_side(grid: tuple[int, int], tile: tuple[int, int], *, overlap: float = 0.1, jitter_px: float = 15.0) -> tuple:
    """Returns the smallest scene (H, W) that holds every tile wherever it is jittered to."""
    return tuple(
        int(np.ceil((n - 1) * side * (1 - overlap) + side + 2 * jitter_px)) + 1
        for n, side in zip(grid, tile, strict=True)
    )


def errors_px(found: dict, true: dict, without: tuple = ()) -> NDArray[np.float64]:
    """Returns the distance of each position from the truth, after the median offset of all is taken away."""
    cells = [cell for cell in true if cell not in without]
    off = np.array([np.subtract(found[cell], true[cell]) for cell in cells])
    return np.hypot(*(off - np.median(off, axis=0)).T)
