"""Imaging in torch: exit waves → defocus, focal spread, spherical aberration → dose. abTEM is not needed here.

Defocus follows abTEM and Kirkland: positive is underfocus (the lens is too weak), C10 = −defocus, and the wave is
multiplied by exp(−i χ) with χ = 2π/λ (−½ defocus α² + ¼ Cs α⁴), α = λ k. Raising the defocus by d thus shows the
plane that lies d before the exit plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch

BLOCK_VALUES = 2**18  # complex numbers worked on at once while rendering: 2 MB, which stay near the processor


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def _different(values: list[float]) -> list[float]:
    if len(set(values)) < len(values):
        raise ValueError(f"found {values}; each value may occur only once; remove the repeated ones")
    return values


Series = (BeforeValidator(_as_list), AfterValidator(_different), Field(min_length=1))


class ImagingSpec(SpecModel):
    """The conditions under which every structure is imaged: each defocus with each dose.

    `defocus_nm` are nominal values from the minimum-contrast defocus of the structure's particles in vacuum, positive
    = underfocus; each image's own is drawn about them with standard deviation `defocus_spread_nm`. `focal_spread_A`
    is the 1/e half-width of the focal distribution (√2 standard deviations), as in abTEM. `tile_px` may be less than
    the field; a tile is then cut at a random place, and shows only those particles that stand there.
    """

    tile_px: Annotated[int, Field(ge=16)] = 512
    pixel_size_A: Annotated[float, Field(gt=0, le=1)] = 0.2
    defocus_nm: Annotated[list[float], *Series] = Field(default=[-10.0])
    defocus_spread_nm: Annotated[float, Field(ge=0)] = 1.5
    focal_spread_A: Annotated[float, Field(ge=0)] = 10.0
    spherical_aberration_mm: float = 0.0
    dose_e_per_A2: Annotated[list[Annotated[float, Field(gt=0)]], *Series] = Field(default=[400.0])


@dataclass(frozen=True)
class Optics:
    """Parameters of the microscope that are the same for all images."""

    energy_keV: float
    pixel_size_A: float
    focal_spread_A: float
    spherical_aberration_mm: float = 0.0


def wavelength_A(energy_keV: float) -> float:
    """Returns the relativistic electron wavelength h / √(2 m e E (1 + eE / 2mc²)), CODATA 2018."""
    energy_eV = 1e3 * energy_keV
    return 12.398419843320026e3 / math.sqrt(energy_eV * (2 * 510998.95 + energy_eV))


def render(waves: torch.Tensor, defocus_A: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns intensities (n, H, W) float32, 1 in vacuum, of exit waves (phonons, H, W) under n defoci.

    The intensity is the mean over the phonons of |wave|². The waves are transformed once; a defocus is a product of
    two lines, for its phase π λ k² defocus is a sum over the axes. The focal spread enters as the envelope
    exp(−(π λ k² spread / 2)²) on the wave (Kirkland, Advanced Computing in Electron Microscopy, section 3.2).
    """
    import torch

    wavelength = wavelength_A(optics.energy_keV)
    ky, kx = (
        torch.fft.fftfreq(size, d=optics.pixel_size_A, dtype=torch.float64, device=waves.device)
        for size in waves.shape[-2:]
    )
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    envelope = torch.exp(-((0.5 * math.pi * wavelength * optics.focal_spread_A * k2) ** 2))
    cs_A = 1e7 * optics.spherical_aberration_mm
    still = torch.polar(envelope, -0.5 * math.pi * cs_A * wavelength**3 * k2**2).to(waves.dtype)
    spectra = torch.fft.fft2(waves) * still
    turn = math.pi * wavelength * defocus_A.to(waves.device, torch.float64)
    rows = _phases(turn[:, None] * ky**2).to(waves.dtype)
    columns = _phases(turn[:, None] * kx**2).to(waves.dtype)
    batch = max(1, BLOCK_VALUES // waves.numel())
    images = []
    for row, column in zip(rows.split(batch), columns.split(batch), strict=True):
        lens = row[:, None, :, None] * column[:, None, None, :]
        images.append(torch.view_as_real(torch.fft.ifft2(spectra * lens)).square().sum(-1).mean(1))
    return torch.cat(images)


def _phases(angles: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.polar(torch.ones_like(angles), angles)


def expose(
    intensity: torch.Tensor, dose_e_per_A2: float | torch.Tensor, *, pixel_size_A: float, generator: torch.Generator
) -> torch.Tensor:
    """Returns electrons counted per pixel, float32 whole numbers: Poisson of intensity × dose × pixel area.

    The dose is one number or one for each image (n, 1, 1); the generator lives where the intensity does.
    """
    import torch

    return torch.poisson(intensity * (dose_e_per_A2 * pixel_size_A**2), generator=generator)


def minimum_contrast_A(wave: torch.Tensor, optics: Optics, *, thickness_A: float) -> float:
    """Returns the defocus in Å, on a grid of 0.1, at which the image of `wave` (H, W) has minimum variance.

    First every 1 Å from the exit plane to the entrance, `thickness_A` before it, then every 0.1 Å around the best.
    Planes outside are not searched: a crystal with one dominant spacing repeats its image along the beam, and with it
    the least contrast. Usually the plane lies about the middle of the particles.
    """
    import torch

    coarse = torch.arange(0.0, math.ceil(thickness_A) + 1.0, dtype=torch.float64)
    best = _min_variance_defocus(wave, coarse, optics)
    fine = best + 0.1 * torch.arange(-10, 11, dtype=torch.float64)
    return round(_min_variance_defocus(wave, fine, optics), 1)


def _min_variance_defocus(wave: torch.Tensor, defocus_A: torch.Tensor, optics: Optics) -> float:
    import torch

    batches = defocus_A.split(max(1, BLOCK_VALUES // wave.numel()))
    variances = [render(wave[None], batch, optics).double().var(dim=(-2, -1)) for batch in batches]
    return float(defocus_A[int(torch.cat(variances).argmin())])
