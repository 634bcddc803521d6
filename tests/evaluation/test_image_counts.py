"""Scores that follow from counts of images, by hand and against the scores of images that are counted twice."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from segue.evaluation import object_metrics, pixel_metrics
from segue.evaluation.image_counts import ImageCounts


def label_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns true and predicted objects: squares on a grid, of which some are missing and some moved."""
    generator = np.random.default_rng(seed)
    true, predicted = np.zeros((2, 32, 32), np.int32)
    for number, (y, x) in enumerate((y, x) for y in (2, 12, 22) for x in (2, 12, 22)):
        true[y : y + 6, x : x + 6] = number + 1
        if generator.random() < 0.8:
            shift = generator.integers(0, 3)
            predicted[y : y + 6, x + shift : x + shift + 6] = number + 1
    return true, predicted


def counts(objects: object_metrics.MatchCounts | None = None) -> ImageCounts:
    """Returns two images: in the first 80 pixels of the disc are found, and 20 too many; in the second 1 of 10."""
    return ImageCounts(
        images=("a", "b"),
        groups=("g", "h"),
        classes=("background", "disc"),
        of_images=False,
        on_tiles=False,
        loss_floor=0.05,
        loss_sums=np.array([[10.0, 1.0], [2.0, 3.0]]),
        normalizers=np.array([[100.0, 1.0], [10.0, 1.0]]),
        confusion=np.array([[[900, 20], [0, 80]], [[990, 0], [9, 1]]]),
        objects=objects,
    )


def test_pooled_scores_by_hand() -> None:
    """Counts are summed and then divided, with weights; scores of an image are its own. The loss has two terms."""
    result = counts().weighted_scores(np.array([[1.0, 1.0], [1.0, 3.0], [0.5, 1.5]]))
    assert result["iou_disc"] == pytest.approx([81 / 110, 83 / 130, 83 / 130])
    assert result["iou_mean"] == pytest.approx(result["iou_disc"])
    assert result["loss"] == pytest.approx([12 / 110 + 4 / 2, 16 / 130 + 10 / 4, 16 / 130 + 10 / 4])
    assert result["loss_adjusted"] == pytest.approx(result["loss"] - 0.05)
    single = counts().scores()
    assert single["iou_disc"] == pytest.approx([0.8, 0.1]) and single["loss"] == pytest.approx([1.1, 3.2])
    assert result["iou_disc"][0] != pytest.approx(single["iou_disc"].mean())


def test_weights_are_repeated_images() -> None:
    """An image of weight 2 counts as often as two copies of it: every score of objects, pooled or a mean of images."""
    one, other = (object_metrics.count_matches(*label_maps(seed)) for seed in (0, 1))
    both = counts(object_metrics.concatenate([one, other]))
    result = both.weighted_scores(np.array([[2.0, 1.0]]))
    expected = object_metrics.scores(object_metrics.concatenate([one, one, other]))
    sums = {"splits", "merges", "objects_true", "objects_predicted"}
    assert set(expected) - set(result) == {"object_auprc"} and 0.2 < expected["ap50"] < 0.99
    for name in set(expected) - {"object_auprc"}:
        scale = 2 / 3 if name in sums else 1  # sums are of as many images as there are
        assert result[name] == pytest.approx([scale * expected[name]], nan_ok=True), name
        assert both.weighted_score(name, np.array([[2.0, 1.0]])) == pytest.approx(result[name], nan_ok=True), name
    assert both.weighted_score("auprc_disc", np.ones((1, 2))) is None


def test_confusion_per_image_sums_to_that_of_all() -> None:
    """Ignored pixels are left out, and every score of the sum is that of the scores per matrix."""
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 3, (5, 6, 7), generator=generator)
    classes = torch.randint(-1, 3, (5, 6, 7), generator=generator)
    single = pixel_metrics.confusion_per_image(predicted, classes, 3)
    assert torch.equal(single.sum(0), pixel_metrics.confusion(predicted, classes, 3))
    assert torch.equal(single[2], pixel_metrics.confusion(predicted[2], classes[2], 3))
    names = ("background", "a", "b")
    expected = pixel_metrics.scores(single[2], names)
    assert {name: v[2].item() for name, v in pixel_metrics.scores_per_matrix(single, names).items()} == expected


def test_records_come_back() -> None:
    """What was written as JSON is what was counted; other lengths and altered counts are noticed."""
    matches = [object_metrics.count_matches(*label_maps(seed)) for seed in (0, 1)]
    original = counts(object_metrics.concatenate(matches))
    original = dataclasses.replace(original, loss_sums=np.array([[np.nan, 1.0], [2.0, 3.0]]))
    record = json.loads(json.dumps(original.record()))
    result = ImageCounts.from_record(record)
    assert result.images == original.images and result.groups == original.groups
    for name, values in original.scores().items():
        np.testing.assert_array_equal(result.scores()[name], values)
    reported = {name: values[0] for name, values in original.weighted_scores(np.ones((1, 2))).items()}
    stored = {name: None if np.isnan(value) else float(value) for name, value in reported.items()}
    assert result.disagreement(stored) is None
    assert result.disagreement(stored | {"iou_disc": 0.5}) == "iou_disc"
    with pytest.raises(ValueError, match="different lengths"):
        ImageCounts.from_record(record | {"image": ["a"]})
