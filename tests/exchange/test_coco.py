"""COCO: read by pycocotools, pixel for pixel; the same codes as its own."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO
from samples.awkward_labels import AWKWARD, numbers_of

import segue
from segue.errors import SegueError
from segue.exchange import coco as coco_files
from segue.exchange.coco import join_coco

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def opened(path: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("name", AWKWARD)
def test_annotations_hold_the_pixels(name: str, tmp_path: Path):
    """Masks, boxes and areas are those that pycocotools computes; run lengths are coded as it codes them."""
    labels = AWKWARD[name]
    coco = opened(segue.write_objects(labels, tmp_path / "a.json"))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [annotation["id"] for annotation in annotations] == numbers_of(labels)
    for annotation in annotations:
        pixels = labels == annotation["label"]
        assert np.array_equal(coco.annToMask(annotation), pixels)
        expected = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert annotation["segmentation"] == {"size": list(labels.shape), "counts": expected["counts"].decode()}
        assert annotation["bbox"] == mask.toBbox(expected).tolist() and annotation["area"] == pixels.sum()
    (image,) = coco.loadImgs(coco.getImgIds())
    assert image == {"id": 1, "file_name": "a", "width": labels.shape[1], "height": labels.shape[0]}


def test_categories_and_scores(tmp_path: Path):
    """Categories are the classes in their order, and one for objects without; the score is the confidence."""
    table = {"label": [1, 2, 3], "confidence": [0.25, float("nan"), 1.0]}
    classes = {3: "debris", 1: "cell"}
    path = segue.write_objects(np.array([[1, 2, 3]]), tmp_path / "a.json", classes=classes, measurements=table)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["categories"] == [
        {"id": 1, "name": "debris"},
        {"id": 2, "name": "cell"},
        {"id": 3, "name": "object"},
    ]
    actual = [(one["category_id"], one.get("score")) for one in content["annotations"]]
    assert actual == [(2, 0.25), (3, None), (1, 1.0)]


def test_files_of_several_images_are_joined(tmp_path: Path):
    """Annotations of all images stand in one file, numbered anew, with the categories of all."""
    names = ["a hole", "empty", "noise"]
    paths = []
    for index, name in enumerate(names):
        classes = {1: "cell"} if index else "cell of a hole"
        paths.append(segue.write_objects(AWKWARD[name], tmp_path / f"{index}.json", classes=classes, name=name))
    join_coco(paths, tmp_path / "all.json")
    coco = opened(tmp_path / "all.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == names
    assert coco.getAnnIds() == [1, 2, 3]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        labels = AWKWARD[names[annotation["image_id"] - 1]]
        assert np.array_equal(coco.annToMask(annotation), labels == annotation["label"])
    categories = [coco.loadCats(one["category_id"])[0]["name"] for one in coco.loadAnns(coco.getAnnIds())]
    assert categories == ["cell of a hole", "cell", "object"]
    paths[1].write_text("{", encoding="utf-8")
    with pytest.raises(SegueError, match=r"1\.json: is damaged or was altered"):
        join_coco(paths, tmp_path / "again.json")
    paths[0].write_text(paths[0].read_text(encoding="utf-8").removesuffix("]}\n"), encoding="utf-8")
    with pytest.raises(SegueError, match=r"0\.json: is damaged or was altered \(its end is missing\)"):
        join_coco(paths[:1], tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()


def test_images_beyond_32_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Masks that COCO's programs cannot decode are not written."""
    monkeypatch.setattr(coco_files, "MAX_PIXELS", 19)
    with pytest.raises(SegueError, match="COCO counts pixels in 32 bits, but the image has 4 × 5 px"):
        segue.write_objects(AWKWARD["empty"], tmp_path / "a.json")
