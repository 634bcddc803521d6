"""Models that step at once give the weights of models that step one after another, within rounding, or say why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples.stages import SGD, history, inputs_of, spec_of, train, weights, write_tiles
from torch import Tensor, nn
from torch.nn import functional as F

from segue import networks, rng
from segue.networks.registry import NetworkSpec
from segue.training import checkpoint, fused, identity
from segue.training.fused import Stack
from segue.training.run import train_tasks
from segue.training.spec import StageSpec, TrainTask

TOLERANCE = 3e-4  # of the norm of the weights; rounding turns a ReLU here and there
ADAM = {"name": "adam", "lr": 1e-3, "eps": 1e-3}  # with its default, gradients that are rounding alone step as others
Alone = Callable[[StageSpec], Path]
NETWORKS: dict[str, dict[str, Any]] = {
    "batch norm": {"name": "resunet", "width": 8},
    "group norm": {"name": "resunet", "width": 8, "norm": "group"},
    "instance norm": {"name": "resunet", "width": 8, "norm": "instance"},
    "no norm": {"name": "unet", "width": 8, "depth": 2, "norm": "none"},
    "style vector": {"name": "cellpose", "width": 8, "depth": 2},
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5")


@pytest.fixture(autouse=True)
def on_a_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets models step at once without a GPU."""
    monkeypatch.setattr(fused, "DEVICES", ("cpu", "cuda"))
    yield


def specs_of(tiles: Path, members: Mapping[str, Mapping[str, object]], **shared: object) -> dict[str, StageSpec]:
    common = {"order": "shared", "images": 12, "epochs": 1, "side_by_side": "approximate", "select": "last", **shared}
    return {name: spec_of(tiles, **{**common, **more}) for name, more in members.items()}


def train_at_once(specs: Mapping[str, StageSpec], folder: Path, checkpoint_s: float = 60.0) -> tuple[Any, list[str]]:
    """Trains into `folder`/<name>; returns what stopped each, and the lines of the log."""
    lines: list[str] = []
    tasks = [TrainTask(spec, folder / name, "k", inputs_of(spec)) for name, spec in specs.items()]
    errors = train_tasks(tasks, checkpoint_s=checkpoint_s, log=lines.append)
    return dict(zip(specs, errors, strict=True)), lines


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Returns a function that gives the run of a stage trained alone by the loop as it is, each trained once."""
    folder = tmp_path_factory.mktemp("alone")
    runs: dict[str, Path] = {}

    def trained(spec: StageSpec) -> Path:
        exact = spec.model_copy(update={"side_by_side": "exact"})
        key = exact.model_dump_json()
        if key not in runs:
            runs[key] = train(exact, folder / str(len(runs)))
        return runs[key]

    return trained


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())["side_by_side"]


def difference(run: Path, other: Path) -> float:
    """Returns the norm of the difference of all weights, relative to their norm."""
    first, second = weights(run), weights(other)
    one, two = (torch.cat([each[name].double().flatten() for name in first]) for each in (first, second))
    return ((one - two).norm() / two.norm()).item()


def require_close(run: Path, other: Path) -> None:
    """The runs agree within rounding, in weights and history; and not to the bit, which shows that steps were fused."""
    assert 0 < difference(run, other) < TOLERANCE
    mine, theirs = history(run), history(other)
    assert list(mine.columns) == list(theirs.columns)
    for name in ("lr", "lr_max", "train_loss", "validation_loss"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=TOLERANCE, err_msg=name)
    assert (mine["lr"] == theirs["lr"]).all()


def require_same(run: Path, other: Path) -> None:
    for file in ("weights.safetensors", "history.parquet"):
        assert (run / file).read_bytes() == (other / file).read_bytes(), file


def build(spec: dict[str, Any], count: int) -> list[nn.Module]:
    built = []
    for seed in range(count):
        with rng.scope("test", seed):
            network = networks.build(NetworkSpec.model_validate(spec), channels=1, classes=3)
        built.append(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    return built


def steps(value: Tensor) -> list[int]:
    """Returns the strides of the axes along which there is more than one element: the order in memory."""
    return [stride for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1]


@pytest.mark.parametrize(
    "kind", [kind if kind == "batch norm" else pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS]
)
def test_scores_statistics_and_gradients_are_those_of_each_network(kind: str):
    """Of networks with other weights, at once on one batch, against torch's own passes one after another; in float64,
    where rounding turns no ReLU."""
    alone, stacked = ([network.double() for network in build(NETWORKS[kind], 3)] for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 64, 64, generator=generator, dtype=torch.float64)
    classes = torch.randint(3, (4, 64, 64), generator=generator)
    expected = [network(images) for network in alone]
    torch.autograd.backward([F.cross_entropy(scores, classes) for scores in expected])

    stack = Stack(stacked)
    assert stack.obstacle(images, "fp32") == ""
    stack.adopt()
    scores = stack.scores(images).unbind()
    torch.autograd.backward([F.cross_entropy(one, classes) for one in scores])
    stack.assign_gradients()
    for model in range(3):
        torch.testing.assert_close(scores[model], expected[model], rtol=1e-9, atol=1e-9)
        buffers = dict(alone[model].named_buffers())
        for name, value in stacked[model].named_buffers():
            torch.testing.assert_close(value, buffers[name], rtol=1e-9, atol=1e-9, msg=name)
        gradients = {name: value.grad for name, value in alone[model].named_parameters()}
        for name, value in stacked[model].named_parameters():
            gradient, other = value.grad, gradients[name]
            torch.testing.assert_close(gradient, other, rtol=1e-7, atol=1e-10, msg=name)
            assert steps(value) == steps(gradient) == steps(other), name


MEMBERS: dict[str, dict[str, dict[str, object]]] = {
    "rates": {
        "slow": {"optimizer": {**SGD, "lr": 0.01}},
        "fast": {"optimizer": SGD, "clip_norm": 0.5, "schedule": {"name": "cosine"}},
        "averaged": {"optimizer": SGD, "ema": {"decay": 0.9}, "warmup": {"epochs": 1}},
    },
    "optimizers": {
        "sgd": {"optimizer": SGD},
        "adam": {"optimizer": ADAM},
        "adamw": {"optimizer": {**ADAM, "name": "adamw", "weight_decay": 0.1, "decay_norms_and_biases": False}},
    },
    "seeds": {f"seed {init}": {"init": init, "optimizer": SGD} for init in range(3)},
}
SHARED: dict[str, dict[str, object]] = {
    "two epochs": {"epochs": 2},
    "one epoch": {},
    "in parts": {"network": NETWORKS["group norm"], "accumulate": 2},
    "no norm": {"network": NETWORKS["no norm"]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "shared"),
    [
        ("rates", "two epochs"),
        ("optimizers", "one epoch"),
        ("seeds", "one epoch"),
        ("seeds", "in parts"),
        ("optimizers", "no norm"),
    ],
)
def test_trainings_agree(tiles: Path, tmp_path: Path, alone: Alone, members: str, shared: str):
    """Models with their own rates, schedules, clipping, averages, optimizers or initial weights, trained at once, end
    as those trained alone do; the runs say that they stepped at once, epochs of 2 steps."""
    specs = specs_of(tiles, MEMBERS[members], **SHARED[shared])
    errors, lines = train_at_once(specs, tmp_path / "at once")
    assert not any(errors.values())
    assert not any("exactly" in line for line in lines)
    for name in specs:
        require_close(tmp_path / "at once" / name, alone(specs[name]))
        count = 2 * specs[name].epochs
        assert record(tmp_path / "at once" / name) == {"steps": "approximate", "fused_steps": count, "all_steps": count}
    first, second, *_ = (tmp_path / "at once" / name for name in specs)
    assert difference(first, second) > 5 * TOLERANCE  # so that one in place of the other would be noticed


@pytest.mark.slow
def test_a_frozen_encoder_stays(tiles: Path, tmp_path: Path, alone: Alone):
    """Weights and statistics of the encoder are the initial ones to the bit; the rest is trained as alone. A model with
    other frozen parts steps by itself, to the bit."""
    members = {
        "a": {"freeze": "encoder"},
        "b": {"freeze": "encoder", "init": 1},
        "other": {"freeze": ["encoder", "decoder"]},
    }
    specs = specs_of(tiles, members, cache_features=False, optimizer=SGD)
    _, lines = train_at_once(specs, tmp_path / "at once")
    for name in ("a", "b"):
        run = tmp_path / "at once" / name
        require_close(run, alone(specs[name]))
        before = weights(alone(specs[name]))
        same = [torch.equal(value, before[key]) for key, value in weights(run).items() if "encoder" in key]
        assert len(same) > 50 and all(same)
    assert [line for line in lines if "these frozen parts" in line]
    assert record(tmp_path / "at once" / "other")["steps"] == "exact"
    require_same(tmp_path / "at once" / "other", alone(specs["other"]))


@pytest.mark.slow
def test_a_model_that_diverges_stops_alone(tiles: Path, tmp_path: Path, alone: Alone):
    """Its error is that of the model alone; the others end as without it, shorter ones earlier."""
    members = {
        "good": {"optimizer": SGD, "epochs": 2},
        "diverges": {"optimizer": {"name": "adam", "lr": 1e30}},
        "short": {"optimizer": SGD},
        "also good": {"optimizer": {**SGD, "lr": 0.02}, "epochs": 2},
    }
    specs = specs_of(tiles, members)
    errors, _ = train_at_once(specs, tmp_path / "at once")
    assert [name for name, error in errors.items() if error is not None] == ["diverges"]
    by_itself, _ = train_at_once({"diverges": specs.pop("diverges")}, tmp_path / "other")
    assert str(by_itself["diverges"]) == str(errors["diverges"])
    for name in specs:
        require_close(tmp_path / "at once" / name, alone(specs[name]))
    assert sorted(path.name for path in (tmp_path / "at once").iterdir()) == ["also good", "good", "short"]


class Interrupted(BaseException):
    pass


@pytest.mark.slow
def test_interrupted_models_go_on(tiles: Path, tmp_path: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch):
    """Interrupted between the checkpoints of two models, which are then at different steps, they end as uninterrupted
    ones: the one behind catches up by itself, and they step at once again."""
    members = {"sgd": {"optimizer": SGD, "ema": {"decay": 0.9}}, "adam": {"optimizer": ADAM}}
    specs = specs_of(tiles, members, images=20, epochs=2)  # of 3 steps each
    save, saved = checkpoint.save, 0

    def save_thrice(*arguments: Any) -> None:
        nonlocal saved
        saved += 1
        if saved > 3:
            raise Interrupted
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", save_thrice)
    with pytest.raises(Interrupted):
        train_at_once(specs, tmp_path / "interrupted", checkpoint_s=0)
    monkeypatch.setattr(checkpoint, "save", save)
    _, lines = train_at_once(specs, tmp_path / "interrupted")
    assert [line for line in lines if "resuming" in line] == [
        "resuming from epoch 1, step 3", "resuming from epoch 1, step 2",
    ]  # fmt: skip
    for name in specs:
        run = tmp_path / "interrupted" / name
        require_close(run, alone(specs[name]))
    assert record(tmp_path / "interrupted" / "sgd") == {"steps": "approximate", "fused_steps": 6, "all_steps": 6}
    behind = record(tmp_path / "interrupted" / "adam")
    assert (behind["fused_steps"], behind["all_steps"]) == (5, 6)


FALLBACKS: dict[str, tuple[dict[str, object], str]] = {
    "random": ({"network": {**NETWORKS["batch norm"], "dropout": 0.3}}, "draws random numbers"),
    "depth": ({"network": {**NETWORKS["batch norm"], "stochastic_depth": 0.3}}, "draws random numbers"),
    "cached": ({"freeze": "encoder", "epochs": 2}, "features of the frozen encoder are cached"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FALLBACKS)
def test_what_cannot_step_at_once_is_exact(tiles: Path, tmp_path: Path, alone: Alone, kind: str):
    """One line says why, and the runs hold the reason; weights and history are those of models trained alone."""
    more, reason = FALLBACKS[kind]
    specs = specs_of(tiles, {"a": {}, "b": {"optimizer": SGD}}, **more)
    _, lines = train_at_once(specs, tmp_path / "at once")
    (line,) = (line for line in lines if line.startswith("side_by_side"))
    assert line.startswith('side_by_side = "approximate": models step one after another, exactly: ') and reason in line
    for name in specs:
        assert record(tmp_path / "at once" / name)["steps"] == "exact"
        assert reason in record(tmp_path / "at once" / name)["why_exact"]
        require_same(tmp_path / "at once" / name, alone(specs[name]))


def test_on_a_processor_models_step_one_after_another(tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the software comes, without a GPU."""
    monkeypatch.undo()
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    specs = specs_of(tiles, {"a": {}, "b": {"optimizer": SGD}})
    _, lines = train_at_once(specs, tmp_path)
    assert [line for line in lines if line.endswith("a processor is faster with one model at a time")]
    assert record(tmp_path / "a")["fused_steps"] == 0


class Scaled(nn.Module):
    """Its scale is no parameter, so that the stack does not know it."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.conv(x)


class Branching(nn.Module):
    """Which way it goes depends on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.conv.weight.sum() > 0 else self.conv(-x)


class Attending(nn.Module):
    """Its attention is one that torch computes for one model after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Scaled, "differ by"),
        (lambda _: Branching(), "torch cannot compute"),
        (lambda _: Attending(), "There is a performance drop"),
    ],
)
def test_networks_that_are_not_one_are_noticed(make: Callable[[float], nn.Module], reason: str):
    """A stack is tried on a batch first: where its scores are others, or cannot be computed, it is not used."""
    members = [make(1.0), make(2.0)]
    before = [parameter.detach().clone() for network in members for parameter in network.parameters()]
    assert reason in Stack(members).obstacle(torch.ones(2, 1, 4, 4), "fp32")
    after = [parameter for network in members for parameter in network.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, after, strict=True))


def test_approximate_stages_have_keys_of_their_own(tiles: Path):
    """An exact study cannot take over approximate runs; keys of exact stages are those of before."""
    specs = {way: spec_of(tiles, side_by_side=way) for way in ("exact", "approximate")}
    settings = {way: identity.shared_settings(spec, ["d"]) for way, spec in specs.items()}
    assert settings["approximate"] == {**settings["exact"], "side_by_side": "approximate"}
    assert settings["exact"] == identity.shared_settings(spec_of(tiles), ["d"])


@pytest.mark.gpu
@pytest.mark.parametrize("members", MEMBERS)
def test_trainings_agree_on_a_gpu(
    tiles: Path, tmp_path: Path, alone: Alone, members: str, monkeypatch: pytest.MonkeyPatch
):
    """As on a processor, with a model that diverges among them, whose infinities reach no other."""
    monkeypatch.undo()
    lost = {"lost": {"optimizer": {"name": "adam", "lr": 1e30}}}
    specs = specs_of(tiles, MEMBERS[members] | lost)
    errors, _ = train_at_once(specs, tmp_path / "at once")
    assert [name for name, error in errors.items() if error is not None] == ["lost"]
    del specs["lost"]
    for name in specs:
        require_close(tmp_path / "at once" / name, alone(specs[name]))
        assert record(tmp_path / "at once" / name)["steps"] == "approximate"
