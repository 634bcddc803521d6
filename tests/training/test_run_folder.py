"""The files of a run: whatever is in them, a run is read as it was written, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples.stages import inputs_of, spec_of, train, write_tiles

from segue.errors import SegueError
from segue.inference.confidence import FEATURES
from segue.training.inputs.data import load_data
from segue.training.run_folder import RunFolder, load_run

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5", groups=12, size=32)


@pytest.fixture(scope="module")
def trained(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spec_of(tiles, 4, epochs=1), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def replaced(name: str, content: bytes) -> Change:
    return lambda run: (run / name).write_bytes(content)


def flipped(name: str, place: int) -> Change:
    def change(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[place] ^= 1
        (run / name).write_bytes(content)

    return change


def as_link(name: str, target: str) -> Change:
    return lambda run: ((run / name).unlink(), (run / name).symlink_to(target))


@pytest.mark.parametrize(
    "change",
    [
        flipped("weights.safetensors", -1),
        flipped("weights.safetensors", 30),
        flipped("spec.json", 40),
        flipped("metrics.json", -9),
        as_link("weights.safetensors", "/dev/zero"),
        as_link("weights.safetensors", "weights.safetensors"),
        replaced("digests.json", b""),
        replaced("digests.json", b"[" * 10**5),
        replaced("digests.json", b"3"),
        lambda run: (run / "spec.json").unlink(),
        lambda run: (run / "digests.json").unlink(),
    ],
)
def test_a_run_that_was_altered_is_refused(run: Path, change: Change) -> None:
    """One bit of the weights or of a JSON file, a link to a device, no spec.json: no model, one sentence."""
    load_run(run)
    change(run)
    with pytest.raises(SegueError) as raised:
        load_run(run)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 10**5, b'{"seconds": "x"}'])
@pytest.mark.parametrize("name", ["timing.json", "environment.json", "metrics.json", "spec.json", "groups.json"])
def test_whatever_a_json_file_holds_is_told(run: Path, name: str, content: bytes) -> None:
    """Also where the digests are those of what it holds."""
    (run / name).write_bytes(content)
    RunFolder(run).write_digests()
    with pytest.raises(SegueError, match=f"{name}.*copy the run again, or train it again"):
        RunFolder(run).read(run / name)


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), [10**400], "x", None], ids=["infinity", "nan", "huge", "text", "null"]
)
@pytest.mark.parametrize("name", ["objects", "bias", "weights", "features"])
def test_whatever_the_confidence_holds_is_told(run: Path, name: str, value: object) -> None:
    """Infinity and numbers beyond those of floats too."""
    record = {"features": list(FEATURES), "bias": 0.0, "objects": 50}
    record |= dict.fromkeys(("mean", "scale", "weights"), [1.0] * len(FEATURES)) | {name: value}
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "confidence": record}))
    RunFolder(run).write_digests()
    with pytest.raises(SegueError, match=r"metrics.json: the confidence of objects cannot be read .*; copy the run"):
        load_run(run)


@pytest.mark.parametrize("name", ["²", "x", "1.5"])
def test_weights_of_no_epoch_are_passed_over(run: Path, name: str) -> None:
    """Names that are no numbers, also of digits that no number has."""
    (run / "epochs").mkdir()
    for stem in ("10", "9", name):
        (run / "epochs" / f"{stem}.safetensors").touch()
    assert list(RunFolder(run).epoch_files()) == [9, 10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {name: value.bfloat16() if value.is_floating_point() else value for name, value in w.items()},
            "type",
        ),
        (lambda w: {name: value.int() for name, value in w.items()}, "type"),
        (lambda w: {name: value.double() if value.is_floating_point() else value for name, value in w.items()}, "type"),
        (lambda w: {name: value * float("nan") for name, value in w.items()}, "NaN or infinity"),
    ],
)
def test_weights_of_another_type_are_not_cast(run: Path, change: Callable, message: str) -> None:
    """But float16, as exported models have it; nor are weights taken that are no numbers, whatever the digests are."""
    save_file(change(load_file(run / "weights.safetensors")), run / "weights.safetensors", metadata={"format": "pt"})
    RunFolder(run).write_digests()
    with pytest.raises(SegueError, match=message):
        load_run(run)


@pytest.mark.parametrize("content", [b"{}", b'{"training": []}', b'{"training": ["a"], "validation": [3]}', None])
def test_groups_that_are_lost_are_not_known(tiles: Path, run: Path, content: bytes | None) -> None:
    """A record of groups that is emptied, altered or gone stops a child: it guards against leakage."""
    spec = spec_of(tiles, 4, epochs=1)
    inputs = inputs_of(spec, run)
    with closing(load_data(spec, inputs, context="child", device="cpu", log=print)) as data:
        assert data.ancestry == "known"
    (run / "groups.json").unlink()
    if content is not None:
        (run / "groups.json").write_bytes(content)
    with pytest.raises(SegueError, match=r"groups\.json"):
        load_data(spec, inputs, context="child", device="cpu", log=print)


def test_groups_of_a_run_that_cannot_be_verified_still_guard(tiles: Path, run: Path) -> None:
    """They are used, but not taken for all: the ancestry is unknown."""
    for name in ("digests.json", "metrics.json"):
        (run / name).unlink()
    spec = spec_of(tiles, 4, epochs=1)
    with closing(load_data(spec, inputs_of(spec, run), context="child", device="cpu", log=print)) as data:
        assert data.ancestry == "unknown"
        assert data.groups["ancestors"] == json.loads((run / "groups.json").read_text())["training"]


def test_digests_are_of_results_only(trained: Path) -> None:
    """Equal runs have equal digests: times and machines are not among them."""
    names = set(json.loads((trained / "digests.json").read_text()))
    assert {"spec.json", "groups.json", "metrics.json", "history.parquet", "weights.safetensors"} <= names
    assert not names & {"timing.json", "environment.json", "digests.json"}
    assert torch.isfinite(next(iter(RunFolder(trained).read_weights(trained / "weights.safetensors").values()))).all()


def test_licenses_go_from_runs_to_their_children(tmp_path: Path) -> None:
    """Those of all images that had a part in it; what is not stated is said beside them, and alone is nothing."""

    def model(name: str, license: str | None, parent: Path | None = None) -> Path:
        path = write_tiles(tmp_path / f"{name}.h5", groups=12, size=32)
        with h5py.File(path, "a") as file:
            file["samples/group"][...] = np.array([f"{name}-{k}" for k in range(len(file["samples/group"]))], object)
            if license is not None:
                file.attrs["provenance"] = json.dumps({"licence": license})
        return train(spec_of(path, 4, epochs=1), tmp_path / f"{name}-run", parent=parent)

    first = model("a", "CC0 1.0")
    assert load_run(first).licenses == ("CC0 1.0",)
    second = model("b", "BY 4.0", first)
    assert load_run(second).licenses == ("BY 4.0", "CC0 1.0")
    assert RunFolder(second).read(RunFolder(second).metrics)["licenses"] == ["BY 4.0", "CC0 1.0"]
    assert load_run(model("c", None, second)).licenses == ("BY 4.0", "CC0 1.0", "not stated")
    plain = model("d", None)
    assert load_run(plain).licenses == ()
    assert load_run(model("e", "CC0 1.0", plain)).licenses == ("CC0 1.0", "not stated")


@pytest.mark.slow
def test_pictures_go_from_runs_to_their_children(tmp_path: Path) -> None:
    """Hashes of the micrographs that were drawn, those of the parent, too; none where the dataset has none."""

    def dataset(name: str, first: int) -> Path:
        path = write_tiles(tmp_path / f"{name}.h5", groups=12, size=32)
        with h5py.File(path, "a") as file:
            count = len(file["samples/group"])
            del file["samples/group"]
            names = [f"{name}-{first + k}" for k in range(count)]
            for column in ("group", "picture"):
                file[f"samples/{column}"] = np.array(names, h5py.string_dtype("utf-8", 20))
        return path

    parent = train(spec_of(dataset("a", 0), 4, epochs=1), tmp_path / "parent")
    child = train(spec_of(dataset("b", 50), 3, epochs=1), tmp_path / "child", parent=parent)
    records = [json.loads((run / "groups.json").read_text()) for run in (parent, child)]
    assert records[0]["pictures"] == sorted(records[0]["training"] + records[0]["validation"])
    assert set(records[1]["pictures"]) == {*records[0]["pictures"], *records[1]["training"], *records[1]["validation"]}
    assert load_run(child).pictures == frozenset(records[1]["pictures"])
    plain = train(spec_of(write_tiles(tmp_path / "c.h5", groups=12, size=32), 4, epochs=1), tmp_path / "plain")
    assert "pictures" not in json.loads((plain / "groups.json").read_text())
    assert load_run(plain).pictures == frozenset()
