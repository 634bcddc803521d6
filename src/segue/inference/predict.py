"""Array in, labels out: predictions of a trained model for images of any size.

An image that is small enough is scored and decoded whole. A larger one is taken a tile at a time and may be anything
that can be sliced as (C, H, W): an array, a memory map, zarr or HDF5. The memory needed then depends on the size of
the tiles and the number of objects, not on the size of the image.

A convolutional network depends on a bounded neighborhood of each pixel (`receptive_radius_px`). Given as much around a
tile, on the same grid of its strides, its scores are those of the whole image but for rounding. Networks that depend on
the whole image (attention, norm = "instance", "group" or "layer") score each tile as an image of its own. So do
networks with a radius above MAX_RADIUS_PX, but pixels so far away have little weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.data.normalization import intensity_stats, normalize, streaming_stats
from segue.data.spec import NormalizeSpec
from segue.data.tiling import Region, Tiling
from segue.device import Precision, device_of, freed_memory_kept
from segue.errors import SegueError
from segue.inference.model import Model
from segue.inference.score_blocks import ScoreBlocks, block_side_px, largest_activation_bytes
from segue.inference.stitch_objects import StitchResult, stitch_objects
from segue.targets.target import Target

LARGE_PX = 2048 * 2048  # images of more pixels are predicted tile by tile
MAX_RADIUS_PX = 512  # beyond the tile, on each side
CONTEXT_PX = 128  # around the halo, for networks with a larger radius or one without bound


@freed_memory_kept()
def predict(model: Model, images: Any, *, out: Any = None, tiling: Tiling | None = None) -> Any:
    """Returns the labels of images (H, W), (C, H, W) or (N, C, H, W) in acquired units; see `segue.predict`."""
    views = image_views(model, images)
    output, is_single = model.target.output, len(images.shape) < 4
    if output in ("image", "image_class"):
        scores = score_whole(model, images)
        if output == "image_class":
            results = model.target.classes(scores)[:, 0, 0].numpy()
        else:
            shift, scale = np.moveaxis(intensity_stats(model.normalization, _as_batch(images)), -1, 0)
            results = scores.numpy() * scale[..., None, None] + shift[..., None, None]
        return results[0] if is_single else results

    shape = views[0].shape[1:] if is_single else (len(views), *images.shape[2:])
    _require_fit(out, shape, is_single)
    if not _by_tiles(model, shape, tiling):
        labels = decode_whole(model, score_whole(model, images))
        labels = labels[0] if is_single else labels
        if out is None:
            return labels
        out[...] = labels
        return out
    labels = np.zeros(shape, np.int64) if out is None else out
    for index, view in enumerate(views):
        _predict_by_tiles(model, view, labels if is_single else labels[index], tiling or Tiling())
    return labels


@freed_memory_kept()
def probabilities(model: Model, images: Any, *, tiling: Tiling | None = None) -> np.ndarray:
    """Returns the probability of each class, float32 (K, H, W) or (N, K, H, W), of images as `predict` takes them."""
    views = image_views(model, images)
    size = tuple(images.shape[-2:])
    if _by_tiles(model, size, tiling):
        tiling = tiling or Tiling()
        values = np.empty((len(views), len(model.target.names), *size), np.float32)
        for view, out in zip(views, values, strict=True):
            write_probabilities(scores_of(model, view, tiling), model.target, out, tiling=tiling)
    else:
        values = model.target.probabilities(score_whole(model, images)).numpy()
        values = values[:, :, 0, 0] if model.target.output == "image_class" else values
    return values[0] if len(images.shape) < 4 else values


# What images may be


@dataclass(frozen=True)
class ImageView:
    """One image (C, H, W) of an array (H, W), (C, H, W) or (N, C, H, W); reads only what is sliced."""

    images: Any
    index: int

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = (1, 1, *self.images.shape)[-3:]
        return channels, height, width

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype

    def __getitem__(self, key: tuple[int | slice, slice, slice]) -> np.ndarray:
        channel, rows, columns = key
        rank = len(self.images.shape)
        if rank == 2:
            plane = np.asarray(self.images[rows, columns])
            return plane if isinstance(channel, int) else plane[None]
        return np.asarray(self.images[key if rank == 3 else (self.index, *key)])


def image_views(model: Model, images: Any) -> list[ImageView]:
    """Returns each image as (C, H, W), not yet read; raises SegueError for another number of channels."""
    count, rank = len(model.channels), len(images.shape)
    if rank not in (2, 3, 4) or ImageView(images, 0).shape[0] != count:
        raise SegueError(
            f"images of shape {tuple(images.shape)}: the run takes {count} channels ({', '.join(model.channels)}); "
            f"give (H, W) for one channel, ({count}, H, W) or (N, {count}, H, W)."
        )
    return [ImageView(images, index) for index in range(images.shape[0] if rank == 4 else 1)]


def _require_fit(out: Any, shape: tuple[int, ...], is_single: bool) -> None:
    if out is None:
        return
    if tuple(out.shape) != shape or np.dtype(out.dtype).kind not in "iu":
        raise SegueError(
            f"out: has shape {tuple(out.shape)} and type {out.dtype}, but the labels have shape {shape}; give an array "
            "of integers of that shape."
        )
    if not is_single and not isinstance(out, np.ndarray):
        raise SegueError(
            "out: is not a numpy array, so that only one image can be written to it; give images one by one."
        )


def _by_tiles(model: Model, shape: tuple[int, ...], tiling: Tiling | None) -> bool:
    if model.target.output == "image_class":
        return False  # its only class is that of the whole image
    return tiling is not None or shape[-2] * shape[-1] > LARGE_PX


# Whole images


def _as_batch(images: Any) -> np.ndarray:
    """Returns images (N, C, H, W)."""
    batch = np.asarray(images)
    return batch.reshape(-1, *ImageView(batch, 0).shape)


def score_whole(model: Model, images: Any) -> Tensor:
    """Returns the scores (N, K, H, W), or (N, K) of a network that scores images, all computed at once."""
    batch = _as_batch(images)
    batch = batch.astype(np.uint8) if batch.dtype == bool else batch
    values = torch.from_numpy(_normalized(batch, intensity_stats(model.normalization, batch)))
    return forward(model.predictor, values.to(device_of(model.network)), divisor=model.divisor, precision="fp32").cpu()


def _normalized(images: np.ndarray, stats: np.ndarray) -> np.ndarray:
    values = normalize(images, stats)
    if not np.isfinite(values).all():
        raise SegueError("images: hold NaN or infinite values; replace them before predicting.")
    return values


def decode_whole(model: Model, scores: Tensor) -> np.ndarray:
    """Returns the classes or the objects of each image, (N, H, W) int64."""
    if model.target.output == "classes":
        return model.target.classes(scores).numpy()
    return np.stack([model.target.decode(image, model.decode_params) for image in scores.numpy()]).astype(np.int64)


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Returns the context in which a network computes at the precision; weights stay float32."""
    halves: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = halves.get(precision, torch.bfloat16)
    return torch.autocast(torch.device(device).type, dtype, enabled=precision in halves)


@torch.inference_mode()
def forward(network: nn.Module, images: Tensor, *, divisor: int, precision: Precision) -> Tensor:
    """Returns scores (N, K, H, W) float32 of normalized images (N, C, H, W) of any height and width.

    Images are padded by reflection at the lower and right border to a multiple of `divisor` and the scores cut back.
    """
    network.eval()
    height, width = images.shape[-2:]
    images = pad_to_multiple(images, divisor)
    with autocast(images.device, precision):
        scores = network(images.contiguous(memory_format=torch.channels_last))
    return scores.float()[..., :height, :width]


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Returns images (N, C, H, W) padded at the lower and right border to multiples of `divisor`.

    The padding is a reflection; where the image is too small for one, its border is repeated.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % divisor, -width % divisor
    if not bottom and not right:
        return images
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, bottom), mode=mode)


# Tile by tile


@dataclass(frozen=True)
class TiledPredictor:
    """Scores any region of one image (C, H, W) in acquired units; made by `tiled_predictor`.

    stats (1, C, 2): shift and scale of the whole image. context_px: what the network is given around a region.
    is_exact: whether that is all that the scores depend on.
    """

    network: nn.Module
    image: Any
    stats: np.ndarray
    divisor: int
    context_px: int
    precision: Precision
    is_exact: bool = False

    def scores(self, region: Region) -> np.ndarray:
        """Returns the scores (K, height, width) float32 of a region; raises SegueError for NaN or infinite values."""
        shape = (self.image.shape[1], self.image.shape[2])
        outer = region.widened(self.context_px, shape).aligned(self.divisor, shape)
        block = np.asarray(self.image[(slice(None), *outer.slices)])[None]
        values = _normalized(block.astype(np.uint8) if block.dtype == bool else block, self.stats)
        batch = torch.from_numpy(values).to(device_of(self.network))
        scores = forward(self.network, batch, divisor=self.divisor, precision=self.precision)
        return np.ascontiguousarray(region.within(outer).read(scores[0].cpu().numpy()))


def tiled_predictor(
    network: nn.Module,
    image: Any,
    *,
    normalization: NormalizeSpec,
    divisor: int,
    precision: Precision = "fp32",
    context_px: int | None = None,
) -> TiledPredictor:
    """Returns the predictor of an image, which is normalized by the statistics of all of it.

    context_px: what the network is given around a region; None is the radius of its receptive field.
    """
    radius = None
    if context_px is None:
        radius = receptive_radius_px(network, channels=image.shape[0], divisor=divisor)
        context_px = CONTEXT_PX if radius is None else radius
    stats = streaming_stats(normalization, image)
    return TiledPredictor(network, image, stats, divisor, context_px, precision, is_exact=radius is not None)


@torch.inference_mode()
def receptive_radius_px(network: nn.Module, *, channels: int, divisor: int) -> int | None:
    """Returns how far beyond a cell of divisor × divisor px the scores depend on the pixels in it.

    None where that is more than MAX_RADIUS_PX or has no bound. It is measured: one cell of an image is NaN, and so
    becomes every score that depends on it.
    """
    network.eval()
    device = device_of(network)
    cells = 9
    while True:
        side, start = cells * divisor, cells // 2 * divisor
        image = torch.zeros(1, channels, side, side, device=device)
        image[..., start : start + divisor, start : start + divisor] = torch.nan
        is_nan = network(image.contiguous(memory_format=torch.channels_last)).isnan().any(1)[0]
        positions = torch.stack([is_nan.any(0), is_nan.any(1)]).nonzero()[:, 1]
        first, last = int(positions.min()), int(positions.max())
        if first > 0 and last < side - 1:
            radius = max(start - first, last + 1 - start - divisor)
            return radius if radius <= MAX_RADIUS_PX else None
        if start > MAX_RADIUS_PX:
            return None
        cells = 2 * cells - 1


def scores_of(model: Model, image: Any, tiling: Tiling) -> Callable[[Region], np.ndarray]:
    """Returns the function that scores regions of an image (C, H, W); what it computed last stays in memory."""
    predictor = tiled_predictor(
        model.predictor,
        image,
        normalization=model.normalization,
        divisor=model.divisor,
        context_px=tiling.context_px,
    )
    if not predictor.is_exact:
        return predictor.scores
    channels, height, width = image.shape
    side_px = block_side_px(
        width_px=width,
        tile_px=tiling.tile_px,
        context_px=predictor.context_px,
        channels=model.target.channels,
        bytes_per_px=largest_activation_bytes(model.predictor, channels=channels, divisor=model.divisor),
    )
    return predictor.scores if side_px is None else ScoreBlocks(predictor.scores, (height, width), side_px=side_px)


def _predict_by_tiles(model: Model, view: ImageView, out: Any, tiling: Tiling) -> None:
    scores = scores_of(model, view, tiling)
    if model.target.output == "classes":
        write_classes(scores, model.target, out, tiling=tiling)
        return
    result = write_objects(scores, model.target, out, params=model.decode_params, tiling=tiling)
    if result.uncertain:
        warnings.warn(
            f"{result.uncertain} of {result.objects} objects are longer than half a tile ({tiling.tile_px // 2} px), "
            "or touch such objects, and were joined from parts where tiles overlap, which may differ from the whole "
            "image; give a tiling of larger tile_px to predict them whole.",
            stacklevel=4,
        )


def write_objects(
    scores: Callable[[Region], np.ndarray],
    target: Target,
    out: Any,
    *,
    params: Mapping[str, float],
    tiling: Tiling,
    measure: Callable[[np.ndarray, Region], np.ndarray] | None = None,
) -> StitchResult:
    """Writes what the target decodes from the scores of all tiles into `out` (H, W), objects 1 … n in scan order.

    scores: returns those of a region, (K, height, width). See `stitch_objects` for when this is exact, and `measure`.
    """
    return stitch_objects(lambda region: target.decode(scores(region), params), out, tiling=tiling, measure=measure)


def write_classes(scores: Callable[[Region], np.ndarray], target: Target, out: Any, *, tiling: Tiling) -> None:
    """Writes the most probable class of every pixel into `out` (H, W)."""
    for core in tiling.cores(out.shape):
        out[core.slices] = target.classes(torch.from_numpy(scores(core))[None])[0].numpy()


def write_probabilities(scores: Callable[[Region], np.ndarray], target: Target, out: Any, *, tiling: Tiling) -> None:
    """Writes the probability of each class into `out` (K, H, W)."""
    for core in tiling.cores(out.shape[1:]):
        out[(slice(None), *core.slices)] = target.probabilities(torch.from_numpy(scores(core))[None])[0].numpy()
