"""Folders and tables become datasets; whatever is amiss with the files is told at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from samples.folders import make_folder, make_spec, refused, write_table

from segue.data.dataset import Dataset
from segue.data.folders.pairing import pair_files
from segue.data.prepare import expected, prepare
from segue.data.spec import PrepareSpec, SplitSpec
from segue.errors import SegueError, SpecError
from segue.fingerprint import hash_dataset, hash_files
from segue.spec import load

STUDIES = Path(__file__).parents[2] / "studies"


def test_tiles_are_cut_from_the_files(tmp_path: Path) -> None:
    """Each tile equals its place in its file, as do the whole micrographs; nothing is left beside the dataset."""
    where = make_folder(tmp_path)
    done = prepare(make_spec(conditions={"microscope": "a", "kv": 300}), tmp_path / "a.h5", root=where)
    assert (done.micrographs, done.groups, done.cut_now) == (4, 4, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "images", "labels"]
    with Dataset(done.path) as data:
        assert data.count == 4 * 4 == expected(make_spec(), pair_files(make_spec(), where))["tiles"]
        images, labels = data.read(np.arange(16), layer="labels")
        assert labels is not None
        samples = data.samples()
        for index in range(16):
            y, x = samples["y_px"][index], samples["x_px"][index]
            for name, tile in (("images", images[index, 0]), ("labels", labels[index])):
                whole = np.asarray(Image.open(where / name / samples["source"][index]))
                np.testing.assert_array_equal(tile, whole[y : y + 16, x : x + 16])
        whole = np.asarray(Image.open(where / "images/w1_2.png"))
        np.testing.assert_array_equal(data.micrograph("w1_2.png").image[0], whole)
        np.testing.assert_allclose(data.intensity(np.array([8]))[0, 0, :2], [whole.mean(), whole.std()], rtol=1e-6)
        assert data.select({"microscope": "a", "kv": 300}).size == 16


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, ["w0_0", "w0_1", "w1_2", "w1_3"]),
        ({"group": "file"}, ["w0_0.png", "w0_1.png", "w1_2.png", "w1_3.png"]),
        ({"group_pattern": "^(w[0-9]+)_"}, ["w0", "w1"]),
    ],
)
def test_groups_by_name(tmp_path: Path, changes: dict, groups: list[str]) -> None:
    """Groups are stems, paths, or what a pattern captures; stored splits follow them."""
    spec = make_spec(splits={"half": {"validation": 0.5, "test": 0.2}}, **changes)
    with Dataset(prepare(spec, tmp_path / "a.h5", root=make_folder(tmp_path)).path) as data:
        assert sorted(set(data.samples()["group"])) == groups
        np.testing.assert_array_equal(data.split_codes("half"), data.split(SplitSpec(validation=0.5, test=0.2)))


def test_sizes_choose_images(tmp_path: Path) -> None:
    """Only images of the sizes named are taken; the labels of the others are no orphans."""
    make_folder(tmp_path, 2, (40, 40))
    for name in ("images", "labels"):
        Image.fromarray(np.ones((20, 30), np.uint8)).save(tmp_path / name / "small.png")
    done = prepare(make_spec(sizes=[[40, 40]]), tmp_path / "a.h5", root=tmp_path)
    assert done.micrographs == 2
    assert "no image has one of the sizes 9 × 9" in refused(make_spec(sizes=[[9, 9]]), tmp_path)


def test_labels_beside_the_images(tmp_path: Path) -> None:
    """Label images in the same folder are told from the images by their pattern."""
    make_folder(tmp_path, 2)
    for path in sorted((tmp_path / "labels").iterdir()):
        path.rename(tmp_path / "images" / f"{path.stem}_mask.png")
    spec = make_spec(labels={"files": "images/{stem}_mask.png"})
    assert prepare(spec, tmp_path / "a.h5", root=tmp_path).micrographs == 2


def test_small_images_are_padded(tmp_path: Path) -> None:
    """An image smaller than the tile gives one tile, whose padding is ignored and lies outside the valid box."""
    with Dataset(prepare(make_spec(tile_px=32), tmp_path / "a.h5", root=make_folder(tmp_path, 1)).path) as data:
        _, labels = data.read(np.array([0]), layer="labels")
        assert labels is not None
        assert data.valid(np.array([0])).tolist() == [[0, 0, 20, 30]]
        assert (labels[0] == -1).sum() == 32 * 32 - 20 * 30
        assert data.class_counts("labels").sum() == 20 * 30


def test_a_table_gives_conditions_groups_and_split(tmp_path: Path) -> None:
    """Columns of a manifest become typed conditions, groups, pixel sizes and the stored split 'given'."""
    make_folder(tmp_path)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    parts, doses = ["train", "train", "validation", "test"], [30, 75, 30, 75]
    rows = [
        {
            "image": f"images/{name}",
            "label": f"labels/{name}",
            "group": f"g{index}",
            "split": parts[index],
            "pixel_size_nm": 10 + index,
            "dose_e_per_A2": doses[index],
            "dose_e_per_A2_drawn": doses[index] + 0.5,
            "stain": "dapi",
        }
        for index, name in enumerate(names)
    ]
    write_table(tmp_path / "table.csv", rows)
    spec = make_spec(images=None, manifest="table.csv", labels={"files": None})
    with Dataset(prepare(spec, tmp_path / "a.h5", root=tmp_path).path) as data:
        samples = data.samples()
        assert samples["dose_e_per_A2"].dtype == np.int64
        assert samples["dose_e_per_A2_drawn"].dtype == np.float64
        assert set(samples["pixel_size_nm"]) == {10.0, 11.0, 12.0, 13.0}
        assert "pixel_size_nm" not in data.attributes
        assert data.split_codes("given").tolist() == [0] * 8 + [1] * 4 + [2] * 4
        assert data.split_attributes("given") == {"given": True}
        assert data.select({"dose_e_per_A2": 75}).size == 8
    assert tmp_path / "table.csv" in pair_files(spec, tmp_path).paths


def test_a_table_tells_all_its_mistakes(tmp_path: Path) -> None:
    """Missing files, unknown splits, torn groups, empty cells, taken names: all in one message."""
    make_folder(tmp_path)
    row = {
        "image": "images/w0_0.png",
        "label": "labels/w0_0.png",
        "group": "a",
        "split": "train",
        "kv": 5,
        "source": "x",
    }
    rows = [
        row,
        {**row, "image": "images/w0_1.png", "label": "labels/w0_1.png", "split": "test", "kv": ""},
        {**row, "image": "images/w1_2.png", "label": "labels/w1_2.png", "group": "b", "split": "trian"},
        {**row, "image": "images/none.png"},
        row,
    ]
    write_table(tmp_path / "table.csv", rows)
    message = refused(make_spec(images=None, manifest="table.csv", labels={"files": None}), tmp_path)
    for part in [
        "line 5: there is no file",
        "split is 'trian'; allowed are train, validation, test",
        "group 'a': is in test and train",
        "column 'kv' is empty in line 3",
        "the column 'source' cannot be a condition",
        "this image occurs 2 times",
        "is the label image of 2 images",
    ]:
        assert part in message
    write_table(tmp_path / "table.csv", [{"picture": 1}])
    assert "needs a row per image and the columns image and label; found picture" in refused(
        make_spec(images=None, manifest="table.csv", labels={"files": None}), tmp_path
    )


def test_all_bad_files_are_told_at_once(tmp_path: Path) -> None:
    """An image without label, a label without image, another shape, a cut file, a copy: one sentence each."""
    make_folder(tmp_path, 6)
    (tmp_path / "labels/w0_0.png").unlink()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "labels/extra.png")
    message = refused(make_spec(), tmp_path)
    assert "2 problems" in message
    assert "w0_0.png: has no label image" in message
    assert "extra.png: is a label image without an image" in message

    (tmp_path / "images/w0_0.png").unlink()
    (tmp_path / "labels/extra.png").unlink()
    (tmp_path / "images/w0_1.png").write_bytes((tmp_path / "images/w1_2.png").read_bytes())
    assert "w1_2.png: is the same picture as" in refused(make_spec(copies="refuse"), tmp_path)

    (tmp_path / "images/w0_1.png").write_bytes((tmp_path / "images/w1_3.png").read_bytes()[:200])
    Image.fromarray(np.zeros((20, 31), np.uint8)).save(tmp_path / "labels/w1_2.png")
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(tmp_path / "labels/w2_4.png")
    message = refused(make_spec(), tmp_path)
    assert "3 problems" in message
    for part in ["w0_1.png: the PNG file is truncated", "w1_2.png: the label image is 20 × 31", "class value(s) 7"]:
        assert part in message


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """Of many problems the first ten are shown, and how many there are."""
    make_folder(tmp_path, 14)
    for path in (tmp_path / "labels").iterdir():
        path.unlink()
    message = refused(make_spec(), tmp_path)
    assert "14 problems with the files" in message
    assert "… and 4 more" in message
    assert message.count("has no label image") == 10


def test_nan_in_an_image(tmp_path: Path) -> None:
    """NaN in a micrograph is named with its file and count."""
    make_folder(tmp_path, 1)
    image = np.zeros((20, 30), np.float32)
    image[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "images/w0_0.tif", image)
    message = refused(make_spec(images="images/*.tif"), tmp_path)
    assert "w0_0.tif: 1 of 600 pixels are NaN or infinite" in message


def test_images_of_two_kinds(tmp_path: Path) -> None:
    """8-bit beside 16-bit images are refused with an example of each; so are channel names that do not fit."""
    make_folder(tmp_path, 2)
    assert "2 channels are named (a, b), but the images have 1" in refused(make_spec(channels=["a", "b"]), tmp_path)
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "images/w0_0.png")
    message = refused(make_spec(), tmp_path)
    assert "1 channel(s) of uint16: 1, e.g." in message
    assert "1 channel(s) of uint8: 1, e.g." in message


def test_nothing_to_prepare(tmp_path: Path) -> None:
    """An empty folder and a missing table are named with the key and the remedy."""
    (tmp_path / "images").mkdir()
    assert "images = 'images/*.png' matches no file" in refused(make_spec(), tmp_path)
    spec = make_spec(images=None, manifest="table.csv", labels={"files": None})
    assert "table.csv: cannot be read as a CSV table" in refused(spec, tmp_path)


def test_pixel_size_comes_from_table_file_or_spec(tmp_path: Path) -> None:
    """The file's pixel size is used, the spec's where it says none, and a contradiction is refused."""
    make_folder(tmp_path, 1)
    image = np.asarray(Image.open(tmp_path / "images/w0_0.png"))
    tifffile.imwrite(tmp_path / "images/w0_0.tif", image, imagej=True, resolution=(10.0, 10.0), metadata={"unit": "um"})
    spec = {"images": "images/*.tif"}
    with Dataset(prepare(make_spec(**spec), tmp_path / "a.h5", root=tmp_path).path) as data:
        assert data.attributes["pixel_size_nm"] == pytest.approx(100)
    with Dataset(prepare(make_spec(pixel_size_nm=65), tmp_path / "b.h5", root=tmp_path).path) as data:
        assert data.attributes["pixel_size_nm"] == 65
    assert "metadata say 100 nm per pixel, the spec says 65" in refused(make_spec(pixel_size_nm=65, **spec), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tilepx": 5}, "unknown key 'tilepx'; did you mean 'tile_px'"),
        ({"labels": {"kind": "class"}}, "unknown value 'class'; did you mean 'classes'"),
        ({"labels": {"files": "labels/a.png"}}, "has no {stem}"),
        ({"labels": {"kind": "instances", "names": ["background", "a", "b"]}}, "instances need two"),
        ({"stride_px": 17}, "leaves gaps between tiles"),
        ({"manifest": "a.csv"}, "give either images, a pattern, or manifest"),
        ({"group_pattern": "w["}, "is not a regular expression"),
        ({"group_pattern": "w"}, "has 0 capture groups; it needs one"),
        ({"conditions": {"source": 1}}, "conditions.source is a column of every dataset"),
        ({"splits": {"given": {}}}, "the name 'given' is kept"),
    ],
)
def test_mistakes_in_the_spec(changes: dict, message: str) -> None:
    """Misspelt keys and contradictions are refused before any file is read."""
    with pytest.raises(SpecError) as raised:
        make_spec(**changes)
    assert message in str(raised.value)


@pytest.mark.slow
def test_workers_and_order_change_nothing(tmp_path: Path) -> None:
    """One worker and two give the same content; a second call finds the work done."""
    where = make_folder(tmp_path / "in", 6)
    calls: list[tuple[int, int]] = []
    first = prepare(make_spec(), tmp_path / "a.h5", root=where, progress=lambda *call: calls.append(call))
    second = prepare(make_spec(), tmp_path / "b.h5", root=where, workers=2)
    digest = hash_dataset(first.path)
    assert hash_dataset(second.path) == digest
    assert calls == [(done, 6) for done in range(7)]
    before = first.path.stat().st_mtime_ns
    assert prepare(make_spec(), first.path, root=where).cut_now == 0
    assert first.path.stat().st_mtime_ns == before


def test_input_digests_follow_content(tmp_path: Path) -> None:
    """The digest of the inputs survives a move and a touch, uses its cache, and sees a changed byte."""
    where = make_folder(tmp_path / "in")
    files = pair_files(make_spec(), where).paths
    assert len(files) == 8
    cache = tmp_path / "digests.json"
    digest = hash_files(files, cache)
    entries = json.loads(cache.read_text())
    assert len(entries) == 8
    os.utime(files[0], ns=(1, 1))
    assert hash_files(files, cache) == digest
    where.rename(tmp_path / "moved")
    moved = pair_files(make_spec(), tmp_path / "moved").paths
    assert hash_files(moved) == digest
    moved[0].write_bytes(moved[0].read_bytes() + b"\0")
    assert hash_files(moved, cache) != digest
    name = str(moved[0].resolve())
    stamp = [moved[0].stat().st_size, moved[0].stat().st_mtime_ns]
    for broken in ["{ broken", "[]", json.dumps({name: 5}), json.dumps({name: stamp}), json.dumps({name: [*stamp, 7]})]:
        cache.write_text(broken)
        assert hash_files(moved, cache) == hash_files(moved)


def test_the_estimate_is_not_too_low(tmp_path: Path) -> None:
    """The disk space planned is at least what the dataset takes."""
    where = make_folder(tmp_path, 4, (200, 300))
    out = prepare(make_spec(tile_px=64), tmp_path / "a.h5", root=where).path
    assert out.stat().st_size <= expected(make_spec(tile_px=64), pair_files(make_spec(tile_px=64), where))["bytes"]


def test_an_output_that_is_no_dataset_is_kept(tmp_path: Path) -> None:
    """A file that segue did not make is not overwritten; a folder that cannot be is named."""
    where = make_folder(tmp_path)
    (tmp_path / "thesis.h5").write_text("precious")
    with pytest.raises(
        SegueError, match=r"thesis.h5: exists and is not a complete segue dataset; remove it, or give another"
    ):
        prepare(make_spec(), tmp_path / "thesis.h5", root=where)
    assert (tmp_path / "thesis.h5").read_text() == "precious"
    with pytest.raises(SegueError, match="cannot be written"):
        prepare(make_spec(), tmp_path / "thesis.h5" / "a.h5", root=where)


@pytest.mark.parametrize(("name", "tiles"), [("nuclei-dsb2018", 163), ("nuclei-bbbc039", 261)])
def test_the_shipped_studies_can_be_planned(name: str, tiles: int) -> None:
    """The shipped nuclei specifications find their files and give the tiles counted by hand.

    91 images of 256² and 18 of 360² in four tiles each; 29 fields of 520 × 696 in three by three.
    """
    spec = load(PrepareSpec, STUDIES / f"{name}.toml")
    assert expected(spec, pair_files(spec, STUDIES))["tiles"] == tiles


@pytest.mark.slow
def test_the_shipped_nuclei_become_a_dataset(tmp_path: Path) -> None:
    """The shipped fields can be prepared; instances survive the cutting."""
    spec = load(PrepareSpec, STUDIES / "nuclei-bbbc039.toml")
    with Dataset(prepare(spec, tmp_path / "a.h5", root=STUDIES).path) as data:
        assert (data.count, data.tile_shape, data.dtype) == (261, (1, 256, 256), np.uint16)
        whole = [data.micrograph(source).labels["nuclei"] for source in data.micrograph_ids()]
        assert sum(len(np.unique(labels)) - 1 for labels in whole) == 3019
