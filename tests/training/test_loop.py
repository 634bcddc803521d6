from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.registry import NetworkSpec
from segue.training import checkpoint, freezing
from segue.training.inputs.sampler import plan_epoch
from segue.training.run import train_task
from segue.training.run_folder import RunFolder, load_run
from segue.training.spec import Inputs, StageSpec, TrainTask

SMALL: dict[str, object] = {
    "network": {"name": "resunet", "width": 8},
    "split": {"validation": 0.2, "test": 0.2},
    "epochs": 2,
    "augment": "dihedral-all",
    "precision": "fp32",
}


def spec_of(discs: Path, **more: object) -> StageSpec:
    data = {"dataset": str(discs), "conditions": {"contrast": "high"}, "images": 8}
    return StageSpec.model_validate({"data": [data], **SMALL, **more})


def train(spec: StageSpec, folder: Path, parent: Path | None = None, checkpoint_s: float = 60.0) -> Path:
    datasets = {item.dataset: (Path(item.dataset), "discs") for item in spec.data}
    train_task(TrainTask(spec, folder, "k", Inputs(datasets, parent)), checkpoint_s=checkpoint_s)
    return folder


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def parent(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a finished run of the plain stage."""
    return train(spec_of(discs), tmp_path_factory.mktemp("parent") / "run")


def test_same_stage_same_bytes(discs: Path, tmp_path: Path, parent: Path):
    """Two trainings of one specification give the same files of weights, history and metrics, byte for byte."""
    again = train(spec_of(discs), tmp_path / "again")
    for name in ("weights.safetensors", "history.parquet", "metrics.json", "groups.json", "spec.json"):
        assert (again / name).read_bytes() == (parent / name).read_bytes(), name
    assert weights(parent) != weights(train(spec_of(discs, init=1), tmp_path / "other"))


def test_training_learns(discs: Path, tmp_path: Path):
    """A few epochs lower the loss and find the discs."""
    run = train(spec_of(discs, epochs=8, optimizer={"name": "adam", "lr": 5e-3}), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["scores"]["validation_dice_disc"] > 0.7
    assert metrics["labels"] == {"unit": "images", "train": 8, "validation": metrics["labels"]["validation"]}


def test_dihedral_all_visits_every_copy_once(discs: Path):
    """An epoch of `dihedral-all` is every image in all eight positions, in an order of its own for each epoch."""
    spec = spec_of(discs)
    first, second = (plan_epoch(spec, np.zeros(5, int), epoch) for epoch in (0, 1))
    for seen in (first, second):
        assert sorted(zip(seen.samples.tolist(), seen.params.code.tolist(), strict=True)) == [
            (i, c) for i in range(5) for c in range(8)
        ]
        assert np.array_equal(seen.ids, seen.samples * 8 + seen.params.code)
    assert not np.array_equal(first.samples, second.samples)


def test_published_steps():
    """512 images are 4096 views and 256 steps of 16, as in the published study."""
    spec = StageSpec.model_validate({"data": [{"dataset": "x"}], "augment": "dihedral-all"})
    assert len(plan_epoch(spec, np.zeros(512, int), 0)) == 4096 == 256 * spec.batch


def test_freezing_nothing_counts_everything():
    """Without freezing every parameter is trainable."""
    network = networks.build(NetworkSpec(width=8), channels=1, classes=2)
    counted = freezing.parameter_counts(network)["network"]
    assert counted["parameters"] == counted["trainable"]


def test_loading_parts(discs: Path, tmp_path: Path, parent: Path):
    """`load` takes the parts it names from the parent and initialises the rest, and the run says which."""
    child = train(spec_of(discs, load=["encoder"], epochs=1), tmp_path / "child", parent)
    output = json.loads((child / "metrics.json").read_text())["transfer"]
    assert output["loaded"] and all(name.startswith("encoder") for name in output["loaded"])
    assert sorted(output["initialised"]) == sorted(output["left_out"]) and not any(
        n.startswith("encoder") for n in output["left_out"]
    )


def test_parent_of_another_shape_is_refused(discs: Path, tmp_path: Path, parent: Path):
    """Weights of another width are refused, naming the first tensor and both shapes; nothing is left behind."""
    wide = spec_of(discs, network={"name": "resunet", "width": 16})
    with pytest.raises(SegueError, match=r"another shape.*first 'encoder.conv.weight' \(\(8, 1, 7, 7\) there"):
        train(wide, tmp_path / "child", parent)
    assert not (tmp_path / "child").exists()


def test_without_validation_the_last_epoch_counts(discs: Path, tmp_path: Path):
    """With no validation images nothing is selected, no labels are spent on it, and the last epoch is kept."""
    run = train(spec_of(discs, validation=0), tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["selected_epoch"] == 2 and metrics["selected_by"] == "last epoch"
    assert metrics["labels"]["validation"] == 0
    assert "validation_loss" not in metrics["scores"]
    assert not load_run(run).spec.selects_best


def test_loading_a_run_gives_its_scores(discs: Path, parent: Path):
    """A run loaded again predicts exactly what the trained network did: the same validation loss."""
    from segue.study.evaluate import score_run

    model = load_run(parent)
    actual = score_run(model, discs, model.spec.data[0], "validation")
    recorded = json.loads((parent / "metrics.json").read_text())["scores"]
    assert actual["scores"]["loss"] == recorded["validation_loss"]


def test_non_finite_loss_names_the_samples(discs: Path, tmp_path: Path):
    """A loss that overflows stops the stage with the samples of that step; the run stays unfinished."""
    with pytest.raises(
        SegueError, match=r"the loss is (nan|inf) on the samples group-\d+ tile 0,0.*lower optimizer.lr"
    ):
        train(spec_of(discs, optimizer={"name": "adam", "lr": 1e30}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_images_says_how_many_there_are(discs: Path, tmp_path: Path):
    """Asking for more images than the training part holds tells both numbers."""
    data = [{"dataset": str(discs), "conditions": {"contrast": "high"}, "images": 1000}]
    with pytest.raises(SegueError, match=r"holds \d+ images, but the stage asks for 1000"):
        train(spec_of(discs, data=data), tmp_path / "run")


def test_leaking_groups_are_refused(discs: Path, tmp_path: Path):
    """A child whose validation groups its parent was trained on is refused."""
    seen = spec_of(discs, data=[{"dataset": str(discs)}], augment="none", epochs=1)
    parent = train(seen, tmp_path / "parent")
    with pytest.raises(SegueError, match="were trained on, by it or by one of its ancestors"):
        train(spec_of(discs, split={"seed": 5, "validation": 0.2, "test": 0.2}), tmp_path / "child", parent)


def test_a_run_folder_of_another_stage_is_left_alone(discs: Path, tmp_path: Path, parent: Path):
    """Training into the folder of a finished run with another key is refused and changes nothing."""
    run = shutil.copytree(parent, tmp_path / "run")
    before = weights(run)
    with pytest.raises(SegueError, match="holds a finished run of another specification"):
        train_task(TrainTask(spec_of(discs), run, "other", Inputs({str(discs): (discs, "discs")})))
    assert weights(run) == before


def test_truncated_state_falls_back_to_the_one_before(tmp_path: Path):
    """A state cut short is noticed by its digest, and the previous one is used."""
    with rng.scope("test"):
        network = networks.build(NetworkSpec(width=8), channels=1, classes=2)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for epoch in (1, 2, 3):
        network.head.bias.data.fill_(epoch)
        checkpoint.save(tmp_path, network, optimizer, {}, checkpoint.Progress(epoch=epoch))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    newest = tmp_path / "3" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    restored = checkpoint.restore(tmp_path, network, optimizer)
    assert restored is not None and restored[0].epoch == 2
    assert (network.head.bias == 2).all()


def test_optimizer_state_keeps_its_memory_format(discs: Path, tmp_path: Path):
    """A channels-last parameter gets its averages back in channels-last, else the fused step would mix elements."""
    with rng.scope("test"):
        network = networks.build(NetworkSpec(width=8), channels=1, classes=2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.randn(2, 1, 64, 64)).square().mean().backward()
    optimizer.step()
    checkpoint.save(tmp_path, network, optimizer, {}, checkpoint.Progress())
    fresh = torch.optim.Adam(network.parameters(), fused=True)
    checkpoint.restore(tmp_path, network, fresh)
    for parameter, state in optimizer.state.items():
        for kind, value in state.items():
            assert torch.equal(fresh.state[parameter][kind], value)
            assert fresh.state[parameter][kind].stride() == value.stride()


@pytest.mark.parametrize(
    "more",
    [
        {"validation": 0},
        {"select": "last"},
        {"freeze": "encoder", "load": ["encoder"], "schedule": {"name": "exponential"}},
        {"split": {"stored": "given"}},
        {"target": {"class_weights": [1.0, 2.0]}, "augment": "none", "keep_epochs": True},
    ],
)
def test_specifications_survive_being_written(more: dict[str, object]):
    """What a run writes of its specification, every field of it, reads back as the same specification."""
    spec = StageSpec.model_validate({"data": [{"dataset": "x", "conditions": {"a": {"min": 1}, "b": [1, 2]}}], **more})
    assert StageSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json", by_alias=True)))) == spec


def test_what_the_network_cannot_take_is_worded(discs: Path, tmp_path: Path):
    """A batch of one tile of one feature, which batch norm cannot train on, is refused with what to change."""
    data = [{"dataset": str(discs), "conditions": {"contrast": "high"}, "images": 1}]
    spec = spec_of(discs, data=data, augment="none", network={"name": "unet-resnet18"})
    with pytest.raises(SegueError, match=r"network 'unet-resnet18' cannot train on 1 tiles of 32x32 px at once"):
        train(spec, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_more_threads_than_cores_are_refused(discs: Path, tmp_path: Path):
    """A thousand threads would bring the process down; they are refused first."""
    with pytest.raises(SegueError, match="threads = 1000, but this machine has"):
        train(spec_of(discs, threads=1000), tmp_path / "run")


def test_samples_are_not_counted_twice(discs: Path, tmp_path: Path):
    """Two items of data that draw the same samples are refused: their labels would count twice."""
    data = [{"dataset": str(discs)}, {"dataset": str(discs), "conditions": {"contrast": "high"}}]
    with pytest.raises(SegueError, match="are drawn by two items"):
        train(spec_of(discs, data=data), tmp_path / "run")


def test_what_is_in_the_way_is_told_before_training(discs: Path, tmp_path: Path):
    """A folder that is no run is refused at once and left as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(SegueError, match="exists and is not a finished run"):
        train(spec_of(discs), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_that_another_process_trains_is_waited_for(discs: Path, tmp_path: Path):
    """Where the run is locked, training says so and begins when it is free; no lock is left beside the run."""
    lock = FileLock(RunFolder(tmp_path / "run").lock)
    lock.acquire()
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if line.endswith("another process is training this run; waiting for it to end"):
            lock.release()

    train_task(
        TrainTask(spec_of(discs, epochs=1), tmp_path / "run", "k", Inputs({str(discs): (discs, "discs")})), log=log
    )
    assert lines[0].startswith(f"{tmp_path / 'run.running'}: another process")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
