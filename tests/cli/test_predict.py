"""`segue predict` as a user meets it: a trained run, image files, what is printed and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from samples.cli import assert_refused, run_segue
from samples.discs import disc_part
from samples.stages import spec_of, train

import segue


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spec_of(discs), tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for index, image in enumerate(disc_part(99).images[:2, 0]):
        tifffile.imwrite(tmp_path / "in" / f"{index}.tif", image)
    return tmp_path / "in"


def test_images_to_masks(run: Path, images: Path, tmp_path: Path):
    """The command writes what `segue.predict` returns, says what it did, and the second time that nothing was left."""
    out = tmp_path / "out"
    formats = ("--write", "geojson,coco", "--write", "imagej-roi")
    done = run_segue("predict", run, images, "-o", out, *formats)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("*/1.*")} == {
        "1.tif",
        "1.png",
        "1.json",
        "1.parquet",
        "1.coco",
        "1.geojson",
        "1.zip",
    }
    assert (out / "coco.json").is_file()
    assert f"2 image(s) predicted: {out}" in done.stdout and f"{out / 'images.csv'}" in done.stdout
    for index, image in enumerate(disc_part(99).images[:2, 0]):
        assert np.array_equal(tifffile.imread(out / "labels" / f"{index}.tif"), segue.predict(run, image))
    assert list(pd.read_csv(out / "images.csv", dtype={"image": str})["image"]) == ["0", "1"]
    again = run_segue("predict", run, str(images / "*.tif"), "--out", out, *formats)
    assert again.returncode == 0 and "0 image(s) predicted, 2 were finished before" in again.stdout


def test_mistakes_are_one_sentence(run: Path, images: Path, tmp_path: Path):
    """Unknown formats, missing runs and images, and a damaged file are told; nothing is written but what is whole."""
    out = tmp_path / "out"
    assert_refused(run_segue("predict", run, images, "-o", out, "--format", "bmp"), "--format bmp: allowed are tiff")
    assert_refused(
        run_segue("predict", run, images, "-o", out, "--write", "coco,yolo"), "--write yolo: allowed are geojson"
    )
    assert_refused(run_segue("predict", run, images, "-o", out, "--write", "tiff"), "are written by --format tiff")
    assert_refused(run_segue("predict", images, images, "-o", out), "is not a finished run")
    assert_refused(run_segue("predict", run, tmp_path / "no.tif", "-o", out), "no such file or folder")
    assert not out.exists()
    (images / "2.tif").write_bytes((images / "1.tif").read_bytes()[:300])
    done = run_segue("predict", run, images, "-o", out)
    assert_refused(done, f"{out}: 1 image(s) could not be predicted", str(images / "2.tif"))
    assert "2 image(s) predicted" in done.stdout and len(list((out / "labels").iterdir())) == 2
    assert_refused(run_segue("predict", run, images, "-o", out, "--tta"), "holds the prediction of other settings")
