from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from segue import networks, rng
from segue.errors import SpecError
from segue.networks.registry import NetworkSpec
from segue.spec import SpecModel, validate
from segue.training import freezing, optimizers
from segue.training.optimizers import OPTIMIZERS, AdamSpec, Optimizer, OptimizerSpec

CASES: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.0, "weight_decay": 0.1},
    {"name": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "decay_norms_and_biases": False},
    {"name": "adam"},
    {"name": "adam", "lr": 0.01, "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1},
    {"name": "adam", "part_lr": {"encoder": 1e-4, "head": 0.1}},
    {"name": "adamw"},
    {"name": "adamw", "weight_decay": 0.3, "part_lr": {"decoder": 0.02}, "decay_norms_and_biases": False},
]
FACTORS = (1.0, 0.5, 2.0, 0.1)


def spec_of(table: dict[str, Any]) -> Optimizer:
    return TypeAdapter(OptimizerSpec).validate_python(table)


def small_network() -> nn.Module:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec(width=8), channels=1, classes=2).double()


def give_gradients(network: nn.Module, step: int) -> None:
    """Puts a random gradient on every parameter that takes one."""
    generator = rng.torch_generator(0, "gradients", step)
    for parameter in network.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.grad = drawn if parameter.requires_grad else None


def by_hand(spec: Any, name: str, w: Tensor, gradients: list[Tensor], factors: tuple[float, ...]) -> Tensor:
    """Returns a parameter after steps by the published equations, written one by one."""
    rate = {str(k): v for k, v in spec.part_lr.items()}.get(name.partition(".")[0], spec.lr)
    decay = spec.weight_decay if spec.decay_norms_and_biases or w.ndim > 1 else 0.0
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, (g, factor) in enumerate(zip(gradients, factors, strict=True), start=1):
        lr = rate * factor
        if spec.name == "sgd":
            g = g + decay * w
            m = spec.momentum * m + g
            w = w - lr * (g + spec.momentum * m if spec.nesterov else m)
            continue
        if spec.name == "adam":
            g = g + decay * w
        else:
            w = w - lr * decay * w
        first, second = spec.betas
        m = first * m + (1 - first) * g
        v = second * v + (1 - second) * g**2
        w = w - lr * (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + spec.eps)
    return w


def test_every_optimizer_is_among_the_cases():
    """No optimizer can be added without a case here."""
    kinds = set(OPTIMIZERS)
    assert kinds == {case["name"] for case in CASES}


@pytest.mark.parametrize("table", CASES, ids=str)
def test_steps_are_the_published_equations(table: dict[str, Any]):
    """Four steps under a changing rate give the equations' weights: decay, momentum, part rates, spared norms."""
    spec, network = spec_of(table), small_network()
    optimizer = optimizers.build(spec, network)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    gradients: dict[str, list[Tensor]] = {name: [] for name in before}
    for step, factor in enumerate(FACTORS):
        optimizers.set_lr(optimizer, factor)
        give_gradients(network, step)
        for name, p in network.named_parameters():
            assert p.grad is not None
            gradients[name].append(p.grad.clone())
        optimizer.step()
    for name, p in network.named_parameters():
        torch.testing.assert_close(
            p, by_hand(spec, name, before[name], gradients[name], FACTORS), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("table", CASES, ids=str)
def test_frozen_parameters_are_left_alone_and_begin_afresh(table: dict[str, Any]):
    """While frozen no bit changes, not by decay either; unfrozen later a parameter steps as one that is new."""
    spec, network = spec_of(table), small_network()
    optimizer = optimizers.build(spec, network)
    frozen = ("encoder.0", "encoder.stem")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    freezing.freeze(network, frozen)
    for step in range(2):
        give_gradients(network, step)
        optimizer.step()
    names = freezing.parameter_names(network, frozen)
    now = dict(network.named_parameters())
    assert all(torch.equal(now[name], before[name]) == networks.is_under(name, names) for name in now)
    freezing.freeze(network, ())
    gradients: dict[str, list[Tensor]] = {name: [] for name in now if networks.is_under(name, names)}
    for step in range(2, 4):
        give_gradients(network, step)
        for name in gradients:
            gradient = now[name].grad
            assert gradient is not None
            gradients[name].append(gradient.clone())
        optimizer.step()
    for name in gradients:
        torch.testing.assert_close(
            now[name], by_hand(spec, name, before[name], gradients[name], (1.0, 1.0)), rtol=1e-9, atol=1e-12
        )


def test_a_skipped_first_step_leaves_no_trace_in_the_momentum():
    """When loss scaling skips the very first step, the next one is the first."""
    results = []
    for overflows in (True, False):
        network = small_network().float()
        optimizer = optimizers.build(spec_of({"name": "sgd"}), network)
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=1000, backoff_factor=0.5)
        if overflows:
            scaler.scale(torch.zeros(()))
            give_gradients(network, 0)
            next(network.parameters()).grad = torch.full_like(next(network.parameters()), math.inf)
            scaler.step(optimizer)
            scaler.update(1.0)
        scaler.scale(torch.zeros(()))
        give_gradients(network, 1)
        scaler.step(optimizer)
        results.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_defaults_are_not_in_the_dump():
    """A specification that says nothing of the newer settings is told by the same words as before them."""
    assert AdamSpec().model_dump(exclude_defaults=True) == {}
    assert AdamSpec(lr=1e-4).model_dump(exclude_defaults=True) == {"lr": 1e-4}


def test_groups_are_by_part_and_decay():
    """Every parameter is in one group, with the rate of its part, and spared ones have one dimension."""
    network = small_network()
    spec = spec_of(
        {"name": "adamw", "lr": 0.1, "part_lr": {"encoder": 0.01}, "decay_norms_and_biases": False, "weight_decay": 0.5}
    )
    optimizer = optimizers.build(spec, network)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    for group in optimizer.param_groups:
        assert group["initial_lr"] == (0.01 if group["part"] == "encoder" else 0.1)
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.5}


def test_clipping_scales_all_gradients_by_one_factor():
    """Above the limit the joint norm becomes the limit and the direction stays; below it nothing changes."""
    network = small_network()
    give_gradients(network, 0)
    before = torch.cat([p.grad.flatten().clone() for p in network.parameters() if p.grad is not None])
    assert optimizers.clip_grad_norm(network.parameters(), 1e9).item() == pytest.approx(before.norm().item())
    optimizers.clip_grad_norm(network.parameters(), 0.5)
    after = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(after, before * 0.5 / before.norm(), rtol=1e-6, atol=0)


class Holder(SpecModel):
    optimizer: OptimizerSpec


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "adm"}, r"optimizer.name: unknown name 'adm'; did you mean 'adam'\? allowed: adam, adamw, sgd"),
        ({"name": "sgd", "momentum": 0, "nesterov": True}, "nesterov = true needs momentum above 0"),
        (
            {"name": "adam", "part_lr": {"neck": 0.1}},
            "part_lr.neck: .*allowed: decoder, encoder, head",
        ),
        ({"name": "adam", "part_lr": {"head": 0}}, "a number above 0"),
    ],
)
def test_bad_optimizers_are_refused(table: dict[str, Any], message: str):
    """A setting that cannot be is refused with what is allowed."""
    with pytest.raises(SpecError, match=message):
        validate(Holder, {"optimizer": table}, context="stage.toml")
