"""From raw tiles to a dataset: what is in it, that it is the same however it was made, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from segue import inspection
from segue.data.dataset import Dataset, content_digest
from segue.errors import SegueError
from segue.plate import planning
from segue.plate.assay import assay
from segue.plate.assay_spec import PlateSpec
from segue.plate.synthetic import made_files, write_plates, write_specification
from segue.plate.synthetic_spec import SyntheticSpec
from segue.spec import validate
from segue.training.loading import choose_layer
from segue.training.stage import StageSpec

MADE = {
    "seed": 5,
    "plates": 1,
    "wells": 3,
    "stained_wells": 2,
    "times": 2,
    "stage": {"rows": 2, "columns": 2, "tile_px": 288, "overlap": 0.15, "jitter_px": 8.0, "drift_px": 4.0},
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
    files = made_files(validate(SyntheticSpec, MADE, where="made")).model_dump(exclude_defaults=True)
    return validate(PlateSpec, {**TABLES, "files": files, **changes}, where="plate")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made plate of three wells, two of them stained, at two times."""
    return write_plates(validate(SyntheticSpec, MADE, where="made"), tmp_path_factory.mktemp("raw") / "plate").folder


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of that plate, made in one go."""
    out = tmp_path_factory.mktemp("made") / "plate.h5"
    assert assay(spec_of(), out, where=raw).done_now == 3
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


def test_interrupted_and_resumed_it_is_the_same_dataset(raw: Path, made: Path, tmp_path: Path):
    """After an interruption only the wells that are not done are done, and the content is the same to the bit."""
    out = tmp_path / "again.h5"

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "wells" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assay(spec_of(), out, where=raw, progress=interrupt)
    assert not out.exists()
    assert assay(spec_of(), out, where=raw).done_now == 1
    assert content_digest(out) == content_digest(made)
    assert assay(spec_of(), out, where=raw).done_now == 0


def test_a_made_plate_is_made_on_the_way(made: Path, tmp_path: Path):
    """A specification with a made plate instead of files gives the dataset of that plate's files, but for its name."""
    found = assay(spec_of(files=None, synthetic=MADE), tmp_path / "made.h5", where=tmp_path)
    with Dataset(found.path) as one, Dataset(made) as other:
        assert one.count == other.count == found.tiles
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
    assert ["flat field of cy5 rests on 16 tiles" in note for note in report["notes"]].count(True) == 1
    assert len(list((folder / "overlays").glob("*.png"))) == 4
    assert not (folder / "wells").exists()


@pytest.mark.parametrize(("target", "layer"), [("classes", "classes"), ("flows", "nuclei"), ("boundary", "nuclei")])
def test_targets_find_the_layer_of_their_kind(made: Path, target: str, layer: str):
    """Classes of pixels and objects are asked for without naming the layer, since there is one of each kind."""
    with Dataset(made) as dataset:
        stage = validate(StageSpec, {"data": [{"dataset": str(made)}], "target": {"name": target}}, where="stage")
        assert choose_layer(dataset, stage.target).name == layer


def test_a_plate_and_a_stage_on_it_are_told_before_any_work(raw: Path, made: Path, tmp_path: Path):
    """`segue inspect` tells what a plate lacks, and of a stage which network it trains on what."""
    told = inspection.describe(str(write_specification(validate(SyntheticSpec, MADE, where="made"), raw)))
    assert "3 wells, 2 stained" in told and "is missing in brightfield" in told
    stage = tmp_path / "stage.toml"
    stage.write_text(
        f'network = {{ name = "unet", width = 8, depth = 3 }}\n[[data]]\ndataset = "{made}"\n[target]\nname = "rays"\n'
    )
    told = inspection.describe(str(stage))
    assert "rays, of the layer nuclei" in told and "gives                    (N, 33, H, W)" in told


def test_the_expected_size_bounds_what_is_made(made: Path):
    """Planning foresees at least the tiles and bytes that the dataset then has."""
    found = planning.expected(spec_of(files=None, synthetic=MADE), made.parent)
    with Dataset(made) as dataset:
        assert found["tiles"] >= dataset.count
    assert found["bytes"] >= made.stat().st_size


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
        assay(spec_of(**changes), tmp_path / "out.h5", where=raw)
    assert not (tmp_path / "out.plate" / "wells").exists()


def test_another_dataset_is_not_overwritten(raw: Path, made: Path):
    """A finished dataset of other settings is refused, not replaced."""
    with pytest.raises(SegueError, match="holds another dataset"):
        assay(spec_of(tiles={"tile_px": 96, "stride_px": 48}), made, where=raw)
