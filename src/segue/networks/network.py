"""Which parameters of an encoder make which of its features: the stages by which parts of it are frozen or loaded.

A parameter belongs to the first feature that depends on it. That is read off the graph that autograd records in
one forward pass without data, so it holds for any encoder whose features are computed one after another.


The one shape of every network: head(decoder(encoder(images))), and the names of its smallest parts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

SIDES_PX = (224, 256, 384)  # tried in turn: some transformers take one size of image only
STEM_STRIDE = 2  # a first feature at least this fine is the stem's


def encoder_stages(encoder: nn.Module, channels: int) -> dict[str, tuple[str, ...]]:
    """Returns the modules and parameters, as dotted names, of `stem`, `0`, `1`, …; empty where they cannot be told.

    The first feature that owns parameters is the stem's when its stride is 1 or 2, and stage 0's otherwise (ConvNeXt,
    MiT and others that begin with patches: these have no stem). Parameters on which no feature depends, e.g. layers
    that a shallow decoder does not use, go with the last stage.
    """
    owned, strides = _trace(encoder, channels)
    if len(owned) < 2:
        return {}
    stage_of = {name: index for index, names in enumerate(owned) for name in names}
    stage_of = {name: stage_of.get(name, len(owned) - 1) for name, _ in encoder.named_parameters()}
    covered = _cover(encoder, stage_of, "")
    prefixes = tuple(name for _, name in covered)
    state = encoder.state_dict()
    if not all(name in prefixes or name.startswith(tuple(f"{p}." for p in prefixes)) for name in state):
        return {}  # a buffer outside every stage would be neither frozen nor loaded
    stem = strides[0] <= STEM_STRIDE
    names = ["stem", *map(str, range(len(owned) - 1))] if stem else list(map(str, range(len(owned))))
    return {name: tuple(n for stage, n in covered if stage == index) for index, name in enumerate(names)}


def _trace(encoder: nn.Module, channels: int) -> tuple[list[set[str]], list[int]]:
    """Returns, for each feature that owns parameters, their names and the feature's stride; empty if none runs."""
    tensors: dict[str, Tensor] = {
        name: torch.empty_like(value, device="meta", requires_grad=value.is_floating_point())
        for name, value in encoder.named_parameters()
    }
    names = {id(value): name for name, value in tensors.items()}
    dtype = next((value.dtype for value in tensors.values()), torch.float32)
    tensors |= {name: torch.empty_like(value, device="meta") for name, value in encoder.named_buffers()}
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()  # nothing random, no statistics
    try:
        only: int | None = getattr(encoder, "side_px", None)
        for side in SIDES_PX if only is None else (only,):
            images = torch.empty(1, channels, side, side, device="meta", dtype=dtype)
            try:
                with torch.enable_grad():
                    given = functional_call(encoder, tensors, (images,))
            except (RuntimeError, ValueError, TypeError, AssertionError):
                continue
            features = given[0] if isinstance(given, tuple) else given
            return _first_uses(features, names, side)
    finally:
        for module, training in modes:
            module.training = training
    return [], []


def _first_uses(features: list[Tensor], names: dict[int, str], side: int) -> tuple[list[set[str]], list[int]]:
    seen: set[object] = set()
    owned, strides = [], []
    # a pooled feature (N, C) behind maps makes no stage of its own
    for feature in [f for f in features if f.dim() == 4] or features:
        new = set()
        nodes = [feature.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)  # what only the leaves of the graph have
            if variable is not None:
                new.add(names[id(variable)])
            nodes += [following for following, _ in node.next_functions]
        if new:
            owned.append(new)
            strides.append(side // feature.shape[-1] if feature.dim() == 4 else side)
    return owned, strides


def _cover(module: nn.Module, stage_of: dict[str, int], prefix: str) -> list[tuple[int, str]]:
    """Returns (stage, name) of the largest modules below that lie in one stage, and of parameters outside of these."""
    found = [(stage_of[prefix + name], prefix + name) for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        path = prefix + name
        stages = {stage_of[f"{path}.{below}"] for below, _ in child.named_parameters()}
        if len(stages) == 1:
            found.append((stages.pop(), path))
        elif stages:
            found += _cover(child, stage_of, f"{path}.")
    return list(dict.fromkeys(found))


class Network(nn.Module):
    """Maps images (N, channels, H, W) to unnormalised scores, (N, classes, H, W), or (N, classes) where not `dense`.

    `encoder` gives features at several scales; `tokens` says that it gives pairs of features and class tokens, as
    the encoders of DPT do. `dropout` is the probability with which a whole channel of the decoder's output is set to
    zero before the head while training (Tompson et al., CVPR 2015).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        *,
        channels: int,
        dropout: float = 0.0,
        tokens: bool = False,
        dense: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dropout = (nn.Dropout2d if dense else nn.Dropout)(dropout) if dropout else nn.Identity()
        self.head = head
        self.dense = dense
        self._channels = channels
        self._tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.encoder(x))

    def scores(self, features: Any) -> Tensor:
        """Returns the scores from what `encoder` gave, so that features of a frozen encoder can be kept and reused."""
        decoded = self.decoder(*features) if self._tokens else self.decoder(features)
        return self.head(self.dropout(decoded))

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The smallest parts in order, each with the dotted names of the modules and parameters it consists of.

        Every parameter belongs to exactly one of them: `encoder.stem`, `encoder.0`, … (`encoder` where its stages
        cannot be told apart), `decoder.0`, … (`decoder` where it is no list of blocks), and `head`.
        """
        named = encoder_stages(self.encoder, self._channels)
        found = {f"encoder.{stage}": tuple(f"encoder.{n}" for n in names) for stage, names in named.items()}
        found = found or {"encoder": ("encoder",)}
        blocks = getattr(self.decoder, "blocks", None)
        owned = {name for name, _ in self.decoder.named_parameters()}
        if isinstance(blocks, nn.ModuleList) and len(blocks) and all(name.startswith("blocks.") for name in owned):
            found |= {f"decoder.{index}": (f"decoder.blocks.{index}",) for index in range(len(blocks))}
        else:
            found["decoder"] = ("decoder",)
        return found | {"head": ("head", "dropout")}
