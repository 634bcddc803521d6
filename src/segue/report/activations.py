"""What each block of a network makes of an image, drawn: some channels of every stage, beside one another by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from segue.data.normalise import normalised, statistics
from segue.errors import SegueError
from segue.networks.anatomy import Block, anatomy, map_of, outputs
from segue.networks.network import Network
from segue.report.drawing import BLUE, MUTED, SCALE, WIDTH_IN, bare, style
from segue.training.run import Model

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
