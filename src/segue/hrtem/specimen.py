"""Specimens as lists of atoms: crystalline spheres with stacking faults on an amorphous carbon support.

A specimen is sampled in this order: the spheres (number, diameters, places), the crystal inside each (faults,
lattice origin, orientation), then the support. Lengths are Å inside this module, nm in the specification. Axes
are x, y across the field, from one corner of it, and z along the beam: the electrons pass the support first and
the particles last, so that the exit plane lies just behind the particles.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from segue import rng
from segue.errors import SegueError
from segue.spec import SpecModel

A_PER_NM = 10  # specifications give lengths in nm; atoms, waves and optics are computed in Å
CONTACT_GAP_A = 1.5  # between the support's surface and the lowest point of a sphere
EDGE_GAP_A = 1.0  # empty space in front of and behind all atoms, so that no phonon leaves the cell
CARBON_SPACING_A = 1.4  # the minimum distance between two atoms of the support, about a C–C bond
MAX_PLACEMENT_TRIES = 200
AVOGADRO_PER_MOL = 6.02214076e23
CARBON_G_PER_MOL = 12.011


@dataclass(frozen=True)
class Fault:
    """Planes across which a crystal can slip: all atoms beyond a plane move by `shift`, which lies in the plane.

    Plane m stands at (m / `planes_per_cell` + `origin`) × |`normal`| from the cell's origin. With `alternating`
    the shift is reversed for odd m, as hexagonal stacking demands, so that the layer beyond always moves to the
    third site (A B | A B becomes A B | C A).
    """

    normal: tuple[int, int, int]  # a lattice direction; its length in the lattice is the period of the planes
    shift: tuple[float, float, float]  # in fractions of the cell
    planes_per_cell: int
    origin: float  # a fraction of the period
    alternating: bool


# Wurtzite slips between its double layers, in the narrow gap between the anion at u ≈ 3/8 and the cation at 1/2:
# 1/3<1-100>, an I2 basal fault. Cubic crystals slip between {111} planes by 1/6<11-2>, an intrinsic fault.
_BASAL = Fault((0, 0, 1), (1 / 3, -1 / 3, 0), planes_per_cell=2, origin=7 / 16, alternating=True)
_OCTAHEDRAL = Fault((1, 1, 1), (1 / 6, 1 / 6, -1 / 3), planes_per_cell=3, origin=1 / 6, alternating=False)


@dataclass(frozen=True)
class Crystal:
    """A crystal: space group (with origin setting), lattice in Å, its asymmetric unit, and what labels need."""

    space_group: int
    a_A: float
    c_A: float
    basis: tuple[tuple[str, tuple[float, float, float]], ...]
    mask_blur_A: float
    fault: Fault | None = None
    setting: int = 1


_EIGHTH = (1 / 8, 1 / 8, 1 / 8)
_ORIGIN = (0.0, 0.0, 0.0)


def _wurtzite(cation: str, anion: str, a_A: float, c_A: float, u: float) -> Crystal:
    basis = ((cation, (1 / 3, 2 / 3, 0.0)), (anion, (1 / 3, 2 / 3, u)))
    return Crystal(186, a_A, c_A, basis, 1.6, _BASAL)


def _spinel(metal: str, a_A: float, u: float, mask_blur_A: float) -> Crystal:
    basis = ((metal, _EIGHTH), (metal, (0.5, 0.5, 0.5)), ("O", (u, u, u)))
    return Crystal(227, a_A, a_A, basis, mask_blur_A, setting=2)


# Space groups, lattices and the blur of the labels: published tables of Rangel DaCosta, Oill and Scott (CC-BY-4.0).
# Internal parameters u: wurtzite ZnS .3748 (Kisi and Elcombe 1989) and CdSe .3767 (Stevenson and Barnea 1984); spinel
# Fe3O4 .2549 (Fleet 1981) and Co3O4 .2631 (Smith and Hobson 1973).
CRYSTALS: dict[str, Crystal] = {
    "ZnS": _wurtzite("Zn", "S", 3.8227, 6.2607, 0.3748),
    "CdSe": _wurtzite("Cd", "Se", 4.2985, 7.0152, 0.3767),
    "Cu": Crystal(225, 3.6157, 3.6157, (("Cu", _ORIGIN),), 1.6, _OCTAHEDRAL),
    "Ag": Crystal(225, 4.0782, 4.0782, (("Ag", _ORIGIN),), 1.6, _OCTAHEDRAL),
    "C": Crystal(227, 3.5673, 3.5673, (("C", _EIGHTH),), 1.0, _OCTAHEDRAL, setting=2),
    "Si": Crystal(227, 5.430, 5.430, (("Si", _EIGHTH),), 1.6, _OCTAHEDRAL, setting=2),
    "Fe3O4": _spinel("Fe", 8.394, 0.2549, 1.6),
    "Co3O4": _spinel("Co", 8.065, 0.2631, 1.0),
    "Fe": Crystal(229, 2.866, 2.866, (("Fe", _ORIGIN),), 1.0),
}
CrystalName = Literal["ZnS", "CdSe", "Cu", "Ag", "C", "Si", "Fe3O4", "Co3O4", "Fe"]


def _as_range(value: Any) -> Any:
    """Returns [value, value] for one number; refuses a range that runs backwards."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        if value[0] > value[1]:
            raise ValueError(f"found {list(value)}; a range is [minimum, maximum]; swap the two")
        return tuple(value)
    raise ValueError(f"found {value!r}; give one number or a range [minimum, maximum]")


Positive = Annotated[float, Field(gt=0)]
Counts = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], BeforeValidator(_as_range)]
Lengths = Annotated[tuple[Positive, Positive], BeforeValidator(_as_range)]
ThicknessRange = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(_as_range)
]


class SpecimenSpec(SpecModel):
    """What a structure consists of; ranges are [minimum, maximum], drawn uniformly for each structure or particle.

    `particles` is the requested number. Particles are placed one after another, entirely inside the field and at least
    `spacing_nm` apart (surface to surface, also across the periodic border). A particle for which there is no room is
    left out; the number of placed ones is recorded with every sample, and must reach the minimum.
    """

    crystal: CrystalName = "CdSe"
    particles: Counts = (1, 5)
    diameter_nm: Lengths = (3.0, 5.0)
    spacing_nm: Annotated[float, Field(ge=0)] = 1.0
    stacking_faults: Counts = (0, 2)
    support_nm: ThicknessRange = (2.0, 8.0)
    support_density_g_per_cm3: Annotated[float, Field(gt=0, le=2.6)] = 2.0  # amorphous carbon: 1.8–2.1, sputtered film

    @model_validator(mode="after")
    def _possible(self) -> SpecimenSpec:
        errors = []
        if self.stacking_faults[1] > 0 and CRYSTALS[self.crystal].fault is None:
            faulted = ", ".join(name for name, crystal in CRYSTALS.items() if crystal.fault)
            errors.append(
                f"stacking_faults: found {list(self.stacking_faults)} with crystal '{self.crystal}', which has no "
                f"stacking to fault; write stacking_faults = 0 or take one of {faulted}"
            )
        if self.particles[1] == 0:
            errors.append("particles: found 0; there would be nothing to segment; allow at least one")
        if errors:
            raise ValueError("; ".join(errors))
        return self


@dataclass(frozen=True)
class Atoms:
    """Atomic numbers (n,) and positions (n, 3) in Å."""

    numbers: np.ndarray
    positions_A: np.ndarray

    def __add__(self, other: Atoms) -> Atoms:
        return Atoms(
            np.concatenate([self.numbers, other.numbers]), np.concatenate([self.positions_A, other.positions_A])
        )


@dataclass(frozen=True)
class Specimen:
    """The atoms of a structure in a cell of field × field × `height_A`, the beam along +z.

    `particles` stand between `particles_from_A` and the exit plane at `height_A`; `support` lies before them.
    """

    particles: Atoms
    support: Atoms
    centers_A: np.ndarray  # (n, 3), x y z of the spheres
    diameters_A: np.ndarray  # (n,)
    support_A: float
    particles_from_A: float
    height_A: float


def build(spec: SpecimenSpec, *, field_A: float, seed: int, index: int) -> Specimen:
    """Returns structure number `index`: a function of the specification, the field, the seed and the index only."""
    random = rng.numpy_generator(seed, "specimen", index)
    centers_xy, diameters = _place(spec, field_A, random)
    support_A = A_PER_NM * float(random.uniform(*spec.support_nm))
    surface = EDGE_GAP_A + support_A
    lowest = surface + CONTACT_GAP_A
    centers = np.column_stack([centers_xy, lowest + diameters / 2])
    spheres = []
    for center, diameter in zip(centers, diameters, strict=True):
        faults = int(random.integers(spec.stacking_faults[0], spec.stacking_faults[1] + 1))
        sphere = crystal_sphere(spec.crystal, diameter, faults=faults, random=random)
        spheres.append(Atoms(sphere.numbers, sphere.positions_A + center))
    particles = sum(spheres[1:], spheres[0]) if spheres else Atoms(np.zeros(0, int), np.zeros((0, 3)))
    carbon = amorphous_carbon(
        field_A, support_A, spec.support_density_g_per_cm3, rng.numpy_generator(seed, "support", index)
    )
    support = Atoms(carbon.numbers, carbon.positions_A + np.array([0, 0, EDGE_GAP_A]))
    height = lowest + (diameters.max() if len(diameters) else 0.0) + EDGE_GAP_A
    return Specimen(particles, support, centers, diameters, support_A, surface, float(height))


def _place(spec: SpecimenSpec, field_A: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns centers (n, 2) and diameters (n,) of spheres that lie inside the field and keep their distance."""
    count = int(random.integers(spec.particles[0], spec.particles[1] + 1))
    diameters = A_PER_NM * random.uniform(*spec.diameter_nm, size=count)
    centers: list[np.ndarray] = []
    placed: list[float] = []
    for diameter in diameters:
        for candidate in random.uniform(diameter / 2, field_A - diameter / 2, size=(MAX_PLACEMENT_TRIES, 2)):
            apart = np.array(centers).reshape(-1, 2) - candidate
            apart -= field_A * np.round(apart / field_A)
            min_distance = (np.array(placed) + diameter) / 2 + A_PER_NM * spec.spacing_nm
            if np.all(np.hypot(apart[:, 0], apart[:, 1]) >= min_distance):
                centers.append(candidate)
                placed.append(float(diameter))
                break
    if len(placed) < spec.particles[0]:
        raise SegueError(
            f"specimen.particles: found room for {len(placed)} of at least {spec.particles[0]} particles of "
            f"{spec.diameter_nm[0]:g}–{spec.diameter_nm[1]:g} nm, {spec.spacing_nm:g} nm apart, in a field of "
            f"{field_A / A_PER_NM:g} nm; ask for fewer or smaller particles, less spacing or a larger field."
        )
    return np.array(centers).reshape(-1, 2), np.array(placed)


def crystal_sphere(name: str, diameter_A: float, *, faults: int, random: np.random.Generator) -> Atoms:
    """Returns a sphere of the crystal about the origin, at a random place of its lattice and in a random orientation.

    `faults` is the number of stacking faults; they lie within 0.8 radii of the center, on different planes
    (a sphere too small to hold that many planes takes as many as it holds).
    """
    numbers, fractions, cell = _unit_cell(name)
    radius = diameter_A / 2
    center = (random.uniform(size=3) - 0.5) @ cell
    slips = _slips(name, cell, center, radius, faults=faults, random=random)
    farthest = radius + float(np.linalg.norm(center)) + sum(float(np.linalg.norm(shift)) for _, _, shift in slips)
    faces_A = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)  # distances between opposite faces of the cell
    ranges = [np.arange(-n, n + 1) for n in np.ceil(farthest / faces_A).astype(int) + 1]
    corners = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (corners + fractions).reshape(-1, 3) @ cell
    for normal, height, shift in slips:
        positions = positions + np.outer(positions @ normal > height, shift)
    positions = positions - center
    inside = np.linalg.norm(positions, axis=1) <= radius
    return Atoms(np.tile(numbers, len(corners))[inside], positions[inside] @ random_rotation(random).T)


def _slips(
    name: str, cell: np.ndarray, center: np.ndarray, radius: float, *, faults: int, random: np.random.Generator
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Returns (unit normal, height of the plane, shift) in Å for each fault."""
    fault = CRYSTALS[name].fault
    if fault is None or faults == 0:
        return []
    normal = np.array(fault.normal) @ cell
    period = float(np.linalg.norm(normal))
    normal = normal / period
    around = (float(center @ normal) / period - fault.origin) * fault.planes_per_cell
    span = 0.8 * radius / period * fault.planes_per_cell
    planes = np.arange(np.ceil(around - span), np.floor(around + span) + 1).astype(int)
    slips = []
    for plane in random.choice(planes, size=min(faults, len(planes)), replace=False):
        sign = -1 if fault.alternating and plane % 2 else 1
        height = (plane / fault.planes_per_cell + fault.origin) * period
        slips.append((normal, float(height), sign * np.array(fault.shift) @ cell))
    return slips


@cache
def _unit_cell(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns atomic numbers (n,), fractional coordinates (n, 3) and the cell's vectors as rows, in Å."""
    crystal = CRYSTALS[name]
    angles = [90, 90, 120] if crystal.space_group == 186 else [90, 90, 90]
    cell = hrtem_libraries().crystal(
        [symbol for symbol, _ in crystal.basis],
        [place for _, place in crystal.basis],
        spacegroup=crystal.space_group,
        setting=crystal.setting,
        cellpar=[crystal.a_A, crystal.a_A, crystal.c_A, *angles],
    )
    return cell.numbers, cell.get_scaled_positions(), np.asarray(cell.cell)


def random_rotation(random: np.random.Generator) -> np.ndarray:
    """Returns a rotation matrix drawn uniformly from all orientations (a normalized normal quaternion)."""
    w, x, y, z = (quaternion := random.normal(size=4)) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def amorphous_carbon(
    field_A: float, thickness_A: float, density_g_per_cm3: float, random: np.random.Generator
) -> Atoms:
    """Returns carbon atoms at random places with 0 ≤ z ≤ thickness, at least `CARBON_SPACING_A` apart.

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
            placed.append(candidates)
            trees.append(KDTree(candidates, boxsize=period))
    return Atoms(np.full(count, 6), np.concatenate(placed) if placed else np.zeros((0, 3)))


def hrtem_libraries() -> SimpleNamespace:
    """Returns abTEM, ASE's Atoms and its crystal builder; raises SegueError if they are not installed.

    The only place that imports them: they are an optional extra, since their license is the GPL.
    """
    try:
        with _numba_cache():
            import abtem
        from ase import Atoms as AseAtoms
        from ase.spacegroup import crystal
    except ImportError as error:
        raise SegueError(
            f"simulation needs abTEM and ASE, which cannot be imported ({error}); install them with "
            "`pip install 'segue[hrtem]'`."
        ) from None
    return SimpleNamespace(abtem=abtem, Atoms=AseAtoms, crystal=crystal)


def require_hrtem_libraries() -> None:
    """Raises SegueError, before any work and without importing them, if abTEM or ASE is not installed."""
    missing = [name for name in ("abtem", "ase") if importlib.util.find_spec(name) is None]
    if missing:
        raise SegueError(
            f"simulation needs abTEM and ASE, but {' and '.join(missing)} cannot be found; install them with "
            "`pip install 'segue[hrtem]'`."
        )


@contextlib.contextmanager
def _numba_cache() -> Iterator[None]:
    """Makes the modules imported meanwhile keep what numba compiles on disk.

    abTEM compiles without a cache, again in every process: some at its import, the rest for the first structure.
    """
    import numba

    jit, vectorize = numba.jit, numba.vectorize
    numba.jit, numba.vectorize = partial(jit, cache=True), partial(vectorize, cache=True)
    try:
        yield
    finally:
        numba.jit, numba.vectorize = jit, vectorize
