"""Multislice in torch: transmission through slices of independent atoms, Fresnel propagation between them.

In the order of the computation, for every slice from the entrance to the exit plane:

1. `spread_atoms` adds each atom to a grid with a smooth kernel of `KERNEL_PX` × `KERNEL_PX` points. Two slices share
   the real and the imaginary part of one grid, for what follows is linear.
2. The grid's spectrum, divided by the kernel's, is that of points at the atoms' exact places. Multiplied by
   `band_limited_phase` it is that of the slice's phase w, a sum over atoms.
3. The wave is multiplied by exp(iw).
4. The wave is propagated over the thickness of a slice by exp(−iπλ Δz k²), cut by `antialias_aperture`.

The potential of an atom, projected along the beam over all of it, has no highest frequency, nor has its transmission
function exp(iσv). The usual way samples exp(iσV) of a slice, with what folds back, and cuts it at two thirds of the
Nyquist frequency by two more transforms. Here every atom's own function is cut there, before it is sampled, by one
integral for each element. The phase of what is left is w; its imaginary part is the loss to angles beyond the aperture.
Where atoms overlap, products go slightly beyond the cut. The result is that of the usual way on a grid of a quarter of
the spacing with the same aperture (`docs/decisions/0022-multislice-in-torch.md`).

Slices end at the exit plane, and the first may begin before the specimen. Atoms act at the entrance of their slice, as
in abTEM. A wave is psi[y, x] with pixel (0, 0) at the corner of a periodic field; its phase behind an atom is positive.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from segue.errors import SegueError
from segue.hrtem.optics import wavelength_A
from segue.hrtem.specimen import Atoms

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

PHASE_BAND = 0.9  # highest frequency of phases, of the Nyquist frequency
PHASE_RANGE_A = 8.0  # around an atom, beyond which the square of its phase is negligible
KERNEL_PX = 8
KERNEL_BETA = 0.976 * math.pi * KERNEL_PX * (1 - PHASE_BAND / 2)  # of least error; see `spread_atoms`
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


@dataclass(frozen=True)
class Beam:
    """What is the same for all waves: a square periodic field of `grid_px` points, the energy, the slices."""

    field_A: float
    grid_px: int
    energy_keV: float
    slice_thickness_A: float

    @property
    def nyquist_per_A(self) -> float:
        return self.grid_px / self.field_A / 2


def projected_potential_spectrum(number: int, k: np.ndarray) -> np.ndarray:
    """Returns the Fourier transform of an atom's projected potential, in V Å³, at frequencies k in 1/Å.

    It is h² / (2π m e) times the electron scattering factor f(k) = Σ a (2 + b k²) / (1 + b k²)².
    """
    k2 = np.square(k)
    f_A = np.zeros_like(k)
    for a, b in _parameters_of(number):
        f_A += a * (2 + b * k2) / (1 + b * k2) ** 2
    return 2 * math.pi * BOHR_A * COULOMB_EV_A * f_A


def projected_potential(number: int, r_A: np.ndarray) -> np.ndarray:
    """Returns an atom's projected potential in V Å at distances r > 0 from it, in Å: the inverse of its spectrum.

    It is h² / (2π m e) Σ 2π a / b (K0(s) + s/2 K1(s)), s = 2π r / √b, with K of the modified Bessel functions.
    """
    from scipy.special import k0, k1

    total = np.zeros_like(r_A)
    for a, b in _parameters_of(number):
        s = 2 * math.pi * r_A / math.sqrt(b)
        total += 2 * math.pi * a / b * (k0(s) + s / 2 * k1(s))
    return 2 * math.pi * BOHR_A * COULOMB_EV_A * total


def _parameters_of(number: int) -> tuple[tuple[float, float], ...]:
    parameters = scattering_parameters()
    if number not in parameters:
        raise SegueError(
            f"atoms: found atomic number {number}; scattering factors are known for 1 to {max(parameters)}; remove or "
            "replace these atoms."
        )
    return parameters[number]


def band_limited_phase(number: int, k: np.ndarray, beam: Beam) -> np.ndarray:
    """Returns the Fourier transform, in rad Å², of the phase w of an atom at frequencies k in 1/Å, complex.

    exp(iw) is the atom's transmission function exp(iσv) cut by the aperture. To first order w is σv, cut; the rest is
    integrated (`_higher_orders`). Frequencies above `PHASE_BAND` are 0.
    """
    first = interaction_constant(beam.energy_keV) * projected_potential_spectrum(number, k)
    of_transmission, of_logarithm = np.moveaxis(_higher_orders(number, beam.energy_keV, beam.nyquist_per_A)(k), -1, 0)
    phase = _aperture(k / beam.nyquist_per_A) * (first + of_transmission) + of_logarithm
    return np.where(k <= PHASE_BAND * beam.nyquist_per_A, phase, 0)


@lru_cache(maxsize=64)
def _higher_orders(number: int, energy_keV: float, nyquist_per_A: float) -> CubicSpline:
    """Returns, as a function of k, two terms of `band_limited_phase` by Hankel transforms.

    They are −i times the transforms of exp(iσv) − 1 − iσv, and of log(1 + τ) − τ with τ the cut function exp(iσv) − 1.
    """
    from scipy.interpolate import CubicSpline
    from scipy.special import j0

    cutoff = APERTURE * nyquist_per_A
    core_A = [0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.35]  # the potential grows like log(1 / r)
    shells = math.ceil((PHASE_RANGE_A - core_A[-1]) * max(2 * cutoff, 4))
    r, r_weights = _gauss_legendre(np.append(core_A[:-1], np.linspace(core_A[-1], PHASE_RANGE_A, shells + 1)))
    k, k_weights = _gauss_legendre(np.linspace(0, cutoff, math.ceil(PHASE_RANGE_A * cutoff) + 1))
    knots = np.linspace(0, nyquist_per_A, 40 * math.ceil(PHASE_RANGE_A * nyquist_per_A) // 2)
    phase = interaction_constant(energy_keV) * projected_potential(number, r)
    higher = 2 * math.pi * r * r_weights * (np.exp(1j * phase) - 1 - 1j * phase)
    waves, knot_waves = j0(2 * math.pi * np.outer(k, r)), j0(2 * math.pi * np.outer(knots, r))
    first = 1j * interaction_constant(energy_keV) * projected_potential_spectrum(number, k)
    cut = _aperture(k / nyquist_per_A) * (first + waves @ higher)
    tau = (2 * math.pi * k * k_weights * cut) @ waves
    # continuous from where it is 0: behind a heavy atom the phase passes π
    angle = np.unwrap(np.angle(1 + tau)[::-1])[::-1]
    logarithm = 2 * math.pi * r * r_weights * (np.log(np.abs(1 + tau)) + 1j * angle - tau)
    return CubicSpline(knots, -1j * (knot_waves @ np.column_stack([higher, logarithm])))


def _gauss_legendre(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights of the intervals between edges, ten in each."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()


def _aperture(k: np.ndarray) -> np.ndarray:
    """Returns the antialias aperture at frequencies k ≥ 0 in units of the Nyquist frequency."""
    edge = (k - APERTURE + TAPER).clip(0, TAPER) / TAPER
    return np.where(k <= APERTURE, 0.5 + 0.5 * np.cos(math.pi * edge), 0)


def _frequencies(beam: Beam) -> np.ndarray:
    """Returns (grid,) in 1/Å, in the order of the transform."""
    return np.fft.fftfreq(beam.grid_px, d=beam.field_A / beam.grid_px)


def antialias_aperture(beam: Beam) -> np.ndarray:
    """Returns (grid, grid): 1 below, 0 above two thirds of the Nyquist frequency, with a cosine edge before it.

    The product of two functions within this circle has no frequency that folds back into it.
    """
    k = _frequencies(beam) / beam.nyquist_per_A
    return _aperture(np.hypot(k[:, None], k))


def fresnel_propagator(beam: Beam) -> np.ndarray:
    """Returns (grid, grid) complex: exp(−iπλ Δz k²), which carries a wave's spectrum over one slice."""
    line = np.exp(-1j * math.pi * wavelength_A(beam.energy_keV) * beam.slice_thickness_A * _frequencies(beam) ** 2)
    return line[:, None] * line


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
    once; each needs about 130 bytes per point of the grid. On a CPU one at a time is fastest.
    """
    if not 1 <= size_px <= beam.grid_px:
        raise SegueError(f"size_px: found {size_px}; a wave of {beam.grid_px} points is cut to 1 to {beam.grid_px}.")
    if batch < 1:
        raise SegueError(f"batch: found {batch}; at least one wave is computed at once; give 1 or more.")
    tables = _tables(beam, np.unique(np.concatenate([one.numbers for one in atoms])), device)
    waves = torch.empty((len(atoms), size_px, size_px), dtype=torch.complex64, device=device)
    for start in range(0, len(atoms), batch):
        part = slice(start, start + batch)
        waves[part] = _multislice(atoms[part], heights_A[part], beam, tables, size_px=size_px)
    return waves


@dataclass(frozen=True)
class _Tables:
    """Factors of spectra on the wave's grid, complex64; that of propagation includes the aperture and 1 / grid²."""

    propagator: torch.Tensor
    phases: dict[int, tuple[torch.Tensor, torch.Tensor]]  # by atomic number: real and imaginary parts


def _tables(beam: Beam, numbers: np.ndarray, device: torch.device | str) -> _Tables:
    index = np.abs(np.fft.fftfreq(beam.grid_px, d=1 / beam.grid_px)).round().astype(np.int64)
    k = np.arange(beam.grid_px // 2 + 1)
    radius = np.hypot(k[:, None], k) / beam.field_A
    kernel = _kernel_spectrum(k / beam.grid_px)
    scale = 1 / (beam.field_A**2 * kernel[:, None] * kernel)

    def table(quadrant: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(quadrant.astype(np.complex64)[index][:, index]).to(device)

    phases = {int(number): scale * band_limited_phase(int(number), radius, beam) for number in numbers}
    propagator = antialias_aperture(beam) * fresnel_propagator(beam) / beam.grid_px**2
    return _Tables(
        propagator=torch.from_numpy(propagator.astype(np.complex64)).to(device),
        phases={number: (table(phase.real), table(phase.imag)) for number, phase in phases.items()},
    )


def _multislice(
    atoms: Sequence[Atoms], heights_A: Sequence[float], beam: Beam, tables: _Tables, *, size_px: int
) -> torch.Tensor:
    # Fourier coefficients of the wave; None for the plane wave, which propagation leaves as it is
    spectrum: torch.Tensor | None = None
    for transmission in _transmissions(atoms, heights_A, beam, tables):
        if transmission is not None:
            wave = transmission if spectrum is None else transmission.mul_(_inverse(spectrum))
            spectrum = torch.fft.fft2(wave).mul_(tables.propagator)
        elif spectrum is not None:
            spectrum.mul_(tables.propagator).mul_(beam.grid_px**2)
    if spectrum is None:
        return torch.ones((len(atoms), size_px, size_px), dtype=torch.complex64, device=tables.propagator.device)
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


def _transmissions(
    atoms: Sequence[Atoms], heights_A: Sequence[float], beam: Beam, tables: _Tables
) -> Iterator[torch.Tensor | None]:
    """Yields (specimens, grid, grid) complex64, or None for vacuum, from the first slice that has atoms."""
    numbers = np.concatenate([one.numbers for one in atoms])
    positions = np.concatenate([one.positions_A for one in atoms])
    specimens = np.repeat(np.arange(len(atoms)), [len(one.numbers) for one in atoms])
    from_exit = _slices_from_exit(positions, np.asarray(heights_A)[specimens], beam.slice_thickness_A)
    if len(from_exit) == 0:
        return
    count = int(from_exit.max()) + 1
    slices = count - 1 - from_exit
    occupied = np.bincount(slices, minlength=count) > 0
    order = np.lexsort((numbers, slices // 2))
    borders = np.flatnonzero(np.diff(slices[order] // 2) | np.diff(numbers[order])) + 1
    pairs: dict[int, list[AtomGroup]] = {}
    for members in np.split(order, borders):
        group = AtomGroup(int(numbers[members[0]]), positions[members, :2], specimens[members], slices[members] % 2)
        pairs.setdefault(int(slices[members[0]]) // 2, []).append(group)
    for first in range(0, count, 2):
        parts = range(min(2, count - first))
        if not occupied[first : first + 2].any():
            yield from (None for _ in parts)
            continue
        phase, loss = _phases(pairs[first // 2], len(atoms), beam, tables)
        amplitude = loss.neg_().exp_()
        real, imaginary = torch.cos(phase).mul_(amplitude), torch.sin(phase).mul_(amplitude)
        for part in parts:
            yield torch.complex(real[part], imaginary[part]) if occupied[first + part] else None


def _phases(groups: list[AtomGroup], count: int, beam: Beam, tables: _Tables) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the real and the imaginary part of w, each (2, count, grid, grid) float32, of two slices."""
    totals: list[torch.Tensor] = []
    for group in groups:
        spectrum = torch.fft.fft2(spread_atoms(group, count, beam, tables.propagator.device))
        factors = tables.phases[group.number]
        if totals:
            for total, factor in zip(totals, factors, strict=True):
                total.addcmul_(spectrum, factor)
        else:
            totals = [spectrum * factor for factor in factors]
    phase, loss = (torch.stack((slices.real, slices.imag)) for slices in map(_inverse, totals))
    return phase, loss


def _slices_from_exit(positions_A: np.ndarray, heights_A: np.ndarray, slice_thickness_A: float) -> np.ndarray:
    """Returns (n,) int: each atom's slice, counted back from the exit plane. Raises SegueError for atoms outside."""
    z_A = positions_A[:, 2]
    outside = ~(np.isfinite(positions_A).all(1) & (z_A >= 0) & (z_A <= heights_A))
    if outside.any():
        place = ", ".join(f"{value:g}" for value in positions_A[outside][0])
        raise SegueError(
            f"atoms: found {outside.sum()} of {len(z_A)} outside the specimen, the first at ({place}) Å of a height of "
            f"{heights_A[outside][0]:g}; move them inside or raise the height."
        )
    # an atom at the border of two slices stands at the entrance of the later one, whatever the rounding
    return np.maximum(np.ceil((heights_A - z_A) / slice_thickness_A - 1e-9).astype(np.int64) - 1, 0)


def spread_atoms(group: AtomGroup, count: int, beam: Beam, device: torch.device | str) -> torch.Tensor:
    """Returns (count, grid, grid) complex64: each atom as the kernel around its place, the slices as the two parts.

    The kernel is exp(β (√(1 − x²) − 1)) along each axis (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41,
    2019, C479). What its spectrum folds back is below 1e-4 up to the aperture, where nearly all of a phase is, and
    1e-2 at `PHASE_BAND`, where a phase is less than 1e-3 of its greatest.
    """
    size = beam.grid_px
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
    if grid.device.type == "cpu":  # one after another
        grid.scatter_add_(0, index.flatten(), values.flatten())
    else:  # sorts, so that sums do not depend on the order of threads
        grid.index_put_((index.flatten(),), values.flatten(), accumulate=True)
    return torch.view_as_complex(grid.view(count, size, size, 2))


def _kernel_spectrum(frequencies: np.ndarray) -> np.ndarray:
    """Returns the Fourier transform of the kernel of `spread_atoms` at frequencies in cycles per point."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    kernel = np.exp(KERNEL_BETA * (np.sqrt(1 - nodes**2) - 1)) * weights * (KERNEL_PX / 2)
    return np.cos(math.pi * KERNEL_PX * np.multiply.outer(frequencies, nodes)) @ kernel
