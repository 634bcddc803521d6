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
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
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
T = TypeVar("T")
Contestant = Callable[[], Callable[[], T]]  # makes and warms up what is then measured once a round


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
        return turned(self.images[sample], code).contiguous(), turned(self.labels[sample], code).contiguous()


@dataclass(frozen=True)
class WholeBatches(Views):
    """The same, but fetched a batch at a time."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [divmod(index, COPIES) for index in indices]
        images = torch.stack([turned(self.images[sample], code) for sample, code in pairs])
        labels = torch.stack([turned(self.labels[sample], code) for sample, code in pairs])
        return images.contiguous(memory_format=torch.channels_last), labels


def turned(array: torch.Tensor, code: int) -> torch.Tensor:
    array = torch.rot90(array, code % 4, (-2, -1))
    return array.flip(-1) if code >= 4 else array


def plain(found: Contest) -> Callable[[], float]:
    network = found.build()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(Views(*found.data()), batch_size=found.batch, shuffle=True)

    def epoch() -> None:
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    return rate_of(epoch, found)


def tuned(found: Contest) -> Callable[[], float]:
    network = found.build()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    data = WholeBatches(*found.data())
    sampler = BatchSampler(RandomSampler(data), found.batch, drop_last=False)
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

    return rate_of(epoch, found)


def segue(found: Contest) -> Callable[[], float]:
    device.keep_freed_memory()  # as every run of segue does
    images, labels = found.data()
    names = tuple(f"image {index}" for index in range(len(images)))
    source = ResidentSource(images.permute(0, 2, 3, 1).contiguous(), labels.to(torch.uint8), names)
    table = {"augment": "dihedral-all", "batch": found.batch, "epochs": 1, "validation": 0}
    spec = StageSpec.model_validate({"data": [{"dataset": "made"}], "network": found.spec, **table})
    target = build_target(ClassesSpec(), names=("background", "object"), instances=False, context="benchmark")
    network = networks.build(found.spec, channels=1, classes=2)
    precision = device.resolve_precision("auto", "cpu")

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run")
            state = loop.init_state(network, target, spec, run, device="cpu", precision=precision)
            loop.train([state], training=source, validation=None, settings=PassSettings("cpu"))
            if state.error is not None:
                raise state.error

    return rate_of(epoch, found)


def rate_of(epoch: Callable[[], None], found: Contest) -> Callable[[], float]:
    """Returns what gives the images per second of an epoch, after one that warms up."""
    epoch()

    def measured() -> float:
        began = time.perf_counter()
        epoch()
        return COPIES * found.images / (time.perf_counter() - began)

    return measured


def hold(contestants: Mapping[str, Contestant[T]], *, rounds: int, threads: int) -> dict[str, list[T]]:
    """Returns what each contestant measured in each round: each in a process of its own, one measuring at a time."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, contestant in contestants.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_answer, args=(theirs, contestant, threads), daemon=True))
        processes[-1].start()
        theirs.close()  # so that the end of a process is seen here
    for pipe in pipes.values():
        pipe.recv()  # made and warmed up
    found: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            found[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return found


def _answer(pipe: Connection, contestant: Contestant[T], threads: int) -> None:
    torch.set_num_threads(threads)
    measure = contestant()
    pipe.send(True)
    while pipe.recv():
        pipe.send(measure())


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Returns the median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns the median and, in brackets, the least and the greatest."""
    shown = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return "{} ({} to {})".format(*shown)


def row(*cells: object) -> str:
    """Returns a line of a markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*names: str) -> str:
    return row(*names) + "\n" + "|" + "---|" * len(names)


def machine(threads: int) -> str:
    """Returns in words what the figures were measured on."""
    flags = ", ".join(sorted(device.cpu_flags() & {"amx_bf16", "avx512_bf16"})) or "no bf16"
    precision = device.resolve_precision("auto", "cpu")
    return f"{device.cpu_name()} ({flags}), {threads} threads, {precision}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet-resnet18", help="resunet, or one of segmentation-models-pytorch")
    for name, value in (("width", 16), ("size", 128), ("batch", 16), ("threads", device.cpu_count()), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--images", type=int, help="before turning; without it the fewest from 16 that fill batches")
    asked = parser.parse_args()
    fewest = asked.batch // math.gcd(asked.batch, COPIES)
    images = asked.images or -(-16 // fewest) * fewest
    found = Contest(asked.network, asked.width, asked.size, asked.batch, images)
    contestants = {"plain": partial(plain, found), "tuned": partial(tuned, found), "segue": partial(segue, found)}
    rates = hold(contestants, rounds=asked.rounds, threads=asked.threads)
    print(f"{machine(asked.threads)}; {COPIES * images} views a round, {asked.rounds} rounds\n")
    print(head("network", "tiles", "plain, images/s", "tuned", "segue", "segue / plain", "segue / tuned"))
    shown = f"{found.network} of width {found.width}" if found.network == "resunet" else found.network
    gains = (f"**{ratio(rates['segue'], rates[name]):.2f}**" for name in ("plain", "tuned"))
    print(row(shown, f"{found.size}², batch {found.batch}", *map(spread, rates.values()), *gains))


if __name__ == "__main__":
    main()
