"""Networks that score images instead of pixels: they give (N, classes).

    mlp             images averaged to side x side px, flattened, then hidden layers of `width` units with ReLU
    alexnet-small   five convolutions and a hidden layer as in AlexNet, at a quarter of its widths and without its
                    crops: 5x5 of stride 2 to w channels, max-pool, 5x5 to 3w, max-pool, 3x3 to 6w, 4w and 4w,
                    max-pool, averages over 4x4 boxes, 16w units, ReLU between all; H and W multiples of 16
    timm-<name>     any classifier of timm; its head is replaced

Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", NeurIPS 2012.
"""

from __future__ import annotations

from typing import Any

from timm.layers.drop import DropPath
from torch import Tensor, nn

from segue.errors import SegueError
from segue.networks.architectures.transformers import quarter_ends, timm_model, without_units
from segue.networks.blocks import average
from segue.networks.network import Network

BOXES = 4  # of alexnet-small, along each side


class Averaged(nn.Module):
    """Returns images averaged over a grid of side x side boxes, flattened: (N, channels * side * side)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return average(x, (self.side, self.side)).flatten(1)


class Chain(nn.Module):
    """Returns what each of the stages, one after another, gives."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Last(nn.Module):
    """Returns the last feature, put through `blocks`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for block in self.blocks:
            x = block(x)
        return x


class TimmEncoder(nn.Module):
    """Returns the features at several depths, where the model can tell them, and the pooled one (N, F) as the last."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        depth = len(model.blocks) if hasattr(model, "cls_token") and hasattr(model, "blocks") else None
        self.taken = None if depth is None else list(quarter_ends(depth))
        patches: Any = getattr(model, "patch_embed", None)
        is_fixed = getattr(patches, "strict_img_size", False) and getattr(patches, "img_size", None) is not None
        self.side_px: int | None = patches.img_size[0] if is_fixed else None  # of the only size that it takes

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.side_px is not None and x.shape[-2:] != (self.side_px, self.side_px):
            raise SegueError(
                f"network: its transformer takes images of {self.side_px}x{self.side_px} px, and these are "
                f"{x.shape[-2]}x{x.shape[-1]} px; set side_px of the network to the side of the tiles."
            )
        if not hasattr(self.model, "forward_intermediates"):
            return [self.model(x)]
        last, features = self.model.forward_intermediates(x, indices=self.taken)
        return [*features, self.model.forward_head(last, pre_logits=True)]


def mlp(channels: int, classes: int, width: int, *, depth: int, side: int, dropout: float = 0.0) -> Network:
    """Returns the perceptron of `depth` hidden layers of `width` units. Its first layer is the encoder."""
    layers = [nn.Sequential(Averaged(side), nn.Linear(channels * side * side, width), nn.ReLU())]
    layers += [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth - 1)]
    head = nn.Linear(width, classes)
    return Network(Chain([*layers]), Last(), head, channels=channels, dropout=dropout, dense=False)


def alexnet_small(channels: int, classes: int, width: int, *, dropout: float = 0.0) -> Network:
    """Returns the classifier; its convolutions are the encoder, its hidden layer the decoder."""

    def convolution(before: int, after: int, side: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(before, after, side, stride, side // 2), nn.ReLU()]

    stages: list[nn.Module] = [
        nn.Sequential(*convolution(channels, width, 5, 2)),
        nn.Sequential(nn.MaxPool2d(2), *convolution(width, 3 * width, 5)),
        nn.Sequential(nn.MaxPool2d(2), *convolution(3 * width, 6 * width, 3)),
        nn.Sequential(*convolution(6 * width, 4 * width, 3)),
        nn.Sequential(*convolution(4 * width, 4 * width, 3), nn.MaxPool2d(2)),
    ]
    units = 16 * width
    hidden = nn.Sequential(Averaged(BOXES), nn.Linear(4 * width * BOXES * BOXES, units), nn.ReLU())
    head = nn.Linear(units, classes)
    return Network(Chain(stages), Last(hidden), head, channels=channels, dropout=dropout, dense=False)


def timm_classifier(
    model: str,
    *,
    channels: int,
    classes: int,
    side_px: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> Network:
    """Returns timm's classifier with a new head and random initial weights; with pooling and all it is the encoder.

    Raises SegueError where timm has no such model, or it cannot leave units out.
    """
    where = f"network 'timm-{model}'"
    options: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    options |= {"img_size": side_px} if side_px else {}
    options |= {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    found = timm_model(model, where, options)
    if stochastic_depth and not any(isinstance(m, DropPath) and m.drop_prob for m in found.modules()):
        raise without_units(where)
    features: Any = getattr(found, "head_hidden_size", None) or found.num_features
    head = nn.Linear(features, classes)
    return Network(TimmEncoder(found), Last(), head, channels=channels, dropout=dropout, dense=False)
