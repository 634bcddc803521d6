"""The layout of a plate: what lies where by names and tables, and what is missing, duplicate or inconsistent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from segue.errors import SegueError, SpecError
from segue.plates.layout.discovery import (
    Layout,
    WellTiles,
    describe,
    find_layout,
    hash_layout,
    hash_wells,
    read_plane,
)
from segue.plates.layout.filenames import read_times
from segue.plates.layout.grid import Plane, field_index, natural_key, well_name
from segue.plates.spec import FilesSpec
from segue.plates.synthetic.spec import FaultsSpec, StageSpec, SyntheticSpec
from segue.plates.synthetic.spec import well_name as made_well_name
from segue.plates.synthetic.write import PATTERN, sample_faults, write_plates
from segue.spec import validate

NAMES = "{plate}/{well}/t{time}_r{row}_c{column}_{channel}.tif"
SPEC = FilesSpec(pattern=NAMES, channels={"brightfield": "bf", "dapi": "w1"})
SHAPE = (6, 8)


def tile(*numbers: int) -> np.ndarray:
    return np.full(SHAPE, np.ravel_multi_index(numbers, (4,) * len(numbers)), np.uint16)


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image)
    return path


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """Two wells, A1 stained and A2 not, two times, 2 × 2 fields; a tile's value tells well, time, row and column."""
    for w, well in enumerate(("A1", "A2")):
        for t in range(2):
            for r in range(2):
                for c in range(2):
                    for channel in ("bf", "w1") if well == "A1" else ("bf",):
                        names = {"plate": "P", "well": well, "time": t, "row": r, "column": c}
                        write(tmp_path / NAMES.format(**names, channel=channel), tile(w, t, r, c))
    return tmp_path


def enlarge(screen: Path) -> None:
    """Makes the tiles 60 × 80, so large that pixels, not metadata, make the size of a file."""
    for path in screen.rglob("*.tif"):
        write(path, np.kron(tifffile.imread(path), np.ones((10, 10), np.uint16)))


def told(action: Callable[[], object]) -> str:
    with pytest.raises(SegueError) as caught:
        action()
    return str(caught.value)


def test_made_plate_is_found_with_its_gaps(tmp_path: Path):
    """Of a made plate every tile is found in its place, and exactly the tiles that were left out are told."""
    made = SyntheticSpec(
        plates=1, wells=2, stained_wells=1, times=2, faults=FaultsSpec(missing_tiles=3, dead_fields=0),
        stage=StageSpec(rows=2, columns=2, tile_px=64, overlap=0.25, jitter_px=4),
    )  # fmt: skip
    written = write_plates(made, tmp_path / "made")
    layout = find_layout(FilesSpec(pattern=PATTERN, wells="plates.csv", interval_h=4), tmp_path / "made")
    assert sum(len(well.planes) for well in layout.wells) == written.files
    assert (layout.grid, layout.tile_shape, layout.dtype) == ((2, 2), (64, 64), "uint16")
    assert (layout.pixel_size_um, layout.times_h) == (0.8, {0: 0, 1: 4})
    gone = {
        (f"P1/{made_well_name(well)}", time, divmod(field, 2)) for well, time, field in sample_faults(made, plate=0)
    }
    assert {one.partition(" is missing")[0] for one in layout.missing} == {
        f"{key} t{time}: field {cell}" for key, time, cell in gone
    }
    for well in layout.wells:
        assert set(well.conditions) == {"treatment"}
        for time in layout.times:
            tiles = WellTiles(layout, well, time, "brightfield")
            assert {cell for cell in tiles if tiles[cell] is None} == {
                cell for key, at, cell in gone if (key, at) == (well.key, time)
            }


def test_tiles_are_read_where_they_belong(screen: Path):
    """Each tile's value is that of its well, time and cell; several channels are stacked, and missing ones are None."""
    (screen / "P/A1/t1_r0_c1_w1.tif").unlink()
    layout = find_layout(SPEC, screen)
    for w, well in enumerate(layout.wells):
        for t in layout.times:
            tiles = WellTiles(layout, well, t, "brightfield")
            assert len(tiles) == 4 and (2, 0) not in tiles and tiles.get((2, 0)) is None
            for (r, c), image in tiles.items():
                assert image is not None and np.array_equal(image, tile(w, t, r, c))
    both = WellTiles(layout, layout.wells[0], 1, ["brightfield", "dapi"])
    assert both[0, 1] is None
    stacked = both[1, 0]
    assert stacked is not None and np.array_equal(stacked, np.stack([tile(0, 1, 1, 0)] * 2))
    assert layout.missing == ("P/A1 t1: field (0, 1) is missing in dapi",)


def test_stained_wells_without_a_table_have_every_channel(screen: Path):
    """Without a table A1, which has every channel, is stained; its experiment is the plate; nothing is missing."""
    layout = find_layout(SPEC, screen)
    assert [(well.key, well.stained, well.experiment) for well in layout.wells] == [
        ("P/A1", True, "P"), ("P/A2", False, "P")
    ]  # fmt: skip
    assert layout.channels == ("brightfield", "dapi")
    assert layout.missing == layout.duplicates == layout.unmatched == ()
    alone = find_layout(SPEC.model_copy(update={"only_wells": ("A02",)}), screen)
    assert [(well.key, well.stained) for well in alone.wells] == [("P/A2", False)]


def test_table_of_wells(screen: Path):
    """The table says which wells are used, stained, of which experiment, and their conditions, typed by column."""
    table = screen / "plates.csv"
    table.write_text(
        "plate,well,stained,experiment,dose,drug\nP,a01,yes,E1,0.5,none\nP,A3,0,E2,1,x\n", encoding="utf-8"
    )
    layout = find_layout(SPEC.model_copy(update={"wells": "plates.csv"}), screen)
    (well,) = layout.wells
    assert (well.key, well.stained, well.experiment) == ("P/A1", True, "E1")
    assert well.conditions == {"dose": 0.5, "drug": "none"}
    assert layout.missing == ("P/A3 is in plates.csv, but has no files",)
    assert layout.unmatched == ("P/A2: files of wells without a row in plates.csv, left out",)
    for text, words in (
        ("plate,well,stained\nP,A1,maybe\n", "line 2: stained is 'maybe'"),
        ("plate,well\nP,A1\nP,A01\n", "line 3: the well 'P/A1' occurs twice"),
        ("plate,well,time_h\nP,A1,3\n", "the column 'time_h' cannot be a condition"),
        ("plate,well,dose\nP,A1,\n", "line 2: 'dose' is empty"),
        ("plate,well,experiment\nP,A1,E1\nP,A2,\n", "column 'experiment' is empty in line 3 (1 in all); fill it in"),
        ("plate,well,experiment\nP,A1\nP,A2,E1\n", "column 'experiment' is empty in line 2 (1 in all); fill it in"),
        ("plate,well,experiment\nP,A1,1-Jan\nP,A2,E1\n", "column 'experiment': '1-Jan' is a date among other text"),
        ("plate,well\nP,A1\n,A2\n", "column 'plate' is empty in line 3 (1 in all); fill it in"),
        ("plate,stained\nP,1\n", "needs rows, and the columns well; found 1 rows and the columns plate, stained"),
        ("plate,well\nQ,B2\n", "none of the wells found (P/A1, P/A2) is one of those requested (Q/B2)"),
    ):
        table.write_text(text, encoding="utf-8")
        assert words in told(lambda: find_layout(SPEC.model_copy(update={"wells": "plates.csv"}), screen))


def test_tables_of_wells_keep_their_text(screen: Path):
    """Batches, wells called 1E5, columns in capitals: as written; what became a date or lost cells is refused."""
    table = screen / "plates.csv"
    spec = SPEC.model_copy(update={"wells": "plates.csv"})
    table.write_text("WELL;Stained;batch;dose\nA1;1;1_1;0.50\nA2;0;11;1\n", encoding="utf-8")
    layout = find_layout(spec, screen)
    assert [well.conditions for well in layout.wells] == [
        {"batch": "1_1", "dose": "0.50"},
        {"batch": "11", "dose": "1"},
    ]
    assert [well.stained for well in layout.wells] == [True, False]
    assert any("column 'dose' is text throughout, since line 2 has '0.50'" in note for note in layout.notes)
    table.write_text("plate,well\nP,A1\nP,1E5\n", encoding="utf-8")
    assert find_layout(spec, screen).missing == ("P/1E5 is in plates.csv, but has no files",)
    for text, words in (
        ("well\nA1\n1-Jan\n", "line 3: well is '1-Jan', a date that a spreadsheet may have made of a name"),
        ("well\n1.00E+05\n", "line 2: well is '1.00E+05', a number that a spreadsheet may have made"),
        ("well,dose\nA1,0,5\n", "line 2: 3 cells under 2 columns"),
        ("well;dose\nA1;0,5\nA2;1\n", "line 2, column 'dose': '0,5' has a decimal comma"),
        ("well,dose,dose\nA1,1,2\n", "both called 'dose'"),
        ("well,a/b\nA1,1\n", "the column 'a/b' cannot be stored by that name"),
    ):
        table.write_text(text, encoding="utf-8")
        assert words in told(lambda: find_layout(spec, screen))


def test_a_path_with_several_readings(tmp_path: Path):
    """The reading with a usual well is taken; where none is, the path is refused with both."""
    write(tmp_path / "exp_1_A1_w1.TIF", tile(0))
    spec = FilesSpec(pattern="{plate}_{well}_{channel}.tif", channels={"brightfield": "w1"})
    assert [well.key for well in find_layout(spec, tmp_path).wells] == ["exp_1/A1"]
    write(tmp_path / "a_b_c_w1.tif", tile(0))
    assert "a_b_c_w1.tif: matches the pattern in several ways (plate is 'a' or 'a_b')" in told(
        lambda: find_layout(spec, tmp_path)
    )


def test_what_is_missing_is_told_from_the_largest_gap(screen: Path):
    """A time, a channel, a channel at a time, a tile: each is told once, at the level at which it is missing."""
    for path in [*screen.glob("P/A2/t1_*"), *screen.glob("P/A1/t0_*_w1.tif"), screen / "P/A1/t1_r0_c0_bf.tif"]:
        path.unlink()
    (screen / "plates.csv").write_text("well,stained\nA1,1\nA2,1\n", encoding="utf-8")
    layout = find_layout(SPEC.model_copy(update={"wells": "plates.csv"}), screen)
    assert layout.missing == (
        "P/A1 t0 has no files of dapi",
        "P/A1 t1: field (0, 0) is missing in brightfield",
        "P/A2 has no files of dapi",
        "P/A2 has no files at time 1",
    )
    words = describe(layout)
    assert all(one in words for one in layout.missing)
    assert "plate P     2 wells, 2 stained (A1, A2); experiment P" in words
    assert "6 × 8 px, uint16, pixel size unknown" in words


def test_doubled_files_are_refused(screen: Path):
    """A1 and A01 are one well: its second file is named with the first, and describe shows it without refusing."""
    write(screen / "P/A01/t0_r0_c0_bf.tif", tile(0, 0, 0, 0))
    words = "P/A1 t0: field (0, 0) occurs 2 times in brightfield: P/A01/t0_r0_c0_bf.tif, P/A1/t0_r0_c0_bf.tif"
    assert told(lambda: find_layout(SPEC, screen)) == f"{words}; keep one."
    assert f"duplicates  {words}" in describe(find_layout(SPEC, screen, strict=False))


def test_files_that_fit_no_pattern_are_told(screen: Path):
    """Other TIFFs are told and left out, other and hidden files are not looked at; a pattern that fits none stops."""
    write(screen / "P/A1/thumb.tif", tile(0))
    write(screen / "P/A1/.hidden.tif", tile(0))
    (screen / "P/notes.txt").write_text("x")
    assert find_layout(SPEC, screen).unmatched == ("P/A1/thumb.tif does not match the pattern",)
    message = told(lambda: find_layout(FilesSpec(pattern="P/{well}_{channel}.tif"), screen))
    assert "pattern = 'P/{well}_{channel}.tif' matches no file; there is e.g. P/A1/t0_r0_c0_bf.tif below" in message
    assert "no such folder" in told(lambda: find_layout(FilesSpec(pattern="raw/{well}.tif"), screen))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((60, 90), np.uint16), "t1_r1_c1_bf.tif: is 60 × 90 px, others are 60 × 80"),
        (np.zeros((60, 80), np.uint8), "t1_r1_c1_bf.tif: holds uint8, others hold uint16"),
        (np.zeros((5, 60, 80), np.uint16), "t1_r1_c1_bf.tif: holds 5 pages or colors"),
    ],
)
def test_other_shapes_and_types_are_refused(screen: Path, image: np.ndarray, words: str):
    """One file of another size among the small ones is found although its header is not the first of its well."""
    enlarge(screen)
    write(screen / "P/A2/t1_r1_c1_bf.tif", image)
    assert words in told(lambda: find_layout(SPEC, screen))


def test_empty_and_cut_files_are_refused(screen: Path):
    """An empty file and one that was cut off are named."""
    enlarge(screen)
    (screen / "P/A1/t0_r0_c1_bf.tif").write_bytes(b"")
    cut = screen / "P/A2/t0_r0_c1_bf.tif"
    cut.write_bytes(cut.read_bytes()[:-400])
    message = told(lambda: find_layout(SPEC, screen))
    assert "t0_r0_c1_bf.tif: is empty; copy it again, or delete it." in message
    assert f"{cut}: is cut off, " in message
    assert str(cut) in told(lambda: read_plane(Plane(cut)))


def test_channels_must_be_known(screen: Path):
    """Tokens without an entry, entries without a token and a lacking transmitted channel are told with what is."""
    only = SPEC.model_copy(update={"channels": {"brightfield": "bf"}})
    assert "the channel 'w1' is in no entry of channels; found: bf, w1" in told(lambda: find_layout(only, screen))
    assert find_layout(only.model_copy(update={"ignore_channels": ("w1",)}), screen).channels == ("brightfield",)
    more = SPEC.model_copy(update={"channels": {**SPEC.channels, "cy5": "w2"}})
    assert told(lambda: find_layout(more, screen)).startswith("files: there is no channel 'w2'; found: bf, w1")
    none = SPEC.model_copy(update={"channels": {}})
    assert "no transmitted-light channel 'brightfield'; found: bf, w1" in told(lambda: find_layout(none, screen))
    assert find_layout(none, screen, transmitted="bf").channels == ("bf", "w1")


def test_wrong_channels_are_told_once(screen: Path):
    """A map of other tokens, or another transmitted channel, is one mistake; nothing is called missing for it."""
    wrong = SPEC.model_copy(update={"channels": {"brightfield": "c1", "dapi": "c2"}})
    words = describe(find_layout(wrong, screen, strict=False))
    assert words.count("problems") == 1 and words.count("\nmissing") == 1 and "missing     none" in words
    message = told(lambda: find_layout(wrong, screen))
    assert message.startswith("files: no image has the channels 'c1', 'c2', and channels 'bf', 'w1' is in no entry")
    other = find_layout(SPEC, screen, transmitted="phase", strict=False)
    assert len(other.errors) == 1 and not other.missing


def test_times_and_selections(screen: Path):
    """Hours come from the interval or a table; a selection keeps grid and places; unknown wells and times are told."""
    (screen / "times.csv").write_text("time,time_h\n0,0.5\n1,3\n", encoding="utf-8")
    assert find_layout(SPEC.model_copy(update={"times": "times.csv"}), screen).times_h == {0: 0.5, 1: 3}
    part = find_layout(SPEC.model_copy(update={"only_times": (1,), "only_wells": ("P/A2",)}), screen)
    whole = find_layout(SPEC, screen)
    assert (part.times, part.grid, part.channels) == ((1,), whole.grid, whole.channels)
    assert part.wells[0].planes == {at: one for at, one in whole.wells[1].planes.items() if at[0] == 1}
    for update, words in (
        ({"only_wells": ("B7",)}, "only_wells: unknown well 'B7'"),
        ({"only_times": (5,)}, "only_times has 5; found: the times 0, 1"),
    ):
        assert words in told(lambda update=update: find_layout(SPEC.model_copy(update=update), screen))


@pytest.mark.parametrize(
    ("order", "numbers"),
    [
        ("rows", [[0, 1, 2], [3, 4, 5]]),
        ("columns", [[0, 2, 4], [1, 3, 5]]),
        ("snake-rows", [[0, 1, 2], [5, 4, 3]]),
        ("snake-columns", [[0, 3, 4], [1, 2, 5]]),
    ],
)
def test_field_orders(tmp_path: Path, order, numbers: list[list[int]]):
    """Running numbers lie as drawn here, counted from 0 or, where the first is 1, from 1."""
    assert [[field_index(n, (2, 3), order) for n in row] for row in numbers] == [
        [(r, c) for c in range(3)] for r in range(2)
    ]
    for number in range(6):
        write(tmp_path / f"B02_s{number + 1}.tif", tile(number // 4, number % 4))
    spec = FilesSpec(pattern="{well}_s{field}.tif", grid=(2, 3), field_order=order)
    layout = find_layout(spec, tmp_path)
    assert layout.wells[0].key == "P1/B2"
    assert layout.channels == ("brightfield",) and not layout.wells[0].stained
    assert "fields are counted from 1" in layout.notes
    for (r, c), image in WellTiles(layout, layout.wells[0], 0, "brightfield").items():
        assert image is not None and image[0, 0] == numbers[r][c]
    assert "outside the grid of 1 × 3" in told(lambda: find_layout(spec.model_copy(update={"grid": (1, 3)}), tmp_path))


def test_manifest(screen: Path):
    """A manifest of names that say nothing gives the same layout as the pattern; its mistakes are told by line."""
    whole = find_layout(SPEC, screen)
    lines = ["plate,well,time,row,column,channel,path"]
    lines += [
        f"P,{well.name},{t},{r},{c},{channel},{plane.path.relative_to(screen)}"
        for well in whole.wells
        for (t, channel, (r, c)), plane in well.planes.items()
    ]
    table = screen / "files.csv"
    table.write_text("\n".join([*lines, "P,A2,1,1,1,brightfield,gone.tif"]), encoding="utf-8")
    spec = FilesSpec(format="manifest", manifest="files.csv")
    layout = find_layout(spec, screen)
    assert layout.wells == whole.wells
    assert layout.missing == (f"files.csv: line {len(lines) + 1}: there is no file gone.tif",)
    table.write_text("\n".join([*lines, "P,A2,one,1,1,brightfield,x.tif", "P,A2,1,1,1,,x.tif"]), encoding="utf-8")
    message = told(lambda: find_layout(spec, screen))
    assert f"line {len(lines) + 1}: time is 'one'; give a whole number" in message
    assert f"line {len(lines) + 2}: a cell is empty, channel" in message
    table.write_text("\n".join([*lines, ",A2,1,1,1,brightfield,x.tif"]), encoding="utf-8")
    assert f"column 'plate' is empty in line {len(lines) + 1} (1 in all)" in told(lambda: find_layout(spec, screen))
    table.write_text("well,path\nA1,x\n", encoding="utf-8")
    assert "needs rows, and the columns well, channel, path" in told(lambda: find_layout(spec, screen))


def test_digest_is_of_contents_not_of_names(screen: Path, tmp_path_factory: pytest.TempPathFactory):
    """Moving and renaming files changes nothing; a pixel of one well changes that well's digest and the whole."""
    other = tmp_path_factory.mktemp("moved")
    shutil.copytree(screen, other / "deep")
    first = find_layout(SPEC, screen)
    moved = find_layout(SPEC.model_copy(update={"pattern": f"deep/{NAMES}"}), other)
    assert hash_layout(first) == hash_layout(moved)
    before = hash_wells(first)
    write(screen / "P/A2/t0_r0_c0_bf.tif", tile(3, 3))
    after = hash_wells(find_layout(SPEC, screen))
    assert {key for key in before if before[key] != after[key]} == {"P/A2"}
    assert hash_layout(first) != hash_layout(moved)


def test_a_tile_that_changed_is_named(screen: Path):
    """A file that is replaced by one of another shape after the layout was made is named when it is read."""
    layout = find_layout(SPEC, screen)
    write(screen / "P/A1/t0_r0_c0_bf.tif", np.zeros((3, 3), np.uint16))
    message = told(lambda: WellTiles(layout, layout.wells[0], 0, "brightfield")[0, 0])
    assert "t0_r0_c0_bf.tif: is (3, 3) uint16, other tiles are (6, 8) uint16" in message


def test_names_sort_as_people_count():
    """A2 comes before A10, P2 before P10, Z before AA; leading zeros and case of a well do not matter."""
    wells = ["A1", "A2", "A10", "B1", "Z3", "AA1"]
    assert sorted(set(wells), key=natural_key) == wells
    assert sorted(["P10", "P2"], key=natural_key) == ["P2", "P10"]
    assert [well_name(text) for text in ("A01", "b2", "A10", "well 3")] == ["A1", "B2", "A10", "well 3"]


def test_wells_as_microscopes_write_them():
    """Opera's rows and columns, a dash or an underscore; what only looks so stays as it is."""
    written = {
        "r02c03": "B3",
        "R16C24": "P24",
        "r27c01": "AA1",
        "r32c48": "AF48",
        "B-03": "B3",
        "b_3": "B3",
        "AF48": "AF48",
    }
    assert {text: well_name(text) for text in written} == written
    assert [well_name(text) for text in ("r00c01", "r1c0", "r999c1", "B--3", "B 3")] == [
        "r00c01",
        "r1c0",
        "r999c1",
        "B--3",
        "B 3",
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{well}f{field}p01-ch{channel}sk{time}fk1fl1.tiff", "r02c03f{f:02d}p01-ch1sk1fk1fl1.tiff"),
        ("{plate}_{well}_s{field}_w{channel}.tif", "P1_B03_s{f}_w1.TIF"),
        ("{well}/s{field}_w{channel}.tif", "B-03/s{f}_w1.tif"),
    ],
)
def test_names_of_screening_microscopes(tmp_path: Path, pattern: str, names: str):
    """Opera and Operetta (Harmony), MetaXpress and folders per well: four fields of the well B3."""
    for f in range(1, 5):
        write(tmp_path / names.format(f=f), np.zeros((4, 4), np.uint16))
    spec = FilesSpec(pattern=pattern, channels={"brightfield": "1"}, grid=(2, 2))
    layout = find_layout(spec, tmp_path)
    assert [well.key for well in layout.wells] == ["P1/B3"]
    assert sorted(index for _, _, index in layout.wells[0].planes) == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "needs a pattern"),
        ({"pattern": "{wel}.tif"}, "did you mean 'well'"),
        ({"pattern": "{well.tif"}, "cannot be read"),
        ({"pattern": "a.tif"}, r"has no \{well\}"),
        ({"pattern": "{well}_{row}.tif"}, "give both"),
        ({"pattern": "{well}_{field}.tif"}, "there is no grid"),
        ({"pattern": "{well:03d}.tif"}, "is not a number of digits"),
        ({"pattern": "{well}.tif", "manifest": "a.csv"}, "manifest requires"),
        ({"pattern": "{well}.tif", "interval_h": 1, "times": "t.csv"}, "either interval_h or times"),
        ({"pattern": "{well}.tif", "channels": {"a": "x", "b": "x"}}, "'x' is used twice"),
        ({"pattern": "{well}.zarr", "format": "ome-zarr"}, "metadata of a Zarr plate"),
    ],
)
def test_mistakes_of_the_table_are_told(wrong: dict[str, object], words: str):
    """Settings that cannot be meant are refused with what to do."""
    with pytest.raises(ValidationError, match=words):
        FilesSpec.model_validate(wrong)


def test_mistakes_of_the_table_are_told_at_once():
    """A wrong pattern, a wrong name of a channel and a wrong overlap are told together, each at its key."""
    wrong = {"pattern": "{wel}.tif", "overlap": 1.5, "channels": {"a/b": "x"}}
    with pytest.raises(SpecError) as caught:
        validate(FilesSpec, wrong, context="plate.toml")
    assert sorted(line.split(":")[0].strip() for line in caught.value.mistakes) == ["channels", "overlap", "pattern"]
    assert "overlap: found 1.5; give a number below 1" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("zero,0", "line 2: time is 'zero'; give a whole number"),
        ("0,noon", "line 2, column 'time_h': 'noon' is no number"),
        ("0,1\n0,2", "line 3: time 0 occurs twice"),
        ("0,0,5", "line 2: 3 cells under 2 columns"),
        ("0,1_0", "line 2, column 'time_h': '1_0' is no number"),
        ("0,nan", "line 2, column 'time_h': 'nan' is no number"),
        ("٣,1", "line 2: time is '٣'; give a whole number"),
        ("1.0,1", "line 2: time is '1.0'; give a whole number"),
        ('0,"0,5"', "line 2, column 'time_h': '0,5' has a decimal comma; write 0.5"),
        ("0,5\n1,0", "time 1 is at 0 h, time 0 at 5 h; hours must grow with the time index"),
        ("2,4\n0,0\n1,4", "time 2 is at 4 h, time 1 at 4 h; hours must grow"),
    ],
)
def test_mistakes_of_the_table_of_times_are_told(tmp_path: Path, rows: str, words: str):
    """A cell that is no number, and a time that is there twice, are told with their line."""
    (tmp_path / "times.csv").write_text(f"time,time_h\n{rows}\n", encoding="utf-8")
    with pytest.raises(SegueError, match=words):
        read_times(tmp_path / "times.csv")


def test_times_in_any_order_of_rows(tmp_path: Path):
    """Rows may be in any order, and hours begin below 0, as before a treatment."""
    (tmp_path / "times.csv").write_text("time,time_h\n2,3.5\n0,-1\n1,0\n", encoding="utf-8")
    assert read_times(tmp_path / "times.csv") == {0: -1, 1: 0, 2: 3.5}


@pytest.mark.parametrize("size_um", [1e9, 1e-7, 0])
def test_a_pixel_size_of_no_microscope_is_refused(size_um: float):
    """A plate's pixel size has the limits of the files' metadata."""
    with pytest.raises(ValidationError, match="pixel_size_um"):
        FilesSpec.model_validate({"pattern": "{well}.tif", "channels": {"a": "w1"}, "pixel_size_um": size_um})


def test_the_specification_is_light():
    """The modules that planning imports load neither torch nor other heavy libraries."""
    code = (
        "import sys; import segue.plates.spec; "
        "import segue.plates.layout.discovery; "
        "assert not {'torch', 'numba', 'scipy', 'skimage', 'pandas', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layout_is_a_plain_value(screen: Path):
    """Two searches of the same folder give equal layouts."""
    layout: Layout = find_layout(SPEC, screen)
    assert layout == find_layout(SPEC, screen)


def test_pixels_mean_the_same_as_elsewhere(tmp_path: Path) -> None:
    """Whole files and pages of a plate are as a viewer shows them, or refused by name, as by `segue prepare`."""
    image = tile(1, 2, 3, 0)
    tifffile.imwrite(tmp_path / "white.tif", image, photometric="miniswhite")
    for index in ((), (0,)):
        np.testing.assert_array_equal(read_plane(Plane(tmp_path / "white.tif", index)), 65535 - image)
    tifffile.imwrite(tmp_path / "turned.tif", image, extratags=[(274, 3, 1, 3, True)])
    tifffile.imwrite(tmp_path / "color.tif", np.stack([image] * 3, -1), photometric="rgb")
    for index in ((), (0,)):
        assert "has the orientation 3" in told(lambda: read_plane(Plane(tmp_path / "turned.tif", index)))  # noqa: B023
        message = told(lambda: read_plane(Plane(tmp_path / "color.tif", index)))  # noqa: B023
        assert "holds 3 channels" in message or "an array of shape" in message


def test_pixel_sizes_in_any_spelling(tmp_path: Path) -> None:
    """The plate's reader has the same units; pixels that are not square are not known, and told."""
    options = {"imagej": True, "metadata": {"unit": "Micrometres"}}
    write(tmp_path / "A1.tif", tile(0))
    tifffile.imwrite(tmp_path / "A1.tif", tile(0), resolution=(2, 2), **options)
    spec = FilesSpec(pattern="{well}.tif")
    assert find_layout(spec, tmp_path).pixel_size_um == pytest.approx(0.5)
    tifffile.imwrite(tmp_path / "A1.tif", tile(0), resolution=(2, 4), **options)
    layout = find_layout(spec, tmp_path)
    assert layout.pixel_size_um is None
    assert any("which are not square" in note for note in layout.notes)
