"""The film of classification over epochs: its colours, curves and files, against definitions and other ways to them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from samples.courses import made_courses
from samples.film import EPOCHS, NAMES, train_with_film, well
from skimage.color import deltaE_ciede2000, rgb2lab
from typer.testing import CliRunner

import segue
from segue.api import film as write
from segue.cli.main import app
from segue.data.writer import micrograph_name
from segue.errors import SegueError
from segue.evaluation import pixel_metrics
from segue.reporting.figures.style import PAPER, png_bytes
from segue.reporting.page.page import write_page
from segue.reporting.video import film, frames
from segue.reporting.video.frames import (
    CONFUSED,
    FrameRenderer,
    Overlay,
    VideoContext,
    VideoFrame,
    class_colors,
    epoch_ticks,
    log_ticks,
    operating_points,
    outcomes,
    sheet_figure,
    stepped,
)
from segue.training.run_folder import RunFolder

# what those see who lack one kind of cones (Machado, Oliveira and Fernandes 2009, severity 1)
SIGHTS = {
    "all": np.eye(3),
    "no red": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "no green": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a dataset, blobs.h5, and of a run of three classes that kept its epochs and a film."""
    folder = tmp_path_factory.mktemp("film")
    train_with_film(folder)
    return folder


def scene(truth: np.ndarray, names: tuple[str, ...] = NAMES, epochs: int = 3) -> VideoContext:
    gray = np.full(truth.shape, 128, np.uint8)
    at = np.arange(1, epochs + 1, dtype=float)
    courses = {"lr": (at, 1e-3 / at), "train_loss": (at, 0.5 / at), "validation_loss": (at, 0.6 / at)}
    return VideoContext(gray, truth, names, "run", "field", tuple(range(1, epochs + 1)), courses)


def shot_of(truth: np.ndarray, classes: np.ndarray, epoch: int = 1, names: tuple[str, ...] = NAMES) -> VideoFrame:
    """Returns a shot whose probabilities are certain of `classes`."""
    certain = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), len(names)).movedim(-1, 1).float()
    counts = pixel_metrics.histogram(certain, torch.from_numpy(truth).long())
    return VideoFrame(epoch, classes.astype(np.uint8), counts.numpy())


def test_outcomes_follow_from_their_definition() -> None:
    """Of all pairs of label and prediction, each code is what true and false positives and negatives are by words."""
    for truth in range(-1, 4):
        for predicted in range(4):
            (code,) = outcomes(np.array([truth]), np.array([predicted], np.uint8))
            if truth < 0:
                assert code == 255
            elif truth == predicted:
                assert code == (1 if truth else 0)
            else:
                assert code == 1 + (truth or predicted)  # missed: the labelled class; invented: the predicted one


def test_colors_of_classes() -> None:
    """Hits are green, errors blue of class 1 and red of class 2, background stays grey, and all show the image."""
    table = frames.outcome_colors(class_colors(NAMES))
    np.testing.assert_array_equal(table[0], np.repeat(np.arange(256)[:, None], 3, axis=1))
    assert (table[1].astype(int)[:, 1] - table[1].astype(int)[:, [0, 2]].max(1) > 20).all()
    assert (table[2].argmax(1) == 2).all() and (table[3].argmax(1) == 0).all()
    assert (np.diff(table[:4].astype(int), axis=1) >= 0).all()  # brighter where the image is


def test_colors_can_be_told_apart() -> None:
    """Lines on paper have a contrast of 3 to 1; on the image, hits and errors differ for the colour-blind, too."""
    for ink in frames.CLASS_COLORS:
        light, dark = (_linear(to_rgb(color)) @ [0.2126, 0.7152, 0.0722] + 0.05 for color in (PAPER, ink))
        assert light / dark > 3
    for sight in SIGHTS.values():
        for gray in (60, 128, 190):
            table = frames.outcome_colors(class_colors(NAMES))[:, gray] / 255
            of_hit, *of_errors = (_lab(table[code], sight) for code in (1, 2, 3))
            assert min(deltaE_ciede2000(of_hit, of_error) for of_error in of_errors) > 12
            assert deltaE_ciede2000(of_errors[0], of_errors[1]) > 12


def _linear(rgb: Any) -> np.ndarray:
    rgb = np.asarray(rgb, dtype=float)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(rgb: np.ndarray, sight: np.ndarray) -> np.ndarray:
    """Returns the colour in CIE Lab as it is seen; `sight` acts on linear RGB."""
    seen = np.clip(sight @ _linear(rgb), 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))


def test_steps_hold_the_average_precision() -> None:
    """The area under the drawn corners is the average precision, and both are those of every threshold by hand."""
    generator = np.random.default_rng(0)
    probabilities = torch.from_numpy(np.round(generator.random((1, 3, 40, 40)) * 255) / 255)
    truth = torch.from_numpy(generator.integers(-1, 3, (1, 40, 40)))
    counts = pixel_metrics.histogram(probabilities, truth.clone())
    precision, recall = pixel_metrics.precision_recall(counts)
    known = (truth >= 0).numpy().ravel()
    for k, area in enumerate(pixel_metrics.average_precision(counts).tolist()):
        corners = stepped(recall[k].numpy(), precision[k].numpy())
        assert np.trapezoid(corners[:, 1], corners[:, 0]) == pytest.approx(area)
        given, is_k = probabilities[0, k].numpy().ravel()[known], (truth.numpy().ravel() == k)[known]
        for place in (60, 128, 200):
            selected = given >= (255 - place) / 255 - 1e-9
            assert precision[k, place].item() == pytest.approx(is_k[selected].mean())
            assert recall[k, place].item() == pytest.approx(is_k[selected].sum() / is_k.sum())


def test_dots_are_scores_of_the_classes_shown() -> None:
    """Precision and recall of the classes in the picture, by counting; nothing predicted gives no precision."""
    truth = np.array([[[0, 1, 1, 2, -1, 2]]])
    precision, recall = operating_points(truth, np.array([[[1, 1, 1, 0, 1, 0]]]), 3)
    np.testing.assert_allclose(precision, [0, 2 / 3, np.nan])
    np.testing.assert_allclose(recall, [0, 1, 0])


def test_own_film_has_the_scores_of_the_history(trained: Path) -> None:
    """Of all validation images, areas under the curves and losses are those that the training recorded."""
    result = film.film_of_run(trained / "run")
    groups = pd.read_json(trained / "run" / "groups.json", typ="series")
    assert len(result.context.images) == 4 * len(groups["validation"]) and result.context.names == NAMES
    history = pd.read_parquet(trained / "run" / "history.parquet").set_index("epoch")
    for shot in result.frames(result.context.epochs):
        areas = shot.precision_recall()[2]
        for k, name in enumerate(NAMES):
            assert areas[k] == pytest.approx(history.loc[shot.epoch, f"validation_auprc_{name}"], abs=1e-9)
    for column in ("lr", "train_loss", "validation_loss"):
        np.testing.assert_allclose(result.context.curves[column][1], history[column])


def test_a_field_is_predicted_as_by_the_run(trained: Path) -> None:
    """With the selected epoch's weights a field is what `segue.predict` gives, and a part of it is the same there."""
    run, dataset = trained / "run", trained / "blobs.h5"
    selected = segue.load(run)
    same = [epoch for epoch, file in RunFolder(run).epoch_files().items() if _equal(file, run / "weights.safetensors")]
    image, labels = well(1).micrographs["P1/A2/t000"].image, well(1).micrographs["P1/A2/t000"].labels["classes"]
    expected = segue.predict(selected, image)
    whole = film.film_of_field(run, dataset, "P1/A2/t000")
    (shot,) = whole.frames(same)
    np.testing.assert_array_equal(shot.classes[0], expected)
    np.testing.assert_array_equal(whole.context.truth[0], labels)
    part = film.film_of_field(run, dataset, "P1/A2/t000", (10, 3, 40, 50))
    (shot,) = part.frames(same)
    assert (shot.classes[0] == expected[10:50, 3:53]).mean() > 0.995  # scores are equal but for rounding
    np.testing.assert_array_equal(part.context.truth[0], labels[10:50, 3:53])
    assert shot.counts.sum() == 3 * (labels[10:50, 3:53] >= 0).sum()


def _equal(file: Path, other: Path) -> bool:
    return file.read_bytes() == other.read_bytes()


def test_subtitle_tells_what_the_run_used_the_field_for(trained: Path) -> None:
    """Every well is told as trained on, validation or neither, as the run's list of groups has it."""
    groups = pd.read_json(trained / "run" / "groups.json", typ="series")
    for index in range(6):
        name = f"P1/A{index + 1}"
        words = "trained on" if name in groups["training"] else "validation"
        words = words if name in groups["training"] + groups["validation"] else "never trained on"
        result = film.film_of_field(trained / "run", trained / "blobs.h5", f"{name}/t000")
        assert result.context.subtitle == f"{name}/t000 ({words})"


def test_picture_is_enlarged_and_colored_by_pixel() -> None:
    """A small field grows by a whole number; inside of rims every pixel has the colour of its outcome."""
    truth = np.zeros((1, 40, 60), np.int16)
    truth[0, 5:20, 5:20], truth[0, 5:20, 30:50], truth[0, 35:] = 1, 2, -1
    classes = np.zeros((1, 40, 60), np.uint8)
    classes[0, 5:20, 5:20], classes[0, 25:30, 5:20] = 1, 2
    painted = Overlay(scene(truth)).overlay(classes)
    scale = painted.shape[0] // 40
    assert painted.shape == (40 * scale, 60 * scale, 3) and scale >= 2
    table = frames.outcome_colors(class_colors(NAMES))
    for (y, x), code in {(12, 12): 1, (12, 40): 3, (27, 12): 3, (30, 50): 0, (38, 10): 255}.items():
        np.testing.assert_array_equal(painted[y * scale + scale // 2, x * scale + scale // 2], table[code, 128])
    rim = np.rint(255 * np.array(to_rgb(class_colors(NAMES)[1])))
    np.testing.assert_array_equal(painted[5 * scale, 5 * scale : 20 * scale], np.tile(rim, (15 * scale, 1)))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 33, 47),
        (7, 32, 32),
        *(pytest.param(shape, marks=pytest.mark.slow) for shape in [(1, 2000, 300), (4, 600, 900)]),
    ],
)
def test_frames_of_any_field_have_even_sizes(shape: tuple[int, int, int]) -> None:
    """Frames of fields large and small, one or several, are of one even size, within bounds, and hold the picture."""
    truth = np.zeros(shape, np.int16)
    truth[:, 3:20, 3:20] = 2
    screen = FrameRenderer(scene(truth))
    first, second = (screen.render(shot_of(truth, np.maximum(truth, 0), epoch)) for epoch in (1, 2))
    assert first.shape == second.shape == (*screen.size, 3)
    assert all(side % 2 == 0 for side in screen.size) and 540 <= screen.size[0] <= 900 and screen.size[1] <= 1400
    assert (first != second).any()


@pytest.mark.slow
@pytest.mark.parametrize("names", [
    ("background", "object"),
    ("background", *(f"class {k}" for k in range(1, 8))),
])  # fmt: skip
def test_any_number_of_classes(names: tuple[str, ...]) -> None:
    """One foreground class or seven: a film and a sheet are drawn, with classes that nowhere occur."""
    truth = np.zeros((1, 48, 48), np.int16)
    truth[0, :8, :8] = 1
    shots = [shot_of(truth, np.zeros((1, 48, 48), np.uint8), epoch, names) for epoch in (1, 2)]
    screen = FrameRenderer(scene(truth, names))
    assert all(screen.render(shot).shape == (*screen.size, 3) for shot in shots)
    assert png_bytes(sheet_figure(scene(truth, names), shots)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_files_play(trained: Path, tmp_path: Path) -> None:
    """One pass writes an MP4 of H.264 in yuv420p, a GIF and a sheet; each decodes to a frame per epoch, and a rest."""
    outs = [tmp_path / name for name in ("film.mp4", "film.gif", "film.png")]
    assert write(trained / "run", *outs, frames_per_s=5) == outs
    result = film.film_of_run(trained / "run")
    screen = FrameRenderer(result.context)
    drawn = [screen.render(shot) for shot in result.frames(result.context.epochs)]
    with av.open(str(outs[0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == screen.size and stream.average_rate == 5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == EPOCHS + 10  # the last one stays for two seconds
    for frame, expected in zip(decoded, drawn, strict=False):
        assert np.abs(frame.astype(float) - expected).mean() < 6  # of 255; colours are kept at half the resolution
    with Image.open(outs[1]) as gif:
        assert (gif.size, gif.n_frames, gif.info["duration"]) == (screen.size[::-1], EPOCHS, 200)  # pyright: ignore
        for index, expected in enumerate(drawn):
            gif.seek(index)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(float) - expected).mean() < 4
    with Image.open(outs[2]) as sheet:
        assert sheet.width == 2000
    assert {path.name for path in tmp_path.iterdir()} == {out.name for out in outs}


def test_a_sheet_predicts_only_its_epochs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no film is asked for, no epoch is predicted but those of the sheet, the first and the last among them."""
    monkeypatch.setattr(film, "SHEET_FRAMES", 3)
    truth = np.ones((1, 32, 32), np.int16)
    seen: list[int] = []

    def shots(selected_epochs: tuple[int, ...]) -> Iterator[VideoFrame]:
        for epoch in selected_epochs:
            seen.append(epoch)
            yield shot_of(truth, truth, epoch)

    film.write_film(film.Film(scene(truth, epochs=9), shots), [tmp_path / "sheet.png"])  # type: ignore[arg-type]
    assert seen == [1, 5, 9]


@pytest.mark.slow
def test_command(trained: Path, tmp_path: Path) -> None:
    """The command films a part of a field into several files, and tells a wrong part or a wrong field in words."""
    words = ["film", str(trained / "run"), "--dataset", str(trained / "blobs.h5"), "--field"]
    outs = ["-o", str(tmp_path / "a.gif"), "-o", str(tmp_path / "a.png")]
    invoked = CliRunner().invoke(app, [*words, "P1/A1/t000", "--crop", "0,0,32,48", *outs])
    assert invoked.exit_code == 0, invoked.output
    assert (tmp_path / "a.gif").exists() and (tmp_path / "a.png").exists()
    for more, expected in {
        ("P1/A1/t000", "--crop", "0,0,65,10"): "does not lie in its 64 × 64 px",
        ("P1/A1/t000", "--crop", "0,0,5"): "is not y,x,height,width",
        ("P1/A1/t000", "--crop", "0,0,5,64"): "no labeled pixel",
        ("P1/A9/t000",): "stored: P1/A1/t000",
        ("P1/A1/t000", "-o", "film.avi"): "written as .mp4, .gif or .png",
        ("P1/A1/t000", "-o", "film.gif", "--fps", "0"): "frames per second",
    }.items():
        error = CliRunner().invoke(app, [*words, *more]).exception
        assert isinstance(error, SegueError) and expected in str(error)


def test_fields_with_labels_are_named(trained: Path, tmp_path: Path) -> None:
    """A field without labels cannot be filmed: the sentence names those that can, or says that none has any."""
    dataset = tmp_path / "blobs.h5"
    shutil.copyfile(trained / "blobs.h5", dataset)
    with h5py.File(dataset, "r+") as file:
        of_well = {micrograph_name(key): group for key, group in file["micrographs"].items()}
        del of_well["P1/A1/t000"]["labels"]
    expected = (
        "'P1/A1/t000' has no labels 'classes'.*name one of the 5 that have them: P1/A2/t000, P1/A3/t000, .*A6/t000[.]"
    )
    with pytest.raises(SegueError, match=expected):
        film.film_of_field(trained / "run", dataset, "P1/A1/t000")
    with h5py.File(dataset, "r+") as file:
        for group in file["micrographs"].values():
            group.pop("labels", None)
    with pytest.raises(SegueError, match="no other stored one has them; use the dataset"):
        film.film_of_field(trained / "run", dataset, "P1/A1/t000")


def test_classes_are_colored_by_name() -> None:
    """Live is blue and dead red in any order and among other classes; the words on the sheet tell field and curves."""
    names = ("background", "cell", "dead", "live")
    assert class_colors(names)[3] == class_colors(NAMES)[1] and class_colors(names)[2] == class_colors(NAMES)[2]
    assert len(set(class_colors(names).values())) == 3
    truth = np.ones((1, 32, 32), np.int16)
    figure = sheet_figure(scene(truth), [shot_of(truth, truth)])
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "run: field" in texts and "area under its precision-recall curve" in texts and CONFUSED.capitalize() in texts


def test_axes_tell_the_last_epoch_and_more_than_one_value() -> None:
    """Axes of courses end with a tick at the last epoch, and a logarithmic one has at least two wherever it spans 3."""
    for last in range(2, 130):
        ticks = epoch_ticks(last)
        assert ticks[-1] == last and ticks == sorted(set(ticks)) and len(ticks) <= 9
    for low in (1e-7, 0.03, 0.2, 0.9):
        for ratio in (12, 40, 1e3, 1e5):
            for most in (2, 4):
                ticks = log_ticks(low, low * ratio, most)
                assert 2 <= len(ticks) <= most and low <= ticks[0] and ticks[-1] <= low * ratio


def test_what_a_run_did_not_keep_is_told(trained: Path, tmp_path: Path) -> None:
    """Without kept epochs, without a film, unfinished, or with half of what names a field: one sentence each."""
    bare = tmp_path / "run"
    shutil.copytree(trained / "run", bare, ignore=shutil.ignore_patterns("epochs", "film"))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"dataset": trained / "blobs.h5", "field": "P1/A1/t000"}, "keep_epochs = true"),
        ({}, "has no film"),
        ({"field": "P1/A1/t000"}, "give both dataset and field"),
        ({"crop": (0, 0, 8, 8)}, "give both dataset and field"),
    ]
    for arguments, expected in wrong:
        with pytest.raises(SegueError, match=expected):
            write(bare, tmp_path / "film.gif", **arguments)
    (bare / "metrics.json").unlink()
    with pytest.raises(SegueError, match="not a finished run"):
        write(bare, tmp_path / "film.gif")
    assert not (tmp_path / "film.gif").exists()


@pytest.mark.slow
def test_page_of_a_study_shows_the_sheet(trained: Path, tmp_path: Path) -> None:
    """Of runs that kept a film the one of median loss is chosen for each stage, and its sheet stands in the page."""
    rows = [("train", "a", 0.3), ("train", "b", 0.1), ("train", "c", 0.2), ("other", "d", 0.1), ("train", "e", 0.15)]
    for name in ("a", "b", "c", "e"):
        if name != "e":
            (tmp_path / name / "film").mkdir(parents=True)
            (tmp_path / name / "film" / "still.npz").touch()
    plan: Any = SimpleNamespace(store=SimpleNamespace(run=lambda key: tmp_path / key))
    table = pd.DataFrame(rows, columns=["stage", "run", "loss"])
    assert film.runs_with_film(plan, table) == {"train": tmp_path / "c"}
    assert film.runs_with_film(plan, pd.DataFrame()) == {}
    results = replace(made_courses(1, variants=1), films={"train": trained / "run"})
    write_page(results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<h2 id="films">Classification by epoch</h2>' in page and "data:image/png;base64" in page
    assert "true positives are green" in page and (tmp_path / "page-figures" / "film-train.png").exists()
