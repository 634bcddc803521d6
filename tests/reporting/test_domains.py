"""Domains in the report: their figure and the tables of distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples.datasets import make_dataset, make_part

from segue.inference.domain_shift import DomainShift, feature_distance, histogram_distance, measure
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.domains import domain_shift
from segue.reporting.figures.domains import distance_tables, domains_figure
from segue.reporting.formatting import format_number
from segue.reporting.page.page import figure_list
from segue.study.plan import plan_study
from segue.study.table import StudyResults


def shift() -> DomainShift:
    random = np.random.default_rng(0)
    domains = {
        "-10nm": measure(random.normal(size=(4, 32, 32)), 0.04),
        "0nm": measure(random.gamma(2, size=(4, 32, 32)), 0.04),
    }
    return DomainShift(
        domains, {name: random.normal(size=(4, 3)) + 3 * i for i, name in enumerate(domains)}, "pretrain"
    )


def test_the_tables_hold_the_distances() -> None:
    """A table each for spectra, histograms and features; a domain has no distance to itself."""
    made = shift()
    spectra, histograms, features = distance_tables(made)
    assert spectra.columns == ["", "-10nm", "0nm"]
    distance = format_number(histogram_distance(*made.domains.values()))
    assert [list(row) for row in histograms.rows] == [["-10nm", "–", distance], ["0nm", distance, "–"]]
    assert features.rows[1][1] == format_number(feature_distance(*made.features.values()))
    assert len(distance_tables(replace(made, features={}))) == 2


def test_frequencies_are_in_nm_only_where_all_pixel_sizes_are_known() -> None:
    """One domain without a pixel size: periods per pixel for all, and the axis says so."""
    made = shift()
    known = domains_figure(made.domains)
    assert [axes.get_xlabel() for axes in known.get_axes()][-1] == "spatial frequency, 1/nm"
    other = {**made.domains, "real": measure(np.random.default_rng(1).normal(size=(3, 48, 48)))}
    assert [axes.get_xlabel() for axes in domains_figure(other).get_axes()][-1].endswith("periods per pixel")
    assert distance_tables(made)[0].summary == "Distances between power spectra, dB"
    summaries = [table.summary for table in distance_tables(DomainShift(other))]
    assert summaries[0] == "Distances between power spectra, dB (pixel by pixel, where a size is not known: real)"


def test_curves_do_not_depend_on_the_pixels() -> None:
    """White noise with pixels of 0.02 and 0.04 nm: all of both curves is at 1, where each has frequencies."""
    random = np.random.default_rng(0)
    domains = {
        f"{size:g} nm": measure(random.normal(size=(64, round(2 / size), round(2 / size))), size)
        for size in (0.02, 0.04)
    }
    *_, spectra = domains_figure(domains).get_axes()
    fine, coarse = spectra.get_lines()
    assert np.asarray(fine.get_xdata())[-1] == pytest.approx(25, rel=0.03)
    assert np.asarray(coarse.get_xdata())[-1] == pytest.approx(12.5, rel=0.05)
    for line in (fine, coarse):
        assert np.asarray(line.get_ydata()) == pytest.approx(1, abs=0.15)


def test_domains_are_on_the_page(make: Callable[..., StudyResults]) -> None:
    """Where the datasets are at hand the page has their figure and tables, elsewhere nothing of them."""
    nothing = pd.DataFrame()
    results = replace(make(1), table=nothing, histories=nothing, examples=[], cost=nothing, counts={})
    entries = {entry.figure.name: entry for entry in figure_list(compare(replace(results, domain_shift=shift()), None))}
    assert entries["domains"].heading == "Domains"
    assert entries["domains"].tables[-1].summary.startswith("Distances between encoder features (pretrain)")
    assert "domains" not in {entry.figure.name for entry in figure_list(compare(results, None))}


STUDY = """
name = "domains"
datasets = { one = { file = "one.h5" }, other = { file = "other.h5" } }
domains = { a = { dataset = "one" }, b = { dataset = "other" } }
[stages.train]
domain  = "a"
epochs  = 1
network = { name = "unet", width = 8, depth = 2 }
target  = { name = "classes", layer = "cells" }
[evaluate]
domains = ["a"]
"""


def test_the_domains_of_a_study_are_read_from_its_datasets(tmp_path: Path) -> None:
    """Those that are trained on or scored, without features where nothing was trained; one alone is no comparison."""
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        make_dataset(folder, {name: make_part(name)}).rename(tmp_path / f"{name}.h5")
    (tmp_path / "study.toml").write_text(STUDY.replace('["a"]', '"all"'))
    made = domain_shift(plan_study(tmp_path / "study.toml"), pd.DataFrame())
    assert made is not None
    assert list(made.domains) == ["a", "b"]
    assert made.features == {}
    (tmp_path / "study.toml").write_text(STUDY)
    assert domain_shift(plan_study(tmp_path / "study.toml"), pd.DataFrame()) is None
