"""`segue inspect schedule`: what it prints, draws and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples.cli import assert_refused, run_segue

from segue.cli import schedules
from segue.errors import SegueError
from segue.training.schedules import SCHEDULES


def inspect(*words: object) -> str:
    """Returns what `segue inspect WORDS` prints, with single spaces."""
    done = run_segue("inspect", *words)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_lists_the_names():
    """Without a name every schedule is listed with what it is."""
    text = inspect("schedule")
    assert all(f"{name} {spec.summary}" in text for name, spec in SCHEDULES.items())


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_described(name: str):
    """Every name is described with its settings, what a monitored one assumes, and how to draw it."""
    text = inspect("schedule", name, "--epochs", 20, "--set", "warmup.epochs=2")
    assert f"schedule {name}" in text and "warm-up (epochs 2, start 0)" in text and SCHEDULES[name].summary in text
    assert "last step of 20 epochs" in text and "--sheet FILE.png" in text
    spec = schedules.schedule_by_name(name, [], lr=None, epochs=None).schedule
    assert ("validation_loss is constant" in text) == (spec.monitored is not None)


def test_kicks_are_listed_by_epoch():
    """The published run: kicks after every seventh epoch, the least rate at the floor before the last kick."""
    text = inspect("schedule", "kicks", "--set", "kick=0.5", "--lr", "0.05", "--epochs", "100")
    assert f"kicks after epochs {', '.join(map(str, range(7, 100, 7)))} assumed" in text
    assert "0.05 at the start, 3.53e-06 at the last step" in text and "3.05e-06, first at 96 epochs" in text


def test_drops_are_listed_up_to_a_number():
    """A plateau without patience drops after every epoch but the first; 24 are listed, and their number."""
    text = inspect("schedule", "plateau", "--set", "patience=0", "--set", "monitor=train_loss")
    assert "drops after epochs 2, 3, 4," in text and "25 … (98 in all)" in text and "train_loss is constant" in text


def test_the_drawing(tmp_path: Path):
    """A PNG is written whose blue curve starts high at the left and ends low at the right."""
    out = tmp_path / "made" / "cosine.png"
    assert f"drawing: {out}" in inspect("schedule", "cosine", "--sheet", out)
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    assert picture.shape[1] == 2000
    height, across = np.nonzero(np.abs(picture - (0x0B, 0x68, 0xA8)).sum(2) < 12)
    left, right = height[across < np.quantile(across, 0.05)], height[across > np.quantile(across, 0.95)]
    assert left.max() < 0.2 * picture.shape[0] and right.min() > 0.75 * picture.shape[0]
    assert [p.name for p in out.parent.iterdir()] == ["cosine.png"]


def test_the_axis_follows_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A curve most of which is far below its peak has a logarithmic axis, the others a linear one from zero."""
    from segue.reporting.figures import style

    seen = {}

    def remember(figure: style.Figure) -> bytes:
        seen.update({axes.get_title("left").split(" ")[0]: axes for axes in figure.axes if axes.get_visible()})
        return b""

    monkeypatch.setattr(style, "png_bytes", remember)
    schedules.draw(
        [schedules.schedule_by_name(name, [], lr=None, epochs=None) for name in SCHEDULES], tmp_path / "all.png"
    )
    assert list(seen) == list(SCHEDULES)
    assert [name for name, axes in seen.items() if axes.get_yscale() == "log"] == ["plateau", "kicks"]
    assert all(axes.get_ylabel() == "learning rate" and axes.get_xlabel() == "epochs passed" for axes in seen.values())
    assert "threshold\xa00.0001" in seen["kicks"].get_title("left")


STAGE = """
epochs = 12
optimizer = { name = "adam", lr = 2e-3 }
schedule = { name = "cosine_restarts", period = 4 }
warmup = { epochs = 2, start = 0.5 }
[[data]]
dataset = "d.h5"
"""


def test_a_stage_file(tmp_path: Path):
    """The schedule of a stage file is described at its own rate and epochs."""
    path = tmp_path / "stage.toml"
    path.write_text(STAGE, encoding="utf-8")
    text = inspect("schedule", path)
    assert "cosine_restarts (period 4, multiplier 1, floor 0), warm-up (epochs 2, start 0.5)" in text
    assert "0.001 at the start" in text and "greatest 0.002, first at 2 epochs" in text and "12 epochs" in text


def test_a_study_file(study_file, tmp_path: Path):
    """Of a study each distinct schedule is described once, with the stages that use it, and drawn on one sheet."""
    stage = '\n[stages.{name}]\ndomain = "high"\nimages = {{ each = [2, 4] }}\nepochs = 8\n{more}\n'
    swept = 'schedule = { name = "exponential", gamma = { each = [0.9, 0.5] } }'
    parts = [("one", ""), ("two", ""), ("three", swept)]
    path = study_file("".join(stage.format(name=name, more=more) for name, more in parts))
    text = inspect("schedule", path, "--sheet", tmp_path / "s.png")
    assert text.count("schedule ") == 3 and "used by one, two" in text and text.count("used by three") == 2
    assert "gamma 0.9" in text and "gamma 0.5" in text and (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("epochs", "schedule"), [(10**9, '"constant"'), (10**7, '"cosine_restarts", period = 1'), (20_001, '"cosine"')]
)
def test_a_file_of_too_many_epochs_is_refused(epochs: int, schedule: str, tmp_path: Path):
    """A curve that would take gigabytes is refused before it is computed."""
    path = tmp_path / "stage.toml"
    text = f'epochs = {epochs}\nschedule = {{ name = {schedule} }}\ndata = [{{ dataset = "d.h5" }}]\n'
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SegueError, match=rf"have {epochs:,} epochs together; at most 20,000"):
        schedules.schedules_of_file(path)


def test_the_epochs_of_all_schedules_of_a_study_count(study_file):
    """Two distinct schedules of 15,000 epochs are refused together; one of 20,000 is described."""
    stage = '\n[stages.one]\ndomain = "high"\nepochs = 15000\nschedule = { name = "exponential", gamma = GAMMA }\n'
    with pytest.raises(SegueError, match=r"\(2\) have 30,000 epochs together"):
        schedules.schedules_of_file(study_file(stage.replace("GAMMA", "{ each = [0.9, 0.5] }")))
    assert schedules.schedule_by_name("exponential", ["gamma=0.5"], lr=1.0, epochs=20_000).epochs == 20_000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["schedule", "cosin"], "unknown name 'cosin'; did you mean 'cosine'? allowed: constant, cosine,"),
        (["schedule", "cosine", "--set", "flor=0.1"], "unknown key 'flor'; did you mean 'floor'? allowed: floor, name"),
        (["schedule", "cosine", "--set", "floor=2"], "schedule.floor: found 2"),
        (["schedule", "cosine", "--set", "floor"], "--set floor: found no key=value"),
        (["schedule", "cosine", "--set", "name=kicks"], "the name follows `schedule`"),
        (["schedule", "cosine", "--set", "warmup.epoch=5"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["schedule", "cosine", "--set", "warmup.epochs=100"], "found 100 of 100 epochs"),
        (["schedule", "cosine", "--lr", "0"], "lr: found 0.0"),
        (["schedule", "--lr", "1"], "no schedule is named"),
        (["schedule", "cosine", "--epochs", "20001"], "(1) have 20,001 epochs together; at most 20,000 are described"),
        (["schedule", "cosine", "--epochs", "1" + "0" * 18], "at most 20,000 are described: give fewer epochs"),
        (["schedule", "no.toml"], "no.toml: there is no such file"),
        (["schedule", "cosine", "--sheet", "x.jpg"], "x.jpg: the drawing is a PNG picture"),
        (["resunet", "cosine"], "apply to a schedule; write: segue inspect schedule NAME"),
        (["resunet", "--set", "width=3"], "width: found 3"),
        (["x.h5", "--size", "64"], "apply to the name of a network"),
    ],
)
def test_mistakes(words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every mistake is one clear message and exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = run_segue("inspect", *words)
    assert_refused(done, sentence)
    assert not done.stdout
    assert not list(tmp_path.iterdir())


def test_settings_belong_to_the_file(tmp_path: Path):
    """What a file says is not overridden: --lr beside a TOML file is refused."""
    path = tmp_path / "stage.toml"
    path.write_text(STAGE, encoding="utf-8")
    assert_refused(run_segue("inspect", "schedule", path, "--lr", "0.1"), "leave --lr, --epochs and --set out")


def test_nothing_heavy_is_imported():
    """Describing a schedule imports neither torch nor pandas nor matplotlib."""
    code = (
        "import sys, json; from segue.cli import describe; "
        "describe.describe_schedules('kicks', (), lr=None, epochs=None, sheet=None); "
        "print(json.dumps([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
