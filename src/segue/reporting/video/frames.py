"""Drawing of the video of a training: the overlay on the image, the curves next to it, and the sheet of frames.

True positives of any class are green; a false negative and a false positive have the color of the class that was
missed or invented. A pixel of one foreground class that was given another is a false negative of its own and a false
positive of the other: it has the color of its own, labeled, class. Outlines are those of the labels, where the image
is enlarged, so that what is filled inside of one was missed and what is filled outside was invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from skimage.segmentation import find_boundaries

from segue.data.summary import palette_indices
from segue.evaluation import pixel_metrics
from segue.reporting.figures.style import AMBER, BROWN, GRID, INK, MUTED, PAPER, hide_axes, new_figure, style

# --- what is shown

HIT = "#00d68f"  # bluish and bright: apart from the red also for those who confuse red and green
# of live, dead and others: blue as DAPI, red as Cy5; dark enough for lines on paper, bright enough for gray images
CLASS_COLORS = ("#2f74ff", "#f0302c", "#9a48e8", AMBER, "#d12c8c", BROWN)
RATE = "learning rate"


@dataclass(frozen=True)
class VideoContext:
    """The constant content of a video.

    images (n, H, W) uint8 gray levels; truth (n, H, W) classes, −1 ignored; names of the classes, the background
    first; epochs shown, rising; curves: column of the history -> (epochs, values).
    """

    images: np.ndarray
    truth: np.ndarray
    names: tuple[str, ...]
    title: str
    subtitle: str
    epochs: tuple[int, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]

    @cached_property
    def colors(self) -> dict[int, str]:
        return class_colors(self.names)


@dataclass(frozen=True)
class VideoFrame:
    """One epoch's predictions: classes (n, H, W) uint8, and pixels per probability (K, 2, bins) of `histogram`."""

    epoch: int
    classes: np.ndarray
    counts: np.ndarray

    def precision_recall(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns precision and recall (K, bins), and the areas under their curves (K,)."""
        counts = torch.from_numpy(self.counts)
        precision, recall = pixel_metrics.precision_recall(counts)
        return precision.numpy(), recall.numpy(), pixel_metrics.average_precision(counts).numpy()


def class_colors(names: Sequence[str]) -> dict[int, str]:
    """Returns the color of each class by its number, from 1 on: live blue and dead red at any position."""
    return {k: CLASS_COLORS[place % len(CLASS_COLORS)] for k, place in enumerate(palette_indices(names), start=1)}


# --- the overlay

HIT_OPACITY, ERROR_OPACITY, IGNORED_OPACITY = 0.55, 0.72, 0.55
IGNORED_COLOR = "#9aa0a8"
BACKGROUND_CODE, HIT_CODE, IGNORED_CODE = 0, 1, 255  # of `outcomes`; the errors of class k have 1 + k
MIN_SIZE_PX = (640, 520)  # width and height up to which images are enlarged, by whole numbers
MAX_SIZE_PX = (960, 720)  # above which they are reduced
GAP_PX = 6  # between several images


def outcomes(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns uint8 codes of pixels: 0 true background, 1 a true positive, 1 + k an error of class k, 255 ignored.

    A foreground pixel that was given another foreground class is an error of its labeled class.

    >>> outcomes(np.array([0, 1, 1, 0, 1, -1]), np.array([0, 1, 0, 2, 2, 1])).tolist()
    [0, 1, 2, 3, 2, 255]
    """
    errors = np.where(truth > 0, truth, predicted) + 1
    codes = np.where(truth == predicted, np.minimum(truth, 1), errors).astype(np.uint8)
    codes[truth < 0] = IGNORED_CODE
    return codes


def outcome_colors(colors: Mapping[int, str]) -> np.ndarray:
    """Returns the color (256, 256, 3) uint8 of each code of `outcomes` on each gray level; `colors` by class."""
    gray = np.repeat(np.arange(256.0)[:, None], 3, axis=1)
    table = np.repeat(gray[None], 256, axis=0)
    inks = {HIT_CODE: (HIT, HIT_OPACITY), IGNORED_CODE: (IGNORED_COLOR, IGNORED_OPACITY)}
    inks |= {1 + k: (color, ERROR_OPACITY) for k, color in colors.items()}
    for code, (ink, opacity) in inks.items():
        table[code] = (1 - opacity) * gray + opacity * 255 * np.array(to_rgb(ink))
    return np.rint(table).astype(np.uint8)


class Overlay:
    """Colors the images of a video by the outcome of a frame, side by side at the size of the video."""

    def __init__(self, context: VideoContext) -> None:
        self.context = context
        self._table = outcome_colors(context.colors)
        count, height, width = context.images.shape
        scales = {columns: _scale(height, width, -(-count // columns), columns) for columns in range(1, count + 1)}
        self._columns = max(scales, key=lambda columns: (scales[columns], -abs(columns - count**0.5)))
        scale = scales[self._columns]
        self._size = (max(round(scale * height), 1), max(round(scale * width), 1))
        self.has_outlines = scale >= 2
        self._outlines = [self._outline(truth) for truth in context.truth] if self.has_outlines else []

    def _outline(self, truth: np.ndarray) -> np.ndarray:
        """Returns the labeled class (H, W) of the enlarged image on the rims of labels, 0 elsewhere."""
        large = self._resize(np.maximum(truth, 0).astype(np.uint8))
        return np.where(find_boundaries(large, mode="inner"), large, 0)

    def _resize(self, array: np.ndarray) -> np.ndarray:
        """Returns (H, W) or (H, W, 3) uint8 at the size of the video: enlarged as it is, reduced by means."""
        height, width = self._size
        if array.shape[:2] == (height, width):
            return array
        resample = Image.Resampling.NEAREST if self.has_outlines else Image.Resampling.BOX
        return np.asarray(Image.fromarray(array).resize((width, height), resample))

    def overlay(self, classes: np.ndarray) -> np.ndarray:
        """Returns the images with the outcome of `classes` (n, H, W), side by side (height, width, 3) uint8."""
        height, width = (side + GAP_PX for side in self._size)
        rows = -(-len(classes) // self._columns)
        shape = (rows * height - GAP_PX, self._columns * width - GAP_PX, 3)
        canvas = np.full(shape, np.rint(255 * np.array(to_rgb(PAPER))), np.uint8)
        for index, (image, truth) in enumerate(zip(self.context.images, self.context.truth, strict=True)):
            colored = self._resize(self._table[outcomes(truth, classes[index]), image]).copy()
            for k, color in self.context.colors.items() if self._outlines else ():
                colored[self._outlines[index] == k] = np.rint(255 * np.array(to_rgb(color)))
            top, left = index // self._columns * height, index % self._columns * width
            canvas[top : top + colored.shape[0], left : left + colored.shape[1]] = colored
        return canvas

    def colors(self) -> np.ndarray:
        """Returns pixels (codes, m, 3) uint8 of all colors that an overlay of this context may have."""
        codes = [BACKGROUND_CODE, HIT_CODE, *range(2, len(self.context.names) + 1)]
        codes += [IGNORED_CODE] if (self.context.truth < 0).any() else []
        return self._table[np.array(codes)[:, None], np.unique(self.context.images)[None]]

    def legend_handles(self) -> list[Patch]:
        names, colors = self.context.names, self.context.colors
        handles = [Patch(facecolor=HIT, label="true positive")]
        handles += [Patch(facecolor=color, label=f"{names[k]}: missed or invented") for k, color in colors.items()]
        if (self.context.truth < 0).any():
            handles.append(Patch(facecolor=IGNORED_COLOR, label="ignored"))
        if self.has_outlines:
            handles.append(Patch(facecolor="none", edgecolor=INK, label="outline: label"))
        return handles


def _scale(height: int, width: int, rows: int, columns: int) -> float:
    """Returns by how much an image is enlarged, by a whole number, or reduced, so that rows × columns of it fit."""
    enlarge, reduce = (
        min(((box[0] + GAP_PX) / columns - GAP_PX) / width, ((box[1] + GAP_PX) / rows - GAP_PX) / height)
        for box in (MIN_SIZE_PX, MAX_SIZE_PX)
    )
    return float(max(int(enlarge), min(1.0, reduce)))


# --- precision by recall

Steps = dict[int, np.ndarray]  # class -> the corners of its curve
CONFUSED = "one class taken for another: the label's color"


def stepped(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Returns the corners (m, 2) of the curve as steps, under which the area is the average precision.

    recall and precision (bins,) at falling thresholds; those where precision is NaN are left out.

    >>> stepped(np.array([0.0, 0.5, 1.0]), np.array([np.nan, 1.0, 0.8])).tolist()
    [[0.0, 1.0], [0.5, 1.0], [0.5, 0.8], [1.0, 0.8]]
    """
    known = np.isfinite(precision) & np.isfinite(recall)
    ends = recall[known]
    starts = np.concatenate([[0.0], ends[:-1]]) if ends.size else ends
    return np.column_stack([np.column_stack([starts, ends]).ravel(), np.repeat(precision[known], 2)])


def operating_points(truth: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns precision and recall (K,) of the predicted classes; NaN where nothing is predicted or labeled."""
    judged = truth >= 0
    pairs = truth[judged].astype(np.int64) * classes + predicted[judged]
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(float)
    with np.errstate(invalid="ignore"):
        return counts.diagonal() / counts.sum(0), counts.diagonal() / counts.sum(1)


def _draw_precision_recall(
    axes: Axes, context: VideoContext, frame: VideoFrame, earlier: Sequence[Steps] = (), *, areas_per_line: int
) -> Steps:
    """Draws the curves of a frame over faded `earlier` ones, the areas under them above, and returns the curves.

    Dots are the classes shown; dotted lines what guessing reaches: the share of each class.
    """
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.xaxis.labelpad, axes.yaxis.labelpad = 0, 4
    precision, recall, areas = frame.precision_recall()
    dots = np.transpose(operating_points(context.truth, frame.classes, len(context.names)))
    judged = max(int((context.truth >= 0).sum()), 1)
    curves = {k: stepped(recall[k], precision[k]) for k in context.colors}
    for k, color in context.colors.items():
        share = float((context.truth == k).sum()) / judged
        axes.axhline(share, color=color, linewidth=1, linestyle=(0, (1, 2)), alpha=0.8)
        for age, steps in enumerate(reversed(earlier), start=1):
            axes.plot(*steps[k].T, color=color, alpha=0.5 * FADE**age)
        axes.plot(*curves[k].T, color=color, linewidth=1.8)
        look: dict[str, Any] = {"markeredgecolor": "white", "markersize": 6, "clip_on": False, "zorder": 3}
        axes.plot(dots[k, 1:], dots[k, :1], "o", color=color, **look)
        line, column = divmod(k - 1, areas_per_line)
        area = "none here" if np.isnan(areas[k]) else f"{areas[k]:.3f}"
        look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8, "weight": "bold"}
        axes.annotate(
            f"{context.names[k]} {area}", (column / areas_per_line, 1), (0, 3 + 11 * line), color=color, **look
        )
    return curves


# --- a frame

MIN_HEIGHT_PX = 540
MARGIN_PX, HEAD_PX, LEGEND_PX, COLUMN_PX = 16, 58, 24, 408
CURVE_PX = 62  # from the image to the curves: room for the label of their axis
AREAS_PER_LINE, AREA_LINE_PX = 3, 18
DPI = 100
FADED_CURVES, FADE = 14, 0.8  # earlier curves that stay, and what remains of their opacity per epoch
TICK_PX = 14  # at least, from one to the next
TRACKS = {"loss": ("train_loss", "validation_loss"), RATE: ("lr",)}


class FrameRenderer:
    """Draws the frames of a video one after another."""

    def __init__(self, context: VideoContext) -> None:
        self.context = context
        self.overlay = Overlay(context)
        self._earlier: list[Steps] = []
        height, width = self.overlay.overlay(np.zeros(context.images.shape, np.uint8)).shape[:2]
        self._handles = self.overlay.legend_handles()
        self._legend_columns = max(1, min(len(self._handles), width // 172))
        self._legend_top = HEAD_PX + height + 2
        self._confused_top = self._legend_top + LEGEND_PX * -(-len(self._handles) // self._legend_columns)
        self._has_confusion = len(context.names) > 2
        bottom = self._confused_top + LEGEND_PX * self._has_confusion + MARGIN_PX
        self.size = (_even(max(MIN_HEIGHT_PX, bottom)), _even(MARGIN_PX + width + COLUMN_PX))  # in pixels
        self._right = MARGIN_PX + width + CURVE_PX  # where the curves begin

    def render(self, frame: VideoFrame) -> np.ndarray:
        """Returns the pixels of a frame (height, width, 3) uint8; epochs come in order, as earlier curves fade."""
        height, width = self.size
        with style():
            figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
            canvas = FigureCanvasAgg(figure)
            self._draw_texts(figure, canvas, frame)
            # precision by recall
            wide = width - self._right - MARGIN_PX
            top = HEAD_PX + AREA_LINE_PX * -(-len(self.context.colors) // AREAS_PER_LINE)
            room = height - top - MARGIN_PX - 22  # for three panels and the words below them
            tall = round(0.6 * room)
            axes = self._panel(figure, top, wide, tall)
            look = {"areas_per_line": AREAS_PER_LINE}
            curves = _draw_precision_recall(axes, self.context, frame, self._earlier, **look)
            self._earlier = [*self._earlier, curves][-FADED_CURVES:]
            # losses and learning rate
            top, track_px = top + tall + 48, (room - tall - 72) * 3 // 5
            for (label, columns), panel_px in zip(TRACKS.items(), (track_px, track_px * 2 // 3), strict=True):
                known = [column for column in columns if column in self.context.curves]
                if known:
                    _draw_tracks(self._panel(figure, top, wide, panel_px), self.context, frame, label, known, panel_px)
                    top += panel_px + 20
            canvas.draw()
        pixels = np.array(canvas.buffer_rgba())[..., :3]
        image = self.overlay.overlay(frame.classes)
        pixels[HEAD_PX : HEAD_PX + image.shape[0], MARGIN_PX : MARGIN_PX + image.shape[1]] = image
        return pixels

    def _draw_texts(self, figure: Figure, canvas: FigureCanvasAgg, frame: VideoFrame) -> None:
        """Draws the texts above and below the image, and above the curves."""
        context = self.context

        def text(x: float, y: float, words: str, **look: Any) -> Text:
            return figure.text(*self._at(x, y), words, **{"va": "center", **look})

        text(MARGIN_PX, 20, context.title, weight="bold", size=10)
        subtitle = text(MARGIN_PX, 40, context.subtitle, color=MUTED, size=8.5)
        room = self._right - 3 * MARGIN_PX  # up to the words on the epoch
        subtitle.set_fontsize(8.5 * min(1, room / subtitle.get_window_extent(canvas.get_renderer()).width))
        figure.legend(
            handles=self._handles, loc="upper left", bbox_to_anchor=self._at(MARGIN_PX - 5, self._legend_top),
            ncols=self._legend_columns, fontsize=8.5, handlelength=1.1, handleheight=1, borderpad=0.2,
            columnspacing=1.3, borderaxespad=0,
        )  # fmt: skip
        if self._has_confusion:
            text(MARGIN_PX, self._confused_top, CONFUSED, size=8, color=MUTED, va="top")
        text(self._right, 14, f"epoch {frame.epoch} of {context.epochs[-1]}", size=10, weight="bold")
        text(self._right, 31, _values_at(context, frame.epoch), size=8.5, color=MUTED)
        text(self._right, 47, "area under the precision-recall curve (AUPRC)", size=8, color=MUTED)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the figure's coordinates of a pixel, counted from the upper left corner."""
        return x / self.size[1], 1 - y / self.size[0]

    def _panel(self, figure: Figure, top: int, width: int, height: int) -> Axes:
        x, y = self._at(self._right, top + height)
        return figure.add_axes((x, y, width / self.size[1], height / self.size[0]))

    def palette(self, frame: np.ndarray) -> np.ndarray:
        """Returns pixels (1, m, 3) uint8 of all colors of the video, for an encoder that has to choose among them.

        They are those of a rendered frame, of lines and texts with their rims, and of the overlay.
        """
        inks = [INK, MUTED, GRID, HIT, *self.context.colors.values()]
        strengths = np.array([0.3, 0.6, 1.0])[:, None]
        lines = [(1 - strengths) * to_rgb(PAPER) + strengths * np.array(to_rgb(ink)) for ink in inks]
        lines = np.repeat(np.rint(255 * np.concatenate(lines)).astype(np.uint8), 200, axis=0)
        overlay = np.repeat(self.overlay.colors().reshape(-1, 3), 20, axis=0)
        return np.concatenate([frame.reshape(-1, 3)[::7], lines, overlay])[None]


def _even(size: float) -> int:
    """Returns the least even number not below `size`: H.264 halves the resolution of colors."""
    return -(-int(size) // 2) * 2


def _values_at(context: VideoContext, epoch: int) -> str:
    """Returns the learning rate and the losses of an epoch as text."""
    texts = []
    forms = {"lr": "learning rate {:.1e}", "train_loss": "loss {:.3f}", "validation_loss": "validation {:.3f}"}
    for column, form in forms.items():
        epochs, values = context.curves.get(column, (np.empty(0), np.empty(0)))
        texts += [form.format(value) for value in values[epochs == epoch][:1]]
    return ", ".join(texts).replace("-", "−")


def epoch_ticks(last: int) -> list[int]:
    """Returns the epochs marked on an axis from 0: round ones, and the last.

    >>> epoch_ticks(20), epoch_ticks(3), epoch_ticks(101)
    ([0, 5, 10, 15, 20], [0, 1, 2, 3], [0, 20, 40, 60, 80, 101])
    """
    ticks = [int(t) for t in MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last) if t <= last]
    step = ticks[1] - ticks[0]
    return [*(tick for tick in ticks if last - tick > 0.75 * step), last]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns up to `most` ticks of a logarithmic axis, two where it spans a factor of 5.

    As many as fit of 1, 2, 5, of 1, 3, or of every so many decades.

    >>> log_ticks(0.2, 4, 4), log_ticks(1e-6, 2e-3, 2)
    ([0.2, 0.5, 1.0, 2.0], [1e-05, 0.001])
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        all_ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        finer, ticks = ticks, [tick for tick in all_ticks if low <= tick <= high]
        if len(ticks) < 2 <= len(finer):
            return [finer[0], finer[-1]]
        if len(ticks) <= most:
            break
    return ticks[::-1][:: -(-len(ticks) // most)][::-1] if ticks else [float(f"{low:.1g}")]


def _draw_tracks(
    axes: Axes, context: VideoContext, frame: VideoFrame, label: str, columns: Sequence[str], height_px: int
) -> None:
    """Draws columns of the history faintly over all epochs, and strongly up to that of the frame."""
    for column in columns:
        epochs, values = context.curves[column]
        past = epochs <= frame.epoch
        line = (0, (3, 2)) if column == "train_loss" else "solid"
        axes.plot(epochs, values, color=INK, linewidth=1.5, linestyle=line, alpha=0.22)
        axes.plot(epochs[past], values[past], color=INK, linewidth=1.5, linestyle=line)
        axes.plot(epochs[past][-1:], values[past][-1:], "o", color=INK, markersize=4)
    last = int(max([context.epochs[-1], *(epochs.max() for epochs, _ in context.curves.values())]))
    axes.set_xlim(0, last * 1.02)
    axes.set_xticks(epoch_ticks(last))
    axes.tick_params(labelbottom=label == RATE, labelsize=7.5)
    if label == RATE:
        axes.set_xlabel("epoch", labelpad=1, fontsize=8)
    values = np.concatenate([context.curves[column][1] for column in columns])
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == values.size and positive.max() / positive.min() > 8:
        axes.set_yscale("log")
        axes.set_ylim(max(positive.min(), positive.max() / 1e4) / 1.5, positive.max() * 1.5)
        axes.minorticks_off()
        axes.set_yticks(log_ticks(*axes.get_ylim(), max(2, height_px // TICK_PX)))
    else:
        axes.margins(y=0.15)
        axes.locator_params(axis="y", nbins=3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e−").replace("-", "−")))
    # where falling losses, and most schedules of the rate, do not run
    place, offset, ha, va = ((0, 0), (3, 3), "left", "bottom") if label == RATE else ((1, 1), (-2, -2), "right", "top")
    text = "loss (dashed: training)" if "train_loss" in columns else label
    look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": ha, "va": va}
    axes.annotate(text, place, offset, fontsize=8, color=MUTED, **look)


# --- the sheet

SHEET_CELL_PX = 440
SHEET_COLUMNS, SHEET_AREAS_PER_LINE = 4, 2
SHEET_HEAD_IN, SHEET_LINE_IN = 0.78, 0.21
SHEET_KEY = "Above each graph: area under its precision-recall curve (AUPRC). Dot: as in the image. Dotted: guessing."


def sheet_figure(context: VideoContext, frames: Sequence[VideoFrame]) -> Figure:
    """Returns a figure with a column per frame, in lines of up to four: the image, and the curves below it."""
    overlay = Overlay(context)
    columns = min(SHEET_COLUMNS, len(frames))
    lines = -(-len(frames) // columns)
    with style():
        images = [overlay.overlay(frame.classes) for frame in frames]
        image_in = (9.6 / max(columns, 2) - 0.35) * images[0].shape[0] / images[0].shape[1] + 0.25
        height_in = SHEET_HEAD_IN + lines * (image_in + 1.75)
        figure = new_figure(height_in)
        figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - SHEET_HEAD_IN / height_in))
        ratios = [image_in, 1.75] * lines
        grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=ratios)
        for index in range(len(frames), lines * columns):
            for axes in grid[2 * (index // columns) :, index % columns]:
                axes.set_visible(False)
        for index, (frame, image) in enumerate(zip(frames, images, strict=True)):
            line, column = divmod(index, columns)
            above, below = grid[2 * line, column], grid[2 * line + 1, column]
            _draw_sheet_image(above, frame, image)
            _draw_precision_recall(below, context, frame, areas_per_line=SHEET_AREAS_PER_LINE)
            if column:
                below.set_ylabel("")
        key = SHEET_KEY + (f" {CONFUSED.capitalize()}." if len(context.names) > 2 else "")
        title = f"{context.title}: {context.subtitle}"
        figure.text(0.006, 1 - 0.06 / height_in, title, va="top", weight="bold", size=10)
        figure.text(0.006, 1 - (0.06 + SHEET_LINE_IN) / height_in, key, va="top", color=MUTED, size=8)
        figure.legend(
            handles=overlay.legend_handles(), loc="upper left", ncols=4, handlelength=1.1, handleheight=1,
            bbox_to_anchor=(0, 1 - (0.03 + 2 * SHEET_LINE_IN) / height_in), borderaxespad=0,
        )  # fmt: skip
    return figure


def _draw_sheet_image(axes: Axes, frame: VideoFrame, image: np.ndarray) -> None:
    hide_axes(axes)
    if image.shape[1] > SHEET_CELL_PX:
        height = round(image.shape[0] * SHEET_CELL_PX / image.shape[1])
        image = np.asarray(Image.fromarray(image).resize((SHEET_CELL_PX, height), Image.Resampling.BOX))
    axes.imshow(image)
    axes.set_title(f"epoch {frame.epoch}")
