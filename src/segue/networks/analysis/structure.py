"""What a network consists of, read off one forward pass: its blocks, the sizes of what they give, and who feeds whom.

Blocks are the image, the encoder's stages, the decoder's blocks and the head. Whose output goes into which block is
read off the graph that autograd records: from a block's output back to the nearest outputs of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from segue.errors import SegueError
from segue.networks.network import Network

IMAGE, HEAD = "image", "head"
CONTAINERS = (nn.ModuleList, nn.ModuleDict)
AVERAGES = ("MeanBackward", "AdaptiveAvgPool")  # beginnings of the names of autograd's nodes


class Link(NamedTuple):
    """The output of the block `source` is used; `averaged` when nothing but its mean over the image is."""

    source: str
    averaged: bool


@dataclass(frozen=True)
class Block:
    """A block and what it gives.

    name: of the network's part, e.g. `encoder.0` or `head`, or dotted below `decoder` where that is one part; "image".
    leaf: the smallest part by which it is frozen, "" for the image. shape: of its output without the batch, (C, H, W),
    or (C,) for vectors. layers: in words. feature: which of the encoder's features it is; module: the dotted name of
    the module that gives its output, elsewhere.
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
    """What a forward pass gave: the encoder's features, class tokens behind them, and outputs by module."""

    features: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)


def anatomy(network: Network, image: tuple[int, int, int]) -> tuple[Block, ...]:
    """Returns the blocks for an image (C, H, W), in the order in which they compute. Needs no memory, changes nothing.

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
                f"({str(error).splitlines()[0]}); give a size that it takes."
            ) from error
        encoder = _encoder_blocks(network, run, {id(p): name for name, p in tensors.items()})
        start = Block(IMAGE, "image", "", image)
        return (start, *encoder, *_decoder_blocks(network, run, images, (start, *encoder)))


def outputs(
    network: Network, blocks: Iterable[Block], images: Tensor, *, tensors: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Returns what each of the blocks gives for images (N, C, H, W) that the network can take, in evaluation mode.

    tensors: by name, in the place of the network's weights and buffers. Gradients are recorded as the caller has set.
    """
    with evaluating(network):
        run = _run(
            network, lambda: network(images) if tensors is None else functional_call(network, tensors, (images,))
        )
    found: dict[str, Tensor] = {}
    for block in blocks:
        if block.feature is not None:
            found[block.name] = run.features[block.feature]
        else:
            found[block.name] = images if block.module is None else run.outputs[block.module]
    return found


def map_of(output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns a block's output as maps (N, C, H, W), or vectors (N, C): tokens (N, T, C) are laid out on their grid."""
    if output.dim() != 3 or len(shape) != 3:
        return output
    patches = output[:, output.shape[1] - shape[1] * shape[2] :]  # class tokens come first
    return patches.transpose(1, 2).unflatten(2, shape[1:])


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


def _run(network: Network, forward: Callable[[], Any]) -> _Run:
    run = _Run()

    def keep_features(_module: nn.Module, _given: Any, output: Any) -> None:
        features, tokens = output if isinstance(output, tuple) else (output, [])
        run.features = [features] if isinstance(features, Tensor) else list(features)
        run.tokens = list(tokens)

    def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            run.outputs[name] = output[0] if isinstance(output, (tuple, list)) else output

        return keep

    handles = [network.encoder.register_forward_hook(keep_features)]
    watched = [*_children(network.decoder, "decoder"), (HEAD, network.head)]
    handles += [module.register_forward_hook(keeper(name)) for name, module in watched]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return run


def _children(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Returns the children that have weights, with their dotted names; those of lists in the place of the lists."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        below = f"{path}.{name}"
        if isinstance(child, CONTAINERS):
            found += _children(child, below)
        elif any(p.dim() > 1 for p in child.parameters()):  # a norm alone makes no block
            found.append((below, child))
    return found


def _encoder_blocks(network: Network, run: _Run, names: dict[int, str]) -> list[Block]:
    """Returns the encoder's stages, one fed by the other; each gives the last feature that begins to need its weights.

    Vectors behind maps, such as what a classifier pools, are no features of their own.
    """
    owners = {leaf: below for leaf, below in network.parts.items() if leaf.partition(".")[0] == "encoder"}
    ranks = {leaf: rank for rank, leaf in enumerate(owners)}
    maps = [index for index, feature in enumerate(run.features) if feature.dim() == 4]
    given: dict[str, int] = {}
    seen: set[Any] = set()
    for index in maps or range(len(run.features)):
        needed = {names[id(v)] for v in _variables(run.features[index], seen) if id(v) in names}
        leaves = [leaf for leaf, below in owners.items() if any(_is_below(name, below) for name in needed)]
        if leaves:
            given[max(leaves, key=lambda leaf: ranks[leaf])] = index
    blocks: list[Block] = []
    for leaf, below in owners.items():
        if leaf not in given:
            continue
        count = sum(p.numel() for name, p in network.named_parameters() if _is_below(name, below))
        source = Link(blocks[-1].name if blocks else IMAGE, averaged=False)
        shape = tuple(run.features[given[leaf]].shape[1:])
        layers = layers_in_words(_modules(network, below))
        blocks.append(Block(leaf, "encoder", leaf, shape, count, layers, (source,), feature=given[leaf]))
    return blocks


def _decoder_blocks(network: Network, run: _Run, images: Tensor, before: tuple[Block, ...]) -> list[Block]:
    """Returns the decoder's blocks and the head, in the order in which they were run."""
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
        words = layers_in_words([module])
        blocks.append(Block(name, part, leaf, shapes[name], count, words, links, module=path))
    return blocks


def _shape(output: Tensor, fed: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the shape of an output without the batch; tokens (N, T, C) count as a map of the size of an input's."""
    if output.dim() != 3:
        return tuple(output.shape[1:])
    _, count, channels = output.shape
    sizes = [shape[1:] for shape in fed if len(shape) == 3 and 0 <= count - shape[1] * shape[2] <= 8]
    return (channels, *sizes[0]) if sizes else (channels,)


def _variables(tensor: Tensor, seen: set[Any]) -> list[Tensor]:
    """Returns the leaves of autograd's graph behind a tensor, without what is in `seen`, which grows."""
    found: list[Tensor] = []
    nodes: list[Any] = [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return found


def _sources(start: Any, markers: dict[Any, str], images: Tensor, *, through_averages: bool) -> set[str]:
    """Returns the names of the nearest marked nodes behind `start`."""
    found: set[str] = set()
    seen: set[Any] = {start}
    nodes: list[Any] = [following for following, _ in start.next_functions]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in markers:
            found.add(markers[node])
        elif getattr(node, "variable", None) is images:
            found.add(IMAGE)
        elif through_averages or not type(node).__name__.startswith(AVERAGES):
            nodes += [following for following, _ in node.next_functions]
    return found


def _is_below(name: str, owners: Iterable[str]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def _modules(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    known = dict(network.named_modules())
    return [known[name] for name in names if name in known]


def layers_in_words(modules: Iterable[nn.Module]) -> str:
    """Returns the layers with weights, the most numerous kind first: "5 conv 3×3, 1 conv 1×1"; norms are left out.

    An attention counts once, with its linear layers.
    """
    counted: Counter[str] = Counter()
    pending = list(modules)
    while pending:
        module = pending.pop()
        kind = _kind(module)
        if kind:
            counted[kind] += 1
        else:
            pending += list(module.children())
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def _kind(module: nn.Module) -> str:
    """Returns what a layer is called, "" for what consists of layers or has no weights."""
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
