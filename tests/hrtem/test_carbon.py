"""Amorphous carbon and graphene, against densities, bond lengths and periodicity."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from segue import rng
from segue.errors import SpecError
from segue.hrtem.carbon import CARBON_SPACING_A, amorphous_carbon, carbon_island, graphene
from segue.hrtem.series import SeriesSpec, structure, structures_seed
from segue.hrtem.specimen import build
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


def test_a_series_of_patches_on_graphene_labels_the_patches() -> None:
    """The label covers the island and nothing of the sheet; images and label repeat; groups say what they are."""
    table = {
        "name": "patches", "structures": 1, "wave": {"field_nm": 5.12, "sampling_A": 0.2, "frozen_phonons": 1},
        "specimen": {"shape": "patch", "particles": 1, "diameter_nm": 2.5, "thickness_nm": 2.0, "stacking_faults": 0,
                     "support": "graphene"},
        "imaging": {"tile_px": 128, "pixel_size_A": 0.4},
        "labels": {"phase_threshold_rad": 0.06, "blur_A": 3.0},
    }  # fmt: skip
    spec = validate(SeriesSpec, table, context="series.toml")
    tiles = structure(spec, 0)
    label = tiles.labels["particles"][0]
    specimen = build(spec.specimen, field_A=51.2, seed=structures_seed(spec), index=0)
    x, y = np.floor(specimen.particles.positions_A[:, :2].T / 0.4).astype(int)
    assert label[y, x].mean() > 0.95
    assert 0.05 < label.mean() < 0.3
    assert tiles.samples["group"][0].startswith("patch-")
    assert np.array_equal(tiles.images, structure(spec, 0).images)
