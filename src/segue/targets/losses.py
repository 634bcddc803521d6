"""Losses by name, each a sum over samples divided by a normalizer, and class weights from counted pixels.

Sums and normalizers are sums over samples, so that a batch may be split into parts, or over processes, without changing
the loss: it is the sum of the parts divided by the normalizer of the whole. Cross entropies and focal loss are means
over labeled pixels (their normalizer is the weight of these pixels); Dice and Tversky are means over images, each image
by itself. Dice over a whole batch is not offered, since it is no sum over samples.

Dice and Tversky are of soft probabilities, without squares (as in nnU-Net; Milletari et al. 2016 square those of the
denominator), and average the foreground classes: the background is left out. Half a pixel is added to numerator and
denominator of the Tversky index, which is one pixel in those of Dice: so an image without a class requires that none be
predicted, reaches 0 with that, and has a gradient until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue.errors import SegueError
from segue.labels import IGNORED
from segue.targets.specs import (
    CountedWeights,
    EffectiveNumberSpec,
    FocalSpec,
    LossSpec,
    PlainLossSpec,
    RegressionName,
    TverskySpec,
)

SMOOTHING_PX = 0.5
CROSS_ENTROPY = PlainLossSpec(name="cross_entropy")
EPSILON = 1e-7  # keeps gradients of powers finite where their base is 0


@dataclass(frozen=True)
class LossSettings:
    """The specification of a loss, one weight per class or None, and the label smoothing."""

    spec: LossSpec = CROSS_ENTROPY
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def weights_on(self, device: torch.device) -> Tensor | None:
        return None if self.weights is None else _tensor(self.weights, device)


DEFAULT_LOSS = LossSettings()


@lru_cache(maxsize=64)
def _tensor(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns the values on the device; cached, since a copy to a GPU in every step would wait for it."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return torch.tensor(values, device=device)


def cross_entropy(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the cross entropy of softmax(scores) summed over labeled pixels, smoothed as torch does."""
    weights = settings.weights_on(scores.device)
    smoothing = settings.label_smoothing
    return F.cross_entropy(scores, classes, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)


def cross_entropy_of_probabilities(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the summed cross entropy with the softmax *probabilities* used as scores, as in the published tables.

    Its least value per pixel is not 0 but `min_loss`, since probabilities lie in [0, 1].
    """
    return cross_entropy(scores.softmax(1), classes, settings)


def focal(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns -w (1 - p)^gamma ln p summed over labeled pixels, p of the labeled class (Lin et al. 2017).

    The weights w are the paper's alpha. The mean is over labeled pixels, as in cross entropy.
    """
    assert isinstance(settings.spec, FocalSpec)
    labeled = classes >= 0
    log_p = scores.log_softmax(1).gather(1, classes.clamp(min=0)[:, None])[:, 0]
    # without the clamp the gradient would be infinite where p rounds to 1 and gamma < 1
    loss = -((-log_p.expm1()).clamp(min=EPSILON) ** settings.spec.gamma) * log_p
    weights = _pixel_weights(classes, settings)
    return (loss if weights is None else loss * weights).where(labeled, 0).sum()


def dice(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns 1 - Dice, the mean over foreground classes, summed over images."""
    return (1 - _tversky_index(scores, classes, 0.5, 0.5)).mean(1).sum()


def tversky(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns (1 - Tversky index)^exponent, the mean over foreground classes, summed over images."""
    spec = settings.spec
    assert isinstance(spec, TverskySpec)
    loss = 1 - _tversky_index(scores, classes, spec.alpha, spec.beta)
    if spec.exponent != 1:
        loss = loss.clamp(min=EPSILON) ** spec.exponent
    return loss.mean(1).sum()


def _tversky_index(scores: Tensor, classes: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns (N, K - 1): (TP + s) / (TP + alpha FP + beta FN + s) of each foreground class over labeled pixels.

    An image without labeled pixels has 1 and no gradient.
    """
    foreground = torch.arange(1, scores.shape[1], device=scores.device)[:, None, None]
    is_class = classes[:, None] == foreground
    probabilities = scores.softmax(1)[:, 1:].where((classes >= 0)[:, None], 0)
    true_positives = probabilities.where(is_class, 0).sum((2, 3))
    false_positives = probabilities.sum((2, 3)) - true_positives
    false_negatives = is_class.sum((2, 3)) - true_positives
    smoothed = true_positives + SMOOTHING_PX
    return smoothed / (true_positives + alpha * false_positives + beta * false_negatives + SMOOTHING_PX)


def dice_cross_entropy(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the sums of both, (2,)."""
    return torch.stack([cross_entropy(scores, classes, settings), dice(scores, classes, settings)])


def labeled_pixels(classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the number of labeled pixels, or with class weights the sum of their weights; float32."""
    labeled, weights = classes >= 0, _pixel_weights(classes, settings)
    return labeled.sum().float() if weights is None else weights.where(labeled, 0).sum()


def labeled_images(classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the number of images with any labeled pixel; float32."""
    return (classes >= 0).flatten(1).any(1).sum().float()


def _labeled_pixels_and_images(classes: Tensor, settings: LossSettings) -> Tensor:
    return torch.stack([labeled_pixels(classes, settings), labeled_images(classes, settings)])


def _pixel_weights(classes: Tensor, settings: LossSettings) -> Tensor | None:
    weights = settings.weights_on(classes.device)
    return None if weights is None else weights[classes.clamp(min=0)]


def _min_of_smoothed(settings: LossSettings, classes: int) -> float:
    """Returns the entropy of a smoothed label; with weights, of the class where it is least."""
    share = settings.label_smoothing / classes
    if share == 0:
        return 0.0
    label_share = 1 - settings.label_smoothing + share
    weights = settings.weights or (1.0,) * classes
    smoothed = [
        [weight * (label_share if c == label else share) for c, weight in enumerate(weights)]
        for label in range(classes)
    ]
    return min(_entropy(values) / weight for values, weight in zip(smoothed, weights, strict=True))


def _min_of_probabilities(settings: LossSettings, classes: int) -> float:
    """Returns the entropy of a smoothed label where probabilities can reach it, and more beyond.

    The most certain that they get is e^1 / (e^1 + K - 1); beyond it the least value is ln(e^1 + K - 1) - q with the
    label's own share q = 1 - smoothing (1 - 1/K): ln(1 + (K - 1)/e) without smoothing.
    """
    share = settings.label_smoothing / classes
    label_share = 1 - settings.label_smoothing + share
    if label_share >= math.e / (math.e + classes - 1):
        return math.log1p((classes - 1) * math.exp(-1)) + 1 - label_share
    return _entropy([label_share] + [share] * (classes - 1))


def _entropy(values: list[float]) -> float:
    """Returns the least of -sum v ln p over distributions p: -sum v ln(v / sum v)."""
    return -sum(value * math.log(value / math.fsum(values)) for value in values if value > 0)


@dataclass(frozen=True)
class Loss:
    """A loss of classes, as a sum over samples and what that is divided by; each a scalar, or (T,) of T terms.

    sum(scores (N, K, H, W) float32, classes (N, H, W) int64, settings) is differentiable; normalizer(classes,
    settings). min_loss(settings, K) is the least value over all predictions and all labels.
    """

    sum: Callable[[Tensor, Tensor, LossSettings], Tensor]
    normalizer: Callable[[Tensor, LossSettings], Tensor]
    min_loss: Callable[[LossSettings, int], float] = lambda settings, classes: 0.0
    needs_foreground: bool = False


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, labeled_pixels, _min_of_smoothed),
    "cross_entropy_of_probabilities": Loss(cross_entropy_of_probabilities, labeled_pixels, _min_of_probabilities),
    "focal": Loss(focal, labeled_pixels),
    "dice": Loss(dice, labeled_images, needs_foreground=True),
    "tversky": Loss(tversky, labeled_images, needs_foreground=True),
    "dice_cross_entropy": Loss(dice_cross_entropy, _labeled_pixels_and_images, _min_of_smoothed, needs_foreground=True),
}
REGRESSION_LOSSES: dict[RegressionName, Callable[[Tensor], Tensor]] = {  # of the error of each value
    "squared_error": Tensor.square,
    "absolute_error": Tensor.abs,
    "smooth_l1": lambda error: F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none"),
}


def loss_sums(scores: Tensor, classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns the T sums (T,) of the loss that the settings name."""
    return torch.atleast_1d(LOSSES[settings.spec.name].sum(scores, classes, settings))


def normalizers(classes: Tensor, settings: LossSettings) -> Tensor:
    """Returns what the T sums are divided by, (T,)."""
    return torch.atleast_1d(LOSSES[settings.spec.name].normalizer(classes, settings))


def min_loss(settings: LossSettings, classes: int) -> float:
    """Returns the least value that the loss can take with K classes, over all predictions and all labels."""
    return LOSSES[settings.spec.name].min_loss(settings, classes)


def binary_loss_sums(logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Returns the sums (T,) of the loss for logits of the foreground; labels, of the same shape, are 0, 1 or −1.

    A logit z stands for the two scores 0 and z. Cross entropy is then the binary cross entropy, computed as such.
    """
    if settings.spec.name == "cross_entropy":
        return binary_cross_entropy(logits, labels)[None]
    scores = torch.stack([torch.zeros_like(logits), logits], dim=1).float()
    return loss_sums(scores, labels.long(), settings)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the binary cross entropy summed where labels are not −1; labels from 0 to 1, of the logits' shape."""
    known = (labels >= 0).float()
    return F.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0), weight=known, reduction="sum")


def weights_from_counts(
    spec: CountedWeights, counts: np.ndarray | Sequence[int], *, names: Sequence[str], context: str
) -> tuple[float, ...]:
    """Returns a weight per class from the pixels of each class, scaled to a mean of 1 over all counted pixels.

    counts: (n, K), a row per training sample; (K,) totals count as one sample. With n_c the pixels of class c:

    - inverse_frequency: 1 / n_c, scaled so n / (K n_c), the "balanced" weights of scikit-learn;
    - median_frequency: median(f) / f_c, with f_c = n_c / all pixels of the samples that hold c (Eigen & Fergus
      2015); of totals f_c is the frequency in the whole set, as in SegNet (Badrinarayanan et al. 2017);
    - effective_number: (1 - beta) / (1 - beta^n_c) (Cui et al. 2019).

    The papers scale differently (median class 1, sum K); every loss here divides by the weights it has summed, so that
    the scale does not matter to it. Raises SegueError for a class without pixels.

    >>> weights_from_counts("inverse_frequency", [80, 20], names=("background", "nucleus"), context="")
    (0.625, 2.5)
    """
    rows = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    if rows.shape[1] != len(names):
        raise SegueError(
            f"{context}: pixels of {rows.shape[1]} classes were counted, but the layer has {len(names)} classes "
            f"({', '.join(names)}); prepare the dataset again."
        )
    pixels = rows.sum(0)
    missing = [name for name, count in zip(names, pixels, strict=True) if count <= 0]
    if missing:
        setting = spec.name if isinstance(spec, EffectiveNumberSpec) else spec
        raise SegueError(
            f"{context}: target.class_weights = '{setting}' needs pixels of every class, but the training samples have "
            f"none of {', '.join(missing)}; take more samples, give the weights as a list, or remove the class."
        )
    raw = _raw_weights(spec, rows, pixels)
    return tuple((raw * pixels.sum() / (raw * pixels).sum()).tolist())


def _raw_weights(spec: CountedWeights, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    if isinstance(spec, EffectiveNumberSpec):
        return (1 - spec.beta) / -np.expm1(pixels * np.log(spec.beta))
    if spec == "median_frequency":
        frequency = pixels / ((rows > 0) * rows.sum(1, keepdims=True)).sum(0)
        return np.median(frequency) / frequency
    return 1 / pixels
