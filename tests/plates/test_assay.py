"""From raw tiles to a dataset: what is in it, that it is the same however it was made, and what is refused."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from segue.api import plate_summary
from segue.cli import describe, main
from segue.data.dataset import Dataset
from segue.data.spec import SplitSpec
from segue.errors import SegueError
from segue.fingerprint import hash_dataset
from segue.plates import preflight
from segue.plates.assay import assay
from segue.plates.spec import PlateSpec
from segue.plates.synthetic.spec import SyntheticSpec
from segue.plates.synthetic.write import synthetic_files, write_plates, write_specification
from segue.spec import validate
from segue.training.inputs.data import choose_layer
from segue.training.spec import StageSpec

MADE = {
    "seed": 5,
    "plates": 1,
    "wells": 3,
    "stained_wells": 2,
    "times": 2,
    "stage": {"rows": 2, "columns": 2, "tile_px": 224, "overlap": 0.15, "jitter_px": 8.0, "drift_px": 4.0},
    "faults": {"missing_tiles": 1, "dead_fields": 0},
}
TABLES: dict[str, Any] = {
    "name": "plate",
    "stitching": {"register_px": 12, "reach_px": 20},
    "labels": {"stains": {"dapi": {}, "cy5": {}}},
    "tiles": {"tile_px": 64, "stride_px": 32, "chunk": 50},
    "splits": {"wells": {"seed": 1, "validation": 0.3, "test": 0.0}},
}


def spec_of(**changes: Any) -> PlateSpec:
    files = synthetic_files(validate(SyntheticSpec, MADE, context="made")).model_dump(exclude_defaults=True)
    return validate(PlateSpec, {**TABLES, "files": files, **changes}, context="plate")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made plate of three wells, two of them stained, at two times."""
    return write_plates(validate(SyntheticSpec, MADE, context="made"), tmp_path_factory.mktemp("raw") / "plate").folder


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of that plate, made in one go."""
    out = tmp_path_factory.mktemp("made") / "plate.h5"
    assert assay(spec_of(), out, root=raw).made_now == 3
    return out


def test_tiles_come_from_stained_wells_and_mosaics_from_all(made: Path):
    """Groups are wells; unstained wells have a mosaic at every time, but no tile and no label."""
    with Dataset(made) as dataset:
        samples = dataset.samples()
        with h5py.File(made) as file:
            stained = {name.replace("%2F", "/"): int(g.attrs["stained"]) for name, g in file["micrographs"].items()}
        assert len(stained) == 6 and sum(stained.values()) == 4
        assert set(samples["group"]) == {source.rpartition("/")[0] for source, yes in stained.items() if yes}
        assert set(dataset.layers) == {"classes", "nuclei"} and dataset.channels == ("brightfield",)
        assert dataset.tile_shape == (1, 64, 64)
        for source, yes in stained.items():
            assert bool(dataset.micrograph(source).labels) == bool(yes)
        assert dataset.split_names() == ("wells",)


def test_kept_tiles_hold_what_their_mosaics_hold(made: Path):
    """Every tile is cut from its mosaic at its place, and holds more than one class."""
    with Dataset(made) as dataset:
        samples = dataset.samples()
        for index in range(0, dataset.count, 17):
            images, labels = dataset.read(np.array([index]), layer="classes")
            whole = dataset.micrograph(samples["source"][index])
            y, x = int(samples["y_px"][index]), int(samples["x_px"][index])
            np.testing.assert_array_equal(images[0], whole.image[:, y : y + 64, x : x + 64])
            assert labels is not None
            np.testing.assert_array_equal(labels[0], whole.labels["classes"][y : y + 64, x : x + 64])
        assert ((dataset.class_counts("classes") > 0).sum(1) > 1).all()


def test_tiles_are_placed_as_they_truly_lie(raw: Path, made: Path):
    """Placed and true positions differ by less than half a pixel in the median, and drift is taken out."""
    report = json.loads((made.with_name("plate.plate") / "report.json").read_text())
    off = []
    for well, times in report["wells"].items():
        origin = None
        for name in sorted(times):
            with h5py.File(raw / "truth" / well / f"{name}.h5") as file:
                there = file["tiles/state"].asstr()[()] == "ok"
                true = np.stack([file["tiles/y_px"][()], file["tiles/x_px"][()]], 1)[there]
                cells = [f"{r},{c}" for r, c in zip(file["tiles/row"][there], file["tiles/column"][there], strict=True)]
            placed = np.array([times[name]["positions"][cell] for cell in cells])
            origin = np.median(true - placed, axis=0) if origin is None else origin  # one for all times of the well
            off += np.hypot(*(true - placed - origin).T).tolist()
    assert np.median(off) < 0.5 and max(off) < 2


FEW = {
    **MADE,
    "wells": 2,
    "stained_wells": 1,
    "times": 1,
    "stage": {**MADE["stage"], "rows": 1},
    "faults": {"missing_tiles": 0, "dead_fields": 0},
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlateSpec, Path, Path]:
    """A made plate of two wells at one time, one of them stained: its specification, its folder and its dataset."""
    folder = tmp_path_factory.mktemp("few")
    spec = validate(SyntheticSpec, FEW, context="few")
    raw = write_plates(spec, folder / "raw").folder
    of_files = spec_of(files=synthetic_files(spec).model_dump(exclude_defaults=True))
    return of_files, raw, assay(of_files, folder / "files.h5", root=raw).path


def test_interrupted_and_resumed_it_is_the_same_dataset(few: tuple[PlateSpec, Path, Path], tmp_path: Path):
    """After an interruption only the wells that are not done are done, and the content is the same to the bit."""
    spec, raw, dataset = few
    out = tmp_path / "again.h5"

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "wells" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assay(spec, out, root=raw, progress=interrupt)
    assert not out.exists()
    assert assay(spec, out, root=raw).made_now == 1
    assert hash_dataset(out) == hash_dataset(dataset)
    assert assay(spec, out, root=raw).made_now == 0


def test_a_made_plate_is_made_on_the_way(few: tuple[PlateSpec, Path, Path], tmp_path: Path):
    """A specification with a made plate instead of files gives the dataset of that plate's files, but for its name."""
    result = assay(spec_of(files=None, synthetic=FEW), tmp_path / "made.h5", root=tmp_path)
    with Dataset(result.path) as one, Dataset(few[2]) as other:
        assert one.count == other.count == result.tiles > 9
        np.testing.assert_array_equal(one.read(np.arange(9), layer=None)[0], other.read(np.arange(9), layer=None)[0])


def test_reports_and_tables_lie_beside_it(made: Path):
    """The report names the missing tile and flat fields of few tiles; the table of nuclei has the rows it counts."""
    folder = made.with_name("plate.plate")
    report = json.loads((folder / "report.json").read_text())
    assert sum(bool(time["seams"]["missing"]) for times in report["wells"].values() for time in times.values()) == 1
    counted = sum(sum(t.get("nuclei", {}).values()) for times in report["wells"].values() for t in times.values())
    with (folder / "nuclei.csv").open(encoding="utf-8") as file:
        assert sum(1 for _ in csv.DictReader(file)) == counted > 20
    assert all(
        set(t["nuclei"]) == {"live", "dead"} for w in report["wells"].values() for t in w.values() if "nuclei" in t
    )
    assert ["flat field of cy5 was estimated from 16 tiles" in note for note in report["notes"]].count(True) == 1
    assert len(list((folder / "overlays").glob("*.png"))) == 4
    assert not (folder / "wells").exists()


@pytest.mark.parametrize(("target", "layer"), [("classes", "classes"), ("flows", "nuclei"), ("boundary", "nuclei")])
def test_targets_find_the_layer_of_their_kind(made: Path, target: str, layer: str):
    """Classes of pixels and objects are asked for without naming the layer, since there is one of each kind."""
    with Dataset(made) as dataset:
        stage = validate(StageSpec, {"data": [{"dataset": str(made)}], "target": {"name": target}}, context="stage")
        assert choose_layer(dataset, stage.target).name == layer


def test_a_plate_and_a_stage_on_it_are_told_before_any_work(raw: Path, made: Path, tmp_path: Path):
    """`segue inspect` tells what a plate lacks, and of a stage which network it trains on what."""
    output = describe.describe(str(write_specification(validate(SyntheticSpec, MADE, context="made"), raw)))
    assert "3 wells, 2 stained" in output and "is missing in brightfield" in output
    stage = tmp_path / "stage.toml"
    stage.write_text(
        f'network = {{ name = "unet", width = 8, depth = 3 }}\n[[data]]\ndataset = "{made}"\n[target]\nname = "rays"\n'
    )
    output = describe.describe(str(stage))
    assert "rays, of the layer nuclei" in output and "gives                    (N, 33, H, W)" in output


def test_the_split_of_a_made_plate_leaves_no_part_empty(tmp_path: Path):
    """Its seed is another where the usual one would; with two stained wells there is none, and it stays."""
    for stained, fills in ((2, False), (3, True), (4, True)):
        spec = validate(SyntheticSpec, {"plates": 1, "wells": 4, "stained_wells": stained, "times": 1}, context="made")
        folder = tmp_path / f"{stained}"
        folder.mkdir()
        written = tomllib.loads(write_specification(spec, folder).read_text(encoding="utf-8"))
        split = SplitSpec.model_validate(written["splits"]["wells"])
        assert split == preflight.with_nonempty_seed(split, preflight.synthetic_layout(spec))
        empty = [
            w
            for w in preflight.warnings(spec_of(splits={"wells": split.model_dump()}), preflight.synthetic_layout(spec))
            if "empty" in w
        ]
        assert not empty if fills else empty and split.seed == 7


def test_the_expected_size_bounds_what_is_made(made: Path):
    """Planning foresees at least the tiles and bytes that the dataset then has."""
    actual = preflight.estimate_size(spec_of(files=None, synthetic=MADE), made.parent)
    with Dataset(made) as dataset:
        assert actual["tiles"] >= dataset.count
    assert actual["bytes"] >= made.stat().st_size


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transmitted": "phase"}, "there is no transmitted-light channel 'phase'"),
        (
            {"labels": {"stains": {"gfp": {}}, "rules": [{"name": "live", "has": ["gfp"]}]}},
            "no image has the channel 'gfp'",
        ),
    ],
)
def test_a_plate_that_lacks_something_is_refused_before_any_work(
    raw: Path, tmp_path: Path, changes: dict[str, Any], words: str
):
    """A channel that no image has is told with those there are, and nothing is stitched."""
    with pytest.raises(SegueError, match=words):
        assay(spec_of(**changes), tmp_path / "out.h5", root=raw)
    assert not (tmp_path / "out.plate" / "wells").exists()


SMALL: dict[str, Any] = {
    "pattern": "{well}_t{time}_{channel}.tif",
    "wells": "wells.csv",
    "pixel_size_um": 1.0,
    "interval_h": 1,
}
SMALL_TILES = {"tile_px": 16, "stride_px": 16}


def small_plate(folder: Path, stained: dict[str, int]) -> PlateSpec:
    """Writes a plate of single fields of 40 × 48 px at two times, stains where 1 says so, and returns what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (well, stains) in enumerate(stained.items()):
        for time in range(2):
            for channel in ("brightfield", *(("dapi", "cy5") if stains else ())):
                image = np.random.default_rng([number, time]).integers(900, 1000, (40, 48)).astype(np.uint16)
                tifffile.imwrite(folder / f"{well}_t{time}_{channel}.tif", image)
    rows = "".join(f"{well},{stains},e\n" for well, stains in stained.items())
    (folder / "wells.csv").write_text(f"well,stained,experiment\n{rows}", encoding="utf-8")
    return validate(PlateSpec, {"name": "small", "files": SMALL, "tiles": SMALL_TILES}, context="plate")


def changed(spec: PlateSpec, **tables: Any) -> PlateSpec:
    return validate(PlateSpec, {**spec.model_dump(exclude_defaults=True), **tables}, context="plate")


def test_splits_and_tiles_are_checked_before_any_work(tmp_path: Path):
    """Splits, tiles and keep rules that cannot be are refused together, and nothing is left beside."""
    spec = small_plate(tmp_path, {"A1": 1, "A2": 1})
    wrong = changed(
        spec,
        splits={"a": {"by": "tim"}, "b": {"by": "experiment"}, "c": {"by": "time", "blocks": 9}, "d": {"by": "chunk"}},
        tiles={"tile_px": 64, "keep": {"classes": 7}},
    )
    with pytest.raises(SegueError) as caught:
        assay(wrong, tmp_path / "out" / "a.h5", root=tmp_path)
    for words in (
        "column 'tim'; did you mean",
        "only one unit",
        "split.blocks = 9",
        "tile_px = 64 is larger",
        "= 7, but",
    ):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    layout = preflight.plate_layout(spec, spec.files, tmp_path)  # type: ignore[arg-type]
    torn = changed(spec, splits={"t": {"by": "time", "blocks": 2, "test": 0}, "w": {"validation": 0.001, "test": 0.0}})
    output = " ".join(preflight.warnings(torn, layout))
    assert "by blocks of time (2) it divides groups" in output and "split 'w': its validation part is empty" in output


def test_a_well_without_its_stains_is_told_and_unstained(tmp_path: Path):
    """The table calls A2 stained and it has no images of stains: a note says that it counts as unstained."""
    spec = small_plate(tmp_path, {"A1": 1, "A2": 0})
    (tmp_path / "wells.csv").write_text("well,stained\nA1,1\nA2,1\n", encoding="utf-8")
    layout = preflight.plate_layout(spec, spec.files, tmp_path)  # type: ignore[arg-type]
    assert [well.stained for well in layout.wells] == [True, False]
    assert "P1/A2 is stained by the table but has no images of dapi, cy5: treated as unstained" in layout.notes


def test_an_unstained_plate_gives_its_mosaics(tmp_path: Path):
    """Without any stained well the dataset holds whole images and no tiles, and report and summary say why."""
    spec = changed(small_plate(tmp_path, {"A1": 0, "A2": 0}), splits={"wells": {}})
    actual = assay(spec, tmp_path / "a.h5", root=tmp_path)
    assert (actual.tiles, actual.stained, actual.wells) == (0, 0, 2)
    with Dataset(actual.path) as dataset:
        assert dataset.count == 0 and len(dataset.micrograph_ids()) == 4 and not dataset.split_names()
    assert any("no well is stained" in line for line in plate_summary(actual.path))
    assert assay(spec, tmp_path / "a.h5", root=tmp_path).made_now == 0


@pytest.mark.parametrize(
    "wells",
    [
        [("P", "x_A1"), ("P_x", "A1")],
        [("p", "A1"), ("P", "A1")],
        [("a:b", "A1"), ("a?b", "A1")],
        [("P", "A\nB"), ("P", "A_B")],
        [("P" * 300, "A1"), ("P" * 299, "A1")],
    ],
    ids=["joined alike", "case", "reserved", "newline", "long"],
)
def test_two_wells_stay_two(tmp_path: Path, wells: list[tuple[str, str]]):
    """Plates and wells whose names join to one, or differ in case, or in signs that files cannot have, do not mix."""
    with (tmp_path / "files.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("plate", "well", "channel", "path")]
            + [(plate, well, "brightfield", f"{number}.tif") for number, (plate, well) in enumerate(wells)]
        )
    for number in range(2):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((40, 48), 100 + number, np.uint16))
    files = {"format": "manifest", "manifest": "files.csv", "pixel_size_um": 1.0, "interval_h": 1}
    tables = {"name": "two", "files": files, "tiles": SMALL_TILES, "stitching": {"mosaics": "ome-tiff"}}
    assay(validate(PlateSpec, tables, context="plate"), tmp_path / "a.h5", root=tmp_path)
    with Dataset(tmp_path / "a.h5") as dataset:
        levels = [int(dataset.micrograph(f"{plate}/{well}/t000").image[0, 0, 0]) for plate, well in wells]
    assert levels == [100, 101]
    mosaics = [path.name.casefold() for path in (tmp_path / "a.plate" / "mosaics").iterdir()]
    assert len(set(mosaics)) == len(mosaics) == 2


def test_few_tiles_give_no_flat_field(tmp_path: Path):
    """Of a single field at two times nothing is estimated, mosaics hold the counts as acquired, and a note says so."""
    spec = small_plate(tmp_path, {"A1": 1})
    actual = assay(changed(spec, tiles={**SMALL_TILES, "datasets": "full"}), tmp_path / "a.h5", root=tmp_path)
    with Dataset(actual.path) as dataset:
        image = dataset.micrograph("P1/A1/t001").image
    np.testing.assert_array_equal(image[0], tifffile.imread(tmp_path / "A1_t1_brightfield.tif"))
    notes = json.loads((tmp_path / "a.plate" / "report.json").read_text())["notes"]
    for channel in ("brightfield", "dapi", "cy5"):
        assert (
            f"P1: {channel} has 2 tiles, too few to estimate a flat field: uneven illumination is not corrected"
            in notes
        )


def test_other_splits_and_tiles_need_no_stitching(tmp_path: Path):
    """After a failure at the tiles, correcting [tiles], [splits], name and title finds all wells done."""
    spec = small_plate(tmp_path, {"A1": 1, "A2": 0})
    with pytest.raises(SegueError, match=r"meets tiles\.keep"):
        assay(changed(spec, tiles={**SMALL_TILES, "keep": {"foreground": 1.0}}), tmp_path / "a.h5", root=tmp_path)
    other = changed(spec, name="other", title="x", tiles={**SMALL_TILES, "datasets": "full"}, splits={"w": {"seed": 3}})
    actual = assay(other, tmp_path / "a.h5", root=tmp_path)
    assert actual.made_now == 0 and actual.tiles == 12
    assert hash_dataset(assay(other, tmp_path / "b.h5", root=tmp_path).path) == hash_dataset(actual.path)


def test_inspect_of_a_plate_that_would_be_refused_ends_with_2(tmp_path: Path):
    """What is found is printed, with each mistake, and the exit code is that of the user's mistakes."""
    small_plate(tmp_path, {"A1": 1, "A2": 1})
    table = "".join(f"{name} = {json.dumps(value)}\n" for name, value in SMALL.items())
    (tmp_path / "plate.toml").write_text(f'name = "s"\n[files]\n{table}[splits.x]\nby = "tim"\n', encoding="utf-8")
    actual = describe.describe_plate(tmp_path / "plate.toml")
    assert actual is not None and actual.errors == 2
    assert "2 wells, 2 stained" in actual.text and "refused: splits.x: split.by: unknown column 'tim'" in actual.text
    result = CliRunner().invoke(main.app, ["inspect", str(tmp_path / "plate.toml")])
    assert isinstance(result.exception, SegueError) and "2 of the above problems" in str(result.exception)


@pytest.mark.parametrize(
    ("stains", "words"), [(["hoechst", "draq7"], 'lacks = ["draq7"]'), (["hoechst"], 'has = ["hoechst"]')]
)
def test_other_stains_need_rules_of_their_own(stains: list[str], words: str):
    """The default rules are of dapi and cy5: other stains are told how rules are written."""
    with pytest.raises(SegueError, match="no rules are given, and the default ones are for the stains dapi") as caught:
        spec_of(labels={"stains": {stain: {} for stain in stains}})
    assert words in str(caught.value)


def test_what_was_done_is_told_in_few_lines(made: Path):
    """The summary counts fields and pairs as the table of seams does, which has a row per well and time."""
    with (made.with_name("plate.plate") / "seams.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and sum(int(row["fields"]) - int(row["tiles"]) for row in rows) == 1
    output = " ".join(plate_summary(made))
    assert "of 24 fields: 0 left out, 1 missing" in output
    worst = max(float(row["largest_residual_px"]) for row in rows)
    assert f"of {sum(int(row['pairs']) for row in rows)} pairs" in output and f"worst residual {worst:.2f} px" in output


def test_another_dataset_is_not_overwritten(raw: Path, made: Path):
    """A finished dataset of other settings is refused, not replaced."""
    with pytest.raises(SegueError, match="holds a dataset of another specification"):
        assay(spec_of(tiles={"tile_px": 96, "stride_px": 48}), made, root=raw)
