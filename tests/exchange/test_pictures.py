"""Label images: numbers stay, pyramids are by mode, OME-Zarr of both versions is valid."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models import v05
from ome_zarr_models.v04.image_label import ImageLabelAttrs
from samples.awkward_labels import AWKWARD

import segue
from segue import rng
from segue.exchange import pictures
from segue.exchange.pictures import mode_of_blocks


def test_modes_of_blocks():
    """A block has its most frequent number, of several the first, for all blocks of four numbers."""
    blocks = np.stack(np.meshgrid(*[np.arange(4)] * 4, indexing="ij"), -1).reshape(-1, 4)
    labels = blocks.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1)
    expected = [Counter(block).most_common(1)[0][0] for block in blocks.tolist()]  # of several the first
    assert mode_of_blocks(labels).tolist() == [expected]


@pytest.mark.parametrize("format", ["ome-zarr", "ome-zarr-0.4"])
def test_pyramids_of_labels_are_by_mode(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Levels hold numbers of objects alone, the most frequent of four; their metadata are valid, scales in µm."""
    monkeypatch.setattr(pictures, "MAX_PYRAMID_TOP_PX", 10)
    labels = rng.numpy_generator("pyramid").choice([0, 7, 70_000], (37, 21)).astype(np.uint32)
    path = segue.write_objects(labels, tmp_path / "a.ome.zarr", format=format, pixel_size_nm=500)
    group = zarr.open_group(path, mode="r")
    is_04 = format == "ome-zarr-0.4"
    assert group.metadata.zarr_format == (2 if is_04 else 3)
    attributes: Any = group.attrs if is_04 else group.attrs["ome"]
    (multiscale,) = attributes["multiscales"]
    assert multiscale["type"] == "mode"
    level = labels
    for index, dataset in enumerate(multiscale["datasets"]):
        if index:
            level = mode_of_blocks(level[: level.shape[0] // 2 * 2, : level.shape[1] // 2 * 2])
        assert np.array_equal(group[dataset["path"]][...], level)  # pyright: ignore[reportIndexIssue]
        assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [0.5 * 2**index] * 2}]
    assert max(level.shape) <= 10
    if is_04:
        ImageLabelAttrs.model_validate(dict(group.attrs))
    else:
        v05.ImageLabel.from_zarr(group)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".ome.zarr"])
def test_numbers_stay(suffix: str, tmp_path: Path):
    """Numbers with gaps are written as they are, ignored pixels as background; readers know the pixel size."""
    for name in ("gaps in uint32", "ignored pixels", "empty"):
        labels = AWKWARD[name]
        path = segue.write_objects(labels, tmp_path / f"{name}{suffix}", pixel_size_nm=250)
        if suffix == ".ome.zarr":
            actual = zarr.open_group(path, mode="r")["0"][...]  # pyright: ignore[reportIndexIssue]
        else:
            actual = tifffile.imread(path)
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                assert page.get_resolution("MICROMETER") == pytest.approx((4, 4))
                assert "objects" in page.description or "objects" in (tiff.ome_metadata or "")
        assert np.array_equal(actual, np.maximum(labels, 0))
        assert actual.dtype == (np.uint32 if name.startswith("gaps") else np.uint16)
