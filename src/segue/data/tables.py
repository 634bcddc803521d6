"""CSV tables: rows by column name, and columns of one type each."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.errors import SegueError

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """The rows of a CSV table, cells and column names stripped; a cell that a short row lacks is ""."""

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]

    def line(self, row: int) -> str:
        """Returns "<path>: line <n>" of a row, by which an error begins; the header is line 1."""
        return f"{self.path}: line {row + 2}"

    def first_empty(self, column: str) -> tuple[int, int] | None:
        """Returns the first row whose cell of the column is empty, and how many are; None if none is."""
        empty = [row for row, cells in enumerate(self.rows) if not cells.get(column)]
        return (empty[0], len(empty)) if empty else None

    def typed(self, column: str) -> Sequence[Cell]:
        """Returns a column as integers if all its cells are, else as finite numbers if all are, else as text."""
        texts = [row[column] for row in self.rows]
        for kind in (int, float):
            try:
                values = [kind(text) for text in texts]
            except ValueError:
                continue
            if all(math.isfinite(value) for value in values):
                return values
        return texts


def read_table(path: Path) -> Table:
    """Reads a CSV table; cells beyond the header are dropped. Raises SegueError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restval="")
            rows = [
                {name.strip(): (cell or "").strip() for name, cell in row.items() if isinstance(name, str)}
                for row in reader
            ]
            columns = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegueError(f"{path}: cannot be read as a CSV table ({error}); correct the path or the file.") from error
    return Table(path, columns, rows)


def is_whole_number(text: str) -> bool:
    """Returns whether a cell is a whole number, 0 or more."""
    return text.isascii() and text.isdigit()
