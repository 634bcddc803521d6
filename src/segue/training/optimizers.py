"""Optimizers by name with learning rates per part of the network, gradient clipping, and the moving average of weights.

An optimizer is a specification with a `build` method and an entry in `OPTIMIZERS`. Cheap to import: no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field, model_validator

from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
ParameterGroups = list[dict[str, Any]]
FUSED_DEVICES = ("cpu", "cuda")  # on which all parameters step in one kernel, for each of the optimizers


class Optimizer(SpecModel, ABC):
    """Settings of all optimizers. `lr` is the rate before any schedule and `part_lr` that of single parts of the
    network; a schedule multiplies all of them. Where `decay_norms_and_biases` is false, weights and biases of
    normalization layers and other biases, i.e. parameters of one dimension, do not decay."""

    name: Any
    lr: Rate = 1e-3
    weight_decay: Decay = 0.0
    part_lr: dict[Literal["encoder", "decoder", "head"], Rate] = {}
    decay_norms_and_biases: bool = True

    @abstractmethod
    def build(self, groups: ParameterGroups, *, fused: bool) -> torch.optim.Optimizer:
        """Returns torch's optimizer over the groups; fused: whether all parameters step in one kernel."""


class SgdSpec(Optimizer):
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v; with `nesterov`, w <- w - lr (g + momentum v).

    `weight_decay` adds weight_decay w to the gradient g.
    """

    name: Literal["sgd"]
    lr: Rate = 1e-2
    momentum: Beta = 0.9
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SgdSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum above 0; give momentum, or remove nesterov")
        return self

    def build(self, groups: ParameterGroups, *, fused: bool) -> torch.optim.Optimizer:
        from torch.optim import SGD

        optimizer = SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)
        if self.momentum:
            optimizer.register_step_pre_hook(_init_momentum)
        return optimizer


class AdamSpec(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015): `betas` are the decay rates of the two moment estimates.

    `weight_decay` is added to the gradient, so that both moments see it.
    """

    name: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Rate = 1e-8

    def build(self, groups: ParameterGroups, *, fused: bool) -> torch.optim.Optimizer:
        from torch.optim import Adam

        return Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


class AdamWSpec(Optimizer):
    """Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019): w <- w - lr weight_decay w before Adam's step.

    The gradient does not see the decay.
    """

    name: Literal["adamw"]
    weight_decay: Decay = 1e-2
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Rate = 1e-8

    def build(self, groups: ParameterGroups, *, fused: bool) -> torch.optim.Optimizer:
        from torch.optim import AdamW

        return AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SgdSpec, "adam": AdamSpec, "adamw": AdamWSpec}
if TYPE_CHECKING:
    OptimizerSpec = Optimizer
else:
    OptimizerSpec = Annotated[Union[tuple(OPTIMIZERS.values())], Field(discriminator="name")]  # noqa: UP007


def build(spec: Optimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimizer over all parameters of the network, on the device where they are.

    Its parameter groups are by part of the network, and by whether they decay where that differs; each has `part`, and
    `initial_lr`, its rate before the schedule. Frozen parameters are included, since they may be unfrozen later:
    parameters without a gradient are skipped, by the decay too.
    """
    fused = all(parameter.device.type in FUSED_DEVICES for parameter in network.parameters())
    return spec.build(_parameter_groups(spec, network), fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets the rate of every parameter group to its initial one times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clip_grad_norm(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scales all gradients together to a norm of at most `limit` and returns their norm before, ().

    The norm stays on the device and nothing waits for it. If it is not finite, the gradients are not finite either.
    """
    from torch.nn.utils import clip_grad_norm_

    return clip_grad_norm_(parameters, limit)


def _parameter_groups(spec: Optimizer, network: nn.Module) -> ParameterGroups:
    """Returns the parameters by part and decay, in the network's order."""
    rates: dict[str, float] = {str(part): rate for part, rate in spec.part_lr.items()}
    spares_vectors = spec.weight_decay > 0 and not spec.decay_norms_and_biases
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        part = name.partition(".")[0]
        decays = not (spares_vectors and parameter.ndim <= 1)
        if (part, decays) not in groups:
            rate = rates.get(part, spec.lr)
            decay = spec.weight_decay if decays else 0.0
            groups[part, decays] = {
                "params": [], "part": part, "lr": rate, "initial_lr": rate, "weight_decay": decay,
            }  # fmt: skip
        groups[part, decays]["params"].append(parameter)
    return list(groups.values())


def _init_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Gives parameters that step for the first time a momentum of zero, which is what their first step means.

    torch's fused kernel accepts parameters with and without a momentum together only if all are without, so not when
    some are unfrozen later; and it leaves the momentum uninitialized when loss scaling skips the very first step.
    """
    import torch

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


# Exponential moving average of the weights


class EmaSpec(SpecModel):
    """After every step average = decay × average + (1 − decay) × weights (Polyak and Juditsky 1992).

    During the first steps the decay is at most (1 + n) / (10 + n), n being the number of steps, so that the average
    soon forgets the initial weights.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the weights and normalization statistics."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def update_ema(spec: EmaSpec, average: dict[str, Tensor], network: nn.Module, steps: int) -> None:
    """Moves the average towards the network's weights after its step number `steps` (from 1), in place."""
    import torch

    decay = min(spec.decay, (1 + steps) / (10 + steps))
    weights = network.state_dict()
    floating = [name for name, value in average.items() if value.is_floating_point()]
    with torch.no_grad():
        for name in floating:
            average[name].lerp_(weights[name], 1 - decay)
        for name in average.keys() - set(floating):  # counters of batches seen
            average[name].copy_(weights[name])


@contextmanager
def ema_weights(network: nn.Module, average: dict[str, Tensor] | None) -> Iterator[None]:
    """Puts the average in place of the weights inside the block and restores them after it; None changes nothing."""
    if average is None:
        yield
        return
    weights = copy_weights(network)
    network.load_state_dict(average)
    try:
        yield
    finally:
        network.load_state_dict(weights)
