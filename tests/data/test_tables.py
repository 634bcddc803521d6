"""Tables as spreadsheets write them: read right or refused with line and column; no cell changes, is lost or merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.data import tables
from segue.data.tables import Table, changed_name, decimal_number, exact_number, is_whole_number, read_table
from segue.errors import SegueError

KNOWN = ("image", "label", "pixel_size_nm")


def read(folder: Path, content: str | bytes) -> Table:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, KNOWN)


def column(folder: Path, *cells: str, separator: str = ",") -> Table:
    return read(folder, f"a{separator}b\n" + "".join(f"x{separator}{cell}\n" for cell in cells))


@pytest.mark.parametrize(
    "content",
    [
        "image,label\na,b\nc,ü d\n",
        "\ufeffimage,label\r\na,b\r\nc,ü d\r\n",
        "image;label\ra;b\rc;ü d",
        "image\tlabel\na\tb\nc\tü d\n",
        "sep=;\nimage;label\na;b\nc;ü d\n",
        'Image , LABEL\n"a","b"\nc, "ü d"\n',
        "image,label,\na,b,\nc,ü d,\n,,\n",
        "image,label\na,b,\nc,ü d,,\n",
        "\n\nimage,label\n\na,b\n , \nc,ü d\n\n",
        "image,label\na,b\nc,ü d\n".encode("utf-16"),
        "image,label\na,b\nc,ü d\n".encode("utf-8-sig"),
        "image,label\na,b\nc,ü d\n".encode("utf-32"),
    ],
)
def test_one_table_in_many_forms(tmp_path: Path, content: str | bytes):
    """Encodings, separators, ends of lines, quotes, empty lines, separators at the end, case of names: one table."""
    table = read(tmp_path, content)
    assert table.columns == ["image", "label"]
    assert table.rows == [{"image": "a", "label": "b"}, {"image": "c", "label": "ü d"}]


def test_cells_keep_separators_quotes_and_lines(tmp_path: Path):
    """A quoted cell may hold the separator, quotes and lines; the lines of later rows count them."""
    table = read(tmp_path, 'image,label,n\na,"b, c","say ""x"""\nd,e,"one\ntwo"\nf,g,h\n')
    assert [row["label"] for row in table.rows] == ["b, c", "e", "g"]
    assert [row["n"] for row in table.rows] == ['say "x"', "one\ntwo", "h"]
    assert table.line(2) == f"{tmp_path / 't.csv'}: line 5"


def test_known_columns_in_any_writing(tmp_path: Path):
    """Known names are recognized with capitals, spaces and brackets; other names stay as they are; short rows end."""
    table = read(tmp_path, "Image;Pixel size (nm);Dose rate\na;1;2\nb\n")
    assert table.columns == ["image", "pixel_size_nm", "Dose rate"]
    assert table.rows[1] == {"image": "b", "pixel_size_nm": "", "Dose rate": ""}
    assert table.first_empty("Dose rate") == (1, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,label,pixel_size_nm\na,b,1,3\n", r"line 2: 4 cells under 3 columns \(image, label, pixel_size_nm\)"),
        ("image,label,x,y\na,b,1,3,\n", "line 2: 5 cells under 4 columns"),
        ("image,label,\na,b,3\n", "line 2, column 3: '3' is in a column without a name"),
        ("image,label,dose,dose\na,b,1,2\n", "line 1: the columns 3 and 4 are both called 'dose'"),
        ("image,IMAGE\na,b\n", "the columns 1 and 2 are both called 'image'"),
        ("image,label;dose\na,b;c\n", "line 1: .* separated by commas and semicolons"),
        ("image\na;b\n", "line 2, column 1 'image': 'a;b' is several cells"),
        ("image,label\na,#REF!\n", "line 2, column 2 'label': '#REF!' is a spreadsheet's error"),
        ("image,label\na,b\nc,#N/A\n", "line 3, column 2 'label': '#N/A'"),
        ("image,label\na,#BEZUG!\n", "'#BEZUG!' is a spreadsheet's error"),
        ("image,label\na,########\n", "'########' is a spreadsheet's error"),
        ("image,label\na,Err:502\n", "'Err:502' is a spreadsheet's error"),
        ('image,label\na,="007"\n', "is a formula"),
        ('image,label,n\na,b,"\nc,d,"\ne,f,g\n', "line 2, column 3 'n': quotes join several rows"),
        ('image,label,n\na,",x\nc,",y\n', "line 2, column 2 'label': quotes join several rows"),
        ('image,label\na,b\nc,"d\n', "line 3: cannot be read as cells of a table"),
        ("image,label\na,Z\ufffdrich\n", "a character that was lost"),
        ("image,label\na,Zürich\n".encode("cp1252"), "line 2, character 4: the byte 0xfc after 'a,Z' is not UTF-8"),
        ("image,label\na,b\n".encode("utf-16-le"), "UTF-16 without its byte order mark"),
        ("# plate 3, 2024\nimage,label\na,b\n", "line 1: '# plate 3' is above the names of the columns in line 2"),
        ("My experiment\n\nImage;Label\na;b\n", "line 1: 'My experiment' is above the names .* line 3; remove"),
        ("My experiment,,\nimage,label,x\na,b,1\n", "line 1: 'My experiment' is above the names"),
        (",image,label\n0,a,b\n", r"line 2, column 1: '0' is in a column without a name; .* index=False"),
        ("Unnamed: 0,image,label\n0,a,b\n", "line 2, column 1: '0' is in a column without a name"),
        (b"PK\x03\x04 and more", "is an Excel or OpenDocument workbook, .* export its sheet as CSV"),
        (b"\xd0\xcf\x11\xe0 and more", "is an Excel workbook"),
        (b"\x89PNG\r\n", "is not UTF-8"),
    ],
)
def test_tables_that_would_change_are_refused(tmp_path: Path, content: str | bytes, words: str):
    """Decimal commas, lost and doubled names, errors, formulas, open quotes, other encodings: each at its place."""
    with pytest.raises(SegueError, match=words):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["/dev/zero", ".", "none.csv", "n" * 5000, "a\0b"])
def test_what_is_no_table_is_refused(tmp_path: Path, name: str):
    """A device, a folder, no file, and names that no file can have end in a sentence, not in an endless reading."""
    with pytest.raises(SegueError, match=r"is no file|cannot be read as a CSV table"):
        read_table(tmp_path / name)


def test_a_huge_table_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The size is checked before memory is taken."""
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10)
    with pytest.raises(SegueError, match="has 16 bytes; a table has at most 10"):
        read(tmp_path, "image,label\na,b\n")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2"], [1, -2]),
        (["0.5", "1"], [0.5, 1.0]),
        (["1.0", "2.0"], [1.0, 2.0]),
        (["0.00001", "1e-07"], [1e-5, 1e-7]),
        (["1_1", "11"], ["1_1", "11"]),
        (["007", "12"], ["007", "12"]),
        (["1", "1.0"], ["1", "1.0"]),
        (["1.1", "1.10"], ["1.1", "1.10"]),
        (["1.50", "1.25"], ["1.50", "1.25"]),
        (["1E5", "2E3"], ["1E5", "2E3"]),
        (["+1", "2"], ["+1", "2"]),
        (["nan", "1"], ["nan", "1"]),
        (["inf", "1"], ["inf", "1"]),
        (["٣", "1"], ["٣", "1"]),
        (["0.0", "-0.0"], ["0.0", "-0.0"]),
        (["0.5", "none"], ["0.5", "none"]),
        (["99999999999999999999"], ["99999999999999999999"]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (['"1,3"', '"1,4"'], ["1,3", "1,4"]),
        (["TRUE", "FALSE"], ["TRUE", "FALSE"]),
        (["1-Jan", "2-Feb"], ["1-Jan", "2-Feb"]),
        (["u\u0308"], ["ü"]),
    ],
)
def test_text_stays_text(tmp_path: Path, cells: list[str], values: list[object]):
    """A column is of numbers only if each cell is written as its number and no two become one."""
    actual = list(column(tmp_path, *cells).typed("b"))
    assert actual == values and [type(value) for value in actual] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("cells", "words"),
    [(["1.50", "2"], "line 2 has '1.50'"), (["2", "n.d."], "line 3 has 'n.d.'"), (["1", "1.0"], "would be one number")],
)
def test_numbers_that_stay_text_are_told(tmp_path: Path, cells: list[str], words: str):
    """A column with some numbers that is text all the same is told with the cell that decides; others are not."""
    assert words in (column(tmp_path, *cells).note("b") or "")
    assert column(tmp_path, "x", "y").note("b") is None and column(tmp_path, "1", "2").note("b") is None


@pytest.mark.parametrize(
    ("cells", "separator", "words"),
    [
        (["0,5", "1"], ";", "line 2, column 'b': '0,5' has a decimal comma; write 0.5"),
        (["2", "1,25"], "\t", "line 3, column 'b': '1,25' has a decimal comma"),
        (["1-32", "1-Jan"], ",", "line 3, column 'b': '1-Jan' is a date among other text"),
        (["01. Mrz", "x"], ",", "line 2, column 'b': '01. Mrz' is a date among other text"),
    ],
)
def test_columns_that_a_spreadsheet_changed_are_refused(tmp_path: Path, cells: list[str], separator: str, words: str):
    """Decimal commas, and positions that became dates, are refused at their cell."""
    with pytest.raises(SegueError, match=words):
        column(tmp_path, *cells, separator=separator).typed("b")


def test_single_cells():
    """Numbers, whole numbers and changed names are told from what only looks like them."""
    assert [decimal_number(text) for text in ("1.50", "1E-3", ".5", "-2")] == [1.5, 0.001, 0.5, -2.0]
    assert [decimal_number(text) for text in ("1_0", "nan", "1e999", "٣", "1,5", "", "0x1")] == [None] * 7
    assert [exact_number(text) for text in ("0", "-0", "00", "1.", ".5")] == [0, None, None, None, None]
    assert [is_whole_number(text) for text in ("0", "12", "²", "٣", "-1", "1.0", "")] == [True, True, *[False] * 5]
    assert [changed_name(text) for text in ("1-Jan", "Sep-02", "2024-01-02", "1.2.2024")] == ["a date"] * 4
    assert [changed_name(text) for text in ("1.00E+05", "1E+05")] == ["a number"] * 2
    assert [changed_name(text) for text in ("A1", "1E5", "B12", "well 3", "JAN1", "1-1", "007")] == [None] * 7


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    """A table that Git LFS has not fetched is told with the command that does."""
    with pytest.raises(SegueError, match=r"t\.csv: is a pointer of Git LFS, not the file itself; .* git lfs pull"):
        read(tmp_path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
