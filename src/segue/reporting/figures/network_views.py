"""Views of a network: its receptive field, the activations of its blocks, and a dataset in its encoder's features.

The embedding's axes are the two principal components of the encoder's deepest features, averaged over each image, so
that distances in the figure approximate those of the features; the axes state the fraction of the variance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from torch import Tensor

from segue import rng
from segue.data.dataset import Dataset
from segue.data.normalization import intensity_stats, normalize
from segue.errors import SegueError
from segue.inference.features import mean_features
from segue.networks.analysis.receptive_field import EffectiveField, TheoreticalField, side_holding
from segue.networks.analysis.structure import Block, as_map, block_outputs, trace_blocks
from segue.networks.network import Network, evaluating
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    GRAY,
    INK,
    MUTED,
    SCALE,
    VERMILION,
    WIDTH_IN,
    graded_colors,
    hide_axes,
    style,
)
from segue.reporting.formatting import format_number, plural
from segue.spec import unknown
from segue.training.run_folder import TrainedModel

# --- receptive field

DECADES = 4  # of the gradient that are drawn
FIELD_COLOR = "#ff7a2f"  # vermilion, bright enough for the dark of the scale
TEXT_BOX = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.85, "linewidth": 0}  # behind text on lines
IMAGE_TEXT_BOX = {"boxstyle": "square,pad=0.15", "facecolor": "black", "alpha": 0.45, "linewidth": 0}
OUTLINES = ("solid", (0, (4, 2)), (0, (1, 2)))


def receptive_field_figure(field: EffectiveField, reach: TheoreticalField | None = None) -> Figure:
    """Returns the mean absolute gradient on the image, with the squares that hold its shares, and those as a curve.

    reach: the theoretical field, drawn as a dotted box and a line; boxes that end outside of the image are cut.
    """
    with style():
        figure = Figure(figsize=(WIDTH_IN, WIDTH_IN * 0.47), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
        _draw_gradient(left, field)
        _draw_shares(right, field)
        if reach is not None and not reach.unbounded:
            _draw_square(left, field.center, reach.height_px, reach.width_px, color=FIELD_COLOR, linestyle=OUTLINES[2])
            height, width = field.map.shape
            left.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            right.axvline(reach.width_px, color=VERMILION, linewidth=1.2)
            right.annotate(
                f"theoretical: {reach.width_px} px", (reach.width_px, 0.04), xytext=(-5, 0), textcoords="offset points",
                color=VERMILION, ha="right", bbox=TEXT_BOX,
            )  # fmt: skip
            right.set_xlim(0, max(min(height, width), int(1.04 * reach.width_px)))
    return figure


def _draw_gradient(axes: Axes, field: EffectiveField) -> None:
    height, width = field.map.shape
    greatest = float(field.map.max())
    least = greatest * 10.0**-DECADES
    image = axes.imshow(np.maximum(field.map, least), cmap=SCALE, norm=LogNorm(least, greatest))
    hide_axes(axes)
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the gradient per pixel")
    bar.ax.spines["outline"].set_visible(False)
    for (share, side), line in zip(field.sides_px.items(), OUTLINES, strict=False):
        left, top = _draw_square(axes, field.center, side, side, color="white", linestyle=line, linewidth=1.4)
        place = (left + 2, max(2.0, top + 2))
        axes.annotate(f"{share:.0%}", place, color="white", fontsize=8, va="top", bbox=IMAGE_TEXT_BOX)
    axes.set_title(f"mean gradient of the center, {height}×{width} px")


def _draw_square(axes: Axes, center: tuple[float, float], height: float, width: float, **look: Any) -> tuple:
    """Draws a rectangle around `center` (y, x) and returns its left and top."""
    corner = (center[1] - width / 2, center[0] - height / 2)
    axes.add_patch(Rectangle(corner, width, height, fill=False, **{"edgecolor": look.pop("color"), **look}))
    return corner


def _draw_shares(axes: Axes, field: EffectiveField) -> None:
    """Draws the share of the gradient within a square of a side around the center."""
    longest = min(field.map.shape)
    sides = np.arange(1, longest + 1, 2)
    y, x = np.indices(field.map.shape)
    distance = np.maximum(abs(y - field.center[0]), abs(x - field.center[1]))
    shares = np.cumsum(np.bincount(distance.ravel(), field.map.ravel()))
    axes.plot(sides, shares[: len(sides)] / shares[-1], color=BLUE, linewidth=1.8)
    for share in field.sides_px:
        side = side_holding(field.map, field.center, share)
        axes.plot([side, side, 0], [0, share, share], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        is_right = side > 0.6 * sides[-1]
        axes.annotate(
            f"{share:.0%} in {side} px", (side, share), xytext=(-6 if is_right else 6, -12),
            textcoords="offset points", ha="right" if is_right else "left", bbox=TEXT_BOX,
        )  # fmt: skip
    axes.set(xlim=(0, longest), ylim=(0, 1.02), xlabel="side of the square around the center (px)")
    axes.set_title("share of the gradient within a square", color=INK)


# --- activations

CHANNELS = 4  # drawn of a block
MAX_CORRELATION = 0.95  # from which on two channels show the same
PERCENTILES = (1, 99)  # of a block's drawn channels: the ends of its color scale
LINE_IN = 1.48  # height of a block
MAX_BARS = 96


@dataclass(frozen=True)
class BlockActivation:
    """A block with the channels that are drawn of it.

    maps: (k, h, w) float32, or (k,) where the block gives vectors. channels: their indices. limits: the values at the
    ends of the color scale, which all channels of the block share.
    """

    block: Block
    maps: np.ndarray
    channels: tuple[int, ...]
    limits: tuple[float, float]

    @property
    def height_px(self) -> int:
        """The height of its maps, 0 for vectors."""
        return self.block.shape[1] if len(self.block.shape) == 3 else 0


def block_activations(network: Network, images: Tensor, *, channels: int = CHANNELS) -> list[BlockActivation]:
    """Returns each block's most distinct channels for images (1, C, H, W), standardized, of a size that it takes.

    Those are the channels that vary most over the image, without any that looks like one that is drawn already
    (correlation of at least 0.95 or at most -0.95); in their own order. The image and the scores come whole.
    """
    blocks = trace_blocks(network, tuple(images.shape[1:]))  # type: ignore[arg-type]
    with torch.inference_mode():
        values_by_block = block_outputs(network, blocks, images)
    result = []
    for block in blocks:
        values = as_map(values_by_block[block.name], block.shape)[0].float().cpu().numpy()
        if values.ndim == 1:
            indices = list(range(len(values)))
        elif block.part in ("image", "head"):
            indices = list(range(min(channels, len(values))))
        else:
            indices = distinct_channels(values, channels)
        low, high = np.percentile(values[indices], PERCENTILES)
        result.append(BlockActivation(block, values[indices], tuple(indices), (float(low), float(high))))
    return result


def distinct_channels(values: np.ndarray, count: int) -> list[int]:
    """Returns up to `count` indices of channels (C, h, w), ascending, that vary most and differ from one another."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    spread = np.sqrt((flat**2).sum(1))
    selected: list[int] = []
    for index in np.argsort(-spread, kind="stable"):
        correlations = [abs(flat[index] @ flat[c]) / max(spread[index] * spread[c], 1e-30) for c in selected]
        if not selected or (spread[index] > 0 and max(correlations) < MAX_CORRELATION):
            selected.append(int(index))
        if len(selected) == count:
            break
    return sorted(selected)


def activations_figure(
    model: TrainedModel | Network, image: np.ndarray, *, channels: int = CHANNELS, divisor: int | None = None
) -> Figure:
    """Returns the figure of the output of every block for an image (H, W) or (C, H, W).

    A run's model takes the image in acquired units and normalizes it as in training; a network alone takes it as it
    is, and needs its `divisor`. The image is cropped about its center to the largest size that the network takes. A
    line is a size of map, the encoder's blocks stand left, the decoder's right. Raises SegueError for another number
    of channels, and an image smaller than the divisor.
    """
    network, images = _cropped(model, image, divisor)
    activations = block_activations(network, images, channels=channels)
    names = (
        model.target.names
        if isinstance(model, TrainedModel) and len(model.target.names) == model.target.channels
        else ()
    )
    lines = _lines(activations)
    has_right = any(right is not None for _, right in lines)
    with style():
        figure = Figure(figsize=(WIDTH_IN if has_right else WIDTH_IN / 2 + 0.4, 0.55 + LINE_IN * len(lines)))
        figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.02, wspace=0.02, hspace=0.02)
        body, foot = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[LINE_IN * len(lines), 0.5])))
        panels = np.asarray(body.subfigures(len(lines), 2 if has_right else 1, squeeze=False))
        for line, panel in zip(lines, panels, strict=True):
            for activation, part in zip(line, panel, strict=False):
                if activation is not None:
                    _draw_block(activation, part, channels, names)
        _draw_color_key(foot)
    return figure


def _cropped(model: TrainedModel | Network, image: np.ndarray, divisor: int | None) -> tuple[Network, Tensor]:
    """Returns the network and the image (1, C, H, W) as it takes it."""
    image = image[None] if image.ndim == 2 else image
    if isinstance(model, TrainedModel):
        network, factor, count = cast(Network, model.network), model.divisor, len(model.channels)
    elif divisor is None:
        raise SegueError("activations: a network alone does not state the sizes it supports; give its divisor.")
    else:
        network, factor, count = model, divisor, None
    if image.ndim != 3 or (count is not None and len(image) != count):
        raise SegueError(f"activations: the image has shape {image.shape}; give (H, W) or ({count or 'C'}, H, W).")
    height, width = image.shape[1:]
    only: int | None = getattr(network.encoder, "side_px", None)
    rows, columns = (only or side // factor * factor for side in (height, width))
    if min(rows, columns) == 0 or rows > height or columns > width:
        raise SegueError(
            f"activations: the image is of {height}x{width} px, but the network takes at least "
            f"{only or factor}x{only or factor} px; give a larger one."
        )
    if isinstance(model, TrainedModel):
        image = normalize(image[None], intensity_stats(model.spec.normalize, image[None]))[0]
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = np.ascontiguousarray(image[:, top : top + rows, left : left + columns], dtype=np.float32)
    if not np.isfinite(crop).all():
        raise SegueError("activations: the image holds NaN or infinite values; replace them.")
    return network, torch.from_numpy(crop)[None]


def _lines(
    activations: Sequence[BlockActivation],
) -> list[tuple[BlockActivation | None, BlockActivation | None]]:
    """Returns the blocks left and right of each line: the encoder's going down, the decoder's going up, by size."""
    scores_images = all(a.block.part != "head" or a.height_px == 0 for a in activations)
    left = [a for a in activations if scores_images or a.block.part in ("image", "encoder")]
    right = [a for a in reversed(activations) if not scores_images and a.block.part in ("decoder", "head")]
    lines: list[tuple[BlockActivation | None, BlockActivation | None]] = []
    for height in sorted({a.height_px for a in activations}, reverse=True):
        down = [a for a in left if a.height_px == height]
        up = [a for a in right if a.height_px == height]
        count = max(len(down), len(up))
        padded = [None] * (count - len(up)) + up
        lines += list(zip(down + [None] * (count - len(down)), padded, strict=True))
    return lines


def _draw_block(activation: BlockActivation, panel: SubFigure, channels: int, names: Sequence[str]) -> None:
    block, (low, high) = activation.block, activation.limits
    count = block.shape[0]
    if activation.maps.ndim == 1:
        axes = panel.subplots()
        values = activation.maps[:MAX_BARS]
        axes.bar(np.arange(len(values)), values, width=0.9, color=BLUE)
        axes.set_xlim(-0.6, max(9.6, len(values) - 0.4))
        label = "value" if len(values) < MAX_BARS else f"value (the first {MAX_BARS})"
        axes.set_xlabel(label, fontsize=7, labelpad=1)
        axes.tick_params(labelsize=7)
        axes.set_title(f"{block.name}: {plural(count, 'value')}", fontsize=8.5)
        return
    kind = "score" if block.part == "head" else "channel"
    size = f"{block.shape[1]}×{block.shape[2]}"
    bold = block.name.replace("_", r"\_").replace(".", "{.}")  # in mathtext's bold face, neither may stand alone
    title = f"$\\bf{{{bold}}}$   {plural(count, kind)} of {size}, {format_number(low)} to {format_number(high)}"
    panel.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    for position, axes in enumerate(np.atleast_1d(panel.subplots(1, channels))):
        hide_axes(axes)
        if position >= len(activation.maps):
            axes.set_visible(False)
            continue
        axes.imshow(activation.maps[position], cmap=SCALE, vmin=low, vmax=high if high > low else low + 1)
        index = activation.channels[position]
        is_named = block.part == "head" and len(names) == count
        axes.set_xlabel(names[index] if is_named else f"{kind} {index}", fontsize=7, color=MUTED, labelpad=1)


def _draw_color_key(panel: SubFigure) -> None:
    """Draws the color scale that all blocks share but for its ends, which stand in their titles."""
    axes = panel.add_axes((0.36, 0.52, 0.28, 0.22))
    bar = panel.colorbar(ScalarMappable(Normalize(0, 1), SCALE), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 1], labels=["least", "greatest"], fontsize=7.5)
    bar.ax.spines["outline"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("value, between the ends in each title", fontsize=7.5, loc="center", color=MUTED, pad=3)


# --- embedding

MAX_IMAGES = 1000
MAX_NAMED = 10  # groups in the legend
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # besides the color, for those who see few of these
OTHERS = "others: "
MAX_NAME_LENGTH = 24


@dataclass(frozen=True)
class Embedding:
    """samples: (n,) indices in the dataset, ascending. features: (n, F) float32. components: (n, 2) float64.

    explained: the shares of the features' variance that lie along the two components.
    """

    samples: np.ndarray
    features: np.ndarray
    components: np.ndarray
    explained: tuple[float, float]


def embedding_figure(
    model: TrainedModel,
    dataset: Dataset | Path,
    *,
    by: str,
    images: int = MAX_IMAGES,
    seed: int = 0,
    device: str = "cpu",
) -> Figure:
    """Returns the figure of a dataset's images in a model's encoder, colored by a column of its samples.

    by: "group" or a condition. At most `images` of them are drawn without replacement. Raises SegueError for another
    column, other channels than the model's, and fewer than three images.
    """
    if not isinstance(dataset, Dataset):
        with Dataset(dataset) as opened:
            return embedding_figure(model, opened, by=by, images=images, seed=seed, device=device)
    columns = dataset.samples()
    if by not in columns:
        raise SegueError(f"{dataset.path}: {unknown(by, columns, 'column')}.")
    embedding = embed(model, dataset, images=images, seed=seed, device=device)
    return draw_embedding(embedding, columns[by][embedding.samples], by=by)


def embed(
    model: TrainedModel,
    dataset: Dataset,
    *,
    images: int = MAX_IMAGES,
    seed: int = 0,
    batch: int = 16,
    device: str = "cpu",
) -> Embedding:
    """Returns the embedding of up to `images` samples, each normalized as in training; padding counts nowhere."""
    if tuple(dataset.channels) != tuple(model.channels):
        raise SegueError(
            f"{dataset.path}: has channels {', '.join(dataset.channels)}, but {model.folder} was trained on "
            f"{', '.join(model.channels)}; give data of the same kind."
        )
    if min(dataset.count, images) < 3:
        raise SegueError(
            f"{dataset.path}: {min(dataset.count, images)} images are too few for an embedding; give at least 3."
        )
    samples = np.sort(rng.numpy_generator(seed, "embedding").permutation(dataset.count)[:images])
    network = cast(Network, model.network)
    network.to(device)
    rows: list[np.ndarray] = []
    with evaluating(network), torch.inference_mode():
        for start in range(0, len(samples), batch):
            some = samples[start : start + batch]
            acquired, _ = dataset.read(some, layer=None)
            standard = normalize(acquired, intensity_stats(model.spec.normalize, acquired, dataset.intensity(some)))
            tensor = torch.from_numpy(standard).to(device)
            rows.append(mean_features(network, tensor, dataset.valid(some), model.divisor))
    features = np.concatenate(rows)
    components, explained = principal_components(features)
    return Embedding(samples, features, components, explained)


def principal_components(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns the coordinates (n, 2) of features (n, F) along their two principal components, and the shares of these.

    The sign is such that the largest weight of each component is positive.
    """
    if not np.isfinite(features).all():
        raise SegueError("embedding: the encoder gives NaN or infinite features; train the network again.")
    centered = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    left, singular, axes = np.linalg.svd(centered, full_matrices=False)
    total = float((singular**2).sum())
    coordinates, shares = np.zeros((len(features), 2)), [0.0, 0.0]
    for index in range(min(2, len(singular))):
        sign = np.sign(axes[index, np.argmax(np.abs(axes[index]))]) or 1.0
        coordinates[:, index] = sign * left[:, index] * singular[index]
        shares[index] = float(singular[index] ** 2 / total) if total else 0.0
    return coordinates, (shares[0], shares[1])


def draw_embedding(embedding: Embedding, values: Sequence[Any] | np.ndarray, *, by: str) -> Figure:
    """Returns the scatter of an embedding, colored by `values` (n,), which are of the column `by`.

    Up to ten values are named, numbers in their order along a scale; of more numbers the scale is continuous, of more
    names the nine most frequent are told apart and all others gray. NaN is not known, and gray on a scale.
    """
    values = np.asarray(values, dtype=object)
    is_number = all(isinstance(value, int | float | np.number) for value in values)
    if is_number:
        values = values.astype(float)
    title = by.replace("_", " ")
    with style():
        figure = Figure(figsize=(WIDTH_IN * 0.8, WIDTH_IN * 0.55), layout="constrained")
        axes = figure.subplots()
        if is_number and len(set(values[~np.isnan(values)])) > MAX_NAMED:
            known = ~np.isnan(values)
            axes.scatter(*embedding.components[~known].T, s=14, color=GRAY, alpha=0.5, linewidths=0)
            dots = axes.scatter(*embedding.components[known].T, c=values[known], cmap=SCALE, s=22, linewidths=0)
            figure.colorbar(dots, ax=axes, label=title, shrink=0.8)
        else:
            _draw_groups(axes, embedding.components, values, is_number=is_number)
            entries = zip(*axes.get_legend_handles_labels(), strict=True)
            ordered = sorted(entries, key=lambda entry: str(entry[1]).startswith(OTHERS))
            place = {"alignment": "left", "loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            axes.legend(*zip(*ordered, strict=True), title=title, **place)
        for axis, name, share in zip((axes.xaxis, axes.yaxis), ("first", "second"), embedding.explained, strict=True):
            axis.set_label_text(f"{name} principal component ({share:.0%} of the variance)")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"{len(values)} images by the means of {embedding.features.shape[1]} deepest features")
        axes.tick_params(labelcolor=MUTED)
    return figure


def _draw_groups(axes: Axes, components: np.ndarray, values: np.ndarray, *, is_number: bool) -> None:
    labels = [_label(value) for value in values]
    counts = Counter(labels)
    names = list(dict.fromkeys(_label(value) for value in (np.unique(values) if is_number else sorted(labels))))
    if len(names) > MAX_NAMED:
        frequent = sorted(names, key=lambda name: -counts[name])[: MAX_NAMED - 1]
        names = [name for name in names if name in frequent]
    colors = graded_colors(names) if is_number else {}
    rest = ~np.isin(labels, names)
    if rest.any():
        label = f"{OTHERS}{len(counts) - len(names)} more ({rest.sum()} images)"
        axes.scatter(*components[rest].T, s=14, color=GRAY, alpha=0.5, linewidths=0, label=label)
    for index, name in enumerate(names):
        color = colors.get(name, CATEGORIES[index % len(CATEGORIES)])
        look = {"s": 24, "color": color, "alpha": 0.8, "linewidths": 0, "marker": MARKERS[index % len(MARKERS)]}
        axes.scatter(*components[np.array(labels) == name].T, label=_shorten(name), **look)


def _label(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "not known" if np.isnan(value) else f"{value:g}".replace("-", "−")
    return str(value)


def _shorten(name: str) -> str:
    """Returns the name, or its beginning and end where it is too long for a legend."""
    half = MAX_NAME_LENGTH // 2
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:half]}…{name[-half + 1 :]}"
