"""Whether labeling the images that `segue fit --next` ranks first is better than labeling random ones, on real nuclei.

    uv run python benchmarks/bench_next_images.py FOLDER [--draws 3]

DSB2018 (the shipped part; 30 % of the images are test images). In each draw a network of 0.9 million parameters is
trained on 4 images, ranks the rest, and is trained from scratch again with the 8 that are first, and with 8 random
ones. Each training has the same number of steps. Mean AP over IoU 0.5 to 0.95 by image, mean over the test images.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contest import head, machine, parse, row

DATA = Path(__file__).resolve().parents[1] / "examples" / "data" / "dsb2018"
FIRST, MORE = 4, 8
STEPS = 200
PREPARE = """
name = "nuclei"
manifest = "{name}.csv"
tile_px = 128
color = "gray"
[labels]
layer = "nuclei"
kind = "instances"
names = ["background", "nucleus"]
number_parts = false
"""
STAGE = """
epochs = {epochs}
batch = 8
threads = 1
init = {seed}
validation = 0
split = {{ stored = "given" }}
network = {{ name = "resunet", width = {width} }}
target = {{ name = "boundary" }}
augment = "dihedral"
optimizer = {{ name = "adam", lr = 1e-3 }}
schedule = {{ name = "cosine" }}

[[data]]
dataset = "{dataset}"
"""


def trained(folder: Path, name: str, training: Sequence[str], test: Sequence[str], options: argparse.Namespace) -> Path:
    """Returns the run of a training on the images `training`; scores are taken on `test` of the same dataset."""
    import segue
    from segue.fitting.timing import tile_counts

    run = folder / f"{name}-run"
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "group", "split"])
        for part, stems in (("train", training), ("test", test)):
            writer.writerows(
                [DATA / "images" / f"{stem}.png", DATA / "labels" / f"{stem}.png", stem, part] for stem in stems
            )
    (folder / f"{name}.toml").write_text(PREPARE.format(name=name))
    dataset = folder / f"{name}.h5"
    if not dataset.exists():
        segue.prepare(folder / f"{name}.toml", dataset, log=lambda note: None)
    tiles, _ = tile_counts(dataset)
    epochs = max(1, round(options.steps / -(-tiles // 8)))
    text = STAGE.format(epochs=epochs, seed=options.seed, width=options.width, dataset=dataset.as_posix())
    (folder / f"{name}-stage.toml").write_text(text)
    segue.train(folder / f"{name}-stage.toml", run)
    return run


def main() -> None:
    from segue.fitting.next_images import rank_images
    from segue.fitting.scoring import score_model
    from segue.fitting.verdict import difference, mean_score
    from segue.training.run_folder import load_run

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=1000, help="at most so many of the shipped ones")
    options = parse(parser, draws=1, width=8, steps=2, images=24)
    options.folder.mkdir(parents=True, exist_ok=True)
    stems = sorted(path.stem for path in (DATA / "images").glob("*.png"))[: options.images]
    order = np.random.default_rng(0).permutation(len(stems))
    test = [stems[index] for index in order[: round(0.3 * len(stems))]]
    pool = [stems[index] for index in order[len(test) :]]
    print(machine(1))
    print(head("draw", f"{FIRST} images", f"+ {MORE} random", f"+ {MORE} ranked first", "ranked − random"), flush=True)
    for draw in range(options.draws):
        options.seed = draw
        generator = np.random.default_rng([1, draw])
        shuffled = [pool[index] for index in generator.permutation(len(pool))]
        first, rest = shuffled[:FIRST], shuffled[FIRST:]
        paths = {stem: DATA / "images" / f"{stem}.png" for stem in shuffled}
        scores = {}
        run = trained(options.folder, f"first-{draw}", first, test, options)
        ranked = rank_images(
            load_run(run), [paths[stem] for stem in first], [paths[stem] for stem in rest],
            progress=lambda done, total: None, log=print,
        )  # fmt: skip
        chosen = {"first": [], "random": rest[:MORE], "ranked": [Path(one.image).stem for one in ranked[:MORE]]}
        for name, more in chosen.items():
            run = trained(options.folder, f"{name}-{draw}", [*first, *more], test, options)
            scores[name] = score_model(load_run(run), options.folder / f"{name}-{draw}.h5", "test")
        means = [mean_score(scores[name]).text() for name in chosen]
        print(row(draw, *means, difference(scores["ranked"], scores["random"]).text(signed=True)), flush=True)


if __name__ == "__main__":
    main()
