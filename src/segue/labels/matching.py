"""Compares two label images of one micrograph: overlaps, matches, aggregated Jaccard index, split and merged objects.

`label_overlap` makes one sparse table of the pairs (true object, predicted object) that share pixels, in one pass over
the pixels; the cost of everything else is proportional to the number of pairs. Intersection over union (IoU) is that of
areas in pixels.

Pixels whose true label is -1 are ignored: they count in no area and no overlap, and a predicted object is judged by its
part on labeled pixels. A predicted object with more than half of its pixels on ignored ones cannot be judged: it is
left out of the table, unless its labeled part has an IoU above 0.5 with a true object. (The rule for void pixels of
Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4.2.)
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numba import njit

from segue.labels import IGNORED

MIN_PART_RATIO = 0.1  # smaller parts, relative to the largest one, make no split or merge
EMPTY = np.iinfo(np.int64).min  # a free slot of the hash table
MAX_ID = np.iinfo(np.int32).max
BLOCK_PX = 4096  # a multiple of 8


@dataclass(frozen=True)
class Overlap:
    """The T objects of a true and the P of a predicted label image, and the M pairs of them that share pixels."""

    true_ids: np.ndarray  # (T,) int64, ascending
    predicted_ids: np.ndarray  # (P,) int64, ascending
    true_areas_px: np.ndarray  # (T,) int64
    predicted_areas_px: np.ndarray  # (P,) int64, on labeled pixels
    true_index: np.ndarray  # (M,) int64, into true_ids; pairs ascend by it, then by predicted_index
    predicted_index: np.ndarray  # (M,) int64, into predicted_ids
    shared_px: np.ndarray  # (M,) int64, all above 0
    unjudged_ids: np.ndarray  # int64, the predicted objects left out because they lie on ignored pixels

    @property
    def union_px(self) -> np.ndarray:
        """The pixels of either object of each pair, (M,) int64."""
        return self.true_areas_px[self.true_index] + self.predicted_areas_px[self.predicted_index] - self.shared_px

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, (M,) float64 in (0, 1]."""
        return self.shared_px / self.union_px


def label_overlap(true: np.ndarray, predicted: np.ndarray) -> Overlap:
    """Returns the table of a true label image (0 background, -1 ignored, objects 1 …) and a predicted one of its shape.

    Ids need not be consecutive. Raises ValueError for other shapes, kinds of numbers, or ids.

    >>> table = label_overlap(np.array([[1, 1, 0, -1]]), np.array([[7, 7, 7, 7]]))
    >>> table.predicted_ids.tolist(), table.predicted_areas_px.tolist(), table.iou.round(2).tolist()
    ([7], [3], [0.67])
    """
    if true.shape != predicted.shape:
        raise ValueError(
            f"label_overlap: the true labels have shape {true.shape}, the predicted {predicted.shape}; "
            "give images of one shape"
        )
    keys, counts, wrong = _pairs(_flat(true, "true"), _flat(predicted, "predicted"))
    if wrong:
        raise ValueError(
            "label_overlap: a label is below the allowed minimum; true labels are -1 (ignored), 0 or objects 1 …, "
            "predicted ones 0 or objects 1 …"
        )
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    true_values, predicted_values = keys >> 32, keys & 0xFFFFFFFF
    ignored = true_values == IGNORED
    ignored_ids, ignored_px = predicted_values[ignored], counts[ignored]
    true_values, predicted_values, counts = true_values[~ignored], predicted_values[~ignored], counts[~ignored]

    true_ids, true_areas = _areas(true_values, counts)
    predicted_ids, predicted_areas = _areas(predicted_values, counts)
    both = (true_values > 0) & (predicted_values > 0)
    table = Overlap(
        true_ids=true_ids,
        predicted_ids=predicted_ids,
        true_areas_px=true_areas,
        predicted_areas_px=predicted_areas,
        true_index=np.searchsorted(true_ids, true_values[both]),
        predicted_index=np.searchsorted(predicted_ids, predicted_values[both]),
        shared_px=counts[both],
        unjudged_ids=ignored_ids[:0],
    )
    ignored_px, ignored_ids = ignored_px[ignored_ids > 0], ignored_ids[ignored_ids > 0]
    return _without_unjudged(table, ignored_ids, ignored_px) if ignored_ids.size else table


def _flat(labels: np.ndarray, which: str) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"label_overlap: the {which} labels are {labels.dtype}; give integers")
    if labels.size and not np.can_cast(labels.dtype, np.int32):
        for label in (labels.min(), labels.max()):
            if abs(int(label)) > MAX_ID:
                raise ValueError(f"label_overlap: a {which} label is {label}; labels up to {MAX_ID} are allowed")
    return np.ascontiguousarray(labels, dtype=np.int32).reshape(-1)


def _areas(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each object's id, ascending, and its summed counts; the background left out."""
    objects = ids > 0
    unique, index = np.unique(ids[objects], return_inverse=True)
    return unique, np.bincount(index, weights=counts[objects], minlength=unique.size).astype(np.int64)


def _without_unjudged(table: Overlap, ignored_ids: np.ndarray, ignored_px: np.ndarray) -> Overlap:
    """Returns the table without the predicted objects that lie mostly on ignored pixels and match no true object.

    ignored_ids, ignored_px: the predicted objects on ignored pixels, and how many of these each has.
    """
    partly = np.isin(ignored_ids, table.predicted_ids)
    unjudged = np.zeros(table.predicted_ids.size, bool)
    index = np.searchsorted(table.predicted_ids, ignored_ids[partly])
    unjudged[index] = ignored_px[partly] > table.predicted_areas_px[index]
    unjudged[table.predicted_index[table.iou > 0.5]] = False
    judged, pairs = ~unjudged, ~unjudged[table.predicted_index]
    return Overlap(
        true_ids=table.true_ids,
        predicted_ids=table.predicted_ids[judged],
        true_areas_px=table.true_areas_px,
        predicted_areas_px=table.predicted_areas_px[judged],
        true_index=table.true_index[pairs],
        predicted_index=(np.cumsum(judged) - 1)[table.predicted_index[pairs]],
        shared_px=table.shared_px[pairs],
        unjudged_ids=np.sort(np.concatenate([ignored_ids[~partly], table.predicted_ids[unjudged]])),
    )


@njit(cache=True, nogil=True)
def _pairs(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the distinct pairs of values as true << 32 | predicted, unsorted, their counts, and whether a value is
    below -1 or 0.

    A hash table with linear probing, looked up once for each run of equal pixels. The ends of runs are marked block by
    block, without branches, and eight pixels without one are passed over at once. (Two int32 maps, flat.)
    """
    keys, counts, used = np.full(4096, EMPTY), np.zeros(4096, np.int64), 0
    is_last = np.zeros(BLOCK_PX, np.uint8)  # of its run
    words = is_last.view(np.uint64)
    start = 0
    for begin in range(0, true.size, BLOCK_PX):
        end = min(begin + BLOCK_PX, true.size)
        inner = min(end, true.size - 1) - begin
        is_last[:] = 0
        _mark_ends(true[begin : begin + inner + 1], predicted[begin : begin + inner + 1], is_last[:inner])
        if end == true.size:
            is_last[end - 1 - begin] = 1
        for word in range(words.size):
            if words[word] == 0:
                continue
            for k in range(8 * word, 8 * word + 8):
                if is_last[k] == 0:
                    continue
                first, second = true[start], predicted[start]
                if first < -1 or second < 0:
                    return keys, counts, True
                key = (np.int64(first) << 32) | np.int64(second)
                slot = _slot(keys, key)
                if keys[slot] == EMPTY:
                    keys[slot] = key
                    used += 1
                position = begin + k + 1
                counts[slot] += position - start
                start = position
                if 2 * used > keys.size:
                    old_keys, old_counts = keys, counts
                    keys, counts = np.full(4 * old_keys.size, EMPTY), np.zeros(4 * old_keys.size, np.int64)
                    for index in range(old_keys.size):
                        if old_keys[index] != EMPTY:
                            slot = _slot(keys, old_keys[index])
                            keys[slot], counts[slot] = old_keys[index], old_counts[index]
    full = keys != EMPTY
    return keys[full], counts[full], False


@njit(cache=True, nogil=True)
def _mark_ends(true: np.ndarray, predicted: np.ndarray, is_last: np.ndarray) -> None:
    """Writes for each of the n pixels, of n + 1, whether the next one differs from it in either map."""
    for k in range(is_last.size):
        is_last[k] = (true[k] != true[k + 1]) | (predicted[k] != predicted[k + 1])


@njit(cache=True, nogil=True)
def _slot(keys: np.ndarray, key: np.int64) -> np.int64:
    """Returns the slot of a key in the table, or the free slot for it. The size is a power of two."""
    mask = keys.size - 1
    slot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask  # Knuth's multiplier
    while keys[slot] != EMPTY and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@dataclass(frozen=True)
class Matching:
    """The matched true and predicted objects, and those without a match, at one IoU threshold."""

    threshold: float
    true_ids: np.ndarray  # (TP,) int64, ascending
    predicted_ids: np.ndarray  # (TP,) int64, of the same pairs
    iou: np.ndarray  # (TP,) float64, none below the threshold
    missed_ids: np.ndarray  # (FN,) int64, true objects without a match
    spurious_ids: np.ndarray  # (FP,) int64, predicted objects without a match


def match(table: Overlap, threshold: float = 0.5) -> Matching:
    """Returns the most matches of true with predicted objects that have IoU >= threshold, each object used once.

    Among equally many, those of the largest IoU summed over all pairs of the assignment, as `stardist.matching` does.
    From 0.5 on no assignment is needed: two partners above 0.5 would share pixels, and at exactly 0.5 the only choice
    is between the halves of one object, of which the lower id is taken.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"match: threshold is {threshold}; an IoU above 0 and at most 1 is allowed")
    iou = table.iou
    if threshold >= 0.5:
        pairs = np.flatnonzero(iou >= threshold)
        pairs = pairs[np.unique(table.true_index[pairs], return_index=True)[1]]
        pairs = np.sort(pairs[np.unique(table.predicted_index[pairs], return_index=True)[1]])
    else:
        smaller = max(1, min(table.true_ids.size, table.predicted_ids.size))
        pairs = assignment(table, (iou >= threshold) + iou / (2 * smaller))
        pairs = pairs[iou[pairs] >= threshold]
    return Matching(
        threshold=threshold,
        true_ids=table.true_ids[table.true_index[pairs]],
        predicted_ids=table.predicted_ids[table.predicted_index[pairs]],
        iou=iou[pairs],
        missed_ids=np.delete(table.true_ids, table.true_index[pairs]),
        spurious_ids=np.delete(table.predicted_ids, table.predicted_index[pairs]),
    )


def assignment(table: Overlap, weights: np.ndarray) -> np.ndarray:
    """Returns the pairs, ascending indices into the table's M, of largest summed weight that use each object once.

    weights (M,), none negative. Sparse: successive shortest augmenting paths, whose searches stay within the objects
    that compete for each other; memory is proportional to the number of pairs, and so is the time for objects that
    overlap a few others. (SciPy's sparse assignment visits all objects in each search.)
    """
    starts = np.searchsorted(table.true_index, np.arange(table.true_ids.size + 1))
    pairs = _assign(
        starts, table.true_index, table.predicted_index, weights.astype(np.float64), table.predicted_ids.size
    )
    return np.sort(pairs[pairs >= 0])


@njit(cache=True, nogil=True)
def _assign(starts: np.ndarray, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Returns the pair of each of T rows in the assignment of largest summed weight, (T,) int64, -1 for none.

    rows, columns (M,): the ends of the pairs, below T and `count`; row r has the pairs starts[r] to starts[r + 1].
    The primal-dual method: the prices of rows and columns are none negative, those of a pair sum to at least its weight
    and those of an assigned pair to just that; what is left without a partner in the end has the price 0. (Kuhn, Naval
    Research Logistics 2, 83 (1955), with Dijkstra's search; Ahuja, Magnanti, Orlin, Network Flows, section 12.4.)
    """
    row_count = starts.size - 1
    row_price, column_price = np.zeros(row_count), np.zeros(count)
    pair_of_row, row_of_column = np.full(row_count, -1), np.full(count, -1)
    distance, via = np.full(count, np.inf), np.full(count, -1)  # of columns: from the new row, and by which pair
    for row in range(row_count):
        for pair in range(starts[row], starts[row + 1]):
            row_price[row] = max(row_price[row], weights[pair])
    for new_row in range(row_count):
        # the nearest end of a path from the new row: a free column, or a row that gives up its partner
        heap = [(0.0, np.int64(-1))]
        touched = [np.int64(-1)]
        reached = [np.int64(-1)]
        nearest, last_row, free_column = np.inf, new_row, -1
        while heap:
            length, column = heapq.heappop(heap)
            if length >= nearest:
                break
            if column >= 0:
                if length > distance[column]:
                    continue
                reached.append(column)
            row = new_row if column < 0 else row_of_column[column]
            if length + row_price[row] < nearest:
                nearest, last_row, free_column = length + row_price[row], row, -1
            for pair in range(starts[row], starts[row + 1]):
                other = columns[pair]
                slack = max(0.0, row_price[row] + column_price[other] - weights[pair])
                if length + slack < min(distance[other], nearest):
                    distance[other], via[other] = length + slack, pair
                    touched.append(other)
                    if row_of_column[other] < 0:
                        nearest, free_column = length + slack, other
                    else:
                        heapq.heappush(heap, (length + slack, other))
        # prices along the way
        row_price[new_row] = max(0.0, row_price[new_row] - nearest)
        for column in reached[1:]:
            change = nearest - distance[column]
            row_price[row_of_column[column]] -= change
            column_price[column] += change
        # partners along the path, from its end to its beginning
        if free_column < 0 and last_row != new_row:
            free_column = columns[pair_of_row[last_row]]
            pair_of_row[last_row] = -1
        while free_column >= 0:
            pair = via[free_column]
            row = rows[pair]
            previous = -1 if pair_of_row[row] < 0 else columns[pair_of_row[row]]
            pair_of_row[row], row_of_column[free_column] = pair, row
            free_column = previous
        for column in touched[1:]:
            distance[column] = np.inf
    return pair_of_row


def jaccard_aggregated(table: Overlap) -> tuple[int, int]:
    """Returns intersection and union in pixels, whose ratio is the aggregated Jaccard index (AJI).

    Each true object is paired with the predicted one of largest IoU (the lower id of equals), which several may share;
    their intersection and union are added, or its area where nothing overlaps. Predicted objects in no pair add their
    area to the union. (Kumar et al., IEEE Trans. Med. Imaging 36, 1550 (2017), algorithm 1.)
    """
    pairs = np.lexsort((table.predicted_index, -table.iou, table.true_index))
    return _aggregated(table, pairs[np.unique(table.true_index[pairs], return_index=True)[1]])


def jaccard_aggregated_plus(table: Overlap) -> tuple[int, int]:
    """Returns intersection and union in pixels, whose ratio is AJI+: no object is used twice.

    Pairs are those of the assignment of largest summed IoU; what is left on either side adds its area to the union.
    (Graham et al., HoVer-Net, Medical Image Analysis 58, 101563 (2019).)
    """
    return _aggregated(table, assignment(table, table.iou))


def _aggregated(table: Overlap, pairs: np.ndarray) -> tuple[int, int]:
    unpaired_true = np.delete(table.true_areas_px, table.true_index[pairs]).sum()
    unpaired_predicted = np.delete(table.predicted_areas_px, table.predicted_index[pairs]).sum()
    return int(table.shared_px[pairs].sum()), int(table.union_px[pairs].sum() + unpaired_true + unpaired_predicted)


def split_objects(table: Overlap) -> dict[int, tuple[int, ...]]:
    """Returns the true objects that were split, each with the ids of its parts, ascending.

    A part is a predicted object of which more than half lies in the true one. A split has two or more; parts of less
    than a tenth of the area of the largest do not count.
    """
    inside = 2 * table.shared_px > table.predicted_areas_px[table.predicted_index]
    whole, part = table.true_index[inside], table.predicted_index[inside]
    return _with_several_parts(table.true_ids[whole], table.predicted_ids[part], table.predicted_areas_px[part])


def merged_objects(table: Overlap) -> dict[int, tuple[int, ...]]:
    """Returns the predicted objects that join several, each with the ids of the true ones in it, ascending.

    As `split_objects` with the roles exchanged: two or more true objects of which more than half lies in the predicted.
    """
    inside = 2 * table.shared_px > table.true_areas_px[table.true_index]
    whole, part = table.predicted_index[inside], table.true_index[inside]
    return _with_several_parts(table.predicted_ids[whole], table.true_ids[part], table.true_areas_px[part])


def _with_several_parts(wholes: np.ndarray, parts: np.ndarray, areas_px: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Returns {whole: its parts} of those that have two parts or more, parts that are too small left out.

    wholes, parts, areas_px (n,): for each part the id of its whole, its own id and its area.
    """
    ids, group = np.unique(wholes, return_inverse=True)
    largest = np.zeros(ids.size, np.int64)
    np.maximum.at(largest, group, areas_px)
    counted = areas_px >= MIN_PART_RATIO * largest[group]
    several = np.bincount(group[counted], minlength=ids.size) > 1
    parts_of: dict[int, list[int]] = {int(k): [] for k in ids[several]}
    selected = counted & several[group]
    for whole, part in zip(wholes[selected].tolist(), parts[selected].tolist(), strict=True):
        parts_of[whole].append(part)
    return {whole: tuple(sorted(members)) for whole, members in parts_of.items()}
