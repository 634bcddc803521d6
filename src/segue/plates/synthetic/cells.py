"""Cells as maps: optical path and absorbance in planes of height, strengths of the stains, labels of nuclei and bodies.

A spread cell is thin at its rim and domed at its nucleus, with granules that move along with it; where two cells touch,
each pixel belongs to the one that is nearer in units of its own radius. A dead cell is round, granular and darker, with
blebs, and fades over hours; a dividing one is round and smooth, with condensed chromatin; one that died spread keeps
its place and loses material. Refractive indices: cytoplasm 0.02 to 0.04 over the medium (Rappaz et al., Opt. Express
13, 9361, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segue.plates.synthetic.optics import smooth_field, texture
from segue.plates.synthetic.population import Cells
from segue.plates.synthetic.spec import CellsSpec

LIVE, DEAD = 1, 2
PLANE_HEIGHTS_UM = (0.0, 5.0, 12.0)  # heights of the planes over the bottom of the well
MIN_NUCLEUS_PX = 12  # visible; a smaller nucleus is hidden by its neighbors and has no label
TEXTURE_PX = 512
REFRACTIVE_INDEX = 0.03  # refractive index of a spread cell over the medium


@dataclass(frozen=True)
class CellMaps:
    """A scene before optics; maps are (H, W)."""

    path_um: np.ndarray  # (planes, H, W) float32
    absorbance: np.ndarray  # (planes, H, W) float32
    stains: np.ndarray  # (2, H, W) float32: Hoechst and Draq7, about 1 in a typical live or dead nucleus
    nuclei: np.ndarray  # int32, number of the cell + 1
    bodies: np.ndarray  # int32, likewise


@dataclass(frozen=True)
class Substrate:
    """Contents of a well besides cells: debris, dust, the grain of its bottom; and the textures of bodies."""

    grain_um: np.ndarray  # (H, W) optical path
    debris: np.ndarray  # (n, 4): y, x, radius in µm, height over the bottom
    debris_seeds: np.ndarray
    coarse: np.ndarray  # periodic textures that bodies are cut from
    fine: np.ndarray


@dataclass(frozen=True)
class _Patch:
    """The pixels around one body, in µm from its center along its axes."""

    window: tuple[slice, slice]
    along: np.ndarray
    across: np.ndarray
    pixel_size_um: float


def make_substrate(
    spec: CellsSpec, canvas_px: tuple[int, int], pixel_size_um: float, generator: np.random.Generator
) -> Substrate:
    """Returns the substrate of one well, sampled with the generator."""
    area_mm2 = canvas_px[0] * canvas_px[1] * pixel_size_um**2 * 1e-6
    count = int(generator.poisson(generator.uniform(*spec.debris_per_mm2) * area_mm2))
    place = generator.random((count, 2)) * np.asarray(canvas_px) * pixel_size_um
    small = generator.random(count) < 0.55
    radius = np.where(
        small, generator.uniform(0.8, 3.0, count), generator.uniform(*spec.rounded_radius_um, count) * 0.95
    )
    height = np.where(generator.random(count) < 0.5, 0.0, generator.uniform(0, 14, count))
    grain = 0.0015 * smooth_field(canvas_px, 3 / pixel_size_um, generator, knots=1)
    return Substrate(
        grain_um=grain + 0.006 * smooth_field(canvas_px, 40 / pixel_size_um, generator),
        debris=np.column_stack([place, radius, height]),
        debris_seeds=generator.integers(0, 2**62, count),
        coarse=texture(TEXTURE_PX, 14 / pixel_size_um, 4.5 / pixel_size_um, generator),
        fine=texture(TEXTURE_PX, 6 / pixel_size_um, 2.4 / pixel_size_um, generator),
    )


def draw_cells(
    cells: Cells,
    substrate: Substrate,
    *,
    time: int,
    time_h: float,
    pixel_size_um: float,
    stain_spread: float,
    quenching: float,
) -> CellMaps:
    """Returns the scene at times[time] = time_h; `quenching` is the fraction of Hoechst's light that Draq7 quenches."""
    shape = substrate.grain_um.shape
    path = np.zeros((len(PLANE_HEIGHTS_UM), *shape), np.float32)
    path[0] = substrate.grain_um
    levels, bodies = np.zeros_like(path), np.zeros_like(path, np.int32)
    canvas = _Canvas(
        CellMaps(path, np.zeros_like(path), np.zeros((2, *shape), np.float32), np.zeros(shape, np.int32), bodies[0]),
        levels,
        bodies,
        np.zeros(shape, np.float32),
    )
    roundness, dividing, dead = cells.roundness(time_h), cells.mitosis(time_h), cells.dead(time_h)
    for cell in map(int, np.flatnonzero(cells.present(time_h))):
        state = _CellState(
            place_um=cells.position_um[time, cell],
            angle=float(cells.angle[time, cell]),
            round_fraction=1.0 if dividing[cell] else float(roundness[cell]),
            dividing=bool(dividing[cell]),
            dead_h=time_h - float(cells.dies_h[cell]) if dead[cell] else -1.0,
        )
        _add_cell(canvas, cells, cell, state, substrate, pixel_size_um, (stain_spread, quenching))
    for (y, x, radius, height), seed in zip(substrate.debris, substrate.debris_seeds, strict=True):
        plane = _plane(height)
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        patch = _patch(shape, (y, x), 1.65 * radius, rng.uniform(0, np.pi), pixel_size_um)
        if patch is not None:
            strength = rng.uniform(0.5, 1.0)
            _add_remnant(path[plane], canvas.maps.absorbance[plane], patch, substrate, radius, rng, strength=strength)
    upper = bodies[0]
    for raised in bodies[1:]:
        upper = np.where(raised > 0, raised, upper)
    return replace(canvas.maps, nuclei=_remove_slivers(canvas.maps.nuclei), bodies=upper)


@dataclass(frozen=True)
class _Canvas:
    """Maps in progress, changed in place, with the body and nucleus on top of each pixel."""

    maps: CellMaps
    levels: np.ndarray  # (planes, H, W) of the body on top
    bodies: np.ndarray  # (planes, H, W)
    nucleus_level: np.ndarray  # (H, W)


@dataclass(frozen=True)
class _CellState:
    """A cell at one time."""

    place_um: np.ndarray
    angle: float
    round_fraction: float  # 0 spread … 1 round
    dividing: bool
    dead_h: float  # hours since death, < 0 while alive


def _add_cell(
    canvas: _Canvas, cells: Cells, cell: int, state: _CellState, substrate: Substrate, pixel_size_um: float,
    stain: tuple[float, float],
) -> None:  # fmt: skip
    """Draws one cell into the canvas; `stain` is the spread of the log strengths and the quenching."""
    maps, round_fraction, dead = canvas.maps, state.round_fraction, state.dead_h >= 0
    rng = np.random.Generator(np.random.PCG64(int(cells.seed[cell])))
    radius = float((1 - round_fraction) * cells.radius_um[cell] + round_fraction * cells.rounded_radius_um[cell])
    elongation, outline = (
        float(cells.elongation[cell]) ** (1 - round_fraction),
        (1 - 0.8 * round_fraction) * cells.outline[cell],
    )
    nucleus = _nucleus_shape(cells, cell, round_fraction=round_fraction, dividing=state.dividing, dead=dead)
    extent_um = max(
        _extent_um(radius, elongation, outline),
        _extent_um(nucleus.radius_um, nucleus.elongation, nucleus.outline),
        1.65 * radius * (round_fraction > 0.5),  # blebs
    )
    patch = _patch(maps.nuclei.shape, state.place_um, extent_um, state.angle, pixel_size_um)
    if patch is None:
        return
    window = patch.window
    core = _level(patch, nucleus.radius_um, nucleus.elongation, nucleus.outline)
    body = np.maximum(_level(patch, radius, elongation, outline), core * 0.3)  # a nucleus lies in its body
    plane = 0 if state.dividing else _plane(round_fraction * float(cells.float_um[cell]))
    path, absorbance, levels = maps.path_um[plane], maps.absorbance[plane], canvas.levels[plane]
    on_top = body > levels[window]
    levels[window][on_top] = body[on_top]
    canvas.bodies[plane][window][on_top] = cell + 1
    thick, dark = _body(
        patch, body, core, substrate, rng, round_fraction=round_fraction, radius_um=radius, dead_h=state.dead_h
    )
    if plane == 0:
        thick = thick + substrate.grain_um[window]
    path[window][on_top] = thick[on_top]
    absorbance[window][on_top] = dark[on_top]
    if dead and round_fraction > 0.5:
        strength = 0.9 * round_fraction * float(np.exp(-state.dead_h / 14))
        _add_remnant(path, absorbance, patch, substrate, radius, rng, strength=strength)
    visible_core = (core > canvas.nucleus_level[window]) & (core > 0)
    canvas.nucleus_level[window][visible_core] = core[visible_core]
    maps.nuclei[window][visible_core] = cell + 1
    chromatin = _smoothstep(core / 0.35) * (1 + 0.16 * _sample_texture(substrate.coarse, patch, rng))
    uptake = 0.35 + 0.65 * (1 - np.exp(-state.dead_h / 0.8)) if dead else 0.0
    spread, quenching = stain
    hoechst, draq7 = np.exp(spread * cells.stain[cell])
    maps.stains[0][window] += chromatin * nucleus.density * hoechst * (1 - quenching * uptake)
    maps.stains[1][window] += chromatin * nucleus.density**0.5 * draq7 * uptake


@dataclass(frozen=True)
class _Nucleus:
    radius_um: float
    elongation: float
    outline: np.ndarray
    density: float  # of chromatin, 1 in a live interphase nucleus


def _nucleus_shape(cells: Cells, cell: int, *, round_fraction: float, dividing: bool, dead: bool) -> _Nucleus:
    """Returns the nucleus: condensed as the cell rounds (pyknosis), a plate in mitosis, a little shrunk in necrosis."""
    radius, outline = float(cells.nucleus_radius_um[cell]), cells.nucleus_outline[cell]
    elongation = 1 + 0.35 * (float(cells.elongation[cell]) - 1)
    if dividing:
        return _Nucleus(0.72 * radius, 2.4, outline, 1.7)
    if round_fraction == 0:
        shrunk = 0.85 if dead else 1.0
        return _Nucleus(shrunk * radius, elongation, outline, shrunk**-2)
    shrunk = 1 - 0.36 * round_fraction
    return _Nucleus(
        shrunk * radius, elongation ** (1 - 0.5 * round_fraction), (1 + round_fraction) * outline, shrunk**-1.6
    )


def _plane(height_um: float) -> int:
    return int(np.argmin([abs(height_um - height) for height in PLANE_HEIGHTS_UM]))


def _patch(
    shape: tuple[int, int],
    place_um: np.ndarray | tuple[float, float],
    reach_um: float,
    angle: float,
    pixel_size_um: float,
) -> _Patch | None:
    """Returns the pixels within `extent_um` that lie in the scene, or None if there are none."""
    spans = [
        (max(0, int((p - reach_um) / pixel_size_um)), min(n, int((p + reach_um) / pixel_size_um) + 2))
        for p, n in zip(place_um, shape, strict=True)
    ]
    if any(first >= last for first, last in spans):
        return None
    dy = np.arange(*spans[0], dtype=np.float32)[:, None] * np.float32(pixel_size_um) - np.float32(place_um[0])
    dx = np.arange(*spans[1], dtype=np.float32)[None] * np.float32(pixel_size_um) - np.float32(place_um[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return _Patch((slice(*spans[0]), slice(*spans[1])), dx * cos + dy * sin, dy * cos - dx * sin, pixel_size_um)


def _level(patch: _Patch, radius_um: float, elongation: float, outline: np.ndarray) -> np.ndarray:
    """Returns 1 at the center, 0 on the outline, negative outside: 1 − r / (radius × harmonics 2 … 6 of the angle)."""
    stretch = np.float32(np.sqrt(elongation))
    along, across = patch.along / stretch, patch.across * stretch
    r = np.sqrt(along**2 + across**2) + np.float32(1e-6)
    cos, sin = along / r, across / r
    c, s = cos, sin
    edge = np.ones_like(r)
    for cosine, sine in outline:
        c, s = c * cos - s * sin, s * cos + c * sin
        edge += np.float32(cosine) * c + np.float32(sine) * s
    return 1 - r / (np.float32(radius_um) * np.maximum(edge, np.float32(0.3)))


def _extent_um(radius_um: float, elongation: float, outline: np.ndarray) -> float:
    """Returns the maximum distance from its center at which a shape has a level above 0."""
    return float(radius_um * np.sqrt(elongation) * (1 + np.hypot(outline[:, 0], outline[:, 1]).sum()))


def _body(
    patch: _Patch, level: np.ndarray, core: np.ndarray, substrate: Substrate, rng: np.random.Generator, *,
    round_fraction: float, radius_um: float, dead_h: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns optical path in µm and absorbance of one body; `dead_h` < 0 while alive."""
    inside = np.maximum(level, 0)
    rim, dome, nucleus_um = rng.uniform(0.8, 1.6), rng.uniform(1.0, 3.5), rng.uniform(1.0, 2.6)
    coarse = _sample_texture(substrate.coarse, patch, rng)
    fine = _sample_texture(substrate.fine, patch, rng)
    bump = _smoothstep(core / 0.6)
    around = np.exp(-((inside - 0.45) ** 2) / 0.06)  # granules stand around the nucleus
    flat = rim * (1 - np.exp(-inside / 0.10)) + dome * inside**1.3 + nucleus_um * bump
    flat *= 1 + 0.10 * coarse + 0.04 * fine
    flat += rng.uniform(0.1, 0.5) * around * np.maximum(fine - 0.9, 0) * (inside > 0)
    for _ in range(int(rng.integers(1, 4))):  # nucleoli
        y, x = rng.normal(0, 1.6, 2)
        flat += 0.9 * bump * np.exp(-((patch.along - x) ** 2 + (patch.across - y) ** 2) / (2 * 0.9**2))
    index = REFRACTIVE_INDEX * rng.uniform(0.8, 1.25)
    dark = 0.012 * np.minimum(flat, 6)
    if dead_h >= 0:
        lost = 1 - float(np.exp(-dead_h / 5))
        flat = flat * (1 - 0.45 * lost) * (1 + lost * (0.25 * fine + 0.2 * coarse))
        dark = dark + 0.03 * lost * np.maximum(fine, 0) * (inside > 0)
    sphere = 1.5 * radius_um * np.clip(1 - (1 - inside) ** 2, 0, 1) ** 0.75 * (inside > 0)
    sphere *= 1 + 0.07 * coarse + 0.05 * fine
    if dead_h >= 0:
        sphere *= 0.25 + 0.5 * np.exp(-dead_h / 9)  # leaks out; the granules are the remnant's
    path = index * ((1 - round_fraction) * flat + 0.9 * round_fraction * sphere)
    return path.astype(np.float32), ((1 - round_fraction) * dark + 0.02 * round_fraction * sphere).astype(np.float32)


def _add_remnant(
    path: np.ndarray, absorbance: np.ndarray, patch: _Patch, substrate: Substrate, radius_um: float,
    rng: np.random.Generator, *, strength: float,
) -> None:  # fmt: skip
    """Adds, in place, the remnant of a dead body: a granular dark ball and its blebs."""
    fine = _sample_texture(substrate.fine, patch, rng)
    coarse = _sample_texture(substrate.coarse, patch, rng)
    blobs = [(0.0, 0.0, rng.uniform(0.65, 0.9) * radius_um)]
    for _ in range(int(rng.integers(1, 8))):
        turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0) * radius_um
        blobs.append((far * np.cos(turn), far * np.sin(turn), rng.uniform(0.2, 0.6) * radius_um))
    thick = np.zeros_like(patch.along)
    for x, y, r in blobs:  # 1.5: flatter than a ball at its rim, whose slope the sampling could not follow
        height = np.maximum(1 - ((patch.along - x) ** 2 + (patch.across - y) ** 2) / (r * r), 0)
        thick = np.maximum(thick, 1.5 * r * height**0.75)
    grain = np.maximum(1 + rng.uniform(0.2, 0.5) * coarse + rng.uniform(0.1, 0.3) * fine, 0.1)
    index, absorption = rng.uniform(0.006, 0.024), rng.uniform(0.004, 0.022)
    path[patch.window] += (strength * index * thick * grain).astype(np.float32)
    absorbance[patch.window] += (strength * absorption * thick * grain).astype(np.float32)


def _sample_texture(noise: np.ndarray, patch: _Patch, rng: np.random.Generator) -> np.ndarray:
    """Returns the noise in the axes of the body (bilinear), from a random offset: it moves with the body."""
    (row, down), (column, right) = (
        _split_integer(axis / patch.pixel_size_um + int(rng.integers(0, TEXTURE_PX)))
        for axis in (patch.across, patch.along)
    )
    next_row, next_column = (row + 1) % TEXTURE_PX, (column + 1) % TEXTURE_PX
    upper = noise[row, column] * (1 - right) + noise[row, next_column] * right
    lower = noise[next_row, column] * (1 - right) + noise[next_row, next_column] * right
    return upper * (1 - down) + lower * down


def _split_integer(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole = np.floor(place)
    return whole.astype(np.intp) % TEXTURE_PX, place - whole


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _remove_slivers(nuclei: np.ndarray) -> np.ndarray:
    visible = np.bincount(nuclei.ravel())
    small = visible < MIN_NUCLEUS_PX
    small[0] = False
    return np.where(small[nuclei], 0, nuclei).astype(np.int32)
