"""What stands in every exported file: the input, the output, and what is needed to use it. Plain values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import segue
from segue.training.run_folder import RunFolder, TrainedModel

if TYPE_CHECKING:
    from segue.exporting.network import ExportedNetwork, Output

INPUT = "image"  # the name of the input in every format
KEY = "segue"  # the entry in the metadata of ONNX, the extra file "segue.json" in TorchScript


def facts_of(model: TrainedModel, network: ExportedNetwork) -> dict[str, Any]:
    """Returns the description of an exported network.

    Thresholds are those of the target's decoding (docs/targets.md), tuned on validation images where there were any.
    """
    normalize = model.normalization
    return {
        "segue": segue.__version__,
        "run": RunFolder(model.folder).key,
        "input": {
            "name": INPUT,
            "axes": "NCHW",
            "type": "float32",
            "channels": list(model.channels),
            "values": "as acquired: the file normalizes them",
            "pixel_size_nm": model.pixel_size_nm,
            "divisor": model.divisor,
            "sizes": f"any; multiples of {model.divisor} px are not padded inside",
        },
        "normalization": normalize if isinstance(normalize, str) else normalize.model_dump(),
        "output": describe_output(network.output),
        "mean_of_eight_views": model.tta,
        "network": model.spec.network.name,
        "target": model.spec.target.name,
        "classes": list(model.target.names),
        "decode_parameters": dict(model.decode_params),
        "licenses": list(model.licenses),
    }


def describe_output(output: Output) -> dict[str, Any]:
    channels = [{"name": name, "meaning": meaning} for name, meaning in output.channels.items()]
    return {"name": output.name, "axes": output.axes, "type": "float32", "channels": channels}
