"""Exit waves of specimens, and the labels that the particles' own phase gives.

Waves leave here sampled at the image's pixel size, as (…, y, x) arrays whose pixel (0, 0) is the corner of the
field, so that waves, images and labels of a structure lie on one grid. The phase of the empty field is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from segue import rng
from segue.device import default_device
from segue.hrtem.crystals import CRYSTALS
from segue.hrtem.specimen import A_PER_NM, MASK_BLUR_A, Atoms, Specimen
from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch


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

    `blur_A` is the Gaussian's standard deviation; left out, it is the crystal's own (1 or 1.6 Å; 1.6 Å for structure
    files).
    """

    phase_threshold_rad: Annotated[float, Field(gt=0, lt=math.pi)] = math.pi / 16
    blur_A: Annotated[float, Field(ge=0)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.1


@dataclass(frozen=True)
class Execution:
    """Where waves are computed, and how many at once: no setting of the specimen, and of no effect but rounding.

    Of a grid of 1280 points each wave of a batch needs about 0.2 GB. On a CPU one at a time is fastest.
    """

    device: str = "cpu"
    batch: int = 1


ON_CPU = Execution()


def default_execution(batch: int | None = None) -> Execution:
    """Returns the GPU with 8 waves at once where torch sees one, else the CPU with one; `batch` replaces the number."""
    device = default_device()
    default = 1 if device == "cpu" else 8
    return Execution(device, default if batch is None else batch)


def grid_px(field_A: float, sampling_A: float) -> int:
    """Returns the smallest number of points at a spacing of at most `sampling_A` whose FFT is fast.

    Even products of 2, 3 and 5, but no multiples of 2048, whose rows compete for the same places of a cache.
    """
    count = math.ceil(field_A / sampling_A - 1e-9)
    while count % 2 or _without_small_factors(count) != 1 or count % 2048 == 0:
        count += 1
    return count


def _without_small_factors(count: int) -> int:
    for factor in (2, 3, 5):
        while count % factor == 0:
            count //= factor
    return count


def exit_waves(
    specimen: Specimen, wave: WaveSpec, *, size_px: int, seed: int, index: int, execution: Execution = ON_CPU
) -> torch.Tensor:
    """Returns (phonons, size, size) complex64: the waves behind particles and support, one per frozen phonon.

    Every phonon configuration has its own stream, so that more of them leave the first ones as they are.
    """
    atoms = specimen.support + specimen.particles
    moved = []
    for phonon in range(wave.frozen_phonons):
        random = rng.numpy_generator(seed, "phonon", index, phonon)
        displaced = atoms.positions_A + wave.phonon_sigma_A * random.standard_normal(atoms.positions_A.shape)
        displaced[:, 2] = displaced[:, 2].clip(0, specimen.height_A)
        moved.append(Atoms(atoms.numbers, displaced))
    return _multislice(moved, specimen.height_A, wave, size_px=size_px, execution=execution)


def vacuum_wave(specimen: Specimen, wave: WaveSpec, *, size_px: int, execution: Execution = ON_CPU) -> torch.Tensor:
    """Returns (size, size) complex64: the wave behind the particles alone, at rest and without support.

    Its exit plane is that of `exit_waves`, so that a defocus means the same in both.
    """
    return _multislice([specimen.particles], specimen.height_A, wave, size_px=size_px, execution=execution)[0]


def _multislice(
    atoms: list[Atoms], height_A: float, wave: WaveSpec, *, size_px: int, execution: Execution
) -> torch.Tensor:
    from segue.hrtem.multislice import Beam, multislice

    field_A = A_PER_NM * wave.field_nm
    beam = Beam(field_A, grid_px(field_A, wave.sampling_A), wave.energy_keV, wave.slice_thickness_A)
    heights_A = [height_A] * len(atoms)
    return multislice(atoms, heights_A, beam, size_px=size_px, device=execution.device, batch=execution.batch)


def particle_mask(wave: np.ndarray, labels: LabelsSpec, *, crystal: str | None, pixel_size_A: float) -> np.ndarray:
    """Returns (H, W) bool: where the particles are, from the wave behind them alone.

    The phase is blurred across the periodic border, as the field is periodic. `crystal` is None for a structure file.
    """
    from scipy.ndimage import gaussian_filter

    default_A = CRYSTALS[crystal].mask_blur_A if crystal else MASK_BLUR_A
    blur_A = default_A if labels.blur_A is None else labels.blur_A
    thick = (np.angle(wave) > labels.phase_threshold_rad).astype(np.float64)
    return gaussian_filter(thick, blur_A / pixel_size_A, mode="wrap") > labels.level
