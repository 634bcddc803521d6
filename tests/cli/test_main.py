"""The command line as a user meets it: help, one sentence for each mistake, exit codes, nothing half-written."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from samples.cli import COMMAND, assert_refused, run_segue
from samples.folders import make_folder

from segue.cli.describe import describe, describe_scores
from segue.errors import SegueError, print_warnings, warn

StudyFile = Callable[..., Path]


@contextlib.contextmanager
def full_disk(*, limit_kB: int) -> Iterator[None]:
    """Inside, no file can be written that is larger than the limit, as where the disk is full.

    No bytecode is written: Python would leave what it imports first cut off at the limit, for every process after it.
    """
    resource = pytest.importorskip("resource", reason="only POSIX systems limit the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writes_no_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * limit_kB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes_no_bytecode


STAGE = """
epochs = 1
network = {{ name = "resunet", width = 8 }}
split = {{ validation = 0.2, test = 0.2 }}
{more}
[[data]]
dataset = "{dataset}"
"""


def stage(folder: Path, dataset: Path, more: str = "") -> Path:
    path = folder / "stage.toml"
    path.write_text(STAGE.format(dataset=dataset, more=more), encoding="utf-8")
    return path


def test_help_names_every_command():
    """`segue --help` lists the verbs, also in a process of its own."""
    text = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    for verb in ("demo", "simulate", "prepare", "inspect", "train", "evaluate", "study", "report"):
        assert verb in text


def test_all_mistakes_of_a_stage(tmp_path: Path, discs: Path):
    """Misspelt keys and unknown names of a training are reported together, and nothing is written."""
    path = stage(tmp_path, discs, 'ephocs = 3\naugment = "rotate"\nschedule = { name = "cosin" }')
    assert_refused(
        run_segue("train", path, tmp_path / "run"),
        "stage.toml: 3 mistakes",
        "unknown key 'ephocs'; did you mean 'epochs'?",
        "augment: found 'rotate'; allowed: none, dihedral, dihedral-all",
        "schedule.name: unknown name 'cosin'",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["stage.toml"]


@pytest.mark.parametrize("verb", ["simulate", "prepare"])
def test_mistakes_of_the_makers(verb: str, tmp_path: Path):
    """A file for another verb is refused with its mistakes."""
    (tmp_path / "spec.toml").write_text('nmae = "x"\n')
    assert_refused(
        run_segue(verb, tmp_path / "spec.toml", tmp_path / "out.h5"), "unknown key 'nmae'; did you mean 'name'?"
    )
    assert not (tmp_path / "out.h5").exists()


def test_a_dataset_cut_in_half(tmp_path: Path, discs: Path):
    """Half an HDF5 file is refused by name, by every verb that reads one."""
    half = tmp_path / "half.h5"
    half.write_bytes(discs.read_bytes()[: discs.stat().st_size // 2])
    assert_refused(run_segue("train", stage(tmp_path, half), tmp_path / "run"), "half.h5", "truncated")
    assert_refused(run_segue("inspect", half), "half.h5", "truncated")
    assert not (tmp_path / "run").exists()


def test_nan_in_a_dataset_names_the_sample(tmp_path: Path, discs: Path):
    """A NaN that got into a dataset by other hands stops the training before it begins, naming the sample."""
    bad = tmp_path / "bad.h5"
    shutil.copy(discs, bad)
    with h5py.File(bad, "r+") as file:
        file["tiles/images"][:, 0, 3, 3] = float("nan")
    assert_refused(run_segue("train", stage(tmp_path, bad), tmp_path / "run"), "bad.h5", "group-", "NaN")


def test_unwritable_outputs(tmp_path: Path, discs: Path):
    """A file where a folder should be is refused by name before anything runs."""
    (tmp_path / "file").write_text("")
    assert_refused(run_segue("train", stage(tmp_path, discs), tmp_path / "file" / "run"), "file", "cannot be written")
    (tmp_path / "taken").write_text("mine")
    done = run_segue("train", stage(tmp_path, discs), tmp_path / "taken")
    assert_refused(done, "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_full_disk_while_training(tmp_path: Path, discs: Path):
    """A disk too small for the weights is a clear error, the run is not finished, and with more room it trains."""
    path = stage(tmp_path, discs)
    with full_disk(limit_kB=40):
        done = run_segue("train", path, tmp_path / "run")
    assert_refused(done, "run", "free disk space")
    assert not (tmp_path / "run").exists()
    assert run_segue("train", path, tmp_path / "run").returncode == 0


def test_missing_things(tmp_path: Path, discs: Path):
    """Files, runs and datasets that are not there are named."""
    assert_refused(run_segue("study", "plan", tmp_path / "no.toml"), "no.toml", "there is no such file")
    assert_refused(run_segue("inspect", tmp_path / "no"), "no", "there is no such file or folder")
    assert_refused(run_segue("inspect", "resnet"), "unknown network 'resnet'; did you mean 'resunet'?")
    assert_refused(run_segue("evaluate", tmp_path / "no", discs), "is not a finished run")
    assert_refused(run_segue("train", stage(tmp_path, tmp_path / "no.h5"), tmp_path / "run"), "no.h5")


def test_a_failed_stage_exits_with_one(study_file: StudyFile):
    """A study with a failed stage says so and where to look, and exits with 1."""
    path = study_file('\n[stages.bad]\ndomain = "high"\nimages = 4000\n')
    done = run_segue("study", "run", path, "--workers", 1)
    assert done.returncode == 1
    assert "2 failed and 0 were not run; see: segue study status" in done.stdout


def test_from_study_to_page(study_file: StudyFile, tmp_path: Path):
    """plan, run, table and report of one study, from the command line."""
    path = study_file()
    text = path.read_text().replace("seeds = 2", "seeds = 1").replace("epochs = 2", "epochs = 1")
    path.write_text(text.replace('freeze = { each = ["none", "encoder"] }', ""))
    assert re.search(r"pretrain +1 +1 +1 .*\ntransfer +2 +2 +2 ", run_segue("study", "plan", path).stdout)
    done = run_segue("study", "run", path, "--workers", 1)
    assert done.returncode == 0 and "3 trainings finished" in done.stdout
    assert "nothing to do" in run_segue("study", "run", path, "--workers", 1).stdout
    assert run_segue("study", "table", path, "-o", tmp_path / "t.csv").returncode == 0
    assert (tmp_path / "t.csv").read_text().startswith("study,stage,run")
    assert run_segue("report", path, "-o", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "pretrain only" in page and "after transfer" in page
    assert run_segue("report", tmp_path / "t.csv", "-o", tmp_path / "again.html").returncode == 0
    assert_refused(run_segue("study", "table", path, "-o", tmp_path / "t.xlsx"), "t.xlsx", ".csv or .parquet")


def test_inspecting_a_network():
    """The published network's parameters are listed by part."""
    text = run_segue("inspect", "resunet").stdout
    assert "14,323,492" in text and "multiples of 32" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'name = "x"\nimages = "images/*.png"\ntile_px = 16\n[labels]\nfiles = "labels/{stem}.png"\n'
            'kind = "classes"\nnames = ["background", "cell"]\n',
            ["segue prepare", "3, 3 of them with labels", "3, e.g. w0_0 of w0_0.png", "tiles   12\n"],
        ),
        (
            'name = "x"\nimages = "images/w0_*.png"\ntile_px = 32\ngroup = "all-{folder}"\n',
            [
                "2, 0 of them with labels",
                "1, e.g. all-images of w0_0.png",
                "tiles   2\n",
                "note: images = 'images/w0_*",
            ],
        ),
        ('name = "x"\nstructures = 2\n', ["a dataset: segue simulate", "OUT.h5", "tiles  2\n"]),
        (
            'name = "x"\nstructures = { each = [2, 3] }\n[imaging]\ndefocus_nm = [0, 10]\n',
            ["2 datasets: segue simulate", "FOLDER\n", "tiles  10\n"],
        ),
        (
            'name = "x"\nstructures = 4\n[specimen]\nradius_nm = { each = [[0.5, 1.0], [1.0, 1.5]] }\n'
            'crystal = { each = ["Cu", "CdSe"] }\n',
            ["4 datasets: segue simulate", "FOLDER\n", "tiles  16\n"],
        ),
    ],
)
def test_inspecting_what_makes_a_dataset(tmp_path: Path, text: str, words: list[str]):
    """A specification of `segue prepare` or `segue simulate` is described with what it would make."""
    make_folder(tmp_path, 3)
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    described = describe(str(tmp_path / "s.toml"))
    assert all(word in described for word in words), described
    if "simulate" not in described:
        (tmp_path / "images/w0_0.png").write_bytes(b"no image")
        with pytest.raises(SegueError, match=r"w0_0\.png"):
            describe(str(tmp_path / "s.toml"))


def test_a_class_that_a_part_lacks_is_named():
    """Scores that are not defined for want of labels say so in words, beside those of the other classes."""
    scores = {"loss": 1.0, "auprc_a": None, "auprc_b": 1.0}
    assert "not labeled in the scored part, hence not scored: a" in describe_scores(scores, ["a", "b"])
    assert "not labeled" not in describe_scores({**scores, "auprc_a": 0.5}, ["a", "b"])


def test_warnings_are_sentences(capsys: pytest.CaptureFixture[str]):
    """A warning of segue is a line that begins with its word, without file and line of the program; others stay."""
    others: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: others.append(str(message))
        print_warnings()
        warn("one: displaces detail by 18 nm")
        warnings.warn("of another library", UserWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["WARNING: one: displaces detail by 18 nm"]
    assert others == ["of another library"]


@pytest.mark.parametrize("arguments", [
    ["prepare", "d.toml", "{name}.h5"],
    ["report", "t.csv", "-o", "{name}.html"],
])  # fmt: skip
def test_names_that_are_too_long_with_what_is_added(arguments: list[str], tmp_path: Path):
    """One sentence, where the name alone would do, and nothing left behind."""
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(image)
    (tmp_path / "d.toml").write_text(f'name = "x"\nimages = "{image.as_posix()}"\ntile_px = 16\n')
    (tmp_path / "t.csv").write_text("stage,run,domain,evaluated_domain,loss\ntrain,a,x,x,0.1\n")
    before = sorted(tmp_path.iterdir())
    places = [str(tmp_path / text.format(name="n" * 249)) if "." in text else text for text in arguments]
    assert_refused(run_segue(*places), "cannot be written (File name too long)", "at most 120 bytes")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", [["study", "table", "no.toml"], ["study", "analyze", "no.toml", "factors"]])
def test_files_that_hold_no_table_are_refused_first(command: list[str], tmp_path: Path):
    """Before anything is read."""
    result = run_segue(*command, "-o", str(tmp_path / "table.xlsx"))
    assert result.returncode == 2
    assert result.stderr.endswith("table.xlsx: a table is written as .csv or .parquet; give one of these extensions.\n")
