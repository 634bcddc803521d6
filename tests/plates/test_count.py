"""Counts of nuclei per well and time, with the truth beside them."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from segue import networks, rng
from segue.data.dataset import Dataset
from segue.data.spec import Layer, SplitSpec
from segue.data.splits import GivenSplit
from segue.data.writer import GroupTiles, Micrograph, merge_parts, micrograph_key, write_part
from segue.errors import SegueError
from segue.plates.counting.count import CountSpec, count_wells
from segue.plates.counting.nuclei import measure_nuclei, poisson_interval, split_nuclei, wilson_interval
from segue.plates.counting.truth import agreement, headline, known_counts
from segue.plates.synthetic.spec import SyntheticSpec
from segue.plates.synthetic.write import write_plates
from segue.targets.registry import build_target
from segue.training.run_folder import TrainedModel
from segue.training.spec import StageSpec

LEVELS = (100.0, 200.0, 300.0)  # of background, live and dead
SIZE = (220, 236)
TILE = 32
PARTS = {"P1/A1": "train", "P1/A2": "validation", "P1/A3": "test"}
WELLS = (*PARTS, "P1/A10")  # the last is not stained
TIMES = (0, 1)


@dataclass(frozen=True)
class Drawn:
    image: np.ndarray  # (1, H, W) uint16
    classes: np.ndarray
    nuclei: np.ndarray
    counts: tuple[int, int]


def drawn(name: str, *, touching: int = 4, specks: int = 5) -> Drawn:
    """Returns discs of two classes at random places of a grid, some in pairs of one class that touch, and specks which
    look like nuclei but are too small to be any."""
    generator = rng.numpy_generator("wells", name)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    classes, nuclei = np.zeros(SIZE, np.int32), np.zeros(SIZE, np.int32)
    cells = [(20 + 36 * row, 20 + 36 * column) for row in range(6) for column in range(6)]
    counts, number = [0, 0], 0
    chosen = generator.permutation(36)
    for place, cell in enumerate(chosen[:20]):
        kind = int(generator.integers(2))
        cy, cx = cells[cell]
        for shift in (-6, 6) if place < touching else (0,):
            disc = (y - cy) ** 2 + (x - cx - shift) ** 2 < 7.2**2
            number += 1
            classes[disc], nuclei[disc & (nuclei == 0)] = kind + 1, number
            counts[kind] += 1
    image = np.take(np.array(LEVELS), classes)
    for place in chosen[20 : 20 + specks]:
        cy, cx = cells[place]
        image[cy : cy + 2, cx : cx + 2] = LEVELS[1 + place % 2]
    return Drawn(image.astype(np.uint16)[None], classes, nuclei, (counts[0], counts[1]))


class Nearest(torch.nn.Module):
    """Scores each class by how near a pixel is to its level: perfect where levels are the classes'."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = torch.nn.Parameter(torch.tensor(levels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -((images - self.levels[None, :, None, None]) / 50).square()


def model_of(folder: Path, *, names: tuple[str, ...] = ("background", "live", "dead")) -> TrainedModel:
    """Returns a perfect model that was trained on well A1 and validated with A2."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = {part: [well for well, own in PARTS.items() if own == part] for part in ("train", "validation")}
    output = {"training": groups["train"], "validation": groups["validation"], "ancestors": []}
    (folder / "groups.json").write_text(json.dumps(output), encoding="utf-8")
    stage = {"data": [{"dataset": "none.h5"}], "normalize": "none", "split": {"stored": "wells"}}
    spec = StageSpec.model_validate(stage)
    built = build_target(spec.target, names=names, instances=False, context="test")
    return TrainedModel(
        network=Nearest(LEVELS).eval(),
        target=built,
        normalization=spec.normalize,
        channels=("brightfield",),
        divisor=networks.divisor(spec.network),
        decode_params=built.decode_params,
        spec=spec,
        folder=folder,
    )


def write_wells(
    folder: Path, pictures: Mapping[tuple[str, int], Drawn], *, attributes: Mapping[str, float] | None = None
) -> Path:
    """Writes a dataset of mosaics of wells, unstained ones without labels, and returns its path."""
    paths = []
    for well in PARTS:
        labels = {time: {"classes": picture.classes, "nuclei": picture.nuclei} for time, picture in of(pictures, well)}
        images = np.stack([picture.image[:, :TILE, :TILE] for _, picture in of(pictures, well)])
        names = [f"{well}/t{time:03d}" for time in labels]
        count = len(images)
        part = GroupTiles(
            images=images,
            labels={
                name: np.stack([one[name][:TILE, :TILE] for one in labels.values()]) for name in ("classes", "nuclei")
            },
            valid=np.tile(np.array([0, 0, TILE, TILE], np.int32), (count, 1)),
            intensity=np.ones((count, 1, 4), np.float32),
            samples={
                "group": np.array([well] * count, object),
                "source": np.array(names, object),
                "y_px": np.zeros(count, np.int64),
                "x_px": np.zeros(count, np.int64),
            },
            micrographs={f"{well}/t{t:03d}": Micrograph(picture.image, labels[t]) for t, picture in of(pictures, well)},
        )
        paths.append(folder / "parts" / f"{len(paths)}.h5")
        write_part(paths[-1], part)
    out = folder / "wells.h5"
    layers = [
        Layer("classes", "classes", ("background", "live", "dead")),
        Layer("nuclei", "instances", ("background", "nucleus")),
    ]
    splits = {"wells": GivenSplit(PARTS)}  # type: ignore[arg-type]
    whole = {"provenance": "made", "pixel_size_um": 0.5} if attributes is None else attributes
    merge_parts(paths, out, layers=layers, channels=["brightfield"], attributes=whole, splits=splits)
    with h5py.File(out, "a") as file:
        for (well, time), picture in pictures.items():
            group = file.require_group(f"micrographs/{micrograph_key(f'{well}/t{time:03d}')}")
            if "image" not in group:
                group["image"] = picture.image
            plate, name = well.split("/")
            stained, treatment = well in PARTS, "treated" if name in ("A2", "A10") else "control"
            group.attrs.update(plate=plate, well=name, experiment="one", time=time, time_h=4.0 * time)
            group.attrs.update(stained=int(stained), treatment=treatment)
    return out


def of(pictures: Mapping[tuple[str, int], Drawn], well: str) -> list[tuple[int, Drawn]]:
    return [(time, picture) for (name, time), picture in pictures.items() if name == well]


@pytest.fixture(scope="module")
def pictures() -> dict[tuple[str, int], Drawn]:
    return {(well, time): drawn(f"{well} {time}") for well in WELLS for time in TIMES}


@pytest.fixture(scope="module")
def wells(tmp_path_factory: pytest.TempPathFactory, pictures: dict[tuple[str, int], Drawn]) -> Path:
    return write_wells(tmp_path_factory.mktemp("wells"), pictures)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return model_of(tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_a_perfect_network_counts_every_well(wells: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]):
    """Counts equal what was drawn, in unstained wells too, though nuclei touch and specks look like them; how they are
    counted was found on the validation well, and tiles change nothing."""
    seen: list[tuple[int, int]] = []
    actual = count_wells(model, wells, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(place, 8) for place in range(1, 9)]
    table = actual.table
    assert list(table["well"].unique()) == ["A1", "A2", "A3", "A10"] and actual.conditions == ("treatment",)
    for (well, time), picture in pictures.items():
        rows = table[(table["plate"] + "/" + table["well"] == well) & (table["time"] == time)]
        assert tuple(rows["count"]) == picture.counts
        assert tuple(rows["fraction"]) == pytest.approx(np.divide(picture.counts, sum(picture.counts)))
        assert set(rows["part"]) == {PARTS.get(well, "unseen")} and set(rows["time_h"]) == {4.0 * time}
        assert rows["stain_count"].isna().all() if well not in PARTS else (rows["stain_count"] == rows["count"]).all()
    assert set(table["counting_from"]) == {"validation"} and actual.choice.error == 0
    area_mm2 = SIZE[0] * SIZE[1] * 0.25e-6
    assert table["density_per_mm2"].to_numpy() == pytest.approx(table["count"].to_numpy() / area_mm2)
    small = count_wells(model, wells, CountSpec(tile_px=64))
    pd.testing.assert_frame_equal(small.table, table)
    stored = actual.errors[actual.errors["part"] == "held out"]
    assert (stored["count_mae"] == 0).all() and (stored["wells"] == 1).all()
    assert "1 held-out well (2 images)" in actual.headline


def test_settings_that_are_given(wells: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]):
    """Given settings are used as they are and told in the table: without division touching pairs count once, and
    without a least area specks count too; one class alone can be counted."""
    actual = count_wells(model, wells, CountSpec(min_area_px=0, split_depth=1)).table
    totals = actual.groupby(["plate", "well", "time"])["count"].sum()
    assert set(totals - [sum(pictures[f"{p}/{w}", t].counts) for p, w, t in totals.index]) == {5 - 4}
    assert set(actual["counting_from"]) == {"given"} and set(actual["split_depth"]) == {1.0}
    dead = count_wells(model, wells, CountSpec(min_area_px=20, split_depth=0.25, classes=("dead",))).table
    assert [pictures[f"{r.plate}/{r.well}", r.time].counts[1] for r in dead.itertuples()] == list(dead["count"])
    with pytest.raises(SegueError, match="'ded'"):
        count_wells(model, wells, CountSpec(classes=("ded",)))


def test_wells_without_stains_are_counted_as_another_dataset_tells(
    tmp_path: Path, wells: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]
):
    """Where no well is stained, counting is by default; tuned on a dataset with stained wells (validation wells first,
    then such that the run has never seen) it finds what was drawn. A dataset without any is refused."""
    path = write_wells(tmp_path / "plain", pictures)
    with h5py.File(path, "a") as file:
        for well, time in pictures:
            group = file[f"micrographs/{micrograph_key(f'{well}/t{time:03d}')}"]
            group.attrs["stained"] = 0
            group.pop("labels", None)
    blind = count_wells(model, path)
    assert set(blind.table["counting_from"]) == {"default"} and any("--tune-on" in note for note in blind.notes)
    other = model_of(tmp_path / "other run")
    (other.folder / "groups.json").write_text(json.dumps({"training": ["P9/A1"], "validation": ["P9/A2"]}))
    other = replace(other, spec=other.spec.model_copy(update={"split": SplitSpec(test=0)}))
    expected = [pictures[f"P1/{well}", time].counts for well in ("A1", "A2", "A3", "A10") for time in TIMES]
    for run, source in ((model, "validation"), (other, "unseen")):
        actual = count_wells(run, path, tune_on=wells)
        assert actual.choice.source == source and actual.choice.error == 0
        assert actual.table["count"].tolist() == [number for counts in expected for number in counts]
        assert any(f"tuned on {source} wells" in note for note in actual.notes)
    with pytest.raises(SegueError, match="no validation or unseen or train well of the run has nuclei"):
        count_wells(model, path, tune_on=path)


@pytest.mark.slow
def test_objects_of_another_network_take_the_class_of_most_of_their_pixels(
    wells: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]
):
    """A run of objects counts all nuclei as one class; beside a run of classes its objects are counted by class."""
    spec = StageSpec.model_validate(
        {"data": [{"dataset": "none.h5"}], "normalize": "none", "target": {"name": "foreground"},
         "split": {"stored": "wells"}}
    )  # fmt: skip
    built = build_target(spec.target, names=("background", "nucleus"), instances=True, context="test")
    network = torch.nn.Conv2d(1, built.channels, 1)
    with torch.no_grad():
        network.weight.fill_(0.1)
        assert network.bias is not None
        network.bias.fill_(-15.0)
    parameters = {**built.decode_params, "min_size_px": 0}
    finder = replace(
        model, network=network, target=built, normalization=spec.normalize, decode_params=parameters, spec=spec
    )
    parts = {key: split_nuclei(p.image[0] > 150, split_depth=1.0).max() for key, p in pictures.items()}
    alone = count_wells(finder, wells, CountSpec(min_area_px=0)).table
    assert set(alone["class"]) == {"nucleus"} and alone["split_depth"].isna().all()
    assert [parts[f"{r.plate}/{r.well}", r.time] for r in alone.itertuples()] == list(alone["count"])
    both = count_wells(model, wells, CountSpec(min_area_px=0), objects=finder).table
    assert list(both.groupby(["plate", "well", "time"], sort=False)["count"].sum()) == list(alone["count"])
    with pytest.raises(SegueError, match="a run of objects"):
        count_wells(finder, wells, objects=model)


def test_excluded_pixels_count_nowhere(tmp_path: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]):
    """What is -1 in a stained well, or 0 where an unstained one has no tile, holds no nuclei and no area."""
    changed = dict(pictures)
    half = SIZE[1] // 2
    for well in ("P1/A3", "P1/A10"):
        one = pictures[well, 0]
        image, classes, nuclei = (values.copy() for values in (one.image, one.classes, one.nuclei))
        image[..., half:] = 0
        classes[:, half:], nuclei[:, half:] = -1, -1
        changed[well, 0] = replace(one, image=image, classes=classes, nuclei=nuclei)
    table = count_wells(model, write_wells(tmp_path, changed), CountSpec(min_area_px=20, split_depth=0.25)).table
    for well in ("A3", "A10"):
        rows = table[(table["well"] == well) & (table["time"] == 0)]
        assert set(rows["seen_px"]) == {SIZE[0] * half}
        assert 0 < rows["count"].sum() < sum(pictures[f"P1/{well}", 0].counts)
    stained = table[(table["well"] == "A3") & (table["time"] == 0)]
    assert (stained["stain_count"] == stained["count"]).all()


def test_the_area_of_a_mosaic_that_is_filled_outside_its_tiles(tmp_path: Path, model: TrainedModel):
    """An unstained mosaic tells by attributes what its tiles cover and how their values are normalised: neither is a
    condition, and the density follows the area."""
    path = write_wells(tmp_path, {(well, 0): drawn(f"{well} filled") for well in WELLS})
    spec = CountSpec(min_area_px=20, split_depth=0.25)
    before = count_wells(model, path, spec).table
    with h5py.File(path, "a") as file:
        attributes = file[f"micrographs/{micrograph_key('P1/A10/t000')}"].attrs
        attributes.update(valid_fraction=0.5, pixel_size_nm=500.0, intensity=[0.0, 1.0])
    image = replace(model, spec=model.spec.model_copy(update={"normalize": "image"}))
    after = count_wells(replace(image, network=Nearest(LEVELS).eval()), path, spec)
    assert after.conditions == ("treatment",)
    rows = [table[table["well"] == "A10"].reset_index(drop=True) for table in (before, after.table)]
    assert rows[0]["count"].equals(rows[1]["count"]) and (rows[1]["seen_px"] == SIZE[0] * SIZE[1] // 2).all()
    assert rows[1]["density_per_mm2"].to_numpy() == pytest.approx(2 * rows[0]["density_per_mm2"].to_numpy())


def test_what_is_missing_is_told(tmp_path: Path, model: TrainedModel, pictures: dict[tuple[str, int], Drawn]):
    """A time without a mosaic and a missing pixel size are noted; no mosaics, or none of plates, is an error."""
    some = {key: picture for key, picture in pictures.items() if key != ("P1/A10", 1)}
    path = write_wells(tmp_path, some, attributes={"provenance": "made"})
    actual = count_wells(model, path)
    assert any("P1/A10: the dataset has no mosaic of time 1" in note for note in actual.notes)
    assert any("no pixel size" in note for note in actual.notes) and actual.table["density_per_mm2"].isna().all()
    with Dataset(path) as dataset:
        assert dataset.micrograph_layers("P1/A1/t000") == ("classes", "nuclei")
        assert dataset.micrograph_layers("P1/A10/t000") == ()
        with pytest.raises(SegueError, match="holds no micrograph 'P9/A1/t000'"):
            dataset.micrograph_attributes("P9/A1/t000")
    with pytest.raises(SegueError, match="contains no folder truth"):
        count_wells(model, path, truth=tmp_path)
    with pytest.raises(SegueError, match="'brightfeld'"):
        count_wells(replace(model, channels=("brightfeld",)), path)
    with h5py.File(path, "a") as file:
        del file[f"micrographs/{micrograph_key('P1/A1/t000')}"].attrs["well"]
    with pytest.raises(SegueError, match="'P1/A1/t000' has no well; wells are counted in datasets of plates"):
        count_wells(model, path)
    with h5py.File(path, "a") as file:
        del file["micrographs"]
    with pytest.raises(SegueError, match="holds no mosaics of wells"):
        count_wells(model, path)


def test_fields_that_tile_a_plane_count_each_nucleus_once():
    """Whatever is cut by the borders of four fields is counted in one of them: the sum is that of the whole."""
    picture = drawn("tiled", touching=0, specks=0)
    mask = picture.classes > 0
    total = 0
    for rows in (slice(0, 101), slice(101, None)):
        for columns in (slice(0, 95), slice(95, None)):
            field = split_nuclei(mask[rows, columns], split_depth=1.0)
            seen = np.ones(field.shape, bool)
            seen_whole = np.zeros(SIZE, bool)
            seen_whole[rows, columns] = True
            nuclei = measure_nuclei(field, picture.classes[rows, columns], (1, 2), valid=seen)
            total += nuclei.counts((1, 2)).sum()
            objects = np.where(seen_whole, split_nuclei(mask, split_depth=1.0), 0)
            whole = measure_nuclei(objects, picture.classes, (1, 2), valid=seen_whole)
            assert np.array_equal(whole.counts((1, 2)), nuclei.counts((1, 2)))
    assert total == sum(picture.counts)


@pytest.mark.slow
def test_intervals_cover_what_they_promise():
    """Those of counts are exact (against chi-squared quantiles) and cover at least 95 %; fractions are Wilson's."""
    for count in (0, 1, 7, 250):
        chi = (stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0, stats.chi2.ppf(0.975, 2 * count + 2) / 2)
        assert poisson_interval(count) == pytest.approx(chi)
        ours = wilson_interval(count, 300)
        theirs = stats.binomtest(count, 300).proportion_ci(0.95, method="wilson")
        assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert np.isnan(wilson_interval(0, 0)).all()
    for mean in (0.7, 6.0, 90.0):
        counts = rng.numpy_generator("poisson", mean).poisson(mean, 2000)
        bounds = np.array([poisson_interval(int(count)) for count in counts])
        assert ((bounds[:, 0] <= mean) & (mean <= bounds[:, 1])).mean() >= 0.945


def test_the_truth_of_a_made_plate(tmp_path: Path):
    """Without jitter all tiles together are the nominal mosaic, so that counts equal the attributes; what is missing or
    excluded holds none."""
    stage = {"rows": 2, "columns": 2, "tile_px": 160, "jitter_px": 0, "drift_px": 0}
    small = {"plates": 1, "wells": 1, "stained_wells": 0, "times": 1, "stage": stage}
    for name, faults in (("whole", 0), ("missing", 1)):
        spec = SyntheticSpec.model_validate({**small, "faults": {"missing_tiles": faults, "dead_fields": 0}})
        write_plates(spec, tmp_path / name)
    side = 160 + 144
    with h5py.File(tmp_path / "whole" / "truth" / "P1" / "A1" / "t000.h5") as file:
        true = {"live": int(file.attrs["live"]), "dead": int(file.attrs["dead"])}  # type: ignore[arg-type]
    where = {"plate": "P1", "well": "A1", "time": 0}
    assert known_counts(tmp_path / "whole", **where, valid_px=side**2) == true
    half = known_counts(tmp_path / "whole", **where, valid_px=side**2 // 2)
    assert half is not None and half["live"] == pytest.approx(true["live"] / 2)
    fewer = known_counts(tmp_path / "missing", **where, valid_px=side**2 - 144**2)
    assert fewer is not None and 0 < fewer["live"] < true["live"] and fewer["live"] == int(fewer["live"])
    assert known_counts(tmp_path / "whole", plate="P9", well="A1", time=0, valid_px=1) is None


def test_only_held_out_wells_are_evidence():
    """Errors are told by part, and the headline is of test and unseen wells alone, against the known truth."""
    rows = [
        {"plate": "P1", "well": well, "part": part, "class": name, "count": true + error, "known_count": float(true),
         "stain_count": np.nan, "fraction": 0.5, "known_fraction": 0.5, "stain_fraction": np.nan}
        for well, part, error in (("A1", "train", 0), ("A2", "test", 3), ("A3", "unseen", -5))
        for true in (10, 20)
        for name in ("live", "dead")
    ]  # fmt: skip
    actual = agreement(pd.DataFrame(rows))
    live = actual[actual["class"] == "live"].set_index("part")
    assert dict(live["count_mae"]) == {"train": 0, "test": 3, "unseen": 5, "held out": 4}
    assert live["count_bias"]["held out"] == -1 and live["wells"]["held out"] == 2
    assert live["count_mae_low"]["held out"] == 3 and live["count_mae_high"]["held out"] == 5
    assert "2 held-out wells (4 images)" in headline(actual) and "known truth" in headline(actual)
    assert "is not known" in headline(actual[actual["part"] == "train"])
