"""Training images rendered from exit waves while a network trains: the dataset's own, or others at every visit.

A dataset of a series with `waves_folder` has a record of that folder beside it. A visit of a sample becomes an image by
the steps of `series.structure`: spectra of the structure's waves → defocus → dose and noise → its tile. Random numbers
of a visit depend on the stage's seeds, the epoch and the visit alone, so that neither batches nor interruptions matter.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from segue import rng
from segue.data.dataset import Dataset
from segue.data.normalization import intensity_stats
from segue.data.sources import DatasetSubset, micrograph_statistics
from segue.data.spec import NormalizeSpec, RenderSpec
from segue.device import free_memory
from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.hrtem import series
from segue.hrtem.detector import acquire
from segue.hrtem.imaging import lens_spectra, render_spectra
from segue.hrtem.optics import Optics
from segue.hrtem.series import SeriesSpec
from segue.hrtem.specimen import A_PER_NM
from segue.hrtem.waves import read_waves
from segue.storage import read_json

MEMORY_FRACTION = 0.25  # of what is free on the device: spectra that stay there between batches


@dataclass(frozen=True)
class WaveSample:
    """A sample of a simulated series: its structure's waves, and the conditions that stand with it."""

    spec: SeriesSpec
    waves: Path
    structure: int
    defocus_nm: float
    defocus_nm_drawn: float
    dose_e_per_A2: float
    zero_defocus_nm: float


def wave_samples(dataset: Dataset, indices: np.ndarray) -> list[WaveSample]:
    """Returns the samples `indices` with their waves; raises SegueError where the dataset has none, or not all."""
    spec = series.made_from(str(dataset.attributes.get("provenance")))
    if spec is None:
        raise SegueError(
            f"{dataset.path}: render needs a dataset that this version of `segue simulate` made; simulate it again, or "
            "remove render."
        )
    remedy = "name a waves_folder in its series and run `segue simulate` with it and this dataset again"
    record = series.waves_record(dataset.path)
    if not record.is_file():
        raise SegueError(f"{dataset.path}: render needs the exit waves, but {record.name} is not beside it; {remedy}.")
    content = read_json(record, remedy)
    if not isinstance(content, dict) or not isinstance(content.get("waves_folder"), str):
        raise SegueError(f"{record}: is damaged: names no waves_folder; {remedy}.")
    folder = Path(content["waves_folder"])
    samples = dataset.samples()
    names = ("structure", "defocus_nm", "defocus_nm_drawn", "dose_e_per_A2", "zero_defocus_nm")
    rows = zip(*(samples[name][indices].tolist() for name in names), strict=True)
    waves = [WaveSample(spec, series.waves_file(spec, row[0], folder), *row) for row in rows]
    missing = {str(sample.waves) for sample in waves if not sample.waves.is_file()}
    if missing:
        raise SegueError(
            f"{dataset.path}: render needs the exit waves of {len(missing)} structures that are not there, such as "
            f"{min(missing)}; {remedy}."
        )
    return waves


def _require_countable(settings: RenderSpec, samples: Sequence[WaveSample]) -> None:
    """Raises SegueError for doses whose electrons per pixel would not fit the 16 bits of the dataset's images."""
    for pixel_size_A in {sample.spec.imaging.pixel_size_A for sample in samples}:
        dose = (settings.dose_e_per_A2 or (0.0, 0.0))[1]
        counts = dose * pixel_size_A**2
        if counts > series.MAX_COUNTS_PER_PX:
            raise SegueError(
                f"render.dose_e_per_A2: found up to {dose:g}, which is {counts:.0f} electrons per pixel of "
                f"{pixel_size_A:g} Å; at most {series.MAX_COUNTS_PER_PX:.0f} are counted; lower the dose."
            )


@dataclass
class Renderer:
    """Renders samples on `device`; spectra of at most `max_bytes` stay there, those used last.

    statistics (n, C, 4): of the dataset's images, by which images with stored noise are normalized.
    """

    samples: list[WaveSample]
    statistics: np.ndarray
    settings: RenderSpec
    normalization: NormalizeSpec
    seed: int
    device: torch.device
    max_bytes: int
    _spectra: OrderedDict[tuple[Path, Optics], torch.Tensor] = field(default_factory=OrderedDict)

    @classmethod
    def from_parts(
        cls,
        parts: Sequence[DatasetSubset],
        settings: RenderSpec,
        *,
        normalization: NormalizeSpec,
        seed: int,
        device: str,
        memory_limit: int | None,
    ) -> Renderer:
        """Returns a renderer of the samples of all parts, those of the first part first, as sources number them."""
        place = torch.device(device)
        free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else free_memory()
        limits = [MEMORY_FRACTION * limit for limit in (free, memory_limit) if limit is not None]
        samples = [sample for part in parts for sample in wave_samples(part.dataset, np.asarray(part.indices))]
        _require_countable(settings, samples)
        return cls(
            samples,
            np.concatenate([micrograph_statistics(part.dataset, part.indices, normalization) for part in parts]),
            settings, normalization, seed, place, int(min(limits, default=2**31)),
        )  # fmt: skip

    def describe(self) -> str:
        """Returns what is rendered, and how much of the waves stays in memory."""
        files = {sample.waves for sample in self.samples}
        needed = sum(file.stat().st_size for file in files)
        return (
            f"images are rendered with {self.settings.noise} noise from the exit waves of {len(files):,} structures, "
            f"{format_bytes(needed)}, of which {format_bytes(min(needed, self.max_bytes))} stay in memory"
        )

    def render(self, samples: np.ndarray, visits: np.ndarray, stream: tuple[str | int, ...]) -> torch.Tensor:
        """Returns normalized images (m, 1, h, w) float32, channels-last, of `samples` (m,) as numbered in the source.

        `visits` (m,) and `stream` are what fresh noise depends on: the visits' numbers and the epoch's random stream.
        """
        images = [
            self._image(self.samples[sample], (*stream, int(visit)))
            for sample, visit in zip(samples, visits, strict=True)
        ]
        acquired = torch.stack(images)
        whole = all(self.samples[sample].spec.imaging.detector.counts_whole for sample in samples)
        values = acquired[:, None].cpu().numpy().astype(np.uint16 if whole else np.float32)  # as datasets store them
        stored = self.statistics[samples] if self.settings.noise == "stored" else None
        stats = torch.from_numpy(intensity_stats(self.normalization, values, stored)).to(self.device)
        shift, scale = stats[..., None].unbind(2)
        return ((acquired.to(self.device) - shift) / scale)[..., None].permute(0, 3, 1, 2)

    def _image(self, sample: WaveSample, visit: tuple[str | int, ...]) -> torch.Tensor:
        """Returns the electrons per pixel of one visit, (h, w) float32."""
        spec, imaging = sample.spec, sample.spec.imaging
        fresh = self.settings.noise == "fresh"
        defocus_nm, dose = self._conditions(sample, visit) if fresh else (sample.defocus_nm_drawn, sample.dose_e_per_A2)
        optics = imaging.optics(spec.wave.energy_keV)
        defocus_A = torch.tensor([A_PER_NM * (defocus_nm + sample.zero_defocus_nm)], dtype=torch.float64)
        (intensity,) = next(render_spectra(self._spectra_of(sample, optics), defocus_A, optics))
        if fresh:
            generator = rng.torch_generator(self.seed, "render", *visit, device=self.device)
        else:  # on the processor, as the dataset's own was drawn
            intensity = intensity.cpu()
            generator = series.noise_generator(spec, sample.structure, sample.defocus_nm, dose)
        return acquire(
            intensity,
            dose,
            pixel_size_A=imaging.pixel_size_A,
            cut=series.tile_cut(spec, sample.structure),
            detector=imaging.detector,
            generator=generator,
        )

    def _conditions(self, sample: WaveSample, visit: tuple[str | int, ...]) -> tuple[float, float]:
        """Returns the defocus and the dose drawn for a visit."""
        random = rng.numpy_generator(self.seed, "render", "conditions", *visit)
        values = {
            name: getattr(sample, name) if limits is None else float(random.uniform(*limits))
            for name in ("defocus_nm", "dose_e_per_A2")
            for limits in [getattr(self.settings, name)]
        }
        spread_nm = sample.spec.imaging.defocus_spread_nm
        return values["defocus_nm"] + spread_nm * float(random.standard_normal()), values["dose_e_per_A2"]

    def _spectra_of(self, sample: WaveSample, optics: Optics) -> torch.Tensor:
        """Returns the spectra of a structure's waves on the device, read where they are not in memory."""
        key = (sample.waves, optics)
        spectra = self._spectra.pop(key, None)
        if spectra is None:
            spectra = lens_spectra(read_waves(sample.waves).exit.to(self.device), optics)
            used = sum(other.nbytes for other in self._spectra.values())
            while self._spectra and used + spectra.nbytes > self.max_bytes:
                used -= self._spectra.popitem(last=False)[1].nbytes
        self._spectra[key] = spectra
        return spectra
