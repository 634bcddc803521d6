"""Progress of long commands: bars with rate and time left on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from segue.formatting import format_duration

LINE_EVERY_S = 10.0  # between plain lines about one task


class Report(Protocol):
    """Reports that `done` of `total` items of a task are finished, the fraction `share` (0 to 1) of its work, and that
    the rest takes `left_s` seconds, by default in proportion."""

    def __call__(
        self, text: str, done: int, total: int, share: float | None = None, left_s: float | None = None
    ) -> None: ...


@contextmanager
def open_progress() -> Iterator[Report]:
    """Gives a function that shows the progress of each task, identified by its text."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}
        paces: dict[str, _Pace] = {}

        def report(text: str, done: int, total: int, share: float | None = None, left_s: float | None = None) -> None:
            share = done / max(total, 1) if share is None else share
            if text not in tasks:
                tasks[text] = bars.add_task(text, total=1.0, pace="")
                paces[text] = _Pace(done, share)
            bars.update(tasks[text], completed=share, pace=paces[text].describe(done, total, share, left_s))

        yield report


def _lines() -> Report:
    """Returns a function that prints a line when a task begins, when it ends, and every ten seconds in between."""
    paces: dict[str, _Pace] = {}
    printed: dict[str, float] = {}

    def report(text: str, done: int, total: int, share: float | None = None, left_s: float | None = None) -> None:
        share = done / max(total, 1) if share is None else share
        pace = paces.setdefault(text, _Pace(done, share))
        now, is_finished = time.monotonic(), done >= total
        if total == 0 or now - printed.get(text, -LINE_EVERY_S) < (0 if is_finished else LINE_EVERY_S):
            return
        printed[text] = float("inf") if is_finished else now
        print(f"{text}: {pace.describe(done, total, share, left_s)}", file=sys.stderr, flush=True)

    return report


class _Pace:
    """Rate and time left of one task since it was first reported.

    Computed from the fraction of its work, not the number of items as rich does: stages of a study differ in length.
    """

    def __init__(self, done: int, share: float) -> None:
        self.began, self.first, self.first_share = time.monotonic(), done, share

    def describe(self, done: int, total: int, share: float, left_s: float | None = None) -> str:
        seconds = time.monotonic() - self.began
        if done <= self.first or share <= self.first_share or seconds <= 0:
            return f"{done}/{total}"
        rate = (done - self.first) / seconds
        rate_text = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        if done >= total:
            return f"{done}/{total}, {rate_text}, took {format_duration(seconds)}"
        left = seconds * (1 - share) / (share - self.first_share) if left_s is None else left_s
        return f"{done}/{total}, {rate_text}, {format_duration(left)} left"
