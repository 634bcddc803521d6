"""Freezing parts of a network: neither their weights nor their normalisation statistics change."""

from __future__ import annotations

from torch import nn

PARTS = ("encoder", "decoder", "head")


def freeze(network: nn.Module, parts: tuple[str, ...]) -> None:
    """Switches off the gradients of the named parts, so that an optimiser over what is left leaves them alone."""
    for part in parts:
        network.get_submodule(part).requires_grad_(False)


def set_training(network: nn.Module, frozen: tuple[str, ...]) -> None:
    """Puts the network in training mode and its frozen parts in evaluation mode.

    In evaluation mode batch normalisation uses and keeps its running statistics, and dropout is off.
    """
    network.train()
    for part in frozen:
        network.get_submodule(part).eval()


def counts(network: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the number of all and of trainable parameters of each part and of the whole network."""
    modules = {part: network.get_submodule(part) for part in PARTS} | {"network": network}
    return {
        name: {
            "parameters": sum(p.numel() for p in module.parameters()),
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        }
        for name, module in modules.items()
    }
