"""Which samples an epoch visits, where rare classes are favoured. Cheap to import: no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from segue.errors import SegueError
from segue.spec import SpecModel


class SamplingSpec(SpecModel):
    """`rare`: a sample is visited in proportion to frequency^-power of the rarest class that it holds.

    The frequency of a class is the share of the samples that hold it, so that this is the repeat factor of Gupta et al.
    2019 (LVIS), whose power is 0.5, without its threshold. 0 visits every sample once; 1 visits the samples of every
    class equally often, taken together, where no sample holds two.
    """

    name: Literal["rare"]
    power: Annotated[float, Field(ge=0, le=1)] = 0.5


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
