"""Crystals: the nine of the published study, with the planes on which they slip and twin, and their Wulff shapes.

Lengths are Å. Positions in a cell are fractions of its vectors, which are the rows of `cell_A`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Fault:
    """Planes across which a crystal can slip: all atoms beyond a plane move by `shift`, which lies in the plane.

    Plane m stands at (m / `planes_per_cell` + `origin`) × |`normal`| from the cell's origin. With `alternating`
    the shift is reversed for odd m, as hexagonal stacking demands, so that the layer beyond always moves to the
    third site (A B | A B becomes A B | C A). `row` is a close-packed row in the plane: seen along it, the order of
    the layers shows.
    """

    normal: tuple[int, int, int]  # a lattice direction; its length in the lattice is the period of the planes
    shift: tuple[float, float, float]  # in fractions of the cell
    planes_per_cell: int
    origin: float  # a fraction of the period
    alternating: bool
    row: tuple[int, int, int]

    @property
    def twins(self) -> bool:
        """Whether half a turn about `normal` beyond a plane is a coherent twin: in cubic stacking."""
        return not self.alternating


# Wurtzite slips between its double layers, in the narrow gap between the anion at u ≈ 3/8 and the cation at 1/2:
# 1/3<1-100>, an I2 basal fault. Cubic crystals slip between {111} planes by 1/6<11-2>, an intrinsic fault; layer m of
# their {111} planes has a symmetry axis at m × 1/6[11-2].
_BASAL = Fault((0, 0, 1), (1 / 3, -1 / 3, 0), planes_per_cell=2, origin=7 / 16, alternating=True, row=(1, 0, 0))
_OCTAHEDRAL = Fault(
    (1, 1, 1), (1 / 6, 1 / 6, -1 / 3), planes_per_cell=3, origin=1 / 6, alternating=False, row=(1, -1, 0)
)


@dataclass(frozen=True)
class Crystal:
    """A crystal: space group (with origin setting), lattice in Å, its asymmetric unit, and what labels need.

    `surface_energies`: relative ones by family of planes, from which Wulff shapes are made; None without a default.
    """

    space_group: int
    a_A: float
    c_A: float
    basis: tuple[tuple[str, tuple[float, float, float]], ...]
    mask_blur_A: float
    fault: Fault | None = None
    setting: int = 1
    surface_energies: dict[str, float] | None = None


_EIGHTH = (1 / 8, 1 / 8, 1 / 8)
_ORIGIN = (0.0, 0.0, 0.0)

# Broken bonds between nearest neighbors per area: truncated octahedra, octahedra, rhombic dodecahedra.
_FCC_ENERGIES = {"111": 1.0, "100": 2 / math.sqrt(3)}
_DIAMOND_ENERGIES = {"111": 1.0, "100": math.sqrt(3)}
_BCC_ENERGIES = {"110": 1.0, "100": math.sqrt(2)}


def _wurtzite(cation: str, anion: str, a_A: float, c_A: float, u: float) -> Crystal:
    basis = ((cation, (1 / 3, 2 / 3, 0.0)), (anion, (1 / 3, 2 / 3, u)))
    return Crystal(186, a_A, c_A, basis, 1.6, _BASAL)


def _fcc(element: str, a_A: float) -> Crystal:
    return Crystal(225, a_A, a_A, ((element, _ORIGIN),), 1.6, _OCTAHEDRAL, surface_energies=_FCC_ENERGIES)


def _diamond(element: str, a_A: float, mask_blur_A: float) -> Crystal:
    basis = ((element, _EIGHTH),)
    return Crystal(227, a_A, a_A, basis, mask_blur_A, _OCTAHEDRAL, setting=2, surface_energies=_DIAMOND_ENERGIES)


def _spinel(metal: str, a_A: float, u: float, mask_blur_A: float) -> Crystal:
    basis = ((metal, _EIGHTH), (metal, (0.5, 0.5, 0.5)), ("O", (u, u, u)))
    return Crystal(227, a_A, a_A, basis, mask_blur_A, setting=2)


# Space groups, lattices and the blur of the labels: published tables of Rangel DaCosta, Oill and Scott (CC-BY-4.0).
# Internal parameters u: wurtzite ZnS .3748 (Kisi and Elcombe 1989) and CdSe .3767 (Stevenson and Barnea 1984); spinel
# Fe3O4 .2549 (Fleet 1981) and Co3O4 .2631 (Smith and Hobson 1973).
CRYSTALS: dict[str, Crystal] = {
    "ZnS": _wurtzite("Zn", "S", 3.8227, 6.2607, 0.3748),
    "CdSe": _wurtzite("Cd", "Se", 4.2985, 7.0152, 0.3767),
    "Cu": _fcc("Cu", 3.6157),
    "Ag": _fcc("Ag", 4.0782),
    "C": _diamond("C", 3.5673, 1.0),
    "Si": _diamond("Si", 5.430, 1.6),
    "Fe3O4": _spinel("Fe", 8.394, 0.2549, 1.6),
    "Co3O4": _spinel("Co", 8.065, 0.2631, 1.0),
    "Fe": Crystal(229, 2.866, 2.866, (("Fe", _ORIGIN),), 1.0, surface_energies=_BCC_ENERGIES),
}
CrystalName = Literal["ZnS", "CdSe", "Cu", "Ag", "C", "Si", "Fe3O4", "Co3O4", "Fe"]


@dataclass(frozen=True)
class Sites:
    """The sites of a cell, or of a particle that is not periodic, and the elements that each may hold.

    numbers, occupancies: (n, k) atomic numbers and their probabilities, filled up with zeros; what a row of
    probabilities lacks to 1 is that of a vacancy. fractions: (n, 3). cell_A: (3, 3), the unit matrix where not
    `periodic`. rotations: (m, 3, 3), the point group in fractions of the cell, None where it is not known.
    """

    numbers: np.ndarray
    occupancies: np.ndarray
    fractions: np.ndarray
    cell_A: np.ndarray
    periodic: bool
    rotations: np.ndarray | None

    @property
    def partial(self) -> bool:
        """Whether any site may hold different elements or none."""
        return bool((self.occupancies[:, 0] < 1).any())

    def elements(self, sites: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Returns atomic numbers (len(sites),) at random with the sites' probabilities, 0 for a vacancy."""
        if not self.partial:
            return self.numbers[sites, 0]
        limits = np.cumsum(self.occupancies, axis=1)
        choice = (random.uniform(size=(len(sites), 1)) >= limits[sites]).sum(axis=1)
        return np.column_stack([self.numbers, np.zeros(len(self.numbers), int)])[sites, choice]


@cache
def crystal_sites(name: str) -> Sites:
    """Returns the conventional cell of a crystal of `CRYSTALS`."""
    from ase.spacegroup import Spacegroup, crystal

    entry = CRYSTALS[name]
    angles = [90, 90, 120] if entry.space_group == 186 else [90, 90, 90]
    cell = crystal(
        [symbol for symbol, _ in entry.basis],
        [place for _, place in entry.basis],
        spacegroup=entry.space_group,
        setting=entry.setting,
        cellpar=[entry.a_A, entry.a_A, entry.c_A, *angles],
    )
    rotations, _ = Spacegroup(entry.space_group, entry.setting).get_op()
    numbers = np.asarray(cell.numbers)[:, None]
    return Sites(
        numbers, np.ones(numbers.shape), cell.get_scaled_positions(), np.asarray(cell.cell), True, np.asarray(rotations)
    )
