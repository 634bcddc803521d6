"""Training throughput of segue's loop against plain PyTorch loops over the same network and data, in one run.

    uv run python benchmarks/bench_training.py [--network unet-resnet18] [--size 128] [--batch 16] [--rounds 5]
    uv run python benchmarks/bench_training.py --network resunet --size 160 --batch 100

The network is segmentation-models-pytorch's U-Net with the encoder named (`unet-resnet18`: 14.3 million parameters) or
segue's `resunet` of `--width`; the views are all eight dihedral copies of each image, all in memory.

    plain   DataLoader without workers, fp32, channels-first, default Adam, the loss looked at in every step
    tuned   what segue uses where the hardware has it: bf16 autocast, channels-last, fused Adam, whole batches at once
    segue   the loop, which also counts every pixel's class for the history; each epoch starts a training of its own

Each runs in a process of its own. Rounds, one epoch each, take turns, and the ratios are medians of the ratios round by
round, so that a machine whose speed drifts does not decide. Prints lines of a markdown table.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contest import head, hold, machine, parse, ratio, row, spread
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from segue import device, networks
from segue.data.sources import ResidentSource
from segue.networks.registry import NetworkSpec
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec
from segue.training import loop
from segue.training.loop import PassSettings
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec

COPIES = 8


@dataclass(frozen=True)
class Contest:
    """What all contestants train: a network by name on noise, `images` tiles of `size` px in batches of `batch`."""

    network: str
    width: int
    size: int
    batch: int
    images: int

    @property
    def spec(self) -> NetworkSpec:
        return NetworkSpec(name=self.network, width=self.width if self.network == "resunet" else None)

    def build(self) -> nn.Module:
        """Returns the network as its authors make it."""
        if self.network == "resunet":
            return networks.build(self.spec, channels=1, classes=2)
        import segmentation_models_pytorch as smp

        decoder, _, encoder = self.network.partition("-")
        return smp.create_model(decoder, encoder, encoder_weights=None, in_channels=1, classes=2)

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns images (n, 1, H, W) float32 and labels (n, H, W) int64."""
        generator = np.random.default_rng(0)
        shape = (self.images, 1, self.size, self.size)
        images = torch.from_numpy(generator.normal(size=shape).astype(np.float32))
        return images, (images[:, 0] > 0.5).long()


@dataclass(frozen=True)
class Views(Dataset):
    """All eight dihedral copies of images in memory: one at an index, or a whole batch, channels-last, at a list."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return COPIES * len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample, code = divmod(index, COPIES)
        return transform(self.images[sample], code).contiguous(), transform(self.labels[sample], code).contiguous()


@dataclass(frozen=True)
class WholeBatches(Views):
    """The same, but fetched a batch at a time."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [divmod(index, COPIES) for index in indices]
        images = torch.stack([transform(self.images[sample], code) for sample, code in pairs])
        labels = torch.stack([transform(self.labels[sample], code) for sample, code in pairs])
        return images.contiguous(memory_format=torch.channels_last), labels


def transform(array: torch.Tensor, code: int) -> torch.Tensor:
    array = torch.rot90(array, code % 4, (-2, -1))
    return array.flip(-1) if code >= 4 else array


def plain(contest: Contest) -> Callable[[], float]:
    network = contest.build()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(Views(*contest.data()), batch_size=contest.batch, shuffle=True)

    def epoch() -> None:
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return rate_of(epoch, contest)


def tuned(contest: Contest) -> Callable[[], float]:
    network = contest.build()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    data = WholeBatches(*contest.data())
    sampler = BatchSampler(RandomSampler(data), contest.batch, drop_last=False)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=lambda whole: whole)
    bf16 = device.resolve_precision("auto", "cpu") == "bf16"

    def epoch() -> None:
        network.train()
        for x, y in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                scores = network(x)
            F.cross_entropy(scores.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return rate_of(epoch, contest)


def segue(contest: Contest) -> Callable[[], float]:
    device.keep_freed_memory()  # as every run of segue does
    images, labels = contest.data()
    names = tuple(f"image {index}" for index in range(len(images)))
    source = ResidentSource(images.permute(0, 2, 3, 1).contiguous(), labels.to(torch.uint8), names)
    table = {"augment": "dihedral-all", "batch": contest.batch, "epochs": 1, "validation": 0}
    spec = StageSpec.model_validate({"data": [{"dataset": "made"}], "network": contest.spec, **table})
    target = build_target(ClassesSpec(), names=("background", "object"), instances=False, context="benchmark")
    network = networks.build(contest.spec, channels=1, classes=2)
    precision = device.resolve_precision("auto", "cpu")

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run")
            state = loop.init_state(network, target, spec, run, device="cpu", precision=precision)
            loop.train([state], training=source, validation=None, settings=PassSettings("cpu"))
            if state.error is not None:
                raise state.error

    return rate_of(epoch, contest)


def rate_of(epoch: Callable[[], None], contest: Contest) -> Callable[[], float]:
    """Returns what gives the images per second of an epoch, after one that warms up."""
    epoch()

    def measured() -> float:
        began = time.perf_counter()
        epoch()
        return COPIES * contest.images / (time.perf_counter() - began)

    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet-resnet18", help="resunet, or one of segmentation-models-pytorch")
    for name, value in (("width", 16), ("size", 128), ("batch", 16), ("threads", device.cpu_count()), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--images", type=int, help="before turning; without it the multiple from 16 that fill batches")
    options = parse(parser, network="resunet", width=8, size=32, batch=8, threads=1, rounds=1)
    multiple = options.batch // math.gcd(options.batch, COPIES)
    images = options.images or -(-16 // multiple) * multiple
    contest = Contest(options.network, options.width, options.size, options.batch, images)
    contestants = {"plain": partial(plain, contest), "tuned": partial(tuned, contest), "segue": partial(segue, contest)}
    rates = hold(contestants, rounds=options.rounds, threads=options.threads)
    print(f"{machine(options.threads)}; {COPIES * images} views a round, {options.rounds} rounds\n")
    print(head("network", "tiles", "plain, images/s", "tuned", "segue", "segue / plain", "segue / tuned"))
    name = f"{contest.network} of width {contest.width}" if contest.network == "resunet" else contest.network
    gains = (f"**{ratio(rates['segue'], rates[other]):.2f}**" for other in ("plain", "tuned"))
    print(row(name, f"{contest.size}², batch {contest.batch}", *map(spread, rates.values()), *gains))


if __name__ == "__main__":
    main()
