"""Wulff construction: the convex shape of a crystal whose facets stand at distances proportional to their energies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MAX_RATIO = 100  # of energies, beyond which the shape is ill-conditioned


@dataclass(frozen=True)
class Polyhedron:
    """The points x with `normals` @ x ≤ `distances`: (n, 3) unit vectors and (n,); and its corners (m, 3)."""

    normals: np.ndarray
    distances: np.ndarray
    corners: np.ndarray

    @property
    def circumradius(self) -> float:
        """The distance of the farthest corner from the center."""
        return float(np.linalg.norm(self.corners, axis=1).max())


def miller_indices(name: str) -> tuple[int, int, int]:
    """Returns (h, k, l) of a plane written as its digits, a minus before each negative one: "111", "1-10", "00-1".

    Four digits are the Bravais–Miller indices h k i l of a hexagonal cell. Raises ValueError for anything else.
    """
    signs = name.replace("-", "")
    if not (name.isascii() and signs.isdigit() and len(signs) in (3, 4)) or "--" in name or name.endswith("-"):
        raise ValueError(f"found '{name}'; write the three or four digits of a plane, such as 111, 1-10 or 10-10")
    digits, sign = [], 1
    for character in name:
        if character == "-":
            sign = -1
        else:
            digits.append(sign * int(character))
            sign = 1
    if len(digits) == 4:
        if digits[2] != -digits[0] - digits[1]:
            raise ValueError(f"found '{name}', whose third index is not -(h + k) = {-digits[0] - digits[1]}")
        del digits[2]
    if not any(digits):
        raise ValueError(f"found '{name}', which is no plane; at least one index is not zero")
    return digits[0], digits[1], digits[2]


def wulff_polyhedron(energies: Mapping[str, float], cell_A: np.ndarray, rotations: np.ndarray) -> Polyhedron:
    """Returns the Wulff shape with the volume π/6 of a sphere of diameter 1, about the origin.

    energies: of families of planes, by their indices in the cell (rows of `cell_A`); every plane of a family, to
    which the point group `rotations` (m, 3, 3; in fractions of the cell) turns it, has its energy, and the lowest one
    if it is in two families. Raises ValueError if the planes leave the shape open, or energies differ too much.
    """
    from scipy.spatial import ConvexHull, QhullError

    lowest, highest = min(energies.values()), max(energies.values())
    if highest > MAX_RATIO * lowest:
        raise ValueError(
            f"found {lowest:g} and {highest:g}; leave out planes of over {MAX_RATIO} times the lowest energy"
        )
    planes: dict[tuple[int, ...], float] = {}
    for name, energy in energies.items():
        for plane in {tuple(map(int, np.array(miller_indices(name)) @ rotation)) for rotation in rotations}:
            planes[plane] = min(energy / lowest, planes.get(plane, math.inf))
    ordered = sorted(planes)
    normals = np.array(ordered) @ np.linalg.inv(cell_A).T
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    distances = np.array([planes[plane] for plane in ordered])
    # the corners are dual to the facets of the hull of normal / distance; the shape is closed if that holds the origin
    try:
        dual = ConvexHull(normals / distances[:, None]).equations
    except QhullError:
        dual = np.zeros((1, 4))
    if (dual[:, 3] > -1e-9).any():
        raise ValueError(f"the planes {', '.join(energies)} and their equivalents enclose no volume; add planes")
    corners = -dual[:, :3] / dual[:, 3:]
    scale = (math.pi / 6 / ConvexHull(corners).volume) ** (1 / 3)
    return Polyhedron(normals, scale * distances, scale * corners)
