"""`prepare` takes files of instruments as it takes TIFF: pixels, pixel size, channels and pages arrive."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from samples.instruments import CziTile, Nd2, czi_metadata, write_czi, write_nd2

from segue.data.prepare import prepare
from segue.data.spec import PrepareSpec

RANDOM = np.random.default_rng(0)


def make_spec(**changes: Any) -> PrepareSpec:
    labels = {"files": "labels/{stem}.tif", "kind": "instances", "names": ["background", "cell"]}
    return PrepareSpec.model_validate({"name": "x", "tile_px": 16, "labels": labels, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


def numbered() -> np.ndarray:
    labels = np.zeros((16, 16), np.uint16)
    labels[1:6, 1:6], labels[9:14, 8:14] = 1, 2
    return labels


def micrographs(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[f"micrographs/{name}/image"][()] for name in file["micrographs"]}


def test_czi(folder: Path) -> None:
    """The suffix in any case; two channels with their names and 325 nm."""
    images = RANDOM.integers(0, 4000, (3, 2, 16, 16)).astype("<u2")
    for number, image in enumerate(images):
        tiles = [CziTile(plane, {"C": (i, 1)}) for i, plane in enumerate(image)]
        write_czi(folder / f"images/s{number}.CZI", tiles, czi_metadata(3.25e-7, ["DAPI", "GFP"]))
        tifffile.imwrite(folder / f"labels/s{number}.tif", numbered())
    path = prepare(make_spec(images="images/{stem}.czi"), folder / "a.h5", root=folder).path
    stored = micrographs(path)
    assert len(stored) == 3
    np.testing.assert_array_equal(np.stack([stored[name] for name in sorted(stored)]), images)
    with h5py.File(path) as file:
        attributes = {name: str(value) for name, value in file.attrs.items()}
    assert any("325" in value for value in attributes.values())
    assert any("DAPI" in value and "GFP" in value for value in attributes.values())


def test_nd2_series(folder: Path) -> None:
    """Each time point is an image."""
    frames = RANDOM.integers(0, 4000, (3, 16, 16, 1)).astype("<u2")
    for number in range(2):
        write_nd2(folder / f"images/s{number}.nd2", Nd2(frames + number, channels=("BF",)))
        labels = np.stack([np.roll(numbered(), step, 0) for step in range(3)])
        tifffile.imwrite(folder / f"labels/s{number}.tif", labels, photometric="minisblack", metadata=None)
    path = prepare(make_spec(images="images/{stem}.nd2", pages="time"), folder / "a.h5", root=folder).path
    stored = micrographs(path)
    expected = sorted((frames + number)[i, ..., 0].tobytes() for number in range(2) for i in range(3))
    assert sorted(image.tobytes() for image in stored.values()) == expected
