"""Scores of segmented objects, from counts per whole micrograph.

`count_matches` counts one micrograph, `concatenate` puts micrographs together, `scores` and `per_image` divide. Every
score is pooled by default: counts are summed over all micrographs, then divided. Each object then has the same weight,
nothing depends on how a field was cut into images, and empty images need no convention. It is what
`stardist.matching.matching_dataset(by_image=False)` gives. Scores whose name ends in `_image_mean` are means over
all images, each with the same weight: the usage of the Data Science Bowl 2018 and of
`cellpose.metrics.average_precision`. With few or unequal images the two differ by several hundredths.

An object is a true positive at a threshold t if it has a match of IoU >= t, each object used once
(`segue.labels.matching`, which also defines how ignored pixels count). With T true and P predicted objects and TP true
positives:
average precision AP = TP / (T + P - TP), F1 = 2 TP / (T + P), precision = TP / P, recall = TP / T.
An image without any object in which none is predicted is right: its AP, F1, precision, recall, PQ (with SQ and RQ),
AJI and boundary scores are 1, so that means over images are over the same images whatever is predicted. Every other
ratio of nothing to nothing is undefined, NaN: precision without predicted objects, recall without true ones, the IoU of
matches where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit

from segue.labels import IGNORED, matching
from segue.labels.matching import Overlap

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
TOLERANCE_PX = 2.0
IMAGE_MEANS = ("ap50", "ap75", "ap_mean", "f1_50", "pq", "aji", "boundary_f1")
ONE_IF_EMPTY = (  # where nothing is to be found and nothing is predicted
    *(f"ap{round(100 * threshold)}" for threshold in THRESHOLDS),
    *("ap_mean", "f1_50", "precision_50", "recall_50", "pq", "sq", "rq", "pq_50", "aji", "aji_plus"),
    *("boundary_f1", "boundary_precision", "boundary_recall"),
)
AT_70 = ("f1", "precision", "recall", "matched_iou", "true_iou", "pq")  # of `scores_at_70`
TILE_PREFIX = "tile_"  # of scores that are counted on tiles, whose borders cut objects


@dataclass(frozen=True)
class MatchCounts:
    """Counts of I micrographs, a row each; M predicted objects of all of them where probabilities were given."""

    tolerance_px: float  # of the boundaries
    images: np.ndarray  # (I,) int64, ones: so that sums know how many
    true_objects: np.ndarray  # (I,) int64
    predicted_objects: np.ndarray  # (I,) int64
    miscounted: np.ndarray  # (I,) int64, |predicted - true objects|
    true_positives: np.ndarray  # (I, 10) int64, matches at IoU >= each of THRESHOLDS
    matched_iou: np.ndarray  # (I, 10) float64, their IoU summed
    true_positives_above_half: np.ndarray  # (I,) int64, matches at IoU > 0.5
    matched_iou_above_half: np.ndarray  # (I,) float64
    aji_px: np.ndarray  # (I, 2) int64, intersection and union, as the two below
    aji_plus_px: np.ndarray  # (I, 2) int64
    boundary_px: np.ndarray  # (I, 4) int64: true, true near predicted, predicted, predicted near true
    splits: np.ndarray  # (I,) int64
    merges: np.ndarray  # (I,) int64
    probability: np.ndarray  # (M,) float64, of each predicted object that counts
    probability_iou: np.ndarray  # (M,) float64, of its match at IoU >= 0.5; 0 without


_ROWS = [field.name for field in fields(MatchCounts) if field.name != "tolerance_px"]
ADDITIVE = [name for name in _ROWS if not name.startswith("probability")]  # sums over micrographs give the scores


def count_matches(
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    probabilities: np.ndarray | None = None,
    tolerance_px: float = TOLERANCE_PX,
) -> MatchCounts:
    """Returns the counts of one micrograph, (H, W) label maps: 0 background, objects 1 …, and -1 ignored in the true.

    probabilities (n,) of the predicted objects, that of object k at [k - 1]: the confidence of the decoder, for the
    precision-recall curve. tolerance_px: how far apart boundaries may lie. Raises ValueError for unfit arrays.
    """
    if true.ndim != 2:
        raise ValueError(f"count_matches: true labels have shape {true.shape}; give one micrograph, (height, width)")
    table = matching.label_overlap(true, predicted)
    iou = matching.match(table, THRESHOLDS[0]).iou
    is_above_half = iou > 0.5
    is_match = iou[:, None] >= np.array(THRESHOLDS)
    probability, probability_iou = _probabilities(table, probabilities)
    return MatchCounts(
        tolerance_px=float(tolerance_px),
        images=np.array([1]),
        true_objects=np.array([table.true_ids.size]),
        predicted_objects=np.array([table.predicted_ids.size]),
        miscounted=np.array([abs(table.predicted_ids.size - table.true_ids.size)]),
        true_positives=is_match.sum(0)[None],
        matched_iou=(is_match * iou[:, None]).sum(0)[None],
        true_positives_above_half=np.array([is_above_half.sum()]),
        matched_iou_above_half=np.array([iou[is_above_half].sum()]),
        aji_px=np.array([matching.jaccard_aggregated(table)]),
        aji_plus_px=np.array([matching.jaccard_aggregated_plus(table)]),
        boundary_px=np.array([boundary_counts(true, predicted, tolerance_px=tolerance_px)]),
        splits=np.array([len(matching.split_objects(table))]),
        merges=np.array([len(matching.merged_objects(table))]),
        probability=probability,
        probability_iou=probability_iou,
    )


def _probabilities(table: Overlap, probabilities: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability and the IoU of the match of each predicted object; the more probable half matches."""
    if probabilities is None:
        return np.empty(0), np.empty(0)
    ids = table.predicted_ids
    if probabilities.ndim != 1 or (ids.size and ids[-1] > probabilities.size):
        raise ValueError(
            f"count_matches: probabilities have shape {probabilities.shape}, the largest predicted object is "
            f"{ids.max(initial=0)}; give one number for each object, that of object k at [k - 1]"
        )
    values = probabilities[ids - 1].astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        k = wrong[0]
        raise ValueError(
            f"count_matches: the probability of predicted object {ids[k]} is {values[k]}; give finite numbers"
        )
    iou = np.zeros(ids.size)
    pairs = np.flatnonzero(table.iou >= THRESHOLDS[0])
    pairs = pairs[np.argsort(-values[table.predicted_index[pairs]], kind="stable")]
    pairs = pairs[np.unique(table.true_index[pairs], return_index=True)[1]]
    iou[table.predicted_index[pairs]] = table.iou[pairs]
    return values, iou


def concatenate(counts: Sequence[MatchCounts]) -> MatchCounts:
    """Returns the counts of all micrographs, in the order given; at least one, all of one tolerance."""
    if not counts:
        raise ValueError("concatenate: no counts were given; count at least one micrograph")
    tolerances = sorted({each.tolerance_px for each in counts})
    if len(tolerances) > 1:
        raise ValueError(f"concatenate: boundaries were counted at tolerances of {tolerances} px; count all at one")
    return replace(counts[0], **{name: np.concatenate([getattr(each, name) for each in counts]) for name in _ROWS})


def pool(counts: MatchCounts) -> MatchCounts:
    """Returns one row in which the counts of all micrographs are summed, as if they were one."""
    return replace(counts, **{name: getattr(counts, name).sum(0, keepdims=True) for name in ADDITIVE})


def weighted_sums(counts: MatchCounts, weights: np.ndarray) -> MatchCounts:
    """Returns R rows of counts, each the sum over micrographs with its weights (R, I): pooled counts of resamples."""
    return replace(counts, **{name: weights @ getattr(counts, name) for name in ADDITIVE})


def scores(counts: MatchCounts) -> dict[str, float]:
    """Returns the scores of all micrographs together; see the head of this file for pooled against `_image_mean`.

    `ap50` … `ap95` and their mean `ap_mean`; `f1_50`, `precision_50`, `recall_50`; of the matches at 0.5 the mean IoU
    (`matched_iou_50`) and the same per true object (`true_iou_50`) · panoptic quality `pq` = `sq` x `rq` of matches
    above 0.5 (Kirillov et al., CVPR 2019), and `pq_50`, with matches of exactly 0.5 too, as stardist has it · `aji`,
    `aji_plus` · `boundary_f1`, `boundary_precision`, `boundary_recall` · `count_error`, predicted less true objects
    per image, `count_error_absolute`, its size per image, and `count_error_relative`, that size summed over images
    per true object · `splits`, `merges`, `objects_true`, `objects_predicted`, summed · `object_auprc`, the area
    under the precision-recall curve at IoU 0.5, NaN where no probabilities were counted.
    """
    results = {name: float(values[0]) for name, values in per_image(pool(counts)).items()}
    single = per_image(counts)
    results |= {f"{name}_image_mean": _mean(single[name]) for name in IMAGE_MEANS}
    results["object_auprc"] = precision_recall(counts).area if counts.probability.size else math.nan
    return results


def name_scores(scores: Mapping[str, float], *, whole: bool) -> dict[str, float]:
    """Returns the scores under their own names if counted on whole micrographs, else as `tile_ap50` …: objects cut at
    the borders of tiles are counted in parts, so that the numbers are not comparable."""
    return dict(scores) if whole else {f"{TILE_PREFIX}{name}": value for name, value in scores.items()}


def per_image(counts: MatchCounts) -> dict[str, np.ndarray]:
    """Returns the scores of every micrograph by itself, (I,) float64 each, NaN where undefined; names as `scores`."""
    at = per_threshold(counts)
    objects = counts.true_objects + counts.predicted_objects
    near_true, near_predicted = counts.boundary_px[:, 1], counts.boundary_px[:, 3]
    precision = _ratio(near_predicted, counts.boundary_px[:, 2])
    recall = _ratio(near_true, counts.boundary_px[:, 0])
    values = {
        **{f"ap{round(100 * t)}": at["ap"][:, index] for index, t in enumerate(THRESHOLDS)},
        "ap_mean": at["ap"].mean(1),
        **{f"{name}_50": at[name][:, 0] for name in ("f1", "precision", "recall", "matched_iou", "true_iou")},
        "pq": _ratio(2 * counts.matched_iou_above_half, objects),
        "sq": _ratio(counts.matched_iou_above_half, counts.true_positives_above_half),
        "rq": _ratio(2 * counts.true_positives_above_half, objects),
        "pq_50": at["pq"][:, 0],
        "aji": _ratio(counts.aji_px[:, 0], counts.aji_px[:, 1]),
        "aji_plus": _ratio(counts.aji_plus_px[:, 0], counts.aji_plus_px[:, 1]),
        "boundary_f1": _harmonic_mean(precision, recall),
        "boundary_precision": precision,
        "boundary_recall": recall,
        "count_error": (counts.predicted_objects - counts.true_objects) / counts.images,
        "count_error_absolute": counts.miscounted / counts.images,
        "count_error_relative": _ratio(counts.miscounted, counts.true_objects),
        "splits": counts.splits.astype(float),
        "merges": counts.merges.astype(float),
        "objects_true": counts.true_objects.astype(float),
        "objects_predicted": counts.predicted_objects.astype(float),
    }
    return _one_if_empty(counts, values, ONE_IF_EMPTY)


def scores_at_70(counts: MatchCounts) -> dict[str, np.ndarray]:
    """Returns the scores of AT_70 at IoU 0.7 of every micrograph, (I,) float64 each, as `f1_70`, `precision_70` …"""
    at, index = per_threshold(counts), THRESHOLDS.index(0.7)
    values = {f"{name}_70": at[name][:, index] for name in AT_70}
    return _one_if_empty(counts, values, ("f1_70", "precision_70", "recall_70", "pq_70"))


def _one_if_empty(
    counts: MatchCounts, values: Mapping[str, np.ndarray], names: Collection[str]
) -> dict[str, np.ndarray]:
    is_empty = counts.true_objects + counts.predicted_objects == 0
    return {name: np.where(is_empty & (name in names), 1.0, column) for name, column in values.items()}


def counts_per_image(counts: MatchCounts) -> dict[str, list[int]]:
    """Returns the counts of every micrograph, I numbers each; `hits_50` are matches at IoU 0.5."""
    columns = {name: getattr(counts, name) for name in ("true_objects", "predicted_objects", "merges", "splits")}
    return {name: values.tolist() for name, values in (columns | {"hits_50": counts.true_positives[:, 0]}).items()}


def per_threshold(counts: MatchCounts) -> Mapping[str, np.ndarray]:
    """Returns `ap`, `f1`, `precision`, `recall`, `matched_iou`, `true_iou` and `pq` at each of THRESHOLDS, (I, 10)."""
    true, predicted = counts.true_objects[:, None], counts.predicted_objects[:, None]
    return {
        "ap": _ratio(counts.true_positives, true + predicted - counts.true_positives),
        "f1": _ratio(2 * counts.true_positives, true + predicted),
        "precision": _ratio(counts.true_positives, predicted),
        "recall": _ratio(counts.true_positives, true),
        "matched_iou": _ratio(counts.matched_iou, counts.true_positives),
        "true_iou": _ratio(counts.matched_iou, true),
        "pq": _ratio(2 * counts.matched_iou, true + predicted),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.broadcast_to(whole != 0, part.shape))


def _harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Returns F1: NaN where both are undefined; 0 where one is, as nothing was predicted or nothing is there."""
    missing = np.isnan(precision) & np.isnan(recall)
    precision, recall = np.nan_to_num(precision), np.nan_to_num(recall)
    f1 = _ratio(2 * precision * recall, precision + recall)
    return np.where(missing, np.nan, np.nan_to_num(f1))


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the objects at least as probable as each probability that occurs, from the highest."""

    probability: np.ndarray  # (n,) float64, descending
    precision: np.ndarray  # (n,) float64
    recall: np.ndarray  # (n,) float64, NaN without true objects

    @property
    def area(self) -> float:
        """The sum of precision times the step in recall (average precision in the sense of scikit-learn)."""
        return float(np.sum(self.precision * np.diff(self.recall, prepend=0.0)))


def precision_recall(counts: MatchCounts, threshold: float = 0.5) -> PrecisionRecall:
    """Returns the curve over the probability of predicted objects, all micrographs together.

    A predicted object is right if its match reaches `threshold`, 0.5 or more: there, leaving out less probable objects
    changes no match, so that one matching serves the whole curve. Raises ValueError where probabilities were not
    counted for all objects.
    """
    if threshold < 0.5:
        raise ValueError(f"precision_recall: threshold is {threshold}; an IoU of at least 0.5 is allowed")
    if counts.probability.size != counts.predicted_objects.sum():
        raise ValueError(
            f"precision_recall: {counts.probability.size} of {counts.predicted_objects.sum()} predicted objects have a "
            "probability; give `count_matches` the probabilities of every micrograph"
        )
    order = np.argsort(-counts.probability, kind="stable")
    probability, is_right = counts.probability[order], counts.probability_iou[order] >= threshold
    last = np.flatnonzero(np.diff(probability, append=-np.inf) != 0)  # objects of one probability come together
    true_positives = np.cumsum(is_right)[last]
    true = np.full(last.size, counts.true_objects.sum())
    return PrecisionRecall(probability[last], true_positives / (last + 1), _ratio(true_positives, true))


def boundary_counts(
    true: np.ndarray, predicted: np.ndarray, *, tolerance_px: float = TOLERANCE_PX
) -> tuple[int, int, int, int]:
    """Returns boundary pixels: true, those near a predicted one, predicted, those near a true one.

    A boundary pixel is a labeled pixel of an object with a labeled neighbor (of four, within the image) of another
    value; pixels whose true label is -1 count as unlabeled in both maps. Near is a Euclidean distance of at most
    tolerance_px between pixel centers. Recall is the second over the first, precision the fourth over the third.
    (Martin et al., IEEE PAMI 26, 530 (2004), without their one-to-one assignment, as Csurka et al., BMVC 2013.)
    """
    if not 0 <= tolerance_px < math.inf:
        raise ValueError(f"boundary_counts: tolerance_px is {tolerance_px}; give a distance in px, 0 or more")
    if true.ndim != 2 or true.shape != predicted.shape:
        raise ValueError(f"boundary_counts: shapes are {true.shape} and {predicted.shape}; give two (height, width)")
    labels = [np.ascontiguousarray(each, np.int32) for each in (true, predicted)]
    edges = [_boundary(each, labels[0]).view(np.uint8) for each in labels]
    reach = min(int(tolerance_px), max(true.shape))
    rows = np.arange(-reach, reach + 1)
    half_widths = np.sqrt(min(tolerance_px, 2 * reach + 1) ** 2 - rows**2).astype(np.int64)
    return (*_near(edges[0], edges[1], half_widths), *_near(edges[1], edges[0], half_widths))


@njit(cache=True, nogil=True)
def _boundary(labels: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Returns the boundary pixels of a label map, (H, W) bool, `true` being -1 where ignored; see `boundary_counts`."""
    height, width = labels.shape
    boundary = np.empty((height, width), np.bool_)
    for y in range(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)  # beyond the image as the pixel itself: no boundary
        for start, stop in ((0, 1), (1, width - 1), (width - 1, width)):
            if start >= stop:
                continue
            left, right, count = max(start - 1, 0), min(start + 1, width - 1), stop - start
            _boundary_row(
                (labels[y, start:stop], true[y, start:stop]),
                (labels[y, left : left + count], true[y, left : left + count]),
                (labels[y, right : right + count], true[y, right : right + count]),
                (labels[above, start:stop], true[above, start:stop]),
                (labels[below, start:stop], true[below, start:stop]),
                boundary[y, start:stop],
            )
    return boundary


@njit(cache=True, nogil=True)
def _boundary_row(here, left, right, above, below, out) -> None:
    """Writes which of the pixels `here` have a neighbor of another value; each is labels and true labels, (n,).

    Without branches, so that it is compiled to operations on several pixels at once.
    """
    for k in range(out.size):
        value = here[0][k]
        out[k] = (
            (value > 0)
            & (here[1][k] != IGNORED)
            & (
                ((left[0][k] != value) & (left[1][k] != IGNORED))
                | ((right[0][k] != value) & (right[1][k] != IGNORED))
                | ((above[0][k] != value) & (above[1][k] != IGNORED))
                | ((below[0][k] != value) & (below[1][k] != IGNORED))
            )
        )


@njit(cache=True, nogil=True)
def _near(pixels: np.ndarray, others: np.ndarray, half_widths: np.ndarray) -> tuple[int, int]:
    """Returns how many of the pixels (H, W), uint8 of 0 and 1, are set, and how many of them have one of `others` near.

    half_widths (2n + 1,): how many columns are near, to either side, in the rows from n above to n below.
    """
    height, width = pixels.shape
    reach = half_widths.size // 2
    is_near = np.empty(width, np.uint8)
    count, near = 0, 0
    for y in range(height):
        is_near[:] = 0
        for row in range(max(0, y - reach), min(height, y + reach + 1)):
            half = min(half_widths[row - y + reach], width - 1)
            for shift in range(-half, half + 1):
                start, stop = max(0, -shift), width - max(0, shift)
                _add(is_near[start:stop], others[row, start + shift : stop + shift])
        row_count, row_near = _count(pixels[y], is_near)
        count, near = count + row_count, near + row_near
    return count, near


# loops of their own, so that they are compiled to operations on many pixels at once


@njit(cache=True, nogil=True)
def _add(pixels, others) -> None:
    for k in range(pixels.size):
        pixels[k] |= others[k]


@njit(cache=True, nogil=True)
def _count(pixels, others) -> tuple[int, int]:
    """Returns how many pixels are set, and how many in both."""
    count, both = 0, 0
    for k in range(pixels.size):
        count += pixels[k]
        both += pixels[k] & others[k]
    return count, both
