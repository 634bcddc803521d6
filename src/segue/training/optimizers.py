"""Optimisers by name, with rates per part of the network, and what is done to gradients before a step.

An exponential moving average of a network's weights, which is often better than the last weights themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
PartRates = dict[Literal["encoder", "decoder", "head"], Rate]
FUSED_ON = ("cpu", "cuda")  # devices on which all parameters step in one kernel, for each of the optimisers


class SgdSpec(SpecModel):
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v; with `nesterov`, w <- w - lr (g + momentum v).

    `lr` is the rate before any schedule and `part_lr` that of single parts; a schedule multiplies all of them.
    `weight_decay` adds weight_decay w to the gradient g; not on weights and biases of norms and on other biases,
    i.e. parameters of one dimension, where `decay_norms_and_biases` is false.
    """

    name: Literal["sgd"]
    lr: Rate = 1e-2
    momentum: Beta = 0.9
    nesterov: bool = False
    weight_decay: Decay = 0.0
    part_lr: PartRates = {}
    decay_norms_and_biases: bool = True

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SgdSpec:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs momentum above 0; give momentum, or remove nesterov")
        return self


class AdamSpec(SpecModel):
    """Adam (Kingma and Ba, ICLR 2015): `lr` is the rate before any schedule, `betas` the decay of the two averages.

    `weight_decay` is added to the gradient, so that both averages see it; the other settings are those of SGD.
    """

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Decay = 0.0
    part_lr: PartRates = {}
    decay_norms_and_biases: bool = True


class AdamWSpec(SpecModel):
    """Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019): w <- w - lr weight_decay w before Adam's step.

    The gradient does not see it. The other settings are those of SGD.
    """

    name: Literal["adamw"]
    lr: Rate = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Rate = 1e-8
    weight_decay: Decay = 1e-2
    part_lr: PartRates = {}
    decay_norms_and_biases: bool = True


AnyOptimizer = SgdSpec | AdamSpec | AdamWSpec
OptimizerSpec = Annotated[AnyOptimizer, Field(discriminator="name")]


def build(spec: AnyOptimizer, network: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimiser over all parameters of the network, on the device where they are.

    Its groups are by part, and by whether they decay where that differs; each has `part`, and `initial_lr`, its rate
    before the schedule. Frozen parameters are included, for they may be unfrozen later: those without a gradient are
    passed over, by the decay too.
    """
    from torch import optim

    groups = _groups(spec, network)
    fused = all(p.device.type in FUSED_ON for p in network.parameters())
    if isinstance(spec, SgdSpec):
        optimizer = optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=fused)
        if spec.momentum:
            optimizer.register_step_pre_hook(_begin_momentum)
        return optimizer
    kind = optim.AdamW if isinstance(spec, AdamWSpec) else optim.Adam
    return kind(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets the rate of every group to its initial one times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clip_norm(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Returns the norm of all gradients together, (), as it was before they were scaled to a norm of at most `limit`.

    It stays on the device and nothing waits for it. A norm that is not finite leaves gradients that are not either.
    """
    from torch.nn.utils import clip_grad_norm_

    return clip_grad_norm_(parameters, limit)


def _groups(spec: AnyOptimizer, network: nn.Module) -> list[dict[str, Any]]:
    """Returns the parameters by part and decay, in the network's order."""
    rates: dict[str, float] = {str(part): rate for part, rate in spec.part_lr.items()}
    spared = spec.weight_decay > 0 and not spec.decay_norms_and_biases
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        part = name.partition(".")[0]
        decays = not (spared and parameter.ndim <= 1)
        if (part, decays) not in groups:
            rate = rates.get(part, spec.lr)
            decay = spec.weight_decay if decays else 0.0
            groups[part, decays] = {
                "params": [], "part": part, "lr": rate, "initial_lr": rate, "weight_decay": decay,
            }  # fmt: skip
        groups[part, decays]["params"].append(parameter)
    return list(groups.values())


def _begin_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Gives parameters that step for the first time a momentum of zero, which is what their first step means.

    torch's fused kernel itself takes parameters with and without a momentum together only if all are without, so
    not when some are unfrozen later; and leaves it uninitialised when loss scaling skips the very first step.
    """
    import torch

    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


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
