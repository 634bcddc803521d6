"""Training throughput of segue's loop against plain PyTorch loops over the same network and data, in one run.

    uv run python benchmarks/bench_training.py [--size 128] [--batch 16] [--threads 2] [--rounds 5]

The network is segmentation-models-pytorch's U-Net with a ResNet-18 encoder (14.3 million parameters), the views all
eight dihedral copies of each image. Baselines:

    plain   DataLoader over a Dataset in memory, fp32, channels-first, default Adam
    tuned   the same with bf16 autocast, channels-last, fused Adam, whole batches fetched at once

Each runs in a process of its own. Rounds take turns, and the figures are medians of the ratios round by round, so that
a machine whose speed drifts does not decide.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from segue import device, networks
from segue.data.source import ResidentSource
from segue.networks import NetworkSpec
from segue.targets import TargetSpec, classes
from segue.training import loop
from segue.training.stage import StageSpec


class Views(Dataset):
    """All eight dihedral copies of images in memory; an index or a list of indices."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, channels_last: bool) -> None:
        self.images, self.labels, self.channels_last = images, labels, channels_last

    def __len__(self) -> int:
        return 8 * len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample, code = divmod(index, 8)
        return turned(self.images[sample], code), turned(self.labels[sample], code)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [self[index] for index in indices]
        images, labels = torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
        return images.contiguous(memory_format=torch.channels_last), labels


def turned(array: torch.Tensor, code: int) -> torch.Tensor:
    array = torch.rot90(array, code % 4, (-2, -1))
    return array.flip(-1) if code >= 4 else array


def plain(images: torch.Tensor, labels: torch.Tensor, batch: int) -> Callable[[], float]:
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    views = [(image, label) for image, label in zip(images, labels, strict=True)]

    class PerSample(Dataset):
        def __len__(self) -> int:
            return 8 * len(views)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            sample, code = divmod(index, 8)
            return turned(views[sample][0], code).contiguous(), turned(views[sample][1], code).contiguous()

    loader = DataLoader(PerSample(), batch_size=batch, shuffle=True)

    def epoch() -> float:
        network.train()
        began = time.perf_counter()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            loss.item()
        return 8 * len(images) / (time.perf_counter() - began)

    return epoch


def tuned(images: torch.Tensor, labels: torch.Tensor, batch: int, bf16: bool) -> Callable[[], float]:
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    data = Views(images, labels, channels_last=True)
    sampler = BatchSampler(RandomSampler(data), batch, drop_last=False)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=lambda whole: whole)

    def epoch() -> float:
        network.train()
        began = time.perf_counter()
        for x, y in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores = network(x)
            loss = F.cross_entropy(scores.float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return 8 * len(images) / (time.perf_counter() - began)

    return epoch


def segue_loop(
    images: torch.Tensor, labels: torch.Tensor, batch: int, precision: device.Precision
) -> Callable[[], float]:
    names = tuple(f"image {index}" for index in range(len(images)))
    source = ResidentSource(images.permute(0, 2, 3, 1).contiguous(), labels.to(torch.uint8), names)
    spec = StageSpec.model_validate(
        {"data": [{"dataset": "made"}], "augment": "dihedral-all", "batch": batch, "epochs": 1, "validation": 0}
    )
    target = classes.build(TargetSpec(), names=("background", "object"), instances=False, where="benchmark")
    network = networks.build(NetworkSpec(name="unet-resnet18"), channels=1, classes=2)

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder:
            settings = loop.Settings(Path(folder) / "state", "cpu", precision)
            began = time.perf_counter()
            loop.train(network, target, training=source, validation=None, spec=spec, settings=settings)
            return 8 * len(images) / (time.perf_counter() - began)

    return epoch


def answer(pipe: Connection, name: str, size: int, batch: int, images: int, threads: int) -> None:
    """Runs one contestant in a process of its own, an epoch at each request, so that none gains by another's tuning."""
    torch.set_num_threads(threads)
    generator = np.random.default_rng(0)
    made = torch.from_numpy(generator.normal(size=(images, 1, size, size)).astype(np.float32))
    labels = (made[:, 0] > 0.5).long()
    precision = device.resolve_precision("auto", "cpu")
    if name == "plain":
        epoch = plain(made, labels, batch)
    elif name == "tuned":
        epoch = tuned(made, labels, batch, precision == "bf16")
    else:
        device.reuse_memory()  # as every run of segue does
        epoch = segue_loop(made, labels, batch, precision)
    while pipe.recv():
        pipe.send(epoch())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 128), ("batch", 16), ("images", 16), ("threads", device.cores()), ("rounds", 7)):
        arguments.add_argument(f"--{name}", type=int, default=value)
    found = arguments.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in ("plain", "tuned", "segue"):
        pipes[name], theirs = context.Pipe()
        settings = (theirs, name, found.size, found.batch, found.images, found.threads)
        context.Process(target=answer, args=settings, daemon=True).start()
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    for round_index in range(found.rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            rate = pipe.recv()
            if round_index:  # the first round warms up
                rates[name].append(rate)
    for pipe in pipes.values():
        pipe.send(False)
    flags = device.cpu_flags() & {"amx_bf16", "avx512_bf16"}
    precision = device.resolve_precision("auto", "cpu")
    print(
        f"{device.cpu_name()}, {found.threads} threads, {', '.join(sorted(flags)) or 'no bf16'}; "
        f"torch {torch.__version__}"
    )
    print(f"{found.size}² batch {found.batch}, {8 * found.images} views a round, {found.rounds} rounds, {precision}")
    for name, values in rates.items():
        print(f"{name:6} {statistics.median(values):7.1f} images/s  ({min(values):.1f} to {max(values):.1f})")
    for name in ("plain", "tuned"):
        ratio = statistics.median(a / b for a, b in zip(rates["segue"], rates[name], strict=True))
        print(f"segue / {name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
