"""Where objects were merged, split, missed or invented: crops of the same micrographs, one for each representation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from skimage.measure import approximate_polygon, find_contours, regionprops

from segue.labels import matching
from segue.reporting.figures.examples import FALSE_ALARM, HIT, MISS, grey_levels
from segue.reporting.figures.style import MUTED, Drawing, bare, sheet, style
from segue.reporting.page.formatting import listed, several
from segue.study.table import ObjectExample

TRUE = "#ffffff"
# Okabe and Ito's yellow and reddish purple, the latter brighter for grey images
MERGED, SPLIT = "#f5e642", "#f08cc8"
KINDS: Mapping[str, tuple[str, str]] = {
    "hit": (HIT, "found"),
    "merged": (MERGED, "merged: joins several labelled objects"),
    "split": (SPLIT, "split: part of one that was cut"),
    "false": (FALSE_ALARM, "false: no labelled object fits"),
}
FILL = 0.3
CROP_DIAMETERS = 8  # how many objects of median size fit side by side in a crop
SMALLEST_CROP_PX, LARGEST_CROP_PX = 80, 320
MOST_BESIDE = 5  # panels; more stand in two lines
TOLERANCE_PX = 0.25  # by how much outlines are simplified, which makes them a fifth as long


@dataclass(frozen=True)
class Outcomes:
    """What became of objects: ids of the predicted ones by kind, in the order of `KINDS`, and of labelled ones missed.

    `false` have no match at IoU 0.5, nor are `missed` matched; an object of poor outline can be both. What takes part
    in a merge or a split is not counted again.
    """

    predicted: Mapping[str, tuple[int, ...]]
    missed: tuple[int, ...]
    merges: int
    splits: int

    @property
    def words(self) -> str:
        """The counts, in two lines."""
        false, missed = len(self.predicted["false"]), len(self.missed)
        merges, splits = several(self.merges, "merge"), several(self.splits, "split")
        return f"{merges}, {splits},\n{missed} missed, {false} false"


def outcomes(label: np.ndarray, predicted: np.ndarray) -> Outcomes:
    """Returns what became of the objects of a label map (H, W), -1 ignored, and of a predicted one.

    Merges and splits are those of `evaluation.overlap`. Predicted objects on ignored pixels are of no kind.
    """
    table = matching.overlap(label, predicted)
    matched = matching.match(table, 0.5)
    merges, splits = matching.merges(table), matching.splits(table)
    merged = set(merges)
    parts = {part for found in splits.values() for part in found} - merged
    hits = set(matched.predicted_ids.tolist()) - merged - parts
    rest = set(table.predicted_ids.tolist()) - merged - parts - hits
    told = set(splits) | {one for found in merges.values() for one in found}
    kinds = {"hit": hits, "merged": merged, "split": parts, "false": rest}
    missed = sorted(set(matched.missed_ids.tolist()) - told)
    return Outcomes({kind: tuple(sorted(ids)) for kind, ids in kinds.items()}, tuple(missed), len(merges), len(splits))


def crop(example: ObjectExample, found: Mapping[str, Outcomes]) -> tuple[slice, slice]:
    """Returns the square, or what of it the image has, that holds most wrong objects of all predictions together.

    Its side is `CROP_DIAMETERS` median diameters of labelled objects, within bounds; of equals the first in rows.
    """
    height, width = example.label.shape
    _, areas = np.unique(example.label[example.label > 0], return_counts=True)
    diameter = 2 * np.sqrt(np.median(areas) / np.pi) if areas.size else 0.0
    side = round(min(max(CROP_DIAMETERS * diameter, SMALLEST_CROP_PX), LARGEST_CROP_PX))
    rows, columns = min(side, height), min(side, width)
    wrong = np.zeros((height, width))  # each object adds one in all, spread over its pixels
    for run, outcome in found.items():
        predicted = example.predictions[run]
        ids = [one for kind, of_kind in outcome.predicted.items() if kind != "hit" for one in of_kind]
        wrong += _spread(predicted, ids) + _spread(example.label, outcome.missed)
    summed = np.pad(wrong, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = summed[rows:, columns:] - summed[:-rows, columns:] - summed[rows:, :-columns] + summed[:-rows, :-columns]
    top, left = np.unravel_index(np.argmax(inside >= inside.max() - 1e-6), inside.shape)
    return slice(int(top), int(top) + rows), slice(int(left), int(left) + columns)


def _spread(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Returns 1 / area on the pixels of the objects named, else 0."""
    weights = np.zeros(int(labels.max(initial=0)) + 1)
    if ids:
        areas = np.bincount(labels[labels > 0], minlength=weights.size)
        chosen = np.array(ids)
        weights[chosen] = 1 / areas[chosen]
    return weights[np.maximum(labels, 0)]


def failures_drawing(examples: Sequence[ObjectExample], names: Mapping[str, str]) -> Drawing | None:
    """Returns the crops with their legend; `names` says what each run stands for. None without examples."""
    examples = [example for example in examples if example.predictions]
    if not examples:
        return None
    with style():
        figure = _figure(examples, names)
    several_domains = len({example.domain for example in examples}) > 1
    numbers = listed([f"{f'{one.domain} ' if several_domains else ''}{one.number}" for one in examples])
    runs = len(examples[0].predictions)
    caption = (
        f"<strong>Where each fails.</strong> Held-out micrograph{'s' if len(examples) > 1 else ''} {numbers}: those on"
        f" which the {several(runs, 'typical run')} differ most in merges and splits. A typical run has the"
        " median value of its representation. Shown is the square with most wrong objects of all runs together; the"
        " counts are of the whole micrograph. White: labels. Grey levels are square roots, so that dim objects show."
        " Found means an overlap (IoU) of at least 0.5; where an outline is poorer than that, its object is missed"
        " and false at once. They illustrate; the figure above counts."
    )
    alt = f"Objects found, merged, split, missed and false by {listed([names[run] for run in examples[0].predictions])}"
    return Drawing("failures", figure, caption, alt)


def _figure(examples: Sequence[ObjectExample], names: Mapping[str, str]) -> Figure:
    panels = [["", *example.predictions] for example in examples]
    most = max(map(len, panels))
    columns = most if most <= MOST_BESIDE else -(-most // 2)
    lines = [-(-len(panel) // columns) for panel in panels]
    figure = sheet(0.75 + (9.6 / columns + 0.5) * sum(lines))
    every = figure.subplots(sum(lines), columns, squeeze=False)
    for axes in every.ravel():
        bare(axes)
    first = 0
    for example, panel, count in zip(examples, panels, lines, strict=True):
        found = {run: outcomes(example.label, labels) for run, labels in example.predictions.items()}
        where = crop(example, found)
        shown, label = np.sqrt(grey_levels(example.image)[where] / 255), example.label[where]
        for axes, run in zip(every[first : first + count].ravel(), panel, strict=False):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
            title, told = (
                f"Micrograph {example.number}",
                f"{several(len(_ids(example.label)), 'labelled object')}\nin {example.domain}",
            )
            if run:
                title, told = names[run], found[run].words
                _draw(axes, label, example.predictions[run][where], found[run])
            else:
                _outline(axes, label, _ids(label), ink=TRUE, width=0.9)
            axes.set_title(title, pad=26)
            below = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "color": MUTED}
            axes.annotate(told, (0, 1), (0, 4), **below).set_in_layout(False)  # the title's space holds it
        first += count
    handles = [Patch(facecolor="#4a4f57", edgecolor=TRUE, label="labelled")]
    handles += [Patch(facecolor=to_rgba(ink, 0.5), edgecolor=ink, label=words) for ink, words in KINDS.values()]
    handles.append(Patch(facecolor=to_rgba(MISS, 0.5), edgecolor=MISS, linestyle=(0, (2, 1.2)), label="missed"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.2, handleheight=1, borderpad=0.9)
    return figure


def _ids(labels: np.ndarray) -> list[int]:
    return [int(one) for one in np.unique(labels[labels > 0])]


def _draw(axes: Axes, label: np.ndarray, predicted: np.ndarray, found: Outcomes) -> None:
    """Draws what was missed, dashed, over all labelled outlines, then the predicted ones by kind, errors filled."""
    _outline(axes, label, _ids(label), ink=TRUE, width=0.55)
    _outline(axes, label, found.missed, ink=MISS, width=1.2, fill=FILL, dashed=True)
    for kind, (ink, _) in KINDS.items():
        right = kind == "hit"
        _outline(
            axes, predicted, found.predicted[kind], ink=ink, width=0.9 if right else 1.3, fill=0 if right else FILL
        )


def _outline(
    axes: Axes,
    labels: np.ndarray,
    ids: Sequence[int],
    *,
    ink: str,
    width: float,
    fill: float = 0.0,
    dashed: bool = False,
) -> None:
    """Draws the outlines of the objects of these ids in a cut of a label map."""
    wanted = set(ids)
    outlines = []
    for region in regionprops(np.maximum(labels, 0)):
        if region.label in wanted:
            corner = np.array(region.bbox[:2]) - 1  # of the padded picture of the object, where outlines close
            for line in find_contours(np.pad(region.image, 1).astype(float), 0.5):
                outlines.append((approximate_polygon(line, TOLERANCE_PX) + corner)[:, ::-1])
    dashes = [(0, (2.2, 1.4))] if dashed else "solid"
    drawn = PolyCollection(outlines, facecolors=to_rgba(ink, fill), edgecolors=ink, linewidths=width, linestyles=dashes)
    axes.add_collection(drawn, autolim=False)
