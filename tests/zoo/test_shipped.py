"""Models by name and exported runs: found, predicted with, started from, with the numbers of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from samples.cli import run_segue
from samples.stages import spec_of, train, weights, write_tiles

import segue
from segue.errors import SegueError
from segue.training.identity import parent_identity, parent_path
from segue.training.run_folder import RunFolder
from segue.training.spec import ParentSpec
from segue.zoo import shipped


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(spec_of(write_tiles(folder / "tiles.h5"), epochs=1), folder / "run")


@pytest.fixture(scope="module")
def models(run: Path) -> Path:
    """A folder of shipped models with a single one, "discs"."""
    folder = run.parent / "models"
    (run.parent / "card.md").write_text("# Discs\n\nOf made images.\n")
    segue.export(run, folder / "discs", card=run.parent / "card.md")
    return folder


@pytest.fixture(autouse=True)
def shipped_here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "MODELS", models)


def test_half_precision_predicts_the_same(run: Path, models: Path):
    """Matrices have float16, the rest its type; probabilities differ by rounding alone."""
    first, second = weights(run), weights(models / "discs")
    for name, value in first.items():
        assert second[name].dtype == (torch.float16 if value.is_floating_point() and value.ndim > 1 else value.dtype)
        torch.testing.assert_close(second[name].to(value.dtype), value, rtol=2**-11, atol=1e-7)
    image = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
    difference = segue.probabilities("discs", image) - segue.probabilities(run, image)
    assert 0 < np.abs(difference).max() < 5e-3
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (models / "discs", run)]
    assert sizes[0] < 0.55 * sizes[1]


def test_names_are_those_of_models(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path goes before a name, from any folder; a wrong name is told with those there are."""
    assert shipped.find_model("discs") == models / "discs" == shipped.find_model("discs", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("discs").mkdir()
    assert shipped.find_model("discs") == Path("discs") and shipped.find_model("a/b") == Path("a/b")
    for name in ("disks", "runs"):
        with pytest.raises(SegueError, match=rf"{name}: there is no such folder nor a model .* \(discs\); give"):
            segue.load(name)
    with pytest.raises(SegueError, match="is not a finished run"):
        segue.load("discs")


def test_children_start_from_a_name(run: Path, models: Path, tmp_path: Path):
    """`from = { run = "discs" }` has the weights and groups of the model, and is another training than from its run."""
    parent = ParentSpec(run="discs")
    assert parent_path(parent, tmp_path) == models / "discs"
    keys = {parent_identity(ParentSpec(run=str(one)), tmp_path) for one in (run, models / "discs", "discs")}
    assert len(keys) == 2
    spec = spec_of(write_tiles(tmp_path / "b.h5"), epochs=1, optimizer={"name": "sgd", "lr": 1e-12})
    child = train(spec, tmp_path / "child", parent=parent_path(parent, tmp_path))
    stored = weights(models / "discs")
    for name, value in weights(child).items():
        if "num_batches" not in name and "running" not in name:
            torch.testing.assert_close(value, stored[name].to(value.dtype), rtol=0, atol=1e-9)
    ancestors = json.loads(RunFolder(child).groups.read_text())["ancestors"]
    assert ancestors == json.loads(RunFolder(run).groups.read_text())["training"]


def test_what_cannot_be_exported(run: Path, models: Path, tmp_path: Path):
    """Nothing is written over something else, or of weights that float16 cannot hold."""
    card = run.parent / "card.md"
    with pytest.raises(SegueError, match="exists; remove it"):
        segue.export(run, models / "discs", card=card)
    large = tmp_path / "large"
    shutil.copytree(run, large)
    from safetensors.torch import save_file

    save_file({name: value * 1e6 if value.ndim > 1 else value for name, value in weights(run).items()},
              large / "weights.safetensors")  # fmt: skip
    (large / "digests.json").unlink()
    RunFolder(large).write_digests()
    with pytest.raises(SegueError, match="beyond 65,504"):
        segue.export(large, tmp_path / "out", card=card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]


def test_the_command_lists_what_ships():
    """By name, with title, size and card."""
    done = run_segue("models")
    assert done.returncode == 0 and "segue predict NAME" in done.stdout
    assert "discs: Discs (" in done.stdout


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "nul\0"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path):
    """Are refused as everywhere, not looked for."""
    for use in (segue.load, lambda name: parent_path(ParentSpec(run=name), tmp_path)):
        with pytest.raises(SegueError, match="is no path that a file can have"):
            use(name)
    assert run_segue("inspect", name.replace("\0", "")).returncode == 2
