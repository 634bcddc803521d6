"""Imaging against abTEM's transfer function and closed forms."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from segue import rng
from segue.hrtem.imaging import ImagingSpec, minimum_contrast_A, render
from segue.hrtem.optics import AberrationsSpec, Optics, wavelength_A

OPTICS = Optics(energy_keV=300, pixel_size_A=0.4, focal_spread_A=0.0)


def smooth_wave(height: int = 48, width: int = 64, *, count: int = 1, seed: int = 0) -> np.ndarray:
    """Returns (count, H, W) complex64 about 1, band-limited to half of the Nyquist frequency."""
    random = rng.numpy_generator(seed, "wave")
    spectrum = np.fft.fft2(random.normal(size=(count, height, width)) + 1j * random.normal(size=(count, height, width)))
    ky, kx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    return (1 + 0.5 * np.fft.ifft2(spectrum * (np.hypot(ky, kx) < 0.25))).astype(np.complex64)


@pytest.mark.slow
@pytest.mark.parametrize("energy_keV", [80, 200, 300])
def test_the_wavelength_is_abtems(energy_keV: float) -> None:
    """The relativistic wavelength agrees with abTEM's (1.97 pm at 300 kV)."""
    from abtem.core.energy import energy2wavelength

    assert wavelength_A(energy_keV) == pytest.approx(energy2wavelength(1e3 * energy_keV), rel=1e-6)
    assert wavelength_A(300) == pytest.approx(0.019687, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("defocus_A", [-250.0, -3.0, 0.0, 100.0])
@pytest.mark.parametrize(
    ("focal_spread_A", "angular_spread_mrad", "cs_mm", "coma_nm"),
    [(0, 0, 0, 0), (10, 0, 0, 0), (40, 0, -0.01, 0), (10, 0, 1.2, 0), (10, 0.5, 0.6, 300)],
)
def test_intensities_are_abtems(
    defocus_A: float, focal_spread_A: float, angular_spread_mrad: float, cs_mm: float, coma_nm: float
) -> None:
    """Signs, envelopes and aberrations, all at once, are those of abTEM's CTF; its first axis is x."""
    import abtem

    wave = smooth_wave()[0]
    aberrations = AberrationsSpec.model_validate({"Cs_mm": cs_mm, "coma_nm": coma_nm, "coma_angle_deg": 40})
    with abtem.config.set({"diagnostics.progress_bar": False, "fft": "numpy"}):
        ctf = abtem.CTF(
            defocus=defocus_A, focal_spread=focal_spread_A, angular_spread=angular_spread_mrad, energy=300e3,
            Cs=1e7 * cs_mm, coma=10 * coma_nm, coma_angle=math.radians(40),
        )  # fmt: skip
        waves = abtem.Waves(wave.T.copy(), energy=300e3, sampling=0.4)
        expected = np.asarray(waves.apply_ctf(ctf).intensity().array).T
    optics = Optics(300, 0.4, focal_spread_A, angular_spread_mrad, aberrations.coefficients())
    actual = render(torch.from_numpy(wave[None]), torch.tensor([defocus_A]), optics)[0].numpy()
    np.testing.assert_allclose(actual, expected, atol=3e-4 * expected.max())


def test_positive_defocus_shows_a_plane_before_the_exit() -> None:
    """A wave carried on by d through the vacuum is brought back by a defocus of +d."""
    wave = torch.from_numpy(smooth_wave())
    ky, kx = (torch.fft.fftfreq(size, d=0.4, dtype=torch.float64) for size in wave.shape[-2:])
    fresnel = torch.exp(-1j * math.pi * wavelength_A(300) * 80.0 * (ky[:, None] ** 2 + kx**2)).to(wave.dtype)
    carried = torch.fft.ifft2(torch.fft.fft2(wave) * fresnel)
    torch.testing.assert_close(render(carried, torch.tensor([80.0]), OPTICS)[0], wave[0].abs() ** 2, atol=1e-4, rtol=0)


def test_phonons_average_and_conditions_do_not_mix() -> None:
    """The image of several waves is the mean of theirs, and a defocus gives the same alone and among others."""
    waves = torch.from_numpy(smooth_wave(count=3))
    defoci = torch.tensor([-100.0, 0.0, 55.0])
    together = render(waves, defoci, OPTICS)
    alone = torch.stack([render(wave[None], defoci[1:2], OPTICS)[0] for wave in waves]).mean(0)
    torch.testing.assert_close(together[1], alone)


@pytest.mark.parametrize("turned", [lambda a: a.flip(-1), lambda a: a.flip(-2), lambda a: a.transpose(-2, -1)])
def test_imaging_turns_with_the_wave(turned) -> None:
    """Mirrored and transposed waves give mirrored and transposed images: no axis is special."""
    wave = torch.from_numpy(smooth_wave())
    optics = Optics(300, 0.4, 10.0, 0.3, AberrationsSpec(C30_um=10).coefficients())
    image = render(wave, torch.tensor([70.0]), optics)
    torch.testing.assert_close(render(turned(wave), torch.tensor([70.0]), optics), turned(image), atol=1e-5, rtol=1e-4)


def test_the_zero_of_defocus_is_the_plane_of_a_phase_object() -> None:
    """A phase object 23.4 Å before the exit plane has least contrast at a defocus of 23.4 Å."""
    phase = torch.from_numpy(np.real(smooth_wave(64, 64)) - 1)
    ky, kx = (torch.fft.fftfreq(64, d=0.4, dtype=torch.float64) for _ in range(2))
    fresnel = torch.exp(-1j * math.pi * wavelength_A(300) * 23.4 * (ky[:, None] ** 2 + kx**2))
    carried = torch.fft.ifft2(torch.fft.fft2(torch.exp(0.1j * phase[0])) * fresnel).to(torch.complex64)
    assert minimum_contrast_A(carried, OPTICS, thickness_A=40.0) == pytest.approx(23.4, abs=0.11)


def test_least_contrast_of_a_weak_phase_lies_where_theory_says() -> None:
    """With spherical aberration it is the defocus at which Σ |φ(k)|² sin²χ(k) is least, far from 0."""
    phase = 0.02 * torch.from_numpy(np.real(smooth_wave(64, 64)[0]) - 1)
    optics = Optics(300, 0.4, aberrations=AberrationsSpec(C30_um=100).coefficients())
    k = torch.fft.fftfreq(64, d=0.4, dtype=torch.float64)
    k2 = k[:, None] ** 2 + k**2
    power = torch.fft.fft2(phase.double()).abs() ** 2
    wavelength = wavelength_A(300)
    defoci = torch.arange(0, 1000, dtype=torch.float64) / 10
    chi = 0.5 * math.pi * 1e6 * wavelength**3 * k2**2 - math.pi * wavelength * defoci[:, None, None] * k2
    expected = float(defoci[(power * torch.sin(chi) ** 2).sum((1, 2)).argmin()])
    wave = torch.exp(1j * phase).to(torch.complex64)
    assert expected > 30
    assert minimum_contrast_A(wave, optics, thickness_A=100.0) == pytest.approx(expected, abs=0.11)


def test_the_documented_settings_are_the_defaults() -> None:
    """The settings of docs/hrtem-imaging.md are accepted, and all but the aberrations are those without any."""
    text = (Path(__file__).parents[2] / "docs" / "hrtem-imaging.md").read_text(encoding="utf-8")
    table = tomllib.loads(text.split("```toml\n")[1].split("```")[0])["imaging"]
    assert table.pop("aberrations")["Cs_mm"] == 1.2
    assert set(table) | {"aberrations"} == set(ImagingSpec.model_fields)
    assert ImagingSpec.model_validate(table) == ImagingSpec()
