"""Simulates series: random structures, their exit waves computed once, and all imaging conditions rendered from them.

For each structure: specimen → exit waves (one per frozen phonon) and vacuum wave → mask and zero of defocus →
images under each condition → part file. A structure's part depends on the specification and its index only, so any
number of workers and any interruption give the same dataset. Parts wait in `<out>.parts/` until all are there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from segue import rng
from segue.errors import SegueError, warn
from segue.fingerprint import hash_json
from segue.hrtem import waves
from segue.hrtem.carbon import MIN_GRAPHENE_FIELD_A
from segue.hrtem.exit_wave import ON_CPU, Execution, LabelsSpec, WaveSpec, default_execution, grid_px
from segue.hrtem.imaging import ImagingSpec
from segue.hrtem.optics import least_contrast_defocus_A, max_displacement_A
from segue.hrtem.specimen import A_PER_NM, SpecimenSpec, locate
from segue.spec import SpecModel

if TYPE_CHECKING:
    import numpy as np
    import torch

    from segue.data.writer import GroupTiles
    from segue.hrtem.detector import Cut
    from segue.hrtem.waves import StructureWaves

VERSION = 4  # of what is produced: raise it by one whenever equal specifications give other samples
LAYER = "particles"
MIN_LABELED = 0.5  # of the particles' area
CHUNK_BYTES = 16 * 10**6  # of images in a dataset
FILE_BYTES = 40_000  # HDF5's own, in each file
MAX_COUNTS_PER_PX = 8000.0  # expected electrons per pixel; fringes reach several times that and must fit 16 bits


class SeriesSpec(SpecModel):
    """A series of simulated structures, each imaged under every condition of `imaging`.

    `waves_folder`, a path relative to the specification, keeps the exit waves, from which another series of the same
    structures with the same folder is rendered without computing them again. It changes no image.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    structures: Annotated[int, Field(ge=1)]
    waves_folder: Annotated[str, Field(min_length=1)] | None = Field(default=None, exclude=True)
    specimen: SpecimenSpec = SpecimenSpec()
    wave: WaveSpec = WaveSpec()
    imaging: ImagingSpec = ImagingSpec()
    labels: LabelsSpec = LabelsSpec()

    @model_validator(mode="after")
    def _fitting(self) -> SeriesSpec:
        errors = []
        field_A, pixel_A = A_PER_NM * self.wave.field_nm, self.imaging.pixel_size_A
        pixels = field_A / pixel_A
        if abs(pixels - round(pixels)) > 1e-6:
            errors.append(
                f"wave.field_nm: found {self.wave.field_nm:g}, which is {pixels:.2f} pixels of {pixel_A:g} Å; make "
                f"it a whole number of pixels, e.g. {round(pixels) * pixel_A / A_PER_NM:g}"
            )
        if self.imaging.tile_px > round(pixels):
            errors.append(
                f"imaging.tile_px: found {self.imaging.tile_px}, but the field of {self.wave.field_nm:g} nm has "
                f"{round(pixels)} pixels of {pixel_A:g} Å; take a smaller tile or a larger wave.field_nm"
            )
        if self.wave.sampling_A > pixel_A:
            errors.append(
                f"wave.sampling_A: found {self.wave.sampling_A:g}, coarser than imaging.pixel_size_A = {pixel_A:g}; "
                "sample the wave at least as finely as the image"
            )
        if self.specimen.shape != "whole" and self.specimen.diameter_nm[1] > self.wave.field_nm:
            errors.append(
                f"specimen.diameter_nm: found up to {self.specimen.diameter_nm[1]:g}, more than wave.field_nm = "
                f"{self.wave.field_nm:g}; take smaller particles or a larger field"
            )
        if self.specimen.support == "graphene" and field_A < MIN_GRAPHENE_FIELD_A:
            errors.append(
                f"wave.field_nm: found {self.wave.field_nm:g}, in which graphene would be strained by more than 6 %; "
                f"take at least {MIN_GRAPHENE_FIELD_A / A_PER_NM:g}"
            )
        counts = max(self.imaging.dose_e_per_A2) * pixel_A**2
        if counts > MAX_COUNTS_PER_PX:
            errors.append(
                f"imaging.dose_e_per_A2: found {max(self.imaging.dose_e_per_A2):g}, which is {counts:.0f} electrons "
                f"per pixel of {pixel_A:g} Å; at most {MAX_COUNTS_PER_PX:.0f} are counted; lower the dose"
            )
        if errors:
            raise ValueError("; ".join(errors))
        return self


def expected(spec: SeriesSpec) -> dict[str, int]:
    """Returns the sizes of a simulation and of its dataset, without simulating: for planning.

    structures, tiles, field_px (image pixels across the field), grid_px (multislice points across it), bytes (at most,
    of the dataset: its last chunk of images may be half empty; labels are counted at a twentieth of their size, to
    which they are compressed at least), bytes_while_making (parts and dataset side by side) and bytes_of_waves (in
    `waves_folder`, all of them; 0 without one).
    """
    tiles = spec.structures * len(spec.imaging.defocus_nm) * len(spec.imaging.dose_e_per_A2)
    pixels, pixel_bytes = spec.imaging.tile_px**2, 2 if spec.imaging.detector.counts_whole else 4
    images, labels, columns = pixel_bytes * pixels * tiles, 4 * pixels * tiles // 20, 300 * tiles
    content = images + labels + columns
    whole = content + min(images, CHUNK_BYTES) + FILE_BYTES
    bytes_of_waves = waves.expected_bytes(spec.structures, spec.wave.frozen_phonons, _field_px(spec))
    return {
        "structures": spec.structures,
        "tiles": tiles,
        "field_px": _field_px(spec),
        "grid_px": grid_px(A_PER_NM * spec.wave.field_nm, spec.wave.sampling_A),
        "bytes": whole,
        "bytes_while_making": whole + content + FILE_BYTES * spec.structures,
        "bytes_of_waves": bytes_of_waves if spec.waves_folder else 0,
    }


def group_of(spec: SeriesSpec, index: int) -> str:
    """Returns the group of structure `index`: the same wherever the same atoms stand in the same field.

    It names the crystal, "file" or "patch", and digests the specimen (a structure file by its content), the seed and
    the field, but neither the series' name nor how it is imaged, so that two series of the same structures share their
    groups and no split can separate them.
    """
    kind = spec.specimen.crystal or ("patch" if spec.specimen.shape == "patch" else "file")
    return f"{kind}-{_atoms_digest(spec)[:8]}/{index:05d}"


def structures_seed(spec: SeriesSpec) -> int:
    """Returns the seed of all random numbers of a series' structures and their images.

    It is that of the specification only where specimen and field are equal too: structures of different groups have
    neither places, carbon and noise in common.
    """
    return rng.derive(spec.seed, _atoms_digest(spec))


def _atoms_digest(spec: SeriesSpec) -> str:
    """Returns the digest of what decides the atoms of all structures; ValueError for an unread structure file."""
    if spec.specimen.structure_file is not None and spec.specimen.structure_sha256 is None:
        raise ValueError("the structure file has not been read; call `resolve` first")
    specimen = spec.specimen.model_dump(mode="json", exclude_defaults=True)
    atoms = {"seed": spec.seed, "field_nm": spec.wave.field_nm, "specimen": specimen}
    return hash_json(atoms, digest_size=16)


def resolve(spec: SeriesSpec, root: Path) -> SeriesSpec:
    """Returns the specification with its structure file, relative to `root`, found, read and known by its content.

    Without a file it is `spec` itself. Raises SegueError for a file or for surface energies that are unsuitable.
    """
    specimen = locate(spec.specimen, root)
    return spec if specimen is spec.specimen else spec.model_copy(update={"specimen": specimen})


def simulate(
    spec: SeriesSpec,
    out: Path,
    *,
    root: Path = Path(),
    workers: int = 1,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the series' dataset `out`; `progress(done, structures)` is called as structures finish.

    Paths in the specification are relative to `root`. An interrupted call continues from the structures that are done;
    if `out` is finished, it returns at once. `batch` waves are computed together (`default_execution`). Raises
    SegueError if `out` holds anything else, or if a worker process is killed.
    """
    from segue.data.maker import is_made, make_parts, work_folders
    from segue.data.spec import Layer
    from segue.data.writer import merge_parts
    from segue.storage import make_folder, write_json

    spec = resolve(spec, root)
    provenance = _provenance(spec)
    waves_folder = None if spec.waves_folder is None else (root / spec.waves_folder).absolute()
    _warn_of_border(spec)
    made = is_made(out, "provenance", provenance)
    if waves_folder is not None:
        write_json(waves_record(out), {"waves_folder": str(waves_folder)})
    if made:
        if waves_folder is not None:
            _make_missing_waves(spec, waves_folder, workers=workers, batch=batch, progress=progress)
        return
    folder = out.with_name(out.name + ".parts")
    parts = make_folder(folder / hash_json(_part_settings(spec), digest_size=16)[:16])
    paths = [parts / f"{index:05d}.h5" for index in range(spec.structures)]
    with work_folders(out, folder):
        if is_made(out, "provenance", provenance):  # by another process, while this one waited
            return
        make_parts(
            partial(_write_structure, spec, waves_folder, batch),
            list(enumerate(paths)),
            finished=lambda item: item[1].exists() or None,
            workers=workers,
            context=parts,
            progress=progress,
        )
        merge_parts(
            paths,
            out,
            layers=[Layer(LAYER, "classes", ("background", "particle"))],
            channels=["HRTEM"],
            attributes={"pixel_size_nm": spec.imaging.pixel_size_A / A_PER_NM, "provenance": provenance},
            splits={},
        )
    _warn_of_small_labels(spec, out)


def _make_missing_waves(
    spec: SeriesSpec,
    folder: Path,
    *,
    workers: int,
    batch: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Computes waves that a finished series has not kept, as where `waves_folder` was named later."""
    from segue.data.maker import make_parts

    indices = range(spec.structures)
    if all(waves_file(spec, index, folder).exists() for index in indices):
        return
    make_parts(
        partial(_write_waves, spec, folder, batch),
        indices,
        finished=lambda index: waves_file(spec, index, folder).exists() or None,
        workers=workers,
        context=folder,
        progress=progress,
    )


def _write_waves(spec: SeriesSpec, folder: Path, batch: int | None, index: int) -> bool:
    with _one_thread():
        structure_waves(spec, index, folder, default_execution(batch))
    return True


def _warn_of_small_labels(spec: SeriesSpec, out: Path) -> None:
    """Warns of structures whose particles are thinner than the labels' threshold of the phase over half their area."""
    import numpy as np

    from segue.data.dataset import Dataset

    with Dataset(out) as dataset:
        samples = dataset.samples()
    _, first = np.unique(samples["structure"], return_index=True)
    fractions = samples["labeled_fraction"][first]
    small = int((fractions < MIN_LABELED).sum())
    if small:
        warn(
            f"{out}: in {small} of {len(fractions)} structures the labels cover less than half of the particles, down "
            f"to {100 * fractions.min():.0f} %, for elsewhere the phase behind these is below "
            f"labels.phase_threshold_rad = {spec.labels.phase_threshold_rad:.3g}; lower it, or take larger particles"
        )


def _warn_of_border(spec: SeriesSpec) -> None:
    """Warns of aberrations that displace detail across the border of the field, which is periodic."""
    defocus_A = A_PER_NM * (max(map(abs, spec.imaging.defocus_nm)) + 3 * spec.imaging.defocus_spread_nm)
    displaced_nm = max_displacement_A(spec.imaging.optics(spec.wave.energy_keV), defocus_A) / A_PER_NM
    if displaced_nm > spec.wave.field_nm / 2:
        warn(
            f"{spec.name}: aberrations and defocus displace the finest detail by up to {displaced_nm:.0f} nm, beyond "
            f"the border of the field of {spec.wave.field_nm:g} nm, where it comes in again from the other side; a "
            "microscope damps it by imaging.angular_spread_mrad, or take a larger wave.field_nm"
        )


def _write_structure(spec: SeriesSpec, waves_folder: Path | None, batch: int | None, item: tuple[int, Path]) -> bool:
    """Writes the part file of one structure."""
    from segue import device
    from segue.data.writer import write_part

    index, path = item
    with device.freed_memory_kept(), _one_thread():
        write_part(path, structure(spec, index, waves_folder, default_execution(batch)))
    return True


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Has torch use one thread: what is computed must not depend on the number of workers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def structure(
    spec: SeriesSpec, index: int, waves_folder: Path | None = None, execution: Execution = ON_CPU
) -> GroupTiles:
    """Returns the tiles of structure `index`: one for each defocus and dose, in that order, defocus outermost.

    Images (n, 1, H, W) are electrons per pixel: uint16 where the detector gives whole numbers, else float32. A tile is
    the whole acquired image; its place in the simulated field is drawn once per structure. Every condition has streams
    of its own for its defocus and its noise, so that adding one changes no other. Waves are read from `waves_folder`
    where they are there, and written to it where not.
    """
    import numpy as np
    import torch

    from segue.hrtem.exit_wave import particle_mask
    from segue.hrtem.imaging import minimum_contrast_A, render

    imaging, optics = spec.imaging, spec.imaging.optics(spec.wave.energy_keV)
    made = structure_waves(spec, index, waves_folder, execution)
    mask = particle_mask(
        made.vacuum.numpy(), spec.labels, crystal=spec.specimen.crystal, pixel_size_A=imaging.pixel_size_A
    )
    if imaging.zero_defocus_nm == "minimum-contrast":
        without = replace(optics, aberrations=())
        middle_A = minimum_contrast_A(made.vacuum, without, thickness_A=made.thickness_A)
        zero_A = round(middle_A + least_contrast_defocus_A(optics), 1)
    else:
        zero_A = A_PER_NM * imaging.zero_defocus_nm
    cut = tile_cut(spec, index)

    conditions = _conditions(spec)
    sampled_nm = np.array([_sample_defocus_nm(spec, index, *condition) for condition in conditions])
    intensities = render(made.exit, torch.from_numpy(A_PER_NM * sampled_nm + zero_A), optics)
    images = np.stack(
        [
            _acquired(spec, index, image, cut, *condition)
            for image, condition in zip(intensities, conditions, strict=True)
        ]
    )
    labeled_nm2 = mask.sum() * (imaging.pixel_size_A / A_PER_NM) ** 2
    columns = {
        **made.columns,
        "labeled_fraction": float(labeled_nm2 / made.columns["particle_area_nm2"]),
        "zero_defocus_nm": round(zero_A / A_PER_NM, 6),
        "structure": index,
        "seed": spec.seed,
    }
    return _group_tiles(spec, index, images, mask[cut], sampled_nm=sampled_nm, columns=columns)


def structure_waves(
    spec: SeriesSpec, index: int, folder: Path | None = None, execution: Execution = ON_CPU
) -> StructureWaves:
    """Returns the waves of structure `index`, computed, or read from `folder`, where they are kept."""
    if folder is None:
        return _compute_waves(spec, index, execution)
    path = waves_file(spec, index, folder)
    if path.exists():
        try:
            return waves.read_waves(path)
        except SegueError as error:
            raise SegueError(f"{error} If you remove the file, its waves are computed again.") from error
    made = _compute_waves(spec, index, execution)
    waves.write_waves(path, made)
    return made


def waves_file(spec: SeriesSpec, index: int, folder: Path) -> Path:
    """Returns the file of a structure's waves: the same for all series that differ only in imaging and number."""
    settings = spec.model_dump(mode="json", include={"seed", "specimen", "wave"})
    identity = {"version": VERSION, "pixel_size_A": spec.imaging.pixel_size_A, **settings}
    return folder / hash_json(identity, digest_size=16)[:16] / f"{index:05d}.h5"


def waves_record(dataset: Path) -> Path:
    """Returns the file beside a dataset that says where its exit waves are kept: no part of the dataset's content."""
    return dataset.with_name(f"{dataset.name}.waves.json")


def missing_waves(spec: SeriesSpec, root: Path) -> dict[Path, int]:
    """Returns the folder that keeps the series' waves and the bytes of those that are not there; empty without one."""
    if spec.waves_folder is None:
        return {}
    paths = [waves_file(spec, index, root / spec.waves_folder) for index in range(spec.structures)]
    missing = sum(not path.exists() for path in paths)
    return {paths[0].parent: expected(spec)["bytes_of_waves"] * missing // spec.structures}


def describe(specs: Sequence[SeriesSpec], root: Path) -> list[str]:
    """Returns sentences on what several series will have, and on the disk they need."""
    from segue.formatting import format_bytes

    sizes = [expected(spec) for spec in specs]
    structures, images, size = (sum(each[name] for each in sizes) for name in ("structures", "tiles", "bytes"))
    folders = {folder: size for spec in specs for folder, size in missing_waves(resolve(spec, root), root).items()}
    counts = [f"{n:,} {noun}{'s' * (n != 1)}" for n, noun in ((structures, "structure"), (images, "image"))]
    return [
        f"{', '.join(counts)}: {format_bytes(size)}",
        *(f"exit waves in {folder}: {format_bytes(size)}" for folder, size in folders.items() if size),
    ]


def _compute_waves(spec: SeriesSpec, index: int, execution: Execution) -> StructureWaves:
    from segue.hrtem.exit_wave import exit_waves, vacuum_wave
    from segue.hrtem.specimen import build

    size_px, seed = _field_px(spec), structures_seed(spec)
    specimen = build(spec.specimen, field_A=A_PER_NM * spec.wave.field_nm, seed=seed, index=index)
    return waves.StructureWaves(
        exit=exit_waves(specimen, spec.wave, size_px=size_px, seed=seed, index=index, execution=execution).cpu(),
        vacuum=vacuum_wave(specimen, spec.wave, size_px=size_px, execution=execution).cpu(),
        thickness_A=specimen.height_A - specimen.particles_from_A,
        columns={
            "crystal": specimen.formula,
            "particles": len(specimen.parts),
            "particle_area_nm2": specimen.particle_area_A2 / A_PER_NM**2,
            "support_nm": specimen.support_A / A_PER_NM,
        },
    )


def tile_cut(spec: SeriesSpec, index: int) -> Cut:
    """Returns the place of a structure's tile in its field."""
    random = rng.numpy_generator(structures_seed(spec), "tile", index)
    tile_px = spec.imaging.tile_px
    top, left = (int(n) for n in random.integers(0, _field_px(spec) - tile_px + 1, size=2))
    return slice(top, top + tile_px), slice(left, left + tile_px)


def _conditions(spec: SeriesSpec) -> list[tuple[float, float]]:
    return [(defocus, dose) for defocus in spec.imaging.defocus_nm for dose in spec.imaging.dose_e_per_A2]


def _sample_defocus_nm(spec: SeriesSpec, index: int, defocus_nm: float, dose_e_per_A2: float) -> float:
    random = rng.numpy_generator(structures_seed(spec), "defocus", index, defocus_nm, dose_e_per_A2)
    return defocus_nm + spec.imaging.defocus_spread_nm * float(random.standard_normal())


def noise_generator(spec: SeriesSpec, index: int, defocus_nm: float, dose_e_per_A2: float) -> torch.Generator:
    """Returns the random numbers of an image's noise, by its nominal conditions."""
    return rng.torch_generator(structures_seed(spec), "counts", index, defocus_nm, dose_e_per_A2)


def _acquired(
    spec: SeriesSpec,
    index: int,
    intensity: torch.Tensor,
    cut: Cut,
    defocus_nm: float,
    dose_e_per_A2: float,
) -> np.ndarray:
    """Returns the tile (h, w) of an expected image (H, W), in electrons: uint16 where they are whole, else float32."""
    from segue.hrtem.detector import acquire

    imaging = spec.imaging
    image = acquire(
        intensity,
        dose_e_per_A2,
        pixel_size_A=imaging.pixel_size_A,
        cut=cut,
        detector=imaging.detector,
        generator=noise_generator(spec, index, defocus_nm, dose_e_per_A2),
    )
    if not imaging.detector.counts_whole:
        return image.numpy()
    highest = float(image.max())
    if highest > 65535:
        raise SegueError(
            f"imaging.dose_e_per_A2: at {dose_e_per_A2:g} a pixel of structure {index} counted {highest:.0f} "
            "electrons, more than 16 bits hold; lower the dose."
        )
    return image.numpy().astype("uint16")


def _group_tiles(
    spec: SeriesSpec,
    index: int,
    images: np.ndarray,
    mask: np.ndarray,
    *,
    sampled_nm: np.ndarray,
    columns: dict[str, str | int | float],
) -> GroupTiles:
    import numpy as np

    from segue.data.normalization import image_statistics
    from segue.data.writer import GroupTiles

    conditions, group = _conditions(spec), group_of(spec, index)
    count, tile_px = len(images), spec.imaging.tile_px
    samples = {
        "group": np.array([group] * count, dtype=object),
        "source": np.array([f"{group}@{defocus:g}nm,{dose:g}e" for defocus, dose in conditions], dtype=object),
        "y_px": np.zeros(count, np.int64),
        "x_px": np.zeros(count, np.int64),
        "defocus_nm": np.array([defocus for defocus, _ in conditions], np.float64),
        "defocus_nm_drawn": sampled_nm,
        "dose_e_per_A2": np.array([dose for _, dose in conditions], np.float64),
        **{name: _column(value, count) for name, value in columns.items()},
    }
    return GroupTiles(
        images=images[:, None],
        labels={LAYER: np.repeat(mask[None].astype(np.int32), count, axis=0)},
        valid=np.tile(np.array([0, 0, tile_px, tile_px], np.int32), (count, 1)),
        intensity=np.stack([image_statistics(image[None]) for image in images]),
        samples=samples,
    )


def _column(value: str | int | float, count: int) -> np.ndarray:
    import numpy as np

    kind = object if isinstance(value, str) else np.float64 if isinstance(value, float) else np.int64
    return np.array([value] * count, dtype=kind)


def _field_px(spec: SeriesSpec) -> int:
    return round(A_PER_NM * spec.wave.field_nm / spec.imaging.pixel_size_A)


def _part_settings(spec: SeriesSpec) -> dict[str, object]:
    """Returns the settings that determine a structure's part: all but the number of structures."""
    return {"version": VERSION, "spec": spec.model_dump(mode="json", exclude={"structures"})}


def made_from(provenance: str) -> SeriesSpec | None:
    """Returns the series that a dataset was simulated from by this version, None for any other dataset."""
    from pydantic import ValidationError

    try:
        record = json.loads(provenance)
        if record["made_by"] == "segue simulate" and record["version"] == VERSION:
            return SeriesSpec.model_validate(record["spec"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        pass
    return None


def _provenance(spec: SeriesSpec) -> str:
    record = {"made_by": "segue simulate", "version": VERSION, "spec": spec.model_dump(mode="json")}
    return json.dumps(record, sort_keys=True)
