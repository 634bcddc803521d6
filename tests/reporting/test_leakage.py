"""The leak shown: what chunks and wells promise on validation, beside what untouched wells keep."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import segue
from segue import rng
from segue.data.dataset import Dataset
from segue.data.normalization import image_statistics
from segue.data.spec import Layer, SplitSpec
from segue.data.writer import GroupTiles, merge_parts, write_part
from segue.errors import SegueError, SegueWarning
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.leakage import Leakage, leakage
from segue.reporting.figures.leakage import leakage_figure
from segue.reporting.page.page import write_page
from segue.study.evaluate import score_run
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.table import StudyResults, collect
from segue.training.inputs import data as drawing
from segue.training.run import train_task
from segue.training.run_folder import load_run
from segue.training.spec import DataSpec, Inputs, StageSpec, TrainTask

CLASSES = ("live", "dead")
CHUNKS = "chunks of 1000 tiles"
# by what is split: validation and test of the median run
HEIGHTS = {"group": (0.72, 0.70), CHUNKS: (0.93, 0.69)}


def made(seeds: int = 3, *, other: str = "same") -> StudyResults:
    """Returns results of two stages, split by group and by chunks; `other` goes into what sets the second apart."""
    generator = np.random.default_rng(2)
    rows, histories = [], []
    for (split, (validation, test)), seed in itertools.product(HEIGHTS.items(), range(seeds)):
        torn = split != "group"
        stage, run = ("chunks", f"c{seed}") if torn else ("wells", f"w{seed}")
        shift = generator.normal(0, 0.01)
        scores = {f"{kind}_{name}": test + shift for kind in ("f1", "auprc", "dice") for name in CLASSES}
        identity = {"stage": stage, "run": run, "parent": "", "domain": "plate", "seed_init": seed, "seed_draw": seed}
        split_columns = {"split_by": split, "split_tears": torn, "apart_from_split": other if torn else "same"}
        split_columns |= {
            "training_groups": 21 if torn else 18,
            "validation_groups": 20 if torn else 3,
            "evaluated_groups": 2,
        }
        split_columns |= {"neighbouring_pairs": 12345 * torn}
        split_columns |= {"validation_tiles": 100.0 if torn else np.nan, "validation_tiles_near": 97 * torn}
        rows.append(
            {"study": "leak", **identity, "evaluated_domain": "plate", "split": "test", "selected_epoch": 2,
             "loss": 1 - test, "dice_mean": test + shift, **split_columns, **scores}
        )  # fmt: skip
        for epoch, height in ((1, 0.4), (2, validation), (3, 0.1)):
            result = {f"validation_{name}": height + shift for name in scores} | {
                "validation_dice_mean": height + shift
            }
            histories.append({**identity, "epoch": epoch, "lr": 1e-3, "validation_loss": 1 - height, **result})
    return StudyResults(
        name="leak",
        title="Chunks against wells",
        question="",
        command="",
        spec_text="",
        table=pd.DataFrame(rows),
        histories=pd.DataFrame(histories),
        failures=pd.DataFrame(),
        counts={"finished": len(rows)},
        cost=pd.DataFrame(),
        stages={"wells": [], "chunks": []},
        parents={"wells": None, "chunks": None},
        domains=["plate"],
        examples=[],
    )


def excess(result: Leakage) -> str:
    """Returns the excess of optimism by chunks over that by groups, of the first metric, as the table has it."""
    whole, torn = result.scores_table().rows[1:3]
    assert (whole[0], whole[-1]) == ("group", "") and torn[0] == CHUNKS
    return str(torn[-1])


def test_validation_is_that_of_the_selected_epoch() -> None:
    """Medians, gaps and pairs are those of the made runs by hand, at the second of three epochs."""
    results = made()
    result = leakage(compare(results, "dice_mean"))
    assert result is not None and result.is_paired and result.splits == ["group", CHUNKS] and result.leaking == [CHUNKS]
    assert [metric.column for metric in result.metrics] == [
        "dice_mean", "auprc_live", "f1_live", "auprc_dead", "f1_dead",
    ]  # fmt: skip
    for split, (validation, test) in HEIGHTS.items():
        one = result.scores["auprc_dead"][split]
        rows = results.table[results.table["split_by"] == split]
        assert one.estimates["test"].median == pytest.approx(rows["auprc_dead"].median())
        assert one.gap.median == pytest.approx(validation - test)
        assert one.estimates["validation"].interval is not None
    assert excess(result) == "+0.220 [+0.220, +0.220]"
    table = result.scores_table()
    assert len(table.rows) == 5 * 3 and table.columns[-1] == "optimism above that by group, in pairs"
    assert result.neighbors_table().rows == [
        ["group", "none", "–", "18", "3", "2"], [CHUNKS, "12,345", "97 %", "21", "20", "2"],
    ]  # fmt: skip


def test_less_is_better_turns_the_gap() -> None:
    """By the loss, a validation loss below the test loss is what is optimistic, and the numbers keep their own sign."""
    result = leakage(compare(made(), "loss"))
    assert result is not None
    one = result.scores["loss"][CHUNKS]
    assert one.gap.median == pytest.approx(-0.24) and np.allclose(one.optimism, 0.24)
    assert excess(result).startswith("+0.220")


def test_numbers_are_told_whatever_they_are() -> None:
    """Without a leak, with a single seed, and where more than the split differs, table and caption say so."""
    results = made()
    names = [name for name in results.histories.columns if name.startswith("validation_")]
    honest = results.histories.copy()
    honest[names] = honest[names].where(honest["stage"] == "wells", honest[names] - 0.25)
    same = leakage(compare(replace(results, histories=honest), "dice_mean"))
    assert same is not None and excess(same).startswith("−0.0300 [")
    single = leakage(compare(made(1), "dice_mean"))
    assert single is not None and excess(single) == "+0.220"
    assert "No interval is drawn" in leakage_figure(single).caption
    other = leakage(compare(made(other="another"), "dice_mean"))
    assert other is not None and not other.is_paired
    assert "in pairs" not in other.scores_table().columns[-1] and "[" not in excess(other)
    assert "differ in more than the split" in leakage_figure(other).caption


def test_only_studies_of_splits_are_compared(make: Callable[..., StudyResults]) -> None:
    """A study that splits all stages alike has no such section, nor one whose runs by chunks have not finished."""
    assert leakage(compare(make(seeds=2))) is None
    assert leakage(compare(replace(made(), table=made().table[:3]))) is None


def well(number: int, *, times: int = 3, tile: int = 32, side: int = 3) -> GroupTiles:
    """Returns the tiles of a well, half of each overlapping the next: discs that stay where they are, in noise."""
    generator = rng.numpy_generator("wells", number)
    size = tile // 2 * (side + 1)
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), dtype=bool)
    for cy, cx in generator.uniform(0, size, (4, 2)):
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < 60
    places = [(tile // 2 * i, tile // 2 * j) for i, j in itertools.product(range(side), repeat=2)]
    images, labels, rows = [], [], []
    for time in range(times):
        frame = (2 * mask + generator.normal(size=mask.shape)).astype(np.float32)
        for at, left in places:
            images.append(frame[None, at : at + tile, left : left + tile])
            labels.append(mask[at : at + tile, left : left + tile].astype(np.int32))
            rows.append((at, left, time))
    stack, count = np.stack(images), len(images)
    positions = np.array(rows, dtype=np.int64)
    group = f"P1/A{number}"
    return GroupTiles(
        images=stack,
        labels={"classes": np.stack(labels)},
        valid=np.tile(np.array([0, 0, tile, tile], dtype=np.int32), (count, 1)),
        intensity=np.stack([image_statistics(image) for image in stack]),
        samples={
            "group": np.array([group] * count, dtype=object),
            "source": np.array([f"{group}/t{time:03d}" for time in positions[:, 2]], dtype=object),
            "y_px": positions[:, 0],
            "x_px": positions[:, 1],
            "time": positions[:, 2],
            "experiment": np.array([f"e{number % 3}"] * count, dtype=object),
        },
    )


SPLIT = {"validation": 0.2, "test": 0.25, "seed": 2}
CHUNK = {**SPLIT, "by": "chunk", "chunk": 10}


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plate")
    parts = []
    for number in range(8):
        parts.append(folder / f"{number}.part")
        write_part(parts[-1], well(number))
    layers = [Layer("classes", "classes", ("background", "disc"))]
    attributes = {"provenance": "made"}
    splits = {"published": SplitSpec.model_validate(CHUNK), "wells": SplitSpec.model_validate(SPLIT)}
    merge_parts(parts, folder / "plate.h5", layers=layers, channels=["phase"], attributes=attributes, splits=splits)
    return folder / "plate.h5"


def spec_of(plate: Path, split: dict, **more: object) -> StageSpec:
    small = {"network": {"name": "resunet", "width": 8}, "precision": "fp32", "epochs": 1}
    return StageSpec.model_validate({"data": [{"dataset": str(plate)}], "split": split, **small, **more})


def train(spec: StageSpec, folder: Path, parent: Path | None = None) -> list[str]:
    output: list[str] = []
    inputs = Inputs({item.dataset: (Path(item.dataset), "plate") for item in spec.data}, parent)
    train_task(TrainTask(spec, folder, "k", inputs), log=output.append)
    return output


def test_a_torn_split_warns_and_is_recorded(plate: Path, tmp_path: Path) -> None:
    """Training by chunks warns with the exact count, which metrics.json keeps; its own validation part can be scored,
    and the test part shares no well with either. Its child trains by the same division; by wells it is refused."""
    output = train(spec_of(plate, CHUNK), tmp_path / "chunks")
    with Dataset(plate) as dataset:
        codes = dataset.split(SplitSpec(**CHUNK))
        expected = dataset.neighbors(np.flatnonzero(codes == 0), np.flatnonzero(codes == 1))
        wells = {part: set(dataset.samples()["group"][codes == part]) for part in range(3)}
    assert wells[0] & wells[1] and not (wells[0] | wells[1]) & wells[2]
    (warning,) = [line for line in output if "WARNING" in line]
    assert f"{expected.pairs:,} pairs of neighboring tiles" in warning and "chunks of 10 tiles" in warning
    metrics = json.loads((tmp_path / "chunks" / "metrics.json").read_text())
    assert metrics["leak"] == {
        "split": "chunks of 10 tiles", "neighbouring_pairs": expected.pairs, "validation_tiles": expected.validation,
        "validation_tiles_near": expected.near,
    }  # fmt: skip
    data = DataSpec(dataset=str(plate))
    model = load_run(tmp_path / "chunks")
    scored = score_run(model, plate, data, "validation")
    assert scored["samples"] == expected.validation
    assert scored["scores"]["loss"] == pytest.approx(metrics["scores"]["validation_loss"], rel=1e-4)
    assert score_run(model, plate, data, "test")["groups"] == len(wells[2])
    output = train(spec_of(plate, {"stored": "published"}), tmp_path / "child", tmp_path / "chunks")
    assert any(line == warning for line in output)  # the same split, as the dataset stores it
    for split in (SPLIT, {**CHUNK, "chunk": 20}, {**CHUNK, "validation": 0.3}):
        with pytest.raises(SegueError, match="validation groups were trained on"):
            train(spec_of(plate, split), tmp_path / "refused", tmp_path / "chunks")
    with pytest.raises(SegueError, match="validation groups were trained on"):
        train(spec_of(plate, SPLIT), tmp_path / "grandchild", tmp_path / "child")


def test_whole_groups_are_recorded_as_ever(plate: Path, tmp_path: Path) -> None:
    """By well or experiment nothing warns, and the run's files tell nothing new; torn groups after whole ones are
    refused too."""
    output = train(spec_of(plate, SPLIT), tmp_path / "wells")
    assert any(line.startswith("split by group: 25% test, 20% validation, seed 2") for line in output)
    assert not any("WARNING" in line for line in output)
    assert "leak" not in json.loads((tmp_path / "wells" / "metrics.json").read_text())
    groups = json.loads((tmp_path / "wells" / "groups.json").read_text())
    assert set(groups) == {"training", "validation", "ancestors", "ancestors_validation"}
    with pytest.raises(SegueError, match="validation groups were trained on"):
        train(spec_of(plate, CHUNK), tmp_path / "refused", tmp_path / "wells")


def test_training_from_python_warns(plate: Path, tmp_path: Path) -> None:
    """Without a log, a leaking split gives a warning at the caller's line, and one that does not leak gives none."""
    stage = '[[data]]\ndataset = "{}"\nimages = 8\n[network]\nname = "resunet"\nwidth = 8\n[split]\n{}'
    for name, split in (("chunks", CHUNK), ("wells", SPLIT)):
        settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in split.items())
        spec = tmp_path / f"{name}.toml"
        spec.write_text("epochs = 1\nvalidation = 8\n" + stage.format(plate, settings))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            segue.train(spec, tmp_path / name)
        result = [one for one in caught if issubclass(one.category, SegueWarning)]
        assert len(result) == (name == "chunks") and all(one.filename == __file__ for one in result)
    with pytest.raises(SegueWarning, match="chunks of 10 tiles"):
        segue.train(tmp_path / "chunks.toml", tmp_path / "refused")


def test_torn_groups_leak_by_division() -> None:
    """Groups torn alike pass; torn otherwise, or whole on either side, they are refused."""
    one, other, whole = {"a": ["A1", "A2"]}, {"b": ["A2"]}, {"": ["A2"]}
    drawing.refuse_leaks(one, {"a": ["A1"]}, "run")
    drawing.refuse_leaks(one, {"": ["A3"]}, "run")
    for trained, stored in [(one, other), (one, whole), (whole, one), (whole, whole)]:
        with pytest.raises(SegueError, match="1 of its validation groups"):
            drawing.refuse_leaks(trained, stored, "run")
    assert drawing.merge_groups([one, other, {"a": ["A3"]}]) == {"a": ["A1", "A2", "A3"], "b": ["A2"]}


STUDY = """
name = "splits"
seeds = 2
network = { name = "resunet", width = 8 }
[datasets.plate]
file = "PLATE"
[domains]
plate = { dataset = "plate" }
[stages.wells]
domain = "plate"
epochs = 1
keep_epochs = true
split = { validation = 0.2, test = 0.25, seed = 2 }
[stages.chunks]
domain = "plate"
epochs = 1
split = { stored = "published" }
"""


@pytest.mark.slow
def test_from_a_study_to_the_section(plate: Path, tmp_path: Path) -> None:
    """Two stages that differ in the split alone, trained: they are found to be alike and tested on the same wells, and
    the page shows both with the count of neighbours."""
    (tmp_path / "splits.toml").write_text(STUDY.replace("PLATE", str(plate)))
    plan = plan_study(tmp_path / "splits.toml")
    assert run_study(plan).failed == 0
    results = collect(plan, command="")
    table = results.table
    assert table["apart_from_split"].nunique() == 1 and table["evaluated_groups"].nunique() == 1
    assert table["samples"].nunique() == 1
    result = leakage(compare(results))
    assert result is not None and result.is_paired and result.splits == ["group", "chunks of 10 tiles"]
    for row in table.to_dict("records"):
        history = results.histories[results.histories["run"] == row["run"]].set_index("epoch")
        one = result.scores["f1_disc"][row["split_by"]]
        assert history["validation_f1_disc"].to_dict()[row["selected_epoch"]] in one.values["validation"]
    write_page(results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    pairs = int(table["neighbouring_pairs"].max())
    assert (tmp_path / "page-figures" / "leak.png").exists()
    assert 'id="leak"' in page and f'<td>chunks of 10 tiles</td><td class="number">{pairs:,}</td>' in page and pairs > 0
