"""`segue draw`: each picture from the command line, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from samples.discs import write_discs
from typer.testing import CliRunner

import segue
from segue.cli import draw
from segue.errors import SegueError

STAGE = """
epochs = 1
freeze = "encoder"
data = [{ dataset = "discs.h5", images = 16 }]
split = { validation = 0.2, test = 0.2 }
network = { name = "resunet", width = 8 }
precision = "fp32"
"""


def run_cli(*arguments: object) -> str:
    """Returns what the verb prints; raises what stopped it."""
    found = CliRunner().invoke(draw.app, [str(argument) for argument in arguments], catch_exceptions=False)
    if found.exception is not None:
        raise found.exception
    return found.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a dataset, a run with a frozen encoder, and an image."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("draw")
    write_discs(folder / "discs.h5")
    (folder / "stage.toml").write_text(STAGE)
    segue.train(folder / "stage.toml", folder / "run")
    values = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(values).save(folder / "image.png")
    return folder


def test_a_network_and_what_a_run_froze(place: Path):
    """A drawing is an SVG that names the blocks; that of a run marks what it froze."""
    run_cli("network", "unet", place / "unet.svg", "--size", 128)
    run_cli("network", place / "run", place / "run.svg")
    for name, frozen in (("unet", False), ("run", True)):
        text = (place / f"{name}.svg").read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "encoder.0" in text and "decoder.0" in text and (">frozen<" in text) == frozen


@pytest.mark.parametrize("what", ["activations", "receptive-field"])
def test_what_a_run_makes_of_an_image(place: Path, what: str):
    """Figures of one image are pictures with something in them."""
    out = place / f"{what}.png"
    assert f"figure: {out}" in run_cli(what, place / "run", place / "image.png", out)
    with Image.open(out) as picture:
        assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(10**6) or []) > 20


def test_a_dataset_in_the_encoder(place: Path):
    """The embedding of a dataset names the levels of the column that colours it."""
    run_cli("embedding", place / "run", place / "discs.h5", place / "e.svg", "--by", "contrast", "--images", 20)
    text = (place / "e.svg").read_text(encoding="utf-8")
    assert "low" in text and "high" in text


def test_what_cannot_be_drawn_is_told(place: Path):
    """Another kind of file, a width of a run and an unknown column are refused, and nothing is written."""
    for arguments, told in (
        (("network", "unet", place / "x.png"), "is an SVG; give a name that ends in .svg"),
        (("network", place / "run", place / "x.svg", "--set", "width=8"), "leave --set out"),
        (("activations", place / "run", place / "image.png", place / "x.jpg"), "give a name that ends so"),
        (("embedding", place / "run", place / "discs.h5", place / "x.png", "--by", "dose"), "unknown column 'dose'"),
    ):
        with pytest.raises(SegueError, match=told):
            run_cli(*arguments)
    assert not list(place.glob("x.*"))
