"""Labels from stains against what is there: object F1 at IoU 0.5 per class on made wells, and what bleed-through does.

    python benchmarks/bench_stain_labels.py [--wells 16] [--side 704] [--seed 77] [--screens 2] [--verbose]

Every well is drawn from the documented ranges (density, stain strength, haze, focus, bleed-through) or from a corner of
them (bright, faint, dense, all dying, strong bleed-through), at a time of its own, rendered with noise but without
stitching. A predicted nucleus is right where it overlaps a true one of the same class with IoU ≥ 0.5; `any class` asks
for the place alone. Bleed-through is estimated, left in, or taken off as it truly is. Prints lines of a table.

Then whole screens go through the pipeline as a user's would (`--screens`; seeds from 0; two plates of two stained
wells, three times, 3 × 3 fields, vignetting, jitter, drift, a missing and a dead field): flat fields, stitching,
borders and drift are in these numbers. The truth is moved by whole pixels; pixels that are ignored do not count, nor do
nuclei of which less than the least area is left. The cell area (`[labels.cells]`, defaults) is scored by IoU with the
true bodies. `--wells 0` does the screens alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from contest import parse

from segue.evaluation.object_metrics import MatchCounts, concatenate, count_matches, scores
from segue.plates.assay import assay
from segue.plates.labeling.stain_labels import label_stains
from segue.plates.spec import PlateSpec, StainsSpec
from segue.plates.synthetic.optics import camera
from segue.plates.synthetic.scene import render_scene, sample_well
from segue.plates.synthetic.spec import SyntheticSpec

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
        yield channels, scene.nuclei, classes, sample_well(spec, plate=0, well=well).dapi_in_cy5


def screen(seed: int, small: bool = False) -> PlateSpec:
    """Returns a made screen of two plates of two wells, all stained, labelled with the defaults and cell area.

    small: of one well at one time point, of 2 × 2 fields.
    """
    table: dict[str, Any] = {"seed": seed, "wells": 2, "stained_wells": 2}
    if small:
        stage = {"rows": 2, "columns": 2, "tile_px": 288, "overlap": 0.15, "jitter_px": 8.0, "drift_px": 4.0}
        faults = {"missing_tiles": 0, "dead_fields": 0}
        table |= {"plates": 1, "wells": 1, "stained_wells": 1, "times": 1, "stage": stage, "faults": faults}
    made = SyntheticSpec.model_validate(table)
    stage = made.stage
    output = {"reach_px": 2 * stage.jitter_px + 2, "register_px": 2 * stage.drift_px + 2}
    return PlateSpec.model_validate(
        {"name": "screen", "synthetic": made, "stitching": output, "labels": {"cells": {}}, "overlays": False}
    )


def stitched(spec: PlateSpec, folder: Path) -> Iterator[tuple[str, dict[str, MatchCounts], float, float]]:
    """Yields of each mosaic of a screen made below `folder`: its name, counts by class, IoU and share of cell area."""
    made = assay(spec, folder / "screen.h5", root=folder)
    report = json.loads((made.folder / "report.json").read_text())
    for note in report["notes"]:
        print(f"  {note}")
    names, size_um = spec.labels.class_names, spec.synthetic.stage.pixel_size_um
    least_px = min(stain.min_area_um2 for stain in spec.labels.stains.values()) / size_um**2
    with h5py.File(made.path) as file:
        for key, group in file["micrographs"].items():
            well, time_name = key.replace("%2F", "/").rsplit("/", 1)
            nuclei, classes = (group[f"labels/{layer}"][()] for layer in ("nuclei", "classes"))
            with h5py.File(made.folder / "made" / "truth" / well / f"{time_name}.h5") as truth:
                tiles = truth["tiles"]
                places = {
                    f"{row},{column}": (y, x)
                    for row, column, y, x in zip(
                        *(tiles[k][()] for k in ("row", "column", "y_px", "x_px")), strict=True
                    )
                }
                actual = report["wells"][well][time_name]["positions"]
                off = np.rint(np.median([np.subtract(places[tile], at) for tile, at in actual.items()], axis=0))
                true, bodies = (
                    np.where(classes < 0, 0, _moved(truth[name][()], off.astype(int), nuclei.shape))
                    for name in ("nuclei", "bodies")
                )
                kind = np.zeros(int(truth["objects/id"][()].max(initial=0)) + 1, np.int64)
                kind[truth["objects/id"][()]] = truth["objects/class"][()]
            true = np.where((np.bincount(true.ravel()) < least_px)[true], 0, true)
            counts = {
                name: count_matches(
                    np.where(kind[true] == number, true, 0), np.where(classes == names.index(name), nuclei, 0)
                )
                for number, name in enumerate(("live", "dead"), start=1)
            }
            cell, body = classes > 0, bodies > 0
            yield f"{well}/{time_name}", counts, (cell & body).sum() / (cell | body).sum(), cell[classes >= 0].mean()


def _moved(image: np.ndarray, by: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns image[by:] cut or padded with 0 to the shape."""
    wide = int(np.abs(by).max()) + max(shape)
    padded = np.pad(image, wide)
    return padded[by[0] + wide :, by[1] + wide :][: shape[0], : shape[1]]


def score_screens(screens: int, small: bool = False) -> None:
    print("screen  mosaics  live F1  dead F1  worst mosaic live / dead  cell IoU: mean, worst  share of cell: largest")
    for seed in range(screens):
        with tempfile.TemporaryDirectory() as folder:
            rows = list(stitched(screen(seed, small), Path(folder)))
        for name, counts, iou, share in rows:
            f1 = ", ".join(f"{key} {scores(value)['f1_50']:.3f}" for key, value in counts.items())
            print(f"  {name}: {f1}, cell IoU {iou:.3f}, share {share:.2f}")
        total = [scores(concatenate([row[1][key] for row in rows]))["f1_50"] for key in ("live", "dead")]
        worst = [min(scores(row[1][key])["f1_50"] for row in rows) for key in ("live", "dead")]
        ious = [row[2] for row in rows]
        actual = f"{total[0]:.3f}    {total[1]:.3f}    {worst[0]:.3f} / {worst[1]:.3f}              "
        cells = f"{np.mean(ious):.3f}, {min(ious):.3f}          {max(row[3] for row in rows):.2f}"
        print(f"{seed:6}  {len(rows):7}  {actual}{cells}", flush=True)


def tallies(
    nuclei: np.ndarray, classes: np.ndarray, true: np.ndarray, true_classes: np.ndarray
) -> dict[str, MatchCounts]:
    """Returns the counts of one well by class; `classes` and `true_classes` are by id."""
    actual = {"any class": count_matches(true, nuclei)}
    for number, name in enumerate(LABELS.class_names):
        if number:
            actual[name] = count_matches(
                np.where(true_classes[true] == number, true, 0), np.where(classes[nuclei] == number, nuclei, 0)
            )
    return actual


def score_wells(options: argparse.Namespace) -> None:
    kinds = ("estimated", "left in", "as it is")
    print(
        "wells of        bleed-through   live F1  dead F1  any F1   live IoU  dead IoU  worst live / dead  share error"
    )
    for name in options.sets:
        counted: dict[str, list[dict[str, MatchCounts]]] = {kind: [] for kind in kinds}
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
            total = {key: scores(concatenate([well[key] for well in counted[kind]])) for key in counted[kind][0]}
            worst = [min(scores(well[key])["f1_50"] for well in counted[kind]) for key in ("live", "dead")]
            f1 = "    ".join(f"{total[key]['f1_50']:.3f}" for key in ("live", "dead", "any class"))
            iou = "     ".join(f"{total[key]['matched_iou_50']:.3f}" for key in ("live", "dead"))
            tail = f"{np.abs(errors).max():.4f}" if kind == "estimated" else "-"
            print(f"{name:15} {kind:14}  {f1}    {iou}     {worst[0]:.3f}, {worst[1]:.3f}       {tail}")
        print(f"{'':15} {seconds / pixels * 9.72e6:.1f} s per 2700 x 3600 px", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=16)
    parser.add_argument("--side", type=int, default=704)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--verbose", action="store_true", help="a line per well as well")
    parser.add_argument("--screens", type=int, default=2, help="whole screens through the pipeline, one a seed")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="of --wells")
    options = parse(parser, wells=1, side=256, screens=1, sets=["all ranges"])
    if options.wells:
        score_wells(options)
    if options.screens:
        score_screens(options.screens, options.small)


if __name__ == "__main__":
    main()
