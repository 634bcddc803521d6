"""All object scores of an image with 121,801 objects, against a plain way whose cost grows with their square.

    uv run python benchmarks/bench_many_objects.py [--rounds 3] [--objects 121801] [--plain 2500]

A grid of squares of 28 px at a pitch of 34 px, and a copy shifted by 3 rows and 4 columns. `count_matches` is timed on
all of it, in wall time and in the processor time of its thread. The plain way, a table of all true by all predicted
objects and SciPy's dense assignment for AJI+, is run on the first `--plain` objects, where both give the same numbers,
and its time for all is what the square of the number of objects makes of that. Prints a line of a table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np
from contest import head, parse, row
from scipy.optimize import linear_sum_assignment

from segue.evaluation.object_metrics import THRESHOLDS, count_matches

PITCH_PX, SIDE_PX, MARGIN_PX = 34, 28, 3


def squares(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns label images of count (a square number) squares, and the same shifted, int32."""
    side = math.isqrt(count)
    square = np.zeros((PITCH_PX, PITCH_PX), np.int32)
    square[MARGIN_PX : MARGIN_PX + SIDE_PX, MARGIN_PX : MARGIN_PX + SIDE_PX] = 1
    true = np.kron(np.arange(1, side * side + 1, dtype=np.int32).reshape(side, side), square)
    return true, np.roll(true, (3, 4), (0, 1))


def plain(true: np.ndarray, predicted: np.ndarray) -> tuple[list[int], tuple[int, int]]:
    """Returns matches at each threshold, and intersection and union of AJI+, from a dense table of overlaps."""
    shared = np.zeros((int(true.max()) + 1, int(predicted.max()) + 1), np.int64)
    np.add.at(shared, (true.ravel(), predicted.ravel()), 1)
    areas, predicted_areas = shared.sum(1)[1:], shared.sum(0)[1:]
    shared = shared[1:, 1:]
    union = areas[:, None] + predicted_areas - shared
    iou = shared / union
    rows, columns = linear_sum_assignment(-iou)
    paired = iou[rows, columns] > 0
    rows, columns = rows[paired], columns[paired]
    total = union[rows, columns].sum() + np.delete(areas, rows).sum() + np.delete(predicted_areas, columns).sum()
    return [int((iou >= t).sum()) for t in THRESHOLDS], (int(shared[rows, columns].sum()), int(total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=121_801)
    parser.add_argument("--plain", type=int, default=2500, help="objects of the plain way, a square number")
    options = parse(parser, rounds=1, objects=400, plain=100)
    few = squares(options.plain)
    began = time.thread_time()
    hits, aggregated = plain(*few)
    plain_s = (time.thread_time() - began) * (options.objects / options.plain) ** 2
    counts = count_matches(*few)  # compiles
    assert counts.true_positives[0].tolist() == hits
    assert tuple(counts.aji_plus_px[0].tolist()) == aggregated

    true, predicted = squares(options.objects)
    wall, processor = [], []
    for _ in range(options.rounds):
        began = time.perf_counter(), time.thread_time()
        count_matches(true, predicted)
        wall.append(time.perf_counter() - began[0])
        processor.append(time.thread_time() - began[1])
    seconds = statistics.median(processor)
    print(f"{true.shape[0]} × {true.shape[1]} px, {int(true.max()):,} objects, {options.rounds} rounds\n")
    print(head("", "processor s (least to greatest)", "wall s, least", "plain / it"))
    spread = f"{seconds:.2f} ({min(processor):.2f} to {max(processor):.2f})"
    print(row("all scores", spread, f"{min(wall):.2f}", f"{plain_s / seconds:.2f}"))


if __name__ == "__main__":
    main()
