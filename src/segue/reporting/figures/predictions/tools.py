"""Figures of tools compared on the same images: scores, errors, image by image, and examples of disagreement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segue.data.formats.stack import RGB
from segue.data.image_io import read_stack
from segue.errors import SegueError
from segue.evaluation.object_metrics import THRESHOLDS
from segue.evaluation.outcomes import outcomes
from segue.reporting.analysis.result import Analysis
from segue.reporting.figures.intervals import MAX_ROWS, Panel, intervals_figure
from segue.reporting.figures.predictions.examples import draw_examples, gray_levels
from segue.reporting.figures.predictions.failures import (
    TRUE,
    draw_legend,
    draw_outcomes,
    object_ids,
    outline,
    square,
    summary,
    wrong_objects,
)
from segue.reporting.figures.style import (
    GAP_IN,
    MUTED,
    PAPER,
    WIDTH_IN,
    ReportFigure,
    Tooltips,
    category_colors,
    hide_axes,
    new_figure,
    plain_ticks,
    shorten,
    style,
)
from segue.reporting.formatting import format_number, join_names, metric_for, plural
from segue.reporting.tables.tool_comparison import ERRORS, ToolComparison
from segue.study.table import Example

MAX_PANELS = 6  # of tools against the first
MAX_EXAMPLES = 4
MAX_TOOLS = 4  # of which an example is drawn
ERROR_NAMES = dict(zip(ERRORS, ("merges", "splits", "missed", "false"), strict=True))


def scores_figure(comparison: ToolComparison) -> ReportFigure:
    """Returns the main scores of every tool with intervals, and their differences to the first."""
    names = [name for name in comparison.main_scores if not name.startswith("count")]
    names = names[: max(1, MAX_ROWS // len(comparison.tools))]
    panels = []
    series = {"pooled": "pooled", "image_mean": "mean of images"}
    tables = {"Scores": comparison.scores, "Differences": comparison.differences}
    for title, table in tables.items():
        if table.empty:
            continue
        rows = table[table["score"].isin(names)].copy()
        rows["label"] = [metric_for(name).label for name in rows["score"]]
        rows = rows.sort_values("score", key=lambda column: column.map(names.index), kind="stable")
        is_difference = title == "Differences"
        axis = f"minus {comparison.tools[0]}" if is_difference else ""
        panels.append(Panel(Analysis(title, rows), series, "tool", title, axis, "label", zero=is_difference))
    figure = intervals_figure("scores", panels, "Scores", f"Scores of {join_names(comparison.tools)} with intervals")
    return replace(figure, caption="Bars are 95 % intervals over images, resampled by group; see Methods.")


def errors_figure(comparison: ToolComparison) -> ReportFigure | None:
    """Returns average precision by IoU threshold, and errors in 100 labeled objects; None for classes."""
    if comparison.counts.spec.classes:
        return None
    colors, tooltips = category_colors(comparison.tools), Tooltips()
    with style():
        figure = new_figure(3.3)
        left, right = figure.subplots(1, 2)
        for place, tool in enumerate(comparison.tools):
            values = [comparison.score_of(tool, f"ap{round(100 * t)}")["pooled"] for t in THRESHOLDS]
            left.plot(THRESHOLDS, values, "o-", color=colors[tool], markersize=4, label=tool)
            offset = 0.7 * ((place + 0.5) / len(comparison.tools) - 0.5)
            for at, name in enumerate(ERRORS):
                row = comparison.score_of(tool, name)
                value, low, high = (float(row[f"pooled{end}"]) for end in ("", "_low", "_high"))
                right.plot([at + offset] * 2, [low, high], color=colors[tool], linewidth=1.6)
                look = {"color": colors[tool], "markersize": 6, "markeredgecolor": PAPER, "linestyle": ""}
                (mark,) = right.plot([at + offset], [value], "o", **look)
                text = f"{tool}, {ERROR_NAMES[name]}: {format_number(value)}"
                tooltips.add(mark, f"{text} [{format_number(low)}, {format_number(high)}]")
        left.set(xlabel="IoU from which an object counts", ylim=(0, 1.02))
        left.set_title("a · Average precision")
        right.set_xticks(range(len(ERRORS)), list(ERROR_NAMES.values()))
        right.set_ylim(bottom=0)
        right.grid(axis="x", visible=False)
        right.set_title("b · Errors in 100 labeled objects")
        for axes in (left, right):
            axes.yaxis.set_major_formatter(plain_ticks())
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    caption = (
        "All images together, with 95 % intervals. Average precision is TP / (TP + FP + FN). A merge is a predicted"
        " object that holds more than half of each of several labeled ones, a split a labeled object that holds more"
        " than half of each of several predicted ones. Missed and false objects have no match at IoU 0.5, and no part"
        " in a merge or split."
    )
    alt = f"Average precision and errors of {join_names(comparison.tools)}"
    return ReportFigure("errors", figure, "Matches and errors.", caption, alt, tooltips)


def scatter_figure(comparison: ToolComparison) -> ReportFigure | None:
    """Returns the main score of every image, each tool against the first; None for a single tool."""
    first, *others = comparison.tools
    if not others:
        return None
    score = comparison.main_scores[0]
    values = {tool: comparison.counts.counts[tool].scores()[score] for tool in comparison.tools}
    columns, tooltips = min(3, len(others[:MAX_PANELS])), Tooltips()
    lines = -(-len(others[:MAX_PANELS]) // columns)
    low = max(0.0, float(np.nanmin(list(values.values()), initial=1.0)) - 0.05)
    with style():
        figure = new_figure(3.6 * lines if columns > 1 else 4.2)
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(others[:MAX_PANELS]) :]:
            axes.set_visible(False)
        for axes, tool in zip(grid, others, strict=False):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
            for image, x, y in zip(comparison.counts.images, values[first], values[tool], strict=True):
                color = category_colors(comparison.tools)[tool if y > x else first] if x != y else MUTED
                (mark,) = axes.plot([x], [y], "o", color=color, markersize=5, markeredgecolor=PAPER, linestyle="")
                tooltips.add(mark, f"{image}: {first} {format_number(x)}, {tool} {format_number(y)}")
            axes.set(xlim=(low, 1.02), ylim=(low, 1.02), xlabel=first, ylabel=tool, aspect="equal")
            row = comparison.difference_of(tool, score)
            axes.set_title(f"{tool} better on {row['wins']}, worse on {row['losses']}", pad=8)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5))
                axis.set_major_formatter(plain_ticks())
    more = f" The first {MAX_PANELS} tools are drawn." if len(others) > MAX_PANELS else ""
    caption = f"A point is an image, its {metric_for(score).label}; the color is that of the better tool.{more}"
    return ReportFigure("scatter", figure, "Image by image.", caption, f"Scores of images against {first}", tooltips)


# examples


def chosen_images(comparison: ToolComparison) -> list[int]:
    """Returns the images whose main score differs most between tools, of a single tool the worst; in this order."""
    score = comparison.main_scores[0]
    values = np.stack([comparison.counts.counts[tool].scores()[score] for tool in comparison.tools])
    defined = np.asarray(np.isfinite(values).all(axis=0))
    spread = values.max(0) - values.min(0) if len(values) > 1 else 1 - values[0]
    order = np.argsort(np.where(defined, -spread, 1), kind="stable")
    return [int(index) for index in order if defined[index] and spread[index] > 0][:MAX_EXAMPLES]


def disagreement_figure(comparison: ToolComparison) -> ReportFigure | None:
    """Returns crops of the images on which tools differ most, where their objects or classes differ most; or None."""
    chosen = chosen_images(comparison)
    if not chosen:
        return None
    tools = comparison.tools[:MAX_TOOLS]
    draw = _draw_classes if comparison.counts.spec.classes else _draw_objects
    with style():
        figure = draw(comparison, chosen, tools)
    score = metric_for(comparison.main_scores[0]).label
    which = f"whose {score} differs most between tools" if len(comparison.tools) > 1 else f"of lowest {score}"
    where = "where the objects that they get wrong differ most" if len(tools) > 1 else "with most wrong objects"
    if comparison.counts.spec.classes:
        where = "where they differ most" if len(tools) > 1 else "with most wrong pixels"
    others = comparison.tools[MAX_TOOLS:]
    without = f" Not drawn: {join_names(others)}." if others else ""
    without += "" if comparison.counts.image_files else " No images were given, so that outlines are on black."
    caption = (
        f"The {plural(len(chosen), 'image')} {which}, each cut to the square {where}; counts are of the whole image. "
        f"They are illustrations.{without}"
    )
    return ReportFigure("disagreement", figure, "Disagreement.", caption, f"Examples of {join_names(tools)}")


def _draw_objects(comparison: ToolComparison, chosen: list[int], tools: list[str]) -> Figure:
    columns = len(tools) + 1
    figure = new_figure(0.75 + (9.6 / columns + 0.5) * len(chosen))
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    score = comparison.main_scores[0]
    scores = {tool: comparison.counts.counts[tool].scores()[score] for tool in tools}
    for line, index in zip(grid, chosen, strict=True):
        label = comparison.counts.labels.read(index)
        predicted = {tool: comparison.counts.sources[tool].read(index) for tool in tools}
        by_tool = {tool: outcomes(label, one) for tool, one in predicted.items()}
        wrong = np.stack([wrong_objects(label, predicted[tool], by_tool[tool]) for tool in tools])
        window = square(label, wrong.max(0) - wrong.min(0) if len(tools) > 1 else wrong[0])
        picture = gray_levels(background(comparison, index))[window] / 255
        picture = np.sqrt(picture) if picture.ndim == 2 else picture  # dim objects of fluorescence are to be seen
        name = comparison.counts.images[index]
        for axes, tool in zip(line, ["", *tools], strict=True):
            hide_axes(axes)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            if tool:
                draw_outcomes(axes, label[window], predicted[tool][window], by_tool[tool])
                text = f"{format_number(float(scores[tool][index]))} · {summary(by_tool[tool])}"
            else:
                outline(axes, label[window], object_ids(label[window]), color=TRUE, width=0.9)
                text = f"{plural(len(object_ids(label)), 'labeled object')}\n"
            _title(axes, shorten(tool or name, WIDTH_IN / columns - GAP_IN), text)
    draw_legend(figure)
    return figure


def _title(axes: Axes, title: str, text: str) -> None:
    axes.set_title(title, pad=26)
    look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "color": MUTED}
    axes.annotate(text, (0, 1), (0, 4), **look).set_in_layout(False)  # the title's pad has room for it


def _draw_classes(comparison: ToolComparison, chosen: list[int], tools: list[str]) -> Figure:
    examples = []
    for index in chosen:
        label = comparison.counts.labels.read(index)
        predicted = {tool: comparison.counts.sources[tool].read(index) for tool in tools}
        stacked = np.stack([*predicted.values(), *([label] if len(tools) == 1 else [])])
        differ = ((stacked != stacked[0]).any(0) & (label >= 0)).astype(float)
        window = square(np.zeros_like(label), differ) if min(label.shape) <= 320 else _large_square(differ)
        cut = {tool: one[window] for tool, one in predicted.items()}
        name = comparison.counts.images[index]
        examples.append(Example(background(comparison, index)[window], label[window], name, cut))
    return draw_examples(examples)


def _large_square(weights: np.ndarray) -> tuple[slice, slice]:
    return square(np.pad(np.ones((320, 320), int), ((0, weights.shape[0] - 320), (0, weights.shape[1] - 320))), weights)


def background(comparison: ToolComparison, index: int) -> np.ndarray:
    """Returns the image behind outlines, float: (H, W, 3) in color, or (H, W), the mean of its channels; black where no
    images were given."""
    files = comparison.counts.image_files
    label = comparison.counts.labels.read(index)
    if files is None:
        return np.zeros(label.shape)
    path, page = Path(files[index].path), files[index].page
    stack = read_stack(path)
    pages = [axis for axis, letter in enumerate(stack.axes) if letter in "TZQ" and stack.pixels.shape[axis] > 1]
    pixels = np.asarray(stack.pixels[tuple([slice(None)] * len(stack.axes))], dtype=float)
    axes = list(stack.axes)
    if page is not None and pages:
        pixels = pixels.take(page, axis=pages[0])
        axes.pop(pages[0])
    order = sorted(range(len(axes)), key=lambda axis: (axes[axis] in "YX", axes[axis] == "X"))
    pixels = pixels.transpose(order)
    image = pixels.reshape(-1, *pixels.shape[-2:])
    if image.shape[1:] != label.shape:
        raise SegueError(f"{path}: is {image.shape[1]} × {image.shape[2]} px, other than its label image; check it.")
    in_color = "S" in stack.axes and len(image) in (len(RGB), len(RGB) + 1)  # alpha, perhaps
    return image[: len(RGB)].transpose(1, 2, 0) if in_color else image.mean(0)
