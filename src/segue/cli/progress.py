"""How long commands show themselves: a bar with rate and time left on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_EVERY_S = 10.0


class Shown(Protocol):
    """Shows that `done` of `total` of a thing are done, which is the `share` (0 to 1) of its work."""

    def __call__(self, text: str, done: int, total: int, share: float | None = None) -> None: ...


@contextmanager
def progress() -> Iterator[Shown]:
    """Gives a function that shows how far each thing, named by its text, has come."""
    if sys.stderr.isatty():
        with _bars() as shown:
            yield shown
    else:
        yield _lines()


class _Pace:
    """Words the rate and the time left of one thing from when it was first heard of."""

    def __init__(self, done: int, share: float) -> None:
        self.began, self.first, self.first_share = time.monotonic(), done, share

    def __call__(self, done: int, total: int, share: float) -> str:
        seconds = time.monotonic() - self.began
        if done <= self.first or share <= self.first_share or seconds <= 0:
            return f"{done}/{total}"
        rate = (done - self.first) / seconds
        told = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        left = seconds * (1 - share) / (share - self.first_share)
        return f"{done}/{total}, {told}, " + (f"{clock(left)} left" if done < total else f"took {clock(seconds)}")


def _lines() -> Shown:
    """Returns what prints a line when a thing begins, when it ends, and every ten seconds between."""
    paces: dict[str, _Pace] = {}
    told: dict[str, float] = {}

    def shown(text: str, done: int, total: int, share: float | None = None) -> None:
        share = done / max(total, 1) if share is None else share
        pace = paces.setdefault(text, _Pace(done, share))
        now, finished = time.monotonic(), done >= total
        if total == 0 or now - told.get(text, -PLAIN_EVERY_S) < (0 if finished else PLAIN_EVERY_S):
            return
        told[text] = float("inf") if finished else now
        print(f"{text}: {pace(done, total, share)}", file=sys.stderr, flush=True)

    return shown


@contextmanager
def _bars() -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        rows = {}
        paces: dict[str, _Pace] = {}

        def shown(text: str, done: int, total: int, share: float | None = None) -> None:
            share = done / max(total, 1) if share is None else share
            if text not in rows:
                rows[text] = bar.add_task(text, total=1.0, pace="")
                paces[text] = _Pace(done, share)
            bar.update(rows[text], completed=share, pace=paces[text](done, total, share))

        yield shown


def clock(seconds: float) -> str:
    """Returns "45 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Returns bytes in the unit that fits: "12 kB", "3.4 MB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
