"""Human-readable summary of a network and of the memory of a training step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segue.errors import SegueError
from segue.networks.analysis import memory
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec, build, divisor

TYPICAL_SIDE_PX = 256


def describe(
    spec: NetworkSpec, *, channels: int, classes: int, batch: int = 1, side_px: int | None = None
) -> list[tuple[str, str]]:
    """Returns label and text of each line on the network, built on the meta device where that can be.

    The memory is that of a step on `batch` images of side_px x side_px px (about 256 px where None). Raises
    SegueError as `build` does.
    """
    network = build_on_meta_device(lambda: build(spec, channels=channels, classes=classes))
    return summary_rows(spec, network, channels=channels, classes=classes, batch=batch, side_px=side_px)


def build_on_meta_device(build: Callable[[], Network]) -> Network:
    """Returns the network on the meta device, or a real one where building it computes numbers with tensors."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, SegueError):
        return build()


def summary_rows(
    spec: NetworkSpec, network: Network, *, channels: int, classes: int, batch: int = 1, side_px: int | None = None
) -> list[tuple[str, str]]:
    """Returns label and text of each line: settings, inputs, scores, parameters by part, memory of a step with Adam.

    The memory is that of `batch` images of side_px x side_px px; of about 256 px where it is None.
    """
    factor = divisor(spec)
    side = side_px or max(1, TYPICAL_SIDE_PX // factor) * factor
    settings = [f"{name} = {value}" for name, value in spec.settings.items()]
    settings += [f"pretrained = {spec.pretrained}"] if spec.pretrained else []
    rows = [("network", ", ".join([spec.name, *settings]))]
    rows += [("about", spec.kind.description)] if spec.kind.description else []
    sizes = f"(N, {channels}, H, W), H and W multiples of {factor}" if factor > 1 else "images of any size"
    scores = f"(N, {classes}, H, W) scores of pixels" if network.dense else f"(N, {classes}) scores of images"
    rows += [("takes", sizes), ("gives", scores)]
    if spec.family in ("vit", "sam"):
        from segue.networks.architectures.transformers import position_note

        note = position_note(network, side, side)
        rows += [("position embeddings", note)] if note else []
    rows += [(f"{part} parameters", f"{count:,}") for part, count in part_counts(network).items()]
    return rows + _memory_rows(network, (batch, channels, side, side))


def part_counts(network: Network) -> dict[str, int]:
    """Returns the number of parameters of each whole part, of its smallest parts after it, and of the network."""
    counts: dict[str, int] = {}
    for leaf, owners in network.parts.items():
        whole = leaf.partition(".")[0]
        counts.setdefault(whole, network.count_parameters((whole,)))
        counts[leaf] = network.count_parameters(owners)
    return counts | {"network": sum(p.numel() for p in network.parameters())}


def _memory_rows(network: Network, images: tuple[int, int, int, int]) -> list[tuple[str, str]]:
    count, _, height, width = images
    batch = f"{count} image{'s' if count > 1 else ''} of {height}x{width} px"
    try:
        fp32 = memory.estimate(network, images)
        bf16 = memory.estimate(network, images, precision="bf16")
    except (RuntimeError, TypeError, ValueError, SegueError) as error:
        return [("memory of a step", f"cannot be estimated for {batch} ({str(error).splitlines()[0]})")]
    return [
        ("weights", _size(fp32.weights)),
        ("gradients", _size(fp32.gradients)),
        ("moments of Adam", _size(fp32.moments)),
        ("activations", f"{_size(fp32.activations)} ({_size(bf16.activations)} with bf16) for {batch}"),
        ("memory of a step", f"about {_size(fp32.total)} ({_size(bf16.total)} with bf16)"),
    ]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
