"""Numbers in names: read with their unit, and ordered as numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from segue.reporting.analysis.comparison import sorted_levels
from segue.reporting.formatting import natural_order, quantity


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("-10 nm", (-10.0, "nm")),
        ("+5nm", (5.0, "nm")),
        ("30 e/Å²", (30.0, "e/Å²")),
        (1e-4, (1e-4, "")),
        ("1e-4", (1e-4, "")),
        (64, (64.0, "")),
        ("encoder", None),
        ("128-384", None),
        ("bcc_Fe", None),
        ("", None),
    ],
)
def test_quantities(value: object, number: tuple[float, str] | None) -> None:
    assert quantity(value) == number


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        (["150", "30", "600", "75"], ["30", "75", "150", "600"]),
        (["+5 nm", "-10 nm", "0 nm"], ["-10 nm", "0 nm", "+5 nm"]),
        (["256:256", "128:384"], ["128:384", "256:256"]),
        (["Cu", "Ag", "Cu"], ["Cu", "Ag"]),
        (["30 nm", "4 Å"], ["30 nm", "4 Å"]),
        ([], []),
    ],
)
def test_numbers_sort_as_numbers(values: list[str], ordered: list[str]) -> None:
    """Texts that differ in their numbers alone; any others stay as they appear."""
    assert natural_order(values) == ordered


def test_levels_that_are_texts_sort_by_number_after_none() -> None:
    assert sorted_levels(pd.Series(["1e-3", "none", "1e-4", "0.1"])) == ["none", "1e-4", "1e-3", "0.1"]
