"""What a film is of, and the picture in it: the outcome of every pixel in colour on the image.

True positives of any class are green; a false negative and a false positive have the colour of the class that was
missed or invented. A pixel of one foreground class that was given another is a false negative of its own and a false
positive of the other: it has the colour of its own, labelled, class. Outlines are those of the labels, where the image
is enlarged, so that what is filled inside of one was missed and what is filled outside was invented.


How a film looks: the picture, the curves beside it, words and courses above and beneath; and the sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from skimage.segmentation import find_boundaries

from segue.data.summary import palette_places
from segue.evaluation import pixel_metrics
from segue.reporting.figures.style import AMBER, BROWN, GRID, INK, MUTED, PAPER, bare, sheet, style

HIT = "#00d68f"  # bluish and bright: apart from the red also for those who confuse red and green
# of live, dead and others: blue as DAPI, red as Cy5; dark enough for lines on paper, bright enough for grey images
CLASS_COLOURS = ("#2f74ff", "#f0302c", "#9a48e8", AMBER, "#d12c8c", BROWN)
HIT_OPACITY, ERROR_OPACITY, IGNORED_OPACITY = 0.55, 0.72, 0.55
IGNORED_COLOUR = "#9aa0a8"
CONFUSED = "one class taken for another: the label's colour"
IGNORED, RIGHT, NOTHING = 255, 1, 0  # codes of `outcomes`; the errors of class k have 1 + k
SMALL_PX = (640, 520)  # width and height up to which images are enlarged, by whole numbers
LARGE_PX = (960, 720)  # above which they are reduced
GAP_PX = 6  # between several images


@dataclass(frozen=True)
class Scene:
    """What stays the same through a film.

    images (n, H, W) uint8 grey levels; truth (n, H, W) classes, −1 ignored; names of the classes, the background
    first; title and subtitle in words; epochs shown, rising; courses: column of the history -> (epochs, values).
    """

    images: np.ndarray
    truth: np.ndarray
    names: tuple[str, ...]
    title: str
    subtitle: str
    epochs: tuple[int, ...]
    courses: dict[str, tuple[np.ndarray, np.ndarray]]

    @cached_property
    def colours(self) -> dict[int, str]:
        return film_colours(self.names)


@dataclass(frozen=True)
class Shot:
    """What one epoch's weights predict: classes (n, H, W) uint8, and pixels per probability (K, 2, bins), of
    `curves.histogram`."""

    epoch: int
    classes: np.ndarray
    counts: np.ndarray

    def curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns precision and recall (K, bins), and the areas (K,)."""
        counts = torch.from_numpy(self.counts)
        precision, recall = pixel_metrics.precision_recall(counts)
        return precision.numpy(), recall.numpy(), pixel_metrics.average_precision(counts).numpy()


def film_colours(names: Sequence[str]) -> dict[int, str]:
    """Returns the colour of each class by its number, from 1 on: live blue and dead red wherever they stand."""
    places = palette_places(names)
    return {k: CLASS_COLOURS[place % len(CLASS_COLOURS)] for k, place in enumerate(places, start=1)}


def outcomes(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns uint8 codes of pixels: 0 background rightly, 1 a true positive, 1 + k an error of class k, 255 ignored.

    A foreground pixel that was given another foreground class is an error of its labelled class.

    >>> outcomes(np.array([0, 1, 1, 0, 1, -1]), np.array([0, 1, 0, 2, 2, 1])).tolist()
    [0, 1, 2, 3, 2, 255]
    """
    wrong = np.where(truth > 0, truth, predicted) + 1
    found = np.where(truth == predicted, np.minimum(truth, 1), wrong).astype(np.uint8)
    found[truth < 0] = IGNORED
    return found


def tints(colours: Mapping[int, str]) -> np.ndarray:
    """Returns the colour (256, 256, 3) uint8 of each code of `outcomes` on each grey level; colours by class."""
    grey = np.repeat(np.arange(256.0)[:, None], 3, axis=1)
    found = np.repeat(grey[None], 256, axis=0)
    inks = {RIGHT: (HIT, HIT_OPACITY), IGNORED: (IGNORED_COLOUR, IGNORED_OPACITY)}
    inks |= {1 + k: (colour, ERROR_OPACITY) for k, colour in colours.items()}
    for code, (ink, opacity) in inks.items():
        found[code] = (1 - opacity) * grey + opacity * 255 * np.array(to_rgb(ink))
    return np.rint(found).astype(np.uint8)


class Easel:
    """Paints the images of a scene with the outcome of a shot, at the size of a film."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._tints = tints(scene.colours)
        count, height, width = scene.images.shape
        fits = {columns: _scale(height, width, -(-count // columns), columns) for columns in range(1, count + 1)}
        self._columns = max(fits, key=lambda columns: (fits[columns], -abs(columns - count**0.5)))
        scale = fits[self._columns]
        self._size = (max(round(scale * height), 1), max(round(scale * width), 1))
        self._enlarged = scale >= 2
        self._outlines = [self._outline(truth) for truth in scene.truth] if self._enlarged else []

    def _outline(self, truth: np.ndarray) -> np.ndarray:
        """Returns the labelled class (H, W) of the enlarged image on the rims of labels, 0 elsewhere."""
        large = self._fitted(np.maximum(truth, 0).astype(np.uint8))
        return np.where(find_boundaries(large, mode="inner"), large, 0)

    def _fitted(self, array: np.ndarray) -> np.ndarray:
        """Returns (H, W) or (H, W, 3) uint8 at the size shown: enlarged as it is, reduced by means."""
        height, width = self._size
        if array.shape[:2] == (height, width):
            return array
        how = Image.Resampling.NEAREST if self._enlarged else Image.Resampling.BOX
        return np.asarray(Image.fromarray(array).resize((width, height), how))

    def paint(self, classes: np.ndarray, *, paper: str) -> np.ndarray:
        """Returns the images side by side (height, width, 3) uint8, with gaps of the colour `paper` between them."""
        painted = []
        for index, (image, truth) in enumerate(zip(self.scene.images, self.scene.truth, strict=True)):
            picture = self._fitted(self._tints[outcomes(truth, classes[index]), image]).copy()
            for k, colour in self.scene.colours.items() if self._outlines else ():
                picture[self._outlines[index] == k] = np.rint(255 * np.array(to_rgb(colour)))
            painted.append(picture)
        height, width = self._size
        rows = -(-len(painted) // self._columns)
        whole = (rows * (height + GAP_PX) - GAP_PX, self._columns * (width + GAP_PX) - GAP_PX, 3)
        found = np.full(whole, np.rint(255 * np.array(to_rgb(paper))), np.uint8)
        for index, picture in enumerate(painted):
            top, left = index // self._columns * (height + GAP_PX), index % self._columns * (width + GAP_PX)
            found[top : top + height, left : left + width] = picture
        return found

    def every_tint(self) -> np.ndarray:
        """Returns pixels (codes, m, 3) uint8 of all colours that a film of this scene may paint."""
        grey = np.unique(self.scene.images)
        codes = [NOTHING, RIGHT, *range(2, len(self.scene.names) + 1)]
        codes += [IGNORED] if (self.scene.truth < 0).any() else []
        return self._tints[np.array(codes)[:, None], grey[None]]

    @property
    def outlined(self) -> bool:
        return self._enlarged


def _scale(height: int, width: int, rows: int, columns: int) -> float:
    """Returns by how much an image is enlarged, by a whole number, or reduced, so that rows × columns of it fit."""
    small, large = (
        min(((box[0] + GAP_PX) / columns - GAP_PX) / width, ((box[1] + GAP_PX) / rows - GAP_PX) / height)
        for box in (SMALL_PX, LARGE_PX)
    )
    return float(max(int(small), min(1.0, large)))


def legend_handles(scene: Scene, *, outlined: bool) -> list[Patch | Line2D]:
    """Returns what the colours of the image mean."""
    handles: list[Patch | Line2D] = [Patch(facecolor=HIT, label="true positive")]
    handles += [
        Patch(facecolor=colour, label=f"{scene.names[k]}: missed or invented") for k, colour in scene.colours.items()
    ]
    if (scene.truth < 0).any():
        handles.append(Patch(facecolor=IGNORED_COLOUR, label="not judged"))
    if outlined:
        handles.append(Patch(facecolor="none", edgecolor=INK, label="outline: label"))
    return handles


LEAST_HEIGHT_PX = 540
MARGIN_PX, HEAD_PX, LEGEND_PX, COLUMN_PX = 16, 58, 24, 408
CURVE_PX = 62  # from the picture to the curves: room for what their axis is called
DPI = 100
FADING = 0.8  # of the opacity of a curve, per epoch
RATE = "learning rate"
EARLIER = 14  # curves that stay while they fade
TICK_PX = 14  # at least, from one to the next
SHEET_CELL_PX = 440
SHEET_HEAD_IN, SHEET_LINE_IN = 0.78, 0.21
AREAS, SHEET_AREAS = 3, 2  # told in a line
SHEET_WORDS = (
    "Above each graph: area under its precision-recall curve (AUPRC). Dot: as in the picture. Dotted: guessing."
)


class Screen:
    """Draws the frames of a film one after another: what does not move is drawn once."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.easel = Easel(scene)
        self._earlier: list[list[np.ndarray]] = []
        with style():
            self._layout()

    def _layout(self) -> None:
        scene = self.scene
        nothing = np.zeros(scene.images.shape, np.uint8)
        height, width = self.easel.paint(nothing, paper=INK).shape[:2]
        handles = legend_handles(scene, outlined=self.easel.outlined)
        columns = max(1, min(len(handles), width // 172))
        legend = LEGEND_PX * -(-len(handles) // columns)
        confusable = len(scene.names) > 2
        self._height = _even(max(LEAST_HEIGHT_PX, HEAD_PX + height + legend + LEGEND_PX * confusable + MARGIN_PX))
        self._width = _even(MARGIN_PX + width + COLUMN_PX)
        self._corner = (HEAD_PX, MARGIN_PX)
        self._figure = Figure(figsize=(self._width / DPI, self._height / DPI), dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        right = MARGIN_PX + width + CURVE_PX
        self._figure.text(*self._at(MARGIN_PX, 20), scene.title, weight="bold", size=10, va="center")
        beneath = self._figure.text(*self._at(MARGIN_PX, 40), scene.subtitle, color=MUTED, size=8.5, va="center")
        room = right - 3 * MARGIN_PX  # up to the words on the epoch
        beneath.set_fontsize(8.5 * min(1, room / beneath.get_window_extent(self._canvas.get_renderer()).width))
        self._figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=self._at(MARGIN_PX - 5, HEAD_PX + height + 2),
            ncols=columns, fontsize=8.5, handlelength=1.1, handleheight=1, borderpad=0.2, columnspacing=1.3,
            borderaxespad=0,
        )  # fmt: skip
        if confusable:
            below = HEAD_PX + height + 2 + legend
            self._figure.text(*self._at(MARGIN_PX, below), CONFUSED, size=8, color=MUTED, va="top")
        self._words = self._figure.text(*self._at(right, 20), "", size=10, weight="bold", va="center", animated=True)
        self._told = self._figure.text(*self._at(right, 40), "", size=8.5, color=MUTED, va="center", animated=True)
        classes = range(1, len(scene.names))
        wide, rows = self._width - right - MARGIN_PX, -(-len(classes) // AREAS)
        self._figure.text(*self._at(right, HEAD_PX + 4), "AUPRC", size=8.5, color=MUTED, va="center")
        self._areas = {k: self._area(k, right + 54, wide - 54) for k in classes}
        top = HEAD_PX + 18 * rows
        room = self._height - top - MARGIN_PX - 22  # for three panels and the words beneath them
        tall = round(0.6 * room)
        curve = self._panel(right, top, wide, tall)
        _curve_axes(curve, scene)
        self._fading = {k: LineCollection([], animated=True) for k in classes}
        for fading in self._fading.values():
            curve.add_collection(fading, autolim=False)
        self._curves = {k: curve.plot([], [], color=scene.colours[k], linewidth=2, animated=True)[0] for k in classes}
        self._dots = {
            k: curve.plot(
                [], [], "o", color=scene.colours[k], markeredgecolor="white", markersize=7, animated=True, clip_on=False
            )[0]
            for k in classes
        }
        self._courses = self._course_panels(right, top + tall + 48, wide, (room - tall - 72) * 3 // 5)
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self._figure.bbox)

    def _area(self, k: int, left: int, width: int) -> Text:
        """Returns the text that tells the area under the curve of class k, above the curves."""
        x, y = left + (k - 1) % AREAS * width // AREAS, HEAD_PX + 4 + 18 * ((k - 1) // AREAS)
        return self._figure.text(
            *self._at(x, y), "", size=9, va="center", color=self.scene.colours[k], weight="bold", animated=True
        )

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Returns the figure's coordinates of a pixel, counted from the upper left corner."""
        return x / self._width, 1 - y / self._height

    def _panel(self, left: int, top: int, width: int, height: int) -> Axes:
        x, y = self._at(left, top + height)
        return self._figure.add_axes((x, y, width / self._width, height / self._height))

    def _course_panels(self, left: int, top: int, width: int, height: int) -> dict[str, tuple[Line2D, Line2D]]:
        """Draws losses and learning rate faintly over all epochs; returns per column the line so far and its tip."""
        courses = self.scene.courses
        kinds = {"loss": ("train_loss", "validation_loss"), RATE: ("lr",)}
        last = max([self.scene.epochs[-1], *(epochs.max() for epochs, _ in courses.values())])
        kinds = {words: tuple(filter(courses.__contains__, columns)) for words, columns in kinds.items()}
        drawn: dict[str, tuple[Line2D, Line2D]] = {}
        heights = {"loss": height, RATE: height * 2 // 3}
        for words, columns in kinds.items():
            if not columns:
                continue
            axes = self._panel(left, top, width, heights[words])
            top += heights[words] + 20
            for column in columns:
                look = {"color": INK, "linewidth": 1.5, "linestyle": (0, (3, 2)) if column == "train_loss" else "solid"}
                axes.plot(*courses[column], **look, alpha=0.22)
                line = axes.plot([], [], **look, animated=True)[0]
                drawn[column] = line, axes.plot([], [], "o", color=INK, markersize=4, animated=True)[0]
            told = "loss (dashed: training)" if "train_loss" in columns else words
            _course_axes(axes, told, np.concatenate([courses[column][1] for column in columns]), heights[words])
            axes.set_xlim(0, last * 1.02)
            axes.set_xticks(epoch_ticks(int(last)))
            axes.tick_params(labelbottom=words == RATE)
            if words == RATE:
                axes.set_xlabel("epoch", labelpad=1, fontsize=8)
        return drawn

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of a frame in pixels, both even."""
        return self._height, self._width

    def palette(self) -> np.ndarray:
        """Returns pixels (1, m, 3) uint8 of all colours of the film, for an encoder that has to choose among them."""
        self._canvas.restore_region(self._still)
        around = np.asarray(self._canvas.buffer_rgba())[..., :3].reshape(-1, 3)
        # the colours of lines and words as often as those of the image
        inks = [INK, MUTED, GRID, HIT, *self.scene.colours.values()]
        strengths = np.array([0.3, 0.6, 1.0])[:, None]  # of their rims, too
        lines = [(1 - strengths) * to_rgb(PAPER) + strengths * np.array(to_rgb(ink)) for ink in inks]
        lines = np.repeat(np.rint(255 * np.concatenate(lines)).astype(np.uint8), 200, axis=0)
        tinted = np.repeat(self.easel.every_tint().reshape(-1, 3), 20, axis=0)
        return np.concatenate([around[::7], lines, tinted])[None]

    def frame(self, shot: Shot) -> np.ndarray:
        """Returns the frame of an epoch (height, width, 3) uint8; epochs come in order, as earlier curves fade."""
        with style():
            self._canvas.restore_region(self._still)
            self._move(shot)
            drawn = [*self._fading.values(), *self._curves.values(), *self._dots.values()]
            drawn += [one for pair in self._courses.values() for one in pair]
            for artist in [*drawn, self._words, self._told, *self._areas.values()]:
                artist.draw(self._canvas.get_renderer())
        found = np.array(self._canvas.buffer_rgba())[..., :3]
        painted = self.easel.paint(shot.classes, paper=PAPER)
        top, left = self._corner
        found[top : top + painted.shape[0], left : left + painted.shape[1]] = painted
        return found

    def _move(self, shot: Shot) -> None:
        """Sets all that moves to what it is in this shot."""
        precision, recall, areas = shot.curves()
        right, found = operating_points(self.scene.truth, shot.classes, len(self.scene.names))
        steps = [stepped(recall[k], precision[k]) for k in range(len(areas))]
        for k, curve in self._curves.items():
            curve.set_data(*steps[k].T)
            self._dots[k].set_data([found[k]], [right[k]])
            opacities = [0.5 * FADING**age for age in range(len(self._earlier), 0, -1)]
            self._fading[k].set_segments([before[k] for before in self._earlier])
            self._fading[k].set_color(
                [to_rgba(self.scene.colours[k], opacity) for opacity in opacities] or [to_rgba(INK)]
            )
            self._areas[k].set_text(f"{self.scene.names[k]} {area_text(areas[k])}")
        self._earlier = [*self._earlier, steps][-EARLIER:]
        self._words.set_text(f"epoch {shot.epoch} of {self.scene.epochs[-1]}")
        self._told.set_text(course_words(self.scene, shot.epoch))
        for column, (line, tip) in self._courses.items():
            epochs, values = self.scene.courses[column]
            past = epochs <= shot.epoch
            line.set_data(epochs[past], values[past])
            tip.set_data(epochs[past][-1:], values[past][-1:])


def _even(size: float) -> int:
    """Returns the least even number not below `size`: H.264 halves the resolution of colours."""
    return -(-int(size) // 2) * 2


def area_text(area: float) -> str:
    return "none here" if np.isnan(area) else f"{area:.3f}"


def course_words(scene: Scene, epoch: int) -> str:
    """Returns the learning rate and the losses of an epoch in words."""
    words = {"lr": "learning rate {:.1e}", "train_loss": "loss {:.3f}", "validation_loss": "validation {:.3f}"}
    told = []
    for column, text in words.items():
        epochs, values = scene.courses.get(column, (np.empty(0), np.empty(0)))
        if (here := values[epochs == epoch]).size:
            told.append(text.format(here[0]))
    return ", ".join(told).replace("-", "−")


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
    """Returns precision and recall (K,) of the classes as shown; NaN where nothing is predicted or labelled."""
    judged = truth >= 0
    pairs = truth[judged].astype(np.int64) * classes + predicted[judged]
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(float)
    with np.errstate(invalid="ignore"):
        return counts.diagonal() / counts.sum(0), counts.diagonal() / counts.sum(1)


def _curve_axes(axes: Axes, scene: Scene) -> None:
    """Sets up the axes of precision by recall; dotted lines are what guessing reaches: the share of each class."""
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.xaxis.labelpad, axes.yaxis.labelpad = 0, 4
    judged = max(int((scene.truth >= 0).sum()), 1)
    for k in range(1, len(scene.names)):
        share = float((scene.truth == k).sum()) / judged
        axes.axhline(share, color=scene.colours[k], linewidth=1, linestyle=(0, (1, 2)), alpha=0.8)


def epoch_ticks(last: int) -> list[int]:
    """Returns the epochs told on an axis from 0: round ones, and the last.

    >>> epoch_ticks(20), epoch_ticks(3), epoch_ticks(101)
    ([0, 5, 10, 15, 20], [0, 1, 2, 3], [0, 20, 40, 60, 80, 101])
    """
    found = [
        int(tick) for tick in MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, last) if tick <= last
    ]
    step = found[1] - found[0]
    return [*(tick for tick in found if last - tick > 0.75 * step), last]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns up to `most` ticks of an axis in logarithms, two where it spans a factor of 5: as many as fit of 1, 2, 5,
    of 1, 3, or of every so many decades.

    >>> log_ticks(0.2, 4, 4), log_ticks(1e-6, 2e-3, 2)
    ([0.2, 0.5, 1.0, 2.0], [1e-05, 0.001])
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [float(f"{step}e{decade}") for decade in decades for step in steps]
        finer, found = found, [tick for tick in every if low <= tick <= high]
        if len(found) < 2 <= len(finer):
            return [finer[0], finer[-1]]
        if len(found) <= most:
            break
    return found[::-1][:: -(-len(found) // most)][::-1] if found else [float(f"{low:.1g}")]


def _course_axes(axes: Axes, words: str, values: np.ndarray, height_px: int) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == values.size and positive.max() / positive.min() > 8:
        axes.set_yscale("log")
        axes.set_ylim(max(positive.min(), positive.max() / 1e4) / 1.5, positive.max() * 1.5)
        axes.minorticks_off()
        axes.set_yticks(log_ticks(*axes.get_ylim(), max(2, height_px // TICK_PX)))
    else:
        axes.margins(y=0.15)
        axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=7.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("e-0", "e−").replace("-", "−")))
    # where falling losses, and most schedules of the rate, do not run
    place, off, ha, va = ((0, 0), (3, 3), "left", "bottom") if words == RATE else ((1, 1), (-2, -2), "right", "top")
    axes.annotate(
        words, place, off, xycoords="axes fraction", textcoords="offset points", ha=ha, va=va, fontsize=8, color=MUTED
    )


def sheet_figure(scene: Scene, shots: Sequence[Shot]) -> Figure:
    """Returns a figure with a column per shot, in lines of up to four: the image, and the curves beneath it."""
    easel = Easel(scene)
    columns = min(4, len(shots))
    lines = -(-len(shots) // columns)
    with style():
        pictures = [easel.paint(shot.classes, paper=PAPER) for shot in shots]
        tall = pictures[0].shape[0] / pictures[0].shape[1]
        wide = 9.6 / max(columns, 2) - 0.35
        high = SHEET_HEAD_IN + lines * (wide * tall + 0.25 + 1.75)
        figure = sheet(high)
        figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - SHEET_HEAD_IN / high))
        every = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[wide * tall + 0.25, 1.75] * lines)
        for axes in every.ravel():
            axes.set_visible(False)
        for index, (shot, picture) in enumerate(zip(shots, pictures, strict=True)):
            above, beneath = every[index // columns * 2 : index // columns * 2 + 2, index % columns]
            above.set_visible(True)
            beneath.set_visible(True)
            _sheet_picture(above, shot, picture)
            _sheet_curves(beneath, scene, shot)
            if index % columns:
                beneath.set_ylabel("")
        handles = legend_handles(scene, outlined=easel.outlined)
        told = SHEET_WORDS + (f" {CONFUSED.capitalize()}." if len(scene.names) > 2 else "")
        for place, (text, look) in enumerate(
            ((f"{scene.title}: {scene.subtitle}", {"weight": "bold", "size": 10}), (told, {"color": MUTED, "size": 8}))
        ):
            figure.text(0.006, 1 - (0.06 + place * SHEET_LINE_IN) / high, text, va="top", **look)
        beneath = 1 - (0.03 + 2 * SHEET_LINE_IN) / high
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0, beneath), ncols=4, handlelength=1.1, handleheight=1,
            borderaxespad=0,
        )  # fmt: skip
    return figure


def _sheet_picture(axes: Axes, shot: Shot, picture: np.ndarray) -> None:
    bare(axes)
    if picture.shape[1] > SHEET_CELL_PX:
        height = round(picture.shape[0] * SHEET_CELL_PX / picture.shape[1])
        reduced = Image.fromarray(picture).resize((SHEET_CELL_PX, height), Image.Resampling.BOX)
        picture = np.asarray(reduced)
    axes.imshow(picture)
    axes.set_title(f"epoch {shot.epoch}")


def _sheet_curves(axes: Axes, scene: Scene, shot: Shot) -> None:
    precision, recall, areas = shot.curves()
    right, found = operating_points(scene.truth, shot.classes, len(scene.names))
    _curve_axes(axes, scene)
    for k in range(1, len(scene.names)):
        axes.plot(*stepped(recall[k], precision[k]).T, color=scene.colours[k], linewidth=1.6)
        dot = {"color": scene.colours[k], "markeredgecolor": "white", "markersize": 5.5, "clip_on": False, "zorder": 3}
        axes.plot([found[k]], [right[k]], "o", **dot)
        told = f"{scene.names[k]} {area_text(areas[k])}"
        place = ((k - 1) % SHEET_AREAS / SHEET_AREAS, 1.02 + 0.09 * ((k - 1) // SHEET_AREAS))
        axes.text(*place, told, color=scene.colours[k], fontsize=8, weight="bold", transform=axes.transAxes)
