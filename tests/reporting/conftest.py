"""Made results of a study like the demo: three domains, the one in focus hardest, two sources, transfer and scratch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from segue.reporting.page import rendering
from segue.study.table import Example, StudyResults


@pytest.fixture
def real_png() -> None:
    """For tests of PNG files: they are drawn."""


@pytest.fixture(autouse=True)
def _undrawn_png(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the drawing of PNG files beside a page, which takes half of its time, where a test is of its text."""
    if "real_png" not in request.fixturenames:
        monkeypatch.setattr(rendering, "png_bytes", lambda figure: b"\x89PNG")


DOMAINS = ["-10nm", "0nm", "+10nm"]
FOCUS = {"-10nm": 0.015, "0nm": 0.055, "+10nm": 0.017}
SPEC = (
    'name = "demo"\nseeds = 2\n\n[stages.pretrain]\ndomain = { each = ["-10nm", "+10nm"] }  # <two> sources & "more"\n'
)


def blobs(generator: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image of bright discs in noise and its labels."""
    y, x = np.mgrid[:size, :size]
    label = np.zeros((size, size), dtype=np.int32)
    for _ in range(3):
        (cy, cx), radius = generator.uniform(15, size - 15, 2), generator.uniform(8, 16)
        label[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 1
    image = 1.0 + 0.35 * label * np.cos(1.4 * x + 0.5 * y) + generator.normal(0, 0.2, label.shape)
    return image, label


def examples() -> list[Example]:
    generator = np.random.default_rng(3)
    result = []
    for domain, shift in (("-10nm", 2), ("0nm", 6)):
        image, label = blobs(generator)
        worse = np.roll(label, (2 * shift, shift), axis=(0, 1))
        worse[5:14, 70:84] = 1
        predictions = {"after pretraining only": worse, "after transfer": np.roll(label, shift // 2, axis=1)}
        result.append(Example(image, label, domain, predictions))
    return result


def row(stage: str, run: str, parent: str, domain: str, evaluated: str, seed: int, loss: float, **more: object) -> dict:
    floor = 0.3133
    labels = more.get("transfer.images", more.get("scratch.images", 128))
    return {
        "study": "demo", "stage": stage, "run": run, "parent": parent, "status": "finished", "domain": domain,
        "seed_init": seed, "seed_draw": seed, "labels_train": labels, "labels_validation": 4,
        "labels": int(str(labels)) + 4, "label_unit": "images", "evaluated_domain": evaluated, "split": "test",
        "loss": loss + floor, "loss_floor": floor, "loss_adjusted": loss, "accuracy": 1 - loss,
        "dice_mean": 1 - 3 * loss, "iou_mean": 1 - 4 * loss, "dice_particle": 1 - 5 * loss, "selected_epoch": 4,
        "epochs": 5, "precision": "fp32", "threads": 1, **more,
    }  # fmt: skip


def curve(base: dict, loss: float, generator: np.random.Generator) -> list[dict]:
    keep = {k: v for k, v in base.items() if k in ("run", "stage", "seed_init", "seed_draw") or "." in k}
    falling = [0.3133 + loss + 0.25 * np.exp(-e) for e in range(5)]
    return [
        {**keep, "epoch": e + 1, "lr": 1e-3, "train_loss": v * 0.99, "validation_loss": v + generator.normal(0, 0.002)}
        for e, v in enumerate(falling)
    ]


def made(seeds: int = 3, *, scratch: bool = True) -> StudyResults:
    """Returns results in which transfer lowers the loss, more labels help and freezing the encoder costs a little."""
    generator = np.random.default_rng(1)
    rows: list[dict] = []
    histories: list[dict] = []
    for source, seed in itertools.product(["-10nm", "+10nm"], range(seeds)):
        run, axes = f"p{source}{seed}", {"pretrain.domain": source}
        for domain in DOMAINS:
            loss = FOCUS[domain] * (1.0 if domain == source else 2.2) * generator.lognormal(0, 0.1)
            rows.append(row("pretrain", run, "", source, domain, seed, loss, **axes))
        histories += curve(rows[-1], FOCUS[source], generator)
        for target, images, freeze in itertools.product(DOMAINS, [16, 64], ["none", "encoder", "decoder"]):
            if target == source:
                continue
            child = f"t{source}{seed}{target}{images}{freeze}"
            more = {**axes, "transfer.domain": target, "transfer.images": images, "transfer.freeze": freeze}
            factor = (16 / images) ** 0.12 * {"none": 1.0, "encoder": 1.12, "decoder": 1.03}[freeze]
            final_loss = FOCUS[target] * factor * generator.lognormal(0, 0.05)
            for domain in DOMAINS:
                loss = final_loss if domain == target else 1.5 * FOCUS[domain]
                rows.append(row("transfer", child, run, target, domain, seed, loss, **more))
            histories += curve(rows[-1], final_loss, generator)
    for target, images, seed in itertools.product(DOMAINS if scratch else [], [16, 64], range(seeds)):
        more = {"scratch.domain": target, "scratch.images": images}
        loss = FOCUS[target] * (90 / images) ** 0.5 * generator.lognormal(0, 0.1)
        rows.append(row("scratch", f"s{target}{images}{seed}", "", target, target, seed, loss, **more))
        histories += curve(rows[-1], loss, generator)
    stages = {
        "pretrain": ["pretrain.domain"],
        "transfer": ["transfer.domain", "transfer.images", "transfer.freeze"],
        "scratch": ["scratch.domain", "scratch.images"],
    }
    table = pd.DataFrame(rows)
    runs = table.drop_duplicates("run").groupby("stage").size()
    cost = pd.DataFrame(
        {
            "stage": list(runs.index), "runs": runs.to_numpy(), "seconds_total": 2.1 * runs.to_numpy(),
            "seconds_median": 2.1, "images_per_s": 55.3, "threads": 1, "precision": "fp32", "machine": "two cores",
        }
    )  # fmt: skip
    return StudyResults(
        name="demo",
        title="Transfer across defocus, from simulated HRTEM images",
        question="Does a network pretrained at one defocus segment particles at another, and what do a few labels add?",
        command="segue study run studies/demo.toml\nsegue report studies/demo.toml -o demo.html",
        spec_text=SPEC,
        table=table,
        histories=pd.DataFrame(histories),
        failures=pd.DataFrame({"stage": [], "run": [], "configuration": [], "error": []}),
        counts={
            "configurations": 30, "models": 90, "stages": int(runs.sum()), "finished": int(runs.sum()), "failed": 0,
            "pending": 0, "evaluations": len(table),
        },
        cost=cost,
        stages={stage: axes for stage, axes in stages.items() if scratch or stage != "scratch"},
        parents={s: "pretrain" if s == "transfer" else None for s in stages if scratch or s != "scratch"},
        domains=DOMAINS,
        examples=examples(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def results() -> StudyResults:
    return made()


@pytest.fixture(scope="session")
def make() -> Callable[..., StudyResults]:
    return made
