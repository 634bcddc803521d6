"""`import segue`: instant, and the same verbs as the command line."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from samples.discs import disc_part, write_discs
from samples.modules import imported_anew

import segue

STAGE = """
epochs = 10
augment = "dihedral-all"
network = {{ name = "resunet", width = 8 }}
split = {{ validation = 0.2, test = 0.2 }}
optimizer = {{ name = "adam", lr = 3e-3 }}

[[data]]
dataset = "{dataset}"
images = 12
"""


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "stage.toml").write_text(STAGE.format(dataset=discs), encoding="utf-8")
    return segue.train(folder / "stage.toml", folder / "run")


def test_import_is_light():
    """`import segue` alone loads neither torch nor numpy."""
    code = "import segue, sys; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_is_there():
    """Every advertised name can be imported, and an unknown one is refused."""
    for name in segue.__all__:
        assert getattr(segue, name) is not None
    with pytest.raises(AttributeError, match="No segue attribute trian"):
        segue.trian  # noqa: B018


CALLS: dict[str, tuple[Any, ...]] = {
    "advise": ("no.toml",), "analyze": ("no.csv", "spread"),
    "compare": ("no", {"a": "no"}), "count": ("no", "no.h5", "no.csv"), "evaluate": ("no", "no.h5"),
    "evaluate_folder": ("no", "no"), "export": ("no", "no"),
    "film": ("no", "no.gif"), "fit": ("no", "no", "no"), "load": ("no",), "match": ("no", "no", "no.h5"),
    "plan": ("no.toml",), "plate": ("no.toml", "no.h5"), "predict": ("no", [[0.0]]),
    "predict_files": ("no", ["no.tif"], "no"), "prepare": ("no.toml", "no.h5"),
    "probabilities": ("no", [[0.0]]), "report": ("no.toml", "no.html"), "run_study": ("no.toml",),
    "simulate": ("no.toml", "no.h5"), "table": ("no.toml",), "train": ("no.toml", "no"), "unpack": ("no.zip", "no"),
    "write_objects": ([[0.5]], "no.geojson"),
}  # fmt: skip


@pytest.mark.parametrize("first", ["plan", "simulate"])
def test_functions_remain_functions(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever function is used first, and however often, none is hidden by a module that it imports."""
    monkeypatch.chdir(tmp_path)
    with imported_anew():
        module = importlib.import_module("segue")
        assert module is not segue
        assert set(module.__all__) == {*CALLS, "CountOptions", "Dataset", "SegueError", "SegueWarning", "ToolsSpec"}
        getattr(module, first)
        for name in [first, first, *CALLS, *reversed(CALLS)]:
            with pytest.raises(module.SegueError, match=r"^no|there is no"):  # none takes what does not exist
                getattr(module, name)(*CALLS[name])
    assert sys.modules["segue"] is segue
    assert not list(tmp_path.iterdir())


def test_no_module_has_the_name_of_a_function():
    """A module `segue.plan` would replace the function `segue.plan` as soon as it is imported."""
    modules = {module.name for module in pkgutil.iter_modules(segue.__path__)}
    assert "api" in modules and not modules & set(segue.__all__)


def test_arrays_in_arrays_out(run: Path):
    """A trained run segments arrays of any size and number, in their own units."""
    part = disc_part(99)
    image, label = part.images[1, 0], part.labels["discs"][1]
    labels = segue.predict(run, 50 + 100 * image)  # units do not matter
    assert labels.shape == image.shape
    assert 2 * (labels * label).sum() / (labels.sum() + label.sum()) > 0.6
    assert segue.predict(run, part.images).shape == part.labels["discs"].shape
    assert segue.predict(segue.load(run), np.pad(image, ((0, 9), (0, 31)))).shape == (41, 63)
    chances = segue.probabilities(run, image)
    assert chances.shape == (2, *image.shape)
    assert np.allclose(chances.sum(0), 1, atol=1e-5)


def test_prediction_refuses_what_it_cannot_use(run: Path):
    """Another number of channels and NaN are refused in a sentence."""
    with pytest.raises(segue.SegueError, match="the run takes 1 channels"):
        segue.predict(run, np.zeros((2, 3, 32, 32)))
    with pytest.raises(segue.SegueError, match="NaN"):
        segue.predict(run, np.full((32, 32), np.nan))
    with pytest.raises(segue.SegueError, match="is not a finished run"):
        segue.predict(run.parent, np.zeros((32, 32)))


def test_evaluation_keeps_to_the_held_out_part(run: Path, discs: Path):
    """A run is scored on the test part of its own split, or on the condition asked for."""
    actual = segue.evaluate(run, discs)
    assert actual["part"] == "test" and actual["samples"] > 0
    high = segue.evaluate(run, discs, conditions={"contrast": "high"})
    assert high["samples"] == actual["samples"] / 2
    assert high["scores"]["dice_disc"] > 0.5
    with pytest.raises(segue.SegueError, match="allowed are test and validation"):
        segue.evaluate(run, discs, part="train")


def test_training_again_does_nothing(run: Path):
    """The same specification into the same folder leaves every file as it is."""
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    segue.train(run.parent / "stage.toml", run)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_another_specification_into_the_same_folder(run: Path):
    """A finished run is not overwritten by a training with other settings."""
    other = run.parent / "other.toml"
    other.write_text((run.parent / "stage.toml").read_text().replace("epochs = 10", "epochs = 1"), encoding="utf-8")
    with pytest.raises(segue.SegueError, match="holds a finished run of another specification"):
        segue.train(other, run)


def test_the_order_of_data_is_part_of_the_key(tmp_path: Path, discs: Path):
    """Two specifications that take the same files for other conditions are not taken for each other."""
    second = tmp_path / "second.h5"
    shutil.copy(discs, second)
    with h5py.File(second, "r+") as file:
        file["tiles/images"][...] += 1
    head = 'epochs = 1\nnetwork = { name = "resunet", width = 8 }\nsplit = { validation = 0.2, test = 0.2 }\n'
    for name, files in (("a", (discs, second)), ("b", (second, discs))):
        items = [
            f'[[data]]\ndataset = "{file}"\nconditions = {{ contrast = "{contrast}" }}\n'
            for file, contrast in zip(files, ("low", "high"), strict=True)
        ]
        (tmp_path / f"{name}.toml").write_text(head + "".join(items), encoding="utf-8")
    segue.train(tmp_path / "a.toml", tmp_path / "run")
    with pytest.raises(segue.SegueError, match="another specification or other data"):
        segue.train(tmp_path / "b.toml", tmp_path / "run")


def test_a_run_on_classes_is_scored_on_objects_too(run: Path, discs: Path, tmp_path: Path):
    """Labels numbered by object count as foreground for a run that was trained on classes of the same names, and are
    scored as objects beside."""
    objects = write_discs(tmp_path / "objects.h5", groups=40, kind="instances")
    with h5py.File(objects, "r+") as file:
        labels = file["tiles/labels/discs"]
        labels[...] = 7 * labels[...]
    of_objects, of_pixels = (segue.evaluate(run, dataset)["scores"] for dataset in (objects, discs))
    assert {name: value for name, value in of_objects.items() if name in of_pixels} == of_pixels
    assert {"tile_ap50", "tile_pq", "tile_objects_true"} <= of_objects.keys() - of_pixels.keys()
