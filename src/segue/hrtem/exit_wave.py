"""Exit waves by abTEM's multislice, and the labels that the particles' own phase gives.

Waves leave here sampled at the image's pixel size, as (…, y, x) arrays whose pixel (0, 0) is the corner of the
field, so that waves, images and labels of a structure lie on one grid. The phase of the empty field is 0.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from segue import rng
from segue.hrtem.specimen import A_PER_NM, CRYSTALS, Atoms, Positive, Specimen, hrtem_libraries
from segue.spec import SpecModel


class WaveSpec(SpecModel):
    """The passage of electrons through the specimen.

    `sampling_A` is the coarsest spacing allowed; the grid is the next one whose Fourier transforms are fast.
    `phonon_sigma_A` is the standard deviation of each atom's displacement along each axis.
    """

    energy_keV: Annotated[float, Field(ge=20, le=3000)] = 300.0
    field_nm: Annotated[float, Field(gt=0, le=200)] = 12.8
    sampling_A: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    slice_thickness_A: Annotated[float, Field(gt=0, le=10)] = 2.0
    frozen_phonons: Annotated[int, Field(ge=1)] = 8
    phonon_sigma_A: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class LabelsSpec(SpecModel):
    """How the exit wave of the particles alone becomes a mask: phase above threshold, blurred, above a level.

    `blur_A` is the Gaussian's standard deviation; left out, it is the crystal's own (1 or 1.6 Å).
    """

    phase_threshold_rad: Positive = math.pi / 16
    blur_A: Annotated[float, Field(ge=0)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.1


def grid_px(field_A: float, sampling_A: float) -> int:
    """Returns the smallest number of points at a spacing of at most `sampling_A` whose FFT is fast.

    Even products of 2, 3 and 5. FFTW's estimated plans, which unlike measured ones are the same in every process
    and so keep results reproducible, are up to ten times slower on multiples of 128 without a factor 5.
    """
    count = math.ceil(field_A / sampling_A - 1e-9)
    while count % 2 or _without_small_factors(count) != 1 or (count % 128 == 0 and count % 5):
        count += 1
    return count


def _without_small_factors(count: int) -> int:
    for factor in (2, 3, 5):
        while count % factor == 0:
            count //= factor
    return count


def multislice(atoms: Atoms, *, field_A: float, height_A: float, wave: WaveSpec) -> np.ndarray:
    """Returns the exit wave (grid, grid) [y, x], complex64, of a plane wave of amplitude 1 along +z."""
    libraries = hrtem_libraries()
    abtem = libraries.abtem
    settings = {  # all that changes numbers, for a user's own abTEM configuration must not
        "device": "cpu",
        "precision": "float32",
        "fft": "fftw",
        "fftw.threads": 1,
        "fftw.planning_effort": "FFTW_ESTIMATE",
        "antialias.cutoff": 2 / 3,
        "antialias.taper": 0.01,
        "dask.lazy": False,
        "diagnostics.progress_bar": False,
    }
    with abtem.config.set(settings):
        potential = abtem.Potential(
            libraries.Atoms(
                numbers=atoms.numbers, positions=atoms.positions_A, cell=[field_A, field_A, height_A], pbc=True
            ),
            gpts=grid_px(field_A, wave.sampling_A),
            slice_thickness=wave.slice_thickness_A,
            parametrization="lobato",
            projection="infinite",
        )
        exit_wave = abtem.PlaneWave(energy=wave.energy_keV * 1e3).multislice(potential, lazy=False)
    # abTEM's first axis is x; images have rows along y
    return np.ascontiguousarray(np.asarray(exit_wave.array).reshape(potential.gpts).T)


def exit_waves(specimen: Specimen, wave: WaveSpec, *, size_px: int, seed: int, index: int) -> np.ndarray:
    """Returns (phonons, size, size) complex64: the waves behind particles and support, one per frozen phonon.

    Every phonon configuration has its own stream, so that more of them leave the first ones as they are.
    """
    atoms = specimen.support + specimen.particles
    waves = np.empty((wave.frozen_phonons, size_px, size_px), np.complex64)
    for phonon in range(wave.frozen_phonons):
        random = rng.numpy_generator(seed, "phonon", index, phonon)
        displaced = atoms.positions_A + wave.phonon_sigma_A * random.standard_normal(atoms.positions_A.shape)
        displaced[:, 2] = displaced[:, 2].clip(0, specimen.height_A * (1 - 1e-9))
        moved = Atoms(atoms.numbers, displaced)
        full = multislice(moved, field_A=A_PER_NM * wave.field_nm, height_A=specimen.height_A, wave=wave)
        waves[phonon] = resample(full, size_px)
    return waves


def vacuum_wave(specimen: Specimen, wave: WaveSpec, *, size_px: int) -> np.ndarray:
    """Returns (size, size) complex64: the wave behind the particles alone, at rest and without support.

    Its exit plane is that of `exit_waves`, so that a defocus means the same in both.
    """
    lifted = specimen.particles.positions_A - [0, 0, specimen.particles_from_A]
    height = specimen.height_A - specimen.particles_from_A
    alone = Atoms(specimen.particles.numbers, lifted)
    return resample(multislice(alone, field_A=A_PER_NM * wave.field_nm, height_A=height, wave=wave), size_px)


def resample(wave: np.ndarray, size_px: int) -> np.ndarray:
    """Returns the wave on size × size points by cutting its spectrum; values at common points stay what they are."""
    from scipy import fft

    count = wave.shape[-1]
    if size_px == count:
        return wave.astype(np.complex64)
    first = count // 2 - size_px // 2
    center = slice(first, first + size_px)
    spectrum = fft.fftshift(fft.fft2(wave))[center, center]
    return (fft.ifft2(fft.ifftshift(spectrum)) * (size_px / count) ** 2).astype(np.complex64)


def particle_mask(wave: np.ndarray, labels: LabelsSpec, *, crystal: str, pixel_size_A: float) -> np.ndarray:
    """Returns (H, W) bool: where the particles are, from the wave behind them alone.

    The phase is blurred across the periodic border, as the field is periodic.
    """
    from scipy.ndimage import gaussian_filter

    blur_A = CRYSTALS[crystal].mask_blur_A if labels.blur_A is None else labels.blur_A
    thick = (np.angle(wave) > labels.phase_threshold_rad).astype(np.float64)
    return gaussian_filter(thick, blur_A / pixel_size_A, mode="wrap") > labels.level
