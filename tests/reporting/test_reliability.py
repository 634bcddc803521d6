"""The reliability of confidences on the page: what is drawn and listed is what the runs' bins say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from samples.object_study import TARGETS, made

from segue.inference.confidence import reliability
from segue.reporting.analysis.comparison import Comparison, compare
from segue.reporting.figures.predictions.objects import object_scores
from segue.reporting.figures.predictions.reliability import reliabilities, reliability_figure
from segue.study.table import StudyResults

IMAGES, OBJECTS = 12, 60
BIAS = {"classes": 0.2, "boundary": 0.0, "flows": -0.1}  # by which the confidence is too high


def with_confidence(study: StudyResults, bias: dict[str, float]) -> StudyResults:
    """Returns the results with objects whose IoU is their confidence less the bias, on twelve micrographs a run."""
    generator = np.random.default_rng(2)
    bins = {}
    for run in study.table["run"]:
        target = run.partition("-")[0]
        if target in bias:
            confidence = generator.uniform(0.3, 0.9, (IMAGES, OBJECTS))
            iou = confidence - bias[target]
            bins[run, "nuclei"] = np.stack([reliability(*each) for each in zip(confidence, iou, strict=True)])
    return replace(study, reliability=bins)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(with_confidence(made(), BIAS))


def test_objects_of_all_runs_are_listed_with_their_error(comparison: Comparison) -> None:
    figure, table = reliability_figure(comparison, object_scores(comparison)) or pytest.fail("no figure")
    assert figure.name == "reliability"
    listed = {str(row[0]): row for row in table.rows}
    assert set(listed) == set(TARGETS)
    for target, bias in BIAS.items():
        _, runs, objects, error = listed[target]
        assert (runs, objects) == ("3", f"{3 * IMAGES * OBJECTS:,}")
        assert float(error[0]) == pytest.approx(abs(bias), abs=0.0006)
        low, high = map(float, error[1].split(" – "))
        assert low <= float(error[0]) <= high


def test_points_are_the_means_of_bins(comparison: Comparison) -> None:
    """At the mean confidence of a bin, the mean IoU: beneath the diagonal by the bias; few objects are not drawn."""
    figure, _ = reliability_figure(comparison, object_scores(comparison)) or pytest.fail("no figure")
    lines = {str(bars.get_label()): bars.lines[0] for bars in figure.figure.axes[0].containers}
    for target, bias in BIAS.items():
        x, y = (np.asarray(values, float) for values in lines[target].get_data())
        np.testing.assert_allclose(x - y, bias, atol=1e-9)
        np.testing.assert_allclose(x, [0.35, 0.45, 0.55, 0.65, 0.75, 0.85], atol=0.02)


def test_micrographs_of_one_domain_are_resampled_together(comparison: Comparison) -> None:
    each = reliabilities(comparison, object_scores(comparison))[0]
    assert each.images.shape == (IMAGES, 10, 3)
    assert each.objects == 3 * IMAGES * OBJECTS
    assert each.resampled()[..., 0].sum(-1) == pytest.approx(3 * IMAGES * OBJECTS)


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        (lambda study: replace(study, reliability={}), None),
        (lambda study: with_confidence(study, {"flows": 0.0}), ["flows"]),
        (lambda study: replace(study, reliability={("flows-0", "nuclei"): np.zeros((3, 10, 3))}), None),
    ],
    ids=["none", "one target", "no objects"],
)
def test_targets_without_a_confidence_are_left_out(
    change: Callable[[StudyResults], StudyResults], labels: list[str] | None
) -> None:
    comparison = compare(change(made()))
    drawn = reliability_figure(comparison, object_scores(comparison))
    assert (drawn and [row[0] for row in drawn[1].rows]) == labels
