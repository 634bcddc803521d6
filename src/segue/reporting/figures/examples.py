"""Learning curves, and example images with what was hit, missed and invented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.factors import sorted_levels
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    INK,
    MUTED,
    WIDTH_IN,
    bare,
    colours_of,
    graded,
    scale_axis,
    sheet,
)
from segue.reporting.page.formatting import AXES, level_text, stage_words
from segue.study.table import Example

# Okabe and Ito's bluish green, sky blue and orange-vermilion, bright enough for grey images
HIT, MISS, FALSE_ALARM, IGNORED = "#00c08b", "#4db4ff", "#ff7a2f", "#b9b9b9"
CLASSES = ("#ffffff", "#ffe14d", "#f9a8d4", "#8ef0d0", "#c9b6ff", "#ffc08a")
MOST_EXAMPLES = 8
MOST_IN_LEGEND = 12
LEGEND_LINE_IN = 0.175
WIDEST_EXAMPLE_PX = 320  # larger images are reduced, as the page carries them


def curve_axes(comparison: Comparison, stage: str) -> list[str]:
    """Returns up to three of the stage's own axes that vary and that its histories know, else an empty list."""
    histories = comparison.results.histories
    frame = histories[histories["stage"] == stage]
    own = comparison.results.stages.get(stage, [])
    return [axis for axis in own if axis in frame.columns and frame[axis].nunique(dropna=True) > 1][:3]


def curves_figure(comparison: Comparison, floor: float) -> Figure:
    """Returns, per stage a line of panels and per axis a panel, the loss by epoch: median, and band of the middle half.

    Training is dashed, validation solid; `floor` is taken off the losses.
    """
    histories = comparison.results.histories
    stages = [stage for stage in comparison.results.stages if (histories["stage"] == stage).any()]
    plan = {stage: curve_axes(comparison, stage) or [""] for stage in stages}
    columns = max(map(len, plan.values()))
    legends = {stage: _legend_lines(histories[histories["stage"] == stage], plan[stage], columns) for stage in stages}
    figure = sheet(0.6 + sum(2.45 + LEGEND_LINE_IN * lines for lines in legends.values()))
    every = figure.subplots(len(stages), columns, squeeze=False, sharey="row")
    domain_colours = colours_of(comparison.results.domains)
    for line, (stage, axes_names) in zip(every, plan.items(), strict=True):
        frame = histories[histories["stage"] == stage]
        for axes, axis in zip(line, axes_names, strict=False):
            handles = _draw_curves(axes, frame, axis, comparison.results.domains, domain_colours, floor)
            if axis and len(handles) <= MOST_IN_LEGEND:
                _legend_above(axes, handles, columns)
            by = AXES.get(axis.partition(".")[2], axis.partition(".")[2])
            pad = 6 + 72 * LEGEND_LINE_IN * legends[stage]
            axes.set_title(stage_words(stage) + (f", by {by}" if axis else ""), pad=pad)
        line[0].set_ylabel("adjusted loss" if floor else "loss")
        for axes in line[len(axes_names) :]:
            axes.set_visible(False)
        losses = frame[[c for c in ("train_loss", "validation_loss") if c in frame.columns]].to_numpy(float) - floor
        losses = losses[np.isfinite(losses)]
        if losses.size:
            scale_axis(line[0], "y", losses, 10)
    for axes in every[-1]:
        axes.set_xlabel("epoch")
    handles = [
        Line2D([], [], color=INK, linewidth=1.6, label="validation"),
        Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (3, 2)), label="training"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _draw_curves(
    axes: Axes, frame: pd.DataFrame, axis: str, domains: Sequence[str], domain_colours: dict[str, str], floor: float
) -> list[Line2D]:
    """Draws the losses by level of `axis` and returns a handle per level."""
    is_domain = axis.endswith(".domain")
    levels = sorted_levels(frame[axis], domains if is_domain else []) if axis else [None]
    names = [level_text(level) if axis else "" for level in levels]
    numeric = bool(axis) and pd.api.types.is_numeric_dtype(frame[axis])
    shared = domain_colours if is_domain else graded(names) if numeric and len(names) > 2 else {}
    handles: list[Line2D] = []
    for position, (level, name) in enumerate(zip(levels, names, strict=True)):
        part = frame[frame[axis] == level] if axis else frame
        colour = shared.get(name) or (CATEGORIES[position % len(CATEGORIES)] if axis else BLUE)
        _draw_quantiles(axes, part, "train_loss", floor, (colour, (0, (3, 2))))
        _draw_quantiles(axes, part, "validation_loss", floor, (colour, "solid"))
        handles.append(Line2D([], [], color=colour, linewidth=1.6, label=name))
    return handles


def _legend_above(axes: Axes, handles: list[Line2D], panels: int) -> None:
    """Places the legend between axes and title, where no curve runs; `panels` share the figure's width."""
    count = _legend_columns([str(handle.get_label()) for handle in handles], panels)
    axes.legend(
        handles=handles, ncols=count, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, borderaxespad=0.3,
        labelspacing=0.3, columnspacing=1.2, handlelength=1.2, handletextpad=0.5, fontsize=8,
    )  # fmt: skip


def _legend_columns(names: Sequence[str], panels: int) -> int:
    width_in = 0.07 * max(map(len, names), default=0) + 0.42
    return max(1, min(len(names), int((WIDTH_IN - 0.7) / panels / width_in)))


def _legend_lines(frame: pd.DataFrame, axes_names: Sequence[str], panels: int) -> int:
    """Returns the most lines that a legend of a stage's panels takes."""
    lines = 0
    for axis in filter(None, axes_names):
        names = [level_text(level) for level in frame[axis].dropna().unique()]
        if len(names) <= MOST_IN_LEGEND:
            lines = max(lines, -(-len(names) // _legend_columns(names, panels)))
    return lines


def _draw_quantiles(axes: Axes, part: pd.DataFrame, column: str, floor: float, how: tuple) -> None:
    """Draws median and middle half by epoch; `how` is (colour, line style)."""
    if column not in part.columns:
        return
    colour, line = how
    spread = (part[column].astype(float) - floor).groupby(part["epoch"]).quantile([0.25, 0.5, 0.75]).unstack().dropna()
    if spread.empty:
        return
    epochs = spread.index.to_numpy(dtype=float)
    low, middle, high = (spread[q].to_numpy() for q in (0.25, 0.5, 0.75))
    if line == "solid":
        axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if epochs.size == 1 else None
    axes.plot(epochs, middle, color=colour, linewidth=1.6 if line == "solid" else 1.2, linestyle=line, marker=marker)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def outcome(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns (H, W) uint8: 0 background, 1 hit, 2 miss, 3 false alarm, 4 ignored.

    A foreground pixel given another foreground class is a miss of its own class.
    """
    found = np.zeros(label.shape, dtype=np.uint8)
    found[(label > 0) & (prediction == label)] = 1
    found[(label > 0) & (prediction != label)] = 2
    found[(label == 0) & (prediction > 0)] = 3
    found[label < 0] = 4
    return found


def examples_figure(examples: Sequence[Example]) -> Figure:
    """Returns a line per example: the image, the image with its labels, then with each prediction's outcome."""
    examples = [_reduced(example) for example in examples[:MOST_EXAMPLES]]
    captions = list(dict.fromkeys(caption for example in examples for caption in example.predictions))
    columns = 2 + len(captions)
    height = 9.2 / columns
    figure = sheet(0.55 + height * len(examples))
    every = figure.subplots(len(examples), columns, squeeze=False)
    for line, example in zip(every, examples, strict=True):
        shown = grey_levels(example.image)
        for axes in line:
            bare(axes)
        _show(line[0], shown)
        _show(line[1], shown)
        for position, value in enumerate(np.unique(example.label[example.label > 0])[: len(CLASSES)]):
            _outline(line[1], example.label == value, CLASSES[position])
        line[0].set_ylabel(example.domain, color=INK)
        for axes, caption in zip(line[2:], captions, strict=True):
            if caption not in example.predictions:
                axes.text(0.5, 0.5, "no such run", ha="center", va="center", color=MUTED, transform=axes.transAxes)
                continue
            _show(axes, shown)
            _draw_outcome(axes, outcome(example.label, example.predictions[caption]))
    for axes, title in zip(every[0], ["image", "label", *captions], strict=True):
        axes.set_title(title, loc="left")
    handles = [
        Patch(facecolor=colour, label=name)
        for colour, name in ((HIT, "hit"), (MISS, "miss"), (FALSE_ALARM, "false alarm"))
    ]
    if any((example.label < 0).any() for example in examples):
        handles.append(Patch(facecolor=IGNORED, label="not judged"))
    figure.legend(handles=handles, loc="outside upper right", ncols=4, handlelength=1, handleheight=1)
    return figure


def _reduced(example: Example) -> Example:
    """Returns the example at most `WIDEST_EXAMPLE_PX` wide: block means of the image, every k-th pixel of labels."""
    step = -(-max(example.image.shape) // WIDEST_EXAMPLE_PX)
    if step == 1:
        return example
    height, width = (size // step * step for size in example.image.shape)
    blocks = example.image[:height, :width].reshape(height // step, step, width // step, step)

    def thinned(labels: np.ndarray) -> np.ndarray:
        return labels[step // 2 : height : step, step // 2 : width : step]

    predictions = {caption: thinned(prediction) for caption, prediction in example.predictions.items()}
    return replace(example, image=blocks.mean(axis=(1, 3)), label=thinned(example.label), predictions=predictions)


def _show(axes: Axes, shown: np.ndarray) -> None:
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255)


def grey_levels(image: np.ndarray) -> np.ndarray:
    """Returns the image as grey levels 0 to 255 between its 0.5th and 99.5th percentile; what is not finite is 0."""
    finite = image[np.isfinite(image)]
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    return np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)


def _outline(axes: Axes, mask: np.ndarray, colour: str) -> None:
    if not mask.any():
        return
    height, width = mask.shape
    closed = np.pad(mask, 1).astype(float)  # so that outlines close at the image's border
    axes.contour(np.arange(-1, width + 1), np.arange(-1, height + 1), closed, [0.5], colors=[colour], linewidths=1.1)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _draw_outcome(axes: Axes, found: np.ndarray) -> None:
    """Tints errors more than hits and outlines all, so that the image stays visible."""
    tint = np.zeros((*found.shape, 4), dtype=np.uint8)
    for code, colour, alpha in ((1, HIT, 40), (2, MISS, 115), (3, FALSE_ALARM, 115), (4, IGNORED, 120)):
        tint[found == code] = [*(int(colour[i : i + 2], 16) for i in (1, 3, 5)), alpha]
    axes.imshow(tint)
    for code, colour in ((2, MISS), (3, FALSE_ALARM), (1, HIT)):
        _outline(axes, found == code, colour)
