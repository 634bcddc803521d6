"""`segue draw`: each picture from the command line, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from samples.cli import assert_refused, run_segue
from samples.discs import write_discs

import segue

STAGE = """
epochs = 1
freeze = "encoder"
data = [{ dataset = "discs.h5", images = 16 }]
split = { validation = 0.2, test = 0.2 }
network = { name = "resunet", width = 8 }
precision = "fp32"
"""


def draw(*arguments: object) -> str:
    """Returns what `segue draw ARGUMENTS` prints."""
    done = run_segue("draw", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a dataset, a run with a frozen encoder, and an image."""
    path = tmp_path_factory.mktemp("draw")
    write_discs(path / "discs.h5")
    (path / "stage.toml").write_text(STAGE)
    segue.train(path / "stage.toml", path / "run")
    values = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(values).save(path / "image.png")
    return path


@pytest.mark.slow
def test_a_network_and_what_a_run_froze(folder: Path):
    """A drawing is an SVG that names the blocks; that of a run marks what it froze."""
    draw("network", "unet", folder / "unet.svg", "--size", 128)
    draw("network", folder / "run", folder / "run.svg")
    for name, frozen in (("unet", False), ("run", True)):
        text = (folder / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "encoder.0" in text and "decoder.0" in text and (">frozen<" in text) == frozen


@pytest.mark.slow
@pytest.mark.parametrize("what", ["activations", "receptive-field"])
def test_what_a_run_makes_of_an_image(folder: Path, what: str):
    """Figures of one image are pictures with something in them."""
    out = folder / f"{what}.png"
    assert f"figure: {out}" in draw(what, folder / "run", folder / "image.png", out)
    with Image.open(out) as picture:
        assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(10**6) or []) > 20


@pytest.mark.slow
def test_a_dataset_in_the_encoder(folder: Path):
    """The embedding of a dataset names the levels of the column that colours it."""
    draw("embedding", folder / "run", folder / "discs.h5", folder / "e.svg", "--by", "contrast", "--images", 20)
    text = (folder / "e.svg").read_text(encoding="utf-8")
    assert "low" in text and "high" in text


def test_what_cannot_be_drawn_is_refused(folder: Path):
    """Another kind of file, a width of a run and an unknown column are refused, and nothing is written."""
    for arguments, message in (
        (("network", "unet", folder / "x.png"), "is an SVG; give a name that ends in .svg"),
        (("network", folder / "run", folder / "x.svg", "--set", "width=8"), "leave --set out"),
        (("activations", folder / "run", folder / "image.png", folder / "x.jpg"), "name with one of these endings"),
        (("embedding", folder / "run", folder / "discs.h5", folder / "x.png", "--by", "dose"), "unknown column 'dose'"),
    ):
        assert_refused(run_segue("draw", *arguments), message)
    assert not list(folder.glob("x.*"))


SERIES = """
name = "drawn"
structures = 1
[specimen]
crystal = "Cu"
diameter_nm = 1.2
stacking_faults = 0
particles = 1
support_nm = 0
[wave]
field_nm = 2.4
sampling_A = 0.3
slice_thickness_A = 4.0
frozen_phonons = 1
[imaging]
tile_px = 40
pixel_size_A = 0.6
"""


@pytest.mark.slow
def test_a_structure_of_a_series_or_a_line_for_each_of_its_values(tmp_path: Path):
    """The figure of a series is a picture; with `each` it has a line for each value."""
    (tmp_path / "one.toml").write_text(SERIES)
    (tmp_path / "each.toml").write_text(SERIES.replace('"Cu"', '{ each = ["Cu", "Ag"] }'))
    heights = []
    for name in ("one", "each"):
        assert f"figure: {tmp_path / name}.png" in draw("series", tmp_path / f"{name}.toml", tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            heights.append(picture.size[1] / picture.size[0])
    assert heights == pytest.approx([0.435, 0.46], abs=0.01)
    assert_refused(run_segue("draw", "series", tmp_path / "one.toml", tmp_path / "one.gif"), ".png, .svg or .pdf")
    done = run_segue("draw", "series", tmp_path / "one.toml", tmp_path / "x.png", "--structure", 1)
    assert_refused(done, "has the structures 0 to 0, not 1")
