"""Compiled work of the target `rays`: distances to borders, exact overlap of polygons, suppression and drawing.

A polygon has one vertex per ray and is star-convex about its centre: it never crosses itself. Which way the rays point
stands in `rays.directions`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SIZES = 14  # size classes of polygons kept, each twice the one before
CELL_PX = 2  # largest radius in the first size class, and the side of its cells
EXACT = 50  # cost of an overlap; that of looking at a neighbour is 1
EFFORT = 400  # cost that suppression may have per candidate, on average; noisy outlines of nuclei take some 60
APART = 1e-7  # px by which two polygons are moved apart, so that no vertex lies on an edge of the other


@njit(cache=True, nogil=True)
def numbered(labels: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (H, W) int32 numbered 1 … n in scan order of first pixels, and the former ids (n,).

    `largest` is the largest id, all below 1 become 0. A table of that size is made.
    """
    table = np.zeros(largest + 1, np.int32)
    new = np.zeros(labels.shape, np.int32)
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label > 0:
                if table[label] == 0:
                    count += 1
                    table[label] = count
                new[y, x] = table[label]
    former = np.zeros(count, np.int64)
    for label in range(largest + 1):
        if table[label] > 0:
            former[table[label] - 1] = label
    return new, former


@njit(cache=True, nogil=True)
def boxes(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns (count, 4) int64: first row, first column, and those after the last, of objects 1 … count."""
    found = np.empty((count, 4), np.int64)
    found[:, :2] = max(labels.shape)
    found[:, 2:] = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label > 0:
                box = found[label - 1]
                box[0], box[1] = min(box[0], y), min(box[1], x)
                box[2], box[3] = max(box[2], y + 1), max(box[3], x + 1)
    return found


@njit(cache=True, nogil=True)
def _advance(alive: np.ndarray, mask: np.ndarray, count: np.ndarray) -> bool:
    """Counts a step for pixels that are alive and come to a pixel of the mask; the others die. All are (n,) uint8."""
    for i in range(alive.size):
        now = alive[i] & mask[i]
        alive[i] = now
        count[i] += now
    some = np.uint8(0)
    for i in range(alive.size):  # in a loop of its own both become vector instructions
        some |= alive[i]
    return some != 0


@njit(cache=True, nogil=True)
def _deposit(plane: np.ndarray, corner: tuple, mask: np.ndarray, count: np.ndarray, more: np.float32) -> None:
    """Adds the steps counted and `more` to the pixels of the mask (h, w + 1), whose corner lies there in the plane."""
    for y in range(mask.shape[0]):
        row, inside, stepped = plane[corner[0] + y][corner[1] :], mask[y], count[y]
        for x in range(mask.shape[1] - 1):  # outside of the mask nothing was counted
            row[x] += np.float32(stepped[x]) + np.float32(inside[x]) * more


@njit(cache=True, nogil=True)
def distances(labels: np.ndarray, found: np.ndarray, offsets: np.ndarray, half: np.ndarray, out: np.ndarray) -> None:
    """Adds to `out` (R, H, W) float32 how far each object reaches from each of its pixels along R rays, in px.

    That is the number of unit steps that stay in the object, and `half` (R,) of a pixel (`rays.border_px`), as by
    StarDist. found: `boxes`; offsets: `rays.steps`, as many as the longest diagonal of a box at least.

    All pixels of an object step together: its mask, rows ended by an empty column, is laid over itself displaced. Steps
    change row and column by one at most, so that a pixel that leaves a row meets the empty column before the next row;
    what comes out at either end of the mask is dead too.
    """
    for index in range(found.shape[0]):
        y0, x0, y1, x1 = found[index]
        height, pitch = y1 - y0, x1 - x0 + 1
        mask = np.zeros((height, pitch), np.uint8)
        for y in range(height):
            for x in range(pitch - 1):
                mask[y, x] = labels[y0 + y, x0 + x] == index + 1
        flat, size = mask.ravel(), mask.size
        alive, count = np.empty(size, np.uint8), np.empty(size, np.uint8)
        for ray in range(offsets.shape[0]):
            alive[:], count[:] = flat, 0
            more, counted = half[ray], 0
            for step in range(offsets.shape[1]):
                shift = offsets[ray, step, 0] * pitch + offsets[ray, step, 1]
                low, high = max(0, -shift), min(size, size - shift)
                alive[:low], alive[max(low, high) :] = 0, 0
                if low >= high or not _advance(alive[low:high], flat[low + shift : high + shift], count[low:high]):
                    break
                counted += 1
                if counted == 255:  # as many as a byte holds
                    _deposit(out[ray], (y0, x0), mask, count.reshape(mask.shape), more)
                    count[:] = 0
                    more, counted = np.float32(0), 0
            _deposit(out[ray], (y0, x0), mask, count.reshape(mask.shape), more)


@njit(cache=True, nogil=True)
def normalised(labels: np.ndarray, distance: np.ndarray, count: int) -> np.ndarray:
    """Returns (H, W) float32: each object's distances divided by its largest; 0 in the background."""
    largest = np.zeros(count + 1, np.float32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if distance[y, x] > largest[labels[y, x]]:
                largest[labels[y, x]] = distance[y, x]
    new = np.zeros(labels.shape, np.float32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if labels[y, x] > 0:
                new[y, x] = distance[y, x] / largest[labels[y, x]]
    return new


@njit(cache=True, nogil=True)
def best_of_cells(score: np.ndarray, threshold: float, side: int) -> np.ndarray:
    """Returns the flat places (n,) of the best pixel above the threshold in each cell of side × side px."""
    height, width = score.shape
    places = np.empty(-(-height // side) * -(-width // side), np.int64)
    count = 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            best, place = threshold, -1
            for y in range(top, min(top + side, height)):
                for x in range(left, min(left + side, width)):
                    if score[y, x] > best:
                        best, place = score[y, x], y * width + x
            if place >= 0:
                places[count] = place
                count += 1
    return places[:count].copy()


@njit(cache=True, nogil=True)
def gathered(planes: np.ndarray, places: np.ndarray, least: np.ndarray, most: float) -> np.ndarray:
    """Returns (n, R) float32 of planes (R, H W) at the places, kept between least (R,) and most; NaN becomes least."""
    rays, block = planes.shape[0], 64
    new = np.empty((places.size, rays), np.float32)
    for start in range(0, places.size, block):
        for ray in range(rays):
            for i in range(start, min(start + block, places.size)):
                value = planes[ray, places[i]]
                new[i, ray] = min(value, most) if value > least[ray] else least[ray]
    return new


@njit(cache=True, nogil=True)
def _vertices(y: float, x: float, radii: np.ndarray, rays: np.ndarray, out: np.ndarray) -> None:
    """Writes rows and columns (2, R) of a polygon's vertices."""
    for k in range(radii.size):
        out[0, k] = y + radii[k] * rays[k, 0]
        out[1, k] = x + radii[k] * rays[k, 1]


@njit(cache=True, nogil=True)
def _area(radii: np.ndarray, most: float) -> float:
    """Returns the area of a polygon whose radii are cut at `most`."""
    total, last = 0.0, min(float(radii[-1]), most)
    for k in range(radii.size):
        radius = min(float(radii[k]), most)
        total += last * radius
        last = radius
    return total * math.sin(2 * math.pi / radii.size) / 2


@njit(cache=True, nogil=True)
def _contains(y: float, x: float, ys: np.ndarray, xs: np.ndarray) -> bool:
    inside = False
    y0, x0 = ys[-1] - y, xs[-1] - x
    for k in range(ys.size):
        y1, x1 = ys[k] - y, xs[k] - x
        if (y0 > 0) != (y1 > 0) and (x0 * (y1 - y0) - y0 * (x1 - x0) > 0) == (y1 > y0):
            inside = not inside
        y0, x0 = y1, x1
    return inside


@njit(cache=True, nogil=True, error_model="numpy")
def _clearance(y: float, x: float, ys: np.ndarray, xs: np.ndarray) -> float:
    """Returns how far the point lies from the nearest edge of the polygon, 0 outside of it."""
    if not _contains(y, x, ys, xs):
        return 0.0
    least = np.inf
    y0, x0 = ys[-1] - y, xs[-1] - x
    for k in range(ys.size):
        y1, x1 = ys[k] - y, xs[k] - x
        dy, dx = y1 - y0, x1 - x0
        along = min(max(-(y0 * dy + x0 * dx) / (dy * dy + dx * dx), 0.0), 1.0)
        py, px = y0 + along * dy, x0 + along * dx
        least = min(least, py * py + px * px)
        y0, x0 = y1, x1
    return math.sqrt(least)


@njit(cache=True, nogil=True, error_model="numpy")
def intersection_area(ay: np.ndarray, ax: np.ndarray, by: np.ndarray, bx: np.ndarray) -> float:
    """Returns the area that two simple polygons have in common; vertices (n,) float64, in the same sense of turning.

    By Green's theorem: the border of what is common consists of the parts of either border inside the other polygon,
    and along a straight edge from P with direction D the integral ½ ∮ x dy − y dx is ½ (P × D) times the share of the
    edge that is inside. That share is the sum of the places where it leaves the other polygon, less those where it
    enters, plus 1 if it ends inside: crossings need no order. No edge of one may lie on a vertex of the other.
    """
    rays, others = ay.size, by.size
    ey, ex, side, share, change = np.zeros((5, others))
    for j in range(others):
        after = j + 1 if j + 1 < others else 0
        ey[j], ex[j] = by[after] - by[j], bx[after] - bx[j]
    for j in range(others):  # on which side of each edge of B the vertex of A lies: > 0 to the inner side
        side[j] = ex[j] * (ay[0] - by[j]) - ey[j] * (ax[0] - bx[j])
    inside = 1.0 if _contains(ay[0], ax[0], by, bx) else 0.0
    total = 0.0
    for i in range(rays):
        after = i + 1 if i + 1 < rays else 0
        py, px, dy, dx = ay[i], ax[i], ay[after] - ay[i], ax[after] - ax[i]
        part = 0.0
        for j in range(others):
            before = side[j]
            now = ex[j] * (ay[after] - by[j]) - ey[j] * (ax[after] - bx[j])
            side[j] = now
            if (before > 0) == (now > 0):
                continue
            start = dx * (by[j] - py) - dy * (bx[j] - px)
            end = start + dx * ey[j] - dy * ex[j]
            if (start > 0) == (end > 0):
                continue
            way = 1.0 if now > 0 else -1.0  # 1: the edge of A enters B, and the edge of B leaves A
            part -= way * before / (before - now)
            inside += way
            share[j] += way * start / (start - end)
            change[j] -= way
        total += (px * dy - py * dx) * (part + inside)
    inside = 1.0 if _contains(by[0], bx[0], ay, ax) else 0.0
    for j in range(others):
        inside += change[j]
        total += (bx[j] * ey[j] - by[j] * ex[j]) * (share[j] + inside)
    return total / 2


@njit(cache=True, nogil=True)
def draw(labels: np.ndarray, label: int, ys: np.ndarray, xs: np.ndarray) -> None:
    """Writes `label` to those pixels of the background (0) whose centres lie in the polygon."""
    crossings = np.empty(ys.size)
    for row in range(max(0, math.ceil(ys.min())), min(labels.shape[0] - 1, math.floor(ys.max())) + 1):
        count = 0
        y0, x0 = ys[-1] - row, xs[-1]
        for k in range(ys.size):
            y1, x1 = ys[k] - row, xs[k]
            if (y0 > 0) != (y1 > 0):
                crossing = x0 - y0 * (x1 - x0) / (y1 - y0)
                place = count
                while place > 0 and crossings[place - 1] > crossing:
                    crossings[place] = crossings[place - 1]
                    place -= 1
                crossings[place] = crossing
                count += 1
            y0, x0 = y1, x1
        for pair in range(0, count - 1, 2):
            first, last = math.ceil(crossings[pair]), math.ceil(crossings[pair + 1])
            for column in range(max(0, first), min(labels.shape[1], last)):
                if labels[row, column] == 0:
                    labels[row, column] = label


@njit(cache=True, nogil=True)
def _overlap(a: np.ndarray, b: np.ndarray, limit: float, of_a: np.ndarray, of_b: np.ndarray, centre: tuple) -> bool:
    """Returns whether polygons A and B, vertices (2, R) with B's centre at 0, A's at `centre`, share over `limit` px².

    Cut at a disc about its centre that lies in the other one, a polygon is a part of what is common, and decides if
    that is enough; the boxes decide if they share too little. of_a and of_b are the radii.
    """
    if _area(of_a, _clearance(centre[0], centre[1], b[0], b[1])) > limit:
        return True
    if _area(of_b, _clearance(0.0, 0.0, a[0], a[1])) > limit:
        return True
    height = min(a[0].max(), b[0].max()) - max(a[0].min(), b[0].min())
    width = min(a[1].max(), b[1].max()) - max(a[1].min(), b[1].min())
    if height <= 0 or width <= 0 or height * width <= limit:
        return False
    return intersection_area(a[0], a[1], b[0], b[1]) > limit


@njit(cache=True, nogil=True)
def _near(
    y: int, x: int, reach: float, shape: tuple, lists: tuple, members: np.ndarray, found: np.ndarray
) -> tuple[int, int]:
    """Writes into `found` which of those kept may come within `reach` of (y, x); returns how many, and the cost."""
    heads, first, following = lists
    height, width = shape
    number = looked = 0
    for size in range(SIZES):
        if members[size] == 0:
            continue
        cell, most = CELL_PX << size, reach + (CELL_PX << size)
        columns = -(-width // cell)
        for row in range(max(0, int(y - most) // cell), min(height - 1, int(y + most)) // cell + 1):
            for column in range(max(0, int(x - most) // cell), min(width - 1, int(x + most)) // cell + 1):
                near = heads[first[size] + row * columns + column]
                looked += 1
                while near >= 0:
                    found[number] = near
                    number += 1
                    near = following[near]
    return number, looked + number


@njit(cache=True, nogil=True)
def _size_class(reach: float) -> int:
    size = 0
    while size < SIZES - 1 and reach > CELL_PX << size:
        size += 1
    return size


@njit(cache=True, nogil=True)
def _cells(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns empty lists (-1) for the cells of all size classes, and where those of each class begin (SIZES,)."""
    first = np.zeros(SIZES, np.int64)
    total = 0
    for size in range(SIZES):
        first[size] = total
        total += -(-height // (CELL_PX << size)) * -(-width // (CELL_PX << size))
    return np.full(total, -1, np.int64), first


@njit(cache=True, nogil=True)
def suppressed(
    places: np.ndarray, radii: np.ndarray, order: np.ndarray, rays: np.ndarray, threshold: float, labels: np.ndarray
) -> np.ndarray:
    """Returns the candidates (m,) that greedy suppression keeps, and draws them, 1 … m, into labels (H, W) int32 of 0.

    In the given order, a candidate is kept unless it has more than `threshold` of the smaller of both areas in common
    with one kept before. Earlier ones cover later ones. places: flat pixels (n,); radii (n, R);
    rays: `rays.directions`.

    The one that covers its centre is tried first, for it mostly suffices; then those near enough, found by size class
    and cell. The work is bounded: once the cost EFFORT n is spent, which predictions of noise can reach, the candidates
    that remain, the least probable, are dropped.
    """
    width = labels.shape[1]
    heads, first = _cells(labels.shape[0], width)
    kept, following, found = np.empty((3, places.size), np.int64)
    areas, outer = np.empty((2, places.size))  # of those kept
    members = np.zeros(SIZES, np.int64)
    a, b = np.empty((2, rays.shape[0])), np.empty((2, rays.shape[0]))
    count, effort = 0, EFFORT * places.size + 1_000_000
    for candidate in order:
        y, x, own = places[candidate] // width, places[candidate] % width, radii[candidate]
        area, reach = _area(own, np.inf), float(own.max())
        _vertices(0.0, 0.0, own, rays, b)
        free = True
        for everyone in range(2):
            if everyone:
                number, cost = _near(y, x, reach, labels.shape, (heads, first, following), members, found)
                effort -= cost
            else:
                found[0], number = labels[y, x] - 1, min(labels[y, x], 1)
            for near in found[:number]:
                other = kept[near]
                dy, dx = float(places[other] // width - y), float(places[other] % width - x)
                if free and dy * dy + dx * dx < (reach + outer[near]) ** 2:
                    _vertices(dy + APART, dx + APART * 0.618, radii[other], rays, a)
                    effort -= EXACT
                    free = not _overlap(a, b, threshold * min(area, float(areas[near])), radii[other], own, (dy, dx))
            if not free:
                break
        if effort < 0:
            break
        if free:
            size = _size_class(reach)
            cell = CELL_PX << size
            place = first[size] + (y // cell) * -(-width // cell) + x // cell
            kept[count], areas[count], outer[count], following[count] = candidate, area, reach, heads[place]
            heads[place] = count
            members[size] += 1
            count += 1
            _vertices(float(y), float(x), own, rays, b)
            draw(labels, count, b[0], b[1])
    return kept[:count].copy()
