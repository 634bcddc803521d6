"""The memory that a training step needs, told without any: the network runs on tensors that have shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

BYTES = 4  # of a weight, its gradient and each of its moments: these are kept in float32 at any precision


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, gradients, the optimiser's moments, and what the forward pass keeps for the backward one.

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
    copies of the weights are among them, which for small images can outweigh what is saved on activations.
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
    kept: list[Tensor] = []  # so that no storage is given up and its identity used again

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    modes = [(module, module.training) for module in network.modules()]
    network.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad():
            tensors: dict[str, Tensor] = {
                name: torch.empty(value.shape, dtype=value.dtype, device="cpu", requires_grad=value.requires_grad)
                for name, value in (*network.named_parameters(), *network.named_buffers())
            }
            own = {value.untyped_storage()._cdata for value in tensors.values()}
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
