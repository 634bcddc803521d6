"""Tables are written whole, in the format of the file's extension."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segue.errors import SegueError
from segue.storage import write_table


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
