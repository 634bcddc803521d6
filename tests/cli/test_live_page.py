"""The page of a study that runs: written when trainings have ended, in another process, and ended with the command."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from samples.study import STAGES

from segue.cli import live_page as module
from segue.cli.live_page import LivePage, live_page
from segue.cli.main import main


def wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.0)
    monkeypatch.setattr(module, "MIN_PAUSE_S", 0.0)


def running(live: LivePage) -> bool:
    return live._process is not None and live._process.poll() is None


def test_pages_as_trainings_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """None without a new training, one at a time, and told once."""
    monkeypatch.setattr(module, "SHARE", 1e9)
    live = LivePage(tmp_path / "study.toml", None, tmp_path / "page.html")
    counter = tmp_path / "pages"
    code = f"open({str(counter)!r}, 'a').write('page ')"
    monkeypatch.setattr(live, "_command", [live._command[0], "-c", code])
    live.update(0)
    assert live._process is None
    for done in (1, 2):
        live.update(done)
        assert live._process is not None
        wait(lambda: not running(live))
        live.update(done)
        assert live._process is None
    assert counter.read_text() == "page page "
    assert capsys.readouterr().out.count("report so far") == 1


def test_a_page_in_work_ends_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pauses: None) -> None:
    with pytest.raises(KeyboardInterrupt), live_page(tmp_path / "s.toml", None, tmp_path / "p.html") as live:
        assert live is not None
        monkeypatch.setattr(live, "_command", [live._command[0], "-c", "import time; time.sleep(600)"])
        live.update(1)
        assert running(live)
        raise KeyboardInterrupt
    assert not running(live)
    with live_page(tmp_path / "s.toml", None, None) as none:
        assert none is None


@pytest.mark.slow
def test_a_study_with_its_page(
    study_file: Callable[[str], Path], no_pauses: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`segue study run --page` leaves the report of all trainings."""
    study = study_file(STAGES)
    page = study.with_name("page.html")
    monkeypatch.setattr("sys.argv", ["segue", "study", "run", str(study), "--workers", "1", "--page", str(page)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0 and page.is_file()
    assert f"report: {page.absolute()}" in capsys.readouterr().out
