"""SIGTERM and SIGHUP, by which a cluster or a closed terminal ends a command: a training saves a checkpoint first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Terminated(BaseException):
    """The command was asked to end by a signal: like KeyboardInterrupt, no `except Exception` stops it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


_received: int | None = None  # the signal that asked this process to end
_deferred = 0  # how many blocks of `deferring` the process is in


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise `Terminated`, in `deferring` where `raise_if_received` is called.

    Signals that the process ignores, as after `nohup`, stay ignored; outside of the main thread nothing changes.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        previous = {number: signal.signal(number, _handle) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        request_end(None)


def _handle(number: int, frame: FrameType | None) -> None:
    request_end(number)
    if not _deferred:
        raise Terminated(number)


@contextmanager
def deferring() -> Iterator[None]:
    """Within the block a signal raises nothing by itself: `raise_if_received` does, where the work can be resumed."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def request_end(number: int | None) -> None:
    """Asks this process to end as a signal does; None takes that back."""
    global _received
    _received = number


def received() -> bool:
    """Returns whether the process was asked to end."""
    return _received is not None


def raise_if_received() -> None:
    """Raises `Terminated` if the process was asked to end."""
    if _received is not None:
        raise Terminated(_received)
