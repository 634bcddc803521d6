"""Which files belong together, by names and by tables; what is left out is told, and a near miss suggested."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from samples.folders import make_spec

from segue.data.folders.pairing import PairedFiles, pair_files
from segue.errors import SegueError, SpecError


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, np.zeros((8, 8), np.uint8))
    return folder


def pair(root: Path, images: str, files: str | None, **changes: Any) -> PairedFiles:
    """Returns the pairs by two patterns, without labels if `files` is None."""
    spec = make_spec(images=images, tile_px=8, **({"labels": {"files": files}} if files else {}), **changes)
    return pair_files(spec if files else spec.model_copy(update={"labels": None}), root)


def names(paired: PairedFiles, root: Path) -> list[tuple[str, str, str]]:
    """Returns (image, label, group) of each pair, paths below `root`."""
    return [
        (one.image.relative_to(root).as_posix(), one.label.relative_to(root).as_posix(), one.group)
        for one in paired.pairs
        if one.label is not None
    ]


@pytest.mark.parametrize(
    ("images", "files", "image", "label", "group"),
    [
        ("i/*.tif", "l/{stem}.tif", "i/a.tif", "l/a.tif", "a"),
        ("i/*.tif", "l/{stem}.tif", "i/a.TIF", "l/a.Tif", "a"),
        ("i/{stem}_img.tif", "i/{stem}_masks.tif", "i/000_img.tif", "i/000_masks.tif", "000"),
        ("i/{stem}.tif", "i/{stem}_cp_masks.png", "i/a.tif", "i/a_cp_masks.png", "a"),
        ("imagesTr/{stem}_0000.tif", "labelsTr/{stem}.tif", "imagesTr/c_1_0000.tif", "labelsTr/c_1.tif", "c_1"),
        ("i/*.ome.tif", "l/{stem}.tif", "i/a.ome.tif", "l/a.tif", "a"),
        ("i/*.ome.tif", "l/{stem}.ome.tif", "i/a.ome.tif", "l/a.ome.tif", "a"),
        ("i/{stem}.tif", "l/{stem}.tif", "i/a.ome.tif", "l/a.ome.tif", "a"),
        ("{folder}/i/{stem}.tif", "{folder}/l/{stem}.tif", "d1/i/a.tif", "d1/l/a.tif", "a"),
        ("i/{folder}/{stem}.tif", "l/{folder}/{stem}.png", "i/d/a.tif", "l/d/a.png", "a"),
        ("i/{well}_s{site}.tif", "l/{site}/{well}.tif", "i/A1_s2.tif", "l/2/A1.tif", "A1_s2"),
        ("exp [1]/i/*.tif", "exp [1]/l/{stem}.tif", "exp [1]/i/a.tif", "exp [1]/l/a.tif", "a"),
        ("i/*.tif", "l/*/{stem}.tif", "i/a.tif", "l/round 2/a.tif", "a"),
    ],
)
def test_names_of_pairs(tmp_path: Path, images: str, files: str, image: str, label: str, group: str):
    """The old form, suffixes, named parts on both sides, double suffixes, folders, brackets: each finds its pair."""
    write(tmp_path, image, label)
    paired = pair(tmp_path, images, files)
    assert names(paired, tmp_path) == [(image, label, group)] and paired.notes == ()


def test_composed_and_decomposed_letters_are_one(tmp_path: Path):
    """A name that a Mac decomposed finds its label; the group is composed, so that it is the same everywhere."""
    image, label = unicodedata.normalize("NFD", "i/Zelle Ü.tif"), unicodedata.normalize("NFC", "l/Zelle Ü.tif")
    write(tmp_path, image, label)
    assert names(pair(tmp_path, "i/*.tif", "l/{stem}.tif"), tmp_path) == [(image, label, "Zelle Ü")]
    (tmp_path / "t.csv").write_text(unicodedata.normalize("NFC", f"image,label\n{image},{label}\n"), encoding="utf-8")
    spec = make_spec(images=None, manifest="t.csv", tile_px=8, labels={"files": None})
    assert names(pair_files(spec, tmp_path), tmp_path) == [(image, label, "Zelle Ü")]


def test_a_folder_of_specifications_may_hold_signs(tmp_path: Path):
    """* ? [ ] { } in the name of the specification's own folder are no signs."""
    root = write(tmp_path / "exp [1] {a}", "i/a.tif", "l/a.tif")
    assert names(pair(root, "i/*.tif", "l/{stem}.tif"), root) == [("i/a.tif", "l/a.tif", "a")]


def test_labels_beside_images_of_any_pattern(tmp_path: Path):
    """A file that fits both patterns is the label of the image that it is named after, else an image."""
    write(tmp_path, "a.tif", "a_m.tif", "b.tif", "b_m.tif")
    pairs = [("a.tif", "a_m.tif", "a"), ("b.tif", "b_m.tif", "b")]
    assert names(pair(tmp_path, "*.tif", "{stem}_m.tif"), tmp_path) == pairs
    write(tmp_path / "x", "a_i.tif", "a.tif")
    assert names(pair(tmp_path / "x", "{stem}_i.tif", "{stem}.tif"), tmp_path / "x") == [("a_i.tif", "a.tif", "a")]
    with pytest.raises(SegueError, match=r"a\.tif: has no label image"):
        pair(tmp_path, "*.tif", "{stem}.tif")


def test_what_is_left_out_is_told(tmp_path: Path):
    """Files that match no pattern are counted with an example; hidden files and the specification are not."""
    write(tmp_path, "i/a.tif", "l/a.tif", "i/b.tiff", "i/old/c.tif", "l/b.tiff", "i/._a.tif")
    (tmp_path / "i/Thumbs.db").touch()
    (tmp_path / "i/s.toml").touch()
    (note,) = pair(tmp_path, "i/*.tif", "l/{stem}.tif").notes
    assert "3 files match no pattern and are left out, e.g. " in note
    assert note.endswith(f"{tmp_path / 'i/b.tiff'}, whose suffix is .tiff, not .tif")
    write(tmp_path, "s/large.tif")
    tifffile.imwrite(tmp_path / "s/small.tif", np.zeros((4, 4), np.uint8))
    (note,) = pair(tmp_path, "s/*.tif", None, sizes=[[8, 8]]).notes
    assert note == f"sizes: 1 images of other sizes are left out, e.g. {tmp_path / 's/small.tif'}"


@pytest.mark.parametrize(
    ("images", "files", "lying", "words"),
    [
        (
            "i/*_img.tif", "i/{stem}_masks.tif", ("i/0_img.tif", "i/0_masks.tif"),
            "write images = 'i/{stem}_img.tif' and files = 'i/{stem}_masks.tif'",
        ),
        (
            "i/*_0000.tif", "l/{stem}.tif", ("i/c1_0000.tif", "l/c1.tif"),
            "write images = 'i/{stem}_0000.tif' and files = 'l/{stem}.tif'",
        ),
        (
            "*/i/*.tif", "l/{stem}.tif", ("d1/i/a.tif", "d1/l/a.tif"),
            "write images = '{folder}/i/{stem}.tif' and files = '{folder}/l/{stem}.tif'",
        ),
        ("i/*.tif", "lables/{stem}.tif", ("i/a.tif", "labels/a.tif"), "(did you mean 'labels'?)"),
        ("imags/*.tif", "l/{stem}.tif", ("images/a.tif", "l/a.tif"), "there is no folder"),
        ("images/*.tif", "l/{stem}.tif", ("images/a.png", "l/a.tif"), "(there is e.g. "),
        ("i/{a}_{b}.tif", "l/{a}/{b}.tif", ("i/x_y_z.tif", "l/x/y_z.tif"), "in several ways (a is 'x' or 'x_y')"),
        ("i/*.tif", "l/*/{stem}.tif", ("i/a.tif", "l/1/a.tif", "l/2/a.tif"), "has 2 label images"),
        ("{folder}/{stem}.tif", "l/{stem}.png", ("d/a.tif", "e/a.tif", "l/a.png"), "is the label image of 2 images, "),
        (
            "i/{stem}_000*.png", "l/{stem}.png", ("i/c1_0000.png", "i/c1_0001.png", "l/c1.png"),
            "if they are channels of one image, choose one by the pattern, or stack them into one file",
        ),
        (
            "r/**/*.tif", "l/**/{stem}.tif", ("r/x/a.tif", "r/y/a.tif", "l/x/a.tif", "l/y/a.tif"),
            "l/y/a.tif; name the folders on both sides: write images = 'r/{folder}/{stem}.tif' and files = "
            "'l/{folder}/{stem}.tif'",
        ),
        (
            "r/*/*.tif", "l/*/{stem}.tif", ("r/x/a.tif", "r/y/a.tif", "l/x/a.tif", "l/y/a.tif"),
            "write images = 'r/{folder}/{stem}.tif' and files = 'l/{folder}/{stem}.tif'",
        ),
        (
            "i/*.tif", "l/{stem}*.tif", ("i/a.tif", "l/a_1.tif", "l/a_2.tif"),
            "l/a_2.tif; give a pattern that one of them matches",
        ),
        (
            "i/*.tif", "l/{stem}.png", ("i/a.tif", "i/b.tiff", "l/a.png", "l/b.png"),
            "i/b.tiff, which images = 'i/*.tif' does not match: write images = 'i/*.*' and files = 'l/{stem}.png')",
        ),
        (
            "i/{stem}_r.tif", "l/{stem}.png", ("i/a_r.tif", "i/b.tif", "l/a.png", "l/b.png"),
            "i/b.tif, which images = 'i/{stem}_r.tif' does not match); add it, or leave the label out",
        ),
    ],
)  # fmt: skip
def test_near_misses_are_suggested(tmp_path: Path, images: str, files: str, lying: tuple[str, ...], words: str):
    """What other tools call their files, other folders and suffixes: the error says how to write the pattern."""
    with pytest.raises(SegueError) as caught:
        pair(write(tmp_path, *lying), images, files)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("images", "files", "lying", "words", "suggestions"),
    [
        ("i/*.tif", "l/{stem}.tif", ("i/b.tif", "l/a.tif"), "l/b.tif; add it", 0),
        ("*_i.tif", "{stem}_m.tif", ("a_i.tif", "a_m.tif"), "label image without an image of that name; add it", 1),
        # no part of a name is cut out of a word or a number
        ("i/*.tif", "l/{stem}.tif", ("i/img_1.tif", "l/mask_01.tif"), "(there is mask_01.tif); add it", 0),
        ("i/*.tif", "l/{stem}.tif", ("i/cell.tif", "l/cells.tif"), "(there is cells.tif); add it", 0),
        # a pattern that would pair fewer files than the present one is none
        (
            "i/*.tif", "l/{stem}.tif", ("i/a.tif", "i/b.tif", "i/c.tif", "l/a.tif", "l/b.tif", "l/c_mask.tif"),
            "(there is c_mask.tif); add it", 0,
        ),
        (
            "i/*.tif", "l/{stem}.tif", ("i/img_1.tif", "i/img_2.tif", "l/mask_1.tif", "l/mask_2.tif"),
            "(there is mask_1.tif: write images = 'i/img_{stem}.tif' and files = 'l/mask_{stem}.tif'); add it", 2,
        ),
        (
            "i/*.png", "l/{stem}.png", ("i/c1_0000.png", "i/c1_0001.png", "l/c1.png"),
            "(there is c1.png, as for c1_0000.png: if both are channels of one image, choose one by the pattern, or "
            "stack them into one file)", 1,
        ),
    ],
)  # fmt: skip
def test_suggested_patterns_pair_more_files(
    tmp_path: Path, images: str, files: str, lying: tuple[str, ...], words: str, suggestions: int
):
    """A file that is near is named; a pattern is suggested only where whole names agree and more files pair."""
    with pytest.raises(SegueError) as caught:
        pair(write(tmp_path, *lying), images, files)
    message = str(caught.value)
    assert words in message and message.count("write images") == suggestions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"images": "i/{stem}_{channel}.tif"},
            "{channel} would make one image of several files",
        ),
        ({"labels": {"files": "l/{folder}/{stem}.tif"}}, "has {folder}, but images = 'images/*.png' has not"),
        ({"images": "i/{a}.tif"}, "has {stem}, but images = 'i/{a}.tif' has not"),
        ({"conditions": {"a/b": 1}}, "conditions.'a/b' cannot be stored by that name"),
        ({"group": "stm"}, "unknown group 'stm'; did you mean 'stem'?"),
        ({"group": "{wel}", "images": "{well}/{stem}.tif"}, "unknown part 'wel'; did you mean 'well'?"),
    ],
)
def test_parts_that_cannot_be_meant(changes: dict[str, Any], words: str):
    """Named parts that only one side has, channels in several files, and unknown groups are refused at once."""
    with pytest.raises(SpecError) as caught:
        make_spec(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        ("path", ["d1/a", "d1/b", "d2/a"]),
        ("stem", ["a", "a", "b"]),
        ("file", ["d1/a.tif", "d1/b.tif", "d2/a.tif"]),
        ("lab2-{stem}", ["lab2-a", "lab2-a", "lab2-b"]),
        ("{folder}", ["d1", "d1", "d2"]),
    ],
)
def test_groups_of_folders(tmp_path: Path, group: str, groups: list[str]):
    """The same name in two folders is two groups, unless the specification says otherwise."""
    write(tmp_path, "d1/a.tif", "d2/a.tif", "d1/b.tif")
    paired = pair(tmp_path, "*/*.tif", None, group=group)
    assert [one.group for one in paired.pairs] == groups
    (tmp_path / "t.csv").write_text("image\nd1/a.tif\nd2/a.tif\nd1/b.tif\n", encoding="utf-8")
    spec = make_spec(images=None, manifest="t.csv", labels={"files": None}, group=group, tile_px=8)
    unlabeled = spec.model_copy(update={"labels": None})
    assert [one.group for one in pair_files(unlabeled, tmp_path).pairs] == groups


def manifest(root: Path, text: str, **changes: Any) -> PairedFiles:
    (root / "t.csv").write_text(text, encoding="utf-8")
    write(root, *(f"{kind}{number}.tif" for kind in "il" for number in range(2)))
    return pair_files(make_spec(images=None, manifest="t.csv", labels={"files": None}, tile_px=8, **changes), root)


def test_a_manifest_keeps_its_text(tmp_path: Path):
    """Conditions stay as written, known columns are found in any writing, and what is text by one cell is told."""
    text = "Image;LABEL;Pixel size (nm);position;dose\ni0.tif;l0.tif;62.50;1_1;0.50\ni1.tif;l1.tif;65;11;1\n\n"
    paired = manifest(tmp_path, text)
    assert [one.conditions for one in paired.pairs] == [
        {"position": "1_1", "dose": "0.50"}, {"position": "11", "dose": "1"},
    ]  # fmt: skip
    assert [one.pixel_size_nm for one in paired.pairs] == [62.5, 65]
    assert [note.split("since ")[1].split(";")[0] for note in paired.notes] == [
        "line 2 has '0.50'", "line 2 has '1_1'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\ni0.tif,l0.tif\ni1.tif\n", "line 3: label is empty; fill it in"),
        ("image,label,n\ni0.tif,l0.tif,\"a\nb\"\ni1.tif,l9.tif,c\n", "line 4: there is no file"),
        ("image,label\ni0.tif,l0.tif\ni1.tiff,l1.tif\n", "(did you mean 'i1.tif'?)"),
        ("image,label,pixel_size_nm\ni0.tif,l0.tif,1_0\n", "line 2, column 'pixel_size_nm': '1_0' is no number"),
        ("image;label;pixel_size_nm\ni0.tif;l0.tif;62,5\n", "'62,5' has a decimal comma; write 62.5."),
        ("image;label;pixel_size_nm\ni0.tif;l0.tif;1,250\n", "write 1.250, or 1250 if it separates thousands"),
        ("image,label,pixel_size_nm\ni0.tif,l0.tif,0.0000001\n", "which measures 0.001 to 100000 nm"),
        ("image,label,pixel_size_nm\ni0.tif,l0.tif,1e12\n", "'1e12' is no pixel of a microscope"),
        ("image,label,pixel_size_nm\ni0.tif,l0.tif,-65\n", "'-65' is no pixel of a microscope"),
        ("image,label,group\ni0.tif,l0.tif,P1\ni1.tif,l1.tif,\n", "column 'group' is empty in line 3 (1 in all)"),
        ("image,label,group\ni0.tif,l0.tif,\ni1.tif,l1.tif,P1\n", "column 'group' is empty in line 2 (1 in all)"),
        ("image,group,label\ni0.tif, ,l0.tif\ni1.tif,P1,l1.tif\n", "column 'group' is empty in line 2 (1 in all)"),
        ("image,label,group\ni0.tif,l0.tif,1-Jan\ni1.tif,l1.tif,P1\n", "line 2, column 'group': '1-Jan' is a date"),
        ("image,label,group\ni0.tif,l0.tif,P1\ni1.tif,l1.tif,01. Mrz\n", "line 3, column 'group': '01. Mrz' is a"),
        ("image,label,split\ni0.tif,l0.tif,train\ni1.tif,l1.tif,\n", "column 'split' is empty in line 3 (1 in all)"),
        ("image,label,split\ni0.tif,l0.tif\ni1.tif,l1.tif,test\n", "column 'split' is empty in line 2 (1 in all)"),
        ("image,label,pixel_size_um\ni0.tif,l0.tif,1\n", "'pixel_size_um' is a pixel size; give it in nm"),
        ("image,label,a/b\ni0.tif,l0.tif,1\n", "the column 'a/b' cannot be stored by that name"),
        ("image,label,dose\ni0.tif,l0.tif,\n", "column 'dose' is empty in line 2 (1 in all)"),
        (f"image,label\n{'n' * 5000},l0.tif\n", "line 2: there is no file"),
    ],
)  # fmt: skip
def test_mistakes_of_a_manifest(tmp_path: Path, text: str, words: str):
    """Short rows, missing files with a near miss, lengths that are none, and odd columns are told with their line."""
    with pytest.raises(SegueError) as caught:
        manifest(tmp_path, text)
    assert words in str(caught.value)


def test_mistakes_of_a_split_are_told_once(tmp_path: Path):
    """A part of another name is told at its line, and not as a row without a part or as a divided group."""
    text = "image,label,split,group\ni0.tif,l0.tif,val,a\ni1.tif,l1.tif,train,a\n"
    with pytest.raises(SegueError) as caught:
        manifest(tmp_path, text)
    allowed = "allowed are train, validation, test: correct it."
    assert str(caught.value) == f"{tmp_path / 't.csv'}: line 2: split is 'val'; {allowed}"


def test_a_column_without_cells_is_none(tmp_path: Path):
    """Empty columns group, split and pixel_size_nm are as if they were not there; groups keep their text."""
    paired = manifest(tmp_path, "image,label,group,split,pixel_size_nm\ni0.tif,l0.tif,,,\ni1.tif,l1.tif,,,\n")
    assert [(one.group, one.part, one.pixel_size_nm) for one in paired.pairs] == [
        ("i0", None, None),
        ("i1", None, None),
    ]
    paired = manifest(tmp_path, "image,label,group\ni0.tif,l0.tif,007\ni1.tif,l1.tif,7\n")
    assert [one.group for one in paired.pairs] == ["007", "7"]


@pytest.mark.parametrize("size_nm", [1e9, 1e-7, 0, -65])
def test_a_pixel_size_of_no_microscope_is_refused(size_nm: float):
    """The specification has the limits of the files' metadata, which are themselves allowed."""
    with pytest.raises(SpecError, match="pixel_size_nm: found"):
        make_spec(pixel_size_nm=size_nm)
    assert [make_spec(pixel_size_nm=limit).pixel_size_nm for limit in (1e-3, 1e5)] == [1e-3, 1e5]


def test_a_column_that_is_nearly_known_is_told(tmp_path: Path):
    """A column 'splits' is a condition, and a note asks whether it is the split; parts may have capitals."""
    paired = manifest(tmp_path, "image,label,splits\ni0.tif,l0.tif,train\ni1.tif,l1.tif,test\n")
    assert "column 'splits' is taken as a condition; if it is the split, rename it" in paired.notes[0]
    paired = manifest(tmp_path, "image,label,Split\ni0.tif,l0.tif,Train\ni1.tif,l1.tif,TEST\n")
    assert [one.part for one in paired.pairs] == ["train", "test"]
