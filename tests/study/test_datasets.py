"""Datasets of a study: what their keys depend on."""

from __future__ import annotations

from pathlib import Path

from segue.study.datasets import dataset_family
from segue.study.spec import DatasetSource

SERIES = """
name = "dimers"
structures = 1
[specimen]
structure_file = "dimer.xyz"
shape = "whole"
stacking_faults = 0
"""


def test_a_structure_file_enters_the_key_by_its_content(tmp_path: Path) -> None:
    """The same file elsewhere gives the same key, a changed one another."""
    keys = []
    for folder, distance in (("a", 2.6), ("b", 2.6), ("c", 2.7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "series.toml").write_text(SERIES)
        (tmp_path / folder / "dimer.xyz").write_text(f"2\n\nAu 0 0 0\nAu 0 0 {distance}\n")
        family, mistakes = dataset_family("dimers", DatasetSource(simulate="series.toml"), tmp_path / folder)
        assert not mistakes
        keys.append(family.members[0].key(tmp_path / "cache.json"))
    assert keys[0] == keys[1] != keys[2]
