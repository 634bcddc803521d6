"""Differences between levels with intervals over test images, beside those over seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import COVERAGE, t_quantile
from segue.reporting.analysis.comparison import Comparison, repeat_columns
from segue.reporting.analysis.factors import Factor, factors
from segue.reporting.analysis.result import Analysis, interval_columns
from segue.reporting.formatting import stage_label


@dataclass(frozen=True)
class ImageDifference:
    """A mean difference over images with its 95 % interval; `kind` says how images depend on each other."""

    mean: float
    interval: tuple[float, float]
    images: int
    clusters: int
    kind: str


def clustered_mean(
    values: np.ndarray, clusters: np.ndarray, coverage: float = COVERAGE
) -> tuple[float, float, float, int]:
    """Returns the mean of `values` (n,) with its interval, by default of 95 %, and the number of clusters.

    The variance sums the residuals of each cluster before squaring, with the factor G / (G - 1) for G clusters, and the
    quantile is of a t distribution with G - 1 degrees of freedom (Liang and Zeger 1986, Biometrika 73, 13; Cameron and
    Miller 2015, Journal of Human Resources 50, 317). With a cluster per value this is the interval of the t test. The
    interval is NaN for a single cluster.
    """
    codes = pd.factorize(clusters)[0]
    count, mean = int(codes.max()) + 1, float(values.mean())
    if count < 2:
        return mean, float("nan"), float("nan"), count
    sums = np.bincount(codes, weights=values - mean)
    error = np.sqrt(count / (count - 1) * (sums @ sums)) / len(values)
    half = float(t_quantile(count - 1, (1 + coverage) / 2) * error)
    return mean, mean - half, mean + half, count


def unpaired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Returns the difference of the means of two samples with its 95 % interval, by Welch's t test."""
    from scipy.stats import ttest_ind

    interval = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    return float(first.mean() - second.mean()), float(interval.low), float(interval.high)


def image_differences(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns every level of every factor against the first, over seeds and over images of the runs' own domains.

    Over images: the mean over images of the mean difference of runs that differ in this factor alone. Where the table
    has a column `group` (micrograph, structure, well), images of one group are a cluster; without, every image is one.
    Levels that have no image in common, or no pair of runs, are compared without pairs. None where the table has no
    column `image`, a row per image.
    """
    images = comparison.images
    if images is None:
        return None
    images = images[(images["stage"] == stage) & (images["domain"] == images["evaluated_domain"])]
    rows = []
    for factor in factors(comparison, stage):
        for level in factor.levels[1:]:
            over_images = _difference(comparison, images, stage, factor, level.value)
            if over_images is None:
                continue
            low, high = over_images.interval
            rows.append(
                {
                    "factor": factor.label,
                    "level": level.name,
                    "reference": factor.levels[0].name,
                    **(interval_columns("over_seeds", level.difference) if level.difference else {}),
                    "over_images": over_images.mean,
                    "over_images_low": low,
                    "over_images_high": high,
                    "images": over_images.images,
                    "clusters": over_images.clusters,
                    "kind": over_images.kind,
                }
            )
    if not rows:
        return None
    note = (
        "Over seeds: median difference of runs in pairs, its interval over seeds, for these images; over images: mean"
        " difference, its 95 % interval over other images, for these runs."
    )
    return Analysis(f"Differences over seeds and over images, {stage_label(stage)}", pd.DataFrame(rows), (note,))


def _difference(
    comparison: Comparison, images: pd.DataFrame, stage: str, factor: Factor, value: object
) -> ImageDifference | None:
    axes = [axis for axis in comparison.axes(stage) if axis in images.columns and axis != factor.axis]
    shared = [*axes, *(["domain"] if not factor.is_target else []), *repeat_columns(images)]
    picture = ["evaluated_domain", "image", *(["group"] if "group" in images.columns else [])]
    first, second = (images[images[factor.axis] == one] for one in (value, factor.levels[0].value))
    if first.empty or second.empty:
        return None
    keys = list(dict.fromkeys([*shared, *picture]))
    ours, theirs = (part.groupby(keys, dropna=False)["value"].mean() for part in (first, second))
    paired = (ours - theirs).dropna()
    if len(paired):
        by_image = paired.groupby(level=picture).mean().reset_index()
        has_groups = "group" in picture and by_image["group"].notna().all()
        clusters = by_image["group" if has_groups else "image"].astype(str)
        if not has_groups:
            clusters = clusters + "\n" + by_image["evaluated_domain"].astype(str)
        mean, low, high, count = clustered_mean(by_image["value"].to_numpy(), clusters.to_numpy())
        kind = "paired, clustered by group" if has_groups else "paired by image, no groups in the table"
        return ImageDifference(mean, (low, high), len(by_image), count, kind)
    ours, theirs = (part.groupby(picture, dropna=False)["value"].mean().to_numpy() for part in (first, second))
    if min(len(ours), len(theirs)) < 2:
        return None
    mean, low, high = unpaired_difference(ours, theirs)
    count = len(ours) + len(theirs)
    return ImageDifference(mean, (low, high), count, count, "unpaired: no image in common")
