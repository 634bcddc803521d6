"""Multislice against abTEM, closed forms, symmetries and conservation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, interpolate, special

from segue.errors import SegueError
from segue.hrtem.crystals import CRYSTALS
from segue.hrtem.imaging import render
from segue.hrtem.multislice import (
    AtomGroup,
    Beam,
    antialias_aperture,
    band_limited_phase,
    fresnel_propagator,
    interaction_constant,
    multislice,
    projected_potential,
    projected_potential_spectrum,
    scattering_parameters,
    spread_atoms,
)
from segue.hrtem.optics import Optics
from segue.hrtem.specimen import Atoms, SpecimenSpec, build

BEAM = Beam(field_A=12.8, grid_px=64, energy_keV=300.0, slice_thickness_A=2.0)


def random_atoms(count: int, *, height_A: float, seed: int = 0) -> Atoms:
    random = np.random.default_rng(seed)
    numbers = random.choice([6, 14, 47], size=count)
    return Atoms(numbers, random.uniform(size=(count, 3)) * [BEAM.field_A, BEAM.field_A, height_A])


def cut(wave: np.ndarray, size_px: int) -> np.ndarray:
    """Returns the wave on fewer points, by its spectrum."""
    first = len(wave) // 2 - size_px // 2
    spectrum = np.fft.fftshift(np.fft.fft2(wave))[first : first + size_px, first : first + size_px]
    return np.fft.ifft2(np.fft.ifftshift(spectrum)) * (size_px / len(wave)) ** 2


def difference(actual: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual.numpy() - expected) / np.linalg.norm(expected))


# abTEM -------------------------------------------------------------------------------------------------------------


def wave_by_abtem(atoms: Atoms, height_A: float, beam: Beam, *, size_px: int, finer: int) -> np.ndarray:
    """Returns abTEM's wave with the aperture of `beam` on a grid that is `finer` times as fine.

    Only so does it converge: on the beam's own grid it interpolates between points, and what lies beyond folds back.
    The slices end at the exit plane as ours do, since the cell is a whole number of them high.
    """
    import abtem
    import ase

    settings = {
        "antialias.cutoff": 2 / 3 / finer,
        "antialias.taper": 0.01 / finer,
        "dask.lazy": False,
        "diagnostics.progress_bar": False,
        "fftw.planning_effort": "FFTW_ESTIMATE",
        "fftw.threads": 1,
    }
    cell_A = math.ceil(height_A / beam.slice_thickness_A) * beam.slice_thickness_A
    positions_A = atoms.positions_A + np.array([0, 0, cell_A - height_A])
    cell = ase.Atoms(numbers=atoms.numbers, positions=positions_A, cell=[beam.field_A, beam.field_A, cell_A], pbc=True)
    with abtem.config.set(settings):
        potential = abtem.Potential(
            cell,
            gpts=finer * beam.grid_px,
            slice_thickness=beam.slice_thickness_A,
            parametrization="lobato",
            projection="infinite",
        )
        wave = abtem.PlaneWave(energy=1e3 * beam.energy_keV).multislice(potential, lazy=False)
    return cut(np.asarray(wave.array).reshape(potential.gpts).T, size_px)  # abTEM's first axis is x


def compare_with_abtem(crystal: str, support_nm: float, beam: Beam, *, finer: int) -> tuple[float, float]:
    """Returns the differences of the exit wave, and of its image 10 nm off focus as rms of the mean intensity."""
    spec = SpecimenSpec.model_validate(
        {
            "crystal": crystal,
            "particles": 1,
            "diameter_nm": 1.0,
            "spacing_nm": 0.1,
            "stacking_faults": 0,
            "support_nm": support_nm,
        }
    )
    specimen = build(spec, field_A=beam.field_A, seed=1, index=0)
    atoms, size_px = specimen.support + specimen.particles, beam.grid_px // 2
    ours = multislice([atoms], [specimen.height_A], beam, size_px=size_px)
    theirs = wave_by_abtem(atoms, specimen.height_A, beam, size_px=size_px, finer=finer)
    assert 0.99 < float(ours.abs().square().mean()) <= 1.0001
    optics = Optics(beam.energy_keV, beam.field_A / size_px, 10.0)
    image, expected = (
        render(wave.to(torch.complex64), torch.tensor([100.0]), optics)[0]
        for wave in (ours, torch.from_numpy(theirs)[None])
    )
    return difference(ours[0], theirs), float((image - expected).square().mean().sqrt() / expected.mean())


@pytest.mark.slow
@pytest.mark.parametrize("support_nm", [0.0, 0.8])
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_exit_waves_are_those_of_abtem(crystal: str, support_nm: float) -> None:
    """Each crystal, with and without support: to 1e-3 of abTEM on a grid of a quarter of the spacing."""
    wave, image = compare_with_abtem(crystal, support_nm, Beam(16.0, 80, 300.0, 2.0), finer=4)
    assert wave < 1e-3
    assert image < 1.2e-3


@pytest.mark.slow
@pytest.mark.parametrize("crystal", CRYSTALS)
def test_the_finer_abtems_grid_the_nearer(crystal: str) -> None:
    """At the study's spacing abTEM comes as near as 2.5e-4 (waves) and 1.5e-4 of the mean (images): 8 times finer."""
    beam = Beam(16.0, 160, 300.0, 2.0)
    coarse, fine = (compare_with_abtem(crystal, 0.8, beam, finer=finer) for finer in (4, 8))
    assert fine[0] < 2.5e-4
    assert fine[1] < 1.5e-4
    assert fine[0] < 0.5 * coarse[0]


@pytest.mark.slow
def test_the_parameters_are_abtems() -> None:
    """All 103 elements have the published parameters."""
    from abtem.parametrizations import LobatoParametrization
    from ase.data import chemical_symbols

    theirs = LobatoParametrization().parameters
    assert set(scattering_parameters()) == set(range(1, 104)) and len(theirs) == 103
    for number, pairs in scattering_parameters().items():
        np.testing.assert_allclose(np.transpose(pairs), theirs[chemical_symbols[number]], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 6, 47, 79])
def test_projected_potentials_are_abtems(number: int) -> None:
    """The projected potential and its Fourier transform agree with abTEM's closed forms (float32 there)."""
    from abtem.parametrizations import LobatoParametrization
    from ase.data import chemical_symbols

    theirs, symbol = LobatoParametrization(), chemical_symbols[number]
    k, r = np.linspace(0, 5, 20), np.geomspace(0.01, 3, 20)
    spectrum = theirs.projected_scattering_factor(symbol)(k**2)
    np.testing.assert_allclose(projected_potential_spectrum(number, k), spectrum, rtol=5e-5)
    np.testing.assert_allclose(projected_potential(number, r), theirs.projected_potential(symbol)(r), rtol=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("energy_keV", [80.0, 200.0, 300.0])
def test_the_interaction_constant_is_abtems(energy_keV: float) -> None:
    """The relativistic interaction constant, 6.526e-4 rad / (V Å) at 300 kV."""
    from abtem.core.energy import energy2sigma

    assert interaction_constant(energy_keV) == pytest.approx(energy2sigma(1e3 * energy_keV), rel=1e-7)


# closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [6, 79])
def test_the_spectrum_is_the_transform_of_the_projected_potential(number: int) -> None:
    """Bessel functions K in space, Lorentzians in Fourier space: one is the Hankel transform of the other."""
    for k in (0.0, 0.4, 1.5):
        value, _ = integrate.quad(
            lambda r, k=k: (
                2 * np.pi * r * special.j0(2 * np.pi * k * r) * projected_potential(number, np.array([r]))[0]
            ),
            1e-9,
            25,
            limit=400,
        )
        assert value == pytest.approx(float(projected_potential_spectrum(number, np.array([k]))[0]), rel=1e-5)


@pytest.mark.parametrize(
    ("number", "beam", "tolerance"),
    [(number, Beam(6.4, 32, 300.0, 2.0), 2e-4) for number in (6, 34, 79)]
    + [(79, Beam(3.2, 64, 60.0, 2.0), 2e-3)],  # whose phase passes π
)
def test_an_atom_transmits_by_its_closed_form(number: int, beam: Beam, tolerance: float) -> None:
    """Behind one atom stands exp(iσv), v of Bessel functions K sampled more finely, cut and propagated."""
    size, place_A = 512, np.array([3.1, 2.73])
    distance_A = np.geomspace(1e-3, 30, 4000)
    radial = interpolate.CubicSpline(np.log(distance_A), projected_potential(number, distance_A))
    # the atom half a point before the first point, and its neighbors in the periodic field
    grid_A = (np.arange(size) + 0.5) * beam.field_A / size
    x_A, y_A = np.meshgrid(grid_A, grid_A)
    cells_A = beam.field_A * np.arange(-2, 3)
    potential = sum(radial(np.log(np.hypot(x_A - dx, y_A - dy))) for dx in cells_A for dy in cells_A)
    index = np.fft.fftfreq(beam.grid_px, 1 / beam.grid_px).astype(int)
    spectrum = (
        np.fft.fft2(np.exp(1j * interaction_constant(beam.energy_keV) * potential))[np.ix_(index, index)] / size**2
    )
    ramp = np.exp(-2j * np.pi * (place_A / beam.field_A + 0.5 / size)[:, None] * index)
    spectrum *= ramp[1][:, None] * ramp[0] * antialias_aperture(beam) ** 2 * fresnel_propagator(beam)
    expected = np.fft.ifft2(spectrum) * beam.grid_px**2
    atom = Atoms(np.array([number]), np.array([[*place_A, 1.0]]))
    actual = multislice([atom], [2.0], beam, size_px=beam.grid_px)[0]
    assert difference(actual, expected) < tolerance


def test_places_of_atoms_are_accurate() -> None:
    """The spectrum of spread atoms, over the kernel's, is that of points up to the aperture: of five, 2e-4."""
    from segue.hrtem.multislice import _kernel_spectrum

    places = np.random.default_rng(0).uniform(0, BEAM.field_A, (5, 2))
    group = AtomGroup(6, places, np.zeros(5, int), np.array([0, 0, 0, 0, 1]))
    k = np.arange(-21, 22)
    kernel = _kernel_spectrum(np.abs(k) / BEAM.grid_px)
    spectrum = torch.fft.fft2(spread_atoms(group, 1, BEAM, "cpu"))[0].numpy()[np.ix_(k, k)] / np.outer(kernel, kernel)
    waves = np.exp(-2j * np.pi * k[:, None, None] * places / BEAM.field_A)
    points = np.einsum("yn,xn,n->yx", waves[..., 1], waves[..., 0], [1, 1, 1, 1, 1j])
    np.testing.assert_allclose(spectrum, points, atol=2e-4)


def test_the_phase_of_a_weak_atom_is_its_potential() -> None:
    """Below the aperture w is σv to first order, above it far less; its imaginary part is a loss."""
    k = np.linspace(0, 0.6, 30) * BEAM.nyquist_per_A
    phase = band_limited_phase(1, k, BEAM)
    weak = interaction_constant(300.0) * projected_potential_spectrum(1, k)
    np.testing.assert_allclose(phase.real, weak, rtol=1e-3)
    assert phase.imag[0] > 0
    assert abs(band_limited_phase(79, np.array([0.8 * BEAM.nyquist_per_A]), BEAM)[0]) < 0.03 * abs(
        band_limited_phase(79, np.array([0.0]), BEAM)[0]
    )


def test_propagation_is_unitary() -> None:
    """Without aperture no frequency loses anything, and two slices are one of twice the thickness."""
    propagator = fresnel_propagator(BEAM)
    np.testing.assert_allclose(np.abs(propagator), 1, rtol=1e-12)
    twice = Beam(BEAM.field_A, BEAM.grid_px, BEAM.energy_keV, 2 * BEAM.slice_thickness_A)
    np.testing.assert_allclose(propagator**2, fresnel_propagator(twice), atol=1e-10)


# symmetries --------------------------------------------------------------------------------------------------------


def test_an_atom_appears_in_its_row_and_column() -> None:
    """A gold atom at x = 8.0 Å, y = 2.8 Å gives its phase at column 40 and row 14, and nowhere else."""
    atom = Atoms(np.array([79]), np.array([[8.0, 2.8, 3.0]]))
    wave = multislice([atom], [4.0], BEAM, size_px=64)[0].numpy()
    assert np.unravel_index(np.angle(wave).argmax(), wave.shape) == (14, 40)
    assert np.abs(np.angle(wave)[36:, :20]).max() < 0.02


def test_atoms_shifted_by_parts_of_a_pixel_shift_the_wave() -> None:
    """The wave behind atoms moved by (0.37, 0.81) pixels is the wave moved by as much, across the border too."""
    atoms, shift_A = random_atoms(40, height_A=6.0), np.array([0.37, 0.81]) * BEAM.field_A / BEAM.grid_px
    moved = Atoms(atoms.numbers, atoms.positions_A + np.append(shift_A, 0))
    wave, shifted = multislice([atoms, moved], [6.0, 6.0], BEAM, size_px=64)
    ramp = np.exp(-2j * np.pi * np.fft.fftfreq(64) * np.array([0.37, 0.81])[:, None])
    expected = np.fft.ifft2(np.fft.fft2(wave.numpy()) * ramp[1][:, None] * ramp[0])
    assert difference(shifted, expected) < 1e-3


def test_vacuum_behind_atoms_propagates() -> None:
    """Three empty slices between the atoms and the exit plane are three propagations."""
    atoms = random_atoms(40, height_A=6.0)
    wave, farther = multislice([atoms, atoms], [6.0, 12.0], BEAM, size_px=64).numpy()
    step = antialias_aperture(BEAM) * fresnel_propagator(BEAM)
    np.testing.assert_allclose(np.fft.ifft2(np.fft.fft2(wave) * step**3), farther, atol=1e-5)


def test_vacuum_before_atoms_changes_nothing() -> None:
    """The plane wave stays what it is until it meets an atom, so that the distance from the entrance is free."""
    atoms = random_atoms(40, height_A=6.0)
    lifted = Atoms(atoms.numbers, atoms.positions_A + np.array([0, 0, 11.3]))
    near, far = multislice([atoms, lifted], [6.0, 17.3], BEAM, size_px=64)
    torch.testing.assert_close(near, far)


def test_batches_equal_single_specimens() -> None:
    """Structures of different heights and elements, at once and one by one; the second time bit by bit the same."""
    atoms = [random_atoms(60, height_A=height_A, seed=seed) for seed, height_A in enumerate((9.0, 3.0, 6.5))]
    atoms.append(Atoms(np.zeros(0, int), np.zeros((0, 3))))
    heights = [9.0, 3.5, 7.5, 2.0]
    single = multislice(atoms, heights, BEAM, size_px=48)
    for batch in (2, 4, 8):
        torch.testing.assert_close(multislice(atoms, heights, BEAM, size_px=48, batch=batch), single, rtol=0, atol=2e-6)
    assert torch.equal(multislice(atoms, heights, BEAM, size_px=48), single)
    torch.testing.assert_close(single[3], torch.ones(48, 48, dtype=torch.complex64))


def test_all_is_computed_on_the_device() -> None:
    """On a device without values nothing is taken from the CPU on the way, nor read back."""
    atoms = [random_atoms(20, height_A=5.0, seed=seed) for seed in (0, 1)]
    waves = multislice(atoms, [5.0, 9.0], BEAM, size_px=48, device="meta", batch=2)
    assert waves.device.type == "meta" and waves.shape == (2, 48, 48)


def test_fewer_points_have_the_same_values() -> None:
    """A wave on half the points, where it has no higher frequencies, has every second value."""
    atoms = random_atoms(20, height_A=4.0)
    beam = Beam(12.8, 64, 300.0, 2.0)
    full = multislice([atoms], [4.0], beam, size_px=64)[0].numpy()
    torch.testing.assert_close(
        multislice([atoms], [4.0], beam, size_px=48)[0], torch.from_numpy(cut(full, 48)).to(torch.complex64)
    )


def test_slices_thinner_than_needed_change_little() -> None:
    """From 2 Å to 1 Å the wave changes by less than 1 %, and less again from 1 Å to 0.5 Å."""
    atoms = random_atoms(60, height_A=12.0)
    waves = [
        multislice([atoms], [12.0], Beam(12.8, 64, 300.0, thickness_A), size_px=64)[0]
        for thickness_A in (2.0, 1.0, 0.5)
    ]
    first, second = (difference(waves[n], waves[n + 1].numpy()) for n in (0, 1))
    assert second < first < 0.05


# mistakes ----------------------------------------------------------------------------------------------------------


def test_unknown_elements_are_refused() -> None:
    """An element without parameters is named."""
    with pytest.raises(SegueError, match=r"atomic number 104; .* 1 to 103"):
        multislice([Atoms(np.array([104]), np.array([[1.0, 1.0, 1.0]]))], [2.0], BEAM, size_px=32)


@pytest.mark.parametrize("place_A", [(1, 1, -0.1), (1, 1, 4.1), (1, 1, math.nan), (1, math.inf, 2)])
def test_atoms_outside_are_refused(place_A: tuple[float, float, float]) -> None:
    """An atom before the entrance, behind the exit plane or nowhere is refused, not moved."""
    with pytest.raises(SegueError, match="1 of 1 outside the specimen"):
        multislice([Atoms(np.array([6]), np.array([place_A]))], [4.0], BEAM, size_px=32)


@pytest.mark.parametrize(("size_px", "batch", "words"), [(65, 1, "size_px: found 65"), (32, 0, "batch: found 0")])
def test_impossible_sizes_are_refused(size_px: int, batch: int, words: str) -> None:
    """More points than the grid has, and no wave at a time."""
    with pytest.raises(SegueError, match=words):
        multislice([random_atoms(2, height_A=4.0)], [4.0], BEAM, size_px=size_px, batch=batch)
