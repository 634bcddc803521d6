"""The same training done in another way gives the same weights: in parts, by processes, side by side."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from samples.stages import (
    GROUP_NORM,
    SGD,
    as_rank,
    die_after,
    history,
    inputs_of,
    newest_state,
    require_close,
    require_same_bytes,
    spec_of,
    start,
    train,
    train_together,
    weights,
    write_tiles,
)

from segue import networks, rng
from segue.cli.main import main
from segue.training import loop
from segue.training import run as fleet
from segue.training.distributed import ProcessGroup
from segue.training.run import train_tasks
from segue.training.spec import StageSpec, TrainTask

SEGUE = str(Path(sys.executable).with_name("segue"))
HEAD_ONLY = {"freeze": ["encoder", "decoder"]}  # batch norm, with frozen statistics
LOSSES: dict[str, dict[str, object]] = {
    "plain": {},
    "weighted": {"class_weights": [0.5, 4.0]},
    "counted": {"class_weights": "inverse_frequency", "label_smoothing": 0.1},
    "dice": {"loss": "dice_cross_entropy", "class_weights": [1.0, 3.0]},
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5")


def moved(run: Path, spec: StageSpec) -> float:
    """Returns the largest change of a weight from the first to the last."""
    with rng.scope(spec.seed, "init", spec.init):
        network = networks.build(spec.network, channels=1, classes=2)
    last = weights(run)
    return max((last[name] - value).abs().max().item() for name, value in network.named_parameters())


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        *(
            pytest.param({"network": GROUP_NORM}, loss, marks=[] if loss == "dice" else pytest.mark.slow)
            for loss in LOSSES
        ),
        pytest.param(HEAD_ONLY, "weighted", marks=pytest.mark.slow),
    ],
    ids=[*(f"group norm, {loss}" for loss in LOSSES), "frozen statistics"],
)
def test_a_batch_in_parts_is_the_whole_batch(tiles: Path, tmp_path: Path, kind: dict[str, object], loss: str):
    """Batches of 8 (the last of 4) at once, in 4 and in 8 parts give the same weights, although tiles ignore between
    none and all of their pixels: a part counts by its labels, not by its tiles."""
    spec = spec_of(tiles, images=12, epochs=1, optimizer=SGD, select="last", target=LOSSES[loss], **kind)
    whole = train(spec, tmp_path / "1")
    for parts in (4, 8) if loss == "weighted" else (4,):
        require_close(train(spec.model_copy(update={"accumulate": parts}), tmp_path / str(parts)), whole)
    assert moved(whole, spec) > 0.01  # a hundred times what is allowed to differ


@pytest.mark.slow
def test_live_batch_norm_sees_the_parts(tiles: Path, tmp_path: Path):
    """The control of the test above: with batch statistics parts are not the whole, and by far more than is allowed."""
    runs = [train(spec_of(tiles, optimizer=SGD, accumulate=parts), tmp_path / str(parts)) for parts in (1, 4)]
    first, second = (weights(run) for run in runs)
    assert max((first[name] - second[name]).abs().max().item() for name in first if "weight" in name) > 1e-3


def free_port() -> int:
    with socket.socket() as actual:
        actual.bind(("127.0.0.1", 0))
        return actual.getsockname()[1]


def train_asking_often(spec: StageSpec, folder: Path, checkpoint_s: float = 60.0) -> None:
    """Trains, looking at every second step whether it is time for a checkpoint."""
    loop.CHECK_EVERY_STEPS = 2
    train(spec, folder, checkpoint_s=checkpoint_s)


def train_and_die(saves: int, spec: StageSpec, folder: Path) -> None:
    """Trains with a checkpoint at every second step; the first process, which writes them, dies after so many."""
    die_after(saves, 0, train_asking_often, spec, folder, 0.0)


def start_two(work: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    port = free_port()
    return [start(as_rank, rank, 2, port, work, arguments) for rank in range(2)]


def train_in_two(spec: StageSpec, folder: Path) -> Path:
    processes = start_two(train_asking_often, spec, folder)
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0], "their words are on stderr"
    return folder


SHARED: dict[str, dict[str, object]] = {  # the last batch of an epoch is of a single tile
    "group norm": {"network": GROUP_NORM, "ema": {"decay": 0.9}, "clip_norm": 0.5, "film": 2, "batch": 4},
    "frozen statistics": {
        **HEAD_ONLY, "target": LOSSES["dice"], "accumulate": 2, "augment": "dihedral", "epochs": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def in_two(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[StageSpec, Path]]:
    """Returns a function that gives one of SHARED and the run, alone in its folder, of two processes, trained once."""

    @cache
    def trained(kind: str) -> tuple[StageSpec, Path]:
        spec = spec_of(tiles, images=17, optimizer=SGD, select="last", **SHARED[kind])
        return spec, train_in_two(spec, tmp_path_factory.mktemp("two") / "run")

    return trained


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in SHARED])
def test_two_processes_are_one(tmp_path: Path, in_two: Callable[[str], tuple[StageSpec, Path]], kind: str):
    """Two processes that share each batch (the last is of a single tile) train as one process does with all of it;
    the run is written once, and nothing lies beside it."""
    spec, together = in_two(kind)
    alone = train(spec, tmp_path / "alone")
    require_close(together, alone, atol=5e-4, rtol=1e-3)
    assert [path.name for path in together.parent.iterdir()] == ["run"]
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert moved(alone, spec) > 0.05  # a hundred times what is allowed to differ


@pytest.mark.slow
def test_two_processes_killed_go_on(tmp_path: Path, in_two: Callable[[str], tuple[StageSpec, Path]]):
    """Two processes killed in the middle of an epoch, begun again, end with the weights and the history, losses and
    counts of pixels of the interrupted epoch included, of two that were left alone."""
    spec, undisturbed = in_two("group norm")
    # an epoch of 5 steps has checkpoints after 2 and 4, and perhaps one at its end: the fourth is within the second
    processes = start_two(train_and_die, 4, spec, tmp_path / "killed")
    processes[0].join(300)
    assert processes[0].exitcode == -signal.SIGKILL
    processes[1].kill()
    processes[1].join()
    state = tmp_path / "killed.running" / "state"
    progress = json.loads((state / str(newest_state(state)) / "progress.json").read_text())
    assert len(progress["history"]) == 1 and progress["updates"] in (7, 9)
    require_same_bytes(train_in_two(spec, tmp_path / "killed"), undisturbed)


def fail_alone(spec: StageSpec, folder: Path) -> None:
    """Trains; the first process finds the disk full when the run is to be written."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if os.environ["RANK"] == "0":
        fleet._write_run = full
    train(spec, folder)


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_others(tiles: Path, tmp_path: Path):
    """Where only the first process fails, as on a full disk, it says so, and the second does not wait for ever."""
    spec = spec_of(tiles, network=GROUP_NORM, images=8, epochs=1)
    processes = start_two(fail_alone, spec, tmp_path / "run")
    for process in processes:
        process.join(300)
    assert processes[0].exitcode == 2
    assert processes[1].exitcode not in (None, 0)


SPEC = """
network = {{ name = "resunet", width = 8{norm} }}
split = {{ validation = 0.2, test = 0.2 }}
precision = "fp32"
epochs = 1
data = [{{ dataset = "{dataset}", images = 8 }}]
"""


def run_command(log: Path, *arguments: str) -> None:
    """Runs `segue` with the arguments; what it says goes into `log`, followed by the number of the process."""
    with log.with_name(f"{log.name}-{os.environ['RANK']}").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["segue", *arguments]
    main()


@pytest.mark.slow
def test_live_batch_norm_over_cpu_processes_is_refused(tiles: Path, tmp_path: Path):
    """Each of two processes that would train batch norm on CPUs ends with exit code 2 and says why and what instead."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(dataset=tiles, norm=""))
    processes = start_two(run_command, tmp_path / "told", "train", str(spec), str(tmp_path / "run"))
    for rank, process in enumerate(processes):
        process.join(300)
        output = (tmp_path / f"told-{rank}").read_text()
        assert process.exitcode == 2, output
        assert "batch normalization that is trained, whose statistics several CPU processes cannot share" in output
        assert 'set network.norm = "group", freeze the parts that have it, or train in one process.' in output
        assert "Traceback" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.toml", "told-0", "told-1"]


@pytest.mark.slow
def test_torchrun_trains_one_model(tiles: Path, tmp_path: Path):
    """`torchrun` with two processes on the command line gives the weights of one, in one run folder."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC.format(dataset=tiles, norm=', norm = "group"') + 'optimizer = { name = "sgd", lr = 0.05 }\n')
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    for name, how in (("one", []), ("two", [sys.executable, *launcher])):
        command = [*how, SEGUE, "train", str(spec), str(tmp_path / name)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    require_close(tmp_path / "two", tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "spec.toml", "two"]


def test_a_share_of_nothing():
    """Shares are disjoint, cover the batch, and differ by one sample at most, also where there are fewer samples."""
    for count in (0, 1, 2, 7, 8):
        shares = [ProcessGroup(rank, 3).shard(5, 5 + count) for rank in range(3)]
        assert [n for a, b in shares for n in range(a, b)] == list(range(5, 5 + count))
        assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1


def fleet_of(tiles: Path) -> dict[str, StageSpec]:
    """Returns stages that share their pass and differ in all else that they may, one of which will fail."""
    shared: dict[str, object] = {"order": "shared", "augment": "dihedral", "epochs": 3}
    dropout = {"name": "resunet", "width": 8, "dropout": 0.3, "stochastic_depth": 0.3}
    members: dict[str, dict[str, object]] = {
        "sgd": {"optimizer": SGD, "schedule": {"name": "cosine"}, "clip_norm": 1.0, "epochs": 2},
        "dropout": {"network": dropout, "init": 1, "accumulate": 2, "ema": {"decay": 0.9}},
        "stops": {
            "early_stopping": {"patience": 1, "min_delta": 2, "monitor": "validation_dice_disc"},
            "freeze": "encoder",
        },
        "diverges": {"optimizer": {"name": "adam", "lr": 1e30}},
        "mistaken": {"monitor": "validation_auprc_nucleus"},
        "deeper": {"freeze": "encoder.9"},
    }
    return {name: spec_of(tiles, **{**shared, **more}) for name, more in members.items()}


@pytest.fixture(scope="module")
def alone(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Returns where the members of the fleet lie that were trained alone, and what stopped the others."""
    folder, output = tmp_path_factory.mktemp("alone"), {}
    for name, spec in fleet_of(tiles).items():
        error = train_together({name: spec}, folder)[name]
        if error is not None:
            output[name] = str(error)
    assert sorted(output) == ["deeper", "diverges", "mistaken"]
    return folder, output


def require_fleet(folder: Path, errors: dict[str, Any], alone: tuple[Path, dict[str, str]], tiles: Path) -> None:
    known, output = alone
    assert {name: str(error) for name, error in errors.items() if error is not None} == output
    for name in fleet_of(tiles).keys() - output.keys():
        require_same_bytes(folder / name, known / name)
    assert len(history(folder / "stops")) == 2


@pytest.mark.slow
def test_a_fleet_is_each_alone(tiles: Path, tmp_path: Path, alone: tuple[Path, dict[str, str]]):
    """Members with other optimizers, schedules, initialisations, lengths and dropout become, byte for byte, what they
    become alone; those that fail do so alone, in the same words, and leave nothing."""
    errors = train_together(fleet_of(tiles), tmp_path)
    require_fleet(tmp_path, errors, alone, tiles)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dropout", "sgd", "stops"]


@pytest.mark.slow
def test_a_fleet_killed_goes_on(tiles: Path, tmp_path: Path, alone: tuple[Path, dict[str, str]]):
    """A fleet killed at several moments, one of its states lost so that its members are at different steps, ends with
    the same bytes."""
    state = tmp_path / "dropout.running" / "state"
    for saves in (8, 9):  # of all members together, one after another at each step
        process = start(die_after, saves, 0, train_together, fleet_of(tiles), tmp_path, None, 0.0)
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        if saves == 8:
            shutil.rmtree(state / str(newest_state(state)))
    errors = train_together(fleet_of(tiles), tmp_path)
    require_fleet(tmp_path, errors, alone, tiles)


def test_a_member_whose_parent_leaks_fails_alone(tiles: Path, tmp_path: Path):
    """What is wrong with the parent of one member, the first, does not stop the others."""
    seen = train(
        spec_of(tiles, images="all", split={"seed": 5, "validation": 0.2}, batch=48, epochs=1), tmp_path / "seen"
    )
    spec = spec_of(tiles, order="shared", epochs=1)
    stages = [
        TrainTask(spec, tmp_path / name, "k", inputs_of(spec, parent))
        for name, parent in (("leaks", seen), ("good", None))
    ]
    first, second = train_tasks(stages)
    assert first is not None and "groups were trained on, by it or by one of its ancestors" in str(first)
    assert second is None
    assert len(history(tmp_path / "good")) == 1
