"""A training killed at any moment ends with the very bytes that it would have had."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from samples.stages import (
    SGD,
    die_after,
    history,
    inputs_of,
    kill_often,
    require_same_bytes,
    spec_of,
    start,
    train,
    write_tiles,
)

from segue import networks
from segue.data import streaming
from segue.training import checkpoint
from segue.training.run import train_task
from segue.training.spec import StageSpec, TrainTask

# everything with a memory of its own: state of the schedule, best weights, moving average, momenta, position in
# windows over blocks of the file, draws of samples and of changes, dropout, parts of a batch
EVERYTHING: dict[str, object] = {
    "network": {"name": "resunet", "width": 8, "dropout": 0.2, "stochastic_depth": 0.2},
    "images": 76, "batch": 4, "epochs": 4, "validation": 4, "shuffle_window": 20, "memory_gb": 2.35e-3,
    "augment": {"dihedral": "random", "rotation_deg": 30, "scale": [0.8, 1.25], "noise": [0, 0.3], "probability": 0.7},
    "sampling": {"name": "class_balanced", "power": 0.5}, "ema": {"decay": 0.9}, "accumulate": 2, "clip_norm": 1.0,
    "restore_best": True,
}  # fmt: skip
# a threshold that is never met: the rate drops after each epoch but the first, is kicked after each second
FOLLOWING: dict[str, dict[str, object]] = {
    "plateau": {
        "schedule": {"name": "plateau", "patience": 0, "threshold": 0.99},
        "optimizer": {"name": "adam", "lr": 3e-3, "weight_decay": 1e-3},
        "warmup": {"epochs": 0.5},
    },
    "kicks": {
        "schedule": {"name": "kicks", "length": 1, "patience": 1, "threshold": 0.99, "kick": 0.5},
        "optimizer": {**SGD, "nesterov": True},
    },
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5", groups=72)


def train_streamed(spec: StageSpec, folder: Path, checkpoint_s: float = 0.0) -> None:
    """Trains with a checkpoint after every step; fails where the samples are not streamed from several blocks."""
    streaming.BLOCK_BYTES = 16 * 4 * 64 * 64  # the 144 tiles of the file are nine blocks
    output: list[str] = []
    train_task(TrainTask(spec, folder, "k", inputs_of(spec)), checkpoint_s=checkpoint_s, log=output.append)
    assert any("streamed in windows of 20 samples" in line for line in output), output


def run_alone(work: Any, *arguments: Any) -> None:
    process = start(work, *arguments)
    process.join(300)
    assert process.exitcode == 0, "its words are on stderr"


def require_killed_is_undisturbed(spec: StageSpec, folder: Path, kills: int) -> None:
    run_alone(train_streamed, spec, folder / "undisturbed", 1e9)
    rates = history(folder / "undisturbed")["lr_max"]
    assert rates.nunique() >= 3  # the schedule has turned, and gone back to the best weights
    kill_often(train_streamed, (spec, folder / "killed"), (1e9,), kills=kills, random_kills=1 + kills // 10)
    require_same_bytes(folder / "killed", folder / "undisturbed")
    assert json.loads((folder / "killed" / "timing.json").read_text())["interruptions"] >= kills
    assert sorted(path.name for path in folder.iterdir()) == ["killed", "undisturbed"]


@pytest.mark.slow
def test_killed_twice(tiles: Path, tmp_path: Path):
    """A stage with everything that has a memory, killed twice within its steps and once more at a random moment,
    ends as the undisturbed one."""
    spec = spec_of(tiles, **{**EVERYTHING, **FOLLOWING["kicks"]})
    require_killed_is_undisturbed(spec, tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("following", FOLLOWING)
def test_killed_twenty_times(tiles: Path, tmp_path: Path, following: str):
    """A stage with everything that has a memory, killed twenty times within its steps and some more at random moments,
    ends as the undisturbed one."""
    spec = spec_of(tiles, **{**EVERYTHING, **FOLLOWING[following], "epochs": 8})
    require_killed_is_undisturbed(spec, tmp_path, kills=20)


@pytest.fixture(scope="module")
def killed(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StageSpec, Path, Path]:
    """Returns a stage, what it becomes undisturbed, and where it lies killed behind its fifth checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    spec = spec_of(tiles, ema={"decay": 0.9}, epochs=3)
    undisturbed = train(spec, folder / "undisturbed")
    process = start(die_after, 5, 0, train, spec, folder / "run", None, 0.0)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    return spec, undisturbed, folder / "run.running"


def found_at(state: Path) -> int:
    """Returns how many steps had been taken in the state that a training would go on from, 0 without one."""
    network = networks.build(networks.NetworkSpec(width=8), channels=1, classes=2)
    actual = checkpoint.restore(state, network, torch.optim.Adam(network.parameters()))
    return 0 if actual is None else actual[0].updates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damaged"),
    [("tensors.safetensors", 0), *itertools.product(["tensors.safetensors", "progress.json"], [1, 2])],
)
def test_a_truncated_state_is_passed_over(
    killed: tuple[StageSpec, Path, Path], tmp_path: Path, damaged: int, file: str
):
    """Where the newest state was cut short by hand the one before is taken, and where both were the training begins
    again; to the same end."""
    spec, undisturbed, working = killed
    shutil.copytree(working, tmp_path / "run.running")
    states = sorted((path for path in (tmp_path / "run.running" / "state").glob("[0-9]*")), key=lambda p: int(p.name))
    assert len(states) == 2
    known = [json.loads((state / "progress.json").read_text())["updates"] for state in states]
    for state in states[2 - damaged :]:
        (state / file).write_bytes((state / file).read_bytes()[:-40])
    selected = found_at(tmp_path / "run.running" / "state")
    assert selected == [*known, 0][(1, 0, 2)[damaged]]
    run = train(spec, tmp_path / "run")
    require_same_bytes(run, undisturbed)
    timing = json.loads((run / "timing.json").read_text())
    assert timing["interruptions"] == (damaged < 2)
