"""A finished run in half precision with its card, for others to predict with and to start from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from segue.errors import SegueError
from segue.fingerprint import hash_file
from segue.storage import make_folder, write_json
from segue.training.run_folder import RunFolder
from segue.zoo.shipped import CARD


def export_model(run: Path, out: Path, card: str) -> None:
    """Writes the files of a finished run that others need into the folder `out`, and its card, a text in Markdown.

    Matrices of weights are rounded to float16; the key is another than the run's, for what starts from these weights is
    another training. Raises SegueError where `out` exists, and for weights beyond the range of float16.
    """
    source, target = RunFolder(run), RunFolder(out)
    weights = _in_half_precision(source.read_weights(source.weights_file("best")))
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise SegueError(f"{run}: has weights beyond 65,504, which half precision cannot hold.")
    if out.exists():
        raise SegueError(f"{out}: exists; remove it, or give another folder.")
    partial = RunFolder(out.with_name(f"{out.name}.export"))
    shutil.rmtree(partial.path, ignore_errors=True)
    make_folder(partial.path)
    save_file(weights, partial.weights)
    spec = source.read(source.spec)
    write_json(partial.spec, {**spec, "key": f"train-{hash_file(partial.weights)[:16]}"})
    for file in (source.groups, source.metrics, source.timing, source.environment):
        shutil.copyfile(file, partial.path / file.name)
    (partial.path / CARD).write_text(card, encoding="utf-8", newline="\n")
    partial.write_digests()
    partial.path.rename(target.path)


def _in_half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in weights.items()
    }
