"""Rows chosen by conditions: what stays, what the notes count, and conditions that fit nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from segue import api
from segue.errors import SegueError
from segue.reporting.tables.selection import is_level, select_results
from segue.study.table import StudyResults


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("0 nm", [True, False, False]),
        ("0", [True, False, False]),
        ("+0nm", [True, False, False]),
        ("5 nm", [False, True, False]),
        ("0 Å", [False, False, False]),
        ("nm", [False, False, False]),
    ],
)
def test_levels_match_as_texts_or_numbers(level: str, expected: list[bool]) -> None:
    """The same number in the same unit, or without one."""
    assert is_level(pd.Series(["0 nm", "+5 nm", None]), level).tolist() == expected


def test_numbers_match_however_they_are_written() -> None:
    assert is_level(pd.Series([1e-4, 1e-3]), "0.0001").tolist() == [True, False]
    assert is_level(pd.Series([64.0, 128.0]), "64").tolist() == [True, False]
    assert is_level(pd.Series([True, False]), "true").tolist() == [True, False]
    assert is_level(pd.Series(["30 e/Å²", "300 e/Å²"]), "30 e/A2").tolist() == [True, False]


def test_a_target_is_left_out_and_counted(results: StudyResults) -> None:
    """Transfers to 0nm go, with all their rows; stages without such a setting keep theirs; the notes count by hand."""
    left = select_results(results, without=["transfer.domain=0nm"])
    # 2 sources, 3 seeds, 6 settings, each evaluated in 3 domains
    assert len(results.table) - len(left.table) == 2 * 3 * 6 * 3
    assert left.notes == [f"--without 'transfer.domain=0nm' leaves out 108 of {len(results.table)} rows."]
    transfers = left.table[left.table["stage"] == "transfer"]
    assert set(transfers["transfer.domain"]) == {"-10nm", "+10nm"}
    assert (left.table["stage"] == "pretrain").sum() == (results.table["stage"] == "pretrain").sum()
    assert set(left.histories["run"]) == set(left.table["run"])
    assert left.counts["evaluations"] == len(left.table)


def test_values_of_one_column_are_alternatives_and_columns_add_up(results: StudyResults) -> None:
    """Two values of a column, and a second column: their notes, and what they leave out together."""
    where = ["transfer.freeze=none", "transfer.freeze=encoder", "transfer.images=16"]
    left = select_results(results, where=where)
    transfers = left.table[left.table["stage"] == "transfer"]
    assert set(transfers["transfer.freeze"]) == {"none", "encoder"} and set(transfers["transfer.images"]) == {16}
    assert "--where 'transfer.freeze=none' --where 'transfer.freeze=encoder' leaves out" in left.notes[0]
    assert left.notes[-1].startswith(f"Together: {len(results.table) - len(left.table)} of")


@pytest.mark.parametrize(
    ("where", "without", "message"),
    [
        (["transfer.freeze"], [], "--where: found 'transfer.freeze'; write COLUMN=VALUE"),
        (["transfer.frozen=none"], [], "unknown column 'transfer.frozen'; did you mean 'transfer.freeze'"),
        ([], ["transfer.images=32"], "--without: '32' does not occur in the column transfer.images; it has 16, 64"),
        (["stage=pretrain"], ["stage=pretrain"], "no row of demo remains; leave out a condition"),
    ],
)
def test_conditions_that_fit_nothing(results: StudyResults, where: list[str], without: list[str], message: str) -> None:
    with pytest.raises(SegueError) as caught:
        select_results(results, where=where, without=without)
    assert message in str(caught.value)


@pytest.mark.slow
def test_the_page_says_what_was_left_out(make: Callable[..., StudyResults], tmp_path: Path) -> None:
    """Through the function of the command line, with a table as the source."""
    make(1, scratch=False).table.to_parquet(tmp_path / "t.parquet")
    page = api.report(tmp_path / "t.parquet", tmp_path / "page.html", without=["transfer.domain=0nm"])
    assert "leaves out 36 of 78 rows." in page.read_text()
    with pytest.raises(SegueError, match="a page is of one study, or of tables"):
        api.report([tmp_path / "a.toml", tmp_path / "t.parquet"], tmp_path / "page.html")
