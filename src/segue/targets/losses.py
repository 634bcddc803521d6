"""Losses of one class per pixel, each a sum of terms, each term a total over a mass.

Totals and masses are sums over samples, so that a batch may be split in parts, or over processes, without changing the
loss: total of the parts / mass of the whole. Cross entropies and focal loss are means over labelled pixels (their mass
is the weight of these pixels); Dice and Tversky are means over images, each image by itself. Dice over a whole batch is
not offered, since it is no sum over samples.

Dice and Tversky are of soft probabilities, without squares (as in nnU-Net; Milletari et al. 2016 square those of the
denominator), and average the foreground classes: the background is left out. Half a pixel is added to numerator and
denominator of the Tversky index, which is one pixel in those of Dice: so an image without a class asks that none be
predicted, reaches 0 with that, and has a gradient until then.


Class weights from the pixels of each class."""

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
from segue.targets.specs import CountedWeights, EffectiveNumberSpec, FocalSpec, LossSpec, TverskySpec

IGNORED = -1
SMOOTHING_PX = 0.5


@dataclass(frozen=True)
class Settings:
    """What a loss depends on beside its name: its specification, one weight per class or None, and the smoothing."""

    spec: LossSpec
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def weights_on(self, device: torch.device) -> Tensor | None:
        return None if self.weights is None else _tensor(self.weights, device)


@dataclass(frozen=True)
class Term:
    """total(scores (N, K, H, W) float32, classes (N, H, W) int64, settings) and mass(classes, settings), scalars."""

    total: Callable[[Tensor, Tensor, Settings], Tensor]
    mass: Callable[[Tensor, Settings], Tensor]


@lru_cache(maxsize=64)
def _tensor(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Returns the values on the device; kept, since a copy to a GPU in every step would wait for it."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return torch.tensor(values, device=device)


def cross_entropy(scores: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Returns the cross entropy of softmax(scores) summed over labelled pixels, smoothed as torch does."""
    weights = settings.weights_on(scores.device)
    smoothing = settings.label_smoothing
    return F.cross_entropy(scores, classes, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)


def cross_entropy_of_probabilities(scores: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Returns the summed cross entropy with the softmax *probabilities* taken for scores, as in the published tables.

    Its least value per pixel is not 0 but `floor`, since probabilities lie in [0, 1].
    """
    return cross_entropy(scores.softmax(1), classes, settings)


def focal(scores: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Returns -w (1 - p)^gamma ln p summed over labelled pixels, p of the labelled class (Lin et al. 2017).

    The weights w are the paper's alpha. The mean is over labelled pixels, as in cross entropy.
    """
    assert isinstance(settings.spec, FocalSpec)
    labelled = classes >= 0
    log_p = scores.log_softmax(1).gather(1, classes.clamp(min=0)[:, None])[:, 0]
    # the clamp keeps the gradient finite where p rounds to 1 and gamma < 1
    loss = -((-log_p.expm1()).clamp(min=1e-7) ** settings.spec.gamma) * log_p
    weights = _pixel_weights(classes, settings)
    return (loss if weights is None else loss * weights).where(labelled, 0).sum()


def dice(scores: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Returns 1 - Dice of the foreground classes' mean, summed over images."""
    return (1 - _tversky_index(scores, classes, 0.5, 0.5)).mean(1).sum()


def tversky(scores: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Returns (1 - Tversky index)^exponent, the mean of the foreground classes, summed over images."""
    spec = settings.spec
    assert isinstance(spec, TverskySpec)
    lack = 1 - _tversky_index(scores, classes, spec.alpha, spec.beta)
    if spec.exponent != 1:
        lack = lack.clamp(min=1e-7) ** spec.exponent  # the clamp keeps the gradient finite at a perfect prediction
    return lack.mean(1).sum()


def _tversky_index(scores: Tensor, classes: Tensor, alpha: float, beta: float) -> Tensor:
    """Returns (N, K - 1): (TP + s) / (TP + alpha FP + beta FN + s) of each foreground class over labelled pixels.

    An image without labelled pixels has 1 and no gradient.
    """
    foreground = torch.arange(1, scores.shape[1], device=scores.device)[:, None, None]
    here = classes[:, None] == foreground
    probabilities = scores.softmax(1)[:, 1:].where((classes >= 0)[:, None], 0)
    hits = probabilities.where(here, 0).sum((2, 3))
    false_positives = probabilities.sum((2, 3)) - hits
    false_negatives = here.sum((2, 3)) - hits
    return (hits + SMOOTHING_PX) / (hits + alpha * false_positives + beta * false_negatives + SMOOTHING_PX)


def labelled_pixels(classes: Tensor, settings: Settings) -> Tensor:
    """Returns the number of labelled pixels, or with class weights the sum of their weights; float32."""
    labelled, weights = classes >= 0, _pixel_weights(classes, settings)
    return labelled.sum().float() if weights is None else weights.where(labelled, 0).sum()


def labelled_images(classes: Tensor, settings: Settings) -> Tensor:
    """Returns the number of images with any labelled pixel; float32."""
    return (classes >= 0).flatten(1).any(1).sum().float()


def _pixel_weights(classes: Tensor, settings: Settings) -> Tensor | None:
    weights = settings.weights_on(classes.device)
    return None if weights is None else weights[classes.clamp(min=0)]


LOSSES: dict[str, tuple[Term, ...]] = {
    "cross_entropy": (Term(cross_entropy, labelled_pixels),),
    "cross_entropy_of_probabilities": (Term(cross_entropy_of_probabilities, labelled_pixels),),
    "focal": (Term(focal, labelled_pixels),),
    "dice": (Term(dice, labelled_images),),
    "tversky": (Term(tversky, labelled_images),),
    "dice_cross_entropy": (Term(cross_entropy, labelled_pixels), Term(dice, labelled_images)),
}


def floor(settings: Settings, classes: int) -> float:
    """Returns the least value that a loss can take with K classes, over all predictions and all labels.

    Cross entropy: the entropy of a smoothed label; with weights, of the class where it is least. Of probabilities: the
    same where they can reach it, e^1 / (e^1 + K - 1) being the most certain that they get; beyond it
    ln(e^1 + K - 1) - q, q = 1 - smoothing (1 - 1/K) being the label's own share: ln(1 + (K - 1)/e) without smoothing.
    The other losses reach 0.
    """
    name, share = settings.spec.name, settings.label_smoothing / classes
    own = 1 - settings.label_smoothing + share
    if name == "cross_entropy_of_probabilities":
        if own >= math.e / (math.e + classes - 1):
            return math.log1p((classes - 1) * math.exp(-1)) + 1 - own
        return _entropy([own] + [share] * (classes - 1))
    if name not in ("cross_entropy", "dice_cross_entropy") or share == 0:
        return 0.0
    weights = settings.weights or (1.0,) * classes
    smoothed = [
        [weight * (own if c == label else share) for c, weight in enumerate(weights)] for label in range(classes)
    ]
    return min(_entropy(values) / weight for values, weight in zip(smoothed, weights, strict=True))


def _entropy(values: list[float]) -> float:
    """Returns the least of -sum v ln p over distributions p: -sum v ln(v / sum v)."""
    return -sum(value * math.log(value / math.fsum(values)) for value in values if value > 0)


def weights_from_counts(
    spec: CountedWeights, counts: np.ndarray | Sequence[int], *, names: Sequence[str], where: str
) -> tuple[float, ...]:
    """Returns a weight per class from the pixels of each class, scaled to a mean of 1 over all counted pixels.

    counts: (n, K), a row per training sample; (K,) totals count as one sample. With n_c the pixels of class c:

    - inverse_frequency: 1 / n_c, scaled so n / (K n_c), the "balanced" weights of scikit-learn;
    - median_frequency: median(f) / f_c, with f_c = n_c / all pixels of the samples that hold c (Eigen & Fergus
      2015); of totals f_c is the frequency in the whole set, as in SegNet (Badrinarayanan et al. 2017);
    - effective_number: (1 - beta) / (1 - beta^n_c) (Cui et al. 2019).

    The papers scale differently (median class 1, sum K); every loss here divides by the weights it has summed, so that
    the scale does not matter to it. Raises SegueError for a class without pixels.

    >>> weights_from_counts("inverse_frequency", [80, 20], names=("background", "nucleus"), where="")
    (0.625, 2.5)
    """
    rows = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    if rows.shape[1] != len(names):
        raise SegueError(
            f"{where}: pixels of {rows.shape[1]} classes were counted, but the layer has {len(names)} classes "
            f"({', '.join(names)}); prepare the dataset anew."
        )
    pixels = rows.sum(0)
    missing = [name for name, count in zip(names, pixels, strict=True) if count <= 0]
    if missing:
        told = spec.name if isinstance(spec, EffectiveNumberSpec) else spec
        raise SegueError(
            f"{where}: target.class_weights = '{told}' needs pixels of every class, but the training samples have "
            f"none of {', '.join(missing)}; take more samples, give the weights as a list, or remove the class."
        )
    raw = _weights(spec, rows, pixels)
    return tuple((raw * pixels.sum() / (raw * pixels).sum()).tolist())


def _weights(spec: CountedWeights, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    if isinstance(spec, EffectiveNumberSpec):
        return (1 - spec.beta) / -np.expm1(pixels * np.log(spec.beta))
    if spec == "median_frequency":
        frequency = pixels / ((rows > 0) * rows.sum(1, keepdims=True)).sum(0)
        return np.median(frequency) / frequency
    return 1 / pixels
