"""Files are written whole; of those that are read, only regular ones, and damage is told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segue.errors import SegueError
from segue.storage import as_path, is_file, read_bytes, read_json, require_regular, write_table


def test_tables_are_written_by_extension(tmp_path: Path):
    """CSV and Parquet give the same table back; another extension is refused, and no file appears."""
    table = pd.DataFrame({"well": ["A1", "A2"], "count": [3, 4], "fraction": [0.5, np.nan]})
    write_table(table, tmp_path / "counts.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "counts.csv"), table)
    write_table(table, tmp_path / "counts.parquet")
    again = pd.read_parquet(tmp_path / "counts.parquet")
    assert again["count"].tolist() == [3, 4] and again["well"].tolist() == ["A1", "A2"]
    with pytest.raises(SegueError, match="give one of these extensions"):
        write_table(table, tmp_path / "counts.xlsx")
    assert {path.name for path in tmp_path.iterdir()} == {"counts.csv", "counts.parquet"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"null", b"[" * 10**5])
def test_json_that_is_damaged_is_told(tmp_path: Path, content: bytes):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(SegueError, match=r"record\.json: is damaged.*make it again"):
        read_json(path)
    assert read_json(tmp_path / "missing.json") is None


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "a\0b", "."])
def test_paths_that_no_file_can_have(tmp_path: Path, name: str):
    """They are no files, and are told as such."""
    assert not is_file(tmp_path / name)
    with pytest.raises(SegueError, match="give the path of a table"):
        require_regular(tmp_path / name, "a table")


@pytest.mark.parametrize("name", ["", "n" * 255, "ß" * 127, "a b", "missing/n", "%2F"])
def test_paths_of_users(tmp_path: Path, name: str):
    """The longest name that a file can have is a path, whether there is a file or not."""
    assert as_path(str(tmp_path / name)) == as_path(tmp_path / name) == tmp_path / name


@pytest.mark.skipif(os.name == "nt", reason="Windows has other limits")
@pytest.mark.parametrize("name", ["n" * 256, "ß" * 128, "n" * 5000, "a\0b", "\ud800"])
def test_paths_of_users_that_no_file_can_have(tmp_path: Path, name: str):
    """A byte more than a name can have, NUL and half a surrogate pair are refused in a sentence that can be printed."""
    with pytest.raises(SegueError, match=r"is no path that a file can have .*; give another") as caught:
        as_path(name)
    assert len(str(caught.value).encode()) < 250


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such devices")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_devices_are_not_read(tmp_path: Path, device: str):
    """They could be read without end; neither directly nor through a link."""
    (tmp_path / "link").symlink_to(device)
    for path in (Path(device), tmp_path / "link"):
        with pytest.raises(SegueError, match="is not a regular file"):
            read_bytes(path, "a table")
