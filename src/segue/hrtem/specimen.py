"""Specimens as lists of atoms: particles, crystals with faults and twins or islands of carbon, on a carbon support.

A specimen is sampled in this order: the particles (number, diameters, places), the crystal inside each (faults, twins,
lattice origin, orientation, elements of mixed sites), then the support. Lengths are Å inside this module, nm in the
specification. Axes are x, y across the field, from one corner of it, and z along the beam: the electrons pass the
support first and the particles last, so that the exit plane lies just behind the particles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from segue import rng
from segue.errors import SegueError
from segue.hrtem.carbon import amorphous_carbon, carbon_island, graphene
from segue.hrtem.crystals import CRYSTALS, CrystalName, Fault, Sites, crystal_sites
from segue.hrtem.structure_file import read_structure, require_crystal
from segue.hrtem.wulff import Polyhedron, miller_indices, wulff_polyhedron
from segue.spec import SpecModel, as_range
from segue.storage import absolute

A_PER_NM = 10  # specifications give lengths in nm; atoms, waves and optics are computed in Å
CONTACT_GAP_A = 1.5  # between the support's surface and the lowest point of a particle
EDGE_GAP_A = 1.0  # empty space in front of and behind all atoms, so that no phonon leaves the cell
MAX_PLACEMENT_TRIES = 200
MASK_BLUR_A = 1.6  # of the labels of structure files: that of six of the published study's nine crystals
FOOTPRINT_A = 2.5  # of an atom, about the distance of neighbors
CARBON = 6


Positive = Annotated[float, Field(gt=0)]
Counts = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], BeforeValidator(as_range)]
Lengths = Annotated[tuple[Positive, Positive], BeforeValidator(as_range)]
ThicknessRange = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], BeforeValidator(as_range)
]


def _as_plane(name: str) -> str:
    miller_indices(name)
    return name


Plane = Annotated[str, AfterValidator(_as_plane)]


class SpecimenSpec(SpecModel):
    """What a structure consists of; ranges are [minimum, maximum], drawn uniformly for each structure or particle.

    `particles` is the requested number. Particles are placed one after another, entirely inside the field and at least
    `spacing_nm` apart (surface to surface, of the spheres about them, also across the periodic border). A particle for
    which there is no room is left out; the number of placed ones is recorded with every sample, and must reach the
    minimum.

    `crystal` names one of the nine; `structure_file` is a crystal or a particle of your own, a path relative to the
    specification. Its content decides what the series is, not its path: `structure_sha256` is the digest of the file,
    filled in by `locate`, and checked if it is written. `shape`: "sphere" or "wulff", cut from the crystal, or
    "whole", the atoms of the file as they are. `diameter_nm` (or half of it, `radius_nm`) is that of the sphere, or of
    a sphere with the volume of the Wulff shape, whose relative `surface_energies` are given by family of planes.
    "patch" is no crystal but an island of amorphous carbon with a wavy outline inside a circle of that diameter, and
    `thickness_nm` high at its middle. `support`: a film of amorphous carbon, or a sheet of graphene, strained a little
    to be periodic across the field; density is that of patches too.
    `stacking_faults` and `twins` are numbers of planes in each particle; a shape is that of the crystal without them.
    """

    crystal: CrystalName | None = "CdSe"
    structure_file: Annotated[str, Field(min_length=1)] | None = Field(default=None, exclude=True)
    structure_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    particles: Counts = (1, 5)
    shape: Literal["sphere", "wulff", "whole", "patch"] = "sphere"
    surface_energies: Annotated[dict[Plane, Positive], Field(min_length=1)] | None = None
    diameter_nm: Lengths = (3.0, 5.0)
    thickness_nm: Lengths = (0.5, 2.0)
    spacing_nm: Annotated[float, Field(ge=0)] = 1.0
    stacking_faults: Counts = (0, 2)
    twins: Counts = (0, 0)
    support: Literal["amorphous-carbon", "graphene"] = "amorphous-carbon"
    support_nm: ThicknessRange = (2.0, 8.0)
    support_density_g_per_cm3: Annotated[float, Field(gt=0, le=2.6)] = 2.0  # amorphous carbon: 1.8–2.1, sputtered film

    @model_validator(mode="before")
    @classmethod
    def _other_words(cls, table: Any) -> Any:
        """Converts radii to diameters, and leaves the default crystal out where a file has one."""
        if not isinstance(table, dict):
            return table
        table = dict(table)
        if "radius_nm" in table:
            if "diameter_nm" in table:
                raise ValueError("found both radius_nm and diameter_nm; give one of them")
            try:
                radii = as_range(table.pop("radius_nm"))
            except ValueError as error:
                raise ValueError(f"radius_nm: {error}") from None
            if radii[0] <= 0:
                raise ValueError(f"radius_nm: found {list(radii)}; give numbers above 0")
            table["diameter_nm"] = (2 * radii[0], 2 * radii[1])
        if table.get("structure_file") is not None or table.get("shape") == "patch":
            table.setdefault("crystal", None)
        return table

    @model_validator(mode="after")
    def _possible(self) -> SpecimenSpec:
        errors = []
        crystal = CRYSTALS[self.crystal] if self.crystal else None
        fault = crystal.fault if crystal else None
        is_patch = self.shape == "patch"
        name = f"crystal '{self.crystal}'" if self.crystal else "a patch" if is_patch else "a structure file"
        from_file = self.structure_file is not None or self.structure_sha256 is not None
        if is_patch and (crystal or from_file):
            errors.append('crystal: found with shape = "patch", which is of amorphous carbon; leave out one of them')
        elif not is_patch and (crystal is None) == (not from_file):
            errors.append("crystal: give either `crystal`, the name of one, or `structure_file`")
        if self.stacking_faults[1] > 0 and fault is None:
            faulted = ", ".join(name for name, crystal in CRYSTALS.items() if crystal.fault)
            errors.append(
                f"stacking_faults: found {list(self.stacking_faults)} with {name}, which has no "
                f"stacking to fault; write stacking_faults = 0 or take one of {faulted}"
            )
        if self.twins[1] > 0 and not (fault and fault.twins):
            twinned = ", ".join(name for name, crystal in CRYSTALS.items() if crystal.fault and crystal.fault.twins)
            errors.append(
                f"twins: found {list(self.twins)} with {name}, which has no twins on close-packed planes (wurtzite has "
                f"stacking faults there); write twins = 0 or take one of {twinned}"
            )
        if self.surface_energies is not None and self.shape != "wulff":
            errors.append(
                f'surface_energies: found with shape = "{self.shape}"; write shape = "wulff", or leave them out'
            )
        if self.shape == "wulff" and self.surface_energies is None and not (crystal and crystal.surface_energies):
            errors.append(
                f"surface_energies: missing for {name}; give relative energies by family of planes, such as "
                "{ 111 = 1.0, 100 = 1.15 }"
            )
        if self.shape == "whole" and self.crystal:
            errors.append(
                'shape: found "whole" with a crystal, which has no end; give a `structure_file`, or another shape'
            )
        if self.shape == "whole" and self.diameter_nm != (3.0, 5.0):
            errors.append('diameter_nm: found with shape = "whole", which has the size of the file; leave it out')
        if not is_patch and self.thickness_nm != (0.5, 2.0):
            errors.append(f'thickness_nm: found with shape = "{self.shape}"; it is that of patches; leave it out')
        if self.support == "graphene" and self.support_nm != (2.0, 8.0):
            errors.append('support_nm: found with support = "graphene", which is one layer; leave it out')
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

    def moved(self, shift_A: np.ndarray | list[float]) -> Atoms:
        return Atoms(self.numbers, self.positions_A + shift_A)


@dataclass(frozen=True)
class Defect:
    """A plane of a particle on which the stacking of its layers changes.

    All lengths are Å, from the particle's center. `normal` is a unit vector, `offset_A` the plane's place along it;
    `row` is the unit vector of a close-packed row in the plane: seen along it, the order of the layers shows.
    """

    kind: Literal["fault", "twin"]
    normal: np.ndarray
    offset_A: float
    row: np.ndarray


@dataclass(frozen=True)
class Particle:
    """A particle: its atoms, its center (3,) and the diameter that was drawn for it in Å, and its planar defects."""

    atoms: Atoms
    center_A: np.ndarray
    diameter_A: float
    defects: tuple[Defect, ...]


@dataclass(frozen=True)
class Specimen:
    """The atoms of a structure in a cell of field × field × `height_A`, the beam along +z.

    The particles stand between `particles_from_A` and the exit plane at `height_A`; `support` lies before them.
    `formula` names what the particles consist of.
    """

    parts: tuple[Particle, ...]
    support: Atoms
    support_A: float
    particles_from_A: float
    height_A: float
    formula: str

    @property
    def particles(self) -> Atoms:
        """The atoms of all particles."""
        return sum((part.atoms for part in self.parts), Atoms(np.zeros(0, int), np.zeros((0, 3))))

    @property
    def particle_area_A2(self) -> float:
        """The area that the particles' atoms cover, seen along the beam, in squares of `FOOTPRINT_A`."""
        squares = np.floor(self.particles.positions_A[:, :2] / FOOTPRINT_A).astype(int)
        return len(np.unique(squares, axis=0)) * FOOTPRINT_A**2

    @property
    def centers_A(self) -> np.ndarray:
        """(n, 3), x y z of the particles' centers."""
        return np.array([part.center_A for part in self.parts]).reshape(-1, 3)

    @property
    def diameters_A(self) -> np.ndarray:
        """(n,)."""
        return np.array([part.diameter_A for part in self.parts])


def locate(spec: SpecimenSpec, root: Path) -> SpecimenSpec:
    """Returns a specification whose structure file, relative to `root`, has an absolute path and its digest.

    Without a file it is `spec` itself. Raises SegueError for a file or for surface energies that are unsuitable.
    """
    located = spec
    if spec.structure_file is not None:
        path = absolute(root / spec.structure_file)
        digest = read_structure(path, spec.structure_sha256).sha256
        located = spec.model_copy(update={"structure_file": str(path), "structure_sha256": digest})
    if spec.structure_file is not None or spec.shape == "wulff":
        read_material(located)
    return located


def build(spec: SpecimenSpec, *, field_A: float, seed: int, index: int) -> Specimen:
    """Returns structure number `index`: a function of the specification, the field, the seed and the index only."""
    random = rng.numpy_generator(seed, "specimen", index)
    material = read_material(spec)
    centers_xy, diameters = _place(spec, material, field_A, random)
    support_A = A_PER_NM * float(random.uniform(*spec.support_nm)) if spec.support == "amorphous-carbon" else 0.0
    surface = EDGE_GAP_A + support_A
    lowest = surface + CONTACT_GAP_A
    parts, depths = [], [0.0]
    for (x, y), diameter in zip(centers_xy, diameters, strict=True):
        particle = _particle(spec, material, float(diameter), random)
        if spec.shape == "sphere":
            below, depth = diameter / 2, diameter
        else:
            z = particle.atoms.positions_A[:, 2]
            below, depth = -float(z.min()), float(np.ptp(z))
        center = np.array([x, y, lowest + below])
        parts.append(replace(particle, atoms=particle.atoms.moved(center), center_A=center))
        depths.append(depth)
    random_support = rng.numpy_generator(seed, "support", index)
    if spec.support == "graphene":
        carbon = graphene(field_A, random_support)
    else:
        carbon = amorphous_carbon(field_A, support_A, spec.support_density_g_per_cm3, random_support)
    support = Atoms(np.full(len(carbon), CARBON), carbon)
    height = lowest + max(depths) + EDGE_GAP_A
    return Specimen(
        tuple(parts), support.moved([0, 0, EDGE_GAP_A]), support_A, surface, float(height), material.formula
    )


@dataclass(frozen=True)
class Material:
    """What particles consist of. `polyhedron`: their Wulff shape for a diameter of 1; None for other shapes."""

    sites: Sites
    formula: str
    fault: Fault | None
    polyhedron: Polyhedron | None


def read_material(spec: SpecimenSpec) -> Material:
    """Returns what a specification's particles consist of; raises SegueError for a structure file that is unsuitable,
    and for surface energies whose planes leave the shape open."""
    if spec.shape == "patch":
        carbon = Sites(np.array([[CARBON]]), np.ones((1, 1)), np.zeros((1, 3)), np.eye(3), False, None)
        return Material(carbon, "C", None, None)
    if spec.crystal is None:
        if spec.structure_file is None:
            raise SegueError("specimen.structure_file: missing; give the path of the file with structure_sha256.")
        path = Path(spec.structure_file)
        file = read_structure(path, spec.structure_sha256)
        sites, formula, fault, energies = file.sites, file.formula, None, None
        if spec.shape != "whole":
            require_crystal(path, sites)
        if spec.shape == "wulff" and sites.rotations is None:
            raise SegueError(f'{path}: states no symmetry, from which shape = "wulff" knows equal planes; give a CIF.')
    else:
        crystal = CRYSTALS[spec.crystal]
        sites, formula = crystal_sites(spec.crystal), spec.crystal
        fault, energies = crystal.fault, crystal.surface_energies
    polyhedron = None
    if spec.shape == "wulff":
        energies = spec.surface_energies or energies
        assert energies is not None  # checked with the specification
        assert sites.rotations is not None
        try:
            polyhedron = wulff_polyhedron(energies, sites.cell_A, sites.rotations)
        except ValueError as error:
            raise SegueError(f"specimen.surface_energies: {error}.") from None
    return Material(sites, formula, fault, polyhedron)


def _place(
    spec: SpecimenSpec, material: Material, field_A: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns centers (n, 2) and diameters (n,) of particles that lie inside the field and keep their distance."""
    count = int(random.integers(spec.particles[0], spec.particles[1] + 1))
    if spec.shape == "whole":
        sites = material.sites
        reach = np.linalg.norm(_centered(sites.fractions @ sites.cell_A), axis=1).max()
        diameters = np.full(count, 2 * float(reach))
    else:
        diameters = A_PER_NM * random.uniform(*spec.diameter_nm, size=count)
    around = 1.0 if material.polyhedron is None else 2 * material.polyhedron.circumradius  # the sphere about the shape
    centers: list[np.ndarray] = []
    placed: list[float] = []
    for diameter in diameters:
        outer = around * diameter
        if outer > field_A:
            continue
        for candidate in random.uniform(outer / 2, field_A - outer / 2, size=(MAX_PLACEMENT_TRIES, 2)):
            apart = np.array(centers).reshape(-1, 2) - candidate
            apart -= field_A * np.round(apart / field_A)
            min_distance = (around * np.array(placed) + outer) / 2 + A_PER_NM * spec.spacing_nm
            if np.all(np.hypot(apart[:, 0], apart[:, 1]) >= min_distance):
                centers.append(candidate)
                placed.append(float(diameter))
                break
    if len(placed) < spec.particles[0]:
        across = f"{around * diameters.max() / A_PER_NM:.3g} nm"
        nominal = f"{spec.diameter_nm[0]:g}–{spec.diameter_nm[1]:g} nm"
        size = {
            "sphere": nominal,
            "patch": nominal,
            "wulff": f"{nominal}, up to {across} from corner to corner",
            "whole": across,
        }
        raise SegueError(
            f"specimen.particles: found room for {len(placed)} of at least {spec.particles[0]} particles of "
            f"{size[spec.shape]}, {spec.spacing_nm:g} nm apart, in a field of {field_A / A_PER_NM:g} nm; ask for "
            "fewer or smaller particles, less spacing or a larger field."
        )
    return np.array(centers).reshape(-1, 2), np.array(placed)


def _centered(positions_A: np.ndarray) -> np.ndarray:
    """Returns positions about the middle of the box that holds them."""
    return positions_A - (positions_A.min(axis=0) + positions_A.max(axis=0)) / 2


def _particle(spec: SpecimenSpec, material: Material, diameter_A: float, random: np.random.Generator) -> Particle:
    """Returns a particle about the origin, in a random orientation; a patch lies flat."""
    faults = int(random.integers(spec.stacking_faults[0], spec.stacking_faults[1] + 1))
    twins = int(random.integers(spec.twins[0], spec.twins[1] + 1)) if spec.twins[1] else 0
    if spec.shape == "whole":
        sites = material.sites
        which, positions = np.arange(len(sites.fractions)), _centered(sites.fractions @ sites.cell_A)
        defects: tuple[Defect, ...] = ()
    elif spec.shape == "patch":
        thickness_A = A_PER_NM * float(random.uniform(*spec.thickness_nm))
        positions = carbon_island(diameter_A, thickness_A, spec.support_density_g_per_cm3, random)
        which, defects = np.zeros(len(positions), int), ()
    else:
        which, positions, defects = cut_crystal(material, diameter_A, faults=faults, twins=twins, random=random)
    rotation = np.eye(3) if spec.shape == "patch" else random_rotation(random)
    numbers = material.sites.elements(which, random)
    occupied = numbers > 0
    if not occupied.any():
        raise SegueError(
            f"specimen.diameter_nm: a particle of {diameter_A / A_PER_NM:.3g} nm holds no atom; take larger ones."
        )
    defects = tuple(replace(one, normal=rotation @ one.normal, row=rotation @ one.row) for one in defects)
    return Particle(Atoms(numbers[occupied], positions[occupied] @ rotation.T), np.zeros(3), diameter_A, defects)


def cut_crystal(
    material: Material, diameter_A: float, *, faults: int = 0, twins: int = 0, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[Defect, ...]]:
    """Returns the sites (n,), positions (n, 3) in Å and defects of a particle about the origin, in the lattice's axes.

    The particle is cut at a random place of the lattice. `faults` and `twins` are numbers of planes; they lie within
    0.8 radii of the center, all on different planes (a particle too small to hold that many takes as many as it holds).
    """
    sites, polyhedron = material.sites, material.polyhedron
    radius = diameter_A / 2
    center = (random.uniform(size=3) - 0.5) @ sites.cell_A
    slips = _slips(material, center, radius, faults=faults, twins=twins, random=random)
    reach = radius if polyhedron is None else diameter_A * polyhedron.circumradius
    farthest = reach + float(np.linalg.norm(center)) + sum(slip.farthest_A for slip in slips)
    faces_A = 1 / np.linalg.norm(np.linalg.inv(sites.cell_A), axis=0)  # distances between opposite faces of the cell
    ranges = [np.arange(-n, n + 1) for n in np.ceil(farthest / faces_A).astype(int) + 1]
    corners = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (corners + sites.fractions % 1.0).reshape(-1, 3) @ sites.cell_A
    for slip in slips:
        positions = slip.apply(positions)
    positions = positions - center
    if polyhedron is None:
        inside = np.linalg.norm(positions, axis=1) <= radius
    else:
        inside = (positions @ polyhedron.normals.T <= diameter_A * polyhedron.distances).all(axis=1)
    which = np.tile(np.arange(len(sites.fractions)), len(corners))[inside]
    return which, positions[inside], tuple(slip.defect(center) for slip in slips)


@dataclass(frozen=True)
class _Slip:
    """What moves all atoms beyond a plane: a fault's shift, or a twin's half turn about an axis along the normal.

    `height_A` is the plane's place along `normal`, from the cell's origin; `vector_A`, in the plane, is the shift or
    the place of the axis; `mirror_A` is the height at which the twin's layers mirror each other, one of the layers.
    """

    kind: Literal["fault", "twin"]
    normal: np.ndarray
    row: np.ndarray
    height_A: float
    vector_A: np.ndarray
    mirror_A: float

    @property
    def farthest_A(self) -> float:
        """By how much an atom's distance from the origin can change."""
        return float(np.linalg.norm(self.vector_A)) * (1 if self.kind == "fault" else 2)

    def apply(self, positions_A: np.ndarray) -> np.ndarray:
        heights = positions_A @ self.normal
        beyond = heights > self.height_A
        if self.kind == "fault":
            return positions_A + np.outer(beyond, self.vector_A)
        rotated = 2 * (self.vector_A + np.outer(heights, self.normal)) - positions_A
        return np.where(beyond[:, None], rotated, positions_A)

    def defect(self, center: np.ndarray) -> Defect:
        return Defect(self.kind, self.normal, self.mirror_A - float(center @ self.normal), self.row)


def _slips(
    material: Material, center: np.ndarray, radius: float, *, faults: int, twins: int, random: np.random.Generator
) -> list[_Slip]:
    """Returns the faults and twins of a particle, in the order in which they act: each in the undisturbed crystal."""
    fault = material.fault
    if fault is None or faults + twins == 0:
        return []
    cell = material.sites.cell_A
    normal, row = np.array(fault.normal) @ cell, np.array(fault.row) @ cell
    period = float(np.linalg.norm(normal))
    normal, row = normal / period, row / np.linalg.norm(row)
    around = (float(center @ normal) / period - fault.origin) * fault.planes_per_cell
    span = 0.8 * radius / period * fault.planes_per_cell
    planes = np.arange(np.ceil(around - span), np.floor(around + span) + 1).astype(int)
    slips = []
    fault_planes = random.choice(planes, size=min(faults, len(planes)), replace=False) if faults else planes[:0]
    for plane in fault_planes:
        sign = -1 if fault.alternating and plane % 2 else 1
        height = float((plane / fault.planes_per_cell + fault.origin) * period)
        slips.append(_Slip("fault", normal, row, height, sign * np.array(fault.shift) @ cell, height))
    if twins:
        free = np.setdiff1d(planes, fault_planes)
        for plane in random.choice(free, size=min(twins, len(free)), replace=False):
            height = float((plane / fault.planes_per_cell + fault.origin) * period)
            axis = plane % fault.planes_per_cell * np.array(fault.shift) @ cell
            mirror = float(plane / fault.planes_per_cell * period)
            slips.append(_Slip("twin", normal, row, height, axis, mirror))
        # what lies nearer moves what lies farther with it, as a whole
        slips.sort(key=lambda slip: -slip.height_A)
    return slips


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
