"""Results of a study of targets that differ in how well they find objects, for tests of its page."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from segue.study.table import ObjectExample, StudyResults

# at IoU 0.5, how fast AP falls with it, merges and splits in 400 objects, seconds to train and to decode
TARGETS = {
    "classes": (0.62, 0.9, 60, 4, 150, 0.002),
    "boundary": (0.74, 0.8, 22, 9, 152, 0.006),
    "flows": (0.79, 0.6, 9, 12, 156, 0.11),
}
SIDE = 160


def disc(at: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (y - at[0]) ** 2 + (x - at[1]) ** 2 <= radius**2


def fields() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns labels of touching discs with predictions that merge, split and miss some and invent others."""
    label = np.zeros((SIDE, SIDE), np.int32)
    for number, at in enumerate(itertools.product(range(14, 150, 22), range(14, 150, 21)), start=1):
        label[disc((at[0] + 3 * np.sin(number), at[1]), 10.5)] = number
    label[:, 150:] = -1
    joined = np.where(label > 0, label, 0)
    joined[joined == 10] = 9
    joined[joined == 18] = 17
    cut = np.where(label > 0, label, 0)
    cut[:, 78:][cut[:, 78:] == 25] = 90
    cut[cut == 31] = 0
    cut[disc((80, 0), 2.5)] = 91
    return label, {"joined": joined, "cut": cut}


def made(seeds: int = 3) -> StudyResults:
    """Returns results of a study of three targets: flows best, classes merge most."""
    generator = np.random.default_rng(6)
    rows, timings = [], []
    for (target, (height, fall, merges, splits, train_s, decode_s)), seed in itertools.product(
        TARGETS.items(), range(seeds)
    ):
        run = f"{target}-{seed}"
        ap = {
            f"ap{p}": height * (1 - fall * ((p - 50) / 45) ** 2) + generator.normal(0, 0.01) for p in range(50, 100, 5)
        }
        scores = {
            **ap, "ap_mean": float(np.mean(list(ap.values()))), "f1_50": 2 * ap["ap50"] / (1 + ap["ap50"]),
            "pq": ap["ap50"] * 0.8, "count_error_relative": 0.004 * merges, "objects_true": 400.0,
            "merges": float(merges + seed), "splits": float(splits - seed), "dice_mean": 0.9, "loss": 0.3,
        }  # fmt: skip
        rows.append(
            {"study": "objects", "stage": "train", "run": run, "parent": "", "train.target.name": target,
             "domain": "nuclei", "seed_init": seed, "seed_draw": 0, "evaluated_domain": "nuclei", "split": "test",
             **scores}
        )  # fmt: skip
        timings.append({"run": run, "evaluated_domain": "nuclei", "train_s": train_s + seed, "decode_s": decode_s})
    label, actual = fields()
    image = (label > 0) + generator.normal(0, 0.1, label.shape)
    predictions = {"flows-1": np.maximum(label, 0), "boundary-1": actual["cut"], "classes-1": actual["joined"]}
    return StudyResults(
        name="objects",
        title="Targets",
        question="",
        command="segue study run",
        spec_text="",
        table=pd.DataFrame(rows),
        histories=pd.DataFrame(),
        failures=pd.DataFrame(),
        counts={"finished": len(rows)},
        cost=pd.DataFrame(),
        stages={"train": ["train.target.name"]},
        parents={"train": None},
        domains=["nuclei"],
        examples=[],
        timings=pd.DataFrame(timings),
        targets={"train": [{"name": name} for name in TARGETS]},
        object_examples=[ObjectExample(image, label, "nuclei", 4, predictions)],
    )
