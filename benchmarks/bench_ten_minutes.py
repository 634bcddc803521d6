"""Ten minutes of training from scratch: segue, StarDist and Cellpose 3 on the same images, with the same two threads.

    export OMP_NUM_THREADS=2
    uv run benchmarks/bench_ten_minutes.py images OUT
    uv run --with "stardist>=0.9.2" --with tensorflow benchmarks/bench_ten_minutes.py stardist OUT --seed 0
    uv run --with "cellpose<4" benchmarks/bench_ten_minutes.py cellpose OUT --seed 0
    uv run benchmarks/bench_ten_minutes.py segue OUT --target flows --seed 0
    uv run benchmarks/bench_ten_minutes.py table OUT

`images` divides the shipped nuclei of DSB2018 by image (seed 0: 30 % test, 12 % validation). Every tool gets the same
training and validation images, and trains until `--minutes` have passed. Then it decodes the whole test images.

StarDist as its documentation's example in 2-D: 32 rays, grid (2, 2), patches of 256², batches of 4, 100 steps an epoch,
Adam at 3e-4, its example's augmenter (flips, quarter turns, intensity, noise), images scaled to their percentiles 1 and
99.8, both thresholds then optimised on the validation images (outside the ten minutes). Cellpose with the defaults of
its command line for training from scratch: SGD at 0.2, weight decay 1e-5, batches of 8 patches of 224², mean diameter
30, decoded with its default thresholds. Its rate depends on the number of epochs, so that one epoch is timed first.
segue with the settings of STAGE and the decoding that the stage tunes on the validation images (outside the ten
minutes too); its number of epochs is set from a short training timed first.

The table scores all predictions with segue's own matching, which equals `stardist.matching`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contest import parse

HERE = Path(__file__).resolve().parent
SPLIT = {"seed": 0, "validation": 0.12, "test": 0.3}
DATASET = "dsb2018.h5"
THREADS = 2

Pairs = tuple[list[np.ndarray], list[np.ndarray]]


def make_images(out: Path) -> None:
    """Writes the images and labels (H, W) of the three parts to `images.npz`, and the dataset that segue trains on."""
    import segue
    from segue.data.sources import labeled_images
    from segue.data.spec import SplitSpec

    out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    if not (out / DATASET).exists():
        segue.prepare(HERE.parent / "studies/nuclei-dsb2018.toml", out / DATASET)
    with segue.Dataset(out / DATASET) as dataset:
        codes = dataset.split(SplitSpec(**SPLIT))
        for code, name in enumerate(("train", "validation", "test")):
            pairs = labeled_images(dataset, np.flatnonzero(codes == code), layer="nuclei")
            for index, (image, labels) in enumerate(pairs):
                arrays[f"{name}_{index:03}_image"], arrays[f"{name}_{index:03}_labels"] = image[0], labels
            print(f"{name}: {len(pairs)} images, {sum(len(np.unique(labels)) - 1 for _, labels in pairs)} nuclei")
    np.savez(out / "images.npz", **arrays)


def images_of(out: Path, name: str) -> Pairs:
    """Returns the images (H, W), as acquired, and the labels (H, W) int32 of a set."""
    with np.load(out / "images.npz") as file:
        keys = sorted(key[:-6] for key in file if key.startswith(f"{name}_") and key.endswith("_image"))
        return [file[f"{key}_image"] for key in keys], [file[f"{key}_labels"] for key in keys]


def predict_test(out: Path, run: str, facts: dict[str, Any], predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes the decoded labels of the test images, and the facts of the run with the seconds of decoding."""
    print(json.dumps(facts), flush=True)
    images, _ = images_of(out, "test")
    predict(images[0])  # compiled before it is timed
    start = time.perf_counter()
    labels = [predict(image).astype(np.int32) for image in images]
    facts["predict_s"] = time.perf_counter() - start
    folder = out / run
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "labels.npz", **{f"{index:03}": label for index, label in enumerate(labels)})
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))


def run_stardist(out: Path, seed: int, minutes: float) -> None:
    import tensorflow as tf
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    np.random.seed(seed)  # noqa: NPY002 - what StarDist draws from
    tf.random.set_seed(seed)

    def scaled(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [normalize(image, 1, 99.8, axis=(0, 1)) for image in images]

    def augmenter(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns, flip = np.random.randint(4), np.random.randint(2)  # noqa: NPY002
        x, y = np.rot90(x, turns), np.rot90(y, turns)
        x, y = (x[::-1], y[::-1]) if flip else (x, y)
        x = x * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)  # noqa: NPY002
        return x + 0.02 * np.random.uniform(0, 1) * np.random.normal(0, 1, x.shape), y  # noqa: NPY002

    class Stop(tf.keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.steps += 1
            if time.perf_counter() - start > minutes * 60:
                self.model.stop_training = True
                raise StopIteration

    images, labels = images_of(out, "train")
    stored, held_labels = images_of(out, "validation")
    with tempfile.TemporaryDirectory() as folder:
        model = StarDist2D(
            Config2D(n_rays=32, grid=(2, 2), use_gpu=False, n_channel_in=1, train_tensorboard=False),
            "model",
            basedir=folder,
        )
        model.prepare_for_training()
        stop = Stop()
        model.callbacks.append(stop)
        start = time.perf_counter()
        with contextlib.suppress(StopIteration):
            model.train(
                scaled(images), labels, validation_data=(scaled(stored), held_labels), augmenter=augmenter, seed=seed
            )
        seconds = time.perf_counter() - start
        best = Path(folder) / "model" / model.config.train_checkpoint
        if best.exists():  # what its own training does at its end
            model.keras_model.load_weights(str(best))
        model.optimize_thresholds(scaled(stored), held_labels)
        facts = {
            "tool": "StarDist", "seed": seed, "train_s": seconds, "steps": stop.steps, "batch": 4,
            "prob_thresh": float(model.thresholds.prob), "nms_thresh": float(model.thresholds.nms),
        }  # fmt: skip
        predict_test(out, f"stardist-{seed}", facts, lambda image: model.predict_instances(scaled([image])[0])[0])


def run_cellpose(out: Path, seed: int, minutes: float, epochs: int | None) -> None:
    import torch
    from cellpose.models import CellposeModel
    from cellpose.train import train_seg

    torch.set_num_threads(THREADS)
    images, labels = images_of(out, "train")

    def trained(epochs: int, folder: str, count: int = len(images)) -> tuple[CellposeModel, float]:
        torch.manual_seed(seed)
        model = CellposeModel(gpu=False, pretrained_model=None)
        start = time.perf_counter()
        train_seg(
            model.net, train_data=images[:count], train_labels=[label.copy() for label in labels[:count]],
            channels=[0, 0], SGD=True, learning_rate=0.2, weight_decay=1e-5, batch_size=8, n_epochs=epochs,
            save_path=folder, model_name="model",
        )  # fmt: skip
        return model, time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        if epochs is None:
            _, one = trained(1, folder, 16)
            _, three = trained(3, folder, 16)
            epochs = max(1, round(minutes * 60 / ((three - one) / 2 * len(images) / 16)))
        model, seconds = trained(epochs, folder)
        model = CellposeModel(gpu=False, pretrained_model=str(Path(folder) / "models" / "model"))
    used = sum(len(np.unique(label)) - 1 >= 5 for label in labels)  # its min_train_masks
    facts = {
        "tool": "Cellpose", "seed": seed, "train_s": seconds, "steps": epochs * -(-used // 8), "batch": 8,
        "epochs": epochs,
    }  # fmt: skip
    predict_test(out, f"cellpose-{seed}", facts, lambda image: model.eval(image, channels=[0, 0])[0])


STAGE = """
epochs = {epochs}
batch = 8
threads = {threads}
init = {seed}
split = {{ seed = 0, validation = 0.12, test = 0.3 }}
optimizer = {{ name = "adam", lr = 2e-3 }}
schedule = {{ name = "cosine" }}
clip_norm = 1.0
network = {{ name = "resunet", width = {width} }}
target = {{ name = "{target}" }}
augment = {{ scale = [0.8, 1.25], contrast = [0.7, 1.4], brightness = 0.3, noise = [0.0, 0.2], probability = 0.5 }}

[[data]]
dataset = "{dataset}"
"""


def run_segue(out: Path, seed: int, minutes: float, epochs: int | None, target: str, width: int) -> None:
    import segue

    def trained(epochs: int, folder: Path) -> tuple[Path, float]:
        stage = folder.with_suffix(".toml")
        stage.write_text(
            STAGE.format(
                epochs=epochs, threads=THREADS, seed=seed, target=target, width=width, dataset=(out / DATASET).resolve()
            )
        )
        segue.train(stage, folder)
        return folder, json.loads((folder / "timing.json").read_text())["seconds"]

    with tempfile.TemporaryDirectory() as place:
        if epochs is None:
            _, one = trained(1, Path(place) / "one")
            _, three = trained(3, Path(place) / "three")
            epochs = max(1, int(minutes * 60 / ((three - one) / 2)))
        run, seconds = trained(epochs, Path(place) / "run")
        timing, metrics = (json.loads((run / f"{name}.json").read_text()) for name in ("timing", "metrics"))
        steps = round(timing["images_per_s"] * seconds / 8)
        facts = {
            "tool": f"segue, {target}", "seed": seed, "train_s": seconds, "steps": steps, "batch": 8, "epochs": epochs,
            "width": width, "decoding": metrics["decoding"],
        }  # fmt: skip
        model = segue.load(run)
        predict_test(out, f"segue-{target}-{width}-{seed}", facts, lambda image: segue.predict(model, image))


def table(out: Path) -> None:
    """Prints AP50, mean AP and F1 of every run, and the median and range of each tool."""
    from segue.evaluation import object_metrics

    _, labels = images_of(out, "test")
    rows: dict[str, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for folder in sorted(out.glob("*/facts.json")):
        facts = json.loads(folder.read_text())
        with np.load(folder.with_name("labels.npz")) as file:
            tallies = [object_metrics.count_matches(label, file[f"{index:03}"]) for index, label in enumerate(labels)]
        rows.setdefault(facts["tool"], []).append((facts, object_metrics.scores(object_metrics.concatenate(tallies))))
    for tool, runs in rows.items():
        for facts, scores in runs:
            print(
                f"{tool:<18} seed {facts['seed']}: AP50 {scores['ap50']:.3f}  mean AP {scores['ap_mean']:.3f}  "
                f"F1 {scores['f1_50']:.3f}  {facts['steps']} steps of {facts['batch']} in {facts['train_s']:.0f} s, "
                f"{facts['predict_s']:.1f} s to predict {len(labels)} images"
            )
        for name in ("ap50", "ap_mean", "f1_50"):
            values = [scores[name] for _, scores in runs]
            print(f"{tool:<18} {name:<8} median {np.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("images", "stardist", "cellpose", "segue", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--epochs", type=int, help="for Cellpose and segue, as timed before")
    parser.add_argument("--target", default="flows")
    parser.add_argument("--width", type=int, default=32)
    args = parse(parser, epochs=1, width=8)
    if os.environ.get("OMP_NUM_THREADS") != str(THREADS):
        parser.error(f"set OMP_NUM_THREADS={THREADS} first, so that all tools use as many threads")
    if args.what == "images":
        make_images(args.out)
    elif args.what == "stardist":
        run_stardist(args.out, args.seed, args.minutes)
    elif args.what == "cellpose":
        run_cellpose(args.out, args.seed, args.minutes, args.epochs)
    elif args.what == "segue":
        run_segue(args.out, args.seed, args.minutes, args.epochs, args.target, args.width)
    else:
        table(args.out)


if __name__ == "__main__":
    main()
