"""What a film is of, and the picture in it: the outcome of every pixel in colour on the image.

True positives of any class are green; a false negative and a false positive have the colour of the class that was
missed or invented. A pixel of one foreground class that was given another is a false negative of its own and a false
positive of the other: it has the colour of its own, labelled, class. Outlines are those of the labels, where the image
is enlarged, so that what is filled inside of one was missed and what is filled outside was invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from skimage.segmentation import find_boundaries

from segue.data.class_colours import palette_places
from segue.evaluation import curves
from segue.report.drawing import AMBER, BROWN, INK

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
        precision, recall = curves.precision_recall(counts)
        return precision.numpy(), recall.numpy(), curves.average_precision(counts).numpy()


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
