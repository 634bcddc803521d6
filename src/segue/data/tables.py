"""CSV tables as spreadsheets write them: rows by column name, and columns of one type each.

UTF-8, or UTF-16 and UTF-32 with their byte order mark. Cells are separated by the comma, semicolon or tab that
separates the names in the header, or by the one that a first line "sep=;" names. Whatever would change, lose or merge a
cell is refused with its line and column.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from segue.errors import SegueError
from segue.storage import LFS_POINTER, placeholder

Cell = str | int | float

MAX_TABLE_BYTES = 2**28
MAX_TITLE_LINES = 10  # lines in which the names of the columns are looked for, if the first line has none of them
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"  # at the ends of cells, from copying
ENCODINGS = {  # by byte order mark; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WORKBOOKS = {b"PK\x03\x04": "an Excel or OpenDocument workbook", b"\xd0\xcf\x11\xe0": "an Excel workbook"}
DAMAGE = {  # cells that hold no value -> what they are, and what to do
    r"#(N/A|NV|N/D|N/B|I/T)|#[^\s#]+[!?]|##+|Err:\d{3}": "is a spreadsheet's error, not a value; correct its formula",
    r"=.+": "is a formula, not its value; export values",
    r".*\ufffd.*": "holds a character that was lost when the table was saved; save it as CSV UTF-8",
}
MONTH = (
    "jan|ene|gen|fe[bv]|fév|m[aäe]r|mrz|a[pvb]r|ma[iyjg]|jun|juin|giu|jul|juil|lug|au[gt]|aoû|ago|sep|set|o[ck]t|ott|"
    "out|nov|de[czs]|déc|dic"
)
DAY_AND_MONTH = rf"\d{{1,2}}[-. /]+({MONTH})[a-zé]?\.?([-. /]+\d{{2,4}})?|({MONTH})[a-zé]?\.?[-. /]+\d{{2,4}}"
DATE = rf"{DAY_AND_MONTH}|\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{2,4}}"
SCIENTIFIC = r"\d(\.\d+)?E\+\d+"
DECIMAL_COMMA = r"[+-]?\d+(,\d+)?"
INTEGER = r"0|-?[1-9][0-9]{0,17}"  # within 64 bits
MAX_EXACT = 2**53  # the largest whole number that a float has exactly, as have all below


@dataclass(frozen=True)
class Table:
    """The rows of a CSV table, cells and column names stripped; a cell that a short row lacks is "".

    lines: the line of the file on which each row begins; the header is usually line 1. separator: of the cells.
    """

    path: Path
    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    separator: str

    def line(self, row: int) -> str:
        """Returns "<path>: line <n>" of a row, by which an error begins."""
        return f"{self.path}: line {self.lines[row]}"

    def cell(self, row: int, column: str) -> str:
        """Returns "<path>: line <n>, column '<name>': '<cell>'", by which an error on a cell begins."""
        return f"{self.line(row)}, column '{column}': '{self.rows[row][column]}'"

    def first_empty(self, column: str) -> tuple[int, int] | None:
        """Returns the first row whose cell of the column is empty, and how many are; None if none is."""
        empty = [row for row, cells in enumerate(self.rows) if not cells.get(column)]
        return (empty[0], len(empty)) if empty else None

    def empty_cell(self, column: str) -> str | None:
        """Returns a sentence with the line of the first empty cell of a column; None if none is empty."""
        empty = self.first_empty(column)
        if empty is None:
            return None
        row, count = empty
        return f"{self.path}: column '{column}' is empty in line {self.lines[row]} ({count} in all); fill it in."

    def partly_empty(self, column: str) -> str | None:
        """Returns the same sentence, None also if the whole column is empty or there is none of that name."""
        return self.empty_cell(column) if any(row.get(column) for row in self.rows) else None

    def typed(self, column: str) -> Sequence[Cell]:
        """Returns a column as integers if all its cells are, else as numbers if all are, else as text.

        A cell is a number if it is written exactly as the number is (`exact_number`), and a column is of numbers only
        if different cells are different numbers: "007", "1_1", "1.50", "1E5", and a column of "1" and "1.0" stay text.
        Text is composed (NFC). Raises SegueError for decimal commas, and for dates among other text.
        """
        texts = self.texts(column)
        numbers = [number for text in texts if (number := exact_number(text)) is not None]
        if len(numbers) < len(texts) or len(set(numbers)) < len(set(texts)):
            return texts
        if all(isinstance(number, int) for number in numbers):
            return numbers
        return [float(number) for number in numbers] if all(map(_is_exact_float, numbers)) else texts

    def texts(self, column: str) -> list[str]:
        """Returns the cells of a column as text, composed (NFC).

        Raises SegueError for decimal commas, and for dates among other text.
        """
        texts = [unicodedata.normalize("NFC", row[column]) for row in self.rows]
        self._refuse_changed_cells(column, texts)
        return texts

    def number(self, row: int, column: str) -> float:
        """Returns the number of a cell, in any writing with a decimal point; raises SegueError for any other cell."""
        text = self.rows[row][column]
        number = decimal_number(text)
        if number is not None:
            return number
        if re.fullmatch(DECIMAL_COMMA, text):
            raise SegueError(f"{self.cell(row, column)} has a decimal comma; write {_without_comma(text)}.")
        raise SegueError(f"{self.cell(row, column)} is no number; write it as 12, 0.5 or 1e-07, without a unit.")

    def note(self, column: str) -> str | None:
        """Returns a sentence if a column of which some cells are numbers is text throughout."""
        texts = [row[column] for row in self.rows]
        if not isinstance(self.typed(column)[0], str) or all(decimal_number(text) is None for text in texts):
            return None
        row = next((row for row, text in enumerate(texts) if exact_number(text) is None), None)
        reason = "different cells would be one number" if row is None else f"line {self.lines[row]} has '{texts[row]}'"
        return f"{self.path}: column '{column}' is text throughout, since {reason}; write numbers as 12, 0.5 or 1e-07"

    def _refuse_changed_cells(self, column: str, texts: Sequence[str]) -> None:
        commas = [row for row, text in enumerate(texts) if "," in text]
        if self.separator != "," and commas and all(re.fullmatch(DECIMAL_COMMA, text) for text in texts):
            raise SegueError(
                f"{self.cell(commas[0], column)} has a decimal comma; write {_without_comma(texts[commas[0]])}."
            )
        dates = [row for row, text in enumerate(texts) if re.fullmatch(DAY_AND_MONTH, text, re.IGNORECASE)]
        if 0 < len(dates) < len(texts):
            raise SegueError(
                f"{self.cell(dates[0], column)} is a date among other text, perhaps made by a spreadsheet; format the "
                "column as text, and enter it again."
            )


def read_table(path: Path, known: Sequence[str] = ()) -> Table:
    """Reads a CSV table; the names of `known` columns are recognized in any case, with spaces or hyphens for "_".

    Empty lines, and empty cells at the end of all lines, are left out. Raises SegueError if the file cannot be read as
    text, for lines above the names of the columns, with line and column for columns without a name or of one name, for
    more cells than columns, for cells without a value (`DAMAGE`), and for quotes that join rows.
    """
    text = read_text(path)
    separator, declared = find_separator(path, text)
    records = _records(path, text, separator)
    if declared:
        next(records)
    filled = ((line, cells) for line, cells in records if any(map(_stripped, cells)))
    first_line, header = next(filled, (1, []))
    names = [_column_name(_stripped(name), known) for name in header]
    beginning = list(itertools.islice(filled, MAX_TITLE_LINES)) if known and not set(names) & set(known) else []
    _refuse_title(path, first_line, header, beginning, known)
    filled = itertools.chain(beginning, filled)
    for number, name in enumerate(names, 1):
        if name and names.index(name) < number - 1:
            raise SegueError(
                f"{path}: line {first_line}: the columns {names.index(name) + 1} and {number} are both called "
                f"'{name}'; rename or remove one."
            )
    rows, lines = [], []
    for line, cells in filled:
        _check_row(f"{path}: line {line}", cells, names, separator)
        texts = itertools.chain(map(_stripped, cells), itertools.repeat(""))
        rows.append({name: text for name, text in zip(names, texts, strict=False) if name})
        lines.append(line)
    return Table(path, [name for name in names if name], rows, lines, separator)


def exact_number(text: str) -> int | float | None:
    """Returns the number that a cell is written as, of 64 bits, else None: its text can be had back from the number.

    >>> [exact_number(text) for text in ("12", "-0.5", "0.00001", "1e-05")]
    [12, -0.5, 1e-05, 1e-05]
    >>> [exact_number(text) for text in ("007", "1_1", "+1", "1.50", "1E5", "nan", "٣")]
    [None, None, None, None, None, None, None]
    """
    if re.fullmatch(INTEGER, text):
        return int(text)
    number = decimal_number(text)
    if number is None or not set(text) & set(".e"):
        return None
    return number if text in (repr(number), f"{Decimal(repr(number)):f}") else None


def decimal_number(text: str) -> float | None:
    """Returns the finite number of a cell that must be one, such as "1.50" or "1E-3"; None if it is none."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def is_whole_number(text: str) -> bool:
    """Returns whether a cell is a whole number, 0 or more."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def is_condition_name(name: str) -> bool:
    """Returns whether a column can be stored in a dataset, where "/" and "." have a meaning."""
    return bool(name) and "/" not in name and "\0" not in name and name != "."


def changed_name(text: str) -> str | None:
    """Returns what a spreadsheet made of a name such as "JAN1" or "1E5": "a date", "a number"; None if it is a name."""
    if re.fullmatch(DATE, text, re.IGNORECASE):
        return "a date"
    return "a number" if re.fullmatch(SCIENTIFIC, text, re.IGNORECASE) else None


def _without_comma(text: str) -> str:
    """Returns how "0,5" is written with a point, and both meanings of "1,250"."""
    pointed = text.replace(",", ".")
    return f"{pointed}, or {text.replace(',', '')} if it separates thousands" if text[-4:-3] == "," else pointed


def _is_exact_float(number: int | float) -> bool:
    return isinstance(number, float) or abs(number) <= MAX_EXACT


def read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise SegueError(f"{path}: is no file; give the path of a CSV table.")
        size = path.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise SegueError(
                f"{path}: has {size:,} bytes; a table has at most {MAX_TABLE_BYTES:,}: correct the path, or divide it."
            )
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise SegueError(f"{path}: cannot be read as a CSV table ({error}); correct the path or the file.") from error
    if content.startswith(LFS_POINTER):
        raise SegueError(f"{path}: {placeholder(path)}.")
    workbook = next((kind for mark, kind in WORKBOOKS.items() if content.startswith(mark)), None)
    if workbook is not None:
        raise SegueError(f"{path}: is {workbook}, not a CSV table; export its sheet as CSV UTF-8 and give that file.")
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        lines = content[: error.start].decode(encoding, "replace").splitlines() or [""]
        bad = error.object[error.start]
        raise SegueError(
            f"{path}: line {len(lines)}, character {len(lines[-1]) + 1}: the byte {bad:#04x} after "
            f"'{lines[-1][-20:]}' is not {encoding.upper()}, as in tables saved in Latin-1 or by Windows; save as CSV "
            "UTF-8."
        ) from error
    if "\0" in text:
        raise SegueError(
            f"{path}: is not text, or UTF-16 without its byte order mark (it holds zero bytes); save it as CSV UTF-8."
        )
    return text


def find_separator(path: Path, text: str) -> tuple[str, bool]:
    """Returns the separator of the cells, and whether a first line "sep=;" declares it."""
    declared = re.match(r"\s*\"?sep=([,;\t|])\"?\s*?(\r|\n)", text, re.IGNORECASE)
    if declared:
        return declared[1], True
    header = re.match(r'\s*((?:"(?:[^"]|"")*"|[^"\r\n])*)', text)
    unquoted = re.sub(r'"(?:[^"]|"")*"', "", header[1]) if header else ""
    present = [sign for sign in SEPARATORS if sign in unquoted]
    if len(present) > 1:
        listed = " and ".join(SEPARATORS[sign] for sign in present)
        raise SegueError(
            f"{path}: line 1: the names of the columns are separated by {listed}; keep one of them, or put names that "
            "hold the other in quotes."
        )
    return (present or [","])[0], False


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line on which each record begins, and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise SegueError(
            f"{path}: line {line}: cannot be read as cells of a table ({error}); correct the quotes."
        ) from error


def _stripped(cell: str) -> str:
    return cell.strip().strip(INVISIBLE).strip()


def _column_name(name: str, known: Sequence[str]) -> str:
    """Returns the known column of that name, in any case and with any signs between words, else the name composed.

    A column that pandas calls "Unnamed: 0" has no name.
    """
    if re.fullmatch(r"Unnamed: [0-9]+", name):
        return ""
    plain = re.sub(r"[^0-9a-z]+", "_", name.casefold()).strip("_")
    return plain if plain in known else unicodedata.normalize("NFC", name)


def _refuse_title(
    path: Path, line: int, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], known: Sequence[str]
) -> None:
    """Raises SegueError if one of the first rows has names of known columns, and the header before it has none."""
    for later, cells in rows:
        texts = itertools.chain.from_iterable(re.split(r"[,;\t]", cell) for cell in cells)
        if {_column_name(_stripped(text), known) for text in texts} & set(known):
            raise SegueError(
                f"{path}: line {line}: '{_stripped(header[0])}' is above the names of the columns in line {later}; "
                "remove the lines above them."
            )


def _check_row(context: str, cells: Sequence[str], names: Sequence[str], separator: str) -> None:
    """Raises SegueError for too many cells, cells in columns without a name, and cells that hold no value or rows."""
    texts = [_stripped(cell) for cell in cells]
    # separators at the end of a line are harmless, unless a decimal comma may have moved its cells
    halves = any(a.isdigit() and b.isdigit() for a, b in itertools.pairwise(texts))
    if len(texts) > len(names) and (any(texts[len(names) :]) or halves):
        listed = ", ".join(name or "(no name)" for name in names)
        raise SegueError(
            f"{context}: {len(texts)} cells under {len(names)} columns ({listed}), the last is '{texts[-1]}'; write "
            "decimals with a point, and cells that hold a separator in quotes."
        )
    for number, (name, cell, text) in enumerate(zip(names, cells, texts, strict=False), 1):
        where = f"{context}, column {number} '{name}': '{text}'" if name else f"{context}, column {number}: '{text}'"
        if text and not name:
            raise SegueError(
                f"{where} is in a column without a name; name the column, or remove it (the index of pandas: "
                "to_csv(…, index=False))."
            )
        if len(names) == 1 and any(sign in text for sign in SEPARATORS if sign != separator):
            raise SegueError(f"{where} is several cells, but the header names one column; name all columns.")
        if len(cell.splitlines()) > 1 and cell.count(separator) >= max(1, len(names) - 1):
            raise SegueError(
                f"{context}, column {number} '{name}': quotes join several rows into one cell, {text[:40]!r} …; "
                "close or remove the quote there."
            )
        fault = next((words for pattern, words in DAMAGE.items() if re.fullmatch(pattern, text, re.DOTALL)), None)
        if fault is not None:
            raise SegueError(f"{where} {fault}.")
