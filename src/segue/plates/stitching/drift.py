"""Drift over time: the shift of each frame against the first, from shifts between frames 1, 2 and 4 apart.

Shifts between consecutive frames alone would accumulate errors; links over several frames, in which the cells differ
more but the landmarks are the same, bound the sum. The solution is the same robust least squares as for tiles. Shifts
are added to the positions of tiles before a mosaic is fused, so that nothing is resampled twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from skimage.measure import block_reduce

from segue.errors import SegueError
from segue.plates.stitching.positions import Link, solve
from segue.plates.stitching.shifts import measure_shift
from segue.plates.stitching.spline import Array
from segue.plates.stitching.stitch import Placement

MAX_SIDE_PX = 1024  # longer side, to which frames are reduced by block means


@dataclass(frozen=True)
class Drift:
    """`shifts`: (T, 2), y and x in px of the origin of each frame, in the coordinates of the first.

    `links`: (earlier, later, state, residual in px or None) for every measured link, with the states of
    `positions.STATES`. `unplaced`: frames that no trusted link connects to the largest group; their drift is 0.
    """

    shifts: Array
    links: tuple[tuple[int, int, str, float | None], ...]
    unplaced: tuple[int, ...]


def register_over_time(frames: Sequence[Array | None], *, reach_px: float, skips: tuple[int, ...] = (1, 2, 4)) -> Drift:
    """Returns the drift of frames (H, W) or (C, H, W) of one shape; None is a missing frame.

    `reach_px`: maximum drift between linked frames, along each axis. `skips`: distances of linked frames. Frames may be
    read on access: at most max(skips) + 1 are in memory, as block means of ≤ 1024 px. Raises SegueError for frames of
    different shapes.
    """
    reduced: dict[int, Array | None] = {}
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
        reduced[later] = None if frame is None else _reduced(frame if frame.ndim == 3 else frame[None], scale)
        reduced.pop(later - max(skips) - 1, None)
        for earlier in sorted(later - skip for skip in skips if skip <= later):
            first, second = reduced[earlier], reduced[later]
            if first is not None and second is not None:
                shift = measure_shift(first, second, expected=(0.0, 0.0), reach_px=max(reach_px / scale, 2.0))
                links.append(Link(earlier, later, shift))
    solution = solve(links, np.zeros((len(frames), 2)))
    shifts = (solution.positions - solution.positions[:1]) * scale
    residuals = np.hypot(*solution.residuals.T) * scale
    states = tuple(
        (link.first, link.second, state, None if np.isnan(r) else float(r))
        for link, state, r in zip(links, solution.states, residuals, strict=True)
    )
    unplaced = tuple(t for t, placed in enumerate(solution.placed) if not placed and t in present)
    return Drift(shifts, states, unplaced)


def shift_placement(placement: Placement, drift: tuple[float, float]) -> Placement:
    """Returns the placement with every tile shifted by (dy, dx) px, for fusion on the canvas of the first frame."""
    positions = {field: (y + drift[0], x + drift[1]) for field, (y, x) in placement.positions.items()}
    return replace(placement, positions=positions)


def _reduced(frame: Array, scale: int) -> Array:
    """Returns (C, h, w) means over blocks of scale × scale px; incomplete blocks are cut off."""
    if scale == 1:
        return frame
    height, width = (side // scale * scale for side in frame.shape[1:])
    blocks: Any = (1, scale, scale)
    return block_reduce(frame[:, :height, :width], blocks, np.mean, func_kwargs={"dtype": np.float32})
