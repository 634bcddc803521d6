"""Small stages over discs, and killing them: trainings of a fraction of a second for tests of the engine."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from samples.discs import disc_part
from segue.data.spec import Layer
from segue.data.writer import merge_parts, write_part
from segue.errors import SegueError
from segue.training import checkpoint
from segue.training.run import train_task, train_tasks
from segue.training.spec import Inputs, StageSpec, TrainTask

SMALL: dict[str, object] = {
    "network": {"name": "resunet", "width": 8},
    "split": {"validation": 0.2, "test": 0.2},
    "precision": "fp32",
    "epochs": 2,
    "batch": 8,
}
GROUP_NORM = {"name": "resunet", "width": 8, "norm": "group"}
SGD = {"name": "sgd", "lr": 0.05}  # steps in proportion to the gradient: Adam would enlarge what is rounded
RESULTS = ("weights.safetensors", "history.parquet", "metrics.json", "groups.json", "spec.json")

# children of a server that has imported torch once: each begins at once, and can be killed alone
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch._dynamo", "pandas", "pyarrow.parquet", "segue.training.run", "segue.study.evaluate"]
)


def write_tiles(out: Path, *, groups: int = 30, size: int = 64, per_condition: int = 1, chunk: int = 8) -> Path:
    """Writes discs of which every group ignores another share of its pixels (all of them in every 16th), stored and
    visited in blocks of `chunk` tiles; returns the path."""
    parts = []
    for group in range(groups):
        part = disc_part(group, size=size, per_condition=per_condition)
        part.labels["discs"][:, : size * (group % 16) // 15] = -1
        parts.append(out.with_suffix("") / f"{group}.part")
        write_part(parts[-1], part)
    layers = [Layer("discs", "classes", ("background", "disc"))]
    merge_parts(
        parts, out, layers=layers, channels=["intensity"], attributes={"provenance": "made"}, splits={}, chunk=chunk
    )
    return out


def spec_of(dataset: Path, images: object = 20, **more: object) -> StageSpec:
    data = {"dataset": str(dataset), "images": images}
    return StageSpec.model_validate({"data": [data], **SMALL, **more})


def inputs_of(spec: StageSpec, parent: Path | None = None) -> Inputs:
    return Inputs({item.dataset: (Path(item.dataset), "tiles") for item in spec.data}, parent)


def train(spec: StageSpec, folder: Path, parent: Path | None = None, checkpoint_s: float = 60.0) -> Path:
    train_task(TrainTask(spec, folder, "k", inputs_of(spec, parent)), checkpoint_s=checkpoint_s)
    return folder


def train_together(
    specs: Mapping[str, StageSpec], folder: Path, parent: Path | None = None, checkpoint_s: float = 60.0
) -> dict[str, SegueError | None]:
    """Trains a fleet into `folder`/<name>; returns what stopped each."""
    stages = [TrainTask(spec, folder / name, "k", inputs_of(spec, parent)) for name, spec in specs.items()]
    return dict(zip(specs, train_tasks(stages, checkpoint_s=checkpoint_s), strict=True))


def weights(run: Path, which: str = "weights") -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(run / f"{which}.safetensors")


def history(run: Path) -> Any:
    """Returns the run's history, a data frame with a row per epoch."""
    import pandas as pd

    return pd.read_parquet(run / "history.parquet")


def require_same_bytes(run: Path, other: Path) -> None:
    """The two runs agree in every file of results."""
    for name in RESULTS:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    assert (run / "last.safetensors").exists() == (other / "last.safetensors").exists()
    if (run / "last.safetensors").exists():
        assert (run / "last.safetensors").read_bytes() == (other / "last.safetensors").read_bytes()


def require_close(run: Path, other: Path, *, atol: float = 1e-4, rtol: float = 1e-4) -> None:
    """The two runs agree in weights (`atol`) and losses (`rtol`) within the rounding of float32, which may turn a ReLU
    on or off, and which grows with every step."""
    for name, value in weights(other).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    mine, theirs = history(run), history(other)
    assert list(mine.columns) == list(theirs.columns)
    losses = [name for name in mine.columns if "loss" in name or name.startswith("lr")]
    np.testing.assert_allclose(mine[losses], theirs[losses], rtol=rtol, atol=1e-6)
    counted = [name for name in mine.columns if name not in losses]  # a pixel on the verge may change its class
    np.testing.assert_allclose(mine[counted], theirs[counted], atol=2e-3)


def as_rank(rank: int, world: int, port: int, work: Any, arguments: Sequence[Any]) -> None:
    """Does the work as one of several processes, with the variables that torchrun sets."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    work(*arguments)


def quietly(work: Any, *arguments: Any) -> None:
    """Does the work in a child; a failure is told on stderr and by the exit code 1, 2 for the user's mistakes."""
    code = 0
    gc.freeze()  # else the collector would look through, and so copy, all that the server has imported
    try:
        work(*arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:
        traceback.print_exc()
        code = 2 if isinstance(error, SegueError) else 1
    sys.stderr.flush()
    os._exit(code)


def start(work: Any, *arguments: Any) -> BaseProcess:
    process = FORKS.Process(target=quietly, args=(work, *arguments))
    process.start()
    return process


def newest_state(state: Path) -> int:
    return max(int(path.name) for path in state.iterdir() if path.name.isdigit())


def die_after(saves: int, calls: int, work: Any, *arguments: Any) -> None:
    """Does the work in a child that kills itself (SIGKILL), at the same moment however slow the machine is: after so
    many checkpoints and, from there, so many calls of functions, which may be in the midst of the next checkpoint."""
    save, written = checkpoint.save, 0

    def save_and_count(*given: Any, **named: Any) -> None:
        nonlocal written
        save(*given, **named)
        written += 1
        if written == saves:
            die_in(calls)

    checkpoint.save = save_and_count
    work(*arguments)


def die_in(calls: int) -> None:
    remaining = calls

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal remaining
        remaining -= event in ("call", "c_call")
        if remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    count(None, "", None)
    sys.setprofile(count)


def kill_often(
    work: Any, arguments: Sequence[Any], at_last: Sequence[Any] = (), *, kills: int, random_kills: int
) -> None:
    """Starts the work again and again, each time killed (SIGKILL), and at last, with the arguments that are then given
    besides, does it to its end.

    `kills` attempts kill themselves after one to three checkpoints and up to some steps more; then `random_kills` are
    killed from here at any moment from their start on, where they are not at their end already.
    """
    generator = np.random.default_rng(0)
    for _ in range(kills):
        saves, calls = int(generator.integers(1, 4)), int(generator.integers(20_000))
        process = start(die_after, saves, calls, work, *arguments)
        process.join(300)
        assert process.exitcode == -signal.SIGKILL, "the child failed or was done too soon; its words are on stderr"
    for _ in range(random_kills):
        process = start(work, *arguments)
        time.sleep(generator.uniform(0, 0.8))
        process.kill()
        process.join(300)
        assert process.exitcode in (0, -signal.SIGKILL), "the child failed; its words are on stderr"
    process = start(work, *arguments, *at_last)
    process.join(300)
    assert process.exitcode == 0, "the child failed; its words are on stderr"
