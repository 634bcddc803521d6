"""A dataset as an encoder sees it: the mean of its deepest features over each image, and two axes to look at them.

The axes are the two principal components, so that distances in the figure are those of the features as far as two
axes hold them; how much of the variance they hold stands at the axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from segue import rng
from segue.data.dataset import Dataset
from segue.data.normalise import normalised, statistics
from segue.errors import SegueError
from segue.networks.anatomy import evaluating
from segue.networks.network import Network
from segue.report.drawing import CATEGORIES, GREY, MUTED, SCALE, WIDTH_IN, graded, style
from segue.spec import unknown
from segue.training.run import Model

MOST_IMAGES = 1000
MOST_NAMED = 10  # groups in the legend
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # besides the colour, for those who see few of these
OTHERS = "others: "
LONGEST_NAME = 24


@dataclass(frozen=True)
class Embedding:
    """samples: (n,) indices in the dataset, ascending. features: (n, F) float32. components: (n, 2) float64.

    explained: the shares of the features' variance that lie along the two components.
    """

    samples: np.ndarray
    features: np.ndarray
    components: np.ndarray
    explained: tuple[float, float]


def embedding(
    model: Model, dataset: Dataset | Path, *, by: str, images: int = MOST_IMAGES, seed: int = 0, device: str = "cpu"
) -> Figure:
    """Returns the figure of a dataset's images in a model's encoder, coloured by a column of its samples.

    by: "group" or a condition. At most `images` of them are drawn without replacement. Raises SegueError for another
    column, other channels than the model's, and fewer than three images.
    """
    if not isinstance(dataset, Dataset):
        with Dataset(dataset) as opened:
            return embedding(model, opened, by=by, images=images, seed=seed, device=device)
    columns = dataset.samples()
    if by not in columns:
        raise SegueError(f"{dataset.path}: {unknown(by, columns, 'column')}.")
    found = embed(model, dataset, images=images, seed=seed, device=device)
    return embedding_figure(found, columns[by][found.samples], by=by)


def embed(
    model: Model, dataset: Dataset, *, images: int = MOST_IMAGES, seed: int = 0, batch: int = 16, device: str = "cpu"
) -> Embedding:
    """Returns the embedding of up to `images` samples, each normalised as in training; padding counts nowhere."""
    if tuple(dataset.channels) != tuple(model.channels):
        raise SegueError(
            f"{dataset.path}: has channels {', '.join(dataset.channels)}, but {model.folder} was trained on "
            f"{', '.join(model.channels)}; give data of the same kind."
        )
    if min(dataset.count, images) < 3:
        raise SegueError(f"{dataset.path}: {min(dataset.count, images)} images make no embedding; give at least 3.")
    drawn = rng.numpy_generator(seed, "embedding").permutation(dataset.count)[:images]
    samples = np.sort(drawn)
    network: Any = model.network
    network.to(device)
    rows: list[np.ndarray] = []
    with evaluating(network), torch.inference_mode():
        for start in range(0, len(samples), batch):
            some = samples[start : start + batch]
            acquired, _ = dataset.read(some, layer=None)
            given = normalised(acquired, statistics(model.spec.normalise, acquired, dataset.intensity(some)))
            rows.append(described(network, torch.from_numpy(given).to(device), dataset.valid(some), model.divisor))
    features = np.concatenate(rows)
    components, explained = principal_components(features)
    return Embedding(samples, features, components, explained)


def described(network: Network, images: Tensor, valid: np.ndarray, divisor: int = 1) -> np.ndarray:
    """Returns (N, F) float32: the deepest features of images (N, C, H, W), averaged over their boxes `valid` (N, 4).

    Images are padded by reflection at the lower and right border to a multiple of `divisor`, as in predictions.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % divisor, -width % divisor
    if bottom or right:
        mode = "reflect" if bottom < height and right < width else "replicate"
        images = F.pad(images, (0, right, 0, bottom), mode=mode)
    given: Any = network.encoder(images)
    features = given[0] if isinstance(given, tuple) else given
    deepest: Tensor = features if isinstance(features, Tensor) else features[-1]
    if deepest.dim() != 4:
        return deepest.flatten(1).float().cpu().numpy()
    return averaged(deepest.float(), valid, (height + bottom, width + right)).cpu().numpy()


def averaged(maps: Tensor, valid: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Returns (N, C): the means of maps (N, C, h, w) over boxes (N, 4) of y0, x0, y1, x1 in an image of `size`.

    A place on the map that lies partly in its box counts by that part.
    """
    boxes = torch.from_numpy(np.asarray(valid, dtype=np.float32)).to(maps.device)
    shares = []
    for axis in (0, 1):
        count = maps.shape[2 + axis]
        edges = torch.arange(count + 1, device=maps.device) * (size[axis] / count)
        ends = torch.minimum(edges[1:], boxes[:, axis + 2, None])
        shares.append((ends - torch.maximum(edges[:-1], boxes[:, axis, None])).clamp(min=0))
    weights = shares[0][:, :, None] * shares[1][:, None, :]
    return torch.einsum("nchw,nhw->nc", maps, weights) / weights.sum((1, 2))[:, None].clamp(min=1e-12)


def principal_components(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns the coordinates (n, 2) of features (n, F) along their two principal components, and the shares of these.

    The sign is such that the largest weight of each component is positive.
    """
    if not np.isfinite(features).all():
        raise SegueError("embedding: the encoder gives NaN or infinite features; train the network anew.")
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    left, singular, axes = np.linalg.svd(centred, full_matrices=False)
    total = float((singular**2).sum())
    coordinates, shares = np.zeros((len(features), 2)), [0.0, 0.0]
    for index in range(min(2, len(singular))):
        sign = np.sign(axes[index, np.argmax(np.abs(axes[index]))]) or 1.0
        coordinates[:, index] = sign * left[:, index] * singular[index]
        shares[index] = float(singular[index] ** 2 / total) if total else 0.0
    return coordinates, (shares[0], shares[1])


def embedding_figure(found: Embedding, values: Sequence[Any] | np.ndarray, *, by: str) -> Figure:
    """Returns the scatter of an embedding, coloured by `values` (n,), which are of the column `by`.

    Up to ten values are named, numbers in their order along a scale; of more numbers the scale is continuous, of more
    names the nine most frequent are told apart and all others grey. NaN is not known, and grey on a scale.
    """
    values = np.asarray(values, dtype=object)
    is_number = all(isinstance(value, int | float | np.number) for value in values)
    if is_number:
        values = values.astype(float)
    with style():
        figure = Figure(figsize=(WIDTH_IN * 0.8, WIDTH_IN * 0.55), layout="constrained")
        axes = figure.subplots()
        if is_number and len(set(values[~np.isnan(values)])) > MOST_NAMED:
            axes.scatter(*found.components[np.isnan(values)].T, s=14, color=GREY, alpha=0.5, linewidths=0)
            known = ~np.isnan(values)
            dots = axes.scatter(*found.components[known].T, c=values[known], cmap=SCALE, s=22, linewidths=0)
            figure.colorbar(dots, ax=axes, label=by.replace("_", " "), shrink=0.8)
        else:
            _draw_groups(axes, found.components, values, is_number=is_number)
            drawn = sorted(
                zip(*axes.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1].startswith(OTHERS)
            )
            axes.legend(
                *zip(*drawn, strict=True), title=by.replace("_", " "), alignment="left",
                loc="center left", bbox_to_anchor=(1.01, 0.5),
            )  # fmt: skip
        for axis, name, share in zip((axes.xaxis, axes.yaxis), ("first", "second"), found.explained, strict=True):
            axis.set_label_text(f"{name} principal component ({share:.0%} of the variance)")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"{len(values)} images by the means of {found.features.shape[1]} deepest features")
        axes.tick_params(labelcolor=MUTED)
    return figure


def _draw_groups(axes: Axes, components: np.ndarray, values: np.ndarray, *, is_number: bool) -> None:
    words = [_worded(value) for value in values]
    counted = Counter(words)
    names = list(dict.fromkeys(_worded(value) for value in (np.unique(values) if is_number else sorted(words))))
    if len(names) > MOST_NAMED:
        frequent = sorted(names, key=lambda name: -counted[name])[: MOST_NAMED - 1]
        names = [name for name in names if name in frequent]
    scale = graded(names) if is_number else {}
    rest = ~np.isin(words, names)
    if rest.any():
        told = f"{OTHERS}{len(counted) - len(names)} more ({rest.sum()} images)"
        axes.scatter(*components[rest].T, s=14, color=GREY, alpha=0.5, linewidths=0, label=told)
    for index, name in enumerate(names):
        colour = scale.get(name, CATEGORIES[index % len(CATEGORIES)])
        axes.scatter(
            *components[np.array(words) == name].T, s=24, color=colour, alpha=0.8, linewidths=0,
            marker=MARKERS[index % len(MARKERS)], label=_shortened(name),
        )  # fmt: skip


def _worded(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "not known" if np.isnan(value) else f"{value:g}".replace("-", "−")
    return str(value)


def _shortened(name: str) -> str:
    """Returns the name, or its beginning and end where it is too long for a legend."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 + 1 :]}"
