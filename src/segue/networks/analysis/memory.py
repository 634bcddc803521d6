"""Estimates the memory of a training step; the network runs on tensors that have shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

BYTES = 4  # of a weight, its gradient and each of its moments: these are float32 at any precision


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, gradients, the optimizer's moments, and what the forward pass saves for the backward pass.

    Not in it: the inputs, workspaces of kernels, and what a library itself occupies.
    """

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations


def estimate(
    network: nn.Module,
    images: tuple[int, int, int, int],
    *,
    moments: int = 2,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Memory:
    """Returns the memory of a training step on images (N, C, H, W), for the parameters that are not frozen.

    moments: per parameter; 2 for Adam, 1 for SGD with momentum. The network may lie on the meta device and is left as
    it is. Activations are counted as autograd saves them, with attention that keeps no matrix of weights. At bf16
    copies of the weights are among them, which for small images can outweigh the saving on activations.
    """
    parameters = list(network.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return Memory(
        weights=BYTES * sum(p.numel() for p in parameters) + _buffer_bytes(network),
        gradients=BYTES * trained,
        moments=BYTES * moments * trained,
        activations=_saved_bytes(network, images, precision),
    )


def _buffer_bytes(network: nn.Module) -> int:
    return sum(b.numel() * b.element_size() for b in network.buffers())


def _saved_bytes(network: nn.Module, images: tuple[int, int, int, int], precision: str) -> int:
    """Returns the bytes of the distinct tensors that autograd saves in one forward pass, without the weights."""
    saved: dict[Any, int] = {}
    alive: list[Tensor] = []  # so that no storage is released and its identity used again

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in inputs:
            saved[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
            tensors: dict[str, Tensor] = {
                name: torch.empty(value.shape, dtype=value.dtype, device="cpu", requires_grad=value.requires_grad)
                for name, value in (*network.named_parameters(), *network.named_buffers())
            }
            inputs = {value.untyped_storage()._cdata for value in tensors.values()}
            batch = torch.empty(images, device="cpu")
            with (
                torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            ):
                functional_call(network, tensors, (batch,))
    finally:
        for module, training in modes:
            module.training = training
    return sum(saved.values())
