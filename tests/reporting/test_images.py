"""Intervals over images against scipy's t tests and closed forms, pooled as the reported scores are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from segue.errors import SegueError
from segue.evaluation.image_counts import ImageCounts
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.images import ImageValues, cluster_weights, image_intervals, lacks_counts, t_interval
from segue.reporting.analysis.tables import analyze
from segue.study.table import StudyResults

MONTE_CARLO = 0.1  # of the width of intervals from 2000 resamples, more than four standard deviations


def interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Returns the interval of the mean of values whose groups are weighted."""
    names, codes = np.unique(groups, return_inverse=True)
    weights = cluster_weights(len(names), 2000).astype(float)[:, codes]
    samples = ImageValues(tuple(map(str, groups)), values).weighted_score("", weights)
    assert samples is not None
    return t_interval(samples, len(names))


def test_single_images_give_the_t_test() -> None:
    """With a group per image, the interval of a mean is that of the one-sample t test."""
    values = np.random.default_rng(0).normal(size=12)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert interval(values, np.arange(12)) == pytest.approx((expected.low, expected.high), abs=MONTE_CARLO * width)


def test_copies_of_an_image_are_no_new_images() -> None:
    """Five copies of every image, in one group with it, leave the interval as it was; one group gives none."""
    values = np.random.default_rng(1).normal(size=8)
    once = interval(values, np.arange(8))
    assert interval(np.repeat(values, 5), np.repeat(np.arange(8), 5)) == pytest.approx(once)
    assert np.isnan(interval(values, np.zeros(8))).all()


def with_images(results: StudyResults, *, named: bool = True, shared: bool = True, groups: bool = True) -> StudyResults:
    """Returns the study with four images per evaluation: two micrographs, the second harder by 0.02."""
    parts = []
    for image in range(4):
        part = results.table.assign(loss_adjusted=results.table["loss_adjusted"] + 0.02 * (image // 2))
        part = part.assign(image=(f"image-{image}" if shared else part["run"] + f"-{image}") if named else None)
        parts.append(part.assign(group=f"micrograph-{image // 2}") if groups else part)
    return dataclasses.replace(results, table=pd.concat(parts, ignore_index=True))


@pytest.mark.parametrize(
    ("identifiers", "kind"),
    [
        ({}, "paired by group"),
        ({"groups": False}, "paired by image, no groups in the table"),
        ({"groups": False, "shared": False}, "unpaired: no image in common, no groups in the table"),
        ({"groups": False, "named": False}, "unpaired: no image in common, no groups in the table"),
    ],
)
def test_kind_of_interval_follows_the_identifiers(
    make: Callable[..., StudyResults], identifiers: dict[str, bool], kind: str
) -> None:
    """Images pair levels where both were tested on them, and groups cluster them; else it says that nothing pairs. The
    value over images is the one over seeds: the median difference of pairs of runs."""
    plain, comparison = make(2), compare(with_images(make(2), **identifiers))
    assert comparison.runs["value"].mean() == pytest.approx(compare(plain).runs["value"].mean() + 0.01)
    assert len(comparison.rows) == len(compare(plain).rows)
    values, differences = image_intervals(comparison, "transfer")
    row = differences.table.set_index(["factor", "level"]).loc[("transfer: frozen part", "encoder")]
    assert row["kind"] == kind and row["images"] == 4
    assert row["over_images"] == row["over_seeds"]
    width = row["over_images_high"] - row["over_images_low"]
    assert width < 1e-6 if kind.startswith("paired") else width > 0.002  # an image is harder by as much for both levels
    widths = (values.table["value_over_images_high"] - values.table["value_over_images_low"]).to_numpy()
    if kind.startswith("paired by image"):  # values x and x + 0.02, of two images each, and the quantile of t
        assert widths == pytest.approx(2 * 3.182 * 0.01 / math.sqrt(3), rel=MONTE_CARLO)
    if kind == "paired by group":
        assert values.table["groups"].eq(2).all()
        assert widths == pytest.approx(2 * 12.71 * 0.01, rel=MONTE_CARLO)
    assert image_intervals(compare(plain), "transfer") == []


def counts_of(value: float, images: int) -> ImageCounts:
    """Returns images of 100 pixels of a disc, in the last of which fewer are found than in the others; the pooled IoU
    is `value`."""
    labeled = np.where(np.arange(images) % 3 == 0, 400, 100)
    found = value * labeled + 30 * np.cos(np.arange(images)) * (labeled / labeled.sum()).mean() * images
    found += (value * labeled.sum() - found.sum()) / images
    confusion = np.zeros((images, 2, 2))
    confusion[:, 1, 1], confusion[:, 1, 0], confusion[:, 0, 0] = found, labeled - found, 600
    names = tuple(f"image-{index}" for index in range(images))
    ones = np.ones((images, 1))
    return ImageCounts(names, names, ("background", "particle"), False, False, 0.0, ones, ones, confusion, None)


def with_counts(results: StudyResults, missing: int = 0) -> StudyResults:
    """Returns the study with counts of 15 images that give its IoU, but for some of the runs."""
    value = results.table.set_index(["run", "evaluated_domain"])["iou_mean"]
    lost = set(results.table["run"].unique()[-missing:]) if missing else set()
    return dataclasses.replace(
        results, image_counts=lambda run, domain: None if run in lost else counts_of(value[run, domain], 15)
    )


def test_what_is_resampled_is_the_pooled_score(make: Callable[..., StudyResults]) -> None:
    """The interval of a single run is that of a ratio of sums, by its linearization (Cochran 1977, eq. 6.13), and not
    that of a mean of images."""
    results = with_counts(make(1))
    table = results.table[(results.table["stage"] == "scratch") & (results.table["scratch.images"] == 16)]
    comparison = compare(dataclasses.replace(results, table=table), "iou_mean")
    (values,) = (one for one in image_intervals(comparison, "scratch") if one.title.startswith("Values"))
    row = values.table.set_index("domain").loc["0nm"]
    confusion = counts_of(row["value_over_images"], 15).confusion
    assert confusion is not None
    found, labeled = confusion[:, 1, 1], confusion[:, 1].sum(1)
    residual = found - found.sum() / labeled.sum() * labeled
    error = math.sqrt(15 / 14 * (residual @ residual)) / labeled.sum()
    width = row["value_over_images_high"] - row["value_over_images_low"]
    assert width == pytest.approx(2 * 2.145 * error, rel=0.1)
    of_mean = (found / labeled).std(ddof=1) / math.sqrt(15)
    assert abs(width / (2 * 2.145 * of_mean) - 1) > 0.2


def test_runs_scored_before_have_no_interval_and_it_is_said(make: Callable[..., StudyResults]) -> None:
    """Where images of a run are not known, what it enters has no interval; counts of another score are refused."""
    results = with_counts(make(2), missing=2)  # two networks trained from scratch in one domain
    values = analyze(compare(results, "iou_mean"), "images", "scratch")[0]
    missing = values.table.set_index("domain")["value_over_images_low"].isna()
    assert missing.to_dict() == {"-10nm": False, "0nm": False, "+10nm": True}
    assert any("10 of 12 runs have counts per image" in note for note in values.notes)
    assert lacks_counts(compare(with_counts(make(1), missing=10_000))) and not lacks_counts(compare(results))
    altered = dataclasses.replace(results, image_counts=lambda run, domain: counts_of(0.5, 15))
    with pytest.raises(SegueError, match=r"in each image gives iou_mean 0\.5, but its evaluation has"):
        image_intervals(compare(altered, "iou_mean"), "scratch")
