"""Which samples an epoch visits, where rare classes are favoured. Cheap to import: no torch.

The views of an epoch: which samples are visited, in which order, and how each of them is turned or changed.

Everything is a function of (seed, initialisation, draw, epoch), drawn for the whole epoch at once, so that neither an
interruption nor the splitting of batches changes what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segue import rng
from segue.data import augmentation
from segue.data.augmentation import Drawn
from segue.data.spec import AugmentSpec
from segue.data.streaming import order
from segue.errors import SegueError
from segue.training.spec import SamplingSpec, StageSpec


def sample_weights(spec: SamplingSpec, counts: np.ndarray) -> np.ndarray:
    """Returns the share of visits of each sample, (n,) float64 with sum 1, from its pixels per class (n, K).

    A sample without labelled pixels has 0, since nothing can be learnt from it. Raises SegueError where none has any.
    """
    holds = np.asarray(counts) > 0
    if not holds.any():
        raise SegueError("sampling: no training sample has a labelled pixel; remove sampling, or mend the labels.")
    frequency = np.maximum(holds.mean(0), 1 / len(holds))  # a class that no sample holds is asked of none below
    weights = np.where(holds, frequency**-spec.power, 0).max(1)
    return weights / weights.sum()


def draw_samples(spec: SamplingSpec, counts: np.ndarray, *, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the sample indices (count,) int64 that an epoch visits, ascending, with repeats.

    counts: (n, K) pixels of each class in each sample. Drawn systematically: a sample with the share s of
    `sample_weights` is visited floor(count s) or ceil(count s) times, and count s times on average.
    """
    weights = sample_weights(spec, counts)
    edges = np.cumsum(weights)
    places = (np.arange(count) + generator.random()) * (edges[-1] / count)
    found = np.searchsorted(edges, places, side="right")
    return np.minimum(found, np.flatnonzero(weights)[-1])  # a place may be rounded up to the last edge


DIHEDRAL = 8  # the symmetries of a square
BY_NAME = {
    "none": AugmentSpec(dihedral="none"),
    "dihedral": AugmentSpec(dihedral="random"),
    "dihedral-all": AugmentSpec(dihedral="all"),
}


@dataclass(frozen=True)
class Views:
    """samples (m,): indices into the training source; ids (m,): their numbers among the views of all samples,
    sample × copies + copy; drawn: how each is changed. All in the order in which they are visited."""

    samples: np.ndarray
    ids: np.ndarray
    drawn: Drawn

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: slice) -> Views:
        return Views(self.samples[index], self.ids[index], self.drawn[index])


def copies(spec: StageSpec) -> int:
    """Returns how many views of each sample an epoch visits: 8 where all turns are asked for, else 1."""
    return DIHEDRAL if augment_spec(spec).dihedral == "all" else 1


def are_fixed(spec: StageSpec) -> bool:
    """Returns whether a view looks the same in every epoch, so that what a frozen part makes of it can be kept."""
    return spec.augment in ("none", "dihedral-all")


def augment_spec(spec: StageSpec) -> AugmentSpec:
    return spec.augment if isinstance(spec.augment, AugmentSpec) else BY_NAME[spec.augment]


def views(
    spec: StageSpec,
    blocks: np.ndarray,
    epoch: int,
    *,
    window: int | None = None,
    counts: Callable[[], np.ndarray] | None = None,
) -> Views:
    """Returns the views of an epoch (from 0).

    blocks (n,) numbers the chunk of the file that each sample lies in; window is that of the order, None for all.
    counts gives the pixels of each class in each sample (n, K), which only sampling in favour of rare classes asks for.
    """
    own = spec.init if spec.order == "own" else "shared"
    purpose = (own, spec.draw if spec.draws else -1, epoch)
    count, per_sample = len(blocks), copies(spec)
    chosen = np.arange(count)
    if spec.sampling is not None:
        assert counts is not None
        generator = rng.numpy_generator(spec.seed, "sampling", *purpose)
        chosen = np.sort(draw_samples(spec.sampling, counts(), count=count, generator=generator))
    drawn = augmentation.draw(
        augment_spec(spec), count * per_sample, rng.numpy_generator(spec.seed, "augment", *purpose)
    )
    visited = order(blocks[chosen], per_sample, window, rng.numpy_generator(spec.seed, "order", *purpose))
    slots, turns = np.divmod(visited, per_sample)
    samples = chosen[slots]
    return Views(samples, samples * per_sample + turns, drawn[visited])
