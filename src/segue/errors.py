"""The errors and warnings that a user can cause: where, what was found, what is allowed and what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any


class SegueError(Exception):
    """A mistake the user can correct, in one clear sentence. The command line prints it and exits with code 2."""


class SegueWarning(UserWarning):
    """A risk that the user should know of, such as a leak between training and validation; the work continues."""


class SpecError(SegueError):
    """All the mistakes of one specification file, one line each."""

    def __init__(self, context: str, mistakes: Sequence[str]) -> None:
        self.context = context
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        head = f"{context}: {'one mistake' if count == 1 else f'{count} mistakes'}"
        super().__init__("\n".join([head, *(f"  {mistake}" for mistake in self.mistakes)]))


def warn(message: str) -> None:
    """Issues a `SegueWarning` located at the line outside of segue that started the work."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "segue":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SegueWarning, stacklevel=level)


def print_warnings() -> None:
    """Makes the warnings of segue sentences on standard error, for the command line; others stay as Python has them."""
    show = warnings.showwarning

    def print_or_show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, SegueWarning):
            print(f"WARNING: {message}", file=sys.stderr, flush=True)
        else:
            show(message, category, *place, **more)

    warnings.showwarning = print_or_show
