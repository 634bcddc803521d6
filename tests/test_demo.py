"""The demo as a newcomer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import segue
from segue.cli.main import demo_study

SEGUE = [sys.executable, "-c", "from segue.cli.main import main; main()"]


@pytest.mark.slow
def test_the_demo_answers_its_question(tmp_path: Path):
    """From nothing to a report in which transfer helps and the in-focus domain is hardest; run again, nothing runs."""
    command = [*SEGUE, "demo", "-o", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    page = tmp_path / "demo" / "report.html"
    assert page.is_file()
    table = segue.table(demo_study(), store=tmp_path / "demo" / "runs")
    own = table[(table["stage"] == "transfer") & (table["domain"] == table["evaluated_domain"])]
    before = table[table["stage"] == "pretrain"].set_index(["run", "evaluated_domain"])["loss_adjusted"]
    start = [before[parent, domain] for parent, domain in zip(own["parent"], own["domain"], strict=True)]
    assert len(own) == 48
    assert (own["loss_adjusted"] - start).median() < 0
    assert own.groupby("domain")["loss_adjusted"].median().idxmax() == "0nm"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert segue.table(demo_study(), store=tmp_path / "demo" / "runs").equals(table)
