"""The order of the report's sub-packages: each imports those that come after it, never one before."""

from __future__ import annotations

import ast
from pathlib import Path

import segue.reporting

ORDER = ("page", "video", "figures", "tables", "analysis", "formatting")


def test_imports_point_one_way() -> None:
    """A figure does not know the page, an analysis no figure, and formatting nothing of the report."""
    root = Path(segue.reporting.__path__[0])
    wrong = []
    for file in sorted(root.rglob("*.py")):
        package = file.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segue.reporting."):
                target = str(node.module).split(".")[2]
                if ORDER.index(target) < ORDER.index(package):
                    wrong.append(f"{file.relative_to(root)} imports {node.module}")
    assert not wrong
