"""The page of a run: what it shows is what the run recorded, and its slider moves through the epochs."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Browser
from matplotlib.colors import to_hex
from PIL import Image
from samples.film import EPOCHS, NAMES, train_with_film
from typer.testing import CliRunner

import segue
from segue.cli.main import app
from segue.errors import SegueError
from segue.reporting.figures.run_curves import panels, run_curves_figure
from segue.reporting.figures.style import svg_text
from segue.reporting.formatting import format_number
from segue.reporting.page import run_page
from segue.reporting.page.run_page import film_pictures, flatten, run_history, scores_tables, write_run_page
from segue.reporting.video import frames
from segue.storage import write_json
from segue.training.logging import load_film
from segue.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run of three epochs and three classes that kept a film and was scored on a domain."""
    folder = tmp_path_factory.mktemp("run")
    train_with_film(folder)
    scores = {"loss": 0.5, "loss_floor": 0.0, "dice_mean": 0.25, "dice_live": None}
    epochs = [{"loss_adjusted": 0.5, "dice_mean": 0.1 * epoch} for epoch in range(EPOCHS)]
    content = {"domain": "other <plate>", "part": "test", "samples": 7, "groups": 2, "classes": list(NAMES)}
    (folder / "run" / "evaluations").mkdir()
    write_json(folder / "run" / "evaluations" / "0123.json", {**content, "scores": scores, "epochs": epochs})
    write_json(folder / "run" / "evaluations" / "0123.timing.json", {"decode_s_median": 1.0})
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "run.html"
    assert segue.report(run, out) == out
    return out


@pytest.fixture(scope="module")
def data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def pixels(png: str) -> np.ndarray:
    """Returns an image in base64 as (H, W, 4) uint8 for overlays."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))


def test_history_is_that_of_the_run(run: Path, data: dict[str, Any]) -> None:
    """Every column and epoch to six digits, and what was scored on domains at every epoch."""
    history = pd.read_parquet(run / "history.parquet")
    assert data["epochs"] == history["epoch"].tolist() == [1, 2, 3]
    for column in history.columns.drop("epoch"):
        values = [np.nan if value is None else value for value in data["history"][column]]
        assert np.allclose(values, history[column], rtol=1e-5, equal_nan=True)
    assert data["history"]["dice_mean@other <plate>"] == [0.0, 0.1, 0.2]


def test_pictures_are_the_outcomes_of_the_film(run: Path, data: dict[str, Any]) -> None:
    """Each overlay has the color of each pixel's outcome, by their definition in films, and is clear elsewhere."""
    images, labels, epochs, probabilities = load_film(run)
    pictures = film_pictures(RunFolder(run), 3)
    assert pictures is not None and pictures.epochs == epochs == data["pictures"]["epochs"]
    assert pictures.size == images.shape[2:] and len(pictures.images) == run_page.MAX_IMAGES
    assert pictures.note == "6 of 12 images in this page, to keep it light."
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures.images[0]))))
    assert first.shape == pictures.size and np.corrcoef(first.ravel(), images[0][0].ravel())[0, 1] > 0.99
    colors = {1: frames.HIT, 255: frames.IGNORED_COLOR}
    colors |= {1 + k: color for k, color in frames.class_colors(NAMES).items()}
    for place, of_epoch in enumerate(probabilities):
        codes = frames.outcomes(labels[0], of_epoch[0].argmax(0).astype(np.uint8))
        overlay = pixels(data["pictures"]["predictions"][place][0])
        assert ((overlay[..., 3] == 0) == (codes == 0)).all()
        for code, color in colors.items():
            assert {to_hex(one[:3] / 255) for one in overlay[codes == code]} <= {color}
    labeled = pixels(pictures.labels[0])
    assert ((labeled[..., 3] == 0) == (labels[0] == 0)).all()


def test_long_films_are_thinned(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The selected epoch stays, the rest is told; large images lose pixels, of labels and predictions alike."""
    monkeypatch.setattr(run_page, "MAX_PICTURES", 12)
    monkeypatch.setattr(run_page, "MAX_SIDE_PX", 10)
    pictures = film_pictures(RunFolder(run), 2)
    assert pictures is not None
    assert pictures.epochs == [1, 2] and [len(one) for one in pictures.predictions] == [6, 6]
    assert pictures.size == (8, 8)
    assert (
        pictures.note
        == "Predictions of 2 of 3 epochs, 6 of 12 images, one of 4 × 4 pixels in this page, to keep it light."
    )
    truth = load_film(run)[1][0]
    assert ((pixels(pictures.labels[0])[..., 3] == 0) == (truth[2::4, 2::4] == 0)).all()


def test_panels_are_where_the_drawing_has_them(run: Path) -> None:
    """The ends of each panel's axis of epochs lie at the ends of its frame."""
    history = run_history(RunFolder(run))
    figure = run_curves_figure(history, 3)
    svg_text(figure.figure)
    places = panels(figure)
    assert len(places) == 3
    for panel, axes in zip(places, figure.figure.axes, strict=True):
        for epoch, share in ((panel.first, panel.left), (panel.last, panel.right)):
            x, y = figure.figure.transFigure.inverted().transform(axes.transData.transform((epoch, axes.get_ylim()[0])))
            assert (x, 1 - y) == pytest.approx((share, panel.bottom))


def test_page_has_settings_and_scores(page: Path, run: Path) -> None:
    """Scores of the selected epoch and of the domain, what differs from the defaults, nothing from outside."""
    text = page.read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    table, of_classes = scores_tables(RunFolder(run), metrics)
    rows = {str(row[0]): list(row[1:]) for row in table.rows}
    assert list(table.columns) == ["", "when trained", "other <plate>"]
    assert rows["part"] == ["validation", "test"] and rows["of"][1] == "7 images"
    assert rows["mean Dice"] == [format_number(metrics["scores"]["validation_dice_mean"]), "0.250"]
    assert ["Dice of live", format_number(metrics["scores"]["validation_dice_live"]), "–"] in list(of_classes.rows)
    assert "other &lt;plate&gt;" in text and "<plate>" not in text.split("run-data")[0]
    changed = text.split("All settings")[0]
    assert "<td>optimizer.lr</td><td>0.01</td>" in changed and "<td>film</td><td>40</td>" in changed
    assert "<td>accumulate</td>" not in changed and "<td>accumulate</td><td>1</td>" in text
    assert not [one for one in re.findall(r'(?:src|href)="([^"#]*)', text) if one and not one.startswith("data:")]
    assert len(text) < 1e6


def test_settings_are_flat() -> None:
    nested = {"batch": 4, "split": {"by": "group", "blocks": None}, "data": [{"dataset": "a"}, {"dataset": "b"}]}
    assert flatten(nested | {"betas": [0.9, 0.999], "freeze": [], "tta": True}) == [
        ("batch", "4"), ("split.by", "group"), ("split.blocks", "none"), ("data.1.dataset", "a"),
        ("data.2.dataset", "b"), ("betas", "0.9, 0.999"), ("freeze", "none"), ("tta", "yes"),
    ]  # fmt: skip


def test_runs_that_kept_little_have_a_page(run: Path, tmp_path: Path) -> None:
    """Without film and evaluations, and scored by an earlier version, which did not write the domain's name."""
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("film", "epochs", "evaluations"))
    digests = json.loads((bare / "digests.json").read_text())
    write_json(bare / "digests.json", {name: digest for name, digest in digests.items() if (bare / name).exists()})
    write_run_page(bare, tmp_path / "bare.html")
    text = (tmp_path / "bare.html").read_text()
    assert "the run kept none (film = " in text and "data-prediction" not in text.split("<script>")[0]
    (bare / "evaluations").mkdir()
    content = json.loads((run / "evaluations" / "0123.json").read_text())
    write_json(bare / "evaluations" / "0123.json", {key: content[key] for key in content if key != "domain"})
    table, *_ = scores_tables(RunFolder(bare), json.loads((bare / "metrics.json").read_text()))
    assert list(table.columns)[2:] == ["0123"]


def test_command_and_what_it_refuses(run: Path, tmp_path: Path) -> None:
    """A run alone; options of studies, folders that are no run, and unfinished ones end in one sentence."""
    result = CliRunner().invoke(app, ["report", str(run), "-o", str(tmp_path / "run.html")])
    assert result.exit_code == 0, result.output
    with pytest.raises(SegueError, match="takes no table and no option but -o"):
        segue.report(run, tmp_path / "x.html", metric="loss")
    with pytest.raises(SegueError, match="takes no table and no option but -o"):
        segue.report([run, tmp_path / "t.parquet"], tmp_path / "x.html")
    (tmp_path / "half.running").mkdir()
    for folder in (tmp_path, tmp_path / "half"):
        with pytest.raises(SegueError, match="is not a finished run"):
            segue.report(folder, tmp_path / "x.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(SegueError, match=r"the page cannot be written .* give another path with -o"):
        segue.report(run, tmp_path / "file" / "x.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.browser
def test_keys_move_through_the_epochs(browser: Browser, page: Path, run: Path, data: dict[str, Any]) -> None:
    """Home, End and arrows show the values of the history, the predictions and the mark of their epoch."""
    history = pd.read_parquet(run / "history.parquet").set_index("epoch")
    browser.open(f"{page.as_uri()}#epoch=2")
    browser.evaluate("document.getElementById('epoch').focus()")
    marks = []
    for key, epoch in (("", 2), ("Home", 1), ("ArrowRight", 2), ("End", 3), ("ArrowLeft", 2)):
        if key:
            browser.press(key)
        browser.wait_for(f"document.getElementById('epoch-number').textContent === '{epoch}'")
        for column in ("train_loss", "validation_loss", "validation_dice_mean"):
            text = browser.evaluate(f"document.querySelector('[data-column=\"{column}\"]').textContent")
            assert text == format_number(float(history.loc[epoch, column]))
        picture = browser.evaluate("document.querySelector('[data-prediction=\"0\"]').getAttribute('href')")
        assert picture == f"data:image/png;base64,{data['pictures']['predictions'][epoch - 1][0]}"
        marks.append(browser.evaluate("Number(document.querySelector('.marker').getAttribute('x1'))"))
    assert marks[1] < marks[0] == marks[2] == marks[4] < marks[3]
    browser.wait_for("location.hash === '#epoch=2'")
    assert not [one for one in browser.requests if not one.startswith(("file:", "data:"))]
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]


@pytest.mark.browser
def test_without_its_script_the_page_shows_the_selected_epoch(browser: Browser, page: Path, run: Path) -> None:
    """Values, pictures and scores are there; the slider is not."""
    selected = json.loads((run / "metrics.json").read_text())["selected_epoch"]
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(page.as_uri())
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.evaluate("document.getElementById('epoch').offsetWidth") == 0
    dice = pd.read_parquet(run / "history.parquet").set_index("epoch").loc[selected, "validation_dice_mean"]
    text = browser.evaluate("document.querySelector('[data-column=\"validation_dice_mean\"]').textContent")
    assert text == format_number(float(str(dice)))
    assert browser.evaluate("document.querySelectorAll('.field image').length") == 18
