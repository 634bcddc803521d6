"""Images rendered per second, against calling abTEM anew for each condition: both measured here, in one process.

    python benchmarks/bench_simulate.py [--size 256] [--phonons 2] [--structures 3]

One structure of CdSe spheres on carbon under five defoci with noise. *segue* computes its exit waves once and renders
every condition from them; *waves kept* lets abTEM do the same, rendering each condition by its own transfer function;
*anew* runs abTEM's multislice for each condition. All use one thread and the same grid, atoms and slices; the first
structure of each (libraries loading, compiling) is not counted. Prints medians per structure and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from contest import parse

from segue import rng
from segue.hrtem.exit_wave import exit_waves, multislice, resample
from segue.hrtem.detector import expose
from segue.hrtem.imaging import render
from segue.hrtem.optics import Optics
from segue.hrtem.series import SeriesSpec
from segue.hrtem.specimen import Atoms, Specimen, build

DEFOCI_NM = (-10.0, -5.0, 0.0, 5.0, 10.0)
DOSE_E_PER_A2 = 400.0
PIXEL_SIZE_A = 0.2


def series(size_px: int, phonons: int) -> SeriesSpec:
    field_nm = size_px * PIXEL_SIZE_A / 10
    return SeriesSpec.model_validate(
        {
            "name": "bench",
            "structures": 1,
            "specimen": {
                "particles": [1, 2],
                "diameter_nm": [0.3 * field_nm, 0.4 * field_nm],
                "spacing_nm": 0.3,
                "support_nm": 3.0,
            },
            "wave": {"field_nm": field_nm, "sampling_A": 0.1, "frozen_phonons": phonons},
            "imaging": {"tile_px": size_px, "pixel_size_A": PIXEL_SIZE_A, "defocus_nm": list(DEFOCI_NM)},
        }
    )


def by_segue(spec: SeriesSpec, specimen: Specimen, size_px: int) -> np.ndarray:
    waves = exit_waves(specimen, spec.wave, size_px=size_px, seed=0, index=0)
    optics = Optics(spec.wave.energy_keV, PIXEL_SIZE_A, spec.imaging.focal_spread_A)
    intensity = render(torch.from_numpy(waves), 10 * torch.tensor(DEFOCI_NM), optics)
    generator = torch.Generator().manual_seed(0)
    return expose(intensity, DOSE_E_PER_A2, pixel_size_A=PIXEL_SIZE_A, generator=generator).numpy()


def image_by_abtem(spec: SeriesSpec, waves: list[np.ndarray], defocus_nm: float) -> np.ndarray:
    import abtem

    ctf = abtem.CTF(
        defocus=10 * defocus_nm, focal_spread=spec.imaging.focal_spread_A, energy=1e3 * spec.wave.energy_keV
    )
    with abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False, "fftw.threads": 1}):
        images = [
            abtem.Waves(wave, energy=1e3 * spec.wave.energy_keV, sampling=PIXEL_SIZE_A).apply_ctf(ctf).intensity()
            for wave in waves
        ]
        noisy = images[0].copy()
        noisy.array[:] = np.mean([image.array for image in images], axis=0)
        return np.asarray(noisy.poisson_noise(dose_per_area=DOSE_E_PER_A2, seed=0).array)


def waves_by_abtem(spec: SeriesSpec, specimen: Specimen, size_px: int) -> list[np.ndarray]:
    atoms = specimen.support + specimen.particles
    waves = []
    for phonon in range(spec.wave.frozen_phonons):
        random = rng.numpy_generator(0, "phonon", 0, phonon)
        displaced = atoms.positions_A + spec.wave.phonon_sigma_A * random.standard_normal(atoms.positions_A.shape)
        moved = Atoms(atoms.numbers, displaced)
        full = multislice(moved, field_A=10 * spec.wave.field_nm, height_A=specimen.height_A, wave=spec.wave)
        waves.append(resample(full, size_px))
    return waves


def kept(spec: SeriesSpec, specimen: Specimen, size_px: int) -> np.ndarray:
    waves = waves_by_abtem(spec, specimen, size_px)
    return np.stack([image_by_abtem(spec, waves, defocus) for defocus in DEFOCI_NM])


def anew(spec: SeriesSpec, specimen: Specimen, size_px: int) -> np.ndarray:
    return np.stack([image_by_abtem(spec, waves_by_abtem(spec, specimen, size_px), defocus) for defocus in DEFOCI_NM])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="pixels across the image")
    parser.add_argument("--phonons", type=int, default=2)
    parser.add_argument("--structures", type=int, default=3)
    arguments = parse(parser, size=64, phonons=1, structures=1)
    torch.set_num_threads(1)
    spec = series(arguments.size, arguments.phonons)
    ways: dict[str, Callable[[SeriesSpec, Specimen, int], np.ndarray]] = {
        "segue": by_segue,
        "waves kept": kept,
        "anew": anew,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(arguments.structures + 1):
        specimen = build(spec.specimen, field_A=10 * spec.wave.field_nm, seed=0, index=index)
        for way, images in ways.items():
            start = time.perf_counter()
            actual = images(spec, specimen, arguments.size)
            elapsed = time.perf_counter() - start
            assert abs(actual.mean() / (DOSE_E_PER_A2 * PIXEL_SIZE_A**2) - 1) < 0.05
            if index:
                seconds[way].append(elapsed)
    rates = {way: len(DEFOCI_NM) / statistics.median(times) for way, times in seconds.items()}
    print(f"{arguments.size}² px, {arguments.phonons} phonons, {len(DEFOCI_NM)} defoci, one thread")
    for way, rate in rates.items():
        print(f"{way:>10}: {rate:8.2f} images/s   segue is {rates['segue'] / rate:.2f} × as fast")


if __name__ == "__main__":
    main()
