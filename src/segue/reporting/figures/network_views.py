"""The receptive field drawn: where the gradient of a centre's scores lies, and how much of it within which square.

What each block of a network makes of an image, drawn: some channels of every stage, beside one another by size.

A dataset as an encoder sees it: the mean of its deepest features over each image, and two axes to look at them.

The axes are the two principal components, so that distances in the figure are those of the features as far as two
axes hold them; how much of the variance they hold stands at the axes.
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
from torch.nn import functional as F

from segue import rng
from segue.data.dataset import Dataset
from segue.data.normalization import normalised, statistics
from segue.errors import SegueError
from segue.networks.analysis.receptive_field import Effective, Reach, side_holding
from segue.networks.analysis.structure import Block, anatomy, evaluating, map_of, outputs
from segue.networks.network import Network
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    GREY,
    INK,
    MUTED,
    SCALE,
    VERMILION,
    WIDTH_IN,
    bare,
    graded,
    style,
)
from segue.spec import unknown
from segue.training.run_folder import Model

DECADES = 4  # of the gradient that are shown
FIELD = "#ff7a2f"  # vermilion, bright enough for the dark of the scale
PLAIN = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.85, "linewidth": 0}  # behind text on lines
OUTLINES = ("solid", (0, (4, 2)), (0, (1, 2)))


def receptive_figure(found: Effective, reach: Reach | None = None) -> Figure:
    """Returns the mean absolute gradient on the image, with the squares that hold its shares, and those as a curve.

    reach: the theoretical field, drawn as a dotted box and a line; boxes that end outside of the image are cut.
    """
    height, width = found.map.shape
    with style():
        figure = Figure(figsize=(WIDTH_IN, WIDTH_IN * 0.47), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
        greatest = float(found.map.max())
        shown = np.maximum(found.map, greatest * 10.0**-DECADES)
        picture = left.imshow(shown, cmap=SCALE, norm=LogNorm(greatest * 10.0**-DECADES, greatest))
        bare(left)
        bar = figure.colorbar(picture, ax=left, shrink=0.8, label="share of the gradient per pixel")
        bar.outline.set_visible(False)
        for (share, side), outline in zip(found.sides_px.items(), OUTLINES, strict=False):
            corner = (found.centre[1] - side / 2, found.centre[0] - side / 2)
            left.add_patch(
                Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle=outline, linewidth=1.4)
            )
            left.annotate(
                f"{share:.0%}", (corner[0] + 2, max(2.0, corner[1] + 2)), color="white", fontsize=8, va="top",
                bbox={"boxstyle": "square,pad=0.15", "facecolor": "black", "alpha": 0.45, "linewidth": 0},
            )  # fmt: skip
        left.set_title(f"mean gradient of the centre, {height}×{width} px")
        sides = np.arange(1, min(height, width) + 1, 2)
        y, x = np.indices(found.map.shape)
        distance = np.maximum(abs(y - found.centre[0]), abs(x - found.centre[1]))
        held = np.cumsum(np.bincount(distance.ravel(), found.map.ravel()))
        right.plot(sides, held[: len(sides)] / held[-1], color=BLUE, linewidth=1.8)
        for share in found.sides_px:
            side = side_holding(found.map, found.centre, share)
            right.plot([side, side, 0], [0, share, share], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
            is_right = side > 0.6 * sides[-1]
            right.annotate(
                f"{share:.0%} in {side} px", (side, share), xytext=(-6 if is_right else 6, -12),
                textcoords="offset points", ha="right" if is_right else "left", bbox=PLAIN,
            )  # fmt: skip
        longest = min(height, width)
        if reach is not None and not reach.unbounded:
            corner = (found.centre[1] - reach.width_px / 2, found.centre[0] - reach.height_px / 2)
            left.add_patch(
                Rectangle(corner, reach.width_px, reach.height_px, fill=False, edgecolor=FIELD, linestyle=(0, (1, 2)))
            )
            left.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            right.axvline(reach.width_px, color=VERMILION, linewidth=1.2)
            right.annotate(
                f"theoretical: {reach.width_px} px", (reach.width_px, 0.04), xytext=(-5, 0), textcoords="offset points",
                color=VERMILION, ha="right", bbox=PLAIN,
            )  # fmt: skip
            longest = max(longest, int(1.04 * reach.width_px))
        right.set(xlim=(0, longest), ylim=(0, 1.02), xlabel="side of the square around the centre (px)")
        right.set_title("share of the gradient within a square", color=INK)
    return figure


SHOWN = 4  # channels of a stage
ALIKE = 0.95  # correlation from which on two channels show the same
PERCENTILES = (1, 99)  # of a stage's shown channels: the ends of its colour scale
LINE_IN = 1.48  # height of a stage
MOST_BARS = 96


@dataclass(frozen=True)
class Stage:
    """A block with the channels that are shown of it.

    maps: (k, h, w) float32, or (k,) where the block gives vectors. channels: their indices. span: the values at the
    ends of the colour scale, which all channels of the stage share.
    """

    block: Block
    maps: np.ndarray
    channels: tuple[int, ...]
    span: tuple[float, float]


def stages(network: Network, images: torch.Tensor, *, shown: int = SHOWN) -> list[Stage]:
    """Returns each block's most telling channels for images (1, C, H, W), standardised, of a size that it takes.

    Those are the channels that vary most over the image, without any that looks like one that is shown already
    (correlation of at least 0.95 or at most -0.95); in their own order. The image and the scores come whole.
    """
    blocks = anatomy(network, tuple(images.shape[1:]))  # type: ignore[arg-type]
    with torch.inference_mode():
        found = outputs(network, blocks, images)
    kept = []
    for block in blocks:
        values = map_of(found[block.name], block.shape)[0].float().cpu().numpy()
        whole = block.part in ("image", "head")
        if values.ndim == 1:
            chosen = list(range(len(values)))
        else:
            chosen = list(range(min(shown, len(values)))) if whole else telling(values, shown)
        low, high = np.percentile(values[chosen], PERCENTILES)
        kept.append(Stage(block, values[chosen], tuple(chosen), (float(low), float(high))))
    return kept


def telling(values: np.ndarray, count: int) -> list[int]:
    """Returns up to `count` indices of channels (C, h, w), ascending, that vary most and differ from one another."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    spread = np.sqrt((flat**2).sum(1))
    chosen: list[int] = []
    for index in np.argsort(-spread, kind="stable"):
        likeness = [abs(flat[index] @ flat[c]) / max(spread[index] * spread[c], 1e-30) for c in chosen]
        if not chosen or (spread[index] > 0 and max(likeness) < ALIKE):
            chosen.append(int(index))
        if len(chosen) == count:
            break
    return sorted(chosen)


def activations_figure(
    model: Model | Network, image: np.ndarray, *, shown: int = SHOWN, divisor: int | None = None
) -> Figure:
    """Returns the figure of what every block gives for an image (H, W) or (C, H, W).

    A run's model takes the image in acquired units and normalises it as in training; a network alone takes it as it
    is, and needs its `divisor`. The image is cut about its centre to the largest size that the network takes. A line
    is a size of map, the encoder's stages stand left, the decoder's right. Raises SegueError for another number of
    channels, and an image smaller than the divisor.
    """
    network, given = _prepared(model, image, divisor)
    found = stages(network, given, shown=shown)
    names = model.target.names if isinstance(model, Model) and len(model.target.names) == model.target.channels else ()
    lines = _lines(found)
    two = any(right is not None for _, right in lines)
    with style():
        figure = Figure(figsize=(WIDTH_IN if two else WIDTH_IN / 2 + 0.4, 0.55 + LINE_IN * len(lines)))
        figure.set_layout_engine("constrained", w_pad=0.04, h_pad=0.02, wspace=0.02, hspace=0.02)
        body, foot = cast("list[SubFigure]", figure.subfigures(2, 1, height_ratios=[LINE_IN * len(lines), 0.5]))
        panels = np.asarray(body.subfigures(len(lines), 2 if two else 1, squeeze=False))
        for line, panel in zip(lines, panels, strict=True):
            for stage, part in zip(line, panel, strict=False):
                if stage is not None:
                    _draw(stage, part, shown, names)
        _key(foot)
    return figure


def _prepared(model: Model | Network, image: np.ndarray, divisor: int | None) -> tuple[Network, torch.Tensor]:
    image = image[None] if image.ndim == 2 else image
    if isinstance(model, Model):
        network, factor, count = cast(Network, model.network), model.divisor, len(model.channels)
    elif divisor is None:
        raise SegueError("activations: a network alone does not say which sizes it takes; give its divisor.")
    else:
        network, factor, count = model, divisor, None
    if image.ndim != 3 or (count is not None and len(image) != count):
        raise SegueError(f"activations: the image has shape {image.shape}; give (H, W) or ({count or 'C'}, H, W).")
    only: int | None = getattr(network.encoder, "side_px", None)
    sides = [only or side // factor * factor for side in image.shape[1:]]
    if min(sides) == 0 or sides[0] > image.shape[1] or sides[1] > image.shape[2]:
        raise SegueError(
            f"activations: the image is of {image.shape[1]}x{image.shape[2]} px, but the network takes at least "
            f"{only or factor}x{only or factor} px; give a larger one."
        )
    if isinstance(model, Model):
        image = normalised(image[None], statistics(model.spec.normalise, image[None]))[0]
    top, left = ((whole - side) // 2 for whole, side in zip(image.shape[1:], sides, strict=True))
    cut = np.ascontiguousarray(image[:, top : top + sides[0], left : left + sides[1]], dtype=np.float32)
    if not np.isfinite(cut).all():
        raise SegueError("activations: the image holds NaN or infinite values; replace them.")
    return network, torch.from_numpy(cut)[None]


def _lines(found: Sequence[Stage]) -> list[tuple[Stage | None, Stage | None]]:
    """Returns the stages left and right of each line: the encoder's going down, the decoder's going up, by size."""
    size = {id(stage): stage.block.shape[1] if len(stage.block.shape) == 3 else 0 for stage in found}
    is_left = all(stage.block.part != "head" or size[id(stage)] == 0 for stage in found)  # images are scored
    left = [stage for stage in found if is_left or stage.block.part in ("image", "encoder")]
    right = [stage for stage in reversed(found) if not is_left and stage.block.part in ("decoder", "head")]
    lines: list[tuple[Stage | None, Stage | None]] = []
    for height in sorted(set(size.values()), reverse=True):
        downwards = [stage for stage in left if size[id(stage)] == height]
        upwards = [stage for stage in right if size[id(stage)] == height]
        count = max(len(downwards), len(upwards))
        padded = [None] * (count - len(upwards)) + upwards
        lines += list(zip(downwards + [None] * (count - len(downwards)), padded, strict=True))
    return lines


def _draw(stage: Stage, panel: SubFigure, shown: int, names: Sequence[str]) -> None:
    low, high = stage.span
    words = {"image": "channel", "head": "score"}.get(stage.block.part, "channel")
    count = stage.block.shape[0]
    plural = "" if count == 1 else "s"
    if stage.maps.ndim == 1:
        axes = panel.subplots()
        _bars(axes, stage.maps)
        axes.set_title(f"{stage.block.name}: {count} value{plural}", fontsize=8.5)
        return
    size = f"{stage.block.shape[1]}×{stage.block.shape[2]}"
    span = f"{_number(low)} to {_number(high)}"
    title = f"$\\bf{{{_bold(stage.block.name)}}}$   {count} {words}{plural} of {size}, {span}"
    panel.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    every = np.atleast_1d(panel.subplots(1, shown))
    for position, axes in enumerate(every):
        bare(axes)
        if position >= len(stage.maps):
            axes.set_visible(False)
            continue
        axes.imshow(stage.maps[position], cmap=SCALE, vmin=low, vmax=high if high > low else low + 1)
        index = stage.channels[position]
        is_named = stage.block.part == "head" and len(names) == count
        axes.set_xlabel(names[index] if is_named else f"{words} {index}", fontsize=7, color=MUTED, labelpad=1)


def _bars(axes: Axes, values: np.ndarray) -> None:
    values = values[:MOST_BARS]
    axes.bar(np.arange(len(values)), values, width=0.9, color=BLUE)
    axes.set_xlim(-0.6, max(9.6, len(values) - 0.4))
    axes.set_xlabel("value" if len(values) < MOST_BARS else f"value (the first {MOST_BARS})", fontsize=7, labelpad=1)
    axes.tick_params(labelsize=7)


def _key(panel: SubFigure) -> None:
    """Draws the colour scale that all stages share but for its ends, which their titles tell."""
    axes = panel.add_axes((0.36, 0.52, 0.28, 0.22))
    bar = panel.colorbar(ScalarMappable(Normalize(0, 1), SCALE), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 1], labels=["least", "greatest"], fontsize=7.5)
    bar.outline.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("value, between the ends told at each stage", fontsize=7.5, loc="center", color=MUTED, pad=3)


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−") if abs(value) < 100 else f"{value:.0f}".replace("-", "−")


def _bold(name: str) -> str:
    """Returns a name for the bold face of mathtext, in which neither a point nor an underscore is a sign."""
    return name.replace("_", r"\_").replace(".", "{.}")


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
