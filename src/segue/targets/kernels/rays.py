"""Compiled parts of the target `rays`: distances to borders, exact overlap of polygons, suppression and drawing.

A polygon has one vertex per ray and is star-convex about its center: it never crosses itself. `rays.directions` gives
the directions of the rays.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SIZE_CLASSES = 14  # of selected polygons, each twice the one before
CELL_PX = 2  # largest radius in the first size class, and the side of its cells
OVERLAP_COST = 50  # of an overlap; that of a look at a neighbor is 1
MAX_COST = 400  # of suppression per candidate, on average; noisy outlines of nuclei take some 60
OFFSET_PX = 1e-7  # by which two polygons are moved apart, so that no vertex lies on an edge of the other


@njit(cache=True, nogil=True)
def _advance(active: np.ndarray, mask: np.ndarray, count: np.ndarray) -> bool:
    """Counts a step for active pixels that come to a pixel of the mask, and stops the others. All are (n,) uint8."""
    for i in range(active.size):
        still = active[i] & mask[i]
        active[i] = still
        count[i] += still
    any_active = np.uint8(0)
    for i in range(active.size):  # in a loop of its own both become vector instructions
        any_active |= active[i]
    return any_active != 0


@njit(cache=True, nogil=True)
def _deposit(plane: np.ndarray, corner: tuple, mask: np.ndarray, count: np.ndarray, more: np.float32) -> None:
    """Adds the steps counted and `more` to the pixels of the mask (h, w + 1), whose corner lies there in the plane."""
    for y in range(mask.shape[0]):
        row, inside, stepped = plane[corner[0] + y][corner[1] :], mask[y], count[y]
        for x in range(mask.shape[1] - 1):  # outside of the mask nothing was counted
            row[x] += np.float32(stepped[x]) + np.float32(inside[x]) * more


@njit(cache=True, nogil=True)
def ray_distances(
    labels: np.ndarray, boxes: np.ndarray, offsets: np.ndarray, half: np.ndarray, out: np.ndarray
) -> None:
    """Adds to `out` (R, H, W) float32 how far each object reaches from each of its pixels along R rays, in px.

    That is the number of unit steps that stay in the object, and `half` (R,) of a pixel (`rays.border_px`), as by
    StarDist. boxes: `labels.ops.bounding_boxes`; offsets: `rays.ray_steps`, as many as the longest diagonal of a
    box at least.

    All pixels of an object step together: its mask, rows ended by an empty column, is laid over itself displaced. Steps
    change row and column by one at most, so that a pixel that leaves a row meets the empty column before the next row;
    what leaves the mask at either end is inactive too.
    """
    for index in range(boxes.shape[0]):
        y0, x0, y1, x1 = boxes[index]
        height, pitch = y1 - y0, x1 - x0 + 1
        mask = np.zeros((height, pitch), np.uint8)
        for y in range(height):
            for x in range(pitch - 1):
                mask[y, x] = labels[y0 + y, x0 + x] == index + 1
        flat, size = mask.ravel(), mask.size
        active, count = np.empty(size, np.uint8), np.empty(size, np.uint8)
        for ray in range(offsets.shape[0]):
            for k in range(size):
                active[k], count[k] = flat[k], 0
            more, counted = half[ray], 0
            for step in range(offsets.shape[1]):
                shift = offsets[ray, step, 0] * pitch + offsets[ray, step, 1]
                low, high = max(0, -shift), min(size, size - shift)
                active[:low], active[max(low, high) :] = 0, 0
                if low >= high or not _advance(active[low:high], flat[low + shift : high + shift], count[low:high]):
                    break
                counted += 1
                if counted == 255:  # as many as a byte holds
                    _deposit(out[ray], (y0, x0), mask, count.reshape(mask.shape), more)
                    count[:] = 0
                    more, counted = np.float32(0), 0
            _deposit(out[ray], (y0, x0), mask, count.reshape(mask.shape), more)


@njit(cache=True, nogil=True)
def best_of_cells(score: np.ndarray, threshold: float, side: int) -> np.ndarray:
    """Returns the flat positions (n,) of the best pixel above the threshold in each cell of side × side px."""
    height, width = score.shape
    positions = np.empty(-(-height // side) * -(-width // side), np.int64)
    count = 0
    for top in range(0, height, side):
        for left in range(0, width, side):
            best, position = threshold, -1
            for y in range(top, min(top + side, height)):
                for x in range(left, min(left + side, width)):
                    if score[y, x] > best:
                        best, position = score[y, x], y * width + x
            if position >= 0:
                positions[count] = position
                count += 1
    return positions[:count].copy()


@njit(cache=True, nogil=True)
def gather_radii(channels: np.ndarray, positions: np.ndarray, lower: np.ndarray, upper: float) -> np.ndarray:
    """Returns channels (R, H W) at positions (n,) as (n, R), clipped to lower (R,) and upper; NaN becomes lower."""
    rays, block = channels.shape[0], 64
    radii = np.empty((positions.size, rays), np.float32)
    for start in range(0, positions.size, block):
        for ray in range(rays):
            for i in range(start, min(start + block, positions.size)):
                value = channels[ray, positions[i]]
                radii[i, ray] = min(value, upper) if value > lower[ray] else lower[ray]
    return radii


@njit(cache=True, nogil=True)
def _vertices(y: float, x: float, radii: np.ndarray, rays: np.ndarray, out: np.ndarray) -> None:
    """Writes rows and columns (2, R) of a polygon's vertices."""
    for k in range(radii.size):
        out[0, k] = y + radii[k] * rays[k, 0]
        out[1, k] = x + radii[k] * rays[k, 1]


@njit(cache=True, nogil=True)
def _area(radii: np.ndarray, max_radius: float) -> float:
    """Returns the area of a polygon whose radii are clipped to `max_radius`."""
    total, previous = 0.0, min(float(radii[-1]), max_radius)
    for k in range(radii.size):
        radius = min(float(radii[k]), max_radius)
        total += previous * radius
        previous = radius
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
    nearest = np.inf
    y0, x0 = ys[-1] - y, xs[-1] - x
    for k in range(ys.size):
        y1, x1 = ys[k] - y, xs[k] - x
        dy, dx = y1 - y0, x1 - x0
        along = min(max(-(y0 * dy + x0 * dx) / (dy * dy + dx * dx), 0.0), 1.0)
        py, px = y0 + along * dy, x0 + along * dx
        nearest = min(nearest, py * py + px * px)
        y0, x0 = y1, x1
    return math.sqrt(nearest)


@njit(cache=True, nogil=True, error_model="numpy")
def intersection_area(ay: np.ndarray, ax: np.ndarray, by: np.ndarray, bx: np.ndarray) -> float:
    """Returns the area that two simple polygons have in common; vertices (n,) float64, in the same sense of rotation.

    By Green's theorem: the border of the common area consists of the parts of either border inside the other polygon,
    and along a straight edge from P with direction D the integral ½ ∮ x dy − y dx is ½ (P × D) times the share of the
    edge that is inside. That share is the sum of the positions where it leaves the other polygon, less those where it
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
            crossing = 1.0 if now > 0 else -1.0  # 1: the edge of A enters B, and the edge of B leaves A
            part -= crossing * before / (before - now)
            inside += crossing
            share[j] += crossing * start / (start - end)
            change[j] -= crossing
        total += (px * dy - py * dx) * (part + inside)
    inside = 1.0 if _contains(by[0], bx[0], ay, ax) else 0.0
    for j in range(others):
        inside += change[j]
        total += (bx[j] * ey[j] - by[j] * ex[j]) * (share[j] + inside)
    return total / 2


@njit(cache=True, nogil=True)
def fill_polygon(labels: np.ndarray, label: int, ys: np.ndarray, xs: np.ndarray) -> None:
    """Writes `label` to those pixels of the background (0) whose centers lie in the polygon."""
    crossings = np.empty(ys.size)
    for row in range(max(0, math.ceil(ys.min())), min(labels.shape[0] - 1, math.floor(ys.max())) + 1):
        count = 0
        y0, x0 = ys[-1] - row, xs[-1]
        for k in range(ys.size):
            y1, x1 = ys[k] - row, xs[k]
            if (y0 > 0) != (y1 > 0):
                crossing = x0 - y0 * (x1 - x0) / (y1 - y0)
                slot = count
                while slot > 0 and crossings[slot - 1] > crossing:
                    crossings[slot] = crossings[slot - 1]
                    slot -= 1
                crossings[slot] = crossing
                count += 1
            y0, x0 = y1, x1
        for pair in range(0, count - 1, 2):
            first, last = math.ceil(crossings[pair]), math.ceil(crossings[pair + 1])
            for column in range(max(0, first), min(labels.shape[1], last)):
                if labels[row, column] == 0:
                    labels[row, column] = label


@njit(cache=True, nogil=True)
def _overlap_exceeds(
    a: np.ndarray, b: np.ndarray, limit: float, radii_a: np.ndarray, radii_b: np.ndarray, center: tuple
) -> bool:
    """Returns whether polygons A and B, vertices (2, R) with B's center at 0, A's at `center`, share over `limit` px².

    Clipped to a disc about its center that lies in the other one, a polygon is a part of the common area, and decides
    if that is enough; the boxes decide if they share too little.
    """
    if _area(radii_a, _clearance(center[0], center[1], b[0], b[1])) > limit:
        return True
    if _area(radii_b, _clearance(0.0, 0.0, a[0], a[1])) > limit:
        return True
    height = min(a[0].max(), b[0].max()) - max(a[0].min(), b[0].min())
    width = min(a[1].max(), b[1].max()) - max(a[1].min(), b[1].min())
    if height <= 0 or width <= 0 or height * width <= limit:
        return False
    return intersection_area(a[0], a[1], b[0], b[1]) > limit


@njit(cache=True, nogil=True)
def _find_neighbors(
    y: int, x: int, reach: float, shape: tuple, lists: tuple, members: np.ndarray, out: np.ndarray
) -> tuple[int, int]:
    """Writes into `out` which selected polygons may come within `reach` of (y, x); returns how many, and the cost."""
    heads, first, following = lists
    height, width = shape
    count = visited = 0
    for size in range(SIZE_CLASSES):
        if members[size] == 0:
            continue
        cell, distance = CELL_PX << size, reach + (CELL_PX << size)
        columns = -(-width // cell)
        for row in range(max(0, int(y - distance) // cell), min(height - 1, int(y + distance)) // cell + 1):
            for column in range(max(0, int(x - distance) // cell), min(width - 1, int(x + distance)) // cell + 1):
                neighbor = heads[first[size] + row * columns + column]
                visited += 1
                while neighbor >= 0:
                    out[count] = neighbor
                    count += 1
                    neighbor = following[neighbor]
    return count, visited + count


@njit(cache=True, nogil=True)
def _size_class(reach: float) -> int:
    size = 0
    while size < SIZE_CLASSES - 1 and reach > CELL_PX << size:
        size += 1
    return size


@njit(cache=True, nogil=True)
def _cells(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns empty lists (-1) for the cells of all size classes, and the first list of each class (SIZE_CLASSES,)."""
    first = np.zeros(SIZE_CLASSES, np.int64)
    total = 0
    for size in range(SIZE_CLASSES):
        first[size] = total
        total += -(-height // (CELL_PX << size)) * -(-width // (CELL_PX << size))
    return np.full(total, -1, np.int64), first


@njit(cache=True, nogil=True)
def non_maximum_suppression(
    positions: np.ndarray,
    radii: np.ndarray,
    order: np.ndarray,
    directions: np.ndarray,
    threshold: float,
    labels: np.ndarray,
) -> np.ndarray:
    """Returns the candidates (m,) that greedy suppression selects; draws them, 1 … m, into labels (H, W) int32 of 0.

    In the given order, a candidate is selected unless it has more than `threshold` of the smaller of both areas in
    common with one selected before. Earlier ones cover later ones. positions: flat pixels (n,); radii (n, R);
    directions: `rays.directions`.

    The one that covers its center is tried first, for it mostly suffices; then those near enough, found by size class
    and cell. The work is bounded: once the cost MAX_COST n is spent, which predictions of noise can reach, the
    candidates that remain, the least probable, are dropped.
    """
    width = labels.shape[1]
    heads, first = _cells(labels.shape[0], width)
    selected, following, neighbors = np.empty((3, positions.size), np.int64)
    areas, reaches = np.empty((2, positions.size))  # of the selected
    members = np.zeros(SIZE_CLASSES, np.int64)
    a, b = np.empty((2, directions.shape[0])), np.empty((2, directions.shape[0]))
    count, budget = 0, MAX_COST * positions.size + 1_000_000
    for candidate in order:
        y, x, own_radii = positions[candidate] // width, positions[candidate] % width, radii[candidate]
        area, reach = _area(own_radii, np.inf), float(own_radii.max())
        _vertices(0.0, 0.0, own_radii, directions, b)
        free = True
        # first the polygon that covers the center, then all that are near
        for everyone in range(2):
            if everyone:
                lists = (heads, first, following)
                number, cost = _find_neighbors(y, x, reach, labels.shape, lists, members, neighbors)
                budget -= cost
            else:
                neighbors[0], number = labels[y, x] - 1, min(labels[y, x], 1)
            for neighbor in neighbors[:number]:
                other = selected[neighbor]
                dy, dx = float(positions[other] // width - y), float(positions[other] % width - x)
                if free and dy * dy + dx * dx < (reach + reaches[neighbor]) ** 2:
                    _vertices(dy + OFFSET_PX, dx + OFFSET_PX * 0.618, radii[other], directions, a)
                    budget -= OVERLAP_COST
                    limit = threshold * min(area, float(areas[neighbor]))
                    free = not _overlap_exceeds(a, b, limit, radii[other], own_radii, (dy, dx))
            if not free:
                break
        if budget < 0:
            break
        # select it: enter it into its cell, and draw it
        if free:
            size = _size_class(reach)
            cell = CELL_PX << size
            cell_index = first[size] + (y // cell) * -(-width // cell) + x // cell
            selected[count], areas[count], reaches[count], following[count] = candidate, area, reach, heads[cell_index]
            heads[cell_index] = count
            members[size] += 1
            count += 1
            _vertices(float(y), float(x), own_radii, directions, b)
            fill_polygon(labels, count, b[0], b[1])
    return selected[:count].copy()
