"""Which samples an epoch visits, in which order, and how each of them is augmented.

Everything is a function of (seed, initialization, draw, epoch), computed for the whole epoch at once, so that neither
an interruption nor the splitting of batches changes what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segue import rng
from segue.data import augmentation
from segue.data.augmentation import N_DIHEDRAL, AugmentParams
from segue.data.spec import AugmentSpec
from segue.data.streaming import epoch_order
from segue.errors import SegueError
from segue.training.spec import AUGMENT_PRESETS, SamplingSpec, StageSpec


@dataclass(frozen=True)
class EpochPlan:
    """The visits of an epoch, in order.

    samples (m,): indices into the training source; ids (m,): sample × repeats_per_sample + repeat, which numbers the
    repeats of all samples; params: how each visit is augmented. Slicing gives a part of the epoch.
    """

    samples: np.ndarray
    ids: np.ndarray
    params: AugmentParams

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: slice) -> EpochPlan:
        return EpochPlan(self.samples[index], self.ids[index], self.params[index])


def plan_epoch(
    spec: StageSpec,
    chunk_ids: np.ndarray,
    epoch: int,
    *,
    window: int | None = None,
    counts: Callable[[], np.ndarray] | None = None,
) -> EpochPlan:
    """Returns the plan of an epoch (from 0).

    chunk_ids (n,) numbers the chunk of the file that each sample lies in; window is that of
    `data.streaming.epoch_order`, None for all. counts returns the pixels of each class in each sample (n, K); only
    class-balanced sampling calls it.
    """
    purpose = epoch_stream(spec, epoch)
    count, repeats = len(chunk_ids), repeats_per_sample(spec)

    # which samples
    visited = np.arange(count)
    if spec.sampling is not None:
        assert counts is not None
        generator = rng.numpy_generator(spec.seed, "sampling", *purpose)
        visited = np.sort(draw_samples(spec.sampling, counts(), count=count, generator=generator))

    # how augmented
    generator = rng.numpy_generator(spec.seed, "augment", *purpose)
    params = augmentation.sample_params(augment_spec(spec), count * repeats, generator)

    # in which order
    generator = rng.numpy_generator(spec.seed, "order", *purpose)
    visits = epoch_order(chunk_ids[visited], repeats, window, generator)
    slots, repeat = np.divmod(visits, repeats)
    samples = visited[slots]
    return EpochPlan(samples, samples * repeats + repeat, params[visits])


def epoch_stream(spec: StageSpec, epoch: int) -> tuple[str | int, ...]:
    """Returns what the random streams of an epoch depend on, beside the seed and their purpose."""
    return (spec.init if spec.order == "own" else "shared", spec.draw if spec.draws else -1, epoch)


def augment_spec(spec: StageSpec) -> AugmentSpec:
    """Returns the augmentation of a stage, whether it is given by name or as a table."""
    return spec.augment if isinstance(spec.augment, AugmentSpec) else AUGMENT_PRESETS[spec.augment]


def repeats_per_sample(spec: StageSpec) -> int:
    """Returns how often an epoch visits each sample: 8 times with all dihedral transforms, else once."""
    return N_DIHEDRAL if augment_spec(spec).dihedral == "all" else 1


def is_fixed(spec: StageSpec) -> bool:
    """Returns whether a visit, identified by its id, looks the same in every epoch, so that features can be cached."""
    if spec.render is not None and spec.render.noise == "fresh":
        return False
    return augment_spec(spec) in (AUGMENT_PRESETS["none"], AUGMENT_PRESETS["dihedral-all"])


def sample_weights(spec: SamplingSpec, counts: np.ndarray) -> np.ndarray:
    """Returns the share of visits of each sample, (n,) float64 with sum 1, from its pixels per class (n, K).

    A sample without labeled pixels has 0, since nothing can be learned from it. Raises SegueError where none has any.
    """
    present = np.asarray(counts) > 0
    if not present.any():
        raise SegueError("sampling: no training sample has a labeled pixel; remove sampling, or correct the labels.")
    frequency = np.maximum(present.mean(0), 1 / len(present))  # a class in no sample is not used below
    weights = np.where(present, frequency**-spec.power, 0).max(1)
    return weights / weights.sum()


def draw_samples(spec: SamplingSpec, counts: np.ndarray, *, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the sample indices (count,) int64 that an epoch visits, ascending, with repeats.

    counts: (n, K) pixels of each class in each sample. Systematic sampling: a sample with the share s of
    `sample_weights` is visited floor(count s) or ceil(count s) times, and count s times on average.
    """
    weights = sample_weights(spec, counts)
    edges = np.cumsum(weights)
    positions = (np.arange(count) + generator.random()) * (edges[-1] / count)
    samples = np.searchsorted(edges, positions, side="right")
    return np.minimum(samples, np.flatnonzero(weights)[-1])  # rounding may move a position up to the last edge
