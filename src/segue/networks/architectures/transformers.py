"""A dense decoder for features of any stride: upsampled by two up to the image's own size, with skips on the way.

Transformers give features at one coarse stride; those of shallower blocks are upsampled by transposed convolutions to
where they are wanted, and the finest scale sees the image itself: Hatamizadeh et al., "UNETR", WACV 2022, in two
dimensions and with fewer channels.


Transformers of timm as encoders of dense networks: ViT, Swin and SAM's image encoder, with the decoder `Pyramid`.

Each encoder gives the image, features at four depths, and takes any height and width that are multiples of its
divisor. Learned absolute position embeddings belong to a grid of patches; at another grid they are resampled bicubic,
and `position_note` says so. Features of an input (N, C, H, W):

    ViT    four of (N, D, H/p, W/p), after each quarter of the blocks; the last is normalised
    SAM    three such, and the last after SAM's neck of convolutions: (N, 256, H/p, W/p)
    Swin   (N, D, H/4, W/4), (N, 2D, H/8, W/8), (N, 4D, H/16, W/16), (N, 8D, H/32, W/32); the last is normalised

Dosovitskiy et al., ICLR 2021 (ViT); Liu et al., ICCV 2021 (Swin); Kirillov et al., ICCV 2023 (SAM), whose image encoder
is a ViT with attention in windows and relative positions (Li et al., "ViTDet", ECCV 2022).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import SegueError
from segue.networks.architectures.unet import convolutions
from segue.networks.blocks import bicubic
from segue.networks.network import Network

WIDEST, NARROWEST = 256, 32  # channels of the decoder: halved with each doubling of the size


class Feature(NamedTuple):
    """What an encoder gives: its channels, and how many pixels one step in it is."""

    channels: int
    stride_px: int


class UpBlock(nn.Module):
    """Doubles height and width, concatenates the skip, raised to that size where it is coarser, and convolves twice."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int, raised: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, 2)
        self.skip = nn.Sequential(
            *(nn.ConvTranspose2d(channels_skip if i == 0 else channels_out, channels_out, 2, 2) for i in range(raised))
        )
        joined = channels_out + (channels_out if raised else channels_skip)
        self.convolutions = convolutions(joined, channels_out, 2, normed=True)

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
        blocks: list[nn.Module] = [convolutions(deepest.channels, WIDEST, 1, normed=True)]
        before = WIDEST
        for step in range(1, steps + 1):
            after = max(NARROWEST, WIDEST >> step)
            index = len(skips) - step
            if step == steps:
                skip, raised, taken = channels, 0, 0  # the image itself
            elif index >= 0:
                skip, taken = skips[index].channels, index + 1
                raised = (skips[index].stride_px * (1 << step) // deepest.stride_px).bit_length() - 1
            else:
                skip, raised, taken = 0, 0, None
            blocks.append(UpBlock(before, skip, after, raised))
            self.skips.append(taken)
            before = after
        self.width = before
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: list[Tensor]) -> Tensor:
        image = features[0]
        first, *others = self.blocks
        x = first(features[-1])
        for block, taken in zip(others, self.skips, strict=True):
            if taken == 0 and not self.is_power:
                size = [2 * side for side in x.shape[-2:]]
                x = block(x, F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True))
            else:
                x = block(x, None if taken is None else features[taken])
        return x if self.is_power else F.interpolate(x, image.shape[-2:], mode="bilinear", align_corners=False)


QUARTERS = 4


def quarter_ends(depth: int) -> tuple[int, ...]:
    """Returns the blocks, from 0, after which the four quarters of `depth` blocks end; fewer for fewer blocks."""
    return tuple(dict.fromkeys(max(0, depth * q // QUARTERS - 1) for q in range(1, QUARTERS + 1)))


class ViTEncoder(nn.Module):
    """Returns [the image, four features] of timm's VisionTransformer; class and register tokens are left out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.taken = quarter_ends(len(model.blocks))
        self.grid = tuple(model.patch_embed.grid_size)
        side = model.patch_embed.patch_size[0]
        self.features = [Feature(model.embed_dim, side)] * len(self.taken)

    def forward(self, x: Tensor) -> list[Tensor]:
        model, features = self.model, [x]
        patches = model.patch_embed.proj(x)  # (N, D, rows, columns)
        shape = (patches.shape[2], patches.shape[3])
        tokens = self._positioned(model.patch_embed.norm(patches.flatten(2).transpose(1, 2)), shape)
        tokens = model.norm_pre(model.patch_drop(model.pos_drop(tokens)))
        for index, block in enumerate(model.blocks):
            tokens = block(tokens)
            if index in self.taken:
                found = model.norm(tokens) if index == self.taken[-1] else tokens
                found = found[:, model.num_prefix_tokens :].transpose(1, 2)
                features.append(found.unflatten(2, shape))
        return features

    def _positioned(self, patches: Tensor, shape: tuple[int, int]) -> Tensor:
        """Returns class, register and patch tokens (N, tokens, D) with the position embeddings added."""
        model = self.model
        prefix = [t.expand(len(patches), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        if model.pos_embed is None:
            return torch.cat([*prefix, patches], dim=1)
        known = 0 if model.no_embed_class else model.num_prefix_tokens  # of them have a position of their own
        grid = model.pos_embed[:, known:].transpose(1, 2).unflatten(2, self.grid)
        placed = bicubic(grid, shape).flatten(2).transpose(1, 2).to(patches.dtype)
        if not known:
            return torch.cat([*prefix, patches + placed], dim=1)
        return torch.cat([torch.cat(prefix, dim=1) + model.pos_embed[:, :known], patches + placed], dim=1)


class SAMEncoder(nn.Module):
    """Returns [the image, four features] of timm's VisionTransformerSAM, the last from its neck."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.taken = quarter_ends(len(model.blocks))
        self.grid = tuple(model.patch_embed.grid_size)
        side = model.patch_embed.patch_size[0]
        self.features = [Feature(model.embed_dim, side)] * (len(self.taken) - 1) + [Feature(model.num_features, side)]

    def forward(self, x: Tensor) -> list[Tensor]:
        model, features = self.model, [x]
        tokens = model.patch_embed(x)  # (N, rows, columns, D)
        if model.pos_embed is not None:
            grid = bicubic(model.pos_embed.permute(0, 3, 1, 2), (tokens.shape[1], tokens.shape[2]))
            tokens = tokens + grid.permute(0, 2, 3, 1).to(tokens.dtype)
        tokens = model.norm_pre(model.patch_drop(model.pos_drop(tokens)))
        for index, block in enumerate(model.blocks):
            tokens = block(tokens)
            if index in self.taken[:-1]:
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
            found = model.norm(tokens) if index == len(model.layers) - 1 else tokens
            features.append(found.permute(0, 3, 1, 2))
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
    where = f"network '{family}-{model}'"
    found = timm_model(model, where, {"in_chans": channels, "num_classes": 0, **options})
    if type(found) not in kinds or not isinstance(found.patch_embed, PatchEmbed):
        raise SegueError(
            f"{where}: timm's '{model}' is a {type(found).__name__}, but {family} takes "
            f"{' or '.join(kind.__name__ for kind in kinds)} that begins with patches; choose another of its models."
        )
    encoder = wrapper(found)
    decoder = Pyramid(channels, encoder.features)  # type: ignore[arg-type]
    return Network(encoder, decoder, nn.Conv2d(decoder.width, classes, 1), channels=channels, dropout=dropout)


def timm_model(model: str, where: str, options: dict[str, Any]) -> nn.Module:
    """Returns timm's model with random weights; raises SegueError where there is none, or not with these options."""
    if not timm.is_model(model):
        raise SegueError(f"{where}: {_unknown_model(model)}")
    try:
        return timm.create_model(model, pretrained=False, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        if "drop_path_rate" in str(error):
            raise without_units(where) from error
        told = ", ".join(f"{name} = {value}" for name, value in options.items())
        raise SegueError(
            f"{where}: timm's '{model}' cannot be built with {told} ({error}); choose other settings or another model."
        ) from error


def without_units(where: str) -> SegueError:
    return SegueError(f"{where}: it takes no stochastic depth; set stochastic_depth = 0, or choose another model.")


def position_note(network: nn.Module, height_px: int, width_px: int) -> str | None:
    """Returns what happens to learned position embeddings at this size of image, or None where there are none."""
    encoder: Any = network.get_submodule("encoder")
    if not isinstance(encoder, ViTEncoder | SAMEncoder) or encoder.model.pos_embed is None:
        return None
    side = encoder.features[0].stride_px
    rows, columns = encoder.grid
    there = f"learned for {rows}x{columns} patches ({rows * side}x{columns * side} px)"
    here = (height_px // side, width_px // side)
    if here == encoder.grid:
        return f"{there}, used as they are"
    return f"{there}, resampled (bicubic) to {here[0]}x{here[1]} for images of {height_px}x{width_px} px"


def _unknown_model(model: str) -> str:
    near = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3)
    return f"timm has no model '{model}'" + (f"; did you mean {' or '.join(near)}?" if near else "; give another name.")
