"""`segue export`: the format by its suffix, settings that fit it, everything whole or not at all."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from samples.cli import assert_refused, run_segue
from samples.discs import write_discs
from samples.stages import spec_of, train, write_tiles

import segue
from segue.errors import SegueError
from segue.exporting import export as exporting
from segue.exporting.check import example_image
from segue.zoo.shipped import CARD


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classes, trained for a moment, with the mean over eight views."""
    folder = tmp_path_factory.mktemp("run")
    return train(spec_of(write_tiles(folder / "tiles.h5"), epochs=1, tta=True), folder / "discs run")


def test_a_run_loads_in_one_line(run: Path):
    """`segue.load` gives an `nn.Module` in evaluation mode, whose scores of a normalized image are decoded."""
    network = segue.load(run).network
    assert isinstance(network, torch.nn.Module) and not network.training
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 64, 96)).shape == (1, 2, 64, 96)


def test_torchscript_by_suffix(run: Path, tmp_path: Path):
    """From the command line; the file gives the probabilities of `segue.probabilities`, and says what it is."""
    done = run_segue("export", run, tmp_path / "model.pt")
    assert done.returncode == 0, done.stderr
    assert "TorchScript: largest difference from torch 0.0e+00" in done.stderr and "Warning" not in done.stderr
    extra = {"segue.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = torch.jit.load(tmp_path / "model.pt", _extra_files=extra)
    image = example_image(1, 70, 45)
    actual = network(torch.from_numpy(image[None]))[0].numpy()  # it needs no gradients
    np.testing.assert_allclose(actual, segue.probabilities(run, image), rtol=1e-4, atol=1e-5)
    facts = json.loads(extra["segue.json"])
    assert facts["segue"] == segue.__version__ and facts["run"] == "k" and facts["mean_of_eight_views"]
    assert facts["input"]["channels"] == ["intensity"] and facts["input"]["divisor"] == 32
    assert facts["classes"] == ["background", "disc"] and facts["normalization"] == "background"
    meanings = [channel["meaning"] for channel in facts["output"]["channels"]]
    assert meanings == ["probability of 'background'", "probability of 'disc'"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.slow
def test_onnx_of_a_run(run: Path, tmp_path: Path):
    """With `tta=False` it is the network alone; the note tells how far onnxruntime differs."""
    notes: list[str] = []
    path = segue.export(run, tmp_path / "model.onnx", tta=False, log=notes.append)
    assert notes[0].startswith("onnxruntime: largest difference from torch")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["segue"])
    assert not facts["mean_of_eight_views"]
    image = example_image(1, 70, 45)
    network = segue.load(run)
    plain = segue.probabilities(segue.export(run, tmp_path / "plain"), image)  # half precision, with the eight views
    actual = np.asarray(session.run(None, {"image": image[None]})[0])[0]
    assert actual.shape == plain.shape and facts["target"] == network.spec.target.name
    assert np.abs(actual - plain).max() > 1e-4


def test_a_folder_has_a_card(run: Path, tmp_path: Path):
    """Without card.md one is made of what the run recorded; with it, or --card, it is that."""
    segue.export(run, tmp_path / "a")
    card = (tmp_path / "a" / CARD).read_text(encoding="utf-8")
    assert card.startswith("# discs run\n") and "- license of the images: none is stated" in card
    assert "resunet" in card and "background, disc" in card and "## Validation" in card
    (tmp_path / "card.md").write_text("# Other\n")
    segue.export(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / CARD).read_text(encoding="utf-8") == card
    segue.export(tmp_path / "a", tmp_path / "c", card=tmp_path / "card.md")
    assert (tmp_path / "c" / CARD).read_text(encoding="utf-8") == "# Other\n"


def test_what_is_refused(run: Path, tmp_path: Path):
    """In one sentence, before any work: unknown formats, settings of other formats, what exists, what is missing."""
    for words, parts in {
        ("model.h5",): ("no format has this suffix", ".onnx (onnx)", "--format"),
        ("model.onnx", "--format", "keras"): ("--format keras: allowed are folder, onnx, torchscript, bioimageio",),
        ("model.pt", "--license", "MIT"): ("--license is for bioimageio, not for torchscript",),
        ("model.pt", "--author", "A"): ("--author is for bioimageio, not for torchscript",),
        ("folder", "--no-tta"): ("--tta/--no-tta is for onnx, torchscript, bioimageio, not for folder",),
        ("folder", "--card", "no.md"): ("no.md: there is no such file",),
        ("model.zip", "--image", "no.tif"): ("no.tif: there is no such file",),
    }.items():
        assert_refused(run_segue("export", run, tmp_path / words[0], *words[1:]), *parts)
    (tmp_path / "model.pt").write_bytes(b"mine")
    assert_refused(run_segue("export", run, tmp_path / "model.pt"), "exists; remove it")
    assert_refused(run_segue("export", tmp_path, tmp_path / "other.pt"), "is not a finished run")
    assert_refused(run_segue("models", "export", run, tmp_path / "a", "--card", "b"), "is now segue export RUN OUT")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == b"mine"


def test_missing_packages_are_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the command that installs them."""
    assert exporting._is_installed("torch") and not exporting._is_installed("nothing.core")
    monkeypatch.setattr(exporting, "_is_installed", lambda name: not name.startswith("onnx"))
    with pytest.raises(
        SegueError, match=r"onnx is written by onnx, onnxscript, onnxruntime, not installed here; pip install 'segue\["
    ):
        segue.export(run, tmp_path / "model.onnx")


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No file, and no partial one."""

    def fail(*_: object) -> None:
        raise SegueError("no")

    monkeypatch.setattr("segue.exporting.torchscript_file.check", fail)
    with pytest.raises(SegueError, match="no"):
        segue.export(run, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_zip_is_no_run(tmp_path: Path):
    """Wherever a run is named, the sentence has the command that makes one of a package."""
    shutil.make_archive(str(tmp_path / "model"), "zip", write_discs(tmp_path / "a.h5").parent)
    (tmp_path / "stage.toml").write_text('from = { run = "model.zip" }\n[[data]]\ndataset = "a.h5"\n')
    for words in (
        ("predict", tmp_path / "model.zip", "a.tif", "-o", tmp_path / "out"),
        ("train", tmp_path / "stage.toml", tmp_path / "run"),
        ("evaluate", tmp_path / "model.zip", tmp_path / "a.h5"),
        ("export", tmp_path / "model.zip", tmp_path / "a.pt"),
    ):
        assert_refused(run_segue(*words), "model.zip: is a zip file", "segue models unpack")


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "notes.txt"])
def test_a_file_is_no_run(tmp_path: Path, name: str):
    """A model in another program's file is refused as a file, and so is any other file."""
    (tmp_path / name).write_bytes(b"x")
    for words in (("predict", tmp_path / name, "a.tif", "-o", tmp_path / "out"), ("export", tmp_path / name, "a.pt")):
        assert_refused(run_segue(*words), f"{name}: is a file, not the folder of a run", "exported from")
