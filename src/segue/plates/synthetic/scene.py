"""The scene of a synthetic well at one time: expected counts of each channel before the camera, and the truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import scipy.ndimage

from segue.plates.synthetic.cells import DEAD, LIVE, PLANE_HEIGHTS_UM, CellMaps, draw_cells, make_substrate
from segue.plates.synthetic.optics import defocused_intensity, smooth_field
from segue.plates.synthetic.population import Cells, WellDynamics, simulate_cells
from segue.plates.synthetic.spec import STAINS, TRANSMITTED, SyntheticSpec, plate_name, well_name
from segue.rng import numpy_generator

_HAZE_UM = 12.0  # sd of the light of nuclei out of focus


@dataclass(frozen=True)
class SampledWell:
    """The parameters sampled for one well; constant over time except `defocus_um` and `illumination`, one per time."""

    plate: str
    well: str
    stained: bool
    treatment: str  # "control" or "treated"
    experiment: str
    dynamics: dict[str, float]  # of population.WellDynamics
    defocus_um: tuple[float, ...]
    illumination: tuple[float, ...]  # relative, over time
    level_counts: float
    gradient: tuple[float, float]  # relative change of the illumination over the scene, down and to the right
    dapi_counts: float
    cy5_counts: float
    background_counts: tuple[float, float]
    haze: float
    blur_um: float
    dapi_in_cy5: float
    cy5_in_dapi: float
    quenching: float
    numbers: tuple[int, int]  # plate and well, from 0


@dataclass(frozen=True)
class Scene:
    """Channels (H, W) float32 in expected counts before vignetting and offset, and the truth on the same pixels."""

    channels: dict[str, np.ndarray]  # brightfield and, in a stained well, dapi and cy5
    nuclei: np.ndarray  # (H, W) int32: number of the cell + 1, the same at all times
    bodies: np.ndarray  # (H, W) int32, likewise; of overlapping bodies the upper one
    objects: dict[
        str, np.ndarray
    ]  # id, class (1 live, 2 dead), y_px, x_px, area_px, in_field; a row per visible nucleus
    time_h: float


def sample_well(spec: SyntheticSpec, *, plate: int, well: int) -> SampledWell:
    """Returns the parameters of a well, sampled from the ranges of the specification."""
    stained, treated = _stained_and_treated(spec, plate)
    g = numpy_generator(spec.seed, "well", plate, well)
    cells, optics, stains = spec.cells, spec.optics, spec.stains

    def sample(pair: tuple[float, float]) -> float:
        return float(g.uniform(*pair))

    dynamics = WellDynamics(
        density_per_mm2=sample(cells.density_per_mm2),
        patchiness=sample(cells.patchiness),
        speed_um_per_h=sample(cells.speed_um_per_h),
        dead_at_start=sample(cells.dead_at_start),
        dying=sample(cells.dying_treated if well in treated else cells.dying_control),
        onset_h=sample(cells.onset_h),
        width_h=sample(cells.width_h),
    )
    focus, gradient, direction = sample(optics.defocus_um), sample(optics.gradient), g.uniform(0, 2 * np.pi)
    if g.random() < optics.below_focus:
        focus = -focus
    drift = sample(optics.drift)
    over_time = g.standard_normal((2, spec.times))
    return SampledWell(
        plate=plate_name(plate),
        well=well_name(well),
        stained=well in stained,
        treatment="treated" if well in treated else "control",
        experiment=f"experiment-{plate + 1}",
        dynamics=asdict(dynamics),
        defocus_um=tuple(float(f) for f in focus + optics.focus_sd_um * over_time[0]),
        illumination=tuple(float(i) for i in np.exp(drift * over_time[1])),
        level_counts=sample(optics.level_counts),
        gradient=(float(gradient * np.sin(direction)), float(gradient * np.cos(direction))),
        dapi_counts=sample(stains.dapi_counts),
        cy5_counts=sample(stains.cy5_counts),
        background_counts=(sample(stains.background_counts), sample(stains.background_counts)),
        haze=sample(stains.haze),
        blur_um=sample(stains.blur_um),
        dapi_in_cy5=sample(stains.dapi_in_cy5),
        cy5_in_dapi=sample(stains.cy5_in_dapi),
        quenching=sample(stains.draq7_quenching),
        numbers=(plate, well),
    )


def simulate_well(spec: SyntheticSpec, well: SampledWell) -> Cells:
    """Returns the cells of a well at all times of the specification."""
    height, width = spec.stage.canvas_px
    size_um = spec.stage.pixel_size_um
    return simulate_cells(
        spec.cells,
        WellDynamics(**well.dynamics),
        size_um=(height * size_um, width * size_um),
        times_h=spec.interval_h * np.arange(spec.times),
        generator=numpy_generator(spec.seed, "cells", *well.numbers),
    )


def render_scene(spec: SyntheticSpec, *, plate: int, well: int, time: int, cells: Cells | None = None) -> Scene:
    """Returns the scene of `stage.canvas_px`; `cells`, if given, saves their simulation (`simulate_well`)."""
    sampled = sample_well(spec, plate=plate, well=well)
    cells = simulate_well(spec, sampled) if cells is None else cells
    time_h, size_um = spec.interval_h * time, spec.stage.pixel_size_um
    substrate = make_substrate(
        spec.cells, spec.stage.canvas_px, size_um, numpy_generator(spec.seed, "surface", plate, well)
    )
    maps = draw_cells(
        cells,
        substrate,
        time=time,
        time_h=time_h,
        pixel_size_um=size_um,
        stain_spread=spec.stains.spread,
        quenching=sampled.quenching if sampled.stained else 0.0,
    )
    channels = {TRANSMITTED: _brightfield(spec, sampled, maps, time)}
    if sampled.stained:
        glow = numpy_generator(spec.seed, "background", plate, well)
        channels |= dict(zip(STAINS, _fluorescence(sampled, maps, size_um, glow), strict=True))
    objects = _objects(maps.nuclei, cells.dead(time_h), spec.stage.margin_px)
    return Scene(channels, maps.nuclei, maps.bodies, objects, time_h)


def _stained_and_treated(spec: SyntheticSpec, plate: int) -> tuple[frozenset[int], frozenset[int]]:
    """Returns the stained and the treated wells of a plate; the fraction of treated wells is the same in stained and
    unstained ones."""
    order = [int(w) for w in numpy_generator(spec.seed, "arrangement", plate).permutation(spec.wells)]
    groups = order[: spec.stained_wells], order[spec.stained_wells :]
    treated = [w for group in groups for w in group[: round(spec.cells.treated_fraction * len(group))]]
    return frozenset(groups[0]), frozenset(treated)


def _brightfield(spec: SyntheticSpec, well: SampledWell, maps: CellMaps, time: int) -> np.ndarray:
    """Returns expected counts: the product of the planes' intensities (extended source: they do not interfere)."""
    optics, shape = spec.optics, maps.nuclei.shape
    intensity = np.ones(shape, np.float32)
    for path, absorbance, height_um in zip(maps.path_um, maps.absorbance, PLANE_HEIGHTS_UM, strict=True):
        if path.any():
            intensity *= defocused_intensity(
                path,
                absorbance,
                defocus_um=well.defocus_um[time] - height_um,
                pixel_size_um=spec.stage.pixel_size_um,
                wavelength_um=optics.wavelength_um,
                condenser_aperture=optics.condenser_aperture,
            )
    down, right = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    slope = (1 + well.gradient[0] * down[:, None]) * (1 + well.gradient[1] * right[None])
    return (well.level_counts * well.illumination[time] * slope * intensity).astype(np.float32)


def _fluorescence(
    well: SampledWell, maps: CellMaps, pixel_size_um: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns expected counts through the DAPI and the Cy5 filter: stains with blur, haze, bleed-through and
    background."""
    light = []
    for stain, counts in zip(maps.stains, (well.dapi_counts, well.cy5_counts), strict=True):
        sharp = scipy.ndimage.gaussian_filter(stain, well.blur_um / pixel_size_um)
        haze = scipy.ndimage.gaussian_filter(stain, _HAZE_UM / pixel_size_um)
        light.append(counts * ((1 - well.haze) * sharp + well.haze * haze))
    glow = [np.exp(0.12 * smooth_field(stain.shape, 250 / pixel_size_um, generator)) for stain in light]
    dapi, cy5 = light[0] + well.cy5_in_dapi * light[1], light[1] + well.dapi_in_cy5 * light[0]
    return (
        (dapi + well.background_counts[0] * glow[0]).astype(np.float32),
        (cy5 + well.background_counts[1] * glow[1]).astype(np.float32),
    )


def _objects(nuclei: np.ndarray, dead: np.ndarray, margin_px: int) -> dict[str, np.ndarray]:
    ids = np.unique(nuclei)
    ids = ids[ids > 0]
    area = np.bincount(nuclei.ravel())[ids] if len(ids) else np.zeros(0, np.int64)
    center = np.asarray(scipy.ndimage.center_of_mass(nuclei > 0, nuclei, ids)).reshape(-1, 2)
    inside = np.all((center >= margin_px) & (center < np.asarray(nuclei.shape) - margin_px), axis=1)
    return {
        "id": ids.astype(np.int32),
        "class": np.where(dead[ids - 1], DEAD, LIVE).astype(np.int8),
        "y_px": center[:, 0],
        "x_px": center[:, 1],
        "area_px": area.astype(np.int64),
        "in_field": inside,
    }
