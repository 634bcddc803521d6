"""Augmented samples per second of segue on whole batches, against the usual path: a library's call for each sample.

    uv run --with albumentations python benchmarks/bench_augmentation.py [--rounds 3]

The usual path is albumentations on numpy arrays in a Dataset, batches made by a DataLoader: at one thread in the same
process, at two by two workers kept alive. segue gets the same batches already together, at one and at two threads of
torch. Both hold the samples in memory as float32 images and integer labels, and give images and labels. The changes are
as near as the two allow; albumentations needs images in 0 … 1, clips to them, resamples the image once for scale and
rotation and once more for the elastic displacement, and mirrors labels at the border where segue ignores them.

Rounds take turns. The figures are medians over rounds, `times` the median of the ratios round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from contest import parse, ratio
from torch.utils.data import DataLoader, Dataset

from segue import rng
from segue.data.augmentation import augment, sample_params
from segue.data.spec import AugmentSpec

try:
    import albumentations as A  # type: ignore[import-not-found]
    import cv2  # type: ignore[import-not-found]
except ImportError:
    A = cv2 = None

SIGMA_PX, AMPLITUDE_PX = 8.0, 2.0
ALPHA = AMPLITUDE_PX * 2 * SIGMA_PX * np.pi**0.5  # albumentations multiplies smoothed noise by it
REFLECT = 2  # cv2.BORDER_REFLECT

CHANGES: dict[str, tuple[dict[str, Any], Callable[[], list[Any]]]] = {
    "dihedral": ({"dihedral": "random"}, lambda: [A.D4(p=1)]),
    "dihedral, scale, rotation": (
        {"dihedral": "random", "scale": (0.8, 1.25), "rotation_deg": 30},
        lambda: [A.D4(p=1), A.Affine(scale=(0.8, 1.25), rotate=(-30, 30), border_mode=REFLECT, p=1)],
    ),
    "elastic": (
        {"elastic": {"amplitude_px": AMPLITUDE_PX, "sigma_px": SIGMA_PX}},
        lambda: [A.ElasticTransform(alpha=ALPHA, sigma=SIGMA_PX, border_mode=REFLECT, p=1)],
    ),
    "brightness, contrast, gamma": (
        {"brightness": 0.2, "contrast": (0.8, 1.25), "gamma": (0.7, 1.5)},
        lambda: [A.RandomGamma((70, 150), p=1), A.RandomBrightnessContrast(0.2, 0.2, p=1)],
    ),
    "blur": ({"blur_px": (0.5, 1.5)}, lambda: [A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 1.5), p=1)]),
    "noise": ({"noise": (0.02, 0.1)}, lambda: [A.GaussNoise(std_range=(0.02, 0.1), p=1)]),
}
BATCHES = {128: (16, 4), 160: (100, 2)}  # by side in px: batch, batches in an epoch; single changes on the first only
ALL = [name for name in CHANGES if name != "dihedral"]


@dataclass(frozen=True)
class Samples(Dataset):
    """Images (n, H, W, 1) float32 and labels (n, H, W) int16, augmented one by one by albumentations."""

    images: np.ndarray
    labels: np.ndarray
    transform: Any  # A.Compose

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.transform(image=self.images[index], mask=self.labels[index])
        image, mask = np.ascontiguousarray(made["image"]), np.ascontiguousarray(made["mask"])
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask).long()


def per_sample(names: list[str], images: np.ndarray, labels: np.ndarray, batch: int, threads: int) -> Callable[[], int]:
    transform = A.Compose([change for name in names for change in CHANGES[name][1]()])
    workers = 0 if threads == 1 else threads
    samples = Samples(images, labels, transform)
    loader = DataLoader(samples, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(actual) for actual, _ in loader)


def batched(names: list[str], images: np.ndarray, labels: np.ndarray, batch: int) -> Callable[[], int]:
    table = {"dihedral": "none"}
    for name in names:
        table |= CHANGES[name][0]
    spec = AugmentSpec.model_validate(table)
    pixels, marks = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    epochs = iter(range(10**9))

    def epoch() -> int:
        drawn = sample_params(spec, len(images), rng.numpy_generator("bench", next(epochs)))
        count = 0
        for start in range(0, len(images), batch):
            some = slice(start, start + batch)
            actual, _ = augment(spec, pixels[some], marks[some].long(), drawn[some])
            count += len(actual)
        return count

    return epoch


def rate(epoch: Callable[[], int]) -> float:
    """Returns samples per second of one epoch."""
    began = time.perf_counter()
    return epoch() / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 160], help="sides in px")
    options = parse(parser, rounds=1, tiles=[32])
    rounds = options.rounds
    if cv2 is not None:
        cv2.setNumThreads(0)
    generator = rng.numpy_generator("bench")
    print(f"{'changes':34}{'tiles':>12}{'threads':>8}{'per sample/s':>14}{'segue/s':>9}{'times':>7}")
    for names in [*([name] for name in CHANGES), ALL]:
        for size_px in options.tiles if names == ALL else options.tiles[:1]:
            batch, batches = BATCHES.get(size_px, (4, 2))
            images = generator.random((batch * batches, size_px, size_px, 1), dtype=np.float32)
            labels = generator.integers(0, 50, images.shape[:3]).astype(np.int16)
            for threads in (1, 2):
                contestants = {"segue": batched(names, images, labels, batch)}
                if A is not None:
                    contestants["per sample"] = per_sample(names, images, labels, batch, threads)
                torch.set_num_threads(threads)
                for epoch in contestants.values():
                    epoch()  # workers start, memory is allocated
                rates = {name: [] for name in contestants}
                for _ in range(rounds):
                    for name, epoch in contestants.items():
                        rates[name].append(rate(epoch))
                what = names[0] if len(names) == 1 else "all of these but plain dihedral"
                tiles = f"{size_px}² × {batch}"
                usual, times = "–", "–"
                if A is not None:
                    usual = f"{statistics.median(rates['per sample']):.0f}"
                    times = f"{ratio(rates['segue'], rates['per sample']):.1f}"
                own = statistics.median(rates["segue"])
                print(f"{what:34}{tiles:>12}{threads:>8}{usual:>14}{own:9.0f}{times:>7}", flush=True)


if __name__ == "__main__":
    main()
