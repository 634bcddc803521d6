"""Placement of overlapping tiles: error against the truth and time, beside strips averaged without a global repair.

    python benchmarks/bench_stitch.py [IMAGE ...] [--rounds 3] [--overlap 0.1] [--jitter 15] [--grid 3]
    uv run --with ashlar python benchmarks/bench_stitch.py …   adds Ashlar's pairwise shift, where it is installed

Made scenes (texture; nuclei) and every micrograph named are cut into grid × grid tiles at known sub-pixel positions,
with vignetting, Poisson and read-out noise, one tile featureless. Contestants take turns in every round:

- segue: `measure_pairs` and `place`;
- phase correlation: scikit-image's `phase_cross_correlation` on the strips that overlap nominally, to a tenth of a
  pixel, each tile placed at the mean of what its upper and left neighbours say;
- ashlar (optional): its `register` of the same strips, whitened by a Laplacian of Gaussian, placed over the minimum
  spanning tree of its errors, as the program does.

Errors are distances after the median offset is removed, over the tiles that hold something; times are medians over
rounds, and the ratio is the median of the ratios round by round. Prints lines of a table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contest import parse
from scipy import ndimage
from skimage import io
from skimage.registration import phase_cross_correlation

from segue import rng
from segue.plates.stitching.spline import spline_coefficients, spline_values
from segue.plates.stitching.stitch import measure_pairs, nominal_positions, place_tiles

try:
    from ashlar import utils as ashlar_utils  # type: ignore[import-not-found]
except ImportError:
    ashlar_utils = None

Positions = dict


def made(kind: str, side: int) -> np.ndarray:
    generator = rng.numpy_generator("bench-stitch", kind)
    if kind == "texture":
        noise = ndimage.gaussian_filter(generator.normal(size=(side, side)), 2)
        return 1000 + 120 * noise / noise.std()
    points = np.zeros((side, side))
    places = generator.integers(12, side - 12, (side * side // 5000, 2))
    points[tuple(places.T)] = generator.uniform(300, 1500, len(places))
    disc = np.hypot(*np.mgrid[-9:10, -9:10]) < 8.5
    return 200 + ndimage.gaussian_filter(ndimage.convolve(points, disc.astype(float)), 1.5)


def cut(
    scene: np.ndarray, side: int, seed: int, *, grid: int, overlap: float, jitter: float
) -> tuple[dict, dict, dict]:
    """Returns uint16 tiles, nominal and true positions; the tile in the last corner is featureless."""
    generator = rng.numpy_generator("bench-cut", seed)
    nominal = nominal_positions((grid, grid), (side, side), overlap=overlap)
    coefficients = spline_coefficients(scene)
    edge = np.linspace(-1, 1, side)
    vignette = 1 - 0.3 * (edge[:, None] ** 2 + edge**2) / 2
    tiles, true = {}, {}
    for cell, (y, x) in nominal.items():
        moved = generator.uniform(0, 2 * jitter, 2)
        true[cell] = (y + moved[0], x + moved[1])
        seen = spline_values(coefficients, true[cell], (side, side))
        if cell == (grid - 1, grid - 1):
            seen = np.full_like(seen, np.median(seen))
        noisy = generator.poisson(np.maximum(seen * vignette, 0)) + generator.normal(100, 4, seen.shape)
        tiles[cell] = noisy.round().clip(0, 65535).astype(np.uint16)
    return tiles, nominal, true


def ours(tiles: dict, nominal: dict, reach: float) -> Positions:
    return place_tiles(measure_pairs(tiles, nominal, reach_px=reach), nominal).positions


def strips(tiles: dict, nominal: dict, first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the parts of two tiles that overlap nominally, and the nominal shift."""
    a, b = (tiles[cell].astype(np.float32) for cell in (first, second))
    dy, dx = (round(q - p) for p, q in zip(nominal[first], nominal[second], strict=True))
    return a[dy:, dx:], b[: a.shape[0] - dy, : a.shape[1] - dx], np.array([dy, dx], float)


def averaged(tiles: dict, nominal: dict, reach: float) -> Positions:
    actual: Positions = {}
    for row, column in sorted(nominal):
        said = []
        for neighbor in ((row, column - 1), (row - 1, column)):
            if neighbor in actual:
                a, b, expected = strips(tiles, nominal, neighbor, (row, column))
                shift = phase_cross_correlation(a, b, upsample_factor=10)[0]
                said.append(np.array(actual[neighbor]) + expected + shift)
        actual[row, column] = tuple(np.mean(said, 0)) if said else nominal[row, column]
    return actual


def ashlar(tiles: dict, nominal: dict, reach: float) -> Positions:
    """Returns positions along the minimum spanning tree of Ashlar's shifts, those beyond reach left out."""
    edges = []
    for row, column in sorted(nominal):
        for other in ((row, column + 1), (row + 1, column)):
            if other in nominal:
                a, b, expected = strips(tiles, nominal, (row, column), other)
                shift, error = ashlar_utils.register(a, b, 1.0, 10)  # type: ignore[union-attr]
                if np.abs(shift).max() <= reach:
                    edges.append((float(error), (row, column), other, expected + shift))
    actual: Positions = {min(nominal): nominal[min(nominal)]}
    while len(actual) < len(nominal):
        leaving = [edge for edge in edges if (edge[1] in actual) != (edge[2] in actual)]
        if not leaving:
            rest = next(cell for cell in sorted(nominal) if cell not in actual)
            actual[rest] = nominal[rest]
            continue
        _, first, second, shift = min(leaving, key=lambda edge: edge[0])
        if first in actual:
            actual[second] = tuple(np.array(actual[first]) + shift)
        else:
            actual[first] = tuple(np.array(actual[second]) - shift)
    return actual


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors and times of placing tiles, beside a plain baseline.")
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overlap", type=float, default=0.1)
    parser.add_argument("--jitter", type=float, default=15.0)
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--side", type=int, default=384, help="side of a tile of the made scenes, px")
    options = parse(parser, rounds=1, grid=2, side=128, jitter=4.0)
    contestants: dict[str, Callable[[dict, dict, float], Positions]] = {"segue": ours, "phase correlation": averaged}
    if ashlar_utils is not None:
        contestants["ashlar"] = ashlar
    pitches = 1 + (options.grid - 1) * (1 - options.overlap)
    scenes = {kind: made(kind, int(options.side * pitches + 2 * options.jitter) + 2) for kind in ("texture", "nuclei")}
    for path in options.images:
        image = io.imread(path).astype(np.float64)
        image = image if image.ndim == 2 else image[..., :3].mean(-1)
        scenes[path.stem] = image * (1000 / image.mean() if image.max() < 256 else 1)
    print(
        "| scene | tiles, px | method | median error, px | largest, px | s | segue is |\n|---|---|---|---|---|---|---|"
    )
    for name, scene in scenes.items():
        side = int((min(scene.shape) - 2 * options.jitter - 1) / pitches)
        errors: dict[str, list[float]] = {method: [] for method in contestants}
        seconds: dict[str, list[float]] = {method: [] for method in contestants}
        for seed in range(options.rounds):
            tiles, nominal, true = cut(
                scene, side, seed, grid=options.grid, overlap=options.overlap, jitter=options.jitter
            )
            for method, action in contestants.items():
                began = time.perf_counter()
                actual = action(tiles, nominal, 2 * options.jitter + 2)
                seconds[method].append(time.perf_counter() - began)
                cells = [cell for cell in true if cell != (options.grid - 1, options.grid - 1)]
                off = np.array([np.subtract(actual[cell], true[cell]) for cell in cells])
                errors[method] += np.hypot(*(off - np.median(off, axis=0)).T).tolist()
        for method in contestants:
            ratio = statistics.median(b / a for a, b in zip(seconds["segue"], seconds[method], strict=True))
            numbers = f"{statistics.median(errors[method]):.3f} | {max(errors[method]):.2f}"
            relative = "" if method == "segue" else f"{ratio:.2f} × as fast"
            time_s = statistics.median(seconds[method])
            print(f"| {name} | {side} | {method} | {numbers} | {time_s:.2f} | {relative} |", flush=True)


if __name__ == "__main__":
    main()
