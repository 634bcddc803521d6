"""Star-convex polygons of segue against those of StarDist on a made image of 1024² pixels with about 500 objects.

    OMP_NUM_THREADS=1 uv run --with stardist python benchmarks/bench_rays.py [--rounds 5]

Compared are encoding (`stardist.geometry.star_dist` alone, and with `stardist.utils.edt_prob`), each against segue's
encoding of both, and decoding (`stardist.nms.non_maximum_suppression` and `polygons_to_label`) against segue's of both.
Decoding is of the encoded labels, and of the same with noise as a network's scores may have: 10 % on each distance,
0.3 on each logit. 32 rays, thresholds 0.5 and 0.4, no border left out. StarDist threads by OpenMP; segue uses one.

Rounds take turns. The figures are medians over rounds, `times` the median of the ratios round by round. AP at IoU .5
and .9 is of each side's decoded labels against the made ones. Without StarDist segue's times are printed alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from contest import parse, ratio, take_turns

from segue import rng
from segue.targets.rays import Rays

try:
    from stardist.geometry import polygons_to_label, star_dist  # type: ignore[import-not-found]
    from stardist.matching import matching  # type: ignore[import-not-found]
    from stardist.nms import non_maximum_suppression  # type: ignore[import-not-found]
    from stardist.utils import edt_prob  # type: ignore[import-not-found]
except ImportError:
    star_dist = None

COLUMNS, ROWS = 23, 22  # of objects in 1024² px
TARGET = Rays(("background", "object"))


def perfect_prediction(encoded: np.ndarray) -> np.ndarray:
    """Returns the scores of a perfect network for one image's encoding."""
    probability = encoded[:1].astype(np.float64).clip(4.54e-5, 1 - 4.54e-5)
    return np.concatenate([np.log(probability / (1 - probability)), encoded[1:]]).astype(np.float32)


def made_labels(side: int) -> np.ndarray:
    """Returns ellipses (H, W) int32 with half axes of 11 to 21 px, some of them touching: 506 in 1024² px."""
    generator = rng.numpy_generator("bench_rays")
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    rows, columns = (round(count * side / 1024) for count in (ROWS, COLUMNS))
    for index in range(rows * columns):
        cy = (index // columns + 0.5) * side / rows + generator.uniform(-5, 5)
        cx = (index % columns + 0.5) * side / columns + generator.uniform(-5, 5)
        a, b, angle = generator.uniform(13, 21), generator.uniform(11, 18), generator.uniform(0, np.pi)
        box = np.s_[max(0, int(cy) - 24) : int(cy) + 25, max(0, int(cx) - 24) : int(cx) + 25]
        v, u = y[box] - cy, x[box] - cx
        along, across = v * np.cos(angle) + u * np.sin(angle), u * np.cos(angle) - v * np.sin(angle)
        labels[box][((along / a) ** 2 + (across / b) ** 2 < 1) & (labels[box] == 0)] = index + 1
    return labels


def noisy(scores: np.ndarray) -> np.ndarray:
    """Returns scores (33, H, W) with certain pixels less so and noise on all."""
    noise = rng.numpy_generator("bench_rays", "noise").standard_normal(scores.shape)
    new = scores * (1 + 0.1 * noise)
    new[0] = np.where(scores[0] > -10, 0, -3) + scores[0].clip(-2, 2) + 0.3 * noise[0]
    return new.astype(np.float32)


def theirs_decoded(scores: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns StarDist's decoding of the same scores, in the order of axes that it takes."""
    probability = 1 / (1 + np.exp(-scores[0]))
    distances = np.ascontiguousarray(np.moveaxis(scores[1:], 0, -1)).clip(min=1e-3)

    def decode() -> np.ndarray:
        points, chances, radii = non_maximum_suppression(distances, probability, b=0, nms_thresh=0.4, prob_thresh=0.5)
        return polygons_to_label(radii, points, shape=probability.shape, prob=chances)

    return decode


def compare(what: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    """Prints medians in ms and the median of the ratios; segue's alone without StarDist."""
    seconds = take_turns({"segue": ours} if star_dist is None else {"segue": ours, "stardist": theirs}, rounds)
    own_ms = 1e3 * statistics.median(seconds["segue"])
    if star_dist is None:
        print(f"{what:36}{'–':>12}{own_ms:10.0f}{'–':>8}", flush=True)
    else:
        times = ratio(seconds["stardist"], seconds["segue"])
        print(f"{what:36}{1e3 * statistics.median(seconds['stardist']):12.0f}{own_ms:10.0f}{times:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=1024, help="px")
    options = parse(parser, rounds=1, side=128)
    rounds = options.rounds
    torch.set_num_threads(1)
    labels = made_labels(options.side)
    maps = torch.from_numpy(labels.astype(np.int64))[None]
    ideal = perfect_prediction(TARGET.encode(maps)[0].numpy())
    print(f"{'':36}{'stardist/ms':>12}{'segue/ms':>10}{'times':>8}")
    compare("encode, against star_dist", lambda: TARGET.encode(maps), lambda: star_dist(labels, 32), rounds)
    compare("encode", lambda: TARGET.encode(maps), lambda: (star_dist(labels, 32), edt_prob(labels)), rounds)
    for name, scores in (("labels", ideal), ("noisy scores", noisy(ideal))):
        decoders = {
            "stardist": theirs_decoded(scores),
            "segue": lambda s=scores: TARGET.decode(s, TARGET.decode_params),
        }
        compare(f"decode {name}", decoders["segue"], decoders["stardist"], rounds)
        for side, decode in decoders.items() if star_dist is not None else ():
            objects = decode()
            ap = [matching(labels, objects, thresh=iou).accuracy for iou in (0.5, 0.9)]
            print(f"    {side}: {len(np.unique(objects)) - 1} objects, AP50 {ap[0]:.3f}, AP90 {ap[1]:.3f}")


if __name__ == "__main__":
    main()
