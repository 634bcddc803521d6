from __future__ import annotations

import numpy as np
import pytest

from segue.errors import SegueError, SpecError
from segue.spec import validate
from segue.targets.losses import weights_from_counts
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec, EffectiveNumberSpec

NAMES = ("background", "a", "b")


def weights(spec: object, counts: object) -> tuple[float, ...]:
    return weights_from_counts(spec, np.asarray(counts), names=NAMES, context="x.h5")  # type: ignore[arg-type]


def test_inverse_frequency_by_hand():
    """n / (K n_c): 100 pixels of which 50, 30 and 20."""
    assert weights("inverse_frequency", [50, 30, 20]) == pytest.approx((100 / 150, 100 / 90, 100 / 60))


def test_median_frequency_by_hand():
    """Frequencies count only the samples that hold the class: 15/20, 4/20 and 1/10; the median 1/5 has weight 1."""
    raw = np.array([0.2 / 0.75, 1.0, 2.0])
    actual = weights("median_frequency", [[9, 1, 0], [6, 3, 1]])
    assert actual == pytest.approx(tuple(raw * 20 / (raw * [15, 4, 1]).sum()))


def test_median_frequency_of_totals():
    """Totals are one sample: the frequencies of the whole set, whose weights go as 1 / n_c."""
    assert weights("median_frequency", [15, 4, 1]) == pytest.approx(weights("inverse_frequency", [15, 4, 1]))


def test_effective_number_by_hand():
    """beta = 0.5 and 1, 2, 3 pixels: effective numbers 1, 1.5 and 1.75; towards beta = 1 it is inverse frequency."""
    raw = np.array([1, 1 / 1.5, 1 / 1.75])
    actual = weights(EffectiveNumberSpec(name="effective_number", beta=0.5), [1, 2, 3])
    assert actual == pytest.approx(tuple(raw * 6 / (raw * [1, 2, 3]).sum()))
    near = weights(EffectiveNumberSpec(name="effective_number", beta=1 - 1e-13), [100, 20, 5])
    assert near == pytest.approx(weights("inverse_frequency", [100, 20, 5]), rel=1e-6)


@pytest.mark.parametrize(
    "spec", ["inverse_frequency", "median_frequency", EffectiveNumberSpec(name="effective_number", beta=0.999)]
)
def test_mean_weight_of_a_pixel_is_one(spec: object):
    """Over all counted pixels the weights average 1, and a rarer class never weighs less."""
    counts = np.array([[900, 90, 10], [500, 500, 0], [10**6, 0, 7]])
    actual = np.array(weights(spec, counts))
    assert (actual * counts.sum(0)).sum() / counts.sum() == pytest.approx(1)
    assert (np.diff(actual) >= 0).all()


def test_class_without_pixels_is_named():
    """A weight cannot follow from no pixels; the sentence says of which classes, and what to do."""
    with pytest.raises(SegueError, match=r"x\.h5: .*'inverse_frequency'.* none of a, b; take more samples"):
        weights("inverse_frequency", [[5, 0, 0]])


def test_build_takes_counts():
    """The target holds the weights that follow, and refuses to guess them without counts or for other classes."""
    spec = ClassesSpec(class_weights="median_frequency")
    assert spec.needs_counts and not ClassesSpec(class_weights=(1.0, 2.0, 3.0)).needs_counts
    made = build_target(spec, names=NAMES, instances=False, context="x.h5", counts=[50, 30, 20])
    assert made.class_weights == weights("median_frequency", [50, 30, 20])
    with pytest.raises(SegueError, match="follow from the pixels of each class"):
        build_target(spec, names=NAMES, instances=False, context="x.h5")
    with pytest.raises(SegueError, match="pixels of 2 classes were counted, but the layer has 3"):
        build_target(spec, names=NAMES, instances=False, context="x.h5", counts=[50, 30])


def key(**settings: object) -> dict[str, object]:
    """Returns what a stage's key is made of."""
    return ClassesSpec.model_validate(settings).model_dump(mode="json", by_alias=True, exclude_defaults=True)


def test_both_ways_of_writing_have_one_key():
    """A name and a table of defaults dump alike, the default to nothing, and "none" as if left out."""
    assert key() == key(loss="cross_entropy") == key(loss={"name": "cross_entropy"}) == key(class_weights="none") == {}
    plain = {"loss": "cross_entropy_of_probabilities"}
    assert key(**plain) == key(loss={"name": plain["loss"]}) == plain
    assert key(loss="focal") == key(loss={"name": "focal", "gamma": 2}) == {"loss": "focal"}
    assert key(loss={"name": "focal", "gamma": 3}) == {"loss": {"name": "focal", "gamma": 3.0}}
    assert key(class_weights=[1, 2]) == {"class_weights": [1.0, 2.0]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "focal", "class_weights": "inverse_frequency"},
        {"loss": {"name": "tversky", "alpha": 0.4, "exponent": 0.75}},
        {"class_weights": {"name": "effective_number", "beta": 0.9999}, "label_smoothing": 0.1},
        {"class_weights": [1.0, 2.0]},
    ],
)
def test_dumps_load_again(settings: dict[str, object]):
    """What a run records is the same specification when read."""
    spec = ClassesSpec.model_validate(settings)
    assert ClassesSpec.model_validate(spec.model_dump(mode="json", by_alias=True)) == spec
    assert ClassesSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": "focl"}, "loss: unknown value 'focl'; did you mean 'focal'?"),
        ({"loss": {"name": "focl"}}, "loss.name: unknown name 'focl'; did you mean 'focal'?"),
        ({"loss": {"name": "focal", "gama": 1}}, "loss: unknown key 'gama'; did you mean 'gamma'?"),
        ({"loss": {"name": "focal", "gamma": -1}}, "loss.gamma: found -1; give a number of 0 or more"),
        ({"class_weights": {"name": "effective_number"}}, "class_weights.beta: is missing; add it"),
        ({"class_weights": "inverse"}, "class_weights: unknown value 'inverse'; did you mean 'inverse_frequency'?"),
        ({"class_weights": [1, 0]}, "class_weights[1]: found 0; give a number above 0"),
        ({"class_weights": 3}, "class_weights: found 3; give a list, such as [a, b]"),
        ({"loss": "dice", "class_weights": [1, 2]}, "class_weights do nothing in loss 'dice'"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing belongs to cross entropy"),
        ({"label_smoothing": 1}, "label_smoothing: found 1; give a number below 1"),
    ],
)
def test_mistakes_are_told(settings: dict[str, object], told: str):
    """Each mistake is one sentence with its place and what is allowed."""
    with pytest.raises(SpecError) as caught:
        validate(ClassesSpec, settings, context="study.toml")
    assert told in str(caught.value)
    assert "one mistake" in str(caught.value)
