"""Models that ship with segue, by name: runs in half precision, each with a card. Cheap to import.

models/<name>/spec.json, weights.safetensors …   as of any run (`segue export`), without its history
models/<name>/card.md                            data, license, held-out scores, what it was not trained for
"""

from __future__ import annotations

import os
from pathlib import Path

from segue.errors import SegueError
from segue.fingerprint import hash_file
from segue.storage import as_path, is_file

MODELS = Path(__file__).with_name("models")
CARD, WEIGHTS = "card.md", "weights.safetensors"


def shipped_models() -> dict[str, Path]:
    """Returns the folder of every model that ships with segue, by name."""
    return {folder.name: folder for folder in sorted(MODELS.glob("*")) if (folder / CARD).is_file()}


def shipped_model_of(sha256: str) -> str | None:
    """Returns the name of the shipped model whose file of weights has this checksum (hex)."""
    models = shipped_models().items()
    return next((name for name, folder in models if hash_file(folder / WEIGHTS) == sha256), None)


def find_model(model: Path | str, folder: Path = Path()) -> Path:
    """Returns the folder of a model: the path, from `folder`, or where there is none, the shipped model of this name.

    Raises SegueError for a name without a folder, and for a file; whether a folder holds a finished run is not checked.
    """
    path = as_path(folder / model)  # or refuses a name that no file can have
    if path.suffix.lower() == ".zip" and is_file(path):
        raise SegueError(
            f"{path}: is a zip file, as packages of bioimage.io are, not the folder of a run; make it one with: segue "
            f"models unpack {path} OUT"
        )
    if is_file(path):
        raise SegueError(
            f"{path}: is a file, not the folder of a run; give that, or the run that an ONNX or TorchScript file was "
            "exported from."
        )
    if path.exists() or len(Path(model).parts) != 1:
        return path
    models = shipped_models()
    if (name := os.fspath(model)) in models:
        return models[name]
    shipped = f" nor a model of this name that ships with segue ({', '.join(models)})" if models else ""
    raise SegueError(f"{path}: there is no such folder{shipped}; give the folder of a finished run.")
