"""What planning a study and running its stages cost beside the work of the stages.

    uv run python benchmarks/bench_scheduling.py [--stages 1000 10000 100000] [--workers 8]

A study over a dataset of noise, with one pretraining and transfers of it. Planning and `study status` are timed and
weighed; then all stages run on a Dask cluster of this machine, each replaced by a sleep of 10 ms, so that what is
measured is the driver, its scheduler and the exchange with the workers. Times are of the processor, of the process that
holds driver and scheduler; `whole` is what a clock shows. A step that was quadratic in the number of stages would show
in the columns per stage. Each size runs in processes of its own. Prints lines of a markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from segue.study.worker import StudyTask, TaskResult

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


def simulated(groups: Sequence[Sequence[StudyTask]]) -> list[TaskResult]:
    """Takes the place of training and scoring in the workers."""
    results = []
    for task in (task for group in groups for task in group):
        time.sleep(STAGE_S)
        results.append(TaskResult(task.key, trained=True, is_new=True, seconds=STAGE_S))
    return results


def peak_megabytes() -> float:
    """Returns the most memory that this process has had, from Linux: `resource` counts that of its parent as well."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def measure_plan(path: Path) -> str:
    """Returns the seconds of planning, the MB of the process after it, and the seconds of `study status` after that."""
    from segue.cli import describe
    from segue.study.plan import plan_study

    before = time.process_time()
    plan = plan_study(path)
    planned = time.process_time()
    megabytes = peak_megabytes()
    describe.describe_status(plan)
    return f"{planned - before:.2f} {megabytes:.0f} {time.process_time() - planned:.2f}"


def measure_run(path: Path, workers: int) -> str:
    """Returns how many stages ran, seconds of a clock, those of the processor in driver and scheduler, and their MB."""
    from segue.study import executor
    from segue.study.cluster import workers as study_workers
    from segue.study.plan import plan_study

    study_workers.run_until_signal = simulated  # type: ignore[assignment]
    plan = plan_study(path)
    before, began = time.process_time(), time.perf_counter()
    summary = executor.run_study(plan, workers=workers, side_by_side=1)
    if summary.finished != len(plan.trainings):
        raise SystemExit(f"{summary.finished} of {len(plan.trainings)} stages finished")
    spent = time.perf_counter() - began, time.process_time() - before
    return f"{summary.finished} {spent[0]:.2f} {spent[1]:.2f} {peak_megabytes():.0f}"


def main() -> None:
    if sys.argv[1:2] == ["--only"]:  # in a process that has not imported torch
        part, path, workers = sys.argv[2:]
        print(measure_plan(Path(path)) if part == "plan" else measure_run(Path(path), int(workers)))
        return
    from contest import head, machine, parse, row

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=8)
    options = parse(parser, stages=[80, 320], workers=2)
    print(machine(1))
    print(f"stages of {1000 * STAGE_S:.0f} ms, {options.workers} workers\n")
    columns = ("plan, s", "MB", "status, s", "whole, s", "of a worker beside the stage, ms", "MB")
    print(head("stages", *columns, "driver per stage, ms"), flush=True)
    for stages in options.stages:
        with tempfile.TemporaryDirectory() as folder:
            path = write_study(Path(folder), stages)
            numbers: list[str] = []
            for part in ("plan", "run"):
                words = [sys.executable, __file__, "--only", part, str(path), str(options.workers)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                numbers += done.stdout.split()
        planned, megabytes, status, count, whole, driver, most = map(float, numbers)
        beside = whole * options.workers / count - STAGE_S
        cells = (f"{planned:.2f}", f"{megabytes:.0f}", f"{status:.2f}", f"{whole:.0f}")
        cells += (f"{1000 * beside:.1f}", f"{most:.0f}")
        print(row(f"{int(count):,}", *cells, f"**{1000 * driver / count:.2f}**"), flush=True)


if __name__ == "__main__":
    main()
