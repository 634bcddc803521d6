"""Importing segue once more in this process, where a process of its own would have to import torch and others too."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
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


def every_module() -> list[str]:
    """Returns the names of all modules of segue, but for the one that needs napari."""
    package = importlib.import_module("segue")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "segue.")]
    return [name for name in names if name != "segue.napari_plugin.workbench"]
