"""Approximate sizes of trainings, from which progress, time left and memory are estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from segue.data.dataset import Dataset
from segue.data.sources import bytes_needed
from segue.errors import SegueError
from segue.training.inputs.data import memory_limit, plain_conditions
from segue.training.inputs.sampler import repeats_per_sample
from segue.training.spec import DataSpec, StageSpec


class StageSizes:
    """Sizes of stages; each dataset is counted once.

    A stage that cannot be counted, because its dataset failed, counts as one image of no bytes. datasets: name in the
    specification -> path, the same for all stages.
    """

    def __init__(self, datasets: Mapping[str, Path]) -> None:
        self._datasets = datasets
        self._counts: dict[str, tuple[int, int]] = {}

    def visits(self, spec: StageSpec) -> int:
        """Returns how many images a training visits."""
        samples = sum(self._samples(item) for item in spec.data)
        return max(samples, 1) * spec.epochs * repeats_per_sample(spec)

    def is_streamed(self, spec: StageSpec) -> bool:
        """Returns whether the samples of a training are probably more than its memory holds."""
        limit = memory_limit(spec)
        return limit is not None and self._bytes(spec) > limit

    def _bytes(self, spec: StageSpec) -> int:
        needed = 0
        for item in spec.data:
            try:
                with Dataset(self._datasets[item.dataset]) as dataset:
                    needed += bytes_needed(dataset, self._samples(item))
            except SegueError:
                return 0
        return needed

    def _samples(self, item: DataSpec) -> int:
        """Returns how many of an item's samples a training takes."""
        samples, groups = self._count(item)
        if item.groups is not None:
            return samples if item.groups == "all" else item.groups * samples // max(groups, 1)
        return item.images if isinstance(item.images, int) else samples

    def _count(self, item: DataSpec) -> tuple[int, int]:
        """Returns the samples that meet the conditions, and their groups."""
        name = f"{item.dataset} {item.conditions}"
        if name not in self._counts:
            try:
                with Dataset(self._datasets[item.dataset]) as dataset:
                    indices = dataset.select(plain_conditions(item))
                    self._counts[name] = len(indices), len(set(dataset.samples()["group"][indices]))
            except SegueError:
                self._counts[name] = 1, 1
        return self._counts[name]


@dataclass
class TimeLeft:
    """Estimates the time that stages still take from those that are measured: seconds of training per visit, by kind of
    stage, and seconds beside the training (reading, scoring), the same for every stage.

    Kinds without a measurement count at the mean rate of the others. All steps take constant time.
    """

    left: dict[str, int] = field(default_factory=dict)  # kind -> visits of stages that are not finished
    measured: dict[str, tuple[float, int]] = field(default_factory=dict)  # kind -> seconds of training, visits
    _stages: int = 0  # that are not finished
    _beside: tuple[float, int] = (0.0, 0)  # seconds beside the training, stages
    _all: tuple[float, int] = (0.0, 0)
    _known_s: float = 0.0  # of the visits left of the measured kinds
    _unknown: int = 0  # visits left of the other kinds

    def add(self, kind: str, visits: int) -> None:
        """Adds a stage that is still to run."""
        self._stages += 1
        self._change(kind, visits)

    def finish(self, kind: str, visits: int, training_s: float | None = None, beside_s: float = 0.0) -> None:
        """Takes off a stage that ended, and learns from its durations if they are given."""
        self._stages -= 1
        self._change(kind, -visits)
        if training_s is None:
            return
        self._known_s -= self._seconds(kind)
        self._unknown -= 0 if kind in self.measured else self.left[kind]
        before_s, before = self.measured.get(kind, (0.0, 0))
        self.measured[kind] = before_s + training_s, before + visits
        self._all = self._all[0] + training_s, self._all[1] + visits
        self._beside = self._beside[0] + beside_s, self._beside[1] + 1
        self._known_s += self._seconds(kind)

    def _change(self, kind: str, visits: int) -> None:
        self._known_s -= self._seconds(kind)
        self.left[kind] = self.left.get(kind, 0) + visits
        self._known_s += self._seconds(kind)
        self._unknown += 0 if kind in self.measured else visits

    def _seconds(self, kind: str) -> float:
        if kind not in self.measured:
            return 0.0
        seconds, visits = self.measured[kind]
        return self.left.get(kind, 0) * seconds / visits

    @property
    def seconds(self) -> float | None:
        """The seconds left on one worker; None while nothing is measured."""
        if not self._all[1]:
            return None
        other_s = self._stages * self._beside[0] / self._beside[1]
        return max(0.0, self._known_s) + self._unknown * self._all[0] / self._all[1] + other_s
