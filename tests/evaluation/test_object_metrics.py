"""Object scores against stardist's numbers, the formulas coded naively, and what must not change them."""

from __future__ import annotations

import json
import math
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.optimize import linear_sum_assignment
from skimage.io import imread

from segue import rng
from segue.evaluation import object_metrics
from segue.evaluation.object_metrics import (
    THRESHOLDS,
    MatchCounts,
    boundary_counts,
    concatenate,
    count_matches,
    pool,
    precision_recall,
    scores,
)
from segue.labels.matching import (
    Overlap,
    jaccard_aggregated,
    jaccard_aggregated_plus,
    label_overlap,
    match,
    merged_objects,
    split_objects,
)

ROOT = Path(__file__).parents[2]
# How the numbers were made stands in the file's "made" entry.
REFERENCE = json.loads((ROOT / "tests/data/objects/stardist.json").read_text(encoding="utf-8"))
STARDIST_NAMES = {"ap": "accuracy", "f1": "f1", "precision": "precision", "recall": "recall"}
STARDIST_NAMES |= {"matched_iou": "mean_matched_score", "true_iou": "mean_true_score"}


def deformed(true: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns a label map in which each object was kept, moved, eroded, cut in two, joined to another, or dropped."""
    predicted = np.zeros_like(true)
    ids = np.unique(true[true > 0])
    height, width = true.shape
    for k in ids.tolist():
        inside = true == k
        fate = generator.integers(0, 8)
        rows, columns = np.nonzero(inside)
        if fate in (1, 2):
            step_y, step_x = generator.integers(-3, 4, 2)
            rows, columns = rows + step_y, columns + step_x
            there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            predicted[rows[there], columns[there]] = k
        elif fate == 3:
            predicted[binary_erosion(inside, iterations=int(generator.integers(1, 3)))] = k
        elif fate == 4:
            predicted[rows, columns] = np.where(columns < columns.mean(), k, k + 5000)
        elif fate == 5:
            predicted[inside] = generator.choice(ids)
        elif fate != 6:
            predicted[inside] = k
    for k in range(3):
        y, x = generator.integers(0, (height - 12, width - 12))
        predicted[y : y + 12, x : x + 12][predicted[y : y + 12, x : x + 12] == 0] = 9000 + k
    return predicted


@cache
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns true and predicted label maps, int32: twelve images of one shipped set, three of another."""
    files = sorted((ROOT / "examples/data/dsb2018/labels").glob("*.png"))[::9][:12]
    files += sorted((ROOT / "examples/data/bbbc039/labels").glob("*.png"))[::10]
    true = [imread(file).astype(np.int32)[:360, :360] for file in files]
    return [(labels, deformed(labels, rng.numpy_generator("objects", index))) for index, labels in enumerate(true)]


@cache
def rows() -> MatchCounts:
    return concatenate([count_matches(true, predicted) for true, predicted in pairs()])


def random_maps(name: str, side: int = 24, largest: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Returns two hostile maps of blocks and noise: objects in pieces, single pixels, ids with gaps."""
    generator = rng.numpy_generator("maps", name)
    coarse = np.kron(generator.integers(0, largest, (2, side // 4, side // 4)), np.ones((4, 4), int))
    noise = generator.random((2, side, side)) < 0.15
    maps = np.where(noise, generator.integers(0, largest, (2, side, side)), coarse) * 3
    return maps[0].astype(np.int32), np.where(generator.random((side, side)) < 0.6, maps[0], maps[1]).astype(np.int32)


def dense_iou(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns the (T, P) IoU by its definition, object by object."""
    masks = [[labels == k for k in np.unique(labels[labels > 0])] for labels in (true, predicted)]
    return np.array([[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]])


def test_overlap_equals_counting_pairs():
    """Areas and shared pixels equal a sort of all pixel pairs, also with more pairs than the first hash table holds."""
    generator = rng.numpy_generator("pairs")
    for true, predicted in [*pairs()[:2], tuple(generator.integers(0, 120, (2, 300, 301)) * 7)]:
        table = label_overlap(true, predicted)
        ids, counts = np.unique(np.stack([true.ravel(), predicted.ravel()]), axis=1, return_counts=True)
        both = (ids > 0).all(0)
        assert table.true_ids[table.true_index].tolist() == ids[0, both].tolist()
        assert table.predicted_ids[table.predicted_index].tolist() == ids[1, both].tolist()
        assert table.shared_px.tolist() == counts[both].tolist()
        assert table.true_areas_px.tolist() == np.unique(true[true > 0], return_counts=True)[1].tolist()
        assert table.predicted_areas_px.tolist() == np.unique(predicted[predicted > 0], return_counts=True)[1].tolist()


def test_deformed_maps_are_those_stardist_saw():
    """The maps made here are the ones whose stardist results are stored."""
    made = [[zlib.crc32(np.ascontiguousarray(labels, "<i4").tobytes()) for labels in pair] for pair in pairs()]
    assert made == REFERENCE["crc32"]


def test_matching_equals_stardist():
    """Per image and threshold, also below 0.5, true positives and their summed IoU are those of stardist.matching."""
    for (true, predicted), stored in zip(pairs(), REFERENCE["images"], strict=True):
        table = label_overlap(true, predicted)
        for threshold, tp, fp, fn, mean_true_score in stored:
            actual = match(table, threshold)
            assert (actual.iou.size, actual.spurious_ids.size, actual.missed_ids.size) == (tp, fp, fn)
            assert actual.iou.sum() / table.true_ids.size == pytest.approx(mean_true_score, abs=2e-6)


@pytest.mark.parametrize("way", ["pooled", "image_mean"])
def test_dataset_scores_equal_stardist(way: str):
    """Both ways of averaging over images equal matching_dataset, with by_image off and on, at all ten thresholds."""
    actual = rows()
    if way == "pooled":
        ours = {name: values[0] for name, values in object_metrics.per_threshold(pool(actual)).items()}
        panoptic = scores(actual)["pq_50"]
    else:
        ours = {name: np.nan_to_num(values).mean(0) for name, values in object_metrics.per_threshold(actual).items()}
        panoptic = object_metrics.per_image(actual)["pq_50"].mean()
    stored = REFERENCE[way]
    for name, theirs in STARDIST_NAMES.items():
        assert ours[name] == pytest.approx(stored[theirs], abs=2e-6), name
    assert panoptic == pytest.approx(stored["panoptic_quality"][0], abs=2e-6)


def test_named_scores_are_those_of_the_thresholds():
    """ap50 … ap95, their mean and the image means are what per_threshold and per_image hold."""
    actual, at = scores(rows()), REFERENCE["pooled"]["accuracy"]
    assert [actual[f"ap{p}"] for p in range(50, 100, 5)] == pytest.approx(at, abs=2e-6)
    assert actual["ap_mean"] == pytest.approx(np.mean(at), abs=2e-6)
    assert actual["ap50_image_mean"] == pytest.approx(REFERENCE["image_mean"]["accuracy"][0], abs=2e-6)
    assert actual["ap_mean_image_mean"] == pytest.approx(np.mean(REFERENCE["image_mean"]["accuracy"]), abs=2e-6)
    assert actual["objects_true"] == sum(np.unique(true[true > 0]).size for true, _ in pairs())


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.4, 0.5, 0.7])
def test_matches_are_an_optimal_assignment(threshold: float):
    """On hostile maps, matches and their IoU equal a dense assignment that puts number first, then summed IoU."""
    for index in range(12):
        true, predicted = random_maps(f"assignment-{index}")
        iou = dense_iou(true, predicted)
        one, other = linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * min(iou.shape)))
        best = iou[one, other][iou[one, other] >= threshold]
        actual = match(label_overlap(true, predicted), threshold)
        assert actual.iou.size == best.size
        assert actual.iou.sum() == pytest.approx(best.sum())
        assert np.unique(actual.true_ids).size == np.unique(actual.predicted_ids).size == best.size


def naive_aji(true: np.ndarray, predicted: np.ndarray) -> float:
    """Algorithm 1 of Kumar et al. 2017, object by object."""
    guesses = {k: predicted == k for k in np.unique(predicted[predicted > 0]).tolist()}
    shared, union, used = 0, 0, set()
    for k in np.unique(true[true > 0]):
        one = true == k
        best, best_iou = None, 0.0
        for guess, mask in guesses.items():
            iou = (one & mask).sum() / (one | mask).sum()
            if iou > best_iou:
                best, best_iou = guess, iou
        if best is None:
            union += one.sum()
        else:
            shared, union = shared + (one & guesses[best]).sum(), union + (one | guesses[best]).sum()
            used.add(best)
    return shared / (union + sum(mask.sum() for guess, mask in guesses.items() if guess not in used))


def naive_aji_plus(true: np.ndarray, predicted: np.ndarray) -> float:
    """AJI+ of Graham et al. 2019: one-to-one pairs of largest summed IoU by a dense assignment."""
    masks = [[labels == k for k in np.unique(labels[labels > 0])] for labels in (true, predicted)]
    iou = dense_iou(true, predicted)
    chosen = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j] > 0]
    shared = sum((masks[0][i] & masks[1][j]).sum() for i, j in chosen)
    union = sum((masks[0][i] | masks[1][j]).sum() for i, j in chosen)
    for side in (0, 1):
        used = {pair[side] for pair in chosen}
        union += sum(mask.sum() for index, mask in enumerate(masks[side]) if index not in used)
    return shared / union


def test_aggregated_jaccard_equals_its_algorithms():
    """AJI with its reuse of predictions and AJI+ equal the published algorithms coded object by object."""
    maps = [pairs()[0], pairs()[3], *(random_maps(f"aji-{index}") for index in range(6))]
    reused = 0
    for true, predicted in maps:
        table = label_overlap(true, predicted)
        (shared, union), (shared_plus, union_plus) = jaccard_aggregated(table), jaccard_aggregated_plus(table)
        assert shared / union == pytest.approx(naive_aji(true, predicted), rel=1e-12)
        assert shared_plus / union_plus == pytest.approx(naive_aji_plus(true, predicted), rel=1e-12)
        reused += (shared, union) != (shared_plus, union_plus)
    assert reused


def test_panoptic_quality_equals_its_definition():
    """PQ, SQ and RQ equal the sets of Kirillov et al.: pairs of IoU above 0.5, then what is left on either side."""
    for true, predicted in pairs()[:4]:
        iou = dense_iou(true, predicted)
        tp, total = (iou > 0.5).sum(), iou[iou > 0.5].sum()
        false_positives, false_negatives = iou.shape[1] - tp, iou.shape[0] - tp
        actual = scores(count_matches(true, predicted))
        assert actual["pq"] == pytest.approx(total / (tp + false_positives / 2 + false_negatives / 2))
        assert actual["sq"] == pytest.approx(total / tp)
        assert actual["rq"] == pytest.approx(tp / (tp + false_positives / 2 + false_negatives / 2))
        assert actual["pq"] == pytest.approx(actual["sq"] * actual["rq"])


def test_halves_match_at_exactly_half():
    """An object cut into equal halves has one match at IoU >= 0.5, as in stardist, and none above, as in Kirillov."""
    true, predicted = np.full((4, 8), 5), np.repeat([[2, 3]], 4, axis=1).reshape(1, 8).repeat(4, 0)
    for one, other in ((true, predicted), (predicted, true)):
        actual = scores(count_matches(one, other))
        assert actual["pq_50"] == pytest.approx(0.5 / 1.5)
        assert actual["pq"] == 0.0
        assert math.isnan(actual["sq"])
    assert match(label_overlap(true, predicted)).predicted_ids.tolist() == [2]
    assert split_objects(label_overlap(true, predicted)) == {5: (2, 3)}


def naive_boundary(labels: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    actual = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            moved, hidden = np.roll(labels, step, axis), np.roll(ignored, step, axis)
            edge = np.zeros(labels.shape, bool)
            np.moveaxis(edge, axis, 0)[0 if step == 1 else -1] = True  # outside the image
            actual |= (moved != labels) & ~hidden & ~edge
    return actual & (labels > 0) & ~ignored


@pytest.mark.parametrize("tolerance_px", [0, 1, 1.5, 2, 5**0.5, 4.3, 1e30])
def test_boundary_counts_equal_a_distance_transform(tolerance_px: float):
    """Boundary pixels near each other equal those within the tolerance in a Euclidean distance transform."""
    cases = [pairs()[0], pairs()[2], *(random_maps(f"edges-{index}") for index in range(3))]
    for true, predicted in cases[: 5 if tolerance_px < 100 else 1]:
        true = true.copy()
        true[5:9, 3:20] = -1
        edges = [naive_boundary(labels, true == -1) for labels in (true, predicted)]
        distances = [np.asarray(distance_transform_edt(~edge)) for edge in edges]
        near = [int((edges[i] & (distances[1 - i] <= tolerance_px)).sum()) for i in (0, 1)]
        expected = (int(edges[0].sum()), near[0], int(edges[1].sum()), near[1])
        assert boundary_counts(true, predicted, tolerance_px=tolerance_px) == expected


def test_ignored_pixels_count_nowhere():
    """Scores do not depend on what is predicted where the truth is ignored, and a truth cut by it is fully found."""
    true = pairs()[0][0].copy()
    whole = true.copy()
    true[:, 100:150] = -1
    filled = np.where(true == -1, 0, whole)
    assert scores(count_matches(true, whole))["ap95"] == scores(count_matches(true, whole))["boundary_f1"] == 1.0
    actual, expected = scores(count_matches(true, filled)), scores(count_matches(true, whole))
    assert actual == pytest.approx(expected, nan_ok=True)


def test_objects_mostly_on_ignored_pixels_are_not_judged():
    """A prediction more than half on ignored pixels is left out, unless its labelled part matches a true object."""
    true = np.array([[-1, -1, -1, -1, 0, 0, 0, 4], [-1, -1, -1, -1, 6, 0, 0, 4]])
    predicted = np.array([[1, 1, 1, 1, 1, 0, 2, 2], [3, 3, 3, 3, 3, 0, 0, 2]])
    table = label_overlap(true, predicted)
    assert table.unjudged_ids.tolist() == [1]
    assert table.predicted_ids.tolist() == [2, 3]
    assert table.predicted_areas_px.tolist() == [3, 1]
    assert match(table).predicted_ids.tolist() == [2, 3]
    assert label_overlap(np.full((3, 3), -1), np.ones((3, 3), int)).unjudged_ids.tolist() == [1]
    assert label_overlap(np.array([[-1, -1, 0, 0]]), np.full((1, 4), 8)).predicted_ids.tolist() == [8]  # just half


def test_scores_do_not_depend_on_ids_or_orientation():
    """Renumbering objects, turning and mirroring both maps, or storing them as another integer type changes nothing."""
    true, predicted = pairs()[1]
    expected = scores(count_matches(true, predicted))
    renumbered = rng.numpy_generator("ids").permutation(np.arange(1, 20_000))
    lookup = np.concatenate([[0], renumbered])
    for one, other in (
        (lookup[true], lookup[::-1][predicted] * (predicted > 0)),
        (np.rot90(true), np.rot90(predicted)),
        (true.T[::-1], predicted.T[::-1]),
        (true.astype(np.int64), predicted.astype(np.uint16)),
    ):
        assert scores(count_matches(one, other)) == pytest.approx(expected, nan_ok=True)


def test_perfect_prediction_scores_one():
    """Labels against themselves give 1 everywhere, no splits, merges or miscounts."""
    actual = scores(concatenate([count_matches(true, true) for true, _ in pairs()]))
    ones = ("ap_mean", "f1_50", "pq", "sq", "rq", "aji", "aji_plus", "boundary_f1", "ap_mean_image_mean")
    assert {name: actual[name] for name in ones} == dict.fromkeys(ones, 1.0)
    assert actual["splits"] == actual["merges"] == actual["count_error"] == actual["count_error_absolute"] == 0


def test_images_without_objects():
    """Nothing against nothing is right: 1, and counts in means over images; objects on one side only score 0."""
    nothing, one = np.zeros((8, 8), int), np.zeros((8, 8), int)
    one[2:5, 2:5] = 1
    empty, missed, spurious = (count_matches(*maps) for maps in ((nothing, nothing), (one, nothing), (nothing, one)))
    for name in (*object_metrics.ONE_IF_EMPTY, *(f"{name}_image_mean" for name in object_metrics.IMAGE_MEANS)):
        assert scores(empty)[name] == 1.0, name
    assert scores(empty)["objects_true"] == scores(empty)["count_error"] == 0
    assert math.isnan(scores(empty)["matched_iou_50"]) and math.isnan(scores(empty)["count_error_relative"])
    for actual in (scores(missed), scores(spurious)):
        for name in ("ap50", "f1_50", "pq", "aji", "aji_plus", "boundary_f1"):
            assert actual[name] == 0.0
    assert math.isnan(scores(missed)["precision_50"])
    assert math.isnan(scores(spurious)["recall_50"])
    good = count_matches(one, one)
    assert scores(concatenate([good, empty]))["ap50"] == scores(concatenate([good, empty]))["ap50_image_mean"] == 1.0
    assert scores(concatenate([good, missed]))["ap50"] == scores(concatenate([good, missed]))["ap50_image_mean"] == 0.5
    assert scores(concatenate([empty, missed]))["ap50_image_mean"] == 0.5  # of two images, whatever is predicted
    assert scores(concatenate([empty, missed]))["ap50"] == 0.0


def test_scores_on_tiles_have_other_names():
    """The same objects cut by the borders of tiles are more and worse; the names say so."""
    true = np.zeros((16, 32), int)
    true[4:12, 12:20] = 1
    predicted = np.roll(true, 3, axis=1)
    whole = object_metrics.name_scores(scores(count_matches(true, predicted)), whole=True)
    halves = concatenate([count_matches(true[:, part], predicted[:, part]) for part in (np.s_[:16], np.s_[16:])])
    tiles = object_metrics.name_scores(scores(halves), whole=False)
    assert (whole["objects_true"], tiles["tile_objects_true"]) == (1, 2)
    assert whole["ap_mean"] != tiles["tile_ap_mean"]
    assert not whole.keys() & tiles.keys()


def test_count_errors():
    """The signed error is a mean per image in which errors cancel; the absolute and relative ones do not."""
    strip = np.arange(12)[None]
    two, five = np.where(strip < 3, strip, 0), np.where(strip < 6, strip, 0)
    actual = scores(concatenate([count_matches(two, five), count_matches(five, two)]))
    assert (actual["count_error"], actual["count_error_absolute"]) == (0.0, 3.0)
    assert actual["count_error_relative"] == pytest.approx(6 / 7)
    assert scores(count_matches(two, five))["count_error"] == 3.0


def test_splits_and_merges_are_named():
    """A cut object, joined objects and a filled ring are told by ids; a speck makes neither split nor merge."""
    true, predicted = np.zeros((2, 30, 60), np.int32)
    true[2:12, 2:22] = 10
    predicted[2:12, 2:10], predicted[2:12, 10:22] = 7, 3
    true[2:12, 30:40], true[2:12, 40:50] = 20, 21
    predicted[2:12, 30:50] = 9
    true[15:28, 2:15], true[19:23, 6:11] = 30, 31  # a ring with an object inside
    predicted[15:28, 2:15] = 11
    true[15:28, 30:50], predicted[15:28, 30:50] = 40, 12
    predicted[16:18, 31:33], true[20:22, 31:33] = 13, 41  # specks
    table = label_overlap(true, predicted)
    assert split_objects(table) == {10: (3, 7)}
    assert merged_objects(table) == {9: (20, 21), 11: (30, 31)}
    swapped = label_overlap(predicted, true)
    assert (split_objects(swapped), merged_objects(swapped)) == (merged_objects(table), split_objects(table))
    actual = scores(count_matches(true, predicted))
    assert (actual["splits"], actual["merges"]) == (1, 2)


def test_many_parts_are_one_split():
    """However many equal parts an object falls into, it is one split."""
    true, predicted = np.ones((6, 60), int), np.repeat(np.arange(1, 31), 2)[None].repeat(6, 0)
    assert split_objects(label_overlap(true, predicted)) == {1: tuple(range(1, 31))}
    assert merged_objects(label_overlap(predicted, true)) == {1: tuple(range(1, 31))}


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_precision_recall_equals_leaving_objects_out(threshold: float):
    """Each point equals matching anew with only the predictions that are at least as probable."""
    tallies, selection = [], []
    for index, (true, predicted) in enumerate(pairs()[:3]):
        drawn = rng.numpy_generator("probability", index).integers(0, 12, predicted.max()) / 12
        tallies.append(count_matches(true, predicted, probabilities=drawn))
        selection.append((true, predicted, np.concatenate([[-1], drawn])))
    curve = precision_recall(concatenate(tallies), threshold)
    assert curve.probability.tolist() == sorted({float(p) for p in concatenate(tallies).probability}, reverse=True)
    area, before = 0.0, 0.0
    for point, probability in enumerate(curve.probability):
        maps = [(true, np.where(drawn[predicted] >= probability, predicted, 0)) for true, predicted, drawn in selection]
        actual = concatenate([count_matches(*each) for each in maps])
        true_positives = actual.true_positives[:, THRESHOLDS.index(threshold)].sum()
        assert curve.precision[point] == true_positives / actual.predicted_objects.sum()
        assert curve.recall[point] == true_positives / actual.true_objects.sum()
        area, before = area + curve.precision[point] * (curve.recall[point] - before), curve.recall[point]
    assert curve.area == pytest.approx(area)
    if threshold == 0.5:
        assert scores(concatenate(tallies))["object_auprc"] == pytest.approx(area)


def test_rows_stay_those_of_single_images():
    """Merging keeps every image's own scores, in order, and equals merging in pieces."""
    single = [count_matches(*pair) for pair in pairs()[:3]]
    together, nested = concatenate(single), concatenate([concatenate(single[:2]), single[2]])
    for name, values in object_metrics.per_image(together).items():
        assert values.tolist() == pytest.approx([scores(each)[name] for each in single], nan_ok=True)
        assert values.tolist() == pytest.approx(object_metrics.per_image(nested)[name].tolist(), nan_ok=True)


HALF = np.array([[0, 1], [2, 2]])
REFUSED = {
    "have shape": lambda: label_overlap(HALF, HALF[:1]),
    "float64": lambda: label_overlap(HALF, HALF.astype(float)),
    "below the allowed minimum": lambda: label_overlap(HALF, HALF - 1),
    "labels are -1": lambda: label_overlap(HALF - 2, HALF),
    "up to 2147483647": lambda: label_overlap(HALF, HALF + 2**40),
    "threshold is 0": lambda: match(label_overlap(HALF, HALF), 0),
    "one micrograph": lambda: count_matches(HALF[None], HALF[None]),
    "largest predicted object is 2": lambda: count_matches(HALF, HALF, probabilities=np.ones(1)),
    "object 2 is nan": lambda: count_matches(HALF, HALF, probabilities=np.array([1.0, np.nan])),
    "0 or more": lambda: count_matches(HALF, HALF, tolerance_px=-1),
    "give two": lambda: boundary_counts(HALF, HALF[:1]),
    "at least one": lambda: concatenate([]),
    "count all at one": lambda: concatenate([count_matches(HALF, HALF), count_matches(HALF, HALF, tolerance_px=3)]),
    "at least 0.5": lambda: precision_recall(count_matches(HALF, HALF, probabilities=np.ones(2)), 0.3),
    "2 of 4": lambda: scores(
        concatenate([count_matches(HALF, HALF), count_matches(HALF, HALF, probabilities=np.ones(2))])
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_unfit_input_is_refused(sentence: str):
    """Unfit arrays and settings stop with a sentence that says what was found and what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()


def test_table_is_a_plain_value():
    """The table of maps without a common pixel has no pairs, and nothing that follows from it fails."""
    table = label_overlap(np.array([[1, 0]]), np.array([[0, 1]]))
    assert isinstance(table, Overlap)
    assert table.iou.size == 0
    assert jaccard_aggregated(table) == jaccard_aggregated_plus(table) == (0, 2)
    assert split_objects(table) == merged_objects(table) == {}
    assert match(table, 0.2).missed_ids.tolist() == match(table, 0.5).spurious_ids.tolist() == [1]
