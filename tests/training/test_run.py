"""What the settings of a stage do: what stays frozen, what is kept, when it ends, what is told, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples.stages import SGD, history, require_same_bytes, spec_of, train, weights, write_tiles

from segue import networks, rng
from segue.data.streaming import StreamedSource
from segue.errors import SegueError, SpecError
from segue.inference.predict import forward
from segue.spec import validate
from segue.study.evaluate import score_run
from segue.training import checkpoint, freezing, loop, schedules
from segue.training.logging import load_film
from segue.training.run_folder import load_run
from segue.training.spec import StageSpec

DROPPING = {"name": "plateau", "patience": 0, "threshold": 0.99}  # after every epoch but the first
PLAIN_SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0}
ONE_STEP = {"batch": 12, "images": 12, "optimizer": PLAIN_SGD, "keep_epochs": True}  # in each epoch


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5")


@pytest.fixture(scope="module")
def parent(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spec_of(tiles), tmp_path_factory.mktemp("parent") / "run")


def of_epoch(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(run / "epochs" / f"{epoch}.safetensors")


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def parameters() -> list[str]:
    """Returns the names of what is trained, the running statistics not among them."""
    network = networks.build(networks.NetworkSpec(width=8), channels=1, classes=2)
    return [name for name, _ in network.named_parameters()]


def names(part: str) -> set[str]:
    with rng.scope("unused"):
        network = networks.build(networks.NetworkSpec(width=8), channels=1, classes=2)
    owners = freezing.parameter_names(network, (part,))
    return {name for name in network.state_dict() if networks.is_under(name, owners)}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    "part", ["encoder.0-2", "head", *(pytest.param(part, marks=pytest.mark.slow) for part in ("encoder", "decoder"))]
)
def test_what_is_frozen_keeps_every_bit(tiles: Path, tmp_path: Path, parent: Path, part: str):
    """Under weight decay, a moving average and going back to the best weights, neither weights nor statistics of a
    frozen part differ by a bit from the parent's, in any weights that are kept; everything else moves."""
    spec = spec_of(
        tiles, images=12, epochs=3, freeze=part, ema={"decay": 0.5}, schedule=DROPPING, restore_best=True,
        keep_epochs=True, optimizer={"name": "adamw", "lr": 1e-3, "weight_decay": 0.1},
    )  # fmt: skip
    run, before, selection = train(spec, tmp_path / "run", parent), weights(parent), names(part)
    for after in (weights(run), of_epoch(run, 1), of_epoch(run, 3)):
        assert changed(before, after) == before.keys() - selection
    counted = metrics(run)["parameters"]
    assert all(counted[leaf]["trainable"] == 0 for leaf in counted if leaf == part or leaf.startswith(f"{part}."))
    assert counted["network"]["trainable"] == sum(before[name].numel() for name in set(parameters()) - selection)


def test_unfreezing_moves_only_afterwards(tiles: Path, tmp_path: Path, parent: Path):
    """Each stage of the encoder keeps its bits up to the epoch in which it is set free, and moves from there on."""
    steps = [{"epoch": 2, "parts": "encoder.3"}, {"epoch": 3, "parts": ["encoder.1-2"]}]
    spec = spec_of(tiles, epochs=3, freeze=["encoder"], unfreeze=steps, keep_epochs=True, augment="dihedral")
    run, before = train(spec, tmp_path / "run", parent), weights(parent)
    free = before.keys() - names("encoder")
    for epoch, more in ((1, set()), (2, names("encoder.3")), (3, names("encoder.1-3"))):
        free = free | more
        assert changed(before, of_epoch(run, epoch)) == free
    counted = metrics(run)["parameters"]
    assert counted["encoder.stem"]["trainable"] == counted["encoder.0"]["trainable"] == 0
    assert counted["encoder.3"]["trainable"] == counted["encoder.3"]["parameters"]


def test_average_is_that_of_the_weights_after_each_step(tiles: Path, tmp_path: Path, parent: Path):
    """The average of a training is what follows in float64 from the weights that the same training without one has
    after each of its steps, statistics of batch norm included; it is what is validated and kept."""
    spec = spec_of(tiles, **ONE_STEP, epochs=5, select="last")
    plain = train(spec, tmp_path / "plain", parent)
    averaged = train(spec_of(tiles, **ONE_STEP, epochs=5, select="last", ema={"decay": 0.4}), tmp_path / "a", parent)
    expected = {name: value.double() for name, value in weights(parent).items()}
    for step in range(1, 6):
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in of_epoch(plain, step).items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
        for name, value in of_epoch(averaged, step).items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    model = load_run(averaged)
    actual = score_run(model, tiles, model.spec.data[0], "validation")["scores"]["loss"]
    assert actual == metrics(averaged)["scores"]["validation_loss"] != metrics(plain)["scores"]["validation_loss"]


def test_early_stopping(tiles: Path, tmp_path: Path):
    """Where no epoch improves by as much as is asked for, the training ends `patience` epochs after the first, says so,
    and is the one that would have been asked for with so many epochs."""
    spec = spec_of(tiles, images=12, epochs=9, early_stopping={"patience": 2, "min_delta": 100.0}, select="last")
    stopped = train(spec, tmp_path / "stopped")
    asked = train(spec_of(tiles, images=12, epochs=3, select="last"), tmp_path / "asked")
    assert len(history(stopped)) == 3
    assert (metrics(stopped)["epochs"], metrics(stopped)["stopped_early"]) == (3, True)
    assert (metrics(asked)["epochs"], metrics(asked)["stopped_early"]) == (3, False)
    assert (stopped / "weights.safetensors").read_bytes() == (asked / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        ("validation_auprc_disc", "max"),
        ("validation_loss", "min"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("train_loss", "min"), ("train_recall_disc", "max")]
        ),
    ],
)
def test_selection_by_a_monitor(tiles: Path, tmp_path: Path, monitor: str, best: str):
    """The epoch kept has the least loss, or the highest of another column, the first of equals; its weights are kept,
    and its scores told."""
    spec = spec_of(tiles, epochs=4, monitor=monitor, keep_epochs=True, optimizer={"name": "adam", "lr": 0.02})
    run = train(spec, tmp_path / "run")
    values = history(run)[monitor]
    expected = int(values.argmin() if best == "min" else values.argmax())
    assert metrics(run)["selected_epoch"] == expected + 1
    assert metrics(run)["selected_by"] == monitor.replace("_", " ")
    assert metrics(run)["scores"][monitor] == values[expected]
    assert not changed(weights(run), of_epoch(run, expected + 1))
    assert (run / "last.safetensors").exists() == (expected != 3)


def test_going_back_before_a_drop(tiles: Path, tmp_path: Path):
    """After a drop to next to nothing the weights are those of the best epoch, although a worse one came between."""
    spec = spec_of(
        tiles, images=12, batch=12, epochs=3, optimizer={"name": "sgd", "lr": 3.0, "momentum": 0.0}, keep_epochs=True,
        schedule={**DROPPING, "factor": 1e-9}, restore_best=True,
    )  # fmt: skip
    run = train(spec, tmp_path / "run")
    losses = history(run)["validation_loss"]
    assert losses[1] > losses[0], "the second epoch is to be the worse one"
    first, second, third = (of_epoch(run, epoch) for epoch in (1, 2, 3))
    names = parameters()
    assert max((third[name] - first[name]).abs().max().item() for name in names) < 1e-5
    assert max((third[name] - second[name]).abs().max().item() for name in names) > 1e-2


def test_film(tiles: Path, tmp_path: Path):
    """A frame for every epoch holds the probabilities of the chosen validation images, the last those of the run."""
    run = train(spec_of(tiles, film=3, select="last", validation=7), tmp_path / "run")
    images, labels, epochs, frames = load_film(run)
    assert epochs == [1, 2]
    assert frames.shape == (2, 3, 2, 64, 64)
    assert labels.shape == (3, 64, 64) and set(np.unique(labels)) <= {-1, 0, 1}
    model = load_run(run)
    scores = forward(model.network, torch.from_numpy(images), divisor=32, precision="fp32")
    expected = (model.target.probabilities(scores) * 255).numpy()
    assert np.abs(frames[1] - expected).max() <= 0.51
    assert (frames[0] != frames[1]).any()


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_clipping_bounds_the_step(tiles: Path, tmp_path: Path, parent: Path, limit: float):
    """A step of plain gradient descent is no longer than the rate times `clip_norm`, and just as long where that binds;
    a limit that does not bind changes no bit."""
    spec = spec_of(tiles, **ONE_STEP, epochs=1, validation=0, clip_norm=limit)
    run, before = train(spec, tmp_path / "run", parent), weights(parent)
    after = weights(run)
    length = sum((after[name] - before[name]).double().square().sum().item() for name in parameters()) ** 0.5
    if limit < 1:
        assert length == pytest.approx(0.1 * limit, rel=1e-2)  # of float32 weights, some thousand times as large
    else:
        free = train(spec_of(tiles, **ONE_STEP, epochs=1, validation=0), tmp_path / "free", parent)
        assert not changed(after, weights(free))
        assert length > 0.1 * 1e-2


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function after which the training ends with `Interrupted` behind its n-th checkpoint."""
    save = checkpoint.save

    def after(count: int) -> None:
        left = [count]

        def counted(*arguments: Any) -> None:
            save(*arguments)
            left[0] -= 1
            if not left[0]:
                monkeypatch.setattr(checkpoint, "save", save)
                raise Interrupted

        monkeypatch.setattr(checkpoint, "save", counted)

    return after


@pytest.mark.slow
def test_fp16_with_its_scaling_resumes(
    tiles: Path, tmp_path: Path, interrupting: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    """Half precision trains on the CPU; a scale that is too large at first is lowered step by step, and an interrupted
    training goes on with the scale that it had: the bytes are the same."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**28))
    spec = spec_of(
        tiles, images=8, batch=1, epochs=3, precision="fp16", optimizer=SGD, clip_norm=5.0, validation=0,
        keep_epochs=True,
    )  # fmt: skip
    undisturbed = train(spec, tmp_path / "undisturbed")
    for count in (5, 12):
        interrupting(count)
        with pytest.raises(Interrupted):
            train(spec, tmp_path / "resumed", checkpoint_s=0)
        progress = json.loads((tmp_path / "resumed.running" / "state" / f"{checkpoint_number(tmp_path)}" /
                               "progress.json").read_text())  # fmt: skip
        assert 0 < progress["scaler"]["scale"] < 2.0**28
    require_same_bytes(train(spec, tmp_path / "resumed"), undisturbed)
    assert metrics(undisturbed)["precision"] == "fp16"
    assert np.isfinite(history(undisturbed)["train_loss"]).all()
    names = set(parameters())
    assert changed(of_epoch(undisturbed, 2), of_epoch(undisturbed, 3)) >= names  # steps are taken in the end


def checkpoint_number(folder: Path) -> int:
    return max(int(path.name) for path in (folder / "resumed.running" / "state").iterdir())


def test_history_has_every_score(parent: Path):
    """A row per epoch: rates, losses, and every score of each class, of training and of validation."""
    per_class = [f"{score}_{name}" for name in ("background", "disc") for score in
                 ("accuracy", "precision", "recall", "f1", "iou", "dice")]  # fmt: skip
    areas = [f"{area}_{name}" for name in ("background", "disc") for area in ("auprc", "auroc")]
    shared = {"loss", "loss_adjusted", "accuracy", "iou_mean", "dice_mean", *per_class}
    expected = {"epoch", "lr", "lr_max", "validation_loss_floor"}
    expected |= {f"{part}_{name}" for part in ("train", "validation") for name in shared}
    expected |= {f"validation_{name}" for name in areas}
    actual = history(parent)
    assert expected <= set(actual.columns)
    assert actual["epoch"].tolist() == [1, 2]
    for name in (*per_class, *areas):
        assert actual[f"validation_{name}"].dropna().between(0, 1).all()


def test_rates_are_those_of_the_steps(tiles: Path, tmp_path: Path):
    """`lr` is the rate of an epoch's last step and `lr_max` its highest, for a schedule that moves at every step."""
    spec = spec_of(tiles, epochs=3, images=20, schedule={"name": "one_cycle", "peak_at": 0.5}, optimizer=SGD)
    actual = history(train(spec, tmp_path / "run"))
    rates = np.array([[0.05 * schedules.factor(spec.schedule, None, {}, epoch + step / 3, 3) for step in range(3)]
                      for epoch in range(3)])  # fmt: skip
    np.testing.assert_allclose(actual["lr"], rates[:, -1], rtol=1e-12)
    np.testing.assert_allclose(actual["lr_max"], rates.max(1), rtol=1e-12)


def test_the_published_rate(tiles: Path, tmp_path: Path):
    """`exponential` multiplies the rate by gamma after every epoch and keeps it within one."""
    spec = spec_of(tiles, images=8, epochs=4, schedule={"name": "exponential", "gamma": 0.5}, validation=0)
    actual = history(train(spec, tmp_path / "run"))
    assert actual["lr"].tolist() == actual["lr_max"].tolist() == [1e-3, 5e-4, 2.5e-4, 1.25e-4]


@pytest.mark.slow
def test_ten_times_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A dataset ten times larger than `memory_gb` trains to the end; what it holds at once never exceeds that."""
    limit = 1_900_000
    big = write_tiles(tmp_path / "big.h5", groups=34, per_condition=10)  # 680 tiles of 33 kB
    most: list[int] = []
    close = StreamedSource.close
    monkeypatch.setattr(StreamedSource, "close", lambda self: most.append(self.peak_bytes) or close(self))
    spec = spec_of(
        big, images="all", epochs=1, batch=4, validation=4, shuffle_window=16, memory_gb=limit / 1e9,
        split={"validation": 0.05, "test": 0.0}, freeze=["encoder", "decoder"], cache_features=False,
    )  # fmt: skip
    run = train(spec, tmp_path / "run")
    seen = metrics(run)["labels"]["train"]
    assert seen * 64 * 64 * 8 >= 10 * limit
    assert len(most) == 1 and 0 < most[0] + 4 * 64 * 64 * 8 <= limit
    assert len(history(run)) == 1


PLATEAU = {"name": "plateau"}
TRAIN_PLATEAU = {"name": "plateau", "monitor": "train_loss"}
MISTAKES: list[tuple[dict[str, object], str]] = [
    ({"data": [{"dataset": "x", "images": 3, "groups": 2}]}, "give `images` or `groups`, not both"),
    ({"data": []}, "data: "),
    ({"from": {}}, "give either `run`, the folder of a finished run, or `weights`, a safetensors file"),
    ({"from": {"run": "a", "weights": "b"}}, "give either `run`, the folder of a finished run, or `weights`"),
    ({"validation": 0, "select": "best"}, 'select = "best" needs validation images; use select = "last"'),
    ({"freeze": ["encoder", "decoder", "head"]}, "freeze names every part, so nothing is left to train"),
    ({"unfreeze": [{"epoch": 2, "parts": "encoder"}]}, "unfreeze names epochs from which parts are trained, but"),
    ({"freeze": "encoder", "unfreeze": [{"epoch": 11, "parts": "encoder"}]}, r"an epoch after the last \(10\)"),
    ({"load": []}, "load names no part; remove it to load all of them"),
    ({"accumulate": 17}, "accumulate = 17 parts of a batch of 16; `batch` is the whole batch"),
    ({"film": 2, "validation": 0}, "film keeps predictions of validation images; use film = 0 or validation images"),
    ({"warmup": {"epochs": 10}}, "warmup.epochs: found 10 of 10 epochs in all, which leaves none for the schedule"),
    ({"restore_best": True, "schedule": {"name": "cosine"}}, "the schedule 'cosine' has none; use plateau or kicks"),
    (
        {"validation": 0, "schedule": PLATEAU},
        'schedule.monitor is "validation_loss", but validation = 0 leaves no validation images; use "train_loss"',
    ),
    (
        {"validation": 0, "early_stopping": {}},
        'early_stopping.monitor is "validation_loss", but validation = 0 leaves no validation images',
    ),
    (
        {"validation": 0, "restore_best": True, "schedule": TRAIN_PLATEAU},
        ' monitor is "validation_loss", but validation = 0 leaves no validation images; use "train_loss" there',
    ),
    ({"monitor": "dice_disc"}, 'monitor: found "dice_disc"; write a column of the history, such as "validation_loss"'),
    ({"early_stopping": {"monitor": "loss"}}, 'early_stopping.monitor: found "loss"; write a column of the history'),
    ({"schedule": {**PLATEAU, "monitor": "epoch"}}, 'schedule.monitor: found "epoch"; write a column of the history'),
    ({"augment": "flips"}, "augment: .*none, dihedral, dihedral-all"),
    ({"precision": "fp8"}, "precision: unknown value 'fp8'"),
    ({"clip_norm": 0}, "clip_norm: found 0; "),
    ({"epochs": 0}, "epochs: found 0; "),
    ({"film": -1}, "film: found -1; "),
    ({"ema": {"decay": 1.0}}, "ema.decay: found 1.0; "),
    ({"early_stopping": {"patience": 0}}, "early_stopping.patience: found 0; "),
    ({"memory_gb": 0}, "memory_gb: found 0; "),
    ({"memory_gb": 1e308}, r"memory_gb: found 1e\+308; give a number of 1e\+06 or less"),
    ({"power_w": 1e308}, r"power_w: found 1e\+308; give a number of 1e\+06 or less"),
    ({"power_w": 0}, "power_w: found 0; give a number above 0"),
    ({"shuffle_window": 0}, "shuffle_window: found 0; "),
    ({"patience": 3}, "at the top: unknown key 'patience'"),
]


@pytest.mark.parametrize(("table", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_mistaken_settings_are_told(table: dict[str, object], message: str):
    """Every mistake in the settings of a stage has one sentence that says what is allowed or what to do."""
    with pytest.raises(SpecError, match=message):
        validate(StageSpec, {"data": [{"dataset": "x"}], **table}, context="stage.toml")


@pytest.mark.parametrize(
    "table",
    [
        {"validation": 0, "monitor": "train_loss"},
        {"validation": 0, "early_stopping": {"monitor": "train_loss"}, "schedule": TRAIN_PLATEAU},
        {"validation": 0, "restore_best": True, "monitor": "train_loss", "schedule": TRAIN_PLATEAU},
        {"freeze": ["encoder", "decoder", "head"], "unfreeze": [{"epoch": 10, "parts": "head"}]},
        {"accumulate": 16},
        {"freeze": "none", "load": "encoder", "from": {"run": "a"}},
    ],
)  # fmt: skip
def test_what_is_no_mistake(table: dict[str, object]):
    """What lies at the edge of what is refused is taken."""
    validate(StageSpec, {"data": [{"dataset": "x"}], **table}, context="stage.toml")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 7.3 TiB"),
    ],
)
@pytest.mark.parametrize("place", ["train", "init_state"])
def test_memory_that_is_too_small_is_told(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
):
    """When the model is made and when it is trained: one sentence that says what to lower; other errors stay."""

    def fail(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(loop, place, fail)
    with pytest.raises(SegueError, match=r"run: the training does not fit into memory \(.*\); lower batch, raise"):
        train(spec_of(tiles, images=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(spec_of(tiles, images=4), tmp_path / "run")
