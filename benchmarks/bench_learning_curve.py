"""Whether forecasts of learning curves hold on real nuclei: from trainings on 2, 4 and 8 images, the score with 16.

    uv run python benchmarks/bench_learning_curve.py STORE [--draws 6] [--workers 2]

DSB2018 (the shipped part, tiles of 128 px), a network of 0.9 million parameters, boundaries, 200 steps whatever the
number of images (as `studies/few-labels.toml`), no image for validation, mean AP over IoU 0.5 to 0.95 of the test
images. Each draw takes other images, the larger numbers with the smaller ones. The 95 % interval is made twice: from
the three trainings of a draw, against the fourth of the same draw, and from those of all other draws together, against
the draw left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from contest import head, machine, parse, row

STUDIES = Path(__file__).resolve().parents[1] / "studies"
SIZES = (2, 4, 8, 16)
STEPS = 200
STUDY = """
name = "learning-curve"
seeds = {{ draw = {draws} }}
network = {{ name = "resunet", width = {width} }}
target = {{ name = "boundary" }}
split = {{ seed = 0, validation = 0.1, test = 0.3 }}

[datasets.dsb2018]
prepare = "{prepare}"
set = {{ tile_px = 128, stride_px = 128 }}

[domains]
dsb2018 = {{ dataset = "dsb2018" }}

[stages.train]
domain = "dsb2018"
validation = 0
batch = 8
threads = 1
augment = "dihedral"
optimizer = {{ name = "adam", lr = 1e-3 }}
schedule = {{ name = "cosine" }}

[stages.train.variants]
{variants}
"""


def write_study(folder: Path, draws: int, width: int, steps: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # an image has about four tiles
    variants = "\n".join(
        f'"{size} images" = {{ groups = {size}, epochs = {max(1, steps * 2 // size)} }}' for size in SIZES
    )
    file = folder / "learning-curve.toml"
    prepare = (STUDIES / "nuclei-dsb2018.toml").as_posix()
    file.write_text(STUDY.format(draws=draws, width=width, prepare=prepare, variants=variants), encoding="utf-8")
    return file


def forecasts(table: pd.DataFrame) -> list[tuple[str, int, float, float, float, float]]:
    """Returns by what was forecast from, the draw, the measured score, and the forecast with its interval."""
    from segue.fitting.learning_curve import Training, forecast

    scores = table.pivot_table(index="seed_draw", columns="labels_train", values="ap_mean")
    *known, last = sorted(scores.columns)
    results = []
    for place, (draw, of_draw) in enumerate(scores.iterrows()):
        others = scores.drop(index=draw)
        sources = {
            "the same draw": [Training(int(size), float(of_draw[size])) for size in known],
            "the other draws": [Training(int(s), float(v)) for s in known for v in others[s]],
        }
        for name, trainings in sources.items():
            (one,) = forecast(trainings, [int(last)])
            results.append((name, place, float(of_draw[last]), one.score, one.low, one.high))
    return results


def summary(results: Sequence[tuple[str, int, float, float, float, float]]) -> list[str]:
    lines = [head("from", "draws", "measured, median", "forecast, median", "error, median", "inside", "width, median")]
    for name in dict.fromkeys(one[0] for one in results):
        values = np.array([one[2:] for one in results if one[0] == name])
        measured, expected, low, high = values.T
        inside = int(((low <= measured) & (measured <= high)).sum())
        error = np.median(abs(expected - measured))
        numbers = (f"{np.median(measured):.3f}", f"{np.median(expected):.3f}", f"{error:.3f}")
        lines.append(row(name, len(values), *numbers, f"**{inside}**", f"{np.median(high - low):.3f}"))
    return lines


def main() -> None:
    import segue

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parse(parser, draws=2, width=8, steps=8)
    study = write_study(options.store, options.draws, options.width, options.steps)
    segue.run_study(study, workers=options.workers)
    table = segue.table(study)
    print(machine(1))
    scores = table.groupby("labels_train")["ap_mean"].describe()[["count", "min", "50%", "max"]]
    print(scores.round(3).to_string())
    print("\n".join(summary(forecasts(table))))


if __name__ == "__main__":
    main()
