"""Carbon that is no crystal of its own: amorphous films, islands of them, and a sheet of graphene.

Lengths are Å. Films and sheets are periodic across the square field.
"""

from __future__ import annotations

import numpy as np

CARBON_SPACING_A = 1.4  # the minimum distance between two atoms of a film, about a C–C bond
AVOGADRO_PER_MOL = 6.02214076e23
CARBON_G_PER_MOL = 12.011
GRAPHENE_LATTICE_A = 2.46
MIN_GRAPHENE_FIELD_A = 40.0  # in which the sheet is strained by at most 6 %
OUTLINE_WAVES = np.arange(2, 6)  # of an island's outline, per turn
OUTLINE_AMPLITUDE = 0.5  # of one wave per turn, at most; of k waves that over k


def amorphous_carbon(
    field_A: float, thickness_A: float, density_g_per_cm3: float, random: np.random.Generator
) -> np.ndarray:
    """Returns (n, 3) places of carbon atoms with 0 ≤ z ≤ thickness, at random, at least `CARBON_SPACING_A` apart.

    The film is periodic across the field. Atoms that come too close to another are drawn again until none does;
    at 2 g/cm³ the atoms fill 14 % of the volume, far from the 38 % at which random placing jams.
    """
    from scipy.spatial import KDTree

    per_A3 = density_g_per_cm3 * AVOGADRO_PER_MOL / CARBON_G_PER_MOL * 1e-24
    count = round(per_A3 * field_A**2 * thickness_A)
    period = [field_A, field_A, 0.0]  # 0: not periodic
    placed: list[np.ndarray] = []
    trees: list[KDTree] = []
    while missing := count - sum(map(len, placed)):
        # a product can round up to the field's edge, where the periodic tree refuses it
        candidates = random.uniform(size=(missing, 3)) * [field_A, field_A, thickness_A]
        candidates[:, :2] %= field_A
        for tree in trees:
            candidates = candidates[np.isinf(tree.query(candidates, distance_upper_bound=CARBON_SPACING_A)[0])]
        pairs = KDTree(candidates, boxsize=period).query_pairs(CARBON_SPACING_A, output_type="ndarray")
        candidates = np.delete(candidates, np.unique(pairs.max(axis=1, initial=-1)) if len(pairs) else [], axis=0)
        if len(candidates):
            while placed and len(placed[-1]) < 4 * len(candidates):  # few trees are faster than many
                candidates = np.concatenate([placed.pop(), candidates])
                trees.pop()
            placed.append(candidates)
            trees.append(KDTree(candidates, boxsize=period))
    return np.concatenate(placed) if placed else np.zeros((0, 3))


def carbon_island(
    diameter_A: float, thickness_A: float, density_g_per_cm3: float, random: np.random.Generator
) -> np.ndarray:
    """Returns (n, 3) places of the atoms of an island of amorphous carbon that lies on z = 0, about the z axis.

    Its outline is wavy and touches the circle of `diameter_A` at most; its height falls off from `thickness_A` at the
    axis to 0 at the outline as that of an ellipsoid.
    """
    amplitudes = OUTLINE_AMPLITUDE / OUTLINE_WAVES * random.uniform(size=OUTLINE_WAVES.size)
    phases = random.uniform(0, 2 * np.pi, size=OUTLINE_WAVES.size)
    positions = amorphous_carbon(diameter_A, thickness_A, density_g_per_cm3, random)
    positions -= [diameter_A / 2, diameter_A / 2, 0.0]
    x, y, z = positions.T
    waves = np.cos(np.arctan2(y, x)[:, None] * OUTLINE_WAVES + phases) @ amplitudes
    outline = diameter_A / 2 * (1 + waves) / (1 + amplitudes.sum())
    inside = (np.hypot(x, y) / outline) ** 2 + (z / thickness_A) ** 2 <= 1
    return positions[inside]


def graphene(field_A: float, random: np.random.Generator) -> np.ndarray:
    """Returns (n, 3) places of the atoms of a sheet of graphene at z = 0, in a random orientation and place.

    The lattice is strained so that the sheet is periodic across the field: its vectors that come nearest to the field's
    sides, at most 2.2 Å away, become the sides.
    """
    angle = random.uniform(0, 2 * np.pi)
    directions = angle + np.array([0.0, np.pi / 3])
    lattice = GRAPHENE_LATTICE_A * np.stack([np.cos(directions), np.sin(directions)], axis=1)
    sides = np.round(field_A * np.linalg.inv(lattice)).astype(int)  # the field's sides, in vectors of the lattice
    (a, b), (c, d) = sides
    count = a * d - b * c  # of cells in the field
    reach = np.arange(-np.abs(sides).sum(), np.abs(sides).sum() + 1)
    cells = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    places = cells @ np.array([[d, -b], [-c, a]])  # in the field, as fractions with the denominator `count`: exact
    cells = cells[((places >= 0) & (places < count)).all(axis=1)]
    atoms = (cells[:, None] + np.array([[0, 0], [1 / 3, 1 / 3]])).reshape(-1, 2)
    inside = (atoms @ np.linalg.inv(sides) + random.uniform(size=2)) % 1.0
    return np.column_stack([field_A * inside, np.zeros(len(inside))])
