"""What became of the objects of a label image in a predicted one: matched, merged, split, missed, false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

KINDS = ("hit", "merged", "split", "false")  # of predicted objects


@dataclass(frozen=True)
class Outcomes:
    """The outcome of objects: ids of the predicted ones by kind, in the order of KINDS, and of missed labeled ones.

    `false` have no match at IoU 0.5, nor are `missed` matched; an object of poor outline can be both. What takes part
    in a merge or a split is not counted again.
    """

    predicted: Mapping[str, tuple[int, ...]]
    missed: tuple[int, ...]
    merges: int
    splits: int


def outcomes(label: np.ndarray, predicted: np.ndarray) -> Outcomes:
    """Returns the outcome of the objects of a label map (H, W), -1 ignored, and of a predicted one.

    A merge is a predicted object that holds more than half of each of two or more labeled ones, a split a labeled
    object that holds more than half of each of two or more predicted ones; parts of less than a tenth of the largest
    do not count (`labels.matching.merged_objects`, `split_objects`). Predicted objects on ignored pixels are of no
    kind.
    """
    from segue.labels import matching  # with numba, which takes half a second, and few pages need

    table = matching.label_overlap(label, predicted)
    matched = matching.match(table, 0.5)
    merges, splits = matching.merged_objects(table), matching.split_objects(table)
    merged = set(merges)
    parts = {part for ids in splits.values() for part in ids} - merged
    hits = set(matched.predicted_ids.tolist()) - merged - parts
    rest = set(table.predicted_ids.tolist()) - merged - parts - hits
    counted = set(splits) | {label_id for ids in merges.values() for label_id in ids}
    kinds = dict(zip(KINDS, (hits, merged, parts, rest), strict=True))
    missed = sorted(set(matched.missed_ids.tolist()) - counted)
    return Outcomes({kind: tuple(sorted(ids)) for kind, ids in kinds.items()}, tuple(missed), len(merges), len(splits))
