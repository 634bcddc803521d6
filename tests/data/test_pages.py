"""Time series, focal series, colors and channel names in `prepare`: by explicit choice, each image once and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segue.data.dataset import Dataset
from segue.data.folders.pairing import pair_files
from segue.data.prepare import expected, prepare
from segue.data.spec import PrepareSpec
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)
LABELS = {"files": "labels/{stem}.tif", "kind": "instances", "names": ["background", "cell"]}


def make_spec(**changes: Any) -> PrepareSpec:
    return PrepareSpec.model_validate(
        {"name": "x", "images": "images/*.tif", "tile_px": 16, "labels": LABELS, **changes}
    )


def pictures(count: int) -> np.ndarray:
    return RANDOM.integers(0, 4000, (count, 16, 16)).astype(np.uint16)


def numbered() -> np.ndarray:
    """Two objects of a size that no check of labels minds."""
    labels = np.zeros((16, 16), np.uint16)
    labels[1:6, 1:6], labels[9:14, 8:14] = 1, 2
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(("pages", "letter"), [("time", "t"), ("z", "z")])
def test_each_page_is_an_image(folder: Path, pages: str, letter: str) -> None:
    """A series becomes as many micrographs of one group, with labels page by page; without the choice it is asked."""
    series, labels = pictures(3), np.stack([np.roll(numbered(), step, 0) for step in range(3)])
    for number in range(2):
        tifffile.imwrite(folder / f"images/s{number}.tif", series + number, photometric="minisblack", metadata=None)
        tifffile.imwrite(folder / f"labels/s{number}.tif", labels, photometric="minisblack", metadata=None)
    with pytest.raises(
        SegueError, match=r"s0.tif: holds 3 pages and does not say what they are; set pages = \"channels\""
    ):
        prepare(make_spec(), folder / "a.h5", root=folder)
    spec = make_spec(pages=pages)
    assert expected(spec, pair_files(spec, folder))["micrographs"] == 6
    with Dataset(prepare(spec, folder / "b.h5", root=folder).path) as data:
        samples = data.samples()
        assert list(samples["source"]) == [f"s{i}.tif/{letter}{k:03d}" for i in range(2) for k in range(3)]
        assert sorted(set(samples["group"])) == ["s0", "s1"]
        images, numbers = data.read(np.arange(6), layer="labels")
        np.testing.assert_array_equal(images[:, 0], np.concatenate([series, series + 1]))
        np.testing.assert_array_equal(numbers, np.concatenate([labels, labels]))
    tifffile.imwrite(folder / "labels/s1.tif", labels[:2], photometric="minisblack", metadata=None)
    with pytest.raises(SegueError, match=r"s1.tif: holds 2 page.s. of labels, but its image has 3"):
        prepare(spec, folder / "c.h5", root=folder)


@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_color_by_choice(folder: Path, color: str) -> None:
    """Color images are three channels or their luma; without the choice they are asked about."""
    picture = RANDOM.integers(0, 200, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "images/a.png")
    tifffile.imwrite(folder / "labels/a.tif", numbered())
    with pytest.raises(
        SegueError, match=r'a.png: is a color image, whose red, green and blue differ; set color = "rgb"'
    ):
        prepare(make_spec(images="images/*.png"), folder / "a.h5", root=folder)
    spec = make_spec(images="images/*.png", color=color)
    with Dataset(prepare(spec, folder / "b.h5", root=folder).path) as data:
        tiles, _ = data.read(np.array([0]), layer=None)
        assert data.channels == (("red", "green", "blue") if color == "rgb" else ("intensity",))
    expected_pixels = np.moveaxis(picture, -1, 0) if color == "rgb" else (picture @ [299, 587, 114] + 500)[None] // 1000
    np.testing.assert_array_equal(tiles[0], expected_pixels)


def write_named(folder: Path, name: str, pixels: np.ndarray, names: list[str] | None) -> None:
    channel = {} if names is None else {"Channel": {"Name": names}}
    options: dict[str, Any] = {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX", **channel}}
    tifffile.imwrite(folder / f"images/{name}.ome.tif", pixels, **options)
    tifffile.imwrite(folder / f"labels/{name}.ome.tif", numbered())


@pytest.mark.parametrize("channels", [None, ["GFP", "DAPI"]])
def test_channels_by_name(folder: Path, channels: list[str] | None) -> None:
    """Channels are put in the specification's order, or the first file's; files without names are told."""
    both = pictures(2)
    write_named(folder, "a", both, ["DAPI", "GFP"])
    write_named(folder, "b", both[::-1] + 1, ["gfp", "dapi"])
    write_named(folder, "c", both + 2, None)
    messages: list[str] = []
    spec = make_spec(images="images/*.ome.tif", channels=channels)
    with Dataset(prepare(spec, folder / "a.h5", root=folder, log=messages.append).path) as data:
        assert data.channels == tuple(channels or ("DAPI", "GFP"))
        tiles, _ = data.read(np.arange(3), layer=None)
    order = slice(None, None, -1) if channels else slice(None)
    np.testing.assert_array_equal(tiles[0], both[order])
    np.testing.assert_array_equal(tiles[1], both[order] + 1)
    np.testing.assert_array_equal(tiles[2], both + 2)
    assert any("states no names of channels" in message for message in messages) == (channels is None)
    write_named(folder, "b", both, ["DAPI", "RFP"])
    reference = "the specification GFP, DAPI" if channels else "the first image DAPI, GFP"
    with pytest.raises(SegueError, match=rf"b.ome.tif: its channels are named DAPI, RFP, those of {reference}"):
        prepare(spec, folder / "b.h5", root=folder)


def test_names_of_later_files(folder: Path) -> None:
    """If the first file has no names and the others disagree, no order is taken for granted."""
    both = pictures(2)
    write_named(folder, "a", both, None)
    write_named(folder, "b", both + 1, ["DAPI", "GFP"])
    write_named(folder, "c", both + 2, ["GFP", "DAPI"])
    with pytest.raises(SegueError, match=r"c.ome.tif: its channels are named GFP, DAPI, .*; set `channels`"):
        prepare(make_spec(images="images/*.ome.tif"), folder / "a.h5", root=folder)


def test_masks_that_are_white_where_zero(folder: Path) -> None:
    """Images with WhiteIsZero are those that viewers show; one-bit masks follow their image, and that is told."""
    mask = numbered() > 0
    picture = (pictures(1)[0] % 50 + 150 * mask).astype(np.uint8)
    tifffile.imwrite(folder / "images/black.tif", picture)
    tifffile.imwrite(folder / "labels/black.tif", mask)
    tifffile.imwrite(folder / "images/white.tif", 254 - picture, photometric="miniswhite")
    tifffile.imwrite(folder / "labels/white.tif", ~mask, photometric="miniswhite")
    messages: list[str] = []
    spec = make_spec(labels={**LABELS, "kind": "classes"})
    with Dataset(prepare(spec, folder / "a.h5", root=folder, log=messages.append).path) as data:
        tiles, labels = data.read(np.arange(2), layer="labels")
    np.testing.assert_array_equal(tiles[1], tiles[0] + 1)
    np.testing.assert_array_equal(labels, np.stack([mask, mask]))
    assert sum("one-bit mask marked WhiteIsZero" in message for message in messages) == 2


def test_contradicted_pixel_size(folder: Path) -> None:
    """A file's size against the specification's is refused with both; a table corrects a file, and that is told."""
    tifffile.imwrite(folder / "images/a.tif", pictures(1)[0], imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    tifffile.imwrite(folder / "labels/a.tif", numbered())
    with pytest.raises(SegueError, match=r"a.tif: its metadata say 500 nm per pixel, the spec says 300"):
        prepare(make_spec(pixel_size_nm=300), folder / "a.h5", root=folder)
    (folder / "table.csv").write_text("image,label,pixel_size_nm\nimages/a.tif,labels/a.tif,300\n")
    messages: list[str] = []
    spec = make_spec(images=None, manifest="table.csv", labels={**LABELS, "files": None})
    with Dataset(prepare(spec, folder / "b.h5", root=folder, log=messages.append).path) as data:
        assert data.samples()["pixel_size_nm"][0] == 300
    assert any("another pixel size than the table" in message for message in messages)
