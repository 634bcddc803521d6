"""Imports point down only: a row of the architecture may import the rows below it, never above or beside."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "segue"

ROWS = [
    {"cli", "napari_plugin"},
    {"__init__"},
    {"api"},
    {"fitting"},
    {"reporting"},
    {"study"},
    {"plates"},
    {"exporting"},
    {"training"},
    {"evaluation"},
    {"inference"},
    {"exchange"},
    {"targets", "networks"},
    {"hrtem"},
    {"data"},
    {"labels"},
    {"zoo"},
    {"hdf5", "storage", "formatting", "units", "energy", "fingerprint", "parallel", "spec", "rng", "device"},
    {"errors", "signals"},
]
SAME_ROW = {
    ("energy", "device"),
    ("fingerprint", "hdf5"),
    ("hdf5", "storage"),
    ("hdf5", "formatting"),
    ("spec", "storage"),
    ("fingerprint", "storage"),
    ("parallel", "storage"),
    ("device", "storage"),
    ("device", "spec"),
}


def row_of(module: str) -> int:
    return next(index for index, row in enumerate(ROWS) if module in row)


def imports(file: Path) -> set[str]:
    """Returns the packages of segue that a file imports, also inside functions and for types."""
    actual = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "segue":
            parts = node.module.split(".")[1:]
            actual |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            actual |= {a.name.split(".")[1] for a in node.names if a.name.startswith("segue.")}
    return actual


def test_every_module_has_a_row():
    """A new file or package must be given its place before it is imported from anywhere."""
    known = set().union(*ROWS)
    present = {
        p.stem if p.is_file() else p.name for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert present <= known


def test_imports_point_down():
    """No package imports one above or beside it in the architecture."""
    wrong = []
    for file in sorted(SOURCE.rglob("*.py")):
        package = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        for target in imports(file):
            if target == package or (package, target) in SAME_ROW:
                continue
            if row_of(target) <= row_of(package):
                wrong.append(f"{file.relative_to(SOURCE)} imports {target}")
    assert not wrong
