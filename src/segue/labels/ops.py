"""Connected components, holes, sizes, bounding boxes and numbering of label images.

Objects keep their shapes and are numbered 1 … n in scan order, that is in the order of their first pixels.
"""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from numba import njit

MAX_TABLE_ID = 2**22  # ids up to here are renumbered by a table, greater ones by sorting


def connected_components(mask: np.ndarray) -> np.ndarray:
    """Returns the connected parts of a mask (H, W), 4 neighbors, int32, numbered from 1."""
    return np.asarray(cc3d.connected_components(np.ascontiguousarray(mask, dtype=np.uint8), connectivity=4), np.int32)


def relabel_sequential(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (H, W) int32 with ids 1 … n in scan order, and the former ids (n,); 0 and −1 stay.

    Unlike `skimage.segmentation.relabel_sequential`, which keeps the order of the ids, the result does not depend on
    them.

    >>> relabel_sequential(np.array([[0, 7, 7], [3, 3, -1]]))
    (array([[ 0,  1,  1],
           [ 2,  2, -1]], dtype=int32), array([7, 3]))
    """
    max_id = int(labels.max(initial=0))
    if max_id <= MAX_TABLE_ID:
        return _relabel(np.ascontiguousarray(labels), max_id)
    ids, ranks = np.unique(labels, return_inverse=True)
    objects = ids[ids > 0]
    ranks = ranks.reshape(labels.shape) - (len(ids) - len(objects) - 1)  # the lowest object has rank 1
    relabeled, former = _relabel(np.where(labels > 0, ranks, labels), len(objects))
    return relabeled, objects[former - 1]


def remove_small(labels: np.ndarray, *, min_size_px: float) -> np.ndarray:
    """Returns the objects of at least `min_size_px` pixels, (H, W) int32, numbered 1 … n in scan order.

    The size is that of the object, also of one in several parts (`cc3d.dust` goes by the size of each part).
    """
    relabeled, ids = relabel_sequential(labels)
    return _remove_small(relabeled, len(ids), min_size_px) if min_size_px > 1 else relabeled


def fill_holes(labels: np.ndarray, *, max_size_px: float = np.inf, connectivity: Literal[4, 8] = 8) -> np.ndarray:
    """Returns labels (H, W) int32 with holes of up to `max_size_px` filled: background enclosed by one object alone.

    Background that touches the border of the image, or two objects, is not a hole. `connectivity`, 4 or 8, is that of
    the background pixels of a hole.
    """
    if max_size_px < 1:
        return labels
    filled = np.ascontiguousarray(labels, dtype=np.int32).copy()
    regions, count = _background_regions(labels, connectivity)
    sizes, owners = _hole_owners(filled, regions, count)
    _fill_holes(filled, regions, np.where(sizes <= max_size_px, owners, 0))
    return filled


def hole_owners(labels: np.ndarray, *, connectivity: Literal[4, 8] = 8) -> tuple[np.ndarray, np.ndarray]:
    """Returns of each connected region of background its pixels, and the object that alone encloses it, (n,) each.

    The object is 0 for a region that touches nothing, −1 for one that touches the border of the image or several
    objects, which is no hole; labels (H, W) int32.
    """
    regions, count = _background_regions(labels, connectivity)
    sizes, owners = _hole_owners(np.ascontiguousarray(labels), regions, count)
    return sizes[1:], owners[1:]


def _background_regions(labels: np.ndarray, connectivity: Literal[4, 8]) -> tuple[np.ndarray, int]:
    """Returns (H, W) int32, the connected regions of background, numbered from 1, and their number."""
    empty = np.ascontiguousarray(labels == 0, dtype=np.uint8)
    regions, count = cc3d.connected_components(empty, connectivity=connectivity, return_N=True, out_dtype=np.uint32)
    return np.asarray(regions).view(np.int32), int(count)


@njit(cache=True, nogil=True)
def bounding_boxes(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns (count, 4) int64 of objects 1 … count: first row, first column, and those after the last.

    An object without pixels has a box that ends before it begins. (`scipy.ndimage.find_objects` gives the same in 2.6
    times the time, and `cc3d.statistics` in 6 times: 1.2, 3.0 and 7.0 ms for 1024 × 1024 px and 700 objects.)
    """
    boxes = np.empty((count, 4), np.int64)
    boxes[:, :2] = max(labels.shape)
    boxes[:, 2:] = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label > 0:
                box = boxes[label - 1]
                box[0], box[1] = min(box[0], y), min(box[1], x)
                box[2], box[3] = max(box[2], y + 1), max(box[3], x + 1)
    return boxes


@njit(cache=True, nogil=True)
def _relabel(labels: np.ndarray, max_id: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = labels.shape
    numbers = np.zeros(max_id + 1, dtype=np.int32)
    relabeled = np.empty((height, width), dtype=np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label <= 0:
                relabeled[y, x] = label
                continue
            if numbers[label] == 0:
                count += 1
                numbers[label] = count
            relabeled[y, x] = numbers[label]
    former = np.zeros(count, dtype=np.int64)
    for label in range(max_id + 1):
        if numbers[label] > 0:
            former[numbers[label] - 1] = label
    return relabeled, former


@njit(cache=True, nogil=True)
def _remove_small(labels: np.ndarray, count: int, min_size_px: float) -> np.ndarray:
    height, width = labels.shape
    sizes = np.zeros(count + 1, dtype=np.int64)
    for y in range(height):
        for x in range(width):
            sizes[max(labels[y, x], 0)] += 1
    numbers = np.zeros(count + 1, dtype=np.int32)
    remaining = 0
    for label in range(1, count + 1):  # in scan order already
        if sizes[label] >= min_size_px:
            remaining += 1
            numbers[label] = remaining
    relabeled = np.empty((height, width), dtype=np.int32)
    for y in range(height):
        for x in range(width):
            relabeled[y, x] = numbers[max(labels[y, x], 0)]
    return relabeled


@njit(cache=True, nogil=True)
def _hole_owners(labels: np.ndarray, regions: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (count + 1,) each: pixels of a region, and the object around it; 0: none, −1: several, or the border."""
    height, width = labels.shape
    sizes = np.zeros(count + 1, dtype=np.int64)
    owners = np.zeros(count + 1, dtype=np.int32)
    for y in range(height):
        for x in range(width):
            region = regions[y, x]
            if region == 0:
                continue
            sizes[region] += 1
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                owners[region] = -1
                continue
            for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                label = labels[y + dy, x + dx]
                if label > 0 and owners[region] != label:
                    owners[region] = label if owners[region] == 0 else -1
    return sizes, owners


@njit(cache=True, nogil=True)
def _fill_holes(labels: np.ndarray, regions: np.ndarray, owners: np.ndarray) -> None:
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            if owners[regions[y, x]] > 0:
                labels[y, x] = owners[regions[y, x]]
