"""Objects on the page: which metric compares runs, the scores of each representation, and where each fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cc3d
import numpy as np
import pandas as pd
import pytest
from samples.discs import disc_part
from samples.object_study import SIDE, TARGETS, fields, made

from segue.data.spec import Layer
from segue.data.writer import merge_parts, write_part
from segue.evaluation.outcomes import outcomes
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.images import image_intervals
from segue.reporting.figures.predictions.failures import crop, failures_figure
from segue.reporting.figures.predictions.objects import (
    line_colors,
    object_scores,
    objects_figure,
    objects_table,
    typical_runs,
)
from segue.reporting.figures.style import svg_text
from segue.reporting.page.page import write_page
from segue.storage import read_json
from segue.study.examples import MAX_IMAGES, most_different, object_examples
from segue.study.executor import run_study
from segue.study.plan import plan_study
from segue.study.store import timing_file
from segue.study.table import ObjectExample, StudyResults, collect, image_table


def few_objects(study: StudyResults) -> StudyResults:
    """Returns the results with a corner of the pictured micrograph: a quarter of its objects to outline."""
    (example,) = study.object_examples
    corner = slice(SIDE // 2, None), slice(SIDE // 2, None)
    predictions = {run: predicted[corner] for run, predicted in example.predictions.items()}
    small = replace(example, image=example.image[corner], label=example.label[corner], predictions=predictions)
    return replace(study, object_examples=[small])


@pytest.fixture(scope="module")
def study() -> StudyResults:
    return made()


def test_targets_are_compared_by_their_objects(study: StudyResults) -> None:
    """Where targets differ and all runs are scored on objects, by mean AP, saying why; a metric asked for rules."""
    actual = compare(study)
    assert (actual.metric.column, actual.metric.lower_is_better) == ("ap_mean", False)
    assert "targets differ" in actual.reason and actual.metric.label in actual.reason
    asked = compare(study, "dice_mean")
    assert (asked.metric.column, asked.reason) == ("dice_mean", "")


def test_runs_without_objects_or_of_classes_alone_are_not(study: StudyResults) -> None:
    """One run without object scores, or the target `classes` alone, leaves the comparison as it was."""
    lacking = study.table.assign(ap_mean=study.table["ap_mean"].where(study.table.index > 0))
    assert compare(replace(study, table=lacking)).metric.column == "dice_mean"
    classes = study.table[study.table["train.target.name"] == "classes"]
    plain = replace(study, table=classes, stages={"train": []}, targets={"train": [{"name": "classes"}]})
    assert compare(plain).reason == "" and compare(plain).metric.column == "loss"


def test_losses_of_stages_with_other_targets_are_not_compared(study: StudyResults) -> None:
    """Where a stage reconstructs images and another segments them, their losses are not one quantity."""
    classes = study.table[study.table["train.target.name"] == "classes"]
    stages, parents = {"first": [], "train": []}, {"first": None, "train": "first"}
    targets = {"first": [{"name": "reconstruction"}], "train": [{"name": "classes"}]}
    both = replace(study, table=classes.drop(columns="ap_mean"), stages=stages, parents=parents, targets=targets)
    assert compare(both).metric.column == "dice_mean"
    assert compare(replace(both, targets=targets | {"first": targets["train"]})).metric.column == "loss"


def test_a_fixed_target_of_objects_decides_too(study: StudyResults) -> None:
    """A target that is no axis of the table is known from the plan."""
    table = study.table.drop(columns="train.target.name")
    actual = compare(replace(study, table=table, stages={"train": []}, targets={"train": [{"name": "rays"}]}))
    assert actual.metric.column == "ap_mean" and "the target rays predicts objects" in actual.reason


def test_scores_are_medians_over_seeds(study: StudyResults) -> None:
    """Each line's medians are those of its rows by hand, errors in 100 objects, times from their own frame."""
    comparison = compare(study)
    actual = object_scores(comparison)
    assert [one.label for one in actual] == ["flows", "boundary", "classes"]
    for one in actual:
        rows = study.table[study.table["train.target.name"] == one.label]
        for column in ("ap50", "ap75", "ap_mean", "f1_50", "pq"):
            assert one.estimates[column].median == pytest.approx(rows[column].median())
        assert one.estimates["merges_of_100"].median == pytest.approx(rows["merges"].median() / 4)
        assert one.estimates["splits_of_100"].median == pytest.approx(rows["splits"].median() / 4)
        assert one.estimates["train_s"].median == TARGETS[one.label][4] + 1
        assert one.estimates["ap50"].interval is not None
        assert [at for at, _ in one.curve] == [p / 100 for p in range(50, 100, 5)]
    table = objects_table(comparison, actual)
    assert [row[0] for row in table.rows] == ["flows", "boundary", "classes"] and table.rows[0][-1] == "110 ms"


def test_lines_keep_their_color_whatever_their_rank(study: StudyResults) -> None:
    """Colours follow the order of the study file, so that a better seed does not recolour a line."""
    comparison = compare(study)
    actual = object_scores(comparison)
    assert list(line_colors(comparison, actual)) == list(TARGETS)
    assert line_colors(comparison, actual) == line_colors(comparison, actual[::-1])


def test_more_lines_than_colors_are_cut_and_said_so(study: StudyResults) -> None:
    """Of nine targets seven are drawn, the table has all, and the caption tells."""
    tables = [
        study.table.assign(
            run=study.table["run"] + str(k), **{"train.target.name": study.table["train.target.name"] + str(k)}
        )
        for k in range(3)
    ]
    comparison = compare(replace(study, table=pd.concat(tables, ignore_index=True)))
    actual = object_scores(comparison)
    drawing = objects_figure(comparison, actual)
    assert drawing is not None and "first 7 of 9" in drawing.caption
    assert len(actual) == 9 and sum(map(len, typical_runs(comparison).values())) == 7


def test_the_run_shown_is_the_median_one(study: StudyResults) -> None:
    """For each target the run of median mean AP, the best target first; of an even number the lower one."""
    actual = typical_runs(compare(study))
    expected = []
    for target in ("flows", "boundary", "classes"):
        rows = study.table[study.table["train.target.name"] == target].sort_values("ap_mean")
        expected.append(rows["run"].iloc[1])
    assert actual == {"nuclei": expected}
    even = replace(study, table=study.table[study.table["seed_init"] < 2])
    lower = even.table.sort_values("ap_mean").drop_duplicates("train.target.name").set_index("train.target.name")["run"]
    assert typical_runs(compare(even))["nuclei"] == [lower[t] for t in ("flows", "boundary", "classes")]


def test_outcomes_by_hand() -> None:
    """A hit, two labelled objects joined, one cut in two, one missed, one invented and one on ignored pixels."""
    label = np.zeros((12, 40), np.int32)
    actual = np.zeros_like(label)
    label[1:6, 1:6], actual[1:6, 1:6] = 1, 11
    label[1:6, 8:13], label[1:6, 13:18], actual[1:6, 8:18] = 2, 3, 12
    label[1:6, 20:30], actual[1:6, 20:25], actual[1:6, 25:30] = 4, 13, 14
    label[7:11, 1:5] = 5
    actual[7:11, 10:14] = 15
    label[7:11, 20:24], actual[7:11, 20:24] = -1, 16
    one = outcomes(label, actual)
    assert one.predicted == {"hit": (11,), "merged": (12,), "split": (13, 14), "false": (15,)}
    assert (one.missed, one.merges, one.splits) == ((5,), 1, 1)


def test_every_predicted_object_has_one_kind(study: StudyResults) -> None:
    """Kinds part the judged objects, and what matches nothing is part of a merge or split, missed, or false."""
    label, actual = fields()
    for predicted in actual.values():
        one = outcomes(label, predicted)
        ids = [k for of_kind in one.predicted.values() for k in of_kind]
        assert sorted(ids) == sorted(set(np.unique(predicted)) - {0})
    assert outcomes(label, actual["joined"]).merges == 2 and outcomes(label, actual["cut"]).splits == 1
    same = outcomes(label, np.maximum(label, 0))
    assert not same.missed and not any(same.predicted[kind] for kind in ("merged", "split", "false"))


def test_crop_holds_what_is_wrong() -> None:
    """The crop contains the one wrong object, lies in the image, and is the whole of an image smaller than it."""
    label, _ = fields()
    wrong = np.where(label == 40, 0, np.maximum(label, 0))
    example = ObjectExample(label.astype(float), label, "nuclei", 1, {"run": wrong})
    rows, columns = crop(example, {"run": outcomes(label, wrong)})
    assert (label[rows, columns] == 40).sum() == (label == 40).sum()
    assert rows.start >= 0 and rows.stop <= SIDE and rows.stop - rows.start == columns.stop - columns.start
    small = ObjectExample(label[:30, :40].astype(float), label[:30, :40], "nuclei", 1, {"run": wrong[:30, :40]})
    assert crop(small, {"run": outcomes(label[:30, :40], wrong[:30, :40])}) == (slice(0, 30), slice(0, 40))


@pytest.mark.parametrize(
    "hostile", [np.zeros((20, 20), np.int32), -np.ones((20, 20), np.int32), np.ones((20, 20), np.int32)]
)
def test_hostile_micrographs_are_drawn(hostile: np.ndarray) -> None:
    """Nothing labelled, all ignored, one object that fills the image; nothing predicted or all: a figure comes."""
    predictions = {"a": np.zeros((20, 20), np.int32), "b": np.ones((20, 20), np.int32)}
    example = ObjectExample(np.full((20, 20), np.nan), hostile, "nuclei", 1, predictions)
    assert failures_figure([example], {"a": "first", "b": "second"}) is not None


def test_micrographs_are_those_where_runs_differ_most() -> None:
    """First by the range of merges and splits, then by that of missed and false objects, then in order."""

    def counts(merges: list[int], hits: list[int]) -> dict[str, list[int]]:
        return {
            "true_objects": [9] * 5,
            "predicted_objects": [9] * 5,
            "merges": merges,
            "splits": [0] * 5,
            "hits_50": hits,
        }

    one, other = counts([5, 0, 1, 0, 0], [9, 9, 9, 9, 9]), counts([5, 0, 3, 0, 0], [9, 9, 9, 4, 9])
    assert most_different([one, other], 4) == [2, 3, 0, 1]
    assert most_different([one], 9) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_page_shows_objects_and_failures(study: StudyResults, tmp_path: Path) -> None:
    """The section says why objects are compared and holds the table and both figures."""
    out = tmp_path / "page.html"
    write_page(few_objects(study), out)
    page = out.read_text()
    assert page.index('id="objects"') < page.index('class="objects"') < page.index('id="fails"')
    assert "because the targets differ" in page and "flows has the best mean AP" in page
    assert {path.name for path in (tmp_path / "page-figures").iterdir()} >= {"objects.svg", "failures.png"}


@pytest.mark.slow
def test_pictures_are_the_same_bytes_each_time(study: StudyResults) -> None:
    """Equal examples give equal pictures, as the page promises of all its figures."""
    examples = few_objects(study).object_examples
    names = {run: run for run in examples[0].predictions}
    first, second = (failures_figure(examples, names) for _ in range(2))
    assert first and second and svg_text(first.figure) == svg_text(second.figure)


def test_studies_not_scored_on_objects_have_no_such_section(make: Callable[..., StudyResults]) -> None:
    """Results of classes keep their page: nothing to draw, no runs to look for."""
    comparison = compare(make(seeds=2))
    assert object_scores(comparison) == [] and objects_figure(comparison, []) is None
    assert typical_runs(comparison) == {} and failures_figure([], {}) is None


STUDY = """
name = "two"
network = { name = "resunet", width = 8 }
split = { validation = 0.2, test = 0.3 }
[datasets.discs]
file = "discs.h5"
[domains]
discs = { dataset = "discs" }
[stages.train]
domain = "discs"
epochs = 1
target = { name = { each = ["foreground", "boundary"] } }
"""


@pytest.mark.slow
def test_from_runs_to_pictures(tmp_path: Path) -> None:
    """Two targets, trained: counts by micrograph sum to the scores, times are kept apart so that scoring anew gives the
    same bytes, and what is pictured is what was counted, the same micrographs for both runs."""
    parts = []
    for group in range(16):
        part = disc_part(group, size=32)
        numbered = np.stack([cc3d.connected_components(mask).astype(np.int32) for mask in part.labels["discs"] > 0])
        parts.append(tmp_path / f"{group}.part")
        write_part(parts[-1], replace(part, labels={"discs": numbered}))
    layers = [Layer("discs", "instances", ("background", "disc"))]
    attributes = {"provenance": "made"}
    merge_parts(parts, tmp_path / "discs.h5", layers=layers, channels=["intensity"], attributes=attributes, splits={})
    (tmp_path / "two.toml").write_text(STUDY)
    plan = plan_study(tmp_path / "two.toml")
    assert run_study(plan).failed == 0
    files = [plan.evaluation_file(t.key, plan.evaluations[0]) for t in plan.trainings]
    first = [file.read_bytes() for file in files]
    for file in files:
        result, timing = read_json(file), read_json(timing_file(file))
        for one, many in (("merges", "merges"), ("splits", "splits"), ("true_objects", "objects_true")):
            assert sum(result["images"][one]) == result["scores"][f"tile_{many}"]
        assert (
            timing["images"] == len(result["images"]["merges"]) and 0 < timing["decode_s_median"] <= timing["decode_s"]
        )
        file.unlink()
    plan = plan_study(tmp_path / "two.toml")
    run_study(plan)
    assert [file.read_bytes() for file in files] == first
    images, notes = image_table(plan)  # whose counts give the scores
    assert not notes and images.groupby("run")["tile_ap50"].count().eq(read_json(files[0])["samples"]).all()
    assert images["tile_objects_true"].sum() == sum(sum(read_json(file)["images"]["true_objects"]) for file in files)
    results = collect(plan, command="")
    assert image_intervals(compare(results), "train")[0].table["value_over_images_low"].notna().all()
    assert results.timings is not None and (results.timings["decode_s"].to_numpy() > 0).all()
    examples = object_examples(plan, typical_runs(compare(results)))
    assert len(examples) == MAX_IMAGES
    for example in examples:
        assert set(example.predictions) == {train.key for train in plan.trainings}
        for train, file in zip(plan.trainings, files, strict=True):
            counted = read_json(file)["images"]
            actual = outcomes(example.label, example.predictions[train.key])
            stored = {name: values[example.number - 1] for name, values in counted.items()}
            assert (actual.merges, actual.splits) == (stored["merges"], stored["splits"])
            assert len(np.unique(example.label[example.label > 0])) == stored["true_objects"]
