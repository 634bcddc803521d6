"""Shares of the variance of the outcome: each factor, their interactions, and repeats with other seeds."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import t_quantile
from segue.reporting.analysis.comparison import Comparison, repeat_columns
from segue.reporting.analysis.result import Analysis
from segue.reporting.formatting import axis_label, stage_label

MAX_FACTORS = 8  # of which all 2^n subsets are fitted


def variance_shares(comparison: Comparison, stage: str, *, log: bool = False) -> Analysis | None:
    """Returns the share of each factor in the variance of a stage's values, in the runs' own domains.

    A factor's share is the part of the sum of squares that its main effect explains, averaged over all orders in which
    the factors can enter a linear model, which makes shares add up although pairs of domains are missing (Lindeman,
    Merenda and Gold 1980; Grömping 2007, American Statistician 61, 139), less what as many degrees of freedom explain
    by chance (epsilon squared, Kelley 1935, Proceedings of the National Academy of Sciences 21, 554). "Interactions"
    is the rest of the variance between configurations, "repeats" that within them. log: of the logarithm, for values
    whose effects are ratios. Intervals are from the jackknife that leaves out one repeat, or one seed, at a time, with
    a t distribution. None for fewer than two configurations.
    """
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"]) & ((frame["value"] > 0) | (not log))]
    axes = [axis for axis in comparison.axes(stage) if frame[axis].nunique(dropna=False) > 1]
    others = frame.groupby(axes, dropna=False)["domain"].nunique() if axes else frame.agg({"domain": "nunique"})
    if others.max() > 1:  # what was trained on is not among the settings
        axes.append("domain")
    ignored = axes[MAX_FACTORS:]
    axes = axes[:MAX_FACTORS]
    if not axes or frame["configuration"].nunique() < 2:
        return None
    values = np.log(frame["value"].to_numpy()) if log else frame["value"].to_numpy()
    codes = [pd.factorize(frame[axis], use_na_sentinel=False)[0] for axis in axes]
    configuration = pd.factorize(frame["configuration"])[0]
    every = np.ones(len(frame), dtype=bool)
    shares = _shares(values, codes, configuration, every)
    variance = np.zeros(len(shares))
    freedoms = []
    for column in repeat_columns(frame):
        repeats = frame[column].to_numpy()
        distinct = pd.unique(repeats)
        if len(distinct) < 2:
            continue
        parts = np.array([_shares(values, codes, configuration, repeats != one) for one in distinct])
        variance += (len(parts) - 1) / len(parts) * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0)
        freedoms.append(len(parts) - 1)
    half = t_quantile(min(freedoms)) * np.sqrt(variance) if freedoms else np.full(len(shares), np.nan)
    names = [*(axis_label(axis) for axis in axes), "interactions", "repeats"]
    levels = [int(code.max()) + 1 for code in codes]
    table = pd.DataFrame(
        {
            "factor": names,
            "levels": [*levels, float("nan"), float("nan")],
            "share": shares,
            "share_low": shares - half,
            "share_high": shares + half,
        }
    )
    notes = [
        f"Share of the variance of {'the logarithm of ' if log else ''}{comparison.metric.label} over all"
        f" {len(frame):,} runs; a share near zero can come out slightly negative.",
    ]
    if freedoms:
        notes.append(
            f"Intervals: 95 % jackknife interval, leaving out one of {min(freedoms) + 1} repeats at a time,"
            " for the same configurations."
        )
    notes += [f"Not among the factors, and so in the interactions: {', '.join(map(axis_label, ignored))}."] * bool(
        ignored
    )
    return Analysis(f"Shares of variance, {stage_label(stage)}", table, tuple(notes))


def _shares(values: np.ndarray, codes: list[np.ndarray], configuration: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the shares of the factors, of interactions and of repeats, which add up to 1."""
    values, configuration = values[chosen], configuration[chosen]
    centered = values - values.mean()
    total = float(centered @ centered)
    if total == 0:
        return np.full(len(codes) + 2, np.nan)
    sizes = np.bincount(configuration)
    means = np.bincount(configuration, weights=centered)[sizes > 0] / sizes[sizes > 0]
    between = float(sizes[sizes > 0] @ means**2)
    design, blocks = _design([code[chosen] for code in codes])
    gram, moments = design.T @ design, design.T @ centered
    explained = {
        subset: _explained(gram, moments, [column for factor in subset for column in blocks[factor]])
        for size in range(len(codes) + 1)
        for subset in combinations(range(len(codes)), size)
    }
    squares = np.array([_averaged_over_orders(factor, len(codes), explained) for factor in range(len(codes))])
    freedom = np.array([len(block) for block in blocks], dtype=float)
    configurations = int((sizes > 0).sum())
    repeats = len(values) - configurations
    noise = (total - between) / repeats if repeats else 0.0
    interactions = between - squares.sum() - noise * (configurations - 1 - freedom.sum())
    main = squares - noise * freedom
    return np.array([*main, interactions, total - main.sum() - interactions]) / total


def _design(codes: list[np.ndarray]) -> tuple[np.ndarray, list[list[int]]]:
    """Returns centered indicators (n, p) of all levels but the first, and the columns of each factor."""
    columns, blocks = [], []
    for code in codes:
        levels = np.unique(code)[1:]
        blocks.append(list(range(len(columns), len(columns) + len(levels))))
        columns += [(code == level).astype(float) for level in levels]
    design = np.stack(columns, axis=1) if columns else np.empty((len(codes[0]), 0))
    return design - design.mean(axis=0), blocks


def _explained(gram: np.ndarray, moments: np.ndarray, columns: list[int]) -> float:
    if not columns:
        return 0.0
    part = moments[columns]
    return float(part @ np.linalg.lstsq(gram[np.ix_(columns, columns)], part, rcond=1e-10)[0])


def _averaged_over_orders(factor: int, count: int, explained: dict[tuple[int, ...], float]) -> float:
    """Returns what `factor` adds, averaged over all orders: the Shapley value."""
    result = 0.0
    for subset, before in explained.items():
        if factor in subset:
            continue
        orders = math.factorial(len(subset)) * math.factorial(count - 1 - len(subset)) / math.factorial(count)
        result += orders * (explained[tuple(sorted((*subset, factor)))] - before)
    return result
