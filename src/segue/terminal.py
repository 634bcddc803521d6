"""How long commands show themselves: a bar with rate and time left on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_EVERY_S = 10.0


class Shown(Protocol):
    def __call__(self, text: str, done: int, total: int) -> None: ...


@contextmanager
def progress() -> Iterator[Shown]:
    """Gives a function (text, done, total) that shows how far each thing named by its text has come."""
    if sys.stderr.isatty():
        with _bars() as shown:
            yield shown
    else:
        yield _Lines()


class _Lines:
    """A line when a thing begins, when it ends, and every ten seconds between."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int]] = {}
        self._told: dict[str, float] = {}

    def __call__(self, text: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(text, (now, done))
        finished = done >= total
        if text in self._told and not finished and now - self._told[text] < PLAIN_EVERY_S:
            return
        if total == 0 or (finished and self._told.get(text) == float("inf")):
            return
        self._told[text] = float("inf") if finished else now
        print(f"{text}: {done}/{total}{_pace(done - first, total - done, now - began)}", file=sys.stderr, flush=True)


def _pace(done: int, left: int, seconds: float) -> str:
    if done <= 0 or seconds <= 0:
        return ""
    rate = done / seconds
    told = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
    return f", {told}, {clock(left / rate)} left" if left else f", {told}, took {clock(seconds)}"


def clock(seconds: float) -> str:
    """Returns "45 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def _bars() -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        rows = {}
        began: dict[str, tuple[float, int]] = {}

        def shown(text: str, done: int, total: int) -> None:
            if text not in rows:
                rows[text] = bar.add_task(text, total=total, rate="")
                began[text] = (time.monotonic(), done)
            start, first = began[text]
            seconds = time.monotonic() - start
            rate = (done - first) / seconds if seconds > 0 else 0.0
            told = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
            bar.update(rows[text], completed=done, total=total, rate=told if done > first else "")

        yield shown


def size(count: float) -> str:
    """Returns bytes in the unit that fits: "12 kB", "3.4 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
