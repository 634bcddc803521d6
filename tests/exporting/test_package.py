"""Packages of bioimage.io: their own test passes in bioimageio.core, thresholds are declared, the run is inside."""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image
from samples.cli import assert_refused, run_segue
from samples.discs import write_discs
from samples.local_model import model_of
from samples.stages import require_same_bytes, spec_of, train

import segue
from segue.errors import SegueError
from segue.exporting import package
from segue.exporting.check import example_image
from segue.exporting.network import Output
from segue.inference.predict import score_whole
from segue.targets.rays import border_px
from segue.training.run_folder import TrainedModel

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def trained(folder: Path, target: Mapping[str, object], **more: object) -> Path:
    dataset = write_discs(folder / "discs.h5", kind="instances", size=64)
    return train(spec_of(dataset, epochs=1, target=target, **more), folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of flows, trained for a moment."""
    return trained(tmp_path_factory.mktemp("flows"), {"name": "flows"})


def require_passed(file: Path) -> None:
    """bioimageio.core reproduces the test tensors, and runs both formats in batches of one and two at three sizes."""
    from bioimageio.core import test_description as test

    with leaving_files_open():
        summary = test(file)
        assert summary.status == "passed", summary.display()
        assert sum("inference for inputs" in detail.name for detail in summary.details) == 12
        del summary


def computed_by_core(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the test image of a package, and the scores that bioimageio.core computes of it."""
    from bioimageio.core import load_description, predict

    with leaving_files_open():
        description = load_description(file)
        with zipfile.ZipFile(file) as archive:
            image = np.load(io.BytesIO(archive.read("test_input.npy")))
        scores = predict(model=description, inputs={"image": image}).members["scores"].to_numpy()
        del description
    return image, np.asarray(scores)


@contextlib.contextmanager
def leaving_files_open() -> Iterator[None]:
    """Inside, bioimageio may leave files to the garbage collector, and logs nothing."""
    from loguru import logger

    logger.disable("bioimageio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def rdf_of(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        return yaml.safe_load(archive.read("rdf.yaml"))


@pytest.mark.slow
def test_a_package_of_flows(run: Path, tmp_path: Path):
    """Its test passes; axes, license, authors, citation and thresholds are there, and bioimageio.core gives the scores
    of segue."""
    image = np.repeat(example_image(1, 150, 130), 1, 0)
    tifffile.imwrite(tmp_path / "image.tif", image[0].astype(np.uint16))
    file = tmp_path / "model.zip"
    done = run_segue(
        "export", run, file, "--license", "cc by 4.0", "--author", "Ann Lee, A University", "--author", "Bo",
        "--image", tmp_path / "image.tif",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("largest difference from torch") == 2 and "made image" not in done.stderr
    require_passed(file)

    model = segue.load(run)
    content = rdf_of(file)
    assert content["format_version"].startswith("0.5.")
    assert content["license"] == "CC-BY-4.0"
    assert content["authors"] == [{"name": "Ann Lee", "affiliation": "A University"}, {"name": "Bo"}]
    assert [one["doi"] for one in content["cite"]] == ["10.69761/kjte5358", "10.1038/s41592-020-01018-x"]
    assert set(content["weights"]) == {"onnx", "torchscript"} and content["weights"]["onnx"]["opset_version"] == 18
    (inputs,), (output,) = content["inputs"], content["outputs"]
    assert [axis.get("size") for axis in inputs["axes"][2:]] == [{"min": 64, "step": 1}] * 2
    assert output["axes"][1]["channel_names"] == ["flow_y", "flow_x", "object"]
    assert content["config"]["segue"]["postprocessing"] == {
        "id": "cellpose_flow_dynamics",
        "kwargs": {
            "cellprob_threshold": model.decode_params["cellprob_threshold"],
            "flow_threshold": model.decode_params["flow_threshold"],
            "min_size": model.decode_params["min_size_px"],
            "do_3D": False,
            "output_dtype": "uint32",
        },
    }
    tested, actual = computed_by_core(file)
    np.testing.assert_array_equal(tested[0], image[:, 11:139, 1:129])  # the middle, of multiples of 32 px
    expected = score_whole(model, tested).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

    with zipfile.ZipFile(file) as archive:
        with Image.open(archive.open("cover.png")) as cover:
            assert cover.width == 2 * cover.height
        card = archive.read("README.md").decode()
    assert card.startswith("# run\n") and "- output flow_y: 5 ×" in card and "- min_size_px: " in card
    require_same_bytes(segue.unpack(file, tmp_path / "unpacked"), run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "more", "axes"),
    [
        ({"name": "rays", "rays": 8}, {}, ["batch", "channel", "y", "x"]),
        ({"name": "classes"}, {"tta": True}, ["batch", "channel", "y", "x"]),
        ({"name": "boundary"}, {"normalize": {"name": "percentile"}}, ["batch", "channel", "y", "x"]),
    ],
)
def test_packages_of_other_targets(
    tmp_path: Path, target: Mapping[str, object], more: Mapping[str, object], axes: list[str]
):
    """Their tests pass, of a made image, with names for all channels."""
    folder = trained(tmp_path, target, **more)
    file = segue.export(folder, tmp_path / "model.zip", license="MIT")
    require_passed(file)
    (output,) = rdf_of(file)["outputs"]
    assert [axis.get("id", axis["type"]) for axis in output["axes"]] == axes
    model = segue.load(folder)
    assert len(output["axes"][1]["channel_names"]) == model.target.channels
    segue_config = rdf_of(file)["config"]["segue"]
    assert segue_config["target"] == target["name"]
    assert ("postprocessing" in segue_config) == (target["name"] == "rays")


def test_the_description(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """bioimageio.spec accepts the package, here without networks that compute; the run in it comes back."""
    for name in ("onnx_bytes", "torchscript_bytes"):
        monkeypatch.setattr(package, name, lambda *_: (b"no network", "not checked"))
    notes: list[str] = []
    file = segue.export(run, tmp_path / "model.zip", license="MIT", log=notes.append)
    assert notes[0].startswith("cover and test tensors are of a made image")
    content = rdf_of(file)
    assert content["name"] == "model run" and content["type"] == "model"
    assert content["description"].startswith("A network (resunet, ")
    assert content["config"]["segue"]["run"] == "k"
    require_same_bytes(segue.unpack(file, tmp_path / "unpacked"), run)


def test_what_is_refused(run: Path, tmp_path: Path):
    """Licenses without an SPDX identifier, images of other sizes and channels, names and operations that the standard
    does not have."""
    file = tmp_path / "model.zip"
    for license in ([], ["--license", "mine"]):
        told = "--license says 'mine'" if license else "the run states no license"
        assert_refused(run_segue("export", run, file, *license), told, "SPDX", "--license CC-BY-4.0")
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((40, 200), np.uint8))
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((200, 200, 3), np.uint8), photometric="rgb")
    for image, reason in {"small": "has 40 × 200 px", "rgb": "has 3 channels, but the model takes 1"}.items():
        words = ("export", run, file, "--license", "MIT", "--image", tmp_path / f"{image}.tif")
        assert_refused(run_segue(*words), reason)
    assert not file.exists()


def test_licenses_of_runs():
    """Spaces and case do not matter; several are none."""
    for stated, expected in {"CC0 1.0": "CC0-1.0", "cc by 4.0": "CC-BY-4.0", "BSD-3-Clause": "BSD-3-Clause"}.items():
        assert package.spdx_license(Path("a"), licensed(stated), None) == expected
    assert package.spdx_license(Path("a"), licensed("mine"), "MIT") == "MIT"
    with pytest.raises(SegueError, match=r"the run states 'MIT' and 'CC0 1\.0', but a package needs one license"):
        package.spdx_license(Path("a"), licensed("MIT", "CC0 1.0"), None)


def licensed(*licenses: str) -> TrainedModel:
    return TrainedModel(**model_of("flows").__dict__, spec=None, folder=Path("a"), licenses=licenses)  # type: ignore[arg-type]


def test_names_and_summaries():
    """Of cards, in the letters and lengths that the standard allows."""
    assert package._allowed_name("# Kerne (ä) / DAPI: 20×") == "Kerne ( ) DAPI 20"
    assert package._allowed_name("run") == "model run" and len(package._allowed_name("a" * 100)) == 64


def decoded_by_the_standard(name: str, scores: np.ndarray, params: Mapping[str, float]) -> np.ndarray:
    """Returns the objects (H, W) that the standard's post-processing makes of scores as they are exported."""
    from dataclasses import replace

    model = replace(licensed(), **{**model_of(name).__dict__, "decode_params": params})
    operation = package.standard_postprocessing(model)
    assert operation is not None
    output = Output("scores", {}, channels_last=name == "rays")
    return package._postprocessed(Path("a"), operation, scores[None], output).squeeze()


def labels() -> np.ndarray:
    y, x = np.mgrid[:96, :120]
    image = np.zeros((96, 120), np.int64)
    for number, (row, column, radius) in enumerate([(20, 20, 12), (20, 46, 14), (60, 30, 16), (70, 90, 20)], 1):
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = number
    return image


def test_flows_are_those_of_cellpose():
    """The standard's operation, computed by cellpose, makes the same objects as segue, pixel by pixel, from scores as
    they are exported, and removes the same small ones."""
    pytest.importorskip("cellpose")
    target = model_of("flows").target
    encoded = target.encode(torch.from_numpy(labels())[None]).numpy()[0]
    scores = np.concatenate([5 * encoded[:2], np.where(encoded[2:] > 0, 3, -3)]).astype(np.float32)
    for params in (
        {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "min_size_px": 15.0},
        {"cellprob_threshold": -1.0, "flow_threshold": 100.0, "min_size_px": 500.0},
    ):
        expected = target.decode(scores, params)
        assert expected.max() == (4 if params["min_size_px"] == 15 else 3)
        np.testing.assert_array_equal(decoded_by_the_standard("flows", scores, params), expected)


def test_rays_are_those_of_stardist():
    """The standard's operation, computed by stardist, makes the same polygons, but for pixels on their borders."""
    pytest.importorskip("stardist")
    target = model_of("rays").target
    encoded = target.encode(torch.from_numpy(labels())[None]).numpy()[0]
    probability = encoded[:1].clip(1e-4, 1 - 1e-4)
    params = {"prob_threshold": 0.5, "nms_threshold": 0.4}
    expected = target.decode(np.concatenate([np.log(probability / (1 - probability)), encoded[1:]]), params)
    distances = np.maximum(encoded[1:], border_px(32)[:, None, None].astype(np.float32))
    scores = np.concatenate([probability, distances]).transpose(1, 2, 0)
    actual = decoded_by_the_standard("rays", np.ascontiguousarray(scores), params)
    assert actual.max() == expected.max() == 4
    assert ((actual > 0) != (expected > 0)).mean() < 0.01


def test_post_processing_without_its_package(monkeypatch: pytest.MonkeyPatch):
    """Is refused with the command that installs it."""
    import sys

    monkeypatch.setitem(sys.modules, "cellpose.dynamics", None)
    scores = np.zeros((3, 64, 64), np.float32)
    params = {"cellprob_threshold": 0.0, "flow_threshold": 0.4, "min_size_px": 15.0}
    with pytest.raises(
        SegueError, match="needs cellpose, which is not installed; pip install cellpose, or leave it out"
    ):
        decoded_by_the_standard("flows", scores, params)
