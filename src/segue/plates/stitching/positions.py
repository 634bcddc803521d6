"""Positions from measured shifts: one robust least-squares problem over all of them, which detects bad shifts.

A shift between i and j demands p_j − p_i = d, weighted by its information matrix. The nominal positions are a weak
prior, up to a common linear distortion of the grid (pitch, rotation, shear) that is estimated as well; so a tile
without a trusted shift stays where the rest of the grid predicts it. Bad shifts are found by reweighting for the sum of
distances (Holland & Welsch 1977), after which each shift may switch to another of its candidates (max-mixtures: Olson &
Agarwal 2013) or is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segue.plates.stitching.shifts import Candidate, Shift
from segue.plates.stitching.spline import Array

PRIOR_PX = 10.0  # expected deviation of a position from the nominal grid: far weaker than any measured shift
DISTORTION = 0.03  # expected common distortion of the grid: 3 % of pitch, 1.7° of rotation
TOLERANCE_PX = 1.5  # a shift further from the placement than this, and than four times the median, is bad
STATES = ("measured", "other peak", "rejected", "not trusted")


@dataclass(frozen=True)
class Link:
    """A measured shift of node `second` against node `first`, by their indices."""

    first: int
    second: int
    shift: Shift


@dataclass(frozen=True)
class Solution:
    """Positions (n, 2) as y, x in px and, for each link, how it was used.

    `states`: one of STATES for each link. `residuals`: (links, 2), the shift that was used (for rejected and not
    trusted ones the best candidate; NaN without any) minus the placed one. `placed`: nodes connected by used links to
    the largest group; the others are where the nominal grid and its distortion put them.
    """

    positions: Array
    states: tuple[str, ...]
    residuals: Array
    placed: Array


def solve(links: Sequence[Link], nominal: Array) -> Solution:
    """Returns the positions of all nodes; `nominal` is (n, 2), y and x in px, and fixes the origin.

    Deterministic. Links that disagree raise nothing: their states say so.
    """
    # minimize the sum of distances over the best candidate of each trusted link, by reweighting
    used = {k: link.shift.candidates[0] for k, link in enumerate(links) if link.shift.trusted and link.shift.candidates}
    positions = nominal.astype(np.float64)
    weights = {k: _confidence(links[k].shift) for k in used}
    for _ in range(30):
        positions = _least_squares(links, used, weights, nominal)
        far = {k: float(np.hypot(*_residual(links[k], used[k], positions))) for k in used}
        weights = {k: _confidence(links[k].shift) / max(far[k], 0.2) for k in used}
    # then let each link choose the candidate that fits best, or drop out, until nothing changes
    trusted = list(used)
    for _ in range(6):
        chosen = _consistent(links, trusted, positions)
        positions = _least_squares(links, chosen, dict.fromkeys(chosen, 1.0), nominal)
        if chosen == used:
            break
        used = chosen
    # how each link was used, and what is left of it
    states, residuals = [], np.full((len(links), 2), np.nan)
    for k, link in enumerate(links):
        candidate = used.get(k, link.shift.best)
        if candidate is not None:
            residuals[k] = _residual(link, candidate, positions)
        if k in used:
            states.append("measured" if used[k] is link.shift.best else "other peak")
        else:
            states.append("rejected" if link.shift.trusted else "not trusted")
    return Solution(positions, tuple(states), residuals, _largest_group(links, used, len(nominal)))


def _confidence(shift: Shift) -> float:
    """Returns the weight of a shift before bad ones are known: small if a second peak is close."""
    return max(1 - shift.ratio, 0.1) * min(shift.significance / 20, 1.0)


def _residual(link: Link, candidate: Candidate, positions: Array) -> Array:
    return np.array([candidate.dy, candidate.dx]) - (positions[link.second] - positions[link.first])


def _consistent(links: Sequence[Link], trusted: Sequence[int], positions: Array) -> dict[int, Candidate]:
    """Returns the links that agree with the positions, each with its best-fitting candidate."""
    nearest = {}
    for k in trusted:
        candidates = links[k].shift.candidates
        far = [float(np.hypot(*_residual(links[k], candidate, positions))) for candidate in candidates]
        # the first candidate stays unless it is clearly wrong
        best = 0 if far[0] <= TOLERANCE_PX else int(np.argmin(far))
        nearest[k] = (far[best], candidates[best])
    typical = float(np.median([far for far, _ in nearest.values()])) if nearest else 0.0
    limit = min(max(TOLERANCE_PX, 4 * typical), 2 * TOLERANCE_PX)
    return {k: candidate for k, (far, candidate) in nearest.items() if far <= limit}


def _least_squares(
    links: Sequence[Link], used: dict[int, Candidate], weights: dict[int, float], nominal: Array
) -> Array:
    """Returns (n, 2) positions: the minimum of the weighted links, the prior and the grid's distortion.

    The unknowns are 2n coordinates and the four entries of the distortion A in p_i ≈ nominal_i + A (nominal_i − mean).
    """
    n = len(nominal)
    matrix, right = np.zeros((2 * n + 4, 2 * n + 4)), np.zeros(2 * n + 4)
    blocks = matrix[: 2 * n, : 2 * n].reshape(n, 2, n, 2)
    for k, candidate in used.items():
        i, j = links[k].first, links[k].second
        yy, yx, xx = candidate.information
        w = weights[k] * np.array([[yy, yx], [yx, xx]])
        blocks[i, :, i, :] += w
        blocks[j, :, j, :] += w
        blocks[i, :, j, :] -= w
        blocks[j, :, i, :] -= w
        pull = w @ np.array([candidate.dy, candidate.dx])
        right[2 * i : 2 * i + 2] -= pull
        right[2 * j : 2 * j + 2] += pull
    centered = nominal - nominal.mean(0)
    design = np.zeros((2 * n, 2 * n + 4))  # p_i − A centered_i = nominal_i
    design[np.arange(2 * n), np.arange(2 * n)] = 1
    for axis in (0, 1):
        design[axis::2, 2 * n + 2 * axis : 2 * n + 2 * axis + 2] = -centered
    matrix += design.T @ design / PRIOR_PX**2
    right += design.T @ nominal.ravel() / PRIOR_PX**2
    matrix[2 * n :, 2 * n :] += np.eye(4) / DISTORTION**2
    return np.linalg.solve(matrix, right)[: 2 * n].reshape(n, 2)


def _largest_group(links: Sequence[Link], used: dict[int, Candidate], count: int) -> Array:
    """Returns which nodes belong to the largest group connected by used links; of equal groups the first."""
    group = np.arange(count)
    for k in used:
        a, b = group[links[k].first], group[links[k].second]
        group[group == max(a, b)] = min(a, b)
    sizes = np.bincount(group, minlength=count)
    return group == int(sizes.argmax())
