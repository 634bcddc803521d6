"""What `prepare` refuses to do: replace another dataset, cut tiles far beyond the images, depend on a cache."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from samples.folders import make_folder, make_spec, refused, write_table

from segue.data import prepare as preparing
from segue.data.pairing import pair_files
from segue.data.prepare import expected, prepare
from segue.errors import SegueError, SpecError
from segue.fingerprint import hash_files


@pytest.mark.parametrize("change", ["spec", "file", "split", "foreign"])
def test_another_dataset_is_not_replaced(tmp_path: Path, change: str) -> None:
    """A dataset of another spec, of changed files, of another given split or of other making is kept and named."""
    make_folder(tmp_path)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    rows = [{"image": f"images/{name}", "label": f"labels/{name}", "split": "train"} for name in names]
    write_table(tmp_path / "table.csv", rows)
    spec, out = make_spec(images=None, manifest="table.csv", labels={"files": None}), tmp_path / "a.h5"
    prepare(spec, out, root=tmp_path)
    if change == "spec":
        spec = spec.model_copy(update={"tile_px": 20})
    elif change == "file":
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "labels/w0_0.png")
    elif change == "split":
        write_table(tmp_path / "table.csv", [*rows[1:], {**rows[0], "split": "test"}])
    else:
        with h5py.File(out, "r+") as file:
            del file.attrs["inputs"]
    before = out.read_bytes()
    with pytest.raises(SegueError, match=r"a\.h5: holds a dataset of another specification or other files; choose"):
        prepare(spec, out, root=tmp_path)
    assert out.read_bytes() == before
    assert not (tmp_path / "a.h5.parts").exists()


def test_a_tile_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile beyond the bound, or far beyond the images, is refused before any is cut; so is want of memory."""
    make_folder(tmp_path, 2)
    with pytest.raises(SpecError, match="tile_px: found 100000; give a number of 8192 or less"):
        make_spec(tile_px=100000)
    desired = "tile_px is 241, but the largest image measures 30 px; allowed are up to 8 times that"
    message = refused(make_spec(tile_px=241), tmp_path)
    assert message.startswith(f"{tmp_path}/images/*.png: {desired}")
    with pytest.raises(SegueError, match=desired):
        expected(make_spec(tile_px=241), pair_files(make_spec(), tmp_path))

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(preparing, "cut", full)
    assert "w0_0.png: memory does not suffice to cut it into tiles of 16 px" in refused(make_spec(), tmp_path)


def test_errors_begin_with_a_file(tmp_path: Path) -> None:
    """One problem begins with its file, several with the images' pattern, never with the dataset's name."""
    make_folder(tmp_path, 3)
    assert refused(make_spec(channels=["a", "b"]), tmp_path).startswith(f"{tmp_path}/images/*.png: 2 channels are")
    assert refused(make_spec(images="none/*.png"), tmp_path).startswith(f"{tmp_path}: images = 'none/*.png' matches")
    (tmp_path / "labels/w0_0.png").unlink()
    assert refused(make_spec(), tmp_path).startswith(f"{tmp_path}/images/w0_0.png: has no label image")
    (tmp_path / "labels/w0_1.png").unlink()
    assert refused(make_spec(), tmp_path).startswith(f"{tmp_path}/images/*.png: 2 problems with the files")


def test_the_digest_cache_is_optional(tmp_path: Path) -> None:
    """Digesting makes no folder for its cache, and does without one that cannot be read or written."""
    files = pair_files(make_spec(), make_folder(tmp_path / "in")).paths
    digest = hash_files(files)
    assert hash_files(files, tmp_path / "mistyped" / "digests.json") == digest
    assert not (tmp_path / "mistyped").exists()
    (tmp_path / "digests.json").mkdir()
    assert hash_files(files, tmp_path / "digests.json") == digest
    (tmp_path / "file").write_text("")
    assert hash_files(files, tmp_path / "file" / "digests.json") == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests.json", "file", "in"]
