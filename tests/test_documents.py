"""The documents tell the truth about the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_architecture_names_only_what_exists():
    """Every path that ARCHITECTURE.md names in code marks is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = [
        name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or name.endswith((".py", ".toml", ".md"))
    ]
    assert named
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "src" / "segue" / name).exists()]
    assert not missing


def test_source_files_stay_readable():
    """No source file grows over 400 lines."""
    long = [p for p in (ROOT / "src").rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 400]
    assert not long


def test_readme_names_the_two_commands():
    """A newcomer finds the commands that do all the set-up."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install uv && uv run segue demo" in text
    assert "uv run pytest" in text


def test_shipped_data_stays_small():
    """Everything that ships with the repository as data stays under 15 MB."""
    listed = subprocess.run(["git", "ls-files", "-z", "examples", "tests"], cwd=ROOT, capture_output=True, check=False)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.exists()) < 15e6
