"""What folders hold: pairs by name, groups, the kind of labels, sizes of objects; what cannot be used is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segue.errors import SegueError
from segue.fitting.look import group_of, look_at

Y, X = np.mgrid[:64, :64]


def disc(y: int, x: int, radius: float) -> np.ndarray:
    return (Y - y) ** 2 + (X - x) ** 2 <= radius**2


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of two groups, each with two discs of radius 8 numbered 1 and 2, a third image without labels."""
    generator = np.random.default_rng(0)
    for index in range(4):
        write(tmp_path / "images", f"w{index // 2}_s{index}.png", generator.integers(0, 255, (64, 64)))
        write(tmp_path / "labels", f"w{index // 2}_s{index}.png", disc(16, 16, 8) + 2 * disc(44, 44, 8))
    write(tmp_path / "images", "w2_s4.png", generator.integers(0, 255, (64, 64)))
    return tmp_path


def look(folder: Path, labels: str = "labels", group: str | None = None, kind=None):
    return look_at(str(folder / "images"), str(folder / labels), group=group, kind=kind)


def test_objects(folder: Path):
    """Objects, their number and diameters; the image without labels is counted and left out."""
    seen = look(folder)
    assert (len(seen.pairs), len(seen.unlabeled), seen.channels, seen.dtype) == (4, 1, 1, "uint8")
    assert (seen.labels.kind, seen.labels.number_parts) == ("instances", False)
    area = int(disc(16, 16, 8).sum())
    assert seen.counts.tolist() == [2] * 4 and seen.diameters == pytest.approx(2 * np.sqrt(area / np.pi))
    assert seen.shares[0] == pytest.approx(1 - 2 * area / 64**2)
    assert any(line.startswith("diameters: median 16 px") for line in seen.describe()) and len(seen.describe()) <= 10


def test_groups(folder: Path):
    """An image is its own group without a pattern."""
    assert look(folder).groups == ["w0_s0", "w0_s1", "w1_s2", "w1_s3"]
    assert look(folder, group="{group}_s*").groups == look(folder, group="^(w[0-9])").groups == ["w0", "w1"]
    for pattern in ("{group}-*", "^(x)", "w", "(", "(w)(.)"):
        with pytest.raises(SegueError, match="--group"):
            look(folder, group=pattern)
    assert group_of("a.b_layer_3", "{group}_layer_*") == "a.b"


def test_endings_of_label_files(folder: Path):
    """000_masks.png belongs to 000.png, in the folder of the images too."""
    for file in (folder / "labels").iterdir():
        file.rename(folder / "images" / f"{file.stem}_masks.png")
    (folder / "labels").rmdir()
    seen = look_at(f"{folder}/images/{{stem}}.png", f"{folder}/images/{{stem}}_masks.png", group=None, kind=None)
    assert [pair.label.name for pair in seen.pairs if pair.label] == [f"{p.image.stem}_masks.png" for p in seen.pairs]
    (folder / "masks").mkdir()
    for file in (folder / "images").glob("*_masks.png"):
        file.rename(folder / "masks" / file.name)
    assert len(look(folder, "masks").pairs) == 4


def test_masks(folder: Path):
    """A mask of 0 and 255 is a class; its parts are objects if that is said."""
    for index in range(4):
        name = f"w{index // 2}_s{index}.png"
        write(folder / "masks", name, 255 * (disc(16, 16, 8) | disc(44, 44, 8)))
    seen = look(folder, "masks")
    assert (seen.labels.kind, seen.labels.names, seen.labels.values) == (
        "classes",
        ("background", "foreground"),
        {255: 1},
    )
    assert "8 connected parts can be objects: --kind instances" in seen.labels.reason
    objects = look(folder, "masks", kind="instances")
    assert objects.labels.number_parts and objects.counts.tolist() == [2] * 4


def test_classes(folder: Path):
    """Few values that fill the image, or that are used again and again, are classes."""
    for index in range(4):
        name = f"w{index // 2}_s{index}.png"
        write(folder / "phases", name, 1 + (X > 20) + (X > 40))
        dots = sum(value * (disc(y, x, 4) > 0) for value, y, x in ((2, 10, 10), (2, 30, 30), (5, 50, 10), (5, 50, 50)))
        write(folder / "dots", name, dots)
    assert look(folder, "phases").labels.names == ("background", "class-1", "class-2", "class-3")
    dots = look(folder, "dots").labels
    assert (dots.kind, dots.names, dots.values) == ("classes", ("background", "class-2", "class-5"), {2: 1, 5: 2})


@pytest.mark.parametrize("kind", [None, "instances"])
@pytest.mark.parametrize(("cut", "renumbered"), [(0, False), (1, False), (4, True)])
def test_objects_cut_by_a_line(folder: Path, kind: Any, cut: int, renumbered: bool):
    """Numbers stay where few of the objects are in two parts; where half of the values are, they are used again."""
    for index in range(4):
        labels = disc(16, 16, 8) + 2 * disc(44, 44, 8) + 3 * disc(16, 44, 8) + 4 * disc(44, 16, 8)
        if index < cut:
            labels[16], labels[:32, 44] = 0, 0  # through discs 1 and 3
        write(folder / "cut", f"w{index // 2}_s{index}.png", labels)
    seen = look(folder, "cut", kind=kind)
    if renumbered:
        assert seen.labels.number_parts if kind else seen.labels.kind == "classes"
    else:
        assert (seen.labels.kind, seen.labels.number_parts) == ("instances", False)
        assert seen.counts.tolist() == [4] * 4


@pytest.mark.parametrize(("between", "is_refused"), [(-1, True), (0, False), (9, True)])
def test_objects_need_background(folder: Path, between: int, is_refused: bool):
    """Labels of objects without any pixel of 0 are refused before anything is written, one sentence for all."""
    (folder / "full").mkdir()
    for index in range(4):
        labels = (disc(16, 16, 8) + 2 * disc(44, 44, 8)).astype(np.int16)
        labels[labels == 0] = between
        tifffile.imwrite(folder / "full" / f"w{index // 2}_s{index}.tif", labels)
    if not is_refused:
        assert look(folder, "full", kind="instances").counts.tolist() == [2] * 4
        return
    with pytest.raises(SegueError) as error:
        look(folder, "full", kind="instances")
    assert str(error.value).count("full: no pixel is background, of value 0") == 1


def test_a_wrong_group_pattern_is_told_once(folder: Path):
    """A pattern that no name could match is refused for itself, one that a name does not match by that name."""
    for pattern, words in (
        ("[", "is no regular expression"),
        ("(w)(.)", "has no named part"),
        ("w", "has no named part"),
    ):
        with pytest.raises(SegueError) as error:
            look(folder, group=pattern)
        assert str(error.value).startswith(f"--group '{pattern}': {words}") and str(error.value).count("--group") == 1
    with pytest.raises(SegueError, match="does not match 'w0_s0'"):
        look(folder, group="^(x)")


def test_refusals(folder: Path):
    """Folders that are missing or empty, labels without image, of another size, and empty ones, by name."""
    with pytest.raises(SegueError, match="nowhere: there is no such folder"):
        look_at(str(folder / "nowhere"), str(folder / "labels"), group=None, kind=None)
    (folder / "empty").mkdir()
    with pytest.raises(SegueError, match="empty: holds no image"):
        look(folder, "empty")
    write(folder / "other", "z.png", disc(16, 16, 8))
    with pytest.raises(SegueError, match=r"z\.png: is a label image without an image"):
        look(folder, "other")
    write(folder / "small", "w0_s0.png", np.ones((8, 8)))
    with pytest.raises(SegueError, match="is 8 × 8 px, but its image is 64 × 64 px"):
        look(folder, "small")
    write(folder / "blank", "w0_s0.png", np.zeros((64, 64)))
    with pytest.raises(SegueError, match="all label images are empty"):
        look(folder, "blank")
