"""Ten minutes of training from scratch: segue, StarDist, Cellpose 3 and a plain U-Net on the same images and threads.

    export OMP_NUM_THREADS=2
    uv run benchmarks/bench_ten_minutes.py images OUT
    uv run benchmarks/bench_ten_minutes.py segue OUT --seed 0
    uv run benchmarks/bench_ten_minutes.py unet OUT --seed 0
    uv run --with "stardist>=0.9.2" --with tensorflow benchmarks/bench_ten_minutes.py stardist OUT --seed 0
    uv run --with "cellpose<4" benchmarks/bench_ten_minutes.py cellpose OUT --seed 0
    uv run benchmarks/bench_ten_minutes.py table OUT
    uv run --with "stardist>=0.9.2" benchmarks/bench_ten_minutes.py matching OUT

`images` divides nuclei of DSB2018 by image (seed 0: 30 % test, 12 % validation): the shipped 109 of 256 and 360 px, or
with `--dsb2018 studies/models/nuclei-dsb2018.toml`, whose images are not shipped, all 228. Fields of BBBC039 are a
second test set, with which nothing is trained or chosen. Every tool gets the same training and validation images, and
trains until `--minutes` have passed. Then it predicts the whole test images, to OUT/masks/TOOL-SEED/SET, which
`segue compare OUT/labels/SET TOOL=…` reads.

segue with the settings that `segue fit` chooses for these images and this time, with as many epochs as fit by a short
training timed first (not counted), decoded as tuned on the validation images (outside the ten minutes).
StarDist as its documentation's example in 2-D: 32 rays, grid (2, 2), patches of 256², batches of 4, 100 steps an epoch,
Adam at 3e-4, its example's augmenter (flips, quarter turns, intensity, noise), images scaled to their percentiles 1 and
99.8, both thresholds then optimised on the validation images (outside the ten minutes too). Cellpose with the defaults
of its command line for training from scratch: SGD at 0.2, weight decay 1e-5, batches of 8 patches of 224², mean
diameter 30, decoded with its default thresholds. Its rate depends on the number of epochs, so that it is timed first.
The plain U-Net has three classes (background, inside, outline of one pixel), width 32, four levels, bfloat16, batches
of 8 patches of 128², flips and quarter turns, Adam at 1e-3; objects are connected pixels of the inside, grown by one.

`table` scores all masks with segue's own matching; `matching` asserts that `stardist.matching` counts the same.
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
import tifffile
from contest import head, parse, row, spread

HERE = Path(__file__).resolve().parent
SPLIT = {"seed": 0, "validation": 0.12, "test": 0.3}
TEST_SETS = ("dsb2018", "bbbc039")
THREADS = 2

Pairs = tuple[list[np.ndarray], list[np.ndarray]]


def make_images(out: Path, dsb2018: Path) -> None:
    """Writes the images and labels (H, W) of the parts as OUT/images/PART/*.tif and OUT/labels/PART/*.tif."""
    import segue
    from segue.data.sources import labeled_images
    from segue.data.spec import SplitSpec

    everything = SplitSpec(seed=0, validation=0.0, test=0.0)
    sources = {
        dsb2018: (SplitSpec(**SPLIT), ("train", "validation", "dsb2018")),
        HERE.parent / "studies/nuclei-bbbc039.toml": (everything, ("bbbc039",)),
    }
    out.mkdir(parents=True, exist_ok=True)
    for source, (split, parts) in sources.items():
        file = out / f"{source.stem}.h5"
        if not file.exists():
            segue.prepare(source, file)
        with segue.Dataset(file) as dataset:
            codes = dataset.split(split)
            for code, part in enumerate(parts):
                pairs = labeled_images(dataset, np.flatnonzero(codes == code), layer="nuclei")
                for kind in ("images", "labels"):
                    (out / kind / part).mkdir(parents=True, exist_ok=True)
                for index, (image, labels) in enumerate(pairs):
                    tifffile.imwrite(out / "images" / part / f"{index:03}.tif", image[0])
                    tifffile.imwrite(out / "labels" / part / f"{index:03}.tif", labels.astype(np.uint16))
                print(f"{part}: {len(pairs)} images, {sum(len(np.unique(labels)) - 1 for _, labels in pairs)} nuclei")


def read(folder: Path) -> list[np.ndarray]:
    return [tifffile.imread(path) for path in sorted(folder.glob("*.tif"))]


def images_of(out: Path, part: str) -> Pairs:
    """Returns the images (H, W), as acquired, and the labels (H, W) int32 of a part."""
    labels = [label.astype(np.int32) for label in read(out / "labels" / part)]
    return read(out / "images" / part), labels


def predict_test(out: Path, run: str, facts: dict[str, Any], predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Writes the masks of the test images, and the facts of the run with the seconds of prediction."""
    images = {name: images_of(out, name)[0] for name in TEST_SETS}
    predict(images["dsb2018"][0])  # compiled before it is timed
    facts["predict_s"] = {}
    for name in TEST_SETS:
        start = time.perf_counter()
        masks = [predict(image).astype(np.uint16) for image in images[name]]
        facts["predict_s"][name] = time.perf_counter() - start
        folder = out / "masks" / run / name
        folder.mkdir(parents=True, exist_ok=True)
        for index, mask in enumerate(masks):
            tifffile.imwrite(folder / f"{index:03}.tif", mask)
    (out / "masks" / run / "facts.json").write_text(json.dumps(facts, indent=1))
    print(json.dumps(facts), flush=True)


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


def run_unet(out: Path, seed: int, minutes: float) -> None:
    import torch
    from scipy import ndimage
    from skimage.segmentation import expand_labels, find_boundaries
    from torch import Tensor, nn

    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    rng = np.random.default_rng(seed)
    width, side, batch = 32, 128, 8

    def block(inputs: int, outputs: int) -> nn.Module:
        layers = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [width * 2**level for level in range(5)]
            self.down = nn.ModuleList(block(a, b) for a, b in zip([1, *widths], widths, strict=False))
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
            self.merge = nn.ModuleList(block(2 * w, w) for w in widths[-2::-1])
            self.head = nn.Conv2d(width, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            skips = []
            for index, layer in enumerate(self.down):
                x = layer(nn.functional.max_pool2d(x, 2) if index else x)
                skips.append(x)
            for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
                x = merge(torch.cat([skip, up(x)], 1))
            return self.head(x)

    def scaled(image: np.ndarray) -> np.ndarray:
        low, high = np.percentile(image, (1, 99.8))
        return ((image - low) / max(high - low, 1e-6)).astype(np.float32)

    def classes(labels: np.ndarray) -> np.ndarray:
        return np.where(find_boundaries(labels, mode="inner"), 2, labels > 0).astype(np.int64)

    images, labels = images_of(out, "train")
    pairs = [(scaled(image), classes(label)) for image, label in zip(images, labels, strict=True)]
    sizes = np.array([image.size for image, _ in pairs], float)

    def patch() -> tuple[np.ndarray, np.ndarray]:
        image, label = pairs[rng.choice(len(pairs), p=sizes / sizes.sum())]
        y, x = (rng.integers(0, size - side + 1) for size in image.shape)
        turns, flip = int(rng.integers(4)), rng.integers(2)
        cut = [np.rot90(array[y : y + side, x : x + side], turns) for array in (image, label)]
        first, second = (array[::-1].copy() if flip else array.copy() for array in cut)
        return first[None], second

    def logits(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x.to(memory_format=torch.channels_last)).float()

    model = UNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    start, steps = time.perf_counter(), 0
    while (passed := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + np.cos(np.pi * passed)) / 2
        x, y = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*(patch() for _ in range(batch)), strict=True))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(x), y).backward()
        optimizer.step()
        steps += 1
    seconds = time.perf_counter() - start
    model.eval()

    def predict(image: np.ndarray) -> np.ndarray:
        padded = np.pad(scaled(image), [(0, -size % 16) for size in image.shape], mode="reflect")
        with torch.inference_mode():
            inside = (logits(torch.from_numpy(padded)[None, None]).argmax(1)[0] == 1).numpy()
        return expand_labels(ndimage.label(inside[: image.shape[0], : image.shape[1]])[0], 1)

    facts = {"tool": "plain U-Net", "seed": seed, "train_s": seconds, "steps": steps, "batch": batch}
    predict_test(out, f"unet-{seed}", facts, predict)


def run_segue(out: Path, seed: int, minutes: float, epochs: int | None, changed: dict[str, Any]) -> None:
    import segue
    from segue.fitting import rules
    from segue.fitting.look import look_at
    from segue.fitting.specifications import toml_text

    look = look_at(*(str(out / kind / "train") for kind in ("images", "labels")), group=None, kind="instances")
    situation = rules.Situation(look, minutes * 60, has_gpu=False)
    data, chosen = (
        {choice.setting: choice.value for choice in rules.choose(each, situation)}
        for each in (rules.DATA_RULES, rules.STAGE_RULES)
    )
    data = {name: changed.pop(name, value) for name, value in data.items()}
    dataset = out / f"segue-{data['tile_px']}-{data['stride_px']}.h5"
    if not dataset.exists():
        manifest = dataset.with_suffix(".csv")
        manifest.write_text(
            "image,label,group,split\n"
            + "".join(
                f"images/{part}/{name}.tif,labels/{part}/{name}.tif,{part}-{name},{part}\n"
                for part in ("train", "validation")
                for name in sorted(path.stem for path in (out / "images" / part).glob("*.tif"))
            )
        )
        layer = {"layer": "nuclei", "kind": "instances", "names": ["background", "nucleus"]}
        specification = dataset.with_suffix(".toml")
        specification.write_text(toml_text({"name": "ten-minutes", "manifest": manifest.name, **data, "labels": layer}))
        segue.prepare(specification, dataset)
    settings = {
        "data": [{"dataset": str(dataset.resolve())}],
        "threads": THREADS,
        "init": seed,
        "split": {"stored": "given"},
        **chosen,
        **changed,
    }

    def trained(epochs: int, folder: Path) -> tuple[Path, float]:
        stage = folder.with_suffix(".toml")
        stage.write_text(toml_text({"epochs": epochs, **settings}))
        segue.train(stage, folder)
        return folder, json.loads((folder / "timing.json").read_text())["seconds"]

    with tempfile.TemporaryDirectory() as place:
        if epochs is None:
            _, one = trained(1, Path(place) / "one")
            _, three = trained(3, Path(place) / "three")
            epochs = max(1, int(minutes * 60 / ((three - one) / 2)))
        run, seconds = trained(epochs, Path(place) / "run")
        timing, metrics = (json.loads((run / f"{name}.json").read_text()) for name in ("timing", "metrics"))
        facts = {
            "tool": "segue", "seed": seed, "train_s": seconds,
            "steps": round(timing["images_per_s"] * seconds / settings["batch"]), "batch": settings["batch"],
            "epochs": epochs, "settings": {**data, **chosen, **changed}, "decoding": metrics["decoding"],
        }  # fmt: skip
        model = segue.load(run)
        predict_test(out, f"segue-{seed}", facts, lambda image: segue.predict(model, image))


def table(out: Path) -> None:
    """Prints AP50 and mean AP of every run on both sets, pooled and by image, and the median and range of each tool."""
    from segue.evaluation import object_metrics

    labels = {name: images_of(out, name)[1] for name in TEST_SETS}
    names = ("ap50", "ap_mean", "ap50_image_mean", "ap_mean_image_mean")
    runs: dict[str, list[tuple[dict[str, Any], dict[str, dict[str, float]]]]] = {}
    for file in sorted(out.glob("masks/*/facts.json")):
        facts, scores = json.loads(file.read_text()), {}
        for name in TEST_SETS:
            masks = [mask.astype(np.int32) for mask in read(file.parent / name)]
            counts = [object_metrics.count_matches(*pair) for pair in zip(labels[name], masks, strict=True)]
            scores[name] = object_metrics.scores(object_metrics.concatenate(counts))
        runs.setdefault(facts["tool"], []).append((facts, scores))
    print(
        head("tool", "set", "AP50", "mean AP", "AP50 by image", "mean AP by image", "steps", "training", "prediction")
    )
    for tool, each in runs.items():
        for name in TEST_SETS:
            cells = [spread([scores[name][score] for _, scores in each], 3) for score in names]
            steps, seconds, predicted = (
                spread(values, 0)
                for values in (
                    [facts["steps"] for facts, _ in each],
                    [facts["train_s"] for facts, _ in each],
                    [facts["predict_s"][name] for facts, _ in each],
                )
            )
            print(row(f"{tool}, {len(each)} seeds", name, *cells, steps, f"{seconds} s", f"{predicted} s"))


def check_matching(out: Path) -> None:
    """Asserts that `stardist.matching` counts the true and false positives of all masks as segue does."""
    from stardist.matching import matching

    from segue.evaluation import object_metrics

    compared = 0
    for folder in sorted(out.glob("masks/*/*/")):
        _, labels = images_of(out, folder.name)
        for label, mask in zip(labels, read(folder), strict=True):
            ours = object_metrics.per_threshold(object_metrics.count_matches(label, mask.astype(np.int32)))
            theirs = matching(label, mask.astype(np.int32), thresh=object_metrics.THRESHOLDS)
            # an image without objects and without predictions has no accuracy here, and 0 there
            accuracy = np.nan_to_num(ours["ap"][0])
            np.testing.assert_allclose(accuracy, [each.accuracy for each in theirs], atol=1e-12)
            compared += 1
    print(
        f"accuracy at {len(object_metrics.THRESHOLDS)} thresholds equals that of stardist.matching on {compared} masks"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("images", "stardist", "cellpose", "unet", "segue", "table", "matching"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--epochs", type=int, help="for Cellpose and segue, as timed before")
    parser.add_argument("--dsb2018", type=Path, default=HERE.parent / "studies/nuclei-dsb2018.toml", help="for images")
    parser.add_argument("--set", type=json.loads, default={}, help="for segue: settings in place of those of fit, JSON")
    args = parse(parser, epochs=1, minutes=0.02, set={"network": {"name": "resunet", "width": 8}})
    if os.environ.get("OMP_NUM_THREADS") != str(THREADS):
        parser.error(f"set OMP_NUM_THREADS={THREADS} first, so that all tools use as many threads")
    if args.what == "images":
        make_images(args.out, args.dsb2018)
    elif args.what == "stardist":
        run_stardist(args.out, args.seed, args.minutes)
    elif args.what == "cellpose":
        run_cellpose(args.out, args.seed, args.minutes, args.epochs)
    elif args.what == "unet":
        run_unet(args.out, args.seed, args.minutes)
    elif args.what == "segue":
        run_segue(args.out, args.seed, args.minutes, args.epochs, args.set)
    elif args.what == "matching":
        check_matching(args.out)
    else:
        table(args.out)


if __name__ == "__main__":
    main()
