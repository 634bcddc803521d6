"""What `segue fit` sees in annotations: objects, classes, scribbles, and which images a file of all is of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

import segue
from segue.data.prepare import prepare
from segue.data.spec import PrepareSpec
from segue.errors import SegueError
from segue.fitting.look import look_at
from segue.fitting.specifications import preparation
from segue.spec import validate

NAMES = tuple("abcdef")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of six images of discs, drawn as ROIs, as COCO of all of them, and as labels."""
    folder = tmp_path_factory.mktemp("annotated")
    for part in ("images", "labels", "rois", "coco"):
        (folder / part).mkdir()
    for index, name in enumerate(NAMES):
        labels = np.zeros((48, 56), np.uint16)
        for k in range(3 + index):
            rows, columns = disk((10 + 14 * (k // 4), 8 + 12 * (k % 4)), 4)
            labels[rows, columns] = k + 1
        noise = np.random.default_rng(index).integers(0, 20, labels.shape)
        tifffile.imwrite(folder / "images" / f"{name}.tif", (100 * (labels > 0) + noise).astype(np.uint8))
        tifffile.imwrite(folder / "labels" / f"{name}.tif", labels)
        segue.write_objects(labels, folder / "rois" / f"{name}.zip", classes="cell")
        segue.write_objects(labels, folder / "coco" / f"{name}.json", classes="cell")
    content: dict = {"images": [], "annotations": []}
    for number, name in enumerate(NAMES[:5]):
        one = json.loads((folder / "coco" / f"{name}.json").read_text(encoding="utf-8"))
        content["categories"] = one["categories"]
        content["images"].append({**one["images"][0], "id": number, "file_name": f"{name}.tif"})
        content["annotations"] += [{**annotation, "image_id": number} for annotation in one["annotations"]]
    (folder / "all.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_rois_are_seen_as_their_label_images(folder: Path):
    """Objects, diameters and shares are those of label images of the same objects."""
    drawn, plain = (look_at(f"{folder}/images", f"{folder}/{one}", group=None, kind=None) for one in ("rois", "labels"))
    assert drawn.labels.kind == "instances" and drawn.labels.names == ("background", "cell")
    assert drawn.labels.reason == "annotations: 33 of 'cell'"
    np.testing.assert_array_equal(drawn.counts, plain.counts)
    np.testing.assert_allclose(drawn.diameters, plain.diameters)
    assert drawn.shares == plain.shares and not drawn.notes


def test_a_file_of_all_images_pairs_by_name(folder: Path, tmp_path: Path):
    """Images that COCO does not name are unlabeled; the specification that is written prepares the same labels."""
    look = look_at(f"{folder}/images", f"{folder}/all.json", group=None, kind=None)
    assert [pair.source for pair in look.pairs] == [f"{name}.tif" for name in NAMES[:5]]
    assert [path.name for path in look.unlabeled] == ["f.tif"]
    content = preparation(look, "images", [], "") | {"tile_px": 32}
    rows = "".join(f"{pair.image},{pair.label},{pair.group}\n" for pair in look.pairs)
    (tmp_path / "images.csv").write_text(f"image,label,group\n{rows}")
    prepare(validate(PrepareSpec, content, context="test"), tmp_path / "out.h5", root=tmp_path)
    with segue.Dataset(tmp_path / "out.h5") as dataset:
        assert len(set(dataset.samples()["source"])) == 5


def test_kinds(folder: Path):
    """Areas of several classes and lines are classes; `kind` decides; scribbles need two classes."""
    several = folder / "several"
    several.mkdir()
    for index, name in enumerate(NAMES):
        labels = tifffile.imread(folder / "labels" / f"{name}.tif")
        segue.write_objects(labels, several / f"{name}.geojson", classes={1: "debris", 2: "cell", 3: "cell"} | (
            dict.fromkeys(range(4, 4 + index), "cell")
        ))  # fmt: skip
    look = look_at(f"{folder}/images", str(several), group=None, kind=None)
    assert look.labels.kind == "classes" and look.labels.names == ("background", "cell", "debris")
    assert dict(look.labels.values) == {"cell": 1, "debris": 2} and look.labels.reason.endswith("--kind instances")
    look = look_at(f"{folder}/images", str(several), group=None, kind="instances")
    assert look.labels.names == ("background", "object") and look.counts.sum() == 33


def scribble(path: Path, names: tuple[str, ...]) -> None:
    shapes = [
        {"label": name, "points": [[2, 2 + 10 * k], [40, 5 + 10 * k]], "shape_type": "line", "group_id": None}
        for k, name in enumerate(names)
    ]
    content = {"version": "5.5.0", "imagePath": f"{path.stem}.tif", "imageHeight": 48, "imageWidth": 56}
    path.write_text(json.dumps({**content, "shapes": shapes}), encoding="utf-8")


def test_scribbles_are_classes_and_ignore_the_rest(folder: Path, tmp_path: Path):
    """The background is a class that is drawn; without one of that name, the first of the classes is in its place."""
    for name in NAMES:
        scribble(tmp_path / f"{name}.json", ("cell", "background"))
    look = look_at(f"{folder}/images", str(tmp_path), group=None, kind=None)
    assert look.labels.kind == "classes" and look.labels.names == ("background", "cell")
    assert 0.9 < look.shares[-1] < 1 and 0 < look.shares[0] < 0.05 and 0 < look.shares[1] < 0.05
    assert look.labels.unlabeled == "ignored" and not look.notes
    assert preparation(look, "images", [], "")["labels"]["unlabeled"] == "ignored"
    for name in NAMES:
        scribble(tmp_path / f"{name}.json", ("grain", "boundary"))
    look = look_at(f"{folder}/images", str(tmp_path), group=None, kind=None)
    assert look.labels.names == ("boundary", "grain") and dict(look.labels.values) == {"boundary": 0, "grain": 1}
    for name in NAMES:
        scribble(tmp_path / f"{name}.json", ("grain",))
    with pytest.raises(SegueError, match=r"scribbles are of one class \('grain'\); draw some of the background"):
        look_at(f"{folder}/images", str(tmp_path), group=None, kind=None)
