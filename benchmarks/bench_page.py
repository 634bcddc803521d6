"""What the page of a study of ten thousand models costs.

    uv run python benchmarks/bench_page.py [--models 10000] [--published] [--out FOLDER]

A table with the columns and histories of segue's own studies is made up: pretraining on five domains, transfers to the
other four by number of labels, frozen part and learning rate, five seeds. The page is made in a process of its own;
times are of the processor, imports included. With --published also the page of the published table of 7,200 models on
eleven domains in `examples/`. Prints lines of a markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from segue.study.table import StudyResults

EXAMPLES = Path(__file__).parents[1] / "examples"
DOMAINS = {"-10 nm": 0.015, "-5 nm": 0.019, "0 nm": 0.055, "+5 nm": 0.021, "+10 nm": 0.017}  # loss there
IMAGES, FREEZE = [16, 64, 128, 256], {"none": 1.0, "encoder": 1.4, "decoder": 1.05}
SEEDS, EPOCHS, FLOOR = 5, 20, 0.3133


def make_results(models: int) -> StudyResults:
    """Returns results of so many models or a few more, whose losses are products of effects and noise."""
    generator = np.random.default_rng(0)
    rates = {3e-4 * 1.3**k: 1 + 0.05 * k for k in range(-(-models // (5 * 4 * 4 * 3 * SEEDS)))}
    rows: list[dict] = []
    for source, seed in itertools.product(DOMAINS, range(SEEDS)):
        axes = {"pretrain.domain": source}
        factors = {name: 1.0 if name == source else 2.2 for name in DOMAINS}
        rows += _rows(generator, "pretrain", f"p{source}{seed}", "", source, seed, axes, factors)
        grid = itertools.product(DOMAINS, IMAGES, FREEZE.items(), rates.items())
        for target, images, (freeze, by_freeze), (rate, by_rate) in grid:
            if target != source:
                more = {"transfer.domain": target, "transfer.images": images, "transfer.freeze": freeze}
                more["transfer.optimizer.lr"] = rate
                by_images = (16 / images) ** 0.12 * by_freeze * by_rate
                factors = {name: by_images if name == target else 1.8 * by_images for name in DOMAINS}
                name = f"t{source}{target}{images}{freeze}{rate:.0e}-{seed}"
                rows += _rows(
                    generator, "transfer", name, f"p{source}{seed}", target, seed, axes | more, factors, images
                )
    table = pd.DataFrame(rows)
    runs = table[table["domain"] == table["evaluated_domain"]]
    axes_of = {
        stage: [c for c in map(str, table.columns) if c.startswith(f"{stage}.")] for stage in ("pretrain", "transfer")
    }
    return StudyResults(
        name="page", title=f"{len(runs):,} models", question="What does a page cost?", command="", spec_text="",
        table=table, histories=_histories(runs, generator), failures=pd.DataFrame(), cost=pd.DataFrame(),
        counts={"models": len(runs), "finished": len(runs)}, stages=axes_of,
        parents={"pretrain": None, "transfer": "pretrain"}, domains=list(DOMAINS), examples=[],
    )  # fmt: skip


def _rows(
    generator: np.random.Generator, stage: str, run: str, parent: str, domain: str, seed: int, axes: dict,
    factors: dict[str, float], images: int = 512,
) -> list[dict]:  # fmt: skip
    """Returns a row per domain that a run is scored on."""
    losses = {name: DOMAINS[name] * factor * generator.lognormal(0, 0.08) for name, factor in factors.items()}
    return [
        {
            "study": "page", "stage": stage, "run": run, "parent": parent, "status": "finished", **axes,
            "domain": domain, "seed_init": seed, "seed_draw": seed, "labels_train": images,
            "labels_validation": images // 4, "labels": images + images // 4, "label_unit": "images",
            "selected_epoch": EPOCHS, "epochs": EPOCHS, "precision": "fp32", "threads": 1, "evaluated_domain": name,
            "split": "test", "loss": FLOOR + loss, "loss_floor": FLOOR, "loss_adjusted": loss, "accuracy": 1 - loss,
            "iou_mean": 1 - 4 * loss, "dice_mean": 1 - 3 * loss, "dice_particle": 1 - 5 * loss,
            "precision_particle": 1 - 4 * loss, "recall_particle": 1 - 6 * loss,
        }
        for name, loss in losses.items()
    ]  # fmt: skip


def _histories(runs: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """Returns falling losses by epoch."""
    columns = ["run", "stage", "seed_init", "seed_draw", *(c for c in map(str, runs.columns) if "." in c)]
    histories = runs.loc[runs.index.repeat(EPOCHS), [*columns, "loss"]].reset_index(drop=True)
    epochs = np.tile(np.arange(1, EPOCHS + 1), len(runs))
    losses = histories["loss"] + 0.25 * np.exp(-epochs / 4) + generator.normal(0, 0.002, len(epochs))
    return histories.drop(columns="loss").assign(
        epoch=epochs, lr=1e-3 * 0.9**epochs, train_loss=0.99 * losses, validation_loss=losses
    )


def measure(table: str, out: Path) -> str:
    """Returns the models of a page, the seconds of the processor, megabytes of the page and the most memory."""
    if table == "published":
        from segue import api

        data = EXAMPLES / "data" / "published-hrtem" / "defocus.parquet"
        making_s, models = 0.0, "7200"
        api.report(data, out, columns=EXAMPLES / "published-hrtem-defocus.toml")
    else:
        before = processor_s()
        results = make_results(int(table))
        making_s, models = processor_s() - before, str(results.counts["models"])
        from segue.reporting.page.page import write_page

        write_page(results, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{models} {processor_s() - making_s:.1f} {out.stat().st_size / 1e6:.2f} {peak / 1000:.0f}"


def processor_s() -> float:
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def main() -> None:
    if sys.argv[1:2] == ["--only"]:  # in a process that has imported nothing of the page
        print(measure(sys.argv[2], Path(sys.argv[3])))
        return
    from contest import head, machine, parse, row

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[10_000])
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parse(parser, models=[300])
    print(machine(1))
    print(head("models", "time of the processor, s", "page, MB", "most memory, MB"), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        for table in [*map(str, options.models), *(["published"] if options.published else [])]:
            words = [sys.executable, __file__, "--only", table, str(folder / f"{table}.html")]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            models, seconds, *rest = done.stdout.split()
            print(row(f"{int(models):,}", f"**{seconds}**", *rest), flush=True)


if __name__ == "__main__":
    main()
