"""OME-Zarr: what is missing of an image is counted by its files, whatever its metadata claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from segue.data.formats.ome_zarr import read_ome_zarr
from segue.errors import SegueError

AXES = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
SCALE = [{"type": "scale", "scale": [0.5, 0.5]}]


def write(path: Path, *, version: int = 2, **settings: Any) -> Path:
    """Writes an image of 64 × 64 px, of the numbers 1, 2 … in 16 chunks."""
    multiscale = {"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}
    content = {"multiscales": [multiscale]}
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.attrs.update(content if version == 2 else {"ome": content})
    array = group.create_array("0", shape=(64, 64), dtype="u2", chunks=(16, 16), **settings)
    array[:] = 1 + np.arange(64 * 64).reshape(64, 64)
    return path


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        file = path / "0" / ".zarray"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize("settings", [{"version": 2}, {"version": 3}, {"version": 3, "shards": (32, 32)}])
def test_a_whole_image(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Its pixels, axes and size, and no note; files of the system beside the chunks do not count."""
    path = write(tmp_path / "a.zarr", **settings)
    (path / "0" / ".DS_Store").write_bytes(b"x")
    stack = read_ome_zarr(path)
    assert (stack.axes, stack.pixel_size_nm, stack.notes) == ("YX", 500, ())
    assert np.asarray(stack.pixels[:]).sum() == 4096 * 4097 // 2


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"version": 2}, "lacks 3 of 16 chunks, whose pixels count as 0"),
        ({"version": 3}, "lacks 3 of 16 chunks, whose pixels count as 0"),
        ({"version": 3, "shards": (32, 32)}, "lacks 3 of 4 chunks, whose pixels count as 0"),
    ],
)
def test_missing_chunks_are_counted(tmp_path: Path, settings: dict[str, Any], note: str) -> None:
    path = write(tmp_path / "a.zarr", **settings)
    files = sorted(p for p in (path / "0").rglob("*[0-9]") if p.is_file())
    for file in files[:3]:
        file.unlink()
    assert read_ome_zarr(path).notes == (note,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (rewrite(shape=[10**7, 10**7]), r"lacks 390,624,999,984 of 390,625,000,000 chunks of its 10000000 × 10000000"),
        (rewrite(shape=[2**16, 2**16], chunks=[16, 16]), r"lacks 16,777,200 of 16,777,216 chunks"),
        (
            rewrite(shape=[10**9, 10**9], chunks=[10**9, 10**9]),
            r"has chunks of .* TB, each of which is read",
        ),
        (rewrite(shape=[2**16, 2**15], chunks=[2**16, 2**16]), r"has chunks of 8\.\d GB, each of which is read"),
        (rewrite(chunks=[0, 16]), "cannot be read as OME-Zarr"),
        (rewrite(shape=[64]), "cannot be read as OME-Zarr|1 dimensions"),
        (rewrite(compressor={"id": "pickle"}), "cannot be read as OME-Zarr"),
        (lambda path: (path / ".zattrs").write_text("[]"), "cannot be read as OME-Zarr"),
        (
            lambda path: (path / ".zattrs").write_text((path / ".zattrs").read_text()[:-1] + ', "omero": 3}'),
            "cannot be read as OME-Zarr",
        ),
    ],
)
def test_metadata_that_claim_too_much_are_refused(tmp_path: Path, change: Callable, sentence: str) -> None:
    """At once, in one sentence: neither is every chunk looked for, nor memory taken for one."""
    path = write(tmp_path / "a.zarr")
    change(path)
    with pytest.raises(SegueError, match=f"a.zarr: ({sentence})"):
        read_ome_zarr(path)
