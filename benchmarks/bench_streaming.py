"""Samples per second of data in memory against data streamed from HDF5, alone and under a training step, in one run.

    uv run python benchmarks/bench_streaming.py [--tiles 4000] [--size 160] [--batch 100] [--limit 10] [--rounds 3]

Makes a dataset of tiles (one channel, uint16) with a layer of three classes, then visits it in windows:

    resident   all samples in memory, float32
    streamed   within 1/LIMIT of what these take, in the same order: the same batches bit for bit
    random     the same memory, but one permutation of all samples: what a window saves

`alone` reads batches and throws them away; `step` trains the network of the live-dead experiments (resunet, width 16,
bf16 where the hardware has it) on each. Rounds take turns, and the ratio is the median of the ratios round by round.
The file is in the page cache, as it is after the first epoch where the machine's memory allows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contest import parse
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from segue import device as devices
from segue import networks
from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource, Source, bytes_needed
from segue.data.spec import Layer
from segue.data.streaming import StreamedSource, chunk_ids, epoch_order
from segue.data.writer import GroupTiles, merge_parts, write_part
from segue.inference.predict import autocast
from segue.networks.registry import NetworkSpec

CLASSES = ("background", "live", "dead")
PER_PART = 500
Step = Callable[[Tensor, Tensor], object]


def make(folder: Path, tiles: int, size: int) -> Path:
    """Writes the dataset; parts repeat the same smooth blobs, rolled, so that making it takes no time."""
    generator = np.random.default_rng(0)
    fields = ndimage.gaussian_filter(generator.normal(size=(50, size, size)), (0, 4, 4))
    fields /= fields.std()
    paths = []
    for start in range(0, tiles, PER_PART):
        count = min(PER_PART, tiles - start)
        blobs = np.stack([np.roll(fields[i % 50], (start + 7 * i, 3 * i), (0, 1)) for i in range(count)])
        noise = generator.normal(100, 10, blobs.shape)
        name = np.array([f"group-{start:06d}"] * count, dtype=object)
        place = np.arange(count)
        part = GroupTiles(
            images=np.clip(1000 + 300 * blobs + noise, 0, 65535).astype(np.uint16)[:, None],
            labels={"cells": (blobs > 1).astype(np.int32) + (blobs > 2)},
            valid=np.tile(np.array([0, 0, size, size], dtype=np.int32), (count, 1)),
            intensity=np.tile(np.array([1100.0, 300.0, 1100.0, 300.0], dtype=np.float32), (count, 1, 1)),
            samples={"group": name, "source": name, "y_px": place, "x_px": place},
        )
        paths.append(folder / f"{start}.part")
        write_part(paths[-1], part)
    out = folder / "tiles.h5"
    merge_parts(
        paths, out, layers=[Layer("cells", "classes", CLASSES)], channels=["intensity"], attributes={}, splits={}
    )
    for path in paths:
        path.unlink()
    return out


def training_step(device: str, compiled: bool) -> Step:
    """Returns a step of training, forward, backward and optimizer."""
    network = networks.build(NetworkSpec(name="resunet", width=16), channels=1, classes=len(CLASSES)).to(device)
    network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    precision = devices.resolve_precision("auto", device)
    model = torch.compile(network) if compiled else network

    def step(images: Tensor, labels: Tensor) -> None:
        with autocast(device, precision):
            scores = model(images)
        F.cross_entropy(scores.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rate(source: Source, samples: np.ndarray, batch: int, device: str, step: Step | None) -> float:
    """Returns samples per second of an epoch."""
    bounds = [(start, min(start + batch, len(samples))) for start in range(0, len(samples), batch)]
    began = time.perf_counter()
    for images, labels in source.batches(samples, bounds, device):
        if step is not None:
            step(images, labels)
    if device == "cuda":
        torch.cuda.synchronize()
    return len(samples) / (time.perf_counter() - began)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"tiles": 4000, "size": 160, "batch": 100, "limit": 10, "rounds": 3, "threads": devices.cpu_count()}
    for name, value in defaults.items():
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--step-tiles", type=int, default=1000, help="samples of an epoch with training steps")
    arguments.add_argument("--compile", action="store_true", help="torch.compile the network")
    options = parse(arguments, tiles=2400, size=32, batch=10, limit=2, rounds=1, threads=1, step_tiles=50)
    torch.set_num_threads(options.threads)
    devices.keep_freed_memory()
    device = devices.default_device()
    with tempfile.TemporaryDirectory() as folder, Dataset(make(Path(folder), options.tiles, options.size)) as data:
        subset = DatasetSubset(data, np.arange(data.count), data.layers["cells"])
        blocks = chunk_ids([(data.path, subset.indices, (data.count, options.size, options.size))])
        needed = bytes_needed(data, data.count)
        began = time.perf_counter()
        resident = ResidentSource.from_parts([subset], normalization="image").to(device)
        loading_s = time.perf_counter() - began
        streamed = StreamedSource([subset], normalization="image", budget_bytes=needed // options.limit)
        largest = streamed.largest_window(options.batch)
        window = max(largest // 2, min(largest, 1))  # two: one fills while the other empties
        if not window:
            minimum = streamed.min_bytes(options.batch)
            raise SystemExit(
                f"1/{options.limit} of {needed:,} bytes holds no window (at least {minimum:,}); give more --tiles"
            )
        windowed = epoch_order(blocks, 1, window, np.random.default_rng(0))
        whole = np.random.default_rng(1).permutation(data.count)
        print(f"{devices.cpu_name()}, {options.threads} threads, {device}, {devices.resolve_precision('auto', device)}")
        print(
            f"{data.count} tiles of {options.size}², batch {options.batch}; resident {needed / 1e6:.0f} MB, read in "
            f"{loading_s:.1f} s; limit {needed / options.limit / 1e6:.0f} MB, windows of {window} samples"
        )
        count = min(options.step_tiles, data.count)
        contests = {"alone": (None, data.count), "step": (training_step(device, options.compile), count)}
        for what, (step, some) in contests.items():
            rates: dict[str, list[float]] = {"resident": [], "streamed": [], "random": []}
            for turn in range(options.rounds + 1):
                for name, source, samples in (
                    ("resident", resident, windowed), ("streamed", streamed, windowed), ("random", streamed, whole)
                ):  # fmt: skip
                    slow = min(some, 10 * options.batch) if name == "random" else some
                    measured = rate(source, samples[:slow], options.batch, device, step)
                    if turn:  # the first round warms up
                        rates[name].append(measured)
            for name, values in rates.items():
                ratio = statistics.median(a / b for a, b in zip(values, rates["resident"], strict=True))
                low, high = min(values), max(values)
                print(
                    f"{what:5} {name:8} {statistics.median(values):9.0f} samples/s  ({low:.0f} to {high:.0f})  "
                    f"{ratio:.3f} of resident"
                )
        print(f"peak memory of streaming: {streamed.peak_bytes / 1e6:.0f} MB")
        streamed.close()


if __name__ == "__main__":
    main()
