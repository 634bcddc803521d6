"""What a dataset holds is told in text and shown on a sheet."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from samples.datasets import LAYERS, make_dataset, make_parts

from segue.data.dataset import Dataset
from segue.data.summary import class_colors, colored, contact_sheet, describe, spread
from segue.errors import SegueError
from segue.fingerprint import hash_dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_dataset(tmp_path, make_parts())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a sentence " * 20, "a sentence " * 20),
        ({"defocus_nm": -10}, '{"defocus_nm": -10}'),
        (
            {"name": "cdse", "wave": {"field_nm": 12.8, "note": "x" * 100}, "seed": 1},
            "cdse, 4 settings (wave), in the attribute provenance",
        ),
        ({"a": "x" * 100}, "1 setting, in the attribute provenance"),
        ([0] * 100, "100 entries, in the attribute provenance"),
    ],
)
def test_long_tables_of_the_provenance_are_counted(path: Path, value: object, text: str) -> None:
    """What a person reads is the name and the size of a long table; short ones and sentences stand as they are."""
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = json.dumps({"spec": value})
    lines = [line.strip() for line in describe(path).splitlines()]
    assert [line.removeprefix("spec").strip() for line in lines if line.startswith("spec ")] == [text.strip()]


@pytest.mark.parametrize("text", ["[" * 30_000, '{"a":' * 900 + "1" + "}" * 900, "a sentence", "[1]"])
def test_provenance_that_is_no_table_stands_as_it_is(path: Path, text: str) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = text
    lines = [line.strip() for line in describe(path).splitlines()]
    assert [line.split()[-1] for line in lines if line.startswith(("provenance", "a "))][-1] in (text, text.split()[-1])


def test_everything_is_told(path: Path) -> None:
    """Tiles, layers with fractions, groups, conditions, splits, provenance and digest stand in the text."""
    text = describe(path)
    with Dataset(path) as data:
        counts = data.class_counts("cells").sum(axis=0)
        share = f"live {counts[1] / counts.sum():.2%}"
        test = int((data.split_codes("default") == 2).sum())
    output = ["13 of 16 × 16 px, 1 × uint16", share, "instances of nucleus", "-10 (6), 0 (4), 10 (3)", "cy5", "0.02 nm"]
    for expected in [*output, "origin            made", f"test {test} tiles", "seed 3", hash_dataset(path)]:
        assert expected in text


def test_times_that_are_not_known(path: Path) -> None:
    """Missing numbers are counted as not known, alone or beside others; more micrographs may be kept than cut up."""
    with h5py.File(path, "r+") as file:
        count, columns = len(file["samples/group"]), file["samples"]
        columns["time_h"] = np.full(count, np.nan)
        columns["dose"] = np.where(np.arange(count) < 3, np.nan, 2.0)
        columns["focus_drawn"] = np.full(count, np.nan)
        file.copy(file["micrographs/a"], file["micrographs"], "unlabelled")
    with Dataset(path) as data:
        cut, selection = set(data.samples()["source"]), set(data.micrograph_ids())
    words = {line.split()[0]: line.split(maxsplit=1)[1] for line in describe(path).splitlines()[1:]}
    assert words["time_h"] == words["focus_drawn"] == "unknown"
    assert words["dose"] == f"2 ({count - 3}), unknown (3)"
    assert words["micrographs"] == f"{len(cut | selection)}: {len(cut)} cut into tiles, {len(selection)} kept whole"


def test_the_sheet_is_a_picture(path: Path, tmp_path: Path) -> None:
    """A sheet is written whole for either layer; an unknown layer and a bad place are refused."""
    for layer in (None, "nuclei"):
        contact_sheet(path, tmp_path / "sheets" / "a.png", count=5, layer=layer)
        with Image.open(tmp_path / "sheets" / "a.png") as sheet:
            assert min(sheet.size) > 400
    with pytest.raises(SegueError, match="unknown label layer 'nucleii'; did you mean 'nuclei'"):
        contact_sheet(path, tmp_path / "b.png", layer="nucleii")
    with pytest.raises(SegueError, match="cannot be written"):
        contact_sheet(path, path / "b.png")
    for name in ("b.jpg", "b"):
        with pytest.raises(
            SegueError, match=f"{name}: a contact sheet is a PNG picture; give a name that ends in .png"
        ):
            contact_sheet(path, tmp_path / name)
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize("group_too", [False, True])
def test_a_dataset_without_layers(path: Path, tmp_path: Path, group_too: bool) -> None:
    """Without label layers the contents are told and the sheet shows the images alone."""
    with h5py.File(path, "r+") as file:
        for group in ["tiles/labels", "tiles/class_counts", *(f"micrographs/{n}/labels" for n in file["micrographs"])]:
            del file[group]
        if not group_too:
            file.create_group("tiles/labels")
    assert "  layer " not in describe(path)
    contact_sheet(path, tmp_path / "a.png", count=5)
    assert (tmp_path / "a.png").is_file()
    with Dataset(path) as data:
        assert data.micrograph("a").labels == {}


def test_tiles_are_spread_over_conditions(path: Path) -> None:
    """A few tiles cover every value of the conditions."""
    with Dataset(path) as data:
        chosen = spread(data.samples(), 6)
        assert len(set(chosen)) == 6
        assert set(data.samples()["defocus_nm"][chosen]) == {-10.0, 0.0, 10.0}
        assert len(spread(data.samples(), 99)) == data.count


def test_outlines_follow_labels() -> None:
    """A label's border has its class's colour, padding is grey, and background keeps its grey value."""
    image, labels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16), np.zeros((16, 16), np.int32)
    labels[4:8, 4:8], labels[12:] = 2, -1
    picture = colored(image, labels, LAYERS[0], np.array([0, 0, 12, 16]), 1)
    assert tuple(picture[4, 5]) == class_colors(LAYERS[0].names)[2]
    assert len(set(picture[2, 2])) == 1
    assert (picture[12:] == 238).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_number_are_black(bad: float) -> None:
    """NaN and infinity are drawn black, without a warning, and do not change how the others are stretched."""
    image, labels = np.arange(256, dtype=np.float32).reshape(1, 16, 16), np.zeros((16, 16), np.int32)
    box = np.array([0, 0, 16, 16])
    whole = colored(image, labels, LAYERS[0], box, 1)
    image[0, 7, 7] = bad
    picture = colored(image, labels, LAYERS[0], box, 1)
    assert (picture[7, 7] == 0).all()
    assert np.abs(np.delete(picture.astype(int) - whole, 7, axis=0)).max() <= 1
    assert not colored(np.full_like(image, bad), labels, LAYERS[0], box, 1).any()
