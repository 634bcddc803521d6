"""The blocks of a network, the sizes of their outputs and the links between them, traced in one forward pass.

Blocks are the image, the encoder's stages, the decoder's blocks and the head. Links are read off the graph that
autograd records: from a block's output back to the nearest outputs of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from segue.errors import SegueError
from segue.networks.network import Network, evaluating
from segue.networks.part_names import is_under

IMAGE, HEAD = "image", "head"
CONTAINERS = (nn.ModuleList, nn.ModuleDict)
AVERAGES = ("MeanBackward", "AdaptiveAvgPool")  # beginnings of the names of autograd's nodes


class Link(NamedTuple):
    """The output of the block `source` is used; `averaged` when nothing but its mean over the image is."""

    source: str
    averaged: bool


@dataclass(frozen=True)
class Block:
    """A block and its output.

    name: of the network's part, e.g. `encoder.0` or `head`, or dotted below `decoder` where that is one part; "image".
    leaf: the smallest part by which it is frozen, "" for the image. shape: of its output without the batch, (C, H, W),
    or (C,) for vectors. layers: as text. feature: the index of its output among the encoder's features; module:
    the dotted name of the module that gives its output, elsewhere.
    """

    name: str
    part: Literal["image", "encoder", "decoder", "head"]
    leaf: str
    shape: tuple[int, ...]
    parameters: int = 0
    layers: str = ""
    inputs: tuple[Link, ...] = ()
    feature: int | None = None
    module: str | None = None


@dataclass
class _Run:
    """Results of a forward pass: the encoder's features, class tokens behind them, and outputs by module."""

    features: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)


def trace_blocks(network: Network, image: tuple[int, int, int]) -> tuple[Block, ...]:
    """Returns the blocks for an image (C, H, W), in the order in which they run. Takes no memory for tensors.

    Raises SegueError when the network cannot take images of that shape.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.enable_grad(), evaluating(network):
        tensors = {
            name: torch.empty(p.shape, dtype=p.dtype, device="cpu", requires_grad=p.is_floating_point())
            for name, p in network.named_parameters()
        }
        buffers = {name: torch.empty(b.shape, dtype=b.dtype, device="cpu") for name, b in network.named_buffers()}
        dtype = next((p.dtype for p in tensors.values()), torch.float32)
        images = torch.empty(1, *image, device="cpu", dtype=dtype, requires_grad=True)
        try:
            run = _run(network, lambda: functional_call(network, tensors | buffers, (images,)))
        except (RuntimeError, ValueError, TypeError, AssertionError, SegueError) as error:
            raise SegueError(
                f"network: cannot take an image of {image[0]} channels and {image[1]}x{image[2]} px "
                f"({str(error).splitlines()[0]}); give a size that it supports."
            ) from error
        encoder = _encoder_blocks(network, run, {id(p): name for name, p in tensors.items()})
        start = Block(IMAGE, "image", "", image)
        return (start, *encoder, *_decoder_blocks(network, run, images, (start, *encoder)))


def block_outputs(
    network: Network, blocks: Iterable[Block], images: Tensor, *, tensors: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Returns the output of each block for images (N, C, H, W) that the network can take, in evaluation mode.

    tensors: by name, in the place of the network's weights and buffers. Gradients are recorded as the caller has set.
    """
    with evaluating(network):
        run = _run(
            network, lambda: network(images) if tensors is None else functional_call(network, tensors, (images,))
        )
    outputs: dict[str, Tensor] = {}
    for block in blocks:
        if block.feature is not None:
            outputs[block.name] = run.features[block.feature]
        else:
            outputs[block.name] = images if block.module is None else run.outputs[block.module]
    return outputs


def as_map(output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns a block's output as maps (N, C, H, W), or vectors (N, C): tokens (N, T, C) are laid out on their grid."""
    if output.dim() != 3 or len(shape) != 3:
        return output
    patches = output[:, output.shape[1] - shape[1] * shape[2] :]  # class tokens come first
    return patches.transpose(1, 2).unflatten(2, shape[1:])


def _run(network: Network, forward: Callable[[], Any]) -> _Run:
    run = _Run()

    def store_features(_module: nn.Module, _inputs: Any, output: Any) -> None:
        features, tokens = output if isinstance(output, tuple) else (output, [])
        run.features = [features] if isinstance(features, Tensor) else list(features)
        run.tokens = list(tokens)

    def store_output(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def store(_module: nn.Module, _inputs: Any, output: Any) -> None:
            run.outputs[name] = output[0] if isinstance(output, (tuple, list)) else output

        return store

    handles = [network.encoder.register_forward_hook(store_features)]
    modules = [*_children(network.decoder, "decoder"), (HEAD, network.head)]
    handles += [module.register_forward_hook(store_output(name)) for name, module in modules]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return run


def _children(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Returns the children that have weights, with their dotted names; lists are replaced by their items."""
    children: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        below = f"{path}.{name}"
        if isinstance(child, CONTAINERS):
            children += _children(child, below)
        elif any(p.dim() > 1 for p in child.parameters()):  # a norm alone makes no block
            children.append((below, child))
    return children


def _encoder_blocks(network: Network, run: _Run, names: dict[int, str]) -> list[Block]:
    """Returns the encoder's stages, in a chain; each gives the last feature that is first to depend on its weights.

    Vectors behind maps, such as what a classifier pools, are no features of their own.
    """
    owners = {leaf: below for leaf, below in network.parts.items() if leaf.partition(".")[0] == "encoder"}
    ranks = {leaf: rank for rank, leaf in enumerate(owners)}
    maps = [index for index, feature in enumerate(run.features) if feature.dim() == 4]
    feature_of: dict[str, int] = {}
    seen: set[Any] = set()
    for index in maps or range(len(run.features)):
        used = {names[id(v)] for v in _variables(run.features[index], seen) if id(v) in names}
        leaves = [leaf for leaf, below in owners.items() if any(is_under(name, below) for name in used)]
        if leaves:
            feature_of[max(leaves, key=lambda leaf: ranks[leaf])] = index
    blocks: list[Block] = []
    for leaf, below in owners.items():
        if leaf not in feature_of:
            continue
        count = network.count_parameters(below)
        source = Link(blocks[-1].name if blocks else IMAGE, averaged=False)
        shape = tuple(run.features[feature_of[leaf]].shape[1:])
        layers = describe_layers(_modules(network, below))
        blocks.append(Block(leaf, "encoder", leaf, shape, count, layers, (source,), feature=feature_of[leaf]))
    return blocks


def _decoder_blocks(network: Network, run: _Run, images: Tensor, before: tuple[Block, ...]) -> list[Block]:
    """Returns the decoder's blocks and the head, in the order in which they ran."""
    markers: dict[Any, str] = {}
    by_feature = {block.feature: block.name for block in before if block.feature is not None}
    last = before[-1].name
    for index, feature in enumerate(run.features):
        nearest = max((i for i in by_feature if i <= index), default=None)
        if feature.grad_fn is not None:
            markers[feature.grad_fn] = IMAGE if nearest is None else by_feature[nearest]
    markers |= {token.grad_fn: by_feature.get(index, last) for index, token in enumerate(run.tokens)}
    leaves = {below: leaf for leaf, owners in network.parts.items() for below in owners}
    shapes = {block.name: block.shape for block in before}
    blocks: list[Block] = []
    for path, output in run.outputs.items():
        leaf = leaves.get(path) or leaves.get(path.partition(".")[0], "decoder")
        name = leaf if path in leaves else path
        markers[output.grad_fn] = name
        direct = _sources(output.grad_fn, markers, images, through_averages=False)
        every = _sources(output.grad_fn, markers, images, through_averages=True)
        links = tuple(Link(source, averaged=source not in direct) for source in shapes if source in every)
        module = network.get_submodule(path)
        shapes[name] = _shape(output, [shapes[link.source] for link in links])
        count = sum(p.numel() for p in module.parameters())
        part: Literal["decoder", "head"] = "head" if path == HEAD else "decoder"
        layers = describe_layers([module])
        blocks.append(Block(name, part, leaf, shapes[name], count, layers, links, module=path))
    return blocks


def _shape(output: Tensor, inputs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of an output without the batch; tokens (N, T, C) count as a map of the size of an input's."""
    if output.dim() != 3:
        return tuple(output.shape[1:])
    _, count, channels = output.shape
    sizes = [shape[1:] for shape in inputs if len(shape) == 3 and 0 <= count - shape[1] * shape[2] <= 8]
    return (channels, *sizes[0]) if sizes else (channels,)


def _variables(tensor: Tensor, seen: set[Any]) -> list[Tensor]:
    """Returns the leaves of autograd's graph behind a tensor, without what is in `seen`, which grows."""
    variables: list[Tensor] = []
    nodes: list[Any] = [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            variables.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return variables


def _sources(start: Any, markers: dict[Any, str], images: Tensor, *, through_averages: bool) -> set[str]:
    """Returns the names of the nearest marked nodes behind `start`."""
    sources: set[str] = set()
    seen: set[Any] = {start}
    nodes: list[Any] = [following for following, _ in start.next_functions]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in markers:
            sources.add(markers[node])
        elif getattr(node, "variable", None) is images:
            sources.add(IMAGE)
        elif through_averages or not type(node).__name__.startswith(AVERAGES):
            nodes += [following for following, _ in node.next_functions]
    return sources


def _modules(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    known = dict(network.named_modules())
    return [known[name] for name in names if name in known]


def describe_layers(modules: Iterable[nn.Module]) -> str:
    """Returns the layers with weights, the most numerous kind first: "5 conv 3×3, 1 conv 1×1"; norms are left out.

    An attention counts once, with its linear layers.
    """
    counts: Counter[str] = Counter()
    pending = list(modules)
    while pending:
        module = pending.pop()
        kind = _kind(module)
        if kind:
            counts[kind] += 1
        else:
            pending += list(module.children())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def _kind(module: nn.Module) -> str:
    """Returns the name of a layer, "" for what consists of layers or has no weights."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        side = f"{module.kernel_size[0]}×{module.kernel_size[1]}"
        if isinstance(module, nn.ConvTranspose2d):
            return f"transposed {side}"
        depthwise = module.groups == module.in_channels > 1
        dilated = f" dilated {module.dilation[0]}" if module.dilation[0] > 1 else ""
        return f"{'depthwise' if depthwise else 'conv'} {side}{dilated}"
    if isinstance(module, nn.Linear):
        return "linear"
    return "attention" if "Attention" in type(module).__name__ and any(True for _ in module.parameters()) else ""
