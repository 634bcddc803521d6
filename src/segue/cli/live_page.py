"""The page of a study while its trainings run: written now and then, by another process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FIRST_S = 45.0  # after the start
SHARE = 0.1  # of the time that goes into pages
MIN_PAUSE_S = 60.0


class LivePage:
    """Writes `page` of the finished trainings in a process of its own, one at a time."""

    def __init__(self, study: Path, store: Path | None, page: Path) -> None:
        options = [] if store is None else ["--store", str(store)]
        code = "from segue.cli.main import main; main()"
        self._command = [sys.executable, "-c", code, "report", str(study), *options, "-o", str(page)]
        self._page = page
        self._process: subprocess.Popen[bytes] | None = None
        self._next_s = time.monotonic() + FIRST_S
        self._began_s = 0.0
        self._done = 0
        self._is_told = False

    def update(self, done: int) -> None:
        """Begins a page if trainings, of which `done` are finished, have ended since the last one and it is time."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            now = time.monotonic()
            self._next_s = now + max(MIN_PAUSE_S, (now - self._began_s) / SHARE)
            if self._process.returncode == 0 and not self._is_told:
                print(f"report so far, brought up to date as trainings finish: {self._page.absolute()}", flush=True)
                self._is_told = True
            self._process = None
        if done > self._done and time.monotonic() >= self._next_s:
            self._done, self._began_s = done, time.monotonic()
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        """Ends a page that is being written, of which nothing is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def live_page(study: Path, store: Path | None, page: Path | None) -> Iterator[LivePage | None]:
    """Yields the page to bring up to date, None without `page`."""
    live = None if page is None else LivePage(study, store, page)
    try:
        yield live
    finally:
        if live is not None:
            live.end()
