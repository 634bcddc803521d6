"""A folder in, a model out: what is written, that TOML files repeat it, that parents are judged, and what is refused.

The rules' network is replaced by a small one and the steps are given, so that no clock decides anything.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segue
from segue.errors import SegueError
from segue.fitting import rules
from segue.fitting.fit import Fitted, Request, fit
from segue.fitting.timing import step_seconds, tile_counts
from segue.spec import read_toml
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.training.run_folder import RunFolder

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE]
SMALL = {"name": "resunet", "width": 8}


def make_images(folder: Path, count: int, *, name: str = "a", objects: bool = False) -> Path:
    """Writes images of four bright discs each, with masks of 0 and 255, or the discs numbered."""
    generator = np.random.default_rng(ord(name))
    for index in range(count):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for number, (y, x) in enumerate([(16, 16), (16, 48), (48, 16), (48, 48)], 1):
            shift_y, shift_x, radius = generator.integers(-4, 5), generator.integers(-4, 5), generator.integers(6, 10)
            inside = (Y - y - shift_y) ** 2 + (X - x - shift_x) ** 2 <= radius**2
            labels[inside] = number if objects else 255
        image = np.clip(60 + 100.0 * (labels > 0) + generator.normal(0, 10, labels.shape), 0, 255)
        for part, pixels in (("images", image.astype(np.uint8)), ("labels", labels)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / part / f"{name}{index}.png")
    return folder


def run_fit(folder: Path, out: Path, **changes: Any) -> Fitted:
    request = Request(f"{folder}/images", f"{folder}/labels", out, **{"steps": 2, **changes})
    return fit(request, progress=lambda *_, **__: None, log=lambda line: None)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rules.STAGE_RULES, "network", lambda situation: (SMALL, "small"))  # pyright: ignore
        patch.setattr("segue.fitting.fit.cpu_count", lambda: 1)
        yield


@pytest.fixture(scope="module")
def split_fit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fitted]:
    """A fit of one split: twelve images of classes, enough steps to learn them."""
    folder = make_images(tmp_path_factory.mktemp("split"), 12)
    return folder, run_fit(folder, folder / "model", steps=60, license="CC0 1.0")


def test_model_is_a_run(split_fit: tuple[Path, Fitted]):
    """The model predicts, is better than a constant answer, and has its card, page and numbers."""
    folder, fitted = split_fit
    assert fitted.chosen == "scratch" and fitted.answer[0].startswith("scratch: IoU 0.")
    labels = segue.predict(fitted.model, np.array(Image.open(folder / "images" / "a0.png")))
    assert labels.shape == (SIDE, SIDE) and set(np.unique(labels)) <= {0, 1}
    result = json.loads((fitted.model / "fit.json").read_text())
    assert result["learned"] and result["candidates"][0]["test"]["groups"] == 3
    card = (fitted.model / "card.md").read_text()
    assert (
        "| scratch (this model) |" in card
        and "license of the images: CC0 1.0" in card
        and "license of this model: CC0 1.0" in card
    )
    page = fitted.page.read_text()
    assert fitted.answer[0] in page and "Worst and best" in page


@pytest.mark.slow
def test_toml_files_repeat_it(split_fit: tuple[Path, Fitted], tmp_path: Path):
    """`segue study run` of the study in another store makes the weights of the model again."""
    folder, fitted = split_fit
    plan = plan_study(fitted.study, tmp_path / "runs")
    assert run_study(plan).complete
    (training,) = plan.trainings
    again = RunFolder(plan.store.run(training.key))
    assert again.key == RunFolder(fitted.model).key
    assert again.weights.read_bytes() == (fitted.model / "weights.safetensors").read_bytes()
    assert read_toml(folder / "model.fit" / "prepare.toml")["labels"]["values"] == {"255": 1}


def test_steps_are_timed(split_fit: tuple[Path, Fitted], tmp_path: Path):
    """A step of the stage that was written takes a time, and nothing of the measurement is left."""
    folder, fitted = split_fit
    (dataset,) = (folder / "model.fit" / "runs").glob("data-*/dataset.h5")
    stage = read_toml(fitted.study)["stages"]["scratch"]
    settings = {name: value for name, value in stage.items() if name != "domain"}
    assert tile_counts(dataset) == (7, 2)
    assert 0 < step_seconds(settings, dataset, tmp_path) < np.inf
    assert not list(tmp_path.iterdir())


def test_finished_and_foreign_outputs(split_fit: tuple[Path, Fitted]):
    """The same call does nothing to a finished model; other options and foreign folders are refused."""
    folder, fitted = split_fit
    before = (fitted.model / "fit.json").stat().st_mtime_ns
    assert run_fit(folder, folder / "model", steps=60, license="CC0 1.0") == fitted
    assert (fitted.model / "fit.json").stat().st_mtime_ns == before
    with pytest.raises(SegueError, match=r"begun by another command \(minutes was 10.0, is 3.0\)"):
        run_fit(folder, folder / "model", license="CC0 1.0", minutes=3.0)
    (folder / "model.fit" / "fit.toml").unlink()
    with pytest.raises(SegueError, match=r"begun by another command \(kind was None, is classes\)"):
        run_fit(folder, folder / "model", license="CC0 1.0", kind="classes")
    with pytest.raises(SegueError, match="not made by `segue fit`"):
        run_fit(folder, folder / "images")
    for part, other in (("labels", "a1.png"), ("images", "a2.png")):
        file = folder / part / "a0.png"
        before = file.read_bytes()
        shutil.copy(folder / part / other, file)
        with pytest.raises(SegueError, match="labels are not those that this fit was begun with"):
            run_fit(folder, folder / "model", steps=60, license="CC0 1.0")
        file.write_bytes(before)
    (folder / "labels" / "a0.png").rename(folder / "a0.png")
    with pytest.raises(SegueError, match="labels are not those that this fit was begun with"):
        run_fit(folder, folder / "model", steps=60, license="CC0 1.0")
    (folder / "a0.png").rename(folder / "labels" / "a0.png")
    assert run_fit(folder, folder / "model", steps=60, license="CC0 1.0") == fitted
    left_out = next(Path(row[0]).name for row in rows_of(folder / "model.fit" / "images.csv") if row[3] == "test")
    for part in ("images", "labels"):
        shutil.copytree(folder / part, folder / "two" / part, ignore=shutil.ignore_patterns(left_out))
    with pytest.raises(SegueError, match=r"was trained or selected with the images of 9 of these 11 groups"):
        run_fit(folder / "two", folder / "child", parents=(str(fitted.model),))
    assert not (folder / "child").exists()


@pytest.mark.slow
def test_parent_of_other_images(split_fit: tuple[Path, Fitted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Folds with a parent: each image tested once, the parent untouched and transferred, and a model of all images."""
    _, parent = split_fit
    folder = make_images(tmp_path, 4, name="b")
    monkeypatch.setitem(rules.STAGE_RULES, "network", lambda situation: ({**SMALL, "width": 16}, "larger"))  # pyright: ignore
    fitted = run_fit(folder, tmp_path / "child", parents=(str(parent.model),))
    result = json.loads((fitted.model / "fit.json").read_text())
    names = ["model, untouched", "from model", "from model, encoder frozen", "scratch"]
    assert sorted(row["name"] for row in result["candidates"]) == sorted(names)
    assert all(row["test"]["images"] == 4 for row in result["candidates"])
    # two steps cannot improve on the parent, which has learned the same task
    assert fitted.chosen == "model, untouched" and fitted.answer[-1].endswith("is not beaten, and is kept as it is.")
    assert (fitted.model / "weights.safetensors").read_bytes() == (parent.model / "weights.safetensors").read_bytes()
    assert result["license"] == "CC0 1.0" and result["data_license"] == "not stated"
    (origin,) = result["started_from"]
    assert (origin["name"], origin["license"]) == (str(parent.model), "CC0 1.0")
    # the card is that of the parent, with what it was compared on
    card, of_parent = ((one.model / "card.md").read_text() for one in (fitted, parent))
    assert "## Images that models were compared on" in card and "## Data" not in card.replace("#### Data", "")
    assert "its weights are unchanged" in card and "makes intervals of differences from them too narrow" in card
    assert all(line in card for line in of_parent.splitlines() if line.startswith("- "))
    assert "division: 3 folds" in card
    study = (tmp_path / "child.fit" / "study-fold-1.toml").read_text()
    assert "# network: of the first parent" in study and "network: larger" not in study
    studies = sorted(path.name for path in (tmp_path / "child.fit").glob("study-*.toml"))
    assert studies == ["study-fold-1.toml", "study-fold-2.toml", "study-fold-3.toml"]


@pytest.mark.slow
def test_images_that_a_parent_has_seen_are_only_trained_on(split_fit: tuple[Path, Fitted], tmp_path: Path):
    """Of the images of the parent those that it was tested on are held out, in folds, and others never."""
    folder, parent = split_fit
    lines: list[str] = []
    request = Request(f"{folder}/images", f"{folder}/labels", tmp_path / "child", parents=(str(parent.model),), steps=2)
    fitted = fit(request, progress=lambda *_, **__: None, log=lines.append)
    assert any(line.startswith("division: model has seen 9 of 12 images, which are only trained on") for line in lines)
    unseen = {Path(row[0]).name for row in rows_of(folder / "model.fit" / "images.csv") if row[3] == "test"}
    tested: set[str] = set()
    for fold in (1, 2, 3):
        rows = rows_of(tmp_path / "child.fit" / f"fold-{fold}.csv")
        assert {Path(row[0]).name for row in rows if row[3] != "train"} < unseen
        tested |= {Path(row[0]).name for row in rows if row[3] == "test"}
    assert tested == unseen
    assert all(row["test"]["images"] == 3 for row in json.loads((fitted.model / "fit.json").read_text())["candidates"])


def rows_of(table: Path) -> list[list[str]]:
    return [row.split(",") for row in table.read_text().splitlines()[1:]]


@pytest.mark.slow
def test_objects_in_folds_after_a_kill(tmp_path: Path):
    """Objects in three folds: SIGKILL in the midst of the trainings, then the same command, ends with the same bytes as
    a command that was never killed; the model of all images is trained last."""
    folder = make_images(tmp_path, 4, name="c", objects=True)
    code = (
        "from pathlib import Path; from segue.fitting import fit, rules; fit.cpu_count = lambda: 1;"
        f"rules.STAGE_RULES['network'] = lambda situation: ({SMALL}, 'small');"
        "request = fit.Request('images', 'labels', Path('killed'), steps=8);"
        "fit.fit(request, progress=lambda *a, **k: None, log=print)"
    )
    kill = (
        "import os, signal; from segue.training import loop; steps = iter(range(100)); step = loop.train_step;"
        "loop.train_step = lambda *a: os.kill(os.getpid(), signal.SIGKILL) if next(steps) == 12 else step(*a);"
    )

    def command(code: str) -> int:
        return subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode

    assert command(kill + code) == -signal.SIGKILL
    assert (folder / "killed.fit").exists() and not (folder / "killed").exists()
    assert command(code) == 0
    run_fit(folder, folder / "whole", steps=8)
    for name in ("weights.safetensors", "fit.json", "card.md"):
        first, second = ((folder / out / name).read_bytes() for out in ("killed", "whole"))
        assert first.replace(b"killed", b"whole") == second
    result = json.loads((folder / "whole" / "fit.json").read_text())
    assert result["candidates"][0]["test"]["images"] == 4 and "3 folds" in result["tested_by"]
    assert "on all groups but those that select its epoch" in result["tested_by"]


@pytest.mark.slow
@pytest.mark.parametrize("empty", [1, 4])
def test_a_subset_without_objects_is_left_out_of_the_curve(tmp_path: Path, empty: int):
    """Where single images of the smallest subsets have no object, their trainings are told, and the model is made."""
    folder = make_images(tmp_path, 12, name="f", objects=True)
    for index in range(empty):
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(folder / "labels" / f"f{index}.png")
    lines: list[str] = []
    request = Request(f"{folder}/images", f"{folder}/labels", folder / "model", steps=2, curve=True)
    fitted = fit(request, progress=lambda *_, **__: None, log=lines.append)
    told = [line for line in lines if line.startswith("WARNING: no training of the learning curve on 1 groups")]
    sizes = [one["groups"] for one in json.loads((fitted.model / "fit.json").read_text())["curve"]["trainings"]]
    assert sizes == [1] * (3 - len(told)) + [3, 3, 3, 7]
    assert all("no object" in line for line in told) and (told or empty == 1)


@pytest.mark.slow
def test_repaired_images_begin_anew(tmp_path: Path):
    """What was refused before the number of steps was chosen is no other fit, once it is repaired; later it is."""
    folder = make_images(tmp_path, 4, name="g")
    second = folder / "images" / "g1.png"
    picture = second.read_bytes()
    shutil.copy(folder / "images" / "g0.png", second)
    with pytest.raises(SegueError):
        run_fit(folder, folder / "model")
    second.write_bytes(picture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.fitting.fit.run_study", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_fit(folder, folder / "model")
    shutil.copy(folder / "labels" / "g0.png", folder / "labels" / "g1.png")
    with pytest.raises(SegueError, match="labels are not those that this fit was begun with"):
        run_fit(folder, folder / "model")


@pytest.mark.slow
def test_how_many_labels_and_which(tmp_path: Path):
    """Trainings on fewer labels, a forecast of more, and images without labels in order; also in folds."""
    for count, name in ((12, "d"), (5, "e")):
        folder = make_images(tmp_path / name, count, name=name)
        make_images(folder / "other", 2, name="x")
        for path in (folder / "other" / "images").iterdir():
            path.rename(folder / "images" / path.name)
        fitted = run_fit(folder, folder / "model", steps=8, curve=True, rank=True)
        result = json.loads((fitted.model / "fit.json").read_text())
        sizes = [one["groups"] for one in result["curve"]["trainings"]]
        assert sizes == ([1, 1, 1, 3, 3, 3, 7] if count == 12 else [1, 1, 2])
        assert [one["groups"] for one in result["curve"]["forecasts"]][-1] == 4 * sizes[-1]
        rows = (fitted.model / "next.csv").read_text().splitlines()
        assert len(rows) == 3 and {Path(row.split(",")[1]).name for row in rows[1:]} == {"x0.png", "x1.png"}
        page = fitted.page.read_text()
        assert "How many labels" in page and "Images to label next" in page
        assert any(line.startswith("Of 2 images without labels") for line in fitted.answer)
