"""Class weights from the pixels of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segue.errors import SegueError
from segue.targets.classes_spec import CountedWeights, EffectiveNumberSpec


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
