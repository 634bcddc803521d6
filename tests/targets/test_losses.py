from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from samples.target_contract import loss_of
from torch.nn import functional as F

from segue import rng
from segue.errors import SegueError
from segue.targets import losses
from segue.targets.registry import build_target
from segue.targets.specs import LOSSES_WITH_WEIGHTS, ClassesSpec, PlainLossName, RegressionName, loss_spec
from segue.targets.target import Target

NAMES = ("background", "a", "b")
WEIGHTS = (0.5, 2.0, 3.0)


def batch(images: int = 4, seed: str = "losses") -> tuple[torch.Tensor, torch.Tensor]:
    generator = rng.torch_generator(seed)
    scores = 2 * torch.randn(images, 3, 8, 8, generator=generator)
    return scores, torch.randint(-1, 3, (images, 8, 8), generator=generator)


def target(loss: object, **settings: object) -> Target:
    spec = ClassesSpec.model_validate({"loss": loss, **settings})
    return build_target(spec, names=NAMES, instances=False, context="test")


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_parts_of_a_batch_add_up(loss: str):
    """Sums of parts over normalizers of the whole give the loss and gradient of the batch, as accumulation needs."""
    scores, labels = batch()
    labels[1] = -1
    asked = target(loss)
    whole, parts = (scores.clone().requires_grad_() for _ in range(2))
    loss_of(asked, whole, labels).backward()
    normalizers = sum(asked.normalizers(labels[i : i + 1]) for i in range(4))
    assert isinstance(normalizers, torch.Tensor) and normalizers.shape == (2 if loss == "dice_cross_entropy" else 1,)
    assert torch.equal(normalizers, asked.normalizers(labels))
    total = 0.0
    for i in range(4):
        part = (asked.loss_sums(parts[i : i + 1], labels[i : i + 1]) / normalizers).sum()
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss_of(asked, scores, labels).item(), rel=1e-5)
    assert whole.grad is not None and parts.grad is not None
    assert torch.allclose(whole.grad, parts.grad, atol=1e-7)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_ignored_pixels_count_nowhere(loss: str):
    """Scores of ignored pixels change nothing and get no gradient; a batch of them alone has loss 0."""
    scores, labels = batch()
    asked, ignored = target(loss), (labels < 0)[:, None]
    changed = torch.where(ignored, 5 * torch.ones_like(scores), scores).requires_grad_()
    actual = loss_of(asked, changed, labels)
    actual.backward()
    assert changed.grad is not None and not changed.grad.where(ignored, torch.zeros(())).any()
    assert actual.item() == pytest.approx(loss_of(asked, scores, labels).item(), rel=1e-6)
    assert loss_of(asked, scores, torch.full_like(labels, -1)).item() == 0


@pytest.mark.parametrize(
    "loss", [*losses.LOSSES, {"name": "tversky", "exponent": 0.75}, {"name": "focal", "gamma": 0.5}]
)
def test_perfect_predictions_reach_the_floor(loss: object):
    """Certain and right predictions have the least value, with a finite gradient, also without a class in an image."""
    labels = batch()[1]
    labels[0], labels[1] = 0, 1
    perfect = (200.0 * F.one_hot(labels.clamp(min=0), 3).movedim(-1, 1)).requires_grad_()
    asked = target(loss)
    actual = loss_of(asked, perfect, labels)
    actual.backward()
    assert actual.item() == pytest.approx(asked.min_loss, abs=1e-4)
    assert perfect.grad is not None and perfect.grad.isfinite().all()
    assert loss_of(asked, batch()[0], labels).item() > asked.min_loss + 0.1


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy_of_probabilities"])
def test_cross_entropies_are_bit_identical_to_torch(loss: str, weights: tuple[float, ...] | None):
    """Total over mass is, bit for bit, the sum of torch over the number or the weight of labeled pixels."""
    scores, labels = batch()
    logits = scores.softmax(1) if loss.endswith("probabilities") else scores
    factors = None if weights is None else torch.tensor(weights)
    total = F.cross_entropy(logits, labels, factors, ignore_index=-1, reduction="sum")
    labeled = labels >= 0
    mass = labeled.sum() if factors is None else (factors[labels.clamp(min=0)] * labeled).sum()
    assert torch.equal(loss_of(target(loss, class_weights=weights), scores, labels), total / mass.clamp(min=1e-12))


def test_focal_without_focus_is_cross_entropy():
    """gamma = 0 gives the weighted cross entropy; gamma = 2 the formula."""
    scores, labels = batch()
    for weights in (None, WEIGHTS):
        plain = loss_of(target({"name": "focal", "gamma": 0}, class_weights=weights), scores, labels)
        assert torch.allclose(plain, loss_of(target("cross_entropy", class_weights=weights), scores, labels))
    p = scores.softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0][labels >= 0]
    assert torch.allclose(loss_of(target("focal"), scores, labels), (-((1 - p) ** 2) * p.log()).mean())


def test_dice_equals_the_definition():
    """Per image 1 - the mean soft Dice of the foreground classes, one pixel added above and below; then over images."""
    scores, labels = batch()
    probabilities, expected = scores.softmax(1), []
    for p, label in zip(probabilities, labels, strict=True):
        for value in (1, 2):
            known, truth = label >= 0, label == value
            both, sizes = p[value][truth].sum(), p[value][known].sum() + truth.sum()
            expected.append(1 - (2 * both + 1) / (sizes + 1))
    assert torch.allclose(loss_of(target("dice"), scores, labels), torch.stack(expected).mean())


def test_tversky_of_equal_weights_is_dice():
    """alpha = beta = 0.5 is Dice; more of alpha punishes false positives, more of beta false negatives."""
    scores, labels = batch()
    even = target({"name": "tversky", "alpha": 0.5, "beta": 0.5})
    assert torch.allclose(loss_of(even, scores, labels), loss_of(target("dice"), scores, labels))
    much, little = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    much[:, 1], little[:, 0] = 3, 3
    much[:, 2] = little[:, 2] = -20
    half = torch.zeros(1, 8, 8, dtype=torch.long)
    half[:, :4] = 1
    wary, bold = (target({"name": "tversky", "alpha": a, "beta": 1 - a}) for a in (0.9, 0.1))
    assert loss_of(wary, much, half) > loss_of(bold, much, half)
    assert loss_of(wary, little, half) < loss_of(bold, little, half)


def test_sum_of_two_losses():
    """dice_cross_entropy is the sum of both; class weights and smoothing are those of its cross entropy."""
    scores, labels = batch()
    both = target("dice_cross_entropy", class_weights=WEIGHTS, label_smoothing=0.1)
    entropy = target("cross_entropy", class_weights=WEIGHTS, label_smoothing=0.1)
    expected = loss_of(entropy, scores, labels) + loss_of(target("dice"), scores, labels)
    assert torch.allclose(loss_of(both, scores, labels), expected)
    assert both.min_loss == entropy.min_loss


def test_wrong_class_in_an_empty_image_is_punished():
    """An image without foreground pulls its predictions down, as far as it has any."""
    scores = torch.zeros(1, 3, 8, 8, requires_grad=True)
    loss_of(target("dice"), scores, torch.zeros(1, 8, 8, dtype=torch.long)).backward()
    assert scores.grad is not None and (scores.grad[:, 1:] > 0).all()


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_label_smoothing_equals_torch(weights: tuple[float, ...] | None):
    """The smoothed loss is torch's mean."""
    scores, labels = batch()
    factors = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(scores, labels, factors, ignore_index=-1, label_smoothing=0.2)
    actual = loss_of(target("cross_entropy", class_weights=weights, label_smoothing=0.2), scores, labels)
    assert torch.allclose(actual, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("loss", "weights"),
    [("cross_entropy", None), ("cross_entropy", WEIGHTS), ("cross_entropy_of_probabilities", None)],
)
def test_floor_is_what_a_minimizer_finds(loss: str, weights: tuple[float, ...] | None, smoothing: float):
    """The least value over scores, minimised for each label, equals the formula."""
    asked = target(loss, class_weights=weights, label_smoothing=smoothing)
    least = []
    for label in range(3):
        labels = torch.full((1, 1, 1), label)
        scores = torch.zeros(1, 3, 1, 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

        def closure(optimizer=optimizer, scores=scores, labels=labels):
            optimizer.zero_grad()
            loss = loss_of(asked, scores, labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        least.append(loss_of(asked, scores, labels).item())
    assert min(least) == pytest.approx(asked.min_loss, abs=2e-4)


def test_floor_of_smoothed_labels_is_their_entropy():
    """Two classes and a smoothing of 0.2: shares 0.9 and 0.1; probabilities cannot be more certain than e / (e + 1)."""
    spec = ClassesSpec(label_smoothing=0.2)
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert build_target(spec, names=NAMES[:2], instances=False, context="").min_loss == pytest.approx(entropy)
    spec = ClassesSpec.model_validate({"loss": "cross_entropy_of_probabilities", "label_smoothing": 0.2})
    actual = build_target(spec, names=NAMES[:2], instances=False, context="").min_loss
    assert actual == pytest.approx(math.log(math.e + 1) - 0.9)


def test_weights_made_while_scoring_serve_in_training():
    """The kept weights of a class are no inference tensor, so that training after scoring has gradients."""
    asked = target("focal", class_weights=(0.25, 1.5, 7.0))
    scores, labels = batch()
    with torch.inference_mode():
        loss_of(asked, scores, labels)
    leaf = scores.clone().requires_grad_()
    loss_of(asked, leaf, labels).backward()
    assert leaf.grad is not None and leaf.grad.any()


def test_names_are_those_of_the_specifications():
    """Every loss that a specification names is in the table, and the other way round; those with weights use them."""
    assert set(losses.LOSSES) == {*get_args(PlainLossName), "focal", "tversky"}
    assert set(losses.REGRESSION_LOSSES) == set(get_args(RegressionName))
    scores, labels = batch()
    for name in losses.LOSSES:
        plain, weighted = (
            losses.loss_sums(scores, labels, losses.LossSettings(loss_spec(name), given))  # type: ignore[arg-type]
            for given in (None, WEIGHTS)
        )
        assert torch.equal(plain, weighted) == (name not in LOSSES_WITH_WEIGHTS)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_logits_of_a_foreground_are_two_classes(loss: str):
    """A logit z has the loss of the scores 0 and z; cross entropy is the binary one."""
    settings = losses.LossSettings(loss_spec(loss))  # type: ignore[arg-type]
    scores, labels = batch()
    logits, labels = scores[:, 1], labels.clamp(max=1)
    sums = losses.binary_loss_sums(logits, labels.float(), settings)
    expected = losses.loss_sums(torch.stack([torch.zeros_like(logits), logits], 1), labels, settings)
    torch.testing.assert_close(sums, expected)


def test_dice_needs_a_foreground():
    """A layer of the background alone has nothing to overlap with."""
    with pytest.raises(SegueError, match="of foreground classes, but the layer has only background"):
        build_target(ClassesSpec.model_validate({"loss": "dice"}), names=NAMES[:1], instances=False, context="x.h5")
