"""OIR: what is said where the package cannot be had, and its reader with a stand-in of the package."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segue.data.formats.instruments import oir
from segue.data.image_io import read_header, read_image
from segue.errors import SegueError

ARRAY = np.random.default_rng(0).integers(0, 4000, (2, 5, 7)).astype("<u2")


class StandIn:
    """What of oirfile.OirFile the reader uses; `stored` planes of two."""

    stored = 2
    warning = ""
    is_linescan = False

    def __init__(self, path: str) -> None:
        self.sizes = {"C": 2, "Y": 5, "X": 7}
        self.dims, self.shape, self.dtype = tuple(self.sizes), ARRAY.shape, ARRAY.dtype
        self.coord_scales, self.coord_units = {"X": 0.5, "Y": 0.5}, {"X": "micrometer", "Y": "micrometer"}
        self.channels = [SimpleNamespace(name="CH2"), SimpleNamespace(name="CH1"), SimpleNamespace(name="off")]
        self.coords = {"C": np.array(["CH1", "CH2"])}  # in the order of the pixels
        self._pixel_map = dict.fromkeys(range(self.stored))

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def asarray(self) -> np.ndarray:
        if self.warning:
            logging.getLogger("oirfile").warning(self.warning)
        return ARRAY


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    module: Any = ModuleType("oirfile")
    module.OirFile = type("OirFile", (StandIn,), {})
    monkeypatch.setitem(sys.modules, "oirfile", module)
    monkeypatch.setattr(oir, "MIN_PYTHON", (3, 0))
    return module.OirFile


def file(folder: Path) -> Path:
    path = folder / "a.oir"
    path.write_bytes(b"OLYMPUSRAWFORMAT")
    return path


def test_image(tmp_path: Path, package: type[StandIn]) -> None:
    image = read_image(file(tmp_path))
    np.testing.assert_array_equal(image.image, ARRAY)
    assert image.pixel_size_nm == 500
    assert image.channels == ("CH1", "CH2")
    assert read_header(file(tmp_path)).channels == 2


def test_planes_that_the_package_would_fill_with_zeros(tmp_path: Path, package: type[StandIn]) -> None:
    package.stored = 1
    with pytest.raises(SegueError, match="1 of 2 planes are missing"):
        read_header(file(tmp_path))
    package.stored, package.warning = 2, "incomplete plane at t=0"
    with pytest.raises(SegueError, match=r"truncated or corrupt \(incomplete plane"):
        read_image(file(tmp_path))


def test_earlier_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oir, "MIN_PYTHON", (99, 0))
    with pytest.raises(SegueError, match=r"needs the package oirfile, which needs Python 3\.12"):
        read_header(file(tmp_path))
