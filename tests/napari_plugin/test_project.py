"""Folders of images with labels, drafts and models, and fits in processes of their own; no napari."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from samples.discs import write_discs

from segue.data.image_io import read_label_pages
from segue.errors import SegueError
from segue.napari_plugin import training as module
from segue.napari_plugin.project import Project, project_of_dataset, read_result
from segue.napari_plugin.reader import get_reader, read_dataset
from segue.napari_plugin.training import Training, trainings
from segue.storage import write_json


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("b.tif", "a.tif", "c.ome.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((8, 10), np.uint8))
    (tmp_path / "notes.txt").write_text("")
    return Project(tmp_path)


def test_labels_are_drafts_until_they_are_saved(project: Project):
    """The draft is what is shown; saving writes what a fit reads, and removes the draft."""
    images = project.images()
    assert [path.name for path in images] == ["a.tif", "b.tif", "c.ome.tif"]
    assert project.labels_file(images[2]).name == "c.tif"
    labels = np.zeros((8, 10), np.int32)
    assert project.read_labels(images[0], (8, 10)).max() == 0
    labels[2:4, 2:4] = 7
    project.save_draft(images[0], labels)
    assert not project.is_labeled(images[0])
    np.testing.assert_array_equal(project.read_labels(images[0], (8, 10)), labels)
    project.save_labels(images[0], labels + (labels == 0))
    assert project.is_labeled(images[0]) and not project.draft_file(images[0]).exists()
    assert project.read_labels(images[0], (8, 10)).min() == 1
    with pytest.raises(SegueError, match=r"a\.tif: is 8 × 10 px, its image 9 × 9"):
        project.read_labels(images[0], (9, 9))


def test_folders_without_images_are_refused(tmp_path: Path):
    with pytest.raises(SegueError, match="holds no image of a known format"):
        Project(tmp_path).images()
    with pytest.raises(SegueError, match="cannot be read"):
        Project(tmp_path / "none").images()


def write_model(folder: Path) -> Path:
    """Writes what is read of a model that a fit made."""
    scores = {"mean": 0.6, "low": 0.5, "high": 0.7}
    candidates = [
        {"name": "nuclei, untouched", "test": {**scores, "mean": 0.4}},
        {"name": "scratch", "test": scores},
        {"name": "from nuclei", "test": None},
    ]
    content = {"answer": ["one", "two"], "score_meaning": "mean AP", "candidates": candidates, "chosen": "scratch"}
    write_json(folder / "fit.json", content)
    return folder


def test_models_and_their_results(project: Project):
    """Models that ship come first, then those of the folder; a ranking names images that have no labels yet."""
    model = write_model(project.models / "model-1")
    assert list(project.finished_models())[-1] == "model-1" and "nuclei" in project.finished_models()
    (project.models / "model-2.process.json").write_text("{}")
    assert project.new_model_name() == "model-3"
    result = read_result(model)
    assert result.before is not None and (result.before.mean, result.after.name, result.after.low) == (
        0.4,
        "scratch",
        0.5,
    )
    assert project.ranking(model) == []
    rows = "rank,image,disagreement,distance\n1,b.tif,1,1\n2,gone.tif,1,1\n3,elsewhere/a.tif,1,1\n"
    (model / "next.csv").write_text(rows)
    a, b, _ = project.images()
    assert project.ranking(model) == [b, a]
    project.save_labels(b, np.zeros((8, 10), np.int32))
    assert project.ranking(model) == [a]


def test_a_dataset_becomes_a_folder(tmp_path: Path):
    """Micrographs are written with their labels, and files that were edited since are left as they are."""
    dataset = write_discs(tmp_path / "discs.h5", groups=2)
    with pytest.raises(SegueError, match="stores no whole images"):
        project_of_dataset(dataset)
    layers = read_dataset(dataset)
    assert [kind for _, _, kind in layers] == ["image", "labels"] and layers[0][0].shape == layers[1][0].shape == (
        4,
        32,
        32,
    )
    assert get_reader(str(dataset)) is read_dataset and get_reader(str(tmp_path / "a.tif")) is None
    (tmp_path / "other.h5").write_bytes(b"")
    assert get_reader(str(tmp_path / "other.h5")) is None


def begin(training: Training, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Starts a program in the place of a fit."""
    start = module.subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", code], **options)
    )
    training.start(Path("images"), Path("labels"), parents=["nuclei"], minutes=2.5)


def test_a_training_outlives_what_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its words are in the log, another process of the same number is not taken for it, and stopping ends it."""
    training = Training(tmp_path / "models" / "model-1")
    assert not training.is_running and not training.was_stopped and training.state == ""
    begin(training, monkeypatch, "import time; print('epoch 3 of 9', flush=True); time.sleep(600)")
    while training.state != "epoch 3 of 9":
        time.sleep(0.01)
    (same,) = trainings(tmp_path / "models")
    assert same == training and same.is_running and not same.was_stopped
    record = module.read_json(training.record)
    assert record["arguments"] == [
        "images", "labels", "-o", str(training.model), "--minutes", "2.5", "--next", "--from", "nuclei",
    ]  # fmt: skip
    write_json(training.record, {**record, "began": record["began"] - 60})
    assert not training.is_running
    write_json(training.record, record)
    training.stop()
    while training.is_running:
        time.sleep(0.01)
    assert training.was_stopped and not training.is_finished
    write_model(training.model)
    assert training.is_finished and not training.was_stopped


def test_micrographs_of_a_dataset(tmp_path: Path):
    """A prepared dataset with whole images becomes image files and saved labels."""
    from samples.folders import make_folder, make_spec

    from segue.data.prepare import prepare

    prepare(make_spec(), tmp_path / "made.h5", root=make_folder(tmp_path / "folder"))
    project = project_of_dataset(tmp_path / "made.h5")
    images = project.images()
    assert len(images) == 4 and all(map(project.is_labeled, images))
    labels = read_label_pages(project.labels_file(images[0]))[0]
    assert labels.shape == tifffile.imread(images[0]).shape and labels.max() == 1
    project.save_labels(images[0], labels * 2)
    assert project_of_dataset(tmp_path / "made.h5").read_labels(images[0], labels.shape).max() == 2
