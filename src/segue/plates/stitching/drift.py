"""Drift over time: where each frame lies against the first, from shifts between frames near and further apart.

Consecutive frames alone would add up their errors; links over several frames, which see less alike cells but the same
landmarks, hold the sum. The placement is the same robust least squares as for tiles. Shifts are added to the positions
of tiles before a mosaic is composed, so that nothing is resampled twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segue.errors import SegueError
from segue.plates.stitching.positions import Link, solve
from segue.plates.stitching.shifts import measure_shift
from segue.plates.stitching.spline import Array
from segue.plates.stitching.stitch import Placement

MAX_SIDE_PX = 1024  # frames are averaged over blocks until their longer side is at most this


@dataclass(frozen=True)
class Drift:
    """`shifts`: (T, 2), y and x in px of each frame's origin against the first one's, in the first one's coordinates.

    `links`: (earlier, later, state, residual in px or None) for every measured link, with the states of
    `placement.STATES`. `unplaced`: frames that no trusted link joins to the largest group; they stand at 0 drift.
    """

    shifts: Array
    links: tuple[tuple[int, int, str, float | None], ...]
    unplaced: tuple[int, ...]


def register_over_time(frames: Sequence[Array | None], *, reach_px: float, skips: tuple[int, ...] = (1, 2, 4)) -> Drift:
    """Returns the drift of frames (H, W) or (C, H, W) of one shape; None stands for a missing frame.

    `reach_px`: the largest drift between frames that a link joins, along each axis. `skips`: how many frames apart the
    links are. The frames may be read when asked for: at most max(skips) + 1 are held, as block means of ≤ 1024 px.
    Raises SegueError for frames of different shapes.
    """
    held: dict[int, Array | None] = {}
    links: list[Link] = []
    present: set[int] = set()
    shape: tuple[int, ...] | None = None
    scale = 1
    for later in range(len(frames)):
        frame = frames[later]
        if frame is not None:
            if shape is not None and frame.shape != shape:
                raise SegueError(
                    f"frame {later}: is {frame.shape}, others are {shape}; frames of one series must have one shape."
                )
            shape = frame.shape
            present.add(later)
            scale = max(1, -(-max(shape[-2:]) // MAX_SIDE_PX))
        held[later] = None if frame is None else _block_means(frame if frame.ndim == 3 else frame[None], scale)
        held.pop(later - max(skips) - 1, None)
        for earlier in sorted(later - skip for skip in skips if skip <= later):
            first, second = held[earlier], held[later]
            if first is not None and second is not None:
                shift = measure_shift(first, second, expected=(0.0, 0.0), reach_px=max(reach_px / scale, 2.0))
                links.append(Link(earlier, later, shift))
    solution = solve(links, np.zeros((len(frames), 2)))
    shifts = (solution.positions - solution.positions[:1]) * scale
    far = np.hypot(*solution.residuals.T) * scale
    states = tuple(
        (link.first, link.second, state, None if np.isnan(r) else float(r))
        for link, state, r in zip(links, solution.states, far, strict=True)
    )
    unplaced = tuple(t for t, placed in enumerate(solution.placed) if not placed and t in present)
    return Drift(shifts, states, unplaced)


def shift_placement(placement: Placement, drift: tuple[float, float]) -> Placement:
    """Returns the placement with every tile moved by (dy, dx) px, to be composed on the canvas of the first frame."""
    positions = {cell: (y + drift[0], x + drift[1]) for cell, (y, x) in placement.positions.items()}
    return replace(placement, positions=positions)


def _block_means(frame: Array, scale: int) -> Array:
    if scale == 1:
        return frame
    channels, height, width = frame.shape
    cut = frame[:, : height // scale * scale, : width // scale * scale]
    return cut.reshape(channels, height // scale, scale, width // scale, scale).mean((2, 4), dtype=np.float32)
