"""Imaging in torch: exit waves → intensities under any defocus, and the plane that defocus is counted from.

Defocus follows abTEM and Kirkland: positive is underfocus (the lens is too weak), C10 = −defocus. Raising the defocus
by d thus shows the plane that lies d before the exit plane. The other aberrations and the spreads are in `optics`,
dose and noise in `detector`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from segue.hrtem.detector import DetectorSpec
from segue.hrtem.optics import AberrationsSpec, Optics, angular_envelope, chi, chi_gradient, focal_envelope
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

    `defocus_nm` are nominal values, positive = underfocus, from the zero of defocus: by default the plane in which the
    structure's particles in vacuum have least contrast without aberrations, plus the defocus at which the aberrations
    give least contrast (`optics.least_contrast_defocus_A`); a number is that many nm before the exit plane (0: the exit
    plane).
    Each image's own is drawn about them with standard deviation `defocus_spread_nm`. `focal_spread_A` is the 1/e
    half-width of the focal distribution (√2 standard deviations), as in abTEM, or with the convention "sigma" its
    standard deviation; `angular_spread_mrad` is the 1/e half-angle of the illumination. `tile_px` may be less than the
    field; a tile is then cut at a random place, and shows only those particles that stand there.
    """

    RENAMED = {"spherical_aberration_mm": "aberrations.Cs_mm"}
    tile_px: Annotated[int, Field(ge=16)] = 512
    pixel_size_A: Annotated[float, Field(gt=0, le=1)] = 0.2
    defocus_nm: Annotated[list[float], *Series] = Field(default=[-10.0])
    defocus_spread_nm: Annotated[float, Field(ge=0)] = 1.5
    zero_defocus_nm: Literal["minimum-contrast"] | float = "minimum-contrast"
    focal_spread_A: Annotated[float, Field(ge=0)] = 10.0
    focal_spread_convention: Literal["1/e", "sigma"] = "1/e"
    angular_spread_mrad: Annotated[float, Field(ge=0, le=100)] = 0.0
    aberrations: AberrationsSpec = AberrationsSpec()
    dose_e_per_A2: Annotated[list[Annotated[float, Field(gt=0)]], *Series] = Field(default=[400.0])
    detector: DetectorSpec = DetectorSpec()

    def optics(self, energy_keV: float) -> Optics:
        """Returns the microscope's parameters at an energy of the electrons."""
        return Optics(
            energy_keV,
            self.pixel_size_A,
            self.focal_spread_A * (math.sqrt(2) if self.focal_spread_convention == "sigma" else 1),
            self.angular_spread_mrad,
            self.aberrations.coefficients(),
        )


def render(waves: torch.Tensor, defocus_A: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns intensities (n, H, W) float32, 1 in vacuum, of exit waves (phonons, H, W) under n defoci."""
    import torch

    return torch.cat(list(render_spectra(lens_spectra(waves, optics), defocus_A, optics)))


def lens_spectra(waves: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns the spectra (phonons, H, W) of waves behind the lens, in focus: with aberrations and focal spread."""
    import torch

    ky, kx = _lines(waves, optics)
    lens = focal_envelope(ky[:, None] ** 2 + kx**2, optics)
    if optics.aberrations:
        return torch.fft.fft2(waves) * torch.polar(lens, -chi(_angles(ky, kx, optics), optics)).to(waves.dtype)
    return torch.fft.fft2(waves) * lens.to(torch.float32)


def _angles(ky: torch.Tensor, kx: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns the angles ω (H, W) in rad of the frequencies along the axes."""
    import torch

    return optics.wavelength_A * torch.complex(*torch.broadcast_tensors(kx, ky[:, None]))


def _lines(waves: torch.Tensor, optics: Optics) -> list[torch.Tensor]:
    import torch

    return [
        torch.fft.fftfreq(size, d=optics.pixel_size_A, dtype=torch.float64, device=waves.device)
        for size in waves.shape[-2:]
    ]


def render_spectra(spectra: torch.Tensor, defocus_A: torch.Tensor, optics: Optics) -> Iterator[torch.Tensor]:
    """Yields the intensities of `render` from `lens_spectra`, a few defoci at once.

    The intensity is the mean over the phonons of |wave|². A defocus is a product of two lines, for its phase π λ k²
    defocus is a sum over the axes. The spreads enter as envelopes on the wave, which holds where the unscattered beam
    is strong; that of the illumination depends on the defocus.
    """
    import torch

    count, *shape = spectra.shape
    ky, kx = _lines(spectra, optics)
    defocus_A = defocus_A.to(spectra.device, torch.float64)
    turn = math.pi * optics.wavelength_A * defocus_A
    rows = _phases(turn[:, None] * ky**2).to(spectra.dtype)
    columns = _phases(turn[:, None] * kx**2).to(spectra.dtype)
    omega = _angles(ky, kx, optics) if optics.angular_spread_mrad else None
    gradient = None if omega is None else chi_gradient(omega, optics)
    at_once = max(1, BLOCK_VALUES // math.prod(shape))
    batch = max(1, at_once // count)
    for row, column, defocus in zip(*(values.split(batch) for values in (rows, columns, defocus_A)), strict=True):
        lens = row[:, :, None] * column[:, None, :]
        if omega is not None and gradient is not None:
            lens = lens * angular_envelope(omega, gradient, defocus[:, None, None], optics).to(torch.float32)
        squares = torch.zeros(len(row), *shape, 2, dtype=torch.float32, device=spectra.device)  # of both parts
        for some in spectra.split(min(count, at_once)):
            for wave in torch.view_as_real(torch.fft.ifft2(some * lens[:, None])).unbind(1):
                squares.addcmul_(wave, wave)
        yield (squares[..., 0] + squares[..., 1]) / count


def _phases(angles: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.polar(torch.ones_like(angles), angles)


def minimum_contrast_A(wave: torch.Tensor, optics: Optics, *, thickness_A: float) -> float:
    """Returns the defocus in Å, on a grid of 0.1, at which the image of `wave` (H, W) has minimum variance.

    First every 1 Å from the exit plane to the entrance, `thickness_A` before it, then every 0.1 Å around the best.
    Planes outside are not searched: a crystal with one dominant spacing repeats its image along the beam, and with it
    the least contrast. Usually the plane lies about the middle of the particles.
    """
    import torch

    coarse = torch.arange(0.0, math.ceil(thickness_A) + 1.0, dtype=torch.float64)
    spectra = lens_spectra(wave[None], optics)
    best = _min_variance_defocus(spectra, coarse, optics)
    fine = best + 0.1 * torch.arange(-10, 11, dtype=torch.float64)
    return round(_min_variance_defocus(spectra, fine, optics), 1)


def _min_variance_defocus(spectra: torch.Tensor, defocus_A: torch.Tensor, optics: Optics) -> float:
    import torch

    variances = [images.double().var(dim=(-2, -1)) for images in render_spectra(spectra, defocus_A, optics)]
    return float(defocus_A[int(torch.cat(variances).argmin())])
