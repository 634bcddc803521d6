"""Which images to label next: those on which the model disagrees with itself, and that are unlike those with labels.

disagreement    of the predictions for the eight rotations and reflections of an image, turned back: the entropy of
                their mean less their mean entropy, in nats, mean over pixels (Houlsby et al., arXiv:1112.5745)
distance        from the nearest image with labels, or ranked before, of the encoder's mean features, each divided by
                its standard deviation (greedy k-center; Sener and Savarese, ICLR 2018)

The next image is the one with the largest product of both.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from segue.data.augmentation import N_DIHEDRAL, apply_dihedral, inverse
from segue.data.image_io import read_image
from segue.data.normalization import intensity_stats, normalize
from segue.device import device_of
from segue.errors import SegueError
from segue.inference.features import mean_features
from segue.inference.model import Model
from segue.inference.predict import forward
from segue.networks.network import Network
from segue.storage import replacing
from segue.training.run_folder import TrainedModel

MAX_SIDE_PX = 1024  # of larger images the middle is looked at
MIN_STD = 1e-6  # of a feature; those that hardly vary say nothing


@dataclass(frozen=True)
class NextImage:
    """An image without labels, in the order in which to label."""

    rank: int
    image: str
    disagreement: float
    distance: float


def rank_images(
    model: TrainedModel,
    labeled: Sequence[Path],
    unlabeled: Sequence[Path],
    *,
    progress: Callable[[int, int], None],
    log: Callable[[str], None],
) -> list[NextImage]:
    """Returns the unlabeled images in the order in which to label them, without those that cannot be read."""
    network = model.network
    assert isinstance(network, Network)
    features, disagreements, names = [], [], []
    total = len(labeled) + len(unlabeled)
    for index, path in enumerate([*labeled, *unlabeled]):
        try:
            images = _read(model, path)
        except SegueError as error:
            log(f"not ranked: {error}")
            continue
        with torch.inference_mode():
            box = np.array([[0, 0, *images.shape[-2:]]])
            features.append(mean_features(network, images, box, model.divisor)[0])
        if index >= len(labeled):
            disagreements.append(disagreement(model, images))
            names.append(str(path))
        progress(index + 1, total)
    return order(names, np.array(disagreements), np.array(features), len(features) - len(names)) if names else []


def disagreement(model: Model, images: torch.Tensor) -> float:
    """Returns how much the predictions for the eight views of normalized images (1, C, H, W) differ, in nats."""
    chances = []
    for code in range(N_DIHEDRAL):
        view = apply_dihedral(images, code).contiguous()
        scores = forward(model.network, view, divisor=model.divisor, precision="fp32")
        scores = model.target.transform_scores(scores, inverse(code)).cpu()
        chances.append(model.target.probabilities(scores)[0])
    views = torch.stack(chances)  # (8, K, H, W)
    return float((_entropy(views.mean(0)) - _entropy(views).mean(0)).mean())


def order(names: Sequence[str], disagreements: np.ndarray, features: np.ndarray, labeled: int) -> list[NextImage]:
    """Returns the images `names` (n,) ranked; disagreements (n,); features (m + n, F), of the m with labels first."""
    deviations = features.std(0)
    scaled = features[:, deviations > MIN_STD] / deviations[deviations > MIN_STD]
    known, rest = scaled[:labeled], scaled[labeled:]
    distances = np.min([np.linalg.norm(rest - one, axis=1) for one in known], axis=0) if labeled else np.ones(len(rest))
    left = list(range(len(names)))
    ranked = []
    while left:
        best = max(left, key=lambda index: (disagreements[index] * distances[index], -index))
        ranked.append(NextImage(len(ranked) + 1, names[best], float(disagreements[best]), float(distances[best])))
        left.remove(best)
        distances = np.minimum(distances, np.linalg.norm(rest - rest[best], axis=1))
    return ranked


def write_ranking(ranked: Sequence[NextImage], path: Path) -> None:
    """Writes the ranking as CSV."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(NextImage.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in ranked)


def _entropy(chances: torch.Tensor) -> torch.Tensor:
    """Returns the entropy (…, H, W) of probabilities (…, K, H, W)."""
    return torch.special.entr(chances).sum(-3)


def _read(model: Model, path: Path) -> torch.Tensor:
    """Returns the middle of an image, normalized, (1, C, H, W), on the model's device."""
    image = read_image(path).image
    channels = len(model.channels)
    if channels == 1 and bool((image == image[:1]).all()):
        image = image[:1]  # gray, stored as colors
    if len(image) != channels:
        raise SegueError(f"{path}: has {len(image)} channels, the images with labels {channels}.")
    y, x = (max(0, (size - MAX_SIDE_PX) // 2) for size in image.shape[1:])
    batch = image[None, :, y : y + MAX_SIDE_PX, x : x + MAX_SIDE_PX]
    stats = intensity_stats(model.normalization, image[None])
    return torch.from_numpy(normalize(batch, stats)).to(device_of(model.network))
