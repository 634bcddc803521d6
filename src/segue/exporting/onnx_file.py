"""ONNX: the exported network in one file that onnxruntime opens, by torch.export, with any batch, height and width."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue.exporting.check import Difference, check, example_batches, refusal
from segue.exporting.facts import INPUT, KEY
from segue.exporting.network import ExportedNetwork

OPSET = 18
AXES = {0: "batch", 2: "height", 3: "width"}


def onnx_bytes(path: Path, network: ExportedNetwork, facts: Mapping[str, Any]) -> tuple[bytes, Difference]:
    """Returns the content of an ONNX file, and how far onnxruntime, which computes it, differs from torch.

    `facts` stand in its metadata as JSON, entry "segue". path: for messages. Raises SegueError where the network cannot
    be exported, or onnxruntime computes something else.
    """
    import onnx

    *_, image = example_batches(network)
    images = torch.cat([image, image])  # a batch of one would count as a fixed size
    dynamic = {INPUT: dict.fromkeys(AXES, torch.export.Dim.DYNAMIC)}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (images,), dynamo=True, dynamic_shapes=dynamic, opset_version=OPSET,
                input_names=[INPUT], output_names=[network.output.name], verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever the layers, or torch in the midst of them, raise
        raise refusal(path, "cannot be written as ONNX for images of any size", _cause(error)) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    model = program.model_proto
    _name_axes(model, network)
    onnx.helper.set_model_props(model, {KEY: json.dumps(facts)})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    try:
        run = onnx_function(content)
    except Exception as error:  # onnxruntime has several, of no common base
        raise refusal(path, "cannot be opened by onnxruntime", error) from error
    return content, check(path, network, run)


def onnx_function(content: bytes) -> Any:
    """Returns the function that computes an ONNX file in onnxruntime, on the CPU, of images (N, C, H, W)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are exceptions
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> np.ndarray:
        return np.asarray(session.run(None, {INPUT: images.numpy()})[0])

    return run


def _name_axes(model: Any, network: ExportedNetwork) -> None:
    """Names the axes of input and output, and removes what the exporter wrote of this machine's source files."""
    graph, axes = model.graph, network.output.axes
    names = {"N": "batch", "H": "height", "W": "width"}
    for value, letters in ((graph.input[0], "NCHW"), (graph.output[0], axes)):
        for letter, dimension in zip(letters, value.type.tensor_type.shape.dim, strict=True):
            if letter in names:
                dimension.dim_param = names[letter]
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def _cause(error: BaseException) -> BaseException:
    """Returns the error that started a chain of them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
