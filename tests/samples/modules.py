"""Importing segue once more in this process, where a process of its own would have to import torch and others too."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


def _names() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "segue"]


@contextlib.contextmanager
def imported_anew() -> Iterator[None]:
    """Inside, no module of segue has been imported; on leaving, those of before are the imported ones again."""
    before = {name: sys.modules.pop(name) for name in _names()}
    try:
        yield
    finally:
        for name in _names():
            del sys.modules[name]
        sys.modules.update(before)
