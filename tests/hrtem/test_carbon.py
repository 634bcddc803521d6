"""Amorphous carbon and graphene, against densities, bond lengths and periodicity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from segue import rng
from segue.errors import SpecError
from segue.hrtem.carbon import CARBON_SPACING_A, amorphous_carbon, carbon_island, graphene
from segue.hrtem.series import SeriesSpec
from segue.spec import validate


def test_amorphous_carbon_has_its_density_and_least_distance() -> None:
    """The film holds density × volume atoms, none nearer than a bond, also across the periodic border."""
    positions = amorphous_carbon(30.0, 20.0, 2.0, rng.numpy_generator(0, "test"))
    assert len(positions) == round(2.0 * 6.02214076e23 / 12.011 * 1e-24 * 30.0**2 * 20.0)
    tree = KDTree(positions, boxsize=[30.0, 30.0, 0.0])
    assert tree.query(positions, k=2)[0][:, 1].min() >= CARBON_SPACING_A
    assert positions[:, 2].min() >= 0
    assert positions[:, 2].max() <= 20.0
    assert np.histogram(positions[:, 2], bins=4, range=(0, 20))[0].std() < 0.03 * len(positions)


@pytest.mark.parametrize("seed", range(6))
def test_graphene_is_periodic_with_three_neighbors_at_its_bond_length(seed: int) -> None:
    """Every atom has three bonds of 1.42 Å (strained by at most 2.2 Å over the field), also across the border, and the
    sheet has two atoms in √3/2 · 2.46² Å²."""
    field_A = 100.0
    positions = graphene(field_A, rng.numpy_generator(seed, "test"))
    assert positions.min() >= 0
    assert positions.max() < field_A
    distances = KDTree(positions[:, :2], boxsize=field_A).query(positions[:, :2], k=5)[0][:, 1:]
    assert distances[:, :3] == pytest.approx(2.46 / np.sqrt(3), rel=0.022)
    assert distances[:, 3].min() > 2.38
    assert len(positions) == pytest.approx(2 * field_A**2 / (np.sqrt(3) / 2 * 2.46**2), rel=0.045)


def test_graphene_turns_from_structure_to_structure() -> None:
    """The angle of the bonds is uniform modulo its period of 60°: two sheets differ."""
    angles = []
    for seed in range(12):
        positions = graphene(60.0, rng.numpy_generator(seed, "test"))[:, :2]
        inner = positions[np.abs(positions - 30).max(axis=1) < 20]
        bonds = inner[KDTree(inner).query(inner, k=2)[1][:, 1]] - inner
        angles.append(np.angle(np.mean(np.exp(6j * np.arctan2(bonds[:, 1], bonds[:, 0])))))
    assert abs(np.mean(np.exp(1j * np.array(angles)))) < 0.6


def test_graphene_needs_a_field() -> None:
    """A field in which the sheet would be strained much is refused with the series."""
    table = {
        "name": "small", "structures": 1, "wave": {"field_nm": 3.0}, "imaging": {"tile_px": 64},
        "specimen": {"shape": "patch", "diameter_nm": 2, "stacking_faults": 0, "support": "graphene"},
    }  # fmt: skip
    with pytest.raises(SpecError, match=r"wave\.field_nm: found 3, in which graphene would be strained.*at least 4"):
        validate(SeriesSpec, table, context="series.toml")


def test_an_island_lies_inside_its_ellipsoid() -> None:
    """Its atoms keep inside circle and height, and it fills more than a third of the half ellipsoid."""
    positions = carbon_island(40.0, 15.0, 2.0, rng.numpy_generator(1, "test"))
    x, y, z = positions.T
    assert ((np.hypot(x, y) / 20) ** 2 + (z / 15) ** 2 <= 1 + 1e-9).all()
    half_ellipsoid = 2 / 3 * np.pi * 20**2 * 15 * 2.0 * 6.02214076e23 / 12.011 * 1e-24
    assert half_ellipsoid / 3 < len(positions) < half_ellipsoid
