"""Simulation of the cells of one synthetic well: positions, divisions, deaths and rounding at every time.

A cell keeps its number from birth. Death is the moment when its membrane leaks and Draq7 enters: from then on its
nucleus has the class dead. Rounding happens some time before or after, so that one does not reveal the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from segue.plates.synthetic.optics import smooth_field
from segue.plates.synthetic.spec import CellsSpec

_STEP_H = 0.5  # of the walk
_ROUNDING_H = 0.8  # from spread to round
_MITOSIS_H = 0.8  # duration for which a dividing cell is round before it divides
_BORDER_UM = 25.0  # margin beyond the scene, from which bodies reach into it


@dataclass(frozen=True)
class WellDynamics:
    """Parameters of growth, motion and death of the cells of a well, sampled from the ranges of CellsSpec."""

    density_per_mm2: float
    patchiness: float
    speed_um_per_h: float
    dead_at_start: float
    dying: float  # final fraction of the live cells
    onset_h: float
    width_h: float


@dataclass(frozen=True)
class Cells:
    """The n cells of a well; lengths in µm, times in h from the first image, angles in rad."""

    position_um: np.ndarray  # (times, n, 2) y, x of the nucleus in the scene
    angle: np.ndarray  # (times, n) of the long axis
    born_h: np.ndarray  # −inf: present at the start
    divides_h: np.ndarray  # inf: never
    dies_h: np.ndarray  # inf: never
    lag_h: np.ndarray  # from death to rounding
    rounds: np.ndarray  # bool: False where it dies spread
    radius_um: np.ndarray
    nucleus_radius_um: np.ndarray
    rounded_radius_um: np.ndarray
    elongation: np.ndarray  # long axis over short one, 1 …
    outline: np.ndarray  # (n, 5, 2) cosine and sine amplitudes of harmonics 2 … 6 of the body's outline
    nucleus_outline: np.ndarray  # (n, 5, 2)
    stain: np.ndarray  # (n, 2) deviation of the log strength of Hoechst and Draq7, in sd
    float_um: np.ndarray  # how far above the plane it floats once round
    seed: np.ndarray  # (n,) int64, of its texture, blebs and nucleoli

    def __len__(self) -> int:
        return len(self.born_h)

    def present(self, time_h: float) -> np.ndarray:
        return self.born_h <= time_h

    def dead(self, time_h: float) -> np.ndarray:
        return self.dies_h <= time_h

    def roundness(self, time_h: float) -> np.ndarray:
        """Returns (n,) from 0, spread, to 1, round by death; cells that die spread stay 0."""
        risen = np.clip((time_h - self.dies_h - self.lag_h) / _ROUNDING_H, 0, 1)
        return np.where(self.rounds, risen * risen * (3 - 2 * risen), 0.0)

    def mitosis(self, time_h: float) -> np.ndarray:
        """Returns (n,) bool: round before division."""
        before = self.divides_h - time_h
        return (before > 0) & (before <= _MITOSIS_H)


def simulate_cells(
    spec: CellsSpec,
    dynamics: WellDynamics,
    *,
    size_um: tuple[float, float],
    times_h: np.ndarray,
    generator: np.random.Generator,
) -> Cells:
    """Returns the cells of a scene of `size_um` at the times, using no randomness but the generator."""
    outer = np.asarray(size_um) + 2 * _BORDER_UM
    founders = int(generator.poisson(dynamics.density_per_mm2 * outer.prod() * 1e-6))
    position = _place_founders(founders, outer, spec, dynamics, generator)
    end_h = float(times_h[-1]) + _MITOSIS_H
    dies = _sample_deaths(founders, dynamics, generator)
    divides = generator.exponential(spec.doubling_h, founders)
    divides[(divides > np.minimum(end_h, dies - 3 * _MITOSIS_H))] = np.inf
    parent = np.flatnonzero(np.isfinite(divides))
    daughters = len(parent)
    n = founders + daughters
    daughter_dies = _sample_deaths(daughters, dynamics, generator)
    born = np.concatenate([np.full(founders, -np.inf), divides[parent]])
    # a daughter does not die if it would before its birth
    dies = np.concatenate([dies, np.where(daughter_dies > divides[parent] + 1, daughter_dies, np.inf)])
    divides = np.concatenate([divides, np.full(daughters, np.inf)])
    track, heading = _random_walk(
        np.concatenate([position, position[parent]]), np.concatenate([np.arange(founders), parent]),
        born_h=born, dies_h=dies, outer=outer, times_h=times_h, spec=spec, dynamics=dynamics, generator=generator,
    )  # fmt: skip
    roundish = generator.random(n)
    decay = np.array([0.10, 0.07, 0.045, 0.03, 0.02])[None, :, None]
    return Cells(
        position_um=track - _BORDER_UM,
        angle=heading,
        born_h=born,
        divides_h=divides,
        dies_h=dies,
        lag_h=generator.uniform(*spec.rounding_lag_h, n),
        rounds=generator.random(n) >= spec.spread_when_dead,
        radius_um=generator.uniform(*spec.radius_um, n),
        nucleus_radius_um=generator.uniform(*spec.nucleus_radius_um, n),
        rounded_radius_um=generator.uniform(*spec.rounded_radius_um, n),
        elongation=1 + 1.8 * roundish**2,
        outline=decay * 1.05 * generator.standard_normal((n, 5, 2)),
        nucleus_outline=decay * 0.5 * generator.standard_normal((n, 5, 2)),
        stain=generator.standard_normal((n, 2)),
        float_um=generator.uniform(0, 12, n),
        seed=generator.integers(0, 2**62, n),
    )


def _sample_deaths(count: int, dynamics: WellDynamics, generator: np.random.Generator) -> np.ndarray:
    """Returns (count,) times of death in h; inf for survivors, negative for cells dead at the start."""
    chance, order = generator.random((2, count))
    order = np.clip(order, 1e-6, 1 - 1e-6)
    times = dynamics.onset_h + dynamics.width_h * np.log(order / (1 - order))
    times = np.where(chance < dynamics.dying, times, np.inf)
    long_dead = generator.random(count) < dynamics.dead_at_start
    return np.where(long_dead, -generator.uniform(1, 12, count), times)


def _place_founders(
    count: int, outer: np.ndarray, spec: CellsSpec, dynamics: WellDynamics, generator: np.random.Generator
) -> np.ndarray:
    """Returns (count, 2) positions, denser where a smooth field is high, then pushed apart until nuclei hardly
    overlap."""
    grid = np.ceil(outer / 10).astype(int)
    density = np.exp(dynamics.patchiness * smooth_field((int(grid[0]), int(grid[1])), 15, generator)).ravel()
    box = generator.choice(len(density), size=count, p=density / density.sum())
    place = (np.stack(np.divmod(box, grid[1]), axis=1) + generator.random((count, 2))) * (outer / grid)
    for _ in range(25):
        place = _push_apart(place, 1.9 * spec.nucleus_radius_um[1], outer, strength=0.5)
    return place


def _push_apart(place: np.ndarray, distance_um: float, outer: np.ndarray, *, strength: float) -> np.ndarray:
    """Returns the positions, each pair nearer than the distance pushed apart by `strength` of what it lacks."""
    pairs = KDTree(place).query_pairs(distance_um, output_type="ndarray")
    if len(pairs):
        away = place[pairs[:, 0]] - place[pairs[:, 1]]
        length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-3)
        push = 0.5 * strength * (distance_um - length) * away / length
        moved = np.zeros_like(place)
        np.add.at(moved, pairs[:, 0], push)
        np.add.at(moved, pairs[:, 1], -push)
        place = place + moved
    return _reflect(place, outer)


def _reflect(place: np.ndarray, outer: np.ndarray) -> np.ndarray:
    return np.clip(outer - np.abs(outer - np.abs(place)), 0, outer)


def _random_walk(
    start: np.ndarray, family: np.ndarray, *, born_h: np.ndarray, dies_h: np.ndarray, outer: np.ndarray,
    times_h: np.ndarray, spec: CellsSpec, dynamics: WellDynamics, generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns positions (times, n, 2) and headings (times, n): an Ornstein-Uhlenbeck velocity (Selmeczi et al.,
    Biophys. J. 89, 912, 2005) that ends with death; a daughter moves with its mother until born, then next to it.
    """
    n = len(start)
    place, persistence = start.copy(), np.exp(-_STEP_H / spec.persistence_h)
    sd = dynamics.speed_um_per_h / np.sqrt(2)
    velocity = sd * generator.standard_normal((n, 2))
    angle = generator.uniform(0, np.pi, n)
    offset = generator.uniform(0, 2 * np.pi, n)
    offset = 6.0 * np.stack([np.sin(offset), np.cos(offset)], axis=1)
    positions, angles, now = [], [], 0.0
    unborn = born_h > now
    for time in times_h:
        while now < time - 1e-9:
            step = min(_STEP_H, time - now)
            velocity = persistence * velocity + sd * np.sqrt(1 - persistence**2) * generator.standard_normal((n, 2))
            moving = dies_h > now
            place = _reflect(place + step * velocity * moving[:, None], outer)
            angle = angle + 0.25 * np.sqrt(step) * generator.standard_normal(n) * moving
            now += step
            born = unborn & (born_h <= now)
            place[unborn] = place[family[unborn]]
            place[born] += offset[born]
            unborn &= ~born
            visible = ~unborn
            place[visible] = _push_apart(place[visible], 1.7 * spec.nucleus_radius_um[1], outer, strength=0.4)
        positions.append(place.copy())
        angles.append(angle.copy())
    return np.stack(positions), np.stack(angles)
