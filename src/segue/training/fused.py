"""Several models step at once: their weights stacked, one forward and one backward pass for all (`torch.func.vmap`).

Models that share a pass over the data, with `side_by_side = "approximate"`, step at once where their networks, targets,
precisions, frozen parts and numbers of parts of a batch are equal. Parameters and buffers of each network become slices
of stacked tensors; all else goes on with each network by itself: its optimizer, learning rate, clipping, average,
validation and checkpoints. A layer of M networks is one operation, such as a convolution in M groups, whose sums are
not added in the same order: the weights agree with those of models trained alone within rounding, not to the bit
(docs/decisions/0027-models-that-step-at-once.md).

Where models cannot step at once, they step one after another, exactly, and the log says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from segue.device import Precision
from segue.inference.predict import autocast

if TYPE_CHECKING:
    from segue.training.loop import TrainState

DEVICES = ("cuda",)  # on a processor it is slower: benchmarks/bench_fused.py
MAX_DIFFERENCE = 1e-2  # of scores in float32, relative to their norm: more is no rounding, of TF32 neither
SLOW = "There is a performance drop"  # begins torch's warning where it goes through the models one after another


class Fusion:
    """Divides the models of a pass into those that step at once; their stacks last from step to step."""

    def __init__(self, device: str, processes: int) -> None:
        self._device, self._processes = torch.device(device).type, processes
        self._divided: list[object] = []  # what the groups below depend on
        self._groups: list[tuple[list[TrainState], Stack | None]] = []
        self._reasons: set[str] = set()  # in the log

    def divide(self, states: Sequence[TrainState], images: Tensor) -> list[tuple[list[TrainState], Stack | None]]:
        """Returns the models in groups, each with its stack, or without one where a model steps by itself.

        images (n, C, H, W): of the next batch, to try a new stack on.
        """
        if not states or states[0].spec.side_by_side == "exact":
            return [([state], None) for state in states]
        models: list[object] = [(id(state), state.frozen, state.features is None) for state in states]
        if models != self._divided:
            alike: dict[str, list[TrainState]] = {}
            for state in states:
                alike.setdefault(_common(state), []).append(state)
            self._groups = [group for members in alike.values() for group in self._join(members, images)]
            self._divided = models
        return self._groups

    def _join(self, states: list[TrainState], images: Tensor) -> list[tuple[list[TrainState], Stack | None]]:
        """Returns models that are alike as one group; each alone, with a line in the log, where that cannot be."""
        first, reason = states[0], self._obstacle(states)
        if not reason:
            stack = Stack([state.network for state in states])
            reason = stack.obstacle(images[: -(-len(images) // first.spec.accumulate)], first.precision)
            if not reason:
                stack.adopt()
                return [(states, stack)]
        for state in states:
            state.why_exact = reason
        if reason not in self._reasons:
            who = "models step one after another" if len(states) > 1 else "a model steps by itself"
            first.log(f'side_by_side = "approximate": {who}, exactly: {reason}')
            self._reasons.add(reason)
        return [([state], None) for state in states]

    def _obstacle(self, states: Sequence[TrainState]) -> str:
        """Returns why models that are alike cannot step at once, as far as their settings say; "" if nothing does."""
        first = states[0]
        if self._device not in DEVICES:
            return "a processor is faster with one model at a time"
        if self._processes > 1:
            return "several processes train each of them"
        if first.spec.compile != "none":
            return "the network is compiled"
        if first.features is not None:
            return "the features of the frozen encoder are cached"
        if len(states) == 1:
            return "no other model at this step has this network, target, precision, accumulate and these frozen parts"
        return ""


def _common(state: TrainState) -> str:
    """Returns what models must share to step at once."""
    spec = state.spec
    network, target = spec.network.model_dump_json(), spec.target.model_dump_json()
    return repr((network, target, spec.accumulate, state.precision, state.frozen, state.features is None))


class Stack:
    """M networks, equal but for their weights, as one. Its tensors are copies until `adopt` makes them the networks'.

    Unlike those of `torch.func.stack_module_state`, slices have the order in memory of the network's own tensors, which
    is that of the averages of the optimizers.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = tuple(networks)
        self._parameters = _stack_each(dict(network.named_parameters()) for network in networks)
        self._buffers = _stack_each(dict(network.named_buffers()) for network in networks)

    def scores(self, images: Tensor) -> Tensor:
        """Returns the scores (M, n, channels, H, W) of images (n, C, H, W); updates the statistics of batch norms.

        Raises RuntimeError where a network draws random numbers.
        """
        return self._scores(self._buffers, images)

    def _scores(self, buffers: Mapping[str, Tensor], images: Tensor) -> Tensor:
        def score(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Tensor:
            return functional_call(self._networks[0], (dict(parameters), dict(buffers)), (images,))

        return vmap(score)(self._parameters, buffers)

    def obstacle(self, images: Tensor, precision: Precision) -> str:
        """Tries a step on images (n, C, H, W); returns why the networks cannot step at once, "" if they can.

        Scores in float32 must be those of each network by itself but for rounding.
        """
        try:
            with warnings.catch_warnings(), autocast(images.device, precision):
                warnings.filterwarnings("error", message=SLOW)
                self._scores(_clone(self._buffers), images).float().square().mean().backward()
            with torch.no_grad():
                scores = self._scores(_clone(self._buffers), images)
                alone = [functional_call(one, _clone(dict(one.named_buffers())), (images,)) for one in self._networks]
        except (RuntimeError, ValueError, TypeError, UserWarning) as error:
            first_line = str(error).strip().splitlines()[0]
            if "randomness" in first_line:
                return "the network draws random numbers (dropout, stochastic depth)"
            return f"torch cannot compute this network for several models at once ({first_line[:160]})"
        finally:
            self._clear_gradients()
        expected = torch.stack(alone)
        difference = ((scores - expected).norm() / expected.norm()).item()
        if not difference <= MAX_DIFFERENCE:
            return f"scores of several models at once differ by {difference:.2g} of their norm"
        return ""

    def adopt(self) -> None:
        """Makes the parameters and buffers of each network slices of the stacked tensors."""
        for place, network in enumerate(self._networks):
            for name, parameter in network.named_parameters():
                parameter.data = self._parameters[name].detach()[place]
            for name, buffer in network.named_buffers():
                buffer.data = self._buffers[name][place]

    def assign_gradients(self) -> None:
        """Gives each network's parameters their slices of the gradients, which are then no longer the stack's."""
        for place, network in enumerate(self._networks):
            for name, parameter in network.named_parameters():
                gradient = self._parameters[name].grad
                parameter.grad = None if gradient is None else gradient[place]
        self._clear_gradients()

    def _clear_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None


def _stack_each(tensors: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns each tensor (…) of M networks as a slice of (M, …), in the order in memory that it has."""
    networks = list(tensors)
    stacked: dict[str, Tensor] = {}
    for name, first in networks[0].items():
        like = torch.empty_like(first)  # with the strides of the first where these leave no gaps
        whole = like.new_empty_strided((len(networks), *first.shape), (first.numel(), *like.stride()))
        for place, tensors_of_one in enumerate(networks):
            whole[place].copy_(tensors_of_one[name].detach())
        stacked[name] = whole.requires_grad_(first.requires_grad)
    return stacked


def _clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}
