"""Says in words what a network is and what a training step with it would need."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segue.errors import SegueError
from segue.networks.analysis import memory
from segue.networks.architectures.transformers import position_note
from segue.networks.network import Network
from segue.networks.registry import NETWORKS, NetworkSpec, divisor

SETTINGS = ("width", "depth", "convolutions", "norm", "dropout", "stochastic_depth", "patch_px", "side_px")
USUAL_SIDE_PX = 256


def built_without_memory(build: Callable[[], Network]) -> Network:
    """Returns the network on the meta device, or a real one where its making computes numbers with tensors."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, SegueError):
        return build()


def rows(
    spec: NetworkSpec, network: Network, *, channels: int, classes: int, batch: int = 1, side_px: int | None = None
) -> list[tuple[str, str]]:
    """Returns label and text of each line: settings, inputs, scores, parameters by part, memory of a step with Adam.

    The memory is that of `batch` images of side_px x side_px px; of about 256 px where it is None.
    """
    factor = divisor(spec)
    side = side_px or max(1, USUAL_SIDE_PX // factor) * factor
    told = [("network", ", ".join([spec.name, *_settings(spec)]))]
    told += [("about", NETWORKS[spec.name])] if spec.name in NETWORKS else []
    told += [("takes", f"(N, {channels}, H, W), H and W multiples of {factor}" if factor > 1 else "images of any size")]
    told += [
        ("gives", f"(N, {classes}, H, W) scores of pixels" if network.dense else f"(N, {classes}) scores of images")
    ]
    positions = position_note(network, side, side)
    told += [("position embeddings", positions)] if positions else []
    told += [(f"{part} parameters", f"{count:,}") for part, count in part_counts(network).items()]
    return told + _memory_rows(network, (batch, channels, side, side))


def part_counts(network: Network) -> dict[str, int]:
    """Returns the number of parameters of each whole part, of its leaves behind it, and of the network."""
    parameters = {name: p.numel() for name, p in network.named_parameters()}

    def below(owners: tuple[str, ...]) -> int:
        return sum(
            n for name, n in parameters.items() if name in owners or name.startswith(tuple(f"{o}." for o in owners))
        )

    counted: dict[str, int] = {}
    for leaf, owners in network.parts.items():
        whole = leaf.partition(".")[0]
        counted.setdefault(whole, below((whole,)))
        counted[leaf] = below(owners)
    return counted | {"network": sum(parameters.values())}


def _settings(spec: NetworkSpec) -> list[str]:
    given = {name: getattr(spec, name) for name in SETTINGS}
    given |= {name: spec.setting(name) for name in ("width", "depth", "convolutions", "side_px")}
    told = [f"{name} = {value}" for name, value in given.items() if value not in (None, 0.0)]
    return [*told, f"pretrained = {spec.pretrained}"] if spec.pretrained else told


def _memory_rows(network: Network, images: tuple[int, int, int, int]) -> list[tuple[str, str]]:
    count, _, height, width = images
    of = f"{count} image{'s' if count > 1 else ''} of {height}x{width} px"
    try:
        plain = memory.estimate(network, images)
        halved = memory.estimate(network, images, precision="bf16")
    except (RuntimeError, TypeError, ValueError, SegueError) as error:
        return [("memory of a step", f"cannot be told for {of} ({str(error).splitlines()[0]})")]
    return [
        ("weights", _size(plain.weights)),
        ("gradients", _size(plain.gradients)),
        ("moments of Adam", _size(plain.moments)),
        ("activations", f"{_size(plain.activations)} ({_size(halved.activations)} with bf16) for {of}"),
        ("memory of a step", f"about {_size(plain.total)} ({_size(halved.total)} with bf16)"),
    ]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
