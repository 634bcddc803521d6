"""Flat fields and brightness against known ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from samples.tiles import nuclei, textured, vignette

from segue import rng
from segue.errors import SegueError
from segue.plates.stitching.illumination import (
    equalize_brightness,
    estimate_flat_field,
    frame_ratios,
    illumination_ratio,
)

TILE = (120, 144)


def tiles(kind: str, count: int = 80) -> Iterator[np.ndarray]:
    """Yields vignetted tiles with 100 counts of dark and a lamp that varies by 10 %, cut anywhere in a scene."""
    generator = rng.numpy_generator("tiles", kind)
    scene = textured((700, 700)) if kind == "texture" else nuclei((700, 700))
    gain = vignette(TILE, 0.4)
    for _ in range(count):
        y, x = generator.integers(0, 550, 2)
        light = scene[y : y + TILE[0], x : x + TILE[1]] * gain * generator.uniform(0.9, 1.1)
        yield (light + generator.normal(0, 1, TILE) * np.sqrt(light) + 100).round().astype(np.uint16)


@pytest.mark.parametrize("kind", ["texture", "nuclei"])
def test_the_flat_field_is_that_of_the_tiles(kind: str):
    """From 80 tiles with cells in them the gain is found to a per cent; of nuclei also the dark level, to 15 counts."""
    gain = vignette(TILE, 0.4)
    assert np.ptp(gain) > 0.4
    known, estimated = estimate_flat_field(tiles(kind), dark=100), estimate_flat_field(tiles(kind))
    assert known.gain.dtype == np.float32 and known.gain.mean() == pytest.approx(1, abs=1e-5)
    assert np.sqrt(((known.gain - gain) ** 2).mean()) < 0.008 and np.abs(known.gain - gain).max() < 0.035
    assert np.sqrt(((estimated.gain - gain) ** 2).mean()) < 0.015
    assert estimated.tiles == 80
    # texture alone varies too little to tell where zero is, and is not asked to
    assert estimated.dark == pytest.approx(100, abs=15) or (kind == "texture" and estimated.dark == 0)


def test_no_pattern_is_made_where_there_is_none():
    """Nine tiles under even light: the dark level cannot be told, 0 is taken, and the gain stays within 2 % of 1."""
    scene, generator = nuclei((500, 500)), rng.numpy_generator("even")
    corners = generator.integers(0, 350, (9, 2)).tolist()
    field = estimate_flat_field(generator.poisson(scene[y : y + TILE[0], x : x + TILE[1]]) + 100 for y, x in corners)
    assert field.dark == 0 and np.abs(field.gain - 1).max() < 0.02


def test_a_tile_corrected_by_its_own_flat_field_is_flat():
    """Applied to light · gain + dark, the flat field gives light + dark, for one channel and for several."""
    field = estimate_flat_field(tiles("texture"), dark=100)
    seen = 900 * field.gain + 100
    assert field.apply(seen) == pytest.approx(np.full(TILE, 1000), rel=1e-5)
    assert field.apply(np.stack([seen, seen])).shape == (2, *TILE)
    with pytest.raises(SegueError, match="estimate one for this size"):
        field.apply(np.ones((3, 4)))


def test_more_tiles_than_are_held_are_drawn_evenly_and_the_same_each_time():
    """Holding 30 of 80 tiles gives a gain close to that of all of them, twice the same."""
    some, again = (
        estimate_flat_field(tiles("texture"), dark=100, max_tiles=30),
        estimate_flat_field(tiles("texture"), dark=100, max_tiles=30),
    )
    assert np.array_equal(some.gain, again.gain)
    assert np.abs(some.gain - vignette(TILE, 0.4)).max() < 0.05 and some.tiles == 80


def test_lamp_drift_is_evened_out_over_time():
    """Frames under a drifting lamp, with cells that move, get the factors that undo it."""
    lamp = np.array([1.0, 0.97, 0.9, 0.93, 1.05])
    scenes = [nuclei((200, 200), seed) for seed in range(len(lamp))]
    frames = [scene * strength + 100 for scene, strength in zip(scenes, lamp, strict=True)]
    gains = equalize_brightness(frame_ratios(frames), prior=10)
    with_dark = equalize_brightness(frame_ratios(frames, dark=100), prior=10)
    evened = np.array([with_dark[t] * lamp[t] for t in range(len(lamp))])
    assert evened == pytest.approx(evened.mean(), rel=0.01)
    assert np.ptp(list(gains.values())) < np.ptp(list(with_dark.values()))  # dark taken for light hides the drift


def test_a_loop_of_ratios_that_disagree_is_settled_by_least_squares():
    """Three images whose ratios do not close: the factors leave a third of the misfit on each, and multiply to 1."""
    gains = equalize_brightness(
        {("a", "b"): 0.3, ("b", "c"): 0.0, ("a", "c"): 0.0, ("a", "b2"): float("nan")}, prior=100
    )
    left = [0.3 + np.log(gains["a"] / gains["b"]), np.log(gains["b"] / gains["c"]), np.log(gains["a"] / gains["c"])]
    assert left == pytest.approx([0.1, 0.1, -0.1], abs=1e-3)
    assert np.prod(list(gains.values())) == pytest.approx(1)


def test_images_of_nothing_have_no_ratio_and_bad_tiles_are_refused():
    """Two dark images compare as NaN; no tiles, and tiles of two shapes, are said in a sentence."""
    assert np.isnan(illumination_ratio(np.zeros((20, 20)), np.zeros((20, 20))))
    with pytest.raises(SegueError, match="there are no tiles"):
        estimate_flat_field([])
    with pytest.raises(SegueError, match="one shape"):
        estimate_flat_field([np.ones((20, 20)), np.ones((20, 21))])
