"""Receptive fields of a network: the theoretical and the effective one.

Theoretical: the pixels of the input on which the center of an output depends at all, as the network is built and
whatever its weights. The network runs with constant positive weights, activations, norms and softmax taken out and
maxima replaced by means, so that it is a sum with positive terms only: its gradient is positive exactly where a path
leads.

Effective: the mean absolute gradient of the center's scores over images, with the network's weights. It is
concentrated near the center: Luo, Li, Urtasun and Zemel, "Understanding the effective receptive field in deep
convolutional neural networks", NeurIPS 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from segue import rng
from segue.errors import SegueError
from segue.networks.analysis.structure import Block, as_map, block_outputs, trace_blocks
from segue.networks.network import Network, evaluating

MIN_LENGTH_PX, MAX_LENGTH_PX = 256, 2048  # of the strips of image in which the theoretical field is searched
SHARES = (0.5, 0.95)


@dataclass(frozen=True)
class TheoreticalField:
    """The theoretical field of a block's output at the center of the image.

    stride_px: of the output. height_px, width_px: of the box of pixels that it depends on; at other positions they may
    be larger or smaller by up to the network's divisor, after which they repeat. unbounded: it reaches over all of the
    largest image that was tried, as those of attention and of averages over the image do at any size.
    """

    block: str
    stride_px: float
    height_px: int
    width_px: int
    unbounded: bool


@dataclass(frozen=True)
class EffectiveField:
    """The effective field. map: (H, W) float32, the mean absolute gradient, summing to 1; center: its row and column.

    sides_px: for each share the side of the smallest square around the center that holds it. extent_px: height and
    width of the box outside of which the gradient is zero.
    """

    map: np.ndarray
    center: tuple[int, int]
    sides_px: dict[float, int]
    extent_px: tuple[int, int]


def receptive_fields(
    network: Network, *, channels: int, divisor: int, max_px: int = MAX_LENGTH_PX
) -> list[TheoreticalField]:
    """Returns the theoretical field of every block but the image, the head's last.

    divisor: of which the sides of images are multiples. Images grow until no field touches their border, up to
    `max_px`. Group and instance norm, which average over the image, are left out: the result is the field of
    convolutions, pooling, attention and averages. Raises SegueError when the network cannot be run so.
    """
    side: int | None = getattr(network.encoder, "side_px", None)
    rows = _spans(network, channels, divisor, max_px, axis=0, fixed_px=side)
    columns = rows if _is_square(network) else _spans(network, channels, divisor, max_px, axis=1, fixed_px=side)
    fields = []
    for name, (height, stride, is_tall) in rows.items():
        width, _, is_wide = columns[name]
        fields.append(TheoreticalField(name, stride, height, width, unbounded=is_tall or is_wide))
    return fields


def receptive_field(network: Network, *, channels: int, divisor: int) -> TheoreticalField:
    """Returns the theoretical field of the network's scores: the last of `receptive_fields`."""
    return receptive_fields(network, channels=channels, divisor=divisor)[-1]


def effective_field(
    network: Network, images: Tensor, *, seed: int = 0, shares: Sequence[float] = SHARES
) -> EffectiveField:
    """Returns the effective field at the center of standardized images (N, C, H, W), with the weights as they are.

    The scores of the center are added with signs drawn for each image, so that no class is preferred. Raises
    SegueError when the gradient is zero or not finite.
    """
    count, _, height, width = images.shape
    inputs = images.detach().clone().requires_grad_()
    with evaluating(network), torch.enable_grad():
        scores = network(inputs)
        center = scores[..., height // 2, width // 2] if scores.dim() == 4 else scores
        generator = rng.numpy_generator(seed, "receptive field")
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], size=(count, center.shape[1]))).to(center)
        (gradient,) = torch.autograd.grad((signs * center).sum(), inputs)
    mean = gradient.abs().double().sum(1).mean(0).cpu().numpy()
    if not np.isfinite(mean).all() or mean.sum() == 0:
        raise SegueError(
            "receptive field: the scores at the center do not depend on the images (the gradient is zero or not "
            "finite); give images with something at their center, standardized."
        )
    mean /= mean.sum()
    sides = {share: side_holding(mean, (height // 2, width // 2), share) for share in shares}
    nonzero = np.nonzero(mean.any(1))[0], np.nonzero(mean.any(0))[0]
    extent = tuple(int(lines[-1] - lines[0] + 1) for lines in nonzero)
    return EffectiveField(mean.astype(np.float32), (height // 2, width // 2), sides, (extent[0], extent[1]))


def noise(count: int, channels: int, side_px: int, *, seed: int = 0) -> Tensor:
    """Returns images (count, channels, side_px, side_px) of standard normal noise, for networks without images."""
    values = rng.numpy_generator(seed, "noise").standard_normal((count, channels, side_px, side_px), dtype=np.float32)
    return torch.from_numpy(values)


def side_holding(weights: np.ndarray, center: tuple[int, int], share: float) -> int:
    """Returns the odd side of the smallest square around `center` that holds at least `share` of weights (H, W)."""
    y, x = np.indices(weights.shape)
    distance = np.maximum(abs(y - center[0]), abs(x - center[1]))
    cumulated = np.cumsum(np.bincount(distance.ravel(), weights.ravel()))
    return 2 * int(np.searchsorted(cumulated, share * cumulated[-1])) + 1


def _spans(
    network: Network, channels: int, divisor: int, max_px: int, *, axis: int, fixed_px: int | None
) -> dict[str, tuple[int, float, bool]]:
    """Returns length, stride and whether it is unbounded, of each block's field along an axis.

    The strip of image is as narrow as the divisor allows: along its length the field is the same as in a square one.
    """
    length = fixed_px or -(-MIN_LENGTH_PX // divisor) * divisor
    while True:
        shape = [fixed_px or divisor, fixed_px or divisor]
        shape[axis] = length
        blocks = trace_blocks(network, (channels, shape[0], shape[1]))
        spans = _trace_spans(network, blocks, (channels, shape[0], shape[1]), axis)
        if fixed_px or 2 * length > max_px or not any(unbounded for _, _, unbounded in spans.values()):
            return spans
        length *= 2


def _trace_spans(
    network: Network, blocks: Sequence[Block], image: tuple[int, int, int], axis: int
) -> dict[str, tuple[int, float, bool]]:
    inputs = torch.ones(1, *image, dtype=torch.float64, requires_grad=True)
    spans: dict[str, tuple[int, float, bool]] = {}
    with torch.enable_grad():
        with _SumOfPaths():
            outputs = block_outputs(network, blocks, inputs, tensors=_positive(network))
        for block in blocks[1:]:
            output = as_map(outputs[block.name], block.shape)
            center = output[..., output.shape[-2] // 2, output.shape[-1] // 2] if output.dim() == 4 else output
            (gradient,) = torch.autograd.grad(center.sum(), inputs, retain_graph=True)
            weights = gradient.sum((0, 1, 3 - axis))
            if not torch.isfinite(weights).all():
                raise SegueError(f"receptive field of '{block.name}': cannot be computed, numbers grow beyond float64.")
            positions = torch.nonzero(weights > 0).flatten()
            first, last = int(positions[0]), int(positions[-1])
            stride = image[1 + axis] / output.shape[2 + axis] if output.dim() == 4 else float(image[1 + axis])
            spans[block.name] = (last - first + 1, stride, first == 0 or last == len(weights) - 1)
    return spans


def _positive(network: nn.Module) -> dict[str, Tensor]:
    """Returns weights of 1 / a layer's inputs, scales of 1 and biases of 0, in float64, and buffers as they are."""
    tensors: dict[str, Tensor] = {}
    for name, old in network.named_parameters():
        value = len(old) / old.numel() if old.dim() > 1 else 0.0 if name.endswith("bias") else 1.0
        tensors[name] = torch.full(old.shape, value, dtype=torch.float64)
    return tensors | {name: b.double() if b.is_floating_point() else b for name, b in network.named_buffers()}


def _is_square(network: nn.Module) -> bool:
    """Returns whether every layer does the same along both axes."""
    settings = ("kernel_size", "stride", "dilation", "padding")
    values = [getattr(module, name, None) for module in network.modules() for name in settings]
    return all(len(set(value)) == 1 for value in values if isinstance(value, tuple) and len(value) == 2)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.clone()  # what follows may work in place


def _bounded(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Returns a gate's stand-in: it grows with x >= 0 and stays below 1, so that products of gates do not explode."""
    return x / (1 + x.abs())


def _averaged(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, *more: Any, **named: Any
) -> Tensor:
    if dilation not in (1, (1, 1), [1, 1]):
        raise SegueError("receptive field: dilated max-pooling is not supported.")
    ceil_mode = bool(more[0]) if more else bool(named.get("ceil_mode", False))
    return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)


def _adaptively_averaged(x: Tensor, size: Any, *_: Any, **__: Any) -> Tensor:
    return F.adaptive_avg_pool2d(x, size)


def _weights(scores: Tensor) -> Tensor:
    """Returns softmax over the last axis without a gradient; what a mask has made negligible is zero."""
    weights = torch.softmax(scores.detach().double(), -1)
    return torch.where(weights > NEGLIGIBLE, weights, 0.0)


def _softmax(x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> Tensor:
    last = -1 if dim is None else dim
    return _weights(x.transpose(last, -1)).transpose(last, -1)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    shape = (*query.shape[:-1], key.shape[-2])
    if attn_mask is None:
        scores = query.new_zeros(shape)
    elif attn_mask.dtype == torch.bool:
        scores = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf).expand(shape)
    else:
        scores = attn_mask.expand(shape)
    return _weights(scores) @ value.double()


def _promoted(left: Tensor, right: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.matmul(left.double(), right.double())


NEGLIGIBLE = 1e-30
ACTIVATIONS = (
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.leaky_relu, F.prelu, F.elu, F.selu, F.gelu,
    F.silu, F.hardswish, F.mish, F.softplus,
)  # fmt: skip
GATES = (
    torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid, F.hardsigmoid, F.relu6, F.hardtanh,
    torch.tanh, Tensor.tanh, Tensor.tanh_, F.tanh,
)  # fmt: skip
NORMS = (F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, F.normalize, F.local_response_norm, F.rms_norm)
OTHERS = (F.dropout, F.dropout2d, Tensor.float)
STAND_INS: dict[Any, Any] = {
    **dict.fromkeys((*ACTIVATIONS, *NORMS, *OTHERS), _same),
    **dict.fromkeys(GATES, _bounded),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _averaged),
    F.adaptive_max_pool2d: _adaptively_averaged,
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _softmax),
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _promoted),
}


class _SumOfPaths(TorchFunctionMode):
    """Inside, functions of torch that are not sums of their inputs with positive weights have stand-ins that are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return STAND_INS.get(func, func)(*args, **(kwargs or {}))
