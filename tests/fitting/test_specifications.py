"""TOML as it is written, read again; files that exist are left as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

from segue.fitting.specifications import relative, toml_text, write_text


def test_toml_is_read_as_it_was_written():
    """Nested tables, quotes, umlauts, backslashes, numbers and keys that need quotes; None is left out."""
    table = {
        "name": 'a "b" \\ ü',
        "seed": 3,
        "lr": 1e-5,
        "on": True,
        "none": None,
        "list": [1, 2.5, "x"],
        "labels": {"kind": "classes", "values": {"255": 1}},
        "stages": {"from p, frozen": {"network": {"name": "unet", "width": 16}, "freeze": "encoder"}, "b": {"x": 1}},
        "datasets": {"images": {"prepare": "p.toml"}},
    }
    read = tomllib.loads(toml_text(table, comments=["head"], reasons={"seed": "because"}))
    assert read == {key: value for key, value in table.items() if value is not None}
    assert "seed = 3  # because" in toml_text(table, reasons={"seed": "because"})


def test_existing_files_stay(tmp_path: Path):
    write_text(tmp_path / "a.toml", "first = 1\n")
    write_text(tmp_path / "a.toml", "second = 2\n")
    assert (tmp_path / "a.toml").read_text() == "first = 1\n"


def test_relative_paths(tmp_path: Path):
    assert relative(tmp_path / "images" / "a.png", tmp_path / "model.fit") == "../images/a.png"
