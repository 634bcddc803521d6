"""Optics of the microscope: aberrations, and the spreads of focus and of illumination that damp the wave.

Aberrations are those of Krivanek, Dellby and Lupini, Ultramicroscopy 78 (1999) 1: a coefficient C_nm of order n and
multiplicity m, with an angle φ_nm where m > 0. The wave is multiplied by exp(−i χ),

    χ = 2π/λ Σ C_nm / (n + 1) α^(n+1) cos(m (φ − φ_nm)),    ω = α exp(iφ) = λ (kx + i ky),

as in abTEM. x runs along the columns of an image and y along its rows; angles turn from x to y. Defocus is −C10:
positive is underfocus, the lens is too weak. Units stand in the names of settings.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import model_validator

from segue.spec import SpecModel, unknown_key

if TYPE_CHECKING:
    import torch

A_PER_UNIT = {"nm": 1e1, "um": 1e4, "mm": 1e7}
ABERRATIONS = {  # setting -> order n, multiplicity m
    "C12_nm": (1, 2),
    "C21_nm": (2, 1),
    "C23_nm": (2, 3),
    "C30_um": (3, 0),
    "C32_um": (3, 2),
    "C34_um": (3, 4),
    "C41_um": (4, 1),
    "C43_um": (4, 3),
    "C45_um": (4, 5),
    "C50_mm": (5, 0),
    "C52_mm": (5, 2),
    "C54_mm": (5, 4),
    "C56_mm": (5, 6),
}
ALIASES = {  # abTEM's names -> symbols
    "astigmatism_nm": "C12_nm",
    "astigmatism_angle_deg": "phi12_deg",
    "coma_nm": "C21_nm",
    "coma_angle_deg": "phi21_deg",
    "trefoil_nm": "C23_nm",
    "trefoil_angle_deg": "phi23_deg",
    "Cs_mm": "C30_um",
    "astigmatism3_um": "C32_um",
    "astigmatism3_angle_deg": "phi32_deg",
    "quadrafoil_um": "C34_um",
    "quadrafoil_angle_deg": "phi34_deg",
    "coma4_um": "C41_um",
    "coma4_angle_deg": "phi41_deg",
    "trefoil4_um": "C43_um",
    "trefoil4_angle_deg": "phi43_deg",
    "pentafoil_um": "C45_um",
    "pentafoil_angle_deg": "phi45_deg",
    "C5_mm": "C50_mm",
    "astigmatism5_mm": "C52_mm",
    "astigmatism5_angle_deg": "phi52_deg",
    "quadrafoil5_mm": "C54_mm",
    "quadrafoil5_angle_deg": "phi54_deg",
    "hexafoil_mm": "C56_mm",
    "hexafoil_angle_deg": "phi56_deg",
}


class AberrationsSpec(SpecModel):
    """Aberrations up to fifth order, beside defocus; angles in degrees. Zero where not given.

    abTEM's names (`ALIASES`) can be used instead of the symbols: astigmatism_nm and astigmatism_angle_deg, coma_nm,
    trefoil_nm, Cs_mm, C5_mm and those of higher order.
    """

    C12_nm: float = 0.0
    phi12_deg: float = 0.0
    C21_nm: float = 0.0
    phi21_deg: float = 0.0
    C23_nm: float = 0.0
    phi23_deg: float = 0.0
    C30_um: float = 0.0
    C32_um: float = 0.0
    phi32_deg: float = 0.0
    C34_um: float = 0.0
    phi34_deg: float = 0.0
    C41_um: float = 0.0
    phi41_deg: float = 0.0
    C43_um: float = 0.0
    phi43_deg: float = 0.0
    C45_um: float = 0.0
    phi45_deg: float = 0.0
    C50_mm: float = 0.0
    C52_mm: float = 0.0
    phi52_deg: float = 0.0
    C54_mm: float = 0.0
    phi54_deg: float = 0.0
    C56_mm: float = 0.0
    phi56_deg: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _by_symbol(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        if defocus := [name for name in table if name.startswith(("C10", "defocus"))]:
            raise ValueError(f"{defocus[0]} is not set here: give imaging.defocus_nm, positive underfocus, −C10")
        known = [*cls.model_fields, *ALIASES]
        if foreign := [name for name in table if name not in known]:
            raise ValueError(unknown_key(cls, foreign[0], known))
        by_symbol: dict[str, Any] = {}
        for name, value in table.items():
            symbol = str(ALIASES.get(name, name))
            if symbol in by_symbol:
                alias = next(alias for alias, other in ALIASES.items() if other == symbol)
                raise ValueError(f"{symbol} is given twice, for {alias} is the same; remove one")
            by_symbol[symbol] = 1e3 * value if name == "Cs_mm" and type(value) in (int, float) else value
        return by_symbol

    def coefficients(self) -> tuple[Aberration, ...]:
        """Returns those that are not zero, in Å and rad."""
        return tuple(
            Aberration(order, multiplicity, A_PER_UNIT[name[-2:]] * value, math.radians(angle))
            for name, (order, multiplicity) in ABERRATIONS.items()
            if (value := getattr(self, name))
            for angle in [getattr(self, f"phi{name[1:3]}_deg") if multiplicity else 0.0]
        )


class Aberration(NamedTuple):
    """A coefficient C_nm with its angle φ_nm."""

    order: int
    multiplicity: int
    coefficient_A: float
    angle_rad: float = 0.0


@dataclass(frozen=True)
class Optics:
    """Parameters of the microscope that are the same for all images; spreads are 1/e half-widths."""

    energy_keV: float
    pixel_size_A: float
    focal_spread_A: float = 0.0
    angular_spread_mrad: float = 0.0
    aberrations: tuple[Aberration, ...] = ()

    @property
    def wavelength_A(self) -> float:
        return wavelength_A(self.energy_keV)


def wavelength_A(energy_keV: float) -> float:
    """Returns the relativistic electron wavelength h / √(2 m e E (1 + eE / 2mc²)), CODATA 2018."""
    energy_eV = 1e3 * energy_keV
    return 12.398419843320026e3 / math.sqrt(energy_eV * (2 * 510998.95 + energy_eV))


def chi(omega: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns the phase χ in rad of the aberrations at angles ω in rad (complex128, any shape), without defocus."""
    import torch

    alpha2 = torch.view_as_real(omega).square().sum(-1)
    path_A = torch.zeros_like(alpha2)
    for order, multiplicity, coefficient_A, angle_rad in optics.aberrations:
        real_part = (omega**multiplicity * cmath.exp(-1j * multiplicity * angle_rad)).real
        path_A += coefficient_A / (order + 1) * real_part * alpha2 ** ((order + 1 - multiplicity) // 2)
    return 2 * math.pi / optics.wavelength_A * path_A


def chi_gradient(omega: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns ∂χ/∂αx + i ∂χ/∂αy (complex128) of `chi`, which is 2 ∂χ/∂ω*."""
    import torch

    alpha2 = torch.view_as_real(omega).square().sum(-1)
    gradient_A = torch.zeros_like(omega)
    for order, multiplicity, coefficient_A, angle_rad in optics.aberrations:
        power = (order + 1 - multiplicity) // 2
        turn = cmath.exp(-1j * multiplicity * angle_rad)
        scale = coefficient_A / (order + 1)
        if multiplicity:
            gradient_A += scale * multiplicity * (omega ** (multiplicity - 1) * turn).conj() * alpha2**power
        if power:
            gradient_A += scale * 2 * power * (omega**multiplicity * turn).real * omega * alpha2 ** (power - 1)
    return 2 * math.pi / optics.wavelength_A * gradient_A


def max_displacement_A(optics: Optics, defocus_A: float) -> float:
    """Returns how far aberrations and a defocus displace detail at most, |∇χ| λ / 2π, where it keeps a tenth of its
    amplitude in spite of the spreads: up to Nyquist's frequency, and an upper bound over the directions."""
    k = np.linspace(0, 0.5 / optics.pixel_size_A, 500)
    alpha = optics.wavelength_A * k
    displacement_A = abs(defocus_A) * alpha
    for aberration in optics.aberrations:
        displacement_A += abs(aberration.coefficient_A) * alpha**aberration.order
    focal = 0.5 * math.pi * optics.wavelength_A * optics.focal_spread_A * k**2
    angular = math.pi * 1e-3 * optics.angular_spread_mrad / optics.wavelength_A * displacement_A
    return float(displacement_A[np.exp(-(focal**2) - angular**2) >= 0.1].max())


def least_contrast_defocus_A(optics: Optics) -> float:
    """Returns the defocus in Å, to 0.1, at which a weak phase object at the exit plane has least contrast.

    There |sin χ| ≤ 0.3 holds up to the highest frequency, which with spherical aberration alone is the case at
    0.44 √(Cs λ) (Spence, High-Resolution Electron Microscopy, 4th ed., section 6.5). Where the pixels or the focal
    spread end the frequencies before that, it is the defocus of the least |χ| in between. Aberrations that differ in
    direction do not move it.
    """
    wavelength = optics.wavelength_A
    axial = [aberration for aberration in optics.aberrations if aberration.multiplicity == 0]
    k = np.linspace(0, 0.5 / optics.pixel_size_A, 1000)
    k = k[np.exp(-((0.5 * math.pi * wavelength * optics.focal_spread_A * k**2) ** 2)) >= 0.1]
    phase = sum(
        (2 * math.pi * a.coefficient_A / wavelength / (a.order + 1) * (wavelength * k) ** (a.order + 1) for a in axial),
        np.zeros_like(k),
    )
    # the defocus whose phase is 1 rad where that of the aberration is
    step = sum(abs(a.coefficient_A / wavelength) ** (2 / (a.order + 1)) * wavelength for a in axial) / 200
    best = 0.0
    for spacing, count in ((step, 200), (0.1, math.ceil(step / 0.1))):
        defocus = best + spacing * np.arange(-count, count + 1)
        chi = np.abs(phase - math.pi * wavelength * np.multiply.outer(defocus, k**2))
        beyond = chi > math.asin(0.3)
        band = np.where(beyond.any(axis=1), beyond.argmax(axis=1), len(k))
        widest = np.flatnonzero(band == band.max())
        best = float(defocus[widest[chi[widest, : band.max()].max(axis=1).argmin()]])
    return round(best, 1)


def focal_envelope(k2: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Returns exp(−(π λ k² Δ / 2)²), k² in 1/Å²: defoci spread as exp(−(defocus / Δ)²), by the focal spread Δ.

    Kirkland, Advanced Computing in Electron Microscopy, section 3.2.
    """
    import torch

    return torch.exp(-((0.5 * math.pi * optics.wavelength_A * optics.focal_spread_A * k2) ** 2))


def angular_envelope(
    omega: torch.Tensor, gradient: torch.Tensor, defocus_A: torch.Tensor, optics: Optics
) -> torch.Tensor:
    """Returns exp(−(β/2)² |∇χ|²), χ with the defocus (n, 1, 1): illumination spread as exp(−(angle / β)²).

    `gradient` is `chi_gradient` (H, W). Frank, Optik 38 (1973) 519: the source is small, so that χ is linear across it.
    """
    import torch

    slope = gradient - (2 * math.pi / optics.wavelength_A) * defocus_A * omega
    half_angle_rad = 0.5e-3 * optics.angular_spread_mrad
    return torch.exp(-(half_angle_rad**2) * torch.view_as_real(slope).square().sum(-1))
