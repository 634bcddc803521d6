"""Transformers of timm as encoders of dense networks: ViT, Swin and SAM's image encoder, with the decoder `Pyramid`.

Each encoder gives the image, features at four depths, and takes any height and width that are multiples of its
divisor. Learned absolute position embeddings belong to a grid of patches; at another grid they are resampled bicubic,
which `position_note` reports. Features of an input (N, C, H, W):

    ViT    four of (N, D, H/p, W/p), after each quarter of the blocks; the last is normalized
    SAM    three such, and the last after SAM's neck of convolutions: (N, 256, H/p, W/p)
    Swin   (N, D, H/4, W/4), (N, 2D, H/8, W/8), (N, 4D, H/16, W/16), (N, 8D, H/32, W/32); the last is normalized

The decoder upsamples features of any stride by two up to the image's own size. Skips of shallower blocks are upsampled
by transposed convolutions to where they join, and the finest scale sees the image itself: Hatamizadeh et al., "UNETR",
WACV 2022, in two dimensions and with fewer channels.

Dosovitskiy et al., ICLR 2021 (ViT); Liu et al., ICCV 2021 (Swin); Kirillov et al., ICCV 2023 (SAM), whose image encoder
is a ViT with attention in windows and relative positions (Li et al., "ViTDet", ECCV 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import SegueError
from segue.networks.architectures.timm_models import quarter_ends, timm_model
from segue.networks.blocks import bicubic, conv_stack
from segue.networks.network import Network

MAX_WIDTH, MIN_WIDTH = 256, 32  # channels of the decoder: halved with each doubling of the size


class Feature(NamedTuple):
    """A feature of an encoder: its channels, and its stride in pixels."""

    channels: int
    stride_px: int


class UpBlock(nn.Module):
    """Doubles height and width, concatenates the skip, upsampled `doublings` times, and convolves twice."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, doublings: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, 2)
        self.skip = nn.Sequential(
            *(
                nn.ConvTranspose2d(channels_skip if i == 0 else channels_out, channels_out, 2, 2)
                for i in range(doublings)
            )
        )
        joined = channels_out + (channels_out if doublings else channels_skip)
        self.convolutions = conv_stack(joined, channels_out, 2, normed=True)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.convolutions(x if skip is None else torch.cat((x, self.skip(skip)), dim=1))


class Pyramid(nn.Module):
    """Takes [the image, features …, the deepest feature] and returns (N, width, H, W) at the image's size.

    The deepest feature's stride is halved as often as it can be; skip k, counted from the deepest, joins after k
    halvings. For a stride that is no power of two, e.g. of patches of 14 px, the rest is bilinear interpolation.
    """

    def __init__(self, channels: int, features: Sequence[Feature]) -> None:
        super().__init__()
        *skips, deepest = features
        steps = deepest.stride_px.bit_length() - 1
        self.is_power = deepest.stride_px == 1 << steps
        self.skips: list[int | None] = []  # of each block: the index of its skip among what forward takes
        blocks: list[nn.Module] = [conv_stack(deepest.channels, MAX_WIDTH, 1, normed=True)]
        before = MAX_WIDTH
        for step in range(1, steps + 1):
            after = max(MIN_WIDTH, MAX_WIDTH >> step)
            index = len(skips) - step
            if step == steps:
                skip, doublings, feature = channels, 0, 0  # the image itself
            elif index >= 0:
                skip, feature = skips[index].channels, index + 1
                doublings = (skips[index].stride_px * (1 << step) // deepest.stride_px).bit_length() - 1
            else:
                skip, doublings, feature = 0, 0, None
            blocks.append(UpBlock(before, skip, after, doublings))
            self.skips.append(feature)
            before = after
        self.width = before
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        image = features[0]
        first, *others = self.blocks
        x = first(features[-1])
        for block, feature in zip(others, self.skips, strict=True):
            if feature == 0 and not self.is_power:
                size = [2 * side for side in x.shape[-2:]]
                x = block(x, F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True))
            else:
                x = block(x, None if feature is None else features[feature])
        return x if self.is_power else F.interpolate(x, image.shape[-2:], mode="bilinear", align_corners=False)


class ViTEncoder(nn.Module):
    """Returns [the image, four features] of timm's VisionTransformer; class and register tokens are left out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.indices = quarter_ends(len(model.blocks))
        self.grid = tuple(model.patch_embed.grid_size)
        side = model.patch_embed.patch_size[0]
        self.features = [Feature(model.embed_dim, side)] * len(self.indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        model, features = self.model, [x]
        patches = model.patch_embed.proj(x)  # (N, D, rows, columns)
        shape = (patches.shape[2], patches.shape[3])
        tokens = self._positioned(model.patch_embed.norm(patches.flatten(2).transpose(1, 2)), shape)
        tokens = model.norm_pre(model.patch_drop(model.pos_drop(tokens)))
        for index, block in enumerate(model.blocks):
            tokens = block(tokens)
            if index in self.indices:
                feature = model.norm(tokens) if index == self.indices[-1] else tokens
                feature = feature[:, model.num_prefix_tokens :].transpose(1, 2)
                features.append(feature.unflatten(2, shape))
        return features

    def _positioned(self, patches: Tensor, shape: tuple[int, int]) -> Tensor:
        """Returns class, register and patch tokens (N, tokens, D) with the position embeddings added."""
        model = self.model
        prefix = [t.expand(len(patches), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        if model.pos_embed is None:
            return torch.cat([*prefix, patches], dim=1)
        with_position = 0 if model.no_embed_class else model.num_prefix_tokens  # prefix tokens with position embeddings
        grid = model.pos_embed[:, with_position:].transpose(1, 2).unflatten(2, self.grid)
        placed = bicubic(grid, shape).flatten(2).transpose(1, 2).to(patches.dtype)
        if not with_position:
            return torch.cat([*prefix, patches + placed], dim=1)
        return torch.cat([torch.cat(prefix, dim=1) + model.pos_embed[:, :with_position], patches + placed], dim=1)


class SAMEncoder(nn.Module):
    """Returns [the image, four features] of timm's VisionTransformerSAM, the last from its neck."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.indices = quarter_ends(len(model.blocks))
        self.grid = tuple(model.patch_embed.grid_size)
        side = model.patch_embed.patch_size[0]
        self.features = [Feature(model.embed_dim, side)] * (len(self.indices) - 1) + [Feature(model.num_features, side)]

    def forward(self, x: Tensor) -> list[Tensor]:
        model, features = self.model, [x]
        tokens = model.patch_embed(x)  # (N, rows, columns, D)
        if model.pos_embed is not None:
            grid = bicubic(model.pos_embed.permute(0, 3, 1, 2), (tokens.shape[1], tokens.shape[2]))
            tokens = tokens + grid.permute(0, 2, 3, 1).to(tokens.dtype)
        tokens = model.norm_pre(model.patch_drop(model.pos_drop(tokens)))
        for index, block in enumerate(model.blocks):
            tokens = block(tokens)
            if index in self.indices[:-1]:
                features.append(tokens.permute(0, 3, 1, 2))
        return [*features, model.neck(tokens.permute(0, 3, 1, 2))]


class SwinEncoder(nn.Module):
    """Returns [the image, a feature of each stage] of timm's Swin transformers; any size: windows are padded."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.features = [Feature(info["num_chs"], info["reduction"]) for info in model.feature_info]

    def forward(self, x: Tensor) -> list[Tensor]:
        model, features = self.model, [x]
        tokens = model.patch_embed(x)  # (N, rows, columns, D)
        for index, stage in enumerate(model.layers):
            tokens = stage(tokens)
            feature = model.norm(tokens) if index == len(model.layers) - 1 else tokens
            features.append(feature.permute(0, 3, 1, 2))
        return features


ENCODERS: dict[str, tuple[type[nn.Module], tuple[type[nn.Module], ...]]] = {
    "vit": (ViTEncoder, (VisionTransformer,)),
    "swin": (SwinEncoder, (SwinTransformer, SwinTransformerV2)),
    "sam": (SAMEncoder, (VisionTransformerSAM,)),
}


def dense_transformer(
    family: str,
    model: str,
    *,
    channels: int,
    classes: int,
    patch_px: int | None = None,
    side_px: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> Network:
    """Returns the network with timm's `model` as its encoder, with random initial weights.

    patch_px, side_px: of `NetworkSpec`. Raises SegueError where timm has no such model, or one of another kind.
    """
    options: dict[str, Any] = {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    options |= {"img_size": side_px} if side_px else {}
    options |= {"patch_size": patch_px} if patch_px else {}
    options |= {"strict_img_size": False} if family == "swin" else {}  # the others are not asked for it here
    wrapper, kinds = ENCODERS[family]
    context = f"network '{family}-{model}'"
    backbone = timm_model(model, context, {"in_chans": channels, "num_classes": 0, **options})
    if type(backbone) not in kinds or not isinstance(backbone.patch_embed, PatchEmbed):
        raise SegueError(
            f"{context}: timm's '{model}' is a {type(backbone).__name__}, but {family} takes "
            f"{' or '.join(kind.__name__ for kind in kinds)} that begins with patches; choose another of its models."
        )
    encoder = wrapper(backbone)
    decoder = Pyramid(channels, encoder.features)  # type: ignore[arg-type]
    return Network(encoder, decoder, nn.Conv2d(decoder.width, classes, 1), channels=channels, dropout=dropout)


def position_note(network: nn.Module, height_px: int, width_px: int) -> str | None:
    """Returns a note on learned position embeddings at this image size, or None if there are none."""
    encoder: Any = network.get_submodule("encoder")
    if not isinstance(encoder, ViTEncoder | SAMEncoder) or encoder.model.pos_embed is None:
        return None
    side = encoder.features[0].stride_px
    rows, columns = encoder.grid
    learned = f"learned for {rows}x{columns} patches ({rows * side}x{columns * side} px)"
    used = (height_px // side, width_px // side)
    if used == encoder.grid:
        return f"{learned}, used as they are"
    return f"{learned}, resampled (bicubic) to {used[0]}x{used[1]} for images of {height_px}x{width_px} px"
