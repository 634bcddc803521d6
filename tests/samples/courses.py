"""Made results of a study of optimizers: three courses of the learning rate, with and without class weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from segue.study.table import StudyResults

SPEC = (Path(__file__).parents[2] / "studies" / "optimizers.toml").read_text(encoding="utf-8")
CLASSES = {"name": "classes", "loss": {"name": "cross_entropy"}, "class_weights": "none"}
EPOCHS = 100
# variant: what is gained over the slowest in its end, and the epochs in which the loss falls to 1 / e
OUTCOMES = {"Adam restarts": (0.012, 6.0), "SGD plateau": (0.0, 11.0), "SGD kicks": (0.015, 9.0)}


def rates(variant: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rate at the end of each epoch and the highest within it."""
    at = np.arange(EPOCHS + 1, dtype=float)
    if variant == "Adam restarts":
        end, start = (5e-4 * (1 + np.cos(np.pi * x / 10)) / 2 for x in ((at[1:] - 0.05 - 1e-9) % 10, at[:-1] % 10))
        return end, start
    if variant == "SGD plateau":
        drops = np.sort(generator.choice(np.arange(25, EPOCHS), 7, replace=False))
        result = 0.05 * 0.5 ** np.searchsorted(drops, at[1:])
        return result, result
    result, top, floor = [], 0.05, 0.025
    while len(result) < EPOCHS:
        cycle = 5 + int(generator.integers(2, 5))
        result += [floor + (top - floor) * (1 + np.cos(np.pi * min(i + 1, 5) / 5)) / 2 for i in range(cycle)]
        top, floor = 1.5 * floor, 0.5 * floor
    end = np.array(result[:EPOCHS])
    return end, np.maximum(end, np.concatenate([[0.05], end[:-1]]))


def history(variant: str, weights: str, generator: np.random.Generator, classes: tuple[str, ...]) -> pd.DataFrame:
    gained, fall = OUTCOMES[variant]
    epoch = np.arange(1, EPOCHS + 1)
    lr, lr_max = rates(variant, generator)
    noisy = generator.normal(0, 0.012, EPOCHS) * np.sqrt(lr / lr.max())
    weighted = weights != "none"
    loss = (0.5 if weighted else 0.35) * np.exp(-epoch / fall) + (0.16 if weighted else 0.08) - gained + abs(noisy)
    result = {"epoch": epoch, "lr": lr, "lr_max": lr_max, "train_loss": loss * 0.9, "validation_loss": loss}
    for position, name in enumerate(classes):
        end = 0.93 - 0.1 * position + gained
        course = end - 0.9 * np.exp(-epoch / fall)
        shift = 0.03 if weighted else 0.0
        dice = np.clip(course - noisy, 0, 1)
        result |= {
            f"validation_accuracy_{name}": 1 - 0.1 * (1 - course),
            f"validation_precision_{name}": np.clip(course - shift - noisy, 0, 1),
            f"validation_recall_{name}": np.clip(course + shift + noisy, 0, 1),
            f"validation_f1_{name}": dice,
            f"validation_dice_{name}": dice,
            f"validation_auprc_{name}": np.clip(course + 0.03 - noisy / 2, 0, 1),
            f"validation_auroc_{name}": np.clip(course + 0.05, 0, 1),
        }
    means = np.mean([result[f"validation_dice_{name}"] for name in classes], axis=0)
    return pd.DataFrame(result | {"validation_dice_mean": means})


def made_courses(
    seeds: int = 3, *, classes: tuple[str, ...] = ("nucleus",), failed: int = 0, variants: int = 3
) -> StudyResults:
    """Returns results of variants × class weights × seeds; the first `failed` of them failed."""
    generator = np.random.default_rng(4)
    rows, histories, failures = [], [], []
    names = [*OUTCOMES, *(f"SGD kicks {k}" for k in range(4, variants + 1))][:variants]
    points = list(itertools.product(names, ["none", "inverse_frequency"], range(seeds)))
    for position, (variant, weights, seed) in enumerate(points):
        run, kind = f"{variant}-{weights}-{seed}", variant if variant in OUTCOMES else "SGD kicks"
        axes = {"train.variant": variant, "train.target.class_weights": weights}
        if position < failed:
            label = f"train ({', '.join(f'{k} = {v}' for k, v in axes.items())}), init {seed}, draw {seed}"
            failures.append({"stage": "train", "run": run, "configuration": label, "error": "loss is not finite"})
            continue
        dice = 0.9 + OUTCOMES[kind][0] - 0.002 * (weights != "none") + generator.normal(0, 0.002)
        identity = {"study": "optimizers", "stage": "train", "run": run, "parent": "", **axes, "domain": "dsb2018"}
        identity |= {"seed_init": seed, "seed_draw": seed}
        scores = {f"{m}_{c}": dice for c in classes for m in ("dice", "precision", "recall", "f1", "auprc", "auroc")}
        rows.append(
            {
                **identity, "status": "finished", "labels_train": 64, "labels_validation": 14, "labels": 78,
                "label_unit": "groups", "evaluated_domain": "dsb2018", "split": "test", "loss": 0.2, "loss_floor": 0.0,
                "loss_adjusted": 0.2, "accuracy": 0.97, "dice_mean": dice, "iou_mean": dice - 0.08, **scores,
            }
        )  # fmt: skip
        result = history(kind, weights, generator, classes)
        histories.append(result.assign(**identity))
    return StudyResults(
        name="optimizers",
        title="Optimizers, schedules and class weights on fluorescence nuclei",
        question="Which trains best, and do class weights help?",
        command="segue study run studies/optimizers.toml",
        spec_text=SPEC,
        table=pd.DataFrame(rows),
        histories=pd.concat(histories, ignore_index=True),
        failures=pd.DataFrame(failures, columns=["stage", "run", "configuration", "error"]),
        counts={"stages": len(points), "finished": len(points) - failed, "failed": failed, "pending": 0},
        cost=pd.DataFrame(),
        stages={"train": ["train.variant", "train.target.class_weights"]},
        parents={"train": None},
        domains=["dsb2018"],
        examples=[],
        targets={"train": [CLASSES, CLASSES | {"class_weights": "inverse_frequency"}]},
        variants={"train": {name: {"freeze": "none"} for name in names}},
    )
