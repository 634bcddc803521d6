"""Wulff shapes: facets at distances proportional to their energies, as many as the symmetry makes, closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import ConvexHull, KDTree

from segue import rng
from segue.hrtem.crystals import CRYSTALS, crystal_sites
from segue.hrtem.specimen import SpecimenSpec, cut_crystal, read_material
from segue.hrtem.wulff import miller_indices, wulff_polyhedron

FACETED = [name for name, crystal in CRYSTALS.items() if crystal.surface_energies]


@pytest.mark.parametrize(
    ("name", "energies", "facets", "corners"),
    [
        ("Cu", None, 14, 24),  # truncated octahedron
        ("Si", None, 14, 6),  # octahedron, whose corners the cube's faces just touch
        ("Fe", None, 18, 14),  # rhombic dodecahedron, likewise
        ("Fe3O4", {"100": 1.0}, 6, 8),  # cube
        ("CdSe", {"10-10": 1.0, "0001": 1.2, "000-1": 0.9}, 8, 12),  # hexagonal prism, its two ends different
    ],
)
def test_facets_stand_at_their_energies(
    name: str, energies: dict[str, float] | None, facets: int, corners: int
) -> None:
    """Numbers of facets and corners are those of the known solids; distance / energy is one number; volume π/6."""
    sites = crystal_sites(name)
    energies = energies or CRYSTALS[name].surface_energies
    assert energies is not None
    assert sites.rotations is not None
    shape = wulff_polyhedron(energies, sites.cell_A, sites.rotations)
    assert len(shape.normals) == facets
    assert len(np.unique(shape.corners.round(6), axis=0)) == corners
    assert ConvexHull(shape.corners).volume == pytest.approx(math.pi / 6)
    assert (shape.corners @ shape.normals.T).max(axis=0) == pytest.approx(shape.distances)  # each facet is touched
    reciprocal = np.linalg.inv(sites.cell_A).T
    ratios = []
    for plane, energy in energies.items():
        normal = np.array(miller_indices(plane)) @ reciprocal
        facing = shape.normals @ normal / np.linalg.norm(normal)
        assert facing.max() == pytest.approx(1)
        ratios.append(shape.distances[facing.argmax()] / energy)
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


@pytest.mark.parametrize("name", FACETED)
def test_default_energies_count_broken_bonds(name: str) -> None:
    """Energies by default are the fewest nearest-neighbor bonds per area that a plane of the family can cut."""
    sites = crystal_sites(name)
    cells = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3), axis=-1).reshape(-1, 1, 3)
    atoms = (cells + sites.fractions).reshape(-1, 3) @ sites.cell_A
    starts, bonds = [], []
    for atom in sites.fractions @ sites.cell_A:
        distances = np.linalg.norm(atoms - atom, axis=1)
        nearest = distances[distances > 0.1].min()
        bonds += list((atoms - atom)[(distances > 0.1) & (distances < 1.01 * nearest)])
        starts += [atom] * (len(bonds) - len(starts))
    energies = CRYSTALS[name].surface_energies
    assert energies is not None
    counted = {}
    for plane in energies:
        normal = np.array(miller_indices(plane)) / np.linalg.norm(miller_indices(plane))
        spacing = sites.cell_A[0, 0] / np.linalg.norm(miller_indices(plane))  # of the cells' corners along the normal
        heights = spacing * (np.arange(500) + 0.5) / 500
        low, high = (np.array(starts) @ normal)[:, None], (np.array(starts) + bonds)[:, None] @ normal
        crossing = np.floor((heights - low) / spacing) - np.floor((heights - high) / spacing)
        counted[plane] = crossing.clip(0).sum(axis=0).min() * spacing
    first = next(iter(energies))
    for plane, energy in energies.items():
        assert energy / energies[first] == pytest.approx(counted[plane] / counted[first])


@pytest.mark.parametrize("name", FACETED)
def test_a_faceted_particle_fills_its_shape(name: str) -> None:
    """The atoms lie inside the polyhedron, have the density of the crystal and the volume of the sphere."""
    material = read_material(SpecimenSpec(crystal=name, shape="wulff", stacking_faults=0))
    _, positions, _ = cut_crystal(material, 40.0, random=rng.numpy_generator(0, "test"))
    shape = material.polyhedron
    assert shape is not None
    assert ((positions @ shape.normals.T) / (40.0 * shape.distances)).max() <= 1
    sites = material.sites
    expected = len(sites.numbers) / abs(np.linalg.det(sites.cell_A)) * math.pi / 6 * 40.0**3
    assert len(positions) == pytest.approx(expected, rel=0.04)
    corners = np.unique(shape.corners.round(9), axis=0)
    facets = (np.isclose(corners @ shape.normals.T, shape.distances, atol=1e-6)).sum(axis=0) >= 3
    outermost = (positions @ shape.normals.T).max(axis=0)
    assert outermost[facets] == pytest.approx(40.0 * shape.distances[facets], abs=2.5)  # less than a layer is missing
    assert KDTree(positions).query(positions, k=2)[0][:, 1].min() > 1.5


def test_open_shapes_are_refused() -> None:
    """A prism without ends encloses nothing."""
    sites = crystal_sites("CdSe")
    assert sites.rotations is not None
    for energies in ({"100": 1.0}, {"100": 1.0, "001": 1.0}):  # wurtzite has no plane that turns one end to the other
        with pytest.raises(ValueError, match="enclose no volume; add planes"):
            wulff_polyhedron(energies, sites.cell_A, sites.rotations)
    with pytest.raises(ValueError, match="found 1 and 1000; leave out planes of over 100 times"):
        wulff_polyhedron({"111": 1.0, "100": 1000.0}, sites.cell_A, sites.rotations)


@pytest.mark.parametrize(
    ("name", "indices"), [("111", (1, 1, 1)), ("1-10", (1, -1, 0)), ("-1-1-2", (-1, -1, -2)), ("10-10", (1, 0, 0))]
)
def test_planes_are_read(name: str, indices: tuple[int, int, int]) -> None:
    """Three indices, or four of which the third follows from the first two."""
    assert miller_indices(name) == indices


@pytest.mark.parametrize("name", ["11", "abc", "1--1", "11-", "000", "10-20", "", "1.1", "²11"])
def test_what_is_no_plane_is_refused(name: str) -> None:
    """Anything but indices of a plane is named."""
    with pytest.raises(ValueError, match="found"):
        miller_indices(name)
