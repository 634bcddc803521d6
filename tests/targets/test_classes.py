from __future__ import annotations

import pytest
import torch
from samples.target_contract import loss_of
from torch.nn import functional as F

from segue import rng
from segue.errors import SegueError
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec

NAMES = ("background", "a", "b")


def batch(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = rng.torch_generator("test", count)
    scores = torch.randn(2, count, 8, 8, generator=generator)
    labels = torch.randint(-1, count, (2, 8, 8), generator=generator)
    return scores, labels


def test_cross_entropy_equals_the_formula():
    """Mean over labelled pixels of −ln softmax at the label."""
    scores, labels = batch()
    target = build_target(ClassesSpec(), names=NAMES, instances=False, context="test")
    picked = -scores.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    assert torch.allclose(loss_of(target, scores, target.encode(labels)), picked[labels >= 0].mean())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_floor_of_probabilities(count: int):
    """Perfect and certain predictions reach the floor ln(1 + (K−1)/e), and nothing goes below it."""
    names = tuple(f"c{i}" for i in range(count))
    spec = ClassesSpec.model_validate({"loss": "cross_entropy_of_probabilities"})
    target = build_target(spec, names=names, instances=False, context="test")
    labels = torch.randint(0, count, (2, 8, 8), generator=rng.torch_generator("labels"))
    perfect = 1000.0 * F.one_hot(labels, count).movedim(-1, 1)
    assert loss_of(target, perfect, labels).item() == pytest.approx(target.min_loss, abs=1e-6)
    assert loss_of(target, batch(count)[0], labels).item() > target.min_loss
    if count == 2:
        assert target.min_loss == pytest.approx(0.3132617, abs=1e-7)
        worst = 1000.0 * F.one_hot(1 - labels, 2).movedim(-1, 1)
        assert loss_of(target, worst, labels).item() - target.min_loss == pytest.approx(1.0, abs=1e-6)


def test_floor_of_scores_is_zero():
    """Cross entropy on scores can reach 0."""
    assert build_target(ClassesSpec(), names=NAMES, instances=False, context="test").min_loss == 0.0


def test_weights_equal_torch():
    """Class weights give torch's weighted mean, also over ignored pixels and across batches."""
    scores, labels = batch()
    weights = (0.5, 2.0, 3.0)
    target = build_target(ClassesSpec(class_weights=weights), names=NAMES, instances=False, context="test")
    expected = F.cross_entropy(scores, labels, torch.tensor(weights), ignore_index=-1)
    assert torch.allclose(loss_of(target, scores, labels), expected)


def test_batch_without_labels_has_no_loss_and_no_gradient():
    """A batch of ignored pixels counts nothing instead of giving NaN."""
    scores = batch()[0].requires_grad_()
    target = build_target(ClassesSpec(), names=NAMES, instances=False, context="test")
    loss = loss_of(target, scores, torch.full((2, 8, 8), -1))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


def test_instances_become_foreground():
    """Objects of any number are class 1; ignored pixels stay ignored."""
    target = build_target(ClassesSpec(), names=("background", "nucleus"), instances=True, context="test")
    assert target.encode(torch.tensor([[[0, 7], [-1, 1]]])).tolist() == [[[0, 1], [-1, 1]]]


def test_decode_of_encoded_classes():
    """Scores that are certain of the classes decode to them."""
    labels = torch.randint(0, 3, (2, 8, 8), generator=rng.torch_generator("x"))
    target = build_target(ClassesSpec(), names=NAMES, instances=False, context="test")
    assert torch.equal(target.classes(F.one_hot(labels, 3).movedim(-1, 1).float()), labels)


def test_wrong_number_of_weights():
    """Two weights for three classes are refused with the classes' names."""
    with pytest.raises(SegueError, match=r"2 values, but the layer has 3 classes \(background, a, b\)"):
        build_target(ClassesSpec(class_weights=(1.0, 2.0)), names=NAMES, instances=False, context="x.h5")
