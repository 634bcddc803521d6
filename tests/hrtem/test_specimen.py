"""Specimens: crystals, faults, placing and the support, against known distances and densities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from segue import rng
from segue.errors import SegueError, SpecError
from segue.hrtem.crystals import CRYSTALS, crystal_sites
from segue.hrtem.exit_wave import WaveSpec, vacuum_wave
from segue.hrtem.imaging import render
from segue.hrtem.optics import Optics
from segue.hrtem.specimen import (
    Atoms,
    Particle,
    Specimen,
    SpecimenSpec,
    build,
    cut_crystal,
    random_rotation,
    read_material,
)
from segue.spec import validate

# nearest neighbours in Å, from the lattices: a√3/4 (diamond), a/√2 (fcc), a√3/2 (bcc), (1-u)c … for the others
NEAREST_A = {
    "ZnS": 2.342,
    "CdSe": 2.628,
    "Cu": 2.557,
    "Ag": 2.884,
    "C": 1.545,
    "Si": 2.351,
    "Fe3O4": 1.889,
    "Co3O4": 1.916,
    "Fe": 2.482,
}
NEIGHBORS = {"ZnS": 4, "CdSe": 4, "Cu": 12, "Ag": 12, "C": 4, "Si": 4}


def sphere(name: str, diameter_A: float, *, faults: int = 0, twins: int = 0, seed: int = 0) -> Atoms:
    """Returns a sphere in the axes of its lattice."""
    material = read_material(SpecimenSpec(crystal=name, stacking_faults=0))
    random = rng.numpy_generator(seed, "test")
    which, positions, _ = cut_crystal(material, diameter_A, faults=faults, twins=twins, random=random)
    return Atoms(material.sites.numbers[which, 0], positions)


@pytest.mark.parametrize("name", CRYSTALS)
def test_spheres_have_the_crystals_density_and_bonds(name: str) -> None:
    """Each crystal has the bond length of its lattice, and a sphere of it the density of its cell."""
    atoms = sphere(name, 40.0)
    distances = KDTree(atoms.positions_A).query(atoms.positions_A, k=2)[0][:, 1]
    assert distances.min() == pytest.approx(NEAREST_A[name], abs=2e-3)
    sites = crystal_sites(name)
    expected = len(sites.numbers) / abs(np.linalg.det(sites.cell_A)) * 4 / 3 * np.pi * 20.0**3
    assert len(atoms.numbers) == pytest.approx(expected, rel=0.03)
    assert np.linalg.norm(atoms.positions_A, axis=1).max() <= 20.0


@pytest.mark.parametrize("name", [name for name, crystal in CRYSTALS.items() if crystal.fault])
@pytest.mark.parametrize("seed", range(4))
def test_a_fault_keeps_every_bond_and_changes_the_stacking(name: str, seed: int) -> None:
    """Across a stacking fault bond lengths and coordination stay; farther neighbours are new ones."""
    perfect, faulted = sphere(name, 36.0, seed=seed), sphere(name, 36.0, faults=2, seed=seed)
    bond = 1.1 * NEAREST_A[name]
    tree = KDTree(faulted.positions_A)
    inner = np.linalg.norm(faulted.positions_A, axis=1) < 18.0 - bond
    neighbors = np.array(tree.query_ball_point(faulted.positions_A[inner], bond, return_length=True)) - 1
    assert set(neighbors) == {NEIGHBORS[name]}
    assert tree.query(faulted.positions_A, k=2)[0][:, 1].min() == pytest.approx(NEAREST_A[name], abs=2e-3)

    def shells(atoms) -> set[float]:
        pairs = KDTree(atoms.positions_A).query_pairs(3.2 * NEAREST_A[name], output_type="ndarray")
        lengths = np.linalg.norm(atoms.positions_A[pairs[:, 0]] - atoms.positions_A[pairs[:, 1]], axis=1)
        return set(np.round(lengths / NEAREST_A[name], 2))

    assert shells(faulted) - shells(perfect)


@pytest.mark.parametrize(
    ("crystal", "faults", "count", "moments"),
    [
        ("CdSe", (0, 2), 331, [5069.8189065127135, 2974.630255147377, 2600.011737288818]),
        ("Cu", (1, 2), 777, [11838.843526212795, 6854.3382485578795, 6357.01128675236]),
        ("Si", (2, 2), 464, [6971.347608741289, 4121.439305558152, 3901.980415919313]),
        ("Fe", (0, 0), 785, [12056.576776204287, 7422.482418933123, 6851.080349281677]),
        ("Fe3O4", (0, 0), 882, [13516.116726754102, 8271.378817392584, 7569.9317821568175]),
    ],
)
def test_equal_specifications_give_the_atoms_of_before(
    crystal: str, faults: tuple[int, int], count: int, moments: list[float]
) -> None:
    """Numbers, order and places of the atoms of spheres are those that datasets were made with: series keep their
    groups only as long as they do. `moments`: the sum over the atoms of index / count × position."""
    table = {"crystal": crystal, "particles": [1, 3], "diameter_nm": [1.4, 2.2], "spacing_nm": 0.3}
    spec = validate(SpecimenSpec, table | {"stacking_faults": faults, "support_nm": [0.3, 0.6]}, context="x")
    specimen = build(spec, field_A=60.0, seed=4, index=2)
    positions = specimen.particles.positions_A
    assert (len(positions), len(specimen.support.numbers)) == (count, 1364)
    np.testing.assert_allclose(np.arange(count) / count @ positions, moments, rtol=1e-9)
    assert specimen.height_A == pytest.approx(28.55212957065772, rel=1e-12)


@pytest.mark.parametrize("name", [name for name, crystal in CRYSTALS.items() if crystal.fault and crystal.fault.twins])
@pytest.mark.parametrize(("faults", "twins", "seed"), [(0, 1, 0), (0, 2, 1), (1, 2, 2), (2, 3, 3)])
def test_a_twin_keeps_every_bond(name: str, faults: int, twins: int, seed: int) -> None:
    """Across twins, also of faulted crystals, bond lengths, coordination and density stay."""
    atoms, perfect = sphere(name, 36.0, faults=faults, twins=twins, seed=seed), sphere(name, 36.0, seed=seed)
    assert len(atoms.numbers) == pytest.approx(len(perfect.numbers), rel=0.02)
    bond = 1.1 * NEAREST_A[name]
    tree = KDTree(atoms.positions_A)
    inner = np.linalg.norm(atoms.positions_A, axis=1) < 18.0 - bond
    neighbors = np.array(tree.query_ball_point(atoms.positions_A[inner], bond, return_length=True)) - 1
    assert set(neighbors) == {NEIGHBORS[name]}
    assert tree.query(atoms.positions_A, k=2)[0][:, 1].min() == pytest.approx(NEAREST_A[name], abs=2e-3)


@pytest.mark.parametrize("name", ["Cu", "Si"])
def test_a_twin_mirrors_the_crystal_in_its_plane(name: str) -> None:
    """Reflected in the twin's plane every atom falls on one, but not reflected in the plane's neighbors."""
    material = read_material(SpecimenSpec(crystal=name, stacking_faults=0))
    _, positions, defects = cut_crystal(material, 36.0, twins=1, random=rng.numpy_generator(2, "test"))
    (twin,) = defects
    assert twin.kind == "twin"
    assert twin.normal @ twin.row == pytest.approx(0, abs=1e-12)
    tree = KDTree(positions)

    def farthest_from_an_atom(offset_A: float) -> float:
        reflected = positions - 2 * np.outer(positions @ twin.normal - offset_A, twin.normal)
        return float(tree.query(reflected[np.linalg.norm(reflected, axis=1) < 17.9])[0].max())

    assert farthest_from_an_atom(twin.offset_A) < 1e-6
    spacing = crystal_sites(name).cell_A[0, 0] / np.sqrt(3)
    assert farthest_from_an_atom(twin.offset_A + spacing) > 0.5


def test_a_fault_shifts_what_lies_beyond_its_plane() -> None:
    """Below the plane all atoms are those of the perfect crystal, above it none; one shift takes all of them back."""
    material = read_material(SpecimenSpec(crystal="Cu", stacking_faults=0))
    _, positions, (fault,) = cut_crystal(material, 36.0, faults=1, random=rng.numpy_generator(1, "test"))
    _, perfect, _ = cut_crystal(material, 44.0, random=rng.numpy_generator(1, "test"))
    beyond = positions @ fault.normal > fault.offset_A
    tree = KDTree(perfect)
    assert 0.1 < beyond.mean() < 0.9
    assert tree.query(positions[~beyond])[0].max() < 1e-6
    assert tree.query(positions[beyond])[0].min() > 0.5
    shift = np.array([1 / 6, 1 / 6, -1 / 3]) * CRYSTALS["Cu"].a_A
    assert tree.query(positions[beyond] - shift)[0].max() < 1e-6


# spacings of lattice planes in Å, from powder diffraction files, with the directions of the beam that show them
SPACINGS_A = {
    "ZnS": ((1, 0, 0), {(0, 0, 2): 3.128, (0, 1, 0): 3.309}),
    "CdSe": ((1, 0, 0), {(0, 0, 2): 3.510, (0, 1, 0): 3.720}),
    "Cu": ((1, -1, 0), {(1, 1, 1): 2.088, (0, 0, 2): 1.808}),
    "Ag": ((1, -1, 0), {(1, 1, 1): 2.359, (0, 0, 2): 2.044}),
    "C": ((1, -1, 0), {(1, 1, 1): 2.060}),
    "Si": ((1, -1, 0), {(1, 1, 1): 3.136, (2, 2, 0): 1.920}),
    "Fe3O4": ((1, -1, 0), {(1, 1, 1): 4.852, (2, 2, 0): 2.967}),
    "Co3O4": ((1, -1, 0), {(1, 1, 1): 4.667, (2, 2, 0): 2.860}),
    "Fe": ((0, 0, 1), {(1, 1, 0): 2.027}),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_lattice_fringes_stand_at_the_spacings_of_the_crystal(name: str) -> None:
    """In images along a zone axis the power spectrum peaks at the spacings and directions of the lattice's planes."""
    axis, planes = SPACINGS_A[name]
    material = read_material(SpecimenSpec(crystal=name, stacking_faults=0))
    which, positions, _ = cut_crystal(material, 30.0, random=rng.numpy_generator(0, "test"))
    cell = material.sites.cell_A
    beam = np.array(axis) @ cell / np.linalg.norm(np.array(axis) @ cell)
    across = np.cross(beam, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    turned = positions @ np.array([across, np.cross(beam, across), beam]).T
    center = np.array([20.0, 20.0, 16.0])
    particle = Particle(Atoms(material.sites.numbers[which, 0], turned + center), center, 30.0, ())
    specimen = Specimen((particle,), Atoms(np.zeros(0, int), np.zeros((0, 3))), 0.0, 0.0, 32.0, name)
    wave = vacuum_wave(specimen, WaveSpec(field_nm=4.0, sampling_A=0.2, slice_thickness_A=1.0), size_px=200)
    images = render(wave[None], torch.tensor([-40.0, 20.0, 80.0]), Optics(300, 0.2, 10.0)).double().numpy()
    y, x = np.mgrid[:200, :200] * 0.2

    def power(frequency: np.ndarray) -> float:
        waves = np.outer(np.exp(-2j * np.pi * y[:, 0] * frequency[1]), np.exp(-2j * np.pi * x[0] * frequency[0]))
        return float((np.abs(((images - images.mean()) * waves).sum((1, 2))) ** 2).sum())

    for plane, spacing_A in planes.items():
        normal = np.array(plane) @ np.linalg.inv(cell).T
        direction = np.array([across @ normal, np.cross(beam, across) @ normal]) / np.linalg.norm(normal)
        assert np.linalg.norm(direction) == pytest.approx(1)  # the beam runs within the planes
        scales = np.linspace(0.92, 1.08, 81)
        along = [power(scale / spacing_A * direction) for scale in scales]
        assert scales[int(np.argmax(along))] == pytest.approx(1, abs=0.012)
        turns = [0.2, 0.3, -0.2, -0.3]
        beside = [
            power(np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) @ direction / spacing_A) for t in turns
        ]
        assert max(along) > 10 * np.median(beside)


def test_radii_are_half_the_diameters() -> None:
    """radius_nm is another way to write diameter_nm, with the same atoms and the same identity."""
    radii = validate(SpecimenSpec, {"radius_nm": [1, 2]}, context="x")
    assert radii == validate(SpecimenSpec, {"diameter_nm": [2, 4]}, context="x")
    assert validate(SpecimenSpec, {"radius_nm": 1.5}, context="x").diameter_nm == (3.0, 3.0)


def test_faceted_particles_stand_inside_the_field_and_apart() -> None:
    """The spheres about Wulff shapes keep their distance; the lowest atom of each is the same way above the support."""
    spec = SpecimenSpec(crystal="Cu", shape="wulff", particles=3, diameter_nm=1.5, support_nm=0.4, twins=(0, 1))
    specimen = build(spec, field_A=64.0, seed=0, index=0)
    everything = [part.atoms.positions_A for part in specimen.parts]
    for i, positions in enumerate(everything):
        assert positions[:, :2].min() >= 0
        assert positions[:, :2].max() <= 64.0
        assert positions[:, 2].min() == pytest.approx(specimen.particles_from_A + 1.5)
        assert positions[:, 2].max() <= specimen.height_A - 1.0 + 1e-9
        for other in everything[:i]:
            assert KDTree(positions).query(other)[0].min() > 10.0


def test_particles_stand_inside_the_field_and_apart() -> None:
    """Spheres lie wholly inside the field, at least the spacing apart across its border too, on the support."""
    spec = SpecimenSpec(particles=(2, 5), diameter_nm=(1.2, 1.6), spacing_nm=0.4, support_nm=(0.3, 0.6))
    for index in range(6):
        specimen = build(spec, field_A=50.0, seed=3, index=index)
        radii = specimen.diameters_A / 2
        assert 2 <= len(radii) <= 5
        assert np.all(specimen.centers_A[:, :2] >= radii[:, None])
        assert np.all(specimen.centers_A[:, :2] <= 50.0 - radii[:, None])
        for i, j in zip(*np.triu_indices(len(radii), k=1), strict=True):
            apart = specimen.centers_A[i, :2] - specimen.centers_A[j, :2]
            apart -= 50.0 * np.round(apart / 50.0)
            assert np.hypot(*apart) >= radii[i] + radii[j] + 4.0
        assert specimen.support.positions_A[:, 2].max() < specimen.particles_from_A
        assert specimen.particles.positions_A[:, 2].min() > specimen.particles_from_A
        assert specimen.particles.positions_A[:, 2].max() < specimen.height_A


def test_too_many_particles_are_refused() -> None:
    """A least number for which there is no room is a mistake that names the field and the remedy."""
    spec = SpecimenSpec(particles=9, diameter_nm=2.0, support_nm=0.5)
    with pytest.raises(SegueError, match=r"of at least 9 particles of 2–2 nm.*field of 4 nm"):
        build(spec, field_A=40.0, seed=0, index=0)


def test_no_support_is_allowed() -> None:
    """A support of thickness 0 has no atoms."""
    assert len(build(SpecimenSpec(support_nm=0), field_A=128.0, seed=0, index=0).support.numbers) == 0


def test_a_structure_depends_on_seed_and_index_only() -> None:
    """Equal seed and index give equal atoms; another index gives others."""
    spec = SpecimenSpec(particles=2, diameter_nm=1.2, support_nm=0.5, spacing_nm=0.2)
    first, again, other = (build(spec, field_A=40.0, seed=1, index=index) for index in (4, 4, 5))
    np.testing.assert_array_equal(first.particles.positions_A, again.particles.positions_A)
    np.testing.assert_array_equal(first.support.positions_A, again.support.positions_A)
    assert not np.array_equal(first.centers_A, other.centers_A)


def test_orientations_are_rotations_without_a_preferred_axis() -> None:
    """Random orientations are proper rotations, and rotate an axis to everywhere alike."""
    random = rng.numpy_generator(0, "test")
    rotations = np.array([random_rotation(random) for _ in range(2000)])
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (2000, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_allclose(rotations.mean(0), 0, atol=0.05)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"crystal": "CdSi"}, "did you mean 'CdSe'"),
        ({"crystal": "Fe", "stacking_faults": [0, 2]}, "no stacking to fault; write stacking_faults = 0"),
        ({"diameter_nm": [5, 3]}, r"diameter_nm: found \[5, 3\]; a range is \[minimum, maximum\]"),
        ({"particles": 0}, "there would be nothing to segment"),
        ({"support_nm": "thick"}, "support_nm: found 'thick'; give one number or a range"),
        ({"particle": 3}, "unknown key 'particle'; did you mean 'particles'"),
        ({"radius_nm": 1, "diameter_nm": 2}, "found both radius_nm and diameter_nm; give one"),
        ({"radius_nm": [2, 1]}, r"radius_nm: found \[2, 1\]; a range is \[minimum, maximum\]"),
        ({"twins": 1}, "twins: found .* with crystal 'CdSe', which has no twins.*take one of Cu, Ag, C, Si"),
        ({"crystal": "Cu", "structure_file": "a.cif"}, "give either `crystal`, the name of one, or `structure_file`"),
        ({"structure_file": "a.cif"}, "stacking_faults: .* with a structure file, which has no stacking"),
        ({"crystal": "Cu", "shape": "whole"}, 'shape: found "whole" with a crystal.*give a `structure_file`'),
        ({"structure_file": "a.xyz", "shape": "whole", "diameter_nm": 3}, "diameter_nm: found with shape"),
        ({"shape": "wulff"}, "surface_energies: missing for crystal 'CdSe'; give relative energies"),
        ({"crystal": "Cu", "surface_energies": {"111": 1}}, 'surface_energies: found with shape = "sphere"'),
        ({"crystal": "Cu", "shape": "wulff", "surface_energies": {"11": 1}}, "found '11'; write the three or four"),
        (
            {"crystal": "Cu", "shape": "wulff", "surface_energies": {"111": -1}},
            "surface_energies.111: found -1; give a",
        ),
        ({"shape": "cube"}, "shape: unknown value 'cube'"),
        ({"structure_file": 3, "stacking_faults": 0}, "structure_file: found 3; give a text, in quotes"),
    ],
)
def test_mistakes_are_worded(table: dict, words: str) -> None:
    """Each mistake in a specimen's table says where it is and what to write instead."""
    with pytest.raises(SpecError, match=words):
        validate(SpecimenSpec, table, context="x.toml")


def test_patches_lie_flat_on_a_sheet_of_graphene() -> None:
    """Their atoms are above the sheet, inside their circle and not thicker than given; nothing else is in the cell."""
    spec = SpecimenSpec(
        shape="patch",
        particles=3,
        diameter_nm=3.0,
        thickness_nm=1.5,
        spacing_nm=0,
        stacking_faults=0,
        support="graphene",
    )
    specimen = build(spec, field_A=120.0, seed=0, index=0)
    assert specimen.formula == "C"
    assert specimen.support_A == 0
    assert len(specimen.parts) == 3
    assert np.ptp(specimen.support.positions_A[:, 2]) == 0
    for part in specimen.parts:
        x, y, z = (part.atoms.positions_A - part.center_A).T
        assert np.hypot(x, y).max() <= 15.0
        assert np.ptp(z) <= 15.0
        assert (part.atoms.positions_A[:, 2] > specimen.support.positions_A[0, 2] + 1.4).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shape": "patch", "crystal": "Cu"}, "amorphous carbon"),
        ({"shape": "patch"}, "a patch, which has no"),
        ({"thickness_nm": 1.0}, "that of patches"),
        ({"support": "graphene", "support_nm": 3}, "one layer"),
    ],
)
def test_settings_that_contradict_a_patch_or_graphene(settings: dict[str, object], words: str) -> None:
    """Each is named with its remedy."""
    with pytest.raises(SpecError, match=words):
        validate(SpecimenSpec, settings, context="series.toml")


def test_a_specification_is_read_back_from_its_record() -> None:
    """What a dataset stores of a specimen describes it again, whatever its shape."""
    for spec in (SpecimenSpec(shape="patch", stacking_faults=0, support="graphene"), SpecimenSpec()):
        assert SpecimenSpec.model_validate(spec.model_dump(mode="json")) == spec
