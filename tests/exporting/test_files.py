"""ONNX and TorchScript files, read back by onnxruntime and torch.jit, compute what segue does at sizes of their own."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from samples.local_model import model_of
from torch import Tensor, nn

from segue import networks, rng
from segue.errors import SegueError
from segue.exporting.check import check, example_image
from segue.exporting.network import ExportedNetwork
from segue.exporting.onnx_file import onnx_bytes
from segue.exporting.torchscript_file import torchscript_bytes
from segue.inference.model import Model
from segue.inference.predict import probabilities, score_whole
from segue.networks.registry import NetworkSpec
from segue.targets.classes import ImageClass

SIZES = ((40, 100), (65, 33), (3, 7))  # px; none is one that the file was checked at


def built(name: str, target: str = "flows", **settings: object) -> Model:
    """Returns an untrained model of a network, with normalization by background."""
    model = model_of(target)
    spec = NetworkSpec.model_validate({"name": name, **settings})
    with rng.scope("test"):
        network = networks.build(spec, channels=1, classes=model.target.channels).eval()
    return replace(model, network=network, divisor=networks.divisor(spec), normalization="background")


def run_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def run_torchscript(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = torch.jit.load(io.BytesIO(content))
    return lambda images: loaded(torch.from_numpy(images)).detach().numpy()


def require_same(model: Model, run: Callable[[np.ndarray], np.ndarray], sizes: object = SIZES) -> None:
    """What was exported gives the scores, or probabilities, of segue itself."""
    for height, width in sizes:  # type: ignore[attr-defined]
        images = np.stack([example_image(1, height, width)] * 2)
        is_classes = model.target.output == "classes"
        expected = probabilities(model, images) if is_classes else score_whole(model, images).numpy()
        np.testing.assert_allclose(run(images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_onnx_of_a_small_network():
    """Opset 18, named dynamic axes, the facts in its metadata, no path of this machine, and the same numbers."""
    model = replace(model_of("classes"), normalization="background")
    content, difference = onnx_bytes(Path("a.onnx"), ExportedNetwork(model), {"run": "a"})
    assert difference.largest < 1e-5 and len(difference.sizes) == 3
    assert all(height != width for height, width in difference.sizes)
    file = onnx.load_from_string(content)
    onnx.checker.check_model(file, full_check=True)
    assert [one.version for one in file.opset_import if one.domain == ""] == [18]
    shapes = [[d.dim_param or d.dim_value for d in part.type.tensor_type.shape.dim]
              for part in (file.graph.input[0], file.graph.output[0])]  # fmt: skip
    assert shapes == [["batch", 1, "height", "width"], ["batch", 2, "height", "width"]]
    assert (file.graph.input[0].name, file.graph.output[0].name) == ("image", "probabilities")
    assert {one.key: json.loads(one.value) for one in file.metadata_props} == {"segue": {"run": "a"}}
    assert b"site-packages" not in content and str(Path.cwd()).encode() not in content
    require_same(model, run_onnx(content))


def test_torchscript_of_a_small_network():
    """One file with the facts inside; no warning of torch reaches the user."""
    model = replace(model_of("rays"), normalization="background", tta=True)
    content, difference = torchscript_bytes(Path("a.pt"), ExportedNetwork(model), {"run": "a"})
    assert difference.largest < 1e-5
    extra = {"segue.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.load(io.BytesIO(content), _extra_files=extra)
    assert json.loads(extra["segue.json"]) == {"run": "a"}
    require_same(model, run_torchscript(content))


def test_torchscript_records_no_device():
    """So that `map_location` moves all of it to a GPU."""
    network = ExportedNetwork(replace(model_of("flows"), normalization="background"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(network, (torch.from_numpy(example_image(1, 40, 50))[None],), check_trace=False)
    assert "Device = prim::Constant" not in str(traced.inlined_graph)


@pytest.mark.slow
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("name", ["resunet", "unet", "cellpose"])
def test_networks_of_segue(name: str, tta: bool):
    """The networks that segue trains itself, with and without the mean over eight views."""
    model = replace(built(name, width=8), tta=tta)
    network = ExportedNetwork(model)
    require_same(model, run_onnx(onnx_bytes(Path("a.onnx"), network, {})[0]))
    require_same(model, run_torchscript(torchscript_bytes(Path("a.pt"), network, {})[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet-resnet18", "fpn-mobilenet_v2", "mobilenet-transposed"])
def test_networks_of_others(name: str):
    """Networks of segmentation-models-pytorch."""
    model = built(name, "classes")
    network = ExportedNetwork(model)
    require_same(model, run_onnx(onnx_bytes(Path("a.onnx"), network, {})[0]), SIZES[:2])
    require_same(model, run_torchscript(torchscript_bytes(Path("a.pt"), network, {})[0]), SIZES[:2])


class OfOneSize(nn.Module):
    """A network that adds a table of the size at which it is traced."""

    def forward(self, images: Tensor) -> Tensor:
        table = np.linspace(0, 1, int(images.shape[-1]), dtype=np.float32)  # of numpy: a constant in the trace
        return images + torch.from_numpy(table)


class Undecided(nn.Module):
    """A network whose layers depend on the values of the image."""

    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_a_network_that_knows_one_size_is_refused():
    """Its file would compute something else at other sizes, or nothing: that is found before it is written."""
    network = ExportedNetwork(replace(model_of("foreground"), network=OfOneSize()))
    for export in (torchscript_bytes, onnx_bytes):
        with pytest.raises(SegueError, match=r"^a: the exported network does not compute an image of .* nothing was"):
            export(Path("a"), network, {})


@pytest.mark.parametrize("export", [torchscript_bytes, onnx_bytes])
def test_networks_made_for_a_size_are_refused(export: Callable[..., Any]):
    """The multilayer perceptron averages images by matrices that numpy computes from their size."""
    model = replace(built("mlp", "classes", width=8), target=ImageClass(("background", "object"), False))
    with pytest.raises(
        SegueError, match=r"^a: the exported network [^\n]*; nothing was written: predict with segue, or"
    ):
        export(Path("a"), ExportedNetwork(model), {})


def test_a_network_without_a_graph_is_refused():
    """In one sentence, with what torch says."""
    network = ExportedNetwork(replace(model_of("foreground"), network=Undecided()))
    with pytest.raises(
        SegueError, match=r"^a: the exported network cannot be written as ONNX for images of any size \([^\n]*\)"
    ):
        onnx_bytes(Path("a"), network, {})


def test_what_computes_something_else_is_refused():
    """A difference of more than a thousandth is told with its size."""
    network = ExportedNetwork(model_of("foreground"))
    with pytest.raises(SegueError, match="differs from torch by"), torch.inference_mode():
        check(Path("a.onnx"), network, lambda images: network(images).numpy() + 1)
