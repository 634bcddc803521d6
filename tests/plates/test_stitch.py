"""Shifts, placement and mosaics against scenes cut at known sub-pixel positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from samples.tiles import cut, errors_px, nuclei, scene_side, textured, vignette

from segue import rng
from segue.errors import SegueError
from segue.plates.stitching.fusion import coverage_mask, fuse, fuse_bands, seam_report
from segue.plates.stitching.illumination import FlatField, equalize_brightness
from segue.plates.stitching.positions import Link, solve
from segue.plates.stitching.shifts import Candidate, Shift, measure_shift
from segue.plates.stitching.spline import spline_coefficients, spline_values
from segue.plates.stitching.stitch import Placement, measure_pairs, nominal_positions, place_tiles

REAL = Path(__file__).parents[2] / "examples" / "data" / "bbbc039" / "images"


def found(dy: float, dx: float, *, ratio: float = 0.1, others: tuple[tuple[float, float], ...] = ()) -> Shift:
    """Returns a trusted shift with other candidates."""
    candidates = [Candidate(y, x, 0.8, 100.0, (100.0, 0.0, 100.0)) for y, x in ((dy, dx), *others)]
    return Shift(tuple(candidates), 20.0, ratio, True)


def test_a_shift_is_found_to_hundredths_of_a_pixel_and_reverses_with_the_images():
    """Two noise-free views of one scene: the shift equals the truth, and its negative the other way round."""
    scene = spline_coefficients(textured((260, 300)))
    first, second = spline_values(scene, (10, 10), (200, 120)), spline_values(scene, (24.37, 98.71), (200, 120))
    forward = measure_shift(first[None], second[None], expected=(0, 100), reach_px=20).best
    back = measure_shift(second[None], first[None], expected=(0, -100), reach_px=20).best
    assert forward is not None and back is not None
    assert (forward.dy, forward.dx) == pytest.approx((14.37, 88.71), abs=0.02)
    assert (-back.dy, -back.dx) == pytest.approx((14.37, 88.71), abs=0.02)


def test_an_edge_tells_nothing_along_itself():
    """The information of a shift seen on vertical stripes is large along x and next to nothing along y."""
    stripes = np.tile(np.sin(np.arange(160) ** 1.5 / 40) * 100, (120, 1)) + 500
    noise = rng.numpy_generator("edge").normal(0, 5, (2, 120, 120))
    best = measure_shift(
        (stripes[:, :120] + noise[0])[None], (stripes[:, 30:150] + noise[1])[None], expected=(0, 30), reach_px=10
    ).best
    assert best is not None and best.dx == pytest.approx(30, abs=0.1)
    assert best.information[2] > 50 * best.information[0]


def test_noise_is_not_trusted_and_no_overlap_is_said():
    """Independent noise and images out of reach yield shifts that are marked, never an exception."""
    first, second = rng.numpy_generator("noise").normal(100, 10, (2, 1, 100, 100))
    assert not measure_shift(first, second, expected=(0, 80), reach_px=10).trusted
    assert not measure_shift(np.ones((1, 50, 50)), np.ones((1, 50, 50)), expected=(0, 40), reach_px=5).trusted
    assert measure_shift(first, second, expected=(0, 200), reach_px=5).reason == "no overlap within reach"


@pytest.mark.parametrize(("kind", "seed"), [("texture", 0), pytest.param("nuclei", 1, marks=pytest.mark.slow)])
def test_tiles_with_ten_per_cent_overlap_are_placed_within_half_a_pixel(kind: str, seed: int):
    """±15 px of jitter, vignetting and noise, a missing and a featureless tile: median < 0.5 px, none > 2 px."""
    grid, tile = (3, 4), (384, 384)
    side = scene_side(grid, tile)
    scene = textured(side, seed) if kind == "texture" else nuclei(side, seed)
    tiles, nominal, true = cut(scene, grid, tile, seed=seed)
    del tiles[0, 1]
    featureless = vignette(tile) * 300
    tiles[2, 3] = rng.numpy_generator(seed, "dead").poisson(featureless).astype(np.uint16)
    pairs = measure_pairs(tiles, nominal, reach_px=32)
    placement = place_tiles(pairs, nominal)
    assert placement.missing == ((0, 1),) and placement.unplaced == ((2, 3),)
    errors = errors_px(placement.positions, true, without=((0, 1), (2, 3)))
    assert np.median(errors) < 0.25 and errors.max() < 1
    # where nothing is seen the nominal place is kept, which jitter alone has moved
    assert errors_px(placement.positions, true).max() < 30
    states = {(seam.first, seam.second): seam.state for seam in placement.seams}
    assert states[(2, 2), (2, 3)] == states[(1, 3), (2, 3)] == "not trusted"
    assert placement == place_tiles(measure_pairs(tiles, nominal, reach_px=32)[: len(pairs)], nominal)


def test_channels_add_their_evidence():
    """A channel of nothing but noise beside one with nuclei changes the placement by hundredths of a pixel."""
    grid, tile = (2, 2), (256, 256)
    side = scene_side(grid, tile, overlap=0.2, jitter_px=10)
    tiles, nominal, true = cut(nuclei(side, 3), grid, tile, overlap=0.2, jitter_px=10)
    noise = rng.numpy_generator("second channel")
    both = {cell: np.stack([image, noise.poisson(300, tile).astype(np.uint16)]) for cell, image in tiles.items()}
    placement = place_tiles(measure_pairs(both, nominal, reach_px=22), nominal)
    assert errors_px(placement.positions, true).max() < 0.3 and not placement.unplaced


@pytest.mark.skipif(not REAL.exists(), reason="the example images are not here")
def test_real_nuclei_cut_apart_are_put_together_again():
    """A real micrograph of sparse nuclei, cut with 20 % overlap and ±10 px of jitter, with added noise."""
    image = tifffile.imread(sorted(REAL.glob("*.tif"))[0]).astype(np.float32)
    grid, overlap, jitter = (2, 2), 0.2, 10.0
    tile = tuple(int((side - 2 * jitter - 1) / (1 + 1 - overlap)) for side in image.shape)
    tiles, nominal, true = cut(image, grid, tile, overlap=overlap, jitter_px=jitter)  # type: ignore[arg-type]
    placement = place_tiles(measure_pairs(tiles, nominal, reach_px=22), nominal)
    errors = errors_px(placement.positions, true)
    assert np.median(errors) < 0.5 and errors.max() < 2


@pytest.mark.parametrize("seed", range(6))
def test_bad_shifts_are_found_and_the_rest_places_all_tiles(seed: int):
    """Six shifts of a 5 × 5 grid, no two at one tile, are off by 5 to 30 px: all are rejected, and do not matter."""
    generator = rng.numpy_generator(seed, "outliers")
    nominal = np.array([(r * 90.0, c * 90.0) for r in range(5) for c in range(5)])
    true = nominal + generator.uniform(-15, 15, nominal.shape)
    steps = [(i, i + 1) for i in range(25) if i % 5 < 4] + [(i, i + 5) for i in range(20)]
    bad: set[int] = set()
    for k in generator.permutation(len(steps)).tolist():
        if len(bad) < 6 and not {node for b in bad for node in steps[b]} & set(steps[k]):
            bad.add(k)
    links = []
    for k, (i, j) in enumerate(steps):
        d = true[j] - true[i] + generator.normal(0, 0.05, 2)
        if k in bad:
            angle = generator.uniform(0, 2 * np.pi)
            d = d + generator.uniform(5, 30) * np.array([np.sin(angle), np.cos(angle)])
        links.append(Link(i, j, found(*d, ratio=0.8 if k in bad else 0.2)))
    solution = solve(links, nominal)
    off = solution.positions - true
    assert np.hypot(*(off - off.mean(0)).T).max() < 0.3
    assert {k for k, state in enumerate(solution.states) if state == "rejected"} == bad


def test_another_peak_repairs_a_bad_shift():
    """Where the best peak contradicts the loop and a later one closes it, the later one is used."""
    nominal = np.array([(0.0, 0.0), (0.0, 90.0), (90.0, 0.0), (90.0, 90.0)])
    wrong = found(3.0, 70.0, ratio=0.9, others=((0.0, 90.0),))
    links = [Link(0, 1, wrong), Link(0, 2, found(90, 0)), Link(1, 3, found(90, 0)), Link(2, 3, found(0, 90))]
    solution = solve(links, nominal)
    assert solution.states == ("other peak", "measured", "measured", "measured")
    assert np.abs(solution.residuals).max() < 1e-3 and solution.placed.all()


def test_an_isolated_tile_follows_the_distortion_of_the_grid():
    """With a pitch 2 % larger and a grid turned by 1°, a tile without any shift stands where the others' grid says."""
    nominal = np.array([(r * 300.0, c * 300.0) for r in range(4) for c in range(4)])
    turn = np.deg2rad(1.0)
    true = nominal @ (1.02 * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]))
    steps = [(i, i + 1) for i in range(16) if i % 4 < 3] + [(i, i + 4) for i in range(12)]
    solution = solve([Link(i, j, found(*(true[j] - true[i]))) for i, j in steps if 15 not in (i, j)], nominal)
    assert not solution.placed[15] and solution.placed[:15].all()
    off = solution.positions - true
    assert np.hypot(*(off[15] - off[:15].mean(0))) < 2


def test_a_mosaic_of_noise_free_tiles_is_the_scene():
    """Composed at the true sub-pixel positions, the mosaic equals the scene up to rounding, in any bands."""
    grid, tile = (2, 3), (100, 120)
    scene = textured(scene_side(grid, tile, overlap=0.2, jitter_px=6), 2)
    tiles, _, true = cut(scene, grid, tile, overlap=0.2, jitter_px=6, depth=0, noisy=False)
    placement = Placement(true, (), (), ())
    mosaic = fuse(tiles, placement)
    assert mosaic.dtype == np.uint16 and mosaic.shape == placement.canvas(tile)
    mask = coverage_mask(placement, tiles, tile)
    assert np.array_equal(mask, mosaic > 0)
    seen = scene[: mosaic.shape[0], : mosaic.shape[1]] + 100
    inner = np.s_[16:-16, 16:-16]  # beyond a tile's border the scene is not known, and the last pixels ring
    assert np.abs(mosaic - seen)[inner].max() < 2.5 and np.abs(mosaic - seen)[inner].mean() < 0.6
    for height in (1, 37):
        assert np.array_equal(np.concatenate([b for _, b in fuse_bands(tiles, placement, band_px=height)]), mosaic)


def test_labels_keep_their_values_and_a_missing_tile_leaves_zero():
    """Labels are moved by whole pixels and never mixed; where the missing tile lay alone there is nothing."""
    nominal = nominal_positions((1, 3), (40, 40), overlap=0.25)
    tiles = {(0, 0): np.full((40, 40), 70_001, np.int32), (0, 2): np.full((40, 40), -1, np.int32)}
    mosaic = fuse(tiles, place_tiles([], nominal, missing=((0, 1),)), values="labels")
    assert mosaic.shape == (40, 100) and mosaic.dtype == np.int32
    assert set(np.unique(mosaic)) == {70_001, 0, -1} and (mosaic[:, 41:59] == 0).all()


def test_the_seam_report_shows_brightness_that_the_gains_then_even_out():
    """Tiles at known lamp strengths: the report's log ratios give back the factors, and it is plain JSON."""
    grid, tile = (2, 2), (256, 256)
    side = scene_side(grid, tile, overlap=0.2, jitter_px=8)
    tiles, nominal, _ = cut(textured(side, 5), grid, tile, overlap=0.2, jitter_px=8, noisy=False)
    lamp = {(0, 0): 1.0, (0, 1): 0.8, (1, 0): 1.1, (1, 1): 0.95}
    tiles = {cell: np.rint((image - 100.0) * lamp[cell] + 100).astype(np.uint16) for cell, image in tiles.items()}
    flat = FlatField(vignette(tile), 100.0, 1)
    placement = place_tiles(measure_pairs(tiles, nominal, reach_px=20, correct=flat.apply), nominal)
    report = seam_report(tiles, placement, correct=flat.apply, dark=100)
    gains = equalize_brightness({(s.first, s.second): s.log_ratio for s in report.seams if s.log_ratio is not None})
    product = np.array([gains[cell] * lamp[cell] for cell in lamp])
    assert product == pytest.approx(product.mean(), rel=0.01)
    assert not report.repaired and min(s.ncc for s in report.seams if s.ncc is not None) > 0.98
    described = json.loads(json.dumps(report.as_dict()))
    assert described["residual_px"]["largest"] < 0.2 and len(described["seams"]) == 4
    even = fuse(tiles, placement, correct=flat.apply, gains=gains, dark=100)
    halves = [float(np.median(part[part > 0])) for part in np.array_split(even, 4, axis=1)]
    assert max(halves) / min(halves) < 1.03


def test_bad_input_is_said_in_a_sentence():
    """Tiles of different shapes, a field without tiles and an impossible overlap are the user's to mend."""
    nominal = nominal_positions((1, 2), (40, 40), overlap=0.2)
    with pytest.raises(SegueError, match="one shape"):
        measure_pairs({(0, 0): np.ones((40, 40)), (0, 1): np.ones((40, 41))}, nominal, reach_px=5)
    with pytest.raises(SegueError, match="no tile of this well"):
        fuse({}, place_tiles([], nominal))
    with pytest.raises(SegueError, match="overlap"):
        nominal_positions((1, 2), (40, 40), overlap=1.0)
