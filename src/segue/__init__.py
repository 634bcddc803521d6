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
    from segue.apply.predict import predict, probabilities
    from segue.data.dataset import Dataset
    from segue.errors import SegueError
    from segue.training.run import load_run as load
    from segue.verbs import count, evaluate, film, plan, plate, prepare, report, run_study, simulate, table, train

__version__ = version("segue")

_PLACES = {
    "Dataset": "segue.data.dataset:Dataset",
    "SegueError": "segue.errors:SegueError",
    "count": "segue.verbs:count",
    "evaluate": "segue.verbs:evaluate",
    "film": "segue.verbs:film",
    "load": "segue.training.run:load_run",
    "plan": "segue.verbs:plan",
    "plate": "segue.verbs:plate",
    "predict": "segue.apply.predict:predict",
    "prepare": "segue.verbs:prepare",
    "probabilities": "segue.apply.predict:probabilities",
    "report": "segue.verbs:report",
    "run_study": "segue.verbs:run_study",
    "simulate": "segue.verbs:simulate",
    "table": "segue.verbs:table",
    "train": "segue.verbs:train",
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
