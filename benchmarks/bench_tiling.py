"""Mosaics to tiles: rate beside a plain HDF5 write of the same arrays and beside a loop over tiles; memory.

    python benchmarks/bench_tiling.py [--folder /tmp] [--images 6] [--rounds 5] [--memory 10 100]

Mosaics are 2700 × 3600 px of 16 bit with three classes; nuclei in clusters cover a tenth of them. Five ways take turns
in every round, and each writes all tiles of 160 px every 80 px (`full`), then those with more than one class (`kept`):

    segue          `write_tiles`: cuts, counts, keeps, compresses labels, writes
    plain          h5py writes the same tiles, cut beforehand: images uint16 and labels int32, by whole chunks of 1000,
                   uncompressed; it cuts, counts and chooses nothing
    plain, direct  the same arrays, past HDF5's own copying (write_direct_chunk), which is twice as fast for the labels
    plain, bytes   as plain, with labels of one byte
    loop           for each tile: slice, np.bincount, resize, append

Rates are tiles a second of wall time with the file put on the disk (fsync), medians over rounds; ratios are medians of
the ratios round by round. `--folder` decides what is measured besides: /dev/shm has no disk. Memory is the peak of a
process of its own that writes so many mosaics in full; the mosaics are made one by one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from contest import parse
from skimage.draw import ellipse

from segue.data.spec import Layer
from segue.hdf5 import Node
from segue.plates.spec import TilesSpec
from segue.plates.tiles import Mosaic, count_classes, select_tiles, write_tiles

SHAPE, TILE, CHUNK = (2700, 3600), 160, 1000
LAYERS = (Layer("classes", "classes", ("background", "live", "dead")),)
INTENSITY = np.array([[9000.0, 900.0, 9000.0, 900.0]])  # mean, sd, background, contrast of objects


def make_labels(generator: np.random.Generator) -> np.ndarray:
    """Returns classes (H, W) int32: elliptic nuclei, clustered, a third of them dead, over a tenth of the pixels."""
    labels = np.zeros(SHAPE, dtype=np.int32)
    centers = generator.uniform(0, 1, (100, 2)) * SHAPE
    covered = 0
    while covered < 0.1 * labels.size:
        y, x = centers[generator.integers(len(centers))] + generator.normal(0, 120, 2)
        height, width = generator.uniform(9, 15, 2)
        rows, columns = ellipse(y, x, height, width, shape=SHAPE, rotation=generator.uniform(0, np.pi))
        covered += int((labels[rows, columns] == 0).sum())
        labels[rows, columns] = 1 + (generator.random() < 0.33)
    return labels


def make_mosaic(number: int, image: np.ndarray, labels: np.ndarray) -> Mosaic:
    """Returns a mosaic of its own place in memory, so that no cache holds it."""
    shift = (97 * number) % SHAPE[0]
    image, labels = np.roll(image, shift, axis=1), np.roll(labels, shift, axis=0)
    well = f"P1/A{1 + number % 6}"
    samples = {"plate": "P1", "experiment": "1", "time": number, "time_h": 0.25 * number}
    return Mosaic(f"{well}/t{number:03d}", well, image, {"classes": labels}, INTENSITY, samples, {})


def spec_of(datasets: Any) -> TilesSpec:
    return TilesSpec(datasets=datasets, keep_micrographs=False)


def segue(out: Path, mosaics: list[Mosaic] | Iterator[Mosaic], datasets: str) -> None:
    """Writes the dataset."""
    write_tiles(mosaics, out, spec_of(datasets), layers=LAYERS, channels=("brightfield",), attributes={}, splits={})


def loop(out: Path, mosaics: list[Mosaic], datasets: str) -> None:
    """Writes images, labels and counts tile by tile, as a first script does."""
    with h5py.File(out, "w") as file:
        arrays = [
            file.create_dataset(name, (0, *shape), kind, maxshape=(None, *shape), chunks=(CHUNK, *shape))
            for name, shape, kind in (
                ("images", (1, TILE, TILE), "u2"),
                ("labels", (TILE, TILE), "i4"),
                ("n", (3,), "i8"),
            )
        ]
        count = 0
        for mosaic in mosaics:
            for y in range(0, SHAPE[0] - TILE + 1, TILE // 2):
                for x in range(0, SHAPE[1] - TILE + 1, TILE // 2):
                    label = mosaic.labels["classes"][y : y + TILE, x : x + TILE]
                    actual = np.bincount(label.ravel(), minlength=3)
                    if datasets == "kept" and (actual > 0).sum() < 2:
                        continue
                    image = mosaic.image[:, y : y + TILE, x : x + TILE]
                    for array, value in zip(arrays, (image, label, actual), strict=True):
                        array.resize(count + 1, axis=0)
                        array[count] = value
                    count += 1
    settle(out)


def plain(out: Path, images: np.ndarray, labels: np.ndarray, count: int, direct: bool = False) -> None:
    """Writes `count` tiles by repeating the chunk images, labels, given to HDF5 as rows or as bytes of the file."""
    with h5py.File(out, "w") as file:
        for name, values in (("images", images), ("labels", labels)):
            shape, chunks = (count, *values.shape[1:]), (min(CHUNK, count), *values.shape[1:])
            file.create_dataset(name, shape, values.dtype, chunks=chunks)
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            for name, values in (("images", images), ("labels", labels)):
                array: Node = file[name]
                if direct:
                    array.id.write_direct_chunk((first, *[0] * (values.ndim - 1)), values[: min(CHUNK, count)])
                else:
                    array[first:last] = values[: last - first]
    settle(out)


def settle(path: Path) -> None:
    """Puts the file on the disk, as segue does before it lets a file appear."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def timed(work: Callable[[], None], out: Path) -> float:
    """Returns seconds; the file is removed beforehand and afterwards."""
    os.sync()
    began = time.perf_counter()
    work()
    selected = time.perf_counter() - began
    out.unlink()
    return selected


def compare(folder: Path, number: int, rounds: int) -> None:
    """Prints the rates of the five ways."""
    generator = np.random.default_rng(0)
    image = generator.integers(7000, 11000, (1, *SHAPE), dtype=np.uint16)
    labels = make_labels(generator)
    mosaics = [make_mosaic(index, image, labels) for index in range(number)]
    places, _ = count_classes(mosaics[0], LAYERS, spec_of("full"))
    cut = [np.s_[y : y + TILE, x : x + TILE] for y, x in places[:CHUNK]]
    images = np.stack([image[0][place] for place in cut])[:, None]
    wide = np.stack([labels[place] for place in cut])
    narrow = wide.astype(np.int8)
    out = folder / "tiles.h5"
    print(f"{number} mosaics in {folder}, {(labels > 0).mean():.1%} nuclei, load {os.getloadavg()[0]:.1f}", flush=True)
    for datasets in ("full", "kept"):
        total = len(places) * number
        if datasets == "kept":
            actual = [count_classes(mosaic, LAYERS, spec_of("kept"))[1]["classes"] for mosaic in mosaics]
            total = sum(int(select_tiles(values, spec_of("kept").keep, area_px=TILE**2).sum()) for values in actual)
        ways: dict[str, Callable[[], None]] = {
            "segue": partial(segue, out, mosaics, datasets),
            "plain": partial(plain, out, images, wide, total),
            "plain, direct": partial(plain, out, images, wide, total, True),
            "plain, bytes": partial(plain, out, images, narrow, total),
            "loop": partial(loop, out, mosaics, datasets),
        }
        selected: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
                selected[name].append(timed(ways[name], out))
        megabytes = TILE**2 * 6 * total / 1e6
        print(
            f"{datasets}: {total} of {len(places) * number} tiles, {megabytes:.0f} MB as uint16 and int32", flush=True
        )
        for name, seconds in selected.items():
            middle = statistics.median(seconds)
            ratio = statistics.median(other / own for own, other in zip(selected["segue"], seconds, strict=True))
            rates = f"{total / middle:8.0f} tiles/s  {megabytes / middle:6.0f} MB/s"
            spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
            print(f"  {name:14s}{rates}  ({spread})  segue / it: {ratio:.2f}", flush=True)


def memory(folder: Path, numbers: list[int]) -> None:
    """Prints the peak memory of processes that write so many mosaics."""
    for number in numbers:
        command = [sys.executable, __file__, "--folder", str(folder), "--write", str(number)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def write(folder: Path, number: int) -> None:
    """Writes `number` mosaics in full and prints the peak memory of this process."""
    import resource  # of POSIX systems

    generator = np.random.default_rng(0)
    image = generator.integers(7000, 11000, (1, *SHAPE), dtype=np.uint16)
    labels = make_labels(generator)
    out = folder / "tiles.h5"
    segue(out, (make_mosaic(index, image, labels) for index in range(number)), "full")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number} mosaics: peak memory {peak:.0f} MB, file {out.stat().st_size / 1e6:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    options = parse(parser, images=1, rounds=1, memory=[1])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.write:
            write(Path(folder), options.write)
            return
        if options.rounds:
            compare(Path(folder), options.images, options.rounds)
        memory(Path(folder), options.memory)


if __name__ == "__main__":
    main()
