"""Small folders of images and labels, and specifications of them, to test with."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segue.data.prepare import prepare
from segue.data.spec import PrepareSpec
from segue.errors import SegueError
from segue.spec import validate


def make_spec(**changes: Any) -> PrepareSpec:
    """Returns a spec of images/*.png with labels of two classes, with changes; `labels` is merged."""
    labels = {
        "files": "labels/{stem}.png",
        "kind": "classes",
        "names": ["background", "cell"],
        **changes.pop("labels", {}),
    }
    table = {"name": "made", "images": "images/*.png", "tile_px": 16, "labels": labels, **changes}
    return validate(PrepareSpec, {key: value for key, value in table.items() if value is not None}, context="spec.toml")


def make_folder(where: Path, count: int = 4, shape: tuple[int, int] = (20, 30)) -> Path:
    """Writes `count` images and their labels; returns the folder."""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (where / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(generator.integers(0, 255, shape).astype(np.uint8)).save(
            where / f"images/w{index // 2}_{index}.png"
        )
        Image.fromarray(generator.integers(0, 2, shape).astype(np.uint8)).save(
            where / f"labels/w{index // 2}_{index}.png"
        )
    return where


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows as a CSV table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def refused(spec: PrepareSpec, where: Path) -> str:
    """Returns the message of a refused preparation, after checking that no dataset is left."""
    out = where / "out" / "a.h5"
    with pytest.raises(SegueError) as raised:
        prepare(spec, out, root=where)
    assert not out.exists()
    assert not list(where.rglob("*.partial-*"))
    return str(raised.value)
