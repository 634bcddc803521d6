"""The structure of every network: head(decoder(encoder(images))), and the names of its smallest parts.

Parts can be frozen, loaded and given their own learning rates. The parts of an encoder are its stages: a parameter
belongs to the first feature that depends on it. That is read off the graph that autograd records in one forward pass
without data, so it holds for any encoder whose features are computed one after another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segue.networks.part_names import is_under

SIDES_PX = (224, 256, 384)  # tried in turn: some transformers take one size of image only
STEM_STRIDE = 2  # a first feature at least this fine is the stem's


class Network(nn.Module):
    """Maps images (N, channels, H, W) to unnormalized scores, (N, classes, H, W), or (N, classes) where not `dense`.

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
        """Returns the scores from the output of `encoder`, so that features of a frozen encoder can be cached."""
        decoded = self.decoder(*features) if self._tokens else self.decoder(features)
        return self.head(self.dropout(decoded))

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The smallest parts in order, each with the dotted names of the modules and parameters it consists of.

        Every parameter belongs to exactly one of them: `encoder.stem`, `encoder.0`, … (`encoder` where its stages
        cannot be told apart), `decoder.0`, … (`decoder` where it is no list of blocks), and `head`.
        """
        stages = encoder_stages(self.encoder, self._channels)
        parts = {f"encoder.{stage}": tuple(f"encoder.{name}" for name in names) for stage, names in stages.items()}
        parts = parts or {"encoder": ("encoder",)}
        blocks = getattr(self.decoder, "blocks", None)
        names = {name for name, _ in self.decoder.named_parameters()}
        if isinstance(blocks, nn.ModuleList) and len(blocks) and all(name.startswith("blocks.") for name in names):
            parts |= {f"decoder.{index}": (f"decoder.blocks.{index}",) for index in range(len(blocks))}
        else:
            parts["decoder"] = ("decoder",)
        return parts | {"head": ("head", "dropout")}

    def count_parameters(self, owners: Collection[str]) -> int:
        """Returns the number of parameters of these modules and parameters, by dotted names."""
        return sum(p.numel() for name, p in self.named_parameters() if is_under(name, owners))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts the network in evaluation mode inside, and each of its modules back into its own on leaving."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def encoder_stages(encoder: nn.Module, channels: int) -> dict[str, tuple[str, ...]]:
    """Returns the modules and parameters, as dotted names, of `stem`, `0`, `1`, …; empty where they cannot be told.

    The first feature that owns parameters is the stem's when its stride is 1 or 2, and stage 0's otherwise (ConvNeXt,
    MiT and others that begin with patches: these have no stem). Parameters on which no feature depends, e.g. layers
    that a shallow decoder does not use, go with the last stage.
    """
    stage_names, strides = _trace(encoder, channels)
    if len(stage_names) < 2:
        return {}
    stage_of = {name: index for index, names in enumerate(stage_names) for name in names}
    stage_of = {name: stage_of.get(name, len(stage_names) - 1) for name, _ in encoder.named_parameters()}
    covered = _cover(encoder, stage_of, "")
    prefixes = tuple(name for _, name in covered)
    state = encoder.state_dict()
    if not all(name in prefixes or name.startswith(tuple(f"{p}." for p in prefixes)) for name in state):
        return {}  # a buffer outside every stage would be neither frozen nor loaded
    stem = strides[0] <= STEM_STRIDE
    names = ["stem", *map(str, range(len(stage_names) - 1))] if stem else list(map(str, range(len(stage_names))))
    return {name: tuple(n for stage, n in covered if stage == index) for index, name in enumerate(names)}


def _trace(encoder: nn.Module, channels: int) -> tuple[list[set[str]], list[int]]:
    """Returns, for each feature that owns parameters, their names and the feature's stride; empty if none runs."""
    tensors = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta", requires_grad=value.is_floating_point())
        for name, value in encoder.named_parameters()
    }
    names = {id(value): name for name, value in tensors.items()}
    dtype = next((value.dtype for value in tensors.values()), torch.float32)
    tensors |= {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in encoder.named_buffers()
    }
    fixed_side: int | None = getattr(encoder, "side_px", None)
    with evaluating(encoder):  # nothing random, no statistics
        for side in SIDES_PX if fixed_side is None else (fixed_side,):
            images = torch.empty(1, channels, side, side, device="meta", dtype=dtype)
            try:
                with torch.enable_grad():
                    output = functional_call(encoder, tensors, (images,))
            except (RuntimeError, ValueError, TypeError, AssertionError):
                continue
            features = output[0] if isinstance(output, tuple) else output
            return _first_uses(features, names, side)
    return [], []


def _first_uses(features: list[Tensor], names: dict[int, str], side: int) -> tuple[list[set[str]], list[int]]:
    seen: set[object] = set()
    stage_names, strides = [], []
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
            stage_names.append(new)
            strides.append(side // feature.shape[-1] if feature.dim() == 4 else side)
    return stage_names, strides


def _cover(module: nn.Module, stage_of: dict[str, int], prefix: str) -> list[tuple[int, str]]:
    """Returns (stage, name) of the largest modules below that lie in one stage, and of parameters outside of these."""
    covered = [(stage_of[prefix + name], prefix + name) for name, _ in module.named_parameters(recurse=False)]
    for name, child in module.named_children():
        path = prefix + name
        stages = {stage_of[f"{path}.{below}"] for below, _ in child.named_parameters()}
        if len(stages) == 1:
            covered.append((stages.pop(), path))
        elif stages:
            covered += _cover(child, stage_of, f"{path}.")
    return list(dict.fromkeys(covered))
