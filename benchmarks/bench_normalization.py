"""Which normalization holds far from the training images: equal small networks on altered copies of test images.

    python benchmarks/bench_normalization.py [--data nuclei scenes bright lattice] [--names image …] [--seeds 2]

Every candidate gives a shift and a scale per image. A U-Net of width 8 with target foreground learns from 96 px tiles,
normalized by the statistics of their whole image; equal data, order, steps and seed for all. Data: the shipped nuclei
(BBBC039 and DSB2018 together), and scenes: bright cells on a dark background, cells darker and brighter than
a bright field, particles with lattice fringes in amorphous noise. Alterations: all objects but 3 and 1 painted out with
background, a speck of 3 × 3 px at full scale, 95 % of zeros around, four times the exposure, an offset, saturation.
Printed: mean AP of unaltered images, then AP50 of these and of each alteration, mean over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from segue import networks
from segue.data import normalization
from segue.data.image_io import read_image
from segue.evaluation import object_metrics
from segue.inference.predict import forward
from segue.networks.registry import NetworkSpec
from segue.targets.registry import build_target
from segue.targets.specs import ForegroundSpec

SIDE = 256
FULL = 65535
Statistics = Callable[[np.ndarray], tuple[float, float]]  # image (H, W) -> shift, scale
Pair = tuple[np.ndarray, np.ndarray]  # image (H, W) uint16, labels (H, W)


# Candidates


def mean_std(image: np.ndarray) -> tuple[float, float]:
    return float(image.mean()), float(image.std())


def percentiles(image: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(image, (1, 99.8))
    return float(low), float(high - low)


def median_mad(image: np.ndarray) -> tuple[float, float]:
    middle = np.median(image)
    return float(middle), float(1.4826 * np.median(np.abs(image - middle)))


def without_constant(statistics: Statistics) -> Statistics:
    """Returns the statistics of the pixels whose neighborhood is not constant: of those outside dark margins."""

    def of_varying(image: np.ndarray) -> tuple[float, float]:
        values, constancy = normalization.sample_channel(image[None], 0)
        varies = constancy < normalization.AMID
        return statistics(values[varies] if varies.any() else values)

    return of_varying


def noise(image: np.ndarray) -> tuple[float, float]:
    background = normalization.background(image[None], 0)
    return background.level, normalization.MIN_CONTRAST_SD * background.noise / normalization.FOREGROUND_VALUE


def foreground(quantile: float) -> Statistics:
    def statistics(image: np.ndarray) -> tuple[float, float]:
        values, constancy = normalization.sample_channel(image[None], 0)
        background = normalization.background_of(values, constancy)
        differences = np.abs(values[constancy == 0].astype(float) - background.level)
        differences = differences[differences > normalization.FOREGROUND_SD * background.noise]
        contrast = np.quantile(differences, quantile) if len(differences) >= normalization.MIN_FOREGROUND_PX else 0.0
        contrast = max(float(contrast), normalization.MIN_CONTRAST_SD * background.noise)
        return background.level, contrast / normalization.FOREGROUND_VALUE

    return statistics


def background(image: np.ndarray) -> tuple[float, float]:
    level, scale = normalization.background_stats(image[None])[0].tolist()
    return level, scale


CANDIDATES: dict[str, Statistics] = {
    "image": mean_std,
    "percentile": percentiles,
    "median-mad": median_mad,
    "image, no margin": without_constant(mean_std),
    "percentile, no margin": without_constant(percentiles),
    "background, noise": noise,
    "background, upper quartile": foreground(0.75),
    "background": background,
}


# Data


def nuclei() -> tuple[list[Pair], list[Pair]]:
    folder = Path(__file__).parents[1] / "examples/data"
    train, test = [], []
    for name, count in (("bbbc039", 12), ("dsb2018", 24)):
        for index, path in enumerate(sorted((folder / name / "images").iterdir())[:count]):
            labels = np.asarray(Image.open(folder / name / "labels" / f"{path.stem}.png")).astype(np.int32)
            pair = read_image(path).image[0].astype(np.uint16)[:SIDE, :SIDE], labels[:SIDE, :SIDE]
            (test if index % 3 == 2 else train).append(pair)
    return train, test


def disks(generator: np.random.Generator, side: int, count: int, radius: tuple[int, int] = (5, 9)) -> np.ndarray:
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    for _ in range(50 * count):
        (cy, cx), r = generator.integers(8, side - 8, 2), generator.integers(*radius)
        disk = (y - cy) ** 2 + (x - cx) ** 2 <= r**2
        if labels.max() < count and not labels[ndimage.binary_dilation(disk)].any():
            labels[disk] = labels.max() + 1
    return labels


def bright_cells(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    values = np.concatenate([[0], generator.uniform(300, 600, labels.max())])
    return generator.normal(300, 20, labels.shape) + values[labels]


def bright_field(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Cells darker or brighter than the field inside, with a bright halo around, on a field with a gradient."""
    values = np.concatenate([[0], generator.choice([-1, 1], labels.max()) * generator.uniform(300, 600, labels.max())])
    halo = ndimage.gaussian_filter((ndimage.binary_dilation(labels > 0, iterations=2) & (labels == 0)) * 400.0, 1)
    slope = np.linspace(0, 200, labels.shape[1])
    return generator.normal(4000, 60, labels.shape) + ndimage.gaussian_filter(values[labels], 0.7) + halo + slope


def lattice(generator: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Counts of electrons: fringes of 4 px in particles, amorphous texture everywhere."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]]
    texture = ndimage.gaussian_filter(generator.normal(0, 1, labels.shape), 1)
    angles = generator.uniform(0, np.pi, labels.max() + 1)[labels]
    fringes = np.cos(2 * np.pi * (x * np.cos(angles) + y * np.sin(angles)) / 4) * (labels > 0)
    return generator.poisson(100 * np.clip(1 + 0.5 * texture + 0.25 * fringes, 0.05, None))


def scenes(
    make: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> Callable[[], tuple[list[Pair], list[Pair]]]:
    def pairs() -> tuple[list[Pair], list[Pair]]:
        generator = np.random.default_rng(0)
        all_labels = [disks(generator, 128, n) for n in generator.integers(10, 25, 20)]
        all_labels += [disks(generator, SIDE, 60) for _ in range(4)]
        made = [(make(generator, labels).clip(0, FULL).astype(np.uint16), labels) for labels in all_labels]
        return made[:20], made[20:]

    return pairs


DATA = {"nuclei": nuclei, "scenes": scenes(bright_cells), "bright": scenes(bright_field), "lattice": scenes(lattice)}


# Alterations: image and labels -> image and labels


def fewer(count: int) -> Callable[[np.ndarray, np.ndarray], Pair]:
    def alter(image: np.ndarray, labels: np.ndarray) -> Pair:
        """Paints out all objects but `count` in the middle: every pixel takes the value of a background pixel near."""
        generator = np.random.default_rng(1)
        ids, sizes = np.unique(labels[8:-8, 8:-8][labels[8:-8, 8:-8] > 0], return_counts=True)
        stays = generator.permutation(ids[sizes >= np.median(sizes) / 2] if len(ids) else ids)[:count]
        removed = ndimage.binary_dilation((labels > 0) & ~np.isin(labels, stays), iterations=4)
        removed &= ~ndimage.binary_dilation(np.isin(labels, stays), iterations=3)
        source = np.argwhere(~removed & ~ndimage.binary_dilation(labels > 0, iterations=4))
        altered = image.copy()
        places = np.argwhere(removed)
        if len(places) and len(source):
            is_source = np.zeros(image.shape, bool)
            is_source[tuple(source.T)] = True
            near = np.asarray(
                ndimage.distance_transform_edt(~is_source, return_distances=False, return_indices=True), np.int64
            )
            level = ndimage.gaussian_filter(image[tuple(near)].astype(float), 8)
            residual = (image - level)[tuple(source[generator.integers(0, len(source), len(places))].T)]
            altered[tuple(places.T)] = (level[tuple(places.T)] + residual).clip(0, FULL)
        return altered, np.where(np.isin(labels, stays), labels, 0)

    return alter


def speck(image: np.ndarray, labels: np.ndarray) -> Pair:
    altered = image.copy()
    altered[:3, :3] = FULL
    return altered, labels


def margin(image: np.ndarray, labels: np.ndarray) -> Pair:
    height, width = (round(side * 20**0.5) for side in image.shape)
    altered, around = np.zeros((height, width), image.dtype), np.zeros((height, width), labels.dtype)
    altered[: image.shape[0], : image.shape[1]], around[: image.shape[0], : image.shape[1]] = image, labels
    return altered, around


def saturated(image: np.ndarray, labels: np.ndarray) -> Pair:
    """Clips half of the objects' pixels."""
    return np.minimum(image, np.median(image[labels > 0])), labels


ALTERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], Pair]] = {
    "unaltered": lambda image, labels: (image, labels),
    "3 objects": fewer(3),
    "1 object": fewer(1),
    "speck": speck,
    "95 % zeros": margin,
    "exposure × 4": lambda image, labels: (np.minimum(image * 4.0, FULL).astype(np.uint16), labels),
    "offset": lambda image, labels: (np.minimum(image + 2000.0, FULL).astype(np.uint16), labels),
    "saturated": saturated,
}


def normalized(image: np.ndarray, statistics: Statistics) -> np.ndarray:
    shift, scale = statistics(image)
    return ((image - np.float32(shift)) / np.float32(scale or 1)).astype(np.float32)


def train(pairs: list[Pair], statistics: Statistics, *, steps: int, seed: int) -> tuple[torch.nn.Module, object]:
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    target = build_target(ForegroundSpec(name="foreground"), names=("background", "object"), instances=True, context="")
    network = networks.build(NetworkSpec(name="unet", width=8, depth=3), channels=1, classes=target.channels)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    images = [normalized(image, statistics) for image, _ in pairs]
    encoded = [target.encode(torch.from_numpy(labels[None].astype(np.int64)))[0] for _, labels in pairs]
    network.train()
    for _ in range(steps):
        batch = []
        for index in generator.integers(0, len(pairs), 4):
            y, x = (generator.integers(0, side - 95) for side in images[index].shape)
            box = np.s_[..., y : y + 96, x : x + 96]
            batch.append((torch.from_numpy(images[index][None][box]), encoded[index][box]))
        inputs, targets = torch.stack([item[0] for item in batch]), torch.stack([item[1] for item in batch])
        optimizer.zero_grad()
        sums = target.loss_sums(network(inputs), targets)
        (sums / target.normalizers(targets).clamp(min=1e-12)).sum().backward()
        optimizer.step()
        schedule.step()
    return network.eval(), target


def evaluate(network: torch.nn.Module, target, pairs: list[Pair], statistics: Statistics, alter: Callable) -> dict:
    counts = []
    for image, labels in pairs:
        if not labels.any():
            continue
        altered, true = alter(image, labels)
        view = normalized(altered, statistics)[: SIDE + 64, : SIDE + 64]  # the rest of a margin is constant
        scores = forward(network, torch.from_numpy(view[None, None]), divisor=8, precision="fp32")[0].numpy()
        predicted = target.decode(scores, target.decode_params)
        counts.append(object_metrics.count_matches(true[: SIDE + 64, : SIDE + 64], predicted.astype(np.int32)))
    return object_metrics.scores(object_metrics.concatenate(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--names", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--small", action="store_true", help="two steps on scenes: does it run?")
    options = parser.parse_args()
    if options.small:
        options.data, options.names, options.seeds, options.steps = ["scenes"], ["background"], 1, 2
    torch.set_num_threads(1)
    for data in options.data:
        pairs, test = DATA[data]()
        test = test[:1] if options.small else test
        print(f"\n| {data} | mean AP | " + " | ".join(ALTERATIONS) + " |\n|" + "---|" * (len(ALTERATIONS) + 2))
        for name in options.names:
            rows = []
            for seed in range(options.seeds):
                network, target = train(pairs, CANDIDATES[name], steps=options.steps, seed=seed)
                results = [evaluate(network, target, test, CANDIDATES[name], alter) for alter in ALTERATIONS.values()]
                rows.append([results[0]["ap_mean"], *(result["ap50"] for result in results)])
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, 0)) + " |", flush=True)


if __name__ == "__main__":
    main()
