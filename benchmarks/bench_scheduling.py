"""What planning a study and running its stages cost beside the work of the stages.

    uv run python benchmarks/bench_scheduling.py [--stages 1000 10000 100000] [--workers 8]

A study over a dataset of noise, with one pretraining and transfers of it. Planning, `study status` and the record of the
plan are timed and weighed; then all stages run on a Dask cluster of this machine, each replaced by a sleep of 10 ms, so
that what is measured is the driver, its scheduler and the exchange with the workers. Times are of the processor, of the
process that holds driver and scheduler; `whole` is what a clock shows. A step that was quadratic in the number of stages
would show in the columns per stage. Each size runs in a process of its own. Prints lines of a markdown table.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from contest import head, machine, parse, row

STAGE_S = 0.01
SEEDS = 10
STUDY = """
name = "scale"
seeds = {seeds}
network = {{ name = "resunet", width = 8 }}
split = {{ validation = 0.2, test = 0.2 }}
keep = "metrics"

[datasets.noise]
file = "noise.h5"

[domains]
noise = {{ dataset = "noise" }}

[stages.pretrain]
domain = "noise"
epochs = 1

[stages.transfer]
from = "pretrain"
domain = "noise"
images = {{ each = [1, 2, 3, 4] }}
epochs = 1
optimizer = {{ name = "adam", lr = {{ each = [{rates}] }} }}
"""


def write_study(folder: Path, stages: int) -> Path:
    """Writes a study of about so many stages and its dataset; returns its path."""
    from bench_streaming import make

    make(folder, 16, 32).rename(folder / "noise.h5")
    rates = ", ".join(f"{1e-5 * 1.001**k:.10f}" for k in range(max(1, stages // (4 * SEEDS))))
    path = folder / "study.toml"
    path.write_text(STUDY.format(seeds=SEEDS, rates=rates), encoding="utf-8")
    return path


def simulated(tasks: Sequence[object]) -> list[object]:
    """Takes the place of training and scoring in the workers."""
    from segue.study.worker import TaskResult

    time.sleep(STAGE_S)
    return [TaskResult(task.key, trained=True, is_new=True, seconds=STAGE_S) for task in tasks]  # type: ignore[attr-defined]


def measure(stages: int, workers: int) -> str:
    """Returns the row of one size."""
    from segue.cli import describe
    from segue.study import executor, workers as study_workers
    from segue.study.plan import plan_study

    study_workers.run_until_signal = simulated  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        path = write_study(Path(name), stages)
        seconds = {}

        # plan and status
        before = time.process_time()
        plan = plan_study(path)
        seconds["plan"] = time.process_time() - before
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        before = time.process_time()
        describe.describe_status(plan)
        seconds["status"] = time.process_time() - before

        # run
        before, began = time.process_time(), time.perf_counter()
        summary = executor.run_study(plan, workers=workers, side_by_side=1)
        driver, whole = time.process_time() - before, time.perf_counter() - began
    if summary.finished != len(plan.trainings):
        raise SystemExit(f"{summary.finished} of {len(plan.trainings)} stages finished")
    count = len(plan.trainings)
    return row(
        f"{count:,}",
        f"{seconds['plan']:.2f}",
        f"{megabytes:.0f}",
        f"{seconds['status']:.2f}",
        f"{whole:.0f}",
        f"{1000 * (whole * workers / count - STAGE_S):.1f}",
        f"**{1000 * driver / count:.2f}**",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--one", action="store_true", help="measure one size in this process, without a head")
    options = parse(parser, stages=[80, 320], workers=2)
    if options.one:
        print(measure(options.stages[0], options.workers), flush=True)
        return
    print(machine(1))
    print(f"stages of {1000 * STAGE_S:.0f} ms, {options.workers} workers\n")
    columns = ("plan, s", "MB", "status, s", "whole, s", "of a worker beside the stage, ms", "driver per stage, ms")
    print(head("stages", *columns), flush=True)
    for stages in options.stages:
        words = [sys.executable, __file__, "--one", "--stages", str(stages), "--workers", str(options.workers)]
        subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
