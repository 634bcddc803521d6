"""`segue predict` on an image of 20,000 × 20,000 px, and scores by tiles beside MONAI's sliding windows.

    python benchmarks/bench_predict.py [--side 20000] [--rounds 3] [--scores 4096] [--folder FOLDER]
    uv run --with monai python benchmarks/bench_predict.py

*Large*: discs of 8 to 16 px, one per 44 × 44 px, with noise, in a tiled TIFF of 16 bits; a network of one convolution
whose scores are a local mean, target `foreground`. A process of its own predicts it from file to file: labels, overlay,
table. Time is its wall time, memory its peak (getrusage). A part of 2000 × 2000 px is decoded whole, and the pixels of
all objects that do not touch its border are compared.

*Scores*: the same network (`resunet` of width 8, random weights, float32) over the same image of so many px in memory,
in turns: segue scores every tile with its halo, as for objects, by blocks with all of the receptive field around them;
MONAI's `sliding_window_inference` takes windows of 512 px with its default overlap of 0.25 and constant weights,
four at a time, which is not exact at their borders. Decoding is not counted. MONAI is shown as "–" if not installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from contest import head, machine, parse, ratio, row, take_turns

from segue import networks, rng
from segue.data.tiling import Tiling
from segue.device import freed_memory_kept
from segue.inference.model import Model
from segue.inference.predict import CONTEXT_PX, decode_whole, receptive_radius_px, score_whole, scores_of
from segue.inference.predict_files import ModelSource, PredictSettings, predict_files
from segue.inference.score_blocks import block_side_px, largest_activation_bytes
from segue.labels.ops import relabel_sequential
from segue.networks.registry import NetworkSpec
from segue.targets.flows import Flows
from segue.targets.foreground import Foreground

try:
    from monai.inferers.utils import sliding_window_inference
except ImportError:
    sliding_window_inference = None

PITCH, BAND, PART, WINDOW = 44, 44 * 20, 2000, 512
NAMES = ("background", "object")


def local_model(folder: Path) -> Model:
    """Returns a model of one convolution: above 2000 on average over 3 × 3 px is an object."""
    network = torch.nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
    assert network.bias is not None
    with torch.no_grad():
        network.weight.fill_(1 / 9000)
        network.bias.fill_(-2)
    target = Foreground(NAMES)
    return Model(
        network=network, target=target, normalization="none", channels=("intensity",), divisor=1,
        decode_params=target.decode_params,
    )  # fmt: skip


def write_discs(path: Path, side: int) -> int:
    """Writes the image by bands of whole rows of discs, and returns the number of discs."""
    generator = rng.numpy_generator("discs")
    noise = generator.integers(0, 400, (BAND, side), dtype=np.uint16)
    y, x = np.mgrid[:PITCH, :PITCH]
    count = 0

    def bands():
        nonlocal count
        for top in range(0, side, BAND):
            band = 800 + np.roll(noise, top // 7, 1)
            for row_top in range(0, BAND - PITCH + 1, PITCH):
                for left in range(0, side - PITCH + 1, PITCH):
                    if top + row_top + PITCH <= side:
                        cy, cx = 22 + generator.uniform(-5, 5, 2)
                        inside = (y - cy) ** 2 + (x - cx) ** 2 < generator.uniform(8, 16) ** 2
                        band[row_top : row_top + PITCH, left : left + PITCH][inside] += 2500
                        count += 1
            yield band[: min(BAND, side - top)]

    tile = 16 * 55  # BAND, so that a band is a row of tiles
    assert tile == BAND

    def tiles():
        for band in bands():
            for left in range(0, side, tile):
                block = np.zeros((tile, tile), np.uint16)
                part = band[:, left : left + tile]
                block[: part.shape[0], : part.shape[1]] = part
                yield block

    tifffile.imwrite(path, tiles(), shape=(side, side), dtype=np.uint16, tile=(tile, tile), photometric="minisblack")
    return count


def predict_large(folder: Path) -> None:
    """Predicts the image of the folder and prints the time and the peak memory of this process."""
    import resource  # of POSIX systems

    began = time.perf_counter()
    source = ModelSource(folder, "local", local_model)
    done = predict_files(source, [folder / "image.tif"], folder / "out", PredictSettings())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, **done.rows[0]}))


def compare_part(folder: Path, side: int) -> tuple[int, bool]:
    """Returns how many objects of a part were compared with those of the part decoded whole, and if all are equal."""
    first = max(0, min(side - PART, 3 * 1024 - PART // 2))  # about a corner where four tiles meet
    window = np.s_[first : first + PART, first : first + PART]
    with tifffile.TiffFile(folder / "image.tif") as tiff:
        image = tiff.asarray(out="memmap")[window]
    with tifffile.TiffFile(folder / "out" / "labels" / "image.tif") as tiff:
        labels = tiff.asarray(out="memmap")[window]
    model = local_model(folder)
    whole = decode_whole(model, score_whole(model, np.ascontiguousarray(image)))[0]
    inner = [relabel_sequential(np.where(np.isin(one, _at_border(one)), 0, one).astype(np.int64))[0] for one in
             (whole, np.asarray(labels, np.int64))]  # fmt: skip
    return int(inner[0].max()), np.array_equal(*inner)


def _at_border(labels: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))


def large(folder: Path, side: int) -> None:
    began = time.perf_counter()
    discs = write_discs(folder / "image.tif", side)
    print(f"{side} × {side} px, {discs} discs, written in {time.perf_counter() - began:.0f} s", flush=True)
    command = [sys.executable, __file__, "--predict", str(folder)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    compared, is_equal = compare_part(folder, side)
    print(head("objects", "uncertain", "s", "Mpx/s", "peak memory, GB", "labels, MB", "part equal to whole decoding"))
    print(
        row(
            result["objects"],
            result["uncertain"],
            f"{result['seconds']:.0f}",
            f"{side**2 / 1e6 / result['seconds']:.1f}",
            f"{result['peak'] / 1e9:.2f}",
            f"{(folder / 'out' / 'labels' / 'image.tif').stat().st_size / 1e6:.0f}",
            f"{'yes' if is_equal else 'NO'} ({compared} objects)",
        )
    )


def scores(side: int, rounds: int) -> None:
    """Prints the rates of scoring an image with the same network."""
    target = Flows(NAMES)
    with rng.scope("benchmark"):
        network = networks.build(NetworkSpec(width=8), channels=1, classes=target.channels).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = Model(
        network=network, target=target, normalization="none", channels=("intensity",), divisor=32,
        decode_params=target.decode_params,
    )  # fmt: skip
    image = rng.numpy_generator("image").normal(size=(1, side, side)).astype(np.float32)
    tiling = Tiling()

    @freed_memory_kept()
    def by_blocks() -> None:
        score = scores_of(model, image, tiling)
        for core in tiling.cores((side, side)):
            score(core.widened(tiling.halo_px, (side, side)))

    contestants = {"segue": by_blocks}
    if sliding_window_inference is not None:
        inferer = sliding_window_inference

        @torch.inference_mode()
        def by_windows() -> None:
            inferer(torch.from_numpy(image)[None], (WINDOW, WINDOW), 4, network, overlap=0.25, mode="constant")

        contestants["MONAI"] = by_windows
    seconds = take_turns(contestants, rounds)
    print(head("scores", "segue, Mpx/s", "MONAI, Mpx/s", "segue is"))
    rates = {name: side**2 / 1e6 / statistics.median(times) for name, times in seconds.items()}
    relative = f"{ratio(seconds['MONAI'], seconds['segue']):.2f}" if "MONAI" in seconds else "–"
    print(
        row(f"resunet of width 8, {side} px", f"{rates['segue']:.2f}", f"{rates['MONAI']:.2f}" if "MONAI" in rates else
            "–", f"**{relative}** × as fast")
    )  # fmt: skip


def network_pixels(side: int) -> tuple[float, float]:
    """Returns how many pixels the network sees for each pixel of an image of so many px: of segue, and of MONAI."""
    target = Flows(NAMES)
    network = networks.build(NetworkSpec(width=8), channels=1, classes=target.channels).eval()
    context_px = receptive_radius_px(network, channels=1, divisor=32) or CONTEXT_PX
    block_px = block_side_px(
        width_px=side, tile_px=Tiling().tile_px, context_px=context_px, channels=target.channels,
        bytes_per_px=largest_activation_bytes(network, channels=1, divisor=32),
    )  # fmt: skip
    assert block_px is not None
    blocks = [core.widened(context_px, (side, side)) for core in Tiling(block_px, 0).cores((side, side))]
    windows = max(1, math.ceil((side - WINDOW) / int(0.75 * WINDOW)) + 1)
    return sum(math.prod(block.shape) for block in blocks) / side**2, (windows * WINDOW) ** 2 / side**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20000, help="of the large image, px")
    parser.add_argument("--scores", type=int, default=4096, help="side of the image that is only scored, px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    options = parse(parser, side=2200, scores=128, rounds=1)
    if options.predict is not None:
        predict_large(options.predict)
        return
    print(machine(torch.get_num_threads()), f"load {os.getloadavg()[0]:.0f}", flush=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        large(folder, options.side)
    finally:
        shutil.rmtree(folder)
    scores(options.scores, options.rounds)
    ours, theirs = network_pixels(options.side)
    print(
        f"pixels through the network per pixel of {options.side} × {options.side}: segue {ours:.2f}, MONAI {theirs:.2f}"
    )


if __name__ == "__main__":
    main()
