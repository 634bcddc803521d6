"""Matching of objects at ten IoU thresholds, and all object scores, against stardist.matching on the same label maps.

    uv run --with stardist python benchmarks/bench_objects.py [--rounds 9] [--side 1024]

Discs of 8 to 18 px radius, about 500 at 1024², some merged, cut, moved or missing in the prediction. Contestants, one
thread each, take turns in every round: stardist's `matching` and `matching_dataset` at ten thresholds, `overlap` with
`match` at the same ten (the same numbers: both are compared first), and `count_matches`, which adds AJI, AJI+, splits,
merges and boundaries. Medians over rounds; the ratio is the median of the ratios round by round. Prints lines of a
table; without stardist, segue's times alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
from contest import parse, ratio, take_turns

from segue import rng
from segue.evaluation.object_metrics import THRESHOLDS, count_matches
from segue.labels.matching import Matching, label_overlap, match

try:
    from stardist.matching import matching, matching_dataset  # type: ignore[import-not-found]
except ImportError:
    matching = matching_dataset = None

PITCH_PX = 45


def discs(side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a true and a predicted label map, (side, side) int32, with about (side / 45)² objects."""
    generator = rng.numpy_generator("bench-objects")
    true, predicted = np.zeros((2, side_px, side_px), np.int32)
    rows, columns = np.mgrid[:side_px, :side_px]
    count = side_px // PITCH_PX
    for index in range(count * count):
        y, x = (np.array(divmod(index, count)) + 0.5) * PITCH_PX + generator.uniform(-6, 6, 2)
        radius, moved = generator.uniform(8, 18), generator.uniform(-3, 3, 2)
        window = np.s_[max(0, int(y) - 30) : int(y) + 30, max(0, int(x) - 30) : int(x) + 30]
        for labels, dy, dx in ((true, 0.0, 0.0), (predicted, *moved)):
            inside = (rows[window] - y - dy) ** 2 + (columns[window] - x - dx) ** 2 < radius**2
            labels[window][inside] = index + 1
        fate = generator.random()
        if fate < 0.05:
            predicted[predicted == index + 1] = 0
        elif fate < 0.1:
            predicted[predicted == index + 1] = index  # merged with its neighbour
        elif fate < 0.15:
            predicted[window][(predicted[window] == index + 1) & (rows[window] < y)] = count * count + index + 1
    return true, predicted


def matches(true: np.ndarray, predicted: np.ndarray) -> list[Matching]:
    table = label_overlap(true, predicted)
    return [match(table, threshold) for threshold in THRESHOLDS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=1024, help="px")
    options = parse(parser, rounds=1, side=128)
    true, predicted = discs(options.side)
    contestants: dict[str, Callable[[], object]] = {
        "overlap and match": lambda: matches(true, predicted),
        "count_matches, all scores": lambda: count_matches(true, predicted),
    }
    if matching is not None and matching_dataset is not None:
        references, results = matching(true, predicted, thresh=THRESHOLDS), matches(true, predicted)
        assert [each.tp for each in references] == [result.iou.size for result in results]
        sums = [each.mean_true_score * each.n_true for each in references]
        assert np.allclose(sums, [result.iou.sum() for result in results])
        contestants |= {
            "stardist matching": lambda: matching(true, predicted, thresh=THRESHOLDS),
            "stardist matching_dataset": lambda: matching_dataset(
                [true], [predicted], thresh=THRESHOLDS, show_progress=False
            ),
        }
    seconds = take_turns(contestants, options.rounds)
    counts = [len(np.unique(labels)) - 1 for labels in (true, predicted)]
    print(f"{options.side}² px, {counts[0]} true and {counts[1]} predicted objects, {options.rounds} rounds\n")
    print("| ten thresholds | ms | stardist matching / it |\n|---|---|---|")
    for name, times in seconds.items():
        relative = f"{ratio(seconds['stardist matching'], times):.2f}" if "stardist matching" in seconds else "–"
        print(f"| {name} | {1000 * statistics.median(times):.2f} | {relative} |")


if __name__ == "__main__":
    main()
