"""Intervals over images against the t tests of scipy, and by hand where images are clustered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.images import clustered_mean, image_differences, unpaired_difference
from segue.study.table import StudyResults


def test_single_images_give_the_t_test() -> None:
    """With a cluster per image, mean and interval are those of the one-sample t test."""
    values = np.random.default_rng(0).normal(size=12)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert clustered_mean(values, np.arange(12)) == pytest.approx((values.mean(), expected.low, expected.high, 12))


def test_copies_of_an_image_are_no_new_images() -> None:
    """Five copies of every image, in one cluster with it, leave the interval as it was."""
    values = np.random.default_rng(1).normal(size=8)
    once = clustered_mean(values, np.arange(8))
    assert clustered_mean(np.repeat(values, 5), np.repeat(np.arange(8), 5)) == pytest.approx(once)
    assert np.isnan(clustered_mean(values, np.zeros(8))[1])


def test_unpaired_is_welch() -> None:
    """Without images in common, the interval is that of Welch's test."""
    first, second = np.random.default_rng(2).normal(size=(2, 9))
    expected = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    result = unpaired_difference(first, second)
    assert result == pytest.approx((first.mean() - second.mean(), expected.low, expected.high))


def with_images(results: StudyResults, *, shared: bool, groups: bool) -> StudyResults:
    """Returns the study with four images per evaluation: two micrographs, the second harder by 0.02."""
    parts = []
    for image in range(4):
        part = results.table.assign(loss_adjusted=results.table["loss_adjusted"] + 0.02 * (image // 2))
        name = f"image-{image}" if shared else part["run"] + f"-{image}"
        part = part.assign(image=name)
        parts.append(part.assign(group=f"micrograph-{image // 2}") if groups else part)
    return dataclasses.replace(results, table=pd.concat(parts, ignore_index=True))


@pytest.mark.parametrize(
    ("shared", "groups", "kind"),
    [
        (True, True, "paired, clustered by group"),
        (True, False, "paired by image, no groups in the table"),
        (False, False, "unpaired: no image in common"),
    ],
)
def test_kind_of_interval_follows_the_identifiers(
    make: Callable[..., StudyResults], shared: bool, groups: bool, kind: str
) -> None:
    """Images pair levels where both were tested on them, and groups cluster them; else it says that nothing pairs."""
    plain, comparison = make(2), compare(with_images(make(2), shared=shared, groups=groups))
    assert comparison.runs["value"].mean() == pytest.approx(compare(plain).runs["value"].mean() + 0.01)
    assert len(comparison.rows) == len(compare(plain).rows)
    analysis = image_differences(comparison, "transfer")
    assert analysis is not None
    row = analysis.table.set_index(["factor", "level"]).loc[("transfer: frozen part", "encoder")]
    assert row["kind"] == kind
    if groups:  # 2 micrographs in each of 3 domains, which are called alike in all
        assert (row["images"], row["clusters"]) == (12, 2)
    pairs = compare(plain).stage_runs("transfer").groupby("transfer.freeze")["value"].mean()
    assert row["over_images"] == pytest.approx(pairs["encoder"] - pairs["none"], abs=1e-3 if shared else 1e-2)
    assert image_differences(compare(plain), "transfer") is None
