"""A figure on the page of a study, with what stands around it."""

from __future__ import annotations

from dataclasses import dataclass

from segue.reporting.figures.style import ReportFigure
from segue.reporting.formatting import Table


@dataclass(frozen=True)
class Entry:
    """A figure on the page, with its heading and the content above and below; `summary` expands it if collapsed."""

    figure: ReportFigure
    heading: str = ""
    anchor: str = ""
    intro: str = ""
    tables: tuple[Table, ...] = ()
    summary: str = ""
