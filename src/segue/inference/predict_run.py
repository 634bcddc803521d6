"""Applies a trained run to images: arrays in, arrays out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue.data.normalization import normalised, statistics
from segue.data.tiling import Tiling
from segue.errors import SegueError
from segue.inference import predict as large
from segue.inference.predict import predict as forward
from segue.targets.classes import Classes, ImageClass
from segue.targets.combined import Combined
from segue.targets.reconstruction import Reconstruction
from segue.targets.target import Target
from segue.training.run_folder import Model, load_run

LARGE_PX = 2048 * 2048  # images of more pixels are taken tile by tile


def predict(run: Model | Path | str, images: Any, *, out: Any = None, tiling: Tiling | None = None) -> Any:
    """Returns the class of every pixel, int64, of images (H, W), (C, H, W) or (N, C, H, W) in acquired units.

    Of a run whose target is of objects (flows, rays …) the objects of each image instead, numbered 1 … n, 0 background.

    The result has the shape of the images without channels: (H, W) or (N, H, W). Each image is normalised as in
    training, by its own statistics. Raises SegueError for another number of channels.

    Of a run that classifies whole images, the class of each, () or (N,) int64; of one that reconstructs them, the
    images themselves, (C, H, W) or (N, C, H, W) float32 in acquired units: denoised, where it learnt from noise.

    Images of more than 2048 × 2048 px are read, scored and decoded tile by tile, as all are where `tiling` is given;
    they may be memory maps, zarr or HDF5. The result is that of the whole image but for rounding of the scores, unless
    objects are longer than half a tile, which is warned of, or the network looks at the whole image (see
    `segue.inference.predict`). out: an array of integers to write to and to return, for example a memory map.

    >>> labels = predict("runs/train-0123456789abcdef", image)  # doctest: +SKIP
    """
    model = _model(run)
    pages = _pages(model, images)
    single = len(images.shape) < 4
    if isinstance(model.target, ImageClass | Reconstruction):
        of_whole = _of_whole_images(model, model.target, images)
        return of_whole[0] if single else of_whole
    shape = (*pages[0].shape[1:],) if single else (len(pages), *images.shape[2:])
    _require_fit(out, shape, single)
    if not _by_tiles(model, shape, tiling):
        labels = _labels(model.target, _scores(model, images), model)
        labels = labels[0] if single else labels
        if out is None:
            return labels
        out[...] = labels
        return out
    found = np.zeros(shape, np.int64) if out is None else out
    tiles = tiling or Tiling()
    for index, page in enumerate(pages):
        _write_labels(model, page, found if single else found[index], tiles)
    return found


def probabilities(run: Model | Path | str, images: Any, *, tiling: Tiling | None = None) -> np.ndarray:
    """Returns the probability of each class, float32 (K, H, W) or (N, K, H, W), of images as `predict` takes them."""
    model = _model(run)
    pages = _pages(model, images)
    size = tuple(images.shape[-2:])
    if _by_tiles(model, size, tiling):
        tiles = tiling or Tiling()
        found = np.empty((len(pages), len(model.target.names), *size), np.float32)
        for page, place in zip(pages, found, strict=True):
            large.write_probabilities(_scorer(model, page, tiles).scores, model.target, place, tiling=tiles)
    else:
        found = model.target.probabilities(_scores(model, images)).numpy()
        found = found[:, :, 0, 0] if isinstance(model.target, ImageClass) else found
    return found[0] if len(images.shape) < 4 else found


def _of_whole_images(model: Model, target: ImageClass | Reconstruction, images: Any) -> np.ndarray:
    """Returns the class of each image (N,) int64, or the images (N, C, H, W) float32 as they were reconstructed."""
    scores = _scores(model, images)
    if isinstance(target, ImageClass):
        return target.classes(scores)[:, 0, 0].numpy()
    batch = np.asarray(images)
    shift, scale = np.moveaxis(statistics(model.spec.normalise, batch.reshape(-1, *_Page(batch, 0).shape)), -1, 0)
    return scores.numpy() * scale[..., None, None] + shift[..., None, None]


def _model(run: Model | Path | str) -> Model:
    return run if isinstance(run, Model) else load_run(Path(run))


def _by_tiles(model: Model, shape: tuple[int, ...], tiling: Tiling | None) -> bool:
    if isinstance(model.target, ImageClass):
        return False  # its one class is of the whole image
    return tiling is not None or shape[-2] * shape[-1] > LARGE_PX


def _labels(target: Target, scores: torch.Tensor, model: Model) -> np.ndarray:
    if isinstance(target, Classes):
        return target.classes(scores).numpy()
    return np.stack([target.decode(image, model.decoding) for image in scores.numpy()]).astype(np.int64)


def _write_labels(model: Model, page: _Page, out: Any, tiling: Tiling) -> None:
    scores = _scorer(model, page, tiling).scores
    target = model.target.main if isinstance(model.target, Combined) else model.target
    if isinstance(target, Classes) and (target is model.target or not target.instances):
        large.write_classes(scores, model.target, out, tiling=tiling)
        return
    joined = large.write_objects(scores, model.target, out, parameters=model.decoding, tiling=tiling)
    if joined.uncertain:
        warnings.warn(
            f"{joined.uncertain} of {joined.objects} objects are longer than half a tile ({tiling.tile_px // 2} px), "
            "or touch such, and were joined from parts where tiles overlap, which may differ from the whole image; "
            "give a tiling of larger tile_px to see them whole.",
            stacklevel=3,
        )


def _scorer(model: Model, page: _Page, tiling: Tiling) -> large.Scorer:
    return large.Scorer(
        model.network, page, normalise=model.spec.normalise, divisor=model.divisor, context_px=tiling.context_px
    )


@dataclass(frozen=True)
class _Page:
    """One image (C, H, W) of an array (H, W), (C, H, W) or (N, C, H, W); nothing is read but what is asked for."""

    images: Any
    index: int

    @property
    def shape(self) -> tuple[int, int, int]:
        found = (1, 1, *self.images.shape)[-3:]
        return found[0], found[1], found[2]

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


def _pages(model: Model, images: Any) -> list[_Page]:
    count, rank = len(model.channels), len(images.shape)
    if rank not in (2, 3, 4) or _Page(images, 0).shape[0] != count:
        raise SegueError(
            f"images of shape {tuple(images.shape)}: the run takes {count} channels ({', '.join(model.channels)}); "
            f"give (H, W) for one channel, ({count}, H, W) or (N, {count}, H, W)."
        )
    return [_Page(images, index) for index in range(images.shape[0] if rank == 4 else 1)]


def _require_fit(out: Any, shape: tuple[int, ...], single: bool) -> None:
    if out is None:
        return
    if tuple(out.shape) != shape or np.dtype(out.dtype).kind not in "iu":
        raise SegueError(
            f"out: has shape {tuple(out.shape)} and type {out.dtype}, but the labels have shape {shape}; give an array "
            "of integers of that shape."
        )
    if not single and not isinstance(out, np.ndarray):
        raise SegueError("out: is no numpy array, into which only one image can be written; give images one by one.")


def _scores(model: Model, images: Any) -> torch.Tensor:
    """Returns the scores (N, K, H, W), or (N, K) of a network of whole images, all computed at once."""
    batch = np.asarray(images)
    batch = batch.reshape(-1, *_Page(batch, 0).shape)
    batch = batch.astype(np.uint8) if batch.dtype == bool else batch
    values = normalised(batch, statistics(model.spec.normalise, batch))
    if not np.isfinite(values).all():
        raise SegueError("images: hold NaN or infinite values; replace them before predicting.")
    return forward(model.network, torch.from_numpy(values), divisor=model.divisor, precision="fp32")
