"""The search for decode parameters: what a whole search finds, with less work, and little work where all is noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segue import rng
from segue.evaluation import object_metrics
from segue.targets.boundary import Boundary
from segue.targets.foreground import Foreground
from segue.targets.target import Target
from segue.training import tuning
from segue.training.spec import TuningMetric

NAMES = ("background", "disc")


def discs(count: int, *, ignored: bool = False) -> list[np.ndarray]:
    """Returns label maps (64, 64) of 1 to 6 discs each, some touching."""
    y, x = np.mgrid[:64, :64]
    actual = []
    for index in range(count):
        generator = rng.numpy_generator("tuned discs", index)
        labels = np.zeros((64, 64), np.int32)
        for label in range(1, int(generator.integers(2, 8))):
            cy, cx = generator.uniform(6, 58, 2)
            labels[((y - cy) ** 2 + (x - cx) ** 2 < generator.uniform(4, 9) ** 2) & (labels == 0)] = label
        if ignored:
            labels[:20, :20] = -1
        actual.append(labels)
    return actual


def scores_of(labels: list[np.ndarray], channels: int, strength: float) -> list[np.ndarray]:
    """Returns scores that are higher where objects are, in smooth noise; of strength 0 they are noise alone."""
    actual = []
    for index, one in enumerate(labels):
        noise = rng.numpy_generator("tuned noise", index).normal(size=(channels, 64, 64))
        scores = 5 * ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
        inner = ndimage.binary_erosion(one > 0) if channels == 3 else one > 0
        scores[min(1, channels - 1)] += strength * (2.0 * inner - 1.3)
        if channels == 3:
            scores[0] -= strength * (2.0 * (one > 0) - 1.5)
        actual.append(scores.astype(np.float32))
    return actual


def whole_search(target: Target, scores: list[np.ndarray], labels: list[np.ndarray], metric: str) -> dict[str, float]:
    """Returns what the search finds that decodes every image for every value."""

    def reached(parameters: dict[str, float]) -> float:
        tallies = [
            object_metrics.count_matches(one, target.decode(visible, parameters))
            for visible, one in zip(scores, labels, strict=False)
        ]
        value = object_metrics.scores(object_metrics.concatenate(tallies))[metric]
        value = -value if metric.startswith("count") else value
        return -1.0 if np.isnan(value) else value

    parameters = dict(target.decode_params)
    best = reached(parameters)
    for _ in range(3):
        before = dict(parameters)
        for name, values in target.decode_search_space.items():
            for value in values:
                actual = reached({**parameters, name: value})
                if actual > best:
                    parameters, best = {**parameters, name: value}, actual
        if parameters == before:
            break
    return parameters | {"best": best}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "target", "ignored"),
    [
        ("ap_mean", Foreground(NAMES), True),
        ("ap75", Boundary(NAMES), False),
        ("f1_50", Foreground(NAMES), True),
        ("count_error_absolute", Foreground(NAMES), False),
    ],
)
def test_the_bounded_search_finds_what_the_whole_one_does(metric: TuningMetric, target: Target, ignored: bool):
    """Trials that are given up early would not have won: parameters and value are those of the whole search."""
    labels = discs(5, ignored=ignored)
    scores = scores_of(labels, target.channels, 1.5)
    expected = whole_search(target, scores, labels, metric)
    actual = tuning.tune_decoding(target, iter(scores), labels, metric=metric)
    best = expected.pop("best")
    assert actual["parameters"] == expected
    assert actual["value"] == pytest.approx(-best if metric.startswith("count") else best, abs=1e-12)
    assert (actual["metric"], actual["images"], actual["searched"]) == (metric, 5, 5)
    assert actual["value"] != actual["value_of_defaults"] or metric.startswith("count")
    again = tuning.tune_decoding(target, scores[::-1], labels[::-1], metric=metric)
    assert again["parameters"] == actual["parameters"]


def test_less_is_decoded_than_there_is():
    """On a good network most trials end before the last image."""
    labels, target = discs(16), Foreground(NAMES)
    actual = tuning.tune_decoding(target, scores_of(labels, 1, 3.0), labels)
    trials = 1 + sum(len(values) - 1 for values in target.decode_search_space.values())
    assert actual["value"] > 0.3
    assert actual["decoded"] < 0.75 * trials * len(labels)


@pytest.mark.slow
def test_noise_is_not_searched_for_long():
    """Scores without any object in them are tried on few images, and the value told is still that of all."""
    labels, target = discs(40), Foreground(NAMES)
    shifted = [np.roll(one, 32, axis=1) - 4 for one in scores_of(discs(40), 1, 0.0)]
    actual = tuning.tune_decoding(target, shifted, labels)
    assert actual["searched"] == tuning.GLANCE_IMAGES and actual["images"] == 40
    tallies = [
        object_metrics.count_matches(one, target.decode(visible, actual["parameters"]))
        for visible, one in zip(shifted, labels, strict=True)
    ]
    assert actual["value"] == pytest.approx(object_metrics.scores(object_metrics.concatenate(tallies))["ap_mean"])
    assert actual["value"] >= actual["value_of_defaults"]
    trials = 3 * sum(len(values) for values in target.decode_search_space.values())
    assert actual["decoded"] <= 2 * 40 + tuning.GLANCE_IMAGES * (trials + 1)


def test_no_objects_at_all():
    """Images without objects leave the defaults, with the reason, although some parameters predict nothing wrong."""
    labels = [np.zeros((20, 20), np.int32)] * 6
    actual = tuning.tune_decoding(Foreground(NAMES), [np.full((1, 20, 20), -5, np.float32)] * 6, labels)
    assert actual["parameters"] == dict(Foreground(NAMES).decode_params)
    assert actual["value"] is None and actual["value_of_defaults"] is None
    assert actual["reason"] == "no object in the validation images" and actual["decoded"] == 0
    wrong = tuning.tune_decoding(Foreground(NAMES), [np.full((1, 20, 20), 0.4, np.float32)] * 6, labels, whole=False)
    assert wrong["parameters"] == actual["parameters"] and wrong["metric"] == "tile_ap_mean"


def test_large_images_are_fewer():
    """Images are thinned out, evenly, until their pixels are bounded; one is always left."""
    side = 2**11
    large = np.broadcast_to(np.int32(0), (side, side))
    images = [(np.full((1, 1, 1), k), large) for k in range(20)]
    selection = [int(image[0, 0, 0]) for image, _ in tuning.select_images(images)]
    assert len(selection) == tuning.MAX_PX // side**2 == 4
    assert selection == [2, 7, 12, 17]
    huge = np.broadcast_to(np.int32(0), (2**13, 2**13))
    assert len(tuning.select_images([(np.zeros((1, 1, 1)), huge)] * 3)) == 1
