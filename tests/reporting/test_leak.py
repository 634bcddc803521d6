"""The leak shown: what chunks and wells promise on validation, beside what untouched wells keep."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from segue import rng
from segue.data.dataset import Dataset
from segue.data.spec import Layer, SplitSpec
from segue.data.writer import Part, assemble, write_part
from segue.errors import SegueError
from segue.reporting.analysis.comparison import compare
from segue.reporting.figures.leakage import leak_drawing, leak_table, leak_words, leaks
from segue.reporting.page.page import write_page
from segue.study.evaluate import score_run
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.table import StudyResults, collect
from segue.training import data as drawing
from segue.training.data import Inputs
from segue.training.run import train_stage
from segue.training.run_folder import load_run
from segue.training.spec import DataSpec, StageSpec

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
        told = {"split_by": split, "split_tears": torn, "apart_from_split": other if torn else "same"}
        told |= {"training_groups": 21 if torn else 18, "validation_groups": 20 if torn else 3, "evaluated_groups": 2}
        told |= {"neighbouring_pairs": 12345 * torn}
        told |= {"validation_tiles": 100.0 if torn else np.nan, "validation_tiles_near": 97 * torn}
        rows.append(
            {"study": "leak", **identity, "evaluated_domain": "plate", "split": "test", "selected_epoch": 2,
             "loss": 1 - test, "dice_mean": test + shift, **told, **scores}
        )  # fmt: skip
        for epoch, height in ((1, 0.4), (2, validation), (3, 0.1)):
            found = {f"validation_{name}": height + shift for name in scores} | {"validation_dice_mean": height + shift}
            histories.append({**identity, "epoch": epoch, "lr": 1e-3, "validation_loss": 1 - height, **found})
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


def test_validation_is_that_of_the_selected_epoch() -> None:
    """Medians, gaps and pairs are those of the made runs by hand, at the second of three epochs."""
    results = made()
    found = leaks(compare(results, "dice_mean"))
    assert found is not None and found.alike and found.splits == ["group", CHUNKS] and found.torn == [CHUNKS]
    assert [metric.column for metric in found.metrics] == [
        "dice_mean", "auprc_live", "f1_live", "auprc_dead", "f1_dead",
    ]  # fmt: skip
    for split, (validation, test) in HEIGHTS.items():
        one = found.scores["auprc_dead"][split]
        rows = results.table[results.table["split_by"] == split]
        assert one.estimates["test"].median == pytest.approx(rows["auprc_dead"].median())
        assert one.gap.median == pytest.approx(validation - test)
        assert one.estimates["validation"].interval is not None
    told = " ".join(leak_words(found))
    assert f"split by {CHUNKS} is rosier than split by group, by 0.220 [0.220, 0.220] in pairs of runs" in told
    assert f"12,345 split by {CHUNKS}, and 97 % of the validation tiles have one; none split by group" in told
    assert leak_table(found).count("<tr") == 1 + 5 * 3
    caption = leak_drawing(found).caption
    assert f"Groups: training images are of 18 split by group and 21 split by {CHUNKS};" in caption
    assert "Training images of more groups" in caption


def test_less_is_better_turns_the_gap() -> None:
    """By the loss, a validation loss below the test loss is what is rosy, and the numbers keep their own sign."""
    found = leaks(compare(made(), "loss"))
    assert found is not None
    one = found.scores["loss"][CHUNKS]
    assert one.gap.median == pytest.approx(-0.24) and np.allclose(one.rosy, 0.24)
    assert "is rosier than split by group, by 0.220" in leak_words(found)[1]


def test_numbers_are_told_whatever_they_are() -> None:
    """Without a leak, with a single seed, and where more than the split differs, the sentences say so."""
    results = made()
    names = [name for name in results.histories.columns if name.startswith("validation_")]
    honest = results.histories.copy()
    honest[names] = honest[names].where(honest["stage"] == "wells", honest[names] - 0.25)
    same = leaks(compare(replace(results, histories=honest), "dice_mean"))
    assert same is not None and "less rosy than split by group, by 0.0300" in " ".join(leak_words(same))
    single = leaks(compare(made(1), "dice_mean"))
    assert single is not None and "it may be chance, as there are no intervals" in " ".join(leak_words(single))
    assert "No interval is drawn" in leak_drawing(single).caption
    other = leaks(compare(made(other="another"), "dice_mean"))
    assert other is not None and not other.alike
    assert "in pairs" not in leak_words(other)[1] and "differ in more than the split" in leak_drawing(other).caption


def test_only_studies_of_splits_are_compared(make: Callable[..., StudyResults]) -> None:
    """A study that splits all stages alike has no such section, nor one whose runs by chunks have not finished."""
    assert leaks(compare(make(seeds=2))) is None
    assert leaks(compare(replace(made(), table=made().table[:3]))) is None


def well(number: int, *, times: int = 3, tile: int = 32, side: int = 3) -> Part:
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
    return Part(
        images=stack,
        labels={"classes": np.stack(labels)},
        valid=np.tile(np.array([0, 0, tile, tile], dtype=np.int32), (count, 1)),
        intensity=np.stack([stack.mean((2, 3)), stack.std((2, 3))], axis=-1).astype(np.float32),
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
    assemble(parts, folder / "plate.h5", layers=layers, channels=["phase"], attributes=attributes, splits=splits)
    return folder / "plate.h5"


def spec_of(plate: Path, split: dict, **more: object) -> StageSpec:
    small = {"network": {"name": "resunet", "width": 8}, "precision": "fp32", "epochs": 1}
    return StageSpec.model_validate({"data": [{"dataset": str(plate)}], "split": split, **small, **more})


def train(spec: StageSpec, folder: Path, parent: Path | None = None) -> list[str]:
    told: list[str] = []
    inputs = Inputs({item.dataset: (Path(item.dataset), "plate") for item in spec.data}, parent)
    train_stage(spec, folder, key="k", inputs=inputs, tell=told.append)
    return told


def test_a_torn_split_warns_and_is_recorded(plate: Path, tmp_path: Path) -> None:
    """Training by chunks warns with the exact count, which metrics.json keeps; its own validation part can be scored,
    and the test part shares no well with either. Its child trains by the same division; by wells it is refused."""
    torch.set_num_threads(1)
    told = train(spec_of(plate, CHUNK), tmp_path / "chunks")
    with Dataset(plate) as dataset:
        codes = dataset.split(SplitSpec(**CHUNK))
        expected = dataset.neighbours(np.flatnonzero(codes == 0), np.flatnonzero(codes == 1))
        wells = {part: set(dataset.samples()["group"][codes == part]) for part in range(3)}
    assert wells[0] & wells[1] and not (wells[0] | wells[1]) & wells[2]
    (warning,) = [line for line in told if "WARNING" in line]
    assert f"{expected.pairs:,} pairs of neighbouring tiles" in warning and "chunks of 10 tiles" in warning
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
    told = train(spec_of(plate, {"stored": "published"}), tmp_path / "child", tmp_path / "chunks")
    assert any(line == warning for line in told)  # the same split, as the dataset stores it
    for split in (SPLIT, {**CHUNK, "chunk": 20}, {**CHUNK, "validation": 0.3}):
        with pytest.raises(SegueError, match="validation groups were trained on"):
            train(spec_of(plate, split), tmp_path / "refused", tmp_path / "chunks")
    with pytest.raises(SegueError, match="validation groups were trained on"):
        train(spec_of(plate, SPLIT), tmp_path / "grandchild", tmp_path / "child")


def test_whole_groups_are_recorded_as_ever(plate: Path, tmp_path: Path) -> None:
    """By well or experiment nothing warns, and the run's files tell nothing new; torn groups after whole ones are
    refused too."""
    told = train(spec_of(plate, SPLIT), tmp_path / "wells")
    assert any(line.startswith("split by group: 25% test, 20% validation, seed 2") for line in told)
    assert not any("WARNING" in line for line in told)
    assert "leak" not in json.loads((tmp_path / "wells" / "metrics.json").read_text())
    groups = json.loads((tmp_path / "wells" / "groups.json").read_text())
    assert set(groups) == {"training", "validation", "ancestors", "ancestors_validation"}
    with pytest.raises(SegueError, match="validation groups were trained on"):
        train(spec_of(plate, CHUNK), tmp_path / "refused", tmp_path / "wells")


def test_torn_groups_leak_by_division() -> None:
    """Groups torn alike pass; torn otherwise, or whole on either side, they are refused."""
    one, other, whole = {"a": ["A1", "A2"]}, {"b": ["A2"]}, {"": ["A2"]}
    drawing.refuse_divided_leaks(one, {"a": ["A1"]}, "run")
    drawing.refuse_divided_leaks(one, {"": ["A3"]}, "run")
    for trained, held in [(one, other), (one, whole), (whole, one), (whole, whole)]:
        with pytest.raises(SegueError, match="1 of its validation groups"):
            drawing.refuse_divided_leaks(trained, held, "run")
    assert drawing.merged([one, other, {"a": ["A3"]}]) == {"a": ["A1", "A2", "A3"], "b": ["A2"]}


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


def test_from_a_study_to_the_section(plate: Path, tmp_path: Path) -> None:
    """Two stages that differ in the split alone, trained: they are found to be alike and tested on the same wells, and
    the page shows both with the count of neighbours."""
    torch.set_num_threads(1)
    (tmp_path / "splits.toml").write_text(STUDY.replace("PLATE", str(plate)))
    plan = plan_study(tmp_path / "splits.toml")
    assert run_study(plan).failed == 0
    results = collect(plan, command="")
    table = results.table
    assert table["apart_from_split"].nunique() == 1 and table["evaluated_groups"].nunique() == 1
    assert table["samples"].nunique() == 1
    found = leaks(compare(results))
    assert found is not None and found.alike and found.splits == ["group", "chunks of 10 tiles"]
    for row in table.to_dict("records"):
        history = results.histories[results.histories["run"] == row["run"]].set_index("epoch")
        one = found.scores["f1_disc"][row["split_by"]]
        assert history["validation_f1_disc"].to_dict()[row["selected_epoch"]] in one.values["validation"]
    write_page(results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    pairs = int(table["neighbouring_pairs"].max())
    assert (tmp_path / "page-figures" / "leak.png").exists()
    assert 'id="leak"' in page and f"{pairs:,} split by chunks of 10 tiles" in page and pairs > 0
