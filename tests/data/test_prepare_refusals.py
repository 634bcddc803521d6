"""What `prepare` refuses to do: replace another dataset, cut tiles far beyond the images, depend on a cache."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from samples.folders import make_folder, make_spec, refused, write_table

from segue.data import prepare as preparing
from segue.data.dataset import Dataset
from segue.data.folders.pairing import pair_files
from segue.data.prepare import expected, prepare
from segue.data.summary import describe
from segue.errors import SegueError, SpecError
from segue.fingerprint import hash_dataset, hash_files


@pytest.mark.parametrize("change", ["spec", "file", "split", "foreign"])
def test_another_dataset_is_not_replaced(tmp_path: Path, change: str) -> None:
    """A dataset of another spec, of changed files, of another given split or of other making is kept and named."""
    make_folder(tmp_path)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [{"image": f"images/{name}", "label": f"labels/{name}", "split": "train"} for name in names]
    write_table(tmp_path / "table.csv", rows)
    spec, out = make_spec(images=None, manifest="table.csv", labels={"files": None}), tmp_path / "a.h5"
    prepare(spec, out, root=tmp_path)
    if change == "spec":
        spec = spec.model_copy(update={"tile_px": 20})
    elif change == "file":
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "labels/w0_0.png")
    elif change == "split":
        write_table(tmp_path / "table.csv", [*rows[1:], {**rows[0], "split": "test"}])
    else:
        with h5py.File(out, "r+") as file:
            del file.attrs["inputs"]
    before = out.read_bytes()
    with pytest.raises(SegueError, match=r"a\.h5: holds a dataset of another specification or other files; choose"):
        prepare(spec, out, root=tmp_path)
    assert out.read_bytes() == before
    assert not (tmp_path / "a.h5.parts").exists()


def test_a_tile_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile beyond the bound, or far beyond the images, is refused before any is cut; so is want of memory."""
    make_folder(tmp_path, 2)
    with pytest.raises(SpecError, match="tile_px: found 100000; give a number of 8192 or less"):
        make_spec(tile_px=100000)
    desired = "tile_px is 241, but the largest image measures 30 px; allowed are up to 8 times that"
    message = refused(make_spec(tile_px=241), tmp_path)
    assert message.startswith(f"{tmp_path}/images/*.png: {desired}")
    with pytest.raises(SegueError, match=desired):
        expected(make_spec(tile_px=241), pair_files(make_spec(), tmp_path))

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(preparing, "cut", full)
    assert "w0_0.png: memory does not suffice to cut it into tiles of 16 px" in refused(make_spec(), tmp_path)


def test_errors_begin_with_a_file(tmp_path: Path) -> None:
    """One problem begins with its file, several with the images' pattern, never with the dataset's name."""
    make_folder(tmp_path, 3)
    assert refused(make_spec(channels=["a", "b"]), tmp_path).startswith(f"{tmp_path}/images/*.png: 2 channels are")
    assert refused(make_spec(images="none/*.png"), tmp_path).startswith(f"{tmp_path}: images = 'none/*.png' matches")
    (tmp_path / "labels/w0_0.png").unlink()
    assert refused(make_spec(), tmp_path).startswith(f"{tmp_path}/images/w0_0.png: has no label image")
    (tmp_path / "labels/w0_1.png").unlink()
    assert refused(make_spec(), tmp_path).startswith(f"{tmp_path}/images/*.png: 2 problems with the files")


def test_the_digest_cache_is_optional(tmp_path: Path) -> None:
    """Digesting makes no folder for its cache, and does without one that cannot be read or written."""
    files = pair_files(make_spec(), make_folder(tmp_path / "in")).paths
    digest = hash_files(files)
    assert hash_files(files, tmp_path / "mistyped" / "digests.json") == digest
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "digests.json").mkdir()
    assert hash_files(files, tmp_path / "digests.json") == digest
    (tmp_path / "file").write_text("")
    assert hash_files(files, tmp_path / "file" / "digests.json") == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests.json", "file", "in"]


def write_discs(where: Path, value: int | None, *, names: str = "ab") -> Path:
    """Writes images with label images of four discs, of `value` or, without it, numbered; returns the folder."""
    y, x = np.mgrid[:40, :40]
    inside = (y % 20 - 10) ** 2 + (x % 20 - 10) ** 2 <= 36
    labels = np.where(inside, value or (y // 20) * 2 + x // 20 + 1, 0).astype(np.uint16)
    for folder in ("images", "labels"):
        (where / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        image = np.random.default_rng(index).integers(100, 4000, (40, 40)).astype(np.uint16)
        Image.fromarray(image).save(where / f"images/{name}.png")
        Image.fromarray(labels).save(where / f"labels/{name}.png")
    return where


INSTANCES = {"kind": "instances", "names": ["background", "cell"]}


@pytest.mark.parametrize("value", [1, 255])
def test_masks_given_as_objects(tmp_path: Path, value: int) -> None:
    """Masks are refused; number_parts numbers their parts, and false takes them as they are, with a note."""
    write_discs(tmp_path, value)
    message = refused(make_spec(labels=INSTANCES), tmp_path)
    assert message.startswith("labels/{stem}.png: 2 of 2 label images")
    assert f"label images look like masks: a single value, {value}, in separate parts" in message
    assert "number_parts = true" in message and "labels/a.png" in message
    notes: list[str] = []
    numbered = make_spec(labels={**INSTANCES, "number_parts": True}, tile_px=40)
    with Dataset(prepare(numbered, tmp_path / "n.h5", root=tmp_path, log=notes.append).path) as data:
        _, labels = data.read(np.arange(2), layer="labels")
        assert notes == [] and labels is not None
        assert [len(np.unique(tile)) - 1 for tile in labels] == [4, 4]
    plain = make_spec(labels={**INSTANCES, "number_parts": False}, tile_px=40)
    prepare(plain, tmp_path / "p.h5", root=tmp_path, log=notes.append)
    assert any("look like masks" in note for note in notes)
    assert "look like masks" in describe(tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file.attrs["notes"]  # as in a dataset that was made before label images were looked at
    assert "labels: 2 of 2 label images look like masks" in describe(tmp_path / "p.h5")
    with pytest.raises(SpecError, match="number_parts makes objects of masks"):
        make_spec(labels={"number_parts": True})


def test_numbered_objects_are_taken(tmp_path: Path) -> None:
    """A numbering gives no note, and `inspect` counts its objects."""
    notes: list[str] = []
    spec = make_spec(labels=INSTANCES, tile_px=40)
    out = prepare(spec, tmp_path / "a.h5", root=write_discs(tmp_path, None), log=notes.append).path
    assert notes == []
    text = describe(out)
    assert "8 values in 2 of 2 label images, 0 of them in several parts; 8 parts" in text and "note" not in text


def write_sizes(where: Path, *sizes_nm: float | None) -> Path:
    """Writes a TIFF for each pixel size, without a size for None."""
    (where / "images").mkdir(parents=True)
    for index, size in enumerate(sizes_nm):
        image = np.random.default_rng(index).integers(100, 4000, (16, 16)).astype(np.uint16)
        metadata = {"axes": "YX"} | ({} if size is None else {"PhysicalSizeX": size / 1e3, "PhysicalSizeY": size / 1e3})
        tifffile.imwrite(where / f"images/a{index}.ome.tif", image, metadata=metadata)
    return where


@pytest.mark.parametrize(
    ("sizes_nm", "words", "attribute", "notes"),
    [
        ((650, 650, None), "650 nm of 2 images, unknown of 1, e.g. a2.ome.tif", None, 1),
        ((None, 650, 700), "650 to 700 nm of 2 images, unknown of 1, e.g. a0.ome.tif", None, 1),
        ((650, 649.9999999999999, 650), "650 nm\n", 650, 0),
        ((650, 700), "650 to 700 nm\n", None, 0),
        ((None, None), "unknown\n", None, 0),
    ],
)
def test_pixel_sizes_of_a_dataset(
    tmp_path: Path, sizes_nm: tuple[float | None, ...], words: str, attribute: float | None, notes: int
) -> None:
    """A size of some images is not one of all, and sizes that are equal but for rounding are one."""
    spec = make_spec(images="images/*.ome.tif").model_copy(update={"labels": None})
    messages: list[str] = []
    out = prepare(spec, tmp_path / "a.h5", root=write_sizes(tmp_path, *sizes_nm), log=messages.append).path
    assert f"pixel size {words}" in re.sub(" +", " ", describe(out))
    with Dataset(out) as dataset:
        assert dataset.attributes.get("pixel_size_nm") == attribute
    assert sum("is not known, that of the others is 650" in note for note in messages) == len(messages) == notes


def test_the_size_of_the_specification_is_that_of_files_but_for_rounding(tmp_path: Path) -> None:
    """Files that round 650 nm have the 650 nm of the specification, as has one without a size; another size differs."""
    spec = make_spec(images="images/*.ome.tif", pixel_size_nm=650).model_copy(update={"labels": None})
    out = prepare(spec, tmp_path / "a.h5", root=write_sizes(tmp_path, None, 649.9999999999999, 650.0001)).path
    with Dataset(out) as dataset:
        assert set(dataset.samples()["pixel_size_nm"]) == {650.0} and dataset.attributes["pixel_size_nm"] == 650.0
    assert "picture" not in describe(out)
    out = prepare(spec, tmp_path / "b.h5", root=write_sizes(tmp_path / "b", None, 651)).path
    with Dataset(out) as dataset:
        assert sorted(dataset.samples()["pixel_size_nm"]) == [650.0, 651.0]


def test_one_picture_twice(tmp_path: Path) -> None:
    """A picture saved again, or rotated, is noted, and refused in another group if asked; blank ones are no copies."""
    write_discs(tmp_path, None, names="abc")
    image = np.asarray(Image.open(tmp_path / "images/a.png"))
    Image.fromarray(image).save(tmp_path / "images/b.png", compress_level=0)
    Image.fromarray(np.rot90(image).copy()).save(tmp_path / "images/c.png")
    message = refused(make_spec(labels=INSTANCES, copies="refuse"), tmp_path)
    assert "2 problems" in message
    for name in "bc":
        assert f"images/{name}.png: is the same picture as {tmp_path}/images/a.png" in message
    notes: list[str] = []
    for changes in ({}, {"group_pattern": "(png)", "copies": "refuse"}):
        spec = make_spec(labels=INSTANCES, **changes)
        prepare(spec, tmp_path / f"{len(notes)}.h5", root=tmp_path, log=notes.append)
    assert ["of another group" in note for note in notes] == [True, False]
    assert all(note.startswith("2 of 3 images are copies, perhaps rotated or reflected, of an") for note in notes)
    parts = {"a": "train", "b": "train", "c": "test"}
    rows = [f"images/{name}.png,labels/{name}.png,{part}" for name, part in parts.items()]
    (tmp_path / "m.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    message = refused(make_spec(images=None, manifest="m.csv", labels={**INSTANCES, "files": None}), tmp_path)
    assert message.startswith(f"{tmp_path}/images/c.png: is the same picture as {tmp_path}/images/a.png")
    for name in "abc":
        Image.fromarray(image * 0).save(tmp_path / f"images/{name}.png")
    spec = make_spec(labels=INSTANCES)
    notes.clear()
    prepare(spec, tmp_path / "blank.h5", root=tmp_path, log=notes.append)
    assert len(notes) == 1 and notes[0].startswith("3 of 3 images are nearly black")


def test_notes_are_no_content(tmp_path: Path) -> None:
    """A dataset is the same with other notes: they are words about it."""
    out = prepare(make_spec(), tmp_path / "a.h5", root=make_folder(tmp_path, 2)).path
    before = hash_dataset(out)
    with h5py.File(out, "r+") as file:
        file.attrs["notes"] = "2 of 2 images are nearly black"
    assert hash_dataset(out) == before
    assert "nearly black" in describe(out)
