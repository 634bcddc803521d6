"""Cells as maps: optical path and absorbance in planes of height, strengths of the stains, labels of nuclei and bodies.

A spread cell is thin at its rim and domed at its nucleus, with granules that move along with it; where two touch, the
nearer one (in its own radii) has the place. A dead cell is round, granular and darker, with blebs, and fades with the
hours; one that divides is round and smooth, with condensed chromatin; one that died spread keeps its place and loses
body. Refractive indices: cytoplasm 0.02 to 0.04 over the medium (Rappaz et al., Opt. Express 13, 9361, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segue.plates.synthetic.optics import smooth_field, texture
from segue.plates.synthetic.population import Cells
from segue.plates.synthetic.spec import CellsSpec

LIVE, DEAD = 1, 2
PLANE_HEIGHTS_UM = (0.0, 5.0, 12.0)  # heights of the planes over the bottom of the well
_LEAST_NUCLEUS_PX = 12  # visible; what is smaller is hidden by its neighbours and carries no label
_TEXTURE_PX = 512
_INDEX = 0.03  # refractive index of a spread cell over the medium


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
    """What lies in a well whether cells live or die: debris, dust, the grain of the bottom, and the grain of bodies."""

    grain_um: np.ndarray  # (H, W) optical path
    debris: np.ndarray  # (n, 4): y, x, radius in µm, height over the bottom
    debris_seeds: np.ndarray
    coarse: np.ndarray  # periodic textures that bodies are cut from
    fine: np.ndarray


@dataclass(frozen=True)
class _Patch:
    """The pixels around one body, in µm from its centre along its axes."""

    where: tuple[slice, slice]
    along: np.ndarray
    across: np.ndarray
    pixel_size_um: float


def make_substrate(
    spec: CellsSpec, canvas_px: tuple[int, int], pixel_size_um: float, generator: np.random.Generator
) -> Substrate:
    """Returns the surface of one well, drawn from the generator."""
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
        coarse=texture(_TEXTURE_PX, 14 / pixel_size_um, 4.5 / pixel_size_um, generator),
        fine=texture(_TEXTURE_PX, 6 / pixel_size_um, 2.4 / pixel_size_um, generator),
    )


def draw_cells(
    cells: Cells,
    surface: Substrate,
    *,
    time: int,
    time_h: float,
    pixel_size_um: float,
    stain_spread: float,
    quenching: float,
) -> CellMaps:
    """Returns the scene at times[time] = time_h; `quenching` is the fraction of Hoechst's light that Draq7 takes."""
    shape = surface.grain_um.shape
    path = np.zeros((len(PLANE_HEIGHTS_UM), *shape), np.float32)
    path[0] = surface.grain_um
    levels, bodies = np.zeros_like(path), np.zeros_like(path, np.int32)
    maps = _Maps(
        CellMaps(path, np.zeros_like(path), np.zeros((2, *shape), np.float32), np.zeros(shape, np.int32), bodies[0]),
        levels,
        bodies,
        np.zeros(shape, np.float32),
    )
    roundness, dividing, dead = cells.roundness(time_h), cells.mitosis(time_h), cells.dead(time_h)
    for cell in map(int, np.flatnonzero(cells.present(time_h))):
        state = _State(
            place_um=cells.position_um[time, cell],
            angle=float(cells.angle[time, cell]),
            ball=1.0 if dividing[cell] else float(roundness[cell]),
            dividing=bool(dividing[cell]),
            dead_h=time_h - float(cells.dies_h[cell]) if dead[cell] else -1.0,
        )
        _add_cell(maps, cells, cell, state, surface, pixel_size_um, (stain_spread, quenching))
    for (y, x, radius, height), seed in zip(surface.debris, surface.debris_seeds, strict=True):
        plane = _plane(height)
        own = np.random.Generator(np.random.PCG64(int(seed)))
        patch = _patch(shape, (y, x), 1.65 * radius, own.uniform(0, np.pi), pixel_size_um)
        if patch is not None:
            strength = own.uniform(0.5, 1.0)
            _add_remnant(path[plane], maps.drawing.absorbance[plane], patch, surface, radius, own, strength=strength)
    upper = bodies[0]
    for raised in bodies[1:]:
        upper = np.where(raised > 0, raised, upper)
    return replace(maps.drawing, nuclei=_without_slivers(maps.drawing.nuclei), bodies=upper)


@dataclass(frozen=True)
class _Maps:
    """A drawing in the making, changed in place, and who has which place in it."""

    drawing: CellMaps
    levels: np.ndarray  # (planes, H, W) of the body that has the place
    bodies: np.ndarray  # (planes, H, W)
    nucleus_level: np.ndarray  # (H, W)


@dataclass(frozen=True)
class _State:
    """A cell at one time."""

    place_um: np.ndarray
    angle: float
    ball: float  # 0 spread … 1 round
    dividing: bool
    dead_h: float  # hours since death, < 0 while alive


def _add_cell(
    maps: _Maps, cells: Cells, cell: int, state: _State, surface: Substrate, pixel_size_um: float,
    stain: tuple[float, float],
) -> None:  # fmt: skip
    """Draws one cell into the maps; `stain` is the spread of the log strengths and the quenching."""
    drawing, ball, dead = maps.drawing, state.ball, state.dead_h >= 0
    own = np.random.Generator(np.random.PCG64(int(cells.seed[cell])))
    radius = float((1 - ball) * cells.radius_um[cell] + ball * cells.rounded_radius_um[cell])
    elongation, outline = float(cells.elongation[cell]) ** (1 - ball), (1 - 0.8 * ball) * cells.outline[cell]
    nucleus = _nucleus_shape(cells, cell, ball=ball, dividing=state.dividing, dead=dead)
    reach = max(
        _reach(radius, elongation, outline),
        _reach(nucleus.radius_um, nucleus.elongation, nucleus.outline),
        1.65 * radius * (ball > 0.5),  # blebs
    )
    patch = _patch(drawing.nuclei.shape, state.place_um, reach, state.angle, pixel_size_um)
    if patch is None:
        return
    here = patch.where
    core = _level(patch, nucleus.radius_um, nucleus.elongation, nucleus.outline)
    body = np.maximum(_level(patch, radius, elongation, outline), core * 0.3)  # a nucleus lies in its body
    plane = 0 if state.dividing else _plane(ball * float(cells.float_um[cell]))
    path, absorbance, levels = drawing.path_um[plane], drawing.absorbance[plane], maps.levels[plane]
    won = body > levels[here]
    levels[here][won] = body[won]
    maps.bodies[plane][here][won] = cell + 1
    thick, dark = _body(patch, body, core, surface, own, ball=ball, radius_um=radius, dead_h=state.dead_h)
    if plane == 0:
        thick = thick + surface.grain_um[here]
    path[here][won] = thick[won]
    absorbance[here][won] = dark[won]
    if dead and ball > 0.5:
        strength = 0.9 * ball * float(np.exp(-state.dead_h / 14))
        _add_remnant(path, absorbance, patch, surface, radius, own, strength=strength)
    seen = (core > maps.nucleus_level[here]) & (core > 0)
    maps.nucleus_level[here][seen] = core[seen]
    drawing.nuclei[here][seen] = cell + 1
    chromatin = _smoothstep(core / 0.35) * (1 + 0.16 * _sampled(surface.coarse, patch, own))
    uptake = 0.35 + 0.65 * (1 - np.exp(-state.dead_h / 0.8)) if dead else 0.0
    spread, quenching = stain
    hoechst, draq7 = np.exp(spread * cells.stain[cell])
    drawing.stains[0][here] += chromatin * nucleus.density * hoechst * (1 - quenching * uptake)
    drawing.stains[1][here] += chromatin * nucleus.density**0.5 * draq7 * uptake


@dataclass(frozen=True)
class _Nucleus:
    radius_um: float
    elongation: float
    outline: np.ndarray
    density: float  # of chromatin, 1 in a live interphase nucleus


def _nucleus_shape(cells: Cells, cell: int, *, ball: float, dividing: bool, dead: bool) -> _Nucleus:
    """Returns the nucleus: condensed as the cell rounds (pyknosis), a plate in mitosis, a little shrunk in necrosis."""
    radius, outline = float(cells.nucleus_radius_um[cell]), cells.nucleus_outline[cell]
    elongation = 1 + 0.35 * (float(cells.elongation[cell]) - 1)
    if dividing:
        return _Nucleus(0.72 * radius, 2.4, outline, 1.7)
    if ball == 0:
        shrunk = 0.85 if dead else 1.0
        return _Nucleus(shrunk * radius, elongation, outline, shrunk**-2)
    shrunk = 1 - 0.36 * ball
    return _Nucleus(shrunk * radius, elongation ** (1 - 0.5 * ball), (1 + ball) * outline, shrunk**-1.6)


def _plane(height_um: float) -> int:
    return int(np.argmin([abs(height_um - lift) for lift in PLANE_HEIGHTS_UM]))


def _patch(
    shape: tuple[int, int],
    place_um: np.ndarray | tuple[float, float],
    reach_um: float,
    angle: float,
    pixel_size_um: float,
) -> _Patch | None:
    """Returns the pixels within reach that lie in the scene, or None where there are none."""
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
    """Returns 1 at the centre, 0 on the outline, negative outside: 1 − r / (radius × harmonics 2 … 6 of the angle)."""
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


def _reach(radius_um: float, elongation: float, outline: np.ndarray) -> float:
    """Returns how far from its centre a shape can have a level above 0."""
    return float(radius_um * np.sqrt(elongation) * (1 + np.hypot(outline[:, 0], outline[:, 1]).sum()))


def _body(
    patch: _Patch, level: np.ndarray, core: np.ndarray, surface: Substrate, own: np.random.Generator, *,
    ball: float, radius_um: float, dead_h: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns optical path in µm and absorbance of one body; `dead_h` < 0 while alive."""
    inside = np.maximum(level, 0)
    rim, dome, nucleus_um = own.uniform(0.8, 1.6), own.uniform(1.0, 3.5), own.uniform(1.0, 2.6)
    coarse = _sampled(surface.coarse, patch, own)
    fine = _sampled(surface.fine, patch, own)
    bump = _smoothstep(core / 0.6)
    around = np.exp(-((inside - 0.45) ** 2) / 0.06)  # granules stand around the nucleus
    flat = rim * (1 - np.exp(-inside / 0.10)) + dome * inside**1.3 + nucleus_um * bump
    flat *= 1 + 0.10 * coarse + 0.04 * fine
    flat += own.uniform(0.1, 0.5) * around * np.maximum(fine - 0.9, 0) * (inside > 0)
    for _ in range(int(own.integers(1, 4))):  # nucleoli
        y, x = own.normal(0, 1.6, 2)
        flat += 0.9 * bump * np.exp(-((patch.along - x) ** 2 + (patch.across - y) ** 2) / (2 * 0.9**2))
    index = _INDEX * own.uniform(0.8, 1.25)
    dark = 0.012 * np.minimum(flat, 6)
    if dead_h >= 0:
        lost = 1 - float(np.exp(-dead_h / 5))
        flat = flat * (1 - 0.45 * lost) * (1 + lost * (0.25 * fine + 0.2 * coarse))
        dark = dark + 0.03 * lost * np.maximum(fine, 0) * (inside > 0)
    sphere = 1.5 * radius_um * np.clip(1 - (1 - inside) ** 2, 0, 1) ** 0.75 * (inside > 0)
    sphere *= 1 + 0.07 * coarse + 0.05 * fine
    if dead_h >= 0:
        sphere *= 0.25 + 0.5 * np.exp(-dead_h / 9)  # leaks out; the granules are the remnant's
    path = index * ((1 - ball) * flat + 0.9 * ball * sphere)
    return path.astype(np.float32), ((1 - ball) * dark + 0.02 * ball * sphere).astype(np.float32)


def _add_remnant(
    path: np.ndarray, absorbance: np.ndarray, patch: _Patch, surface: Substrate, radius_um: float,
    own: np.random.Generator, *, strength: float,
) -> None:  # fmt: skip
    """Adds, in place, what is left of a dead body: a granular dark ball and its blebs."""
    fine = _sampled(surface.fine, patch, own)
    coarse = _sampled(surface.coarse, patch, own)
    balls = [(0.0, 0.0, own.uniform(0.65, 0.9) * radius_um)]
    for _ in range(int(own.integers(1, 8))):
        turn, far = own.uniform(0, 2 * np.pi), own.uniform(0.4, 1.0) * radius_um
        balls.append((far * np.cos(turn), far * np.sin(turn), own.uniform(0.2, 0.6) * radius_um))
    thick = np.zeros_like(patch.along)
    for x, y, r in balls:  # 1.5: flatter than a ball at its rim, whose slope the sampling could not follow
        height = np.maximum(1 - ((patch.along - x) ** 2 + (patch.across - y) ** 2) / (r * r), 0)
        thick = np.maximum(thick, 1.5 * r * height**0.75)
    grain = np.maximum(1 + own.uniform(0.2, 0.5) * coarse + own.uniform(0.1, 0.3) * fine, 0.1)
    index, absorption = own.uniform(0.006, 0.024), own.uniform(0.004, 0.022)
    path[patch.where] += (strength * index * thick * grain).astype(np.float32)
    absorbance[patch.where] += (strength * absorption * thick * grain).astype(np.float32)


def _sampled(noise: np.ndarray, patch: _Patch, own: np.random.Generator) -> np.ndarray:
    """Returns the noise in the body's own axes (bilinear), from a place of its own: it moves with the body."""
    (row, down), (column, right) = (
        _whole_and_rest(axis / patch.pixel_size_um + int(own.integers(0, _TEXTURE_PX)))
        for axis in (patch.across, patch.along)
    )
    below, beside = (row + 1) % _TEXTURE_PX, (column + 1) % _TEXTURE_PX
    upper = noise[row, column] * (1 - right) + noise[row, beside] * right
    lower = noise[below, column] * (1 - right) + noise[below, beside] * right
    return upper * (1 - down) + lower * down


def _whole_and_rest(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole = np.floor(place)
    return whole.astype(np.intp) % _TEXTURE_PX, place - whole


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _without_slivers(nuclei: np.ndarray) -> np.ndarray:
    visible = np.bincount(nuclei.ravel())
    small = visible < _LEAST_NUCLEUS_PX
    small[0] = False
    return np.where(small[nuclei], 0, nuclei).astype(np.int32)
