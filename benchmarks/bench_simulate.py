"""One structure from atoms to images, by segue and by an abTEM script that does the same, in turns.

    python benchmarks/bench_simulate.py [--size 640] [--phonons 8] [--rounds 3] [--device cuda] [--batch 8]

CdSe spheres on 4 nm of carbon, 0.1 Å, slices of 2 Å; by default the study's field of 12.8 nm. Each way has a process of
its own of one thread and makes the exit waves of all frozen phonons and from them images of 11 defoci and 5 doses; its
first round (libraries, compilers, plans of transforms) does not count. *Transforms* are two transforms of the grid for
each slice and phonon, which no multislice does without. Prints processor time, which other work on the machine disturbs
least, the greatest memory of each process, and how many structures two processes make in the time of one. On a GPU
(--device) all of it is wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from contest import head, hold, machine, parse, ratio, row

from segue import device
from segue.hrtem.detector import expose
from segue.hrtem.exit_wave import Execution, WaveSpec, exit_waves, grid_px
from segue.hrtem.imaging import render
from segue.hrtem.optics import Optics
from segue.hrtem.specimen import Specimen, SpecimenSpec, build

DEFOCI_NM = tuple(range(-25, 26, 5))
DOSES_E_PER_A2 = (30.0, 75.0, 150.0, 300.0, 600.0)
PIXEL_SIZE_A = 0.2
FOCAL_SPREAD_A = 10.0
STRUCTURES_OF_STUDY = 20_000
T = TypeVar("T")


class Settings(NamedTuple):
    size: int
    phonons: int
    device: str
    batch: int

    @property
    def field_A(self) -> float:
        return self.size * PIXEL_SIZE_A

    @property
    def wave(self) -> WaveSpec:
        return WaveSpec(field_nm=self.field_A / 10, frozen_phonons=self.phonons)

    def specimen(self) -> Specimen:
        diameter_nm = 0.3 * self.field_A / 10
        spec = SpecimenSpec(
            particles=(2, 2), diameter_nm=(diameter_nm, diameter_nm), spacing_nm=0.2, support_nm=(4.0, 4.0)
        )
        return build(spec, field_A=self.field_A, seed=0, index=0)


class Cost(NamedTuple):
    waves_s: float
    images_s: float
    memory_mb: float


def by_segue(settings: Settings) -> Callable[[], Cost]:
    device.keep_freed_memory()
    specimen, execution = settings.specimen(), Execution(settings.device, settings.batch)
    optics = Optics(settings.wave.energy_keV, PIXEL_SIZE_A, FOCAL_SPREAD_A)
    generator = torch.Generator(settings.device).manual_seed(0)

    def waves() -> torch.Tensor:
        return exit_waves(specimen, settings.wave, size_px=settings.size, seed=0, index=0, execution=execution)

    def images(exit: torch.Tensor) -> None:
        for intensity in render(exit, 10.0 * torch.tensor(DEFOCI_NM), optics):
            for dose in DOSES_E_PER_A2:
                check(expose(intensity, dose, pixel_size_A=PIXEL_SIZE_A, generator=generator), dose)

    return partial(cost, settings, waves, images)


def by_abtem(settings: Settings) -> Callable[[], Cost]:
    import abtem
    import ase

    abtem.config.set({"diagnostics.progress_bar": False, "dask.lazy": False, "fftw.threads": 1})
    specimen, wave = settings.specimen(), settings.wave
    atoms = specimen.support + specimen.particles
    cell_A = [settings.field_A, settings.field_A, specimen.height_A]
    cell = ase.Atoms(numbers=atoms.numbers, positions=atoms.positions_A, cell=cell_A, pbc=True)

    def waves() -> abtem.Waves:
        phonons = abtem.FrozenPhonons(cell, settings.phonons, sigmas=wave.phonon_sigma_A, seed=0)
        potential = abtem.Potential(
            phonons,
            gpts=grid_px(settings.field_A, wave.sampling_A),
            slice_thickness=wave.slice_thickness_A,
            parametrization="lobato",
            projection="infinite",
        )
        exit_wave = abtem.PlaneWave(energy=1e3 * wave.energy_keV).multislice(potential, lazy=False)
        return exit_wave.downsample(gpts=(settings.size, settings.size))

    def images(exit: abtem.Waves) -> None:
        for defocus_nm in DEFOCI_NM:
            ctf = abtem.CTF(defocus=10 * defocus_nm, focal_spread=FOCAL_SPREAD_A, energy=1e3 * wave.energy_keV)
            intensity = exit.apply_ctf(ctf).intensity().mean(0)
            for dose in DOSES_E_PER_A2:
                check(torch.from_numpy(intensity.poisson_noise(dose_per_area=dose, seed=0).array), dose)

    return partial(cost, settings, waves, images)


def transforms(settings: Settings) -> Callable[[], Cost]:
    size, specimen = grid_px(settings.field_A, settings.wave.sampling_A), settings.specimen()
    count = 2 * int(np.ceil(specimen.height_A / settings.wave.slice_thickness_A))
    grids = torch.randn(settings.batch, size, size, dtype=torch.complex64, device=settings.device)

    def waves() -> None:
        for _ in range(count * settings.phonons // settings.batch):
            torch.fft.fft2(grids)

    return partial(cost, settings, waves, lambda _: None)


def cost(settings: Settings, waves: Callable[[], T], images: Callable[[T], None]) -> Cost:
    clock = time.process_time if settings.device == "cpu" else time.perf_counter
    began = clock()
    exit = waves()
    finish(settings)
    between = clock()
    images(exit)
    finish(settings)
    return Cost(between - began, clock() - between, peak_memory_mb())


def finish(settings: Settings) -> None:
    if settings.device != "cpu":
        torch.cuda.synchronize()


def check(image: torch.Tensor, dose: float) -> None:
    """Refuses images of a wrong number of electrons: a fast wrong way is none."""
    assert abs(float(image.double().mean()) / (dose * PIXEL_SIZE_A**2) - 1) < 0.05


def peak_memory_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds_of_structure(settings: Settings, structures: int) -> float:
    torch.set_num_threads(1)
    measure = by_segue(settings)
    measure()
    began = time.perf_counter()
    for _ in range(structures):
        measure()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=640, help="pixels of 0.2 Å across the image")
    parser.add_argument("--phonons", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="waves at once")
    arguments = parse(parser, size=96, phonons=1, rounds=1)
    settings = Settings(arguments.size, arguments.phonons, arguments.device, arguments.batch)
    ways = {"segue": by_segue, "abTEM": by_abtem, "transforms": transforms}
    results = hold({name: partial(way, settings) for name, way in ways.items()}, rounds=arguments.rounds, threads=1)
    print(machine(1))
    print(f"{settings.size}² px, {settings.phonons} phonons, {len(DEFOCI_NM)} defoci × {len(DOSES_E_PER_A2)} doses\n")
    print(head("way", "exit waves, s", "images, s", "memory, MB", "waves: segue takes"))
    ours = [each.waves_s for each in results["segue"]]
    for name, costs in results.items():
        waves_s, images_s, memory_mb = (median(values) for values in zip(*costs, strict=True))
        share = ratio(ours, [each.waves_s for each in costs])
        print(row(name, f"{waves_s:.2f}", f"{images_s:.2f}", f"{memory_mb:.0f}", f"{share:.2f} × its time"))
    totals = {name: [each.waves_s + each.images_s for each in costs] for name, costs in results.items()}
    images = len(DEFOCI_NM) * len(DOSES_E_PER_A2)
    print(
        f"\nfrom atoms to {images} images: segue is {ratio(totals['abTEM'], totals['segue']):.2f} × as fast as abTEM, "
        f"{images / median(totals['segue']):.2f} images/s; images take "
        f"{100 * median(each.images_s / each.waves_s for each in results['segue']):.1f} % of the time of waves"
    )
    print(
        f"{STRUCTURES_OF_STUDY:,} structures: {STRUCTURES_OF_STUDY * median(totals['segue']) / 3600:,.0f} hours of it"
    )
    if settings.device == "cpu":
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            alone = pool.apply(seconds_of_structure, (settings, arguments.rounds))
            both = pool.starmap(seconds_of_structure, [(settings, arguments.rounds)] * 2)
        print(f"two processes make {2 * alone / max(both):.2f} × as many structures as one")


if __name__ == "__main__":
    main()
