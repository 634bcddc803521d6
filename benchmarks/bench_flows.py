"""Flows of segue against those of Cellpose 3 on a made image of 1024² pixels with about 500 touching objects.

    uv run --with "cellpose<4" python benchmarks/bench_flows.py [--rounds 5] [--threads 1 2]

Compared are encoding (`cellpose.dynamics.labels_to_flows`), following of the flows for 200 steps (`follow_flows`) and
the whole decoding (`compute_masks` at its defaults: cell probability 0, flow threshold 0.4, 15 px), on the flows of the
labels and on the same with smooth noise as a network's may have. Both sides get the same arrays; torch has the number
of threads named, of which segue, compiled by numba, uses one.

Rounds take turns. The figures are medians over rounds, `times` the median of the ratios round by round. Agreement: the
mean angle between the two encodings, and AP at IoU .5 and .9 between the two decodings, of each against the labels.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from contest import parse, ratio, take_turns
from scipy import ndimage

from segue import rng
from segue.targets import flows
from segue.targets.kernels import flows as flow_kernels

try:
    from cellpose import dynamics  # type: ignore[import-not-found]
except ImportError:
    dynamics = None

DENSITY = 506 / 1024**2  # objects per px
CPU = torch.device("cpu")


def made_labels(side: int) -> np.ndarray:
    """Returns ellipses (H, W) int32 with half axes of 10 to 18 px, later ones partly under those before them."""
    generator = rng.numpy_generator("bench_flows")
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    count = 0
    while count < round(DENSITY * side**2):
        cy, cx = generator.uniform(0, side, 2)
        a, b = generator.uniform(10, 18, 2)
        angle = generator.uniform(0, np.pi)
        box = np.s_[max(0, int(cy - 20)) : int(cy + 21), max(0, int(cx - 20)) : int(cx + 21)]
        v, u, under = y[box] - cy, x[box] - cx, labels[box]
        along, across = v * np.cos(angle) + u * np.sin(angle), u * np.cos(angle) - v * np.sin(angle)
        inside = (along / a) ** 2 + (across / b) ** 2 <= 1
        if inside.sum() > 100 and (under[inside] > 0).mean() < 0.15:
            count += 1
            under[inside & (under == 0)] = count
    return labels


def noisy(scores: np.ndarray) -> np.ndarray:
    """Returns scores (3, H, W) with flows shortened and blurred and noise of 2 px width on all."""
    noise = rng.numpy_generator("bench_flows", "noise").standard_normal(scores.shape)
    noise = np.stack([ndimage.gaussian_filter(plane, 2) for plane in noise])
    blurred = np.stack([ndimage.gaussian_filter(plane, 1.5) for plane in scores])
    return (0.8 * blurred + noise / noise.std() * np.array([1.2, 1.2, 3.0])[:, None, None]).astype(np.float32)


def average_precision(true: np.ndarray, found: np.ndarray, iou: float) -> float:
    """Returns TP / (TP + FP + FN) of objects with IoU above `iou` ≥ 0.5."""
    n, m = int(true.max()) + 1, int(found.max()) + 1
    table = np.bincount(true.ravel().astype(np.int64) * m + found.ravel(), minlength=n * m).reshape(n, m)
    shared = table[1:, 1:]
    union = table[1:].sum(1)[:, None] + table[:, 1:].sum(0)[None] - shared
    matched = int((shared > iou * union).sum())
    return matched / (n - 1 + m - 1 - matched)


def compare(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> None:
    """Prints medians and the median of the ratios; segue's alone without Cellpose."""
    seconds = take_turns({"segue": ours} if dynamics is None else {"segue": ours, "Cellpose": theirs}, rounds)
    line = f"{torch.get_num_threads():7d}  {what:34s}{1e3 * statistics.median(seconds['segue']):10.1f}"
    if dynamics is None:
        print(f"{line}{'–':>12}{'–':>9}")
    else:
        times = ratio(seconds["Cellpose"], seconds["segue"])
        print(f"{line}{1e3 * statistics.median(seconds['Cellpose']):12.1f}{times:9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", type=int, default=1024, help="px")
    options = parse(parser, rounds=1, threads=[1], side=128)
    warnings.filterwarnings("ignore", category=UserWarning)  # of Cellpose: torch's sparse tensors

    labels = made_labels(options.side)
    target = flows.Flows(("background", "object"))
    encoded = target.encode(torch.from_numpy(labels.astype(np.int64))[None])[0].numpy()
    exact = np.concatenate([flows.FLOW_SCALE * encoded[:2], np.where(encoded[2:] > 0, 10, -10)]).astype(np.float32)
    cases = {"of labels": exact, "with noise": noisy(exact)}

    def their_decoding(scores: np.ndarray) -> np.ndarray:
        return np.asarray(dynamics.compute_masks(scores[:2], scores[2], niter=200, min_size=15, device=CPU))

    print(f"{labels.max()} objects, {np.mean(labels > 0):.0%} of {options.side} × {options.side} px")
    print(f"threads  {'':34s}{'segue ms':>10s}{'Cellpose ms':>12s}{'times':>9s}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        compare(
            "encode / labels_to_flows",
            lambda: flows.object_flows(labels),
            lambda: dynamics.labels_to_flows([labels], device=CPU),
            options.rounds,
        )
        for name, scores in cases.items():
            inside = scores[2] > 0
            unit = scores[:2] * inside / np.float32(5)
            field = np.zeros((options.side + 1, options.side + 1, 2), np.float32)
            field[:-1, :-1] = unit.transpose(1, 2, 0)
            starts, places = np.flatnonzero(inside), np.nonzero(inside)
            compare(
                f"follow / follow_flows, {name}",
                lambda field=field, starts=starts: flow_kernels.integrate_flows(field, starts, 200),
                lambda unit=unit, places=places: dynamics.follow_flows(unit, places, niter=200, device=CPU),
                options.rounds,
            )
            compare(
                f"decode / compute_masks, {name}",
                lambda scores=scores: target.decode(scores, target.decode_params),
                lambda scores=scores: their_decoding(scores),
                options.rounds,
            )

    if dynamics is None:
        print("Cellpose 3 is not installed: nothing to compare with")
        return
    theirs = dynamics.labels_to_flows([labels], device=CPU)[0][2:]
    objects = labels > 0
    cosine = (theirs * encoded[:2]).sum(0)[objects] / np.maximum(np.sqrt((theirs**2).sum(0)[objects]), 1e-9)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    print(f"angle between encodings: mean {angles.mean():.2f}°, 99 % below {np.percentile(angles, 99):.2f}°")
    print(f"AP at IoU .5, .9 {'':18s}{'segue, labels':>16s}{'Cellpose, labels':>19s}{'segue, Cellpose':>18s}")
    for name, scores in cases.items():
        mine, other = target.decode(scores, target.decode_params), their_decoding(scores).astype(np.int64)
        figures = [
            f"{average_precision(a, b, 0.5):.3f}, {average_precision(a, b, 0.9):.3f}"
            for a, b in ((labels, mine), (labels, other), (other, mine))
        ]
        print(f"{name:35s}{figures[0]:>16s}{figures[1]:>19s}{figures[2]:>18s}")


if __name__ == "__main__":
    main()
