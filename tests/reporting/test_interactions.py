"""Settings in pairs: medians by hand, and nothing to draw where fewer than two settings vary."""

from __future__ import annotations

from collections.abc import Callable

from segue.reporting.analysis.comparison import compare
from segue.reporting.figures.interactions import interactions_figure
from segue.reporting.formatting import format_number
from segue.study.table import StudyResults


def test_medians_of_two_settings(results: StudyResults) -> None:
    """Images by frozen part: a cell each, the median of the runs with both."""
    comparison = compare(results)
    figure = interactions_figure(comparison, "transfer")
    assert figure is not None
    frame = comparison.stage_runs("transfer")
    part = frame[(frame["transfer.images"] == 64) & (frame["transfer.freeze"] == "encoder")]["value"]
    cell = f"64 → encoder: median {format_number(float(part.median()))}, quartiles"
    assert next(text for text in figure.tooltips.values() if text.startswith(cell)).endswith(f"{len(part)} runs")
    assert len(figure.tooltips) == 2 * 3


def test_one_setting_is_no_pair(make: Callable[..., StudyResults]) -> None:
    assert interactions_figure(compare(make(1)), "scratch") is None
