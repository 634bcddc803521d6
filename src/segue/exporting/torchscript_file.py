"""TorchScript: the exported network in one file for tools in Java and C++ that embed libtorch.

torch has deprecated it in favor of torch.export, which those tools cannot open yet; its warnings are silenced here.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segue.exporting.check import Difference, check, example_batches, refusal
from segue.exporting.facts import KEY
from segue.exporting.network import ExportedNetwork


def torchscript_bytes(path: Path, network: ExportedNetwork, facts: Mapping[str, Any]) -> tuple[bytes, Difference]:
    """Returns the content of a TorchScript file, and how far it, read back, differs from torch.

    `facts` are its extra file "segue.json". path: for messages. Raises SegueError where the network cannot be traced,
    or computes something else at another size.
    """
    *_, images = example_batches(network)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.no_grad():
                traced = torch.jit.trace(network, (images,), check_trace=False)
        except Exception as error:  # whatever the layers raise
            raise refusal(path, "cannot be traced", error) from error
        torch.jit.save(traced, content, _extra_files={f"{KEY}.json": json.dumps(facts)})
        content.seek(0)
        loaded = torch.jit.load(content)

    def run(images: torch.Tensor) -> Any:
        with torch.no_grad():
            return loaded(images).numpy()

    return content.getvalue(), check(path, network, run)
