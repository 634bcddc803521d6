"""Replaces the batch norms of a network by another normalization, which takes over their scale and shift."""

from __future__ import annotations

from typing import Literal

from torch import nn

from segue.errors import SegueError

Norm = Literal["batch", "instance", "group", "layer"]
GROUPS = 32  # Wu and He, "Group normalization", ECCV 2018


def group_count(channels: int) -> int:
    """Returns the largest divisor of `channels` up to 32 that leaves at least two channels in a group.

    Groups of a single channel would be instance norm; one channel alone is its own group.
    """
    return next((n for n in range(min(GROUPS, channels // 2), 0, -1) if channels % n == 0), 1)


def replace_batch_norms(network: nn.Module, norm: Norm, *, context: str) -> None:
    """Replaces every 2-D batch norm by `norm`, of the same channels, eps, scale and shift.

    "instance" normalizes each channel of each image over H and W; "group" groups of channels (see `group_count`);
    "layer" all of C, H and W of an image, as one group, which is what convolutional networks call layer norm (its
    scale and shift are per channel). None of them keeps running statistics: training and use are the same. Other
    normalizations of the network stay, e.g. the layer norms of transformers. Raises SegueError when there is no
    batch norm, or one of a kind that cannot be replaced.
    """
    batch_norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if not batch_norms:
        raise SegueError(f'{context}: has no batch norm that norm = "{norm}" could replace; remove norm.')
    if norm == "batch":
        return
    for name, old in batch_norms:
        is_plain = type(old) is nn.BatchNorm2d
        if not (is_plain or _is_timm_batch_norm(old)):
            raise SegueError(f'{context}: its {type(old).__name__} cannot be replaced by norm = "{norm}"; remove norm.')
        new = _normalization(norm, old)
        if not is_plain:
            new = nn.Sequential(new, old.get_submodule("drop"), old.get_submodule("act"))
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, new)


def _is_timm_batch_norm(module: nn.Module) -> bool:
    """Returns whether it is timm's batch norm followed by dropout and activation; timm is not imported for it."""
    return type(module).__name__ == "BatchNormAct2d" and type(module).__module__ == "timm.layers.norm_act"


def _normalization(norm: Norm, old: nn.BatchNorm2d) -> nn.Module:
    channels, eps, affine = old.num_features, old.eps, old.affine
    new: nn.Module
    if norm == "instance":
        new = nn.InstanceNorm2d(channels, eps, affine=affine)
    else:
        new = nn.GroupNorm(group_count(channels) if norm == "group" else 1, channels, eps, affine)
    if affine:  # some networks begin with scales of zero
        new.weight, new.bias = old.weight, old.bias
    return new
