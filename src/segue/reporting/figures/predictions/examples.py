"""Example images with their labels, and the hits, misses and false alarms of each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.measure import block_reduce

from segue.reporting.figures.style import (
    GAP_IN,
    INK,
    MUTED,
    WIDTH_IN,
    ReportFigure,
    hide_axes,
    new_figure,
    shorten,
    style,
)
from segue.reporting.formatting import plural
from segue.study.table import Example

# Okabe and Ito's bluish green, sky blue and orange-vermilion, bright enough for gray images
HIT, MISS, FALSE_ALARM, IGNORED = "#00c08b", "#4db4ff", "#ff7a2f", "#b9b9b9"
OPACITIES = {1: (HIT, 40), 2: (MISS, 115), 3: (FALSE_ALARM, 115), 4: (IGNORED, 120)}  # by code of `outcome`, of 255
CLASSES = ("#ffffff", "#ffe14d", "#f9a8d4", "#8ef0d0", "#c9b6ff", "#ffc08a")
MAX_EXAMPLES = 8
MAX_WIDTH_PX = 320  # larger images are reduced, as the page carries them


def examples_figure(examples: Sequence[Example]) -> ReportFigure | None:
    """Returns a line per example: the image, the image with its labels, then with each prediction's outcome."""
    if not examples:
        return None
    with style():
        figure = draw_examples([_reduce(example) for example in examples[:MAX_EXAMPLES]])
    count = min(len(examples), MAX_EXAMPLES)
    total = f" of {len(examples)}" if count < len(examples) else ""
    caption = (
        f"{plural(count, 'held-out image')}{total} with labels (outlined) and predictions. A pixel given a wrong class"
        " counts as missed. They are illustrations; conclusions rest on the figures above."
    )
    return ReportFigure("examples", figure, "Examples.", caption, "Example images with labels and predictions")


def outcome(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns (H, W) uint8: 0 background, 1 hit, 2 miss, 3 false alarm, 4 ignored.

    A foreground pixel given another foreground class is a miss of its own class.
    """
    codes = np.zeros(label.shape, dtype=np.uint8)
    codes[(label > 0) & (prediction == label)] = 1
    codes[(label > 0) & (prediction != label)] = 2
    codes[(label == 0) & (prediction > 0)] = 3
    codes[label < 0] = 4
    return codes


def gray_levels(image: np.ndarray) -> np.ndarray:
    """Returns the image as levels 0 to 255 between the 0.5th and 99.5th percentile of all its values; what is not
    finite is 0."""
    finite = image[np.isfinite(image)]
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(image, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    return np.clip(np.rint(255 * scaled), 0, 255).astype(np.uint8)


def draw_examples(examples: Sequence[Example]) -> Figure:
    """Returns a line per example: the image, its labels, and the outcome of every prediction."""
    titles = list(dict.fromkeys(title for example in examples for title in example.predictions))
    columns = 2 + len(titles)
    figure = new_figure(0.55 + 9.2 / columns * len(examples))
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for axes, title in zip(grid[0], ["image", "label", *titles], strict=True):
        axes.set_title(shorten(title, WIDTH_IN / columns - GAP_IN), loc="left")
    for line, example in zip(grid, examples, strict=True):
        for axes, title in zip(line, ["", "", *titles], strict=True):
            hide_axes(axes)
            if title and title not in example.predictions:
                axes.text(0.5, 0.5, "no such run", ha="center", va="center", color=MUTED, transform=axes.transAxes)
                continue
            axes.imshow(gray_levels(example.image), cmap="gray", vmin=0, vmax=255)
            if title:
                _draw_outcome(axes, outcome(example.label, example.predictions[title]))
        name = shorten(example.domain, 9.2 / columns - GAP_IN, size="axes.labelsize", weight="normal")
        line[0].set_ylabel(name, color=INK)
        for value, color in zip(np.unique(example.label[example.label > 0]), CLASSES, strict=False):
            _outline(line[1], example.label == value, color)
    names = {"hit": HIT, "miss": MISS, "false alarm": FALSE_ALARM}
    if any((example.label < 0).any() for example in examples):
        names["ignored"] = IGNORED
    handles = [Patch(facecolor=color, label=name) for name, color in names.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, handlelength=1, handleheight=1)
    return figure


def _reduce(example: Example) -> Example:
    """Returns the example at most `MAX_WIDTH_PX` wide: block means of the image, every k-th pixel of labels."""
    step = -(-max(example.image.shape) // MAX_WIDTH_PX)
    if step == 1:
        return example
    height, width = (size // step * step for size in example.image.shape)

    def thin(labels: np.ndarray) -> np.ndarray:
        return labels[step // 2 : height : step, step // 2 : width : step]

    image = block_reduce(example.image[:height, :width], step, np.mean)
    predictions = {title: thin(prediction) for title, prediction in example.predictions.items()}
    return replace(example, image=image, label=thin(example.label), predictions=predictions)


def _outline(axes: Axes, mask: np.ndarray, color: str) -> None:
    if not mask.any():
        return
    height, width = mask.shape
    closed = np.pad(mask, 1).astype(float)  # so that outlines close at the image's border
    axes.contour(np.arange(-1, width + 1), np.arange(-1, height + 1), closed, [0.5], colors=[color], linewidths=1.1)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _draw_outcome(axes: Axes, codes: np.ndarray) -> None:
    """Tints errors more than hits and outlines all, so that the image stays visible."""
    tint = np.zeros((*codes.shape, 4), dtype=np.uint8)
    for code, (color, opacity) in OPACITIES.items():
        tint[codes == code] = [*bytes.fromhex(color[1:]), opacity]
    axes.imshow(tint)
    for code in (2, 3, 1):
        _outline(axes, codes == code, OPACITIES[code][0])
