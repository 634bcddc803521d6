"""Drift over time against known drifts."""

from __future__ import annotations

import numpy as np
import pytest
from samples.tiles import nuclei, textured

from segue import rng
from segue.errors import SegueError
from segue.plates.stitching.drift import register_over_time, shift_placement
from segue.plates.stitching.fusion import fuse
from segue.plates.stitching.spline import spline_coefficients, spline_values
from segue.plates.stitching.stitch import Placement

SIDE = (180, 200)
DRIFT = np.cumsum([(0, 0), (1.3, -2.2), (0.4, 3.7), (-2.6, 1.1), (0.2, 0.9), (5.5, -1.5)], axis=0)


def frames(*, moving: float = 0.0) -> list[np.ndarray | None]:
    """Returns noisy frames of nuclei and texture whose origin lies at DRIFT; a part of the scene changes each time."""
    still = textured((260, 280), 1) / 5 + nuclei((260, 280), 1)
    noise = rng.numpy_generator("frames")
    actual: list[np.ndarray | None] = []
    for t, (dy, dx) in enumerate(DRIFT.tolist()):
        scene = (1 - moving) * still + moving * nuclei((260, 280), 10 + t)
        seen = spline_values(spline_coefficients(scene), (20 + dy, 20 + dx), SIDE)
        actual.append(noise.poisson(np.maximum(seen, 0)).astype(np.uint16))
    return actual


@pytest.mark.parametrize("moving", [0.0, 0.4])
def test_drift_is_found_over_all_frames(moving: float):
    """Drift is found to 0.05 px, and to 0.4 px where two fifths of the light come from other cells each time."""
    drift = register_over_time(frames(moving=moving), reach_px=10)
    assert np.abs(drift.shifts - DRIFT).max() < (0.4 if moving else 0.05)
    assert not drift.unplaced and {(1, 2), (0, 2), (1, 5)} <= {link[:2] for link in drift.links}


def test_a_missing_and_a_blank_frame_do_not_break_the_chain():
    """Links over more than one frame carry the drift past a missing frame and a featureless one, which is named."""
    series = frames()
    series[2], series[4] = None, rng.numpy_generator("blank").poisson(300, SIDE).astype(np.uint16)
    drift = register_over_time(series, reach_px=12)
    seen = [0, 1, 3, 5]
    assert np.abs(drift.shifts - DRIFT)[seen].max() < 0.15
    assert drift.unplaced == (4,)


def test_large_frames_are_registered_as_block_means():
    """Frames binned to at most 1024 px yield drift in pixels of the frames themselves."""
    scene = nuclei((1100, 1150), 4)
    parts = [scene[20:1080, 20:1100], scene[26:1086, 12:1092]]
    drift = register_over_time(parts, reach_px=12)
    assert drift.shifts[1] == pytest.approx((6, -8), abs=0.1)


def test_a_drifted_placement_composes_on_the_canvas_of_the_first_frame():
    """Two frames composed at their drifted positions show the scene in the same pixels, resampled once."""
    scene = spline_coefficients(textured((160, 170)))
    placement = Placement({(0, 0): (0.0, 0.0)}, (), (), ())
    first, second = (spline_values(scene, start, (120, 130)) for start in ((10, 10), (13.4, 5.3)))
    mosaic = fuse({(0, 0): second}, shift_placement(placement, (3.4, -4.7)), canvas=(120, 130))
    inner = np.s_[8:-4, 4:-10]
    assert mosaic.shape == (120, 130) and np.abs(mosaic - first)[inner].max() < 2
    assert (mosaic[:3] == 0).all()


def test_frames_of_two_shapes_are_refused():
    """The sentence names the frame and both shapes."""
    with pytest.raises(SegueError, match=r"frame 1: is \(20, 21\), others are \(20, 20\)"):
        register_over_time([np.ones((20, 20)), np.ones((20, 21))], reach_px=3)
