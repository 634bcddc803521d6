"""Every analysis by its name, as tables and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples.cli import assert_refused, run_segue

from segue.errors import SegueError
from segue.reporting.analysis.comparison import compare
from segue.reporting.analysis.result import Analysis, as_table
from segue.reporting.analysis.tables import ANALYSES, Options, analyze
from segue.reporting.page.analyses import PREFIXES, analysis_entries, spread_entries
from segue.reporting.tables.selection import select_results
from segue.study.table import StudyResults

NEEDS_MORE = {"images", "advice", "expected", "stated"}  # than the made study has


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_every_analysis_gives_tables_or_says_what_it_needs(results: StudyResults, name: str) -> None:
    """Of the made study each has rows and notes, and texts for all cells; else one sentence says what is missing."""
    comparison = compare(results)
    if name in NEEDS_MORE:
        with pytest.raises(SegueError, match=f"analyze {name}: no stage has what it needs"):
            analyze(comparison, name)
        return
    for analysis in analyze(comparison, name):
        assert len(analysis.table) and analysis.notes
        table = as_table(analysis)
        assert all(isinstance(cell, str) and "nan" not in cell for row in table.rows for cell in row)


def test_restrictions_are_in_the_notes(results: StudyResults) -> None:
    """What was left out is said with the numbers, and changes them."""
    comparison = compare(results)
    (all_runs,) = analyze(comparison, "variance", "transfer")
    left = select_results(results, without=["transfer.domain=0nm"])
    (part,) = analyze(compare(left), "variance", "transfer")
    assert any("--without 'transfer.domain=0nm' leaves out" in note for note in part.notes)
    assert part.table["share"].iloc[1] < all_runs.table["share"].iloc[1]  # the hardest target is not there
    with pytest.raises(SegueError, match=r"unknown setting 'transfer\.freez'"):
        analyze(comparison, "regret", options=Options(rule={"transfer.freez": ["none"]}))


def test_percentiles_are_those_of_the_runs(results: StudyResults) -> None:
    """The percentiles of a level are numpy's over its runs."""
    comparison = compare(results)
    (analysis,) = analyze(comparison, "factors", "transfer")
    row = analysis.table.set_index(["factor", "level"]).loc[("transfer: frozen part", "encoder")]
    runs = comparison.stage_runs("transfer")
    values = runs.loc[runs["transfer.freeze"] == "encoder", "value"]
    assert row["p05"] == pytest.approx(np.percentile(values, 5)) and row["p75"] == pytest.approx(
        np.percentile(values, 75)
    )


def test_labels_fall_by_the_made_factor(results: StudyResults) -> None:
    """Training from scratch was made to halve from 20 to 68 labels, which are 1.77 doublings."""
    _, gain = analyze(compare(results), "labels", "scratch")
    assert gain.table["ratio"].mean() == pytest.approx(0.5 ** (1 / np.log2(68 / 20)), abs=0.06)
    assert (gain.table["ratio_low"] <= gain.table["ratio"]).all()


def test_values_and_intervals_share_a_cell() -> None:
    """The ends of an interval have no columns of their own in print."""
    frame = pd.DataFrame({"level": ["a"], "change": [0.5], "change_low": [0.25], "change_high": [1.0], "p": [1e-9]})
    table = as_table(Analysis("x", frame))
    assert list(table.columns) == ["level", "change", "p"]
    assert table.rows == [["a", "+0.500 [+0.250, +1.000]", "< 0.001"]]


def test_page_has_a_section_per_analysis(results: StudyResults) -> None:
    """Headings stand once; names of figures have the prefixes by which stale ones are removed."""
    comparison = compare(results)
    entries = [*spread_entries(comparison, "Spread over domains", "generalization"), *analysis_entries(comparison)]
    headings = [entry.heading for entry in entries if entry.heading]
    assert headings == [*dict.fromkeys(headings)]
    assert {"Spread over domains", "Asymmetry of domains", "Choosing settings"} <= set(headings)
    assert all(entry.figure.name.startswith(PREFIXES) for entry in entries)
    assert all(entry.tables for entry in entries)


def test_from_the_command_line(results: StudyResults, tmp_path: Path) -> None:
    """analyze prints and writes a table, advise its advice; mistakes are one sentence."""
    table = tmp_path / "made.parquet"
    results.table.to_parquet(table)
    done = run_segue("study", "analyze", table, "spread", "--stage", "pretrain", "-o", tmp_path / "spread.csv")
    assert done.returncode == 0 and "Spread over domains after pretraining" in done.stdout
    assert list(pd.read_csv(tmp_path / "spread.csv")["trained_on"]) == ["-10nm", "+10nm"]
    done = run_segue("study", "advise", table, "--target", "0nm", "--labels", "20")
    assert done.returncode == 0 and "transfer.freeze" in done.stdout and "cannot be judged" in done.stdout
    assert_refused(run_segue("study", "analyze", table, "spred"), "did you mean 'spread'?")
    assert_refused(run_segue("study", "advise", table, "--target", "0nm", "--labels", "500"), "the table has 20 to 68")
