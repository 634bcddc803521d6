"""Packages as parents: a run comes back as it was; hostile, damaged and foreign packages are refused in a sentence."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from samples.cli import assert_refused, run_segue
from samples.stages import RESULTS, require_same_bytes, spec_of, train, weights, write_tiles

import segue
from segue.errors import SegueError
from segue.exporting import unpack as unpacking
from segue.training.identity import parent_identity
from segue.training.run_folder import RunFolder
from segue.training.spec import ParentSpec

RDF = "name: discs\ntype: model\nlicense: MIT\nconfig: {segue: {run: k}}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(spec_of(write_tiles(folder / "tiles.h5"), epochs=1), folder / "run")


def pack(file: Path, run: Path, changes: Mapping[str, bytes | None] | None = None) -> Path:
    """Writes a package with the files of a run, changed, added, or left out (None), and returns its path."""
    content: dict[str, bytes | None] = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    content |= {"rdf.yaml": RDF.encode(), "network.onnx": b"not read"} | dict(changes or {})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)
    return file


def test_a_run_comes_back(run: Path, tmp_path: Path):
    """The same bytes and the same key, so that it is the same parent; nothing else of the package is written."""
    package, image = pack(tmp_path / "a.zip", run), np.random.default_rng(0).normal(100, 20, (64, 64))
    done = run_segue("models", "unpack", package, tmp_path / "b")
    assert done.returncode == 0 and done.stdout == f"run: {tmp_path / 'b'}\n"
    require_same_bytes(tmp_path / "b", run)
    np.testing.assert_array_equal(segue.probabilities(tmp_path / "b", image), segue.probabilities(run, image))
    keys = {parent_identity(ParentSpec(run=str(one)), tmp_path) for one in (run, tmp_path / "b")}
    assert keys == {"k"}
    assert set(RESULTS) <= {path.name for path in (tmp_path / "b").iterdir()}
    assert not (tmp_path / "b" / "network.onnx").exists() and not (tmp_path / "b.unpack").exists()
    with pytest.raises(SegueError, match="b: exists; remove it"):
        segue.unpack(package, tmp_path / "b")


def test_children_start_from_it(run: Path, tmp_path: Path):
    """A training from the unpacked run starts at its weights and knows its groups."""
    parent = segue.unpack(pack(tmp_path / "a.zip", run), tmp_path / "b")
    spec = spec_of(write_tiles(tmp_path / "c.h5"), epochs=1, optimizer={"name": "sgd", "lr": 1e-12})
    child = train(spec, tmp_path / "child", parent=parent)
    first, second = weights(run), weights(child)
    for name, value in first.items():
        if value.ndim > 1:
            np.testing.assert_allclose(second[name].numpy(), value.numpy(), rtol=0, atol=1e-9)
    groups = RunFolder(child).read(RunFolder(child).groups)
    assert groups["ancestors"] == RunFolder(run).read(RunFolder(run).groups)["training"]


def test_inspect_says_what_a_package_is(run: Path, tmp_path: Path):
    """With the command that unpacks it; of another program's what can be done instead."""
    done = run_segue("inspect", pack(tmp_path / "a.zip", run))
    assert done.returncode == 0
    assert "the bioimage.io package 'discs' of the run k, license: MIT" in done.stdout
    assert f"segue models unpack {tmp_path / 'a.zip'} OUT" in done.stdout
    done = run_segue("inspect", pack(tmp_path / "b.zip", run, {"spec.json": None}))
    assert done.returncode == 0 and "of another program" in done.stdout


def test_packages_of_other_programs(tmp_path: Path):
    """One sentence: name, formats of weights, network, and what to do instead."""
    rdf = """
name: Boundaries
type: model
weights:
  torchscript: {source: a.pt}
  pytorch_state_dict: {source: a.pth, architecture: {callable: UNet2d, source: unet.py}}
  onnx: null
"""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("bioimageio.yaml", rdf)
        archive.writestr("unet.py", "raise SystemExit")
    assert_refused(
        run_segue("models", "unpack", tmp_path / "a.zip", tmp_path / "out"),
        "a.zip: is the model 'Boundaries' of another program, with weights as torchscript, pytorch_state_dict, and the "
        "network UNet2d, which is not one of segue's; run it with its own program or bioimageio.core, whose masks "
        "`segue compare` takes, or start from a model of `segue models`.",
    )
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("rdf.yaml", "{config: [], weights: 3, name: [1]}")
    with pytest.raises(SegueError, match=r"resource '\[1\]' of another program, with weights as none, and a network"):
        segue.unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"../a.txt": b""}, "entry '../a.txt' is a path that leads out of it; nothing was read"),
        ({"/a.txt": b""}, "is a path that leads out of it"),
        ({"C:\\a.txt": b""}, "is a path that leads out of it"),
        ({"rdf.yaml": None}, "has no bioimageio.yaml, which every package of bioimage.io has"),
        ({"rdf.yaml": b"{"}, "its rdf.yaml cannot be read"),
        ({"rdf.yaml": b"[" * 5000}, "its rdf.yaml cannot be read"),
        ({"rdf.yaml": b"!!python/object/apply:os.system ['false']"}, "its rdf.yaml cannot be read"),
        ({"rdf.yaml": b"- 1"}, "its rdf.yaml is no description"),
        ({"rdf.yaml": b"#" * (2**20 + 1)}, "its rdf.yaml has more than 1,048,576 bytes"),
        ({"weights.safetensors": b"0" * 100}, "is damaged or was altered: its bytes are not those"),
        ({"spec.json": b"{}"}, "is damaged or was altered"),
        ({"digests.json": b"[]"}, "is damaged or was altered: no table of digests"),
    ],
)
def test_hostile_and_damaged_packages(run: Path, tmp_path: Path, changes: Mapping[str, bytes | None], reason: str):
    """Refused in one sentence that names the package; nothing is written."""
    package = pack(tmp_path / "a.zip", run, changes)
    done = run_segue("models", "unpack", package, tmp_path / "out")
    assert_refused(done, "a.zip", reason)
    assert "out.unpack" not in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_links_and_doubles(run: Path, tmp_path: Path):
    """An entry that is a link, and two of one name, are refused before anything is read."""
    package = pack(tmp_path / "a.zip", run)
    link = zipfile.ZipInfo("card.md")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(package, "a") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(SegueError, match=r"entry 'card\.md' is a link; nothing was read"):
        segue.unpack(package, tmp_path / "out")
    package = pack(tmp_path / "b.zip", run)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(package, "a") as archive:
        archive.writestr("spec.json", "{}")
    with pytest.raises(SegueError, match="two entries of one name"):
        segue.unpack(package, tmp_path / "out")


def test_sizes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """More bytes or entries than allowed, a cut file, and no zip at all."""
    package = pack(tmp_path / "a.zip", run)
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "MAX_BYTES", 1000)
        with pytest.raises(SegueError, match="its files have more than 1,000 bytes"):
            segue.unpack(package, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "MAX_ENTRIES", 5)
        with pytest.raises(SegueError, match="entries, but 5 are allowed"):
            segue.unpack(package, tmp_path / "out")
    (tmp_path / "cut.zip").write_bytes(package.read_bytes()[:-100])
    for file in ("cut.zip", "no.zip"):
        with pytest.raises(SegueError, match=file):
            segue.unpack(tmp_path / file, tmp_path / "out")
    shutil.copyfile(run / "spec.json", tmp_path / "text.zip")
    with pytest.raises(SegueError, match=r"text\.zip: is no zip file"):
        segue.unpack(tmp_path / "text.zip", tmp_path / "out")
