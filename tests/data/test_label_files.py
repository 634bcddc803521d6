"""Masks of objects in files of their own are joined into one label image, or refused by the name of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples.folders import make_spec

from segue.data.dataset import Dataset
from segue.data.folders.pairing import pair_files
from segue.data.prepare import prepare
from segue.errors import SegueError, SpecError

JOINED = {
    "images": "{stem}/images/*.png",
    "labels": {"files": "{stem}/masks/*.png", "kind": "instances", "one_object_per_file": True},
}


def write(where: Path, *masks: np.ndarray, name: str = "x") -> Path:
    """Writes an image as in the Data Science Bowl 2018: a folder with the image, and one with a mask of each object."""
    for folder in ("images", "masks"):
        (where / name / folder).mkdir(parents=True)
    image = np.random.default_rng(len(name)).integers(0, 255, (16, 16)).astype(np.uint8)
    Image.fromarray(image).save(where / f"{name}/images/{name}.png")
    for number, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8)).save(where / f"{name}/masks/m{number}.png")
    return where


def box(y: int, x: int, side: int = 4, value: int = 255) -> np.ndarray:
    mask = np.zeros((16, 16), np.uint8)
    mask[y : y + side, x : x + side] = value
    return mask


def prepared(where: Path) -> tuple[np.ndarray, list[str]]:
    """Returns the stored labels of the only image, and the notes."""
    notes: list[str] = []
    with Dataset(prepare(make_spec(**JOINED), where / "a.h5", root=where, log=notes.append).path) as data:
        _, labels = data.read(np.array([0]), layer="labels")
    assert labels is not None
    return labels[0], notes


def test_masks_become_objects(tmp_path: Path) -> None:
    """Each file is one object, numbered in the order of the names; objects may touch, and be in parts."""
    divided = box(8, 0) + box(8, 8, value=255)
    labels, notes = prepared(write(tmp_path, box(0, 0), box(0, 4, value=1), divided))
    np.testing.assert_array_equal(labels, 1 * (box(0, 0) > 0) + 2 * (box(0, 4) > 0) + 3 * (divided > 0))
    assert not any("overlap" in note for note in notes)
    files = pair_files(make_spec(**JOINED), tmp_path).paths
    assert len(files) == 4  # all of which the dataset depends on


def test_overlaps_are_told(tmp_path: Path) -> None:
    """A pixel of two objects belongs to the first, with a note."""
    labels, notes = prepared(write(tmp_path, box(0, 0), box(2, 2)))
    np.testing.assert_array_equal(labels, np.where(box(0, 0) > 0, 1, 2 * (box(2, 2) > 0)))
    assert "1 of 1 images: masks of its objects overlap" in notes[0]


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ((box(0, 0), box(0, 0, 2)), "m1.png: other masks of .*x.png cover its object entirely"),
        ((box(0, 0), box(0, 0) * 0), "m1.png: its values beside 0 are none"),
        ((box(0, 0, value=1) + box(8, 8, value=2), box(0, 8)), "m0.png: its values beside 0 are 1, 2, but"),
        ((box(0, 0)[:8], box(0, 8)), "m0.png: the label image is 8 × 16 px, but its image is 16 × 16 px"),
    ],
)
def test_what_is_no_mask_of_an_object_is_refused(tmp_path: Path, masks: tuple[np.ndarray, ...], words: str) -> None:
    """Empty, covered, numbered and cropped masks are named."""
    with pytest.raises(SegueError, match=words):
        prepared(write(tmp_path, *masks))
    assert not (tmp_path / "a.h5").exists()


def test_joining_is_asked_for(tmp_path: Path) -> None:
    """Several files are refused with the setting that joins them, which goes with a pattern and objects only."""
    write(tmp_path, box(0, 0), box(8, 8))
    with pytest.raises(SegueError, match=r"2 label images, .*m0.png and .*m1.png; .* set one_object_per_file = true"):
        pair_files(make_spec(images=JOINED["images"], labels={"files": "{stem}/masks/*.png"}), tmp_path)
    for wrong in ({"kind": "classes"}, {"number_parts": True}):
        with pytest.raises(SpecError, match="one_object_per_file joins the files"):
            make_spec(images=JOINED["images"], labels={**JOINED["labels"], **wrong})
    with pytest.raises(SpecError, match="one_object_per_file goes with one image a file"):
        make_spec(**JOINED, pages="time")
