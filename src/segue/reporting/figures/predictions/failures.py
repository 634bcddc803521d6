"""Merged, split, missed and false objects: crops of the same micrographs, one for each representation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segue.evaluation.outcomes import Outcomes, outcomes
from segue.reporting.figures.predictions.examples import FALSE_ALARM, HIT, MISS, gray_levels
from segue.reporting.figures.style import MUTED, ReportFigure, hide_axes, new_figure, style
from segue.reporting.formatting import join_names, plural
from segue.study.table import ObjectExample

TRUE = "#ffffff"
# Okabe and Ito's yellow and reddish purple, the latter brighter for gray images
MERGED, SPLIT = "#f5e642", "#f08cc8"
KINDS: Mapping[str, tuple[str, str]] = {
    "hit": (HIT, "found"),
    "merged": (MERGED, "merged: joins several labeled objects"),
    "split": (SPLIT, "split: part of one that was cut"),
    "false": (FALSE_ALARM, "false: no labeled object fits"),
}
FILL = 0.3
CROP_DIAMETERS = 8  # how many objects of median size fit side by side in a crop
MIN_CROP_PX, MAX_CROP_PX = 80, 320
MAX_COLUMNS = 5  # panels; more are in two rows
TOLERANCE_PX = 0.25  # by how much outlines are simplified, which makes them a fifth as long


def summary(outcome: Outcomes) -> str:
    """Returns the counts, in two lines."""
    false, missed = len(outcome.predicted["false"]), len(outcome.missed)
    return f"{plural(outcome.merges, 'merge')}, {plural(outcome.splits, 'split')},\n{missed} missed, {false} false"


def crop(example: ObjectExample, by_run: Mapping[str, Outcomes]) -> tuple[slice, slice]:
    """Returns the `square` that holds most wrong objects of all predictions together."""
    wrong = [wrong_objects(example.label, example.predictions[run], outcome) for run, outcome in by_run.items()]
    return square(example.label, np.sum(wrong, axis=0))


def wrong_objects(label: np.ndarray, predicted: np.ndarray, outcome: Outcomes) -> np.ndarray:
    """Returns (H, W) weights in which each wrong object adds one in all, spread over its pixels."""
    ids = [label_id for kind, ids in outcome.predicted.items() if kind != "hit" for label_id in ids]
    return _spread(predicted, ids) + _spread(label, outcome.missed)


def square(label: np.ndarray, weights: np.ndarray) -> tuple[slice, slice]:
    """Returns the square, or what of it the image has, of largest summed weights (H, W).

    Its side is `CROP_DIAMETERS` median diameters of labeled objects, within bounds; of equals the first in rows.
    """
    height, width = label.shape
    _, areas = np.unique(label[label > 0], return_counts=True)
    diameter = 2 * np.sqrt(np.median(areas) / np.pi) if areas.size else 0.0
    side = round(min(max(CROP_DIAMETERS * diameter, MIN_CROP_PX), MAX_CROP_PX))
    rows, columns = min(side, height), min(side, width)
    summed = np.pad(weights, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = summed[rows:, columns:] - summed[:-rows, columns:] - summed[rows:, :-columns] + summed[:-rows, :-columns]
    top, left = np.unravel_index(np.argmax(inside >= inside.max() - 1e-6), inside.shape)
    return slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)


def _spread(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Returns 1 / area on the pixels of the objects named, else 0."""
    weights = np.zeros(int(labels.max(initial=0)) + 1)
    if ids:
        areas = np.bincount(labels[labels > 0], minlength=weights.size)
        weights[list(ids)] = 1 / areas[list(ids)]
    return weights[np.maximum(labels, 0)]


def failures_figure(examples: Sequence[ObjectExample], labels: Mapping[str, str]) -> ReportFigure | None:
    """Returns the crops with their legend; `labels` has the name of each run. None without examples."""
    examples = [example for example in examples if example.predictions]
    if not examples:
        return None
    with style():
        figure = _draw(examples, labels)
    caption = (
        f"The held-out micrographs on which the {plural(len(examples[0].predictions), 'run')} of median value differ"
        " most in merges and splits: the square with most wrong objects; the counts are of the whole micrograph. Gray"
        " levels are square roots, so that dim objects show. Found means an overlap (IoU) of at least 0.5; where an"
        " outline is poorer, its object is both missed and false. They are illustrations; see the figure above."
    )
    runs = join_names([labels[run] for run in examples[0].predictions])
    alt = f"Objects found, merged, split, missed and false by {runs}"
    return ReportFigure("failures", figure, "Failures of each representation.", caption, alt)


def _draw(examples: Sequence[ObjectExample], labels: Mapping[str, str]) -> Figure:
    panels = [["", *example.predictions] for example in examples]
    most = max(map(len, panels))
    columns = most if most <= MAX_COLUMNS else -(-most // 2)
    lines = [-(-len(panel) // columns) for panel in panels]
    figure = new_figure(0.75 + (9.6 / columns + 0.5) * sum(lines))
    grid = figure.subplots(sum(lines), columns, squeeze=False)
    for axes in grid.ravel():
        hide_axes(axes)
    first = 0
    for example, panel, count in zip(examples, panels, lines, strict=True):
        outcomes_by_run = {run: outcomes(example.label, predicted) for run, predicted in example.predictions.items()}
        window = crop(example, outcomes_by_run)
        image, label = np.sqrt(gray_levels(example.image)[window] / 255), example.label[window]
        for axes, run in zip(grid[first : first + count].ravel(), panel, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            title = labels[run] if run else f"Micrograph {example.number}"
            text = f"{plural(len(object_ids(example.label)), 'labeled object')}\nin {example.domain}"
            if run:
                text = summary(outcomes_by_run[run])
                draw_outcomes(axes, label, example.predictions[run][window], outcomes_by_run[run])
            else:
                outline(axes, label, object_ids(label), color=TRUE, width=0.9)
            axes.set_title(title, pad=26)
            look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "color": MUTED}
            axes.annotate(text, (0, 1), (0, 4), **look).set_in_layout(False)  # the title's pad has room for it
        first += count
    draw_legend(figure)
    return figure


def draw_legend(figure: Figure) -> None:
    """Draws what outlines and fills mean above the figure."""
    handles = [Patch(facecolor="#4a4f57", edgecolor=TRUE, label="labeled")]
    handles += [Patch(facecolor=to_rgba(color, 0.5), edgecolor=color, label=name) for color, name in KINDS.values()]
    handles.append(Patch(facecolor=to_rgba(MISS, 0.5), edgecolor=MISS, linestyle=(0, (2, 1.2)), label="missed"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.2, handleheight=1, borderpad=0.9)


def object_ids(labels: np.ndarray) -> list[int]:
    return [int(label_id) for label_id in np.unique(labels[labels > 0])]


def draw_outcomes(axes: Axes, label: np.ndarray, predicted: np.ndarray, outcome: Outcomes) -> None:
    """Draws what was missed, dashed, over all labeled outlines, then the predicted ones by kind, errors filled."""
    outline(axes, label, object_ids(label), color=TRUE, width=0.55)
    outline(axes, label, outcome.missed, color=MISS, width=1.2, fill=FILL, dashed=True)
    for kind, (color, _) in KINDS.items():
        width, fill = (0.9, 0.0) if kind == "hit" else (1.3, FILL)
        outline(axes, predicted, outcome.predicted[kind], color=color, width=width, fill=fill)


def outline(
    axes: Axes,
    labels: np.ndarray,
    ids: Sequence[int],
    *,
    color: str,
    width: float,
    fill: float = 0.0,
    dashed: bool = False,
) -> None:
    """Draws the outlines of the objects of these ids in a part of a label map."""
    from skimage.measure import approximate_polygon, find_contours, regionprops  # takes 2 s to import

    outlines, selected = [], set(ids)
    for region in regionprops(np.maximum(labels, 0)):
        if region.label in selected:
            corner = np.array(region.bbox[:2]) - 1  # of the padded mask of the object, where outlines close
            for line in find_contours(np.pad(region.image, 1).astype(float), 0.5):
                outlines.append((approximate_polygon(line, TOLERANCE_PX) + corner)[:, ::-1])
    dashes = [(0, (2.2, 1.4))] if dashed else "solid"
    look = {"facecolors": to_rgba(color, fill), "edgecolors": color, "linewidths": width, "linestyles": dashes}
    axes.add_collection(PolyCollection(outlines, **look), autolim=False)
