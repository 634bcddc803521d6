"""Compiled parts of decoding by tiles: which objects of a tile its border may have changed, and where objects begin."""

from __future__ import annotations

import numpy as np
from numba import njit

NEXT = ((0, 1), (1, -1), (1, 0), (1, 1))  # half of the eight neighbours: pairs are looked at once


@njit(cache=True, nogil=True)
def unsettled(
    labels: np.ndarray, count: int, core: tuple[int, int, int, int], cut: tuple[bool, bool, bool, bool], margin: int
) -> np.ndarray:
    """Returns for each object 1 … count, (count + 1,) bool, whether it enters the core and may go on beyond the tile.

    So it is with objects within `margin` px of a side at which the image was cut, and with those that touch one of
    these (8 neighbours). labels: (H, W) of the tile; core: top, left, bottom, right in it; cut: the sides, so ordered.
    """
    height, width = labels.shape
    inside, near = np.zeros(count + 1, np.bool_), np.zeros(count + 1, np.bool_)
    for y in range(height):
        at_row = (cut[0] and y < margin) or (cut[2] and y >= height - margin)
        for x in range(width):
            label = labels[y, x]
            if label > 0:
                if at_row or (cut[1] and x < margin) or (cut[3] and x >= width - margin):
                    near[label] = True
                if core[0] <= y < core[2] and core[1] <= x < core[3]:
                    inside[label] = True
    found = inside & near
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            for dy, dx in NEXT:
                if y + dy < height and 0 <= x + dx < width:
                    other = labels[y + dy, x + dx]
                    if other > 0 and near[label] != near[other]:
                        found[label] |= inside[label] and near[other]
                        found[other] |= inside[other] and near[label]
    return found


@njit(cache=True, nogil=True)
def first_places(core: np.ndarray, count: int, top: int, left: int, width: int) -> np.ndarray:
    """Returns the first place y · width + x in the image of each object 1 … count in a core, −1 without, (count + 1,).

    top, left: where the core begins in the image.
    """
    first = np.full(count + 1, -1, np.int64)
    for y in range(core.shape[0]):
        for x in range(core.shape[1]):
            label = core[y, x]
            if label > 0 and first[label] < 0:
                first[label] = (top + y) * width + left + x
    return first
