"""Applies a trained run to images: arrays in, arrays out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from segue.data.normalise import normalised, statistics
from segue.errors import SegueError
from segue.inference.forward import predict as forward
from segue.targets.classes import Classes
from segue.training.run import Model, load_run


def predict(run: Model | Path | str, images: np.ndarray) -> np.ndarray:
    """Returns the class of every pixel, int64, of images (H, W), (C, H, W) or (N, C, H, W) in acquired units.

    Of a run whose target is of objects (flows, rays …) the objects of each image instead, numbered 1 … n, 0 background.

    The result has the shape of the images without channels: (H, W) or (N, H, W). Each image is normalised as in
    training, by its own statistics. Raises SegueError for another number of channels.

    >>> labels = predict("runs/train-0123456789abcdef", image)  # doctest: +SKIP
    """
    model = _model(run)
    scores, single = _scores(model, images)
    if isinstance(model.target, Classes):
        labels = model.target.classes(scores).numpy()
    else:
        labels = np.stack([model.target.decode(image, model.decoding) for image in scores.numpy()]).astype(np.int64)
    return labels[0] if single else labels


def probabilities(run: Model | Path | str, images: np.ndarray) -> np.ndarray:
    """Returns the probability of each class, float32 (K, H, W) or (N, K, H, W), of images as `predict` takes them."""
    model = _model(run)
    scores, single = _scores(model, images)
    found = model.target.probabilities(scores).numpy()
    return found[0] if single else found


def _model(run: Model | Path | str) -> Model:
    return run if isinstance(run, Model) else load_run(Path(run))


def _scores(model: Model, images: np.ndarray) -> tuple[torch.Tensor, bool]:
    count = len(model.channels)
    single = images.ndim < 4
    batch = images[None, None] if images.ndim == 2 else images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != count:
        raise SegueError(
            f"images of shape {images.shape}: the run takes {count} channels ({', '.join(model.channels)}); give "
            f"(H, W) for one channel, ({count}, H, W) or (N, {count}, H, W)."
        )
    batch = batch.astype(np.uint8) if batch.dtype == bool else batch
    values = normalised(batch, statistics(model.spec.normalise, batch))
    if not np.isfinite(values).all():
        raise SegueError("images: hold NaN or infinite values; replace them before predicting.")
    return forward(model.network, torch.from_numpy(values), divisor=model.divisor, precision="fp32"), single
