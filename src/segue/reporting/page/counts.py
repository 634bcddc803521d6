"""The page of a plate's counts: the headline, the curves, and the errors by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from segue.reporting.figures.style import ReportFigure
from segue.reporting.formatting import Table
from segue.reporting.page.rendering import render_figure, render_page

ERROR_COLUMNS = (
    *("part", "truth", "class", "wells", "images", "true count", "|error|", "bias", "r"),
    *("|error| of fraction", "bias", "r"),
)


def write_counts_page(
    figures: Sequence[ReportFigure], errors: pd.DataFrame, out: Path | str, *, title: str, notes: Sequence[str]
) -> Path:
    """Returns `out`, one self-contained page: the first of the notes as headline, the curves, errors by part."""
    path = Path(out)
    render_page(
        path,
        "counts.html.j2",
        title=title,
        kind="counts",
        headline=notes[0],
        rendered=[render_figure(figure) for figure in figures],
        errors=_errors_table(errors),
        notes=notes[1:],
    )
    return path


def _errors_table(errors: pd.DataFrame) -> Table | None:
    """Returns the errors by part, truth and class, the held-out wells first."""
    if errors.empty:
        return None
    is_held_out = errors["part"] == "held out"
    rows = []
    for record in pd.concat([errors[is_held_out], errors[~is_held_out]]).to_dict("records"):
        cells = [str(record[name]) for name in ("part", "truth", "class", "wells", "images")]
        cells.append(f"{record['true_count_mean']:.1f}")
        for value, form in (("count", ".1f"), ("fraction", ".3f")):
            for name, spec in (("mae", form), ("bias", f"+{form}"), ("correlation", ".3f")):
                number = float(record[f"{value}_{name}"])
                cells.append("–" if np.isnan(number) else f"{number:{spec}}".replace("-", "−"))
        rows.append(cells)
    return Table(ERROR_COLUMNS, rows, numeric=range(3, len(ERROR_COLUMNS)))
