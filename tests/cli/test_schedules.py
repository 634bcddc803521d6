"""`segue inspect schedule`: what it says, what it draws, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.cli import schedules as rates
from segue.cli.main import main
from segue.training import schedules
from segue.training.schedules import SCHEDULES

Said = pytest.CaptureFixture[str]


def inspect(*words: str | int | Path) -> int:
    """Runs the command in this process and returns its exit code."""
    kept, sys.argv = sys.argv, ["segue", "inspect", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
    finally:
        sys.argv = kept
    return int(ended.value.code or 0)


def text_of(said: Said) -> str:
    """Returns what was printed, with single spaces."""
    return " ".join(said.readouterr().out.split())


def test_lists_the_names(capsys: Said):
    """Without a name every schedule is listed with what it is."""
    assert inspect("schedule") == 0
    told = text_of(capsys)
    assert all(f"{name} {spec.summary}" in told for name, spec in SCHEDULES.items())


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_told(name: str, capsys: Said):
    """Every name is told with its settings; what a monitored one assumes, and that nothing was drawn, is said."""
    assert inspect("schedule", name, "--epochs", 20, "--set", "warmup.epochs=2") == 0
    told = text_of(capsys)
    assert f"schedule {name}" in told and "warm-up (epochs 2, start 0)" in told and SCHEDULES[name].summary in told
    assert "last step of 20 epochs" in told and "--sheet FILE.png" in told
    spec = rates.schedule_by_name(name, [], lr=None, epochs=None).schedule
    assert ("validation_loss stands still" in told) == (spec.monitored is not None)


def test_kicks_are_told_at_their_epochs(capsys: Said):
    """The published run: kicks after every seventh epoch, the least rate at the floor before the last kick."""
    assert inspect("schedule", "kicks", "--set", "kick=0.5", "--lr", "0.05", "--epochs", "100") == 0
    told = text_of(capsys)
    assert f"kicks after epochs {', '.join(map(str, range(7, 100, 7)))} assumed" in told
    assert "0.05 at the start, 3.53e-06 at the last step" in told and "3.05e-06, first at 96 epochs" in told


def test_drops_are_told_up_to_a_number(capsys: Said):
    """A plateau without patience drops after every epoch but the first; the first 24 drops are told, and how many."""
    assert inspect("schedule", "plateau", "--set", "patience=0", "--set", "monitor=train_loss") == 0
    told = text_of(capsys)
    assert "drops after epochs 2, 3, 4," in told and "25 … (98 in all)" in told and "train_loss stands still" in told


def test_the_drawing(tmp_path: Path, capsys: Said):
    """A PNG is written whose blue curve starts high at the left and ends low at the right."""
    out = tmp_path / "made" / "cosine.png"
    assert inspect("schedule", "cosine", "--sheet", out) == 0
    assert f"drawing: {out}" in capsys.readouterr().out
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
    rates.draw([rates.schedule_by_name(name, [], lr=None, epochs=None) for name in SCHEDULES], tmp_path / "all.png")
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


def test_a_stage_file(tmp_path: Path, capsys: Said):
    """The schedule of a training's file is told at its own rate and epochs."""
    path = tmp_path / "stage.toml"
    path.write_text(STAGE, encoding="utf-8")
    assert inspect("schedule", path) == 0
    told = text_of(capsys)
    assert "cosine_restarts (period 4, multiplier 1, floor 0), warm-up (epochs 2, start 0.5)" in told
    assert "0.001 at the start" in told and "greatest 0.002, first at 2 epochs" in told and "12 epochs" in told


def test_a_study_file(study_file, tmp_path: Path, capsys: Said):
    """Of a study each distinct schedule is told once, with the stages that use it, and drawn on one sheet."""
    stage = '\n[stages.{name}]\ndomain = "high"\nimages = {{ each = [2, 4] }}\nepochs = 8\n{more}\n'
    swept = 'schedule = { name = "exponential", gamma = { each = [0.9, 0.5] } }'
    parts = [("one", ""), ("two", ""), ("three", swept)]
    path = study_file("".join(stage.format(name=name, more=more) for name, more in parts))
    assert inspect("schedule", path, "--sheet", tmp_path / "s.png") == 0
    told = text_of(capsys)
    assert told.count("schedule ") == 3 and "used by one, two" in told and told.count("used by three") == 2
    assert "gamma 0.9" in told and "gamma 0.5" in told and (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["schedule", "cosin"], "unknown name 'cosin'; did you mean 'cosine'? allowed: constant, cosine,"),
        (["schedule", "cosine", "--set", "flor=0.1"], "unknown key 'flor'; did you mean 'floor'? allowed: floor, name"),
        (["schedule", "cosine", "--set", "floor=2"], "schedule.floor: found 2"),
        (["schedule", "cosine", "--set", "floor"], "--set floor: found no key=value"),
        (["schedule", "cosine", "--set", "name=kicks"], "the name stands after `schedule`"),
        (["schedule", "cosine", "--set", "warmup.epoch=5"], "unknown key 'epoch'; did you mean 'epochs'?"),
        (["schedule", "cosine", "--set", "warmup.epochs=100"], "found 100 of 100 epochs"),
        (["schedule", "cosine", "--lr", "0"], "lr: found 0.0"),
        (["schedule", "--lr", "1"], "no schedule is named"),
        (["schedule", "no.toml"], "no.toml: there is no such file"),
        (["schedule", "cosine", "--sheet", "x.jpg"], "x.jpg: the drawing is a PNG picture"),
        (["resunet", "cosine"], "go with a schedule; write: segue inspect schedule NAME"),
        (["resunet", "--set", "width=3"], "width: found 3"),
        (["x.h5", "--size", "64"], "go with the name of a network"),
    ],
)
def test_mistakes(words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said):
    """Every mistake is one clear message and exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert inspect(*words) == 2
    told = capsys.readouterr()
    assert sentence in told.err and "Traceback" not in told.err and not told.out
    assert not list(tmp_path.iterdir())


def test_settings_belong_to_the_file(tmp_path: Path, capsys: Said):
    """What a file says is not overridden: --lr beside a TOML file is refused."""
    path = tmp_path / "stage.toml"
    path.write_text(STAGE, encoding="utf-8")
    assert inspect("schedule", path, "--lr", "0.1") == 2
    assert "leave --lr, --epochs and --set out" in capsys.readouterr().err


def test_nothing_heavy_is_imported():
    """Telling of a schedule imports neither torch nor pandas nor matplotlib."""
    code = (
        "import sys, json; from segue.cli import describe; "
        "describe.describe_schedules('kicks', (), lr=None, epochs=None, sheet=None); "
        "print(json.dumps([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
