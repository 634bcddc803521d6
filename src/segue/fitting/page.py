"""The page of a fit: the answer, candidates on held-out images, learning curves, best and worst images, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from skimage.segmentation import find_boundaries

from segue.data.formats.stack import RGB
from segue.evaluation.folder import predict_image
from segue.fitting.learning_curve import LearningCurve
from segue.fitting.next_images import NextImage
from segue.fitting.rules import Choice
from segue.fitting.scoring import Scores, images_of
from segue.fitting.verdict import WORDS, Verdict, mean_score
from segue.inference import confidence
from segue.inference.predict import predict
from segue.reporting.analysis.result import Analysis
from segue.reporting.figures.intervals import Panel, intervals_figure
from segue.reporting.figures.predictions.examples import FALSE_ALARM, HIT, MISS, gray_levels
from segue.reporting.figures.style import CATEGORIES, MUTED, ReportFigure, hide_axes, new_figure, style
from segue.reporting.formatting import Table, format_number
from segue.reporting.page.rendering import render_figure, render_page
from segue.training.run_folder import RunFolder, load_run

MAX_CROP_PX = 320  # of an example's side
LOG_FROM = 30  # times the least loss, above which the axis of losses is logarithmic
EXAMPLES = 3  # worst and best each
MAX_RANKED = 20  # images to label next that the page lists
MIN_OBJECTS = 5  # in a bin of confidence that is drawn


@dataclass(frozen=True)
class PageContent:
    """What the page needs. validation, test: candidate -> scores of images; runs: training -> its run of each fold;
    chosen_runs: dataset -> the run of the chosen candidate that was tested on it; datasets: by the same names."""

    title: str
    answer: Sequence[str]
    seen: Sequence[str]
    choices: Sequence[Choice]
    verdict: Verdict
    validation: Mapping[str, Scores]
    test: Mapping[str, Scores]
    score: str
    runs: Mapping[str, Sequence[Path]]
    model: Path
    datasets: Mapping[str, Path]
    chosen_runs: Mapping[str, Path]
    curve: LearningCurve | None
    ranked: Sequence[NextImage]
    command: str


def write_fit_page(content: PageContent, out: Path) -> None:
    """Writes the page, and its figures next to it as SVG and PNG."""
    folder = out.parent / f"{out.stem}-figures"
    folder.mkdir(exist_ok=True)
    figures = [
        candidates_figure(content) if len(content.test) > 1 else None,
        learning_curve_figure(content.curve, content) if content.curve else None,
        curves_figure(content),
        examples_figure(content),
        calibration_figure(content),
    ]
    render_page(
        out,
        "fit.html.j2",
        title=content.title,
        kind="fit",
        headline=content.answer[0],
        answer=content.answer[1:],
        seen=content.seen,
        candidates=candidates_table(content),
        labels=labels_table(content.curve, content) if content.curve else None,
        ranked=ranking_table(content.ranked) if content.ranked else None,
        choices=choices_table(content.choices),
        rendered=[render_figure(figure, folder) for figure in figures if figure is not None],
        command=content.command,
    )


def candidates_table(content: PageContent) -> Table:
    """Returns each candidate with its scores, and how the selected training compares with it."""
    verdict = content.verdict
    columns = ["candidate", f"{content.score}, validation", f"{content.score}, held-out", "selected training − it", ""]
    columns = columns if verdict.against else columns[:3]
    rows: list[list[str | tuple[str, str]]] = []
    for name, scores in sorted(content.test.items(), key=lambda item: -mean_score(item[1]).mean):
        marks = [mark for mark, of in (("chosen", verdict.chosen), ("selected", verdict.selected)) if of == name]
        mean = mean_score(scores)
        against = verdict.against.get(name)
        row: list[str | tuple[str, str]] = [
            name + (f" ({', '.join(marks)})" if marks else ""),
            format_number(mean_score(content.validation[name]).mean),
            mean.text(),
            against.text(signed=True) if against else "",
            WORDS[against.relation].partition(":")[0] if against else "",
        ]
        rows.append(row[: len(columns)])
    return Table(columns, rows, numeric=(1, 2, 3)[: len(columns) - 1])


def labels_table(curve: LearningCurve, content: PageContent) -> Table:
    """Returns what is expected of more labels."""
    columns = ["groups with labels", f"{content.score} of trainings", f"{content.score}, expected", "gain, expected"]
    rows: list[list[str | tuple[str, str]]] = []
    for one in curve.forecasts:
        scores = ", ".join(format_number(each.score) for each in curve.trainings if each.groups == one.groups)
        rows.append([f"{one.groups:,}", scores, one.text(), one.gain_text() if one.groups > curve.most else ""])
    return Table(columns, rows, numeric=(0, 2, 3), summary="Expected of more labels")


def ranking_table(ranked: Sequence[NextImage]) -> Table:
    """Returns the first images to label next."""
    rows: list[list[str | tuple[str, str]]] = [
        [str(one.rank), Path(one.image).name, format_number(one.disagreement), format_number(one.distance)]
        for one in ranked[:MAX_RANKED]
    ]
    summary = f"Images to label next, {len(rows)} of {len(ranked)}"
    return Table(["", "image", "disagreement, nats", "distance"], rows, numeric=(0, 2, 3), summary=summary)


def learning_curve_figure(curve: LearningCurve, content: PageContent) -> ReportFigure:
    """Returns the scores of trainings on fewer groups and the curve through them, to four times the labels."""
    with style():
        figure = new_figure(3.4)
        axes = figure.subplots()
        groups = [one.groups for one in curve.forecasts]
        low, high = ([getattr(one, name) for one in curve.forecasts] for name in ("low", "high"))
        axes.fill_between(groups, low, high, color=CATEGORIES[0], alpha=0.15, linewidth=0)
        axes.plot(groups, [one.score for one in curve.forecasts], color=CATEGORIES[0])
        axes.plot(
            [one.groups for one in curve.trainings], [one.score for one in curve.trainings], "o", color=CATEGORIES[0]
        )
        axes.axvline(curve.most, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(groups, labels=[f"{one:,}" for one in groups])
        axes.set(xlabel="groups with labels", ylabel=f"{content.score}, held-out images")
    caption = (
        f"{content.verdict.selected}: points are trainings on nested subsets, all with about as many steps; the line is"
        " the curve through them, its band where 95 % of trainings on other groups are expected, scored on the same"
        " held-out images. It never falls with more labels, so that gains are above 0 by construction. Validation"
        " images are the same for all. Dotted: all groups with labels."
    )
    return ReportFigure("labels", figure, "How many labels.", caption, "Scores by the number of groups with labels")


def choices_table(choices: Sequence[Choice]) -> Table:
    rows = [[choice.setting, _setting(choice.value), choice.reason] for choice in choices]
    return Table(["setting", "value", "why"], rows, summary="Settings and why")


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            _setting(entry) if key == "name" else f"{key} {_setting(entry)}" for key, entry in value.items()
        )
    return " to ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def candidates_figure(content: PageContent) -> ReportFigure:
    """Returns the scores of the candidates, and the differences of the selected training from the others."""
    rows = []
    for name, scores in content.test.items():
        mean = mean_score(scores)
        rows.append({"candidate": name, "score": mean.mean, "score_low": mean.low, "score_high": mean.high})
    table = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable")
    some = mean_score(next(iter(content.test.values())))
    note = (
        f"On {some.images} held-out images of {some.groups} groups. Lines are 95 % intervals over images, clustered by "
        "group (Student's t)."
    )
    panels = [Panel(Analysis("", table, (note,)), {"score": ""}, "candidate", content.score, content.score)]
    against = [
        {"candidate": name, "difference": each.mean, "difference_low": each.low, "difference_high": each.high}
        for name, each in content.verdict.against.items()
    ]
    if against:
        title = "selected training − it, paired"
        frame = pd.DataFrame(against)
        panels.append(Panel(Analysis("", frame), {"difference": ""}, "candidate", title, "difference", zero=True))
    return intervals_figure("candidates", panels, "Candidates on held-out images", "Scores of the candidates")


def curves_figure(content: PageContent) -> ReportFigure | None:
    """Returns the losses of training and validation by epoch; of several folds a line each. None of a single epoch."""
    histories = {name: [RunFolder(run).read_history() for run in runs] for name, runs in content.runs.items()}
    if all(len(history) == 1 for of_folds in histories.values() for history in of_folds):
        return None
    with style():
        figure = new_figure(3.6)
        panels = figure.subplots(1, 2, sharex=True)
        for (name, of_folds), color in zip(histories.items(), CATEGORIES, strict=False):
            for place, history in enumerate(of_folds):
                look = {"color": color, "linewidth": 1.4 if len(of_folds) == 1 else 0.9}
                for axes, part in zip(panels, ("train", "validation"), strict=True):
                    label = name if not place and part == "train" else None
                    marker = "o" if len(history) == 1 else None
                    axes.plot(history["epoch"], history[f"{part}_loss_adjusted"], label=label, marker=marker, **look)
        for axes, part in zip(panels, ("training", "validation"), strict=True):
            axes.set(xlabel="epoch", title=f"{part} loss")
            axes.set_xlim(0.5, axes.dataLim.x1 + 0.5)
            low, high = axes.dataLim.intervaly
            if low > 0 and high > LOG_FROM * low:  # else the first epochs of new weights leave nothing to see
                axes.set_yscale("log")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        figure.legend(loc="outside upper left", ncols=2)
    several = " A line for each fold." if any(len(of_folds) > 1 for of_folds in histories.values()) else ""
    caption = f"Loss minus its least value; losses of different targets are different quantities.{several}"
    return ReportFigure("curves", figure, "Learning curves.", caption, "Losses by epoch")


def examples_figure(content: PageContent) -> ReportFigure:
    """Returns the held-out images on which the chosen candidate is worst and best, with outlines."""
    scores = content.test[content.verdict.chosen]
    order = sorted(scores, key=lambda name: scores[name]["score"])
    count = min(EXAMPLES, (len(order) + 1) // 2)
    chosen = list(dict.fromkeys([*order[:count], *order[-count:]]))
    with style():
        figure = new_figure(0.6 + 5.0 * -(-len(chosen) // EXAMPLES) * 0.68)
        grid = figure.subplots(-(-len(chosen) // EXAMPLES), EXAMPLES, squeeze=False).ravel()
        for axes in grid:
            hide_axes(axes)
        for dataset_name, dataset in content.datasets.items():
            images, _ = images_of(dataset, "test")
            present = [one for one in images if one.name in chosen]
            model = load_run(content.chosen_runs[dataset_name]) if present else None
            for one in present:
                assert model is not None
                axes = grid[chosen.index(one.name)]
                predicted = np.asarray(predict(model, one.image))
                image = one.image if model.channels == RGB else one.image.mean(0, keepdims=True)
                _draw_outlines(axes, image, one.labels, predicted)
                axes.set_title(f"{scores[one.name]['score']:.2f}  {_short(one.name)}", fontsize=8)
    caption = (
        f"{content.verdict.chosen}: the worst and the best held-out images by {content.score} (numbers). Blue:"
        " labeled; orange: predicted; green: both. Large images are cut to a part with labels."
    )
    return ReportFigure("examples", figure, "Worst and best.", caption, "Held-out images with outlines")


def _draw_outlines(axes: Any, image: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> None:
    """Draws outlines over an image (3, H, W) in color, or (1, H, W) in gray."""
    window = _window(labels)
    image, labels, predicted = image[:, *window], labels[window], predicted[window]
    levels = (0.85 * gray_levels(image)).astype(np.uint8)
    rgb = np.repeat(levels, 3 // len(levels), axis=0).transpose(1, 2, 0)
    true, predicted = (find_boundaries(np.maximum(one, 0), mode="inner") for one in (labels, predicted))
    for mask, color in ((true, MISS), (predicted, FALSE_ALARM), (true & predicted, HIT)):
        rgb[mask] = list(bytes.fromhex(color[1:]))
    axes.imshow(rgb)


def _window(labels: np.ndarray) -> tuple[slice, slice]:
    """Returns the part of a large image around the middle of what is labeled."""
    places = np.argwhere(labels > 0)
    center = np.median(places, axis=0) if len(places) else np.array(labels.shape) / 2
    slices = []
    for size, middle in zip(labels.shape, center, strict=True):
        side = min(size, MAX_CROP_PX)
        start = int(min(max(0, middle - side / 2), size - side))
        slices.append(slice(start, start + side))
    return slices[0], slices[1]


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:16]}…{name[-16:]}"


def calibration_figure(content: PageContent) -> ReportFigure | None:
    """Returns confidence against IoU of the objects in held-out images; None without a calibrated confidence."""
    bins: list[np.ndarray] = []
    for run in content.runs.get(content.verdict.chosen, ()):
        folder = RunFolder(run)
        for file in sorted(folder.evaluations.glob("*.json")):
            if not file.name.endswith(".timing.json"):
                bins += [np.array(image, dtype=float) for image in folder.read(file).get("reliability", ())]
    if content.verdict.chosen not in content.runs:  # an untouched parent, which was not evaluated in a study
        model = load_run(content.model)
        for dataset in content.datasets.values() if model.confidence else ():
            images, layer = images_of(dataset, "test")
            for one in images:
                predicted, expected = predict_image(model, one.image, layer.kind)
                if expected is not None:
                    ids, iou = confidence.best_iou(one.labels, predicted)
                    bins.append(confidence.reliability(expected[ids], iou))
    total = np.sum(bins, axis=0) if bins else np.zeros((1, 3))
    is_drawn = total[:, 0] >= MIN_OBJECTS
    if not is_drawn.any():
        return None
    count, expected, actual = total[is_drawn].T
    with style():
        figure: Figure = new_figure(3.6)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
        axes.plot(expected / count, actual / count, "o-", color=CATEGORIES[0], linewidth=1.4)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="confidence: expected IoU", ylabel="mean IoU with the best true object")
    caption = (
        f"{int(total[:, 0].sum()):,} predicted objects in held-out images, by confidence; expected calibration error "
        f"{confidence.calibration_error(total):.3f}. On the dashed line, objects are as good as was expected."
    )
    return ReportFigure("calibration", figure, "Confidence of objects.", caption, "IoU against confidence")
