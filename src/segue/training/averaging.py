"""An exponential moving average of a network's weights, which is often better than the last weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from segue.spec import SpecModel

if TYPE_CHECKING:
    from torch import Tensor, nn


class AverageSpec(SpecModel):
    """After every step average = decay × average + (1 − decay) × weights (Polyak and Juditsky 1992).

    Over the first steps the decay is at most (1 + n) / (10 + n), n being the number of steps, so that the average
    leaves the first weights behind.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999


def begin(network: nn.Module) -> dict[str, Tensor]:
    """Returns the average before the first step: a copy of the weights and of the normalisation statistics."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def update(spec: AverageSpec, average: dict[str, Tensor], network: nn.Module, steps: int) -> None:
    """Moves the average towards the network's weights after its step number `steps` (from 1)."""
    import torch

    decay = min(spec.decay, (1 + steps) / (10 + steps))
    weights = network.state_dict()
    moving = [name for name, value in average.items() if value.is_floating_point()]
    with torch.no_grad():
        for name in moving:
            average[name].lerp_(weights[name], 1 - decay)
        for name in average.keys() - set(moving):  # counters of batches seen
            average[name].copy_(weights[name])


@contextmanager
def applied(network: nn.Module, average: dict[str, Tensor] | None) -> Iterator[None]:
    """Puts the average in place of the weights inside, and the weights back on leaving; None changes nothing."""
    if average is None:
        yield
        return
    kept = begin(network)
    network.load_state_dict(average)
    try:
        yield
    finally:
        network.load_state_dict(kept)
