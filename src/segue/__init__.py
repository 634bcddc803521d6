"""segue: train, transfer, compare and apply segmentation networks for microscopy.

    import segue
    segue.prepare("nuclei.toml", "nuclei.h5")
    segue.train("stage.toml", "run")
    labels = segue.predict("run", image)          # arrays in, arrays out

Names are imported when first used, so that `import segue` is instant.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.api import (
        count,
        evaluate,
        film,
        plan,
        plate,
        predict,
        prepare,
        probabilities,
        report,
        run_study,
        simulate,
        table,
        train,
    )
    from segue.data.dataset import Dataset
    from segue.errors import SegueError
    from segue.training.run_folder import load_run as load

__version__ = version("segue")

_PLACES = {
    "Dataset": "segue.data.dataset:Dataset",
    "SegueError": "segue.errors:SegueError",
    "count": "segue.api:count",
    "evaluate": "segue.api:evaluate",
    "film": "segue.api:film",
    "load": "segue.training.run_folder:load_run",
    "plan": "segue.api:plan",
    "plate": "segue.api:plate",
    "predict": "segue.api:predict",
    "prepare": "segue.api:prepare",
    "probabilities": "segue.api:probabilities",
    "report": "segue.api:report",
    "run_study": "segue.api:run_study",
    "simulate": "segue.api:simulate",
    "table": "segue.api:table",
    "train": "segue.api:train",
}

__all__ = [
    "Dataset",
    "SegueError",
    "count",
    "evaluate",
    "film",
    "load",
    "plan",
    "plate",
    "predict",
    "prepare",
    "probabilities",
    "report",
    "run_study",
    "simulate",
    "table",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'segue' has no attribute '{name}'")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
