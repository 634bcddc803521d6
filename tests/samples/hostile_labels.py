"""Label maps that break careless targets, shipped label maps, and how many objects a decoder gives back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segue import rng

SIZE = 40
EXAMPLES = Path(__file__).parents[2] / "examples" / "data"


def hostile_labels() -> dict[str, np.ndarray]:
    """Returns square label maps (40, 40) int64 by what is hostile in them; 0 background, −1 ignored, ids from 1 on."""
    return {
        "touching": touching(),
        "tiny": tiny(),
        "hollow": hollow(),
        "border_cut": border_cut(),
        "single_pixels": single_pixels(),
        "gaps": np.where(touching() > 0, 7 + 2**33 * (touching() % 3) + 1000 * touching(), 0),
        "ignored": ignored(),
        "ignored_everywhere": np.full((SIZE, SIZE), -1),
        "empty": np.zeros((SIZE, SIZE), dtype=np.int64),
        "one_object": np.ones((SIZE, SIZE), dtype=np.int64),
        "lines": lines(),
        "pieces": pieces(),
        "blobs": blobs(),
    }


def touching() -> np.ndarray:
    """Returns sixteen rectangles of odd and even sizes without a pixel between them, in a frame of background."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    edges = [3, 12, 19, 29, 37]
    for row in range(4):
        for column in range(4):
            labels[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = 1 + 4 * row + column
    return labels


def tiny() -> np.ndarray:
    """Returns objects of 1 to 8 px, some touching at a side, some at a corner."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    labels[5, 5] = 1
    labels[5, 6:8] = 2  # at the side of 1
    labels[6, 8] = 3  # at the corner of 2
    labels[12:14, 12:14] = 4
    labels[14:16, 14:16] = 5  # at the corner of 4
    labels[20:23, 4] = 6
    labels[25:27, 30:34] = 7
    labels[27:29, 30:33] = 8
    labels[34, 34] = labels[34, 35] = labels[35, 35] = 9
    return labels


def hollow() -> np.ndarray:
    """Returns rings: one around another object that fills it, one around background with an object in it, one empty."""
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    for index, (cy, cx, outer, inner, core) in enumerate([(11, 12, 10, 5, 5), (28, 27, 11, 7, 3), (31, 6, 5, 2, 0)]):
        r2 = (y - cy) ** 2 + (x - cx) ** 2
        labels[(r2 <= outer**2) & (r2 > inner**2)] = 2 * index + 1
        labels[r2 <= core**2 if core else np.zeros_like(r2, dtype=bool)] = 2 * index + 2
    return labels


def border_cut() -> np.ndarray:
    """Returns objects cut by every side and corner of the image, two of them touching there, one only a line of it."""
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    middle, last = SIZE // 2, SIZE - 1
    centers = [
        (0, 0),
        (0, middle),
        (-3, last),
        (middle, 0),
        (middle, last + 2),
        (last, 2),
        (last - 1, middle),
        (39, 39),
    ]
    for index, (cy, cx) in enumerate(centers):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 6**2] = index + 1
    labels[last, 8:13] = len(centers) + 1
    return labels


def single_pixels() -> np.ndarray:
    """Returns single pixels with an id each: alone, in the corners, and a checkerboard of four by four side by side."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    places = [(0, 0), (0, SIZE - 1), (SIZE - 1, 0), (SIZE - 1, SIZE - 1), (20, 5), (20, 7), (9, 0)]
    for index, place in enumerate(places):
        labels[place] = index + 1
    labels[28:32, 28:32] = 100 + np.arange(16).reshape(4, 4)
    return labels


def ignored() -> np.ndarray:
    """Returns touching objects under ignored areas: a corner, a line through objects, one object but for a pixel."""
    labels = touching()
    labels[:9, :10] = -1
    labels[22, :] = -1
    labels[:, 33] = -1
    labels[29:37, 3:12][labels[29:37, 3:12] > 0] = -1
    labels[31, 6] = 13
    labels[0, 20:30] = -1
    return labels


def lines() -> np.ndarray:
    """Returns objects one and two pixels wide: straight, side by side, slanted, and a spiral."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    labels[2, 2:30] = 1
    labels[3, 2:30] = 2
    labels[5:7, 2:30] = 3
    for step in range(12):
        labels[10 + step, 2 + step : 4 + step] = 4
    for turn, (top, left, bottom, right) in enumerate([(10, 18, 38, 38), (14, 22, 34, 34)]):
        labels[top, left:right] = 5 + turn
        labels[top:bottom, right - 1] = 5 + turn
        labels[bottom - 1, left:right] = 5 + turn
        labels[top + 3 : bottom, left] = 5 + turn
    return labels


def pieces() -> np.ndarray:
    """Returns objects of two parts under one id, apart and joined at a corner only, and one that surrounds another."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    labels[3:9, 3:9] = labels[3:9, 20:26] = 1
    labels[14:20, 3:9] = labels[20:26, 9:15] = 2
    labels[14:30, 22:38] = 3
    labels[18:26, 26:34] = 4
    labels[33:36, 5:30] = 5
    labels[33:36, 15:18] = 6
    return labels


def blobs() -> np.ndarray:
    """Returns some fifteen nucleus-like discs, each new one under those before it, with ids in no order."""
    generator = rng.numpy_generator("hostile blobs")
    y, x = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    for label in generator.permutation(np.arange(3, 60, 4)):
        cy, cx, ry, rx = *generator.uniform(2, SIZE - 2, 2), *generator.uniform(3, 7, 2)
        labels[(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1) & (labels == 0)] = label
    return labels


def shipped_labels(name: str, *, count: int | None = None) -> list[np.ndarray]:
    """Returns label maps (H, W) int32 of examples/data/<name>, all of them or `count` spread evenly over them."""
    paths = sorted((EXAMPLES / name / "labels").glob("*.png"))
    if count is not None:
        paths = [paths[i * len(paths) // count] for i in range(count)]
    return [np.array(Image.open(path)).astype(np.int32) for path in paths]


def large_objects(labels: np.ndarray, *, above_px: int) -> np.ndarray:
    """Returns the labels without the objects of `above_px` pixels or less."""
    return np.where(np.bincount(labels.clip(min=0).ravel())[labels.clip(min=0)] > above_px, labels, 0)


def matches(true: np.ndarray, predicted: np.ndarray, *, iou: float) -> tuple[int, int, int]:
    """Returns how many objects are matched (IoU above `iou` ≥ 0.5, hence one to one), missed and invented.

    Written from the definition, as a reference: pairs of equal pixels are counted, pixels where true < 0 left out.
    """
    true, predicted = true[true >= 0], predicted[true >= 0]
    if true.max(initial=0) > 10**6:
        true = np.searchsorted(np.unique([0, *true]), true)
    rows, columns = int(true.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    table = np.bincount(true.astype(np.int64) * columns + predicted, minlength=rows * columns).reshape(rows, columns)
    table = table[:, table.any(0) | (np.arange(columns) == 0)][table.any(1) | (np.arange(rows) == 0)]
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    matched = int((table > iou * union)[1:, 1:].sum())
    return matched, len(table) - 1 - matched, table.shape[1] - 1 - matched


def average_precision(pairs: list[tuple[np.ndarray, np.ndarray]], *, iou: float) -> float:
    """Returns TP / (TP + FP + FN) of objects pooled over pairs of true and predicted labels."""
    matched, missed, invented = np.sum([matches(true, predicted, iou=iou) for true, predicted in pairs], axis=0)
    return float(matched / (matched + missed + invented))
