"""Labels from stains against what is there: object F1 at IoU 0.5 per class on made wells, and what bleed-through does.

    python benchmarks/bench_stain_labels.py [--wells 16] [--side 704] [--seed 77] [--verbose]

Every well is drawn from the documented ranges (density, stain strength, haze, focus, bleed-through) or from a corner of
them (bright, faint, dense, all dying, strong bleed-through), at a time of its own, rendered with noise but without
stitching. A predicted nucleus is right where it overlaps a true one of the same class with IoU ≥ 0.5; `any class` asks
for the place alone. Bleed-through is estimated, left in, or taken off as it truly is. Prints lines of a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from segue.evaluation.objects import Tally, merged, scores, tally
from segue.plate.optics import camera
from segue.plate.scene import draw_well, render_scene
from segue.plate.stains import label_stains
from segue.plate.stains_spec import StainsSpec
from segue.plate.synthetic_spec import SyntheticSpec

LABELS = StainsSpec()
SETS: dict[str, dict[str, Any]] = {
    "all ranges": {},
    "bright": {"stains": {"dapi_counts": [3300, 3500], "cy5_counts": [2800, 3000]}},
    "faint": {"stains": {"dapi_counts": [700, 800], "cy5_counts": [500, 600], "background_counts": [600, 700]}},
    "dense": {"cells": {"density_per_mm2": [750, 800], "patchiness": [1.0, 1.2]}},
    "dying": {"cells": {"dying_control": [0.8, 0.9], "dying_treated": [0.8, 0.9], "onset_h": [1, 3]}},
    "bleeding": {"stains": {"dapi_in_cy5": [0.055, 0.06], "dapi_counts": [3000, 3500], "cy5_counts": [500, 800]}},
    "blurred": {"stains": {"blur_um": [2.0, 2.2], "haze": [0.15, 0.2]}},
}


def made_wells(name: str, wells: int, side: int, seed: int) -> Iterator[tuple[dict, np.ndarray, np.ndarray, float]]:
    """Yields channels in counts, true nuclei, their classes by id, and the true share of DAPI in Cy5."""
    stage = {"rows": 1, "columns": 1, "tile_px": side, "overlap": 0.0}
    plan = {"seed": seed, "plates": 1, "wells": wells, "stained_wells": wells, "stage": stage, **SETS[name]}
    spec = SyntheticSpec.model_validate(plan)
    optics = spec.optics
    for well in range(wells):
        scene = render_scene(spec, plate=0, well=well, time=well % spec.times)
        channels = {
            channel: camera(
                counts,
                electrons_per_count=optics.electrons_per_count,
                read_noise_electrons=optics.read_noise_electrons,
                offset_counts=optics.offset_counts,
                seed=("bench-stain-labels", well, channel),
            )
            for channel, counts in scene.channels.items()
        }
        classes = np.zeros(int(scene.nuclei.max(initial=0)) + 1, np.int64)
        classes[scene.objects["id"]] = scene.objects["class"]
        yield channels, scene.nuclei, classes, draw_well(spec, plate=0, well=well).dapi_in_cy5


def tallies(nuclei: np.ndarray, classes: np.ndarray, true: np.ndarray, true_classes: np.ndarray) -> dict[str, Tally]:
    """Returns the counts of one well by class; `classes` and `true_classes` are by id."""
    found = {"any class": tally(true, nuclei)}
    for number, name in enumerate(LABELS.class_names):
        if number:
            found[name] = tally(
                np.where(true_classes[true] == number, true, 0), np.where(classes[nuclei] == number, nuclei, 0)
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=16)
    parser.add_argument("--side", type=int, default=704)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--verbose", action="store_true", help="a line per well as well")
    options = parser.parse_args()
    kinds = ("estimated", "left in", "as it is")
    print(
        "wells of        bleed-through   live F1  dead F1  any F1   live IoU  dead IoU  worst live / dead  share error"
    )
    for name in SETS:
        counted: dict[str, list[dict[str, Tally]]] = {kind: [] for kind in kinds}
        errors, seconds, pixels = [], 0.0, 0
        for well, (channels, true, true_classes, share) in enumerate(
            made_wells(name, options.wells, options.side, options.seed)
        ):
            for kind, value in zip(kinds, ("estimate", 0.0, share), strict=True):
                spec = LABELS.model_copy(update={"bleed_through": {"dapi_in_cy5": value}})
                start = time.perf_counter()
                labels = label_stains(channels, spec, pixel_size_um=0.8)
                seconds, pixels = seconds + time.perf_counter() - start, pixels + true.size
                by_id = np.concatenate([[0], labels.objects["class"]])
                counted[kind].append(tallies(labels.nuclei, by_id, true, true_classes))
                if kind == "estimated":
                    errors.append(labels.bleed_through["dapi_in_cy5"] - share)
                    if options.verbose:
                        f1 = {key: round(scores(value)["f1_50"], 3) for key, value in counted[kind][-1].items()}
                        print(f"  {name} {well}: {f1} share error {errors[-1]:+.4f} {'; '.join(labels.notes)}")
        for kind in kinds:
            total = {key: scores(merged([well[key] for well in counted[kind]])) for key in counted[kind][0]}
            worst = [min(scores(well[key])["f1_50"] for well in counted[kind]) for key in ("live", "dead")]
            f1 = "    ".join(f"{total[key]['f1_50']:.3f}" for key in ("live", "dead", "any class"))
            iou = "     ".join(f"{total[key]['matched_iou_50']:.3f}" for key in ("live", "dead"))
            tail = f"{np.abs(errors).max():.4f}" if kind == "estimated" else "-"
            print(f"{name:15} {kind:14}  {f1}    {iou}     {worst[0]:.3f}, {worst[1]:.3f}       {tail}")
        print(f"{'':15} {seconds / pixels * 9.72e6:.1f} s per 2700 x 3600 px", flush=True)


if __name__ == "__main__":
    main()
