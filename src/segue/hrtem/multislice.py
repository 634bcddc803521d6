"""Multislice in torch: projected potentials of independent atoms, transmission, Fresnel propagation.

In the order of the computation, for every slice from the entrance to the exit plane:

1. `spread_atoms`: each atom is added to an oversampled grid with a smooth kernel of `KERNEL_PX` × `KERNEL_PX` points.
   Two slices share the real and the imaginary part of one grid, for all that follows is linear and real.
2. The grid's spectrum, divided by the kernel's and multiplied by the projected scattering factor of the element
   (Lobato and Van Dyck 2014), is the spectrum of the projected potential. It reaches to the corners of the wave's grid.
3. The transmission function exp(iσV) is cut at two thirds of the Nyquist frequency (`antialias_aperture`), and the wave
   is multiplied by it.
4. The wave is propagated over the thickness of a slice by exp(−iπλ Δz k²), cut by the same aperture.

Slices end at the exit plane. The potential of a slice acts at its entrance. Conventions are those of abTEM (infinite
projection), but for two: abTEM divides the specimen's height into equal slices of at most the given thickness, here
all are as thick as given and the first may begin before the specimen; and abTEM places atoms by linear interpolation
between grid points, here their place is accurate to 1e-4 of the potential's spectrum.

A wave is psi[y, x] with pixel (0, 0) at the corner of a periodic field. Phases are positive: exp(+i σ V), exp(2πi k r).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch

from segue.errors import SegueError
from segue.hrtem.optics import wavelength_A
from segue.hrtem.specimen import Atoms

KERNEL_PX = 8
OVERSAMPLING = 1.25  # of the grid on which atoms are spread
KERNEL_BETA = 0.976 * math.pi * KERNEL_PX * (1 - 1 / (2 * OVERSAMPLING))  # of least error; see `spread_atoms`
APERTURE = 2 / 3  # cutoff of the wave, of the Nyquist frequency
TAPER = 0.02  # width of the aperture's cosine edge, which ends at the cutoff; of the Nyquist frequency
BOHR_A = 0.529177210903  # CODATA 2018
COULOMB_EV_A = 14.3996454784  # e² / 4πε₀
ELECTRON_REST_EV = 510998.95


def interaction_constant(energy_keV: float) -> float:
    """Returns σ = 2π m e λ / h² in rad / (V Å), relativistic: the phase per projected potential."""
    energy_eV = 1e3 * energy_keV
    relativity = (ELECTRON_REST_EV + energy_eV) / (2 * ELECTRON_REST_EV + energy_eV)
    return 2 * math.pi / (wavelength_A(energy_keV) * energy_eV) * relativity


@cache
def scattering_parameters() -> dict[int, tuple[tuple[float, float], ...]]:
    """Returns, by atomic number (1–103), the five pairs (a in Å, b in Å²) of Lobato and Van Dyck (2014)."""
    with Path(__file__).with_name("scattering_factors.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))[1:]
    return {int(row[0]): tuple(zip(map(float, row[1:6]), map(float, row[6:]), strict=True)) for row in rows}


def projected_scattering_factor(number: int, k2: torch.Tensor) -> torch.Tensor:
    """Returns the Fourier transform, in V Å³, of an atom's potential projected along the beam, at k² in 1/Å².

    It is h² / (2π m e) times the electron scattering factor f(k) = Σ a (2 + b k²) / (1 + b k²)². Raises SegueError for
    elements without parameters.
    """
    parameters = scattering_parameters()
    if number not in parameters:
        raise SegueError(
            f"atoms: found atomic number {number}; scattering factors are known for 1 to {max(parameters)}; remove or "
            "replace these atoms."
        )
    factor = torch.zeros_like(k2)
    for a, b in parameters[number]:
        factor += a * (2 + b * k2) / (1 + b * k2) ** 2
    return 2 * math.pi * BOHR_A * COULOMB_EV_A * factor


@dataclass(frozen=True)
class Beam:
    """What is the same for all waves: a square periodic field of `grid_px` points, the energy, the slices."""

    field_A: float
    grid_px: int
    energy_keV: float
    slice_thickness_A: float


def _frequencies(count: int, field_A: float, device: torch.device | str) -> torch.Tensor:
    """Returns (count,) float64 in 1/Å, in the order of the transform."""
    return torch.fft.fftfreq(count, d=field_A / count, dtype=torch.float64, device=device)


def antialias_aperture(beam: Beam, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns (grid, grid) float64: 1 below, 0 above two thirds of the Nyquist frequency, a cosine edge before it.

    The product of two functions within this circle has no frequency that folds back into it.
    """
    k = _frequencies(beam.grid_px, beam.field_A, device) / (beam.grid_px / beam.field_A / 2)
    radius = torch.hypot(k[:, None], k)
    return (0.5 + 0.5 * torch.cos(math.pi * (radius - APERTURE + TAPER).clamp(0, TAPER) / TAPER)) * (radius <= APERTURE)


def fresnel_propagator(beam: Beam, device: torch.device | str = "cpu") -> torch.Tensor:
    """Returns (grid, grid) complex128: exp(−iπλ Δz k²), which carries a wave's spectrum over one slice."""
    k = _frequencies(beam.grid_px, beam.field_A, device)
    line = torch.polar(torch.ones_like(k), -math.pi * wavelength_A(beam.energy_keV) * beam.slice_thickness_A * k**2)
    return line[:, None] * line


def projected_potentials(
    atoms: Atoms, height_A: float, beam: Beam, *, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Returns (slices, grid, grid) float32 in V Å: the projected potential of each slice that `multislice` passes."""
    tables = _tables(beam, np.unique(atoms.numbers), device)
    vacuum = torch.zeros((1, beam.grid_px, beam.grid_px), device=device)
    phases = [vacuum if one is None else one for one in _phase_shifts([atoms], [height_A], beam, tables)]
    return torch.cat(phases) / interaction_constant(beam.energy_keV)


def multislice(
    atoms: Sequence[Atoms],
    heights_A: Sequence[float],
    beam: Beam,
    *,
    size_px: int,
    device: torch.device | str = "cpu",
    batch: int = 1,
) -> torch.Tensor:
    """Returns (specimens, size, size) complex64: the waves at the exit planes of a plane wave of amplitude 1 along +z.

    The waves are cut in Fourier space to `size_px` points across the field, at most those of the grid; values at common
    points stay what they are. `batch` specimens (structures, or frozen phonons of one, of any height) are computed at
    once; each needs about 100 bytes per point of the grid. On a CPU one at a time is fastest.
    """
    tables = _tables(beam, np.unique(np.concatenate([one.numbers for one in atoms])), device)
    waves = torch.empty((len(atoms), size_px, size_px), dtype=torch.complex64, device=device)
    for start in range(0, len(atoms), batch):
        part = slice(start, start + batch)
        waves[part] = _multislice(atoms[part], heights_A[part], beam, tables, size_px=size_px)
    return waves


@dataclass(frozen=True)
class _Tables:
    """Factors of spectra on the wave's grid, complex64; those of aperture and propagator include 1 / grid²."""

    aperture: torch.Tensor
    propagator: torch.Tensor
    potentials: dict[int, torch.Tensor]  # by atomic number, of the spread atoms' spectrum: phases in rad


def _tables(beam: Beam, numbers: np.ndarray, device: torch.device | str) -> _Tables:
    points = beam.grid_px**2
    half = beam.grid_px // 2
    k = torch.arange(half + 1, dtype=torch.float64, device=device)
    k2 = (k[:, None] ** 2 + k**2) / beam.field_A**2
    kernel = _kernel_spectrum(k / _spread_px(beam))
    scale = interaction_constant(beam.energy_keV) / beam.field_A**2 / (kernel[:, None] * kernel)
    scale[half], scale[:, half] = 0, 0  # the Nyquist frequency has no partner, with which its wave would be real
    index = torch.fft.fftfreq(beam.grid_px, d=1 / beam.grid_px, device=device).abs().round().long()
    aperture = antialias_aperture(beam, device)
    return _Tables(
        aperture=(aperture / points).to(torch.complex64),
        propagator=(aperture / points * fresnel_propagator(beam, device)).to(torch.complex64),
        potentials={
            int(number): (scale * projected_scattering_factor(int(number), k2)).to(torch.complex64)[index][:, index]
            for number in numbers
        },
    )


def _multislice(
    atoms: Sequence[Atoms], heights_A: Sequence[float], beam: Beam, tables: _Tables, *, size_px: int
) -> torch.Tensor:
    # Fourier coefficients of the wave; None for the plane wave, which propagation leaves as it is
    spectrum: torch.Tensor | None = None
    for phase in _phase_shifts(atoms, heights_A, beam, tables):
        if phase is not None:
            transmission = torch.complex(torch.cos(phase), torch.sin(phase))
            wave = _inverse(torch.fft.fft2(transmission).mul_(tables.aperture))
            if spectrum is not None:
                wave *= _inverse(spectrum)
            spectrum = torch.fft.fft2(wave).mul_(tables.propagator)
        elif spectrum is not None:
            spectrum.mul_(tables.propagator).mul_(beam.grid_px**2)
    if spectrum is None:
        return torch.ones((len(atoms), size_px, size_px), dtype=torch.complex64, device=tables.aperture.device)
    return _inverse(_cut(spectrum, size_px))


def _inverse(spectrum: torch.Tensor) -> torch.Tensor:
    """Returns the function with these Fourier coefficients."""
    return torch.fft.ifft2(spectrum, norm="forward")


def _cut(spectrum: torch.Tensor, size_px: int) -> torch.Tensor:
    """Returns the (…, size, size) Fourier coefficients of lowest frequency."""
    index = torch.fft.ifftshift(torch.arange(-(size_px // 2), (size_px + 1) // 2, device=spectrum.device))
    return spectrum[..., index[:, None] % spectrum.shape[-2], index % spectrum.shape[-1]]


@dataclass(frozen=True)
class AtomGroup:
    """Atoms of one element in two successive slices of a batch of specimens."""

    number: int
    positions_A: np.ndarray  # (n, 2), x and y
    specimens: np.ndarray  # (n,) index in the batch
    parts: np.ndarray  # (n,) 0 in the first, 1 in the second slice


def _phase_shifts(
    atoms: Sequence[Atoms], heights_A: Sequence[float], beam: Beam, tables: _Tables
) -> Iterator[torch.Tensor | None]:
    """Yields (specimens, grid, grid) float32, σV in rad, or None for vacuum, from the first slice that has atoms."""
    numbers = np.concatenate([one.numbers for one in atoms])
    positions = np.concatenate([one.positions_A for one in atoms])
    specimens = np.repeat(np.arange(len(atoms)), [len(one.numbers) for one in atoms])
    from_exit = _slices_from_exit(positions[:, 2], np.asarray(heights_A)[specimens], beam.slice_thickness_A)
    if len(from_exit) == 0:
        return
    slices = from_exit.max() - from_exit
    occupied = np.bincount(slices) > 0
    order = np.lexsort((numbers, slices // 2))
    borders = np.flatnonzero(np.diff(slices[order] // 2) | np.diff(numbers[order])) + 1
    pairs: dict[int, list[AtomGroup]] = {}
    for members in np.split(order, borders):
        group = AtomGroup(int(numbers[members[0]]), positions[members, :2], specimens[members], slices[members] % 2)
        pairs.setdefault(int(slices[members[0]]) // 2, []).append(group)
    for first in range(0, len(occupied), 2):
        phases = (
            torch.view_as_real(_phases(pairs[first // 2], len(atoms), beam, tables)) if first // 2 in pairs else None
        )
        for part in range(min(2, len(occupied) - first)):
            yield phases[..., part] if phases is not None and occupied[first + part] else None


def _slices_from_exit(z_A: np.ndarray, heights_A: np.ndarray, slice_thickness_A: float) -> np.ndarray:
    """Returns (n,) int: each atom's slice, counted back from the exit plane. Raises SegueError for atoms outside."""
    outside = ~((z_A >= 0) & (z_A <= heights_A))
    if outside.any():
        raise SegueError(
            f"atoms: found {outside.sum()} of {len(z_A)} outside the specimen's height, the first at z = "
            f"{z_A[outside][0]:g} Å of {heights_A[outside][0]:g}; move them inside or raise the height."
        )
    # an atom at the border of two slices stands at the entrance of the later one, whatever the rounding
    return np.maximum(np.ceil((heights_A - z_A) / slice_thickness_A - 1e-9).astype(np.int64) - 1, 0)


def _phases(groups: list[AtomGroup], count: int, beam: Beam, tables: _Tables) -> torch.Tensor:
    """Returns (count, grid, grid) complex64: σV in rad of the first slice + i × that of the second."""
    half = beam.grid_px // 2
    lowest, highest = slice(0, half), slice(-half, None)
    total = torch.zeros((count, beam.grid_px, beam.grid_px), dtype=torch.complex64, device=tables.aperture.device)
    for group in groups:
        spread = torch.fft.fft2(spread_atoms(group, count, beam, total.device))
        factor = tables.potentials[group.number]
        for rows in (lowest, highest):
            for columns in (lowest, highest):
                total[:, rows, columns].addcmul_(spread[:, rows, columns], factor[rows, columns])
    return _inverse(total)


def _spread_px(beam: Beam) -> int:
    from scipy.fft import next_fast_len

    return cast(int, next_fast_len(math.ceil(OVERSAMPLING * beam.grid_px), real=True))


def spread_atoms(group: AtomGroup, count: int, beam: Beam, device: torch.device | str) -> torch.Tensor:
    """Returns (count, n, n) complex64 on a grid of n points across the field, each atom as a kernel of area 1.

    The kernel is exp(β (√(1 − x²) − 1)) along each axis (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41,
    2019, C479), whose spectrum falls so fast that what folds back into the wave's frequencies is below 1e-4.
    """
    size = _spread_px(beam)
    places = torch.from_numpy(group.positions_A).to(device) * (size / beam.field_A)
    first = torch.ceil(places - KERNEL_PX / 2)
    steps = torch.arange(KERNEL_PX, device=device)
    offsets = ((first - places)[..., None] + steps).float()
    weights = torch.exp(KERNEL_BETA * ((1 - (offsets * (2 / KERNEL_PX)) ** 2).clamp(min=0).sqrt() - 1))
    columns, rows = ((first.long()[..., None] + steps) % size).unbind(1)
    specimens, parts = (torch.from_numpy(one).to(device)[:, None, None] for one in (group.specimens, group.parts))
    index = 2 * ((specimens * size + rows[:, :, None]) * size + columns[:, None, :]) + parts
    values = weights[:, 1, :, None] * weights[:, 0, None, :]
    grid = torch.zeros(count * size * size * 2, device=device)
    if grid.is_cuda:  # sorts, so that sums do not depend on the order of threads
        grid.index_put_((index.flatten(),), values.flatten(), accumulate=True)
    else:  # one after another
        grid.scatter_add_(0, index.flatten(), values.flatten())
    return torch.view_as_complex(grid.view(count, size, size, 2))


def _kernel_spectrum(frequencies: torch.Tensor) -> torch.Tensor:
    """Returns the Fourier transform of the kernel of `spread_atoms` at frequencies in cycles per point."""
    nodes, weights = (torch.from_numpy(one).to(frequencies.device) for one in np.polynomial.legendre.leggauss(64))
    kernel = torch.exp(KERNEL_BETA * (torch.sqrt(1 - nodes**2) - 1)) * weights * (KERNEL_PX / 2)
    return torch.cos(math.pi * KERNEL_PX * frequencies[:, None] * nodes) @ kernel
