"""Aberrations and envelopes against abTEM's transfer function and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from segue.errors import SpecError
from segue.hrtem.imaging import ImagingSpec
from segue.hrtem.optics import (
    A_PER_UNIT,
    ABERRATIONS,
    ALIASES,
    Aberration,
    AberrationsSpec,
    Optics,
    angular_envelope,
    chi,
    chi_gradient,
    focal_envelope,
    least_contrast_defocus_A,
    max_displacement_A,
    wavelength_A,
)
from segue.spec import validate

EVERYTHING = {
    "C12_nm": 12.0, "phi12_deg": 20.0, "C21_nm": 300.0, "phi21_deg": -70.0, "C23_nm": 150.0, "phi23_deg": 33.0,
    "C30_um": -13.0, "C32_um": 5.0, "phi32_deg": 50.0, "C34_um": 8.0, "phi34_deg": 11.0,
    "C41_um": 90.0, "phi41_deg": 140.0, "C43_um": 60.0, "phi43_deg": -15.0, "C45_um": 70.0, "phi45_deg": 8.0,
    "C50_mm": 4.0, "C52_mm": 2.0, "phi52_deg": 77.0, "C54_mm": 3.0, "phi54_deg": 5.0, "C56_mm": 2.5, "phi56_deg": 25.0,
}  # fmt: skip
ONE_BY_ONE = [
    {name: EVERYTHING[name] for name in (symbol, f"phi{symbol[1:3]}_deg") if name in EVERYTHING}
    for symbol in ABERRATIONS
]


def angles(height: int, width: int, pixel_size_A: float = 0.4, energy_keV: float = 300.0) -> torch.Tensor:
    """Returns ω (H, W) in rad at the frequencies of an image."""
    ky, kx = (torch.fft.fftfreq(size, d=pixel_size_A, dtype=torch.float64) for size in (height, width))
    return wavelength_A(energy_keV) * torch.complex(kx[None].repeat(height, 1), ky[:, None].repeat(1, width))


def abtems(table: dict[str, float]) -> dict[str, float]:
    """Returns the settings in abTEM's symbols and units, Å and rad."""
    return {
        name.split("_")[0]: math.radians(value) if name.startswith("phi") else A_PER_UNIT[name[-2:]] * value
        for name, value in table.items()
    }


def abtems_ctf(height: int, width: int, **settings: Any) -> np.ndarray:
    """Returns abTEM's transfer function [y, x]: the spectrum of the image of a point. abTEM's first axis is x."""
    import abtem

    point = np.zeros((width, height), np.complex64)
    point[0, 0] = 1
    with abtem.config.set({"diagnostics.progress_bar": False, "fft": "numpy"}):
        waves = abtem.Waves(point, energy=300e3, sampling=0.4)
        return np.fft.fft2(np.asarray(waves.apply_ctf(abtem.CTF(energy=300e3, **settings)).array)).T


@pytest.mark.slow
@pytest.mark.parametrize("table", [*ONE_BY_ONE, EVERYTHING], ids=[*ABERRATIONS, "all"])
def test_aberrations_are_abtems(table: dict[str, float]) -> None:
    """exp(−iχ) of every aberration, alone and with all others, is abTEM's: coefficient, unit, sign and angle."""
    optics = Optics(300, 0.4, aberrations=AberrationsSpec(**table).coefficients())
    transfer = torch.exp(-1j * chi(angles(48, 64), optics)).numpy()
    assert np.abs(transfer - 1).max() > 0.02
    # abTEM computes phases of tens of rad in float32
    np.testing.assert_allclose(transfer, abtems_ctf(48, 64, **abtems(table)), atol=1e-3)


@pytest.mark.parametrize("symbol", ABERRATIONS)
def test_an_aberration_is_its_closed_form(symbol: str) -> None:
    """χ = 2π/λ C / (n + 1) α^(n+1) cos(m (φ − φ₀)) at an angle α and azimuth φ."""
    order, multiplicity = ABERRATIONS[symbol]
    optics = Optics(200, 0.4, aberrations=(Aberration(order, multiplicity, 1e5, 0.4),))
    alpha, azimuth = 0.012, 1.9
    omega = torch.tensor([alpha * complex(math.cos(azimuth), math.sin(azimuth))], dtype=torch.complex128)
    expected = 1e5 / (order + 1) * alpha ** (order + 1) * math.cos(multiplicity * (azimuth - 0.4))
    assert float(chi(omega, optics)) == pytest.approx(2 * math.pi / 0.0250793 * expected, rel=1e-5)


def test_the_gradient_is_that_of_the_phase() -> None:
    """`chi_gradient` is the derivative of `chi` by both angles, as central differences give it."""
    optics = Optics(300, 0.4, aberrations=AberrationsSpec(**EVERYTHING).coefficients())
    omega, step = angles(9, 12), 1e-6
    by_x, by_y = ((chi(omega + d, optics) - chi(omega - d, optics)) / (2 * step) for d in (step, 1j * step))
    torch.testing.assert_close(chi_gradient(omega, optics), torch.complex(by_x, by_y), rtol=1e-6, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("defocus_A", [0.0, 100.0, -250.0])
@pytest.mark.parametrize("table", [{}, {"C30_um": 1200.0}, EVERYTHING], ids=["none", "Cs", "all"])
def test_the_envelope_of_the_illumination_is_abtems(table: dict[str, float], defocus_A: float) -> None:
    """The damping by the angular spread, also by every aberration, is that of abTEM's partial coherence."""
    optics = Optics(300, 0.4, angular_spread_mrad=0.8, aberrations=AberrationsSpec(**table).coefficients())
    omega = angles(48, 64)
    defocus = torch.full((1, 1, 1), defocus_A, dtype=torch.float64)
    envelope = angular_envelope(omega, chi_gradient(omega, optics), defocus, optics)[0].numpy()
    expected = np.abs(abtems_ctf(48, 64, angular_spread=0.8, defocus=defocus_A, **abtems(table)))
    np.testing.assert_allclose(envelope, expected, atol=2e-5)


def test_the_envelope_of_the_illumination_is_its_closed_form() -> None:
    """With defocus alone it is exp(−(π β Δf k)²)."""
    optics = Optics(300, 0.4, angular_spread_mrad=0.5)
    omega = angles(1, 64)
    defocus = torch.full((1, 1, 1), 700.0, dtype=torch.float64)
    k = torch.fft.fftfreq(64, d=0.4, dtype=torch.float64)
    expected = torch.exp(-((math.pi * 0.5e-3 * 700 * k) ** 2))
    actual = angular_envelope(omega, chi_gradient(omega, optics), defocus, optics)[0, 0]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("table", [{}, {"Cs_mm": 1.2}, {"coma_nm": 500}, {"C34_um": 20}])
def test_the_largest_displacement_is_that_of_the_gradient(table: dict[str, float]) -> None:
    """Without spreads it is |∇χ| λ / 2π at Nyquist's frequency in the worst direction; spreads bound it."""
    aberrations = AberrationsSpec.model_validate(table).coefficients()
    azimuth = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    omega = torch.polar(torch.full_like(azimuth, wavelength_A(300) / 0.8), azimuth)
    gradient = chi_gradient(omega, Optics(300, 0.4, aberrations=aberrations)) / (2 * math.pi) * wavelength_A(300)
    expected = float((gradient.abs() + 200 * omega.abs()).max())
    assert max_displacement_A(Optics(300, 0.4, aberrations=aberrations), 200.0) == pytest.approx(expected, rel=1e-6)
    damped = Optics(300, 0.4, 10, 0.5, aberrations)
    assert max_displacement_A(damped, 200.0) <= math.sqrt(math.log(10)) * wavelength_A(300) / (math.pi * 0.5e-3)


def test_the_envelope_of_the_focal_spread_averages_defoci() -> None:
    """It is the mean transfer of defoci with a Gaussian of 1/e half-width Δ, of which Δ/√2 is the deviation."""
    optics = Optics(300, 0.4, focal_spread_A=30.0)
    k2 = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    defoci = torch.linspace(-150, 150, 3001, dtype=torch.float64)
    weights = torch.exp(-((defoci / 30.0) ** 2))
    transfer = torch.exp(1j * math.pi * optics.wavelength_A * k2 * defoci[:, None])
    expected = (weights[:, None] * transfer).sum(0).real / weights.sum()
    torch.testing.assert_close(focal_envelope(k2, optics), expected)


def test_the_convention_of_the_focal_spread_is_a_setting() -> None:
    """A spread of 10 Å sigma is one of 14.14 Å at 1/e; without the setting it is 1/e, as in abTEM."""
    sigma = ImagingSpec(focal_spread_A=10, focal_spread_convention="sigma").optics(300)
    assert sigma.focal_spread_A == pytest.approx(10 * math.sqrt(2))
    assert ImagingSpec(focal_spread_A=10).optics(300).focal_spread_A == 10


def test_the_contrast_transfer_of_a_weak_phase_vanishes_where_theory_says() -> None:
    """sin χ with Scherzer's defocus 1.2 √(Cs λ) has its first zero at k = 1.549 (Cs λ³)^(−1/4)."""
    cs_A, wavelength = 1.2e7, wavelength_A(300)
    optics = Optics(300, 0.4, aberrations=AberrationsSpec.model_validate({"Cs_mm": 1.2}).coefficients())
    defocus_A = 1.2 * math.sqrt(cs_A * wavelength)
    zero = math.sqrt(2 * 1.2) * (cs_A * wavelength**3) ** -0.25
    k = torch.linspace(0.02, 1.2 * zero, 5000, dtype=torch.float64)
    phase = chi(torch.complex(wavelength * k, 0 * k), optics) - math.pi * wavelength * defocus_A * k**2
    first = int(torch.nonzero(torch.sin(phase).diff().sign().diff())[0])  # the minimum lies before the zero
    crossing = first + int(torch.nonzero(torch.sin(phase[first:]) > 0)[0])
    assert float(k[crossing]) == pytest.approx(zero, rel=1e-3)
    assert zero == pytest.approx(0.5005, abs=1e-3)


@pytest.mark.parametrize("alias", ALIASES)
def test_abtems_names_are_aliases(alias: str) -> None:
    """A setting by abTEM's name is the same as by its symbol, in the unit that it names."""
    symbol = ALIASES[alias]
    unit = {name: A_PER_UNIT.get(name[-2:], 1.0) for name in (alias, symbol)}
    actual = AberrationsSpec.model_validate({alias: 1.5})
    assert actual == AberrationsSpec.model_validate({symbol: 1.5 * unit[alias] / unit[symbol]})
    assert getattr(actual, symbol) != 0


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"C10_nm": 5.0}, "aberrations: C10_nm is not set here: give imaging.defocus_nm"),
        ({"Cs_mm": 1.0, "C30_um": 1000.0}, "aberrations: C30_um is given twice, for Cs_mm is the same; remove one"),
        ({"C31_um": 1.0}, r"aberrations: unknown key 'C31_um'; did you mean 'C\d\d_um'"),
        ({"coma_nm": "large"}, "aberrations.C21_nm: found 'large'; give a number"),
        ({"Cs_mm": "1.2"}, "aberrations.C30_um: found '1.2'; give a number"),
        ({"Cs_mm": True}, "aberrations.C30_um: found True; give a number"),
    ],
)
def test_mistaken_aberrations_are_refused(table: dict, words: str) -> None:
    """Unknown names, one named twice, and what is no number are refused, each in a sentence."""
    with pytest.raises(SpecError, match=words):
        validate(ImagingSpec, {"aberrations": table}, context="x")


def test_the_former_name_of_spherical_aberration_is_reported() -> None:
    """The name that the setting had says what it is called now."""
    with pytest.raises(SpecError, match=r"`spherical_aberration_mm` is called `aberrations.Cs_mm` now"):
        validate(ImagingSpec, {"spherical_aberration_mm": 1.2}, context="x")


@pytest.mark.parametrize(
    ("aberrations", "expected_A"),
    [
        ({"Cs_mm": 1.2}, 213.9),  # 0.44 √(Cs λ)
        ({"Cs_mm": 0.5}, 138.0),
        ({"Cs_mm": -0.02}, -27.6),
        ({"Cs_mm": 0.02, "astigmatism_nm": 5, "coma_nm": 100}, 27.6),
        ({"Cs_mm": 0.001}, 2.51),  # (√2 − 1) Cs λ² k² at Nyquist's k, which comes before
        ({}, 0.0),
        ({"astigmatism_nm": 20}, 0.0),
    ],
)
def test_aberrations_move_the_least_contrast(aberrations: dict, expected_A: float) -> None:
    optics = Optics(300, 0.4, 10.0, aberrations=AberrationsSpec(**aberrations).coefficients())
    assert least_contrast_defocus_A(optics) == pytest.approx(expected_A, rel=0.01, abs=0.05)
